// SPDX-License-Identifier: GPL-2.0
/*
 * A race with the free of an empty PTE table is invisible to user space
 * (CONFIG_FREE_USER_PTE).
 *
 * A victim is an operation that needs a PTE table, or looks at one.  Whatever
 * happens to the table while it works, it must answer as if it were alone: no
 * error, no lost data or marker, and it must end.
 *
 * Without options each victim runs alone, and CONFIG_FAIL_PTE_TABLE frees the
 * table under it: at the first point where it maps or has just allocated one, then
 * at the second one, and so on until the operation meets no more points
 * (/proc/self/fail-nth); then at the points between a map and the lock.  That is
 * certain to find a caller that relies on the table.
 *
 * With -t, threads do what frees the table on a running system: attackers empty
 * it again and again, for some seconds, and the program prints how much slower that
 * makes the victim.  This mode needs nothing of the kernel; delay-us and probability
 * in /sys/kernel/debug/fail_pte_table make it more severe.
 *
 * A case during which no table is freed tests nothing, and fails, unless it is in
 * spared[].  What was freed the kernel counts in /proc/vmstat, for the whole system:
 * so nothing else should be running.
 *
 * Each case has a process of its own, so that a signal or a system call that does
 * not end is an answer as well.
 *
 * Memory of a case: one or two ranges that a PTE table maps.  The upper half of
 * each is the victim's, the lower half belongs to neighbours, which are other VMAs.
 * They are lower so that fork() has linked them to their file when it copies the
 * victim's entries: truncate finds them in the child by then.  If the attacker
 * works on the victim's own memory, or if the victim needs a whole table, all is the
 * victim's; so its zaps can cover whole tables, which is when CONFIG_PT_RECLAIM
 * frees one.
 *
 * Not here: modify_ldt(), whose table has no VMA in its range, and is written only
 * with page table isolation; TCP zerocopy receive, which maps pages as insert_pages
 * does, and over a loopback device finds none that it would map.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/futex.h>
#include <linux/mman.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include "kselftest.h"
#include "vm_util.h"
#include "pte_ref.h"
#include "../../../../mm/gup_test.h"
#include "../../../../lib/test_hmm_uapi.h"
#include "../../../../lib/test_vm_insert_uapi.h"

#define GUP_TEST	"/sys/kernel/debug/gup_test"
#define FAILSLAB	"/sys/kernel/debug/failslab"
#define FAIL_PTE_TABLE	"/sys/kernel/debug/fail_pte_table"
#define FAIL_PAGE_ALLOC	"/sys/kernel/debug/fail_page_alloc"
#define LRU_GEN		"/sys/kernel/debug/lru_gen"
#define LRU_GEN_ENABLED	"/sys/kernel/mm/lru_gen/enabled"

/* What makes no progress for that long does not end (-w, in seconds). */
static long stuck_ms = 10000;
/* No operation here has so many points. */
#define MAX_POINTS	20000
/* More refs are never asked for. */
#define MAX_REFUSED	"1000000"
/* How often they are gone through, and for stuck_ms, if no table is freed at any. */
#define NTH_TRIES	10
/* Pages of a victim. */
#define MAX_PAGES	128
/* Pages of a neighbour. */
#define NEIGHBOUR_PAGES	8
#define MAX_ATTACKERS	2
/* For each attack so many pages could be touched and zapped, at most. */
#define ATTACKS_SHARE	100
/* For each table that is freed so many could be, one after the other, at most. */
#define FREED_SHARE	100
/* A pair runs for so long, at least, and so many times longer if that is not reached. */
#define PAIR_MS		1000
#define LONGER		10
/* Larger huge pages are more than a test may ask for. */
#define HUGE_PAGE_MAX	(32 << 20)

/* There may be no room for two tables that map more. */
#define SPAN_MAX	BIT_ULL(40)

/* Bits of /proc/kpageflags.  A lost page has two of those of KPF_LOST. */
#define KPF_LRU		BIT_ULL(5)
#define KPF_SLAB	BIT_ULL(7)
#define KPF_BUDDY	BIT_ULL(10)
#define KPF_MMAP	BIT_ULL(11)
#define KPF_ANON	BIT_ULL(12)
#define KPF_SWAPCACHE	BIT_ULL(13)
#define KPF_SWAPBACKED	BIT_ULL(14)
#define KPF_LOST	(KPF_LRU | KPF_SLAB | KPF_BUDDY | KPF_MMAP | KPF_ANON |	\
			 KPF_SWAPCACHE | KPF_SWAPBACKED)

/* Attackers */
#define OWN		0x01
#define NEIGHBOUR	0x02
#define TRUNCATE	0x04
#define PUNCH		0x08
#define OTHERS		(NEIGHBOUR | TRUNCATE | PUNCH)
#define ALL		(OWN | OTHERS)

/* Properties of a victim */
#define TWO_TABLES	0x01
#define WHOLE_TABLE	0x02	/* no neighbours */
#define OWN_FILE	0x04	/* truncate and punch attack its file as well */
#define EXACT_OWN	0x08	/* a zap of its own memory loses nothing */
#define FILLED		0x20	/* its file has data from the start */
#define MAY_BE_ABSENT	0x40	/* what is lost cannot be read, instead of zero */
#define MAKES_NONE	0x80	/* only looks at a table, makes none */
#define EMPTY		0x100	/* so attacker own makes one, beside its pages */
#define UNDER_LOCK	0x200	/* maps an empty table under the lock of another only */
#define FILLS_MADE	0x400	/* no point between the table that it makes and its entry */
#define HOLDS		0x800	/* its fault holds the table that it makes, by a ref */
#define REFUSED		0x1000	/* what is injected are allocations that fail */
#define ALL_REFUSED	0x2000	/* that one and all after it, of pages */
#define TAKEN		0x4000	/* instead, at its first points a thread takes all away */

/* What setup_wp_refused() wants two of */
enum table { PMD_TABLE, PUD_TABLE };

/* What the victim has in vma[] */
enum memory { NOTHING, ANON, SHARED, PRIVATE, DISK, DEVICE };

struct victim {
	const char *name;
	const char *group;
	enum memory memory;
	uint64_t uffd_mode;	/* how it is registered with userfaultfd, if it is */
	uint64_t uffd_features;
	int (*setup)(void);	/* once, after that; 0 or what bad() or skip() give */
	int (*prepare)(void);	/* before each operation, no part of it */
	int (*op)(void);
	int (*check)(void);	/* the answer */
	int (*undo)(void);	/* leave nothing; undo_zap() if not given */
	int (*finish)(void);	/* once */
	int advice;		/* of op_advise() */
	unsigned long cmd;	/* of op_dev(), op_gup_pin() and setup_wp_refused() */
	enum test_vm_insert_kind kind;
	unsigned int attackers;
	unsigned int flags;
	int pages;		/* 4 if not given */
};

struct attacker {
	const char *name;
	unsigned int bit;
	void (*round)(int nr, unsigned long round);
};

/* A case during which no table can be freed. */
struct spared {
	const char *name;
	const char *why;
};

enum outcome { RUNNING, PASS, FAIL, SKIP };

/* A table is freed before it is mapped, or between that and its lock. */
enum where { BEFORE, MAPPED };

/* What the process of a case tells. */
struct report {
	enum outcome outcome;
	char msg[256];
	long beat;		/* ms, of the last sign of life */
	unsigned int n;		/* point that is tried */
	enum where where;	/* of its map a point is */
	int state;		/* from which state of the tables */
	unsigned int points[2][2];	/* that were met, by these two */
	unsigned int hits[2][2];	/* those of them that freed a table */
	unsigned long rounds;
	unsigned long attacks;
	double alone, attacked;	/* rounds per second */
	long freed;		/* tables, by the whole system; -1 if not known */
	unsigned long attacks_floor;
	long freed_floor;
	char large_was[16];	/* a setting that the case has changed, and others */
	struct setting {
		const char *name;
		char was[16];
	} settings[16];
	int nr_settings;
};

/*
 * The machine: pages that a thread can touch and zap in a second; ms after which the
 * deferred work frees a table, 0 if the kernel does not count what it frees.
 */
static double zaps_per_s;
static long deferred_ms;

static struct report *report;
static bool nth_mode;
static bool no_refs;
static int nr_attackers = 1;

/* The case, in its process. */
static const struct victim *victim;
static const struct attacker *attacker;
static const char *spared_why;	/* if it is in spared[] */
static int nr_tables;
static char *table[2];
static char *vma[2];		/* where the victim's VMAs may be */
static size_t vma_len;
static char *p, *q;		/* pages of the operation: in vma[0], in vma[1] */
static int np;			/* number of pages */
static char *anon_neighbour[MAX_ATTACKERS][2];
static char *file_neighbour[MAX_ATTACKERS][2];
static int neighbour_fd[MAX_ATTACKERS];
static int file = -1;		/* of the victim */
static int uffd = -1;
static int dev = -1;
static int pagemap = -1;
static bool lossy;		/* the attacker may take away data legitimately */
static bool stop;
static int cpu[2];		/* the victim's, and another */
static uint64_t salt;		/* makes the data of each round differ */
static char *buffer;		/* pages that are always there */
static char *unreadable;	/* a page that never is */
static pid_t child;

static size_t bytes(void)
{
	return (size_t)np * psize();
}

/* The first outcome counts. */
static __printf(2, 3) int say(enum outcome outcome, const char *fmt, ...)
{
	va_list args;

	if (report->outcome == RUNNING) {
		va_start(args, fmt);
		vsnprintf(report->msg, sizeof(report->msg), fmt, args);
		va_end(args);
		report->outcome = outcome;
	}
	return -1;
}

#define bad(...)	say(FAIL, __VA_ARGS__)	/* a wrong answer */
#define skip(...)	say(SKIP, __VA_ARGS__)	/* the kernel lacks something */
#define bad_errno(what)	bad("%s: %s", what, strerror(errno))

static long read_vmstat(const char *word)
{
	return read_field("/proc/vmstat", word);
}

/* By zaps and by fault injection; -1 if the kernel does not count them. */
static long freed_at_once(void)
{
	return read_vmstat("pte_ref_free");
}

static long tables_freed(void)
{
	return freed_at_once() + read_vmstat("pte_ref_free_deferred");
}

static int write_word(const char *name, const char *word)
{
	int fd = open(name, O_WRONLY | O_CLOEXEC);
	ssize_t len = strlen(word);
	bool ok = fd >= 0 && write(fd, word, len) == len;

	if (!ok)
		bad_errno(name);
	if (fd >= 0)
		close(fd);
	return ok ? 0 : -1;
}

/* The end of the case puts it back, see settings_back(). */
static int change(const char *name, const char *word)
{
	struct setting *s = &report->settings[report->nr_settings];
	int fd = open(name, O_RDONLY | O_CLOEXEC);
	ssize_t len = fd < 0 ? -1 : read(fd, s->was, sizeof(s->was) - 1);

	if (len <= 0)
		bad_errno(name);
	if (fd >= 0)
		close(fd);
	if (len <= 0)
		return -1;
	s->was[strcspn(s->was, "\n")] = 0;
	s->name = name;
	report->nr_settings++;
	return write_word(name, word);
}

/* Mappings */

static void *map_fixed(char *addr, size_t len, int prot, int flags, int fd, off_t off)
{
	char *ret = mmap(addr, len, prot, flags | MAP_FIXED, fd, off);

	/* Fails without CONFIG_TRANSPARENT_HUGEPAGE, where it is not needed. */
	if (ret != MAP_FAILED && prot != PROT_NONE)
		madvise(ret, len, MADV_NOHUGEPAGE);
	return ret;
}

static int map_anon(char *addr, size_t len)
{
	if (map_fixed(addr, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) ==
	    MAP_FAILED)
		return bad_errno("mmap");
	return 0;
}

static int map_file(char *addr, size_t len, int flags, int fd, off_t off)
{
	if (map_fixed(addr, len, PROT_READ | PROT_WRITE, flags, fd, off) == MAP_FAILED)
		return bad_errno("mmap of a file");
	return 0;
}

/* Back to what init_memory() reserved. */
static int unmap(char *addr, size_t len)
{
	if (map_fixed(addr, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) ==
	    MAP_FAILED)
		return bad_errno("mmap of nothing");
	return 0;
}

static int new_file(size_t len)
{
	int fd = memfd_create("pte_ref_race", MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, len))
		return bad_errno("memfd");
	return fd;
}

static bool whole_tables(void)
{
	return victim->flags & WHOLE_TABLE || (attacker && attacker->bit == OWN);
}

static bool in_one_table(char *a, char *b)
{
	return (unsigned long)a / table_size() == (unsigned long)b / table_size();
}

static int init_neighbours(void)
{
	size_t len = NEIGHBOUR_PAGES * psize();
	int i, t;

	for (i = 0; i < MAX_ATTACKERS; i++) {
		neighbour_fd[i] = new_file(2 * len);
		if (neighbour_fd[i] < 0)
			return -1;
		for (t = 0; t < nr_tables; t++) {
			/* A page apart, so that they are not merged. */
			char *a = table[t] + i * (len + psize());
			char *f = a + table_size() / 4;

			anon_neighbour[i][t] = a;
			file_neighbour[i][t] = f;
			if (!in_one_table(a, t ? q : p) || !in_one_table(f, t ? q : p))
				return bad("a neighbour is not in the victim's table");
			if (map_anon(a, len) ||
			    map_file(f, len, MAP_SHARED, neighbour_fd[i], t * len))
				return -1;
		}
	}
	return 0;
}

