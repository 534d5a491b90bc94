// SPDX-License-Identifier: GPL-2.0
/*
 * KUnit: a ref gets percpu counters when its holders move, counts the same with
 * them, and is switched back once, so that zero is seen.
 */
#include <linux/cpumask.h>
#include <linux/delay.h>
#include <linux/kthread.h>
#include <linux/mman.h>
#include <linux/prandom.h>
#include <linux/uaccess.h>
#include <trace/events/huge_memory.h>

#include "fixture.h"

static bool is_switching(struct table *t)
{
	return test_bit(PTE_REF_SWITCHING, &t->ref->state) &&
	       !test_bit(PTE_REF_SWITCHED, &t->ref->state);
}

static void percpu_when_holders_move(struct kunit *test)
{
	struct table *t = test->priv;
	unsigned int i;

	lock_table(t);
	set_entry(t, PRESENT, 0);
	/* Too slowly: none of these counts. */
	for (i = 0; i < 3 * PTE_REF_PERCPU_MOVES; i++) {
		WRITE_ONCE(t->ref->cpu, U16_MAX);
		WRITE_ONCE(t->ref->second, t->ref->second - 1);
		pte_put(hold_table(t));
		KUNIT_EXPECT_FALSE(test, pte_ref_is_percpu(t->ref));
	}
	KUNIT_EXPECT_LE(test, t->ref->moves, 1);

	/* One was counted above; in the next second it starts again. */
	for (i = 1; i < 10 * PTE_REF_PERCPU_MOVES; i++) {
		if (pte_ref_is_percpu(t->ref))
			break;
		WRITE_ONCE(t->ref->cpu, U16_MAX);
		pte_put(hold_table(t));
	}
	KUNIT_EXPECT_GE(test, i, PTE_REF_PERCPU_MOVES);
	KUNIT_EXPECT_TRUE(test, pte_ref_is_percpu(t->ref));
	to_atomic_mode(t);
	expect_count(t, 1, 0);

	/* Never again. */
	for (i = 0; i < 3 * PTE_REF_PERCPU_MOVES; i++) {
		WRITE_ONCE(t->ref->cpu, U16_MAX);
		pte_put(hold_table(t));
		KUNIT_EXPECT_FALSE(test, pte_ref_is_percpu(t->ref));
	}
	expect_count(t, 1, 0);
	clear_table(t);
	unlock_table(t);
}

static void no_switch_back(struct kunit *test)
{
	struct table *t = test->priv;

	lock_table(t);
	set_entry(t, PRESENT, 0);
	to_percpu_mode(t);
	KUNIT_EXPECT_EQ(test, pte_ref_to_percpu(t->ref, GFP_KERNEL), -EBUSY);
	KUNIT_EXPECT_TRUE(test, pte_ref_start_switch(t->ref));
	KUNIT_EXPECT_FALSE(test, pte_ref_is_percpu(t->ref));
	KUNIT_EXPECT_EQ(test, pte_ref_to_percpu(t->ref, GFP_KERNEL), -EBUSY);
	KUNIT_EXPECT_FALSE(test, pte_ref_start_switch(t->ref));
	rcu_barrier();
	KUNIT_EXPECT_TRUE(test, test_bit(PTE_REF_SWITCHED, &t->ref->state));
	KUNIT_EXPECT_EQ(test, pte_ref_to_percpu(t->ref, GFP_KERNEL), -EBUSY);
	KUNIT_EXPECT_FALSE(test, pte_ref_start_switch(t->ref));
	KUNIT_EXPECT_FALSE(test, is_marked(t));
	KUNIT_EXPECT_FALSE(test, pte_ref_is_percpu(t->ref));
	/* The counters were given back. */
	KUNIT_EXPECT_EQ(test, t->ref->ref.percpu_count_ptr, __PERCPU_REF_ATOMIC);
	expect_count(t, 1, 0);
	clear_table(t);
	unlock_table(t);
}

