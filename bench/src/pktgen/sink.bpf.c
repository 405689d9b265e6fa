// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The sink: checks and counts the generator's packets where they arrive, plain or in VXLAN, and drops
 * them or sends them back. All else is the kernel's. sink.rs reads what it counts.
 */
#include "label.h"

#define STREAMS 16
#define BUCKET_BITS 5 /* each power of two has 32 buckets: histogram.rs */
#define BUCKETS 1024
#define LATENCY_MAX ((1ull << 36) - 1)

/* Set by sink.rs. */
struct config {
	__u32 tunnel_port; /* in host order */
	__u32 source; /* which packets come from, in network order; 0: any */
	__u32 reflect; /* whether plain packets are sent back */
};

/* One processor's counts. */
struct count {
	__u64 packets, bytes; /* received, inner frames without FCS */
	__u64 tunnelled; /* of them in VXLAN */
	__u64 corrupt; /* of them with a wrong checksum */
	__u64 unexpected; /* of them from another source */
	__u64 reordered, duplicates; /* of them behind, or equal to, the last of their flow */
	__u64 untracked; /* of them of a flow or stream above what is tracked */
	__u64 passed; /* others, given to the kernel */
	__u64 first_ns, last_ns;
	__u64 from_future; /* of another clock: no latency can be told */
	__u64 latency_sum, latency_least, latency_most; /* in ns */
	/* The sequence numbers of each stream, plus one; 0: none. */
	__u32 lowest[STREAMS], highest[STREAMS];
	__u64 latencies[BUCKETS];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct config);
} config SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct count);
} counts SEC(".maps");

/* The highest sequence number of each flow, plus one. Sized by the loader. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} flows SEC(".maps");

/* A packet with a label: its Ethernet header, and what was found behind it. */
struct found {
	void *ethernet, *ip, *transport, *label;
	int tunnelled;
	int tcp;
};

static __always_inline int is_ipv4(void *ethernet, void *end)
{
	return ethernet + ETH_HLEN + IP_LEN + UDP_LEN <= end &&
	       U16(ethernet + 2 * ETH_ALEN) == bpf_htons(ETH_P_IP) && U8(ethernet + ETH_HLEN) == 0x45;
}

/* Whether a packet with a label is at `ethernet`. */
static __always_inline int find_label(void *ethernet, void *end, struct found *found)
{
	void *ip = ethernet + ETH_HLEN;

	if (!is_ipv4(ethernet, end))
		return 0;
	found->tcp = U8(ip + IP_NEXT) == IPPROTO_TCP;
	if (!found->tcp && U8(ip + IP_NEXT) != IPPROTO_UDP)
		return 0;
	found->ethernet = ethernet;
	found->ip = ip;
	found->transport = ip + IP_LEN;
	found->label = found->transport + UDP_LEN;
	if (found->tcp)
		found->label = found->transport + TCP_LEN;
	return found->label + LABEL_LEN <= end && U16(found->label) == bpf_htons(LABEL_MAGIC);
}

static __always_inline int find(const struct config *config, void *data, void *end,
				struct found *found)
{
	void *ip = data + ETH_HLEN;

	if (!is_ipv4(data, end))
		return 0;
	found->tunnelled = U8(ip + IP_NEXT) == IPPROTO_UDP &&
			   U16(ip + IP_LEN + 2) == bpf_htons(config->tunnel_port);
	return find_label(found->tunnelled ? data + ENCAPSULATION_LEN : data, end, found);
}

/* Whether both checksums hold. The padding behind the label is zeros, and adds nothing. */
static __always_inline int is_intact(struct found *found)
{
	__u32 length = bpf_ntohs(U16(found->ip + IP_TOTAL_LENGTH)) - IP_LEN;
	__u32 ip_sum = 0, sum = bpf_htons(length) + bpf_htons(found->tcp ? IPPROTO_TCP : IPPROTO_UDP);
	int i;

#pragma unroll
	for (i = 0; i < IP_LEN; i += 4)
		ip_sum += words(U32(found->ip + i));
	sum += words(U32(found->ip + IP_SOURCE)) + words(U32(found->ip + IP_TARGET));
#pragma unroll
	for (i = 0; i < UDP_LEN; i += 4)
		sum += words(U32(found->transport + i));
	if (found->tcp) {
#pragma unroll
		for (i = UDP_LEN; i < TCP_LEN; i += 4)
			sum += words(U32(found->transport + i));
	} else if (!U16(found->transport + UDP_CHECK)) {
		return 0; /* the generator always writes one */
	}
	sum += U16(found->label);
#pragma unroll
	for (i = 2; i < LABEL_LEN; i += 4)
		sum += words(U32(found->label + i));
	return !checksum(ip_sum) && !checksum(sum);
}