static int init_memory(void)
{
	size_t len = 8 * table_size();
	char *start;
	int t;

	start = mmap(NULL, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	buffer = mmap(NULL, MAX_PAGES * psize(), PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (start == MAP_FAILED || buffer == MAP_FAILED)
		return bad_errno("mmap");
	start = (char *)(((unsigned long)start + table_size() - 1) & ~(table_size() - 1));
	unreadable = start + 6 * table_size();

	nr_tables = victim->flags & TWO_TABLES ? 2 : 1;
	np = victim->pages ?: 4;
	for (t = 0; t < 2; t++) {
		table[t] = start + (2 * t + 1) * table_size();
		vma[t] = table[t];
		vma_len = table_size();
		if (!whole_tables()) {
			vma[t] += table_size() / 2;
			vma_len -= table_size() / 2;
		}
	}
	p = vma[0] + 16 * psize();
	q = vma[1] + 16 * psize();
	pagemap = open("/proc/self/pagemap", O_RDONLY);
	if (pagemap < 0)
		return bad_errno("pagemap");
	lossy = attacker &&
		((attacker->bit == OWN && !(victim->flags & EXACT_OWN)) ||
		 (attacker->bit == PUNCH && victim->flags & OWN_FILE));
	return whole_tables() ? 0 : init_neighbours();
}

static void zap(char *start, size_t len)
{
	struct test_vm_insert_cmd cmd = { .addr = (unsigned long)p, .nr = np };

	/* Some victims have no VMA there at times. */
	if (victim->memory == DEVICE)
		ioctl(dev, TEST_VM_INSERT_ZAP, &cmd);
	else
		madvise(start, len, MADV_DONTNEED);
}

/* Does the attacker free tables itself, also those that nothing counts? */
static bool frees_itself(const struct victim *v, const struct attacker *a)
{
	return a->bit == OWN && v->memory != DEVICE;
}

static bool frees_at_once(void)
{
	return attacker && frees_itself(victim, attacker);
}

/* Where the attacker covers tables we do not, so that what is freed at once is its doing. */
static void zap_vmas(void)
{
	size_t len = frees_at_once() ? vma_len / 2 : vma_len;
	int t;

	for (t = 0; t < nr_tables; t++) {
		zap(vma[t], len);
		if (len < vma_len)
			zap(vma[t] + len, len);
	}
}

static int undo_zap(void)
{
	zap_vmas();
	return 0;
}

static int undo_punch(void)
{
	zap_vmas();
	return punch(file, 0, vma_len) ? bad_errno("punch a hole") : 0;
}

/* Data */

static uint64_t *word(char *start, int i)
{
	return (uint64_t *)(start + (size_t)i * psize());
}

static uint64_t want(int i)
{
	return salt + i * 0x100000001ULL;
}

static void new_data(void)
{
	salt = (salt + 0x5a5a000000ULL) | 1;
}

static int fill(void)
{
	int i;

	new_data();
	for (i = 0; i < np; i++)
		*word(p, i) = want(i);
	return 0;
}

static int check_word(int i, uint64_t got, uint64_t expected)
{
	if (got == expected || (lossy && !got))
		return 0;
	return bad("page %d has %#llx, not %#llx", i, (unsigned long long)got,
		   (unsigned long long)expected);
}

/* By access, which may raise a signal. */
static int check_at(char *start)
{
	int i;

	for (i = 0; i < np; i++)
		if (check_word(i, FORCE_READ(*word(start, i)), want(i)))
			return -1;
	return 0;
}

static int check_data(void)
{
	return check_at(p);
}

static int check_zero(void)
{
	int i;

	for (i = 0; i < np; i++)
		if (check_word(i, FORCE_READ(*word(p, i)), 0))
			return -1;
	return 0;
}

/* Read a word as user mode would; an error number instead of a signal. */
static int peek(void *from, uint64_t *val)
{
	struct iovec local = { .iov_base = from, .iov_len = sizeof(*val) };
	struct iovec remote = { .iov_base = val, .iov_len = sizeof(*val) };

	if (process_vm_writev(getpid(), &local, 1, &remote, 1, 0) == sizeof(*val))
		return 0;
	return errno;
}

/* peek() at page i must find the data @first + i. */
static int check_peek(char *start, uint64_t first, uint64_t step)
{
	uint64_t val;
	int i, err;

	for (i = 0; i < np; i++) {
		err = peek(word(start, i), &val);
		if (err && lossy && victim->flags & MAY_BE_ABSENT)
			continue;
		if (err)
			return bad("page %d cannot be read: %s", i, strerror(err));
		if (check_word(i, val, first + i * step))
			return -1;
	}
	return 0;
}

static int check_peek_data(void)
{
	return check_peek(p, want(0), want(1) - want(0));
}

static int check_peek_zero(void)
{
	return check_peek(p, 0, 0);
}

static int check_unreadable(void)
{
	uint64_t val;
	int i;

	for (i = 0; i < np; i++)
		if (peek(word(p, i), &val) != EFAULT && !lossy)
			return bad("page %d can be read", i);
	return 0;
}

static int read_pagemap(char *start, uint64_t *entry)
{
	ssize_t len = np * sizeof(*entry);

	return pread(pagemap, entry, len, (unsigned long)start / psize() * sizeof(*entry)) == len ?
	       0 : bad_errno("read pagemap");
}

/* Each page has these bits in /proc/self/pagemap. */
static int check_pagemap(char *start, uint64_t bits, const char *what)
{
	uint64_t entry[MAX_PAGES];
	int i;

	if (read_pagemap(start, entry))
		return -1;
	for (i = 0; i < np; i++)
		if ((entry[i] & bits) != bits && !lossy)
			return bad("page %d of %d is not %s", i, np, what);
	return 0;
}

/* Setup */

static int fill_file(void)
{
	int first = (p - vma[0]) / psize();
	int i;

	/* What the victim reads, and as much around it. */
	new_data();
	for (i = 0; i < first + np + first; i++) {
		uint64_t val = want(i - first);

		if (pwrite(file, &val, sizeof(val), (off_t)i * psize()) != sizeof(val))
			return bad_errno("pwrite");
	}
	return 0;
}

static int setup_file(int flags)
{
	char name[] = "pte_ref_race.XXXXXX";

	if (victim->memory == DISK) {
		file = mkostemp(name, O_CLOEXEC);
		if (file < 0 || unlink(name) || ftruncate(file, vma_len))
			return skip("no file in the current directory: %s", strerror(errno));
	} else {
		file = new_file(vma_len);
	}
	if (file < 0 || (victim->flags & FILLED && fill_file()))
		return -1;
	return map_file(vma[0], vma_len, flags, file, 0);
}

static int setup_dev(void)
{
	dev = open("/dev/test_vm_insert", O_RDWR | O_CLOEXEC);
	return dev < 0 ? skip("no CONFIG_TEST_VM_INSERT") : 0;
}

static int map_dev(void)
{
	return mmap(p, bytes(), PROT_READ, MAP_SHARED | MAP_FIXED, dev,
		    TEST_VM_INSERT_OFFSET(victim->kind)) == p ? 0 : bad_errno("mmap of the device");
}

/* The kinds of the driver that map a huge page. */
static bool late(void)
{
	return victim->memory == DEVICE && victim->kind >= TEST_VM_INSERT_PFN_LATE;
}

static int map_late(void)
{
	if (table_size() > HUGE_PAGE_MAX)
		return skip("a huge page has %zu MB", table_size() >> 20);
	if (prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) > 0)
		return skip("huge pages are turned off");
	if (mmap(vma[0], vma_len, PROT_READ, MAP_SHARED | MAP_FIXED, dev,
		 TEST_VM_INSERT_OFFSET(victim->kind)) != MAP_FAILED)
		return 0;
	return errno == EOPNOTSUPP ? skip("no huge pages of the device") :
	       bad_errno("mmap of the device");
}

static int setup_memory(void)
{
	int t;

	switch (victim->memory) {
	case NOTHING:
		break;
	case ANON:
		for (t = 0; t < nr_tables; t++)
			if (map_anon(vma[t], vma_len))
				return -1;
		break;
	case SHARED:
		return setup_file(MAP_SHARED);
	case PRIVATE:
	case DISK:
		return setup_file(MAP_PRIVATE);
	case DEVICE:
		/* To map it would fill it. */
		if (victim->kind == TEST_VM_INSERT_REMAP)
			return setup_dev();
		return setup_dev() ?: late() ? map_late() : map_dev();
	}
	return 0;
}

static int setup_uffd(void)
{
	/* An access to a page that is not there raises a signal, waits for nobody. */
	struct uffdio_api api = {
		.api = UFFD_API, .features = victim->uffd_features | UFFD_FEATURE_SIGBUS,
	};
	struct uffdio_register reg = {
		/* Pages move to what is registered, and all else has one VMA. */
		.range = { .start = (unsigned long)vma[nr_tables - 1], .len = vma_len },
		.mode = victim->uffd_mode,
	};

	uffd = syscall(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (uffd < 0)
		return skip("userfaultfd: %s", strerror(errno));
	if (ioctl(uffd, UFFDIO_API, &api))
		return skip("userfaultfd features %#llx: %s",
			    (unsigned long long)victim->uffd_features, strerror(errno));
	return ioctl(uffd, UFFDIO_REGISTER, &reg) ? bad_errno("UFFDIO_REGISTER") : 0;
}

static int setup(void)
{
	return setup_memory() ?: victim->uffd_mode ? setup_uffd() : 0;
}

/* Victims: faults and madvise */

/*
 * Read what the file has, then write.  A zap of own pages throws the new data away;
 * a hole is zero.
 */
static int op_file(void)
{
	uint64_t got;
	int i;

	if (check_data())
		return -1;
	for (i = 0; i < np; i++)
		*word(p, i) = ~want(i);
	for (i = 0; i < np; i++) {
		got = FORCE_READ(*word(p, i));
		if (got != ~want(i) && !(lossy && (got == want(i) || !got)))
			return bad("page %d has %#llx after a write", i, (unsigned long long)got);
	}
	return 0;
}

static int op_advise(void)
{
	return madvise(p, bytes(), victim->advice) ?
	       bad("madvise %d: %s", victim->advice, strerror(errno)) : 0;
}

static int check_populated(void)
{
	return check_pagemap(p, PM_PRESENT, "present") ?: check_zero();
}

static int setup_guard(void)
{
	return madvise(p, bytes(), MADV_GUARD_REMOVE) ? skip("no guard regions") : 0;
}

static int check_guard(void)
{
	return check_pagemap(p, PM_GUARD_REGION, "a guard") ?: check_unreadable();
}

static int undo_guard(void)
{
	if (madvise(p, bytes(), MADV_GUARD_REMOVE))
		return bad_errno("MADV_GUARD_REMOVE");
	/* Nobody ever wrote there. */
	return check_zero() ?: undo_zap();
}

/* Victims: userfaultfd */

#define uffd_do(cmd, arg, done)						\
	(ioctl(uffd, cmd, &(arg)) ?					\
	 bad("%s: %s, done %lld", #cmd, strerror(errno), (long long)(done)) : 0)

#define P_RANGE	{ .start = (unsigned long)p, .len = bytes() }

static int prepare_buffer(void)
{
	int i;

	new_data();
	for (i = 0; i < np; i++)
		*word(buffer, i) = want(i);
	return 0;
}

static int op_uffd_copy(void)
{
	struct uffdio_copy arg = {
		.dst = (unsigned long)p, .src = (unsigned long)buffer, .len = bytes(),
	};

	return uffd_do(UFFDIO_COPY, arg, arg.copy);
}

static int op_uffd_zeropage(void)
{
	struct uffdio_zeropage arg = { .range = P_RANGE };

	return uffd_do(UFFDIO_ZEROPAGE, arg, arg.zeropage);
}

static int op_uffd_continue(void)
{
	struct uffdio_continue arg = { .range = P_RANGE };

	return uffd_do(UFFDIO_CONTINUE, arg, arg.mapped);
}

static int op_uffd_poison(void)
{
	struct uffdio_poison arg = { .range = P_RANGE };

	return uffd_do(UFFDIO_POISON, arg, arg.updated);
}

static int check_poison(void)
{
	return check_pagemap(p, PM_SWAP, "poisoned") ?: check_unreadable();
}

static int uffd_move(__u64 mode)
{
	struct uffdio_move arg = {
		.dst = (unsigned long)q, .src = (unsigned long)p, .len = bytes(), .mode = mode,
	};

	return uffd_do(UFFDIO_MOVE, arg, arg.move);
}

static int op_uffd_move(void)
{
	/* What a zap of own pages leaves is a hole. */
	return uffd_move(lossy ? UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES : 0);
}

/* Its source has an empty table, which may be freed as well as the one that it moves to. */
static int op_uffd_move_hole(void)
{
	return uffd_move(UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES);
}

static int check_uffd_move_hole(void)
{
	uint64_t entry[MAX_PAGES];
	int i;

	if (read_pagemap(q, entry))
		return -1;
	for (i = 0; i < np; i++)
		if (entry[i] & (PM_PRESENT | PM_SWAP))
			return bad("page %d of a hole is there", i);
	return 0;
}

/*
 * What is moved is not at its source.  The page tables say so: a zap that has not come to
 * its flush leaves in a TLB what it took away, and to move the hole flushes nothing.
 */
static int check_uffd_move(void)
{
	uint64_t entry[MAX_PAGES];
	int i;

	if (check_peek(q, want(0), want(1) - want(0)) || read_pagemap(p, entry))
		return -1;
	for (i = 0; i < np; i++)
		if (entry[i] & (PM_PRESENT | PM_SWAP))
			return bad("page %d of %d is at its source still", i, np);
	return lossy ? 0 : check_zero();
}

static int writeprotect(bool on)
{
	struct uffdio_writeprotect arg = {
		.range = P_RANGE, .mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
	};

	return uffd_do(UFFDIO_WRITEPROTECT, arg, 0);
}

static int op_writeprotect(void)
{
	return writeprotect(true);
}

static int check_writeprotected(void)
{
	return check_pagemap(p, PM_UFFD_WP, "write protected");
}

#ifdef UFFDIO_RWPROTECT
static int setup_scan(void);
static long scan(uint64_t flags, uint64_t mask, uint64_t anyof, uint64_t ret_mask);

static int op_rwprotect(void)
{
	struct uffdio_rwprotect arg = {
		.range = P_RANGE, .mode = UFFDIO_RWPROTECT_MODE_RWP,
	};

	return uffd_do(UFFDIO_RWPROTECT, arg, 0);
}

/* What is there can be seen to be protected, and is as it was. */
static int check_rwprotected(void)
{
	long n = scan(0, PAGE_IS_ACCESSED, 0, PAGE_IS_ACCESSED);

	if (n > 0)
		return bad("%ld pages are called accessed after they were protected", n);
	if (n < 0 || check_data())
		return -1;
	n = scan(0, PAGE_IS_ACCESSED, 0, PAGE_IS_ACCESSED);
	if (n >= 0 && n != np && !lossy)
		return bad("%ld of %d pages are called accessed after they were", n, np);
	return n < 0 ? -1 : 0;
}
#endif

/* A zap leaves the markers of shared memory. */
static int undo_writeprotect(void)
{
	zap_vmas();
	return writeprotect(false);
}

static int op_mprotect(void)
{
	/* The whole VMA, or it would be split. */
	if (mprotect(vma[0], vma_len, PROT_READ) ||
	    mprotect(vma[0], vma_len, PROT_READ | PROT_WRITE))
		return bad_errno("mprotect");
	return 0;
}

/*
 * The pages are in one PMD or PUD table but for the last one, which is in the next, and
 * has no PTE table.  They are more than ENOMEM, which must not be added to their number.
 */
static bool refused;

static int refuse_any_page(void)
{
	return change(FAIL_PAGE_ALLOC "/min-order", "0") ||
	       change(FAIL_PAGE_ALLOC "/verbose", "0") ||
	       change(FAIL_PAGE_ALLOC "/ignore-gfp-wait", "N") ? -1 : 0;
}

static int setup_wp_refused(void)
{
	size_t entries = psize() / sizeof(uint64_t);
	size_t span = table_size() * entries * (victim->cmd == PUD_TABLE ? entries : 1);
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_WP_UNPOPULATED };
	char *start;

	if (span > SPAN_MAX)
		return skip("a huge page has %zu MB, a table of a higher level maps too much",
			    table_size() >> 20);
	if (access(FAIL_PAGE_ALLOC, F_OK))
		return skip("no CONFIG_FAIL_PAGE_ALLOC");
	uffd = syscall(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api))
		return skip("userfaultfd: %s", strerror(errno));
	start = mmap(NULL, 2 * span, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
		     -1, 0);
	if (start == MAP_FAILED)
		return skip("no room for two tables: %s", strerror(errno));
	/* Neighbours would keep the tables. */
	munmap(start, 2 * span);
	start = (char *)(((unsigned long)start + table_size() + span) & ~(span - 1));
	p = start - (np - 1) * psize();
	return refuse_any_page();
}

static int prepare_wp_refused(void)
{
	int i, ret;

	if (map_anon(p, bytes()))
		return -1;
	ret = uffd_register(uffd, p, bytes(), false, true, false);
	if (ret)
		return bad("register: %s", strerror(-ret));
	new_data();
	for (i = 0; i < np - 1; i++)
		*word(p, i) = want(i);
	return 0;
}

static int op_wp_refused(void)
{
	struct uffdio_writeprotect arg = {
		.range = P_RANGE, .mode = UFFDIO_WRITEPROTECT_MODE_WP,
	};

	refused = ioctl(uffd, UFFDIO_WRITEPROTECT, &arg);
	return refused && errno != ENOMEM ? bad_errno("UFFDIO_WRITEPROTECT") : 0;
}

static int check_wp_refused(void)
{
	return refused ? 0 : check_writeprotected();
}

static int undo_wp_refused(void)
{
	return munmap(p, bytes()) ? bad_errno("munmap") : 0;
}

/* Victims: fork and mremap */

static int op_fork(void)
{
	child = fork();
	if (child < 0)
		return bad_errno("fork");
	if (!child) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		_exit(check_data() ? 1 : 0);
	}
	return 0;
}

static int check_fork(void)
{
	int status;

	if (waitpid(child, &status, 0) != child)
		return bad_errno("waitpid");
	if (status)
		return bad("child ends with status %#x", status);
	return check_data();
}

static int prepare_mremap(void)
{
	return map_anon(p, bytes()) ?: fill();
}

static int op_mremap(void)
{
	if (mremap(p, bytes(), bytes(), MREMAP_MAYMOVE | MREMAP_FIXED, q) != q)
		return bad_errno("mremap");
	return 0;
}

static int check_mremap(void)
{
	return check_at(q);
}

static int undo_mremap(void)
{
	return unmap(p, bytes()) ?: unmap(q, bytes());
}

/*
 * A move that has no memory for a new table takes back what it has moved.  The first of
 * its old tables has a neighbour, so the deferred work frees it meanwhile, and the way
 * back has to make it again.  Each map of a table waits, to let it.
 */
#define MOVED		3	/* tables; of each quarter one page has data */
#define MOVE_WAITS_US	"20000"
#define MOVE_REFUSED	"64"	/* pages at most: then there is memory again */

static int refuse_pages = -1;	/* how many more */
static unsigned int undone;	/* moves that lost a table meanwhile */

static int setup_mremap_refused(void)
{
	size_t len = 16 * table_size();
	char *start;

	if (access(FAIL_PAGE_ALLOC, F_OK) || access(FAIL_PTE_TABLE, F_OK))
		return skip("no CONFIG_FAIL_PAGE_ALLOC, or no CONFIG_FAIL_PTE_TABLE");
	start = mmap(NULL, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (start == MAP_FAILED)
		return skip("no room for %zu MB: %s", len >> 20, strerror(errno));
	/* Neighbours would keep the tables. */
	munmap(start, len);
	start = (char *)(((unsigned long)start + table_size()) & ~(table_size() - 1));
	p = start + table_size() / 2;
	/* Not to be moved by PMD entries. */
	q = start + 8 * table_size() + table_size() / 4;
	if (map_fixed(start, table_size() / 2, PROT_READ,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) == MAP_FAILED)
		return bad_errno("mmap of a neighbour");
	refuse_pages = open(FAIL_PAGE_ALLOC "/times", O_WRONLY | O_CLOEXEC);
	if (refuse_pages < 0)
		return bad_errno(FAIL_PAGE_ALLOC "/times");
	return change(FAIL_PAGE_ALLOC "/times", "0") ||
	       change(FAIL_PAGE_ALLOC "/space", "0") ||
	       change(FAIL_PAGE_ALLOC "/task-filter", "Y") ||
	       change(FAIL_PAGE_ALLOC "/probability", "100") ||
	       change(FAIL_PTE_TABLE "/times", "0") ||
	       change(FAIL_PTE_TABLE "/space", "0") ||
	       change(FAIL_PTE_TABLE "/task-filter", "Y") ||
	       change(FAIL_PTE_TABLE "/probability", "100") ||
	       change(FAIL_PTE_TABLE "/delay-us", MOVE_WAITS_US) ||
	       write_word("/proc/self/make-it-fail", "1") || refuse_any_page() ? -1 : 0;
}

static uint64_t *moved_word(char *to, int i)
{
	return (uint64_t *)(to + i * (table_size() / 4));
}

static int prepare_mremap_refused(void)
{
	int i;

	if (map_anon(p, MOVED * table_size()))
		return -1;
	new_data();
	for (i = 0; i < 4 * MOVED; i++)
		*moved_word(p, i) = want(i);
	return 0;
}

static int op_mremap_refused(void)
{
	size_t len = MOVED * table_size();
	long freed = read_vmstat("pte_ref_free_deferred");
	char *ret;

	if (write_word(FAIL_PTE_TABLE "/times", "-1"))
		return -1;
	if (write(refuse_pages, MOVE_REFUSED, strlen(MOVE_REFUSED)) < 0)
		return bad_errno(FAIL_PAGE_ALLOC "/times");
	ret = mremap(p, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, q);
	refused = ret != q;
	if (write(refuse_pages, "0", 1) < 0)
		return bad_errno(FAIL_PAGE_ALLOC "/times");
	if (write_word(FAIL_PTE_TABLE "/times", "0"))
		return -1;
	if (refused && errno != ENOMEM)
		return bad_errno("mremap");
	undone += refused && read_vmstat("pte_ref_free_deferred") > freed;
	return 0;
}

static int check_mremap_refused(void)
{
	int i;

	for (i = 0; i < 4 * MOVED; i++)
		if (*moved_word(refused ? p : q, i) != want(i))
			return bad("quarter %d of a table is lost, the move %s", i,
				   refused ? "was undone" : "succeeded");
	return 0;
}

static int undo_mremap_refused(void)
{
	return munmap(refused ? p : q, MOVED * table_size()) ? bad_errno("munmap") : 0;
}

static int finish_mremap_refused(void)
{
	return undone ? 0 : bad("no table was freed while it moved");
}

static int op_mremap_table(void)
{
	if (mremap(vma[0], vma_len, vma_len, MREMAP_MAYMOVE | MREMAP_FIXED, vma[1]) != vma[1])
		return bad_errno("mremap");
	return 0;
}

static int undo_mremap_table(void)
{
	if (mremap(vma[1], vma_len, vma_len, MREMAP_MAYMOVE | MREMAP_FIXED, vma[0]) != vma[0])
		return bad_errno("mremap back");
	return check_data() ?: undo_zap();
}

/* Victims: huge pages */

static unsigned long collapsed;
static int not_collapsed;	/* why, the last time */

static size_t huge_page_size(void)
{
	return read_number("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size", 0);
}

/* Folios of 16 pages, which a fault maps if that range of the table is empty. */
static unsigned long large_before;

static void large_name(char *name, size_t len, const char *file)
{
	snprintf(name, len, "/sys/kernel/mm/transparent_hugepage/hugepages-%ukB/%s",
		 16 * psize() >> 10, file);
}

static unsigned long large_mapped(void)
{
	char name[128];

	large_name(name, sizeof(name), "stats/anon_fault_alloc");
	return read_number(name, 0);
}

static int setup_large(void)
{
	char name[128], line[64] = "";
	int fd;

	large_name(name, sizeof(name), "enabled");
	fd = open(name, O_RDONLY);
	if (fd < 0 || read(fd, line, sizeof(line) - 1) < 0)
		return skip("no folios of 16 pages");
	close(fd);
	/* Which of the words it was is in brackets. */
	if (sscanf(strchr(line, '[') ?: "", "[%15[a-z]", report->large_was) != 1)
		return bad("%s says %s", name, line);
	large_before = large_mapped();
	if (madvise(vma[0], vma_len, MADV_HUGEPAGE))
		return bad_errno("MADV_HUGEPAGE");
	return write_word(name, "madvise");
}

static int finish_large(void)
{
	return large_mapped() == large_before ? bad("no large folio is mapped") : 0;
}

static int setup_collapse(void)
{
	size_t size = huge_page_size();

	if (!size || madvise(vma[0], vma_len, MADV_NOHUGEPAGE))
		return skip("no transparent huge pages");
	if (size != table_size())
		return bad("a huge page has %zu bytes, a table maps %zu", size, table_size());
	/* With pages of 64 kB it has 512 MB. */
	if (size > HUGE_PAGE_MAX)
		return skip("a huge page has %zu MB", size >> 20);
	return 0;
}

/* Small pages first, then allow huge ones. */
static int prepare_collapse(void)
{
	madvise(vma[0], vma_len, MADV_NOHUGEPAGE);
	fill();
	return madvise(vma[0], vma_len, MADV_HUGEPAGE) ? bad_errno("MADV_HUGEPAGE") : 0;
}

/*
 * Another user of a page can delay it (EAGAIN, EBUSY), and memory may be
 * fragmented (ENOMEM).  Where pages may be taken away, it may be that there is
 * nothing to collapse (EINVAL).
 */
static int op_collapse(void)
{
	int i;

	for (i = 0; i < 3; i++) {
		if (!madvise(vma[0], vma_len, MADV_COLLAPSE)) {
			collapsed++;
			return 0;
		}
		not_collapsed = errno;
		if (errno != EAGAIN && errno != EBUSY && errno != ENOMEM &&
		    !(lossy && errno == EINVAL))
			return bad_errno("MADV_COLLAPSE");
	}
	return 0;
}

static int finish_collapse(void)
{
	return collapsed ? 0 : bad("MADV_COLLAPSE: never done: %s", strerror(not_collapsed));
}

/* It must have been touched once: without an anon_vma there is another answer. */
static int setup_collapse_empty(void)
{
	if (setup_collapse())
		return -1;
	*vma[0] = 1;
	zap_vmas();
	if (madvise(vma[0], vma_len, MADV_HUGEPAGE))
		return bad_errno("MADV_HUGEPAGE");
	/* What one of the patches changes that come after the fixes. */
	if (freed_at_once() < 0 && !madvise(vma[0], vma_len, MADV_COLLAPSE))
		return skip("Linux collapses an empty table");
	return 0;
}

/* The same with an empty table as without one. */
static int op_collapse_empty(void)
{
	if (!madvise(vma[0], vma_len, MADV_COLLAPSE))
		return bad("an empty range is collapsed");
	return errno == EINVAL ? 0 : bad_errno("MADV_COLLAPSE of an empty range");
}

/* A huge page in the file, of which only the mapping comes and goes. */
static int setup_collapse_mapped(void)
{
	int i;

	if (setup_collapse())
		return -1;
	madvise(vma[0], vma_len, MADV_HUGEPAGE);
	for (i = 0; madvise(vma[0], vma_len, MADV_COLLAPSE); i++) {
		report->beat = now_ms();
		if (i == 100)
			return bad_errno("MADV_COLLAPSE");
		usleep(10000);
	}
	return 0;
}

static int prepare_collapse_mapped(void)
{
	/* Not in nth mode, where an empty table is made, or none is there. */
	if (!nth_mode)
		zap_vmas();
	madvise(vma[0], vma_len, MADV_NOHUGEPAGE);
	/* Both are fixed, a table that maps the huge page and an empty one. */
	if (!nth_mode && report->rounds & 1 && check_data())
		return -1;
	return madvise(vma[0], vma_len, MADV_HUGEPAGE) ? bad_errno("MADV_HUGEPAGE") : 0;
}

/* Victims: PAGEMAP_SCAN */

static struct page_region region[16];

/* Pages in the regions found; all regions must be within the pages of the operation. */
static long scan(uint64_t flags, uint64_t mask, uint64_t anyof, uint64_t ret_mask)
{
	struct pm_scan_arg arg = {
		.size = sizeof(arg), .flags = flags,
		.start = (unsigned long)p, .end = (unsigned long)p + bytes(),
		.vec = (unsigned long)region, .vec_len = ARRAY_SIZE(region),
		.category_mask = mask, .category_anyof_mask = anyof, .return_mask = ret_mask,
	};
	int i, n = ioctl(pagemap, PAGEMAP_SCAN, &arg);
	long pages = 0;

	if (n < 0)
		return bad_errno("PAGEMAP_SCAN");
	if (arg.walk_end != arg.end)
		return bad("PAGEMAP_SCAN ends early");
	for (i = 0; i < n; i++)
		pages += (region[i].end - region[i].start) / psize();
	return pages;
}

static int setup_scan(void)
{
	struct pm_scan_arg arg = { .size = sizeof(arg) };

	return ioctl(pagemap, PAGEMAP_SCAN, &arg) && errno == ENOTTY ?
	       skip("no PAGEMAP_SCAN") : 0;
}

/*
 * What is not there was not written, unless userfaultfd would have protected it.
 * There are two ways through the code, for requests of this category only and for
 * all others.
 */
static int op_scan_plain(void)
{
	long fast = scan(0, PAGE_IS_WRITTEN, 0, PAGE_IS_WRITTEN);
	long slow = scan(0, 0, PAGE_IS_WRITTEN | PAGE_IS_PRESENT, PAGE_IS_WRITTEN);

	if (fast > 0 || slow > 0)
		return bad("%ld and %ld of %d empty pages are called written", fast, slow, np);
	return fast < 0 || slow < 0 ? -1 : 0;
}

static int op_scan_wp(void)
{
	long n = scan(PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC, PAGE_IS_WRITTEN, 0,
		      PAGE_IS_WRITTEN);

	if (n >= 0 && n != np)
		return bad("%ld of %d pages are called written", n, np);
	return n < 0 ? -1 : 0;
}

static int check_scan_wp(void)
{
	long n = scan(0, PAGE_IS_WRITTEN, 0, PAGE_IS_WRITTEN);

	if (n > 0 && !lossy)
		return bad("%ld pages are called written after they were protected", n);
	return n < 0 ? -1 : check_writeprotected();
}

/* Protects what is written and there, so nothing, with a table and without one. */
static int op_scan_no_vector(void)
{
	struct pm_scan_arg arg = {
		.size = sizeof(arg), .flags = PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC,
		.start = (unsigned long)p, .end = (unsigned long)p + bytes(),
		.category_mask = PAGE_IS_WRITTEN | PAGE_IS_PRESENT,
		.return_mask = PAGE_IS_WRITTEN,
	};
	long n;

	if (ioctl(pagemap, PAGEMAP_SCAN, &arg))
		return bad_errno("PAGEMAP_SCAN without a vector");
	n = scan(0, PAGE_IS_WRITTEN, 0, PAGE_IS_WRITTEN);
	if (n >= 0 && n != np)
		return bad("%d of %d pages that are not there were protected",
			   (int)(np - n), np);
	return n < 0 ? -1 : 0;
}

/* Victims: GUP and futex */

static int op_gup_write(void)
{
	struct iovec local[MAX_PAGES], remote[MAX_PAGES];
	ssize_t ret;
	int i;

	for (i = 0; i < np; i++) {
		local[i].iov_base = word(buffer, i);
		remote[i].iov_base = word(p, i);
		local[i].iov_len = sizeof(uint64_t);
		remote[i].iov_len = sizeof(uint64_t);
	}
	ret = process_vm_writev(getpid(), local, np, remote, np, 0);
	if (ret < 0)
		return bad_errno("process_vm_writev");
	if (ret != np * (ssize_t)sizeof(uint64_t))
		return bad("process_vm_writev: %zd of %zu bytes", ret, np * sizeof(uint64_t));
	return 0;
}

static int setup_gup_pin(void)
{
	dev = open(GUP_TEST, O_RDWR);
	return dev < 0 ? skip("%s: %s", GUP_TEST, strerror(errno)) : 0;
}

static int op_gup_pin(void)
{
	struct gup_test arg = {
		.addr = (unsigned long)p, .size = bytes(), .nr_pages_per_call = np,
		.gup_flags = 1, /* FOLL_WRITE */
	};

	if (ioctl(dev, victim->cmd, &arg))
		return bad_errno("gup_test");
	if (arg.size != bytes())
		return bad("gup_test: %llu of %zu bytes pinned", (unsigned long long)arg.size,
			   bytes());
	return 0;
}

/*
 * All pages are there at first, so the walk without a lock meets the zap that frees
 * their table.  Again and again: a round is mostly faults.  From the page that was
 * filled last, which an attacker that is fast leaves for the longest time.
 */
#define FAST_WALKS	64

static unsigned long found_fast;

static int op_gup_fast(void)
{
	uint64_t sum;
	int i, n;

	for (n = 0; n < FAST_WALKS; n++) {
		int first = np - 1 - n % np;
		struct test_vm_insert_cmd cmd = {
			.addr = (unsigned long)p + first * psize(), .nr = np - first,
		};

		if (ioctl(dev, TEST_VM_INSERT_FAST, &cmd))
			return bad_errno("get_user_pages_fast_only()");
		for (i = 0, sum = 0; i < cmd.done; i++)
			sum += want(first + i);
		if (cmd.sum != sum)
			return bad("%lld pages that GUP-fast finds have other data",
				   (long long)cmd.done);
		found_fast += cmd.done;
		if (cmd.done < cmd.nr)
			break;
	}
	return 0;
}

static int finish_gup_fast(void)
{
	return found_fast ? 0 : bad("GUP-fast finds no page");
}

static int op_futex_wake_op(void)
{
	long ret;

	ret = syscall(SYS_futex, buffer, FUTEX_WAKE_OP | FUTEX_PRIVATE_FLAG, 0, NULL, p,
		      FUTEX_OP(FUTEX_OP_SET, 0x5a5, FUTEX_OP_CMP_EQ, 0));
	return ret < 0 ? bad_errno("FUTEX_WAKE_OP") : 0;
}

static int check_futex_wake_op(void)
{
	return check_word(0, FORCE_READ(*(uint32_t *)p), 0x5a5);
}

/* Not private, so that it looks for the page, too. */
static int op_futex_lock_pi(void)
{
	return syscall(SYS_futex, p, FUTEX_LOCK_PI, 0, NULL, NULL, 0) < 0 ?
	       bad_errno("FUTEX_LOCK_PI") : 0;
}

static int check_futex_lock_pi(void)
{
	return check_word(0, FORCE_READ(*(uint32_t *)p), syscall(SYS_gettid));
}

/* Victims: cold and pageout */

/* Pages that were in use here, by frame number. */
#define SEEN_MAX	BIT_ULL(30)
static unsigned char *seen;

static int setup_seen(void)
{
	seen = mmap(NULL, SEEN_MAX / 8, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	return seen == MAP_FAILED ? bad_errno("mmap") : 0;
}

static int note_seen(void)
{
	uint64_t entry[MAX_PAGES];
	uint64_t pfn;
	int i;

	if (read_pagemap(p, entry))
		return -1;
	for (i = 0; i < np; i++) {
		pfn = entry[i] & (BIT_ULL(55) - 1);
		if (entry[i] & PM_PRESENT && pfn < SEEN_MAX)
			seen[pfn / 8] |= 1 << pfn % 8;
	}
	return 0;
}

/*
 * Leave only those of them in "seen" that no process maps and no list has, and that
 * were not freed.  Returns their number.
 */
static long keep_lost(void)
{
	uint64_t *flags = (uint64_t *)buffer;
	int i, n, fd = open("/proc/kpageflags", O_RDONLY);
	long lost = 0, pfn = 0;

	/* Not there: none of them can be told. */
	if (fd < 0)
		return 0;
	while ((n = read(fd, flags, 64 << 10) / (int)sizeof(*flags)) > 0) {
		for (i = 0; i < n && pfn < SEEN_MAX; i++, pfn++) {
			unsigned char bit = 1 << pfn % 8;

			if (!(seen[pfn / 8] & bit))
				continue;
			if ((flags[i] & KPF_LOST) == (KPF_ANON | KPF_SWAPBACKED))
				lost++;
			else
				seen[pfn / 8] &= ~bit;
		}
	}
	close(fd);
	return lost;
}

static int prepare_pageout(void)
{
	return fill() ?: note_seen();
}

static int prepare_pageout_file(void)
{
	return op_file() ?: note_seen();
}

/* Nothing stays isolated. */
static int finish_pageout(void)
{
	long isolated, lost;
	int i, fd;

	zap_vmas();
	for (i = 0; i < 10; i++) {
		report->beat = now_ms();
		isolated = read_vmstat("nr_isolated_anon") + read_vmstat("nr_isolated_file");
		lost = keep_lost();
		if (isolated <= 0 && !lost)
			return 0;
		/* Some are in lists of other CPUs on their way to the LRU: drain them. */
		fd = open("/proc/sys/vm/compact_memory", O_WRONLY);
		if (fd >= 0 && write(fd, "1", 1) == 1)
			close(fd);
		usleep(200000);
	}
	return bad("%ld pages isolated, %ld lost", isolated, lost);
}

/* Victims: aging of the multi-gen LRU, which walks page tables */

static unsigned long long root_memcg;

static int setup_aging(void)
{
	char line[64] = "";
	int fd = open("/proc/self/cgroup", O_RDONLY | O_CLOEXEC);
	bool child = fd >= 0 && read(fd, line, sizeof(line) - 1) > 0 && !strstr(line, ":/\n");

	if (fd >= 0)
		close(fd);
	/* Each has a list of its own of what to walk. */
	if (child)
		return skip("in a child cgroup");
	if (access(LRU_GEN_ENABLED, F_OK))
		return skip("no CONFIG_LRU_GEN");
	if (change(LRU_GEN_ENABLED, "7"))
		return -1;
	if (!(read_number(LRU_GEN_ENABLED, 0) & 2))
		return skip("no accessed bit of the CPU, so nothing walks tables");
	fd = open(LRU_GEN, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || read(fd, line, sizeof(line) - 1) < 0 ||
	    sscanf(line, "memcg %llu", &root_memcg) != 1)
		bad_errno(LRU_GEN);
	if (fd >= 0)
		close(fd);
	return report->outcome == RUNNING ? 0 : -1;
}

/*
 * Of anonymous memory too, and whatever the walk before has found.  Another one may run
 * (EEXIST), and fail-nth refuses its memory as well (ENOMEM).
 */
static int op_aging(void)
{
	char cmd[64];
	int fd = open(LRU_GEN, O_WRONLY | O_CLOEXEC);
	int i, len = snprintf(cmd, sizeof(cmd), "+ %llu 0 0 200 1", root_memcg);
	ssize_t ret = -1;

	for (i = 0; fd >= 0 && i < 100; i++) {
		ret = write(fd, cmd, len);
		if (ret == len || (errno != EEXIST && errno != ENOMEM))
			break;
		usleep(1000);
	}
	if (ret != len)
		bad_errno(LRU_GEN);
	close(fd);
	return ret == len ? 0 : -1;
}

/* Victims: a driver */

static int op_dev(void)
{
	struct test_vm_insert_cmd cmd = { .addr = (unsigned long)p, .nr = np };

	if (ioctl(dev, victim->cmd, &cmd) || cmd.done != np)
		return bad("ioctl of the device: %s, %lld pages done", strerror(errno),
			   (long long)cmd.done);
	return 0;
}

/* What a driver or KVM does: after the fault it looks once whether the page is there. */
static int op_fixup(void)
{
	struct test_vm_insert_cmd cmd = { .addr = (unsigned long)p, .nr = np };

	if (ioctl(dev, TEST_VM_INSERT_FIXUP, &cmd))
		return bad_errno("fixup_user_fault()");
	/* An attacker may have taken it away again. */
	if (nth_mode && cmd.done != np)
		return bad("fixup_user_fault() says that it is done, %lld of %d pages are there",
			   (long long)cmd.done, np);
	return 0;
}

static int check_dev(void)
{
	return check_peek(p, TEST_VM_INSERT_MAGIC, 1);
}

static int check_late(void)
{
	return check_peek(p, TEST_VM_INSERT_MAGIC + (p - vma[0]) / psize(), 1);
}

static int undo_remap(void)
{
	return unmap(p, bytes());
}

/* Victims: a device with memory of its own */

static int setup_device_memory(void)
{
	dev = open("/dev/hmm_dmirror0", O_RDWR | O_CLOEXEC);
	return dev < 0 ? skip("no CONFIG_TEST_HMM") : 0;
}

static int device_memory(unsigned long request, const char *what)
{
	struct hmm_dmirror_cmd cmd = {
		.addr = (unsigned long)p, .ptr = (unsigned long)buffer, .npages = np,
	};

	if (ioctl(dev, request, &cmd) || cmd.cpages != np)
		return bad("%s: %s, %lld of %d pages", what, strerror(errno),
			   (long long)cmd.cpages, np);
	return 0;
}

/* First of what is not populated: new pages of the device.  The check has the last back. */
static int op_migrate(void)
{
	return device_memory(HMM_DMIRROR_MIGRATE_TO_DEV, "migrate to the device") ?:
	       device_memory(HMM_DMIRROR_MIGRATE_TO_SYS, "migrate from the device") ?:
	       fill() ?:
	       device_memory(HMM_DMIRROR_MIGRATE_TO_DEV, "migrate data to the device");
}

/*
 * A thread that takes the table away, with all that is populated, while the operation
 * waits at a point.  Of interest is the one where migrate_vma_collect_pmd() comes back
 * from the split of a folio, with a page collected.
 */
#define COLLECT_POINTS	16
#define COLLECT_WAIT_US	"100000"

static bool collecting;

static void *collect_thread(void *arg)
{
	char buf[16] = "";

	for (;; usleep(500)) {
		if (!__atomic_load_n(&collecting, __ATOMIC_ACQUIRE) || !report->n ||
		    pread((long)arg, buf, sizeof(buf) - 1, 0) <= 0 || atoi(buf))
			continue;
		zap(vma[0], vma_len);
		refused = true;
		__atomic_store_n(&collecting, false, __ATOMIC_RELEASE);
	}
	return NULL;
}

static int setup_collect(void)
{
	pthread_t thread;
	char name[64];
	long fd;

	lossy = true;
	if (setup_device_memory() || setup_large() ||
	    change(FAIL_PTE_TABLE "/delay-us", COLLECT_WAIT_US))
		return -1;
	snprintf(name, sizeof(name), "/proc/self/task/%d/fail-nth", getpid());
	fd = open(name, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return bad_errno(name);
	return pthread_create(&thread, NULL, collect_thread, (void *)fd) ?
	       bad("pthread_create") : 0;
}

/* A page, then a folio that is split. */
static int prepare_collect(void)
{
	zap_vmas();
	madvise(vma[0], vma_len, MADV_NOHUGEPAGE);
	new_data();
	*word(vma[0], 0) = want(0);
	if (madvise(vma[0], vma_len, MADV_HUGEPAGE))
		return bad_errno("MADV_HUGEPAGE");
	*word(p, 0) = want(1);
	return 0;
}

/*
 * Its answer is about what was taken away.  What is written behind the arrays of the driver
 * KASAN sees, or slab_debug=FZ.
 */
static int op_collect(void)
{
	struct hmm_dmirror_cmd cmd = {
		.addr = (unsigned long)vma[0], .ptr = (unsigned long)unreadable,
		.npages = vma_len / psize(),
	};

	refused = false;
	/* The points of the collection are the first ones. */
	if (report->n > COLLECT_POINTS)
		return 0;
	__atomic_store_n(&collecting, true, __ATOMIC_RELEASE);
	ioctl(dev, HMM_DMIRROR_MIGRATE_TO_DEV, &cmd);
	__atomic_store_n(&collecting, false, __ATOMIC_RELEASE);
	return 0;
}

static int check_collect(void)
{
	return check_word(0, *word(vma[0], 0), want(0)) ?: check_word(1, *word(p, 0), want(1));
}

/*
 * What is legitimate under attack.  NEIGHBOUR and TRUNCATE take nothing from the
 * victim: truncate cuts its file behind its pages.  OWN empties pages of anonymous
 * memory, which then read as zero, and drops their uffd-wp and poison markers; it
 * takes the mapping of shared memory but not the data, and no guards, and no uffd-wp
 * markers of shared memory.  PUNCH takes data of the victim's file, if that is
 * attacked (OWN_FILE), and guards and markers, on any kernel: unmap_mapping_folio()
 * drops them, if a page was still mapped when truncate looked.
 */
#define FAULTS	.group = "faults", .attackers = ALL
#define FILES	.group = "files"
#define UFFD	.group = "uffd", .attackers = ALL
#define UFFD_WP	.group = "uffd_wp", .attackers = ALL
#define GUARD	.group = "guard", .attackers = ALL
#define MOVE	.group = "fork+mremap"
#define THP	.group = "thp"
#define SCAN	.group = "scan", .attackers = ALL
#define GUP	.group = "gup", .attackers = ALL
#define FUTEX	.group = "futex", .attackers = ALL
#define PAGEOUT	.group = "pageout", .attackers = ALL
#define DRIVER	.group = "driver", .attackers = ALL, .memory = DEVICE
#define LATE	.group = "driver", .attackers = OWN, .memory = DEVICE

#define REFUSED_WP .group = "uffd_wp", .flags = REFUSED, .pages = 17,		\
	.setup = setup_wp_refused, .prepare = prepare_wp_refused,		\
	.op = op_wp_refused, .check = check_wp_refused, .undo = undo_wp_refused

#define MISSING	UFFDIO_REGISTER_MODE_MISSING
#define MINOR	UFFDIO_REGISTER_MODE_MINOR
#define WP	UFFDIO_REGISTER_MODE_WP
#define RWP	UFFDIO_REGISTER_MODE_RWP

static const struct victim victims[] = {
	{
		.name = "fault_write", FAULTS, .memory = ANON, .pages = 2,
		.op = fill, .check = check_data,
	}, {
		/* Looks how large a folio may be. */
		.name = "fault_large", .group = "faults", .attackers = OTHERS,
		.memory = ANON, .pages = 2,
		.setup = setup_large, .op = fill, .check = check_data, .finish = finish_large,
	}, {
		.name = "fault_read", FAULTS, .memory = ANON, .pages = 2,
		.op = check_zero,
	}, {
		.name = "fault_shared", FILES, .attackers = ALL, .memory = SHARED, .pages = 2,
		.flags = OWN_FILE | EXACT_OWN | HOLDS,
		.op = fill, .check = check_data,
	}, {
		/* Its own zaps cover whole tables. */
		.name = "fault_table", FILES, .attackers = ALL & ~NEIGHBOUR,
		.memory = SHARED, .pages = 32,
		.flags = WHOLE_TABLE | OWN_FILE | EXACT_OWN | HOLDS,
		.op = fill, .check = check_data,
	}, {
		.name = "fault_file", FILES, .attackers = ALL, .memory = PRIVATE, .pages = 2,
		.flags = OWN_FILE | FILLED | FILLS_MADE,
		.op = op_file,
	}, {
		.name = "fault_disk", FILES, .attackers = ALL, .memory = DISK, .pages = 2,
		.flags = OWN_FILE | FILLED | FILLS_MADE,
		.op = op_file,
	}, {
		.name = "populate_write", FAULTS, .memory = ANON,
		.op = op_advise, .advice = MADV_POPULATE_WRITE, .check = check_populated,
	}, {
		.name = "populate_read", FAULTS, .memory = ANON,
		.op = op_advise, .advice = MADV_POPULATE_READ, .check = check_populated,
	}, {
		.name = "uffd_copy", UFFD, .memory = ANON, .uffd_mode = MISSING,
		.flags = MAY_BE_ABSENT,
		.prepare = prepare_buffer, .op = op_uffd_copy, .check = check_peek_data,
	}, {
		.name = "uffd_copy_shared", UFFD, .memory = SHARED, .uffd_mode = MISSING,
		.uffd_features = UFFD_FEATURE_MISSING_SHMEM,
		.flags = OWN_FILE | EXACT_OWN | MAY_BE_ABSENT,
		.prepare = prepare_buffer, .op = op_uffd_copy, .check = check_peek_data,
		.undo = undo_punch,
	}, {
		.name = "uffd_zeropage", UFFD, .memory = ANON, .uffd_mode = MISSING,
		.flags = MAY_BE_ABSENT,
		.op = op_uffd_zeropage, .check = check_peek_zero,
	}, {
		/* A hole in its file would be a reason to fail. */
		.name = "uffd_continue", UFFD, .memory = SHARED, .uffd_mode = MINOR,
		.uffd_features = UFFD_FEATURE_MINOR_SHMEM,
		.flags = FILLED | MAY_BE_ABSENT,
		.op = op_uffd_continue, .check = check_peek_data,
	}, {
		.name = "uffd_poison", UFFD, .memory = ANON, .uffd_mode = MISSING,
		.uffd_features = UFFD_FEATURE_POISON,
		.op = op_uffd_poison, .check = check_poison,
	}, {
		.name = "uffd_move", UFFD, .memory = ANON, .uffd_mode = MISSING,
		.uffd_features = UFFD_FEATURE_MOVE,
		.flags = TWO_TABLES | MAY_BE_ABSENT,
		.prepare = fill, .op = op_uffd_move, .check = check_uffd_move,
	}, {
		.name = "uffd_move_hole", .group = "uffd", .attackers = OWN,
		.memory = ANON, .uffd_mode = MISSING, .uffd_features = UFFD_FEATURE_MOVE,
		.flags = TWO_TABLES | EXACT_OWN,
		.op = op_uffd_move_hole, .check = check_uffd_move_hole,
	}, {
		.name = "uffd_wp", UFFD_WP, .memory = ANON, .uffd_mode = WP,
		.uffd_features = UFFD_FEATURE_WP_UNPOPULATED,
		.op = op_writeprotect, .check = check_writeprotected,
	}, {
		.name = "uffd_wp_shared", UFFD_WP, .memory = SHARED, .uffd_mode = WP,
		.uffd_features = UFFD_FEATURE_WP_HUGETLBFS_SHMEM,
		.flags = OWN_FILE | EXACT_OWN,
		.op = op_writeprotect, .check = check_writeprotected,
		.undo = undo_writeprotect,
#ifdef UFFDIO_RWPROTECT
	}, {
		.name = "uffd_rwp", UFFD_WP, .memory = ANON, .uffd_mode = RWP,
		.uffd_features = UFFD_FEATURE_RWP | UFFD_FEATURE_RWP_ASYNC,
		.setup = setup_scan, .prepare = fill, .op = op_rwprotect,
		.check = check_rwprotected,
#endif
	}, {
		.name = "mprotect_wp", UFFD_WP, .memory = SHARED, .uffd_mode = WP,
		.uffd_features = UFFD_FEATURE_WP_HUGETLBFS_SHMEM,
		.flags = OWN_FILE | EXACT_OWN,
		.prepare = op_writeprotect, .op = op_mprotect, .check = check_writeprotected,
		.undo = undo_writeprotect,
	}, {
		.name = "wp_refused", REFUSED_WP, .cmd = PMD_TABLE,
	}, {
		.name = "wp_refused_far", REFUSED_WP, .cmd = PUD_TABLE,
	}, {
		.name = "guard_install", GUARD, .memory = ANON,
		.flags = EXACT_OWN,
		.setup = setup_guard, .op = op_advise, .advice = MADV_GUARD_INSTALL,
		.check = check_guard, .undo = undo_guard,
	}, {
		.name = "guard_shared", GUARD, .memory = SHARED,
		.flags = OWN_FILE | EXACT_OWN,
		.setup = setup_guard, .op = op_advise, .advice = MADV_GUARD_INSTALL,
		.check = check_guard, .undo = undo_guard,
	}, {
		/*
		 * Not OWN: fork() has the VMA locked for write when it copies, and
		 * only threads of the parent could zap it.
		 */
		.name = "fork", MOVE, .attackers = OTHERS, .memory = ANON, .pages = 2,
		.prepare = fill, .op = op_fork, .check = check_fork,
	}, {
		/* Nobody shares a table that moves as a whole, by its PMD entry. */
		.name = "mremap_table", MOVE, .attackers = ALL & ~NEIGHBOUR, .memory = SHARED,
		.flags = TWO_TABLES | WHOLE_TABLE | OWN_FILE | EXACT_OWN | MAKES_NONE,
		.prepare = fill, .op = op_mremap_table, .check = check_mremap,
		.undo = undo_mremap_table,
	}, {
		/* The VMA spans the table, and has no file. */
		.name = "collapse", THP, .attackers = OWN, .memory = ANON, .pages = 32,
		.flags = WHOLE_TABLE,
		.setup = setup_collapse, .prepare = prepare_collapse, .op = op_collapse,
		.check = check_data, .finish = finish_collapse,
	}, {
		.name = "collapse_empty", THP, .attackers = OWN, .memory = ANON,
		.flags = WHOLE_TABLE | EXACT_OWN | MAKES_NONE,
		.setup = setup_collapse_empty, .op = op_collapse_empty,
	}, {
		/* Not TRUNCATE: a file that ends in the range cannot be collapsed. */
		.name = "collapse_shared", THP, .attackers = OWN | PUNCH, .memory = SHARED,
		.flags = WHOLE_TABLE | OWN_FILE | EXACT_OWN, .pages = 32,
		.setup = setup_collapse, .prepare = prepare_collapse, .op = op_collapse,
		.check = check_data, .undo = undo_punch, .finish = finish_collapse,
	}, {
		/* Nor PUNCH: it splits the huge page for good. */
		.name = "collapse_mapped", THP, .attackers = OWN, .memory = SHARED,
		.flags = WHOLE_TABLE | FILLED | EXACT_OWN | MAKES_NONE,
		.setup = setup_collapse_mapped, .prepare = prepare_collapse_mapped,
		.op = op_collapse, .check = check_data, .finish = finish_collapse,
	}, {
		.name = "scan_plain", SCAN, .memory = ANON,
		.flags = MAKES_NONE | EMPTY,
		.setup = setup_scan, .op = op_scan_plain,
	}, {
		.name = "scan_wp", SCAN, .memory = ANON, .uffd_mode = WP,
		.uffd_features = UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED,
		.setup = setup_scan, .op = op_scan_wp, .check = check_scan_wp,
	}, {
		.name = "scan_no_vector", SCAN, .memory = ANON,
		.uffd_mode = WP,
		.uffd_features = UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED,
		.flags = MAKES_NONE | EMPTY,
		.setup = setup_scan, .op = op_scan_no_vector,
	}, {
		.name = "gup_write", GUP, .memory = ANON,
		.prepare = prepare_buffer, .op = op_gup_write, .check = check_data,
	}, {
		.name = "gup_pin", GUP, .memory = ANON,
		.setup = setup_gup_pin, .op = op_gup_pin, .cmd = PIN_FAST_BENCHMARK,
		.check = check_zero,
	}, {
		.name = "gup_longterm", GUP, .memory = ANON,
		.setup = setup_gup_pin, .op = op_gup_pin, .cmd = PIN_LONGTERM_BENCHMARK,
		.check = check_zero,
	}, {
		/* Not OTHERS: its pages keep the table. */
		.name = "gup_fast", .group = "gup", .attackers = OWN, .memory = ANON, .pages = 32,
		.setup = setup_dev, .prepare = fill, .op = op_gup_fast, .check = check_data,
		.finish = finish_gup_fast,
	}, {
		.name = "fixup", GUP, .memory = ANON, .pages = 2,
		.setup = setup_dev, .op = op_fixup,
	}, {
		.name = "fixup_shared", GUP, .memory = SHARED, .pages = 2,
		.flags = OWN_FILE | EXACT_OWN | HOLDS,
		.setup = setup_dev, .op = op_fixup,
	}, {
		.name = "fixup_disk", GUP, .memory = DISK, .pages = 2,
		.flags = OWN_FILE | FILLED | HOLDS,
		.setup = setup_dev, .op = op_fixup,
	}, {
		.name = "futex_wake_op", FUTEX, .memory = ANON, .pages = 1,
		.op = op_futex_wake_op, .check = check_futex_wake_op,
	}, {
		.name = "futex_lock_pi", FUTEX, .memory = ANON, .pages = 1,
		.op = op_futex_lock_pi, .check = check_futex_lock_pi,
	}, {
		.name = "cold", PAGEOUT, .memory = ANON,
		.prepare = fill, .op = op_advise, .advice = MADV_COLD, .check = check_data,
	}, {
		/* More than it isolates between two looks at need_resched(). */
		.name = "pageout", PAGEOUT, .memory = ANON, .pages = MAX_PAGES,
		.setup = setup_seen, .prepare = prepare_pageout, .op = op_advise,
		.advice = MADV_PAGEOUT, .check = check_data, .finish = finish_pageout,
	}, {
		/* The entries go by rmap. */
		.name = "pageout_file", PAGEOUT, .memory = DISK,
		.flags = OWN_FILE | FILLED,
		.setup = setup_seen, .prepare = prepare_pageout_file, .op = op_advise,
		.advice = MADV_PAGEOUT, .finish = finish_pageout,
	}, {
		.name = "aging", PAGEOUT, .memory = ANON,
		.flags = MAKES_NONE | EMPTY,
		.setup = setup_aging, .op = op_aging, .check = check_zero,
	}, {
		.name = "insert_page", DRIVER, .kind = TEST_VM_INSERT_MIXED,
		.flags = MAY_BE_ABSENT,
		.op = op_dev, .cmd = TEST_VM_INSERT_PAGE, .check = check_dev,
	}, {
		/* The kernel maps again after each 8 pages. */
		.name = "insert_pages", DRIVER, .kind = TEST_VM_INSERT_MIXED,
		.flags = MAY_BE_ABSENT, .pages = 20,
		.op = op_dev, .cmd = TEST_VM_INSERT_PAGES, .check = check_dev,
	}, {
		.name = "remap_pfn", DRIVER, .kind = TEST_VM_INSERT_REMAP,
		.flags = MAY_BE_ABSENT,
		.op = map_dev, .check = check_dev, .undo = undo_remap,
	}, {
		.name = "insert_pfn_fault", DRIVER, .kind = TEST_VM_INSERT_FAULT,
		.flags = EXACT_OWN,
		.op = check_dev,
	}, {
		.name = "pfn_late", LATE, .kind = TEST_VM_INSERT_PFN_LATE,
		.flags = WHOLE_TABLE | EXACT_OWN | MAKES_NONE,
		.op = check_late,
	}, {
		.name = "page_late", LATE, .kind = TEST_VM_INSERT_PAGE_LATE,
		.flags = WHOLE_TABLE | EXACT_OWN | MAKES_NONE,
		.op = check_late,
	}, {
		.name = "huge_late", LATE, .kind = TEST_VM_INSERT_HUGE_LATE,
		.flags = WHOLE_TABLE | EXACT_OWN,
		.op = check_late,
	}, {
		.name = "apply", DRIVER, .kind = TEST_VM_INSERT_APPLIED,
		.flags = MAY_BE_ABSENT,
		.op = op_dev, .cmd = TEST_VM_INSERT_APPLY, .check = check_dev,
	}, {
		.name = "migrate", .group = "device", .attackers = NEIGHBOUR | TRUNCATE,
		.memory = ANON,
		.setup = setup_device_memory, .op = op_migrate, .check = check_data,
	}, {
		.name = "migrate_split", .group = "device", .memory = ANON,
		.flags = WHOLE_TABLE | REFUSED | TAKEN,
		.setup = setup_collect, .prepare = prepare_collect, .op = op_collect,
		.check = check_collect, .undo = undo_zap, .finish = finish_large,
	}, {
		.name = "mremap_refused", MOVE, .flags = REFUSED | ALL_REFUSED,
		.setup = setup_mremap_refused, .prepare = prepare_mremap_refused,
		.op = op_mremap_refused, .check = check_mremap_refused,
		.undo = undo_mremap_refused, .finish = finish_mremap_refused,
	}, {
		/* Last: where this fails the kernel has lost pages. */
		.name = "mremap_pages", MOVE, .attackers = ALL,
		.flags = TWO_TABLES | UNDER_LOCK,
		.prepare = prepare_mremap, .op = op_mremap, .check = check_mremap,
		.undo = undo_mremap,
	},
};

#define POPULATED "its pages are there, and keep their table"
#define HUGE "a huge page is mapped, without a table"

static const struct spared spared[] = {
	{ "nth.uffd_rwp", POPULATED },
	{ "nth.mprotect_wp", "its markers are there, and keep their table" },
	{ "nth.mremap_table", "moves the PMD entry, and maps no table" },
	{ "nth.collapse", POPULATED },
	{ "nth.collapse_shared", POPULATED },
	{ "nth.cold", POPULATED },
	{ "nth.pageout", POPULATED },
	{ "nth.pageout_file", POPULATED },
	{ "nth.gup_fast", POPULATED },
	{ "thp.collapse_empty.own", "nothing may be there, so nobody makes a table" },
	{ "driver.pfn_late.own", HUGE },
	{ "driver.page_late.own", HUGE },
};

static const char *why_spared(const char *name)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(spared); i++)
		if (!strcmp(spared[i].name, name))
			return spared[i].why;
	return NULL;
}

/* Attackers */

static void attack_own(int nr __always_unused, unsigned long round)
{
	int t = round / 2 % nr_tables;

	if (victim->flags & EMPTY)
		*word(vma[t], vma_len / psize() - 1) = 1;
	if (round & 1)
		zap(vma[t], vma_len);
	else
		zap(t ? q : p, bytes());
}

/* Every second time it fills nothing, and so frees a table that another one made. */
static void attack_neighbour(int nr, unsigned long round)
{
	char *n = anon_neighbour[nr][round / 2 % nr_tables];

	if (round & 1)
		*n = 1;
	madvise(n, NEIGHBOUR_PAGES * psize(), MADV_DONTNEED);
}

static void attack_truncate(int nr, unsigned long round)
{
	int fd = neighbour_fd[nr];

	if (!whole_tables()) {
		if (ftruncate(fd, 2 * NEIGHBOUR_PAGES * psize()))
			bad_errno("truncate a neighbour");
		if (round & 1)
			*file_neighbour[nr][round / 2 % nr_tables] = 1;
		if (ftruncate(fd, 0))
			bad_errno("truncate a neighbour");
	}
	/* Two would find it short, that does no harm: the pages are in front. */
	if (victim->flags & OWN_FILE &&
	    (ftruncate(file, vma_len / 2) || ftruncate(file, vma_len)))
		bad_errno("truncate");
}

static void attack_punch(int nr, unsigned long round)
{
	if (!whole_tables()) {
		if (round & 1)
			*file_neighbour[nr][round / 2 % nr_tables] = 1;
		if (punch(neighbour_fd[nr], 0, 2 * NEIGHBOUR_PAGES * psize()))
			bad_errno("punch a hole for a neighbour");
	}
	if (victim->flags & OWN_FILE)
		punch(file, p - vma[0], bytes());
}

static const struct attacker attackers[] = {
	{ "own", OWN, attack_own },
	{ "neighbour", NEIGHBOUR, attack_neighbour },
	{ "truncate", TRUNCATE, attack_truncate },
	{ "punch", PUNCH, attack_punch },
};

/* Two CPUs, or the same twice. */
static void find_cpus(void)
{
	cpu_set_t set;
	int i, n = 0;

	sched_getaffinity(0, sizeof(set), &set);
	for (i = 0; i < CPU_SETSIZE && n < 2; i++)
		if (CPU_ISSET(i, &set))
			cpu[n++] = i;
	if (n < 2)
		cpu[1] = cpu[0];
}

/* Doubles the pauses so many times, for a victim that they leave no time for its work. */
static unsigned int longer_pauses;

/*
 * Two kinds of attack take turns.  At full speed on the other CPU, which shows that
 * the victim gets on.  And with pauses on the victim's own CPU, with priority: that
 * stops the victim wherever it can be preempted, so between any two of its steps,
 * and finds what it has done so far.
 */
static void *attacker_thread(void *arg)
{
	unsigned int seed = (long)arg + 1, pause = 0;
	struct sched_param param = { };
	unsigned long round;
	long end = 0;

	for (round = 0; !__atomic_load_n(&stop, __ATOMIC_RELAXED); round++) {
		if (now_ms() >= end) {
			pause = pause ? 0 : 1 << rand_r(&seed) % 12;
			pin(cpu[!pause]);
			/* Needs a privilege, and goes without. */
			param.sched_priority = !!pause;
			sched_setscheduler(0, pause ? SCHED_FIFO : SCHED_OTHER, &param);
			end = now_ms() + 5;
		}
		if (pause)
			usleep(pause << FORCE_READ(longer_pauses));
		attacker->round((long)arg, round);
		__atomic_fetch_add(&report->attacks, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

/* The process of a case */

static int undo(void)
{
	return (victim->undo ?: undo_zap)();
}

static int one_round(void)
{
	report->beat = now_ms();
	if ((victim->prepare && victim->prepare()) || victim->op() ||
	    (victim->check && victim->check()))
		return -1;
	return undo();
}

/* Rounds per second, with a rest of so many ms after each. */
static double run_for(long ms, long rest)
{
	long start = now_ms(), end = start + ms;
	unsigned long rounds = report->rounds;

	while (now_ms() < end && report->outcome == RUNNING) {
		if (one_round())
			break;
		report->rounds++;
		if (rest)
			usleep(rest * 1000);
	}
	ms = now_ms() - start;
	return (report->rounds - rounds) * 1000.0 / (ms ?: 1);
}

/*
 * What there must be of it, so that a pair does not pass because nothing happened.
 * Half of the time the attackers pause, and they share two CPUs with the victim and
 * the deferred work, which finds a table populated more often than not.
 */
static void set_floors(long ms)
{
	report->attacks_floor = 1 + zaps_per_s * ms / 1000 / ATTACKS_SHARE;
	if (!deferred_ms)
		report->freed_floor = -1;
	else if (!spared_why)
		report->freed_floor = 1 + ms / (deferred_ms * FREED_SHARE);
}

static long freed_by_attack(void)
{
	return frees_at_once() ? freed_at_once() : tables_freed();
}

static bool floors_met(long freed_before)
{
	report->freed = deferred_ms ? freed_by_attack() - freed_before : -1;
	return __atomic_load_n(&report->attacks, __ATOMIC_RELAXED) >= report->attacks_floor &&
	       report->freed >= report->freed_floor;
}

/* Has the victim done what its finish() asks for? */
static bool victim_did(void)
{
	if (victim->finish == finish_collapse)
		return collapsed;
	if (victim->finish == finish_large)
		return large_mapped() != large_before;
	return victim->op != op_gup_fast || found_fast;
}

/* VmPTE of /proc/self/status, in kB */
static unsigned long read_tables(void)
{
	static char buf[4096];
	int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
	ssize_t len = fd < 0 ? 0 : read(fd, buf, sizeof(buf) - 1);
	const char *line;

	close(fd);
	buf[len > 0 ? len : 0] = 0;
	line = strstr(buf, "VmPTE:");
	return line ? strtoul(line + strlen("VmPTE:"), NULL, 10) : 0;
}

static bool attack_tables(void)
{
	unsigned long kb = read_tables();
	int i;

	for (i = 0; i < 2 * nr_tables; i++)
		attacker->round(0, i);
	return read_tables() < kb;
}

/*
 * Where nothing is counted: the attacker frees a table that the victim has made, or, as
 * a marker keeps its table and a huge page has none, one that a read has made.
 */
static int zap_frees(void)
{
	bool freed;

	if ((victim->prepare && victim->prepare()) || victim->op())
		return -1;
	freed = attack_tables();
	if (undo())
		return -1;
	if (freed)
		return 0;
	/* Of what a huge page is for, each second round begins with a table. */
	report->rounds = 1;
	if (victim->prepare && victim->prepare != op_writeprotect && victim->prepare())
		return -1;
	FORCE_READ(*p);
	report->rounds = 0;
	return attack_tables() ? 0 : bad("the attacker alone frees no table");
}

/*
 * Before the victim works, whose own zaps leave empty tables as well: a table that a
 * page of the attacker's keeps is freed when the attacker takes that away.  An attacker
 * that frees at once needs no such proof: nobody else does, see zap_vmas().
 */
static int attacker_frees(void)
{
	long end = now_ms() + stuck_ms;
	unsigned long kb;

	if (spared_why)
		return 0;
	if (frees_at_once())
		return deferred_ms ? 0 : zap_frees();
	if (attacker->bit == OWN) {
		if ((victim->prepare && victim->prepare()) || victim->op())
			return -1;
	} else if (!whole_tables()) {
		*(attacker->bit == NEIGHBOUR ? anon_neighbour : file_neighbour)[0][0] = 1;
	} else {
		*(attacker->bit == PUNCH ? p : vma[0] + vma_len - psize()) = 1;
	}
	kb = read_tables();
	attacker->round(0, 0);
	while (read_tables() >= kb && now_ms() < end) {
		report->beat = now_ms();
		usleep(1000);
	}
	if (read_tables() >= kb)
		return bad("the attacker alone frees no table");
	return attacker->bit == OWN ? undo() : 0;
}

static void pair_case(long ms)
{
	pthread_t thread[MAX_ATTACKERS];
	long alone = ms / 20 > 50 ? ms / 20 : 50;
	long freed;
	long i;

	if (attacker_frees())
		return;
	report->alone = run_for(alone, 0);
	if (report->outcome != RUNNING)
		return;
	ms = ms > alone ? ms - alone : 1;
	set_floors(ms);
	freed = freed_by_attack();
	/* What it did alone does not count. */
	collapsed = 0;
	found_fast = 0;
	if (victim->finish == finish_large)
		large_before = large_mapped();
	for (i = 0; i < nr_attackers; i++) {
		if (pthread_create(&thread[i], NULL, attacker_thread, (void *)i)) {
			bad_errno("pthread_create");
			return;
		}
	}
	report->attacked = run_for(ms, 0);
	/*
	 * The machine may have been busy.  And a victim whose pages are there most of
	 * the time leaves the deferred work an empty table once in seconds only: it
	 * rests, while the attackers do not.
	 */
	for (i = 0; i < LONGER && report->outcome == RUNNING &&
	     !(floors_met(freed) && victim_did()); i++) {
		if (!victim_did())
			__atomic_fetch_add(&longer_pauses, 1, __ATOMIC_RELAXED);
		run_for(ms, 2 * deferred_ms < ms ? 2 * deferred_ms : ms);
	}
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	for (i = 0; i < nr_attackers; i++)
		pthread_join(thread[i], NULL);
	if (!floors_met(freed))
		bad("%lu attacks, expected %lu or more, %ld tables freed, expected %ld or more",
		    report->attacks, report->attacks_floor, report->freed,
		    report->freed_floor);
}

/* There may be tables that were never noted. */
static bool made_empty;

static void start_empty(void)
{
	int t;

	zap_vmas();
	for (t = 0; t < nr_tables && !whole_tables(); t++) {
		if (made_empty)
			*anon_neighbour[0][t] = 1;
		madvise(anon_neighbour[0][t], NEIGHBOUR_PAGES * psize(), MADV_DONTNEED);
		madvise(file_neighbour[0][t], NEIGHBOUR_PAGES * psize(), MADV_DONTNEED);
	}
	made_empty = false;
}

/*
 * Have tables in which nothing ever was.  Nobody notes those that the driver makes, so the
 * deferred work does not come before an operation that is slow.
 */
static int make_empty_tables(void)
{
	static int driver = -1;
	bool whole = whole_tables();
	int t;

	if (driver < 0)
		driver = open("/dev/test_vm_insert", O_RDWR | O_CLOEXEC);
	/* Where whole tables move there is one VMA at a time. */
	for (t = 0; t < (whole ? 1 : nr_tables); t++) {
		char *addr = late() ? p : whole ? vma[t] : anon_neighbour[0][t];
		struct test_vm_insert_cmd cmd = { .addr = (unsigned long)addr, .nr = 1 };

		if (ioctl(driver, TEST_VM_INSERT_TABLE, &cmd))
			return bad_errno("make an empty table");
	}
	made_empty = true;
	return 0;
}

/* VmPTE when no table of the case is there.  More may stay for another reason, so the wait ends. */
static unsigned long tables_base;

static void wait_for_no_table(void)
{
	/* An empty table is freed much sooner. */
	long end = now_ms() + stuck_ms / 20;
	unsigned long kb;

	while ((kb = read_tables()) > tables_base && now_ms() < end)
		usleep(1000);
	tables_base = kb;
}

/* The nth point fires; 0: none does. */
static int set_fail_nth(int fd, unsigned int n)
{
	char buf[16];
	int len = snprintf(buf, sizeof(buf), "%u", n);

	if (no_refs)
		return n ? write_word(FAIL_PTE_TABLE "/space", buf) ||
			   write_word(FAIL_PTE_TABLE "/times", "1") :
			   write_word(FAIL_PTE_TABLE "/times", "0");
	return pwrite(fd, buf, len, 0) == len ? 0 : bad_errno("write fail-nth");
}

/* 0 if it fired; -1 if that is not known. */
static int get_fail_nth(int fd)
{
	char buf[16] = "";

	if (no_refs)
		return read_number(FAIL_PTE_TABLE "/times", 0);
	return pread(fd, buf, sizeof(buf) - 1, 0) > 0 ? atoi(buf) : bad_errno("read fail-nth");
}

/*
 * Without memory for a ref nobody holds a table outside its lock, so also those are
 * freed that a fault would keep.  Another injection makes that so, and fail-nth is for
 * one: here the attributes of fail_pte_table count the points.
 */
static int take_refs_away(void)
{
	return change("/sys/kernel/slab/pte_ref/failslab", "1") ||
	       change(FAILSLAB "/cache-filter", "Y") ||
	       change(FAILSLAB "/ignore-gfp-wait", "N") ||
	       change(FAILSLAB "/verbose", "0") ||
	       change(FAILSLAB "/times", MAX_REFUSED) ||
	       change(FAILSLAB "/probability", "100") ||
	       change(FAIL_PTE_TABLE "/times", "0") ||
	       change(FAIL_PTE_TABLE "/space", "0") ||
	       change(FAIL_PTE_TABLE "/task-filter", "Y") ||
	       change(FAIL_PTE_TABLE "/probability", "100") ||
	       write_word("/proc/self/make-it-fail", "1");
}

/* With mm_users of 1 a fault takes no ref, since nobody could free its table. */
static void *idle_thread(void *arg __always_unused)
{
	for (;;)
		pause();
	return NULL;
}

static const char * const nth_states[] = { "without a table", "with an empty one" };
static const char * const nth_wheres[] = { "before it is mapped", "before it is locked" };

/*
 * All points of an operation, from one state of the tables.  The operation itself
 * frees none at once: the last round, which injects nothing, shows that.  If another
 * process did meanwhile, it does not each time.
 */
static int all_points(int fd, enum where where, int state)
{
	unsigned int *points = &report->points[where][state];
	unsigned int n;
	int left, tries = 0;
	long freed;

	report->where = where;
	report->state = state;
	*points = 0;
	for (n = 1; n < MAX_POINTS; n++) {
		report->beat = now_ms();
		report->n = n;
		start_empty();
		wait_for_no_table();
		/* Last, before the deferred work finds them. */
		if ((victim->prepare && victim->prepare()) || (state && make_empty_tables()))
			return -1;
		freed = freed_at_once();
		if (set_fail_nth(fd, n) || victim->op())
			return -1;
		left = get_fail_nth(fd);
		if (left < 0 || set_fail_nth(fd, 0))
			return -1;
		freed = freed_at_once() - freed;
		if ((victim->check && victim->check()) || undo())
			return -1;
		report->rounds++;
		if (!left) {
			(*points)++;
			report->hits[where][state] += !!freed;
			continue;
		}
		if (!freed)
			return 0;
		if (++tries == 3)
			return bad("frees %ld tables without an injection", freed);
		n--;
	}
	return bad("more than %d points", MAX_POINTS);
}

/*
 * Must one of the points free a table?  One that was made before is there at the first.
 * One that the operation makes is there at its last points only, and may be held then.
 */
static bool must_free(enum where where, int state)
{
	if (spared_why)
		return false;
	if (state)
		return where == MAPPED || !(victim->flags & UNDER_LOCK);
	/* Of two tables one is met when the other is locked or mapped already. */
	if (where == MAPPED)
		return victim->flags & TWO_TABLES;
	if (victim->flags & HOLDS)
		return no_refs;
	return !(victim->flags & (MAKES_NONE | FILLS_MADE));
}

/*
 * If nothing was freed go through all again: a fault holds its table while deferred
 * work is pending, which may also have been faster.
 */
static int points_of_state(int fd, enum where where, int state)
{
	long end = now_ms() + stuck_ms;
	int i;

	/* What the operation itself makes is noted; on a slow machine that look may come first. */
	for (i = 0; i < NTH_TRIES || now_ms() < end; i++) {
		if (all_points(fd, where, state))
			return -1;
		if (report->hits[where][state] || !must_free(where, state))
			return 0;
	}
	return bad("no table is freed at any point");
}

/* The operation says when. */
static int refuse_from(unsigned int n)
{
	char buf[16];

	snprintf(buf, sizeof(buf), "%u", n);
	return write_word(FAIL_PAGE_ALLOC "/space", buf);
}

/*
 * One allocation after the other fails.  The operation may say so, but must not say that
 * all is done when it is not.
 */
static void all_allocations(int fd)
{
	bool all = victim->flags & ALL_REFUSED;
	unsigned int n;
	int left;

	for (n = 1; n < MAX_POINTS; n++) {
		report->beat = now_ms();
		report->n = n;
		if (victim->prepare() ||
		    (all ? refuse_from(n) : set_fail_nth(fd, n)) || victim->op())
			return;
		left = all ? !refused : get_fail_nth(fd);
		if (left < 0 || set_fail_nth(fd, 0) || victim->check() || victim->undo())
			return;
		report->rounds++;
		if (left)
			break;
		report->points[BEFORE][0]++;
		report->hits[BEFORE][0] += refused;
	}
	report->n = 0;
	if (!report->hits[BEFORE][0])
		bad(victim->flags & TAKEN ? "nothing is taken away" : "no allocation is refused");
}

static void nth_case(void)
{
	enum where where;
	int state, hits = 0;
	pthread_t thread;
	int fd = open("/proc/self/fail-nth", O_RDWR | O_CLOEXEC);

	if (fd < 0) {
		bad_errno("fail-nth");
		return;
	}
	if (victim->flags & REFUSED) {
		all_allocations(fd);
		return;
	}
	if (freed_at_once() < 0) {
		bad("no pte_ref_free in /proc/vmstat");
		return;
	}
	if (pthread_create(&thread, NULL, idle_thread, NULL)) {
		bad_errno("pthread_create");
		return;
	}
	/* Undisturbed, and so that the program itself is there. */
	if ((no_refs && take_refs_away()) || one_round() || one_round())
		return;
	for (where = BEFORE; where <= MAPPED; where++) {
		if (write_word(FAIL_PTE_TABLE "/mapped", where == MAPPED ? "1" : "0"))
			return;
		for (state = 0; state < 2; state++) {
			if (points_of_state(fd, where, state))
				return;
			hits += report->hits[where][state];
		}
	}
	report->n = 0;
	if (spared_why && hits)
		bad("tables are freed, but the list says: %s", spared_why);
	if (!no_refs && victim->flags & HOLDS && report->hits[BEFORE][0])
		bad("a table that is held is freed");
	if (no_refs && victim->flags & HOLDS &&
	    read_number(FAILSLAB "/times", 0) == strtoul(MAX_REFUSED, NULL, 10))
		bad("no ref is refused");
}

static void case_process(long ms)
{
	report->beat = now_ms();
	/* If it stays there, no table gets percpu counters: an empty one is freed at once. */
	find_cpus();
	pin(cpu[0]);
	if (!init_memory() && !setup() && (!victim->setup || !victim->setup())) {
		if (nth_mode)
			nth_case();
		else
			pair_case(ms);
		report->beat = now_ms();
		if (victim->finish)
			victim->finish();
	}
	if (report->outcome == RUNNING)
		report->outcome = PASS;
	_exit(0);
}

/* The program */

/*
 * The best of some, since the machine may be busy.
 * Return: ms, or -1 if no table is ever freed.
 */
static long measure_deferred(char *page)
{
	long freed, start, best = -1, end = now_ms() + stuck_ms;
	int i;

	for (i = 0; i < 5 && now_ms() < end; i++) {
		freed = tables_freed();
		start = now_ms();
		*page = 1;
		madvise(page, psize(), MADV_DONTNEED);
		while (tables_freed() == freed && now_ms() < end)
			usleep(1000);
		if (tables_freed() != freed && (best < 0 || now_ms() - start < best))
			best = now_ms() - start;
	}
	/* 0 has another meaning. */
	return best ?: 1;
}

/* Where nothing is counted CONFIG_PT_RECLAIM must free them, or no pair tests anything. */
static void check_reclaim(char *start)
{
	unsigned long kb;

	start = (char *)(((unsigned long)start + table_size() - 1) & ~(table_size() - 1));
	*start = 1;
	kb = read_tables();
	madvise(start, table_size(), MADV_DONTNEED);
	if (read_tables() >= kb)
		ksft_exit_fail_msg("MADV_DONTNEED of a whole table does not free it\n");
}

static void measure_machine(void)
{
	size_t len = 3 * table_size();
	unsigned long zaps = 0;
	long start, ms;
	char *page = mmap(NULL, len, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (page == MAP_FAILED)
		ksft_exit_fail_perror("mmap");
	madvise(page, len, MADV_NOHUGEPAGE);
	if (freed_at_once() < 0 || turned_off())
		check_reclaim(page);
	/* Nothing else is in its table. */
	page += len / 2;
	start = now_ms();
	for (ms = 0; ms < 200; ms = now_ms() - start, zaps++) {
		*page = 1;
		madvise(page, psize(), MADV_DONTNEED);
	}
	zaps_per_s = zaps * 1000.0 / ms;
	ksft_print_msg("a thread can touch and zap %.0f pages in a second\n", zaps_per_s);
	if (freed_at_once() < 0) {
		ksft_print_msg("the kernel does not count the tables that it frees\n");
		return;
	}
	/* MADV_DONTNEED of a whole table frees it all the same, and counts nothing. */
	if (turned_off()) {
		ksft_print_msg("pte_ref= turns it off: no table is counted\n");
		return;
	}
	deferred_ms = measure_deferred(page);
	if (deferred_ms < 0)
		ksft_exit_fail_msg("no empty table is freed within %ld s\n", stuck_ms / 1000);
	ksft_print_msg("an empty table is freed after %ld ms\n", deferred_ms);
}

static void show_file(const char *name)
{
	FILE *f = fopen(name, "re");
	char line[512];

	while (f && fgets(line, sizeof(line), f))
		ksft_print_msg("%s", line);
	if (f)
		fclose(f);
}

/* Where the threads of a process are; in the kernel's log all tasks, and what CPUs do. */
static void show_stuck(pid_t pid)
{
	int fd = open("/proc/sysrq-trigger", O_WRONLY | O_CLOEXEC);
	char name[PATH_MAX];
	struct dirent *entry;
	DIR *dir;

	snprintf(name, sizeof(name), "/proc/%d/task", pid);
	dir = opendir(name);
	while (dir && (entry = readdir(dir))) {
		if (entry->d_name[0] == '.')
			continue;
		snprintf(name, sizeof(name), "/proc/%d/task/%s/stat", pid, entry->d_name);
		show_file(name);
		snprintf(name, sizeof(name), "/proc/%d/task/%s/stack", pid, entry->d_name);
		show_file(name);
	}
	if (dir)
		closedir(dir);
	if (fd < 0 || write(fd, "l", 1) != 1 || write(fd, "t", 1) != 1)
		ksft_print_msg("sysrq-trigger: %s\n", strerror(errno));
	close(fd);
}

/*
 * Ends when the process of the case does; kills it if it is stuck.
 * Return: false if it stays, and may hold what the next case needs.
 */
static bool watch(pid_t pid)
{
	long beat = report->beat;
	bool stuck = false;
	int status, i = 0;

	/* By turns of our own: the machine may have stopped for so long. */
	while (!stuck && waitpid(pid, &status, WNOHANG) != pid) {
		i = report->beat == beat ? i + 1 : 0;
		beat = report->beat;
		stuck = i > stuck_ms / 10;
		usleep(10000);
	}
	if (!stuck) {
		if (WIFSIGNALED(status)) {
			report->outcome = RUNNING;
			bad("signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
		} else if (report->outcome == RUNNING) {
			bad("process ended with status %#x", status);
		}
		return true;
	}
	show_stuck(pid);
	kill(pid, SIGKILL);
	for (i = 0; i < stuck_ms / 10 && waitpid(pid, &status, WNOHANG) != pid; i++)
		usleep(10000);
	stuck = i == stuck_ms / 10;
	report->outcome = RUNNING;
	bad("does not end%s", stuck ? ", and cannot be killed" : "");
	return !stuck;
}

/* However the case ended, nothing of it stays for the next one, or for other programs. */
static void settings_back(void)
{
	enum outcome outcome = report->outcome;
	char name[128];
	int i;

	report->outcome = FAIL;
	for (i = report->nr_settings; i-- > 0;)
		write_word(report->settings[i].name, report->settings[i].was);
	if (nth_mode)
		write_word(FAIL_PTE_TABLE "/mapped", "0");
	large_name(name, sizeof(name), "enabled");
	if (report->large_was[0])
		write_word(name, report->large_was);
	report->outcome = outcome;
}

/* What the kernel complained of since it was booted. */
static unsigned long read_taint(void)
{
	return read_number("/proc/sys/kernel/tainted", 0);
}

static void run_case(const struct victim *v, const struct attacker *a, long ms)
{
	unsigned long taint = read_taint();
	char name[80], where[64] = "";
	bool ended = true;
	enum where w;
	pid_t pid;

	snprintf(name, sizeof(name), "%s.%s%s%s", nth_mode ? "nth" : v->group, v->name,
		 a ? "." : "", a ? a->name : "");
	memset(report, 0, sizeof(*report));
	report->beat = now_ms();
	victim = v;
	attacker = a;
	spared_why = why_spared(name);
	fflush(stdout);
	pid = fork();
	if (!pid)
		case_process(ms);
	if (pid < 0)
		bad_errno("fork");
	else
		ended = watch(pid);
	settings_back();
	taint = read_taint() & ~taint;
	if (taint && report->outcome != FAIL) {
		report->outcome = RUNNING;
		bad("see the kernel's log, it is tainted now: %#lx", taint);
	}

	if (report->outcome == SKIP) {
		ksft_test_result_skip("%s: %s\n", name, report->msg);
		return;
	}
	if (v->flags & REFUSED && report->n)
		snprintf(where, sizeof(where), ", %s %u",
			 v->flags & TAKEN ? "point" : "allocation", report->n);
	else if (nth_mode && report->n)
		snprintf(where, sizeof(where), ", point %u, %s, %s", report->n,
			 nth_wheres[report->where], nth_states[report->state]);
	if (report->outcome == FAIL)
		ksft_print_msg("%s: %s (round %lu%s)\n", name, report->msg, report->rounds,
			       where);
	if (v->flags & TAKEN)
		ksft_print_msg("%s: %u points, at %u of them all is taken away\n",
			       name, report->points[BEFORE][0], report->hits[BEFORE][0]);
	else if (v->flags & REFUSED)
		ksft_print_msg("%s: %u allocations, without %u of them it says ENOMEM\n",
			       name, report->points[BEFORE][0], report->hits[BEFORE][0]);
	for (w = BEFORE; nth_mode && !(v->flags & REFUSED) && w <= MAPPED; w++)
		ksft_print_msg("%s: %s: %u points %s, %u free one, %u %s, %u do\n",
			       name, nth_wheres[w], report->points[w][0], nth_states[0],
			       report->hits[w][0], report->points[w][1], nth_states[1],
			       report->hits[w][1]);
	if (!nth_mode)
		ksft_print_msg("%s: %s %.0f/s, %s %.0f/s, %s %.2f, %s %lu (%lu), %s %ld (%ld)\n",
			       name, "alone", report->alone, "attacked", report->attacked,
			       "factor", report->attacked ? report->alone / report->attacked : 0,
			       "attacks", report->attacks, report->attacks_floor,
			       "tables freed", report->freed, report->freed_floor);
	if (spared_why)
		ksft_print_msg("%s: no table is freed: %s\n", name, spared_why);
	if (nth_mode && v->flags & UNDER_LOCK)
		ksft_print_msg("%s: maps an empty table under the lock of another one\n", name);
	ksft_test_result(report->outcome == PASS, "%s\n", name);
	if (!ended)
		ksft_exit_fail_msg("%s stays, the others do not run\n", name);
}

struct pair {
	const struct victim *victim;
	const struct attacker *attacker;
};

static struct pair pairs[ARRAY_SIZE(victims) * ARRAY_SIZE(attackers)];
static int nr_pairs, nr_left_out;

static bool chosen(const char *wanted, const char *name)
{
	return !wanted || !strcmp(wanted, name);
}

/*
 * Without an attacker if the victim runs alone.  Where nothing is counted only those
 * that can free a table.
 */
static void choose(const char *group, const char *wanted_victim, const char *wanted_attacker,
		   bool counted)
{
	const struct victim *v;
	const struct attacker *a;

	for (v = victims; v < victims + ARRAY_SIZE(victims); v++) {
		if (!chosen(group, v->group) || !chosen(wanted_victim, v->name))
			continue;
		if (nth_mode && no_refs && v->flags & REFUSED)
			ksft_print_msg("%s.%s is left out: it sets what refuses refs\n", v->group,
				       v->name);
		else if (nth_mode)
			pairs[nr_pairs++] = (struct pair){ v, NULL };
		for (a = attackers; !nth_mode && a < attackers + ARRAY_SIZE(attackers); a++) {
			if (!(v->attackers & a->bit) || !chosen(wanted_attacker, a->name))
				continue;
			if (counted || frees_itself(v, a))
				pairs[nr_pairs++] = (struct pair){ v, a };
			else
				nr_left_out++;
		}
	}
}

/* How long each pair of a group runs. */
static long pair_ms(const char *group, double seconds)
{
	int i, nr = 0;
	long ms;

	for (i = 0; i < nr_pairs; i++)
		nr += !strcmp(pairs[i].victim->group, group);
	ms = seconds * 1000 / nr;
	return ms > PAIR_MS ? ms : PAIR_MS;
}

static void usage(void)
{
	fprintf(stderr,
		"pte_ref_race [-t SECONDS] [-g GROUP] [-v VICTIM] [-a ATTACKER] [-j N]\n"
		"             [-w SECONDS] [-l] [-m]\n"
		"  -t  pairs of victim and attacker, for so long per group, a second per pair\n"
		"      at least; in brackets what attacks and freed tables must not be below\n"
		"      (without: one victim at a time, with CONFIG_FAIL_PTE_TABLE)\n"
		"  -j  number of attacking threads, 1 or 2\n"
		"  -w  what makes no progress for so long does not end (10)\n"
		"  -m  without -t: there is no memory for a ref, so nobody holds a table\n"
		"  -l  list groups, victims and attackers that would run\n");
	exit(KSFT_FAIL);
}

int main(int argc, char **argv)
{
	const char *group = NULL, *wanted_victim = NULL, *wanted_attacker = NULL;
	const struct victim *v;
	double seconds = 0;
	bool list = false;
	int i, opt;

	while ((opt = getopt(argc, argv, "t:g:v:a:j:w:lm")) != -1) {
		switch (opt) {
		case 't':
			seconds = atof(optarg);
			break;
		case 'g':
			group = optarg;
			break;
		case 'v':
			wanted_victim = optarg;
			break;
		case 'a':
			wanted_attacker = optarg;
			break;
		case 'j':
			nr_attackers = atoi(optarg);
			break;
		case 'w':
			stuck_ms = atof(optarg) * 1000;
			break;
		case 'l':
			list = true;
			break;
		case 'm':
			no_refs = true;
			break;
		default:
			usage();
		}
	}
	if (optind < argc || nr_attackers < 1 || nr_attackers > MAX_ATTACKERS)
		usage();
	nth_mode = !seconds && !list;
	if (no_refs && !nth_mode)
		usage();
	choose(group, wanted_victim, wanted_attacker,
	       list || nth_mode || (freed_at_once() >= 0 && !turned_off()));
	if (!nr_pairs && !nr_left_out) {
		fprintf(stderr, "pte_ref_race: no such group, victim or attacker, -l lists them\n");
		return KSFT_FAIL;
	}
	for (i = 0; list && i < nr_pairs; i++)
		printf("%s %s %s\n", pairs[i].victim->group, pairs[i].victim->name,
		       pairs[i].attacker->name);
	if (list)
		return 0;

	ksft_print_header();
	ksft_set_plan(nr_pairs);
	report = mmap(NULL, sizeof(*report), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		      -1, 0);
	if (report == MAP_FAILED)
		ksft_exit_fail_perror("mmap");
	mount("debugfs", "/sys/kernel/debug", "debugfs", 0, NULL);
	ksft_print_msg("pages of %u kB, a table maps %zu MB, a huge page has %zu MB\n",
		       psize() >> 10, table_size() >> 20, huge_page_size() >> 20);
	if (!nth_mode)
		measure_machine();
	if (nr_left_out)
		ksft_print_msg("%d pairs are left out: their attackers can free no table here\n",
			       nr_left_out);
	if (!nr_pairs)
		ksft_exit_skip("none is left\n");
	for (i = 0; i < nr_pairs; i++) {
		v = pairs[i].victim;
		if (nth_mode && access(FAIL_PTE_TABLE, F_OK))
			ksft_test_result_skip("nth.%s: no CONFIG_FAIL_PTE_TABLE\n", v->name);
		else
			run_case(v, pairs[i].attacker, pair_ms(v->group, seconds));
	}
	ksft_finished();
}
