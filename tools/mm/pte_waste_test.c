// SPDX-License-Identifier: GPL-2.0
/*
 * pte_waste_test PTE_WASTE: makes tables of each kind, and compares what pte_waste
 * says of this process with what it knows of itself.  Prints TAP.
 *
 * pte_waste_test PTE_WASTE predict: gives memory back in several ways, waits as long
 * as tables are freed, and prints a line for each: its name, VMAs, tables that VmPTE
 * has more than before, tables that pte_waste says can be given back, at least and at
 * most.  A kernel with pte_ref and one without are compared by these lines.
 *
 * As the first process of a machine, with pte_waste beside it in an initramfs, it does
 * both and ends the machine: for kernels that have nothing else.
 *
 * Counts are differences to a measurement before, and so concern the mapping of the
 * case alone.  The program allocates nothing meanwhile.
 *
 * With larger pages a table maps much more, and cases take as many tables and as many
 * pages of each as with 4 KiB, where a table has 512 pages: "piece" is a 512th of a table.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/perf_event.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/reboot.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT		21
#endif
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL	102
#endif
#ifndef UFFD_FEATURE_WP_UNPOPULATED
#define UFFD_FEATURE_WP_UNPOPULATED	0x2000
#endif
#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE	0x100000
#endif

#define ARRAY_SIZE(a)	(sizeof(a) / sizeof((a)[0]))
#define GIB		0x40000000UL

/* An address that only the largest address spaces have. */
#ifdef __aarch64__
#define HIGHEST		"52_bits"
#define HIGH_ADDRESS	0xc000000000000UL
#else
#define HIGHEST		"57_bits"
#define HIGH_ADDRESS	0xf0000000000000UL
#endif

static size_t page, piece, span, upper;
static const char *tool;
static bool pte_ref;
static char output[1 << 20];

/* What pte_waste says of a process, in tables. */
struct counts {
	long vmpte, needed, waste, back_min, back_max;
	long pte, zero, sparse, deposit, pmd, pud;
	bool zero_known;
};

/*
 * Runs pte_waste with arguments up to NULL.  Output and errors are in output. Returns
 * the exit status.
 */
static int run(const char *arg, ...)
{
	const char *argv[16] = { tool };
	int fd[2], status, nr = 1;
	size_t len = 0;
	va_list ap;
	ssize_t n;
	pid_t pid;

	va_start(ap, arg);
	for (; arg && nr < (int)ARRAY_SIZE(argv) - 1; arg = va_arg(ap, const char *))
		argv[nr++] = arg;
	va_end(ap);
	if (pipe(fd))
		err(1, "pipe");
	pid = fork();
	if (!pid) {
		dup2(fd[1], STDOUT_FILENO);
		dup2(fd[1], STDERR_FILENO);
		close(fd[0]);
		close(fd[1]);
		execv(tool, (char *const *)argv);
		_exit(127);
	}
	close(fd[1]);
	while ((n = read(fd[0], output + len, sizeof(output) - 1 - len)) > 0)
		len += (size_t)n;
	output[len] = '\0';
	close(fd[0]);
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		err(1, "%s", tool);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* A figure of the first object that has the key. */
static long json(const char *key)
{
	char pattern[64], *s;

	snprintf(pattern, sizeof(pattern), "\"%s\": ", key);
	s = strstr(output, pattern);
	if (!s)
		errx(1, "no %s in what pte_waste says: %s", key, output);
	return strtol(s + strlen(pattern), NULL, 10);
}

static void measure_pid(pid_t pid, const char *option, struct counts *c)
{
	long kb = (long)page / 1024;
	char arg[16];

	snprintf(arg, sizeof(arg), "%d", pid);
	if (run("-q", "--json", "-p", arg, option, NULL))
		errx(1, "pte_waste failed: %s", output);
	c->vmpte = json("vmpte_kb") / kb;
	c->needed = json("needed_kb") / kb;
	c->waste = json("waste_kb") / kb;
	c->back_min = json("back_min_kb") / kb;
	c->back_max = json("back_max_kb") / kb;
	c->pte = json("pte");
	c->zero = json("zero");
	c->sparse = json("sparse");
	c->deposit = json("thp_deposited");
	c->pmd = json("pmd");
	c->pud = json("pud");
	c->zero_known = strstr(output, "\"zero_known\": true");
}

static const char *method;	/* NULL or --no-scan */
static struct counts base;

static void before(void)
{
	measure_pid(getpid(), method, &base);
}

/* What came since before(). */
static struct counts since(void)
{
	struct counts c;

	measure_pid(getpid(), method, &c);
	c.vmpte -= base.vmpte;
	c.needed -= base.needed;
	c.waste -= base.waste;
	c.back_min -= base.back_min;
	c.back_max -= base.back_max;
	c.pte -= base.pte;
	c.zero -= base.zero;
	c.sparse -= base.sparse;
	c.deposit -= base.deposit;
	c.pmd -= base.pmd;
	c.pud -= base.pud;
	return c;
}

static long vmpte(void)
{
	char line[256];
	long kb = -1;
	FILE *f = fopen("/proc/self/status", "r");

	while (f && kb < 0 && fgets(line, sizeof(line), f)) {
		if (!strncmp(line, "VmPTE:", 6))
			kb = strtol(line + 6, NULL, 10);
	}
	if (f)
		fclose(f);
	return kb * 1024 / (long)page;
}

/* With pte_ref: until VmPTE is that, or has not changed for long. */
static void settle(long wanted)
{
	struct timespec ts = { 0, 20000000 };
	long last = -1, tables;
	int same;

	for (same = 0; pte_ref && same < 250; same++) {
		tables = vmpte();
		if (tables <= wanted)
			break;
		if (tables != last)
			same = 0;
		last = tables;
		nanosleep(&ts, NULL);
	}
}

/* ---- results ---- */

static int tests, failures;
static const char *current;
static bool wrong;

#define EXPECT(right, ...) do {							\
	if (!(right)) {								\
		wrong = true;							\
		printf("# %s%s: ", current, method ? " (pagemap)" : "");	\
		printf(__VA_ARGS__);						\
		putchar('\n');							\
	}									\
} while (0)

