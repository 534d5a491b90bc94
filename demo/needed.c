// SPDX-License-Identifier: GPL-2.0
/*
 * needed PID
 *
 * Print how many PTE tables the process needs, how many upper tables (PMD and PUD)
 * above them, and how many upper tables its mappings have room for, which is what
 * they keep once all of their memory was touched. Nothing is taken from pte_ref or
 * from VmPTE: a PTE table is needed where /proc/PID/pagemap shows at least one entry
 * of its 2 MiB that is present, swapped out or a marker.
 */
#include <fcntl.h>
#include <stdbool.h>
#include <unistd.h>
#include "status.h"

#define PAGE		4096UL
#define ENTRIES		512UL
#define PTE_SPAN	(PAGE * ENTRIES)
#define PMD_SPAN	(PTE_SPAN * ENTRIES)
#define PUD_SPAN	(PMD_SPAN * ENTRIES)

/* Present, swapped, guard marker, uffd-wp: see pagemap.rst. */
#define POPULATED	(1UL << 63 | 1UL << 62 | 1UL << 58 | 1UL << 57)

static bool populated(int pagemap, unsigned long start, unsigned long end)
{
	unsigned long entry[ENTRIES];
	size_t len = (end - start) / PAGE * sizeof(*entry), i;
	off_t pos = (off_t)(start / PAGE * sizeof(*entry));

	if (pread(pagemap, entry, len, pos) != (ssize_t)len)
		err(1, "pagemap at %lx", start);
	for (i = 0; i < len / sizeof(*entry); i++) {
		if (entry[i] & POPULATED)
			return true;
	}
	return false;
}

int main(int argc, char **argv)
{
	unsigned long start, end, next, last[3] = { -1UL, -1UL, -1UL };
	unsigned long last_room[3] = { -1UL, -1UL, -1UL }, room[3] = { 0 };
	unsigned long span[3] = { PTE_SPAN, PMD_SPAN, PUD_SPAN };
	unsigned long tables[3] = { 0 };
	char path[64], line[512];
	int pagemap, i;
	FILE *maps;

	if (argc != 2)
		errx(1, "usage: needed PID");
	snprintf(path, sizeof(path), "/proc/%s/pagemap", argv[1]);
	pagemap = open(path, O_RDONLY);
	snprintf(path, sizeof(path), "/proc/%s/maps", argv[1]);
	maps = fopen(path, "r");
	if (pagemap < 0 || !maps)
		err(1, "process %s", argv[1]);

	while (fgets(line, sizeof(line), maps)) {
		if (strstr(line, "[vsyscall]") ||
		    sscanf(line, "%lx-%lx", &start, &end) != 2)
			continue;
		for (; start < end; start = next) {
			next = (start / PTE_SPAN + 1) * PTE_SPAN;
			if (next > end)
				next = end;
			/* VMAs are in order: compare with the last. */
			for (i = 0; i < 3; i++) {
				if (start / span[i] != last_room[i])
					room[i]++;
				last_room[i] = start / span[i];
			}
			if (!populated(pagemap, start, next))
				continue;
			for (i = 0; i < 3; i++) {
				if (start / span[i] != last[i])
					tables[i]++;
				last[i] = start / span[i];
			}
		}
	}
	printf("%lu %lu %lu\n", tables[0], tables[1] + tables[2], room[1] + room[2]);
	return 0;
}
