// SPDX-License-Identifier: GPL-2.0
/*
 * What one process can do to another by way of its PTE tables
 * (CONFIG_FREE_USER_PTE).
 *
 * An attack is some unprivileged processes that make the kernel count, note and
 * free tables as fast as they can.  A bystander, which has nothing to do with
 * them, measures meanwhile
 *
 *	fault	how long a fault takes that makes a table
 *	free	how long its own table stays that it has emptied in pieces
 *	exit	how long the exit of a process takes that has emptied tables
 *
 * and the kernel's memory is sampled.
 *
 * An attack takes CPU time, as any program does.  That is not the harm that is
 * looked for.  So the first "attack" is the same number of processes that only
 * spin, and the limits of the others are multiples of what the bystander measures
 * beside these, so that they hold on a machine of any speed.  Those of memory are
 * multiples of what the tables take that the attack has at that moment.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <linux/mman.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include "kselftest.h"
#include "vm_util.h"
#include "pte_ref.h"

#define NOBODY		65534
#define MAX_PROCS	12
#define MAX_TABLES	4096
/* Of a process that has mprotect() change them all; its threads, if it is the only one. */
#define LOCK_VMAS	24000
#define LOCK_THREADS	16
/* Half of them are truncated. */
#define FILE_TABLES	(2 * FAULT_TABLES)

/* Of the bystander. */
#define FAULT_ROUNDS	12
#define FAULT_TABLES	256
#define FAULTS		(FAULT_ROUNDS * FAULT_TABLES)
#define TRIALS		20
#define EXIT_TABLES	64
/* A kernel that has not freed a table by then, with nothing else to do, keeps it. */
#define KEPT_US		2000000L
/* Beside an attack it is free by then, or never. */
#define STARVED_US	30000000L
/* An attack has begun by then; held was seen to need more than 30 s. */
#define READY_MS	180000L

/*
 * An attack may make things so many times worse than processes that spin.  The free
 * of a table waits for nobody but workers.
 */
#define WORSE		10
#define WORSE_FREE	5
/* As long may each other process keep a CPU or the deferred work: two ticks, HZ=100. */
#define TURN_US		20000L
/*
 * A ref or the notes of a PMD table, at most.  They may have this part of what the
 * tables have: a ref for each, and another one for a table that is just gone.
 */
#define OBJECT_SIZE	128
#define BOOKKEEPING	8
/* What caches and other parts of the kernel may keep. */
#define NOISE_KB	4096
#define NOISE_OBJECTS	2048
#define SETTLE_MS	30000L

struct attack {
	const char *name;
	void (*run)(void);	/* for ever */
	int procs;
	int tables;		/* of a process, at a time */
};

struct figures {
	long fault_median, fault_worst;	/* ns */
	long free_worst, exit_worst;	/* us */
	bool kept;			/* tables are not freed */
	long taken;			/* tables that an attack has freed */
};

/* In kB, and objects of the slab. */
struct memory {
	long slab, tables, percpu, refs, notes;
};

/* What an attack did. */
struct effect {
	struct memory peak, left;	/* more than before it */
	long made;			/* tables */
	long switches;			/* to atomic mode */
	long deferred;			/* tables freed by the deferred work */
	long us;
};

/* What processes share. */
static struct {
	struct figures figures;
	long faults[FAULTS];
	long stamp;
	long made;		/* tables of attacks */
	int ready;
} *shared;

static char *area;		/* MAX_TABLES, aligned; reserved */
static const struct attack *attack;
static int file;			/* FILE_TABLES, for all */
static int cpus[2];
static pthread_barrier_t barrier;

static long now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static char *at(int table)
{
	return area + table * table_size();
}

/* Memory for some tables; what was there is unmapped. */
static void map(int tables, int fd)
{
	int flags = MAP_FIXED | MAP_NORESERVE;

	flags |= fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
	if (mmap(area, tables * table_size(), PROT_READ | PROT_WRITE, flags, fd, 0) == MAP_FAILED)
		_exit(KSFT_FAIL);
}

