/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What every packet of the generator says of itself, at the start of its UDP or TCP payload; label.rs
 * is its twin. In network order, without padding:
 *
 *   0        2        6          10              18
 *   | magic  | origin | sequence | time, in ns   |
 *
 * The origin is the stream (8 bits) and the flow (24 bits). The sequence number counts the packets of
 * the stream. The time is CLOCK_MONOTONIC's when the packet was made.
 */
#ifndef SPILLWAY_LABEL_H
#define SPILLWAY_LABEL_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define LABEL_MAGIC 0x5357
#define LABEL_ORIGIN 2
#define LABEL_SEQUENCE 6
#define LABEL_TIME 10
#define LABEL_LEN 18
#define LABEL_FLOW_BITS 24

/* Offsets of what the generator changes and the sink reads, and lengths of headers without options. */
#define ENCAPSULATION_LEN 50 /* outer Ethernet, IPv4, UDP and VXLAN headers */
#define IP_LEN 20
#define IP_TOTAL_LENGTH 2
#define IP_NEXT 9
#define IP_CHECK 10
#define IP_SOURCE 12
#define IP_TARGET 16
#define UDP_LEN 8
#define UDP_LENGTH 4
#define UDP_CHECK 6
#define TCP_LEN 20
#define TCP_CHECK 16

/*
 * Network order in memory and sums of 16-bit words go together: the internet checksum is the same in
 * either byte order (RFC 1071).
 */
#define U8(at) (*(__u8 *)(at))
#define U16(at) (*(__u16 *)(at))
#define U32(at) (*(__u32 *)(at))
#define U64(at) (*(__u64 *)(at))

/* The words of a longer word, added. */
static __always_inline __u32 words(__u64 value)
{
	return (value & 0xffff) + (value >> 16 & 0xffff) + (value >> 32 & 0xffff) + (value >> 48);
}

/* The complement of a sum: what a checksum field holds. */
static __always_inline __u16 checksum(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

#endif
