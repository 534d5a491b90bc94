/* SPDX-License-Identifier: GPL-2.0 */
/* What the tests of user PTE tables share.  Comes after vm_util.h. */
#ifndef _PTE_REF_H
#define _PTE_REF_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <time.h>

/* What one PTE table maps. */
static inline size_t table_size(void)
{
	return (size_t)psize() * (psize() / sizeof(uint64_t));
}

static inline long now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* The calling thread stays on a CPU. */
static inline void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	sched_setaffinity(0, sizeof(set), &set);
}

static inline int punch(int fd, off_t off, off_t len)
{
	return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off, len);
}

#endif /* _PTE_REF_H */
