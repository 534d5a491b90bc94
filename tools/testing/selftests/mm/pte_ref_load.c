// SPDX-License-Identifier: GPL-2.0
/*
 * Everything that writes entries of user PTE tables, at once, on the same tables
 * (CONFIG_FREE_USER_PTE).
 *
 * Each process has a few PTE tables.  Each thread owns pages in all of them, in
 * pieces that alternate with those of its neighbours.  What a page that it owns must
 * contain only its owner knows: a number of its own, or zero.  A thread picks an
 * operation and a part of a piece by its own sequence of random numbers, checks the
 * pages, lets the operation work on them, and checks them again.  What an operation
 * does to all of a table is done under a lock for writing, if it changes what others own.
 *
 * The sequence of operations of a thread is the same for the same seed; how they meet
 * is not.
 *
 * Each operation must have succeeded at least once, and each counter of activity[] must
 * have grown, or the run shows nothing, and fails.  CONFIG_DEBUG_FREE_USER_PTE compares
 * the count of a table with its entries where its lock is dropped, so also in the
 * mincore() that ends a process, and taints the kernel.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <linux/falloc.h>
#include <linux/mempolicy.h>
#include <linux/mman.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include "kselftest.h"
#include "vm_util.h"
#include "pte_ref.h"
#include "../../../../mm/gup_test.h"

#define GUP_TEST	"/sys/kernel/debug/gup_test"
#define THP		"/sys/kernel/mm/transparent_hugepage"
#define SPLIT		"/sys/kernel/debug/split_huge_pages"
#define NODE		"/sys/devices/system/node/node1"
#define RECLAIM		"/sys/devices/system/node/node0/reclaim"

#define MAX_PROCESSES	8
#define MAX_THREADS	8
/* Of a table, and pages of each that are used: few, so that tables become empty. */
#define PIECES		8
#define PIECE_PAGES	16
/* Pages that may be lost to injected memory failures. */
#define MAX_POISONED	100
/* A run without progress for that long does not end. */
#define STUCK_MS	120000
/* What is freed later must be freed after that time. */
#define SETTLE_MS	20000
/* PGDs, which no VmPTE has: of new programs of the machine, or borrowed by a CPU. */
#define OTHER_TABLES	4
/* And what new programs may have. */
#define OTHER_NOTES	2

/* Tables of a process.  Of SCRATCH each thread owns a piece.  SPARE is for a moved table. */
enum { HUGE_ANON = 3, HUGE_SHARED, TABLES, SCRATCH = TABLES, SPARE, ALL_TABLES };
/* In the first three of them pieces alternate. */
enum kind { ANON, SHARED, PRIVATE };

#define PAGES		(TABLES * PIECES * PIECE_PAGES)

/* What an operation returns. */
enum { DONE, NOT_NOW, LACKS, BAD };

/* Flags of an operation: what it works on.  ALONE: nobody else works meanwhile. */
#define ON_ANON		0x1
#define ON_SHARED	0x2
#define ON_SMALL	0x4	/* not where huge pages may be */
#define ALONE		0x8

/* Own pages of a thread. */
struct range {
	int table;
	enum kind kind;
	int first, nr;		/* indices of pages */
	char *p;
	size_t len;
	int advice;		/* of the operation */
};

struct op {
	const char *name;
	int (*func)(struct range *r);
	int weight;
	int flags;
	int advice;
};

/* Shared by all processes. */
static struct report {
	int failed;
	char msg[256];
	int poisoned;
	bool lacks[64];
	unsigned long done[64], tried[64], ms[64];
	unsigned char now[MAX_PROCESSES][MAX_THREADS];
} *report;

static unsigned long seed = 1;
static int nr_processes = 2, nr_threads = 4;
static int weights;		/* of all operations */
static long end_ms, last_ms;
static bool soft_dirty;		/* the kernel has that */

/* Of a process. */
static int process;
static char *area;
static int file, zeroes;	/* of SHARED and of PRIVATE */
static int uffd, pagemap;
static char *buffers;		/* of its threads */
static pthread_rwlock_t lock;
static uint64_t value[PAGES];	/* what a page contains */
static bool lazy[PAGES];	/* MADV_FREE may take that away */

/* Of a thread. */
static __thread int me, op_nr;
static __thread uint64_t rng, generation;
static __thread char *buffer;	/* a piece */

static __printf(1, 2) int bad(const char *fmt, ...)
{
	int err = errno, len;
	va_list args;

	if (!__atomic_exchange_n(&report->failed, 1, __ATOMIC_SEQ_CST)) {
		va_start(args, fmt);
		len = vsnprintf(report->msg, sizeof(report->msg), fmt, args);
		va_end(args);
		snprintf(report->msg + len, sizeof(report->msg) - len,
			 " (process %d, thread %d, operation %d, errno %d)",
			 process, me, op_nr, err);
	}
	return BAD;
}

static unsigned int rnd(unsigned int n)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return (rng >> 32) % n;
}

/* Pages and their contents */

static char *home(int i)
{
	return area + i / PIECE_PAGES * (table_size() / PIECES) + i % PIECE_PAGES * psize();
}

static char *table(int t)
{
	return area + t * table_size();
}

/* Of the calling thread. */
static char *scratch(void)
{
	return table(SCRATCH) + me * (table_size() / PIECES);
}

static enum kind kind_of(int t, int piece)
{
	if (t == HUGE_ANON || t == SCRATCH)
		return ANON;
	return t == HUGE_SHARED ? SHARED : (t + piece) % 3;
}

