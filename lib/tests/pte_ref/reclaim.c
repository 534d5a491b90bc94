// SPDX-License-Identifier: GPL-2.0
/*
 * KUnit: a PTE table is freed when its count is zero, and only then: by a
 * direct request, by madvise() and by munmap().
 */
#include <linux/delay.h>
#include <linux/kthread.h>
#include <linux/mman.h>
#include <linux/uaccess.h>
#include <trace/events/pte_ref.h>

#include "fixture.h"

static void freed_at_zero_only(struct kunit *test)
{
	struct table *t = test->priv;
	unsigned long bytes, busy, freed;
	unsigned int i;

	lock_table(t);
	bytes = mm_pgtables_bytes(t->mm);
	busy = vm_event(PTE_REF_BUSY);
	freed = vm_event(PTE_REF_FREE);
	for (i = 0; i < PTRS_PER_PTE; i += 37)
		set_entry(t, PRESENT + i % (NR_KINDS - PRESENT), i);
	for (i = 0; i < PTRS_PER_PTE; i += 37) {
		/* Not worth an attempt. */
		KUNIT_EXPECT_FALSE(test, try_to_free(t));
		KUNIT_EXPECT_EQ(test, vm_event(PTE_REF_BUSY), busy);
		KUNIT_EXPECT_FALSE(test, free_table(t));
		KUNIT_EXPECT_EQ(test, vm_event(PTE_REF_BUSY), ++busy);
		KUNIT_EXPECT_TRUE(test, is_linked(t));
		clear_entry(t, i);
	}
	KUNIT_EXPECT_EQ(test, vm_event(PTE_REF_FREE), freed);
	KUNIT_EXPECT_EQ(test, mm_pgtables_bytes(t->mm), bytes);

	KUNIT_EXPECT_TRUE(test, try_to_free(t));
	KUNIT_EXPECT_TRUE(test, pmd_none(*t->pmd));
	KUNIT_EXPECT_EQ(test, mm_pgtables_bytes(t->mm), bytes - PAGE_SIZE);
	KUNIT_EXPECT_EQ(test, vm_event(PTE_REF_FREE), freed + 1);
	KUNIT_EXPECT_EQ(test, vm_event(PTE_REF_BUSY), busy);

	/* Without a table there is nothing to do, nothing to count. */
	KUNIT_EXPECT_FALSE(test, try_to_free(t));
	KUNIT_EXPECT_NULL(test, hold_table(t));
	KUNIT_EXPECT_EQ(test, vm_event(PTE_REF_BUSY), busy);
	unlock_table(t);

	pte_ref_flush(t->mm);
	KUNIT_EXPECT_EQ(test, watched(&t->watch), 1);
}

/*
 * GUP-fast and other walks without a lock may have read the PMD entry before it
 * was cleared.  The table is one until they are done.
 */
static void freed_table_outlives_walks(struct kunit *test)
{
	struct table *t = test->priv;
	struct page *page = ptdesc_page(t->ptdesc);
	bool freed, stays;

	lock_table(t);
	KUNIT_EXPECT_TRUE(test, PageTable(page));
	rcu_read_lock();
	freed = free_table(t);
	/* So that works and softirqs of another CPU run. */
	mdelay(20);
	stays = PageTable(page);
	rcu_read_unlock();
	unlock_table(t);
	KUNIT_EXPECT_TRUE(test, freed);
	KUNIT_EXPECT_TRUE(test, stays);

	pte_ref_flush(t->mm);
	KUNIT_EXPECT_EQ(test, watched(&t->watch), 1);
}

/* The same for what GUP-fast does instead of rcu_read_lock(): interrupts are off. */
struct irqs_off {
	struct page	*page;
	bool		started;
	bool		freed;
	bool		seen;
};

static int irqs_off_fn(void *arg)
{
	struct irqs_off *walk = arg;
	bool stays;
	int i;

	local_irq_disable();
	WRITE_ONCE(walk->started, true);
	/* Not for ever: a flush of the TLB may wait for this CPU. */
	for (i = 0; i < 100 && !READ_ONCE(walk->freed); i++)
		mdelay(1);
	mdelay(20);
	walk->seen = READ_ONCE(walk->freed);
	stays = PageTable(walk->page);
	local_irq_enable();
	while (!kthread_should_stop())
		usleep_range(50, 200);
	return stays;
}