static int map_file(int tables)
{
	int fd = memfd_create("pte_ref_harm", 0);

	if (fd < 0 || ftruncate(fd, tables * table_size()))
		_exit(KSFT_FAIL);
	map(tables, fd);
	return fd;
}

static void touch(int tables)
{
	int i;

	for (i = 0; i < tables; i++)
		FORCE_READ(*at(i));
}

/* No zap covers a table, so none of them is freed on the spot. */
static void empty(int tables)
{
	int i;

	for (i = 0; i < tables; i++)
		madvise(at(i), psize(), MADV_DONTNEED);
}

/* A round is over, in which so many tables were made. */
static void made(int tables)
{
	static bool ready;

	__atomic_fetch_add(&shared->made, tables, __ATOMIC_RELAXED);
	if (!ready)
		__atomic_fetch_add(&shared->ready, 1, __ATOMIC_RELAXED);
	ready = true;
}

static void start_thread(void *(*fn)(void *))
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, fn, NULL))
		_exit(KSFT_FAIL);
}

static void *sleep_for_ever(void *arg)
{
	for (;;)
		pause();
	return arg;
}

/* Attacks */

static void spin(void)
{
	made(0);
	for (;;)
		asm volatile("" ::: "memory");
}

/*
 * The deferred work has something to do at any time: while some tables are made
 * others are emptied.
 */
static void notes(void)
{
	int half = attack->tables / 2, i;

	map(attack->tables, -1);
	touch(half);
	for (i = half;; i = (i + 1) % attack->tables) {
		FORCE_READ(*at(i));
		madvise(at((i + half) % attack->tables), psize(), MADV_DONTNEED);
		if (!i)
			made(attack->tables);
	}
}

/*
 * Each table gets a ref, since its fault is one of the kernel, of a file, in a
 * process with threads, and loses it soon.
 */
static void refs(void)
{
	int fd = map_file(attack->tables), i;

	start_thread(sleep_for_ever);
	for (;; map(attack->tables, fd)) {
		for (i = 0; i < attack->tables; i++)
			madvise(at(i), psize(), MADV_POPULATE_WRITE);
		made(attack->tables);
	}
}

/*
 * Two threads on two CPUs have the kernel fault in pages of the same table in turn,
 * until its ref has percpu counters, and empty it in two pieces, which takes them
 * away.
 */
static void *use_tables(void *arg)
{
	const int pages = 160;
	int me = !arg, i, j;

	pin(cpus[me]);
	for (;;) {
		for (i = 0; i < attack->tables; i++) {
			for (j = me; j < pages; j += 2) {
				pthread_barrier_wait(&barrier);
				madvise(at(i) + j * psize(), psize(), MADV_POPULATE_WRITE);
			}
		}
		pthread_barrier_wait(&barrier);
		for (i = me; i < attack->tables; i += 2) {
			madvise(at(i), pages / 2 * psize(), MADV_DONTNEED);
			madvise(at(i) + pages / 2 * psize(), pages / 2 * psize(), MADV_DONTNEED);
		}
		if (!me)
			made(attack->tables);
	}
	return arg;
}

static void percpu(void)
{
	map_file(attack->tables);
	pthread_barrier_init(&barrier, NULL, 2);
	start_thread(use_tables);
	use_tables(&barrier);
}

/*
 * mmap_lock is held for writing nearly all the time, for long each time, since there
 * are many VMAs to change, and so are their locks.
 */
static void *protect(void *arg)
{
	size_t len = attack->tables * table_size() + LOCK_VMAS * psize();

	while (!mprotect(area, len, PROT_READ) &&
	       !mprotect(area, len, PROT_READ | PROT_WRITE))
		;
	_exit(KSFT_FAIL);
	return arg;
}

static void map_to_protect(void)
{
	int fd = map_file(1), i;
	char *p = at(attack->tables);

	map(attack->tables, -1);
	/* Of the same offset each, so that they are not merged. */
	for (i = 0; i < LOCK_VMAS; i++, p += psize()) {
		if (mmap(p, psize(), PROT_READ | PROT_WRITE, MAP_FIXED | MAP_SHARED,
			 fd, 0) == MAP_FAILED)
			_exit(KSFT_FAIL);
	}
	touch(attack->tables);
}

