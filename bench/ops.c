// SPDX-License-Identifier: GPL-2.0
/*
 * ops [-r N] [ROW...]: instructions per operation, for a guest in which the counter of
 * the CPU (count()) counts executed instructions (QEMU TCG with -icount shift=0; on arm64
 * also -cpu max,cntfrq=1000000000).
 * Without a row: all of them.  -r N: N times the rounds, for perf.
 *
 * Prints one line per row: its name and the least that it took in some rounds.
 * The least, since an interrupt can only add.
 */
#include "bench.h"

#ifdef __x86_64__
#include <cpuid.h>
#include <x86intrin.h>
#endif
#include <errno.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#define TABLES		64
#define CALLS		100000
#define ROUNDS		5
#define GROUP		10
#define GROUP_PAGES	100
#define THREAD_TABLES	16

/* <mm/gup_test.h> of the kernel */
struct gup_test {
	uint64_t get_delta_usec, put_delta_usec, addr, size;
	uint32_t nr_pages_per_call, gup_flags, test_flags, which_pages[8];
};
#define GUP_FAST_BENCHMARK	_IOWR('g', 1, struct gup_test)
#define GUP_BASIC_TEST		_IOWR('g', 4, struct gup_test)

/* <linux/userfaultfd.h> since 6.8 */
#ifndef UFFDIO_MOVE
#define UFFD_FEATURE_MOVE	(1 << 16)
struct uffdio_move {
	uint64_t dst, src, len, mode;
	int64_t move;
};
#define UFFDIO_MOVE		_IOWR(0xAA, 5, struct uffdio_move)
#endif

static char *base, *area;	/* TABLES tables of anonymous memory */
static char *file;		/* PAGES of a file, but one */
static uint64_t *shared;	/* seen by children */
static uint64_t began;		/* a row may move its own start */
static int times = 1;

#if defined(__x86_64__)

static inline uint64_t count(void)
{
	return __rdtsc();
}

/* Lets QEMU run another CPU. */
static inline void pause_cpu(void)
{
	_mm_pause();
}

/* As clear_page() does: by bytes if the CPU is said to be good at it. */
static __attribute__((noinline)) void clear(void *p, size_t len)
{
	static int bytes = -1;
	size_t words = len / 8;

	if (bytes < 0) {
		unsigned int a, b = 0, c, d;

		__get_cpuid_count(7, 0, &a, &b, &c, &d);
		bytes = b >> 9 & 1;	/* ERMS */
	}
	if (bytes)
		asm volatile("rep stosb" : "+D" (p), "+c" (len) :
			     "a" (0L) : "memory");
	else
		asm volatile("rep stosq" : "+D" (p), "+c" (words) :
			     "a" (0L) : "memory");
}

#elif defined(__aarch64__)

/* Not before what stands before it is done, nor after what follows has begun. */
static inline uint64_t count(void)
{
	uint64_t ticks;

	asm volatile("isb\n\tmrs %0, cntvct_el0\n\tisb" : "=r" (ticks) : : "memory");
	return ticks;
}

static inline void pause_cpu(void)
{
	asm volatile("yield" : : : "memory");
}

/* As clear_page() does without FEAT_MOPS: by blocks unless the CPU forbids that. */
static __attribute__((noinline)) void clear(char *p, size_t len)
{
	char *end = p + len;
	uint64_t id;
	size_t block;

	asm volatile("mrs %0, dczid_el0" : "=r" (id));
	if (id & 16) {
		for (; p < end; p += 16)
			asm volatile("stp xzr, xzr, [%0]" : : "r" (p) : "memory");
		return;
	}
	block = 4UL << (id & 15);
	for (; p < end; p += block)
		asm volatile("dc zva, %0" : : "r" (p) : "memory");
}

#else
#error "no counter for this architecture"
#endif

static char *table(int i)
{
	return area + i * TABLE;
}

/* A fresh mapping, since only munmap() frees the tables on every kernel. */
static void fresh(void)
{
	if (base)
		unmap_tables(TABLES, base);
	area = map_tables(TABLES, &base);
}

static void keep_one(void)
{
	fresh();
	touch(table(0));
}

static void touch_tables(int nr)
{
	for (int i = 0; i < nr; i++)
		touch(table(i));
}