/* A switch before there are counters refuses them. */
static void switch_of_an_atomic_ref(struct kunit *test)
{
	struct table *t = test->priv;

	lock_table(t);
	set_entry(t, PRESENT, 0);
	to_atomic_mode(t);
	expect_count(t, 1, 0);
	KUNIT_EXPECT_EQ(test, pte_ref_to_percpu(t->ref, GFP_KERNEL), -EBUSY);
	KUNIT_EXPECT_FALSE(test, pte_ref_is_percpu(t->ref));
	clear_table(t);
	unlock_table(t);
}

static void percpu_mode_counts(struct kunit *test)
{
	struct table *t = test->priv;
	struct pte_ref *ref[8];
	int i;

	lock_table(t);
	set_entries(t, PRESENT, 0, 9);
	ref[0] = hold_table(t);
	to_percpu_mode(t);
	for (i = 1; i < ARRAY_SIZE(ref); i++)
		ref[i] = hold_table(t);
	clear_table(t);
	set_entries(t, PRESENT, 100, 5);
	pte_put(ref[0]);
	to_atomic_mode(t);
	expect_count(t, 5, ARRAY_SIZE(ref) - 1);
	for (i = 1; i < ARRAY_SIZE(ref); i++) {
		KUNIT_EXPECT_PTR_EQ(test, ref[i], t->ref);
		pte_put(ref[i]);
	}
	expect_count(t, 5, 0);
	clear_table(t);
	unlock_table(t);
}

/* The first attempt switches, and only if the table looks empty. */
static void percpu_table_is_freed(struct kunit *test)
{
	struct table *t = test->priv;
	unsigned long switches, busy, deferred;

	lock_table(t);
	set_entry(t, PRESENT, 0);
	to_percpu_mode(t);
	switches = vm_event(PTE_REF_SWITCH);
	busy = vm_event(PTE_REF_BUSY);
	deferred = vm_event(PTE_REF_FREE_DEFERRED);
	KUNIT_EXPECT_FALSE(test, try_to_free(t));
	KUNIT_EXPECT_TRUE(test, pte_ref_is_percpu(t->ref));
	KUNIT_EXPECT_EQ(test, vm_event(PTE_REF_SWITCH), switches);
	KUNIT_EXPECT_EQ(test, vm_event(PTE_REF_BUSY), busy);

	clear_entry(t, 0);
	KUNIT_EXPECT_FALSE(test, free_table(t));
	KUNIT_EXPECT_FALSE(test, try_to_free(t));
	KUNIT_EXPECT_FALSE(test, pte_ref_is_percpu(t->ref));
	expect_noted(t);
	KUNIT_EXPECT_TRUE(test, is_linked(t));
	KUNIT_EXPECT_EQ(test, vm_event(PTE_REF_SWITCH), switches + 1);
	KUNIT_EXPECT_EQ(test, vm_event(PTE_REF_BUSY), busy + 2);
	unlock_table(t);

	pte_ref_flush(t->mm);
	KUNIT_EXPECT_FALSE(test, is_linked(t));
	KUNIT_EXPECT_EQ(test, vm_event(PTE_REF_FREE_DEFERRED), deferred + 1);
	KUNIT_EXPECT_EQ(test, vm_event(PTE_REF_SWITCH), switches + 1);
	KUNIT_EXPECT_EQ(test, watched(&t->watch), 1);
}

/* In percpu mode no put sees zero, so to clear the last entry notes it. */
static void percpu_table_is_noted(struct kunit *test)
{
	struct table *t = test->priv;

	lock_table(t);
	set_entry(t, PRESENT, 0);
	to_percpu_mode(t);
	clear_entry(t, 0);
	unlock_table(t);
	pte_ref_flush(t->mm);
	KUNIT_EXPECT_FALSE(test, is_linked(t));
	KUNIT_EXPECT_EQ(test, watched(&t->watch), 1);
}

/* Called by the put in __pte_ref_emptied(), so between its two looks. */
static void percpu_at_zero(struct percpu_ref *r)
{
	percpu_ref_get(r);
	pte_ref_to_percpu(to_pte_ref(r), GFP_NOWAIT);
}

/*
 * A ref gets percpu counters while the last entry is cleared, after it was seen
 * in atomic mode.
 */
