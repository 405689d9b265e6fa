/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* From a tunnel: whose is what a VXLAN frame carries? */
#ifndef SPILLWAY_STEER_TUNNEL_H
#define SPILLWAY_STEER_TUNNEL_H

#include <linux/if_ether.h>
#include <linux/udp.h>

#include "steer_frame.h"
#include "steer_packet.h"
#include "steer_tree.h"

#define VXLAN_FLAG_VNI 0x08

/* The tunnel's frame is not to be classified: drop it, unless the operator chose otherwise. */
static __always_inline enum steer_outcome unclassified(enum steer_outcome outcome)
{
	return pass_unclassified ? PASS_UNCLASSIFIED : outcome;
}

/* The port of a pod's packet that decides the owner; 0 when it has none. */
static __always_inline __u16 pod_port(struct xdp_md *ctx, const struct packet *packet,
				      void *end)
{
	struct packet error;
	__u16 port = 0;

	/* A fragment's owner is that of port 0, whichever fragment it is. */
	if (packet->fragment != FRAGMENT_NONE)
		return 0;
	if (quoted(ctx, packet, end, &error))
		flow_port(packet, SOURCE_PORT, ECHO_REQUEST, end, &port);
	else
		flow_port(&error, DESTINATION_PORT, ECHO_REPLY, end, &port);
	return port;
}

/* An IPv4 packet out of the tunnel. */
static __always_inline enum steer_outcome classify_inner_ipv4(struct xdp_md *ctx, void *at,
							       int by_peer, void *end,
							       __u16 *port)
{
	struct iphdr *ip = ipv4_at(at, end);
	struct packet packet;
	__u32 set;

	if (!ip)
		return unclassified(DROP_INNER_TRUNCATED);
	set = set_of(ip->saddr);
	if (set == NOT_SELECTED)
		return PASS_TUNNEL_OTHER;
	if (!is_covered(set, ip->daddr))
		return PASS_NOT_COVERED;
	if (!by_peer)
		return DROP_UNKNOWN_PEER;
	read_ipv4(ip, &packet);
	*port = pod_port(ctx, &packet, end);
	return STEER_TUNNEL;
}

/* Whether nobody beyond the link has this address: multicast and link-local ones. */
static __always_inline int is_of_the_link(const struct in6_addr *address)
{
	return address->s6_addr[0] == 0xff ||
	       (address->s6_addr[0] == 0xfe && (address->s6_addr[1] & 0xc0) == 0x80);
}

/* The same of IPv6. Not inline, so that IPv4's path does not pay for its registers. */
static __noinline enum steer_outcome classify_inner_ipv6(struct xdp_md *ctx, void *at,
							  int by_peer, void *end, __u16 *port)
{
	struct ipv6hdr *ip = ipv6_at(at, end);
	struct packet packet;
	__u32 set;

	if (!ip)
		return unclassified(DROP_INNER_TRUNCATED);
	set = set_of_ipv6(&ip->saddr);
	if (set == NOT_SELECTED)
		return PASS_TUNNEL_OTHER;
	if (is_of_the_link(&ip->daddr) || !is_covered_ipv6(set, &ip->daddr))
		return PASS_NOT_COVERED;
	if (!by_peer)
		return DROP_UNKNOWN_PEER;
	if (read_ipv6(ctx, ip, &packet))
		return DROP_EXTENSIONS;
	*port = pod_port(ctx, &packet, end);
	return STEER_TUNNEL;
}

/*
 * What a tunnel's UDP packet carries, by a peer or not. Of the steer header, the outer source is left to
 * the caller, and of its first byte what the outer header says.
 */
static __always_inline enum steer_outcome classify_vxlan(struct xdp_md *ctx, struct udphdr *udp,
							  int by_peer, void *end,
							  struct frame *frame)
{
	__u8 *vxlan = (__u8 *)(udp + 1);
	struct ethhdr *inner_eth = (void *)(vxlan + 8);
	enum steer_outcome outcome;
	__u8 family = 0;
	__u16 port = 0;