static void touch_ten(void)
{
	fresh();
	touch_tables(10);
}

static void touch_all(void)
{
	fresh();
	touch_tables(TABLES);
}

static void set_fault_around(size_t pages)
{
	const char *path = "/sys/kernel/debug/fault_around_bytes";
	FILE *f = fopen(path, "w");

	if (!f || fprintf(f, "%zu", pages * PAGE) < 0 || fclose(f))
		err(1, "%s (is debugfs mounted?)", path);
}

/* The file at a place where a table is there already. */
static void map_file(int flags)
{
	static int fd = -1;

	if (fd < 0)
		fd = cached_file(PAGES * PAGE);
	keep_one();
	file = mmap(table(0) + PAGE, (PAGES - 1) * PAGE, PROT_READ | PROT_WRITE,
		    flags | MAP_FIXED, fd, 0);
	if (file == MAP_FAILED)
		err(1, "mmap of the file");
}

static void file_private(void)
{
	set_fault_around(1);
	map_file(MAP_PRIVATE);
}

static void file_shared(void)
{
	map_file(MAP_SHARED);
}

static void file_around(void)
{
	set_fault_around(16);
	map_file(MAP_PRIVATE);
}

static void first_touch(void)
{
	touch_tables(TABLES);
}

static void fault_anon(void)
{
	touch_pages(table(0) + PAGE, TABLES * PAGE);
}

static void fault_file(void)
{
	touch_pages(file, TABLES * PAGE);
}

static void read_pages(char *p, size_t nr, size_t step)
{
	for (size_t i = 0; i < nr; i++)
		(void)*(volatile char *)(p + i * step);
}

static void fault_zero(void)
{
	read_pages(table(0) + PAGE, TABLES, PAGE);
}

static void fault_file_read(void)
{
	read_pages(file, TABLES, PAGE);
}

/* One fault in 16 pages, which maps the others as well. */
static void fault_file_around(void)
{
	read_pages(file + 15 * PAGE, TABLES / 4, 16 * PAGE);
}

static void touch_and_zap(char *p, int nr)
{
	for (int i = 0; i < nr; i++) {
		touch(p);
		dontneed(p, PAGE);
	}
}

static void zap_busy(void)
{
	touch_and_zap(table(0) + PAGE, TABLES);
}

static void zap_empty(void)
{
	touch_and_zap(table(1), TABLES);
}

/* So long that what is deferred falls into the count. */
static void zap_empty_long(void)
{
	touch_and_zap(table(1), 200 * TABLES);
}

static void table_life(void)
{
	for (int i = 0; i < 200; i++)
		touch_all();
}

static void zap_table(void)
{
	touch_pages(table(1), PAGES * PAGE);
	dontneed(table(1), TABLE);
}

static void unmap(void)
{
	unmap_tables(TABLES, base);
	base = NULL;
}

static void fork_exit(void)
{
	fork_wait(0);
}

static void exec(void)
{
	fork_wait(1);
}

static void munmap_populated(size_t len)
{
	char *p = map(len, MAP_PRIVATE | MAP_ANONYMOUS, -1);

	touch_pages(p, len);
	began = count();
	munmap(p, len);
}

/* From the child's exit to the return of wait(). */
static void exit_populated(size_t len)
{
	pid_t pid = fork();

	if (!pid) {
		touch_pages(map(len, MAP_PRIVATE | MAP_ANONYMOUS, -1), len);
		*shared = count();
		_exit(0);
	}
	if (pid < 0 || waitpid(pid, NULL, 0) != pid)
		err(1, "fork");
	began = *shared;
}

static void munmap_1g(void)
{
	munmap_populated(1024 * MB);
}

static void munmap_256m(void)
{
	munmap_populated(256 * MB);
}

static void exit_1g(void)
{
	exit_populated(1024 * MB);
}

static void exit_256m(void)
{
	exit_populated(256 * MB);
}

static void gup(unsigned long cmd, size_t pages)
{
	static int fd = -1;
	struct gup_test args = {
		.addr = (uintptr_t)table(0),
		.size = pages * PAGE,
		.nr_pages_per_call = pages,
		.gup_flags = 1,	/* FOLL_WRITE */
	};

	if (fd < 0)
		fd = open("/sys/kernel/debug/gup_test", O_RDWR);
	if (fd < 0 || ioctl(fd, cmd, &args))
		err(1, "gup_test (is debugfs mounted?)");
	if (args.size != pages * PAGE)
		errx(1, "gup_test: got %lu pages, not %zu",
		     (unsigned long)args.size / PAGE, pages);
}