static void percpu_while_emptied(struct kunit *test)
{
	struct table *t = test->priv;

	lock_table(t);
	set_entry(t, PRESENT, 0);
	t->ref->data.release = percpu_at_zero;
	clear_entry(t, 0);
	t->ref->data.release = pte_ref_release;
	KUNIT_EXPECT_TRUE(test, pte_ref_is_percpu(t->ref));
	expect_noted(t);
	to_atomic_mode(t);
	expect_count(t, 0, 1);
	pte_put(t->ref);
	unlock_table(t);
	pte_ref_flush(t->mm);
	KUNIT_EXPECT_FALSE(test, is_linked(t));
}

/*
 * Populated while its switch is pending, so that the deferred work leaves it,
 * and emptied before the switch is over, so that no put sees zero.
 */
static void emptied_during_switch(struct kunit *test)
{
	struct table *t = test->priv;

	lock_table(t);
	set_entry(t, PRESENT, 0);
	to_percpu_mode(t);
	clear_entry(t, 0);
	KUNIT_EXPECT_FALSE(test, is_switching(t));
	/* Delays the end of the switch. */
	rcu_read_lock();
	KUNIT_EXPECT_FALSE(test, try_to_free(t));
	KUNIT_EXPECT_TRUE(test, is_switching(t));
	set_entry(t, PRESENT, 1);
	while (is_marked(t))
		take_marks(t);
	clear_entry(t, 1);
	KUNIT_EXPECT_TRUE(test, is_switching(t));
	KUNIT_EXPECT_TRUE(test, is_marked(t));
	rcu_read_unlock();
	unlock_table(t);
	pte_ref_flush(t->mm);
	KUNIT_EXPECT_FALSE(test, is_linked(t));
}

/*
 * mremap() moves the empty table, as move_normal_pmd(), before its switch is over.
 * Its note is taken before, so what finds it is that of pte_ref_moved().
 */
static void moved_during_switch(struct kunit *test)
{
	unsigned long deferred = vm_event(PTE_REF_FREE_DEFERRED);
	struct table *t = test->priv;
	struct table to = *t;
	spinlock_t *pml = NULL;
	pmd_t pmdval;

	to.addr += PMD_SIZE;
	to.pmd++;
	lock_table(t);
	set_entry(t, SWAP, 0);
	to_percpu_mode(t);
	clear_entry(t, 0);
	/* Delays the end of the switch. */
	rcu_read_lock();
	KUNIT_EXPECT_FALSE(test, try_to_free(t));
	while (is_marked(t))
		take_marks(t);
	pml = pmd_lock(t->mm, t->pmd);
	pmdval = *t->pmd;
	pmd_clear(t->pmd);
	pmd_populate(t->mm, to.pmd, pmd_pgtable(pmdval));
	spin_unlock(pml);
	pte_ref_moved(t->mm, to.pmd, to.addr, 1);
	KUNIT_EXPECT_TRUE(test, is_switching(t));
	rcu_read_unlock();
	KUNIT_EXPECT_TRUE(test, is_linked(&to));
	unlock_table(t);
	pte_ref_flush(t->mm);
	KUNIT_EXPECT_FALSE(test, is_linked(&to));
	KUNIT_EXPECT_EQ(test, vm_event(PTE_REF_FREE_DEFERRED), deferred + 1);
}

/* In percpu mode the reference of a zap is counted as any other. */
static void zap_in_percpu_mode(struct kunit *test)
{
	struct table *t = test->priv;

	lock_table(t);
	set_entry(t, SWAP, 9);
	to_percpu_mode(t);
	zap_entry(t, 9);
	to_atomic_mode(t);
	expect_count(t, 0, 0);
	unlock_table(t);
}

/* The put of a zap tells nobody, and the end of the switch that it starts neither. */
static void zapped_in_percpu_mode(struct kunit *test)
{
	struct table *t = test->priv;

	lock_table(t);
	set_entry(t, SWAP, 9);
	to_percpu_mode(t);
	zap_entry(t, 9);
	KUNIT_EXPECT_FALSE(test, try_to_free(t));
	expect_noted(t);
	unlock_table(t);
	pte_ref_flush(t->mm);
	KUNIT_EXPECT_FALSE(test, is_linked(t));
	KUNIT_EXPECT_EQ(test, watched(&t->watch), 1);
}

