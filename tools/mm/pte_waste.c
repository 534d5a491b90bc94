// SPDX-License-Identifier: GPL-2.0
/*
 * pte_waste: how much memory of page tables processes hold and do not need
 *
 * The kernel says how large the page tables of a process are (VmPTE), and which
 * pages of it are populated (/proc/PID/pagemap), but not which tables are empty.
 * So the tables that the populated entries need are counted here, level by level,
 * and the rest of VmPTE is what is wasted.  Most of that are empty PTE tables;
 * pte_ref frees these.  Some can be PMD and PUD tables that became empty, which it
 * does not free.  How many, is not visible either: what pte_ref would give back
 * has a lower and an upper bound, and both are printed.
 *
 * Upper bound: as few upper tables are empty as can hold the empty PTE tables.
 * Lower bound: each upper table that the mappings have room for and nothing needs
 * is there and empty, and each PTE table whose entries the kernel does not show
 * (VM_PFNMAP) is in use.
 *
 * Sizes in struct count are numbers of tables.  A table is one page, with entries
 * of eight bytes.  Nothing here changes a process: no page is faulted in, and no
 * bit of an entry is written.
 */
#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64
#include <ctype.h>
#include <dirent.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

typedef unsigned long long u64;

#define NONE		ULLONG_MAX
#define BIT_ULL(n)	(1ULL << (n))
#define BUCKETS		20
#define KCMP_VM		1

/* The ioctl of /proc/PID/pagemap since 6.7, for headers that are older. */
struct scan_arg {
	u64 size;
	u64 flags;
	u64 start;
	u64 end;
	u64 walk_end;
	u64 vec;
	u64 vec_len;
	u64 max_pages;
	u64 category_inverted;
	u64 category_mask;
	u64 category_anyof_mask;
	u64 return_mask;
};

struct region {
	u64 start;
	u64 end;
	u64 categories;
};

#define SCAN_IOCTL	_IOWR('f', 16, struct scan_arg)
#define SCAN_PRESENT	BIT_ULL(3)
#define SCAN_SWAPPED	BIT_ULL(4)
#define SCAN_ZERO	BIT_ULL(5)
#define SCAN_HUGE	BIT_ULL(6)

/* Entries of /proc/PID/pagemap.  Markers count as swapped in both interfaces. */
#define PM_PRESENT	BIT_ULL(63)
#define PM_SWAP		BIT_ULL(62)
#define PM_PFN		(BIT_ULL(55) - 1)

#define READ_TABLES	64
/* Without the ioctl: a mapping as large as this is read if it has memory at all. */
#define LARGE		(64ULL << 30)

/* What a table of each level maps, and how many of the upper two VmPTE counts. */
static u64 page_size, entries, pte_span, pmd_span, pud_span;
static int upper_levels;

static bool have_scan, have_pte_ref, no_kcmp, stderr_tty;
static u64 zero_pfn;
static struct utsname kernel;

static struct {
	bool cgroup, histogram, json, no_scan, quiet, watch;
	double interval;
	long top;
	u64 sparse;
} opt;

struct count {
	u64 vmpte;
	/* Needed: PTE tables, those deposited for huge pages, upper tables. */
	u64 pte, deposit, pmd, pud;
	/* Of pte: only the zero page, few entries. */
	u64 zero, sparse;
	/* Tables whose entries the kernel does not show. */
	u64 hidden;
	/* Room of the mappings that nothing populated needs: PMD and PUD tables, */
	/* PTE tables, and those of these whose PMD table is in use. */
	u64 room_upper, room_pte, room_below;
	u64 waste, back_min, back_max;
	u64 bucket[BUCKETS];
};

struct process {
	pid_t pid;
	char name[64];
	char *cgroup;
	u64 vmpte_kb, size_kb, hugetlb_kb;
	u64 stack, code;		/* the same in processes that share the mm */
	const char *why;		/* left out */
	pid_t shares;			/* the mm of that process */
	bool changing;
	u64 unread;			/* bytes of large mappings that were not read */
	struct count count;
};

/* A mapping of which more has to be known than maps says. */
struct special {
	u64 start;
	u64 page;			/* of hugetlb, else 0 */
	bool no_memory;
};

struct mapping {
	u64 start, end;
	u64 huge_page;			/* of hugetlb, else 0 */
	bool anonymous;			/* its huge pages have a deposited table */
	bool hidden;			/* can have entries that are not shown */
	bool skip;
};

struct walk {
	struct count *count;
	int pagemap;
	/* The PTE table that is being counted. */
	u64 table;
	u64 populated, zeros;
	/* The last slot that was populated, or could be. */
	u64 last_used, last_room, last_hidden;
	/* The PMD table: slots that mappings have in it, and that are used. */
	u64 pmd, pmd_room, pmd_used;
	bool pmd_needed;
	u64 pud;
	bool pud_needed;
	u64 full;
};

static struct process *processes;
static size_t nr_processes, done_processes;
static u64 done_tables;

