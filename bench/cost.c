// SPDX-License-Identifier: GPL-2.0
/*
 * Instructions per operation, for a guest in which the time stamp counter counts
 * executed instructions (QEMU TCG with -icount shift=0).
 *
 * Prints one line per operation: its name and the least that it took in REPEAT
 * rounds.  The least, since an interrupt can only add.
 */
#include <err.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <x86intrin.h>

#define KB		1024UL
#define MB		(1024UL * KB)
#define PAGE		(4UL * KB)
#define TABLE		(2UL * MB)
#define TABLES		64
#define REPEAT		7

static char *area;

static void dontneed(char *p, size_t len)
{
	if (madvise(p, len, MADV_DONTNEED))
		err(1, "madvise");
}

/* A fresh mapping, since only munmap() frees the tables on every kernel. */
static void remap(void)
{
	if (area)
		munmap(area, (TABLES + 1) * TABLE);
	area = mmap(NULL, (TABLES + 1) * TABLE, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (area == MAP_FAILED)
		err(1, "mmap");
}

static char *table(int i)
{
	return (char *)(((uintptr_t)area + TABLE - 1) & ~(TABLE - 1)) +
		i * TABLE;
}

static void first_touch(void)
{
	for (int i = 0; i < TABLES; i++)
		*(volatile char *)table(i) = 1;
}

static void fault_anon(void)
{
	for (int i = 1; i <= TABLES; i++)
		*(volatile char *)(table(0) + i * PAGE) = 1;
}

static void fault_zero(void)
{
	for (int i = 1; i <= TABLES; i++)
		(void)*(volatile char *)(table(0) + i * PAGE);
}

static void zap_busy(void)
{
	for (int i = 1; i <= TABLES; i++) {
		*(volatile char *)(table(0) + PAGE) = 1;
		dontneed(table(0) + PAGE, PAGE);
	}
}

static void zap_empty(void)
{
	for (int i = 1; i <= TABLES; i++) {
		*(volatile char *)table(1) = 1;
		dontneed(table(1), PAGE);
	}
}

static void zap_table(void)
{
	for (size_t p = 0; p < TABLE; p += PAGE)
		*(volatile char *)(table(1) + p) = 1;
	dontneed(table(1), TABLE);
}

static void unmap(void)
{
	munmap(area, (TABLES + 1) * TABLE);
	area = NULL;
}

static void fork_exit(void)
{
	pid_t pid = fork();

	if (!pid)
		_exit(0);
	if (pid < 0 || waitpid(pid, NULL, 0) != pid)
		err(1, "fork");
}

static void keep_one(void)
{
	remap();
	*(volatile char *)table(0) = 1;
}

static void touch_ten(void)
{
	remap();
	for (int i = 0; i < 10; i++)
		*(volatile char *)table(i) = 1;
}

static void touch_all(void)
{
	remap();
	first_touch();
}

static const struct {
	const char *name;
	void (*prepare)(void);
	void (*run)(void);
	int ops;
} rows[] = {
	{ "first_touch",	remap,		first_touch,	TABLES },
	{ "fault_anon",		keep_one,	fault_anon,	TABLES },
	{ "fault_zero",		keep_one,	fault_zero,	TABLES },
	{ "zap_busy",		keep_one,	zap_busy,	TABLES },
	{ "zap_empty",		keep_one,	zap_empty,	TABLES },
	{ "zap_table",		keep_one,	zap_table,	1 },
	{ "munmap_tables",	touch_all,	unmap,		TABLES },
	{ "fork_exit",		touch_ten,	fork_exit,	1 },
};

int main(void)
{
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		uint64_t least = UINT64_MAX;

		for (int n = 0; n < REPEAT; n++) {
			uint64_t start, took;

			rows[i].prepare();
			start = __rdtsc();
			rows[i].run();
			took = __rdtsc() - start;
			if (took < least)
				least = took;
			/* Let what was deferred happen outside of the count. */
			usleep(50000);
		}
		printf("%s %lu\n", rows[i].name,
		       (unsigned long)(least / rows[i].ops));
	}
	return 0;
}