#define EQUAL(what, value, wanted) do {						\
	long v_ = (value), w_ = (wanted);					\
	EXPECT(v_ == w_, "%s is %ld, not %ld", what, v_, w_);			\
} while (0)

static void result(const char *skip)
{
	tests++;
	if (skip)
		printf("ok %d %s%s # SKIP %s\n", tests, current, method ? ".pagemap" : "", skip);
	else
		printf("%sok %d %s%s\n", wrong ? "not " : "", tests, current,
		       method ? ".pagemap" : "");
	failures += !skip && wrong;
	wrong = false;
	fflush(stdout);
}

/* ---- memory ---- */

/* A mapping that starts and ends where PMD tables do, so that it shares none. */
static char *map_at(size_t len, int prot, int flags, int fd, uintptr_t align)
{
	size_t room = (len + align - 1) / align * align + 2 * align;
	char *p, *start;

	p = mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED)
		err(1, "mmap of %zu", room);
	start = (char *)(((uintptr_t)p + align) / align * align);
	munmap(p, room);
	p = mmap(start, len, prot, flags | MAP_FIXED_NOREPLACE, fd, 0);
	if (p != start)
		err(1, "mmap of %zu at %p", len, start);
	return p;
}

static char *map(size_t len)
{
	char *p = map_at(len, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, upper);

	madvise(p, len, MADV_NOHUGEPAGE);
	return p;
}

static void touch(char *p, size_t len, size_t step)
{
	size_t i;

	for (i = 0; i < len; i += step)
		p[i] = 1;
}

int seen;		/* not static: else nothing would have to be read */

static void look(const char *p, size_t len, size_t step)
{
	size_t i;

	for (i = 0; i < len; i += step)
		seen += p[i];
}

/* Piece by piece: stock frees a table if one madvise() covers all of it. */
static void give_back(char *p, size_t len, size_t step)
{
	size_t i;

	for (i = 0; i < len; i += step) {
		if (madvise(p + i, step, MADV_DONTNEED))
			err(1, "MADV_DONTNEED");
	}
}

static bool figure_of(const char *file, const char *key, long *value)
{
	char line[512];
	bool found = false;
	FILE *f = fopen(file, "r");

	while (f && !found && fgets(line, sizeof(line), f)) {
		if (strncmp(line, key, strlen(key)))
			continue;
		*value = strtol(line + strlen(key), NULL, 10);
		found = true;
	}
	if (f)
		fclose(f);
	return found;
}

/* ---- cases: each returns why it is skipped, or NULL ---- */

static const char *full_tables(void)
{
	char *p = map(8 * span);
	struct counts c;

	before();
	/* Between the pieces the zero page. */
	if (piece > page)
		look(p, 8 * span, page);
	touch(p, 8 * span, piece);
	c = since();
	EQUAL("pte", c.pte, 8);
	EQUAL("waste", c.waste, 0);
	EQUAL("sparse", c.sparse, 0);
	EQUAL("upper tables", c.pmd + c.pud, c.vmpte - 8);
	munmap(p, 8 * span);
	return NULL;
}

