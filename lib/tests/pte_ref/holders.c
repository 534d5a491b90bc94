// SPDX-License-Identifier: GPL-2.0
/*
 * KUnit: holders of a PTE table keep it linked, make its ref, and may outlive
 * it.  A ref is freed exactly once.
 */
#include <linux/debugfs.h>
#include <linux/fs.h>
#include <linux/sched/mm.h>

#include "fixture.h"

/* Also where nothing is populated. */
static void holder_makes_the_ref(struct kunit *test)
{
	struct table *t = test->priv;
	struct table bare = *t;
	struct pte_ref *ref;
	unsigned int nr;

	for (nr = 0; nr <= 3; nr += 3) {
		bare.addr += PMD_SIZE;
		lock_table(t);
		link_bare_table(&bare);
		if (nr)
			set_entries(&bare, SWAP, 4, nr);
		KUNIT_EXPECT_PTR_EQ(test, bare.ref, &pte_ref_none);
		KUNIT_EXPECT_EQ(test, pte_ref_empty(bare.pmd), !nr);
		ref = hold_table(&bare);
		KUNIT_EXPECT_NOT_NULL(test, ref);
		KUNIT_EXPECT_PTR_NE(test, ref, &pte_ref_none);
		KUNIT_EXPECT_PTR_EQ(test, ref, bare.ptdesc->pte_ref);
		bare.ref = ref;
		expect_count(&bare, nr, 1);
		KUNIT_EXPECT_PTR_EQ(test, ref, hold_table(&bare));
		expect_count(&bare, nr, 2);
		clear_table(&bare);
		expect_count(&bare, 0, 2);
		KUNIT_EXPECT_TRUE(test, pte_ref_empty(bare.pmd));
		pte_put(ref);
		KUNIT_EXPECT_FALSE(test, try_to_free(&bare));
		KUNIT_EXPECT_FALSE(test, free_table(&bare));
		pte_put(ref);
		expect_count(&bare, 0, 0);
		KUNIT_EXPECT_TRUE(test, free_table(&bare));
		KUNIT_EXPECT_FALSE(test, pte_ref_empty(bare.pmd));
		unlock_table(t);
	}
}

/*
 * A fault that calls ->fault() and is not of user mode holds its table if
 * another task or the deferred work could free it.
 */
static void fault_holds_its_table(struct kunit *test)
{
	struct table *t = test->priv;
	struct vm_fault vmf = { .vma = t->vma, .address = t->addr + PMD_SIZE };
	struct table bare;

	link_beside(t, &bare);
	vmf.pmd = bare.pmd;

	/* The deferred work could, if a table is noted. */
	vmf_pte_tryget(&vmf);
	KUNIT_EXPECT_NULL(test, vmf.pte_ref);
	pte_ref_note(t->mm, bare.addr);
	vmf_pte_tryget(&vmf);
	KUNIT_EXPECT_NOT_NULL(test, vmf.pte_ref);
	KUNIT_EXPECT_FALSE(test, free_table(&bare));
	vmf_pte_put(&vmf);
	KUNIT_EXPECT_NULL(test, vmf.pte_ref);
	KUNIT_EXPECT_TRUE(test, free_table(&bare));
	mmget(t->mm);
	vmf_pte_tryget(&vmf);
	KUNIT_EXPECT_NULL(test, vmf.pte_ref);

	link_bare_table(&bare);
	vmf.flags = FAULT_FLAG_USER;
	vmf_pte_tryget(&vmf);
	KUNIT_EXPECT_NULL(test, vmf.pte_ref);
	vmf.flags = 0;

	/* It is emptied before the fault locks it. */
	set_entry(&bare, SWAP, 3);
	vmf_pte_tryget(&vmf);
	KUNIT_EXPECT_NOT_NULL(test, vmf.pte_ref);
	clear_entry(&bare, 3);
	KUNIT_EXPECT_FALSE(test, free_table(&bare));

	/* Not one reference more each time that ->fault() is called. */
	vmf_pte_tryget(&vmf);
	vmf_pte_tryget(&vmf);
	mmput(t->mm);
	KUNIT_EXPECT_NOT_NULL(test, vmf.pte_ref);
	KUNIT_EXPECT_FALSE(test, free_table(&bare));
	vmf_pte_put(&vmf);
	KUNIT_EXPECT_TRUE(test, free_table(&bare));
	unlock_table(t);
}

