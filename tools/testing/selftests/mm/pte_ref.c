// SPDX-License-Identifier: GPL-2.0
/*
 * Empty user PTE tables are given back (CONFIG_FREE_USER_PTE).
 *
 * The cases of "reclaim" empty tables in each way that a zap, or what comes
 * after it, can empty them, and fail where the tables stay.  A kernel without
 * pte_ref passes "aligned" at most, and only with CONFIG_PT_RECLAIM.  The cases
 * of "data" hold on every kernel: nothing is lost, no process sees the data of
 * another one, and no system call fails while tables come and go.
 *
 * Tables are counted by VmPTE.  It counts those of the whole process and also
 * PMD tables, so each test has an area of its own, below one PMD table that is
 * there before the count starts, and everything else that it uses is mapped
 * before.
 */
#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <linux/membarrier.h>
#include <linux/mman.h>
#include <linux/userfaultfd.h>
#include <sys/auxv.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include "vm_util.h"
#include "pte_ref.h"

/* Ends what hangs, not what is slow: an emulated CPU, a debug kernel. */
#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT	1800

/*
 * Pages of a table that a test uses: all of them if pages have 4 KiB.  What is
 * named after a size in the tests is that of a table of such pages.
 */
#define PER_TABLE	512
/*
 * What is not freed on completion must be freed after that time, in milliseconds: a
 * second, or on a slow machine what it takes to touch and zap 6400 pages.
 */
static long soon_ms = 1000;
/* How long threads and processes disturb each other. */
#define STRESS_MS	1500
#define STRESS_WORKERS	4
/* Each costs a page of memory until the next boot. */
#define HUGETLB_MOVES	8
#define STACK_SIZE	(256 << 10)

struct area {
	char *pud;		/* three unused ranges of a PMD table each */
	char *start;		/* the first one; the area of most tests */
	size_t table_size;	/* bytes that a PTE table maps */
	size_t pud_size;	/* bytes that a PMD table maps */
	bool has_pmd;		/* there are PMD tables */
	size_t step;		/* distance of the pages that a test uses */
	char *anchor;		/* last table of the area: in use all the time */
	long base;		/* VmPTE, in tables, with an empty area */
	int pagemap;
	cpu_set_t cpus;		/* that the test was started with */
	int cpu[2];		/* two of them; the same if there is one only */
};

#define MAX_PTES_NONE	"/sys/kernel/mm/transparent_hugepage/khugepaged/max_ptes_none"

static long all_tables(void)
{
	return read_field("/proc/self/status", "VmPTE") * 1024 / psize();
}

static long tables(struct area *a)
{
	return all_tables() - a->base;
}

/* Bytes that the area and what is unused after it have. */
static size_t area_size(struct area *a)
{
	return a->has_pmd ? 3 * a->pud_size : a->pud_size + a->table_size;
}

/* Have the tables of the program, its libraries, heap and stack. */
static void populate_self(struct area *a)
{
	unsigned long area = (unsigned long)a->pud, area_end = area + area_size(a);
	char *line = slurp("/proc/self/maps");
	unsigned long start, end;
	char perm;

	while (line) {
		if (sscanf(line, "%lx-%lx %c", &start, &end, &perm) == 3 && perm == 'r' &&
		    (end <= area || start >= area_end))
			madvise((void *)start, end - start, MADV_POPULATE_READ);
		line = strchr(line, '\n');
		if (line)
			line++;
	}
}

/*
 * What is being emptied khugepaged would fill with zeroes again, as a huge page.  Without
 * a privilege that may happen, seldom: it looks at an address all ten seconds.
 */
static char max_ptes_none[16];
static pid_t program;

static bool write_max_ptes_none(const char *word)
{
	int fd = open(MAX_PTES_NONE, O_WRONLY | O_CLOEXEC);
	bool ok = fd >= 0 && write(fd, word, strlen(word)) > 0;

	if (fd >= 0)
		close(fd);
	return ok;
}

static void __attribute__((constructor)) keep_khugepaged_off(void)
{
	char *was = slurp(MAX_PTES_NONE);

	program = getpid();
	if (was && strlen(was) < sizeof(max_ptes_none) && write_max_ptes_none("0"))
		strcpy(max_ptes_none, was);
}

static void __attribute__((destructor)) let_khugepaged_go_on(void)
{
	if (getpid() == program && max_ptes_none[0])
		write_max_ptes_none(max_ptes_none);
}

static void measure_machine(struct __test_metadata *_metadata, struct area *a)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, i;
	char *p = mmap(a->start, a->table_size, PROT_READ | PROT_WRITE, flags, -1, 0);
	long took = now_us();

	ASSERT_NE(p, MAP_FAILED);
	madvise(p, a->table_size, MADV_NOHUGEPAGE);
	for (i = 0; i < 64; i++) {
		p[i * psize()] = 1;
		ASSERT_EQ(madvise(p + i * psize(), psize(), MADV_DONTNEED), 0);
	}
	took = now_us() - took;
	if (took / 10 > soon_ms)
		soon_ms = took / 10;
	ASSERT_EQ(mmap(p, a->table_size, PROT_NONE, flags, -1, 0), p);
}