static const char *empty_tables(void)
{
	const long nr = 24;
	char *p = map((nr + 1) * span);
	struct counts c;

	before();
	touch(p, (nr + 1) * span, piece * 8);
	give_back(p, nr * span, piece);
	settle(base.vmpte + 2);
	c = since();
	EQUAL("pte", c.pte, 1);
	EQUAL("waste", c.waste, pte_ref ? 0 : nr);
	/* The PMD table is in use by the last table: nothing is in doubt. */
	EQUAL("back_min", c.back_min, pte_ref ? 0 : nr);
	EQUAL("back_max", c.back_max, pte_ref ? 0 : nr);
	munmap(p, (nr + 1) * span);
	return NULL;
}

/* Where nothing is left, the PMD table is empty as well, and not given back. */
static const char *all_empty(void)
{
	const long nr = 24;
	char *p = map(nr * span);
	struct counts c;
	long uppers;

	before();
	touch(p, nr * span, span);
	c = since();
	uppers = c.vmpte - nr;
	give_back(p, nr * span, piece);
	settle(base.vmpte + uppers);
	c = since();
	EQUAL("waste", c.waste, pte_ref ? uppers : nr + uppers);
	EXPECT(c.back_min <= (pte_ref ? 0 : nr) && c.back_min >= (pte_ref ? 0 : nr - 1),
	       "back_min is %ld", c.back_min);
	EXPECT(c.back_max >= (pte_ref ? 0 : nr) && c.back_max <= (pte_ref ? uppers : nr + 1),
	       "back_max is %ld", c.back_max);
	munmap(p, nr * span);
	return NULL;
}

static const char *zero_tables(void)
{
	char *p = map(7 * span);
	struct counts c;

	before();
	look(p, 5 * span, piece * 3);
	/* One page of memory, and it is no longer a table of the zero page. */
	look(p + 5 * span, 2 * span, piece);
	touch(p + 5 * span, 2 * span, span);
	c = since();
	EQUAL("pte", c.pte, 7);
	EQUAL("zero", c.zero, c.zero_known ? 5 : 0);
	EQUAL("waste", c.waste, 0);
	munmap(p, 7 * span);
	return NULL;
}

static const char *sparse_tables(void)
{
	char *p = map(8 * span);
	size_t most = span / page / 16, i;
	struct counts c;

	before();
	for (i = 0; i < 6; i++)
		touch(p + i * span + page * i, most * page - page * i, page);
	for (; i < 8; i++)
		touch(p + i * span, (most + 1) * page, page);
	c = since();
	EQUAL("pte", c.pte, 8);
	EQUAL("sparse", c.sparse, 6);
	EQUAL("waste", c.waste, 0);
	munmap(p, 8 * span);
	return NULL;
}

static const char *huge_pages(void)
{
	/* One of 512 MiB is much. */
	const long nr = span < GIB / 2 ? 4 : 1;
	char *p = map((nr + 1) * span);
	struct counts c;
	long kb = 0;
	bool have;

	before();
	if (madvise(p, nr * span, MADV_HUGEPAGE)) {
		munmap(p, (nr + 1) * span);
		return "no transparent huge pages";
	}
	touch(p, (nr + 1) * span, span);
	have = figure_of("/proc/self/smaps_rollup", "AnonHugePages:", &kb) &&
		kb * 1024 == nr * (long)span;
	if (have) {
		c = since();
		EQUAL("deposited", c.deposit, nr);
		EQUAL("pte", c.pte, 1);
		EQUAL("waste", c.waste, 0);
		/* A part is given back: the deposited table is used, and stays full. */
		give_back(p, page, page);
		c = since();
		EQUAL("deposited after a split", c.deposit, nr - 1);
		EQUAL("pte after a split", c.pte, 2);
		EQUAL("waste after a split", c.waste, 0);
	}
	munmap(p, (nr + 1) * span);
	return have ? NULL : "no huge page was to be had";
}

static const char *huge_zero_page(void)
{
	char *p = map(3 * span);
	struct counts c;
	long on = 0;

	figure_of("/sys/kernel/mm/transparent_hugepage/use_zero_page", "", &on);
	if (!on || madvise(p, 2 * span, MADV_HUGEPAGE)) {
		munmap(p, 3 * span);
		return "no huge zero page";
	}
	before();
	look(p, 2 * span, piece);
	touch(p + 2 * span, page, page);
	c = since();
	/* Deposited or of small pages: a table each. */
	EQUAL("pte and deposited", c.pte + c.deposit, 3);
	EQUAL("waste", c.waste, 0);
	munmap(p, 3 * span);
	return NULL;
}

