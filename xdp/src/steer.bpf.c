// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Steering: decides for each frame whether it is Spillway's or the kernel's.
 *
 * Ours are VXLAN frames of selected pods to destinations that their policies cover, replies to
 * egress addresses, and ARP requests, neighbour solicitations and pings for those that Spillway
 * itself announces. Such a frame is moved so that it starts where the forwarded frame will start, gets a steer header
 * there, and is redirected to the socket of the worker that owns its flow. All else is the
 * kernel's, untouched.
 *
 * It knows addresses, sets and port ranges, never flows; all that it remembers are fragments to
 * addresses that the host uses too. It outlives the process that loaded it: with nobody listening,
 * frames that are ours are dropped, not passed.
 *
 * Read on in this order:
 *
 *   steer.h            what Rust knows too: the steer header, the maps' entries, the outcomes
 *   steer_maps.h       what the program is told
 *   steer_packet.h     how it reads packets of either family
 *   steer_extensions.h how it gets to the transport header of an IPv6 packet
 *   steer_tree.h       pods and the destinations that their policy sets cover
 *   steer_tunnel.h     frames from a tunnel
 *   steer_reply.h      packets to egress addresses
 *   steer_neighbour.h  who asks for an address that is announced
 *
 * and here, at the end, the life of a frame.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "steer.h"
#include "steer_frame.h"
#include "steer_maps.h"
#include "steer_neighbour.h"
#include "steer_packet.h"
#include "steer_reply.h"
#include "steer_tunnel.h"

#define VLAN_LEN 4
#define VLANS_MAX 2

/* A frame with an IPv4 packet: from a tunnel, or to an egress address, or neither. */
static __always_inline enum steer_outcome classify_ipv4(struct xdp_md *ctx, struct ethhdr *eth,
							 void *at, int tagged, void *end,
							 struct frame *frame)
{
	struct iphdr *ip = ipv4_at(at, end);
	struct egress_ports *ports;
	struct packet packet;
	__be32 *tunnel;
	__u16 port = 0;
	int by_peer;

	if (!ip)
		return PASS_OTHER;
	read_ipv4(ip, &packet);
	if (packet.protocol == IPPROTO_UDP && packet.fragment != FRAGMENT_LATER &&
	    !read_port(&packet, DESTINATION_PORT, end, &port) && port == tunnel_port) {
		tunnel = bpf_map_lookup_elem(&peers, &ip->saddr);
		by_peer = tunnel && *tunnel == ip->daddr;
		/* What a peer's frame is sent to needs no second lookup. */
		if (by_peer || bpf_map_lookup_elem(&tunnels, &ip->daddr))
			return classify_tunnel(ctx, ip, by_peer, tagged, end, frame);
	}
	if (tagged)
		return PASS_OTHER;
	ports = bpf_map_lookup_elem(&egress, &ip->daddr);
	if (!ports)
		return PASS_OTHER;
	return classify_egress(ctx, eth, &packet, ports, end, frame);
}

/*
 * The same with an IPv6 packet. Not inline, so that IPv4's path does not pay for its registers.
 */
static __noinline enum steer_outcome classify_ipv6(struct xdp_md *ctx, void *at, int tagged,
						    void *end, struct frame *frame)
{
	struct ethhdr *eth = (void *)(long)ctx->data;
	struct ipv6hdr *ip = ipv6_at(at, end);
	struct egress_ports *ports;
	struct peer_ipv6 *peer;
	struct packet packet;
	__u16 port = 0;
	int followed;

	if (!ip || (void *)(eth + 1) > end)
		return PASS_OTHER;
	/* One whose extension headers are not followed is one without ports. */
	followed = !read_ipv6(ctx, ip, &packet);
	if (!followed || (packet.protocol == IPPROTO_UDP && packet.fragment != FRAGMENT_LATER &&
			  !read_port(&packet, DESTINATION_PORT, end, &port) &&
			  port == tunnel_port)) {
		peer = bpf_map_lookup_elem(&peers_ipv6, &ip->saddr);
		if (peer && !is_same(FAMILY_6, peer->tunnel.s6_addr32, ip->daddr.s6_addr32))
			peer = NULL;
		if (peer || bpf_map_lookup_elem(&tunnels_ipv6, &ip->daddr))
			return classify_tunnel_ipv6(ctx, ip, &packet, peer, tagged, end, frame);
	}
	if (tagged)
		return PASS_OTHER;
	if (classify_solicitation(ctx, eth, ip, end, frame) == STEER_NEIGHBOUR)
		return STEER_NEIGHBOUR;
	ports = bpf_map_lookup_elem(&egress_ipv6, &ip->daddr);
	if (!ports)
		return PASS_OTHER;
	return classify_egress(ctx, eth, &packet, ports, end, frame);
}