/* And the table that it links itself. */
static void fault_holds_what_it_links(struct kunit *test)
{
	struct table *t = test->priv;
	struct vm_fault vmf = { .vma = t->vma, .address = t->addr + PMD_SIZE };
	struct table bare;

	vmf.prealloc_pte = pte_alloc_one(t->mm);
	KUNIT_ASSERT_NOT_NULL(test, vmf.prealloc_pte);
	link_beside(t, &bare);
	vmf.pmd = bare.pmd;
	KUNIT_EXPECT_TRUE(test, free_table(&bare));

	mmget(t->mm);
	vmf_pte_install(&vmf);
	mmput(t->mm);
	KUNIT_EXPECT_NULL(test, vmf.prealloc_pte);
	KUNIT_EXPECT_NOT_NULL(test, vmf.pte_ref);
	KUNIT_EXPECT_FALSE(test, free_table(&bare));
	vmf_pte_put(&vmf);
	KUNIT_EXPECT_TRUE(test, free_table(&bare));
	unlock_table(t);
}

/* The count is not zero, because of entries or of another holder. */
static void tryget_above_zero(struct kunit *test)
{
	struct table *t = test->priv;
	struct pte_ref *ref;

	lock_table(t);
	set_entry(t, MARKER_GUARD, 9);
	ref = hold_table(t);
	KUNIT_EXPECT_PTR_EQ(test, ref, t->ref);
	expect_count(t, 1, 1);
	clear_entry(t, 9);
	expect_count(t, 0, 1);
	KUNIT_EXPECT_PTR_EQ(test, hold_table(t), ref);
	expect_count(t, 0, 2);
	pte_put(ref);
	expect_count(t, 0, 1);
	pte_put(ref);
	expect_count(t, 0, 0);
	pte_put(NULL);
	expect_count(t, 0, 0);
	unlock_table(t);
}

/* Zero is raised under the PMD lock, and the table stays linked. */
static void tryget_at_zero(struct kunit *test)
{
	struct table *t = test->priv;
	struct pte_ref *ref;

	lock_table(t);
	expect_count(t, 0, 0);
	ref = hold_table(t);
	KUNIT_EXPECT_PTR_EQ(test, ref, t->ref);
	expect_count(t, 0, 1);
	KUNIT_EXPECT_FALSE(test, try_to_free(t));
	KUNIT_EXPECT_FALSE(test, free_table(t));
	KUNIT_EXPECT_TRUE(test, is_linked(t));
	unlock_table(t);
	pte_ref_note(t->mm, t->addr);
	pte_ref_flush(t->mm);
	lock_table(t);
	KUNIT_EXPECT_TRUE(test, is_linked(t));

	set_entry(t, PRESENT, 3);
	KUNIT_EXPECT_PTR_EQ(test, hold_table(t), ref);
	expect_count(t, 1, 2);
	clear_entry(t, 3);
	pte_put(ref);
	expect_count(t, 0, 1);
	pte_put(ref);
	expect_count(t, 0, 0);
	expect_noted(t);

	KUNIT_EXPECT_TRUE(test, free_table(t));
	/* Without a table there is nothing to hold. */
	KUNIT_EXPECT_NULL(test, hold_table(t));
	unlock_table(t);
}

