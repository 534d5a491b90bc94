// SPDX-License-Identifier: GPL-2.0
/*
 * sample PID CSV: write seconds, VmPTE and VmRSS in kB of a process to CSV, ten
 * times a second, until it is gone.
 */
#include "status.h"

int main(int argc, char **argv)
{
	double start = now();
	long pte, rss;
	FILE *csv;

	if (argc != 3)
		errx(1, "usage: sample PID CSV");
	csv = fopen(argv[2], "w");
	if (!csv)
		err(1, "%s", argv[2]);
	for (;;) {
		pte = status_kb(argv[1], "VmPTE:");
		rss = status_kb(argv[1], "VmRSS:");
		if (pte < 0 || rss < 0)
			break;
		fprintf(csv, "%.3f,%ld,%ld\n", now() - start, pte, rss);
		sleep_ms(100);
	}
	if (fclose(csv))
		err(1, "%s", argv[2]);
	return 0;
}
