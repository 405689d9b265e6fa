/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Every IPv4 frame to the socket of its queue: what middle.rs forwards, and harms. */
#include <linux/bpf.h>
#include <linux/if_ether.h>

#define SEC(name) __attribute__((section(name), used))

static long (*bpf_redirect_map)(void *map, __u64 key, __u64 flags) = (void *)BPF_FUNC_redirect_map;

struct {
	int (*type)[BPF_MAP_TYPE_XSKMAP];
	int (*max_entries)[16];
	__u32 *key;
	__u32 *value;
} xsks SEC(".maps");

SEC("xdp")
int redirect(struct xdp_md *context)
{
	unsigned char *data = (void *)(long)context->data;
	unsigned char *end = (void *)(long)context->data_end;

	if (data + ETH_HLEN > end || data[12] != 8 || data[13] != 0)
		return XDP_PASS;
	return bpf_redirect_map(&xsks, context->rx_queue_index, XDP_DROP);
}

char _license[] SEC("license") = "Dual BSD/GPL";
