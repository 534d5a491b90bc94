// SPDX-License-Identifier: GPL-2.0
/*
 * needed PID
 *
 * Print how many PTE tables the process needs, how many upper tables (PMD and PUD)
 * above them, and how many upper tables its mappings have room for, which is what
 * they keep once all of their memory was touched. Nothing is taken from pte_ref or
 * from VmPTE: a PTE table is needed where /proc/PID/pagemap shows at least one entry
 * of what it maps (2 MiB with pages of 4 KiB) that is present, swapped out or a marker.
 */
#include <fcntl.h>
#include <stdbool.h>
#include <sys/mman.h>
#include "status.h"

static unsigned long page, entries;
static int levels;		/* of tables below the topmost one, 3 at most */

/* Present, swapped, guard marker, uffd-wp: see pagemap.rst. */
#define POPULATED	(1UL << 63 | 1UL << 62 | 1UL << 58 | 1UL << 57)

/*
 * The levels follow from the size of the address space, at whose end the stack is, but on
 * arm64 with 52 bits.
 */
static void find_levels(void)
{
	unsigned long top = (unsigned long)&top, span;
	void *high = mmap((void *)(1UL << 51), page, PROT_NONE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (high != MAP_FAILED && (unsigned long)high > top)
		top = (unsigned long)high;
	for (span = page * entries; levels < 3 && top / span; levels++)
		span *= entries;
}

static bool populated(int pagemap, unsigned long start, unsigned long end)
{
	static unsigned long entry[65536 / sizeof(long)];	/* of the largest pages */
	size_t len = (end - start) / page * sizeof(*entry), i;
	off_t pos = (off_t)(start / page * sizeof(*entry));

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
	unsigned long span[3], tables[3] = { 0 };
	char path[64], line[512];
	int pagemap, i;
	FILE *maps;

	if (argc != 2)
		errx(1, "usage: needed PID");
	page = page_size();
	entries = page / sizeof(long);
	for (i = 0; i < 3; i++)
		span[i] = (i ? span[i - 1] : page) * entries;
	find_levels();
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
			next = (start / span[0] + 1) * span[0];
			if (next > end)
				next = end;
			/* VMAs are in order: compare with the last. */
			for (i = 0; i < levels; i++) {
				if (start / span[i] != last_room[i])
					room[i]++;
				last_room[i] = start / span[i];
			}
			if (!populated(pagemap, start, next))
				continue;
			for (i = 0; i < levels; i++) {
				if (start / span[i] != last[i])
					tables[i]++;
				last[i] = start / span[i];
			}
		}
	}
	printf("%lu %lu %lu\n", tables[0], tables[1] + tables[2], room[1] + room[2]);
	return 0;
}