/* True if the table was freed before the walk let interrupts in again. */
static bool free_beside_irqs_off(struct table *t)
{
	struct irqs_off walk = { .page = ptdesc_page(t->ptdesc) };
	struct kunit *test = t->test;
	struct task_struct *task;

	KUNIT_EXPECT_TRUE(test, PageTable(walk.page));
	migrate_disable();
	task = kthread_create(irqs_off_fn, &walk, "pte_ref");
	if (!IS_ERR(task)) {
		kthread_bind(task, cpumask_any_but(cpu_online_mask, raw_smp_processor_id()));
		wake_up_process(task);
		while (!READ_ONCE(walk.started))
			cond_resched();
		KUNIT_EXPECT_TRUE(test, free_table(t));
		WRITE_ONCE(walk.freed, true);
		KUNIT_EXPECT_TRUE(test, kthread_stop(task) || !walk.seen);
	} else {
		KUNIT_FAIL(test, "no thread");
	}
	migrate_enable();
	return walk.seen;
}

static void freed_table_outlives_irqs_off(struct kunit *test)
{
	struct table *t = test->priv;
	struct table other = *t;
	int i;

	if (num_online_cpus() < 2)
		kunit_skip(test, "needs two CPUs, one is online");
	lock_table(t);
	/* On a busy machine it may have been late. */
	for (i = 0; i < 50; i++) {
		link_bare_table(&other);
		if (free_beside_irqs_off(&other))
			break;
	}
	KUNIT_EXPECT_LT(test, i, 50);
	unlock_table(t);
}

static void fresh_table_can_be_freed(struct kunit *test)
{
	struct table *t = test->priv;

	lock_table(t);
	KUNIT_EXPECT_TRUE(test, free_table(t));
	KUNIT_EXPECT_TRUE(test, pmd_none(*t->pmd));
	unlock_table(t);
	pte_ref_flush(t->mm);
	KUNIT_EXPECT_EQ(test, watched(&t->watch), 1);
}

static void held_table_is_not_freed(struct kunit *test)
{
	struct table *t = test->priv;
	unsigned long deferred = vm_event(PTE_REF_FREE_DEFERRED);
	struct pte_ref *ref;
	unsigned long busy;

	lock_table(t);
	set_entry(t, PRESENT, 0);
	ref = hold_table(t);
	clear_entry(t, 0);
	busy = vm_event(PTE_REF_BUSY);
	KUNIT_EXPECT_FALSE(test, try_to_free(t));
	KUNIT_EXPECT_EQ(test, vm_event(PTE_REF_BUSY), busy + 1);
	KUNIT_EXPECT_FALSE(test, free_table(t));
	KUNIT_EXPECT_EQ(test, vm_event(PTE_REF_BUSY), busy + 2);
	unlock_table(t);
	pte_ref_flush(t->mm);
	KUNIT_EXPECT_TRUE(test, is_linked(t));
	KUNIT_EXPECT_EQ(test, vm_event(PTE_REF_FREE_DEFERRED), deferred);

	/* The put notes it. */
	pte_put(ref);
	pte_ref_flush(t->mm);
	KUNIT_EXPECT_FALSE(test, is_linked(t));
	KUNIT_EXPECT_EQ(test, vm_event(PTE_REF_FREE_DEFERRED), deferred + 1);
	KUNIT_EXPECT_EQ(test, watched(&t->watch), 1);
}

/* Both find it empty at the same time; the locks let one have it. */
struct free_race {
	struct table	*t;
	atomic_t	missing;
};

static bool free_at_once(struct free_race *race)
{
	atomic_dec(&race->missing);
	while (atomic_read(&race->missing)) {
		cpu_relax();
		cond_resched();
	}
	return free_table(race->t);
}

static int free_race_fn(void *arg)
{
	struct free_race *race = arg;
	bool freed = free_at_once(race);

	/* Read by kthread_stop(). */
	while (!kthread_should_stop())
		usleep_range(50, 200);
	return freed;
}

static void freed_by_two_cpus(struct kunit *test)
{
	struct table *t = test->priv;
	struct task_struct *task;
	unsigned long bytes;
	int i, cpu, freed;

	if (num_online_cpus() < 2)
		kunit_skip(test, "needs two CPUs, one is online");
	lock_table(t);
	for (i = 0; i < 20; i++) {
		struct free_race race = { .t = t, .missing = ATOMIC_INIT(2) };

		if (i)
			link_table(t);
		bytes = mm_pgtables_bytes(t->mm);
		cpu = cpumask_any_but(cpu_online_mask, raw_smp_processor_id());
		task = kthread_create(free_race_fn, &race, "pte_ref");
		if (IS_ERR(task)) {
			KUNIT_FAIL(test, "no thread");
			break;
		}
		kthread_bind(task, cpu);
		wake_up_process(task);
		freed = free_at_once(&race);
		freed += kthread_stop(task);
		KUNIT_EXPECT_EQ(test, freed, 1);
		KUNIT_EXPECT_FALSE(test, is_linked(t));
		KUNIT_EXPECT_EQ(test, mm_pgtables_bytes(t->mm), bytes - PAGE_SIZE);
	}
	unlock_table(t);
	pte_ref_flush(t->mm);
	KUNIT_EXPECT_EQ(test, watched(&t->watch), 1);
}

