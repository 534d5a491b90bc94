// SPDX-License-Identifier: GPL-2.0
/*
 * KUnit: a PTE table that is left empty is noted, and the deferred work frees
 * it if it is still empty and a VMA of its range is attached.
 */
#include <linux/completion.h>
#include <linux/delay.h>
#include <linux/mman.h>
#include <linux/rmap.h>
#include <linux/workqueue.h>
#include <trace/events/huge_memory.h>
#include <trace/events/kmem.h>

#include "fixture.h"

/* Zero is noted, and nothing is made for it. */
static void last_entry_makes_no_ref(struct kunit *test)
{
	struct table *t = test->priv;
	struct table bare = *t;

	bare.addr += PMD_SIZE;
	lock_table(t);
	link_bare_table(&bare);
	set_entries(&bare, SWAP, 4, 2);
	clear_entry(&bare, 4);
	KUNIT_EXPECT_FALSE(test, is_marked(&bare));
	clear_entry(&bare, 5);
	expect_noted(&bare);
	/* Populated again, and emptied once more. */
	set_entry(&bare, SWAP, 5);
	clear_entry(&bare, 5);
	KUNIT_EXPECT_PTR_EQ(test, bare.ptdesc->pte_ref, &pte_ref_none);
	KUNIT_EXPECT_EQ(test, pte_ref_read(bare.ptdesc), 0);
	unlock_table(t);
	pte_ref_flush(t->mm);
	KUNIT_EXPECT_FALSE(test, is_linked(&bare));
}

/*
 * Code that takes the only entry of a table away to write another one brings
 * the count to zero for a moment, which notes the table.  The deferred work
 * must find it populated.  mprotect() counts nothing, so it does not even note.
 */
static void passing_zero_keeps_the_table(struct kunit *test)
{
	struct table *t = test->priv;
	bool marked = false;
	int i;

	lock_table(t);
	set_entry(t, PRESENT, 8);
	do_op(t, OP_MODIFY_PROT, 8, 1);
	KUNIT_EXPECT_FALSE(test, is_marked(t));
	/* Not expect_noted(): the deferred work leaves it, and may be faster. */
	for (i = 0; i < 100 && !marked; i++) {
		do_op(t, OP_CLEAR_FLUSH_SET, 8, 1);
		marked = is_marked(t);
	}
	KUNIT_EXPECT_TRUE(test, marked);
	expect_count(t, 1, 0);
	unlock_table(t);

	pte_ref_flush(t->mm);

	lock_table(t);
	KUNIT_EXPECT_FALSE(test, is_marked(t));
	KUNIT_EXPECT_TRUE(test, is_linked(t));
	expect_count(t, 1, 0);
	clear_table(t);
	unlock_table(t);
}

/* To clear the last entry notes the table. */
static void noted_at_zero(struct kunit *test)
{
	struct table *t = test->priv;
	unsigned long deferred = vm_event(PTE_REF_FREE_DEFERRED);

	lock_table(t);
	set_entries(t, SWAP, 5, 2);
	clear_entry(t, 5);
	KUNIT_EXPECT_FALSE(test, is_marked(t));
	clear_entry(t, 6);
	expect_noted(t);
	/* The deferred work finds the VMA locked, and looks again later. */
	msleep(50);
	KUNIT_EXPECT_TRUE(test, is_linked(t));
	expect_noted(t);
	unlock_table(t);

	pte_ref_flush(t->mm);
	KUNIT_EXPECT_FALSE(test, is_linked(t));
	KUNIT_EXPECT_EQ(test, vm_event(PTE_REF_FREE_DEFERRED), deferred + 1);
	KUNIT_EXPECT_EQ(test, watched(&t->watch), 1);
}

/* Without a flush: within 100 ms on an idle machine. */
static void freed_in_time(struct kunit *test)
{
	struct table *t = test->priv;
	unsigned long end;

	lock_table(t);
	set_entry(t, SWAP, 5);
	clear_entry(t, 5);
	unlock_table(t);
	/* 10 s, since the machine may not be idle. */
	end = jiffies + 10 * HZ;
	while (is_linked(t) && time_before(jiffies, end))
		msleep(20);
	KUNIT_EXPECT_FALSE(test, is_linked(t));
}

/*
 * A zap that may not free tables itself, as that of a driver, has its last
 * clear note the table, also if it covers the table.
 */
