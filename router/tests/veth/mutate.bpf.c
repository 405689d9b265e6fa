/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Sends a frame after changing up to four bytes of its Ethernet, IPv4 and UDP headers. */
#include <linux/bpf.h>

#define SEC(name) __attribute__((section(name), used))
#define HEADERS (14 + 20 + 8)

static __u32 (*bpf_get_prandom_u32)(void) = (void *)BPF_FUNC_get_prandom_u32;

SEC("xdp")
int mutate(struct xdp_md *context)
{
	__u8 *data = (void *)(long)context->data, *end = (void *)(long)context->data_end;

	for (int i = 0; i < 4; i++) {
		__u32 random = bpf_get_prandom_u32();
		__u32 offset = random >> 8 & 63;
		__u8 *at = data + offset;

		if (offset < HEADERS && at + 1 <= end)
			*at = random;
	}
	return XDP_TX;
}

char _license[] SEC("license") = "Dual BSD/GPL";
