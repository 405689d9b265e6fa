/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * All that a forwarder without an engine needs: every IPv4 frame goes to a socket, the rest to the
 * kernel, whose ARP the neighbours need. Like steering, it takes the outer headers off tunnel
 * frames, if it shall, so that the same bytes are sent.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/udp.h>

#define SEC(name) __attribute__((section(name), used))
#define BE16(x) __builtin_bswap16(x)
#define ENCAPSULATION (ETH_HLEN + 20 + 8 + 8)

static long (*bpf_redirect_map)(void *map, __u64 key, __u64 flags) = (void *)BPF_FUNC_redirect_map;
static long (*bpf_xdp_adjust_head)(struct xdp_md *md, int delta) = (void *)BPF_FUNC_xdp_adjust_head;

struct {
	int (*type)[BPF_MAP_TYPE_XSKMAP];
	int (*max_entries)[1024]; /* queues x workers */
	__u32 *key;
	__u32 *value;
} xsks SEC(".maps");

/* Set before the program is loaded. */
const volatile __u32 workers = 1;
const volatile __u32 device = 0; /* the index of the one that the program is on */
const volatile __u16 strip_port = 0; /* of tunnel frames that lose their outer headers; 0: none */

struct headers {
	struct ethhdr eth;
	struct iphdr ip;
	struct udphdr udp;
} __attribute__((packed));

/* Takes the outer headers off; the outer link addresses stay in front. */
static int strip(struct xdp_md *context, const struct headers *outer)
{
	__u8 addresses[2 * ETH_ALEN];
	__u8 *start;

	__builtin_memcpy(addresses, &outer->eth, sizeof(addresses));
	if (bpf_xdp_adjust_head(context, ENCAPSULATION))
		return 0;
	start = (void *)(long)context->data;
	if (start + sizeof(addresses) > (__u8 *)(long)context->data_end)
		return 0;
	__builtin_memcpy(start, addresses, sizeof(addresses));
	return 1;
}

SEC("xdp")
int redirect(struct xdp_md *context)
{
	struct headers *frame = (void *)(long)context->data;
	__u32 slot = context->rx_queue_index * workers;

	if ((void *)(frame + 1) > (void *)(long)context->data_end ||
	    frame->eth.h_proto != BE16(ETH_P_IP))
		return XDP_PASS;
	/* A flow stays with a worker, and flows spread over all of them. */
	if (workers > 1) {
		__u16 ports = frame->udp.source ^ frame->udp.dest;

		slot += (__u8)(ports ^ (ports >> 8)) % workers;
	}
	/* Whoever sends it on must know where it came from. */
	frame->eth.h_dest[0] = device;
	if (strip_port && frame->ip.protocol == 17 && frame->udp.dest == BE16(strip_port) &&
	    !strip(context, frame))
		return XDP_DROP;
	return bpf_redirect_map(&xsks, slot, XDP_DROP);
}

char _license[] SEC("license") = "Dual BSD/GPL";
