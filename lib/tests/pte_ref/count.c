// SPDX-License-Identifier: GPL-2.0
/*
 * KUnit: the count of a PTE table is exact, by whatever primitive entries are
 * written, one at a time or in batches, and whatever they are made of.
 */
#include <linux/completion.h>
#include <linux/cpumask.h>
#include <linux/delay.h>
#include <linux/kthread.h>

#include "fixture.h"

static void new_table(struct kunit *test)
{
	struct table *t = test->priv;

	lock_table(t);
	expect_count(t, 0, 0);
	KUNIT_EXPECT_FALSE(test, pte_ref_is_percpu(t->ref));
	KUNIT_EXPECT_EQ(test, t->ref->state, 0);
	KUNIT_EXPECT_PTR_EQ(test, t->ref->mm, t->mm);
	unlock_table(t);
	/* Nothing has happened that would note it. */
	pte_ref_flush(t->mm);
	KUNIT_EXPECT_TRUE(test, is_linked(t));
}

/* A table has no ref before its first holder, and is counted all the same. */
static void bare_table(struct kunit *test)
{
	struct table *t = test->priv;
	unsigned long freed = vm_event(PTE_REF_FREE);
	struct table bare = *t;

	bare.addr += PMD_SIZE;
	touch(t, bare.addr, 1);
	touch(t, bare.addr + 7 * PAGE_SIZE, 1);
	lock_table(t);
	link_bare_table(&bare);
	KUNIT_EXPECT_PTR_EQ(test, bare.ref, &pte_ref_none);
	KUNIT_EXPECT_EQ(test, bare.ptdesc->pte_populated, 2);
	KUNIT_EXPECT_EQ(test, pte_ref_read(bare.ptdesc), 2);
	KUNIT_EXPECT_FALSE(test, try_to_free(&bare));
	KUNIT_EXPECT_FALSE(test, free_table(&bare));
	pte_ref_moved(t->mm, bare.pmd, bare.addr, 1);
	unlock_table(t);

	/* A zap of a part, after which it is not empty, needs none either. */
	zap(t, bare.addr, PAGE_SIZE);
	KUNIT_EXPECT_EQ(test, bare.ptdesc->pte_populated, 1);
	KUNIT_EXPECT_PTR_EQ(test, bare.ptdesc->pte_ref, &pte_ref_none);
	/* Nor does a zap of all of it, which frees it at once. */
	zap(t, bare.addr, PMD_SIZE);
	KUNIT_EXPECT_FALSE(test, is_linked(&bare));
	KUNIT_EXPECT_EQ(test, vm_event(PTE_REF_FREE), freed + 1);

	/* Empty from the beginning. */
	lock_table(t);
	link_bare_table(&bare);
	KUNIT_EXPECT_EQ(test, pte_ref_read(bare.ptdesc), 0);
	KUNIT_EXPECT_TRUE(test, free_table(&bare));
	unlock_table(t);
}

static void other_tables_have_no_ref(struct kunit *test)
{
	struct table *t = test->priv;
	unsigned long slot = virt_to_ptdesc(t->pmd)->pte_notes;
	struct page *pgd = virt_to_page(t->mm->pgd);
	pte_t *ptep;

	KUNIT_EXPECT_TRUE(test, !slot || slot & PTE_NOTES_TAG);
	/* If it is neither one of several in a page nor the PMD table itself. */
	if (!folio_test_slab(page_folio(pgd)) && pgd != virt_to_page(t->pmd))
		KUNIT_EXPECT_NULL(test, page_ptdesc(pgd)->pte_ref);

	ptep = pte_alloc_one_kernel(&init_mm);
	KUNIT_ASSERT_NOT_NULL(test, ptep);
	KUNIT_EXPECT_NULL(test, page_ptdesc(virt_to_page(ptep))->pte_ref);
	set_pte_at(&init_mm, PAGE_OFFSET, ptep, make_entry(t, SWAP, 0));
	pte_clear(&init_mm, PAGE_OFFSET, ptep);
	pte_free_kernel(&init_mm, ptep);
}

struct named_kind {
	enum entry_kind	kind;
	const char	*name;
};

