// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Steering: decides for each frame whether it is Spillway's or the kernel's.
 *
 * Ours are VXLAN frames of selected pods to destinations that their policies cover, replies to
 * egress addresses, and ARP requests and pings for those that Spillway itself announces. Such a
 * frame is moved so that it starts where the forwarded frame will start, gets a steer header
 * there, and is redirected to the socket of the worker that owns its flow. All else is the
 * kernel's, untouched.
 *
 * It knows addresses, sets and port ranges, never flows; all that it remembers are fragments to
 * addresses that the host uses too. It outlives the process that loaded it: with nobody listening,
 * frames that are ours are dropped, not passed.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "steer.h"

#define VLAN_LEN 4
#define VLANS_MAX 2
#define IP_FRAGMENT_MASK 0x3fff /* more fragments, or an offset */
#define IP_OFFSET_MASK 0x1fff
#define VXLAN_FLAG_VNI 0x08
#define ICMP_ECHO_REPLY 0
#define ICMP_UNREACHABLE 3
#define ICMP_ECHO_REQUEST 8
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETER_PROBLEM 12
#define ICMP_LEN 8
#define ARP_ETHERNET 1
#define ARP_REQUEST 1

/* Fixed when the program is loaded. */
const volatile __u16 tunnel_port = 8472;
const volatile __u32 workers = 1;
const volatile __u8 pass_unclassified = 0;

/* Our tunnel addresses. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, __be32);
	__type(value, __u8);
} tunnels SEC(".maps");

/* Tunnel peers, and the one of the tunnel addresses that each may send to. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __be32);
	__type(value, __be32);
} peers SEC(".maps");

/* Selected pods, by the high bits of their addresses in host order. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, __u32);
	__type(value, struct pod_block);
} pods SEC(".maps");

/* Search trees of destinations. To be mapped, so that values start at a page. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, NODES_MAX);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct node);
} nodes SEC(".maps");

/* Egress addresses. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, __be32);
	__type(value, struct egress_ports);
} egress SEC(".maps");

/*
 * Packets to addresses shared with the host whose first fragment was ours, and when it came: so are
 * the others for some time.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct fragment_key);
	__type(value, __u64);
} fragments SEC(".maps");

/* The worker that owns each class of ports. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, CLASSES);
	__type(key, __u32);
	__type(value, __u32);
} owners SEC(".maps");

/* This device's sockets: queue * workers + worker. Sized by the loader. */
struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} xsks SEC(".maps");

/* What became of this device's frames, by enum steer_outcome. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, STEER_OUTCOME_COUNT);
	__type(key, __u32);
	__type(value, struct outcome_count);
} outcomes SEC(".maps");

/* What classification found out about a frame that is ours. */
struct frame {
	struct steer_header header;
	__u16 port; /* decides the owner: a port or echo identifier, 0 when there is none */
};

/* An IPv4 header at `ip`, whole and sane enough to be read, or NULL. */
static __always_inline struct iphdr *ipv4_at(void *ip, void *end)
{
	struct iphdr *header = ip;

	if ((void *)(header + 1) > end || header->version != 4 || header->ihl < 5)
		return NULL;
	return header;
}

/* Two bytes in network order at `offset` of the transport header, which must lie before `end`. */
static __always_inline int read_port(struct iphdr *ip, __u32 offset, void *end, __u16 *port)
{
	__u8 *at = (__u8 *)ip + ip->ihl * 4 + offset;

	if ((void *)(at + 2) > end)
		return -1;
	*port = (__u16)at[0] << 8 | at[1];
	return 0;
}

/* Whether `ip` is of a protocol whose flows are told apart by ports, or by identifiers. */
static __always_inline int has_ports(struct iphdr *ip)
{
	return ip->protocol == IPPROTO_TCP || ip->protocol == IPPROTO_UDP ||
	       ip->protocol == IPPROTO_SCTP || ip->protocol == IPPROTO_ICMP;
}

