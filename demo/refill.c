// SPDX-License-Identifier: GPL-2.0
/*
 * refill [advise]
 *
 * Touch 256 MiB of fresh memory, where huge pages may be had (with "advise" it asks for
 * them), give it back in pieces of 64 KiB, then touch one page in each 2 MiB: what an
 * allocator does that gives back a lot and needs a little again. If pages have more than
 * 4 KiB a table, and a huge page, has more than 2 MiB: then it is one page in each table,
 * and so much memory that there are two of them at least.
 *
 * Prints VmRSS, AnonHugePages and VmPTE in kB when the memory was touched, when it was
 * given back, and in the end. Then the process stays, to be looked at, until stdin ends.
 */
#include <string.h>
#include <sys/mman.h>
#include "status.h"

#define SIZE	(256UL << 20)
#define PIECE	(64UL << 10)

/* Of the whole process, from a file that has it after "KEY:". */
static long kb_of(const char *file, const char *key)
{
	char line[128];
	long kb = -1;
	FILE *f = fopen(file, "r");

	if (!f)
		err(1, "%s", file);
	while (fgets(line, sizeof(line), f)) {
		if (!strncmp(line, key, strlen(key)))
			kb = strtol(line + strlen(key), NULL, 10);
	}
	fclose(f);
	return kb;
}

static void say(void)
{
	printf("%ld %ld %ld ", status_kb("self", "VmRSS:"),
	       kb_of("/proc/self/smaps_rollup", "AnonHugePages:"),
	       status_kb("self", "VmPTE:"));
}

int main(int argc, char **argv)
{
	size_t page = page_size(), table = page * (page / 8), off;
	size_t size = SIZE < 2 * table ? 2 * table : SIZE;
	char *mem;

	if (argc > 2 || (argc == 2 && strcmp(argv[1], "advise")))
		errx(1, "usage: refill [advise]");
	mem = mmap(NULL, size + table, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (mem == MAP_FAILED)
		err(1, "mmap");
	mem = (char *)(((unsigned long)mem + table - 1) & ~(table - 1));
	if (argc == 2 && madvise(mem, size, MADV_HUGEPAGE))
		err(1, "MADV_HUGEPAGE");

	for (off = 0; off < size; off += page)
		mem[off] = 1;
	say();
	for (off = 0; off < size; off += PIECE) {
		if (madvise(mem + off, PIECE, MADV_DONTNEED))
			err(1, "MADV_DONTNEED");
	}
	/* Tables may be freed a little later. */
	sleep_ms(1000);
	say();
	for (off = 0; off < size; off += table)
		mem[off] = 1;
	say();
	putchar('\n');
	fflush(stdout);
	while (getchar() != EOF)
		;
	return 0;
}