static void count_trace(void *data, struct mm_struct *mm, unsigned long addr)
{
	atomic_t *nr = data;

	if (mm == current->mm)
		atomic_inc(nr);
}

static void tracepoints(struct kunit *test)
{
	struct table *t = test->priv;
	atomic_t switches = ATOMIC_INIT(0);
	atomic_t freed = ATOMIC_INIT(0);
	atomic_t failed = ATOMIC_INIT(0);

	KUNIT_EXPECT_EQ(test, 0,
			register_trace_pte_ref_switch(count_trace, &switches));
	KUNIT_EXPECT_EQ(test, 0,
			register_trace_pte_ref_free(count_trace, &freed));
	KUNIT_EXPECT_EQ(test, 0,
			register_trace_pte_ref_free_failed(count_trace, &failed));

	lock_table(t);
	set_entry(t, PRESENT, 0);
	KUNIT_EXPECT_FALSE(test, free_table(t));
	KUNIT_EXPECT_EQ(test, atomic_read(&failed), 1);
	KUNIT_EXPECT_EQ(test, atomic_read(&switches), 0);
	to_percpu_mode(t);
	clear_entry(t, 0);
	KUNIT_EXPECT_FALSE(test, try_to_free(t));
	KUNIT_EXPECT_EQ(test, atomic_read(&failed), 2);
	KUNIT_EXPECT_EQ(test, atomic_read(&switches), 1);
	KUNIT_EXPECT_EQ(test, atomic_read(&freed), 0);
	rcu_barrier();
	KUNIT_EXPECT_TRUE(test, try_to_free(t));
	KUNIT_EXPECT_EQ(test, atomic_read(&failed), 2);
	KUNIT_EXPECT_EQ(test, atomic_read(&switches), 1);
	KUNIT_EXPECT_EQ(test, atomic_read(&freed), 1);
	unlock_table(t);

	unregister_trace_pte_ref_switch(count_trace, &switches);
	unregister_trace_pte_ref_free(count_trace, &freed);
	unregister_trace_pte_ref_free_failed(count_trace, &failed);
	tracepoint_synchronize_unregister();
}

static void zap_frees_the_table(struct kunit *test)
{
	struct table *t = test->priv;
	unsigned long deferred = vm_event(PTE_REF_FREE_DEFERRED);
	unsigned long freed = vm_event(PTE_REF_FREE);
	unsigned long bytes = mm_pgtables_bytes(t->mm);
	unsigned int i;

	for (i = 0; i < 8; i++)
		touch(t, entry_addr(t, i * 60), i);
	KUNIT_EXPECT_EQ(test, t->ptdesc->pte_populated, 8);
	for (i = 0; i < 7; i++) {
		zap(t, entry_addr(t, i * 60), PAGE_SIZE);
		KUNIT_EXPECT_EQ(test, t->ptdesc->pte_populated, 7 - i);
		KUNIT_EXPECT_TRUE(test, is_linked(t));
	}
	/* The last one, by a zap of a part: the deferred work frees it. */
	zap(t, entry_addr(t, i * 60), PAGE_SIZE);
	pte_ref_flush(t->mm);
	KUNIT_EXPECT_FALSE(test, is_linked(t));
	KUNIT_EXPECT_EQ(test, vm_event(PTE_REF_FREE), freed);
	KUNIT_EXPECT_EQ(test, vm_event(PTE_REF_FREE_DEFERRED), deferred + 1);
	KUNIT_EXPECT_EQ(test, mm_pgtables_bytes(t->mm), bytes - PAGE_SIZE);

	/* Over two tables, neither of them covered. */
	touch(t, t->addr + PMD_SIZE - PAGE_SIZE, 1);
	touch(t, t->addr + PMD_SIZE, 1);
	KUNIT_EXPECT_EQ(test, mm_pgtables_bytes(t->mm), bytes + PAGE_SIZE);
	zap(t, t->addr + PMD_SIZE - PAGE_SIZE, 2 * PAGE_SIZE);
	pte_ref_flush(t->mm);
	KUNIT_EXPECT_EQ(test, mm_pgtables_bytes(t->mm), bytes - PAGE_SIZE);
	KUNIT_EXPECT_EQ(test, vm_event(PTE_REF_FREE_DEFERRED), deferred + 3);

	/* Over three, one of them covered: that one at once. */
	for (i = 0; i < 3; i++)
		touch(t, t->addr + i * PMD_SIZE + (i ? 0 : PMD_SIZE - PAGE_SIZE), 1);
	zap(t, t->addr + PMD_SIZE - PAGE_SIZE, PMD_SIZE + 2 * PAGE_SIZE);
	KUNIT_EXPECT_EQ(test, vm_event(PTE_REF_FREE), freed + 1);
	KUNIT_EXPECT_TRUE(test, pmd_none(t->pmd[1]));
	pte_ref_flush(t->mm);
	KUNIT_EXPECT_EQ(test, mm_pgtables_bytes(t->mm), bytes - PAGE_SIZE);
	KUNIT_EXPECT_EQ(test, vm_event(PTE_REF_FREE_DEFERRED), deferred + 5);
}