/*
 * By difference to one page, without what the call costs.  GUP_BASIC_TEST is
 * get_user_pages(); both put each page again, which is in the figure.
 */
static void gup_pages(unsigned long cmd)
{
	uint64_t one;

	began = count();
	gup(cmd, 1);
	one = count() - began;
	began = count() + one;
	gup(cmd, PAGES);
}

static void populate(void)
{
	fresh();
	touch_pages(table(0), PAGES * PAGE);
}

static void gup_slow(void)
{
	gup_pages(GUP_BASIC_TEST);
}

static void gup_fast(void)
{
	gup_pages(GUP_FAST_BENCHMARK);
}

/* From here on a child counts; it has until _exit(). */
static void child_begins(void)
{
	*shared = count();
}

static void child_ends(void)
{
	shared[1] = count() - *shared;
	_exit(0);
}

static pid_t new_child(void)
{
	pid_t pid = fork();

	if (pid < 0)
		err(1, "fork");
	return pid;
}

static void wait_child(pid_t pid)
{
	if (waitpid(pid, NULL, 0) != pid)
		err(1, "waitpid");
	began = count() - shared[1];
}

/* A child writes to the only page of each table: the entry goes and comes. */
static void cow_one(void)
{
	pid_t pid = new_child();

	if (!pid) {
		child_begins();
		touch_tables(TABLES);
		child_ends();
	}
	wait_child(pid);
}

/* A child gives back its copy, as a server does that writes a snapshot. */
static void child_pages(void)
{
	pid_t pid = new_child();

	if (!pid) {
		child_begins();
		for (int i = 0; i < (int)PAGES; i++)
			dontneed(table(0) + i * PAGE, PAGE);
		child_ends();
	}
	wait_child(pid);
}

static void protect(char *p, size_t len, int prot)
{
	if (mprotect(p, len, prot))
		err(1, "mprotect");
}

static void mprotect_one(void)
{
	protect(area, TABLES * TABLE, PROT_READ);
	protect(area, TABLES * TABLE, PROT_READ | PROT_WRITE);
}

static void mprotect_all(void)
{
	protect(table(0), PAGES * PAGE, PROT_READ);
	protect(table(0), PAGES * PAGE, PROT_READ | PROT_WRITE);
}

/* Is the first page of each table swapped out?  Bit 62 of pagemap says so. */
static int swapped_out(void)
{
	int fd = open("/proc/self/pagemap", O_RDONLY), all = 1;
	uint64_t entry;

	for (int i = 0; i < TABLES; i++) {
		if (pread(fd, &entry, sizeof(entry),
			  (uintptr_t)table(i) / PAGE * sizeof(entry)) != sizeof(entry))
			err(1, "/proc/self/pagemap");
		all &= entry >> 62;
	}
	close(fd);
	return all;
}

/* A round in which a page was busy, and stayed, is not the least. */
static void swap_one(void)
{
	uint64_t took;

	if (madvise(area, TABLES * TABLE, MADV_PAGEOUT))
		err(1, "MADV_PAGEOUT");
	took = count() - began;
	began = swapped_out() ? count() - took : 0;
}

static void huge_allowed(void)
{
	fresh();
	if (madvise(area, TABLES * TABLE, MADV_HUGEPAGE))
		err(1, "MADV_HUGEPAGE");
}

static long faults(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return usage.ru_minflt;
}

/* The huge zero page: a huge one of our own is cleared, which would hide the rest. */
static void fault_huge(void)
{
	uint64_t took;
	long before;

	for (int i = 0; i < TABLES; i++)
		*(volatile char *)table(i);
	took = count() - began;
	before = faults();
	for (int i = 0; i < TABLES; i++)
		*(volatile char *)(table(i) + PAGE);
	began = faults() - before < TABLES / 2 ? count() - took : 0;
}