static void locked(void)
{
	map_to_protect();
	start_thread(protect);
	for (;;) {
		empty(attack->tables);
		made(attack->tables);
		touch(attack->tables);
	}
}

/*
 * One process holds its mmap_lock for ever: while a thread has it for writing others wait
 * for it, so that a reader, as the deferred work, has to wait for all of them, which takes
 * more than a second.  The main thread empties a table, by way of its file, which takes no
 * lock of the mm, and waits as long as the deferred work, which would like to free it.  Only
 * a wait for two of the threads, or more, counts.
 */
static void held(void)
{
	size_t len = attack->tables * table_size() + LOCK_VMAS * psize();
	long took, start;
	unsigned char vec;
	int i, fd;

	map_to_protect();
	fd = map_file(attack->tables);
	touch(attack->tables);
	start = now_us();
	mprotect(area, len, PROT_READ);
	took = now_us() - start;
	for (i = 0; i < LOCK_THREADS; i++)
		start_thread(protect);
	for (;; touch(attack->tables)) {
		for (i = 0; i < attack->tables; i++) {
			punch(fd, i * table_size(), psize());
			start = now_us();
			mincore(area, psize(), &vec);
			if (now_us() - start > 2 * took)
				made(1);
		}
	}
}

/* Processes end while their deferred work is waiting, or running. */
static void exits(void)
{
	unsigned int delay = 0;
	pid_t pid;

	map(attack->tables, -1);
	for (;; delay = (delay + 3) % 16) {
		pid = fork();
		if (!pid) {
			touch(attack->tables);
			empty(attack->tables);
			usleep(delay * 1000);
			_exit(0);
		}
		waitpid(pid, NULL, 0);
		made(attack->tables);
	}
}

/*
 * The tables of all that map a file are looked for, and their locks taken, the
 * bystander's too.  The file has no pages there but those of later faults.
 */
static void truncated(void)
{
	const size_t half = FAULT_TABLES * table_size();
	int i;

	map(FILE_TABLES, file);
	for (;;) {
		for (i = 0; i < FILE_TABLES; i++) {
			/* Fails behind the end of the file. */
			madvise(at(i), psize(), MADV_POPULATE_WRITE);
			if (punch(file, i * table_size(), table_size()))
				_exit(KSFT_FAIL);
		}
		if (ftruncate(file, half) || ftruncate(file, 2 * half))
			_exit(KSFT_FAIL);
		made(FILE_TABLES);
	}
}

static const struct attack attacks[] = {
	{ "alone", NULL, 0, 0 },
	{ "spin", spin, MAX_PROCS, 0 },
	{ "notes", notes, MAX_PROCS, 512 },
	{ "one_mm", notes, 1, MAX_TABLES },
	{ "refs", refs, MAX_PROCS, 256 },
	{ "percpu", percpu, 1, 16 },
	{ "locked", locked, MAX_PROCS, 64 },
	{ "held", held, 1, 256 },
	{ "truncate", truncated, MAX_PROCS, FILE_TABLES },
	{ "exits", exits, MAX_PROCS, 64 },
};

/* The bystander */

static int compare(const void *a, const void *b)
{
	long x = *(const long *)a, y = *(const long *)b;

	return x < y ? -1 : x > y;
}