/* References wander through slots, and so from CPU to CPU. */
#define NR_SLOTS	64

struct holder {
	struct table		*t;
	struct pte_ref		**slots;
	struct task_struct	*task;
	unsigned long		done;
	unsigned long		failed;
	u64			seed;
};

static int holder_fn(void *arg)
{
	struct holder *h = arg;
	struct rnd_state rnd;

	prandom_seed_state(&rnd, h->seed);
	while (!kthread_should_stop()) {
		int i;

		for (i = 0; i < 64; i++) {
			u32 r = prandom_u32_state(&rnd);
			struct pte_ref *ref = NULL;

			if (r & 1) {
				ref = hold_table(h->t);
				if (!ref)
					h->failed++;
			}
			ref = xchg(&h->slots[(r >> 1) % NR_SLOTS], ref);
			pte_put(ref);
		}
		h->done++;
		cond_resched();
	}
	return 0;
}

/* One on each CPU; NULL if there is no memory. */
static struct holder *start_holders(struct table *t)
{
	struct pte_ref **slots;
	struct holder *holders;
	int cpu;

	holders = kunit_kcalloc(t->test, nr_cpu_ids, sizeof(*holders), GFP_KERNEL);
	slots = kunit_kcalloc(t->test, NR_SLOTS, sizeof(*slots), GFP_KERNEL);
	if (!holders || !slots) {
		KUNIT_FAIL(t->test, "no memory");
		return NULL;
	}
	for_each_online_cpu(cpu) {
		struct holder *h = &holders[cpu];

		h->t = t;
		h->slots = slots;
		h->seed = cpu + 1;
		h->task = kthread_create(holder_fn, h, "pte_ref/%d", cpu);
		if (IS_ERR(h->task)) {
			KUNIT_FAIL(t->test, "no thread for CPU %d", cpu);
			h->task = NULL;
			continue;
		}
		kthread_bind(h->task, cpu);
		wake_up_process(h->task);
	}
	return holders;
}

/* Waits until each of them has done so many more rounds. */
static void let_holders_run(struct table *t, struct holder *holders,
			    unsigned long rounds)
{
	unsigned long end = jiffies + 20 * HZ;
	int cpu;

	for_each_online_cpu(cpu) {
		struct holder *h = &holders[cpu];
		unsigned long done = READ_ONCE(h->done) + rounds;

		while (h->task && READ_ONCE(h->done) < done &&
		       time_before(jiffies, end))
			usleep_range(50, 200);
		KUNIT_EXPECT_GE(t->test, READ_ONCE(h->done), done);
	}
}

static void stop_holders(struct holder *holders)
{
	int cpu;

	for_each_online_cpu(cpu)
		if (holders[cpu].task)
			kthread_stop(holders[cpu].task);
}

static struct pte_ref **held_refs(struct holder *holders)
{
	return holders[cpumask_first(cpu_online_mask)].slots;
}

static unsigned int count_held(struct table *t, struct holder *holders)
{
	unsigned int i, held = 0;

	for (i = 0; i < NR_SLOTS; i++) {
		struct pte_ref *ref = held_refs(holders)[i];

		if (!ref)
			continue;
		KUNIT_EXPECT_PTR_EQ(t->test, ref, t->ref);
		held++;
	}
	return held;
}

static void put_held(struct holder *holders)
{
	unsigned int i;

	for (i = 0; i < NR_SLOTS; i++)
		pte_put(xchg(&held_refs(holders)[i], NULL));
}