/* A table that is allocated with a holder stays until the put. */
static void alloc_get(struct kunit *test)
{
	struct table *t = test->priv;
	struct pte_ref *ref, *again;
	unsigned long bytes;

	lock_table(t);
	bytes = mm_pgtables_bytes(t->mm);
	KUNIT_EXPECT_TRUE(test, free_table(t));
	KUNIT_EXPECT_EQ(test, pte_alloc_get(t->mm, t->pmd, t->addr, &ref), 0);
	KUNIT_EXPECT_EQ(test, mm_pgtables_bytes(t->mm), bytes);
	KUNIT_EXPECT_NOT_NULL(test, ref);
	KUNIT_EXPECT_PTR_EQ(test, page_ptdesc(pmd_pgtable(*t->pmd))->pte_ref,
			    ref);
	KUNIT_EXPECT_FALSE(test, free_table(t));
	/* One that is there is held, not made again. */
	KUNIT_EXPECT_EQ(test, pte_alloc_get(t->mm, t->pmd, t->addr, &again), 0);
	KUNIT_EXPECT_PTR_EQ(test, again, ref);
	pte_put(ref);
	KUNIT_EXPECT_FALSE(test, free_table(t));
	pte_put(again);
	KUNIT_EXPECT_TRUE(test, free_table(t));
	unlock_table(t);
}

/* At whatever moment a table is freed, the caller gets a locked one. */
static void alloc_map_lock(struct kunit *test)
{
#ifdef CONFIG_FAIL_PTE_TABLE
	struct table *t = test->priv;
	unsigned int nth, left;
	spinlock_t *ptl = NULL;
	pte_t *ptep;

	lock_table(t);
	for (nth = 1; nth < 20; nth++) {
		if (!pmd_none(*t->pmd))
			free_table(t);
		current->fail_nth = nth;
		ptep = pte_alloc_map_lock(t->mm, t->pmd, t->addr, &ptl);
		left = current->fail_nth;
		current->fail_nth = 0;
		KUNIT_EXPECT_NOT_NULL(test, ptep);
		if (ptep) {
			KUNIT_EXPECT_TRUE(test, pmd_present(*t->pmd));
			pte_unmap_unlock(ptep, ptl);
		}
		if (left)
			break;
	}
	/* After the allocation and before the lock. */
	KUNIT_EXPECT_GT(test, nth, 2);
	KUNIT_EXPECT_LT(test, nth, 20);
	unlock_table(t);
#else
	kunit_skip(test, "needs FAIL_PTE_TABLE");
#endif
}

/* A zap that looks at the table itself does not have it noted. */
static void reference_of_a_zap(struct kunit *test)
{
	struct table *t = test->priv;
	struct pte_ref *ref;

	lock_table(t);
	set_entries(t, SWAP, 9, 2);
	zap_entry(t, 9);
	expect_count(t, 1, 0);
	KUNIT_EXPECT_FALSE(test, is_marked(t));
	zap_entry(t, 10);
	expect_count(t, 0, 0);
	KUNIT_EXPECT_FALSE(test, is_marked(t));
	/* It was empty before. */
	zap_entry(t, 10);
	expect_count(t, 0, 0);
	KUNIT_EXPECT_FALSE(test, is_marked(t));

	/* Beside a holder, whose put notes it. */
	set_entry(t, SWAP, 9);
	ref = hold_table(t);
	zap_entry(t, 9);
	expect_count(t, 0, 1);
	KUNIT_EXPECT_FALSE(test, is_marked(t));
	pte_put(ref);
	expect_noted(t);
	unlock_table(t);
	pte_ref_flush(t->mm);
	KUNIT_EXPECT_FALSE(test, is_linked(t));
}

static void holders_are_counted(struct kunit *test)
{
	struct table *t = test->priv;
	unsigned long flags;
	spinlock_t *ptl = NULL;
	pte_t *ptep;
	int i;

	lock_table(t);
	set_entries(t, PRESENT, 0, 3);
	for (i = 1; i <= 100; i++) {
		KUNIT_EXPECT_PTR_EQ(test, hold_table(t), t->ref);
		expect_count(t, 3, i);
	}
	/* pte_put() may be called under the PTL and with interrupts off. */
	ptep = pte_offset_map_lock(t->mm, t->pmd, t->addr, &ptl);
	if (ptep) {
		local_irq_save(flags);
		for (i = 0; i < 50; i++)
			pte_put(t->ref);
		local_irq_restore(flags);
		for (; i < 100; i++)
			pte_put(t->ref);
		pte_unmap_unlock(ptep, ptl);
	}
	expect_count(t, 3, 0);
	clear_table(t);
	unlock_table(t);
}