static void *xrealloc(void *p, size_t n, size_t size)
{
	p = reallocarray(p, n, size);
	if (!p)
		errx(2, "out of memory");
	return p;
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static u64 kb(u64 tables)
{
	return tables * page_size / 1024;
}

/* What takes over a second says how far it is: on a terminal in one line. */
static double began, said;
static bool on_line;

static void progress(void)
{
	double t;

	if (opt.quiet || opt.watch)
		return;
	t = now();
	if (t - began < 1 || t - said < (stderr_tty ? 0.2 : 10))
		return;
	said = t;
	fprintf(stderr, "%spte_waste: %zu of %zu processes, %llu tables%s",
		stderr_tty ? "\r\033[K" : "", done_processes, nr_processes, done_tables,
		stderr_tty ? "" : "\n");
	on_line = stderr_tty;
}

static void progress_done(void)
{
	if (on_line)
		fputs("\r\033[K", stderr);
	on_line = false;
}

/* ---- files of /proc/PID ---- */

static FILE *open_file(int dir, const char *name)
{
	int fd = openat(dir, name, O_RDONLY | O_CLOEXEC);
	FILE *f;

	if (fd < 0)
		return NULL;
	f = fdopen(fd, "r");
	if (!f)
		close(fd);
	return f;
}

static const char *reason(int error)
{
	switch (error) {
	case EACCES:
	case EPERM:
		return "permission denied";
	case ENOENT:
	case ESRCH:
		return "exited";
	case EINTR:
		return "is being killed";
	default:
		return strerror(error);
	}
}

/* The figure of a line "KEY:  N kB". */
static bool figure(const char *line, const char *key, u64 *value)
{
	size_t len = strlen(key);

	if (strncmp(line, key, len) || line[len] != ':')
		return false;
	*value = strtoull(line + len + 1, NULL, 10);
	return true;
}

static int read_status(int dir, struct process *p)
{
	FILE *f = open_file(dir, "status");
	bool has_mm = false;
	char line[512];
	size_t n;

	if (!f)
		return -errno;
	while (fgets(line, sizeof(line), f)) {
		if (!strncmp(line, "Name:\t", 6)) {
			n = strcspn(line + 6, "\n");
			if (n >= sizeof(p->name))
				n = sizeof(p->name) - 1;
			memcpy(p->name, line + 6, n);
			p->name[n] = '\0';
		}
		has_mm |= figure(line, "VmPTE", &p->vmpte_kb);
		figure(line, "VmSize", &p->size_kb);
		figure(line, "HugetlbPages", &p->hugetlb_kb);
	}
	fclose(f);
	return has_mm ? 0 : -ENODATA;
}

/* Where code and stack start: fields 26 and 28, which follow a name in parentheses. */
static void read_stat(int dir, struct process *p)
{
	FILE *f = open_file(dir, "stat");
	char line[2048], *s = NULL;
	int field;

	if (!f)
		return;
	if (fgets(line, sizeof(line), f))
		s = strrchr(line, ')');
	fclose(f);
	for (field = 2; s && field < 28; field++) {
		s = strchr(s + 1, ' ');
		if (s && field == 25)
			p->code = strtoull(s, NULL, 10);
		if (s && field == 27)
			p->stack = strtoull(s, NULL, 10);
	}
}

/* The path in the unified hierarchy, or in that of the memory controller. */
static void read_cgroup(int dir, struct process *p)
{
	FILE *f = open_file(dir, "cgroup");
	char *line = NULL, *controllers, *path;
	size_t size = 0;

	if (!f)
		return;
	while (getline(&line, &size, f) > 0) {
		controllers = strchr(line, ':');
		path = controllers ? strchr(controllers + 1, ':') : NULL;
		if (!path)
			continue;
		*path++ = '\0';
		path[strcspn(path, "\n")] = '\0';
		controllers++;
		if (*controllers ? !strstr(controllers, "memory") :
		    p->cgroup && strcmp(p->cgroup, "/"))
			continue;
		free(p->cgroup);
		p->cgroup = strdup(path);
		if (!p->cgroup)
			errx(2, "out of memory");
	}
	free(line);
	fclose(f);
}

/*
 * hugetlb's mappings with their page size; without the ioctl also large mappings that
 * hold no memory.  smaps walks the page tables: it is read only where one of these can
 * be.
 */
static struct special *read_smaps(int dir, const struct process *p, size_t *nr)
{
	struct special *list = NULL, cur = { 0 };
	u64 start, end, page = 0, value, memory = 0;
	bool hugetlb, large = false;
	char line[1024];
	FILE *f;

	*nr = 0;
	if (!p->hugetlb_kb && (have_scan || p->size_kb < LARGE / 1024))
		return NULL;
	f = open_file(dir, "smaps");
	if (!f)
		return NULL;
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%llx-%llx ", &start, &end) == 2) {
			cur.start = start;
			large = end - start >= LARGE;
			page = 0;
			memory = 0;
		} else if (figure(line, "KernelPageSize", &value)) {
			page = value * 1024;
		} else if (figure(line, "Rss", &value) || figure(line, "Swap", &value)) {
			memory += value;
		} else if (!strncmp(line, "VmFlags:", 8)) {
			hugetlb = strstr(line, " ht");
			cur.page = hugetlb ? page : 0;
			cur.no_memory = !have_scan && large && !memory && !hugetlb;
			if (!hugetlb && !cur.no_memory)
				continue;
			list = xrealloc(list, *nr + 1, sizeof(*list));
			list[(*nr)++] = cur;
		}
	}
	fclose(f);
	return list;
}

/* ---- counting ---- */

static void table_done(struct walk *w)
{
	struct count *c = w->count;
	int b;

	if (!w->populated)
		return;
	c->pte++;
	done_tables++;
	if (w->zeros == w->populated)
		c->zero++;
	else if (w->populated <= opt.sparse)
		c->sparse++;
	if (w->populated == entries)
		w->full++;
	for (b = 0; b < BUCKETS - 1 && w->populated >> (b + 1); b++)
		;
	c->bucket[b]++;
	w->populated = 0;
	w->zeros = 0;
}

static void slot_used(struct walk *w, u64 slot)
{
	w->pmd_needed = true;
	if (slot == w->last_used)
		return;
	w->last_used = slot;
	w->pmd_used++;
	if (slot == w->last_hidden) {
		w->count->hidden--;
		w->last_hidden = NONE;
	}
}

static void populated(struct walk *w, u64 start, u64 end, bool zero)
{
	u64 next, pages;

	for (; start < end; start = next) {
		next = (start / pte_span + 1) * pte_span;
		if (next > end)
			next = end;
		if (start / pte_span != w->table) {
			table_done(w);
			w->table = start / pte_span;
		}
		slot_used(w, w->table);
		pages = (next - start) / page_size;
		w->populated += pages;
		if (zero)
			w->zeros += pages;
	}
}

static void huge(struct walk *w, const struct mapping *m, u64 start, u64 end)
{
	u64 slot;

	if (m->huge_page >= pmd_span) {
		w->pud_needed = true;
		return;
	}
	for (slot = start / pte_span; slot * pte_span < end; slot++) {
		if (m->anonymous && slot != w->last_used)
			w->count->deposit++;
		slot_used(w, slot);
	}
}