static void switch_under_load(struct kunit *test)
{
	struct table *t = test->priv;
	struct holder *holders;
	unsigned int held, i;
	unsigned long end;

	if (num_online_cpus() < 2)
		kunit_skip(test, "needs two CPUs, one is online");

	lock_table(t);
	set_entry(t, MARKER_GUARD, 0);
	holders = start_holders(t);
	if (!holders)
		goto out;
	/* Holders on several CPUs are what percpu counters are for. */
	end = jiffies + 120 * HZ;
	while (!pte_ref_is_percpu(t->ref) && time_before(jiffies, end))
		usleep_range(50, 200);
	KUNIT_EXPECT_TRUE(test, pte_ref_is_percpu(t->ref));
	for (i = 0; i < 50; i++) {
		set_entries(t, SWAP, 1 + i * 10, 10);
		do_op(t, OP_CLEAR_NONPRESENT, 1 + i * 10, 5);
	}
	let_holders_run(t, holders, 10);
	KUNIT_EXPECT_TRUE(test, pte_ref_start_switch(t->ref));
	let_holders_run(t, holders, 10);
	do_op(t, OP_CLEAR_NONPRESENT, 1, 300);
	rcu_barrier();
	KUNIT_EXPECT_TRUE(test, test_bit(PTE_REF_SWITCHED, &t->ref->state));
	let_holders_run(t, holders, 10);
	KUNIT_EXPECT_FALSE(test, pte_ref_is_percpu(t->ref));
	stop_holders(holders);

	held = count_held(t, holders);
	expect_count(t, 101, held);
	for_each_online_cpu(i)
		KUNIT_EXPECT_EQ(test, holders[i].failed, 0);
	clear_table(t);
	expect_count(t, 0, held);
	KUNIT_EXPECT_EQ(test, try_to_free(t), !held);
	put_held(holders);
	if (held)
		KUNIT_EXPECT_TRUE(test, try_to_free(t));
out:
	unlock_table(t);
	pte_ref_flush(t->mm);
	KUNIT_EXPECT_EQ(test, watched(&t->watch), 1);
}

static void dies_with_its_mm_in_percpu_mode(struct kunit *test)
{
	struct table *t = test->priv;

	touch(t, t->addr, 1);
	to_percpu_mode(t);
}

static void dies_with_its_mm_during_switch(struct kunit *test)
{
	struct table *t = test->priv;
	struct table last = *t;
	bool switching = false;
	int i;

	lock_table(t);
	/* On a busy machine the grace period may be over: one more, then. */
	for (i = 0; i < NR_TABLES && !switching; i++) {
		last.addr = t->addr + i * PMD_SIZE;
		link_table(&last);
		set_entry(&last, SWAP, 0);
		to_percpu_mode(&last);
		clear_entry(&last, 0);
		KUNIT_EXPECT_FALSE(test, try_to_free(&last));
		expect_noted(&last);
		switching = is_switching(&last);
	}
	KUNIT_EXPECT_TRUE(test, switching);
	unlock_table(t);
}

/*
 * munmap() takes the table right after its switch was started.  True if it was pending
 * then; where a holder keeps the ref, if it is pending still.  The table is destroyed a
 * grace period later; destroyed_during_switch() does not wait for that.
 */
static bool unmap_during_switch(struct table *t, bool look, bool held)
{
	struct pte_ref *ref = NULL;
	struct kunit *test = t->test;
	struct ref_watch w = {};
	struct table other;
	bool switching;

	map_beside(t, &other);
	lock_table(&other);
	link_table(&other);
	KUNIT_EXPECT_EQ(test, watch_start(&w, other.ref), 0);
	set_entry(&other, SWAP, 0);
	to_percpu_mode(&other);
	if (held)
		ref = hold_table(&other);
	clear_entry(&other, 0);
	if (look)
		KUNIT_EXPECT_FALSE(test, try_to_free(&other));
	else
		KUNIT_EXPECT_TRUE(test, pte_ref_start_switch(other.ref));
	unlock_table(&other);

	switching = is_switching(&other);
	KUNIT_EXPECT_EQ(test, vm_munmap(other.addr, PMD_SIZE), 0);
	if (held) {
		switching = is_switching(&other);
		KUNIT_EXPECT_EQ(test, watched(&w), 0);
		pte_put(ref);
	}
	pte_ref_flush(t->mm);
	KUNIT_EXPECT_EQ(test, watched(&w), 1);
	watch_stop(&w);
	return switching;
}

static void unmapped_during_switch(struct kunit *test)
{
	int mode, i;

	for (mode = 0; mode < 4; mode++) {
		/* On a busy machine the grace period may be over. */
		for (i = 0; i < 50; i++)
			if (unmap_during_switch(test->priv, mode & 1, mode & 2))
				break;
		KUNIT_EXPECT_LT(test, i, 50);
	}
}

