/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* IPv6's extension headers (RFC 8200, section 4), within bounds that the engine has too. */
#ifndef SPILLWAY_STEER_EXTENSIONS_H
#define SPILLWAY_STEER_EXTENSIONS_H

#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ipv6.h>
#include <linux/types.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "steer.h"

#define EXTENSION_LEN 8 /* of each at least, and of the fragment header */
#define FRAGMENT_OFFSET_MASK 0xfff8

enum fragment { FRAGMENT_NONE, FRAGMENT_FIRST, FRAGMENT_LATER };

/* What the extension headers say. */
struct extensions {
	__u32 protocol; /* what follows them; of a later fragment the fragment header itself */
	__u32 fragment; /* enum fragment; one that is the whole packet is a first one */
	__be32 identification;
};

/* Where an extension header keeps what. */
struct extension {
	__u8 next;
	__u8 words; /* of 8 bytes, the first one not counted; nothing in a fragment header */
	union {
		__be16 fragment_offset;
		struct {
			__u8 type;
			__u8 segments_left;
		} routing;
	};
	__be32 identification;
};

/* Whether this is an extension header, and not the transport's: by a bit for each that is. */
static __always_inline int is_extension(__u8 protocol)
{
	const __u64 all = 1ULL << IPPROTO_HOPOPTS | 1ULL << IPPROTO_ROUTING |
			  1ULL << IPPROTO_FRAGMENT | 1ULL << IPPROTO_DSTOPTS;

	return protocol < 64 && all >> protocol & 1;
}

/* The headers of a frame end before this; the verifier wants to know. */
#define HEADERS_BYTES_MAX 1024

/*
 * How long the extension headers of the IPv6 packet at `offset` are. Fails for more than
 * EXTENSIONS_MAX of them or EXTENSION_BYTES_MAX bytes, for two fragment headers, for a routing header
 * that leads elsewhere (RFC 5095), and when they are not all there.
 *
 * Global, so that the verifier looks at it once, and not again wherever it is called.
 */
__noinline long walk_extensions(struct xdp_md *ctx, __u64 offset, struct extensions *found)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct ipv6hdr *ip = data + offset;
	__u64 length = 0, this;
	__u8 protocol;

	if (!found || offset > HEADERS_BYTES_MAX || (void *)(ip + 1) > end)
		return -1;
	protocol = ip->nexthdr;
	for (int count = 0; count <= EXTENSIONS_MAX; count++) {
		struct extension *extension = (void *)(ip + 1) + length;

		found->protocol = protocol;
		if (!is_extension(protocol))
			return length;
		if (count == EXTENSIONS_MAX || (void *)(extension + 1) > end)
			return -1;
		if (protocol == IPPROTO_FRAGMENT) {
			if (found->fragment != FRAGMENT_NONE)
				return -1;
			found->identification = extension->identification;
			found->fragment = FRAGMENT_FIRST;
			if (extension->fragment_offset & bpf_htons(FRAGMENT_OFFSET_MASK))
				found->fragment = FRAGMENT_LATER;
			this = EXTENSION_LEN;
		} else {
			if (protocol == IPPROTO_ROUTING && extension->routing.segments_left)
				return -1;
			this = (extension->words + 1) * EXTENSION_LEN;
		}
		length += this;
		if (length > EXTENSION_BYTES_MAX)
			return -1;
		/* What follows here is the middle of something. */
		if (found->fragment == FRAGMENT_LATER)
			return length;
		protocol = extension->next;
	}
	return -1;
}

#endif