static const struct named_kind kinds[] = {
	{ PRESENT, "present" },
	{ PROTNONE, "protnone" },
	{ SWAP, "swap" },
	{ MARKER_UFFD_WP, "marker uffd-wp" },
	{ MARKER_POISON, "marker poison" },
	{ MARKER_GUARD, "marker guard" },
#ifdef CONFIG_MIGRATION
	{ MIGRATION_READ, "migration read" },
	{ MIGRATION_WRITE, "migration write" },
#endif
};

/* What an entry can be made of, and by what it can be cleared. */
static void kinds_of_entries(struct kunit *test)
{
	enum entry_kind kind = ((const struct named_kind *)test->param_value)->kind;
	struct table *t = test->priv;
	unsigned int last = PTRS_PER_PTE - 1;
	enum entry_op op;
	int i;

	lock_table(t);
	set_entry(t, kind, 0);
	expect_count(t, 1, 0);
	set_entry(t, kind, last);
	expect_count(t, 2, 0);

	/* Written again, and replaced by each other kind. */
	for (i = 0; i < ARRAY_SIZE(kinds); i++) {
		set_entry(t, kinds[i].kind, 0);
		expect_count(t, 2, 0);
		set_entry(t, kind, 0);
		expect_count(t, 2, 0);
	}

	for (op = OP_PTE_CLEAR; op < OP_MODIFY_PROT; op++) {
		if (kind_is_present(kind) ?
		    op == OP_PTE_CLEAR || op == OP_CLEAR_NONPRESENT :
		    op >= OP_CLEAR)
			continue;
		/* Nothing reads the count then, so it may be left out. */
		if ((op == OP_CLEAR_FULL || op == OP_GET_AND_CLEAR_BATCH_FULL) &&
		    !IS_ENABLED(CONFIG_DEBUG_FREE_USER_PTE))
			continue;
		set_entry(t, kind, 7);
		expect_count(t, 3, 0);
		do_op(t, op, 7, 1);
		expect_count(t, 2, 0);
		/* Again: there is nothing to clear. */
		if (op <= OP_CLEAR_NONPRESENT)
			do_op(t, op, 7, 1);
		expect_count(t, 2, 0);
	}

	clear_entry(t, 0);
	expect_count(t, 1, 0);
	clear_entry(t, last);
	expect_count(t, 0, 0);
	unlock_table(t);
}

static void kind_to_desc(const struct named_kind *kind, char *desc)
{
	strscpy(desc, kind->name, KUNIT_PARAM_DESC_SIZE);
}

KUNIT_ARRAY_PARAM(kinds, kinds, kind_to_desc);

/* set_pte_at() can write nothing, and bits that do not make an entry. */
static void entries_that_are_none(struct kunit *test)
{
	struct table *t = test->priv;
	pte_t bits = pte_mkyoung(__pte(0));
	spinlock_t *ptl = NULL;
	pte_t *ptep;

	lock_table(t);
	set_entry(t, NONE, 3);
	expect_count(t, 0, 0);
	clear_entry(t, 3);
	expect_count(t, 0, 0);

	set_entry(t, SWAP, 4);
	set_entry(t, SWAP, 3);
	set_entry(t, NONE, 3);
	expect_count(t, 1, 0);
	set_entries(t, SWAP, 16, 8);
	set_entries(t, NONE, 20, 1);
	expect_count(t, 8, 0);

	ptep = pte_offset_map_lock(t->mm, t->pmd, entry_addr(t, 5), &ptl);
	if (ptep) {
		set_pte_at(t->mm, entry_addr(t, 5), ptep, bits);
		pte_unmap_unlock(ptep, ptl);
		expect_count(t, 8 + !pte_none(bits), 0);
	}
	clear_table(t);
	expect_count(t, 0, 0);
	unlock_table(t);
}

/*
 * As a fault does, which counts first, or as fault-around, which counts what it
 * did.
 */
