// SPDX-License-Identifier: GPL-2.0
/*
 * loop GIB PIECE_KIB CSV
 *
 * The loop of the original report: map GIB of memory, touch it in chunks of
 * 2 MiB (one PTE table each), and give each chunk back with MADV_DONTNEED
 * before the next, in pieces of PIECE_KIB. The memory stays mapped.
 *
 * These are sizes for pages of 4 KiB. Where pages and tables are larger, as many
 * tables are filled, with as many pages each, in a range that is as much larger.
 *
 * CSV gets progress from 0 to 1, seconds and VmPTE in kB, also for one second
 * after the last chunk, since tables may be freed a little later. Then the
 * highest VmPTE is printed and the process stays, to be looked at, until stdin
 * ends.
 */
#include <sys/mman.h>
#include "status.h"

#define PAGES	512	/* touched in each chunk */
#define SAMPLES	200

static FILE *csv;
static long top;

static void sample(double progress, double start)
{
	long kb = status_kb("self", "VmPTE:");

	if (kb > top)
		top = kb;
	fprintf(csv, "%.4f,%.3f,%ld\n", progress, now() - start, kb);
}

int main(int argc, char **argv)
{
	size_t page = page_size(), chunk = page * (page / 8), larger = chunk >> 21;
	size_t size, piece, off, o, step;
	double start, end;
	char *mem;

	if (argc != 4)
		errx(1, "usage: loop GIB PIECE_KIB CSV");
	size = (strtoul(argv[1], NULL, 10) << 30) * larger;
	piece = (strtoul(argv[2], NULL, 10) << 10) * larger;
	if (!size || !piece || chunk % piece)
		errx(1, "GIB is at least 1, PIECE_KIB divides 2048");
	csv = fopen(argv[3], "w");
	if (!csv)
		err(1, "%s", argv[3]);

	mem = mmap(NULL, size + chunk, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (mem == MAP_FAILED)
		err(1, "mmap");
	mem = (char *)(((unsigned long)mem + chunk - 1) & ~(chunk - 1));
	if (madvise(mem, size, MADV_NOHUGEPAGE))
		warn("no huge pages to turn off");

	/* A sample every few chunks, at least after each one. */
	step = size / chunk / SAMPLES * chunk;
	if (!step)
		step = chunk;
	start = now();
	for (off = 0; off < size; off += chunk) {
		if (off % step == 0)
			sample((double)off / (double)size, start);
		for (o = 0; o < chunk; o += chunk / PAGES)
			mem[off + o] = 1;
		for (o = 0; o < chunk; o += piece) {
			if (madvise(mem + off + o, piece, MADV_DONTNEED))
				err(1, "madvise");
		}
	}
	for (end = now(); now() - end < 1; sleep_ms(20))
		sample(1, start);
	if (fclose(csv))
		err(1, "%s", argv[3]);

	printf("%ld\n", top);
	fflush(stdout);
	while (getchar() != EOF)
		;
	return 0;
}
