/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which pods are selected, and which destinations their policy sets cover. */
#ifndef SPILLWAY_STEER_TREE_H
#define SPILLWAY_STEER_TREE_H

#include "steer_maps.h"

/* The policy set of a pod, or NOT_SELECTED. */
static __always_inline __u32 set_of(__be32 pod)
{
	__u32 address = bpf_ntohl(pod);
	__u32 key = address >> BLOCK_BITS;
	struct pod_block *block = bpf_map_lookup_elem(&pods, &key);

	return block ? block->sets[address & (BLOCK_PODS - 1)] : NOT_SELECTED;
}

/* What a node says of an address, without a guess to go wrong. */
static __always_inline __u32 next_of(struct node *node, __u64 address)
{
	__u64 child = 0, distance;

#pragma unroll
	for (int i = 0; i < NODE_CHILDREN - 1; i++) {
		distance = node->last[i] - address;
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
	__u64 address = bpf_ntohl(destination);
	struct node *node;

	for (int level = 0; level < NODES_LEVELS && set < NOT_COVERED; level++) {
		node = bpf_map_lookup_elem(&nodes, &set);
		if (!node)
			break;
		set = next_of(node, address);
	}
	return set != NOT_COVERED;
}

#endif
