// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Gives the program under test one frame after another.
 *
 * A test run with a repeat count gives a program the same frame again as the last run left it: its
 * head moved, and a steer header in it. So this program goes first: it moves the head back to where
 * it was, writes the next of many frames there, and calls the program under test. What that costs
 * is measured with an empty program in its place, and taken off.
 */
#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>

#define FRAME_LEN 114
#define FRAMES_MAX 16384

/* The frames, each in a slot of its own cache lines. */
struct slot {
	__u8 frame[FRAME_LEN];
	__u8 pad[14];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, FRAMES_MAX);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct slot);
} frames SEC(".maps");

/* Whose turn it is: `given & mask`. The mask is one less than a power of two. */
struct turn {
	__u32 mask;
	__u32 given;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct turn);
} turns SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} tested SEC(".maps");

SEC("xdp")
int replay(struct xdp_md *ctx)
{
	int moved = FRAME_LEN - (int)(ctx->data_end - ctx->data);
	__u32 zero = 0, index;
	struct turn *turn = bpf_map_lookup_elem(&turns, &zero);
	struct slot *slot;
	void *data;

	if (!turn)
		return XDP_ABORTED;
	index = turn->given++ & turn->mask;
	slot = bpf_map_lookup_elem(&frames, &index);
	/* Also where nothing has moved, so that it costs the same with every program. */
	if (!slot || bpf_xdp_adjust_head(ctx, -moved))
		return XDP_ABORTED;
	data = (void *)(long)ctx->data;
	if (data + FRAME_LEN > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	__builtin_memcpy(data, slot->frame, FRAME_LEN);
	bpf_tail_call(ctx, &tested, 0);
	return XDP_ABORTED;
}

/* What is left when nothing is decided. */
SEC("xdp")
int empty(struct xdp_md *ctx)
{
	return XDP_DROP;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
