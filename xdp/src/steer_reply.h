/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* To an egress address: does a packet answer one of ours, or is it the host's? */
#ifndef SPILLWAY_STEER_REPLY_H
#define SPILLWAY_STEER_REPLY_H

#include <linux/if_ether.h>

#include "steer_frame.h"
#include "steer_maps.h"
#include "steer_packet.h"

/* IPv6 names the packet of a fragment without its protocol (RFC 8200, section 4.5). */
static __always_inline struct fragment_key fragment_key(const struct packet *packet)
{
	struct fragment_key key = {
		.identification = packet->identification,
		.family = packet->family,
		.protocol = packet->family ? 0 : packet->protocol,
	};

#pragma unroll
	for (int i = 0; i < (packet->family ? ADDRESS_WORDS : 1); i++) {
		key.source[i] = packet->source[i];
		key.destination[i] = packet->destination[i];
	}
	return key;
}

/*
 * A fragment to an address that the host uses too. The port of the first one tells whose all are; one
 * that comes before it is the host's.
 */
static __always_inline enum steer_outcome classify_fragment(const struct packet *packet,
							     struct egress_ports *ports, void *end)
{
	struct fragment_key key = fragment_key(packet);
	__u64 now = bpf_ktime_get_ns();
	__u16 port = 0;
	__u64 *since;

	if (packet->fragment == FRAGMENT_LATER) {
		since = bpf_map_lookup_elem(&fragments, &key);
		return since && now - *since < DATAGRAM_NS_MAX ? STEER_REPLY : PASS_HOST;
	}
	if (flow_port(packet, DESTINATION_PORT, ECHO_REPLY, end, &port) ||
	    port < ports->first || port > ports->last) {
		bpf_map_delete_elem(&fragments, &key);
		return PASS_HOST;
	}
	bpf_map_update_elem(&fragments, &key, &now, BPF_ANY);
	return STEER_REPLY;
}

/* A packet to an address that has a host. */
static __always_inline enum steer_outcome classify_reply(struct xdp_md *ctx,
							  const struct packet *packet,
							  struct egress_ports *ports, void *end,
							  struct frame *frame)
{
	/* What has no port is ours on an address of our own. */
	enum steer_outcome portless = ports->own ? STEER_REPLY : PASS_HOST;
	struct packet error;

	frame->header.kind = KIND_REPLY | ports->underlay | packet->family |
			     packet->ecn << ECN_SHIFT;
	/* As of pods' fragments, the owner is that of port 0. */
	if (packet->fragment != FRAGMENT_NONE)
		return ports->own ? STEER_REPLY : classify_fragment(packet, ports, end);
	if (!quoted(ctx, packet, end, &error)) {
		if (!is_same(packet->family, error.source, packet->destination))
			return PASS_HOST;
		if (!has_ports(&error))
			return portless;
		if (flow_port(&error, SOURCE_PORT, ECHO_REQUEST, end, &frame->port))
			return PASS_HOST;
	} else {
		if (!has_ports(packet))
			return portless;
		if (flow_port(packet, DESTINATION_PORT, ECHO_REPLY, end, &frame->port))
			return PASS_HOST;
	}
	if (frame->port < ports->first || frame->port > ports->last)
		return PASS_HOST;
	return STEER_REPLY;
}

/*
 * To an address that the host does not have, so nothing of it is the host's: a ping, or a stray
 * packet that the engine drops by name.
 */
static __always_inline enum steer_outcome classify_announced(struct ethhdr *eth,
							      const struct packet *packet,
							      void *end, struct frame *frame)
{
	if (!is_icmp(packet) ||
	    flow_port(packet, DESTINATION_PORT, ECHO_REQUEST, end, &frame->port))
		return STEER_REPLY;
	frame->header.kind = KIND_PING | packet->family;
	__builtin_memcpy(frame->header.inner_source, eth->h_source, ETH_ALEN);
	return STEER_PING;
}

/* A packet to an egress address, that of `ports`. */
static __always_inline enum steer_outcome classify_egress(struct xdp_md *ctx, struct ethhdr *eth,
							   const struct packet *packet,
							   struct egress_ports *ports, void *end,
							   struct frame *frame)
{
	enum steer_outcome outcome = classify_reply(ctx, packet, ports, end, frame);

	if (outcome == PASS_HOST && ports->announce)
		return classify_announced(eth, packet, end, frame);
	return outcome;
}

#endif
