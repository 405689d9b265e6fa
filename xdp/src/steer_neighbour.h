/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Who asks for an address that we announce? By ARP, or by neighbour discovery. */
#ifndef SPILLWAY_STEER_NEIGHBOUR_H
#define SPILLWAY_STEER_NEIGHBOUR_H

#include <linux/if_ether.h>

#include <bpf/bpf_endian.h>

#include "steer_frame.h"
#include "steer_maps.h"
#include "steer_packet.h"

#define ARP_ETHERNET 1
#define ARP_REQUEST 1
#define NEIGHBOUR_HOP_LIMIT 255 /* nobody on another link can have sent it */

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
 * Whether a packet goes to the group of all nodes that could have `target` (RFC 4291, 2.7.1), or to
 * `target` itself.
 */
static __always_inline int is_asked(struct ipv6hdr *ip, struct in6_addr *target)
{
	__be32 *to = ip->daddr.s6_addr32, *address = target->s6_addr32;

	if (to[0] == bpf_htonl(0xff020000) && !to[1] && to[2] == bpf_htonl(1))
		return to[3] == (address[3] | bpf_htonl(0xff000000));
	return is_same(FAMILY_6, to, address);
}

/*
 * A solicitation for an address that we announce on this device (RFC 4861, 7.1.1). All else of
 * neighbour discovery is the kernel's.
 */
static __always_inline enum steer_outcome classify_solicitation(struct xdp_md *ctx,
								 struct ethhdr *eth,
								 struct ipv6hdr *ip, void *end,
								 struct frame *frame)
{
	struct neighbour_solicitation *solicitation = (void *)(ip + 1);
	struct egress_ports *ports;

	if (ip->nexthdr != IPPROTO_ICMPV6 || ip->hop_limit != NEIGHBOUR_HOP_LIMIT ||
	    (void *)(solicitation + 1) > end ||
	    solicitation->type != ICMPV6_NEIGHBOUR_SOLICITATION || solicitation->code ||
	    !is_asked(ip, &solicitation->target))
		return PASS_OTHER;
	ports = bpf_map_lookup_elem(&egress_ipv6, &solicitation->target);
	if (!ports || ports->announce != ctx->ingress_ifindex)
		return PASS_OTHER;
	frame->header.kind = KIND_NEIGHBOUR | FAMILY_6;
	__builtin_memcpy(frame->header.inner_source, eth->h_source, ETH_ALEN);
	return STEER_NEIGHBOUR;
}

#endif