static const char *hugetlb_pages(void)
{
	struct counts c;
	long pages = 0, kb = 0, nr;
	char *p;

	if (!figure_of("/proc/meminfo", "HugePages_Free:", &pages) || !pages)
		return "no free hugetlb pages";
	if (!figure_of("/proc/meminfo", "Hugepagesize:", &kb) || kb * 1024 != (long)span)
		return "hugetlb pages are not of the size of a table";
	nr = pages < 3 ? pages : 3;
	p = map_at(nr * span, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB,
		   -1, upper);
	before();
	touch(p, nr * span, span);
	c = since();
	EQUAL("pte", c.pte, 0);
	EQUAL("deposited", c.deposit, 0);
	EQUAL("waste", c.waste, 0);
	EQUAL("upper tables", c.pmd + c.pud, c.vmpte);
	EXPECT(c.pmd == (upper > span), "pmd is %ld", c.pmd);
	munmap(p, nr * span);
	return NULL;
}

static const char *swapped_out(void)
{
	char *p = map(4 * span);
	size_t len = 16 * page;
	struct counts c;
	long kb = 0;
	int i;

	before();
	for (i = 0; i < 4; i++) {
		touch(p + i * span, len, page);
		madvise(p + i * span, len, MADV_PAGEOUT);
	}
	figure_of("/proc/self/smaps_rollup", "Swap:", &kb);
	if (kb * 1024 < 4 * (long)len) {
		munmap(p, 4 * span);
		return "nothing is swapped out";
	}
	c = since();
	EQUAL("pte", c.pte, 4);
	EQUAL("sparse", c.sparse, 4);
	EQUAL("waste", c.waste, 0);
	munmap(p, 4 * span);
	return NULL;
}

static const char *guards(void)
{
	char *p = map(6 * span);
	struct counts c;
	int i, error = 0;

	before();
	for (i = 0; i < 5 && !error; i++)
		error = madvise(p + i * span, 4 * page, MADV_GUARD_INSTALL);
	if (!error) {
		c = since();
		EQUAL("pte", c.pte, 5);
		EQUAL("zero", c.zero, 0);
		EQUAL("waste", c.waste, 0);
	}
	munmap(p, 6 * span);
	return error ? "no guard markers" : NULL;
}

static const char *shared_and_file(void)
{
	struct counts c;
	char *shared, *file;
	int fd;

	fd = memfd_create("pte_waste_test", 0);
	if (fd < 0 || ftruncate(fd, (off_t)(6 * span)))
		err(1, "memfd");
	shared = map_at(5 * span, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, upper);
	file = map_at(6 * span, PROT_READ | PROT_WRITE, MAP_SHARED, fd, upper);
	madvise(shared, 5 * span, MADV_NOHUGEPAGE);
	madvise(file, 6 * span, MADV_NOHUGEPAGE);
	before();
	touch(shared, 5 * span, span);
	touch(file, 6 * span, span / 2);
	c = since();
	EQUAL("pte", c.pte, 11);
	EQUAL("deposited", c.deposit, 0);
	EQUAL("waste", c.waste, 0);
	/* Truncated: the entries of all but the first two tables go. */
	touch(file, 6 * span, piece);
	if (ftruncate(fd, (off_t)(2 * span)))
		err(1, "truncate");
	settle(base.vmpte + c.vmpte - 4);
	c = since();
	EQUAL("pte after truncation", c.pte, 7);
	EQUAL("waste after truncation", c.waste, pte_ref ? 0 : 4);
	munmap(shared, 5 * span);
	munmap(file, 6 * span);
	close(fd);
	return NULL;
}

static const char *uffd_wp(void)
{
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_UNPOPULATED,
	};
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_WP };
	struct uffdio_writeprotect wp = { .mode = UFFDIO_WRITEPROTECT_MODE_WP };
	const char *skip = NULL;
	struct counts c;
	char *p;
	int fd;

	fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
	if (fd < 0)
		return "no userfaultfd";
	p = map(6 * span);
	reg.range.start = (uintptr_t)p;
	reg.range.len = 6 * span;
	wp.range.start = (uintptr_t)p;
	wp.range.len = 3 * span;
	before();
	if (ioctl(fd, UFFDIO_API, &api) || ioctl(fd, UFFDIO_REGISTER, &reg)) {
		skip = "no write protection of unpopulated memory";
	} else {
		/* Markers in three tables, nothing in the fourth. */
		if (ioctl(fd, UFFDIO_WRITEPROTECT, &wp))
			err(1, "UFFDIO_WRITEPROTECT");
		touch(p + 4 * span, 2 * span, span);
		c = since();
		EQUAL("pte", c.pte, 5);
		EQUAL("waste", c.waste, 0);
	}
	munmap(p, 6 * span);
	close(fd);
	return skip;
}

