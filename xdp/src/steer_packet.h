/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * An IP packet as far as steering asks: who talks to whom, and on which port. Nothing here writes
 * to a frame or looks into a map. `family` is known where these functions are used, so that of what
 * both families are asked for here, the program has a copy for each.
 */
#ifndef SPILLWAY_STEER_PACKET_H
#define SPILLWAY_STEER_PACKET_H

#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/types.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "steer.h"
#include "steer_extensions.h"

#define IP_FRAGMENT_MASK 0x3fff /* more fragments, or an offset */
#define IP_OFFSET_MASK 0x1fff
#define ICMP_LEN 8 /* of both families' */

enum {
	ICMP_ECHO_REPLY = 0,
	ICMP_UNREACHABLE = 3,
	ICMP_ECHO_REQUEST = 8,
	ICMP_TIME_EXCEEDED = 11,
	ICMP_PARAMETER_PROBLEM = 12,
};

enum {
	ICMPV6_UNREACHABLE = 1,
	/* 2 and 3: packet too big, time exceeded */
	ICMPV6_PARAMETER_PROBLEM = 4,
	ICMPV6_ECHO_REQUEST = 128,
	ICMPV6_ECHO_REPLY = 129,
	ICMPV6_NEIGHBOUR_SOLICITATION = 135,
};

/* What a packet's headers say, those of IP. */
struct packet {
	__u8 family;            /* 0, or FAMILY_6 */
	__u8 ecn;
	__u8 protocol;
	__u8 fragment;          /* enum fragment */
	__be32 identification;  /* of the packet whose fragment this is */
	__be32 *source;         /* in the header, of one word or of four */
	__be32 *destination;
	__u8 *transport;        /* what follows the headers; may lie behind the frame's end */
};

/* Where ports stand in the transport header. */
enum side { SOURCE_PORT = 0, DESTINATION_PORT = 2, ECHO_IDENTIFIER = 4 };

enum echo { ECHO_REQUEST, ECHO_REPLY };

/* An IPv4 header at `ip`, whole and sane enough to be read, or NULL. */
static __always_inline struct iphdr *ipv4_at(void *ip, void *end)
{
	struct iphdr *header = ip;

	if ((void *)(header + 1) > end || header->version != 4 || header->ihl < 5)
		return NULL;
	return header;
}

/* The same of IPv6. */
static __always_inline struct ipv6hdr *ipv6_at(void *ip, void *end)
{
	struct ipv6hdr *header = ip;

	if ((void *)(header + 1) > end || header->version != 6)
		return NULL;
	return header;
}

static __always_inline void read_ipv4(struct iphdr *ip, struct packet *packet)
{
	packet->family = 0;
	packet->ecn = ip->tos & 3;
	packet->protocol = ip->protocol;
	packet->identification = ip->id;
	packet->source = &ip->saddr;
	packet->destination = &ip->daddr;
	packet->transport = (__u8 *)ip + ip->ihl * 4;
	if (!(ip->frag_off & bpf_htons(IP_FRAGMENT_MASK)))
		packet->fragment = FRAGMENT_NONE;
	else if (ip->frag_off & bpf_htons(IP_OFFSET_MASK))
		packet->fragment = FRAGMENT_LATER;
	else
		packet->fragment = FRAGMENT_FIRST;
}

/*
 * Fails for a packet whose extension headers are not to be followed, as far as they are there. It is
 * read as one without ports.
 */
static __always_inline int read_ipv6(struct xdp_md *ctx, struct ipv6hdr *ip,
				     struct packet *packet)
{
	__u64 offset = (void *)ip - (void *)(long)ctx->data;
	struct extensions extensions = { .protocol = ip->nexthdr };
	long length = 0;
	int followed;

	/* Mostly there are none. */
	if (is_extension(ip->nexthdr))
		length = walk_extensions(ctx, offset, &extensions);
	/* The verifier has to see the bounds here, where clang knows them already. */
	barrier_var(length);
	followed = length >= 0 && length <= EXTENSION_BYTES_MAX;
	packet->family = FAMILY_6;
	packet->ecn = ip->flow_lbl[0] >> 4 & 3;
	packet->protocol = followed ? extensions.protocol : IPPROTO_NONE;
	packet->fragment = extensions.fragment;
	packet->identification = extensions.identification;
	packet->source = ip->saddr.s6_addr32;
	packet->destination = ip->daddr.s6_addr32;
	packet->transport = (__u8 *)(ip + 1);
	if (!followed)
		return -1;
	packet->transport += length;
	return 0;
}

/* Whether two addresses of a family are the same. */
static __always_inline int is_same(__u8 family, const __be32 *one, const __be32 *other)
{
	if (!family)
		return one[0] == other[0];
	return one[0] == other[0] && one[1] == other[1] && one[2] == other[2] &&
	       one[3] == other[3];
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

static __always_inline int is_icmp(const struct packet *packet)
{
	return packet->protocol == (packet->family ? IPPROTO_ICMPV6 : IPPROTO_ICMP);
}

/* Whether flows of this packet's protocol are told apart by ports, or by identifiers. */
static __always_inline int has_ports(const struct packet *packet)
{
	return packet->protocol == IPPROTO_TCP || packet->protocol == IPPROTO_UDP ||
	       packet->protocol == IPPROTO_SCTP || is_icmp(packet);
}

/*
 * The port that names the flow's egress side: the one on `side`, or of a ping of this kind the
 * identifier. Fails for all else.
 */
static __always_inline int flow_port(const struct packet *packet, enum side side, enum echo echo,
				     void *end, __u16 *port)
{
	__u8 *transport = packet->transport;
	__u8 type;

	if (packet->family)
		type = echo == ECHO_REPLY ? ICMPV6_ECHO_REPLY : ICMPV6_ECHO_REQUEST;
	else
		type = echo == ECHO_REPLY ? ICMP_ECHO_REPLY : ICMP_ECHO_REQUEST;
	if (packet->protocol == IPPROTO_TCP || packet->protocol == IPPROTO_UDP ||
	    packet->protocol == IPPROTO_SCTP)
		return read_port(packet, side, end, port);
	if (!is_icmp(packet) || (void *)(transport + 1) > end || *transport != type)
		return -1;
	return read_port(packet, ECHO_IDENTIFIER, end, port);
}

static __always_inline int is_icmp_error(__u8 family, __u8 type)
{
	if (family)
		return type >= ICMPV6_UNREACHABLE && type <= ICMPV6_PARAMETER_PROBLEM;
	return type == ICMP_UNREACHABLE || type == ICMP_TIME_EXCEEDED ||
	       type == ICMP_PARAMETER_PROBLEM;
}

/* The packet that an ICMP error quotes. Fails when `packet` is none, or quotes too little. */
static __always_inline int quoted(struct xdp_md *ctx, const struct packet *packet, void *end,
				  struct packet *error)
{
	__u8 *icmp = packet->transport;
	struct ipv6hdr *ipv6;
	struct iphdr *ip;

	if (!is_icmp(packet) || (void *)(icmp + ICMP_LEN) > end ||
	    !is_icmp_error(packet->family, *icmp))
		return -1;
	if (packet->family) {
		ipv6 = ipv6_at(icmp + ICMP_LEN, end);
		return ipv6 ? read_ipv6(ctx, ipv6, error) : -1;
	}
	ip = ipv4_at(icmp + ICMP_LEN, end);
	if (!ip)
		return -1;
	read_ipv4(ip, error);
	return 0;
}

#endif