static void fill(struct table *t, unsigned int i, unsigned int nr, bool first)
{
	unsigned long addr = entry_addr(t, i);
	spinlock_t *ptl = NULL;
	pte_t *ptep;

	ptep = pte_offset_map_lock(t->mm, t->pmd, addr, &ptl);
	if (!ptep) {
		KUNIT_FAIL(t->test, "the table is gone");
		return;
	}
	if (first)
		track_ptes(t->mm, addr, ptep, nr);
	if (nr)
		set_ptes_untracked(t->mm, addr, ptep, make_entry(t, SWAP, i), nr);
	if (!first)
		track_new_ptes(t->mm, addr, ptep, nr);
	pte_unmap_unlock(ptep, ptl);
}

static void batch_over_none(struct kunit *test)
{
	struct table *t = test->priv;

	lock_table(t);
	set_entries(t, PRESENT, 0, 16);
	expect_count(t, 16, 0);
	set_entries(t, PRESENT, PTRS_PER_PTE - 5, 5);
	expect_count(t, 21, 0);
	clear_table(t);
	expect_count(t, 0, 0);

	/* The whole table. */
	set_entries(t, PRESENT, 0, PTRS_PER_PTE);
	expect_count(t, PTRS_PER_PTE, 0);
	do_op(t, OP_CLEAR, 0, PTRS_PER_PTE);
	expect_count(t, 0, 0);
	unlock_table(t);
}

/* As swap-in of a large folio does: over entries that are not present. */
static void batch_over_populated(struct kunit *test)
{
	struct table *t = test->priv;

	lock_table(t);
	set_entry(t, SWAP, 33);
	set_entry(t, MARKER_GUARD, 35);
	set_entry(t, MARKER_UFFD_WP, 47);
	set_entry(t, SWAP, 48);
	expect_count(t, 4, 0);
	set_entries(t, PRESENT, 32, 16);
	expect_count(t, 17, 0);
	do_op(t, OP_CLEAR, 32, 16);
	expect_count(t, 1, 0);

	/* Over entries only. */
	set_entries(t, SWAP, 32, 16);
	expect_count(t, 17, 0);
	set_entries(t, PRESENT, 32, 16);
	expect_count(t, 17, 0);
	do_op(t, OP_CLEAR, 32, 16);
	clear_entry(t, 48);
	expect_count(t, 0, 0);
	unlock_table(t);
}

/*
 * An architecture may join neighbours that map one folio (contiguous entries of
 * arm64), and take them apart to change one of them.  To count, none of them
 * ever went.
 */
static void neighbours_of_a_folio(struct kunit *test)
{
	static const enum entry_op one[] = {
		OP_MODIFY_PROT, OP_WRPROTECT, OP_MKOLD, OP_CLEAR_YOUNG_DIRTY,
		OP_CLEAR_FLUSH_SET,
	};
	struct table *t = test->priv;
	unsigned int nr = NR_PAGES / 2, i;

	lock_table(t);
	/* Joined when the last one of a block is set. */
	for (i = 0; i < nr; i++) {
		set_entry(t, PRESENT, i);
		expect_count(t, i + 1, 0);
	}
	for (i = 0; i < ARRAY_SIZE(one); i++) {
		do_op(t, one[i], 3, 1);
		expect_count(t, nr, 0);
		/* As they were, and joined again. */
		do_op(t, OP_CLEAR, 0, nr);
		expect_count(t, 0, 0);
		set_entries(t, PRESENT, 0, nr);
		expect_count(t, nr, 0);
	}
	/* Replaced, taken away and put back, in the middle of a block. */
	set_entry(t, MARKER_GUARD, nr / 2 + 5);
	expect_count(t, nr, 0);
	set_entry(t, PRESENT, nr / 2 + 5);
	expect_count(t, nr, 0);
	clear_entry(t, nr / 2 + 5);
	expect_count(t, nr - 1, 0);
	set_entry(t, PRESENT, nr / 2 + 5);
	expect_count(t, nr, 0);
	/* From the middle of one block to the middle of another one. */
	do_op(t, OP_WRPROTECT, 5, nr - 10);
	expect_count(t, nr, 0);
	do_op(t, OP_GET_AND_CLEAR_BATCH, 5, nr - 10);
	expect_count(t, 10, 0);
	do_op(t, OP_CLEAR, 0, 5);
	do_op(t, OP_CLEAR, nr - 5, 5);
	expect_count(t, 0, 0);
	unlock_table(t);
}