static const char *at_address(uintptr_t where)
{
	struct counts c;
	char *p;

	p = mmap((void *)where, 4 * span, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p != (char *)where) {
		if (p != MAP_FAILED)
			munmap(p, 4 * span);
		return "no such addresses";
	}
	madvise(p, 4 * span, MADV_NOHUGEPAGE);
	before();
	touch(p, 4 * span, span);
	give_back(p, 2 * span, piece);
	settle(base.vmpte + 4);
	c = since();
	EQUAL("pte", c.pte, 2);
	EQUAL("waste", c.waste, pte_ref ? 0 : 2);
	EQUAL("upper tables", c.pmd + c.pud, c.vmpte - c.waste - 2);
	munmap(p, 4 * span);
	return NULL;
}

/* Apart from stack and libraries: nothing else needs its upper tables. */
static const char *bits_47(void)
{
	return at_address(0x600000000000UL);
}

static const char *highest(void)
{
	return at_address(HIGH_ADDRESS);
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* The same 512 pages again and again: 2 MiB of memory are enough, with pages of 4 KiB. */
static const char *many_tables(void)
{
	const size_t len = 512 * page, nr = 8000 * len / span;
	struct counts c;
	double start;
	char *p, *q;
	size_t i;
	int fd;

	fd = memfd_create("pte_waste_test", 0);
	if (fd < 0 || ftruncate(fd, (off_t)len))
		err(1, "memfd");
	p = map(nr * span);
	before();
	for (i = 0; i < nr * span / len; i++) {
		q = mmap(p + i * len, len, PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_FIXED | MAP_POPULATE, fd, 0);
		if (q == MAP_FAILED)
			err(1, "mapping %zu", i);
	}
	start = now();
	c = since();
	printf("# %zu full tables in %.3f s\n", nr, now() - start);
	EQUAL("pte", c.pte, (long)nr);
	EQUAL("waste", c.waste, 0);
	EQUAL("upper tables", c.pmd + c.pud, c.vmpte - (long)nr);
	munmap(p, nr * span);
	close(fd);
	return NULL;
}

static const char *sparse_tebibyte(void)
{
	double start;
	size_t len = 1024 * GIB;
	struct counts c;
	char *p;

	p = mmap(NULL, len, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED)
		return "no mapping of 1 TiB";
	madvise(p, len, MADV_NOHUGEPAGE);
	before();
	touch(p, len, len / 8);
	start = now();
	c = since();
	printf("# 1 TiB in %.3f s\n", now() - start);
	EQUAL("pte", c.pte, 8);
	EQUAL("waste", c.waste, 0);
	EQUAL("upper tables", c.pmd + c.pud, c.vmpte - 8);
	munmap(p, len);
	return NULL;
}

/* Entries that recent kernels hide (VM_PFNMAP): nothing is promised for their table. */
static const char *hidden_entries(void)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_SOFTWARE,
		.size = sizeof(attr),
		.config = PERF_COUNT_SW_DUMMY,
		.exclude_kernel = 1,
	};
	const char *skip = NULL;
	struct counts c;
	char *p, *q;
	int fd;

	fd = (int)syscall(SYS_perf_event_open, &attr, 0, -1, -1, 0);
	if (fd < 0)
		return "no perf events";
	p = map(span);
	before();
	q = mmap(p, 3 * page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
	if (q == p) {
		look(p, 3 * page, page);
		c = since();
		printf("# entries of perf are %s\n", c.pte ? "shown" : "hidden");
		EXPECT(c.vmpte > 0, "no table");
		EXPECT(c.pte <= 1, "pte is %ld", c.pte);
		EQUAL("back_min", c.back_min, 0);
		if (c.pte)
			EQUAL("waste", c.waste, 0);
	} else {
		skip = "no mapping of perf events";
	}
	munmap(p, span);
	close(fd);
	return skip;
}

/* Two mappings end and start in one table. */
static const char *shared_table(void)
{
	char *p = map(2 * span);
	struct counts c;

	if (mprotect(p + span / 2, span, PROT_READ))
		err(1, "mprotect");
	before();
	touch(p, span / 2, piece);
	look(p + span / 2, span, piece);
	c = since();
	EQUAL("pte", c.pte, 2);
	EQUAL("zero", c.zero, c.zero_known ? 1 : 0);
	EQUAL("waste", c.waste, 0);
	munmap(p, 2 * span);
	return NULL;
}

/* ---- nothing is disturbed ---- */

static uint64_t pagemap_of(const char *p)
{
	uint64_t entry = 0;
	int fd = open("/proc/self/pagemap", O_RDONLY);

	if (fd < 0 || pread(fd, &entry, sizeof(entry),
			    (off_t)((uintptr_t)p / page * sizeof(entry))) != sizeof(entry))
		err(1, "pagemap");
	close(fd);
	return entry;
}