static uint64_t *last_word(char *p)
{
	return (uint64_t *)(p + psize()) - 1;
}

static void set(char *p, uint64_t v)
{
	*(uint64_t *)p = v;
	*last_word(p) = ~v;
}

/* Page i, which may be elsewhere now, gets new contents. */
static void fill(int i, char *p)
{
	value[i] = (uint64_t)(i + 1) << 32 | ++generation;
	lazy[i] = false;
	set(p, value[i]);
}

static int check_page(int i, char *p)
{
	uint64_t first = FORCE_READ(*(uint64_t *)p), last = FORCE_READ(*last_word(p));

	if (lazy[i] && !last) {
		first = FORCE_READ(*(uint64_t *)p);
		value[i] = 0;
		lazy[i] = false;
	}
	if (first == value[i] && last == (value[i] ? ~value[i] : 0))
		return DONE;
	return bad("page %d of table %d at %p contains %#lx, %#lx instead of %#lx",
		   i % (PIECES * PIECE_PAGES), i / (PIECES * PIECE_PAGES), p,
		   (long)first, (long)last, (long)value[i]);
}

static int check(struct range *r, char *where)
{
	int i, ret = DONE;

	for (i = 0; i < r->nr && !ret; i++)
		ret = check_page(r->first + i, where + i * psize());
	return ret;
}

static void fill_range(struct range *r)
{
	int i;

	for (i = 0; i < r->nr; i++)
		fill(r->first + i, r->p + i * psize());
}

/* These pages contain nothing now. */
static void forget(int first, int nr)
{
	memset(value + first, 0, nr * sizeof(*value));
	memset(lazy + first, 0, nr * sizeof(*lazy));
}

static void zapped(struct range *r)
{
	if (r->kind != SHARED)
		forget(r->first, r->nr);
}

/* Part of a piece that the calling thread owns. */
static void pick(struct range *r, int flags)
{
	int piece;

	do {
		r->table = rnd(TABLES);
		piece = me + nr_threads * rnd(PIECES / nr_threads);
		r->kind = kind_of(r->table, piece);
	} while (((flags & ON_SMALL) && r->table >= HUGE_ANON) ||
		 ((flags & (ON_ANON | ON_SHARED)) &&
		  (r->kind == PRIVATE || !(flags & (r->kind == ANON ? ON_ANON : ON_SHARED)))));
	r->first = rnd(2) ? rnd(PIECE_PAGES) : 0;
	r->nr = r->first ? 1 + rnd(PIECE_PAGES - r->first) : PIECE_PAGES;
	r->first += (r->table * PIECES + piece) * PIECE_PAGES;
	r->p = home(r->first);
	r->len = (size_t)r->nr * psize();
}