/* A fault populates the table right after its switch was started.  True if it was pending. */
static bool refill_during_switch(struct table *t)
{
	struct kunit *test = t->test;
	unsigned long deferred;
	struct table other;
	bool switching;

	map_beside(t, &other);
	lock_table(&other);
	link_table(&other);
	set_entry(&other, SWAP, 0);
	to_percpu_mode(&other);
	clear_entry(&other, 0);
	deferred = vm_event(PTE_REF_FREE_DEFERRED);
	KUNIT_EXPECT_FALSE(test, try_to_free(&other));
	unlock_table(&other);

	touch(t, other.addr, 1);
	/* If it was over the table may be another one. */
	rcu_read_lock();
	switching = is_linked(&other) &&
		    READ_ONCE(other.ptdesc->pte_ref) == other.ref &&
		    is_switching(&other);
	rcu_read_unlock();
	pte_ref_flush(t->mm);
	if (!switching)
		return false;

	lock_table(&other);
	KUNIT_EXPECT_TRUE(test, is_linked(&other));
	KUNIT_EXPECT_EQ(test, vm_event(PTE_REF_FREE_DEFERRED), deferred);
	expect_count(&other, 1, 0);
	unlock_table(&other);
	zap(t, other.addr, PAGE_SIZE);
	pte_ref_flush(t->mm);
	KUNIT_EXPECT_FALSE(test, is_linked(&other));
	KUNIT_EXPECT_EQ(test, vm_event(PTE_REF_FREE_DEFERRED), deferred + 1);
	return true;
}

static void refilled_during_switch(struct kunit *test)
{
	struct table *t = test->priv;
	int i;

	/* Noted with the other, it would be counted too. */
	lock_table(t);
	KUNIT_EXPECT_TRUE(test, try_to_free(t));
	unlock_table(t);
	/* On a busy machine the grace period may be over. */
	for (i = 0; i < 50; i++)
		if (refill_during_switch(t))
			break;
	KUNIT_EXPECT_LT(test, i, 50);
}

#ifdef COLLAPSES

struct collapse {
	struct task_struct	*task;
	struct pte_ref		*ref;
};

/* A collapse has unlinked the table, and will empty it. */
static void switch_in_collapse(void *data, struct folio *folio, int none_or_zero,
			       int referenced, int status, unsigned int order)
{
	struct collapse *c = data;

	if (c->task == current)
		pte_ref_start_switch(c->ref);
}

/*
 * A collapse empties and deposits the table while its switch is pending, and a split
 * takes it back.  True if it was pending.
 */
static bool collapse_during_switch(struct table *t, u64 value)
{
	struct collapse c = { .task = current };
	struct kunit *test = t->test;
	struct ref_watch w = {};
	bool switching = false;
	struct table other;
	u64 got = 0;
	int i, ret;

	map_beside(t, &other);
	lock_table(&other);
	link_table(&other);
	c.ref = hold_table(&other);
	unlock_table(&other);
	KUNIT_EXPECT_EQ(test, watch_start(&w, other.ref), 0);
	/* There is a table, so this maps a small page. */
	touch(t, other.addr, value);
	pte_put(c.ref);
	to_percpu_mode(&other);

	ret = register_trace_mm_collapse_huge_page_isolate(switch_in_collapse, &c);
	KUNIT_EXPECT_EQ(test, ret, 0);
	/* Another user of a page can delay it, and memory may be fragmented. */
	for (i = 0; i < 100; i++) {
		ret = do_madvise(t->mm, other.addr, PMD_SIZE, MADV_COLLAPSE);
		switching = is_switching(&other);
		if (!ret)
			break;
		usleep_range(1000, 2000);
	}
	KUNIT_EXPECT_EQ(test, ret, 0);
	unregister_trace_mm_collapse_huge_page_isolate(switch_in_collapse, &c);
	tracepoint_synchronize_unregister();
	KUNIT_EXPECT_TRUE(test, pmd_trans_huge(pmdp_get_lockless(other.pmd)));
	KUNIT_EXPECT_EQ(test, other.ptdesc->pte_populated, 0);
	KUNIT_EXPECT_EQ(test, copy_from_user(&got, (void __user *)other.addr,
					     sizeof(got)), 0);
	KUNIT_EXPECT_EQ(test, got, value);

	rcu_barrier();
	KUNIT_EXPECT_TRUE(test, test_bit(PTE_REF_SWITCHED, &other.ref->state));
	KUNIT_EXPECT_EQ(test, atomic_long_read(&other.ref->data.count), 0);
	zap(t, other.addr + PAGE_SIZE, PAGE_SIZE);
	lock_table(&other);
	expect_count(&other, PTRS_PER_PTE - 1, 0);
	unlock_table(&other);
	KUNIT_EXPECT_EQ(test, watched(&w), 0);
	KUNIT_EXPECT_EQ(test, vm_munmap(other.addr, PMD_SIZE), 0);
	pte_ref_flush(t->mm);
	KUNIT_EXPECT_EQ(test, watched(&w), 1);
	watch_stop(&w);
	return switching;
}