static void batch_counted_by_the_caller(struct kunit *test)
{
	struct table *t = test->priv;

	lock_table(t);
	/* Nothing was filled: no reason to note the table. */
	fill(t, 0, 0, false);
	expect_count(t, 0, 0);
	KUNIT_EXPECT_FALSE(test, is_marked(t));

	fill(t, 0, 3, false);
	expect_count(t, 3, 0);
	fill(t, 3, 4, false);
	expect_count(t, 7, 0);
	fill(t, 7, 1, true);
	expect_count(t, 8, 0);
	fill(t, 8, 4, true);
	expect_count(t, 12, 0);
	/* A single entry may be a marker, which was counted. */
	set_entry(t, MARKER_UFFD_WP, 20);
	expect_count(t, 13, 0);
	fill(t, 20, 1, true);
	expect_count(t, 13, 0);
	clear_table(t);
	expect_count(t, 0, 0);
	fill(t, 0, 2, true);
	expect_count(t, 2, 0);
	clear_table(t);
	expect_count(t, 0, 0);
	unlock_table(t);
}

static void batch_clear(struct kunit *test)
{
	static const enum entry_op present[] = {
		OP_PTEP_CLEAR, OP_GET_AND_CLEAR, OP_CLEAR, OP_GET_AND_CLEAR_BATCH,
		OP_CLEAR_FULL, OP_GET_AND_CLEAR_BATCH_FULL,
	};
	static const enum entry_op other[] = {
		OP_PTE_CLEAR, OP_CLEAR_NONPRESENT,
	};
	struct table *t = test->priv;
	int k;

	lock_table(t);
	set_entry(t, MARKER_GUARD, 0);
	for (k = 0; k < ARRAY_SIZE(present); k++) {
		if (present[k] == OP_CLEAR_FULL &&
		    !IS_ENABLED(CONFIG_DEBUG_FREE_USER_PTE))
			break;
		set_entries(t, PRESENT, 64, 64);
		expect_count(t, 65, 0);
		do_op(t, present[k], 70, 10);
		expect_count(t, 55, 0);
		do_op(t, present[k], 64, 6);
		do_op(t, present[k], 80, 48);
		expect_count(t, 1, 0);
	}
	for (k = 0; k < ARRAY_SIZE(other); k++) {
		/* Some are none: nothing is counted twice. */
		set_entries(t, SWAP, 64, 30);
		set_entry(t, MARKER_POISON, 100);
		expect_count(t, 32, 0);
		do_op(t, other[k], 60, 20);
		expect_count(t, 16, 0);
		do_op(t, other[k], 60, 20);
		expect_count(t, 16, 0);
		do_op(t, other[k], 80, 40);
		expect_count(t, 1, 0);
	}
	clear_entry(t, 0);
	expect_count(t, 0, 0);
	unlock_table(t);
}

static void transitions_keep_the_count(struct kunit *test)
{
	struct table *t = test->priv;
	unsigned int nr;
	enum entry_op op;

	lock_table(t);
	for (nr = 1; nr <= 32; nr *= 32) {
		for (op = OP_MODIFY_PROT; op < NR_OPS; op++) {
			set_entries(t, PRESENT, 8, nr);
			do_op(t, op, 8, nr);
			expect_count(t, nr, 0);
			do_op(t, OP_CLEAR, 8, nr);
			expect_count(t, 0, 0);
		}
	}
	unlock_table(t);
}

/* Clears the only entry and sets another one, slowly. */
struct passing {
	struct table		*t;
	bool			at_zero;
	struct completion	done;
};

static int pass_zero_fn(void *arg)
{
	struct passing *p = arg;
	struct table *t = p->t;
	spinlock_t *ptl = NULL;
	pte_t *ptep;

	ptep = pte_offset_map_lock(t->mm, t->pmd, t->addr, &ptl);
	if (ptep) {
		ptep_clear(t->mm, t->addr, ptep);
		/* Pairs with passing_zero_is_not_empty(). */
		smp_store_release(&p->at_zero, true);
		mdelay(100);
		set_pte_at(t->mm, t->addr, ptep, make_entry(t, SWAP, 0));
		pte_unmap_unlock(ptep, ptl);
	}
	complete(&p->done);
	return 0;
}

