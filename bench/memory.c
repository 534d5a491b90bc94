// SPDX-License-Identifier: GPL-2.0
/*
 * Bytes of bookkeeping that each of 20,000 live PTE tables has, used by one CPU:
 * what Slab and Percpu of /proc/meminfo grow by.  Where pages are large the tables have
 * the zero page, to leave the memory to them.
 */
#include "bench.h"

#define TABLES	20000

static long bookkeeping(void)
{
	/* Percpu deltas of the counters, folded into what is shown. */
	FILE *f = fopen("/proc/sys/vm/stat_refresh", "w");

	if (!f || fputs("1\n", f) < 0 || fclose(f))
		err(1, "stat_refresh");
	return figure("/proc/meminfo", "Slab") + figure("/proc/meminfo", "Percpu");
}

int main(void)
{
	char *base, *p;
	long before;

	run_on(0);
	p = map_tables(TABLES, &base);
	before = bookkeeping();
	for (int i = 0; i < TABLES; i++) {
		if (PAGE > 4 * KB)
			(void)*(volatile char *)(p + i * TABLE);
		else
			touch(p + i * TABLE);
	}
	printf("%.1f\n", (double)(bookkeeping() - before) * KB / TABLES);
	return 0;
}