static void collapsed_during_switch(struct kunit *test)
{
	int i;

	/* On a busy machine the grace period may be over. */
	for (i = 0; i < 50; i++)
		if (collapse_during_switch(test->priv, i + 1))
			break;
	KUNIT_EXPECT_LT(test, i, 50);
}
#endif

/* The end of the switch finds the table destroyed. */
static void destroyed_during_switch(struct kunit *test)
{
	struct table *t = test->priv;
	struct ref_watch w = {};
	struct pte_ref *ref;
	pgtable_t pgtable;
	int mode;

	for (mode = 0; mode < 4; mode++) {
		bool entries = mode & 1, held = mode & 2;
		bool pending;

		ref = make_table(t, &w, &pgtable, entries, held);
		KUNIT_EXPECT_EQ(test, pte_ref_to_percpu(ref, GFP_KERNEL), 0);
		/* Delays the grace period of the switch. */
		rcu_read_lock();
		pte_ref_start_switch(ref);
		pte_free(t->mm, pgtable);
		pending = READ_ONCE(ref->data.confirm_switch);
		rcu_read_unlock();
		KUNIT_EXPECT_TRUE(test, pending);

		pte_ref_flush(t->mm);
		KUNIT_EXPECT_EQ(test, watched(&w), !held);
		if (held) {
			pte_put(ref);
			pte_ref_flush(t->mm);
			KUNIT_EXPECT_EQ(test, watched(&w), 1);
		}
		watch_stop(&w);
	}
}

/* Percpu counters for a ref whose table is destroyed would hide the last put. */
static void percpu_after_death(struct kunit *test)
{
	struct table *t = test->priv;
	struct ref_watch w = {};
	struct pte_ref *ref;
	pgtable_t pgtable;

	ref = make_table(t, &w, &pgtable, false, true);
	pte_free(t->mm, pgtable);
	pte_ref_to_percpu(ref, GFP_KERNEL);
	pte_put(ref);
	pte_ref_flush(t->mm);
	KUNIT_EXPECT_EQ(test, watched(&w), 1);
	watch_stop(&w);
}

/*
 * The last entry was cleared in atomic mode, beside a holder whose put is to note
 * the table.  Percpu counters make that put blind.
 */
static void percpu_after_emptied(struct kunit *test)
{
	struct table *t = test->priv;
	struct pte_ref *ref;
	unsigned int i;

	lock_table(t);
	set_entry(t, PRESENT, 0);
	ref = hold_table(t);
	clear_entry(t, 0);
	KUNIT_EXPECT_FALSE(test, is_marked(t));
	for (i = 0; i < 10 * PTE_REF_PERCPU_MOVES; i++) {
		if (pte_ref_is_percpu(t->ref))
			break;
		WRITE_ONCE(t->ref->cpu, U16_MAX);
		pte_put(hold_table(t));
	}
	KUNIT_EXPECT_TRUE(test, pte_ref_is_percpu(t->ref));
	expect_noted(t);
	pte_put(ref);
	unlock_table(t);
	pte_ref_flush(t->mm);
	KUNIT_EXPECT_FALSE(test, is_linked(t));
}

