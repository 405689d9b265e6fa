/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * An IP packet as far as steering asks: who talks to whom, and on which port. Nothing here writes
 * to a frame or looks into a map.
 */
#ifndef SPILLWAY_STEER_PACKET_H
#define SPILLWAY_STEER_PACKET_H

#include <linux/in.h>
#include <linux/ip.h>
#include <linux/types.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define IP_FRAGMENT_MASK 0x3fff /* more fragments, or an offset */
#define IP_OFFSET_MASK 0x1fff
#define ICMP_LEN 8

enum {
	ICMP_ECHO_REPLY = 0,
	ICMP_UNREACHABLE = 3,
	ICMP_ECHO_REQUEST = 8,
	ICMP_TIME_EXCEEDED = 11,
	ICMP_PARAMETER_PROBLEM = 12,
};

enum fragment { FRAGMENT_NONE, FRAGMENT_FIRST, FRAGMENT_LATER };

/* What a packet's IP header says. */
struct packet {
	__be32 source;
	__be32 destination;
	__u8 *transport;        /* what follows the header; may lie behind the frame's end */
	enum fragment fragment;
	__be32 identification;  /* of the packet whose fragment this is */
	__u8 protocol;
	__u8 ecn;
};

/* Where ports stand in the transport header. */
enum side { SOURCE_PORT = 0, DESTINATION_PORT = 2, ECHO_IDENTIFIER = 4 };

/* An IPv4 header at `ip`, whole and sane enough to be read, or NULL. */
static __always_inline struct iphdr *ipv4_at(void *ip, void *end)
{
	struct iphdr *header = ip;

	if ((void *)(header + 1) > end || header->version != 4 || header->ihl < 5)
		return NULL;
	return header;
}

static __always_inline struct packet ipv4_packet(struct iphdr *ip)
{
	struct packet packet = {
		.source = ip->saddr,
		.destination = ip->daddr,
		.transport = (__u8 *)ip + ip->ihl * 4,
		.identification = ip->id,
		.protocol = ip->protocol,
		.ecn = ip->tos & 3,
	};

	if (ip->frag_off & bpf_htons(IP_OFFSET_MASK))
		packet.fragment = FRAGMENT_LATER;
	else if (ip->frag_off & bpf_htons(IP_FRAGMENT_MASK))
		packet.fragment = FRAGMENT_FIRST;
	return packet;
}

/* A port, or an identifier that plays one; it must lie before `end`. */
static __always_inline int read_port(const struct packet *packet, enum side side, void *end,
				     __u16 *port)
{
	__u8 *at = packet->transport + side;

	if ((void *)(at + 2) > end)
		return -1;
	*port = (__u16)at[0] << 8 | at[1];
	return 0;
}

/* Whether flows of this packet's protocol are told apart by ports, or by identifiers. */
static __always_inline int has_ports(const struct packet *packet)
{
	return packet->protocol == IPPROTO_TCP || packet->protocol == IPPROTO_UDP ||
	       packet->protocol == IPPROTO_SCTP || packet->protocol == IPPROTO_ICMP;
}

/*
 * The port that names the flow's egress side: the one on `side`, or of a ping of type `echo` the
 * identifier. Fails for all else.
 */
static __always_inline int flow_port(const struct packet *packet, enum side side, __u8 echo,
				     void *end, __u16 *port)
{
	__u8 *transport = packet->transport;

	if (packet->protocol == IPPROTO_TCP || packet->protocol == IPPROTO_UDP ||
	    packet->protocol == IPPROTO_SCTP)
		return read_port(packet, side, end, port);
	if (packet->protocol != IPPROTO_ICMP || (void *)(transport + 1) > end ||
	    *transport != echo)
		return -1;
	return read_port(packet, ECHO_IDENTIFIER, end, port);
}

/* The packet that an ICMP error quotes. Fails when `packet` is none, or quotes too little. */
static __always_inline int quoted(const struct packet *packet, void *end, struct packet *error)
{
	__u8 *icmp = packet->transport;
	struct iphdr *ip;

	if (packet->protocol != IPPROTO_ICMP || (void *)(icmp + ICMP_LEN) > end)
		return -1;
	if (*icmp != ICMP_UNREACHABLE && *icmp != ICMP_TIME_EXCEEDED &&
	    *icmp != ICMP_PARAMETER_PROBLEM)
		return -1;
	ip = ipv4_at(icmp + ICMP_LEN, end);
	if (!ip)
		return -1;
	*error = ipv4_packet(ip);
	return 0;
}

#endif