static const char *nothing_faulted(void)
{
	char *p = map(4 * span);
	unsigned char in_core[1];
	long rss, rss_after;
	uint64_t entry[2];
	struct counts c;
	size_t i;

	touch(p, 2 * span, piece * 2);
	/* fork() write-protects and clears; soft-dirty bits are set by writes. */
	before();
	entry[0] = pagemap_of(p);
	entry[1] = pagemap_of(p + page);
	figure_of("/proc/self/status", "RssAnon:", &rss);
	c = since();
	figure_of("/proc/self/status", "RssAnon:", &rss_after);
	EQUAL("entry of a page", (long)(pagemap_of(p) ^ entry[0]), 0);
	EQUAL("entry of no page", (long)(pagemap_of(p + page) ^ entry[1]), 0);
	EQUAL("RssAnon", rss_after, rss);
	EQUAL("VmPTE", c.vmpte, 0);
	for (i = 2 * span; i < 4 * span; i += page) {
		if (!mincore(p + i, page, in_core) && in_core[0] & 1)
			break;
	}
	EQUAL("pages of the untouched part", (long)(i / page), (long)(4 * span / page));
	munmap(p, 4 * span);
	return NULL;
}

/* Idle page tracking sees the accessed bit that pte_waste would set or clear. */
static const char *not_accessed(void)
{
	const uint64_t pfn_mask = (1ULL << 55) - 1;
	char *p = map(span);
	uint64_t pfn, bits;
	struct counts c;
	int fd;

	touch(p, page, page);
	pfn = pagemap_of(p) & pfn_mask;
	fd = open("/sys/kernel/mm/page_idle/bitmap", O_RDWR);
	if (fd < 0 || !pfn) {
		munmap(p, span);
		if (fd >= 0)
			close(fd);
		return "no idle page tracking, or not root";
	}
	/* A page enters the lists that are tracked when these are drained. */
	madvise(p, page, MADV_COLD);
	before();
	bits = 1ULL << pfn % 64;
	if (pwrite(fd, &bits, sizeof(bits), (off_t)(pfn / 64 * 8)) != sizeof(bits))
		err(1, "page_idle");
	if (pread(fd, &bits, sizeof(bits), (off_t)(pfn / 64 * 8)) != sizeof(bits))
		err(1, "page_idle");
	if (!(bits >> pfn % 64 & 1)) {
		munmap(p, span);
		close(fd);
		return "the page is not tracked";
	}
	c = since();
	EQUAL("VmPTE", c.vmpte, 0);
	if (pread(fd, &bits, sizeof(bits), (off_t)(pfn / 64 * 8)) != sizeof(bits))
		err(1, "page_idle");
	EXPECT(bits >> pfn % 64 & 1, "the page counts as accessed");
	munmap(p, span);
	close(fd);
	return NULL;
}

/* ---- processes ---- */

static const char *gone_process(void)
{
	char arg[16];
	pid_t pid;

	pid = fork();
	if (!pid)
		_exit(0);
	snprintf(arg, sizeof(arg), "%d", pid);
	/* A zombie, then nothing. */
	while (waitid(P_PID, (id_t)pid, &(siginfo_t){ 0 }, WEXITED | WNOWAIT))
		;
	EQUAL("status for a zombie", run("-p", arg, NULL), 1);
	EXPECT(strstr(output, "has no memory"), "no reason for a zombie: %s", output);
	waitpid(pid, NULL, 0);
	EQUAL("status for no process", run("-p", arg, NULL), 1);
	EXPECT(strstr(output, "no such process"), "no reason: %s", output);
	return NULL;
}

/* Processes that start, change and exit all the time: lines, no crash. */
static const char *busy_processes(void)
{
	pid_t pid, child;
	int i, status;
	char *p;

	pid = fork();
	if (!pid) {
		for (;;) {
			child = fork();
			if (!child) {
				p = map(8 * span);
				touch(p, 8 * span, piece * 32);
				munmap(p, 4 * span);
				_exit(0);
			}
			waitpid(child, NULL, 0);
		}
	}
	for (i = 0; i < 20 && !wrong; i++) {
		status = run("-q", NULL);
		EXPECT(!status, "status %d: %s", status, output);
		EXPECT(strstr(output, "total"), "no total: %s", output);
	}
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	return NULL;
}

static int sleeper(void *unused)
{
	(void)unused;
	for (;;)
		pause();
	return 0;
}