static int map(char *p, size_t len, int t, enum kind kind)
{
	int flags = MAP_FIXED | (kind == SHARED ? MAP_SHARED : MAP_PRIVATE);
	int fd = kind == SHARED ? file : zeroes;

	if (kind == ANON)
		flags |= MAP_ANONYMOUS;
	if (mmap(p, len, PROT_READ | PROT_WRITE, flags, kind == ANON ? -1 : fd, p - area) != p)
		return bad("mmap");
	madvise(p, len, t == HUGE_ANON || t == HUGE_SHARED ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	return DONE;
}

static int map_table(int t)
{
	size_t len = table_size() / PIECES;
	int i, ret = DONE;

	if (t == HUGE_ANON || t == HUGE_SHARED)
		return map(table(t), table_size(), t, kind_of(t, 0));
	for (i = 0; i < PIECES && !ret; i++)
		ret = map(table(t) + i * len, len, t, kind_of(t, i));
	return ret;
}

/* A number with its complement, by GUP; false if that is refused with EFAULT. */
static bool transfer(pid_t pid, char *p, uint64_t *data, bool write)
{
	struct iovec local = { data, sizeof(*data) }, remote = { p, sizeof(*data) };
	ssize_t ret = write ? process_vm_writev(pid, &local, 1, &remote, 1, 0) :
			      process_vm_readv(pid, &local, 1, &remote, 1, 0);

	if (ret != sizeof(*data) && (ret >= 0 || (errno != EFAULT && errno != EHWPOISON)))
		bad("process_vm_*v");
	return ret == sizeof(*data);
}

static int expect_fault(struct range *r, bool write)
{
	uint64_t data = 0x5a5a5a5a;
	char *p = r->p + rnd(r->nr) * psize();

	if (transfer(getpid(), p, &data, write))
		return bad("%s of %p succeeds", write ? "write" : "read", p);
	return DONE;
}

/* Operations */

static int op_touch(struct range *r)
{
	int i;

	for (i = 0; i < r->nr; i++)
		if (rnd(2))
			fill(r->first + i, r->p + i * psize());
	return DONE;
}

/* Of the whole range, or page by page. */
static int op_zap(struct range *r)
{
	size_t step = rnd(2) ? psize() : r->len;
	char *p;

	for (p = r->p; p < r->p + r->len; p += step)
		if (madvise(p, step, MADV_DONTNEED))
			return bad("MADV_DONTNEED");
	zapped(r);
	return DONE;
}

/* A page after the other in a table that becomes empty most of the time. */
static int op_churn(struct range *r)
{
	int i, k;
	char *p;

	for (i = 0; i < 10; i++) {
		k = rnd(r->nr);
		p = scratch() + k * psize();
		if (FORCE_READ(*last_word(p)))
			return bad("%p is not zero", p);
		set(p, ++generation);
		if (rnd(4) == 0)
			usleep(rnd(10000));
		if (FORCE_READ(*(uint64_t *)p) != generation || *last_word(p) != ~generation)
			return bad("%p has lost its contents", p);
		if (madvise(p, psize(), MADV_DONTNEED))
			return bad("MADV_DONTNEED");
		if (rnd(4) == 0)
			usleep(rnd(10000));
	}
	return DONE;
}

static int op_free(struct range *r)
{
	int i;

	for (i = 0; i < r->nr; i++)
		lazy[r->first + i] = value[r->first + i];
	if (madvise(r->p, r->len, MADV_FREE) ||
	    (rnd(2) && madvise(r->p, r->len, MADV_PAGEOUT)))
		return bad("MADV_FREE");
	return DONE;
}

/* What leaves the contents as they are. */
static int op_advise(struct range *r)
{
	if (!madvise(r->p, r->len, r->advice))
		return DONE;
	if (errno == EAGAIN || errno == EBUSY)
		return NOT_NOW;
	return bad("madvise");
}

static int op_unmap(struct range *r)
{
	if (munmap(r->p, r->len))
		return bad("munmap");
	zapped(r);
	return map(r->p, r->len, r->table, r->kind);
}

static int op_mprotect(struct range *r)
{
	if (mprotect(r->p, r->len, PROT_NONE) || expect_fault(r, false) ||
	    mprotect(r->p, r->len, PROT_READ) || expect_fault(r, true) || check(r, r->p) ||
	    mprotect(r->p, r->len, PROT_READ | PROT_WRITE))
		return bad("mprotect");
	return DONE;
}

static int op_mlock(struct range *r)
{
	return mlock(r->p, r->len) || munlock(r->p, r->len) ? bad("mlock") : DONE;
}

/* To the scratch table and back.  What is left at home, if anything is, is empty. */
static int op_mremap(struct range *r)
{
	int flags = MREMAP_MAYMOVE | MREMAP_FIXED;
	bool stays = r->kind == ANON && rnd(2);
	char *q = scratch();
	int i;

	if (mremap(r->p, r->len, r->len, flags | (stays ? MREMAP_DONTUNMAP : 0), q) != q)
		/* That is for a single VMA only. */
		return stays && errno == EFAULT ? NOT_NOW : bad("mremap");
	for (i = 0; stays && i < r->nr; i++)
		if (FORCE_READ(r->p[i * psize()]))
			return bad("mremap leaves data");
	if (check(r, q) || mremap(q, r->len, r->len, flags, r->p) != r->p)
		return bad("mremap back");
	return map(q, r->len, SCRATCH, ANON);
}

static int op_gup(struct range *r)
{
	uint64_t data;
	int i;

	for (i = 0; i < r->nr; i++) {
		data = -1;
		if (!transfer(getpid(), r->p + i * psize(), &data, false) ||
		    (data != value[r->first + i] && !lazy[r->first + i]))
			return bad("process_vm_readv: %#lx", (long)data);
		fill(r->first + i, buffer);
		if (!transfer(getpid(), r->p + i * psize(), (uint64_t *)buffer, true) ||
		    !transfer(getpid(), (char *)last_word(r->p + i * psize()),
			      last_word(buffer), true))
			return bad("process_vm_writev");
	}
	return DONE;
}

/* A page that is pinned keeps its contents when its entry is zapped. */
static int op_pin(struct range *r)
{
	struct pin_longterm_test args = { (uint64_t)r->p, r->len, rnd(4) };
	uint64_t to = (uint64_t)buffer;
	int ret, fd = open(GUP_TEST, O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return LACKS;
	fill_range(r);
	if (ioctl(fd, PIN_LONGTERM_TEST_START, &args)) {
		/* What lies in memory that may go away is moved before: not now. */
		ret = errno == ENOMEM ? NOT_NOW : bad("PIN_LONGTERM_TEST_START");
		close(fd);
		return ret;
	}
	if (madvise(r->p, r->len, MADV_DONTNEED) || ioctl(fd, PIN_LONGTERM_TEST_READ, &to))
		ret = bad("gup_test");
	else
		ret = check(r, buffer);
	zapped(r);
	close(fd);
	return ret;
}

static void forked(struct range *r)
{
	struct range s;
	uint64_t data;
	int i;

	/* The parent writes others at the same time. */
	generation += 1 << 30;
	if (check(r, r->p))
		return;
	for (i = 0; i < 4; i++) {
		pick(&s, 0);
		if (check(&s, s.p))
			return;
		if (s.table != r->table && !lazy[s.first] &&
		    (!transfer(getppid(), s.p, &data, false) ||
		     (data != value[s.first] && s.kind == SHARED)))
			bad("process_vm_readv of the parent");
		if (s.kind == SHARED)
			continue;
		if (rnd(2))
			op_zap(&s);
		else
			op_touch(&s);
		if (madvise(s.p, s.len, MADV_PAGEOUT) || check(&s, s.p))
			return;
	}
}

static int op_fork(struct range *r)
{
	pid_t pid = fork();
	int status;

	if (pid < 0)
		return bad("fork");
	if (!pid) {
		forked(r);
		_exit(0);
	}
	if (r->kind != SHARED)
		fill_range(r);
	if (waitpid(pid, &status, 0) != pid || status)
		return bad("child: status %#x", status);
	return DONE;
}

/* userfaultfd: with SIGBUS, GUP gives EFAULT for what it would wait for. */

static int new_uffd(void)
{
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = UFFD_FEATURE_SIGBUS | UFFD_FEATURE_MINOR_SHMEM | UFFD_FEATURE_MOVE |
			    UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM,
	};
	int fd = syscall(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	return fd >= 0 && ioctl(fd, UFFDIO_API, &api) ? -1 : fd;
}

static int op_uffd_missing(struct range *r)
{
	struct uffdio_zeropage zero = { .range = { (uint64_t)r->p, r->len } };
	struct uffdio_copy copy = { .dst = (uint64_t)r->p, .src = (uint64_t)buffer, .len = r->len };
	bool zeroed = rnd(3) == 0;
	int i, ret;

	if (uffd < 0)
		return LACKS;
	/* The ioctls want a single VMA, which a new mapping is. */
	if (op_unmap(r) || uffd_register(uffd, r->p, r->len, true, false, false) || op_zap(r) ||
	    expect_fault(r, false))
		return bad("missing");
	for (i = 0; !zeroed && i < r->nr; i++)
		fill(r->first + i, buffer + i * psize());
	ret = zeroed ? ioctl(uffd, UFFDIO_ZEROPAGE, &zero) : ioctl(uffd, UFFDIO_COPY, &copy);
	if (ret || uffd_unregister(uffd, r->p, r->len))
		return bad("UFFDIO_COPY, UFFDIO_ZEROPAGE");
	return DONE;
}

static int op_uffd_wp(struct range *r)
{
	struct uffdio_writeprotect wp = {
		.range = { (uint64_t)r->p, r->len },
		.mode = UFFDIO_WRITEPROTECT_MODE_WP,
	};
	int advice = r->kind == SHARED && rnd(2) ? MADV_DONTNEED : MADV_PAGEOUT;

	if (uffd < 0)
		return LACKS;
	/* ksmd merges also what is write-protected, and forgets that. */
	if (r->kind == ANON && r->table < HUGE_ANON && madvise(r->p, r->len, MADV_UNMERGEABLE) &&
	    errno != EINVAL)
		return bad("MADV_UNMERGEABLE");
	fill_range(r);
	if (uffd_register(uffd, r->p, r->len, false, true, false) ||
	    ioctl(uffd, UFFDIO_WRITEPROTECT, &wp) || (rnd(2) && madvise(r->p, r->len, advice)) ||
	    expect_fault(r, true) || check(r, r->p))
		return bad("write-protected");
	wp.mode = 0;
	if (ioctl(uffd, UFFDIO_WRITEPROTECT, &wp))
		return bad("UFFDIO_WRITEPROTECT");
	fill_range(r);
	return uffd_unregister(uffd, r->p, r->len) ? bad("UFFDIO_UNREGISTER") : DONE;
}

static int op_uffd_minor(struct range *r)
{
	struct uffdio_continue cont = { .range = { (uint64_t)r->p, r->len } };

	if (uffd < 0)
		return LACKS;
	if (op_unmap(r))
		return BAD;
	fill_range(r);
	if (uffd_register(uffd, r->p, r->len, false, false, true) ||
	    madvise(r->p, r->len, MADV_DONTNEED) || expect_fault(r, false) ||
	    ioctl(uffd, UFFDIO_CONTINUE, &cont) ||
	    /* What is reclaimed now would be a minor fault again. */
	    uffd_unregister(uffd, r->p, r->len))
		return bad("UFFDIO_CONTINUE: %lld", cont.mapped);
	return check(r, r->p);
}

static int op_uffd_move(struct range *r)
{
	struct uffdio_move move = { .dst = (uint64_t)scratch(), .src = (uint64_t)r->p,
				    .len = r->len };
	struct range moved = *r;

	if (uffd < 0)
		return LACKS;
	if (op_unmap(r))
		return BAD;
	fill_range(r);
	if (uffd_register(uffd, scratch(), r->len, true, false, false) ||
	    madvise(scratch(), r->len, MADV_DONTNEED))
		return bad("scratch");
	/* Not what a child of another thread shares. */
	if (ioctl(uffd, UFFDIO_MOVE, &move) && errno != EBUSY && errno != EAGAIN)
		return bad("UFFDIO_MOVE");
	moved.nr = move.move > 0 ? move.move / psize() : 0;
	if (check(&moved, scratch()) || uffd_unregister(uffd, scratch(), r->len) ||
	    madvise(scratch(), r->len, MADV_DONTNEED))
		return bad("moved");
	forget(r->first, moved.nr);
	return moved.nr ? DONE : NOT_NOW;
}

/* The same contents as other pages have. */
static int op_ksm(struct range *r)
{
	int i;

	if (madvise(r->p, r->len, MADV_MERGEABLE))
		return errno == EINVAL ? LACKS : bad("MADV_MERGEABLE");
	/* Nothing but these two words. */
	op_zap(r);
	for (i = 0; i < r->nr; i++) {
		value[r->first + i] = 1 + rnd(2);
		set(r->p + i * psize(), value[r->first + i]);
	}
	return DONE;
}

static int op_collapse(struct range *r)
{
	if (access(THP, F_OK))
		return LACKS;
	r->table = rnd(2) ? HUGE_ANON : HUGE_SHARED;
	return madvise(table(r->table), table_size(), MADV_COLLAPSE) ? NOT_NOW : DONE;
}

static int op_split(struct range *r)
{
	int fd = open(SPLIT, O_WRONLY | O_CLOEXEC), len;
	char buf[64];

	if (fd < 0)
		return LACKS;
	r->table = rnd(2) ? HUGE_ANON : HUGE_SHARED;
	len = snprintf(buf, sizeof(buf), "%d,%p,%p", getpid(), table(r->table),
		       table(r->table + 1));
	len = write(fd, buf, len);
	close(fd);
	return len > 0 ? DONE : NOT_NOW;
}

static int op_soft_dirty(struct range *r)
{
	int i, fd = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
	bool cleared = fd >= 0 && write(fd, "4", 1) == 1;

	close(fd);
	if (!soft_dirty)
		return LACKS;
	if (!cleared)
		return bad("clear_refs");
	fill_range(r);
	for (i = 0; i < r->nr; i++)
		if (!pagemap_is_softdirty(pagemap, r->p + i * psize()))
			return bad("%p is not soft-dirty", r->p + i * psize());
	return DONE;
}

/*
 * Of any memory: what MADV_PAGEOUT began, it ends.  A node with few pages of files or
 * slabs does nothing, unless vm.min_unmapped_ratio or vm.min_slab_ratio is 0.
 */
static int op_reclaim(struct range *r __always_unused)
{
	static const char arg[] = "64K swappiness=max";
	int fd = open(RECLAIM, O_WRONLY | O_CLOEXEC);
	bool done = fd >= 0 && write(fd, arg, strlen(arg)) == strlen(arg);

	close(fd);
	return fd < 0 ? LACKS : done ? DONE : NOT_NOW;
}

static int op_migrate(struct range *r)
{
	int node = rnd(2), nodes[PIECE_PAGES], status[PIECE_PAGES], i;
	void *pages[PIECE_PAGES];

	for (i = 0; i < r->nr; i++) {
		pages[i] = r->p + i * psize();
		nodes[i] = node;
	}
	if (syscall(__NR_move_pages, 0, r->nr, pages, nodes, status, MPOL_MF_MOVE) < 0)
		return access(NODE, F_OK) ? LACKS : NOT_NOW;
	for (i = 0; i < r->nr; i++)
		if (status[i] == node)
			return DONE;
	return NOT_NOW;
}

static int op_punch(struct range *r)
{
	if (rnd(2) ? punch(file, r->p - area, r->len) : madvise(r->p, r->len, MADV_REMOVE))
		return bad("punch");
	forget(r->first, r->nr);
	return DONE;
}

static int op_truncate(struct range *r)
{
	int i;

	if (ftruncate(file, r->p - area) || ftruncate(file, ALL_TABLES * table_size()))
		return bad("ftruncate");
	/* Also what is copied from a page of a file is lost with it: not this one. */
	for (i = r->first; i < PAGES; i++)
		if (kind_of(i / PIECE_PAGES / PIECES, i / PIECE_PAGES % PIECES) == SHARED)
			forget(i, 1);
	return DONE;
}

static int op_guard(struct range *r)
{
	if (madvise(r->p, r->len, MADV_GUARD_INSTALL))
		return errno == EINVAL ? LACKS : bad("MADV_GUARD_INSTALL");
	forget(r->first, r->nr);
	if (expect_fault(r, rnd(2)) || madvise(r->p, r->len, MADV_GUARD_REMOVE))
		return bad("guard");
	return DONE;
}

/* Of one page the memory fails, or is said to fail soon. */
static int op_failure(struct range *r)
{
	if (__atomic_fetch_add(&report->poisoned, 1, __ATOMIC_RELAXED) >= MAX_POISONED)
		return NOT_NOW;
	r->nr = 1;
	fill_range(r);
	if (madvise(r->p, psize(), r->advice)) {
		if (errno == EINVAL || errno == EPERM)
			return LACKS;
		if (r->advice == MADV_SOFT_OFFLINE)
			return NOT_NOW;
		/* Another has taken it off the LRU for a moment.  It may be mapped still. */
		if (errno != EBUSY || madvise(r->p, psize(), MADV_DONTNEED))
			return bad("MADV_HWPOISON");
		forget(r->first, 1);
		return NOT_NOW;
	}
	if (r->advice == MADV_SOFT_OFFLINE)
		return DONE;
	if (expect_fault(r, rnd(2)) || madvise(r->p, psize(), MADV_DONTNEED))
		return bad("poisoned page");
	forget(r->first, 1);
	return DONE;
}

static int check_table(int t, char *where)
{
	int i, first = t * PIECES * PIECE_PAGES, ret = DONE;

	for (i = first; i < first + PIECES * PIECE_PAGES && !ret; i++)
		ret = check_page(i, where + (home(i) - table(t)));
	return ret;
}

static int op_move_table(struct range *r)
{
	int flags = MREMAP_MAYMOVE | MREMAP_FIXED;
	char *p = table(r->table), *q = table(SPARE);
	size_t len = table_size();

	if (mremap(p, len, len, flags, q) != q || check_table(r->table, q) ||
	    mremap(q, len, len, flags, p) != p || check_table(r->table, p))
		return bad("mremap of table %d", r->table);
	if (mmap(q, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE,
		 -1, 0) != q)
		return bad("mmap");
	return DONE;
}

/* By one zap, or by new mappings. */
static int op_zap_table(struct range *r)
{
	int piece, first;

	if (rnd(2) ? map_table(r->table) :
		     madvise(table(r->table), table_size(), MADV_DONTNEED))
		return bad("zap of table %d", r->table);
	for (piece = 0; piece < PIECES; piece++) {
		first = (r->table * PIECES + piece) * PIECE_PAGES;
		if (kind_of(r->table, piece) != SHARED)
			forget(first, PIECE_PAGES);
	}
	return check_table(r->table, table(r->table));
}

#define OP(n, f, w, ...) { .name = n, .func = f, .weight = w, ##__VA_ARGS__ }

static const struct op ops[] = {
	OP("touch", op_touch, 20),
	OP("zap", op_zap, 40),
	OP("churn", op_churn, 10),
	OP("MADV_FREE", op_free, 6, .flags = ON_ANON),
	OP("MADV_PAGEOUT", op_advise, 8, .advice = MADV_PAGEOUT),
	OP("MADV_COLD", op_advise, 1, .advice = MADV_COLD),
	OP("MADV_WILLNEED", op_advise, 2, .advice = MADV_WILLNEED),
	OP("MADV_POPULATE_READ", op_advise, 3, .advice = MADV_POPULATE_READ),
	OP("MADV_POPULATE_WRITE", op_advise, 3, .advice = MADV_POPULATE_WRITE),
	OP("reclaim", op_reclaim, 2),
	OP("munmap", op_unmap, 4),
	OP("mprotect", op_mprotect, 5),
	OP("mlock", op_mlock, 2),
	OP("mremap", op_mremap, 6),
	OP("process_vm_readv", op_gup, 5),
	OP("pin", op_pin, 4),
	OP("fork", op_fork, 3),
	OP("uffd missing", op_uffd_missing, 5, .flags = ON_ANON),
	OP("uffd wp", op_uffd_wp, 5, .flags = ON_ANON | ON_SHARED),
	OP("uffd minor", op_uffd_minor, 4, .flags = ON_SHARED),
	OP("uffd move", op_uffd_move, 4, .flags = ON_ANON),
	OP("KSM", op_ksm, 6, .flags = ON_ANON | ON_SMALL),
	OP("MADV_UNMERGEABLE", op_advise, 1, .flags = ON_ANON | ON_SMALL,
	   .advice = MADV_UNMERGEABLE),
	OP("MADV_COLLAPSE", op_collapse, 3),
	OP("THP split", op_split, 2),
	OP("soft-dirty", op_soft_dirty, 1, .flags = ALONE),
	OP("move_pages", op_migrate, 4),
	OP("hole", op_punch, 5, .flags = ON_SHARED),
	OP("truncate", op_truncate, 1, .flags = ON_SHARED | ALONE),
	OP("guard", op_guard, 3, .flags = ON_ANON),
	OP("MADV_SOFT_OFFLINE", op_failure, 1, .flags = ON_ANON, .advice = MADV_SOFT_OFFLINE),
	OP("MADV_HWPOISON", op_failure, 1, .flags = ON_ANON | ON_SMALL, .advice = MADV_HWPOISON),
	OP("mremap of a table", op_move_table, 1, .flags = ALONE),
	OP("zap of a table", op_zap_table, 4, .flags = ALONE),
};

static bool ksm_is_on(void)
{
	return read_number("/sys/kernel/mm/ksm/run", -1) == 1;
}

static bool numa_is_on(void)
{
	return read_number("/proc/sys/kernel/numa_balancing", -1) > 0 &&
	       !access(NODE, F_OK);
}

/* Counters of /proc/vmstat that must grow, if something is on. */
static struct activity {
	const char *name;
	bool (*on)(void);
	long was;
} activity[] = {
	{ .name = "pte_ref_free" },
	{ .name = "pte_ref_free_deferred" },
	{ .name = "pglazyfreed" },
	{ .name = "pswpout", .on = swap_is_on },
	{ .name = "cow_ksm", .on = ksm_is_on },
	{ .name = "numa_hint_faults", .on = numa_is_on },
	{ .name = "pgmigrate_success", .on = numa_is_on },
	{ .name = "thp_collapse_alloc" },
	{ .name = "thp_split_page" },
	{ .name = "thp_split_pmd" },
};

static long most_refs;

static long counter(const char *word)
{
	return read_field("/proc/vmstat", word);
}

/* In use, of a slab, without those that each CPU keeps for later; -1 without pte_ref. */
static long slab_objects(const char *cache)
{
	char name[64];
	int fd;

	snprintf(name, sizeof(name), "/sys/kernel/slab/%s/shrink", cache);
	fd = open(name, O_WRONLY | O_CLOEXEC);
	if (fd >= 0 && write(fd, "1", 1) != 1)
		ksft_perror(name);
	close(fd);
	snprintf(name, sizeof(name), "/sys/kernel/slab/%s/objects", cache);
	return read_number(name, -1);
}

/* Page tables that no process has. */
static long tables(void)
{
	DIR *dir = opendir("/proc");
	struct dirent *entry;
	long kb, sum = 0;
	char name[300];
	int fd;

	fd = open("/proc/sys/vm/stat_refresh", O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, "1", 1) != 1)
		ksft_perror("stat_refresh");
	close(fd);
	while (dir && (entry = readdir(dir))) {
		snprintf(name, sizeof(name), "/proc/%s/status", entry->d_name);
		kb = atoi(entry->d_name) ? read_field(name, "VmPTE") : 0;
		sum += kb > 0 ? kb : 0;
	}
	closedir(dir);
	return counter("nr_page_table_pages") - sum * 1024 / psize();
}

/* Processes and threads */

static int one_op(void)
{
	const struct op *op = ops;
	struct range r;
	long start;
	int n, ret;

	for (n = rnd(weights); n >= op->weight; op++)
		n -= op->weight;
	op_nr = op - ops;
	report->now[process][me] = op_nr;
	pick(&r, op->flags);
	r.advice = op->advice;
	if (report->lacks[op_nr])
		return DONE;
	if (op->flags & ALONE)
		pthread_rwlock_wrlock(&lock);
	else
		pthread_rwlock_rdlock(&lock);
	start = now_ms();
	ret = check(&r, r.p);
	if (!ret)
		ret = op->func(&r);
	if (ret == LACKS)
		report->lacks[op_nr] = true;
	if (ret != BAD && check(&r, r.p))
		ret = BAD;
	pthread_rwlock_unlock(&lock);
	__atomic_fetch_add(&report->ms[op_nr], now_ms() - start, __ATOMIC_RELAXED);
	__atomic_fetch_add(&report->tried[op_nr], 1, __ATOMIC_RELAXED);
	if (ret == DONE)
		__atomic_fetch_add(&report->done[op_nr], 1, __ATOMIC_RELAXED);
	return ret;
}

/* On a slow machine that may take longer than was asked for. */
static bool all_done(void)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(ops); i++)
		if (!FORCE_READ(report->done[i]) && !FORCE_READ(report->lacks[i]))
			return false;
	for (i = 0; i < ARRAY_SIZE(activity); i++)
		if (activity[i].was >= 0 && counter(activity[i].name) <= activity[i].was)
			return false;
	return true;
}