	if ((void *)inner_eth > end)
		return unclassified(DROP_INNER_TRUNCATED);
	if (!(*vxlan & VXLAN_FLAG_VNI))
		return unclassified(DROP_NO_VNI);
	if ((void *)(inner_eth + 1) > end)
		return unclassified(DROP_INNER_TRUNCATED);
	if (inner_eth->h_proto == bpf_htons(ETH_P_8021Q) ||
	    inner_eth->h_proto == bpf_htons(ETH_P_8021AD))
		return unclassified(DROP_INNER_VLAN);
	if (inner_eth->h_proto == bpf_htons(ETH_P_IP)) {
		outcome = classify_inner_ipv4(ctx, inner_eth + 1, by_peer, end, &frame->port);
	} else if (inner_eth->h_proto == bpf_htons(ETH_P_IPV6)) {
		outcome = classify_inner_ipv6(ctx, inner_eth + 1, by_peer, end, &port);
		frame->port = port;
		family = FAMILY_6;
	} else {
		return PASS_TUNNEL_OTHER;
	}
	if (outcome != STEER_TUNNEL)
		return outcome;

	frame->header.kind = KIND_TUNNEL | family;
	__builtin_memcpy(frame->header.vni, vxlan + 4, sizeof(frame->header.vni));
	__builtin_memcpy(frame->header.inner_source, inner_eth->h_source, ETH_ALEN);
	return STEER_TUNNEL;
}

/* A frame to one of our tunnel addresses on the tunnel port, by one of its peers or not. */
static __always_inline enum steer_outcome classify_tunnel(struct xdp_md *ctx,
							   struct iphdr *outer, int by_peer,
							   int tagged, void *end,
							   struct frame *frame)
{
	enum steer_outcome outcome;

	/* The kernel would make a whole packet of these and forward it. */
	if (tagged)
		return unclassified(DROP_OUTER_VLAN);
	if (outer->ihl != 5)
		return unclassified(DROP_OUTER_OPTIONS);
	/*
	 * Later fragments carry no port, so they are not recognised and pass; without the first
	 * one, which is dropped here, nobody can make a packet of them.
	 */
	if (outer->frag_off & bpf_htons(IP_FRAGMENT_MASK))
		return unclassified(DROP_OUTER_FRAGMENT);
	outcome = classify_vxlan(ctx, (void *)(outer + 1), by_peer, end, frame);
	if (outcome != STEER_TUNNEL)
		return outcome;
	frame->header.kind |= (outer->tos & 3) << ECN_SHIFT;
	frame->header.outer_source = outer->saddr;
	return STEER_TUNNEL;
}

/*
 * The same of IPv6. `peer` is whose frame it is, NULL when it is not by one of the peers of this tunnel
 * address. One whose extension headers are not followed may hide the tunnel port behind them.
 */
static __always_inline enum steer_outcome classify_tunnel_ipv6(struct xdp_md *ctx,
								struct ipv6hdr *outer,
								const struct packet *packet,
								struct peer_ipv6 *peer, int tagged,
								void *end, struct frame *frame)
{
	enum steer_outcome outcome;

	if (tagged)
		return unclassified(DROP_OUTER_VLAN);
	if (packet->fragment != FRAGMENT_NONE)
		return unclassified(DROP_OUTER_FRAGMENT);
	if (outer->nexthdr != IPPROTO_UDP)
		return unclassified(DROP_OUTER_OPTIONS);
	outcome = classify_vxlan(ctx, (void *)(outer + 1), peer != NULL, end, frame);
	if (outcome != STEER_TUNNEL || !peer)
		return outcome;
	frame->header.kind |= UNDERLAY_6 | packet->ecn << ECN_SHIFT;
	frame->header.outer_source = peer->key;
	return STEER_TUNNEL;
}

#endif
