// SPDX-License-Identifier: GPL-2.0
/*
 * latency ROUNDS [percpu]
 *
 * Milliseconds from the madvise() that empties a PTE table to its memory being
 * free: the most of all rounds, or "never".  With percpu, faults of GUP that ask a file,
 * in a process of two threads, change the CPU first: pte_ref then counts users per CPU.
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

static void *wait_for_ever(void *unused)
{
	for (;;)
		pause();
	return unused;
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
	int pages = percpu ? 512 : 1;
	int fd = percpu ? cached_file(TABLE) : -1;
	double most = 0;
	pthread_t thread;

	if (rounds < 1)
		errx(1, "usage: latency ROUNDS [percpu]");
	if (percpu && pthread_create(&thread, NULL, wait_for_ever, NULL))
		errx(1, "no second thread");
	for (int n = 0; n < rounds; n++) {
		char *base, *p = map_tables(2, &base);
		long with, switched = switches();
		double start, took;

		/* A neighbour, so that no upper table goes. */
		touch(p + TABLE);
		if (percpu && mmap(p, TABLE, PROT_READ | PROT_WRITE,
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
		for (int i = 1; i < pages; i++)
			dontneed(p + i * PAGE, PAGE);
		start = now_ms();
		dontneed(p, PAGE);
		do {
			usleep(1000);
			took = now_ms() - start;
			if (took > NEVER) {
				puts("never");
				return 0;
			}
		} while (tables() >= with);
		took = now_ms() - start;
		if (percpu && switched >= 0 && switches() == switched)
			errx(1, "users of the table were not counted per CPU");
		if (took > most)
			most = took;
		unmap_tables(2, base);
	}
	printf("%.1f\n", most);
	return 0;
}