static void *thread(void *arg)
{
	me = (long)arg;
	rng = seed * 1000003 + process * 1009 + me + 1;
	rng *= 0x9e3779b97f4a7c15ULL;
	buffer = buffers + me * PIECE_PAGES * psize();
	while (!report->failed && (now_ms() < end_ms || !(all_done() || now_ms() > last_ms)))
		if (one_op() == BAD)
			break;
	return NULL;
}

/* Injected failures tell the process; other signals of that kind end it. */
static void sigbus(int sig, siginfo_t *info, void *context __always_unused)
{
	if (info->si_code != BUS_MCEERR_AR && info->si_code != BUS_MCEERR_AO)
		signal(sig, SIG_DFL);
}

static void run_process(void)
{
	struct sigaction action = { .sa_sigaction = sigbus, .sa_flags = SA_SIGINFO };
	size_t len = ALL_TABLES * table_size();
	pthread_t threads[MAX_THREADS];
	unsigned char vec[1024];
	pthread_rwlockattr_t attr;
	long i;
	int t;

	sigaction(SIGBUS, &action, NULL);
	pthread_rwlockattr_init(&attr);
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&lock, &attr);
	area = mmap(NULL, len + table_size(), PROT_NONE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	area = (char *)(((unsigned long)area + table_size() - 1) & ~(table_size() - 1));
	file = memfd_create("pte_ref_load", MFD_CLOEXEC);
	zeroes = memfd_create("pte_ref_load zeroes", MFD_CLOEXEC);
	if (ftruncate(file, len) || ftruncate(zeroes, len))
		bad("memfd");
	pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uffd = new_uffd();
	for (t = 0; t <= SCRATCH; t++)
		map_table(t);
	/*
	 * Before there is a thread, which may have unmapped just as much for a moment: there
	 * this would be mapped, and then what it maps there again.
	 */
	buffers = mmap(NULL, nr_threads * PIECE_PAGES * psize(), PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (buffers == MAP_FAILED)
		bad("mmap");
	for (i = 0; i < nr_threads; i++)
		if (pthread_create(&threads[i], NULL, thread, (void *)i))
			bad("pthread_create");
	for (i = 0; i < nr_threads; i++)
		pthread_join(threads[i], NULL);
	for (t = 0; t < TABLES && !report->failed; t++)
		check_table(t, table(t));
	/* Recounts each table. */
	for (t = 0; t <= SCRATCH; t++)
		for (i = 0; i < table_size() / psize(); i += sizeof(vec))
			mincore(table(t) + i * psize(),
				psize() * (table_size() / psize() < sizeof(vec) ?
					   table_size() / psize() : sizeof(vec)), vec);
	_exit(report->failed);
}

static unsigned long all_tried(void)
{
	unsigned long sum = 0;
	int i;

	for (i = 0; i < ARRAY_SIZE(ops); i++)
		sum += __atomic_load_n(&report->tried[i], __ATOMIC_RELAXED);
	return sum;
}

static void show_stuck(void)
{
	int i, t;

	for (i = 0; i < nr_processes; i++)
		for (t = 0; t < nr_threads; t++)
			ksft_print_msg("process %d, thread %d: %s\n", i, t,
				       ops[report->now[i][t]].name);
}

/* Waits for all; kills them if nothing moves any more. */
static void wait_for(pid_t *pid)
{
	long beat = now_ms();
	unsigned long was = 0;
	long nr;
	int i, status, killed = 0, left = nr_processes;

	while (left) {
		usleep(50000);
		if (all_tried() != was)
			beat = now_ms();
		was = all_tried();
		nr = read_number("/sys/kernel/slab/pte_ref/objects", -1);
		if (nr > most_refs)
			most_refs = nr;
		if (now_ms() - beat > STUCK_MS) {
			show_stuck();
			if (bad("no progress for %d s", STUCK_MS / 1000) && killed++)
				ksft_exit_fail_msg("seed %lu: %s\n", seed, report->msg);
			for (i = 0; i < nr_processes; i++)
				if (pid[i])
					kill(pid[i], SIGKILL);
			beat = now_ms();
		}
		for (i = 0; i < nr_processes; i++) {
			if (!pid[i] || waitpid(pid[i], &status, WNOHANG) != pid[i])
				continue;
			if (status && !report->failed) {
				bad("process %d ends with status %#x", i, status);
				show_stuck();
			}
			pid[i] = 0;
			left--;
		}
	}
}

int main(int argc, char **argv)
{
	pid_t pid[MAX_PROCESSES] = {};
	long taint, now, nr_tables, nr_refs, nr_notes, left, refs, notes;
	long seconds = 10, end, n;
	struct activity *a;
	int i, opt;

	while ((opt = getopt(argc, argv, "t:s:p:n:")) != -1) {
		n = optarg ? atol(optarg) : 0;
		if (opt == 't')
			seconds = n;
		else if (opt == 's')
			seed = n;
		else if (opt == 'p')
			nr_processes = n;
		else if (opt == 'n')
			nr_threads = n;
		else
			n = 0;
		if (n < 1 || nr_processes > MAX_PROCESSES || nr_threads > MAX_THREADS) {
			fprintf(stderr, "%s [-t SECONDS] [-s SEED] [-p PROCESSES] [-n THREADS]\n",
				argv[0]);
			return KSFT_FAIL;
		}
	}

	ksft_print_header();
	ksft_set_plan(1 + ARRAY_SIZE(ops) + ARRAY_SIZE(activity) + 4);
	ksft_print_msg("seed %lu, %ld s, %d processes, %d threads each\n", seed, seconds,
		       nr_processes, nr_threads);
	report = mmap(NULL, sizeof(*report), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		      -1, 0);
	if (report == MAP_FAILED)
		ksft_exit_fail_perror("mmap");
	for (i = 0; i < ARRAY_SIZE(ops); i++)
		weights += ops[i].weight;
	for (a = activity; a < activity + ARRAY_SIZE(activity); a++)
		a->was = !a->on || a->on() ? counter(a->name) : -1;
	taint = read_number("/proc/sys/kernel/tainted", -1);
	/* What ran before may not be gone yet. */
	for (i = 0, nr_tables = LONG_MAX; i < 10; i++, usleep(100000))
		if (tables() < nr_tables)
			nr_tables = tables();
	nr_refs = slab_objects("pte_ref");
	nr_notes = slab_objects("pte_ref_notes");
	soft_dirty = softdirty_supported();
	end_ms = now_ms() + seconds * 1000;
	/* Of a kernel with a sanitizer 30 seconds may not be enough. */
	last_ms = end_ms + 9 * (seconds > 30 ? seconds : 30) * 1000;
	fflush(stdout);
	for (process = 0; process < nr_processes; process++) {
		pid[process] = fork();
		if (!pid[process])
			run_process();
		if (pid[process] < 0)
			ksft_exit_fail_perror("fork");
	}
	wait_for(pid);

	if (report->failed)
		show_stuck();
	if (report->failed)
		ksft_print_msg("seed %lu: %s\n", seed, report->msg);
	ksft_test_result(!report->failed, "contents\n");
	for (i = 0; i < ARRAY_SIZE(ops); i++) {
		if (report->lacks[i])
			ksft_test_result_skip("%s: not on this kernel\n", ops[i].name);
		else
			ksft_test_result(report->done[i], "%s: done %lu of %lu times, in %lu ms\n",
					 ops[i].name, report->done[i], report->tried[i],
					 report->ms[i]);
	}
	for (a = activity; a < activity + ARRAY_SIZE(activity); a++) {
		if (a->was < 0)
			ksft_test_result_skip("%s: not counted, or off\n", a->name);
		else
			ksft_test_result(counter(a->name) > a->was, "%s: %ld\n", a->name,
					 counter(a->name) - a->was);
	}
	end = now_ms() + SETTLE_MS;
	do {
		usleep(100000);
		left = tables();
		refs = slab_objects("pte_ref");
		notes = slab_objects("pte_ref_notes");
	} while (now_ms() < end && (left > nr_tables + OTHER_TABLES || refs > nr_refs ||
				    notes > nr_notes + OTHER_NOTES));
	ksft_test_result(left <= nr_tables + OTHER_TABLES,
			 "page tables that no process has: %ld, then %ld\n", nr_tables, left);
	if (nr_refs < 0) {
		ksft_test_result_skip("refs: not on this kernel\n");
		ksft_test_result_skip("notes: not on this kernel\n");
	} else {
		ksft_test_result(most_refs > nr_refs && refs <= nr_refs,
				 "refs: %ld, at most %ld, then %ld\n", nr_refs, most_refs, refs);
		ksft_test_result(notes <= nr_notes + OTHER_NOTES, "notes: %ld, then %ld\n",
				 nr_notes, notes);
	}
	now = read_number("/proc/sys/kernel/tainted", -1);
	ksft_test_result(now == taint, "taint: %#lx, then %#lx\n", taint, now);
	ksft_finished();
}