static const char *shared_mm(void)
{
	char self[16], other[16];
	static char stack[65536];
	const char *skip = NULL;
	pid_t pid;

	if (syscall(SYS_kcmp, getpid(), getpid(), 1, 0, 0))
		return "no kcmp()";
	pid = clone(sleeper, stack + sizeof(stack), CLONE_VM | SIGCHLD, NULL);
	if (pid < 0)
		err(1, "clone");
	snprintf(self, sizeof(self), "%d", getpid());
	snprintf(other, sizeof(other), "%d", pid);
	run("-p", self, "-p", other, NULL);
	EXPECT(strstr(output, "Page tables of 1 process,"), "both are counted: %s", output);
	EXPECT(strstr(output, "share the memory"), "not said: %s", output);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	/* A fork looks the same, and is another memory. */
	pid = fork();
	if (!pid)
		sleeper(NULL);
	snprintf(other, sizeof(other), "%d", pid);
	run("-p", self, "-p", other, NULL);
	EXPECT(strstr(output, "Page tables of 2 processes,"), "a fork is not counted: %s", output);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	return skip;
}

static const char *no_permission(void)
{
	char arg[16];
	int status;
	pid_t pid;

	if (geteuid())
		return "not root";
	snprintf(arg, sizeof(arg), "%d", getpid());
	pid = fork();
	if (!pid) {
		if (setgroups(0, NULL) || setgid(65534) || setuid(65534))
			_exit(100);
		status = run("-p", arg, NULL);
		if (!strstr(output, "permission denied") || !strstr(output, arg)) {
			printf("# no reason: %s\n", output);
			fflush(stdout);
			_exit(101);
		}
		/* It may read itself. */
		if (run("-p", "self", NULL))
			_exit(102);
		_exit(status);
	}
	waitpid(pid, &status, 0);
	EQUAL("status", WEXITSTATUS(status), 1);
	return NULL;
}

static const char *wrong_usage(void)
{
	static const char * const bad[][3] = {
		{ "-p", "0" }, { "-p", "x" }, { "--sparse", "0" }, { "--nonsense" }, { "word" },
		{ "--watch=0" },
	};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(bad); i++)
		EQUAL(bad[i][0], run(bad[i][0], bad[i][1], NULL), 2);
	EQUAL("status of --help", run("--help", NULL), 0);
	EQUAL("status of --cgroup --histogram", run("-cH", NULL), 0);
	EXPECT(strstr(output, "CGROUP") && strstr(output, "entries per PTE table"),
	       "no cgroup or histogram: %s", output);
	EXPECT(!strchr(output, '\033'), "colours in a pipe");
	return NULL;
}

/* ---- prediction ---- */

/* Figures of what was mapped since before(), with what VmPTE comes to. */
static void predicted(const char *name, int vmas, long kept)
{
	struct counts c;

	settle(base.vmpte + kept);
	c = since();
	printf("predict %s %d %ld %ld %ld\n", name, vmas, c.vmpte, c.back_min, c.back_max);
	fflush(stdout);
}

static void predict(void)
{
	/* 32 pages in each of them are to fit into memory. */
	const size_t nr = page > 16384 ? 128 : 512;
	const size_t len = nr * span, third = len / 8, big = 3 * upper;
	unsigned int seed = 1;
	size_t i, step;
	char *p[4];
	int fd;

	p[0] = map(len);
	before();
	touch(p[0], len, piece * 16);
	give_back(p[0], len, piece * 16);
	predicted("pieces", 1, 2);
	munmap(p[0], len);

	/* One page of each eighth table stays. */
	p[0] = map(len);
	before();
	touch(p[0], len, piece * 16);
	for (i = 0; i < len; i += piece * 16) {
		if (i % (8 * span))
			give_back(p[0] + i, piece * 16, piece * 16);
	}
	predicted("an_eighth", 1, (long)nr / 8 + 2);
	munmap(p[0], len);

	/* In any order, from three mappings. */
	before();
	for (i = 0; i < 3; i++) {
		p[i] = map(third);
		touch(p[i], third, piece * 16);
		/* Apart, so that they are not one mapping. */
		mprotect(p[i], page, PROT_READ);
	}
	for (i = 0; i < 40000 * nr / 512; i++) {
		seed = seed * 1103515245 + 12345;
		give_back(p[seed >> 8 & 1] + (seed >> 9) % (third / piece) * piece, piece, piece);
	}
	give_back(p[2], third, piece);
	predicted("three_mappings", 6, 0);
	for (i = 0; i < 3; i++)
		munmap(p[i], third);

	/* Tables in three PMD tables: as much as can be in doubt. */
	p[0] = map(big);
	before();
	step = upper > span ? upper / 512 : span;
	touch(p[0], big, step);
	for (i = 0; i < big; i += step)
		give_back(p[0] + i, span, span / 8);
	predicted("three_PMD_tables", 1, 4);
	munmap(p[0], big);

	fd = memfd_create("pte_waste_test", 0);
	if (fd < 0 || ftruncate(fd, (off_t)len))
		err(1, "memfd");
	p[0] = map_at(len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, upper);
	before();
	touch(p[0], len, span);
	if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)len / 2))
		err(1, "hole");
	predicted("hole", 1, (long)nr / 2 + 2);
	munmap(p[0], len);
	close(fd);
}