static void pud_done(struct walk *w)
{
	if (w->pud == NONE || upper_levels < 2)
		return;
	if (w->pud_needed)
		w->count->pud++;
	else
		w->count->room_upper++;
}

static void pmd_done(struct walk *w)
{
	struct count *c = w->count;
	u64 room;

	if (w->pmd == NONE)
		return;
	room = w->pmd_room > w->pmd_used ? w->pmd_room - w->pmd_used : 0;
	c->room_pte += room;
	if (w->pmd_needed) {
		w->pud_needed = true;
		c->room_below += room;
	}
	if (upper_levels < 1)
		return;
	if (w->pmd_needed)
		c->pmd++;
	else
		c->room_upper++;
}

/* start and end are below one PMD table. */
static void enter(struct walk *w, u64 start, u64 end)
{
	u64 first = start / pte_span, last = (end - 1) / pte_span;

	if (start / pmd_span != w->pmd) {
		pmd_done(w);
		w->pmd = start / pmd_span;
		w->pmd_room = 0;
		w->pmd_used = 0;
		w->pmd_needed = false;
	}
	if (start / pud_span != w->pud) {
		pud_done(w);
		w->pud = start / pud_span;
		w->pud_needed = false;
	}
	w->pmd_room += last - first + (first != w->last_room);
	w->last_room = last;
}

/*
 * The kernel collects as many ranges as a table has entries before it copies them.
 * Asked for more it goes on, but if it comes to the end then, walk_end is still where
 * it was interrupted.  So ask for as many.
 */
static int scan_range(struct walk *w, const struct mapping *m, u64 start, u64 end)
{
	static struct region *regions;
	struct scan_arg arg = {
		.size = sizeof(arg),
		.end = end,
		.vec_len = entries,
		.category_anyof_mask = SCAN_PRESENT | SCAN_SWAPPED,
		.return_mask = SCAN_ZERO | SCAN_HUGE,
	};
	long i, n;

	if (!regions)
		regions = xrealloc(NULL, entries, sizeof(*regions));
	arg.vec = (u64)(uintptr_t)regions;
	for (arg.start = start; arg.start < end; arg.start = arg.walk_end) {
		n = ioctl(w->pagemap, SCAN_IOCTL, &arg);
		if (n < 0)
			return -errno;
		for (i = 0; i < n; i++) {
			struct region *r = &regions[i];

			/* hugetlb has pages below PMD size on some machines. */
			if (r->categories & SCAN_HUGE &&
			    (!m->huge_page || m->huge_page >= pte_span))
				huge(w, m, r->start, r->end);
			else
				populated(w, r->start, r->end, r->categories & SCAN_ZERO);
		}
		progress();
		if ((u64)n < entries)
			break;
		if (arg.walk_end <= arg.start)
			return -EIO;
	}
	return 0;
}

static int read_range(struct walk *w, const struct mapping *m, u64 start, u64 end)
{
	static u64 *entry;
	u64 next, addr, e;
	ssize_t len, got;
	size_t i;

	if (!entry)
		entry = xrealloc(NULL, READ_TABLES * entries, sizeof(*entry));
	for (; start < end; start = next) {
		next = (start / pte_span + READ_TABLES) * pte_span;
		if (next > end)
			next = end;
		len = (ssize_t)((next - start) / page_size * sizeof(*entry));
		got = pread(w->pagemap, entry, (size_t)len,
			    (off_t)(start / page_size * sizeof(*entry)));
		if (got < 0)
			return -errno;
		/* Nothing more: the memory is gone. */
		if (!got)
			return -ESRCH;
		next = start + (u64)got / sizeof(*entry) * page_size;
		for (i = 0; i < (size_t)got / sizeof(*entry); i++) {
			e = entry[i];
			if (!(e & (PM_PRESENT | PM_SWAP)))
				continue;
			addr = start + i * page_size;
			if (m->huge_page >= pte_span)
				huge(w, m, addr, addr + page_size);
			else
				populated(w, addr, addr + page_size, e & PM_PRESENT &&
					  zero_pfn && (e & PM_PFN) == zero_pfn);
		}
		progress();
	}
	return 0;
}

static int count_mapping(struct walk *w, const struct mapping *m)
{
	u64 start, next, first, last, used;
	bool was_used, was_hidden;
	int err;

	for (start = m->start; start < m->end; start = next) {
		next = (start / pmd_span + 1) * pmd_span;
		if (next > m->end || next < start)
			next = m->end;
		enter(w, start, next);
		first = start / pte_span;
		last = (next - 1) / pte_span;
		was_used = first == w->last_used;
		was_hidden = first == w->last_hidden;
		used = w->pmd_used;
		if (!m->skip) {
			if (have_scan)
				err = scan_range(w, m, start, next);
			else
				err = read_range(w, m, start, next);
			if (err)
				return err;
		}
		if (m->hidden) {
			/* The first slot may have been counted, and still be hidden. */
			was_hidden = was_hidden && first == w->last_hidden;
			w->count->hidden += last - first + 1 - (w->pmd_used - used) -
				(was_used || was_hidden);
			if (w->last_used != last)
				w->last_hidden = last;
		}
	}
	return 0;
}

static bool starts(const char *s, const char *with)
{
	return !strncmp(s, with, strlen(with));
}

/* One line of maps.  False: no memory of the process, or not a mapping. */
static bool parse_mapping(char *line, struct mapping *m)
{
	char perms[8];
	u64 inode;
	int n = 0;

	memset(m, 0, sizeof(*m));
	if (sscanf(line, "%llx-%llx %7s %*s %*s %llu %n",
		   &m->start, &m->end, perms, &inode, &n) != 4 || m->start >= m->end)
		return false;
	line += n;
	line[strcspn(line, "\n")] = '\0';
	if (starts(line, "[vsyscall]"))
		return false;
	m->anonymous = perms[3] == 'p' && (!inode || starts(line, "/dev/zero"));
	/*
	 * VM_PFNMAP is in smaps only, and these are who can have it.  To look at
	 * devdax would split its huge pages of PUD size.
	 */
	m->hidden = starts(line, "[vvar") || starts(line, "/sys/") ||
		starts(line, "/proc/") || starts(line, "anon_inode:") ||
		(starts(line, "/dev/") && !starts(line, "/dev/zero") &&
		 !starts(line, "/dev/shm/") && !starts(line, "/dev/hugepages/"));
	m->skip = starts(line, "/dev/dax");
	return true;
}

