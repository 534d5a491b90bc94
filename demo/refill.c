// SPDX-License-Identifier: GPL-2.0
/*
 * refill [advise]
 *
 * Touch 256 MiB of fresh memory, where huge pages may be had (with "advise" it asks for
 * them), give it back in pieces of 64 KiB, then touch one page in each 2 MiB: what an
 * allocator does that gives back a lot and needs a little again.
 *
 * Prints VmRSS, AnonHugePages and VmPTE in kB when the memory was touched, when it was
 * given back, and in the end. Then the process stays, to be looked at, until stdin ends.
 */
#include <string.h>
#include <sys/mman.h>
#include "status.h"

#define TABLE	(2UL << 20)
#define SIZE	(256UL << 20)
#define PIECE	(64UL << 10)
#define PAGE	4096UL

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
	size_t off;
	char *mem;

	if (argc > 2 || (argc == 2 && strcmp(argv[1], "advise")))
		errx(1, "usage: refill [advise]");
	mem = mmap(NULL, SIZE + TABLE, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (mem == MAP_FAILED)
		err(1, "mmap");
	mem = (char *)(((unsigned long)mem + TABLE - 1) & ~(TABLE - 1));
	if (argc == 2 && madvise(mem, SIZE, MADV_HUGEPAGE))
		err(1, "MADV_HUGEPAGE");

	for (off = 0; off < SIZE; off += PAGE)
		mem[off] = 1;
	say();
	for (off = 0; off < SIZE; off += PIECE) {
		if (madvise(mem + off, PIECE, MADV_DONTNEED))
			err(1, "MADV_DONTNEED");
	}
	/* Tables may be freed a little later. */
	sleep_ms(1000);
	say();
	for (off = 0; off < SIZE; off += TABLE)
		mem[off] = 1;
	say();
	putchar('\n');
	fflush(stdout);
	while (getchar() != EOF)
		;
	return 0;
}
