/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The least that a test needs of steering: frames of ETHER_TYPE go to a socket of their queue, that of
 * the worker which their first payload byte names, modulo WORKERS. Both are the compiler's to define.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>

#define SEC(name) __attribute__((section(name), used))

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
	__u32 slot = context->rx_queue_index * WORKERS;

	if (data + ETH_HLEN + 1 > end || (data[12] << 8 | data[13]) != ETHER_TYPE)
		return XDP_PASS;
	return bpf_redirect_map(&xsks, slot + data[ETH_HLEN] % WORKERS, XDP_DROP);
}

char _license[] SEC("license") = "Dual BSD/GPL";