/*
 * The port of `ip` that names the flow's egress side: `offset` 0 reads the source port, 2 the
 * destination port; of a ping of `echo_type` the identifier. Fails for all else.
 */
static __always_inline int flow_port(struct iphdr *ip, __u32 offset, __u8 echo_type, void *end,
				     __u16 *port)
{
	__u8 *transport = (__u8 *)ip + ip->ihl * 4;

	if (ip->protocol == IPPROTO_TCP || ip->protocol == IPPROTO_UDP ||
	    ip->protocol == IPPROTO_SCTP)
		return read_port(ip, offset, end, port);
	if (ip->protocol != IPPROTO_ICMP || (void *)(transport + 1) > end || *transport != echo_type)
		return -1;
	return read_port(ip, 4, end, port);
}

/* The packet that an ICMP error quotes, or NULL when `ip` is none or quotes too little. */
static __always_inline struct iphdr *quoted(struct iphdr *ip, void *end)
{
	__u8 *icmp = (__u8 *)ip + ip->ihl * 4;

	if (ip->protocol != IPPROTO_ICMP || (void *)(icmp + ICMP_LEN) > end)
		return NULL;
	if (*icmp != ICMP_UNREACHABLE && *icmp != ICMP_TIME_EXCEEDED &&
	    *icmp != ICMP_PARAMETER_PROBLEM)
		return NULL;
	return ipv4_at(icmp + ICMP_LEN, end);
}

/* The policy set of a pod, or NOT_SELECTED. */
static __always_inline __u32 set_of(__be32 pod)
{
	__u32 address = bpf_ntohl(pod);
	__u32 key = address >> BLOCK_BITS;
	struct pod_block *block = bpf_map_lookup_elem(&pods, &key);

	return block ? block->sets[address & (BLOCK_PODS - 1)] : NOT_SELECTED;
}

/* Whether a policy set covers a destination: a walk down its tree, without a guess to go wrong. */
static __always_inline int is_covered(__u32 set, __be32 destination)
{
	__u64 address = bpf_ntohl(destination);
	__u64 child, distance;
	struct node *node;

	for (int level = 0; level < NODES_LEVELS && set < NOT_COVERED; level++) {
		node = bpf_map_lookup_elem(&nodes, &set);
		if (!node)
			break;
		child = 0;
#pragma unroll
		for (int i = 0; i < NODE_CHILDREN - 1; i++) {
			distance = node->last[i] - address;
			barrier_var(distance); /* or clang makes a branch of it */
			child += distance >> 63; /* 1 where the range ends before */
		}
		set = node->next[child & (NODE_CHILDREN - 1)];
	}
	/* Should a tree be broken, its frames are the engine's, which knows the policies too. */
	return set != NOT_COVERED;
}

/* The tunnel's frame is not to be classified: drop it, unless the operator chose otherwise. */
static __always_inline enum steer_outcome unclassified(enum steer_outcome outcome)
{
	return pass_unclassified ? PASS_UNCLASSIFIED : outcome;
}

/*
 * A frame to one of our tunnel addresses on the tunnel port, by one of its peers or not: whose is
 * what it carries?
 */
static __always_inline enum steer_outcome classify_tunnel(struct iphdr *outer, int by_peer,
							   int tagged, void *end,
							   struct frame *frame)
{
	__u8 *vxlan = (__u8 *)(outer + 1) + sizeof(struct udphdr);
	struct ethhdr *inner_eth = (void *)(vxlan + 8);
	struct iphdr *inner, *error;
	__u32 set;

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
	if ((void *)inner_eth > end)
		return unclassified(DROP_INNER_TRUNCATED);
	if (!(*vxlan & VXLAN_FLAG_VNI))
		return unclassified(DROP_NO_VNI);
	if ((void *)(inner_eth + 1) > end)
		return unclassified(DROP_INNER_TRUNCATED);
	if (inner_eth->h_proto == bpf_htons(ETH_P_8021Q) ||
	    inner_eth->h_proto == bpf_htons(ETH_P_8021AD))
		return unclassified(DROP_INNER_VLAN);
	if (inner_eth->h_proto != bpf_htons(ETH_P_IP))
		return PASS_TUNNEL_OTHER;
	inner = ipv4_at(inner_eth + 1, end);
	if (!inner)
		return unclassified(DROP_INNER_TRUNCATED);