/* The ioctl says which pages are huge, pagemap does not. */
static void huge_from_rollup(struct walk *w, int dir)
{
	u64 value, anon = 0, file = 0, all;
	struct count *c = w->count;
	char line[512];
	FILE *f;
	int b;

	if (!w->full)
		return;
	f = open_file(dir, "smaps_rollup");
	if (!f)
		return;
	while (fgets(line, sizeof(line), f)) {
		if (figure(line, "AnonHugePages", &value))
			anon += value * 1024 / pte_span;
		else if (figure(line, "ShmemPmdMapped", &value) ||
			 figure(line, "FilePmdMapped", &value))
			file += value * 1024 / pte_span;
	}
	fclose(f);
	if (anon > w->full)
		anon = w->full;
	if (file > w->full - anon)
		file = w->full - anon;
	all = anon + file;
	c->deposit += anon;
	c->pte -= all;
	for (b = 0; entries >> (b + 1); b++)
		;
	c->bucket[b] -= all;
}

static u64 needed(const struct count *c)
{
	return c->pte + c->deposit + c->pmd + c->pud;
}

/* What VmPTE has above the need, and how much of it can be PTE tables. */
static void bounds(struct count *c)
{
	u64 upper = 0;

	c->waste = c->vmpte > needed(c) ? c->vmpte - needed(c) : 0;
	if (c->waste > c->room_below)
		upper = (c->waste - c->room_below + entries) / (entries + 1);
	if (upper > c->room_upper)
		upper = c->room_upper;
	c->back_max = c->waste - upper;
	if (c->back_max > c->room_pte)
		c->back_max = c->room_pte;
	c->back_min = 0;
	if (c->waste > c->room_upper + c->hidden)
		c->back_min = c->waste - c->room_upper - c->hidden;
	if (c->back_min > c->back_max)
		c->back_min = c->back_max;
}

static int count_once(int dir, struct process *p)
{
	struct count *c = &p->count;
	struct walk w = {
		.count = c, .table = NONE, .last_used = NONE,
		.last_room = NONE, .last_hidden = NONE, .pmd = NONE, .pud = NONE,
	};
	size_t size = 0, nr_special, s = 0;
	struct special *special;
	struct mapping m;
	char *line = NULL;
	u64 last = 0;
	int err = 0;
	FILE *maps;

	memset(c, 0, sizeof(*c));
	p->unread = 0;
	/* It stays the memory of now if the process executes another program. */
	w.pagemap = openat(dir, "pagemap", O_RDONLY | O_CLOEXEC);
	if (w.pagemap < 0)
		return -errno;
	maps = open_file(dir, "maps");
	if (!maps) {
		err = -errno;
		close(w.pagemap);
		return err;
	}
	special = read_smaps(dir, p, &nr_special);
	while (!err && getline(&line, &size, maps) > 0) {
		if (!parse_mapping(line, &m))
			continue;
		/* The list is not read at one moment. */
		if (m.start < last)
			m.start = last;
		if (m.start >= m.end)
			continue;
		last = m.end;
		while (s < nr_special && special[s].start < m.start)
			s++;
		if (s < nr_special && special[s].start == m.start) {
			m.huge_page = special[s].page;
			m.skip |= special[s].no_memory;
			if (special[s].no_memory)
				p->unread += m.end - m.start;
		}
		err = count_mapping(&w, &m);
	}
	if (!err && ferror(maps))
		err = -EIO;
	/* maps of a process that has exited is empty. */
	if (!err && !last)
		err = -ESRCH;
	table_done(&w);
	pmd_done(&w);
	pud_done(&w);
	if (!err && !have_scan)
		huge_from_rollup(&w, dir);
	free(line);
	free(special);
	fclose(maps);
	close(w.pagemap);
	return err;
}

static void count_process(struct process *p)
{
	u64 before;
	char path[32];
	double start = now();
	int dir, err, try;

	snprintf(path, sizeof(path), "/proc/%d", p->pid);
	dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0) {
		p->why = reason(errno);
		return;
	}
	/* Once more if tables came or went meanwhile, unless that takes long. */
	for (try = 0; try < 3; try++) {
		err = read_status(dir, p);
		before = p->vmpte_kb;
		if (!err)
			err = count_once(dir, p);
		if (!err)
			err = read_status(dir, p);
		if (err)
			break;
		p->count.vmpte = p->vmpte_kb * 1024 / page_size;
		p->changing = before != p->vmpte_kb || p->count.vmpte < needed(&p->count);
		if (!p->changing || now() - start > 1)
			break;
	}
	if (err)
		p->why = reason(err == -ENODATA ? ESRCH : -err);
	bounds(&p->count);
	close(dir);
}

/* ---- which processes ---- */

static int same_mm(const struct process *a, const struct process *b)
{
	return (int)syscall(SYS_kcmp, a->pid, b->pid, KCMP_VM, 0, 0);
}

/* Processes that share an mm have tables once.  Forked ones look alike, so ask. */
static void find_shared(void)
{
	struct process *a, *b;
	size_t i, j;

	for (i = 0; i < nr_processes; i++) {
		b = &processes[i];
		if (b->why || !b->stack)
			continue;
		for (j = 0; j < i; j++) {
			a = &processes[j];
			if (a->why || a->shares || a->stack != b->stack || a->code != b->code)
				continue;
			switch (same_mm(a, b)) {
			case 0:
				b->shares = a->pid;
				break;
			case -1:
				if (errno != ESRCH && a->vmpte_kb == b->vmpte_kb &&
				    a->size_kb == b->size_kb)
					no_kcmp = true;
			}
			if (b->shares)
				break;
		}
	}
}