/*
 * Holders that keep their reference over munmap(), as a fault may that drops
 * mmap_lock.
 */
static void holder_outlives_table(struct kunit *test)
{
	struct table *t = test->priv;
	int mode;

	for (mode = 0; mode < 4; mode++) {
		bool percpu = mode & 1, late = mode & 2;
		struct pte_ref *ref[2];
		struct ref_watch w = {};
		struct table other;

		map_beside(t, &other);
		touch(&other, other.addr, 1);
		lock_table(&other);
		link_table(&other);
		KUNIT_EXPECT_EQ(test, watch_start(&w, other.ref), 0);
		ref[0] = hold_table(&other);
		if (percpu)
			to_percpu_mode(&other);
		ref[1] = hold_table(&other);
		unlock_table(&other);
		KUNIT_EXPECT_PTR_EQ(test, ref[0], other.ref);
		KUNIT_EXPECT_PTR_EQ(test, ref[1], other.ref);

		KUNIT_EXPECT_EQ(test, vm_munmap(other.addr, PMD_SIZE), 0);
		/* At once, or long after. */
		if (late)
			pte_ref_flush(t->mm);
		pte_put(ref[0]);
		pte_ref_flush(t->mm);
		KUNIT_EXPECT_EQ(test, watched(&w), 0);
		KUNIT_EXPECT_TRUE(test, test_bit(PTE_REF_DEAD, &ref[1]->state));
		KUNIT_EXPECT_FALSE(test, pte_ref_is_percpu(ref[1]));
		KUNIT_EXPECT_EQ(test, atomic_long_read(&ref[1]->data.count), 1);

		pte_put(ref[1]);
		pte_ref_flush(t->mm);
		KUNIT_EXPECT_EQ(test, watched(&w), 1);
		watch_stop(&w);
	}
}

