// SPDX-License-Identifier: GPL-2.0
/*
 * KUnit: what the code relies on that an architecture does: its primitives for
 * a batch of entries count each, its flush comes while the table is unlinked
 * and nothing else can be linked, a VMA that is always locked is waited for, and
 * tables that hugetlb points into stay.
 */
#include <linux/delay.h>
#include <linux/mmu_notifier.h>

#include "fixture.h"

/* A batch */

/* As many entries as arm64 may fold, of one folio, aligned like it. */
#ifdef CONFIG_ARM64_CONTPTE
#define NR_FOLDED	CONT_PTES
#else
#define NR_FOLDED	16
#endif

/* Are all entries of the block folded, or none? */
static void expect_folded(struct table *t, bool folded)
{
#ifdef CONFIG_ARM64_CONTPTE
	pte_t *ptep = ptdesc_address(t->ptdesc);
	unsigned int i;

	for (i = 0; i < NR_FOLDED; i++)
		KUNIT_EXPECT_EQ(t->test, pte_valid_cont(__ptep_get(ptep + i)),
				folded);
#endif
}

static void map_block(struct table *t, struct page *page)
{
	spinlock_t *ptl = NULL;
	pte_t *ptep, pte;

	ptep = pte_offset_map_lock(t->mm, t->pmd, t->addr, &ptl);
	if (!ptep) {
		KUNIT_FAIL(t->test, "the table is gone");
		return;
	}
	pte = pfn_pte(page_to_pfn(page), vm_get_page_prot(VM_READ | VM_WRITE));
	set_ptes(t->mm, t->addr, ptep, pte_mkyoung(pte_mkdirty(pte)), NR_FOLDED);
	pte_unmap_unlock(ptep, ptl);
}

static void folded_block(struct kunit *test)
{
	static const enum entry_op ops[] = {
		OP_MODIFY_PROT, OP_WRPROTECT, OP_MKOLD, OP_CLEAR_YOUNG_DIRTY,
		OP_CLEAR_FLUSH_SET,
	};
	const unsigned int order = get_order(NR_FOLDED * PAGE_SIZE);
	struct table *t = test->priv;
	struct page *page;
	unsigned int i, k;

	/* A folio: nothing else is folded. */
	page = alloc_pages(GFP_KERNEL | __GFP_COMP, order);
	KUNIT_ASSERT_NOT_NULL(test, page);
	lock_table(t);
	for (i = 0; i < ARRAY_SIZE(ops); i++) {
		map_block(t, page);
		expect_folded(t, true);
		expect_count(t, NR_FOLDED, 0);
		/* The whole block, then a part: that unfolds it. */
		do_op(t, ops[i], 0, NR_FOLDED);
		expect_count(t, NR_FOLDED, 0);
		do_op(t, ops[i], 1, NR_FOLDED / 2);
		expect_count(t, NR_FOLDED, 0);
		do_op(t, OP_CLEAR, 0, NR_FOLDED);
		expect_count(t, 0, 0);
	}
	/* Cleared from both ends. */
	map_block(t, page);
	for (k = 0; k < NR_FOLDED / 2; k++) {
		do_op(t, OP_GET_AND_CLEAR, k, 1);
		expect_folded(t, false);
		expect_count(t, NR_FOLDED - 2 * k - 1, 0);
		do_op(t, OP_PTEP_CLEAR, NR_FOLDED - 1 - k, 1);
		expect_count(t, NR_FOLDED - 2 * k - 2, 0);
	}
	map_block(t, page);
	do_op(t, OP_GET_AND_CLEAR_BATCH, 0, NR_FOLDED - 1);
	expect_folded(t, false);
	expect_count(t, 1, 0);
	KUNIT_EXPECT_FALSE(test, try_to_free(t));
	do_op(t, OP_CLEAR, NR_FOLDED - 1, 1);
	/* Written over by something else. */
	map_block(t, page);
	set_entry(t, SWAP, NR_FOLDED / 2);
	expect_count(t, NR_FOLDED, 0);
	do_op(t, OP_CLEAR, 0, NR_FOLDED / 2);
	do_op(t, OP_CLEAR_NONPRESENT, NR_FOLDED / 2, 1);
	do_op(t, OP_CLEAR, NR_FOLDED / 2 + 1, NR_FOLDED / 2 - 1);
	expect_count(t, 0, 0);
	KUNIT_EXPECT_TRUE(test, try_to_free(t));
	unlock_table(t);
	pte_ref_flush(t->mm);
	__free_pages(page, order);
}

/* The flush */

