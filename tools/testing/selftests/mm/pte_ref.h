/* SPDX-License-Identifier: GPL-2.0 */
/* What the tests of user PTE tables share.  Comes after vm_util.h. */
#ifndef _PTE_REF_H
#define _PTE_REF_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <fcntl.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

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

static inline long now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

/* A file as a string, until the next call.  Not by stdio, which allocates. */
static inline char *slurp(const char *name)
{
	static char buf[256 << 10];
	size_t len = 0;
	ssize_t ret;
	int fd;

	fd = open(name, O_RDONLY);
	if (fd < 0)
		return NULL;
	do {
		ret = read(fd, buf + len, sizeof(buf) - 1 - len);
		if (ret > 0)
			len += ret;
	} while (ret > 0);
	close(fd);
	buf[len] = 0;
	return buf;
}

/* The number that follows a word at the start of a line, or -1. */
static inline long read_field(const char *name, const char *word)
{
	char *line = slurp(name);
	size_t len = strlen(word);

	while (line) {
		if (!strncmp(line, word, len) && strchr(": \t", line[len]))
			return strtol(line + len + 1, NULL, 10);
		line = strchr(line, '\n');
		if (line)
			line++;
	}
	return -1;
}

/* The number at the start of a file, or @without if there is none. */
static inline long read_number(const char *name, long without)
{
	char buf[32] = "", *end;
	int fd = open(name, O_RDONLY);
	long ret;

	if (fd < 0)
		return without;
	if (read(fd, buf, sizeof(buf) - 1) < 0)
		buf[0] = 0;
	close(fd);
	ret = strtol(buf, &end, 0);
	return end == buf ? without : ret;
}

/* Does the command line of the kernel have pte_ref=off? */
static inline bool turned_off(void)
{
	char *value = strstr(slurp("/proc/cmdline") ?: "", "pte_ref=");

	if (!value)
		return false;
	value += strlen("pte_ref=");
	return (*value && strchr("dDnNfF0", *value)) || !strncasecmp(value, "of", 2);
}

static inline bool swap_is_on(void)
{
	return read_field("/proc/meminfo", "SwapFree") > 0;
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
