/* SPDX-License-Identifier: GPL-2.0 */
/* What the programs of make bench share. */
#ifndef BENCH_H
#define BENCH_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <err.h>
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define KB		1024UL
#define MB		(1024UL * KB)

/* A constant where all machines have the same: a load of it would be measured too. */
#ifdef __x86_64__
#define PAGE		(4UL * KB)
#else
static size_t page_size;
#define PAGE		page_size

static void __attribute__((constructor)) find_page_size(void)
{
	page_size = sysconf(_SC_PAGESIZE);
}
#endif

#define TABLE		(PAGE * (PAGE / 8))	/* what one PTE table maps */
#define PAGES		512UL	/* of a table that are used; all if they have 4 KiB */

/* Given to the program itself by those who exec it: do nothing. */
#define NOTHING		"nothing"

static inline char *map(size_t len, int flags, int fd)
{
	char *p = mmap(NULL, len, PROT_READ | PROT_WRITE,
		       flags | MAP_NORESERVE, fd, 0);

	if (p == MAP_FAILED)
		err(1, "mmap of %zu MiB", len / MB);
	return p;
}

/* Anonymous memory that starts where a table does; *base is for munmap(). */
static inline char *map_tables(size_t tables, char **base)
{
	*base = map((tables + 1) * TABLE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	return (char *)(((uintptr_t)*base + TABLE - 1) & ~(TABLE - 1));
}

static inline void unmap_tables(size_t tables, char *base)
{
	if (munmap(base, (tables + 1) * TABLE))
		err(1, "munmap");
}

static inline void touch(char *p)
{
	*(volatile char *)p = 1;
}

static inline void touch_pages(char *p, size_t len)
{
	for (char *end = p + len; p < end; p += PAGE)
		touch(p);
}

static inline void dontneed(char *p, size_t len)
{
	if (madvise(p, len, MADV_DONTNEED))
		err(1, "madvise");
}

/* A thread that makes a process one of two. */
static inline void *wait_for_ever(void *unused)
{
	for (;;)
		pause();
	return unused;
}

/* The calling thread stays on a CPU. */
static inline void run_on(int nr)
{
	cpu_set_t cpu;

	CPU_ZERO(&cpu);
	CPU_SET(nr, &cpu);
	if (sched_setaffinity(0, sizeof(cpu), &cpu))
		err(1, "CPU %d", nr);
}

/* A file of tmpfs whose pages are in the page cache. */
static inline int cached_file(size_t len)
{
	int fd = memfd_create("bench", 0);
	char *p;

	if (fd < 0 || ftruncate(fd, len))
		err(1, "memfd");
	p = map(len, MAP_SHARED, fd);
	touch_pages(p, len);
	munmap(p, len);
	return fd;
}

/* fork(), a child that does nothing or executes a program that does, wait(). */
static inline void fork_wait(int exec)
{
	pid_t pid = fork();
	int status;

	if (!pid) {
		if (exec)
			execl("/proc/self/exe", "bench", NOTHING, NULL);
		_exit(exec);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
		err(1, "fork");
}

/* The number after @key at the start of a line of @path. */
static inline long figure(const char *path, const char *key)
{
	size_t len = strlen(key);
	char line[256];
	long value = -1;
	FILE *f = fopen(path, "r");

	if (!f)
		err(1, "%s", path);
	while (value < 0 && fgets(line, sizeof(line), f)) {
		if (!strncmp(line, key, len) && strchr(": ", line[len]))
			value = strtol(line + len + 1, NULL, 10);
	}
	fclose(f);
	return value;
}

#endif