static void zap_of_one_keeps_the_other(struct kunit *test)
{
	struct table *t = test->priv;
	u64 value = 0;

	touch(t, t->addr, 0x1234);
	touch(t, entry_addr(t, 1), 0x5678);
	zap(t, t->addr, PAGE_SIZE);
	pte_ref_flush(t->mm);
	KUNIT_EXPECT_TRUE(test, is_linked(t));
	KUNIT_EXPECT_EQ(test, copy_from_user(&value, (void __user *)entry_addr(t, 1),
					     sizeof(value)), 0);
	KUNIT_EXPECT_EQ(test, value, 0x5678);
	KUNIT_EXPECT_EQ(test, copy_from_user(&value, (void __user *)t->addr,
					     sizeof(value)), 0);
	KUNIT_EXPECT_EQ(test, value, 0);
}

static void guard_keeps_the_table(struct kunit *test)
{
	struct table *t = test->priv;
	u64 value = 1;

	touch(t, t->addr, 1);
	/* Without it the table would be empty before it has guards. */
	touch(t, entry_addr(t, 3), 1);
	KUNIT_EXPECT_EQ(test, do_madvise(t->mm, t->addr, 3 * PAGE_SIZE,
					 MADV_GUARD_INSTALL), 0);
	KUNIT_EXPECT_EQ(test, t->ptdesc->pte_populated, 4);
	zap(t, t->addr, PMD_SIZE);
	pte_ref_flush(t->mm);
	KUNIT_EXPECT_TRUE(test, is_linked(t));
	KUNIT_EXPECT_EQ(test, t->ptdesc->pte_populated, 3);
	KUNIT_EXPECT_NE(test, copy_to_user((void __user *)t->addr, &value,
					   sizeof(value)), 0);

	KUNIT_EXPECT_EQ(test, do_madvise(t->mm, t->addr, 2 * PAGE_SIZE,
					 MADV_GUARD_REMOVE), 0);
	KUNIT_EXPECT_EQ(test, t->ptdesc->pte_populated, 1);
	KUNIT_EXPECT_EQ(test, do_madvise(t->mm, t->addr, PMD_SIZE,
					 MADV_GUARD_REMOVE), 0);
	pte_ref_flush(t->mm);
	KUNIT_EXPECT_FALSE(test, is_linked(t));
}

/* free_pgtables() must leave a table that a neighbour shares. */
static void munmap_of_a_part(struct kunit *test)
{
	struct table *t = test->priv;

	touch(t, t->addr, 1);
	touch(t, entry_addr(t, 300), 1);
	KUNIT_EXPECT_EQ(test, vm_munmap(t->addr, 100 * PAGE_SIZE), 0);
	pte_ref_flush(t->mm);
	KUNIT_EXPECT_TRUE(test, is_linked(t));
	KUNIT_EXPECT_EQ(test, t->ptdesc->pte_populated, 1);
	KUNIT_EXPECT_EQ(test, vm_munmap(entry_addr(t, 300), 100 * PAGE_SIZE), 0);
	pte_ref_flush(t->mm);
	KUNIT_EXPECT_FALSE(test, is_linked(t));
	KUNIT_EXPECT_EQ(test, watched(&t->watch), 1);

	/* The same with a table that has no ref. */
	touch(t, t->addr + PMD_SIZE, 1);
	KUNIT_EXPECT_FALSE(test, pmd_none(t->pmd[1]));
	KUNIT_EXPECT_EQ(test, vm_munmap(t->addr + PMD_SIZE, 100 * PAGE_SIZE), 0);
	pte_ref_flush(t->mm);
	KUNIT_EXPECT_TRUE(test, pmd_none(t->pmd[1]));
}

