/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What steer.bpf.c shares with Rust: the steer header, the class of a port, the maps' entries and
 * the outcomes. build.rs makes the Rust enum of outcomes from the list below; tests hold the rest
 * against spillway-engine's `steer` module.
 */
#ifndef SPILLWAY_STEER_H
#define SPILLWAY_STEER_H

#include <linux/in6.h>
#include <linux/types.h>

/* Ethernet 14, IPv4 20, UDP 8, VXLAN 8: what the tunnel puts in front of a frame. */
#define TUNNEL_OVERHEAD 50
/* The same with IPv6's 40. */
#define TUNNEL_OVERHEAD_6 70

#define KIND_TUNNEL 1
#define KIND_REPLY 2
#define KIND_ARP 3
#define KIND_PING 4
#define KIND_NEIGHBOUR 5
/* The tunnel is IPv6's: so much more was stripped, or opened, and the peer is named by its key. */
#define UNDERLAY_6 0x10
/* The steered packet is IPv6. */
#define FAMILY_6 0x20
#define ECN_SHIFT 6

/* Stands where the forwarded frame's Ethernet header will be. */
struct steer_header {
	__u8 kind;            /* low 4 bits KIND_*, then the flags, high 2 bits the outer ECN */
	__u8 vni[3];
	__be32 outer_source;  /* of an IPv6 underlay the peer's key */
	__u8 inner_source[6]; /* link address; where no tunnel is, the sender's or zero */
} __attribute__((packed));

/* IPv6 extension headers before the transport header, at most. */
#define EXTENSIONS_MAX 6
#define EXTENSION_BYTES_MAX 256

/* How long the fragments of one packet come. */
#define DATAGRAM_NS_MAX 2000000000

#define CLASSES 256
#define CLASS_MULTIPLIER 0x9e37

/* Odd multiplier: a permutation of the ports, so that every class has 256 of them. */
static inline __u8 steer_class(__u16 port)
{
	return (__u16)(port * (__u32)CLASS_MULTIPLIER) >> 8;
}

/* An egress address and the ports on it that are ours. */
struct egress_ports {
	__u16 first;
	__u16 last;
	__u8 own;             /* not shared with the host: fragments and all protocols are ours */
	__u8 underlay;        /* of the tunnels that replies go through: 0, or UNDERLAY_6 */
	__u8 pad[2];
	__u32 announce;       /* index of the device on which we answer for it, 0 if the host does */
};

/* A tunnel peer with an IPv6 address. */
struct peer_ipv6 {
	struct in6_addr tunnel; /* the one of the tunnel addresses that it may send to */
	__be32 key;             /* stands for its address in the steer header */
};

/* How many words of 32 bits an IPv6 address has. An IPv4 address is the first one. */
#define ADDRESS_WORDS 4

/* What the fragments of a packet have in common. */
struct fragment_key {
	__be32 source[ADDRESS_WORDS];
	__be32 destination[ADDRESS_WORDS];
	__be32 identification;
	__u8 family;
	__u8 protocol;
	__u8 pad[2];
};

/* An ARP packet for Ethernet and IPv4 (RFC 826). */
struct arp_packet {
	__be16 hardware;
	__be16 protocol;
	__u8 hardware_len;
	__u8 protocol_len;
	__be16 operation;
	__u8 sender_mac[6];
	__be32 sender;
	__u8 target_mac[6];
	__be32 target;
} __attribute__((packed));

/* A neighbour solicitation up to its options (RFC 4861, 4.3). */
struct neighbour_solicitation {
	__u8 type;
	__u8 code;
	__be16 checksum;
	__be32 reserved;
	struct in6_addr target;
};

/*
 * What a pod may reach, its policy set: a verdict on all destinations, or the root of a search tree,
 * a node's reference. 0 is the reference of a pod that is not selected.
 */
#define NOT_SELECTED 0
#define NOT_COVERED 0xfffffffe
#define COVERED 0xffffffff

/*
 * A node of a set's search tree divides the values of one word of an address into NODE_CHILDREN
 * ranges: `next[i]` says what holds from the end of the one before up to `last[i]`, in host order;
 * the last one's end is that of the whole. What a range of one value leads to may look at the next
 * word. As large as a cache line, and never changed while something points to it.
 */
#define NODE_CHILDREN 8
struct node {
	__u32 last[NODE_CHILDREN - 1];
	__u32 pad;
	__u32 next[NODE_CHILDREN]; /* another node, NOT_COVERED or COVERED */
};

/*
 * A node's reference says which word it looks at, in these bits, so that this need not be read from
 * the node first; of IPv4 always 0. The others are its index.
 */