static void add_process(pid_t pid, bool asked)
{
	struct process *p;
	char path[32];
	int dir, err;

	processes = xrealloc(processes, nr_processes + 1, sizeof(*processes));
	p = &processes[nr_processes];
	memset(p, 0, sizeof(*p));
	p->pid = pid;
	snprintf(path, sizeof(path), "/proc/%d", pid);
	dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	err = dir < 0 ? -errno : read_status(dir, p);
	if (err && !asked) {
		/* A kernel thread, a zombie, or gone. */
		if (dir >= 0)
			close(dir);
		return;
	}
	nr_processes++;
	if (err == -ENODATA)
		p->why = "has no memory: a kernel thread, or exited";
	else if (err == -ENOENT)
		p->why = "no such process";
	else if (err)
		p->why = reason(-err);
	if (dir < 0)
		return;
	/* Only the size is open to all. */
	if (!p->why && faccessat(dir, "pagemap", R_OK, 0) && errno == ENOENT)
		p->why = "kernel without CONFIG_PROC_PAGE_MONITOR";
	read_stat(dir, p);
	read_cgroup(dir, p);
	close(dir);
}

static void list_processes(const pid_t *pids, size_t nr_pids)
{
	struct dirent *d;
	size_t i;
	DIR *proc;

	for (i = 0; i < nr_processes; i++)
		free(processes[i].cgroup);
	nr_processes = 0;
	done_processes = 0;
	done_tables = 0;
	no_kcmp = false;
	for (i = 0; i < nr_pids; i++)
		add_process(pids[i], true);
	if (nr_pids)
		return;
	proc = opendir("/proc");
	if (!proc)
		err(2, "/proc");
	while ((d = readdir(proc))) {
		if (isdigit((unsigned char)d->d_name[0]))
			add_process(atoi(d->d_name), false);
	}
	closedir(proc);
}

/* ---- output ---- */

static bool counted(const struct process *p)
{
	return !p->why && !p->shares;
}

static void add_count(struct count *sum, const struct count *c)
{
	int b;

	sum->vmpte += c->vmpte;
	sum->pte += c->pte;
	sum->deposit += c->deposit;
	sum->pmd += c->pmd;
	sum->pud += c->pud;
	sum->zero += c->zero;
	sum->sparse += c->sparse;
	sum->hidden += c->hidden;
	sum->room_upper += c->room_upper;
	sum->waste += c->waste;
	sum->back_min += c->back_min;
	sum->back_max += c->back_max;
	for (b = 0; b < BUCKETS; b++)
		sum->bucket[b] += c->bucket[b];
}

static int by_waste(const void *x, const void *y)
{
	const struct process *a = x, *b = y;

	if (a->count.waste != b->count.waste)
		return a->count.waste < b->count.waste ? 1 : -1;
	if (a->count.vmpte != b->count.vmpte)
		return a->count.vmpte < b->count.vmpte ? 1 : -1;
	return a->pid < b->pid ? -1 : a->pid > b->pid;
}

struct group {
	const char *cgroup;
	size_t nr;
	struct count count;
};

static const char *cgroup_of(const struct process *p)
{
	return p->cgroup ? p->cgroup : "?";
}

static int group_by_waste(const void *x, const void *y)
{
	const struct group *a = x, *b = y;

	if (a->count.waste != b->count.waste)
		return a->count.waste < b->count.waste ? 1 : -1;
	return strcmp(a->cgroup, b->cgroup);
}

static bool any_counted(void)
{
	size_t i;

	for (i = 0; i < nr_processes; i++) {
		if (counted(&processes[i]))
			return true;
	}
	return false;
}

static struct group *make_groups(size_t *nr)
{
	struct group *groups = NULL;
	size_t i, g;

	*nr = 0;
	for (i = 0; i < nr_processes; i++) {
		if (!counted(&processes[i]))
			continue;
		for (g = 0; g < *nr; g++) {
			if (!strcmp(groups[g].cgroup, cgroup_of(&processes[i])))
				break;
		}
		if (g == *nr) {
			groups = xrealloc(groups, ++*nr, sizeof(*groups));
			memset(&groups[g], 0, sizeof(*groups));
			groups[g].cgroup = cgroup_of(&processes[i]);
		}
		groups[g].nr++;
		add_count(&groups[g].count, &processes[i].count);
	}
	if (groups)
		qsort(groups, *nr, sizeof(*groups), group_by_waste);
	return groups;
}

static u64 machine_kb(void)
{
	FILE *f = fopen("/proc/meminfo", "r");
	char line[256];
	u64 value = 0;

	if (!f)
		return 0;
	while (fgets(line, sizeof(line), f) && !figure(line, "PageTables", &value))
		;
	fclose(f);
	return value;
}

/* Names come from the processes: nothing of them may control a terminal. */
static void print_clean(const char *s)
{
	for (; *s; s++)
		putchar(iscntrl((unsigned char)*s) ? '?' : *s);
}

static void print_row(const char *first, const struct count *c)
{
	printf("%8s %9llu %9llu %9llu %9llu %9llu %8llu %8llu %8llu %8llu ",
	       first, kb(c->vmpte), kb(needed(c)), kb(c->waste), kb(c->back_min),
	       kb(c->back_max), kb(c->zero), kb(c->sparse), kb(c->deposit),
	       kb(c->pmd + c->pud));
}

static void print_process(const struct process *p, const char *indent)
{
	char pid[16];

	snprintf(pid, sizeof(pid), "%d", p->pid);
	print_row(pid, &p->count);
	fputs(indent, stdout);
	print_clean(p->name);
	puts(p->changing ? " *" : "");
}

static const char *why(const struct process *p)
{
	return p->shares ? "share the memory of another process" : p->why;
}

static bool why_also(const struct process *p, const char *text)
{
	return !counted(p) && !strcmp(why(p), text);
}