/* Single pages of a range that is in use are mapped anew, in no order. */
static void map_fixed(void)
{
	for (int i = 0; i < (int)PAGES; i++) {
		char *p = table(0) + i * 173 % (int)PAGES * PAGE;

		if (mmap(p, PAGE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != p)
			err(1, "mmap");
	}
}

/* As allocators do with what they were asked for and got back: 40 pages. */
static void zap_160k(void)
{
	for (int i = 0; i < TABLES; i++) {
		char *p = area + i * 40 * PAGE;

		touch_pages(p, 40 * PAGE);
		dontneed(p, 40 * PAGE);
	}
}

static void purged(void)
{
	touch_all();
	for (int i = 0; i < TABLES; i++)
		dontneed(table(i), PAGE);
	usleep(200000);
}

/* One table full of pages is moved into another, by one call. */
static int uffd = -1;

static void uffd_ready(void)
{
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_MOVE };
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };

	populate();
	if (uffd >= 0)
		close(uffd);
	uffd = syscall(__NR_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
	reg.range.start = (uintptr_t)table(2);
	reg.range.len = PAGES * PAGE;
	if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api) || ioctl(uffd, UFFDIO_REGISTER, &reg))
		err(1, "userfaultfd");
}

static void uffd_move(void)
{
	struct uffdio_move move = {
		.dst = (uintptr_t)table(2),
		.src = (uintptr_t)table(0),
		.len = PAGES * PAGE,
	};

	if (ioctl(uffd, UFFDIO_MOVE, &move))
		err(1, "UFFDIO_MOVE");
}

static pthread_barrier_t barrier;
static int one_table;
static char *filled;	/* THREAD_TABLES tables */

/*
 * QEMU runs the other CPU after each pause, so the two take turns.  With one_table
 * they fill each table together, else each fills every other one.
 */
static void *fill_half(void *arg)
{
	size_t id = (uintptr_t)arg;
	size_t pages = one_table ? 2 : 1, tables = one_table ? 1 : 2;

	run_on(id);
	pthread_barrier_wait(&barrier);
	for (size_t t = one_table ? 0 : id; t < THREAD_TABLES; t += tables) {
		for (size_t i = one_table ? id : 0; i < PAGES; i += pages) {
			touch(filled + t * TABLE + i * PAGE);
			pause_cpu();
		}
	}
	return NULL;
}

static void fill_by_two(void)
{
	pthread_t thread[2];

	pthread_barrier_init(&barrier, NULL, 3);
	for (uintptr_t i = 0; i < 2; i++) {
		errno = pthread_create(&thread[i], NULL, fill_half, (void *)i);
		if (errno)
			err(1, "pthread_create");
	}
	/* Both are at the barrier. */
	usleep(50000);
	began = count();
	pthread_barrier_wait(&barrier);
	for (int i = 0; i < 2; i++)
		pthread_join(thread[i], NULL);
	pthread_barrier_destroy(&barrier);
}

static void threads_one(void)
{
	filled = area;
	one_table = 1;
	fill_by_two();
}

static void threads_many(void)
{
	filled = area;
	one_table = 0;
	fill_by_two();
}

static void big_file_shared(void)
{
	static int fd = -1;

	if (fd < 0)
		fd = cached_file(THREAD_TABLES * PAGES * PAGE);
	fresh();
	filled = area;
	for (int i = 0; i < THREAD_TABLES; i++)
		if (mmap(table(i), PAGES * PAGE, PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_FIXED, fd, i * PAGES * PAGE) == MAP_FAILED)
			err(1, "mmap of the file");
}

static void threads_file(void)
{
	one_table = 1;
	fill_by_two();
}

/* In a process of two threads a fault that is not of user mode holds its table. */
static void file_of_two(void)
{
	static pthread_t thread;

	if (!thread && pthread_create(&thread, NULL, wait_for_ever, NULL))
		errx(1, "no second thread");
	big_file_shared();
}

static void threads_gup(void)
{
	if (madvise(filled, PAGES * PAGE, MADV_POPULATE_WRITE))
		err(1, "MADV_POPULATE_WRITE");
}

#define MOVES	128	/* of CPU, before pte_ref counts holders per CPU */

static void file_percpu(void)
{
	file_of_two();
	for (int i = 0; i < MOVES; i++) {
		run_on(i & 1);
		if (madvise(filled + i * PAGE, PAGE, MADV_POPULATE_WRITE))
			err(1, "MADV_POPULATE_WRITE");
	}
	run_on(0);
}

