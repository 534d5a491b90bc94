// SPDX-License-Identifier: GPL-2.0
/*
 * will -t|-p N [-s SECONDS] NAME...: small loops after those of will-it-scale, run
 * by N threads or by N processes for some seconds after all of them are ready.
 * Prints "NAME_tN" or "NAME_pN" and what all of them together did per second.
 */
#include "bench.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#define MOST		64
#define AREA		(16 * MB)

/* Also seen by processes; a cache line for each worker's count. */
static struct shared {
	atomic_int ready, go, stop;
	struct {
		atomic_ulong ops;
		char pad[120];
	} worker[MOST];
} *shared;

static int workers, threads;
static int file[MOST];		/* each worker has one of its own */
static char *one;		/* the table of one_table() */
static pthread_barrier_t barrier;

static void done(int id, unsigned long ops)
{
	atomic_fetch_add_explicit(&shared->worker[id].ops, ops,
				  memory_order_relaxed);
}

static int stopped(void)
{
	return atomic_load_explicit(&shared->stop, memory_order_relaxed);
}

static void touch_and_unmap(int id, int flags, int fd)
{
	char *p = map(AREA, flags, fd);

	for (size_t i = 0; i < AREA; i += MB) {
		touch_pages(p + i, MB);
		done(id, MB / PAGE);
	}
	if (munmap(p, AREA))
		err(1, "munmap");
}

static void page_fault1(int id)
{
	while (!stopped())
		touch_and_unmap(id, MAP_PRIVATE | MAP_ANONYMOUS, -1);
}

static void page_fault2(int id)
{
	while (!stopped())
		touch_and_unmap(id, MAP_PRIVATE, file[id]);
}

static void page_fault3(int id)
{
	while (!stopped())
		touch_and_unmap(id, MAP_SHARED, file[id]);
}

/* sbrk() of glibc is not for threads: each moves the end there and back. */
static void brk_loop(int id)
{
	static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

	while (!stopped()) {
		char *p;

		pthread_mutex_lock(&mutex);
		p = sbrk(PAGE);
		if (p == (void *)-1)
			err(1, "sbrk");
		touch(p + PAGE - 1);
		sbrk(-(long)PAGE);
		pthread_mutex_unlock(&mutex);
		done(id, 1);
	}
}

static void mmap_loop(int id)
{
	while (!stopped()) {
		munmap(map(AREA, MAP_PRIVATE | MAP_ANONYMOUS, -1), AREA);
		done(id, 1);
	}
}

static void fork_loop(int id)
{
	while (!stopped()) {
		fork_wait(0);
		done(id, 1);
	}
}

static void exec_loop(int id)
{
	while (!stopped()) {
		fork_wait(1);
		done(id, 1);
	}
}

/* All fault different pages of one table; one of them zaps them all; again. */
static void one_table(int id)
{
	int end;

	do {
		for (size_t p = id * PAGE; p < PAGES * PAGE; p += workers * PAGE)
			touch(one + p);
		done(id, PAGES / workers);
		pthread_barrier_wait(&barrier);
		if (!id) {
			dontneed(one, TABLE);
			atomic_store(&shared->go, 1 + stopped());
		}
		pthread_barrier_wait(&barrier);
		/* What the first one saw, so that all leave together. */
		end = atomic_load(&shared->go) == 2;
	} while (!end);
}

/* Each its own table, which the one that filled it zaps. */
static void many_tables(int id)
{
	char *base, *p = map_tables(1, &base);

	while (!stopped()) {
		touch_pages(p, PAGES * PAGE);
		dontneed(p, TABLE);
		done(id, PAGES);
	}
	unmap_tables(1, base);
}

static const struct loop {
	const char *name;
	void (*run)(int id);
	int file;
} loops[] = {
	{ "page_fault1",	page_fault1, 0 },
	{ "page_fault2",	page_fault2, 1 },
	{ "page_fault3",	page_fault3, 1 },
	{ "brk",		brk_loop, 0 },
	{ "mmap",		mmap_loop, 0 },
	{ "fork",		fork_loop, 0 },
	{ "exec",		exec_loop, 0 },
	{ "one_table",		one_table, 0 },
	{ "many_tables",	many_tables, 0 },
};

static const struct loop *loop;

static void *work(void *arg)
{
	int id = (long)arg;

	atomic_fetch_add(&shared->ready, 1);
	while (!atomic_load(&shared->go))
		usleep(1000);
	loop->run(id);
	return NULL;
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void measure(double seconds)
{
	pthread_t thread[MOST];
	pid_t pid[MOST];
	unsigned long ops = 0;
	double start, took;
	char *base;

	memset(shared, 0, sizeof(*shared));
	one = map_tables(1, &base);
	for (long i = 0; i < workers; i++) {
		file[i] = loop->file ? cached_file(AREA) : -1;
		if (threads) {
			errno = pthread_create(&thread[i], NULL, work, (void *)i);
			if (errno)
				err(1, "pthread_create");
			continue;
		}
		pid[i] = fork();
		if (!pid[i]) {
			work((void *)i);
			_exit(0);
		}
		if (pid[i] < 0)
			err(1, "fork");
	}
	while (atomic_load(&shared->ready) < workers)
		usleep(1000);
	atomic_store(&shared->go, 1);
	start = now();
	usleep(seconds * 1e6);
	for (int i = 0; i < workers; i++)
		ops += atomic_load(&shared->worker[i].ops);
	took = now() - start;
	atomic_store(&shared->stop, 1);
	for (int i = 0; i < workers; i++) {
		int status = 0;

		if (threads)
			pthread_join(thread[i], NULL);
		else
			waitpid(pid[i], &status, 0);
		if (status)
			errx(1, "%s: a process failed", loop->name);
		if (loop->file)
			close(file[i]);
	}
	unmap_tables(1, base);
	printf("%s_%c%d %.1f\n", loop->name, threads ? 't' : 'p', workers,
	       ops / took);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	double seconds = 1;
	int opt;

	if (argc > 1 && !strcmp(argv[1], NOTHING))
		return 0;
	while ((opt = getopt(argc, argv, "t:p:s:")) != -1) {
		switch (opt) {
		case 't':
		case 'p':
			threads = opt == 't';
			workers = atoi(optarg);
			break;
		case 's':
			seconds = atof(optarg);
			break;
		default:
			return 1;
		}
	}
	if (workers < 1 || workers > MOST || seconds <= 0 || optind == argc)
		errx(1, "usage: will -t|-p 1..%d [-s SECONDS] NAME...", MOST);
	shared = (struct shared *)map(sizeof(*shared),
				      MAP_SHARED | MAP_ANONYMOUS, -1);
	errno = pthread_barrier_init(&barrier, NULL, workers);
	if (errno)
		err(1, "pthread_barrier_init");
	for (; optind < argc; optind++) {
		size_t i = 0, all = sizeof(loops) / sizeof(loops[0]);

		while (i < all && strcmp(loops[i].name, argv[optind]))
			i++;
		if (i == all)
			errx(1, "no loop is called %s", argv[optind]);
		loop = &loops[i];
		if (loop->run == one_table && !threads)
			errx(1, "processes have no table in common");
		measure(seconds);
	}
	return 0;
}
