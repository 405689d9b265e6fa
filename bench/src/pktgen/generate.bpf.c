// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The generator where it is cheapest: BPF_PROG_TEST_RUN runs it on live frames, and XDP_TX sends what
 * it has written into them. template.rs and pace.rs are its twins for AF_XDP, and say more.
 *
 * A frame that is not due yet is dropped, which costs nothing but time: so the rate is kept here, and
 * one system call lasts as long as the whole run.
 */
#include "label.h"

#define HEADERS_MAX 104 /* of a TCP packet in VXLAN */
#define SIZES 12
#define TIME_SHIFT 16 /* intervals are in 1/65536 ns */

/* Set by live.rs before the first frame. Addresses and ports are in host order. */
struct config {
	__u64 interval; /* between packets, in ns << TIME_SHIFT; 0: as fast as it goes */
	__u64 peak_interval; /* the same when packets are made up for */
	__u64 stall; /* how much time is made up for, in ns << TIME_SHIFT */
	__u64 peak_burst; /* packets that may come at once, in the same unit */
	__u64 duration_ns;
	__u64 count;
	__u32 stream, streams;
	__u32 schedule_length; /* 0: packet n is of flow n */
	__u32 egress; /* the pods' address, in replies; 0: their own */
	__u32 pod, pods;
	__u32 port, ports;
	__u32 remote;
	__u32 remote_port, remote_ports;
	__u32 outer_port; /* 0: follows the flow */
	/* Sums of all words of the header that do not change, for its checksum. */
	__u32 outer_ip_sum, ip_sum, transport_sum;
	__u16 sizes[SIZES]; /* of inner frames, without FCS, in turn */
	__u8 headers[HEADERS_MAX]; /* those of one frame, without what changes */
};

struct state {
	__u64 sent, bytes; /* frames, and their bytes with all headers, without FCS */
	__u64 first_ns, last_ns;
	__u64 done; /* count or duration are reached */
	__u64 due, peak_due; /* when the next packet may be sent, since first_ns */
	__u64 next_choice, next_size;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct config);
} config SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct state);
} state SEC(".maps");

/* The flows' order, as schedule.rs has made it. Sized by the loader. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} schedule SEC(".maps");

/* A packet's own values; addresses and ports in network order. */
struct packet {
	__u32 flow;
	__u32 near, remote;
	__u16 near_port, remote_port;
	__u16 size;
	__u64 time_ns;
};

/* Whether a packet may be sent now; if so, when the next may. */
static __always_inline int is_due(const struct config *config, struct state *state, __u64 now_ns)
{
	__u64 since;

	if (!state->first_ns)
		state->first_ns = now_ns;
	since = now_ns - state->first_ns;
	if (state->sent >= config->count || since >= config->duration_ns) {
		state->done = 1;
		return 0;
	}
	if (!config->interval)
		return 1;
	since <<= TIME_SHIFT;
	if (state->due > since || state->peak_due > since)
		return 0;
	if (since > state->due + config->stall)
		state->due = since - config->stall;
	if (since > state->peak_due + config->peak_burst)
		state->peak_due = since - config->peak_burst;
	state->due += config->interval;
	state->peak_due += config->peak_interval;
	return 1;
}

/* The number of the next packet's flow. */
static __always_inline __u32 choose(const struct config *config, struct state *state)
{
	__u32 at = state->next_choice, choice = state->sent, *chosen;

	if (config->schedule_length) {
		chosen = bpf_map_lookup_elem(&schedule, &at);
		choice = chosen ? *chosen : 0;
		state->next_choice = at + 1 < config->schedule_length ? at + 1 : 0;
	}
	return choice * config->streams + config->stream;
}

/* The next packet's size. */
static __always_inline __u16 measure(const struct config *config, struct state *state)
{
	__u64 at = state->next_size;

	if (at >= SIZES)
		return 0;
	state->next_size = at + 1 < SIZES ? at + 1 : 0;
	return config->sizes[at];
}

static __always_inline void describe(const struct config *config, struct packet *packet)
{
	__u32 target = packet->flow / config->ports;

	packet->near = config->egress;
	if (!packet->near)
		packet->near = config->pod + packet->flow % config->pods;
	packet->near = bpf_htonl(packet->near);
	packet->near_port = bpf_htons(config->port + packet->flow % config->ports);
	packet->remote = bpf_htonl(config->remote + target / config->remote_ports);
	packet->remote_port = bpf_htons(config->remote_port + target % config->remote_ports);
}