/* ---- */

static const struct {
	const char *name;
	const char *(*run)(void);
	bool once;		/* does not depend on how entries are read */
} cases[] = {
	{ "full_tables", full_tables, false },
	{ "empty_tables", empty_tables, false },
	{ "all_empty", all_empty, false },
	{ "zero_tables", zero_tables, false },
	{ "sparse_tables", sparse_tables, false },
	{ "huge_pages", huge_pages, false },
	{ "huge_zero_page", huge_zero_page, false },
	{ "hugetlb", hugetlb_pages, false },
	{ "swapped_out", swapped_out, false },
	{ "guards", guards, false },
	{ "shared_and_file", shared_and_file, false },
	{ "uffd_wp", uffd_wp, false },
	{ "47_bits", bits_47, false },
	{ HIGHEST, highest, false },
	{ "sparse_tebibyte", sparse_tebibyte, false },
	{ "many_tables", many_tables, false },
	{ "hidden_entries", hidden_entries, false },
	{ "shared_table", shared_table, false },
	{ "nothing_faulted", nothing_faulted, false },
	{ "not_accessed", not_accessed, false },
	{ "gone_process", gone_process, true },
	{ "busy_processes", busy_processes, true },
	{ "shared_mm", shared_mm, true },
	{ "no_permission", no_permission, true },
	{ "usage", wrong_usage, true },
};

static int run_self(const char *what)
{
	pid_t pid = fork();
	int status = 1;

	if (!pid) {
		execl("/init", "pte_waste_test", "/pte_waste", what, NULL);
		_exit(127);
	}
	/* The first process is the parent of all that lost theirs. */
	while (pid > 0 && waitpid(-1, &status, 0) != pid)
		;
	return status;
}

static void first_process(void)
{
	long nr = 8, total = 0, kb = 0;
	FILE *f;

	mkdir("/proc", 0755);
	mkdir("/sys", 0755);
	if (mount("proc", "/proc", "proc", 0, NULL) || mount("sysfs", "/sys", "sysfs", 0, NULL))
		err(1, "mount");
	/* Of 2 MiB; of larger ones a quarter of memory at most. */
	if (figure_of("/proc/meminfo", "MemTotal:", &total) &&
	    figure_of("/proc/meminfo", "Hugepagesize:", &kb) && kb > 0 && total / 4 / kb < nr)
		nr = total / 4 / kb;
	f = fopen("/proc/sys/vm/nr_hugepages", "w");
	if (f) {
		fprintf(f, "%ld\n", nr);
		fclose(f);
	}
	printf("# status %d\n", run_self(NULL) | run_self("predict"));
	fflush(stdout);
	reboot(RB_POWER_OFF);
}

int main(int argc, char **argv)
{
	size_t i, round, nr = 0;
	int old;

	if (getpid() == 1)
		first_process();
	if (argc < 2 || argc > 3)
		errx(2, "usage: pte_waste_test PTE_WASTE [predict]");
	/* Where addresses are random, one upper table more or less is in use. */
	old = personality(0xffffffff);
	if (old >= 0 && !(old & ADDR_NO_RANDOMIZE) && personality(old | ADDR_NO_RANDOMIZE) >= 0)
		execv("/proc/self/exe", argv);
	tool = argv[1];
	page = (size_t)sysconf(_SC_PAGESIZE);
	span = page * page / 8;
	piece = span / 512;
	upper = span * page / 8;
	/* With two levels there are no PMD tables. */
	if ((uintptr_t)&old < upper)
		upper = span;
	/* What the measuring itself uses is there before the first one. */
	memset(output, 1, sizeof(output));
	before();
	since();
	pte_ref = strstr(output, "\"pte_ref\": true");
	if (argc == 3) {
		predict();
		return 0;
	}
	for (i = 0; i < ARRAY_SIZE(cases); i++)
		nr += 2 - cases[i].once;
	printf("TAP version 13\n1..%zu\n", nr);
	for (round = 0; round < 2; round++) {
		method = round ? "--no-scan" : NULL;
		for (i = 0; i < ARRAY_SIZE(cases); i++) {
			if (round && cases[i].once)
				continue;
			current = cases[i].name;
			result(cases[i].run());
		}
	}
	return failures > 0;
}
