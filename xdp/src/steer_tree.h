/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which pods are selected, and which destinations their policy sets cover. */
#ifndef SPILLWAY_STEER_TREE_H
#define SPILLWAY_STEER_TREE_H

#include <linux/in6.h>

#include <bpf/bpf_endian.h>

#include "steer_maps.h"

/* The policy set of a pod, or NOT_SELECTED. */
static __always_inline __u32 set_of(__be32 pod)
{
	__be32 key = pod & bpf_htonl(~(BLOCK_PODS - 1));
	struct pod_block *block = bpf_map_lookup_elem(&pods, &key);

	return block ? block->sets[bpf_ntohl(pod) & (BLOCK_PODS - 1)] : NOT_SELECTED;
}

/* The same of an IPv6 pod. */
static __always_inline __u32 set_of_ipv6(const struct in6_addr *pod)
{
	struct in6_addr key = *pod;
	struct pod_block *block;

	key.s6_addr[15] &= ~(BLOCK_PODS - 1);
	block = bpf_map_lookup_elem(&pods_ipv6, &key);
	return block ? block->sets[pod->s6_addr[15] & (BLOCK_PODS - 1)] : NOT_SELECTED;
}

/* What a node says of a word of an address, without a guess to go wrong. */
static __always_inline __u32 next_of(struct node *node, __u64 word)
{
	__u64 child = 0, distance;

#pragma unroll
	for (int i = 0; i < NODE_CHILDREN - 1; i++) {
		distance = node->last[i] - word;
		barrier_var(distance); /* or clang makes a branch of it */
		child += distance >> 63; /* 1 where the range ends before */
	}
	return node->next[child & (NODE_CHILDREN - 1)];
}

/*
 * Whether a policy set covers a destination: a walk down its tree. Should the tree be broken, its
 * frames are the engine's, which knows the policies too.
 */
static __always_inline int is_covered(__u32 set, __be32 destination)
{
	__u64 word = bpf_ntohl(destination);
	struct node *node;

	for (int level = 0; level < NODES_LEVELS && set < NOT_COVERED; level++) {
		node = bpf_map_lookup_elem(&nodes, &set);
		if (!node)
			break;
		set = next_of(node, word);
	}
	return set != NOT_COVERED;
}

/* The same of an IPv6 destination, of whose words each node looks at one. */
static __always_inline int is_covered_ipv6(__u32 set, const struct in6_addr *destination)
{
	__u32 words[ADDRESS_WORDS], index;
	struct node *node;

#pragma unroll
	for (int i = 0; i < ADDRESS_WORDS; i++)
		words[i] = bpf_ntohl(destination->s6_addr32[i]);
	for (int level = 0; level < ADDRESS_WORDS * NODES_LEVELS && set < NOT_COVERED; level++) {
		index = set & NODE_INDEX_MASK;
		node = bpf_map_lookup_elem(&nodes, &index);
		if (!node)
			break;
		set = next_of(node, words[set >> NODE_WORD_SHIFT & (ADDRESS_WORDS - 1)]);
	}
	return set != NOT_COVERED;
}

#endif