#define NODE_WORD_SHIFT 28
#define NODE_INDEX_MASK 0x0fffffff

/*
 * Limits that Rust knows too. As far as it looks at one word, a tree of NODES_LEVELS levels has room
 * for all DESTINATIONS_MAX.
 */
#define NODES_MAX 425984
#define NODES_LEVELS 8

/* Neighbouring pods, whose sets stand together: they are often selected together. */
#define BLOCK_BITS 4
#define BLOCK_PODS (1 << BLOCK_BITS)
struct pod_block {
	__u32 sets[BLOCK_PODS];
};

struct outcome_count {
	__u64 packets;
	__u64 bytes;
};

/*
 * Every way out of the program: OUTCOME(symbol, name, verdict, one sentence).
 * The verdict is what becomes of the frame: pass, steer or drop.
 */
#define STEER_OUTCOMES(OUTCOME)                                                                     \
	OUTCOME(PASS_OTHER, "pass-other", pass,                                                     \
		"To nobody that Spillway serves, or no IP at all: left to the kernel.")             \
	OUTCOME(PASS_TUNNEL_OTHER, "pass-tunnel-other", pass,                                       \
		"Through the tunnel, but not from a selected pod: left to the kernel.")             \
	OUTCOME(PASS_NOT_COVERED, "pass-not-covered", pass,                                         \
		"From a selected pod to a destination that no policy covers: left to the kernel.")  \
	OUTCOME(PASS_HOST, "pass-host", pass,                                                       \
		"To an egress address, but not to a port of ours: left to the kernel.")             \
	OUTCOME(STEER_TUNNEL, "steer-tunnel", steer,                                                \
		"From a selected pod to a covered destination: given to its worker.")               \
	OUTCOME(STEER_REPLY, "steer-reply", steer,                                                  \
		"To an egress address on a port of ours: given to its worker.")                     \
	OUTCOME(STEER_ARP, "steer-arp", steer,                                                      \
		"Asks by ARP for an egress address that Spillway announces: given to a worker.")    \
	OUTCOME(STEER_NEIGHBOUR, "steer-neighbour", steer,                                          \
		"Solicits an IPv6 egress address that Spillway announces: given to a worker.")      \
	OUTCOME(STEER_PING, "steer-ping", steer,                                                    \
		"Pings an egress address that Spillway announces: given to a worker.")              \
	OUTCOME(DROP_UNKNOWN_PEER, "drop-unknown-peer", drop,                                       \
		"From a selected pod, but through a node that the state document does not list.")   \
	OUTCOME(DROP_OUTER_VLAN, "drop-outer-vlan", drop,                                           \
		"To the tunnel with a VLAN tag, which Spillway cannot classify.")                   \
	OUTCOME(DROP_OUTER_OPTIONS, "drop-outer-options", drop,                                     \
		"To the tunnel with IP options or extension headers, not to be classified.")        \
	OUTCOME(DROP_OUTER_FRAGMENT, "drop-outer-fragment", drop,                                   \
		"The first fragment of a tunnel packet: whole, it could have leaked.")              \
	OUTCOME(DROP_NO_VNI, "drop-no-vni", drop,                                                   \
		"To the tunnel without a valid VXLAN network identifier.")                          \
	OUTCOME(DROP_INNER_TRUNCATED, "drop-inner-truncated", drop,                                 \
		"To the tunnel, but too short to tell whose packet it is.")                         \
	OUTCOME(DROP_INNER_VLAN, "drop-inner-vlan", drop,                                           \
		"Through the tunnel with a VLAN tag inside, which Spillway cannot classify.")       \
	OUTCOME(DROP_EXTENSIONS, "drop-extensions", drop,                                           \
		"From a selected pod, with IPv6 extension headers that Spillway does not follow.")  \
	OUTCOME(DROP_NO_SOCKET, "drop-no-socket", drop,                                             \
		"Ours, but no worker listens: Spillway is not running. Fails closed.")              \
	OUTCOME(DROP_HEAD_MOVE, "drop-head-move", drop,                                             \
		"Ours, but the driver leaves no room to move the frame's head.")                    \
	OUTCOME(PASS_UNCLASSIFIED, "pass-unclassified", pass,                                       \
		"To the tunnel and not to be classified; the configuration lets it pass.")

enum steer_outcome {
#define STEER_OUTCOME_SYMBOL(symbol, name, verdict, description) symbol,
	STEER_OUTCOMES(STEER_OUTCOME_SYMBOL)
#undef STEER_OUTCOME_SYMBOL
	STEER_OUTCOME_COUNT,
};

#endif