static bool fork_skips(struct table *t)
{
	return pte_ref_fork_empty(t->vma, t->vma, t->pmd, t->pmd, t->addr);
}

/* fork() must copy what rmap is about to replace. */
static void passing_zero_is_not_empty(struct kunit *test)
{
	struct table *t = test->priv;
	struct passing p = { .t = t };
	struct task_struct *task;
	bool zero = false;
	unsigned long end;
	int i;

	if (num_online_cpus() < 2)
		kunit_skip(test, "needs two CPUs, one is online");

	init_completion(&p.done);
	lock_table(t);
	KUNIT_EXPECT_TRUE(test, fork_skips(t));
	set_entry(t, PRESENT, 0);
	KUNIT_EXPECT_FALSE(test, fork_skips(t));
	/* On a busy machine we may wake up when it is over. */
	for (i = 0; i < 20 && !zero; i++) {
		p.at_zero = false;
		reinit_completion(&p.done);
		task = kthread_run(pass_zero_fn, &p, "pte_ref_zero");
		if (IS_ERR(task)) {
			KUNIT_FAIL(test, "no thread");
			break;
		}
		end = jiffies + 20 * HZ;
		/* Pairs with pass_zero_fn(). */
		while (!smp_load_acquire(&p.at_zero) && time_before(jiffies, end))
			usleep_range(50, 200);
		zero = !READ_ONCE(t->ptdesc->pte_populated);
		KUNIT_EXPECT_FALSE(test, fork_skips(t));
		wait_for_completion(&p.done);
	}
	KUNIT_EXPECT_TRUE(test, zero);
	clear_table(t);
	unlock_table(t);
}

static void swapped_in_and_migrated(struct kunit *test)
{
	struct table *t = test->priv;

	if (!IS_ENABLED(CONFIG_MIGRATION))
		kunit_skip(test, "needs CONFIG_MIGRATION");

	lock_table(t);
	set_entry(t, SWAP, 1);
	set_entry(t, SWAP, 2);
	/* do_swap_page() writes over the swap entry. */
	set_entry(t, PRESENT, 1);
	expect_count(t, 2, 0);
	/* try_to_migrate_one() clears, then writes the migration entry. */
	do_op(t, OP_GET_AND_CLEAR, 1, 1);
	set_entry(t, MIGRATION_WRITE, 1);
	expect_count(t, 2, 0);
	/* remove_migration_pte() writes over it. */
	set_entry(t, PRESENT, 1);
	expect_count(t, 2, 0);
	/* Swapped out again. */
	do_op(t, OP_GET_AND_CLEAR, 1, 1);
	expect_count(t, 1, 0);
	set_entry(t, SWAP, 1);
	expect_count(t, 2, 0);
	clear_table(t);
	unlock_table(t);
}

static struct kunit_case pte_ref_count_cases[] = {
	KUNIT_CASE(new_table),
	KUNIT_CASE(bare_table),
	KUNIT_CASE(other_tables_have_no_ref),
	KUNIT_CASE_PARAM(kinds_of_entries, kinds_gen_params),
	KUNIT_CASE(entries_that_are_none),
	KUNIT_CASE(batch_over_none),
	KUNIT_CASE(batch_over_populated),
	KUNIT_CASE(neighbours_of_a_folio),
	KUNIT_CASE(batch_counted_by_the_caller),
	KUNIT_CASE(batch_clear),
	KUNIT_CASE(transitions_keep_the_count),
	KUNIT_CASE(passing_zero_is_not_empty),
	KUNIT_CASE(swapped_in_and_migrated),
	{}
};

static struct kunit_suite pte_ref_count_suite = {
	.name = "pte_ref_count",
	.init = pte_ref_test_init,
	.exit = pte_ref_test_exit,
	.test_cases = pte_ref_count_cases,
};

kunit_test_suite(pte_ref_count_suite);
