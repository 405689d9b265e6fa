/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What steering is told: constants when it is loaded, and maps that change while it runs. All of it
 * is filled from outside, except for `fragments` and `outcomes`.
 */
#ifndef SPILLWAY_STEER_MAPS_H
#define SPILLWAY_STEER_MAPS_H

#include <linux/bpf.h>
#include <linux/in6.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>

#include "steer.h"

/* Fixed when the program is loaded. */
const volatile __u16 tunnel_port = 8472;
const volatile __u32 workers = 1;

/* The bits of a port that its class is taken from. */
const volatile __u16 port_mask = 0xffff;
const volatile __u8 pass_unclassified = 0;

/* Our tunnel addresses. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, __be32);
	__type(value, __u8);
} tunnels SEC(".maps");

/* Tunnel peers, and the one of the tunnel addresses that each may send to. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __be32);
	__type(value, __be32);
} peers SEC(".maps");

/* The same of an IPv6 underlay. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, struct in6_addr);
	__type(value, __u8);
} tunnels_ipv6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct in6_addr);
	__type(value, struct peer_ipv6);
} peers_ipv6 SEC(".maps");

/* Selected pods, by their addresses without the low BLOCK_BITS. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, __be32);
	__type(value, struct pod_block);
} pods SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, struct in6_addr);
	__type(value, struct pod_block);
} pods_ipv6 SEC(".maps");

/* Search trees of destinations of both families. To be mapped, so that values start at a page. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, NODES_MAX);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct node);
} nodes SEC(".maps");

/* Egress addresses. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, __be32);
	__type(value, struct egress_ports);
} egress SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, struct in6_addr);
	__type(value, struct egress_ports);
} egress_ipv6 SEC(".maps");

/*
 * Packets to addresses shared with the host whose first fragment was ours, and when it came: so are
 * the others for some time.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct fragment_key);
	__type(value, __u64);
} fragments SEC(".maps");

/* The worker that owns each class of ports. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, CLASSES);
	__type(key, __u32);
	__type(value, __u32);
} owners SEC(".maps");

/* This device's sockets: queue * workers + worker. Sized by the loader. */
struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} xsks SEC(".maps");

/* What became of this device's frames, by enum steer_outcome. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, STEER_OUTCOME_COUNT);
	__type(key, __u32);
	__type(value, struct outcome_count);
} outcomes SEC(".maps");

#endif