static void measure_faults(struct figures *f)
{
	long start, before, lost, tables, *fault = shared->faults;
	bool share = attack->run == truncated;
	int i, round;

	for (round = 0; round < FAULT_ROUNDS; round++) {
		map(share ? FILE_TABLES : FAULT_TABLES, share ? file : -1);
		before = read_field("/proc/self/status", "VmPTE");
		tables = FAULT_TABLES;
		for (i = 0; i < FAULT_TABLES; i++) {
			/* One that is truncated.  The attack gets its turn. */
			if (share && !madvise(at(FAULT_TABLES + i), psize(), MADV_POPULATE_WRITE))
				tables++;
			if (share && i % 8 == 0)
				usleep(1000);
			start = now_ns();
			*at(i) = 1;
			*fault++ = now_ns() - start;
		}
		before -= read_field("/proc/self/status", "VmPTE");
		lost = tables + before / (psize() / 1024);
		f->taken += lost > 0 ? lost : 0;
	}
	qsort(shared->faults, FAULTS, sizeof(long), compare);
	f->fault_median = shared->faults[FAULTS / 2];
	f->fault_worst = shared->faults[FAULTS - 1];
}

static void measure_free(struct figures *f, long patience)
{
	long start, before, took;
	int i;

	f->free_worst = 0;
	for (i = 0; i < TRIALS && !f->kept; i++) {
		map(1, -1);
		*at(0) = 1;
		before = read_field("/proc/self/status", "VmPTE");
		start = now_us();
		empty(1);
		do {
			usleep(1000);
			took = now_us() - start;
			f->kept = took > patience;
		} while (read_field("/proc/self/status", "VmPTE") >= before && !f->kept);
		f->free_worst = took > f->free_worst ? took : f->free_worst;
	}
}

static void measure_exit(struct figures *f)
{
	long took;
	pid_t pid;
	int i;

	f->exit_worst = 0;
	map(EXIT_TABLES, -1);
	for (i = 0; i < TRIALS; i++) {
		pid = fork();
		if (!pid) {
			touch(EXIT_TABLES);
			empty(EXIT_TABLES);
			/* Its deferred work is about to start. */
			usleep(8000 + 500 * i);
			shared->stamp = now_us();
			_exit(0);
		}
		waitpid(pid, NULL, 0);
		took = now_us() - shared->stamp;
		f->exit_worst = took > f->exit_worst ? took : f->exit_worst;
	}
}

/* The parent */

static void read_memory(struct memory *m)
{
	m->slab = read_field("/proc/meminfo", "Slab");
	m->tables = read_field("/proc/meminfo", "PageTables");
	m->percpu = read_field("/proc/meminfo", "Percpu");
	m->refs = read_field("/proc/slabinfo", "pte_ref");
	m->notes = read_field("/proc/slabinfo", "pte_ref_notes");
}

static void read_more(struct memory *more, const struct memory *start, struct memory *peak)
{
	long *value = (long *)more, *was = (long *)start, *max = (long *)peak;
	int i;

	read_memory(more);
	for (i = 0; i < sizeof(*more) / sizeof(long); i++) {
		value[i] -= was[i];
		max[i] = value[i] > max[i] ? value[i] : max[i];
	}
}

/* An unprivileged child, in a process group of its own, which ends with its parent. */
static pid_t start_child(void)
{
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (pid)
		return pid;
	setpgid(0, 0);
	if (!geteuid() && (setgroups(0, NULL) || setgid(NOBODY) || setuid(NOBODY)))
		_exit(KSFT_FAIL);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	return 0;
}

static bool in_use(const struct memory *m)
{
	return m->slab + m->tables + m->percpu > NOISE_KB || m->refs > NOISE_OBJECTS;
}