/* One paragraph for each reason. */
static void print_left_out(void)
{
	const struct process *p;
	const char *text;
	size_t i, j, nr;
	int column;
	char item[128];
	u64 sum;

	for (i = 0; i < nr_processes; i++) {
		if (counted(&processes[i]))
			continue;
		text = why(&processes[i]);
		for (j = 0; j < i && !why_also(&processes[j], text); j++)
			;
		if (j < i)
			continue;
		sum = 0;
		nr = 0;
		for (p = processes + i; p < processes + nr_processes; p++) {
			if (why_also(p, text)) {
				nr++;
				sum += p->vmpte_kb;
			}
		}
		printf("Left out: %zu, %s, VmPTE %llu kB%s\n", nr, text, sum,
		       opt.watch ? "." : ":");
		column = 0;
		for (p = processes + i; p < processes + nr_processes && !opt.watch; p++) {
			if (!why_also(p, text))
				continue;
			snprintf(item, sizeof(item), "%d%s%s", p->pid, *p->name ? " " : "",
				 p->name);
			if (column && column + strlen(item) > 92) {
				fputs(",\n", stdout);
				column = 0;
			}
			fputs(column ? ", " : "  ", stdout);
			print_clean(item);
			column += (int)strlen(item) + 2;
		}
		if (column)
			putchar('\n');
	}
}

static void print_histogram(const struct count *c)
{
	u64 n, most = c->back_max;
	char range[48];
	int b, i;

	for (b = 0; b < BUCKETS; b++) {
		if (c->bucket[b] > most)
			most = c->bucket[b];
	}
	printf("\nPopulated entries per PTE table, of %llu:\n", entries);
	for (b = -1; b < BUCKETS && (b < 0 || 1ULL << b <= entries); b++) {
		n = b < 0 ? c->back_max : c->bucket[b];
		if (b < 0)
			snprintf(range, sizeof(range), "0 (at most)");
		else if (!b || 1ULL << b == entries)
			snprintf(range, sizeof(range), "%llu", 1ULL << b);
		else
			snprintf(range, sizeof(range), "%llu-%llu", 1ULL << b,
				 (2ULL << b) - 1);
		printf("%12s %10llu ", range, n);
		for (i = most ? (int)((n * 50 + most - 1) / most) : 0; i > 0; i--)
			putchar('#');
		putchar('\n');
	}
}

static const char legend[] = "\n"
"All in kB. VMPTE: page tables of the process. NEEDED: what its populated entries need, with\n"
"upper tables. WASTE: the difference. pte_ref gives back at least BACK>=, at most BACK<=, all\n"
"of it empty PTE tables; what else is wasted are empty upper tables, which it does not free.\n"
"Parts of NEEDED, which pte_ref keeps: ZERO: PTE tables that map only the zero page. SPARSE:\n"
"with at most %llu of %llu entries. THP: deposited for huge pages. UPPER: PMD and PUD tables.\n";

static void print_notes(const struct count *total)
{
	bool changing = false;
	u64 unread = 0;
	size_t i;

	for (i = 0; i < nr_processes; i++) {
		if (!counted(&processes[i]))
			continue;
		changing |= processes[i].changing;
		unread += processes[i].unread;
	}
	if (changing)
		puts("*: its tables changed while they were counted.");
	if (have_pte_ref)
		puts("This kernel has pte_ref: empty PTE tables are freed, WASTE is upper tables.");
	if (total->hidden)
		printf("Up to %llu kB are of device mappings, whose entries the kernel hides.\n",
		       kb(total->hidden));
	if (!have_scan && !zero_pfn)
		puts("ZERO is not known: no PAGEMAP_SCAN (since Linux 6.7), and no privilege.");
	if (unread)
		printf("Not read: %llu GiB of large mappings without memory. If they have tables\n"
		       "of zero pages or markers, these count as waste.\n", unread >> 30);
	if (no_kcmp)
		puts("No kcmp(): processes that share their memory are counted once each.");
}

static void print_text(const struct count *total, size_t nr, long rows)
{
	bool bold = isatty(STDOUT_FILENO) && !getenv("NO_COLOR");
	struct group *groups = NULL;
	size_t i, g, nr_groups = 0, left = 0;
	char first[32];

	printf("%sPage tables of %zu process%s, Linux %s, read by %s%s\n\n",
	       bold ? "\033[1m" : "", nr, nr == 1 ? "" : "es", kernel.release,
	       have_scan ? "PAGEMAP_SCAN" : "pagemap", bold ? "\033[m" : "");
	printf("%s%8s %9s %9s %9s %9s %9s %8s %8s %8s %8s %s%s\n", bold ? "\033[7m" : "", "PID",
	       "VMPTE", "NEEDED", "WASTE", "BACK>=", "BACK<=", "ZERO", "SPARSE", "THP", "UPPER",
	       opt.cgroup ? "CGROUP, COMMAND" : "COMMAND", bold ? "\033[m" : "");
	if (opt.cgroup)
		groups = make_groups(&nr_groups);
	for (g = 0; g < nr_groups && rows > 0; g++, rows--) {
		snprintf(first, sizeof(first), "(%zu)", groups[g].nr);
		print_row(first, &groups[g].count);
		print_clean(groups[g].cgroup);
		putchar('\n');
		for (i = 0; i < nr_processes; i++) {
			if (!counted(&processes[i]) ||
			    strcmp(cgroup_of(&processes[i]), groups[g].cgroup))
				continue;
			if (rows > 1)
				print_process(&processes[i], "  ");
			rows -= rows > 1;
		}
	}
	free(groups);
	for (i = 0; !opt.cgroup && i < nr_processes; i++) {
		if (!counted(&processes[i]))
			continue;
		if (rows > 0)
			print_process(&processes[i], "");
		else
			left++;
		rows--;
	}
	if (left)
		printf("     ... %zu processes more, part of the total\n", left);
	print_row("total", total);
	putchar('\n');
	if (opt.histogram)
		print_histogram(total);
	if (!opt.quiet)
		printf(legend, opt.sparse, entries);
	putchar('\n');
	print_notes(total);
	print_left_out();
	printf("PageTables of the machine: %llu kB, %llu kB of them in this table.\n",
	       machine_kb(), kb(total->vmpte));
	if (!have_pte_ref) {
		printf("pte_ref would give back ");
		if (total->back_min != total->back_max)
			printf("%llu to ", kb(total->back_min));
		printf("%llu kB of these.\n", kb(total->back_max));
	}
}