static void area_init(struct __test_metadata *_metadata, struct area *a)
{
	size_t len, align;
	char *heap;
	int i, n = 0;

	a->table_size = table_size();
	a->pud_size = a->table_size * (psize() / sizeof(uint64_t));
	a->step = a->table_size / PER_TABLE;
	/* With two levels of tables a PMD table would map all that there is. */
	a->has_pmd = (unsigned long)&len >= a->pud_size;
	if (!a->has_pmd)
		a->pud_size = 512 * a->table_size;

	align = a->has_pmd ? a->pud_size : a->table_size;
	len = area_size(a) + align;
	a->pud = mmap(NULL, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	ASSERT_NE(a->pud, MAP_FAILED);
	a->pud = (char *)(((unsigned long)a->pud + align - 1) & ~(align - 1));
	a->start = a->pud;
	a->anchor = a->start + a->pud_size - a->table_size;
	ASSERT_EQ(mprotect(a->anchor, a->table_size, PROT_READ | PROT_WRITE), 0);
	madvise(a->anchor, a->table_size, MADV_NOHUGEPAGE);
	*a->anchor = 1;

	a->pagemap = open("/proc/self/pagemap", O_RDONLY);
	ASSERT_GE(a->pagemap, 0);

	/*
	 * One CPU, so that a table does not get percpu counters unless a test
	 * wants that, and is freed on completion of the zap.
	 */
	ASSERT_EQ(sched_getaffinity(0, sizeof(a->cpus), &a->cpus), 0);
	for (i = 0; i < CPU_SETSIZE && n < 2; i++)
		if (CPU_ISSET(i, &a->cpus))
			a->cpu[n++] = i;
	ASSERT_NE(n, 0);
	if (n == 1)
		a->cpu[1] = a->cpu[0];
	pin(a->cpu[0]);

	/* What libc is going to allocate. */
	heap = malloc(64 << 10);
	ASSERT_NE(heap, NULL);
	memset(heap, 1, 64 << 10);
	free(heap);
	measure_machine(_metadata, a);
	populate_self(a);
	all_tables();
	a->base = all_tables();
	ASSERT_GT(a->base, 0);
}

static void area_exit(struct area *a)
{
	if (a->pagemap > 0)
		close(a->pagemap);
}

static char *table(struct area *a, int nr)
{
	return a->start + nr * a->table_size;
}

static char *page(struct area *a, char *start, int nr)
{
	return start + nr * a->step;
}

/* A mapping of small pages at a place in the area. */
static char *map(char *addr, size_t len, int flags, int fd, off_t off)
{
	int prot = PROT_READ | PROT_WRITE;
	char *p;

	if (fcntl(fd, F_GETFL) != -1 && (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDONLY)
		prot = PROT_READ;
	p = mmap(addr, len, prot, flags | MAP_FIXED, fd, off);
	/* Fails without CONFIG_TRANSPARENT_HUGEPAGE, where it is not needed. */
	if (p != MAP_FAILED)
		madvise(p, len, MADV_NOHUGEPAGE);
	return p;
}

static char *map_anon(char *addr, size_t len)
{
	return map(addr, len, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
}

static int new_memfd(size_t len)
{
	int fd = memfd_create("pte_ref", MFD_CLOEXEC);

	if (fd >= 0 && ftruncate(fd, len)) {
		close(fd);
		fd = -1;
	}
	return fd;
}

static char *map_memfd(char *addr, size_t len, int fd)
{
	return map(addr, len, MAP_SHARED, fd, 0);
}

static uint64_t *last_word(void *p)
{
	return (uint64_t *)((char *)p + psize()) - 1;
}

static uint64_t pattern(char *p)
{
	return (uint64_t)(unsigned long)p ^ 0x5a5a5a5a5a5a5a5aULL;
}

static void fill(struct area *a, char *start, size_t len)
{
	char *p;

	for (p = start; p < start + len; p += a->step) {
		*(uint64_t *)p = pattern(p);
		*last_word(p) = ~pattern(p);
	}
}

/* Pages that do not have what fill() wrote when they were at @from. */
static int bad_moved_pages(struct area *a, char *start, size_t len, char *from)
{
	char *p, *old;
	int bad = 0;

	for (p = start, old = from; p < start + len; p += a->step, old += a->step)
		if (*(uint64_t *)p != pattern(old) || *last_word(p) != ~pattern(old))
			bad++;
	return bad;
}

static int bad_pages(struct area *a, char *start, size_t len)
{
	return bad_moved_pages(a, start, len, start);
}

static int nonzero_pages(struct area *a, char *start, size_t len)
{
	int bad = 0;
	char *p;

	for (p = start; p < start + len; p += a->step)
		if (FORCE_READ(*(uint64_t *)p) || *last_word(p))
			bad++;
	return bad;
}

/* Entries at such a distance with one of these bits in pagemap. */
static int count_pagemap_at(struct area *a, char *start, size_t len, size_t step, uint64_t bits)
{
	int nr = 0;
	char *p;

	for (p = start; p < start + len; p += step)
		if (pagemap_get_entry(a->pagemap, p) & bits)
			nr++;
	return nr;
}

static int count_pagemap(struct area *a, char *start, size_t len, uint64_t bits)
{
	return count_pagemap_at(a, start, len, a->step, bits);
}

/* madvise() in pieces of 1 / @parts of a table. */
static int advise_pieces(struct area *a, char *start, size_t len, int parts, int advice)
{
	size_t piece = a->table_size / parts;
	char *p;

	for (p = start; p < start + len; p += piece)
		if (madvise(p, piece, advice))
			return -1;
	return 0;
}

static int zap_pages(struct area *a, char *start, size_t len)
{
	return advise_pieces(a, start, len, PER_TABLE, MADV_DONTNEED);
}

/*
 * What scripts look for to see that a case failed because tables were kept, and
 * not for another reason: "tables kept".
 */
static void expect_tables(struct __test_metadata *_metadata, struct area *a, long left)
{
	long nr = tables(a);

	if (nr > left)
		TH_LOG("%ld tables kept", nr - left);
	ASSERT_EQ(nr, left);
}

/* The system call that emptied the tables covered them, and freed them. */
static void expect_freed(struct __test_metadata *_metadata, struct area *a, long left)
{
	expect_tables(_metadata, a, left);
}

/* They are freed by deferred work. */
static void expect_freed_soon(struct __test_metadata *_metadata, struct area *a, long left)
{
	long end = now_ms() + soon_ms;

	while (tables(a) > left && now_ms() < end)
		usleep(1000);
	expect_tables(_metadata, a, left);
}

/* MADV_PAGEOUT until no page, one in each step, is mapped; some may be in use for a while. */
static int pageout_at(struct area *a, char *start, size_t len, size_t step)
{
	long end = now_ms() + 5 * soon_ms;
	int nr;

	do {
		if (madvise(start, len, MADV_PAGEOUT))
			return -1;
		nr = count_pagemap_at(a, start, len, step, PM_PRESENT);
	} while (nr && now_ms() < end);
	return nr;
}

/* A huge page has more pages than fill() touches. */
static int pageout(struct area *a, char *start, size_t len)
{
	return pageout_at(a, start, len, psize());
}

static bool thp_is_on(void)
{
	char *enabled = slurp("/sys/kernel/mm/transparent_hugepage/enabled");

	return enabled && !strstr(enabled, "[never]");
}

/* A VMA that starts at @p, of the size of a table, is mapped by a huge page. */
static bool is_huge(struct area *a, char *p)
{
	char line[512], start[32];
	size_t kb = 0;
	FILE *smaps = fopen("/proc/self/smaps", "r");

	if (!smaps)
		return false;
	snprintf(start, sizeof(start), "%08lx-", (unsigned long)p);
	if (check_for_pattern(smaps, start, line, sizeof(line)) &&
	    check_for_pattern(smaps, "AnonHugePages:", line, sizeof(line)))
		sscanf(line, "AnonHugePages: %zu kB", &kb);
	fclose(smaps);
	return kb == a->table_size / 1024;
}

/* A huge page at @p, or NULL. */
static char *map_huge(struct area *a, char *p)
{
	long end = now_ms() + soon_ms;

	do {
		p = mmap(p, a->table_size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		if (p == MAP_FAILED || madvise(p, a->table_size, MADV_HUGEPAGE))
			return NULL;
		fill(a, p, a->table_size);
		if (is_huge(a, p))
			return p;
	} while (now_ms() < end);
	return NULL;
}

/*
 * Not even one more huge page is to be had: those of large tables are a good part of the
 * memory of a small machine.
 */
static bool no_huge_left(struct area *a)
{
	char *p = map_huge(a, table(a, 8));

	if (p)
		munmap(p, a->table_size);
	return !p;
}

static int collapse(struct area *a, char *p)
{
	long end = now_ms() + 5 * soon_ms;

	if (madvise(p, a->table_size, MADV_HUGEPAGE))
		return -1;
	while (madvise(p, a->table_size, MADV_COLLAPSE)) {
		if ((errno != EAGAIN && errno != EBUSY) || now_ms() > end)
			return -1;
	}
	return 0;
}

static int new_uffd(uint64_t features)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };
	int fd = syscall(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);

	if (fd >= 0 && ioctl(fd, UFFDIO_API, &api)) {
		close(fd);
		fd = -1;
	}
	return fd;
}

static int uffd_wp(int fd, char *p, size_t len, bool on)
{
	struct uffdio_writeprotect wp = {
		.range = { .start = (unsigned long)p, .len = len },
		.mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
	};

	return ioctl(fd, UFFDIO_WRITEPROTECT, &wp);
}

/* A thread with its stack in the area, so that it brings no tables of its own. */
static int start_thread(struct area *a, int nr, pthread_t *thread,
			void *(*fn)(void *), void *arg)
{
	pthread_attr_t attr;
	int ret;

	pthread_attr_init(&attr);
	pthread_attr_setstack(&attr, a->anchor + a->table_size / 8 + nr * STACK_SIZE, STACK_SIZE);
	ret = pthread_create(thread, &attr, fn, arg);
	pthread_attr_destroy(&attr);
	return ret;
}

static void *wait_for_end(void *fd)
{
	char c;

	while (read(*(int *)fd, &c, 1) < 0 && errno == EINTR)
		;
	return NULL;
}

/* So many times must users of a table change the CPU within a second of the clock. */
#define PERCPU_MOVES	64
#define PERCPU_MS	10000

/*
 * Use a table on two CPUs in turn, so often that its ref gets percpu counters: by
 * faults of GUP that ask a file, in a process with a second thread.  A busy machine
 * takes its time, until four times as many came within three seconds, so in four of the
 * clock at most.  A page other than the first one must be populated.  The first one is
 * empty in the end.
 */
static void use_on_two_cpus(struct area *a, char *p)
{
	long at[4 * PERCPU_MOVES + 2], give_up = now_ms() + PERCPU_MS, now = now_ms();
	int i, end[2], nr = ARRAY_SIZE(at), fd = new_memfd(psize());
	pthread_t thread;

	if (pipe(end) || start_thread(a, 0, &thread, wait_for_end, &end[0]))
		abort();
	if (map_memfd(p, psize(), fd) == MAP_FAILED)
		abort();
	for (i = 0; i < nr || (now - at[i % nr] > 2900 && now < give_up); i++) {
		at[i % nr] = now;
		pin(a->cpu[i & 1]);
		if (madvise(p, psize(), MADV_POPULATE_WRITE))
			abort();
		madvise(p, psize(), MADV_DONTNEED);
		now = now_ms();
	}
	pin(a->cpu[0]);
	if (map_anon(p, psize()) == MAP_FAILED)
		abort();
	close(end[1]);
	pthread_join(thread, NULL);
	close(end[0]);
	close(fd);
}

/* Each gives the percpu counters of a table back. */
static long switches(void)
{
	return read_field("/proc/vmstat", "pte_ref_switch");
}

/* Tables that were freed; as many as ever if the kernel does not count them. */
static long tables_freed(void)
{
	return read_field("/proc/vmstat", "pte_ref_free") +
	       read_field("/proc/vmstat", "pte_ref_free_deferred");
}

/*
 * Zap what is the last page of its table.  Had it percpu counters?  Also true if nobody
 * can tell: the kernel does not count, or there is one CPU.  @us gets how long the zap took.
 */
static bool was_percpu(struct area *a, char *p, long *us)
{
	long nr = tables(a), before = switches(), end = now_ms() + soon_ms, start = now_us();

	if (madvise(p, psize(), MADV_DONTNEED))
		return false;
	*us = now_us() - start;
	if (a->cpu[0] == a->cpu[1] || before < 0 || turned_off())
		return true;
	while (tables(a) == nr && now_ms() < end)
		usleep(1000);
	return switches() > before;
}

/*
 * A worker fills, checks and zaps pages that no other worker writes to, in
 * tables that all of them use.  Of each GROUP pages it owns those with its
 * number.  It never has many pages, so that tables become empty.
 */
#define GROUP		4

struct worker {
	pthread_t thread;
	struct area *area;
	int nr, nr_workers;
	char *start;
	int nr_pages;
	int fd;			/* to punch holes into, or -1: MADV_DONTNEED */
	off_t fd_offset;
	unsigned int seed;
	unsigned int pause_us;	/* after each round */
	bool *stop;
	unsigned long rounds;
	const char *error;	/* what went wrong */
	char *where;
	int err;
};

/* What a page of a worker has: which worker wrote it, which page it is, a count. */
static uint64_t worker_tag(struct worker *w, unsigned long nr_page)
{
	return (uint64_t)(w->nr + 1) << 56 | (uint64_t)nr_page << 32 |
	       (uint32_t)(w->rounds + 1);
}

static bool worker_bad(struct worker *w, char *where, const char *error)
{
	w->error = error;
	w->where = where;
	w->err = errno;
	return false;
}

static int worker_zap(struct worker *w, unsigned long nr_page, size_t len)
{
	size_t offset = nr_page * w->area->step;

	if (w->fd >= 0)
		return punch(w->fd, w->fd_offset + offset, len);
	return madvise(w->start + offset, len, MADV_DONTNEED);
}

static bool worker_round(struct worker *w)
{
	struct area *a = w->area;
	unsigned long groups, nr_page, nr;
	size_t len;
	uint64_t tag;
	char *p;

	errno = 0;
	/* A group of the worker, and the first or the last pages of it. */
	groups = w->nr_pages / GROUP / w->nr_workers;
	nr_page = ((rand_r(&w->seed) % groups) * w->nr_workers + w->nr) * GROUP;
	nr = 1 + rand_r(&w->seed) % GROUP;
	nr_page += rand_r(&w->seed) % (GROUP - nr + 1);
	p = page(a, w->start, nr_page);
	len = nr * a->step;
	tag = worker_tag(w, nr_page);

	for (char *q = p; q < p + len; q += a->step) {
		if (FORCE_READ(*(uint64_t *)q) || FORCE_READ(*last_word(q)))
			return worker_bad(w, q, "not zero before the first write");
		__atomic_store_n((uint64_t *)q, tag, __ATOMIC_RELAXED);
		__atomic_store_n(last_word(q), tag, __ATOMIC_RELEASE);
	}
	if (rand_r(&w->seed) % 8 == 0)
		sched_yield();
	for (char *q = p; q < p + len; q += a->step)
		if (FORCE_READ(*(uint64_t *)q) != tag || FORCE_READ(*last_word(q)) != tag)
			return worker_bad(w, q, "data lost");

	if (worker_zap(w, nr_page, len))
		return worker_bad(w, p, "zap failed");
	for (char *q = p; q < p + len; q += a->step)
		if (FORCE_READ(*(uint64_t *)q) || FORCE_READ(*last_word(q)))
			return worker_bad(w, q, "not zero after the zap");
	/* The reads brought zero pages. */
	if (worker_zap(w, nr_page, len))
		return worker_bad(w, p, "zap of zero pages failed");
	w->rounds++;
	return true;
}

static void *worker_thread(void *arg)
{
	struct worker *w = arg;
	unsigned int pause_us;

	sched_setaffinity(0, sizeof(w->area->cpus), &w->area->cpus);
	while (!__atomic_load_n(w->stop, __ATOMIC_RELAXED)) {
		if (!worker_round(w))
			break;
		pause_us = __atomic_load_n(&w->pause_us, __ATOMIC_RELAXED);
		if (pause_us)
			usleep(pause_us);
	}
	return NULL;
}

static void worker_init(struct worker *w, struct area *a, int nr, int nr_workers,
			char *start, int nr_pages, bool *stop)
{
	memset(w, 0, sizeof(*w));
	w->area = a;
	w->nr = nr;
	w->nr_workers = nr_workers;
	w->start = start;
	w->nr_pages = nr_pages;
	w->fd = -1;
	w->seed = nr + 1;
	w->stop = stop;
}

/* A page that a worker may be busy with: zero, or what it writes there. */
static bool worker_page_ok(char *p, int nr, unsigned long nr_page)
{
	uint64_t first = FORCE_READ(*(uint64_t *)p);
	uint64_t tag = (uint64_t)(nr + 1) << 56;
	unsigned long group_page = nr_page / GROUP * GROUP;
	unsigned long tag_page = (uint32_t)(first >> 32) & 0xffffff;

	if (!first)
		return true;
	return (first & (0xffULL << 56)) == tag && tag_page >= group_page && tag_page <= nr_page;
}

static void start_workers(struct __test_metadata *_metadata, struct worker *w, int nr)
{
	for (int i = 0; i < nr; i++)
		ASSERT_EQ(start_thread(w[i].area, i, &w[i].thread, worker_thread, &w[i]), 0);
}

static void worker_result(struct __test_metadata *_metadata, struct worker *w)
{
	if (w->error)
		TH_LOG("worker %d, page %p, round %lu: %s, errno %d", w->nr, w->where, w->rounds,
		       w->error, w->err);
	EXPECT_EQ(w->error, NULL);
	EXPECT_NE(w->rounds, 0UL);
}

/*
 * A table is freed while workers work, or nothing was tested.  Not where none ever was, see
 * the setup of data: stock, or pte_ref=off.
 */
static void expect_freed_meanwhile(struct __test_metadata *_metadata, struct worker *w, int nr,
				   long before)
{
	long end = now_ms() + 5 * soon_ms;

	if (before < 0 || turned_off())
		return;
	/* They may have had pages all the time: from now on they rest. */
	for (int i = 0; i < nr && tables_freed() == before; i++)
		__atomic_store_n(&w[i].pause_us, 50000, __ATOMIC_RELAXED);
	while (tables_freed() == before && now_ms() < end)
		usleep(1000);
	EXPECT_GT(tables_freed(), before);
}

/* When each of them had its turn, also on a machine that is busy. */
static void stop_workers(struct __test_metadata *_metadata, struct worker *w, int nr, bool *stop)
{
	long end = now_ms() + 5 * soon_ms;

	for (int i = 0; i < nr; i++)
		while (!FORCE_READ(w[i].rounds) && !FORCE_READ(w[i].error) && now_ms() < end)
			usleep(1000);
	__atomic_store_n(stop, true, __ATOMIC_RELAXED);
	for (int i = 0; i < nr; i++)
		pthread_join(w[i].thread, NULL);
	for (int i = 0; i < nr; i++)
		worker_result(_metadata, &w[i]);
}

/* Exit status of a child, or -1. */
static int wait_child(pid_t pid)
{
	int status;

	if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
		return -1;
	return WEXITSTATUS(status);
}

FIXTURE(reclaim)
{
	struct area a;
};

FIXTURE_SETUP(reclaim)
{
	area_init(_metadata, &self->a);
}

FIXTURE_TEARDOWN(reclaim)
{
	area_exit(&self->a);
}

FIXTURE(data)
{
	struct area a;
};

/*
 * Where tables are freed this one is, so that also a case that runs alone can tell.  In the
 * area: elsewhere it could leave a PMD table, which the case would take for its own.
 */
static void free_a_table(struct __test_metadata *_metadata, struct area *a)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
	char *p = mmap(a->start, a->table_size, PROT_READ | PROT_WRITE, flags, -1, 0);
	long end = now_ms() + soon_ms;

	ASSERT_NE(p, MAP_FAILED);
	madvise(p, a->table_size, MADV_NOHUGEPAGE);
	do {
		*p = 1;
		ASSERT_EQ(madvise(p, a->table_size, MADV_DONTNEED), 0);
	} while (!tables_freed() && now_ms() < end);
	ASSERT_GT(tables_freed(), 0);
	ASSERT_EQ(mmap(p, a->table_size, PROT_NONE, flags, -1, 0), p);
}

FIXTURE_SETUP(data)
{
	area_init(_metadata, &self->a);
	if (!tables_freed() && !turned_off())
		free_a_table(_metadata, &self->a);
}

FIXTURE_TEARDOWN(data)
{
	area_exit(&self->a);
}

static void zap_filled(struct __test_metadata *_metadata, struct area *a, int parts)
{
	size_t len = 4 * a->table_size;
	char *p = map_anon(table(a, 0), len);

	ASSERT_NE(p, MAP_FAILED);
	/* Twice: a table that comes after one that was freed is counted as well. */
	for (int i = 0; i < 2; i++) {
		ASSERT_EQ(nonzero_pages(a, p, len), 0);
		fill(a, p, len);
		ASSERT_EQ(bad_pages(a, p, len), 0);
		ASSERT_EQ(tables(a), 4);
		ASSERT_EQ(advise_pieces(a, p, len, parts, MADV_DONTNEED), 0);
		ASSERT_EQ(count_pagemap(a, p, len, PM_PRESENT | PM_SWAP), 0);
		if (parts == 1)
			expect_freed(_metadata, a, 0);
		else
			expect_freed_soon(_metadata, a, 0);
	}
}

/* The one case that CONFIG_PT_RECLAIM knows. */
TEST_F(reclaim, aligned)
{
	zap_filled(_metadata, &self->a, 1);
}

TEST_F(reclaim, pieces_4k)
{
	zap_filled(_metadata, &self->a, 512);
}

TEST_F(reclaim, pieces_64k)
{
	zap_filled(_metadata, &self->a, 32);
}

TEST_F(reclaim, pieces_1m)
{
	zap_filled(_metadata, &self->a, 2);
}

TEST_F(reclaim, straddling)
{
	struct area *a = &self->a;
	char *p = map_anon(table(a, 0), 2 * a->table_size);

	ASSERT_NE(p, MAP_FAILED);
	p += a->table_size / 2;
	fill(a, p, a->table_size);
	ASSERT_EQ(tables(a), 2);
	ASSERT_EQ(madvise(p, a->table_size, MADV_DONTNEED), 0);
	expect_freed_soon(_metadata, a, 0);
}

/* The table is freed with its last page, whichever VMA has that. */
TEST_F(reclaim, last_page)
{
	struct area *a = &self->a;
	char *p = map_anon(table(a, 0), a->table_size);
	char *last = page(a, p, PER_TABLE / 2);

	ASSERT_NE(p, MAP_FAILED);
	fill(a, p, a->table_size);
	ASSERT_EQ(zap_pages(a, p, last - p), 0);
	ASSERT_EQ(zap_pages(a, last + a->step, a->table_size / 2 - a->step), 0);
	ASSERT_EQ(tables(a), 1);
	ASSERT_EQ(bad_pages(a, last, a->step), 0);
	ASSERT_EQ(madvise(last, psize(), MADV_DONTNEED), 0);
	expect_freed_soon(_metadata, a, 0);
}

TEST_F(reclaim, two_vmas)
{
	struct area *a = &self->a;
	size_t half = a->table_size / 2;
	char *p = map_anon(table(a, 0), a->table_size);

	ASSERT_NE(p, MAP_FAILED);
	fill(a, p, a->table_size);
	ASSERT_EQ(mprotect(p, half, PROT_READ), 0);
	ASSERT_EQ(madvise(p, half, MADV_DONTNEED), 0);
	ASSERT_EQ(bad_pages(a, p + half, half), 0);
	ASSERT_EQ(tables(a), 1);
	ASSERT_EQ(madvise(p + half, half, MADV_DONTNEED), 0);
	expect_freed_soon(_metadata, a, 0);
}

/* munmap() leaves the tables at the edges to the neighbours, which have no page. */
TEST_F(reclaim, neighbour_unmapped)
{
	struct area *a = &self->a;
	char *p = map_anon(table(a, 0), 3 * a->table_size);

	ASSERT_NE(p, MAP_FAILED);
	p += a->table_size / 2;
	fill(a, p, 2 * a->table_size);
	ASSERT_EQ(tables(a), 3);
	ASSERT_EQ(munmap(p, 2 * a->table_size), 0);
	expect_freed_soon(_metadata, a, 0);
}

/* As before, but both edges are in one table. */
TEST_F(reclaim, hole_unmapped)
{
	struct area *a = &self->a;
	char *p = map_anon(table(a, 0), a->table_size);

	ASSERT_NE(p, MAP_FAILED);
	p = page(a, p, 3);
	fill(a, p, 5 * a->step);
	ASSERT_EQ(tables(a), 1);
	ASSERT_EQ(munmap(p, 5 * a->step), 0);
	expect_freed_soon(_metadata, a, 0);
}

TEST_F(reclaim, zero_pages)
{
	struct area *a = &self->a;
	size_t len = 2 * a->table_size;
	char *p = map_anon(table(a, 0), len);

	ASSERT_NE(p, MAP_FAILED);
	ASSERT_EQ(nonzero_pages(a, p, len), 0);
	ASSERT_EQ(tables(a), 2);
	ASSERT_EQ(zap_pages(a, p, len), 0);
	expect_freed_soon(_metadata, a, 0);
}

TEST_F(reclaim, mlocked)
{
	struct area *a = &self->a;
	size_t len = 16 * a->step;
	char *p = map_anon(table(a, 0), len);

	ASSERT_NE(p, MAP_FAILED);
	if (mlock(p, len))
		SKIP(return, "mlock: %s", strerror(errno));
	ASSERT_EQ(tables(a), 1);
	ASSERT_EQ(advise_pieces(a, p, len, PER_TABLE, MADV_DONTNEED_LOCKED), 0);
	expect_freed_soon(_metadata, a, 0);
}

/* The entries go through rmap, long after the system call. */
TEST_F(reclaim, madv_free)
{
	struct area *a = &self->a;
	size_t len = 2 * a->table_size;
	char *p = map_anon(table(a, 0), len);

	ASSERT_NE(p, MAP_FAILED);
	fill(a, p, len);
	ASSERT_EQ(madvise(p, len, MADV_FREE), 0);
	ASSERT_EQ(tables(a), 2);
	ASSERT_EQ(pageout(a, p, len), 0);
	ASSERT_EQ(count_pagemap(a, p, len, PM_PRESENT | PM_SWAP), 0);
	expect_freed_soon(_metadata, a, 0);
	ASSERT_EQ(nonzero_pages(a, p, len), 0);
}

TEST_F(reclaim, swapped_out)
{
	struct area *a = &self->a;
	size_t len = a->table_size;
	char *p = map_anon(table(a, 0), len);

	if (!swap_is_on())
		SKIP(return, "no swap");
	ASSERT_NE(p, MAP_FAILED);
	fill(a, p, len);
	ASSERT_EQ(pageout(a, p, len), 0);
	ASSERT_EQ(count_pagemap(a, p, len, PM_SWAP), PER_TABLE);
	ASSERT_EQ(tables(a), 1);
	ASSERT_EQ(zap_pages(a, p, len), 0);
	expect_freed_soon(_metadata, a, 0);
}

TEST_F(reclaim, process_madvise)
{
	struct area *a = &self->a;
	char *p = map_anon(table(a, 0), a->table_size);
	struct iovec vec[PER_TABLE / 2];
	int fd = syscall(__NR_pidfd_open, getpid(), 0);
	ssize_t ret;

	ASSERT_GE(fd, 0);
	ASSERT_NE(p, MAP_FAILED);
	fill(a, p, a->table_size);
	for (int first = 0; first < 2; first++) {
		ASSERT_EQ(tables(a), 1);
		for (int i = 0; i < PER_TABLE / 2; i++) {
			vec[i].iov_base = page(a, p, 2 * i + first);
			vec[i].iov_len = psize();
		}
		ret = syscall(__NR_process_madvise, fd, vec, PER_TABLE / 2, MADV_DONTNEED, 0);
		if (ret < 0 && errno != EFAULT && errno != ENOMEM)
			SKIP(return, "process_madvise(MADV_DONTNEED): %s", strerror(errno));
		ASSERT_EQ(ret, (ssize_t)psize() * PER_TABLE / 2);
	}
	expect_freed_soon(_metadata, a, 0);
	close(fd);
}

TEST_F(reclaim, ftruncate)
{
	struct area *a = &self->a;
	size_t len = 2 * a->table_size;
	int fd = new_memfd(len);
	char *p = map_memfd(table(a, 0), len, fd);

	ASSERT_NE(p, MAP_FAILED);
	fill(a, p, len);
	ASSERT_EQ(tables(a), 2);
	ASSERT_EQ(ftruncate(fd, a->table_size + a->step), 0);
	ASSERT_EQ(tables(a), 2);
	ASSERT_EQ(ftruncate(fd, a->table_size), 0);
	expect_freed(_metadata, a, 1);
	ASSERT_EQ(bad_pages(a, p, a->table_size), 0);
	ASSERT_EQ(ftruncate(fd, 0), 0);
	expect_freed(_metadata, a, 0);
	close(fd);
}

TEST_F(reclaim, ftruncate_by_other)
{
	struct area *a = &self->a;
	size_t len = a->table_size;
	int fd = new_memfd(len);
	char *p = map_memfd(table(a, 0), len, fd);
	pid_t pid;

	ASSERT_NE(p, MAP_FAILED);
	fill(a, p, len);
	ASSERT_EQ(tables(a), 1);
	pid = fork();
	if (!pid)
		_exit(!!ftruncate(fd, 0));
	ASSERT_EQ(wait_child(pid), 0);
	expect_freed(_metadata, a, 0);
	close(fd);
}

TEST_F(reclaim, punch_hole)
{
	struct area *a = &self->a;
	size_t len = a->table_size;
	int fd = new_memfd(2 * len);
	char *p = map_memfd(table(a, 0), 2 * len, fd);

	ASSERT_NE(p, MAP_FAILED);
	fill(a, p, 2 * len);
	ASSERT_EQ(tables(a), 2);
	for (size_t off = 0; off < len; off += a->step)
		ASSERT_EQ(punch(fd, off, psize()), 0);
	expect_freed_soon(_metadata, a, 1);
	ASSERT_EQ(punch(fd, len, len), 0);
	expect_freed(_metadata, a, 0);
	ASSERT_EQ(nonzero_pages(a, p, 2 * len), 0);
	close(fd);
}

TEST_F(reclaim, madv_remove)
{
	struct area *a = &self->a;
	size_t len = a->table_size;
	int fd = new_memfd(len);
	char *p = map_memfd(table(a, 0), len, fd);

	ASSERT_NE(p, MAP_FAILED);
	fill(a, p, len);
	ASSERT_EQ(tables(a), 1);
	ASSERT_EQ(advise_pieces(a, p, len, PER_TABLE, MADV_REMOVE), 0);
	expect_freed_soon(_metadata, a, 0);
	ASSERT_EQ(nonzero_pages(a, p, len), 0);
	close(fd);
}

/* The pages stay in the page cache. */
TEST_F(reclaim, shared_dontneed)
{
	struct area *a = &self->a;
	size_t len = a->table_size;
	int fd = new_memfd(len);
	char *p = map_memfd(table(a, 0), len, fd);

	ASSERT_NE(p, MAP_FAILED);
	fill(a, p, len);
	ASSERT_EQ(tables(a), 1);
	ASSERT_EQ(zap_pages(a, p, len), 0);
	expect_freed_soon(_metadata, a, 0);
	ASSERT_EQ(bad_pages(a, p, len), 0);
	close(fd);
}

/* Pages of the page cache, mapped around a fault; some of them copied. */
TEST_F(reclaim, file_pieces)
{
	struct area *a = &self->a;
	int fd = open("/proc/self/exe", O_RDONLY);
	size_t len = lseek(fd, 0, SEEK_END);
	char *p;

	ASSERT_GT(fd, 0);
	ASSERT_GT(len, psize());
	len = (len < a->table_size ? len : a->table_size) & ~(psize() - 1UL);
	p = map(table(a, 0), len, MAP_PRIVATE, fd, 0);
	ASSERT_NE(p, MAP_FAILED);
	ASSERT_EQ(mprotect(p, psize(), PROT_READ | PROT_WRITE), 0);
	force_read_pages(p, len / psize(), psize());
	p[1] = 'e';
	ASSERT_EQ(tables(a), 1);
	for (size_t off = 0; off < len; off += psize())
		ASSERT_EQ(madvise(p + off, psize(), MADV_DONTNEED), 0);
	expect_freed_soon(_metadata, a, 0);
	ASSERT_EQ(p[1], 'E');
	close(fd);
}

/* Entries that are moved away, not zapped. */
TEST_F(reclaim, mremap_dontunmap)
{
	struct area *a = &self->a;
	size_t len = a->table_size / 2;
	char *p = map_anon(table(a, 0), len);
	char *to = table(a, 2) + len;

	ASSERT_NE(p, MAP_FAILED);
	fill(a, p, len);
	ASSERT_EQ(tables(a), 1);
	ASSERT_EQ(mremap(p, len, len, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, to), to);
	expect_freed_soon(_metadata, a, 1);
	ASSERT_EQ(bad_moved_pages(a, to, len, p), 0);
	ASSERT_EQ(zap_pages(a, to, len), 0);
	expect_freed_soon(_metadata, a, 0);
}

/* The table itself is moved. */
TEST_F(reclaim, mremap_table)
{
	struct area *a = &self->a;
	size_t len = 2 * a->table_size;
	char *p = map_anon(table(a, 0), len);
	char *to = table(a, 5);

	ASSERT_NE(p, MAP_FAILED);
	fill(a, p, len);
	ASSERT_EQ(mremap(p, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, to), to);
	ASSERT_EQ(tables(a), 2);
	ASSERT_EQ(bad_moved_pages(a, to, len, p), 0);

	/* Deferred work finds them: emptied by a zap, and by reclaim. */
	len = a->table_size;
	ASSERT_EQ(zap_pages(a, to, len), 0);
	expect_freed_soon(_metadata, a, 1);
	to += len;
	ASSERT_EQ(madvise(to, len, MADV_FREE), 0);
	ASSERT_EQ(pageout(a, to, len), 0);
	expect_freed_soon(_metadata, a, 0);
}

/* The table moves with the PMD table that points to it. */
TEST_F(reclaim, mremap_pmd_table)
{
	struct area *a = &self->a;
	char *p = map_anon(a->pud + a->pud_size, a->pud_size);
	char *to = a->pud + 2 * a->pud_size;
	size_t len = a->table_size;

	if (!a->has_pmd)
		SKIP(return, "no PMD tables");
	ASSERT_NE(p, MAP_FAILED);
	fill(a, p, 2 * len);
	/* The PMD table is the third. */
	ASSERT_EQ(tables(a), 3);
	ASSERT_EQ(mremap(p, a->pud_size, a->pud_size, MREMAP_MAYMOVE | MREMAP_FIXED, to), to);
	ASSERT_EQ(tables(a), 3);
	ASSERT_EQ(bad_moved_pages(a, to, 2 * len, p), 0);
	ASSERT_EQ(zap_pages(a, to, len), 0);
	expect_freed_soon(_metadata, a, 2);
	to += len;
	ASSERT_EQ(madvise(to, len, MADV_FREE), 0);
	ASSERT_EQ(pageout(a, to, len), 0);
	expect_freed_soon(_metadata, a, 1);
}

/*
 * The deferred work looks for the tables at the old address, and at the new one.  It comes
 * between the two now and then, in the middle of a look hardly ever.  So a move is tried after
 * each part of the time until the tables were gone while nothing moved, the longest of some.
 */
TEST_F(reclaim, mremap_pmd_table_noted)
{
	struct area *a = &self->a;
	char *to = a->pud + 2 * a->pud_size, *p;
	const int still = 8, rounds = 64;
	long us = 0, start;

	if (!a->has_pmd)
		SKIP(return, "no PMD tables");
	p = map_anon(a->pud + a->pud_size, a->pud_size);
	ASSERT_NE(p, MAP_FAILED);
	for (int i = 0; i < still + rounds; i++) {
		char *from = p;

		start = now_us();
		for (int j = 0; j < 8; j++) {
			p[j * a->table_size] = 1;
			ASSERT_EQ(madvise(p + j * a->table_size, psize(), MADV_DONTNEED), 0);
		}
		if (i < still) {
			expect_freed_soon(_metadata, a, 1);
			start = now_us() - start;
			us = us > start ? us : start;
			continue;
		}
		start += (i - still) * us / rounds - now_us();
		if (start > 0)
			usleep(start);
		p = mremap(from, a->pud_size, a->pud_size, MREMAP_MAYMOVE | MREMAP_FIXED, to);
		ASSERT_EQ(p, to);
		to = from;
		expect_freed_soon(_metadata, a, 1);
	}
	TH_LOG("freed within %ld us", us);
}

TEST_F(reclaim, uffd_move)
{
	struct area *a = &self->a;
	size_t len = a->table_size;
	char *p = map_anon(table(a, 0), len);
	char *to = map_anon(table(a, 1), len);
	struct uffdio_move move = {
		.dst = (unsigned long)to,
		.src = (unsigned long)p,
		.len = 16 * psize(),
	};
	int fd = new_uffd(UFFD_FEATURE_MOVE);

	if (fd < 0)
		SKIP(return, "no UFFDIO_MOVE: %s", strerror(errno));
	ASSERT_NE(p, MAP_FAILED);
	ASSERT_NE(to, MAP_FAILED);
	for (int i = 0; i < 16; i++)
		p[i * psize()] = i + 1;
	ASSERT_EQ(tables(a), 1);
	ASSERT_EQ(uffd_register(fd, to, len, true, false, false), 0);
	ASSERT_EQ(ioctl(fd, UFFDIO_MOVE, &move), 0);
	ASSERT_EQ(move.move, 16 * (long)psize());
	expect_freed_soon(_metadata, a, 1);
	for (int i = 0; i < 16; i++)
		ASSERT_EQ(to[i * psize()], i + 1);
	close(fd);
}

/* Where nothing is to move, tables are made, and freed while it goes on. */
TEST_F(reclaim, uffd_move_hole)
{
	struct area *a = &self->a;
	size_t len = 4 * a->table_size;
	char *p = map_anon(table(a, 0), len);
	/* In another PMD table: a note is for a group of tables of one. */
	char *to = map_anon(a->has_pmd ? a->pud + a->pud_size : table(a, 4), len);
	struct uffdio_move move = {
		.dst = (unsigned long)to,
		.src = (unsigned long)p,
		.len = len,
		.mode = UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES,
	};
	long freed, end = now_ms() + 2 * soon_ms;
	int fd = new_uffd(UFFD_FEATURE_MOVE);

	if (fd < 0)
		SKIP(return, "no UFFDIO_MOVE: %s", strerror(errno));
	ASSERT_NE(p, MAP_FAILED);
	ASSERT_NE(to, MAP_FAILED);
	ASSERT_EQ(uffd_register(fd, to, len, true, false, false), 0);
	/* A page of each table, before the deferred work comes, */
	for (int i = 0; i < 4; i++) {
		struct uffdio_move one = move;

		one.dst += i * a->table_size;
		one.src += i * a->table_size;
		one.len = psize();
		ASSERT_EQ(ioctl(fd, UFFDIO_MOVE, &one), 0);
	}
	expect_freed_soon(_metadata, a, a->has_pmd);
	/* and all pages, until it has come. */
	freed = tables_freed();
	for (int i = 0; i < 8 || (freed >= 0 && !turned_off() && tables_freed() == freed &&
				  now_ms() < end); i++) {
		ASSERT_EQ(ioctl(fd, UFFDIO_MOVE, &move), 0);
		ASSERT_EQ(move.move, (long)len);
	}
	expect_freed_soon(_metadata, a, a->has_pmd);
	close(fd);
}

TEST_F(reclaim, forked_child)
{
	struct area *a = &self->a;
	size_t len = 4 * a->table_size;
	char *p = map_anon(table(a, 0), len);
	long before, kept, end;
	pid_t pid;

	ASSERT_NE(p, MAP_FAILED);
	fill(a, p, len);
	pid = fork();
	if (!pid) {
		populate_self(a);
		all_tables();
		before = all_tables();
		if (bad_pages(a, p, len) || zap_pages(a, p, len))
			_exit(100);
		for (end = now_ms() + soon_ms; now_ms() < end; usleep(1000))
			if (before - all_tables() == 4)
				break;
		_exit(4 - (before - all_tables()));
	}
	kept = wait_child(pid);
	if (kept > 0 && kept < 100)
		TH_LOG("%ld tables kept", kept);
	ASSERT_EQ(kept, 0);
	ASSERT_EQ(tables(a), 4);
	ASSERT_EQ(bad_pages(a, p, len), 0);
	ASSERT_EQ(zap_pages(a, p, len), 0);
	expect_freed_soon(_metadata, a, 0);
}

/*
 * The tables of a child that does nothing, once they are no more than @nr, or some time
 * later.  The clock comes first: fork() does not copy the code of the vdso, which can have
 * a table of its own.
 */
static int tables_of_child_soon(int nr)
{
	pid_t pid = fork();

	if (!pid) {
		long end = now_ms() + soon_ms;

		all_tables();
		while (all_tables() > nr && now_ms() < end)
			usleep(1000);
		_exit(all_tables());
	}
	return wait_child(pid);
}

static int tables_of_child(void)
{
	return tables_of_child_soon(INT_MAX);
}

/* What was emptied is not copied, freed or not. */
TEST_F(reclaim, fork_of_empty)
{
	struct area *a = &self->a;
	size_t len = 4 * a->table_size;
	char *p = map_anon(table(a, 0), len);
	long before, kept;

	ASSERT_NE(p, MAP_FAILED);
	tables_of_child();
	before = tables_of_child();
	ASSERT_GT(before, 0);
	fill(a, p, len);
	ASSERT_EQ(tables_of_child_soon(before + 4), before + 4);
	ASSERT_EQ(zap_pages(a, p, len), 0);
	kept = tables_of_child() - before;
	if (kept > 0)
		TH_LOG("%ld tables kept", kept);
	ASSERT_EQ(kept, 0);
}

TEST_F(reclaim, thp_split)
{
	struct area *a = &self->a;
	size_t len = a->table_size;
	char *p;

	if (!thp_is_on())
		SKIP(return, "no transparent huge pages");
	p = map_huge(a, table(a, 0));
	if (!p)
		SKIP(return, "no huge page to be had");
	/* A huge page has a table in reserve. */
	ASSERT_EQ(tables(a), 1);
	ASSERT_EQ(madvise(page(a, p, 7), psize(), MADV_DONTNEED), 0);
	ASSERT_EQ(tables(a), 1);
	ASSERT_EQ(nonzero_pages(a, page(a, p, 7), a->step), 0);
	ASSERT_EQ(bad_pages(a, p, 7 * a->step), 0);
	ASSERT_EQ(bad_pages(a, page(a, p, 8), len - 8 * a->step), 0);
	ASSERT_EQ(zap_pages(a, p, len), 0);
	expect_freed_soon(_metadata, a, 0);
}

/* Reclaim splits the huge page, which takes its table out of reserve. */
TEST_F(reclaim, thp_madv_free)
{
	struct area *a = &self->a;
	size_t len = a->table_size;
	char *p;

	if (!thp_is_on())
		SKIP(return, "no transparent huge pages");
	p = map_huge(a, table(a, 0));
	if (!p)
		SKIP(return, "no huge page to be had");
	ASSERT_EQ(madvise(p, len, MADV_FREE), 0);
	ASSERT_TRUE(is_huge(a, p));
	ASSERT_EQ(pageout(a, p, len), 0);
	ASSERT_EQ(count_pagemap(a, p, len, PM_PRESENT | PM_SWAP), 0);
	expect_freed_soon(_metadata, a, 0);
	ASSERT_EQ(nonzero_pages(a, p, len), 0);
}

TEST_F(reclaim, thp_collapsed)
{
	struct area *a = &self->a;
	size_t len = a->table_size;
	char *p = map_anon(table(a, 0), len);

	if (!thp_is_on())
		SKIP(return, "no transparent huge pages");
	ASSERT_NE(p, MAP_FAILED);
	fill(a, p, len);
	if (collapse(a, p))
		SKIP(return, "MADV_COLLAPSE: %s", strerror(errno));
	ASSERT_TRUE(is_huge(a, p));
	ASSERT_EQ(tables(a), 1);
	ASSERT_EQ(bad_pages(a, p, len), 0);
	ASSERT_EQ(zap_pages(a, p, len / 2), 0);
	ASSERT_EQ(bad_pages(a, p + len / 2, len / 2), 0);
	ASSERT_EQ(zap_pages(a, p + len / 2, len / 2), 0);
	expect_freed_soon(_metadata, a, 0);
}

/* As long as a marker is there: data.guard, data.uffd_wp. */
TEST_F(reclaim, guard_removed)
{
	struct area *a = &self->a;
	size_t len = a->table_size;
	char *p = map_anon(table(a, 0), 2 * len);

	ASSERT_NE(p, MAP_FAILED);
	fill(a, p, len);
	if (madvise(page(a, p, 9), psize(), MADV_GUARD_INSTALL))
		SKIP(return, "MADV_GUARD_INSTALL: %s", strerror(errno));
	ASSERT_EQ(madvise(p + len, len, MADV_GUARD_INSTALL), 0);
	ASSERT_EQ(zap_pages(a, p, 2 * len), 0);
	ASSERT_EQ(tables(a), 2);
	ASSERT_EQ(madvise(p, 2 * len, MADV_GUARD_REMOVE), 0);
	expect_freed_soon(_metadata, a, 0);
	ASSERT_EQ(nonzero_pages(a, p, 2 * len), 0);
}

TEST_F(reclaim, uffd_wp_removed)
{
	struct area *a = &self->a;
	size_t len = a->table_size;
	int memfd = new_memfd(len);
	char *p = map_memfd(table(a, 0), len, memfd);
	int fd = new_uffd(UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM);

	if (fd < 0)
		SKIP(return, "no userfaultfd write protection: %s", strerror(errno));
	ASSERT_NE(p, MAP_FAILED);
	fill(a, p, len);
	ASSERT_EQ(uffd_register(fd, p, len, false, true, false), 0);
	ASSERT_EQ(uffd_wp(fd, p, len, true), 0);
	ASSERT_EQ(zap_pages(a, p, len), 0);
	ASSERT_EQ(tables(a), 1);
	ASSERT_EQ(uffd_wp(fd, p, len, false), 0);
	expect_freed_soon(_metadata, a, 0);
	ASSERT_EQ(bad_pages(a, p, len), 0);
	close(fd);
	close(memfd);
}

TEST_F(reclaim, percpu)
{
	struct area *a = &self->a;
	size_t len = a->table_size;
	char *p = map_anon(table(a, 0), len);
	long before = switches();

	if (a->cpu[0] == a->cpu[1])
		SKIP(return, "one CPU only");
	ASSERT_NE(p, MAP_FAILED);
	*page(a, p, 1) = 1;
	use_on_two_cpus(a, p);
	fill(a, p, len);
	ASSERT_EQ(bad_pages(a, p, len), 0);
	ASSERT_EQ(tables(a), 1);
	ASSERT_EQ(zap_pages(a, p, len), 0);
	expect_freed_soon(_metadata, a, 0);
	ASSERT_GT(switches(), before);
}

/* Nobody sees that the count of a table with percpu counters becomes zero. */
TEST_F(reclaim, percpu_madv_free)
{
	struct area *a = &self->a;
	size_t len = a->table_size;
	char *p = map_anon(table(a, 0), len);
	long before = switches();

	if (a->cpu[0] == a->cpu[1])
		SKIP(return, "one CPU only");
	ASSERT_NE(p, MAP_FAILED);
	*page(a, p, 1) = 1;
	use_on_two_cpus(a, p);
	fill(a, p, len);
	ASSERT_EQ(madvise(p, len, MADV_FREE), 0);
	ASSERT_EQ(pageout(a, p, len), 0);
	expect_freed_soon(_metadata, a, 0);
	ASSERT_GT(switches(), before);
}

/* It has percpu counters when it is moved, and is empty when it has a new address. */
TEST_F(reclaim, percpu_mremap)
{
	struct area *a = &self->a;
	size_t len = a->table_size;
	char *p = map_anon(table(a, 0), len);
	char *to = table(a, 3);
	long before = switches();

	if (a->cpu[0] == a->cpu[1])
		SKIP(return, "one CPU only");
	ASSERT_NE(p, MAP_FAILED);
	*page(a, p, 1) = 1;
	use_on_two_cpus(a, p);
	ASSERT_EQ(mremap(p, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, to), to);
	ASSERT_EQ(*page(a, to, 1), 1);
	ASSERT_EQ(tables(a), 1);
	ASSERT_EQ(zap_pages(a, to, len), 0);
	expect_freed_soon(_metadata, a, 0);
	ASSERT_GT(switches(), before);
}

/* Workers leave nothing populated. */
TEST_F(reclaim, after_threads)
{
	struct area *a = &self->a;
	struct worker w[STRESS_WORKERS];
	bool stop = false;
	char *p = map_anon(table(a, 0), 2 * a->table_size);

	ASSERT_NE(p, MAP_FAILED);
	for (int i = 0; i < STRESS_WORKERS; i++)
		worker_init(&w[i], a, i, STRESS_WORKERS, p, 2 * PER_TABLE, &stop);
	start_workers(_metadata, w, STRESS_WORKERS);
	usleep(STRESS_MS * 1000 / 4);
	stop_workers(_metadata, w, STRESS_WORKERS, &stop);
	expect_freed_soon(_metadata, a, 0);
}

static void *touch_page(void *p)
{
	*(char *)p = 1;
	return NULL;
}

/* Where the tables have one more level, or the upper one more entries. */
TEST_F(reclaim, high_address)
{
	struct area *a = &self->a;
	size_t len = 4 * a->table_size;
	char *p;

	p = mmap((void *)(1UL << 50), 2 * len, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	ASSERT_NE(p, MAP_FAILED);
	if (!((unsigned long)p >> 48))
		SKIP(return, "no address of more than 48 bits");
	madvise(p, 2 * len, MADV_NOHUGEPAGE);
	p = (char *)(((unsigned long)p + a->table_size - 1) & ~(a->table_size - 1));
	/* The upper tables. */
	p[len] = 1;
	a->base = all_tables();
	fill(a, p, len);
	ASSERT_EQ(tables(a), 4);
	ASSERT_EQ(zap_pages(a, p, a->table_size), 0);
	ASSERT_EQ(madvise(p + a->table_size, len - a->table_size, MADV_DONTNEED), 0);
	expect_freed_soon(_metadata, a, 0);
	ASSERT_EQ(p[len], 1);
}

/* A fault made the table, and waits for user space to fill it. */
TEST_F(reclaim, uffd_missing)
{
	struct area *a = &self->a;
	size_t len = a->table_size;
	char *p = map_anon(table(a, 0), len);
	struct uffdio_zeropage zero = {
		.range = { .start = (unsigned long)p, .len = psize() },
	};
	int fd = new_uffd(0);
	struct uffd_msg msg;
	pthread_t thread;

	if (fd < 0)
		SKIP(return, "no userfaultfd: %s", strerror(errno));
	ASSERT_NE(p, MAP_FAILED);
	ASSERT_EQ(uffd_register(fd, p, len, true, false, false), 0);
	ASSERT_EQ(start_thread(a, 0, &thread, touch_page, p), 0);
	while (read(fd, &msg, sizeof(msg)) != sizeof(msg))
		ASSERT_EQ(errno, EAGAIN);
	expect_freed_soon(_metadata, a, 0);
	ASSERT_EQ(ioctl(fd, UFFDIO_ZEROPAGE, &zero), 0);
	pthread_join(thread, NULL);
	ASSERT_EQ(*p, 1);
	ASSERT_EQ(tables(a), 1);
	close(fd);
}

/* UFFDIO_COPY made the table, and could not read what it was to copy. */
TEST_F(reclaim, uffd_copy_failed)
{
	struct area *a = &self->a;
	size_t len = a->table_size;
	char *p = map_anon(table(a, 0), len);
	struct uffdio_copy copy = {
		.dst = (unsigned long)p,
		.src = (unsigned long)a->pud + a->pud_size,
		.len = psize(),
	};
	int fd = new_uffd(0);

	if (fd < 0)
		SKIP(return, "no userfaultfd: %s", strerror(errno));
	ASSERT_NE(p, MAP_FAILED);
	ASSERT_EQ(uffd_register(fd, p, len, true, false, false), 0);
	ASSERT_EQ(ioctl(fd, UFFDIO_COPY, &copy), -1);
	expect_freed_soon(_metadata, a, 0);
	close(fd);
}

/* The parent's table has entries, of a neighbour that fork does not copy. */
static void fork_beside(struct __test_metadata *_metadata, struct area *a, bool shared)
{
	size_t half = a->table_size / 2;
	char *p = map_anon(table(a, 0), half), *q = p + half;
	long before, kept;

	ASSERT_NE(p, MAP_FAILED);
	if (shared) {
		ASSERT_NE(map_memfd(q, half, new_memfd(half)), MAP_FAILED);
	} else {
		ASSERT_NE(map_anon(q, half), MAP_FAILED);
		ASSERT_EQ(madvise(q, half, MADV_DONTFORK), 0);
	}
	tables_of_child();
	before = tables_of_child();
	ASSERT_GT(before, 0);
	fill(a, p, half);
	fill(a, q, half);
	ASSERT_EQ(tables_of_child(), before + 1);
	ASSERT_EQ(zap_pages(a, p, half), 0);
	kept = tables_of_child_soon(before) - before;
	if (kept > 0)
		TH_LOG("%ld tables kept", kept);
	ASSERT_EQ(kept, 0);
	ASSERT_EQ(tables(a), 1);
	ASSERT_EQ(bad_pages(a, q, half), 0);
}

TEST_F(reclaim, fork_beside_dontfork)
{
	fork_beside(_metadata, &self->a, false);
}

TEST_F(reclaim, fork_beside_shared)
{
	fork_beside(_metadata, &self->a, true);
}

/* Threads of which one has mmap_lock and a VMA locked for writing, nearly all the time. */
struct lockers {
	pthread_t thread[2];
	struct area *a;
	char *start;
	size_t len;
	bool stop;
};

static void *lock_vma(void *arg)
{
	struct lockers *l = arg;

	sched_setaffinity(0, sizeof(l->a->cpus), &l->a->cpus);
	while (!__atomic_load_n(&l->stop, __ATOMIC_RELAXED)) {
		mprotect(l->start, l->len, PROT_READ | PROT_WRITE | PROT_EXEC);
		mprotect(l->start, l->len, PROT_READ | PROT_WRITE);
	}
	return NULL;
}

static void start_lockers(struct __test_metadata *_metadata, struct lockers *l,
			  struct area *a, char *start, size_t len)
{
	*l = (struct lockers){ .a = a, .start = start, .len = len };
	for (int i = 0; i < 2; i++)
		ASSERT_EQ(start_thread(a, i, &l->thread[i], lock_vma, l), 0);
}

static void stop_lockers(struct lockers *l)
{
	__atomic_store_n(&l->stop, true, __ATOMIC_RELAXED);
	for (int i = 0; i < 2; i++)
		pthread_join(l->thread[i], NULL);
}

/* Another thread always waits for mmap_lock. */
TEST_F(reclaim, busy_lock)
{
	struct area *a = &self->a;
	size_t len = 4 * a->table_size;
	char *p = map_anon(table(a, 0), 400 * a->table_size);
	struct lockers lockers;

	ASSERT_NE(p, MAP_FAILED);
	start_lockers(_metadata, &lockers, a, p, 400 * a->table_size);
	for (int i = 0; i < 8; i++) {
		for (int j = 0; j < 4; j++)
			*(p + j * a->table_size) = 1;
		ASSERT_EQ(advise_pieces(a, p, len, 2, MADV_DONTNEED), 0);
		expect_freed_soon(_metadata, a, 0);
	}
	stop_lockers(&lockers);
}

/* In a process that forks all the time. */
TEST_F(reclaim, busy_fork)
{
	struct area *a = &self->a;
	size_t len = 4 * a->table_size;
	char *p = map_anon(table(a, 0), len);
	long end;

	ASSERT_NE(p, MAP_FAILED);
	fill(a, p, len);
	ASSERT_EQ(zap_pages(a, p, len), 0);
	for (end = now_ms() + soon_ms; tables(a) && now_ms() < end;)
		ASSERT_GT(tables_of_child(), 0);
	expect_tables(_metadata, a, 0);
}

/* Ticks of CPU time that a worker of an unbound workqueue has used; -1 if it is none. */
static long kworker_ticks(const char *pid)
{
	char name[64], *stat;
	long user, kernel;

	snprintf(name, sizeof(name), "/proc/%.16s/stat", pid);
	stat = atoi(pid) ? slurp(name) : NULL;
	if (!stat || !strstr(stat, "(kworker/u"))
		return -1;
	stat = strrchr(stat, ')');
	if (!stat || sscanf(stat, ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %ld %ld",
			    &user, &kernel) != 2)
		return -1;
	return user + kernel;
}

/* Milliseconds of all of them, or -1.  Not by opendir(), which allocates. */
static long kworker_ms(void)
{
	static uint64_t entries[2048];
	struct { uint64_t ino, off; uint16_t len; uint8_t type; char name[]; } *d;
	int fd = open("/proc", O_RDONLY | O_DIRECTORY), len, off, found = 0;
	long nr, ticks = 0;

	while ((len = syscall(__NR_getdents64, fd, entries, sizeof(entries))) > 0) {
		for (off = 0; off < len; off += d->len) {
			d = (void *)((char *)entries + off);
			nr = kworker_ticks(d->name);
			if (nr < 0)
				continue;
			ticks += nr;
			found++;
		}
	}
	close(fd);
	if (!found)
		return -1;
	return ticks * 1000 / sysconf(_SC_CLK_TCK);
}

/*
 * Another process has thousands of empty tables, below a VMA that it locks all the time.
 * They are given back all the same, delay nobody else, and are not looked at all the time.
 */
TEST_F(reclaim, beside_busy)
{
	struct area *a = &self->a, other;
	/* 128 MiB of tables at most, if all are kept. */
	int nr = psize() > 16384 ? 2048 : a->has_pmd ? 8192 : 512;
	size_t len = 4 * a->table_size, many = nr * a->table_size;
	char *p = map_anon(table(a, 0), len), *q;
	int ready[2], done[2];
	struct lockers lockers;
	long start, before, cpu, kept;
	pid_t pid;
	unsigned char c;

	ASSERT_NE(p, MAP_FAILED);
	ASSERT_EQ(pipe(ready), 0);
	ASSERT_EQ(pipe(done), 0);
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		other = *a;
		close(done[1]);
		q = mmap(NULL, many, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (q == MAP_FAILED)
			_exit(1);
		madvise(q, many, MADV_NOHUGEPAGE);
		start_lockers(_metadata, &lockers, &other, q, many);
		for (size_t i = 0; i < many; i += a->table_size) {
			q[i] = 1;
			madvise(q + i, psize(), MADV_DONTNEED);
			if (i == many / 2 && write(ready[1], "", 1) != 1)
				_exit(1);
		}
		for (start = now_ms(); now_ms() < start + 5 * soon_ms; usleep(10000))
			if (all_tables() < nr / 8)
				break;
		c = all_tables() / (nr / 128);
		wait_for_end(&done[0]);
		stop_lockers(&lockers);
		_exit(c < 16 ? 0 : c);
	}
	ASSERT_EQ(read(ready[0], &c, 1), 1);
	start = now_ms();
	before = kworker_ms();
	for (int i = 0; i < 8; i++) {
		fill(a, p, len);
		ASSERT_EQ(zap_pages(a, p, len), 0);
		expect_freed_soon(_metadata, a, 0);
	}
	while (now_ms() < start + STRESS_MS)
		usleep(10000);
	cpu = kworker_ms();
	/* One has freed our tables. */
	ASSERT_GE(cpu, 0);
	if (before > 0)
		cpu -= before;
	start = now_ms() - start;
	close(done[0]);
	close(done[1]);
	TH_LOG("%ld ms of CPU time of workers in %ld ms", cpu, start);
	kept = wait_child(pid);
	if (kept > 1)
		TH_LOG("%ld tables kept", nr / 128 * kept);
	ASSERT_EQ(kept, 0);
	ASSERT_LT(cpu, start / 2);
}

/* A table with a page stays, and the page stays as it is. */
TEST_F(data, busy)
{
	struct area *a = &self->a;
	char *p = map_anon(table(a, 0), a->table_size);
	char *keep = page(a, p, 77);

	ASSERT_NE(p, MAP_FAILED);
	for (int i = 0; i < 8; i++) {
		fill(a, p, a->table_size);
		ASSERT_EQ(zap_pages(a, p, keep - p), 0);
		ASSERT_EQ(madvise(keep + a->step, p + a->table_size - keep - a->step,
				  MADV_DONTNEED), 0);
		usleep(20000);
		ASSERT_EQ(tables(a), 1);
		ASSERT_EQ(bad_pages(a, keep, a->step), 0);
		ASSERT_EQ(count_pagemap(a, p, a->table_size, PM_PRESENT), 1);
	}
	ASSERT_EQ(nonzero_pages(a, p, keep - p), 0);
}

/* mprotect() takes the only entry of a table away for a moment. */
TEST_F(data, mprotect)
{
	struct area *a = &self->a;
	char *p = map_anon(table(a, 0), 2 * a->table_size);
	char *q = p + a->table_size;
	long end, us;

	ASSERT_NE(p, MAP_FAILED);
	/* If there are two CPUs, the second table gets percpu counters. */
	*page(a, q, 1) = 1;
	use_on_two_cpus(a, q);
	fill(a, p, a->step);
	fill(a, q, a->step);
	ASSERT_EQ(zap_pages(a, page(a, q, 1), a->step), 0);
	for (end = now_ms() + STRESS_MS / 3; now_ms() < end; usleep(rand() % 4000)) {
		ASSERT_EQ(mprotect(p, 2 * a->table_size, PROT_READ), 0);
		ASSERT_EQ(mprotect(p, 2 * a->table_size, PROT_READ | PROT_WRITE), 0);
		ASSERT_EQ(bad_pages(a, p, a->step), 0);
		ASSERT_EQ(bad_pages(a, q, a->step), 0);
	}
	ASSERT_EQ(tables(a), 2);
	ASSERT_TRUE(was_percpu(a, q, &us));
}

TEST_F(data, guard)
{
	struct area *a = &self->a;
	size_t len = a->table_size;
	char *p = map_anon(table(a, 0), 2 * len);
	char *guards[3];
	struct iovec local, remote;
	char buf;

	ASSERT_NE(p, MAP_FAILED);
	guards[0] = page(a, p, 9);
	guards[1] = page(a, p + len, 0);
	guards[2] = page(a, p + len, PER_TABLE - 1);
	fill(a, p, 2 * len);
	for (int i = 0; i < 3; i++)
		if (madvise(guards[i], psize(), MADV_GUARD_INSTALL))
			SKIP(return, "MADV_GUARD_INSTALL: %s", strerror(errno));
	ASSERT_EQ(zap_pages(a, p, len), 0);
	ASSERT_EQ(madvise(p + len, len, MADV_DONTNEED), 0);
	usleep(50000);
	ASSERT_EQ(tables(a), 2);
	for (int i = 0; i < 3; i++) {
		local = (struct iovec){ .iov_base = &buf, .iov_len = 1 };
		remote = (struct iovec){ .iov_base = guards[i], .iov_len = 1 };
		ASSERT_EQ(process_vm_readv(getpid(), &local, 1, &remote, 1, 0), -1);
		ASSERT_EQ(errno, EFAULT);
	}
	/* The neighbours are no guards. */
	ASSERT_EQ(nonzero_pages(a, p, 9 * a->step), 0);
	ASSERT_EQ(nonzero_pages(a, page(a, p + len, 1), (PER_TABLE - 2) * a->step), 0);
}

/* A guard that is installed while others free the table that it needs. */
TEST_F(data, guard_with_zaps)
{
	struct area *a = &self->a;
	struct worker w[3];
	bool stop = false;
	long freed = tables_freed();
	char *p = map_anon(table(a, 0), a->table_size);
	struct iovec local, remote;
	long end, loops = 0;
	char *q, buf;

	ASSERT_NE(p, MAP_FAILED);
	/* The groups of the fourth worker are ours. */
	for (int i = 0; i < 3; i++)
		worker_init(&w[i], a, i, 4, p, PER_TABLE, &stop);
	start_workers(_metadata, w, 3);
	for (end = now_ms() + STRESS_MS; now_ms() < end && __test_passed(_metadata); loops++) {
		q = page(a, p, (loops % 32 * 4 + 3) * GROUP);
		if (madvise(q, psize(), MADV_GUARD_INSTALL)) {
			if (!loops && errno == EINVAL)
				break;
			EXPECT_EQ(errno, 0);
			break;
		}
		local = (struct iovec){ .iov_base = &buf, .iov_len = 1 };
		remote = (struct iovec){ .iov_base = q, .iov_len = 1 };
		if (process_vm_readv(getpid(), &local, 1, &remote, 1, 0) != -1) {
			TH_LOG("loop %ld: the guard is gone", loops);
			EXPECT_TRUE(false);
			break;
		}
		EXPECT_EQ(madvise(q, psize(), MADV_GUARD_REMOVE), 0);
		EXPECT_EQ(FORCE_READ(*q), 0);
		EXPECT_EQ(madvise(q, psize(), MADV_DONTNEED), 0);
	}
	expect_freed_meanwhile(_metadata, w, 3, freed);
	stop_workers(_metadata, w, 3, &stop);
	if (!loops)
		SKIP(return, "no MADV_GUARD_INSTALL");
}

TEST_F(data, uffd_wp)
{
	struct area *a = &self->a;
	size_t len = a->table_size;
	int memfd = new_memfd(len);
	char *p = map_memfd(table(a, 0), len, memfd);
	int fd = new_uffd(UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM);

	if (fd < 0)
		SKIP(return, "no userfaultfd write protection: %s", strerror(errno));
	ASSERT_NE(p, MAP_FAILED);
	fill(a, p, len);
	ASSERT_EQ(uffd_register(fd, p, len, false, true, false), 0);
	ASSERT_EQ(uffd_wp(fd, p, len, true), 0);
	ASSERT_EQ(zap_pages(a, p, len / 2), 0);
	ASSERT_EQ(madvise(p, len, MADV_DONTNEED), 0);
	usleep(50000);
	ASSERT_EQ(tables(a), 1);
	ASSERT_EQ(count_pagemap(a, p, len, PM_PRESENT), 0);
	ASSERT_EQ(count_pagemap(a, p, len, PM_UFFD_WP), PER_TABLE);
	ASSERT_EQ(bad_pages(a, p, len), 0);
	ASSERT_EQ(count_pagemap(a, p, len, PM_UFFD_WP), PER_TABLE);
	close(fd);
	close(memfd);
}

TEST_F(data, swap)
{
	struct area *a = &self->a;
	size_t len = a->table_size;
	char *p = map_anon(table(a, 0), len);

	if (!swap_is_on())
		SKIP(return, "no swap");
	ASSERT_NE(p, MAP_FAILED);
	fill(a, p, len);
	ASSERT_EQ(pageout(a, p, len), 0);
	ASSERT_EQ(count_pagemap(a, p, len, PM_SWAP), PER_TABLE);
	usleep(50000);
	ASSERT_EQ(tables(a), 1);
	/* One swap entry keeps the table. */
	ASSERT_EQ(zap_pages(a, p, len - a->step), 0);
	usleep(50000);
	ASSERT_EQ(tables(a), 1);
	ASSERT_EQ(bad_pages(a, p + len - a->step, a->step), 0);
}

#ifdef __aarch64__
/* A tag of a granule that fill() does not use; of memory with PROT_MTE. */
static void set_tag(char *p, unsigned long tag)
{
	unsigned long granule = (unsigned long)(p + 16) | tag << 56;

	asm volatile(".arch armv8.5-a+memtag\n\tstg %0, [%0]" : : "r"(granule) : "memory");
}

static unsigned long get_tag(char *p)
{
	unsigned long granule = (unsigned long)(p + 16);

	asm volatile(".arch armv8.5-a+memtag\n\tldg %0, [%0]" : "+r"(granule) : : "memory");
	return granule >> 56 & 15;
}

/* Swap keeps the tags of a page in another place. */
TEST_F(data, mte)
{
	struct area *a = &self->a;
	size_t len = a->table_size;
	char *p = map_anon(table(a, 0), len), *q;
	int bad = 0;

	if (!(getauxval(AT_HWCAP2) & HWCAP2_MTE))
		SKIP(return, "no MTE");
	if (!swap_is_on())
		SKIP(return, "no swap");
	ASSERT_NE(p, MAP_FAILED);
	ASSERT_EQ(mprotect(p, len, PROT_READ | PROT_WRITE | PROT_MTE), 0);
	fill(a, p, len);
	for (q = p; q < p + len; q += a->step)
		set_tag(q, 1 + (q - p) / a->step % 15);
	ASSERT_EQ(pageout(a, p, len), 0);
	ASSERT_EQ(count_pagemap(a, p, len, PM_SWAP), PER_TABLE);
	usleep(50000);
	ASSERT_EQ(tables(a), 1);
	for (q = p; q < p + len; q += a->step)
		bad += get_tag(q) != 1 + (q - p) / a->step % 15;
	ASSERT_EQ(bad, 0);
	ASSERT_EQ(bad_pages(a, p, len), 0);
	/* What comes after it has no tags. */
	ASSERT_EQ(zap_pages(a, p, len), 0);
	usleep(50000);
	for (q = p; q < p + len; q += a->step)
		bad += get_tag(q) != 0;
	ASSERT_EQ(bad, 0);
}
#endif

/* Huge pages of hugetlb that lie in PTE tables: their size, or 0. */
static size_t cont_hugetlb_size(struct area *a, char *file, size_t file_size)
{
	for (size_t size = 2 * psize(); size < a->table_size; size *= 2) {
		snprintf(file, file_size,
			 "/sys/kernel/mm/hugepages/hugepages-%zukB/nr_hugepages",
			 size >> 10);
		if (!access(file, W_OK))
			return size;
	}
	return 0;
}

static char *map_hugetlb(char *p, size_t len, size_t size)
{
	return mmap(p, len, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_HUGETLB |
		    __builtin_ctzl(size) << MAP_HUGE_SHIFT, -1, 0);
}

/* Base pages of hugetlb memory that do not have what was written there. */
static int bad_hugetlb(char *huge, size_t len, uint64_t value)
{
	int bad = 0;

	for (char *q = huge; q < huge + len; q += psize())
		bad += FORCE_READ(*(uint64_t *)q) != value;
	return bad;
}

static void fill_hugetlb(char *huge, size_t len, uint64_t value)
{
	for (char *q = huge; q < huge + len; q += psize())
		*(uint64_t *)q = value;
}

/*
 * Let the next tables be made of pages that were in a file, at an offset: the
 * descriptor of a page says so until it is used for something else.  Those of a
 * secret file come from where tables come from.
 */
static void free_file_pages(struct __test_metadata *_metadata, size_t len)
{
	int fd = syscall(__NR_memfd_secret, O_CLOEXEC);
	char *p = MAP_FAILED;

	if (fd >= 0 && !ftruncate(fd, len))
		p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED) {
		TH_LOG("no pages of a secret file: %s", strerror(errno));
		return;
	}
	for (char *q = p; q < p + len; q += psize())
		*q = 1;
	munmap(p, len);
	close(fd);
}

/*
 * hugetlb keeps pointers into a table that other memory shares and empties.
 * @p is the ordinary memory before it, half a table.
 */
static void beside_hugetlb(struct __test_metadata *_metadata, struct area *a, char *p,
			   size_t size)
{
	char *huge = p + a->table_size / 2;
	struct worker w[2];
	uint64_t value = 0;
	bool stop = false;
	long end;
	int i;

	/* What it has keeps the table, and so does what it had. */
	fill_hugetlb(huge, 2 * size, 1);
	fill(a, p, a->table_size / 2);
	ASSERT_EQ(zap_pages(a, p, a->table_size / 2), 0);
	usleep(50000);
	ASSERT_EQ(bad_hugetlb(huge, 2 * size, 1), 0);
	ASSERT_EQ(madvise(huge, 2 * size, MADV_DONTNEED), 0);
	*p = 1;
	ASSERT_EQ(madvise(p, psize(), MADV_DONTNEED), 0);
	usleep(50000);
	ASSERT_EQ(tables(a), 1);
	ASSERT_EQ(bad_hugetlb(huge, 2 * size, 0), 0);

	for (i = 0; i < 2; i++)
		worker_init(&w[i], a, i, 2, p, PER_TABLE / 2, &stop);
	start_workers(_metadata, w, 2);
	for (end = now_ms() + STRESS_MS; now_ms() < end;) {
		pid_t pid;

		fill_hugetlb(huge, 2 * size, ++value);
		ASSERT_EQ(mprotect(huge, size, PROT_READ), 0);
		ASSERT_EQ(mprotect(huge, size, PROT_READ | PROT_WRITE), 0);
		if (value % 8 == 0) {
			free_file_pages(_metadata, 64 * psize());
			pid = fork();
			if (!pid)
				_exit(bad_hugetlb(huge, 2 * size, value));
			ASSERT_EQ(wait_child(pid), 0);
		}
		ASSERT_EQ(bad_hugetlb(huge, 2 * size, value), 0);
		ASSERT_EQ(madvise(huge, size, MADV_DONTNEED), 0);
		ASSERT_EQ(bad_hugetlb(huge, size, 0), 0);
		ASSERT_EQ(bad_hugetlb(huge + size, size, value), 0);
		if (value % 4 == 0) {
			ASSERT_EQ(munmap(huge, 2 * size), 0);
			ASSERT_EQ(map_hugetlb(huge, 2 * size, size), huge);
		}
	}
	stop_workers(_metadata, w, 2, &stop);
}

/*
 * Does @work with two huge pages of hugetlb behind half a table of ordinary memory,
 * while the pool has @more pages than usual.
 */
static void with_hugetlb(struct __test_metadata *_metadata, struct area *a, long more,
			 void (*work)(struct __test_metadata *_metadata, struct area *a,
				      char *p, size_t size))
{
	char *p = map_anon(table(a, 0), a->table_size);
	char file[128], *huge;
	size_t size = cont_hugetlb_size(a, file, sizeof(file));
	long nr, had;

	if (!size)
		SKIP(return, "no huge page of hugetlb is smaller than a PTE table");
	ASSERT_NE(p, MAP_FAILED);
	nr = strtol(slurp(file), NULL, 10);
	write_num(file, nr + more);
	huge = map_hugetlb(p + a->table_size / 2, 2 * size, size);
	EXPECT_EQ(huge, p + a->table_size / 2);
	if (huge == p + a->table_size / 2)
		work(_metadata, a, p, size);
	had = tables(a);
	munmap(p, a->table_size);
	write_num(file, nr);
	/* With the last VMA its table goes. */
	ASSERT_LT(tables(a), had);
}

TEST_F(data, cont_hugetlb)
{
	/* A private mapping of a child has its own. */
	with_hugetlb(_metadata, &self->a, 8, beside_hugetlb);
}

/*
 * Moves a huge page of hugetlb by soft offline; what it was loses a base page.
 * EBUSY is for a page with another reference, which may be a short one.
 */
static bool move_hugetlb(struct area *a, char *huge)
{
	unsigned long pfn = pagemap_get_pfn(a->pagemap, huge);

	for (int i = 0; i < 100; i++, usleep(10000)) {
		if (!madvise(huge, psize(), MADV_SOFT_OFFLINE))
			return pagemap_get_pfn(a->pagemap, huge) != pfn;
		if (errno != EBUSY)
			break;
	}
	return false;
}

/*
 * While hugetlb's entries are replaced by those of a migration, and these by new
 * ones, other memory of the table is filled and emptied.  @p as above.
 */
static void beside_moving_hugetlb(struct __test_metadata *_metadata, struct area *a, char *p,
				  size_t size)
{
	char *huge = p + a->table_size / 2;
	struct worker w[2];
	bool stop = false;
	int moved = 0;

	for (int i = 0; i < 2; i++)
		worker_init(&w[i], a, i, 2, p, PER_TABLE / 2, &stop);
	start_workers(_metadata, w, 2);
	for (int i = 1; i <= HUGETLB_MOVES; i++) {
		fill_hugetlb(huge, 2 * size, i);
		moved += move_hugetlb(a, huge + i % 2 * size);
		EXPECT_EQ(bad_hugetlb(huge, 2 * size, i), 0);
	}
	stop_workers(_metadata, w, 2, &stop);
	ASSERT_EQ(moved, HUGETLB_MOVES);
	/* They keep the table, where they are now. */
	ASSERT_EQ(zap_pages(a, p, a->table_size / 2), 0);
	usleep(50000);
	ASSERT_EQ(tables(a), 1);
	ASSERT_EQ(bad_hugetlb(huge, 2 * size, HUGETLB_MOVES), 0);
}

TEST_F(data, cont_hugetlb_moved)
{
	if (access("/proc/sys/vm/enable_soft_offline", R_OK))
		SKIP(return, "no CONFIG_MEMORY_FAILURE");
	with_hugetlb(_metadata, &self->a, 4 + HUGETLB_MOVES, beside_moving_hugetlb);
}

/* Threads fault and zap in the same tables. */
TEST_F(data, threads)
{
	struct area *a = &self->a;
	struct worker w[STRESS_WORKERS];
	bool stop = false;
	long freed = tables_freed();
	char *p = map_anon(table(a, 0), 2 * a->table_size);

	ASSERT_NE(p, MAP_FAILED);
	for (int i = 0; i < STRESS_WORKERS; i++)
		worker_init(&w[i], a, i, STRESS_WORKERS, p, 2 * PER_TABLE, &stop);
	start_workers(_metadata, w, STRESS_WORKERS);
	usleep(STRESS_MS * 1000);
	expect_freed_meanwhile(_metadata, w, STRESS_WORKERS, freed);
	stop_workers(_metadata, w, STRESS_WORKERS, &stop);
	ASSERT_EQ(nonzero_pages(a, p, 2 * a->table_size), 0);
}

/*
 * Processes map one memfd, punch holes into it and look at the pages of each
 * other, while one of them cuts off the end of the file again and again.
 */
TEST_F(data, processes)
{
	struct area *a = &self->a;
	int nr = STRESS_WORKERS, nr_pages = PER_TABLE * 3 / 2;
	struct worker *w;
	bool *stop;
	size_t len = nr_pages * a->step, cut = 2 * a->table_size;
	int fd = new_memfd(cut);
	pid_t pid[STRESS_WORKERS];
	long end, freed = tables_freed();
	char *p;

	w = mmap(NULL, sizeof(*w) * nr + sizeof(*stop), PROT_READ | PROT_WRITE,
		 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(w, MAP_FAILED);
	stop = (bool *)(w + nr);
	p = map_memfd(table(a, 0), cut, fd);
	ASSERT_NE(p, MAP_FAILED);
	for (int i = 0; i < nr; i++) {
		worker_init(&w[i], a, i, nr, p, nr_pages, stop);
		w[i].fd = fd;
		pid[i] = fork();
		if (pid[i])
			continue;
		sched_setaffinity(0, sizeof(a->cpus), &a->cpus);
		/* Some time, should nobody tell it to stop. */
		for (end = now_ms() + STRESS_MS + 10 * soon_ms;
		     !FORCE_READ(*stop) && now_ms() < end;) {
			int other = rand_r(&w[i].seed) % nr_pages;

			if (!worker_round(&w[i]))
				break;
			if (!worker_page_ok(page(a, p, other), other / GROUP % nr, other)) {
				worker_bad(&w[i], page(a, p, other), "data of nobody");
				break;
			}
			if (FORCE_READ(w[i].pause_us))
				usleep(w[i].pause_us);
		}
		_exit(0);
	}
	for (end = now_ms() + STRESS_MS; now_ms() < end && __test_passed(_metadata);) {
		EXPECT_EQ(ftruncate(fd, len), 0);
		EXPECT_EQ(ftruncate(fd, cut), 0);
		for (int i = 0; i < 8; i++) {
			char *q = page(a, p + len, i * 17);

			EXPECT_EQ(nonzero_pages(a, q, a->step), 0);
			fill(a, q, a->step);
			EXPECT_EQ(bad_pages(a, q, a->step), 0);
		}
	}
	expect_freed_meanwhile(_metadata, w, nr, freed);
	__atomic_store_n(stop, true, __ATOMIC_RELAXED);
	for (int i = 0; i < nr; i++)
		EXPECT_EQ(wait_child(pid[i]), 0);
	for (int i = 0; i < nr; i++)
		worker_result(_metadata, &w[i]);
	ASSERT_EQ(nonzero_pages(a, p, len), 0);
	munmap(w, sizeof(*w) * nr + sizeof(*stop));
	close(fd);
}

/* A child has what there was at the time of the fork. */
TEST_F(data, fork)
{
	struct area *a = &self->a;
	struct worker w[2];
	bool stop = false;
	size_t len = a->table_size;
	char *p = map_anon(table(a, 0), 3 * len);
	long end, loops = 0;
	pid_t pid;

	ASSERT_NE(p, MAP_FAILED);
	/* Tables 0 and 1 are the workers', but groups of others; 2 is ours. */
	for (int i = 0; i < 2; i++)
		worker_init(&w[i], a, i, 4, p, 2 * PER_TABLE, &stop);
	for (int i = 3 * GROUP; i < PER_TABLE; i += 4 * GROUP)
		fill(a, page(a, p, i), GROUP * a->step);
	fill(a, p + 2 * len, len);
	start_workers(_metadata, w, 2);
	for (end = now_ms() + STRESS_MS;
	     (now_ms() < end || loops < 3) && __test_passed(_metadata); loops++) {
		/* Table 2 is all there for some children, half of it or none for others. */
		size_t kept = len - loops % 3 * (len / 2);

		fill(a, p + 2 * len, len);
		if (kept) {
			EXPECT_EQ(zap_pages(a, p + 2 * len + kept, len - kept), 0);
		} else {
			EXPECT_EQ(madvise(p + 2 * len, len, MADV_DONTNEED), 0);
		}
		pid = fork();
		EXPECT_GE(pid, 0);
		if (pid < 0)
			break;
		if (!pid) {
			for (int i = 3 * GROUP; i < PER_TABLE; i += 4 * GROUP)
				if (bad_pages(a, page(a, p, i), GROUP * a->step))
					_exit(1);
			for (int i = 0; i < 2 * PER_TABLE; i++)
				if (i / GROUP % 4 < 2 &&
				    !worker_page_ok(page(a, p, i), i / GROUP % 4, i))
					_exit(2);
			if (bad_pages(a, p + 2 * len, kept) ||
			    nonzero_pages(a, p + 2 * len + kept, len - kept))
				_exit(3);
			if (advise_pieces(a, p, 3 * len, 64, MADV_DONTNEED))
				_exit(4);
			_exit(nonzero_pages(a, p, 3 * len) ? 5 : 0);
		}
		EXPECT_EQ(wait_child(pid), 0);
		EXPECT_EQ(bad_pages(a, p + 2 * len, kept), 0);
	}
	/* One of the workers': not what the loop has freed. */
	expect_freed_meanwhile(_metadata, w, 2, tables_freed());
	stop_workers(_metadata, w, 2, &stop);
	for (int i = 3 * GROUP; i < PER_TABLE; i += 4 * GROUP)
		ASSERT_EQ(bad_pages(a, page(a, p, i), GROUP * a->step), 0);
}

/* Processes end while something of theirs is still to be freed. */
TEST_F(data, exit)
{
	struct area *a = &self->a;
	char *p = table(a, 0);
	long switched = switches();
	pid_t pid;

	for (int i = 0; i < 64; i++) {
		pid = fork();
		ASSERT_GE(pid, 0);
		if (!pid) {
			if (map_anon(p, 3 * a->table_size) == MAP_FAILED)
				_exit(1);
			for (int j = 0; j < 3 * PER_TABLE; j += PER_TABLE / 2)
				*page(a, p, j + 1) = 1;
			/* A switch may be on its way, or a look at the edges. */
			if (i % 8 == 0)
				use_on_two_cpus(a, p);
			if (zap_pages(a, p, 16 * a->step))
				_exit(2);
			if (munmap(page(a, p, PER_TABLE / 2), 2 * a->table_size))
				_exit(3);
			_exit(0);
		}
		ASSERT_EQ(wait_child(pid), 0);
	}
	/* Also of a table that has its entries to the end. */
	if (switched >= 0 && !turned_off() && a->cpu[0] != a->cpu[1])
		ASSERT_GT(switches(), switched);
}

#define EXIT_MS "PTE_REF_EXIT_MS"

/*
 * This program, started as a copy by data.exit_busy: give memory back in pieces, which
 * leaves its tables to deferred work, and end so many milliseconds later.
 */
static void __attribute__((constructor)) give_back_and_exit(void)
{
	const char *ms = getenv(EXIT_MS);
	const size_t len = 64 * table_size();
	size_t i;
	char *p;

	if (!ms)
		return;
	p = mmap(NULL, len, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED)
		_exit(1);
	/* Fails where there are none. */
	madvise(p, len, MADV_NOHUGEPAGE);
	for (i = 0; i < len; i += table_size() / 2)
		p[i] = 1;
	for (i = 0; i < len; i += table_size() / 2)
		if (madvise(p + i, psize(), MADV_DONTNEED))
			_exit(2);
	usleep(atoi(ms) * 1000);
	_exit(0);
}

/* A program that has ended, and was waited for, does not keep its file busy. */
TEST_F(data, exit_busy)
{
	char name[] = "pte_ref.XXXXXX", ms[16], buf[64 << 10];
	int from, to, busy = 0;
	ssize_t len;
	pid_t pid;

	from = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	to = mkstemp(name);
	ASSERT_GE(from, 0);
	ASSERT_GE(to, 0);
	while ((len = read(from, buf, sizeof(buf))) > 0)
		ASSERT_EQ(write(to, buf, len), len);
	ASSERT_EQ(fchmod(to, 0700), 0);
	close(from);
	close(to);

	for (int i = 0; i < 100; i++) {
		pid = fork();
		ASSERT_GE(pid, 0);
		if (!pid) {
			snprintf(ms, sizeof(ms), "%d", i % 16);
			setenv(EXIT_MS, ms, 1);
			execl(name, name, NULL);
			_exit(127);
		}
		ASSERT_EQ(wait_child(pid), 0);
		to = open(name, O_WRONLY);
		if (to >= 0)
			close(to);
		else if (errno == ETXTBSY)
			busy++;
		else
			ASSERT_EQ(errno, 0);
	}
	unlink(name);
	ASSERT_EQ(busy, 0);
}

struct truncater {
	pthread_t thread;
	struct area *area;
	int fd;
	size_t len;
	bool stop;
	unsigned int pause_us;	/* while the file has its length */
	int err;
};

/* Zaps, under i_mmap_rwsem only, what a mapping has of the file. */
static void *truncater_thread(void *arg)
{
	struct truncater *t = arg;
	unsigned int pause_us;

	sched_setaffinity(0, sizeof(t->area->cpus), &t->area->cpus);
	while (!__atomic_load_n(&t->stop, __ATOMIC_RELAXED)) {
		if (ftruncate(t->fd, 0) || ftruncate(t->fd, t->len))
			t->err = errno;
		pause_us = __atomic_load_n(&t->pause_us, __ATOMIC_RELAXED);
		if (pause_us)
			usleep(pause_us);
	}
	return NULL;
}

/* The tables that fork() fills become empty by a truncate. */
TEST_F(data, fork_truncate)
{
	struct area *a = &self->a;
	size_t len = a->table_size;
	struct truncater t = { .area = a, .fd = new_memfd(len), .len = len };
	long end, loops = 0, populated = 0, freed = tables_freed();
	int missed = 0;
	char *p, *q;
	pid_t pid;

	p = map(table(a, 0), len, MAP_PRIVATE, t.fd, 0);
	ASSERT_NE(p, MAP_FAILED);
	ASSERT_EQ(start_thread(a, 0, &t.thread, truncater_thread, &t), 0);
	for (end = now_ms() + STRESS_MS;
	     (now_ms() < end || populated < 4) && __test_passed(_metadata); loops++) {
		/* EFAULT if the file is short at that time. */
		q = page(a, p, loops % (PER_TABLE - 4));
		if (!madvise(q, 4 * a->step, MADV_POPULATE_WRITE)) {
			populated++;
			missed = 0;
		} else {
			EXPECT_EQ(errno, EFAULT);
			/* A slow machine does not fill four pages between two truncates. */
			if (++missed % 8 == 0 && t.pause_us < 10000000)
				__atomic_store_n(&t.pause_us, 4 * t.pause_us + 100,
						 __ATOMIC_RELAXED);
		}
		pid = fork();
		if (pid < 0) {
			TH_LOG("loop %ld: fork: %s", loops, strerror(errno));
			EXPECT_GE(pid, 0);
			break;
		}
		if (!pid)
			_exit(0);
		EXPECT_EQ(wait_child(pid), 0);
	}
	__atomic_store_n(&t.stop, true, __ATOMIC_RELAXED);
	pthread_join(t.thread, NULL);
	EXPECT_EQ(t.err, 0);
	TH_LOG("filled %ld of %ld times, at last with %u us", populated, loops, t.pause_us);
	expect_freed_meanwhile(_metadata, NULL, 0, freed);
	close(t.fd);
}

/* What fill() wrote is there as a huge page, if one is to be had. */
static void expect_collapse(struct __test_metadata *_metadata, struct area *a, char *p,
			    long collapsed)
{
	bool failed = collapse(a, p);
	int err = errno;

	EXPECT_EQ(bad_pages(a, p, a->table_size), 0);
	if (failed && err == ENOMEM && !collapsed && __test_passed(_metadata))
		SKIP(return, "no huge page to be had");
	if (failed && err == ENOMEM && no_huge_left(a)) {
		TH_LOG("no more huge pages to be had");
		return;
	}
	EXPECT_FALSE(failed);
	EXPECT_NE(collapsed, 0);
}

/* On a slow machine they are in the way all the time. */
static void pause_longer(struct worker *w, int nr)
{
	for (int i = 0; i < nr; i++)
		if (w[i].pause_us < 10000000)
			__atomic_store_n(&w[i].pause_us, 4 * w[i].pause_us, __ATOMIC_RELAXED);
}

/* Huge pages are split by zaps and collapsed again while others zap. */
TEST_F(data, thp)
{
	struct area *a = &self->a;
	size_t len = a->table_size;
	struct worker w[2];
	bool stop = false;
	long end, collapsed = 0, loops = 0;
	char *p = map_anon(table(a, 0), len);
	int i;

	if (!thp_is_on())
		SKIP(return, "no transparent huge pages");
	ASSERT_NE(p, MAP_FAILED);
	ASSERT_EQ(madvise(p, len, MADV_HUGEPAGE), 0);
	for (i = 0; i < 2; i++) {
		worker_init(&w[i], a, i, 4, p, PER_TABLE, &stop);
		/* Pages that just came or go are not collapsed. */
		w[i].pause_us = 1000;
	}
	start_workers(_metadata, w, 2);
	for (end = now_ms() + STRESS_MS; __test_passed(_metadata); loops++) {
		if (collapsed ? now_ms() > end : loops > 9 && now_ms() > end + 5 * soon_ms)
			break;
		/* The workers own half of the groups, we have the others. */
		for (i = 2 * GROUP; i < PER_TABLE; i += 4 * GROUP)
			fill(a, page(a, p, i), 2 * GROUP * a->step);
		if (!madvise(p, len, MADV_COLLAPSE))
			collapsed++;
		else if (!collapsed)
			pause_longer(w, 2);
		for (i = 2 * GROUP; i < PER_TABLE; i += 4 * GROUP)
			EXPECT_EQ(bad_pages(a, page(a, p, i), 2 * GROUP * a->step), 0);
		/* This splits it. */
		for (i = 2 * GROUP; i < PER_TABLE; i += 4 * GROUP)
			EXPECT_EQ(madvise(page(a, p, i), 2 * GROUP * a->step, MADV_DONTNEED), 0);
		for (i = 2 * GROUP; i < PER_TABLE; i += 4 * GROUP)
			EXPECT_EQ(nonzero_pages(a, page(a, p, i), 2 * GROUP * a->step), 0);
	}
	stop_workers(_metadata, w, 2, &stop);
	TH_LOG("collapsed %ld of %ld times", collapsed, loops);
	fill(a, p, len);
	expect_collapse(_metadata, a, p, collapsed);
}

/* The same with shared memory, where a collapse takes tables away from all mappings. */
TEST_F(data, thp_shmem)
{
	struct area *a = &self->a;
	size_t len = a->table_size;
	struct worker w[2];
	bool stop = false;
	char file[128];
	long end, collapsed = 0, loops = 0;
	int i, fd = new_memfd(len);
	char *p = map_memfd(table(a, 0), len, fd);

	if (!thp_is_on())
		SKIP(return, "no transparent huge pages");
	snprintf(file, sizeof(file),
		 "/sys/kernel/mm/transparent_hugepage/hugepages-%zukB/shmem_enabled", len >> 10);
	if (access(file, F_OK))
		SKIP(return, "no folio of a file is as large as what a table maps");
	ASSERT_NE(p, MAP_FAILED);
	ASSERT_EQ(madvise(p, len, MADV_HUGEPAGE), 0);
	for (i = 0; i < 2; i++) {
		worker_init(&w[i], a, i, 4, p, PER_TABLE, &stop);
		w[i].fd = fd;
		w[i].pause_us = 1000;
	}
	start_workers(_metadata, w, 2);
	for (end = now_ms() + STRESS_MS; __test_passed(_metadata); loops++) {
		if (collapsed ? now_ms() > end : loops > 9 && now_ms() > end + 5 * soon_ms)
			break;
		for (i = 2 * GROUP; i < PER_TABLE; i += 4 * GROUP)
			fill(a, page(a, p, i), 2 * GROUP * a->step);
		/* Unmaps them, but they stay in the file. */
		EXPECT_EQ(zap_pages(a, p, len), 0);
		if (!madvise(p, len, MADV_COLLAPSE))
			collapsed++;
		else if (!collapsed)
			pause_longer(w, 2);
		for (i = 2 * GROUP; i < PER_TABLE; i += 4 * GROUP)
			EXPECT_EQ(bad_pages(a, page(a, p, i), 2 * GROUP * a->step), 0);
		EXPECT_EQ(zap_pages(a, p, len), 0);
		for (i = 2 * GROUP; i < PER_TABLE; i += 4 * GROUP)
			EXPECT_EQ(punch(fd, i * a->step, 2 * GROUP * a->step), 0);
	}
	stop_workers(_metadata, w, 2, &stop);
	TH_LOG("collapsed %ld of %ld times", collapsed, loops);
	fill(a, p, len);
	expect_collapse(_metadata, a, p, collapsed);
	close(fd);
}

/* Entries are moved into a table that others empty meanwhile. */
TEST_F(data, mremap)
{
	struct area *a = &self->a;
	size_t half = a->table_size / 2;
	char *ours[2];
	struct worker w[2];
	bool stop = false;
	long freed = tables_freed();
	long end, loops = 0;
	int fd = new_memfd(2 * half);

	/* The upper half of each table is a worker's. */
	for (int i = 0; i < 2; i++) {
		char *p;

		ours[i] = table(a, i);
		p = map(ours[i] + half, half, MAP_SHARED, fd, i * half);
		ASSERT_NE(p, MAP_FAILED);
		worker_init(&w[i], a, 0, 1, p, PER_TABLE / 2, &stop);
		w[i].fd = fd;
		w[i].fd_offset = i * half;
	}
	ASSERT_NE(map_anon(ours[0], half), MAP_FAILED);
	fill(a, ours[0], 16 * a->step);
	start_workers(_metadata, w, 2);
	for (end = now_ms() + STRESS_MS; now_ms() < end && __test_passed(_metadata); loops++) {
		char *from = ours[loops & 1], *to = ours[~loops & 1];

		EXPECT_EQ(mremap(from, half, half, MREMAP_MAYMOVE | MREMAP_FIXED, to), to);
		EXPECT_EQ(bad_moved_pages(a, to, 16 * a->step, ours[0]), 0);
	}
	expect_freed_meanwhile(_metadata, w, 2, freed);
	stop_workers(_metadata, w, 2, &stop);
	close(fd);
}

/* Pages are read through get_user_pages() while others empty the table. */
TEST_F(data, gup)
{
	struct area *a = &self->a;
	struct worker w[2];
	bool stop = false;
	long freed = tables_freed();
	char *p = map_anon(table(a, 0), a->table_size);
	uint64_t buf, want;
	long end, loops = 0;

	ASSERT_NE(p, MAP_FAILED);
	for (int i = 0; i < 2; i++)
		worker_init(&w[i], a, i, 4, p, PER_TABLE, &stop);
	start_workers(_metadata, w, 2);
	for (end = now_ms() + STRESS_MS; now_ms() < end && __test_passed(_metadata); loops++) {
		/* The pages of the third worker are ours. */
		char *q = page(a, p, (loops % 32 * 4 + 2) * GROUP);
		struct iovec local = { .iov_base = &buf, .iov_len = sizeof(buf) };
		struct iovec remote = { .iov_base = q, .iov_len = sizeof(buf) };

		/* One that is there, or one that get_user_pages() has to bring. */
		want = loops & 1 ? pattern(q) : 0;
		if (want)
			fill(a, q, a->step);
		EXPECT_EQ(process_vm_readv(getpid(), &local, 1, &remote, 1, 0),
			  (ssize_t)sizeof(buf));
		EXPECT_EQ(buf, want);
		EXPECT_EQ(madvise(q, psize(), MADV_DONTNEED), 0);
	}
	expect_freed_meanwhile(_metadata, w, 2, freed);
	stop_workers(_metadata, w, 2, &stop);
}

static int compare_long(const void *a, const void *b)
{
	return *(long *)a < *(long *)b ? -1 : *(long *)a > *(long *)b;
}

/* What synchronize_rcu() takes, or 0 if that cannot be known, as with one CPU. */
static long grace_period_us(struct area *a)
{
	long us[5], start;

	if (a->cpu[0] == a->cpu[1])
		return 0;
	for (int i = 0; i < ARRAY_SIZE(us); i++) {
		start = now_us();
		if (syscall(__NR_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0))
			return 0;
		us[i] = now_us() - start;
	}
	qsort(us, ARRAY_SIZE(us), sizeof(us[0]), compare_long);
	return us[ARRAY_SIZE(us) / 2];
}

/* No system call waits for a grace period. */
TEST_F(data, latency)
{
	static long us[2000], switch_us[16];
	struct area *a = &self->a;
	char *p = map_anon(table(a, 0), 17 * a->table_size);
	long start, grace = grace_period_us(a);
	int nr = 0;

	ASSERT_NE(p, MAP_FAILED);
	for (int i = 0; i < 2000; i++) {
		*(p + i % 17 * a->table_size) = 1;
		start = now_us();
		ASSERT_EQ(madvise(p + i % 17 * a->table_size, psize(), MADV_DONTNEED), 0);
		us[i] = now_us() - start;
	}
	qsort(us, 2000, sizeof(us[0]), compare_long);
	TH_LOG("madvise() that empties a table: median %ld us, 99 %% %ld us, most %ld us",
	       us[1000], us[1980], us[1999]);

	/* One that is slow and busy does not always get so far that they have such counters. */
	for (int i = 0; i < 32 && nr < 16; i++) {
		char *q = p + i % 16 * a->table_size;

		*page(a, q, 1) = 1;
		use_on_two_cpus(a, q);
		nr += was_percpu(a, page(a, q, 1), &switch_us[nr]);
	}
	ASSERT_GE(nr, 3);
	qsort(switch_us, nr, sizeof(switch_us[0]), compare_long);
	TH_LOG("the same, with percpu counters: median of %d: %ld us, most %ld us",
	       nr, switch_us[nr / 2], switch_us[nr - 1]);

	/* Generous: the machine may be slow and busy. */
	ASSERT_LT(us[1999], 1000 * soon_ms);
	if (grace < 1000)
		SKIP(return, "no membarrier(), one CPU, or expedited grace periods: %ld us", grace);
	TH_LOG("a grace period: %ld us", grace);
	ASSERT_LT(us[1000], grace / 2);
	ASSERT_LT(switch_us[nr / 2], grace / 2);
}

/* Refs in use, if the slab may be asked to let go of the others; -1 if nobody tells. */
static long count_refs(void)
{
	int fd = open("/sys/kernel/slab/pte_ref/shrink", O_WRONLY | O_CLOEXEC);
	char *objects;
	long nr;

	if (fd >= 0) {
		if (write(fd, "1", 1) != 1)
			perror("# shrink");
		close(fd);
	}
	nr = read_field("/proc/slabinfo", "pte_ref");
	if (nr < 0) {
		objects = slurp("/sys/kernel/slab/pte_ref/objects");
		if (objects)
			nr = strtol(objects, NULL, 10);
	}
	return nr;
}

/* Wait until the tables are freed, with pte_ref; without, they stay. */
static void let_go(struct __test_metadata *_metadata, struct area *a, long left)
{
	if (count_refs() >= 0)
		expect_freed_soon(_metadata, a, left);
}

/*
 * Where a table was given back piece by piece the next fault maps a small page, as where
 * the table is kept: memory does not grow.  Where all was given back at once, or is new,
 * it maps a huge one.
 */
TEST_F(data, thp_stays_small)
{
	struct area *a = &self->a;
	size_t len = a->table_size;
	char *p, *q;
	pid_t pid;

	if (!thp_is_on())
		SKIP(return, "no transparent huge pages");
	p = map_huge(a, table(a, 0));
	if (!p)
		SKIP(return, "no huge page to be had");

	/* In the process, and in a child: forked when the table is empty, and when it is gone. */
	ASSERT_EQ(advise_pieces(a, p, len, 32, MADV_DONTNEED), 0);
	for (int i = 0; i < 2; i++) {
		pid = fork();
		ASSERT_GE(pid, 0);
		if (!pid) {
			*p = 1;
			_exit(is_huge(a, p));
		}
		ASSERT_EQ(wait_child(pid), 0);
		let_go(_metadata, a, 0);
	}
	/* And where it is moved to. */
	q = table(a, 3);
	ASSERT_EQ(mremap(p, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, q), q);
	*q = 1;
	ASSERT_FALSE(is_huge(a, q));
	ASSERT_EQ(mremap(q, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, p), p);
	ASSERT_EQ(*p, 1);
	ASSERT_FALSE(is_huge(a, p));
	/* A reader gets no huge zero page either. */
	ASSERT_EQ(zap_pages(a, p, len), 0);
	let_go(_metadata, a, 0);
	ASSERT_EQ(FORCE_READ(*p), 0);
	*page(a, p, 1) = 1;
	ASSERT_FALSE(is_huge(a, p));

	/* Once more, and then all at once. */
	ASSERT_EQ(zap_pages(a, p, len), 0);
	let_go(_metadata, a, 0);
	ASSERT_EQ(madvise(p, len, MADV_DONTNEED), 0);
	fill(a, p, len);
	if (!is_huge(a, p) && no_huge_left(a))
		SKIP(return, "no second huge page to be had");
	ASSERT_TRUE(is_huge(a, p));

	/* The small pages go, and leave nothing behind. */
	ASSERT_EQ(zap_pages(a, p, len), 0);
	let_go(_metadata, a, 0);
	*p = 1;
	ASSERT_FALSE(is_huge(a, p));
	ASSERT_EQ(mremap(p, len, len, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, q), q);
	ASSERT_EQ(*q, 1);
	fill(a, p, len);
	if (!is_huge(a, p) && no_huge_left(a))
		SKIP(return, "no third huge page to be had");
	ASSERT_TRUE(is_huge(a, p));

	/* The same without a table to move. */
	ASSERT_EQ(zap_pages(a, p, len), 0);
	let_go(_metadata, a, 1);
	ASSERT_EQ(mremap(p, len, len, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, q), q);
	*q = 1;
	ASSERT_FALSE(is_huge(a, q));
	fill(a, p, len);
	if (!is_huge(a, p) && no_huge_left(a))
		SKIP(return, "no fourth huge page to be had");
	ASSERT_TRUE(is_huge(a, p));

	/* And another mapping in its place. */
	ASSERT_EQ(zap_pages(a, p, len), 0);
	let_go(_metadata, a, 1);
	ASSERT_EQ(munmap(p, len), 0);
	for (int i = 0; i < 2; i++) {
		if (!map_huge(a, p)) {
			if (no_huge_left(a))
				SKIP(return, "no more huge pages to be had");
			ASSERT_TRUE(is_huge(a, p));
		}
		if (i)
			break;
		ASSERT_EQ(zap_pages(a, p, len), 0);
		let_go(_metadata, a, 1);
	}
}

/*
 * What takes an entry away to write another one in its place (COW, mprotect, swap,
 * migration) leaves nothing behind, in tables with a single entry.
 */
TEST_F(data, passing_zero)
{
	struct area *a = &self->a;
	enum { nr = 480 };
	size_t len = nr * a->table_size;
	char *p = map_anon(table(a, 0), len), *q;
	unsigned long pfn[nr];
	long refs, pages, moved = 0;
	bool can_compact = !access("/proc/sys/vm/compact_memory", W_OK);
	pid_t pid;
	int fd;

	ASSERT_NE(p, MAP_FAILED);
	if (count_refs() < 0)
		SKIP(return, "no slab pte_ref to be seen: not root, or no such kernel");
	for (q = p; q < p + len; q += a->table_size)
		*(uint64_t *)q = pattern(q);
	/* What other tests have left is about to go. */
	usleep(soon_ms * 1000 / 2);
	refs = count_refs();
	pages = tables(a);

	/* Until some were migrated, if they can be. */
	for (int i = 0; i < 4 || (can_compact && !moved && i < 40); i++) {
		ASSERT_EQ(mprotect(p, len, PROT_READ), 0);
		ASSERT_EQ(mprotect(p, len, PROT_READ | PROT_WRITE), 0);
		pid = fork();
		ASSERT_GE(pid, 0);
		if (!pid) {
			for (q = p; q < p + len; q += a->table_size)
				*(uint64_t *)q = 1;
			_exit(0);
		}
		for (q = p; q < p + len; q += a->table_size)
			*(uint64_t *)q = pattern(q);
		ASSERT_EQ(wait_child(pid), 0);
		for (int k = 0; k < nr; k++)
			pfn[k] = pagemap_get_pfn(a->pagemap, p + k * a->table_size);
		if (can_compact) {
			fd = open("/proc/sys/vm/compact_memory", O_WRONLY);
			ASSERT_EQ(write(fd, "1", 1), 1);
			close(fd);
		}
		for (int k = 0; k < nr; k++)
			moved += pagemap_get_pfn(a->pagemap, p + k * a->table_size) != pfn[k];
		if (swap_is_on()) {
			ASSERT_EQ(pageout_at(a, p, len, a->table_size), 0);
		} else if (!i) {
			TH_LOG("no swap: not swapped out");
		}
		usleep(30000);
	}
	TH_LOG("%ld pages migrated", moved);
	if (can_compact) {
		EXPECT_GT(moved, 0);
	} else {
		TH_LOG("no compact_memory: not migrated");
	}
	TH_LOG("%ld refs, %ld tables more than before", count_refs() - refs, tables(a) - pages);
	for (q = p; q < p + len; q += a->table_size)
		ASSERT_EQ(*(uint64_t *)q, pattern(q));
	ASSERT_EQ(tables(a), pages);
	ASSERT_LT(count_refs() - refs, nr / 4);
}

/*
 * Tables that never have a ref, and tables of a file that have one: for a fault that
 * another thread could free the table of.
 */
TEST_F(data, no_growth)
{
	struct area *a = &self->a;
	int rounds = 16, nr = 480, ends[2];
	size_t half = nr / 2 * a->table_size;
	char *p = map_anon(table(a, 0), half), *q;
	long refs = 0, pages = 0, made = 0, end;
	pthread_t other;

	ASSERT_NE(p, MAP_FAILED);
	ASSERT_NE(map_memfd(p + half, half, new_memfd(half)), MAP_FAILED);
	if (count_refs() < 0)
		SKIP(return, "no slab pte_ref to be seen: not root, or no such kernel");
	ASSERT_EQ(pipe(ends), 0);
	ASSERT_EQ(start_thread(a, 0, &other, wait_for_end, &ends[0]), 0);
	/* The first round fills what the slab caches. */
	for (int i = 0; i <= rounds; i++) {
		if (i < 2) {
			refs = count_refs();
			pages = read_field("/proc/vmstat", "nr_page_table_pages");
		}
		for (q = p; q < p + half; q += a->table_size)
			*(q + i * a->step) = 1;
		for (; q < p + 2 * half; q += a->table_size)
			*q = 1;
		if (!i)
			made = count_refs() - refs;
		for (q = p; q < p + half; q += a->table_size)
			ASSERT_EQ(madvise(q + i * a->step, psize(), MADV_DONTNEED), 0);
		for (; q < p + 2 * half; q += a->table_size)
			ASSERT_EQ(madvise(q, psize(), MADV_DONTNEED), 0);
		/* Else the next round has the same tables. */
		expect_freed_soon(_metadata, a, 0);
	}
	/* They go by RCU; less than a round may be on the way, or be others'. */
	for (end = now_ms() + soon_ms; now_ms() < end; usleep(10000))
		if (count_refs() - refs < nr / 4 &&
		    read_field("/proc/vmstat", "nr_page_table_pages") - pages < nr / 4)
			break;
	TH_LOG("%d tables and %ld refs made: %ld refs and %ld tables more than before",
	       rounds * nr, rounds * made, count_refs() - refs,
	       read_field("/proc/vmstat", "nr_page_table_pages") - pages);
	close(ends[1]);
	pthread_join(other, NULL);
	ASSERT_GE(made, nr / 4);
	ASSERT_LT(count_refs() - refs, nr);
	ASSERT_LT(read_field("/proc/vmstat", "nr_page_table_pages") - pages, nr);
}

TEST_HARNESS_MAIN