/* The histogram's bucket of a value: its highest bit and the five that follow. */
static __always_inline __u32 bucket(__u64 value)
{
	__u32 shift = 0, step;

	if (value > LATENCY_MAX)
		value = LATENCY_MAX;
	/* Until six bits are left. Not __builtin_clzll: clang 14 cannot compile it for BPF. */
#pragma unroll
	for (step = 16; step; step /= 2) {
		if (value >> step >= 1 << BUCKET_BITS) {
			value >>= step;
			shift += step;
		}
	}
	return (shift << BUCKET_BITS) + value;
}

static __always_inline void count_latency(struct count *count, __u64 sent_ns, __u64 now_ns)
{
	__u64 latency = now_ns - sent_ns;

	if (sent_ns > now_ns) {
		count->from_future++;
		return;
	}
	if (!count->latency_sum || latency < count->latency_least)
		count->latency_least = latency;
	if (latency > count->latency_most)
		count->latency_most = latency;
	count->latency_sum += latency;
	count->latencies[bucket(latency) & (BUCKETS - 1)]++;
}

/* Judges the packet's place among those of its stream and of its flow. */
static __always_inline void count_sequence(struct count *count, __u32 origin, __u32 sequence)
{
	__u32 stream = origin >> LABEL_FLOW_BITS, flow = origin & ((1 << LABEL_FLOW_BITS) - 1);
	__u32 mark = sequence + 1, *last = bpf_map_lookup_elem(&flows, &flow);

	if (stream >= STREAMS || !last) {
		count->untracked++;
		return;
	}
	stream &= STREAMS - 1;
	if (!count->lowest[stream] || mark < count->lowest[stream])
		count->lowest[stream] = mark;
	if (mark > count->highest[stream])
		count->highest[stream] = mark;
	if (mark > *last)
		*last = mark;
	else if (mark == *last)
		count->duplicates++;
	else
		count->reordered++;
}

static __always_inline void count_packet(const struct config *config, struct count *count,
					 struct found *found, void *end)
{
	__u64 now_ns = bpf_ktime_get_ns();

	count->packets++;
	count->bytes += end - found->ethernet;
	count->tunnelled += found->tunnelled;
	if (!count->first_ns)
		count->first_ns = now_ns;
	count->last_ns = now_ns;
	if (config->source && U32(found->ip + IP_SOURCE) != config->source)
		count->unexpected++;
	if (!is_intact(found)) {
		count->corrupt++;
		return; /* its label may be what is wrong */
	}
	count_sequence(count, bpf_ntohl(U32(found->label + LABEL_ORIGIN)),
		       bpf_ntohl(U32(found->label + LABEL_SEQUENCE)));
	count_latency(count, bpf_be64_to_cpu(U64(found->label + LABEL_TIME)), now_ns);
}

/* Back to where it came from. No checksum changes. */
static __always_inline int reflect(struct found *found)
{
	__u32 source = U32(found->ip + IP_SOURCE);
	__u16 port = U16(found->transport);
	__u32 mac = U32(found->ethernet);
	__u16 mac_end = U16(found->ethernet + 4);

	U32(found->ethernet) = U32(found->ethernet + ETH_ALEN);
	U16(found->ethernet + 4) = U16(found->ethernet + ETH_ALEN + 4);
	U32(found->ethernet + ETH_ALEN) = mac;
	U16(found->ethernet + ETH_ALEN + 4) = mac_end;
	U32(found->ip + IP_SOURCE) = U32(found->ip + IP_TARGET);
	U32(found->ip + IP_TARGET) = source;
	U16(found->transport) = U16(found->transport + 2);
	U16(found->transport + 2) = port;
	return XDP_TX;
}

SEC("xdp")
int sink(struct xdp_md *context)
{
	void *data = (void *)(long)context->data, *end = (void *)(long)context->data_end;
	struct config *made;
	struct count *count;
	struct found found = {};
	__u32 zero = 0;

	made = bpf_map_lookup_elem(&config, &zero);
	count = bpf_map_lookup_elem(&counts, &zero);
	if (!made || !count)
		return XDP_ABORTED;
	if (!find(made, data, end, &found)) {
		count->passed++;
		return XDP_PASS;
	}
	count_packet(made, count, &found, end);
	return made->reflect && !found.tunnelled ? reflect(&found) : XDP_DROP;
}

char _license[] SEC("license") = "Dual BSD/GPL";
