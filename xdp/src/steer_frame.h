/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What classification finds out about a frame that is ours. */
#ifndef SPILLWAY_STEER_FRAME_H
#define SPILLWAY_STEER_FRAME_H

#include "steer.h"

struct frame {
	struct steer_header header;
	__u16 port; /* decides the owner: a port or echo identifier, 0 when there is none */
};

#endif