static void zap_of_a_driver_notes(struct kunit *test)
{
	static const unsigned long sizes[] = { PAGE_SIZE, PMD_SIZE };
	struct table *t = test->priv;
	int i;

	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		touch(t, t->addr, 1);
		touch(t, entry_addr(t, 9), 1);
		lock_table(t);
		link_table(t);
		zap_vma_range(t->vma, entry_addr(t, 9), PAGE_SIZE);
		expect_count(t, 1, 0);
		KUNIT_EXPECT_FALSE(test, is_marked(t));
		zap_vma_range(t->vma, t->addr, sizes[i]);
		expect_count(t, 0, 0);
		expect_noted(t);
		KUNIT_EXPECT_TRUE(test, is_linked(t));
		unlock_table(t);
		pte_ref_flush(t->mm);
		KUNIT_EXPECT_FALSE(test, is_linked(t));
	}
}

/* A note is a hint: what is there is judged by its own count. */
static void note_frees_what_is_empty(struct kunit *test)
{
	struct table *t = test->priv;
	struct table tables[3];
	int i;

	lock_table(t);
	for (i = 0; i < ARRAY_SIZE(tables); i++) {
		tables[i] = *t;
		tables[i].addr += i * PMD_SIZE;
		link_bare_table(&tables[i]);
		if (i != 1)
			set_entry(&tables[i], SWAP, 5);
	}
	KUNIT_EXPECT_FALSE(test, is_marked(t));
	pte_ref_note(t->mm, t->addr);
	expect_noted(t);
	/* Its mark moves to the struct of the PMD table. */
	KUNIT_EXPECT_NOT_NULL(test, pte_notes_make(t->mm, t->pmd, GFP_KERNEL));
	expect_noted(t);
	/* No table that could be noted. */
	pte_ref_note(t->mm, 0);
	unlock_table(t);
	pte_ref_flush(t->mm);

	lock_table(t);
	for (i = 0; i < ARRAY_SIZE(tables); i++)
		KUNIT_EXPECT_EQ(test, is_linked(&tables[i]), i != 1);
	/* What is emptied after that is noted again. */
	KUNIT_EXPECT_FALSE(test, is_marked(t));
	clear_table(&tables[2]);
	expect_noted(t);
	clear_table(t);
	unlock_table(t);
}

/* mremap() of whole tables: an empty one is noted where it is now. */
static void moved_table_is_noted(struct kunit *test)
{
	struct table *t = test->priv;

	lock_table(t);
	set_entry(t, SWAP, 5);
	pte_ref_moved(t->mm, t->pmd, t->addr, 1);
	KUNIT_EXPECT_FALSE(test, is_marked(t));
	clear_entry(t, 5);
	unlock_table(t);
	pte_ref_flush(t->mm);
	lock_table(t);
	link_table(t);
	KUNIT_EXPECT_FALSE(test, is_marked(t));
	WRITE_ONCE(t->ref->addr, 0);
	pte_ref_moved(t->mm, t->pmd, t->addr, 1);
	KUNIT_EXPECT_EQ(test, t->ref->addr, t->addr);
	expect_noted(t);
	unlock_table(t);
	pte_ref_flush(t->mm);
	KUNIT_EXPECT_FALSE(test, is_linked(t));
}

#ifdef COLLAPSES
struct failed_collapse {
	struct task_struct	*task;
	struct table		*t;
	struct page		*page;
	bool			used;
	bool			emptied;
};

/* The range was scanned.  With another user of its page the collapse will fail. */
static void use_page(void *data, struct page *page, unsigned int order, gfp_t gfp,
		     int migratetype)
{
	struct failed_collapse *c = data;

	if (c->task != current || c->used || !page || order != HPAGE_PMD_ORDER)
		return;
	get_page(c->page);
	c->used = true;
}

/*
 * It has failed, the table is still unlinked, and locked.  As if a zap had emptied it
 * before, and the deferred work had looked at the note meanwhile.
 */
static void empty_table(void *data, struct folio *folio, int none_or_zero,
			int referenced, int status, unsigned int order)
{
	struct failed_collapse *c = data;
	struct table *t = c->t;

	if (c->task != current || !c->used || c->emptied)
		return;
	ptep_clear(t->mm, t->addr, ptdesc_address(t->ptdesc));
	folio_remove_rmap_pte(page_folio(c->page), c->page, t->vma);
	dec_mm_counter(t->mm, MM_ANONPAGES);
	take_marks(t);
	c->emptied = true;
}