/* One zap over tables of which some are to stay. */
static void zap_of_several_tables(struct kunit *test)
{
	struct table *t = test->priv;
	struct table tables[NR_TABLES];
	unsigned long freed = vm_event(PTE_REF_FREE);
	unsigned long bytes = mm_pgtables_bytes(t->mm);
	struct pte_ref *ref;
	unsigned long busy;
	int i;

	for (i = 0; i < NR_TABLES; i++) {
		tables[i] = *t;
		tables[i].addr += i * PMD_SIZE;
		touch(t, tables[i].addr, 1);
		lock_table(t);
		link_table(&tables[i]);
		unlock_table(t);
	}
	KUNIT_EXPECT_EQ(test, mm_pgtables_bytes(t->mm),
			bytes + (NR_TABLES - 1) * PAGE_SIZE);
	ref = hold_table(&tables[1]);
	KUNIT_EXPECT_PTR_EQ(test, ref, tables[1].ref);
	KUNIT_EXPECT_EQ(test, do_madvise(t->mm, tables[2].addr + PAGE_SIZE,
					 PAGE_SIZE, MADV_GUARD_INSTALL), 0);
	busy = vm_event(PTE_REF_BUSY);
	zap(t, t->addr, NR_TABLES * PMD_SIZE);
	for (i = 0; i < NR_TABLES; i++)
		KUNIT_EXPECT_EQ(test, is_linked(&tables[i]), i == 1 || i == 2);
	KUNIT_EXPECT_EQ(test, vm_event(PTE_REF_FREE), freed + NR_TABLES - 2);
	/* The one that is held, not the one with entries. */
	KUNIT_EXPECT_EQ(test, vm_event(PTE_REF_BUSY), busy + 1);

	pte_put(ref);
	pte_ref_flush(t->mm);
	for (i = 0; i < NR_TABLES; i++)
		KUNIT_EXPECT_EQ(test, is_linked(&tables[i]), i == 2);
	KUNIT_EXPECT_EQ(test, mm_pgtables_bytes(t->mm), bytes);
}

/* Its entries were never counted. */
static void untracked_table_stays(struct kunit *test)
{
	struct table *t = test->priv;
	struct table bare;

	link_beside(t, &bare);
	bare.ptdesc->pte_ref = NULL;
	KUNIT_EXPECT_FALSE(test, pte_ref_empty(bare.pmd));
	KUNIT_EXPECT_FALSE(test, pte_ref_empty_locked(t->mm, bare.pmd, bare.addr));
	KUNIT_EXPECT_NULL(test, hold_table(&bare));
	KUNIT_EXPECT_FALSE(test, try_to_free(&bare));
	KUNIT_EXPECT_FALSE(test, free_table(&bare));
	KUNIT_EXPECT_TRUE(test, is_linked(&bare));
	bare.ptdesc->pte_ref = &pte_ref_none;
	KUNIT_EXPECT_TRUE(test, free_table(&bare));
	unlock_table(t);
}

static struct kunit_case pte_ref_reclaim_cases[] = {
	KUNIT_CASE(freed_at_zero_only),
	KUNIT_CASE(freed_table_outlives_walks),
	KUNIT_CASE(freed_table_outlives_irqs_off),
	KUNIT_CASE(fresh_table_can_be_freed),
	KUNIT_CASE(held_table_is_not_freed),
	KUNIT_CASE(freed_by_two_cpus),
	KUNIT_CASE(tracepoints),
	KUNIT_CASE(zap_frees_the_table),
	KUNIT_CASE(zap_of_one_keeps_the_other),
	KUNIT_CASE(guard_keeps_the_table),
	KUNIT_CASE(munmap_of_a_part),
	KUNIT_CASE(zap_of_several_tables),
	KUNIT_CASE(untracked_table_stays),
	{}
};

static struct kunit_suite pte_ref_reclaim_suite = {
	.name = "pte_ref_reclaim",
	.init = pte_ref_test_init,
	.exit = pte_ref_test_exit,
	.test_cases = pte_ref_reclaim_cases,
};

kunit_test_suite(pte_ref_reclaim_suite);