	set = set_of(inner->saddr);
	if (set == NOT_SELECTED)
		return PASS_TUNNEL_OTHER;
	if (!is_covered(set, inner->daddr))
		return PASS_NOT_COVERED;
	if (!by_peer)
		return DROP_UNKNOWN_PEER;

	/* A fragment's owner is that of port 0, whichever fragment it is. */
	if (!(inner->frag_off & bpf_htons(IP_FRAGMENT_MASK))) {
		error = quoted(inner, end);
		if (error)
			flow_port(error, 2, ICMP_ECHO_REPLY, end, &frame->port);
		else
			flow_port(inner, 0, ICMP_ECHO_REQUEST, end, &frame->port);
	}
	frame->header.kind = KIND_TUNNEL | (outer->tos & 3) << ECN_SHIFT;
	__builtin_memcpy(frame->header.vni, vxlan + 4, sizeof(frame->header.vni));
	frame->header.outer_source = outer->saddr;
	__builtin_memcpy(frame->header.inner_source, inner_eth->h_source, ETH_ALEN);
	return STEER_TUNNEL;
}

/*
 * A fragment to an address that the host uses too. The port of the first one tells whose all are; one
 * that comes before it is the host's.
 */
static __always_inline enum steer_outcome classify_fragment(struct iphdr *ip,
							     struct egress_ports *ports, void *end)
{
	struct fragment_key key = {
		.source = ip->saddr,
		.destination = ip->daddr,
		.identification = ip->id,
		.protocol = ip->protocol,
	};
	__u64 now = bpf_ktime_get_ns();
	__u16 port = 0;
	__u64 *since;

	if (ip->frag_off & bpf_htons(IP_OFFSET_MASK)) {
		since = bpf_map_lookup_elem(&fragments, &key);
		return since && now - *since < DATAGRAM_NS_MAX ? STEER_REPLY : PASS_HOST;
	}
	if (flow_port(ip, 2, ICMP_ECHO_REPLY, end, &port) || port < ports->first ||
	    port > ports->last) {
		bpf_map_delete_elem(&fragments, &key);
		return PASS_HOST;
	}
	bpf_map_update_elem(&fragments, &key, &now, BPF_ANY);
	return STEER_REPLY;
}

/* A packet to an egress address: does it answer one of ours, or is it the host's? */
static __always_inline enum steer_outcome classify_reply(struct iphdr *ip,
							  struct egress_ports *ports, void *end,
							  struct frame *frame)
{
	/* What has no port is ours on an address of our own. */
	enum steer_outcome portless = ports->own ? STEER_REPLY : PASS_HOST;
	struct iphdr *error;

	frame->header.kind = KIND_REPLY | (ip->tos & 3) << ECN_SHIFT;
	/* As of pods' fragments, the owner is that of port 0. */
	if (ip->frag_off & bpf_htons(IP_FRAGMENT_MASK))
		return ports->own ? STEER_REPLY : classify_fragment(ip, ports, end);
	error = quoted(ip, end);
	if (error) {
		if (error->saddr != ip->daddr)
			return PASS_HOST;
		if (!has_ports(error))
			return portless;
		if (flow_port(error, 0, ICMP_ECHO_REQUEST, end, &frame->port))
			return PASS_HOST;
	} else {
		if (!has_ports(ip))
			return portless;
		if (flow_port(ip, 2, ICMP_ECHO_REPLY, end, &frame->port))
			return PASS_HOST;
	}
	if (frame->port < ports->first || frame->port > ports->last)
		return PASS_HOST;
	return STEER_REPLY;
}