/* A collapse that fails links the table again, and has it looked at. */
static void linked_again_by_a_collapse(struct kunit *test)
{
	struct table *t = test->priv, other;
	struct failed_collapse c = { .task = current, .t = &other };
	int i;

	map_beside(t, &other);
	touch(t, other.addr, 1);
	lock_table(t);
	link_bare_table(&other);
	other.vma = vma_lookup(t->mm, other.addr);
	unlock_table(t);
	/* Its page is there as long as nobody zaps it. */
	KUNIT_ASSERT_EQ(test, get_user_pages_fast(other.addr, 1, FOLL_WRITE, &c.page), 1);
	put_page(c.page);

	KUNIT_EXPECT_EQ(test, register_trace_mm_page_alloc(use_page, &c), 0);
	KUNIT_EXPECT_EQ(test, register_trace_mm_collapse_huge_page_isolate(empty_table, &c), 0);
	/* Memory may be fragmented, and pages in use for a moment. */
	for (i = 0; i < 100 && !c.used; i++) {
		KUNIT_EXPECT_NE(test, do_madvise(t->mm, other.addr, PMD_SIZE, MADV_COLLAPSE), 0);
		usleep_range(1000, 2000);
	}
	unregister_trace_mm_page_alloc(use_page, &c);
	unregister_trace_mm_collapse_huge_page_isolate(empty_table, &c);
	tracepoint_synchronize_unregister();
	KUNIT_EXPECT_TRUE(test, c.emptied);
	if (c.used)
		put_page(c.page);
	if (c.emptied)
		put_page(c.page);
	pte_ref_flush(t->mm);
	KUNIT_EXPECT_FALSE(test, is_linked(&other));
}
#endif

/* Where no VMA is attached free_pgtables() may be at work, without a lock. */
static void kept_without_a_vma(struct kunit *test)
{
	struct table *t = test->priv;
	struct table other = *t;
	unsigned long addr;

	other.addr = t->addr + PMD_SIZE;
	KUNIT_EXPECT_EQ(test, vm_munmap(other.addr, PMD_SIZE), 0);
	lock_table(t);
	link_table(&other);
	set_entry(&other, SWAP, 5);
	clear_entry(&other, 5);
	unlock_table(t);
	pte_ref_flush(t->mm);
	KUNIT_EXPECT_TRUE(test, is_linked(&other));

	/* Else nothing would free it. */
	addr = vm_mmap(NULL, other.addr, PMD_SIZE, PROT_READ,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, 0);
	KUNIT_EXPECT_EQ(test, addr, other.addr);
	KUNIT_EXPECT_EQ(test, vm_munmap(other.addr, PMD_SIZE), 0);
}

/* Of a group that is noted those that are empty are freed, and no other. */
static void work_of_several_tables(struct kunit *test)
{
	struct table *t = test->priv;
	struct table tables[NR_TABLES];
	unsigned long deferred = vm_event(PTE_REF_FREE_DEFERRED);
	int i;

	lock_table(t);
	for (i = 0; i < NR_TABLES; i++) {
		tables[i] = *t;
		tables[i].addr += i * PMD_SIZE;
		link_table(&tables[i]);
		set_entry(&tables[i], SWAP, i);
	}
	/* In another order than that of their addresses. */
	for (i = NR_TABLES - 1; i >= 0; i--)
		clear_entry(&tables[i ^ 1], i ^ 1);
	set_entry(&tables[2], SWAP, 0);
	unlock_table(t);
	pte_ref_flush(t->mm);
	for (i = 0; i < NR_TABLES; i++)
		KUNIT_EXPECT_EQ(test, is_linked(&tables[i]), i == 2);
	KUNIT_EXPECT_EQ(test, vm_event(PTE_REF_FREE_DEFERRED),
			deferred + NR_TABLES - 1);

	lock_table(t);
	clear_table(&tables[2]);
	unlock_table(t);
}

/* In the exit of the mm nothing is queued, and what is queued frees nothing. */
static void exit_ends_the_work(struct kunit *test)
{
	struct table *t = test->priv;
	struct mm_pte_ref *queue = &t->mm->pte_ref;

	lock_table(t);
	set_entry(t, SWAP, 0);
	atomic_or(MM_PTE_REF_EXIT, &queue->state);
	clear_entry(t, 0);
	KUNIT_EXPECT_TRUE(test, is_marked(t));
	KUNIT_EXPECT_FALSE(test, delayed_work_pending(&queue->work));
	unlock_table(t);

	/* As if it had been queued before. */
	queue_delayed_work(pte_ref_wq, &queue->work, 0);
	flush_delayed_work(&queue->work);
	disable_delayed_work_sync(&queue->work);
	KUNIT_EXPECT_TRUE(test, is_linked(t));

	/* Only the exit has kept it from the table. */
	enable_delayed_work(&queue->work);
	queue->next = 0;
	atomic_set(&queue->state, 0);
	pte_ref_note(t->mm, t->addr);
	pte_ref_flush(t->mm);
	KUNIT_EXPECT_FALSE(test, is_linked(t));
}