/* Whose is this frame? Reads only; fills `frame` for those that are ours. */
static __always_inline enum steer_outcome classify(struct xdp_md *ctx, struct frame *frame)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	__be16 *protocol = (void *)(eth + 1) - sizeof(__be16);
	enum steer_outcome outcome;
	struct frame ipv6 = {};
	int tagged = 0;

	if ((void *)(eth + 1) > end)
		return PASS_OTHER;
	for (int i = 0; i < VLANS_MAX; i++) {
		if (*protocol != bpf_htons(ETH_P_8021Q) && *protocol != bpf_htons(ETH_P_8021AD))
			break;
		protocol = (void *)protocol + VLAN_LEN;
		if ((void *)(protocol + 1) > end)
			return PASS_OTHER;
		tagged = 1;
	}
	if (*protocol == bpf_htons(ETH_P_IP))
		return classify_ipv4(ctx, eth, protocol + 1, tagged, end, frame);
	if (*protocol == bpf_htons(ETH_P_ARP) && !tagged)
		return classify_arp(ctx, eth, end, frame);
	if (*protocol == bpf_htons(ETH_P_IPV6)) {
		/* A copy, so that IPv4's own need not lie in memory. */
		outcome = classify_ipv6(ctx, protocol + 1, tagged, end, &ipv6);
		*frame = ipv6;
		return outcome;
	}
	return PASS_OTHER;
}

/*
 * Moves the head of a frame that is ours and hands it to its owner. From here on a failure is a
 * drop: the kernel must never see a frame whose head has moved.
 */
static __always_inline enum steer_outcome place(struct xdp_md *ctx, enum steer_outcome outcome,
						 const struct frame *frame)
{
	int overhead = frame->header.kind & UNDERLAY_6 ? TUNNEL_OVERHEAD_6 : TUNNEL_OVERHEAD;
	int delta = 0; /* who asks is answered where the frame stands */
	__u32 class = steer_class(frame->port & port_mask);
	__u32 *owner = bpf_map_lookup_elem(&owners, &class);
	struct steer_header *header;
	__u32 socket;

	if (outcome == STEER_TUNNEL)
		delta = overhead;
	else if (outcome == STEER_REPLY)
		delta = -overhead;
	if (!owner || bpf_xdp_adjust_head(ctx, delta))
		return DROP_HEAD_MOVE;
	header = (void *)(long)ctx->data;
	if ((void *)(header + 1) > (void *)(long)ctx->data_end)
		return DROP_HEAD_MOVE;
	*header = frame->header;

	socket = ctx->rx_queue_index * workers + *owner;
	if (bpf_redirect_map(&xsks, socket, XDP_DROP) != XDP_REDIRECT)
		return DROP_NO_SOCKET;
	return outcome;
}

/* The verdict of each outcome, from the list in steer.h. */
static __always_inline int action(enum steer_outcome outcome)
{
	enum { pass = XDP_PASS, steer = XDP_REDIRECT, drop = XDP_DROP };

	switch (outcome) {
#define STEER_OUTCOME_ACTION(symbol, name, verdict, description)                                    \
	case symbol:                                                                                \
		return verdict;
	STEER_OUTCOMES(STEER_OUTCOME_ACTION)
#undef STEER_OUTCOME_ACTION
	default:
		return XDP_DROP;
	}
}

SEC("xdp")
int steer(struct xdp_md *ctx)
{
	__u64 bytes = ctx->data_end - ctx->data;
	struct frame frame = {};
	enum steer_outcome outcome = classify(ctx, &frame);
	struct outcome_count *count;
	__u32 index;

	if (action(outcome) == XDP_REDIRECT)
		outcome = place(ctx, outcome, &frame);

	index = outcome;
	count = bpf_map_lookup_elem(&outcomes, &index);
	if (count) {
		count->packets++;
		count->bytes += bytes;
	}
	return action(outcome);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