static void threads_gup_percpu(void)
{
	long switched = figure("/proc/vmstat", "pte_ref_switch");
	uint64_t took;

	began = count();
	if (madvise(filled + MOVES * PAGE, (PAGES - MOVES) * PAGE, MADV_POPULATE_WRITE))
		err(1, "MADV_POPULATE_WRITE");
	took = count() - began;
	/* That was in percpu mode if a zap now switches it. */
	dontneed(filled, PAGES * PAGE);
	if (switched >= 0 && figure("/proc/vmstat", "pte_ref_switch") == switched)
		errx(1, "holders of the table were not counted per CPU");
	began = count() - took;
}

/*
 * What clearing a page has in each figure, by difference to clearing nothing, so
 * without what reading the counter costs.
 */
static void clear_page(void)
{
	uint64_t none;

	clear(table(0), 0);
	began = count();
	clear(table(0), 0);
	none = count() - began;
	began = count() + none;
	clear(table(0), PAGE);
}

static const struct row {
	const char *name;
	void (*prepare)(void);
	void (*run)(void);
	int ops, rounds;
} rows[] = {
	{ "clear_page",		keep_one,	clear_page,	1, 7 },
	{ "fault_anon",		keep_one,	fault_anon,	TABLES, 7 },
	{ "fault_file",		file_private,	fault_file,	TABLES, 7 },
	{ "fault_file_read",	file_private,	fault_file_read, TABLES, 7 },
	{ "fault_file_around",	file_around,	fault_file_around, TABLES / 4, 7 },
	{ "fault_shared",	file_shared,	fault_file,	TABLES, 7 },
	{ "fault_zero",		keep_one,	fault_zero,	TABLES, 7 },
	{ "first_touch",	fresh,		first_touch,	TABLES, 40 },
	{ "zap_busy",		keep_one,	zap_busy,	TABLES, 7 },
	{ "zap_empty",		keep_one,	zap_empty,	TABLES, 7 },
	{ "zap_empty_long",	keep_one,	zap_empty_long,	200 * TABLES, 3 },
	{ "zap_table",		keep_one,	zap_table,	1, 40 },
	{ "munmap_tables",	touch_all,	unmap,		TABLES, 7 },
	{ "table_life",		fresh,		table_life,	200 * TABLES, 3 },
	{ "fork_exit",		touch_ten,	fork_exit,	1, 40 },
	{ "exec",		fresh,		exec,		1, 40 },
	{ "fork_purged",	purged,		fork_exit,	1, 10 },
	{ "cow_one",		touch_all,	cow_one,	TABLES, 10 },
	{ "child_pages",	populate,	child_pages,	PAGES, 7 },
	{ "mprotect_one",	touch_all,	mprotect_one,	TABLES, 7 },
	{ "mprotect_all",	populate,	mprotect_all,	PAGES, 7 },
	{ "swap_one",		touch_all,	swap_one,	TABLES, 7 },
	{ "fault_huge",		huge_allowed,	fault_huge,	TABLES, 7 },
	{ "map_fixed",		populate,	map_fixed,	PAGES, 7 },
	{ "zap_160k",		keep_one,	zap_160k,	TABLES, 7 },
	{ "uffd_move",		uffd_ready,	uffd_move,	PAGES, 7 },
	{ "gup_slow",		populate,	gup_slow,	PAGES - 1, 7 },
	{ "gup_fast",		populate,	gup_fast,	PAGES - 1, 7 },
	{ "threads_one",	fresh,		threads_one,	THREAD_TABLES * PAGES, 7 },
	{ "threads_many",	fresh,		threads_many,	THREAD_TABLES * PAGES, 7 },
	{ "threads_file",	big_file_shared, threads_file,	THREAD_TABLES * PAGES, 7 },
	{ "threads_gup",		file_of_two,	threads_gup,	PAGES, 7 },
	{ "threads_gup_percpu",	file_percpu,	threads_gup_percpu, PAGES - MOVES, 7 },
	{ "munmap_256m",	fresh,		munmap_256m,	1, 2 },
	{ "exit_256m",		fresh,		exit_256m,	1, 2 },
	{ "munmap_1g",		fresh,		munmap_1g,	1, 2 },
	{ "exit_1g",		fresh,		exit_1g,	1, 2 },
};