/* Measure beside an attack.  Returns false if one of the processes has ended. */
static bool run(struct figures *f, struct effect *e, long patience)
{
	pid_t pids[MAX_PROCS], pid;
	struct memory start;
	bool ok = true;
	int i, status;
	long until;

	memset(e, 0, sizeof(*e));
	read_memory(&start);
	shared->made = 0;
	shared->ready = 0;
	e->switches = -read_field("/proc/vmstat", "pte_ref_switch");
	e->deferred = -read_field("/proc/vmstat", "pte_ref_free_deferred");
	e->us = -now_us();
	for (i = 0; i < attack->procs; i++) {
		pids[i] = start_child();
		if (!pids[i])
			attack->run();
	}
	until = now_ms() + READY_MS;
	while (__atomic_load_n(&shared->ready, __ATOMIC_RELAXED) < attack->procs && ok) {
		usleep(10000);
		read_more(&e->left, &start, &e->peak);
		ok = now_ms() < until;
	}

	memset(&shared->figures, 0, sizeof(shared->figures));
	pid = start_child();
	if (!pid) {
		measure_faults(&shared->figures);
		measure_free(&shared->figures, patience);
		measure_exit(&shared->figures);
		_exit(0);
	}
	while (!waitpid(pid, &status, WNOHANG)) {
		usleep(10000);
		read_more(&e->left, &start, &e->peak);
	}
	ok = ok && !status;
	*f = shared->figures;
	e->us += now_us();
	e->made = shared->made;
	e->switches += read_field("/proc/vmstat", "pte_ref_switch");
	e->deferred += read_field("/proc/vmstat", "pte_ref_free_deferred");

	for (i = 0; i < attack->procs; i++) {
		ok = !waitpid(pids[i], &status, WNOHANG) && ok;
		kill(-pids[i], SIGKILL);
	}
	while (wait(NULL) > 0)
		;
	until = now_ms() + SETTLE_MS;
	do {
		usleep(100000);
		read_more(&e->left, &start, &e->peak);
	} while (in_use(&e->left) && now_ms() < until);
	return ok;
}

/* Is this at most a multiple of what it was alone, or beside processes that spin? */
static bool compare_to(const char *what, long value, long alone, long spinning, int worse)
{
	long limit = worse * (alone > spinning ? alone : spinning);

	if (value > limit)
		ksft_print_msg("%s: %s: %ld, limit %ld\n", attack->name, what, value, limit);
	return value <= limit;
}

static bool check_memory(const struct effect *e, long free_us)
{
	long kb = psize() / 1024, objects = (e->peak.refs + e->peak.notes) * OBJECT_SIZE / 1024;
	long tables, limit;

	/* What there is at a time, with upper tables, and what waits for its end. */
	tables = 2 * (attack->procs + 1) * (attack->tables + FAULT_TABLES) + FAULTS;
	tables += WORSE * e->made * ((double)free_us / e->us);
	limit = e->peak.tables / BOOKKEEPING + NOISE_OBJECTS * OBJECT_SIZE / 1024;
	if (e->peak.tables > tables * kb)
		ksft_print_msg("%s: tables: %ld kB, limit %ld\n", attack->name, e->peak.tables,
			       tables * kb);
	if (objects > limit)
		ksft_print_msg("%s: %ld refs, %ld notes: %ld kB, limit %ld\n", attack->name,
			       e->peak.refs, e->peak.notes, objects, limit);
	if (in_use(&e->left))
		ksft_print_msg("%s: left: %ld kB slab, %ld tables, %ld percpu, %ld refs\n",
			       attack->name, e->left.slab, e->left.tables, e->left.percpu,
			       e->left.refs);
	return e->peak.tables <= tables * kb && objects <= limit && !in_use(&e->left);
}

/*
 * On a kernel that frees tables: of those that it made many were noted and freed later, or
 * it made refs, or tables with percpu counters, or the bystander's were freed.
 */
static bool did_something(const struct figures *f, const struct effect *e)
{
	if (attack->run == notes)
		return e->deferred > e->made / 10;
	if (attack->run == refs)
		return e->peak.refs > 0;
	if (attack->run == percpu)
		return e->switches > 0;
	if (attack->run == truncated)
		return f->taken > 0;
	return e->deferred > 0;
}