struct flush_watch {
	struct mmu_notifier	notifier;
	struct table		*t;
	unsigned int		unlinked;	/* while the PMD entry was none */
	unsigned int		locked;		/* and its lock held */
};

static void flush_seen(struct mmu_notifier *notifier, struct mm_struct *mm,
		       unsigned long start, unsigned long end)
{
	struct flush_watch *w = container_of(notifier, struct flush_watch, notifier);
	struct table *t = w->t;

	if (start > t->addr || end < t->addr + PMD_SIZE ||
	    !pmd_none(pmdp_get_lockless(t->pmd)))
		return;
	w->unlinked++;
	if (!IS_ENABLED(CONFIG_LOCKDEP) || lockdep_is_held(pmd_lockptr(mm, t->pmd)))
		w->locked++;
}

static const struct mmu_notifier_ops flush_ops = {
	.arch_invalidate_secondary_tlbs = flush_seen,
};

static void watch_flush(struct flush_watch *w, struct table *t)
{
	if (IS_ENABLED(CONFIG_UML))
		kunit_skip(t->test, "UML has no secondary TLBs");
	w->t = t;
	w->notifier.ops = &flush_ops;
	KUNIT_ASSERT_EQ(t->test, mmu_notifier_register(&w->notifier, t->mm), 0);
}

static void expect_flush(struct flush_watch *w)
{
	struct kunit *test = w->t->test;

	KUNIT_EXPECT_FALSE(test, is_linked(w->t));
	KUNIT_EXPECT_EQ(test, w->locked, 1);
	mmu_notifier_unregister(&w->notifier, w->t->mm);
}

static void flushed_by_zap(struct kunit *test)
{
	struct table *t = test->priv;
	struct flush_watch w = { };

	watch_flush(&w, t);
	touch(t, t->addr, 1);
	zap(t, t->addr, PMD_SIZE);
	expect_flush(&w);
}

static void flushed_by_deferred_work(struct kunit *test)
{
	struct table *t = test->priv;
	struct flush_watch w = { };

	watch_flush(&w, t);
	touch(t, t->addr, 1);
	zap(t, t->addr, PAGE_SIZE);
	KUNIT_EXPECT_EQ(test, w.unlinked, 0);
	pte_ref_flush(t->mm);
	expect_flush(&w);
}

/* The lock of a VMA */

/* A writer that has it at each look of the deferred work is waited for. */
static void locked_vma_is_waited_for(struct kunit *test)
{
	unsigned long end = jiffies + 60 * HZ;
	struct table *t = test->priv;

	if (!IS_ENABLED(CONFIG_PER_VMA_LOCK))
		kunit_skip(test, "no VMA has a lock of its own");

	lock_table(t);
	set_entry(t, PRESENT, 0);
	clear_entry(t, 0);
	while (!mmap_lock_is_contended(t->mm) && time_before(jiffies, end))
		usleep_range(1000, 2000);
	KUNIT_EXPECT_TRUE(test, mmap_lock_is_contended(t->mm));
	KUNIT_EXPECT_TRUE(test, is_linked(t));
	unlock_table(t);
	pte_ref_flush(t->mm);
	KUNIT_EXPECT_FALSE(test, is_linked(t));
}

/* A pin */

static void pinned_table_stays(struct kunit *test)
{
	unsigned long deferred = vm_event(PTE_REF_FREE_DEFERRED);
	struct table *t = test->priv;
	unsigned long addr = t->addr + 3 * PAGE_SIZE;
	pte_t *ptep;

	KUNIT_EXPECT_NULL(test, pte_offset_pinned(t->pmd, addr));
	ptep = pte_alloc_pinned(t->mm, t->pmd, addr);
	KUNIT_EXPECT_PTR_EQ(test, ptep,
			    (pte_t *)ptdesc_address(t->ptdesc) + 3);
	KUNIT_EXPECT_PTR_EQ(test, pte_offset_pinned(t->pmd, addr), ptep);
	/* Again, and emptied by a neighbour. */
	KUNIT_EXPECT_PTR_EQ(test, pte_alloc_pinned(t->mm, t->pmd, addr), ptep);
	touch(t, t->addr, 1);
	zap(t, t->addr, PAGE_SIZE);
	pte_ref_flush(t->mm);
	KUNIT_EXPECT_TRUE(test, is_linked(t));
	zap(t, t->addr, PMD_SIZE);
	KUNIT_EXPECT_FALSE(test, free_table(t));
	KUNIT_EXPECT_TRUE(test, is_linked(t));
	KUNIT_EXPECT_EQ(test, vm_event(PTE_REF_FREE_DEFERRED), deferred);
	/* munmap() frees it, and with it its ref: see pte_ref_test_exit(). */
}