static void run(const struct row *row)
{
	uint64_t least = UINT64_MAX;

	for (int n = 0; n < row->rounds * times; n++) {
		uint64_t took;

		row->prepare();
		began = count();
		row->run();
		took = count() - began;
		/* Zero: the row says that this round is void. */
		if (began && took < least)
			least = took;
		/* Let what was deferred happen outside of the count. */
		usleep(50000);
	}
	if (least == UINT64_MAX) {
		fprintf(stderr, "ops: %s: skipped, no round had what it counts\n", row->name);
		return;
	}
	printf("%s %lu\n", row->name, (unsigned long)(least / row->ops));
	fflush(stdout);
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

/*
 * Groups of tables are filled, then zapped page by page, each call measured.  A call
 * in which another task was given the CPU does not count, since that can happen to
 * whatever runs there; one that waited itself does.
 */
static void zap_groups(uint64_t *took)
{
	char *b, *p = map_tables(GROUP, &b);
	struct rusage before, after;
	int calls = 0;

	for (int i = 0; calls < CALLS; i++) {
		int nr = i % (GROUP * GROUP_PAGES);
		char *page = p + nr / GROUP_PAGES * TABLE +
			nr % GROUP_PAGES * PAGE;
		uint64_t start;

		for (int t = 0; !nr && t < GROUP; t++)
			touch_pages(p + t * TABLE, GROUP_PAGES * PAGE);
		getrusage(RUSAGE_THREAD, &before);
		start = count();
		dontneed(page, PAGE);
		took[calls] = count() - start;
		getrusage(RUSAGE_THREAD, &after);
		if (after.ru_nivcsw == before.ru_nivcsw ||
		    after.ru_nvcsw != before.ru_nvcsw)
			calls++;
	}
	unmap_tables(GROUP, b);
}

/*
 * What single calls take, of which each hundredth empties a table.  Prints two rows:
 * the worst of CALLS and the 99.5 percentile, each the median of some rounds.
 *
 * Not more tables in a group: the worst call is else the one that gives thousands of
 * pages from the list of the CPU back to their zone, on either kernel.  The 99.5
 * percentile is a call that empties a table; from 99.9 on it is the timer interrupt
 * with what it runs, as callbacks of RCU.
 */
static void madvise_calls(void)
{
	uint64_t worst[ROUNDS], p995[ROUNDS];
	static uint64_t took[CALLS];

	for (int n = 0; n < ROUNDS; n++) {
		zap_groups(took);
		qsort(took, CALLS, sizeof(took[0]), compare);
		worst[n] = took[CALLS - 1];
		p995[n] = took[CALLS - CALLS / 200];
	}
	qsort(worst, ROUNDS, sizeof(worst[0]), compare);
	qsort(p995, ROUNDS, sizeof(p995[0]), compare);
	printf("madvise_worst %lu\nmadvise_p995 %lu\n",
	       (unsigned long)worst[ROUNDS / 2], (unsigned long)p995[ROUNDS / 2]);
}

int main(int argc, char **argv)
{
	size_t all = sizeof(rows) / sizeof(rows[0]);

	if (argc > 1 && !strcmp(argv[1], NOTHING))
		return 0;
	if (argc > 2 && !strcmp(argv[1], "-r")) {
		times = atoi(argv[2]);
		argc -= 2;
		argv += 2;
	}
	if (times < 1)
		errx(1, "usage: ops [-r N] [ROW...]");
	shared = (uint64_t *)map(PAGE, MAP_SHARED | MAP_ANONYMOUS, -1);
	for (size_t i = 0; argc < 2 && i < all; i++)
		run(&rows[i]);
	if (argc < 2)
		madvise_calls();
	for (int n = 1; n < argc; n++) {
		size_t i = 0;

		while (i < all && strcmp(rows[i].name, argv[n]))
			i++;
		if (i < all)
			run(&rows[i]);
		else if (!strcmp(argv[n], "madvise_worst"))
			madvise_calls();
		else if (strcmp(argv[n], "madvise_p995"))
			errx(1, "no row is called %s", argv[n]);
	}
	return 0;
}
