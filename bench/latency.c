// SPDX-License-Identifier: GPL-2.0
/*
 * latency ROUNDS [percpu]
 *
 * Milliseconds from the madvise() that empties a PTE table to its memory being
 * free: the most of all rounds, or "never".  With percpu, faults of GUP that call
 * ->fault(), in a process of two threads, change the CPU first: pte_ref then counts the
 * holders per CPU.
 *
 * latency ROUNDS beside
 *
 * Milliseconds that the longest fault takes, in a thread that makes tables in a GiB of
 * which another thread zaps tables all the time: that of the quietest round, since a busy
 * host stops a CPU for longer.
 *
 * latency TABLES walk
 *
 * As the first, twice: one table of so many is emptied (walk_one), then each of the
 * others, by a call for each (walk_all).  TABLES are of 4 KiB: there are fewer larger ones.
 *
 * nr_page_table_pages falls when the table goes back to the page allocator; VmPTE
 * would fall a grace period earlier.
 */
#include "bench.h"

#include <pthread.h>
#include <time.h>

#define NEVER	2000

static long tables(void)
{
	/* Percpu deltas of the counters, folded into what is shown. */
	int fd = open("/proc/sys/vm/stat_refresh", O_WRONLY);

	if (fd < 0 || write(fd, "1\n", 2) != 2)
		err(1, "stat_refresh");
	close(fd);
	return figure("/proc/vmstat", "nr_page_table_pages");
}

static double now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec * 1e3 + (double)ts.tv_nsec / 1e6;
}

#define GIB_TABLES	512
#define ZAPPED		384	/* of these */

static char *gib;
static volatile int zapping;

static void *zap_tables(void *unused)
{
	run_on(1);
	while (zapping) {
		for (int i = 0; i < ZAPPED; i++)
			touch(gib + i * TABLE);
		dontneed(gib, ZAPPED * TABLE);
	}
	return unused;
}

static void beside(int rounds)
{
	char *base, *p = map_tables(2 * GIB_TABLES, &base);
	double least = NEVER;

	gib = (char *)(((uintptr_t)p + GIB_TABLES * TABLE - 1) &
		       ~(GIB_TABLES * TABLE - 1));
	run_on(0);
	for (int n = 0; n < rounds; n++) {
		double until = now_ms() + 500, most = 0;
		pthread_t thread;

		zapping = 1;
		if (pthread_create(&thread, NULL, zap_tables, NULL))
			errx(1, "no second thread");
		while (now_ms() < until) {
			for (int i = ZAPPED; i < GIB_TABLES; i++) {
				double start = now_ms(), took;

				touch(gib + i * TABLE);
				took = now_ms() - start;
				if (took > most)
					most = took;
			}
			dontneed(gib + ZAPPED * TABLE, (GIB_TABLES - ZAPPED) * TABLE);
		}
		zapping = 0;
		pthread_join(thread, NULL);
		if (most < least)
			least = most;
	}
	printf("%.3f\n", least);
	unmap_tables(2 * GIB_TABLES, base);
}

/* Milliseconds until no more than so many tables are left. */
static void say_free(const char *row, long left, double patience)
{
	double start = now_ms();

	while (tables() > left) {
		usleep(1000);
		if (now_ms() - start > patience) {
			printf("%s never\n", row);
			return;
		}
	}
	printf("%s %.1f\n", row, now_ms() - start);
}

static void walk(int nr)
{
	char *base, *p = map_tables(nr, &base);
	long before = tables(), left;

	/* Small pages: a read would map the huge zero page. */
	if (madvise(p, nr * TABLE, MADV_NOHUGEPAGE))
		err(1, "MADV_NOHUGEPAGE");
	for (int i = 0; i < nr; i++)
		*(volatile char *)(p + i * TABLE);
	if (tables() < before + nr)
		errx(1, "not so many tables");
	left = tables() - 1;
	dontneed(p + nr / 2 * TABLE, PAGE);
	say_free("walk_one", left, NEVER);
	for (int i = 0; i < nr; i++)
		dontneed(p + i * TABLE, PAGE);
	/* The upper tables stay. */
	say_free("walk_all", before + nr / (long)(TABLE / PAGE) + 8, 10 * NEVER);
	unmap_tables(nr, base);
}

/* -1 on stock */
static long switches(void)
{
	return figure("/proc/vmstat", "pte_ref_switch");
}

int main(int argc, char **argv)
{
	int rounds = argc > 1 ? atoi(argv[1]) : 0;
	int percpu = argc > 2 && !strcmp(argv[2], "percpu");
	int pages = percpu ? PAGES : 1;
	int fd = percpu ? cached_file(PAGES * PAGE) : -1;
	int others = 0;
	double most = 0;
	pthread_t thread;

	if (rounds < 1)
		errx(1, "usage: latency ROUNDS [percpu|beside], latency TABLES walk");
	if (argc > 2 && !strcmp(argv[2], "beside")) {
		beside(rounds);
		return 0;
	}
	if (argc > 2 && !strcmp(argv[2], "walk")) {
		walk(rounds * 4 * KB / PAGE);
		return 0;
	}
	if (percpu && pthread_create(&thread, NULL, wait_for_ever, NULL))
		errx(1, "no second thread");
	for (int n = 0; n < rounds; n++) {
		char *base, *p = map_tables(2, &base);
		long with, mine, switched = switches();
		double start, took;

		/* A neighbour, so that no upper table goes. */
		touch(p + TABLE);
		if (percpu && mmap(p, PAGES * PAGE, PROT_READ | PROT_WRITE,
				   MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED)
			err(1, "mmap of the file");
		for (int i = 0; i < pages; i++) {
			if (!percpu) {
				touch(p + i * PAGE);
				continue;
			}
			run_on(i & 1);
			if (madvise(p + i * PAGE, PAGE, MADV_POPULATE_WRITE))
				err(1, "MADV_POPULATE_WRITE");
		}
		usleep(300000);
		with = tables();
		mine = figure("/proc/self/status", "VmPTE");
		for (int i = 1; i < pages; i++)
			dontneed(p + i * PAGE, PAGE);
		start = now_ms();
		dontneed(p, PAGE);
		do {
			usleep(1000);
			took = now_ms() - start;
		} while (tables() >= with && took <= NEVER);
		if (took > NEVER) {
			/* Or another process has got one since: once more. */
			if (figure("/proc/self/status", "VmPTE") >= mine || ++others > 3) {
				puts("never");
				return 0;
			}
			unmap_tables(2, base);
			n--;
			continue;
		}
		if (percpu && switched >= 0 && switches() == switched)
			errx(1, "holders of the table were not counted per CPU");
		if (took > most)
			most = took;
		unmap_tables(2, base);
	}
	printf("%.1f\n", most);
	return 0;
}