/* One that is made for it, and has no ref. */
static void pinned_table_is_made(struct kunit *test)
{
	struct table *t = test->priv, bare;
	pte_t *ptep;

	link_beside(t, &bare);
	KUNIT_EXPECT_TRUE(test, free_table(&bare));
	unlock_table(t);
	ptep = pte_alloc_pinned(t->mm, bare.pmd, bare.addr);
	KUNIT_EXPECT_NOT_NULL(test, ptep);
	KUNIT_EXPECT_PTR_EQ(test, pte_offset_pinned(bare.pmd, bare.addr), ptep);
	zap(t, bare.addr, PMD_SIZE);
	pte_ref_flush(t->mm);
	KUNIT_EXPECT_PTR_EQ(test, pte_offset_pinned(bare.pmd, bare.addr), ptep);
}

/* What is in the descriptor of a table that was unlinked is not its count. */
static void freed_table_is_not_pinned(struct kunit *test)
{
	struct table *t = test->priv, bare;
	unsigned int nr;
	pmd_t pmdval;
	pte_t *ptep;

	link_beside(t, &bare);
	pmdval = pmdp_get_lockless(bare.pmd);
	/* Both stay, until they were looked at. */
	rcu_read_lock();
	nr = pte_ref_free_range(t->mm, NULL, t->pmd, t->addr,
				bare.addr + PMD_SIZE, false);
	ptep = pte_offset_pinned(&pmdval, bare.addr);
	rcu_read_unlock();
	unlock_table(t);
	KUNIT_EXPECT_EQ(test, nr, 2);
	KUNIT_EXPECT_NULL(test, ptep);
}

/* Tables of no mm, as those of EFI, are never tracked. */
static void table_of_no_mm(struct kunit *test)
{
	struct ptdesc *ptdesc = pagetable_alloc(GFP_KERNEL, 0);

	KUNIT_ASSERT_NOT_NULL(test, ptdesc);
	KUNIT_ASSERT_TRUE(test, pagetable_pte_ctor(NULL, ptdesc));
	KUNIT_EXPECT_NULL(test, ptdesc->pte_ref);
	pagetable_dtor_free(ptdesc);
}

#ifdef CONFIG_HUGETLB_PMD_PAGE_TABLE_SHARING
/* hugetlb has entries in tables of each level, whose pages may have had an index. */
static void new_table_is_not_shared(struct kunit *test)
{
	struct ptdesc *ptdesc;
	int level;

	for (level = 0; level < 5; level++) {
		ptdesc = pagetable_alloc(GFP_KERNEL, 0);
		KUNIT_ASSERT_NOT_NULL(test, ptdesc);
		ptdesc->pt_index = ULONG_MAX;
		switch (level) {
		case 0:
			KUNIT_EXPECT_TRUE(test, pagetable_pte_ctor(NULL, ptdesc));
			break;
		case 1:
			KUNIT_EXPECT_TRUE(test, pagetable_pmd_ctor(NULL, ptdesc));
			break;
		case 2:
			pagetable_pud_ctor(ptdesc);
			break;
		case 3:
			pagetable_p4d_ctor(ptdesc);
			break;
		case 4:
			pagetable_pgd_ctor(ptdesc);
			break;
		}
		KUNIT_EXPECT_FALSE_MSG(test, ptdesc_pmd_is_shared(ptdesc),
				       "level %d", level);
		pagetable_dtor_free(ptdesc);
	}
}
#endif

static struct kunit_case pte_ref_arch_cases[] = {
	KUNIT_CASE(folded_block),
	KUNIT_CASE(flushed_by_zap),
	KUNIT_CASE(flushed_by_deferred_work),
	KUNIT_CASE(locked_vma_is_waited_for),
	KUNIT_CASE(pinned_table_stays),
	KUNIT_CASE(pinned_table_is_made),
	KUNIT_CASE(freed_table_is_not_pinned),
	KUNIT_CASE(table_of_no_mm),
#ifdef CONFIG_HUGETLB_PMD_PAGE_TABLE_SHARING
	KUNIT_CASE(new_table_is_not_shared),
#endif
	{}
};

static struct kunit_suite pte_ref_arch_suite = {
	.name = "pte_ref_arch",
	.init = pte_ref_test_init,
	.exit = pte_ref_test_exit,
	.test_cases = pte_ref_arch_cases,
};

kunit_test_suite(pte_ref_arch_suite);
