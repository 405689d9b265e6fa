/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The least that the device tests need of steering: a frame of the experimental EtherType names
 * the worker it is for in its first payload byte.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>

#define SEC(name) __attribute__((section(name), used))
#define WORKERS 16 /* slots for each queue, as in rig.rs */

static long (*bpf_redirect_map)(void *map, __u64 key, __u64 flags) = (void *)BPF_FUNC_redirect_map;

struct {
	int (*type)[BPF_MAP_TYPE_XSKMAP];
	int (*max_entries)[256];
	__u32 *key;
	__u32 *value;
} xsks SEC(".maps");

SEC("xdp")
int redirect(struct xdp_md *context)
{
	unsigned char *data = (void *)(long)context->data;
	unsigned char *end = (void *)(long)context->data_end;

	if (data + ETH_HLEN + 1 > end || data[12] != 0x88 || data[13] != 0xb5)
		return XDP_PASS;
	return bpf_redirect_map(&xsks, context->rx_queue_index * WORKERS + data[ETH_HLEN], XDP_DROP);
}

char _license[] SEC("license") = "Dual BSD/GPL";