/* A request for an address that we announce on this device. Every other ARP is the kernel's. */
static __always_inline enum steer_outcome classify_arp(struct xdp_md *ctx, struct ethhdr *eth,
							void *end, struct frame *frame)
{
	struct arp_packet *arp = (void *)(eth + 1);
	struct egress_ports *ports;

	if ((void *)(arp + 1) > end || arp->hardware != bpf_htons(ARP_ETHERNET) ||
	    arp->protocol != bpf_htons(ETH_P_IP) || arp->hardware_len != ETH_ALEN ||
	    arp->protocol_len != sizeof(__be32) || arp->operation != bpf_htons(ARP_REQUEST))
		return PASS_OTHER;
	ports = bpf_map_lookup_elem(&egress, &arp->target);
	if (!ports || ports->announce != ctx->ingress_ifindex)
		return PASS_OTHER;
	frame->header.kind = KIND_ARP;
	__builtin_memcpy(frame->header.inner_source, eth->h_source, ETH_ALEN);
	return STEER_ARP;
}

/*
 * To an address that the host does not have, so nothing of it is the host's: a ping, or a stray
 * packet that the engine drops by name.
 */
static __always_inline enum steer_outcome classify_announced(struct ethhdr *eth, struct iphdr *ip,
							      void *end, struct frame *frame)
{
	if (ip->protocol != IPPROTO_ICMP || flow_port(ip, 2, ICMP_ECHO_REQUEST, end, &frame->port))
		return STEER_REPLY;
	frame->header.kind = KIND_PING;
	__builtin_memcpy(frame->header.inner_source, eth->h_source, ETH_ALEN);
	return STEER_PING;
}

/* Whose is this frame? Reads only; fills `frame` for those that are ours. */
static __always_inline enum steer_outcome classify(struct xdp_md *ctx, struct frame *frame)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	struct egress_ports *ports;
	struct iphdr *ip;
	__be16 *protocol = (void *)(eth + 1) - sizeof(__be16);
	enum steer_outcome outcome;
	int tagged = 0, by_peer;
	__be32 *tunnel;
	__u16 port = 0;

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
	if (*protocol == bpf_htons(ETH_P_ARP) && !tagged)
		return classify_arp(ctx, eth, end, frame);
	if (*protocol != bpf_htons(ETH_P_IP))
		return PASS_OTHER;
	ip = ipv4_at(protocol + 1, end);
	if (!ip)
		return PASS_OTHER;

	if (ip->protocol == IPPROTO_UDP && !(ip->frag_off & bpf_htons(IP_OFFSET_MASK)) &&
	    !read_port(ip, 2, end, &port) && port == tunnel_port) {
		tunnel = bpf_map_lookup_elem(&peers, &ip->saddr);
		by_peer = tunnel && *tunnel == ip->daddr;
		/* What a peer's frame is sent to needs no second lookup. */
		if (by_peer || bpf_map_lookup_elem(&tunnels, &ip->daddr))
			return classify_tunnel(ip, by_peer, tagged, end, frame);
	}
	if (tagged)
		return PASS_OTHER;
	ports = bpf_map_lookup_elem(&egress, &ip->daddr);
	if (!ports)
		return PASS_OTHER;
	outcome = classify_reply(ip, ports, end, frame);
	if (outcome == PASS_HOST && ports->announce)
		return classify_announced(eth, ip, end, frame);
	return outcome;
}

/*
 * Moves the head of a frame that is ours and hands it to its owner. From here on a failure is a
 * drop: the kernel must never see a frame whose head has moved.
 */
static __always_inline enum steer_outcome place(struct xdp_md *ctx, enum steer_outcome outcome,
						 const struct frame *frame)
{
	int delta = 0; /* ARP and pings are answered where they stand */
	__u32 class = steer_class(frame->port);
	__u32 *owner = bpf_map_lookup_elem(&owners, &class);
	struct steer_header *header;
	__u32 socket;

	if (outcome == STEER_TUNNEL)
		delta = TUNNEL_OVERHEAD;
	else if (outcome == STEER_REPLY)
		delta = -TUNNEL_OVERHEAD;
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