static void check(const struct figures *f, const struct figures *alone,
		  const struct figures *spinning, const struct effect *e)
{
	long turns = attack->procs * TURN_US;
	bool ok;

	ok = compare_to("median fault, ns", f->fault_median, alone->fault_median,
			spinning->fault_median, WORSE);
	ok = compare_to("worst fault, us", f->fault_worst / 1000 - turns,
			alone->fault_worst / 1000, spinning->fault_worst / 1000, WORSE) && ok;
	ksft_test_result(ok, "%s.fault\n", attack->name);

	ok = compare_to("free, us", f->free_worst - turns, alone->free_worst,
			spinning->free_worst, WORSE_FREE);
	if (alone->kept)
		ksft_test_result_skip("%s.free: this kernel keeps tables\n", attack->name);
	else
		ksft_test_result(ok && !f->kept, "%s.free\n", attack->name);

	ok = compare_to("exit, us", f->exit_worst - turns, alone->exit_worst,
			spinning->exit_worst, WORSE);
	ksft_test_result(ok, "%s.exit\n", attack->name);

	ok = check_memory(e, alone->free_worst > spinning->free_worst ? alone->free_worst :
							       spinning->free_worst);
	if (!alone->kept && !did_something(f, e)) {
		ksft_print_msg("%s: the attack did not do what it is for\n", attack->name);
		ok = false;
	}
	ksft_test_result(ok, "%s.memory\n", attack->name);
}

/* The first two are what the others are compared with. */
static bool is_attack(const char *name)
{
	unsigned int i;

	for (i = 2; i < ARRAY_SIZE(attacks); i++)
		if (!strcmp(name, attacks[i].name))
			return true;
	fprintf(stderr, "pte_ref_harm: no attack is called %s, these are:", name);
	for (i = 2; i < ARRAY_SIZE(attacks); i++)
		fprintf(stderr, " %s", attacks[i].name);
	fprintf(stderr, "\n");
	return false;
}

/* An argument names the only attack. */
int main(int argc, char **argv)
{
	static struct figures f[ARRAY_SIZE(attacks)];
	struct effect e;
	cpu_set_t set;
	long patience;
	int i, n;
	char *p;

	if (argc > 1 && !is_attack(argv[1]))
		return KSFT_FAIL;
	ksft_print_header();
	ksft_set_plan(argc > 1 ? 4 : (ARRAY_SIZE(attacks) - 2) * 4);
	sched_getaffinity(0, sizeof(set), &set);
	for (i = n = 0; i < CPU_SETSIZE && n < 2; i++) {
		if (CPU_ISSET(i, &set))
			cpus[n++] = i;
	}
	/* Huge pages have no tables. */
	prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
	p = mmap(NULL, (MAX_TABLES + 1) * table_size(), PROT_NONE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		      -1, 0);
	file = memfd_create("pte_ref_harm", MFD_CLOEXEC);
	if (p == MAP_FAILED || shared == MAP_FAILED || file < 0 ||
	    ftruncate(file, FILE_TABLES * table_size()))
		ksft_exit_skip("no address space, or no file\n");
	area = (char *)(((uintptr_t)p + table_size() - 1) & ~(table_size() - 1));

	for (i = 0; i < (int)ARRAY_SIZE(attacks); i++) {
		attack = &attacks[i];
		if (argc > 1 && i > 1 && strcmp(argv[1], attack->name))
			continue;
		if (attack->run == percpu && n < 2) {
			for (n = 0; n < 4; n++)
				ksft_test_result_skip("percpu: one CPU\n");
			continue;
		}
		patience = i && !f[0].kept ? STARVED_US : KEPT_US;
		if (!run(&f[i], &e, patience))
			ksft_exit_fail_msg("%s: a process has ended, or was not ready in time\n",
					   attack->name);
		ksft_print_msg("figures %s %ld %ld %ld %ld %ld %ld %ld %ld %ld %ld %ld %ld %ld\n",
			       attack->name, f[i].fault_median / 1000, f[i].fault_worst / 1000,
			       f[i].kept ? -1 : f[i].free_worst / 1000, f[i].exit_worst / 1000,
			       e.peak.slab, e.peak.tables, e.peak.percpu,
			       e.left.slab + e.left.tables + e.left.percpu, e.peak.refs,
			       e.left.refs, e.made, e.switches, e.deferred);
		if (attack->run == truncated)
			ksft_print_msg("%s: %ld tables of the bystander freed\n", attack->name,
				       f[i].taken);
		if (i > 1)
			check(&f[i], &f[0], &f[1], &e);
	}
	ksft_finished();
}