/* Tables are destroyed with entries in them, as in exit. */
static void destroyed_with_entries(struct kunit *test)
{
	struct table *t = test->priv;
	struct ref_watch w = {};
	struct pte_ref *ref;
	pgtable_t pgtable;
	int mode;

	for (mode = 0; mode < 8; mode++) {
		bool entries = mode & 1, percpu = mode & 2, held = mode & 4;

		ref = make_table(t, &w, &pgtable, entries, held);
		KUNIT_EXPECT_EQ(test, pte_ref_read(page_ptdesc(pgtable)),
				(int)entries + held);
		if (percpu)
			KUNIT_EXPECT_EQ(test, pte_ref_to_percpu(ref, GFP_KERNEL), 0);
		pte_free(t->mm, pgtable);
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

#if defined(CONFIG_FAILSLAB) && defined(CONFIG_FAULT_INJECTION_DEBUG_FS)

/* What an attribute of failslab stands for. */
static void *failslab_attr(struct kunit *test, const char *name)
{
	struct dentry *dir, *file;
	void *attr = NULL;

	dir = debugfs_lookup("failslab", NULL);
	KUNIT_ASSERT_NOT_NULL(test, dir);
	file = debugfs_lookup(name, dir);
	if (file)
		attr = d_inode(file)->i_private;
	dput(file);
	dput(dir);
	KUNIT_ASSERT_NOT_NULL_MSG(test, attr, "%s", name);
	return attr;
}

/*
 * Without memory for its ref a table is not held.  To clear its last entry, and
 * to zap it, needs none.
 */
static void allocation_failure(struct kunit *test)
{
	bool *ignore = failslab_attr(test, "ignore-gfp-wait");
	unsigned long *verbose = failslab_attr(test, "verbose");
	atomic_t *times = failslab_attr(test, "times");
	bool old_ignore = *ignore;
	unsigned long old_verbose = *verbose;
	int old_times = atomic_read(times);
	struct table *t = test->priv;
	enum { HOLD, LAST, ZAP, NR } what;
	unsigned int nth, left, failed[NR] = {};
	struct table bare = *t;
	struct pte_ref *ref;

	bare.addr += PMD_SIZE;
	lock_table(t);
	for (what = 0; what < NR; what++) {
		/* Fail what can fail first, second, until nothing fails. */
		for (nth = 1; nth < 20; nth++) {
			link_bare_table(&bare);
			set_entry(&bare, SWAP, 0);
			take_marks(&bare);
			ref = NULL;
			*verbose = 0;
			*ignore = false;
			atomic_set(times, 1);
			current->fail_nth = nth;
			if (what == HOLD)
				ref = hold_table(&bare);
			else if (what == LAST)
				clear_entry(&bare, 0);
			else
				zap_entry(&bare, 0);
			left = current->fail_nth;
			current->fail_nth = 0;
			*ignore = old_ignore;
			*verbose = old_verbose;
			/* Of failslab, which has failed nothing then. */
			if (what != HOLD)
				KUNIT_EXPECT_EQ(test, atomic_read(times), 1);
			atomic_set(times, old_times);

			KUNIT_EXPECT_TRUE(test, is_linked(&bare));
			bare.ref = bare.ptdesc->pte_ref;
			if (!ref)
				KUNIT_EXPECT_PTR_EQ(test, bare.ref, &pte_ref_none);
			if (what == HOLD && !ref)
				failed[what]++;
			if (what == LAST)
				expect_noted(&bare);
			pte_put(ref);
			clear_table(&bare);
			KUNIT_EXPECT_TRUE(test, try_to_free(&bare));
			if (left)
				break;
		}
		KUNIT_EXPECT_LT(test, nth, 20);
		KUNIT_EXPECT_EQ(test, failed[what], what == HOLD);
	}
	unlock_table(t);
}

/* A table that is to leave a bit for a small page stays noted until there is memory for it. */
static void notes_are_refused(struct kunit *test)
{
	unsigned long *verbose = failslab_attr(test, "verbose");
	atomic_t *times = failslab_attr(test, "times");
	unsigned long old_verbose = *verbose;
	int old_times = atomic_read(times);
	struct table *t = test->priv;
	unsigned int nr, left;

	lock_table(t);
	take_marks(t);
	*verbose = 0;
	current->fail_nth = 1;
	nr = pte_ref_free_range(t->mm, NULL, t->pmd, t->addr,
				t->addr + PMD_SIZE, true);
	left = current->fail_nth;
	current->fail_nth = 0;
	*verbose = old_verbose;
	atomic_set(times, old_times);
	KUNIT_EXPECT_EQ(test, left, 0);
	KUNIT_EXPECT_EQ(test, nr, 0);
	KUNIT_EXPECT_TRUE(test, is_linked(t));
	expect_noted(t);
	unlock_table(t);

	pte_ref_flush(t->mm);
	KUNIT_EXPECT_FALSE(test, is_linked(t));
	KUNIT_EXPECT_EQ(test, watched(&t->watch), 1);
}

#else

static void allocation_failure(struct kunit *test)
{
	kunit_skip(test, "needs FAILSLAB and FAULT_INJECTION_DEBUG_FS");
}

static void notes_are_refused(struct kunit *test)
{
	allocation_failure(test);
}

#endif

/* Wherever a table was moved, its ref has its address when that is asked for. */
static void ref_knows_its_address(struct kunit *test)
{
	struct table *t = test->priv;

	lock_table(t);
	WRITE_ONCE(t->ref->addr, 0);
	set_entry(t, SWAP, 3);
	KUNIT_EXPECT_EQ(test, t->ref->addr, t->addr);
	WRITE_ONCE(t->ref->addr, 0);
	clear_entry(t, 3);
	KUNIT_EXPECT_EQ(test, t->ref->addr, t->addr);
	/* The count is zero, which takes the PMD lock. */
	WRITE_ONCE(t->ref->addr, 0);
	pte_put(hold_table(t));
	KUNIT_EXPECT_EQ(test, t->ref->addr, t->addr);
	unlock_table(t);
}

/* Another caller has made it while we waited for the lock of the table. */
static void ref_is_made_once(struct kunit *test)
{
	struct table *t = test->priv;
	struct pte_ref *ref = t->ref;

	lock_table(t);
	link_table(t);
	KUNIT_EXPECT_PTR_EQ(test, t->ref, ref);
	KUNIT_EXPECT_PTR_EQ(test, t->ptdesc->pte_ref, ref);
	t->ref = ref;
	unlock_table(t);
}

/* Another put of a dead table may be at work still, and have seen zero too. */
static void ref_outlives_its_readers(struct kunit *test)
{
	struct table *t = test->priv;
	struct ref_watch w = {};
	struct pte_ref *ref;
	pgtable_t pgtable;
	int freed;

	ref = make_table(t, &w, &pgtable, false, true);
	pte_free(t->mm, pgtable);
	rcu_read_lock();
	pte_put(ref);
	pte_ref_release(&ref->ref);
	freed = watched(&w);
	rcu_read_unlock();
	KUNIT_EXPECT_EQ(test, freed, 0);
	pte_ref_flush(t->mm);
	KUNIT_EXPECT_EQ(test, watched(&w), 1);
	watch_stop(&w);
}

/* Another fault has linked a table: that one is held, once. */
static void fault_links_no_second_table(struct kunit *test)
{
	struct table *t = test->priv;
	struct vm_fault vmf = { .vma = t->vma, .address = t->addr + PMD_SIZE };
	unsigned long bytes;
	struct table bare;
	pgtable_t pgtable;

	pgtable = pte_alloc_one(t->mm);
	KUNIT_ASSERT_NOT_NULL(test, pgtable);
	link_beside(t, &bare);
	vmf.pmd = bare.pmd;
	vmf.prealloc_pte = pgtable;
	bytes = mm_pgtables_bytes(t->mm);

	mmget(t->mm);
	vmf_pte_install(&vmf);
	vmf_pte_install(&vmf);
	mmput(t->mm);
	KUNIT_EXPECT_PTR_EQ(test, vmf.prealloc_pte, pgtable);
	KUNIT_EXPECT_TRUE(test, is_linked(&bare));
	KUNIT_EXPECT_EQ(test, mm_pgtables_bytes(t->mm), bytes);
	KUNIT_EXPECT_NOT_NULL(test, vmf.pte_ref);
	KUNIT_EXPECT_FALSE(test, free_table(&bare));
	vmf_pte_put(&vmf);
	KUNIT_EXPECT_TRUE(test, free_table(&bare));
	unlock_table(t);
	if (vmf.prealloc_pte)
		pte_free(t->mm, vmf.prealloc_pte);
}

static struct kunit_case pte_ref_holders_cases[] = {
	KUNIT_CASE(holder_makes_the_ref),
	KUNIT_CASE(tryget_above_zero),
	KUNIT_CASE(tryget_at_zero),
	KUNIT_CASE(holders_are_counted),
	KUNIT_CASE(alloc_get),
	KUNIT_CASE(alloc_map_lock),
	KUNIT_CASE(fault_holds_its_table),
	KUNIT_CASE(fault_holds_what_it_links),
	KUNIT_CASE(reference_of_a_zap),
	KUNIT_CASE(holder_outlives_table),
	KUNIT_CASE(destroyed_with_entries),
	KUNIT_CASE(allocation_failure),
	KUNIT_CASE(notes_are_refused),
	KUNIT_CASE(ref_knows_its_address),
	KUNIT_CASE(ref_is_made_once),
	KUNIT_CASE(ref_outlives_its_readers),
	KUNIT_CASE(fault_links_no_second_table),
	{}
};

static struct kunit_suite pte_ref_holders_suite = {
	.name = "pte_ref_holders",
	.init = pte_ref_test_init,
	.exit = pte_ref_test_exit,
	.test_cases = pte_ref_holders_cases,
};

kunit_test_suite(pte_ref_holders_suite);