static __always_inline void write_outer(const struct config *config, void *ip,
					const struct packet *packet)
{
	__u16 length = bpf_htons(packet->size + ENCAPSULATION_LEN - ETH_HLEN);
	void *udp = ip + IP_LEN;
	__u32 port = config->outer_port;

	if (!port)
		port = 49152 + (packet->flow * 0x9e3779b1u >> 18);
	U16(ip + IP_TOTAL_LENGTH) = length;
	U16(ip + IP_CHECK) = checksum(config->outer_ip_sum + length);
	U16(udp) = bpf_htons(port);
	U16(udp + UDP_LENGTH) = bpf_htons(packet->size + ENCAPSULATION_LEN - ETH_HLEN - IP_LEN);
}

static __always_inline void write_inner(const struct config *config, const struct state *state,
					void *ip, const struct packet *packet, const int tunnel,
					const int tcp)
{
	__u16 ip_length = bpf_htons(packet->size - ETH_HLEN);
	__u16 length = bpf_htons(packet->size - ETH_HLEN - IP_LEN);
	__u32 addresses = words(packet->near) + words(packet->remote);
	__u32 origin = bpf_htonl(config->stream << LABEL_FLOW_BITS | packet->flow);
	__u32 sequence = bpf_htonl(state->sent);
	__u64 time = bpf_cpu_to_be64(packet->time_ns);
	void *transport = ip + IP_LEN, *label = transport + (tcp ? TCP_LEN : UDP_LEN);
	__u32 sum;

	U16(ip + IP_TOTAL_LENGTH) = ip_length;
	U16(ip + IP_CHECK) = checksum(config->ip_sum + ip_length + addresses);
	U32(ip + (tunnel ? IP_SOURCE : IP_TARGET)) = packet->near;
	U32(ip + (tunnel ? IP_TARGET : IP_SOURCE)) = packet->remote;
	U16(transport + (tunnel ? 0 : 2)) = packet->near_port;
	U16(transport + (tunnel ? 2 : 0)) = packet->remote_port;
	U16(label) = bpf_htons(LABEL_MAGIC);
	U32(label + LABEL_ORIGIN) = origin;
	U32(label + LABEL_SEQUENCE) = sequence;
	U64(label + LABEL_TIME) = time;

	sum = config->transport_sum + length + addresses + packet->near_port + packet->remote_port +
	      words(origin) + words(sequence) + words(time);
	if (tcp) {
		U16(transport + TCP_CHECK) = checksum(sum);
	} else {
		__u16 check = checksum(sum + length);

		U16(transport + UDP_LENGTH) = length;
		U16(transport + UDP_CHECK) = check ? check : 0xffff; /* 0 is for none */
	}
}

/* Every header anew: whoever had the page before may have changed them. */
static __always_inline void copy_headers(const struct config *config, void *to, const int length)
{
	int at = 0;

#pragma unroll
	for (; at + 8 <= length; at += 8)
		U64(to + at) = U64(config->headers + at);
	if (length & 4) {
		U32(to + at) = U32(config->headers + at);
		at += 4;
	}
	if (length & 2)
		U16(to + at) = U16(config->headers + at);
}

static __always_inline int generate(struct xdp_md *context, const int tunnel, const int tcp)
{
	const int inner = tunnel ? ENCAPSULATION_LEN : 0;
	const int headers = inner + ETH_HLEN + IP_LEN + (tcp ? TCP_LEN : UDP_LEN);
	__u32 zero = 0, length, room;
	struct packet packet = {};
	struct config *made;
	struct state *now;
	void *data;

	made = bpf_map_lookup_elem(&config, &zero);
	now = bpf_map_lookup_elem(&state, &zero);
	if (!made || !now)
		return XDP_ABORTED;
	packet.time_ns = bpf_ktime_get_ns();
	if (!is_due(made, now, packet.time_ns))
		return XDP_DROP;
	packet.size = measure(made, now);
	packet.flow = choose(made, now);
	describe(made, &packet);
	length = packet.size + inner;
	room = context->data_end - context->data;
	if (room != length && bpf_xdp_adjust_tail(context, (int)length - (int)room))
		return XDP_ABORTED;
	data = (void *)(long)context->data;
	if (data + headers + LABEL_LEN > (void *)(long)context->data_end)
		return XDP_ABORTED;
	copy_headers(made, data, headers);
	if (tunnel)
		write_outer(made, data + ETH_HLEN, &packet);
	write_inner(made, now, data + inner + ETH_HLEN, &packet, tunnel, tcp);
	now->sent++;
	now->bytes += length;
	now->last_ns = packet.time_ns;
	return XDP_TX;
}

SEC("xdp")
int tunnel_udp(struct xdp_md *context)
{
	return generate(context, 1, 0);
}

SEC("xdp")
int tunnel_tcp(struct xdp_md *context)
{
	return generate(context, 1, 1);
}

SEC("xdp")
int replies_udp(struct xdp_md *context)
{
	return generate(context, 0, 0);
}

SEC("xdp")
int replies_tcp(struct xdp_md *context)
{
	return generate(context, 0, 1);
}

char _license[] SEC("license") = "Dual BSD/GPL";