static void dies_with_its_mm(struct kunit *test)
{
	struct table *t = test->priv;

	/* Noted, and the mm ends; pte_ref_test_exit() waits for the ref. */
	lock_table(t);
	set_entry(t, SWAP, 0);
	clear_entry(t, 0);
	unlock_table(t);
}

/* When nothing is noted any more nothing is queued. */
static void work_ends(struct kunit *test)
{
	struct table *t = test->priv;
	unsigned long end = jiffies + 10 * HZ;

	touch(t, t->addr, 1);
	pte_ref_note(t->mm, t->addr);
	while (atomic_read(&t->mm->pte_ref.state) && time_before(jiffies, end))
		msleep(20);
	KUNIT_EXPECT_EQ(test, atomic_read(&t->mm->pte_ref.state), 0);
	KUNIT_EXPECT_FALSE(test, delayed_work_pending(&t->mm->pte_ref.work));
	KUNIT_EXPECT_TRUE(test, is_linked(t));
}

/* The exit of the mm leaves nothing queued. */
static void exit_turns_the_work_off(struct kunit *test)
{
	struct table *t = test->priv;
	struct mm_pte_ref *queue = &t->mm->pte_ref;

	lock_table(t);
	set_entry(t, SWAP, 0);
	clear_entry(t, 0);
	unlock_table(t);
	mm_exit_pte_ref(t->mm);
	KUNIT_EXPECT_FALSE(test, delayed_work_pending(&queue->work));

	/* As if it had never been, whether it had to turn the work off or not. */
	disable_delayed_work_sync(&queue->work);
	while (!enable_delayed_work(&queue->work))
		;
	queue->next = 0;
	atomic_set(&queue->state, 0);
	pte_ref_note(t->mm, t->addr);
	pte_ref_flush(t->mm);
	KUNIT_EXPECT_FALSE(test, is_linked(t));
}

struct blocker {
	struct work_struct	work;
	struct completion	*end;
};

static void block(struct work_struct *work)
{
	wait_for_completion(container_of(work, struct blocker, work)->end);
}

/*
 * What was unlinked is freed while all works of the queue of the deferred work
 * wait, as for the lock of a VMA.
 */
static void freed_beside_the_work(struct kunit *test)
{
	DECLARE_COMPLETION_ONSTACK(done);
	struct table *t = test->priv;
	struct page *page = ptdesc_page(t->ptdesc);
	struct blocker *blockers;
	const int nr = 16;
	unsigned long end;
	int i;

	blockers = kunit_kcalloc(test, nr, sizeof(*blockers), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, blockers);
	/* Its destructor ends it as a page table, we keep it as a page. */
	get_page(page);
	lock_table(t);
	for (i = 0; i < nr; i++) {
		blockers[i].end = &done;
		INIT_WORK(&blockers[i].work, block);
		queue_work(pte_ref_wq, &blockers[i].work);
	}
	KUNIT_EXPECT_TRUE(test, free_table(t));
	unlock_table(t);
	end = jiffies + 10 * HZ;
	while (PageTable(page) && time_before(jiffies, end))
		msleep(20);
	KUNIT_EXPECT_FALSE(test, PageTable(page));
	complete_all(&done);
	for (i = 0; i < nr; i++)
		flush_work(&blockers[i].work);
	pte_ref_flush_free();
	KUNIT_EXPECT_FALSE(test, PageTable(page));
	put_page(page);
}

static struct kunit_case pte_ref_deferred_cases[] = {
	KUNIT_CASE(noted_at_zero),
	KUNIT_CASE(last_entry_makes_no_ref),
	KUNIT_CASE(passing_zero_keeps_the_table),
	KUNIT_CASE(freed_in_time),
	KUNIT_CASE(zap_of_a_driver_notes),
	KUNIT_CASE(note_frees_what_is_empty),
	KUNIT_CASE(moved_table_is_noted),
#ifdef COLLAPSES
	KUNIT_CASE(linked_again_by_a_collapse),
#endif
	KUNIT_CASE(kept_without_a_vma),
	KUNIT_CASE(work_of_several_tables),
	KUNIT_CASE(exit_ends_the_work),
	KUNIT_CASE(dies_with_its_mm),
	KUNIT_CASE(work_ends),
	KUNIT_CASE(exit_turns_the_work_off),
	KUNIT_CASE(freed_beside_the_work),
	{}
};

static struct kunit_suite pte_ref_deferred_suite = {
	.name = "pte_ref_deferred",
	.init = pte_ref_test_init,
	.exit = pte_ref_test_exit,
	.test_cases = pte_ref_deferred_cases,
};

kunit_test_suite(pte_ref_deferred_suite);