/* Without memory for percpu counters all is as in atomic mode, to the end of the table. */
static void percpu_is_refused(struct kunit *test)
{
	struct table *t = test->priv;
	struct ref_watch w = {};
	struct pte_ref *ref;
	pgtable_t pgtable;
	unsigned int i;

	lock_table(t);
	set_entry(t, PRESENT, 0);
	/* As pte_ref_to_percpu() leaves it then. */
	set_bit(PTE_REF_PERCPU, &t->ref->state);
	for (i = 0; i < 3 * PTE_REF_PERCPU_MOVES; i++) {
		WRITE_ONCE(t->ref->cpu, U16_MAX);
		pte_put(hold_table(t));
	}
	KUNIT_EXPECT_FALSE(test, pte_ref_is_percpu(t->ref));
	KUNIT_EXPECT_FALSE(test, pte_ref_hides_zero(t->ref));
	expect_count(t, 1, 0);
	ref = hold_table(t);
	clear_entry(t, 0);
	KUNIT_EXPECT_FALSE(test, try_to_free(t));
	pte_put(ref);
	KUNIT_EXPECT_TRUE(test, try_to_free(t));
	unlock_table(t);
	pte_ref_flush(t->mm);
	KUNIT_EXPECT_EQ(test, watched(&t->watch), 1);

	ref = make_table(t, &w, &pgtable, true, true);
	set_bit(PTE_REF_PERCPU, &ref->state);
	pte_free(t->mm, pgtable);
	pte_ref_flush(t->mm);
	KUNIT_EXPECT_EQ(test, watched(&w), 0);
	pte_put(ref);
	pte_ref_flush(t->mm);
	KUNIT_EXPECT_EQ(test, watched(&w), 1);
	watch_stop(&w);
}

static void hides_zero_until_switched(struct kunit *test)
{
	struct table *t = test->priv;

	lock_table(t);
	set_entry(t, PRESENT, 0);
	KUNIT_EXPECT_FALSE(test, pte_ref_hides_zero(t->ref));
	to_percpu_mode(t);
	KUNIT_EXPECT_TRUE(test, pte_ref_hides_zero(t->ref));
	to_atomic_mode(t);
	KUNIT_EXPECT_FALSE(test, pte_ref_hides_zero(t->ref));
	clear_table(t);
	unlock_table(t);
}

static struct kunit_case pte_ref_percpu_cases[] = {
	KUNIT_CASE(percpu_when_holders_move),
	KUNIT_CASE(no_switch_back),
	KUNIT_CASE(switch_of_an_atomic_ref),
	KUNIT_CASE(percpu_mode_counts),
	KUNIT_CASE(percpu_table_is_freed),
	KUNIT_CASE(percpu_table_is_noted),
	KUNIT_CASE(percpu_while_emptied),
	KUNIT_CASE(emptied_during_switch),
	KUNIT_CASE(refilled_during_switch),
	KUNIT_CASE(moved_during_switch),
	KUNIT_CASE(zap_in_percpu_mode),
	KUNIT_CASE(zapped_in_percpu_mode),
	KUNIT_CASE(switch_under_load),
	KUNIT_CASE(dies_with_its_mm_in_percpu_mode),
	KUNIT_CASE(dies_with_its_mm_during_switch),
	KUNIT_CASE(unmapped_during_switch),
#ifdef COLLAPSES
	KUNIT_CASE(collapsed_during_switch),
#endif
	KUNIT_CASE(destroyed_during_switch),
	KUNIT_CASE(percpu_after_death),
	KUNIT_CASE(percpu_after_emptied),
	KUNIT_CASE(percpu_is_refused),
	KUNIT_CASE(hides_zero_until_switched),
	{}
};

static struct kunit_suite pte_ref_percpu_suite = {
	.name = "pte_ref_percpu",
	.init = pte_ref_test_init,
	.exit = pte_ref_test_exit,
	.test_cases = pte_ref_percpu_cases,
};

kunit_test_suite(pte_ref_percpu_suite);
