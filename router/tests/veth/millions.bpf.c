/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The traffic of millions.rs, made where it is cheap. `start` sends a pod's first questions,
 * `reflect` answers each at the server, `ask` counts the answer and turns it into the next question.
 * So a fixed number of packets is under way, as fast as the router can.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/udp.h>

#define SEC(name) __attribute__((section(name), used))
#define BE16(x) __builtin_bswap16(x)
#define FIRST_PORT 2048 /* of the pod; each port is a flow */
#define PORTS 8192
#define VXLAN_PORT 8472

static void *(*bpf_map_lookup_elem)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;

/* What the packet says of itself. Each word comes with its complement: no checksum changes. */
struct label {
	__be16 port, not_port;
	__u16 sequence[2], not_sequence[2];
} __attribute__((packed));

struct plain {
	struct ethhdr eth;
	struct iphdr ip;
	struct udphdr udp;
	struct label label;
} __attribute__((packed));

struct tunnelled {
	struct ethhdr eth;
	struct iphdr ip;
	struct udphdr udp;
	__u8 vxlan[8];
	struct plain inner;
} __attribute__((packed));

struct traffic {
	__u64 questions; /* how many there shall be; set by millions.rs */
	__u64 next; /* the next one's sequence number */
	__u64 reflected, right, right_sequences, wrong; /* read by it */
	struct tunnelled question; /* but for its label and ports; set by it */
};

struct {
	int (*type)[BPF_MAP_TYPE_ARRAY];
	int (*max_entries)[1];
	__u32 *key;
	struct traffic *value;
} traffic SEC(".maps");

static struct traffic *shared(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&traffic, &zero);
}

static void *packet(struct xdp_md *context, __u32 length)
{
	void *data = (void *)(long)context->data;

	return data + length <= (void *)(long)context->data_end ? data : 0;
}

/* Makes the packet the next question; says whether there is one. */
static int question(struct tunnelled *packet, struct traffic *traffic)
{
	__u64 sequence = __sync_fetch_and_add(&traffic->next, 1);
	__u16 port = BE16(FIRST_PORT + sequence % PORTS);

	if (sequence >= traffic->questions)
		return 0;
	*packet = traffic->question;
	/* As a node's kernel does: a flow's outer port, and so its queue, follow from the flow. */
	packet->udp.source = port;
	packet->inner.udp.source = port;
	packet->inner.label.port = port;
	packet->inner.label.not_port = ~port;
	for (int i = 0; i < 2; i++) {
		packet->inner.label.sequence[i] = sequence >> 16 * i;
		packet->inner.label.not_sequence[i] = ~(sequence >> 16 * i);
	}
	return 1;
}

SEC("xdp")
int start(struct xdp_md *context)
{
	struct tunnelled *first = packet(context, sizeof(*first));
	struct traffic *traffic = shared();

	return first && traffic && question(first, traffic) ? XDP_TX : XDP_ABORTED;
}

SEC("xdp")
int reflect(struct xdp_md *context)
{
	struct plain *asked = packet(context, sizeof(*asked));
	struct traffic *traffic = shared();
	struct plain was;

	if (!asked || !traffic || asked->eth.h_proto != BE16(ETH_P_IP) || asked->ip.protocol != 17)
		return XDP_PASS;
	was = *asked;
	__builtin_memcpy(asked->eth.h_dest, was.eth.h_source, ETH_ALEN);
	__builtin_memcpy(asked->eth.h_source, was.eth.h_dest, ETH_ALEN);
	asked->ip.saddr = was.ip.daddr;
	asked->ip.daddr = was.ip.saddr;
	asked->udp.source = was.udp.dest;
	asked->udp.dest = was.udp.source;
	__sync_fetch_and_add(&traffic->reflected, 1);
	return XDP_TX;
}

/* Whether nothing but the router's labels and times to live differ from the question. */
static int is_right(const struct tunnelled *answer, const struct tunnelled *asked, __u32 sequence)
{
	const struct label *label = &answer->inner.label;

	return answer->inner.udp.source == asked->inner.udp.dest &&
	       answer->inner.udp.dest == label->port &&
	       answer->inner.udp.check == asked->inner.udp.check &&
	       answer->inner.ip.saddr == asked->inner.ip.daddr &&
	       answer->inner.ip.daddr == asked->inner.ip.saddr &&
	       label->port == BE16(FIRST_PORT + sequence % PORTS) &&
	       label->port == (__u16)~label->not_port &&
	       label->sequence[0] == (__u16)~label->not_sequence[0] &&
	       label->sequence[1] == (__u16)~label->not_sequence[1];
}

SEC("xdp")
int ask(struct xdp_md *context)
{
	struct tunnelled *answer = packet(context, sizeof(*answer));
	struct traffic *traffic = shared();
	__u32 sequence;

	if (!answer || !traffic || answer->udp.dest != BE16(VXLAN_PORT))
		return XDP_PASS;
	sequence = answer->inner.label.sequence[0];
	sequence |= (__u32)answer->inner.label.sequence[1] << 16;
	if (!is_right(answer, &traffic->question, sequence)) {
		__sync_fetch_and_add(&traffic->wrong, 1);
		return XDP_DROP;
	}
	__sync_fetch_and_add(&traffic->right, 1);
	__sync_fetch_and_add(&traffic->right_sequences, sequence);
	return question(answer, traffic) ? XDP_TX : XDP_DROP;
}

char _license[] SEC("license") = "Dual BSD/GPL";
