/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Who asks for an address that we announce? */
#ifndef SPILLWAY_STEER_NEIGHBOUR_H
#define SPILLWAY_STEER_NEIGHBOUR_H

#include <linux/if_ether.h>

#include <bpf/bpf_endian.h>

#include "steer_frame.h"
#include "steer_maps.h"

#define ARP_ETHERNET 1
#define ARP_REQUEST 1

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

#endif