static void json_string(const char *s)
{
	putchar('"');
	for (; *s; s++) {
		unsigned char c = (unsigned char)*s;

		if (c == '"' || c == '\\')
			printf("\\%c", c);
		else if (c < 0x20 || c >= 0x7f)
			printf("\\u%04x", c);
		else
			putchar(c);
	}
	putchar('"');
}

static void json_figure(const char *before, const char *key, u64 value)
{
	printf("%s\"%s\": %llu", before, key, value);
}

static void json_count(const struct count *c)
{
	int b;

	json_figure("", "vmpte_kb", kb(c->vmpte));
	json_figure(", ", "needed_kb", kb(needed(c)));
	json_figure(", ", "waste_kb", kb(c->waste));
	json_figure(", ", "back_min_kb", kb(c->back_min));
	json_figure(", ", "back_max_kb", kb(c->back_max));
	printf(", \"tables\": {");
	json_figure("", "pte", c->pte);
	json_figure(", ", "zero", c->zero);
	json_figure(", ", "sparse", c->sparse);
	json_figure(", ", "thp_deposited", c->deposit);
	json_figure(", ", "pmd", c->pmd);
	json_figure(", ", "pud", c->pud);
	json_figure(", ", "hidden_max", c->hidden);
	json_figure(", ", "empty_upper_max",
		    c->room_upper < c->waste ? c->room_upper : c->waste);
	putchar('}');
	printf(", \"histogram\": [");
	for (b = 0; b < BUCKETS && 1ULL << b <= entries; b++)
		printf("%s%llu", b ? ", " : "", c->bucket[b]);
	putchar(']');
}

static void json_bool(const char *key, bool value)
{
	printf(", \"%s\": %s", key, value ? "true" : "false");
}

static void print_json(const struct count *total, long rows)
{
	const char *comma = "";
	struct group *groups;
	size_t i, nr;

	printf("{\"kernel\": ");
	json_string(kernel.release);
	json_figure(", ", "page_size", page_size);
	json_figure(", ", "table_entries", entries);
	json_figure(", ", "sparse_entries", opt.sparse);
	printf(", \"method\": \"%s\"", have_scan ? "PAGEMAP_SCAN" : "pagemap");
	json_bool("pte_ref", have_pte_ref);
	json_bool("zero_known", have_scan || zero_pfn);
	json_bool("shared_known", !no_kcmp);
	printf(",\n \"processes\": [");
	for (i = 0; i < nr_processes; i++) {
		const struct process *p = &processes[i];

		if (!counted(p) || rows-- <= 0)
			continue;
		printf("%s\n  {\"pid\": %d, \"command\": ", comma, p->pid);
		json_string(p->name);
		printf(", \"cgroup\": ");
		json_string(cgroup_of(p));
		json_bool("changing", p->changing);
		json_figure(", ", "unread_kb", p->unread / 1024);
		printf(", ");
		json_count(&p->count);
		putchar('}');
		comma = ",";
	}
	printf("],\n");
	if (opt.cgroup) {
		groups = make_groups(&nr);
		printf(" \"cgroups\": [");
		for (i = 0; i < nr; i++) {
			printf("%s\n  {\"cgroup\": ", i ? "," : "");
			json_string(groups[i].cgroup);
			printf(", \"processes\": %zu, ", groups[i].nr);
			json_count(&groups[i].count);
			putchar('}');
		}
		printf("],\n");
		free(groups);
	}
	printf(" \"total\": {");
	json_count(total);
	printf("},\n \"left_out\": [");
	comma = "";
	for (i = 0; i < nr_processes; i++) {
		const struct process *p = &processes[i];

		if (counted(p))
			continue;
		printf("%s\n  {\"pid\": %d, \"command\": ", comma, p->pid);
		json_string(p->name);
		printf(", \"vmpte_kb\": %llu, \"reason\": ", p->vmpte_kb);
		if (p->shares)
			printf("\"shares the memory of %d\"", p->shares);
		else
			json_string(p->why);
		putchar('}');
		comma = ",";
	}
	printf("]}\n");
}

/* Rows for processes that fit on the screen beside everything else. */
static long screen_rows(void)
{
	struct winsize ws;

	if (opt.top)
		return opt.top;
	if (!opt.watch || !isatty(STDOUT_FILENO) || ioctl(STDOUT_FILENO, TIOCGWINSZ, &ws) ||
	    ws.ws_row < 24)
		return LONG_MAX;
	return ws.ws_row - (opt.quiet ? 12 : 18);
}

/* One round; returns the exit status. */
static int measure(const pid_t *pids, size_t nr_pids)
{
	struct count total = { 0 };
	size_t i, nr = 0, failed = 0;
	char date[64];
	time_t t;

	began = now();
	said = 0;
	list_processes(pids, nr_pids);
	find_shared();
	for (i = 0; i < nr_processes; i++) {
		struct process *p = &processes[i];

		if (counted(p))
			count_process(p);
		done_processes++;
		progress();
	}
	progress_done();
	for (i = 0; i < nr_processes; i++) {
		if (processes[i].why)
			failed++;
		if (!counted(&processes[i]))
			continue;
		nr++;
		add_count(&total, &processes[i].count);
	}
	if (nr_processes)
		qsort(processes, nr_processes, sizeof(*processes), by_waste);
	if (opt.watch && !opt.json) {
		if (isatty(STDOUT_FILENO))
			fputs("\033[H\033[J", stdout);
		t = time(NULL);
		if (strftime(date, sizeof(date), "%T", localtime(&t)))
			printf("%s, every %g s: ", date, opt.interval);
	}
	if (opt.json)
		print_json(&total, opt.top ? opt.top : LONG_MAX);
	else
		print_text(&total, nr, screen_rows());
	return !nr || (nr_pids && failed);
}

/* ---- the kernel and its options ---- */

/*
 * The levels follow from the size of the address space, at whose end the stack is.
 * arm64 with 52 bits has the stack below the rest, and more levels than one with 47 if
 * pages have 16 KiB: there ask for an address above.
 */
static void find_geometry(void)
{
	int page_bits = 0, table_bits, address_bits, levels;
	u64 here = (u64)(uintptr_t)&page_bits;
	void *high;

	page_size = (u64)sysconf(_SC_PAGESIZE);
	entries = page_size / sizeof(u64);
	pte_span = page_size * entries;
	pmd_span = pte_span * entries;
	pud_span = pmd_span * entries;
	high = mmap((void *)(uintptr_t)BIT_ULL(51), page_size, PROT_NONE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (high != MAP_FAILED) {
		if ((u64)(uintptr_t)high > here)
			here = (u64)(uintptr_t)high;
		munmap(high, page_size);
	}
	while (page_size >> (page_bits + 1))
		page_bits++;
	table_bits = page_bits - 3;
	for (address_bits = 0; address_bits < 64 && here >> address_bits; address_bits++)
		;
	levels = (address_bits - page_bits + table_bits - 1) / table_bits;
	upper_levels = levels > 3 ? 2 : levels > 2 ? 1 : 0;
}

static void find_features(void)
{
	struct scan_arg arg = { .size = sizeof(arg) };
	FILE *f = fopen("/proc/vmstat", "r");
	char line[256];
	u64 entry = 0;
	void *zero;
	off_t pos;
	int fd;

	uname(&kernel);
	while (f && fgets(line, sizeof(line), f))
		have_pte_ref |= starts(line, "pte_ref_free ");
	if (f)
		fclose(f);
	fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		err(2, "/proc/self/pagemap");
	have_scan = !opt.no_scan && !ioctl(fd, SCAN_IOCTL, &arg);
	/* The zero page, by an entry of this process; frames are for the privileged. */
	zero = mmap(NULL, page_size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (!have_scan && zero != MAP_FAILED) {
		pos = (off_t)((uintptr_t)zero / page_size * sizeof(entry));
		if (!*(char *)zero && pread(fd, &entry, sizeof(entry), pos) == sizeof(entry))
			zero_pfn = entry & PM_PFN;
	}
	if (zero != MAP_FAILED)
		munmap(zero, page_size);
	close(fd);
}

static const char help[] =
"usage: pte_waste [OPTION]...\n"
"Print what page tables of processes cost, what their populated entries need, and what\n"
"of the difference pte_ref would give back.\n\n"
"  -p, --pid=PID           that process only; can be repeated; self is pte_waste\n"
"  -c, --cgroup            sums by cgroup, each above its processes\n"
"  -n, --top=N             the first N rows; the total is of all\n"
"  -H, --histogram         how many tables have how many populated entries\n"
"  -s, --sparse=N          call a table sparse up to N entries (default: a sixteenth)\n"
"  -j, --json              JSON, all that is known\n"
"  -w, --watch[=SECONDS]   again every 2 seconds, or as many\n"
"  -q, --quiet             no legend, no progress\n"
"      --no-scan           read pagemap as before Linux 6.7, without PAGEMAP_SCAN\n"
"  -h, --help              this text\n\n"
"Exit status: 0 done; 1 a process of -p, or every process, could not be read; 2 usage.\n";

static u64 parse(const char *s, const char *what, u64 least, u64 most)
{
	char *end;
	u64 n;

	errno = 0;
	n = strtoull(s, &end, 10);
	if (!isdigit((unsigned char)*s) || *end || errno || n < least || n > most)
		errx(2, "%s %s: must be %llu to %llu", what, s, least, most);
	return n;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "pid", required_argument, NULL, 'p' },
		{ "cgroup", no_argument, NULL, 'c' },
		{ "top", required_argument, NULL, 'n' },
		{ "histogram", no_argument, NULL, 'H' },
		{ "sparse", required_argument, NULL, 's' },
		{ "json", no_argument, NULL, 'j' },
		{ "watch", optional_argument, NULL, 'w' },
		{ "quiet", no_argument, NULL, 'q' },
		{ "no-scan", no_argument, NULL, 'S' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	size_t nr_pids = 0;
	struct timespec ts;
	pid_t *pids = NULL;
	char *end;
	int c, status;

	find_geometry();
	opt.sparse = entries / 16;
	opt.interval = 2;
	while ((c = getopt_long(argc, argv, "p:cn:Hs:jw::qh", options, NULL)) != -1) {
		switch (c) {
		case 'p':
			pids = xrealloc(pids, nr_pids + 1, sizeof(*pids));
			pids[nr_pids++] = !strcmp(optarg, "self") ? getpid() :
				(pid_t)parse(optarg, "--pid", 1, INT_MAX);
			break;
		case 'c':
			opt.cgroup = true;
			break;
		case 'n':
			opt.top = (long)parse(optarg, "--top", 1, LONG_MAX);
			break;
		case 'H':
			opt.histogram = true;
			break;
		case 's':
			opt.sparse = parse(optarg, "--sparse", 1, entries);
			break;
		case 'j':
			opt.json = true;
			break;
		case 'w':
			opt.watch = true;
			if (optarg)
				opt.interval = strtod(optarg, &end);
			if (optarg && (*end || !(opt.interval >= 0.1 && opt.interval <= 86400)))
				errx(2, "--watch %s: must be seconds, at least 0.1", optarg);
			break;
		case 'q':
			opt.quiet = true;
			break;
		case 'S':
			opt.no_scan = true;
			break;
		case 'h':
			fputs(help, stdout);
			return 0;
		default:
			fputs(help, stderr);
			return 2;
		}
	}
	if (optind < argc)
		errx(2, "%s: no such argument; a process is -p %s; --help lists all",
		     argv[optind], argv[optind]);
	stderr_tty = isatty(STDERR_FILENO);
	find_features();
	do {
		status = measure(pids, nr_pids);
		if (fflush(stdout) || ferror(stdout))
			err(2, "standard output");
		if (opt.watch) {
			ts.tv_sec = (time_t)opt.interval;
			ts.tv_nsec = (long)((opt.interval - (double)ts.tv_sec) * 1e9);
			nanosleep(&ts, NULL);
		}
		/* Not for ever for processes that are gone. */
	} while (opt.watch && (!nr_pids || any_counted()));
	free(pids);
	return status;
}
