// SPDX-License-Identifier: GPL-2.0
/*
 * Tests of mm/pte_ref.c, on the mm of the test's own thread.
 *
 * Most tests write made-up entries into one table by the primitives, and take
 * them out again.  They hold mmap_lock and all VMAs for write (lock_table()), which
 * keeps the work that frees noted tables away, so that a table of count zero stays until
 * the test says otherwise.  Between lock_table() and unlock_table() there is no
 * KUNIT_ASSERT: it would end the thread with the lock held.
 *
 * The table under test has a ref from the beginning (link_table()), since most
 * tests are about that; tables that have none are bare.  After each test the ref
 * must have been freed, exactly once.
 */
#include <kunit/test.h>
#include <linux/completion.h>
#include <linux/cpumask.h>
#include <linux/debugfs.h>
#include <linux/delay.h>
#include <linux/fs.h>
#include <linux/hugetlb.h>
#include <linux/kthread.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/pgalloc.h>
#include <linux/prandom.h>
#include <linux/sched/mm.h>
#include <linux/sched/task.h>
#include <linux/swap.h>
#include <linux/swapops.h>
#include <linux/uaccess.h>
#include <linux/vmstat.h>
#include <trace/events/kmem.h>
#include <trace/events/pte_ref.h>

#include "../../mm/internal.h"
#include "../../mm/pte_ref.h"

#define NR_TABLES	4
#define TABLE_ORDER	(PMD_SHIFT - PAGE_SHIFT)

/* Is an object freed, and how often? */
struct watch {
	const void	*obj;
	atomic_t	freed;
	bool		registered;
};

/**
 * struct table - the table under test, and what is around it
 * @test: the test
 * @mm: the mm of its thread
 * @vma: a private mapping over the ranges of NR_TABLES tables and more
 * @map: where @vma starts
 * @len: its length
 * @addr: where the range of the table starts, in @vma
 * @pmd: points to it
 * @ptdesc: the table
 * @ref: its ref
 * @page: what present entries map: as many pages as the table has entries
 * @watch: of @ref
 */
struct table {
	struct kunit		*test;
	struct mm_struct	*mm;
	struct vm_area_struct	*vma;
	unsigned long		map;
	unsigned long		len;
	unsigned long		addr;
	pmd_t			*pmd;
	struct ptdesc		*ptdesc;
	struct pte_ref		*ref;
	struct page		*page;
	struct watch		watch;
};

static void watch_free(void *data, unsigned long call_site, const void *ptr,
		       const struct kmem_cache *s)
{
	struct watch *w = data;

	if (ptr == READ_ONCE(w->obj))
		atomic_inc(&w->freed);
}

/* From here on it is somebody else's. */
static void watch_alloc(void *data, unsigned long call_site, const void *ptr,
			struct kmem_cache *s, gfp_t gfp_flags, int node)
{
	struct watch *w = data;

	if (ptr == READ_ONCE(w->obj))
		WRITE_ONCE(w->obj, NULL);
}

static int watch_start(struct watch *w, const void *obj)
{
	int ret;

	w->obj = obj;
	atomic_set(&w->freed, 0);
	ret = register_trace_kmem_cache_alloc(watch_alloc, w);
	if (ret)
		return ret;
	ret = register_trace_kmem_cache_free(watch_free, w);
	if (ret)
		unregister_trace_kmem_cache_alloc(watch_alloc, w);
	w->registered = !ret;
	return ret;
}

static void watch_stop(struct watch *w)
{
	if (!w->registered)
		return;
	unregister_trace_kmem_cache_alloc(watch_alloc, w);
	unregister_trace_kmem_cache_free(watch_free, w);
	tracepoint_synchronize_unregister();
	w->registered = false;
}

static int watched(struct watch *w)
{
	return atomic_read(&w->freed);
}

static unsigned long vm_event(enum vm_event_item item)
{
	static unsigned long events[NR_VM_EVENT_ITEMS];

	all_vm_events(events);
	return events[item];
}

static void lock_table(struct table *t)
{
	VMA_ITERATOR(vmi, t->mm, 0);
	struct vm_area_struct *vma;

	mmap_write_lock(t->mm);
	for_each_vma(vmi, vma)
		vma_start_write(vma);
}

static void unlock_table(struct table *t)
{
	mmap_write_unlock(t->mm);
}

/* Link a table at t->addr if there is none.  With mmap_lock held. */
static void link_bare_table(struct table *t)
{
	spinlock_t *ptl = NULL;
	pte_t *ptep;

	ptep = get_locked_pte(t->mm, t->addr, &ptl);
	if (!ptep) {
		KUNIT_FAIL(t->test, "no table");
		return;
	}
	pte_unmap_unlock(ptep, ptl);
	t->pmd = mm_find_pmd(t->mm, t->addr);
	t->ptdesc = page_ptdesc(pmd_pgtable(*t->pmd));
	t->ref = t->ptdesc->pte_ref;
}

/* The same, and it has its ref. */
static void link_table(struct table *t)
{
	spinlock_t *ptl = NULL;
	pte_t *ptep;

	link_bare_table(t);
	ptep = pte_offset_map_lock(t->mm, t->pmd, t->addr, &ptl);
	if (!ptep) {
		KUNIT_FAIL(t->test, "no table");
		return;
	}
	t->ref = pte_ref_make(t->mm, t->addr, t->ptdesc);
	pte_unmap_unlock(ptep, ptl);
}

static bool is_linked(struct table *t)
{
	pmd_t pmdval = pmdp_get_lockless(t->pmd);

	return pmd_present(pmdval) &&
	       page_ptdesc(pmd_pgtable(pmdval)) == t->ptdesc;
}

static unsigned long entry_addr(struct table *t, unsigned int i)
{
	return t->addr + i * PAGE_SIZE;
}

enum entry_kind {
	NONE,
	PRESENT,
	PROTNONE,
	SWAP,
	MIGRATION_READ,
	MIGRATION_WRITE,
	MARKER_UFFD_WP,
	MARKER_POISON,
	MARKER_GUARD,
};

static const char * const kind_names[] = {
	"none", "present", "protnone", "swap", "migration read", "migration write",
	"marker uffd-wp", "marker poison", "marker guard",
};

static const enum entry_kind kinds[] = {
	PRESENT, PROTNONE, SWAP, MARKER_UFFD_WP, MARKER_POISON, MARKER_GUARD,
#ifdef CONFIG_MIGRATION
	MIGRATION_READ, MIGRATION_WRITE,
#endif
};

static bool kind_is_present(enum entry_kind kind)
{
	return kind == PRESENT || kind == PROTNONE;
}

static pte_t make_entry(struct table *t, enum entry_kind kind, unsigned int i)
{
	unsigned long pfn = page_to_pfn(t->page) + i;

	switch (kind) {
	case PRESENT:
		return pfn_pte(pfn, vm_get_page_prot(VM_READ | VM_WRITE));
	case PROTNONE:
		return pfn_pte(pfn, vm_get_page_prot(0));
	case SWAP:
		return swp_entry_to_pte(swp_entry(0, i + 1));
	case MIGRATION_READ:
		return swp_entry_to_pte(make_readable_migration_entry(pfn));
	case MIGRATION_WRITE:
		return swp_entry_to_pte(make_writable_migration_entry(pfn));
	case MARKER_UFFD_WP:
		return make_pte_marker(PTE_MARKER_UFFD_WP);
	case MARKER_POISON:
		return make_pte_marker(PTE_MARKER_POISONED);
	case MARKER_GUARD:
		return make_pte_marker(PTE_MARKER_GUARD);
	default:
		return __pte(0);
	}
}

enum entry_op {
	/* any entry */
	OP_PTE_CLEAR,		/* not if present, for page_table_check */
	OP_PTEP_CLEAR,
	OP_GET_AND_CLEAR,
	/* not present */
	OP_CLEAR_NONPRESENT,
	/* present, consecutive pages */
	OP_CLEAR,
	OP_CLEAR_FULL,
	OP_GET_AND_CLEAR_BATCH,
	OP_GET_AND_CLEAR_BATCH_FULL,
	OP_MODIFY_PROT,
	OP_WRPROTECT,
	OP_MKOLD,
	OP_CLEAR_YOUNG_DIRTY,
	OP_CLEAR_FLUSH_SET,
	NR_OPS
};

/* One primitive on entries of the table, under its lock. */
static void do_op(struct table *t, enum entry_op op, unsigned int i, unsigned int nr)
{
	unsigned long addr = entry_addr(t, i);
	struct mm_struct *mm = t->mm;
	spinlock_t *ptl = NULL;
	unsigned int k;
	pte_t *ptep, pte;

	ptep = pte_offset_map_lock(mm, t->pmd, addr, &ptl);
	if (!ptep) {
		KUNIT_FAIL(t->test, "the table is gone");
		return;
	}
	switch (op) {
	case OP_PTE_CLEAR:
		for (k = 0; k < nr; k++)
			pte_clear(mm, addr + k * PAGE_SIZE, ptep + k);
		break;
	case OP_PTEP_CLEAR:
		for (k = 0; k < nr; k++)
			ptep_clear(mm, addr + k * PAGE_SIZE, ptep + k);
		break;
	case OP_GET_AND_CLEAR:
		for (k = 0; k < nr; k++)
			ptep_get_and_clear(mm, addr + k * PAGE_SIZE, ptep + k);
		break;
	case OP_CLEAR_NONPRESENT:
		clear_nonpresent_ptes(mm, addr, ptep, nr);
		break;
	case OP_CLEAR:
		clear_full_ptes(mm, addr, ptep, nr, 0);
		break;
	case OP_CLEAR_FULL:
		clear_full_ptes(mm, addr, ptep, nr, 1);
		break;
	case OP_GET_AND_CLEAR_BATCH:
		get_and_clear_full_ptes(mm, addr, ptep, nr, 0);
		break;
	case OP_GET_AND_CLEAR_BATCH_FULL:
		get_and_clear_full_ptes(mm, addr, ptep, nr, 1);
		break;
	case OP_MODIFY_PROT:
		pte = modify_prot_start_ptes(t->vma, addr, ptep, nr);
		modify_prot_commit_ptes(t->vma, addr, ptep, pte,
					pte_wrprotect(pte), nr);
		break;
	case OP_WRPROTECT:
		wrprotect_ptes(mm, addr, ptep, nr);
		break;
	case OP_MKOLD:
		for (k = 0; k < nr; k++)
			ptep_test_and_clear_young(t->vma, addr + k * PAGE_SIZE,
						  ptep + k);
		break;
	case OP_CLEAR_YOUNG_DIRTY:
		clear_young_dirty_ptes(t->vma, addr, ptep, nr,
				       CYDP_CLEAR_YOUNG | CYDP_CLEAR_DIRTY);
		break;
	case OP_CLEAR_FLUSH_SET:
		/* As copy-on-write does. */
		for (k = 0; k < nr; k++) {
			pte = ptep_clear_flush(t->vma, addr + k * PAGE_SIZE,
					       ptep + k);
			set_pte_at(mm, addr + k * PAGE_SIZE, ptep + k, pte);
		}
		break;
	default:
		break;
	}
	pte_unmap_unlock(ptep, ptl);
}

static void set_entries(struct table *t, enum entry_kind kind, unsigned int i,
			unsigned int nr)
{
	spinlock_t *ptl = NULL;
	pte_t *ptep;

	ptep = pte_offset_map_lock(t->mm, t->pmd, entry_addr(t, i), &ptl);
	if (!ptep) {
		KUNIT_FAIL(t->test, "the table is gone");
		return;
	}
	set_ptes(t->mm, entry_addr(t, i), ptep, make_entry(t, kind, i), nr);
	pte_unmap_unlock(ptep, ptl);
}

/* Not set_entries(): a constant number of one is counted in another way. */
static void set_entry(struct table *t, enum entry_kind kind, unsigned int i)
{
	spinlock_t *ptl = NULL;
	pte_t *ptep;

	ptep = pte_offset_map_lock(t->mm, t->pmd, entry_addr(t, i), &ptl);
	if (!ptep) {
		KUNIT_FAIL(t->test, "the table is gone");
		return;
	}
	set_pte_at(t->mm, entry_addr(t, i), ptep, make_entry(t, kind, i));
	pte_unmap_unlock(ptep, ptl);
}

static void clear_entry(struct table *t, unsigned int i)
{
	do_op(t, OP_PTEP_CLEAR, i, 1);
}

static void clear_table(struct table *t)
{
	if (is_linked(t))
		do_op(t, OP_PTEP_CLEAR, 0, PTRS_PER_PTE);
}

/* The same as pte_ref_read(), from what is really there. */
static void expect_count(struct table *t, unsigned int entries, unsigned int users)
{
	KUNIT_EXPECT_EQ(t->test, t->ptdesc->pte_populated, entries);
	KUNIT_EXPECT_EQ(t->test, pte_ref_read(t->ptdesc), entries + users);
	KUNIT_EXPECT_EQ(t->test, atomic_long_read(&t->ref->data.count),
			users + !!entries);
}

static bool try_to_free(struct table *t)
{
	return try_to_free_user_pte(t->mm, t->pmd, t->addr);
}

static void start_switch(struct table *t)
{
	KUNIT_EXPECT_TRUE(t->test, pte_ref_start_switch(t->ref));
	rcu_barrier();
	KUNIT_EXPECT_TRUE(t->test, test_bit(PTE_REF_SWITCHED, &t->ref->state));
	KUNIT_EXPECT_FALSE(t->test, pte_ref_is_percpu(t->ref));
}

/* Is there a mark for the group of the table? */
static bool is_marked(struct table *t)
{
	unsigned long slot = READ_ONCE(virt_to_ptdesc(t->pmd)->pte_notes);
	struct pte_notes *notes = (void *)(slot & ~(PTE_NOTES_TAG | PTE_NOTES_OBJECT));

	if (slot & PTE_NOTES_OBJECT)
		slot = READ_ONCE(notes->marks);
	return slot & BIT(PTE_NOTES_SHIFT + pmd_index(t->addr) / PTE_NOTES_GROUP);
}

static void take_marks(struct table *t)
{
	unsigned long slot = READ_ONCE(virt_to_ptdesc(t->pmd)->pte_notes);
	struct pte_notes *notes = (void *)(slot & ~(PTE_NOTES_TAG | PTE_NOTES_OBJECT));

	if (slot & PTE_NOTES_OBJECT)
		WRITE_ONCE(notes->marks, PTE_NOTES_TAG);
	else if (slot)
		cmpxchg(&virt_to_ptdesc(t->pmd)->pte_notes, slot, PTE_NOTES_TAG);
}

static bool is_switching(struct table *t)
{
	return test_bit(PTE_REF_SWITCHING, &t->ref->state) &&
	       !test_bit(PTE_REF_SWITCHED, &t->ref->state);
}

/*
 * Will the work look at the table?  If it is about to, it finds the VMA locked and makes
 * the mark again.
 */
static void expect_noted(struct table *t)
{
	unsigned long end = jiffies + 20 * HZ;

	while (!is_marked(t) && time_before(jiffies, end))
		usleep_range(50, 200);
	KUNIT_EXPECT_TRUE(t->test, is_marked(t));
	KUNIT_EXPECT_NE(t->test, atomic_read(&t->mm->pte_ref.state) & MM_PTE_REF_WORK, 0);
}

/* Users of the mapping: fault a page in, and give it back. */
static void touch(struct table *t, unsigned long addr, u64 value)
{
	KUNIT_EXPECT_EQ(t->test, copy_to_user((void __user *)addr, &value,
					      sizeof(value)), 0);
}

static void zap(struct table *t, unsigned long addr, unsigned long len)
{
	KUNIT_EXPECT_EQ(t->test, do_madvise(t->mm, addr, len, MADV_DONTNEED), 0);
}

/* As a fault, which counts first, or as fault-around, which counts what it did. */
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

/* Entries */

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

/* A table has no ref until somebody needs it, and is counted all the same. */
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
	KUNIT_EXPECT_NULL(test, pte_ref_tryget(bare.pmd));
	KUNIT_EXPECT_FALSE(test, try_to_free(&bare));
	KUNIT_EXPECT_FALSE(test, free_user_pte(t->mm, bare.pmd, bare.addr));
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
	KUNIT_EXPECT_TRUE(test, free_user_pte(t->mm, bare.pmd, bare.addr));
	unlock_table(t);
}

static void user_makes_the_ref(struct kunit *test)
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
		ref = pte_ref_hold(t->mm, bare.pmd, bare.addr);
		KUNIT_EXPECT_NOT_NULL(test, ref);
		KUNIT_EXPECT_PTR_NE(test, ref, &pte_ref_none);
		KUNIT_EXPECT_PTR_EQ(test, ref, bare.ptdesc->pte_ref);
		bare.ref = ref;
		expect_count(&bare, nr, 1);
		KUNIT_EXPECT_PTR_EQ(test, ref, pte_ref_tryget(bare.pmd));
		expect_count(&bare, nr, 2);
		clear_table(&bare);
		expect_count(&bare, 0, 2);
		pte_ref_put(ref);
		KUNIT_EXPECT_FALSE(test, free_user_pte(t->mm, bare.pmd, bare.addr));
		pte_ref_put(ref);
		expect_count(&bare, 0, 0);
		KUNIT_EXPECT_TRUE(test, free_user_pte(t->mm, bare.pmd, bare.addr));
		unlock_table(t);
	}
}

static void tryget_makes_the_ref(struct kunit *test)
{
	struct table *t = test->priv;
	struct table bare = *t;

	bare.addr += PMD_SIZE;
	lock_table(t);
	link_bare_table(&bare);
	KUNIT_EXPECT_TRUE(test, pte_ref_empty(bare.pmd));
	KUNIT_EXPECT_FALSE(test, pte_tryget(t->mm, bare.pmd, bare.addr));
	KUNIT_EXPECT_PTR_EQ(test, bare.ptdesc->pte_ref, &pte_ref_none);
	set_entry(&bare, SWAP, 3);
	KUNIT_EXPECT_FALSE(test, pte_ref_empty(bare.pmd));
	KUNIT_EXPECT_TRUE(test, pte_tryget(t->mm, bare.pmd, bare.addr));
	bare.ref = bare.ptdesc->pte_ref;
	expect_count(&bare, 1, 1);
	clear_entry(&bare, 3);
	expect_count(&bare, 0, 1);
	KUNIT_EXPECT_TRUE(test, pte_ref_empty(bare.pmd));
	KUNIT_EXPECT_FALSE(test, try_to_free(&bare));
	__pte_put(pmd_pgtable(*bare.pmd));
	expect_count(&bare, 0, 0);
	KUNIT_EXPECT_TRUE(test, try_to_free(&bare));
	KUNIT_EXPECT_FALSE(test, pte_ref_empty(bare.pmd));
	unlock_table(t);
}

#define FAULT_BESIDE(t)	{ .vma = (t)->vma, .address = (t)->addr + PMD_SIZE }

/* Another table, without a ref.  mmap_lock is held then. */
static void link_beside(struct table *t, struct table *bare)
{
	*bare = *t;
	bare->addr += PMD_SIZE;
	lock_table(t);
	link_bare_table(bare);
}

/*
 * A fault that asks a file, and that is not of user mode, holds its table if others could
 * free it.
 */
static void hold_of_a_fault(struct kunit *test)
{
	struct table *t = test->priv;
	struct vm_fault vmf = FAULT_BESIDE(t);
	struct table bare;

	link_beside(t, &bare);
	vmf.pmd = bare.pmd;

	/* The work does, when there is something to look at. */
	vmf_hold_pte_table(&vmf);
	KUNIT_EXPECT_NULL(test, vmf.pte_ref);
	pte_ref_note(t->mm, bare.addr);
	vmf_hold_pte_table(&vmf);
	KUNIT_EXPECT_NOT_NULL(test, vmf.pte_ref);
	KUNIT_EXPECT_FALSE(test, free_user_pte(t->mm, bare.pmd, bare.addr));
	vmf_put_pte_table(&vmf);
	KUNIT_EXPECT_NULL(test, vmf.pte_ref);
	KUNIT_EXPECT_TRUE(test, free_user_pte(t->mm, bare.pmd, bare.addr));
	mmget(t->mm);
	vmf_hold_pte_table(&vmf);
	KUNIT_EXPECT_NULL(test, vmf.pte_ref);

	link_bare_table(&bare);
	vmf.flags = FAULT_FLAG_USER;
	vmf_hold_pte_table(&vmf);
	KUNIT_EXPECT_NULL(test, vmf.pte_ref);
	vmf.flags = 0;

	/* It had entries then, and has none when the fault is back. */
	set_entry(&bare, SWAP, 3);
	vmf_hold_pte_table(&vmf);
	KUNIT_EXPECT_NOT_NULL(test, vmf.pte_ref);
	clear_entry(&bare, 3);
	KUNIT_EXPECT_FALSE(test, free_user_pte(t->mm, bare.pmd, bare.addr));

	/* Not one reference more each time that the file is asked. */
	vmf_hold_pte_table(&vmf);
	vmf_hold_pte_table(&vmf);
	mmput(t->mm);
	KUNIT_EXPECT_NOT_NULL(test, vmf.pte_ref);
	KUNIT_EXPECT_FALSE(test, free_user_pte(t->mm, bare.pmd, bare.addr));
	vmf_put_pte_table(&vmf);
	KUNIT_EXPECT_TRUE(test, free_user_pte(t->mm, bare.pmd, bare.addr));
	unlock_table(t);
}

/* And the table that it links itself. */
static void install_of_a_fault(struct kunit *test)
{
	struct table *t = test->priv;
	struct vm_fault vmf = FAULT_BESIDE(t);
	struct table bare;

	link_beside(t, &bare);
	vmf.pmd = bare.pmd;
	KUNIT_EXPECT_TRUE(test, free_user_pte(t->mm, bare.pmd, bare.addr));

	mmget(t->mm);
	vmf.prealloc_pte = pte_alloc_one(t->mm);
	KUNIT_ASSERT_NOT_NULL(test, vmf.prealloc_pte);
	vmf_install_pte_table(&vmf);
	mmput(t->mm);
	KUNIT_EXPECT_NULL(test, vmf.prealloc_pte);
	KUNIT_EXPECT_NOT_NULL(test, vmf.pte_ref);
	KUNIT_EXPECT_FALSE(test, free_user_pte(t->mm, bare.pmd, bare.addr));
	vmf_put_pte_table(&vmf);
	KUNIT_EXPECT_TRUE(test, free_user_pte(t->mm, bare.pmd, bare.addr));
	unlock_table(t);
}

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
	/* In use again, and once more. */
	set_entry(&bare, SWAP, 5);
	clear_entry(&bare, 5);
	KUNIT_EXPECT_PTR_EQ(test, bare.ptdesc->pte_ref, &pte_ref_none);
	KUNIT_EXPECT_EQ(test, pte_ref_read(bare.ptdesc), 0);
	unlock_table(t);
	pte_ref_flush(t->mm);
	KUNIT_EXPECT_FALSE(test, is_linked(&bare));
}

static void other_tables_have_no_ref(struct kunit *test)
{
	struct table *t = test->priv;
	pte_t *ptep;

	unsigned long slot = virt_to_ptdesc(t->pmd)->pte_notes;

	KUNIT_EXPECT_TRUE(test, !slot || slot & PTE_NOTES_TAG);
	KUNIT_EXPECT_NULL(test, page_ptdesc(virt_to_page(t->mm->pgd))->pte_ref);

	ptep = pte_alloc_one_kernel(&init_mm);
	KUNIT_ASSERT_NOT_NULL(test, ptep);
	KUNIT_EXPECT_NULL(test, page_ptdesc(virt_to_page(ptep))->pte_ref);
	set_pte_at(&init_mm, PAGE_OFFSET, ptep, make_entry(t, SWAP, 0));
	pte_clear(&init_mm, PAGE_OFFSET, ptep);
	pte_free_kernel(&init_mm, ptep);
}

/* What an entry can be made of, and by what it can be cleared. */
static void kinds_of_entries(struct kunit *test)
{
	enum entry_kind kind = *(const enum entry_kind *)test->param_value;
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
		set_entry(t, kinds[i], 0);
		expect_count(t, 2, 0);
		set_entry(t, kind, 0);
		expect_count(t, 2, 0);
	}

	for (op = OP_PTE_CLEAR; op < OP_MODIFY_PROT; op++) {
		if (kind_is_present(kind) ?
		    op == OP_PTE_CLEAR || op == OP_CLEAR_NONPRESENT :
		    op >= OP_CLEAR)
			continue;
		/* Then nobody asks for the count, and it may be left out. */
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

static void kind_to_desc(const enum entry_kind *kind, char *desc)
{
	strscpy(desc, kind_names[*kind], KUNIT_PARAM_DESC_SIZE);
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

/* Batches */

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

static void batch_counted_by_the_caller(struct kunit *test)
{
	struct table *t = test->priv;

	lock_table(t);
	/* Nothing was filled: this is not the moment to have the table looked at. */
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

/* Transitions that keep the count */

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

/*
 * What takes the only entry of a table away to write another one brings the count to
 * zero for a moment, which notes the table.  The work must find it in use.  COW and
 * mprotect() count nothing, so they do not even that.
 */
static void passing_zero_keeps_the_table(struct kunit *test)
{
	struct table *t = test->priv;

	lock_table(t);
	set_entry(t, PRESENT, 8);
	do_op(t, OP_MODIFY_PROT, 8, 1);
	KUNIT_EXPECT_FALSE(test, is_marked(t));
	do_op(t, OP_CLEAR_FLUSH_SET, 8, 1);
	expect_noted(t);
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

/* fork() must not leave out what rmap is about to replace. */
static void passing_zero_is_not_empty(struct kunit *test)
{
	struct table *t = test->priv;
	struct passing p = { .t = t };
	struct task_struct *task;
	unsigned long end;

	if (num_online_cpus() < 2)
		kunit_skip(test, "needs two CPUs, one is online");

	init_completion(&p.done);
	lock_table(t);
	KUNIT_EXPECT_TRUE(test, pte_ref_empty_locked(t->mm, t->pmd, t->addr));
	set_entry(t, PRESENT, 0);
	KUNIT_EXPECT_FALSE(test, pte_ref_empty_locked(t->mm, t->pmd, t->addr));
	task = kthread_run(pass_zero_fn, &p, "pte_ref_zero");
	if (IS_ERR(task)) {
		KUNIT_FAIL(test, "no thread");
		goto out;
	}
	end = jiffies + 20 * HZ;
	/* Pairs with pass_zero_fn(). */
	while (!smp_load_acquire(&p.at_zero) && time_before(jiffies, end))
		usleep_range(50, 200);
	KUNIT_EXPECT_FALSE(test, pte_ref_empty_locked(t->mm, t->pmd, t->addr));
	wait_for_completion(&p.done);
out:
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

/* Users */

static void tryget_against_zero(struct kunit *test)
{
	struct table *t = test->priv;
	struct pte_ref *ref;

	lock_table(t);
	KUNIT_EXPECT_NULL(test, pte_ref_tryget(t->pmd));
	KUNIT_EXPECT_FALSE(test, pte_tryget(t->mm, t->pmd, t->addr));
	expect_count(t, 0, 0);

	set_entry(t, MARKER_GUARD, 9);
	ref = pte_ref_tryget(t->pmd);
	KUNIT_EXPECT_PTR_EQ(test, ref, t->ref);
	expect_count(t, 1, 1);
	/* A user keeps the table, entries or not. */
	clear_entry(t, 9);
	expect_count(t, 0, 1);
	KUNIT_EXPECT_TRUE(test, pte_tryget(t->mm, t->pmd, t->addr));
	expect_count(t, 0, 2);
	__pte_put(pmd_pgtable(*t->pmd));
	expect_count(t, 0, 1);
	pte_ref_put(ref);
	expect_count(t, 0, 0);

	KUNIT_EXPECT_NULL(test, pte_ref_tryget(t->pmd));
	pte_ref_put(NULL);
	expect_count(t, 0, 0);
	unlock_table(t);
}

/* Under the PMD lock one can become a user of a table whose count is zero. */
static void hold_at_zero(struct kunit *test)
{
	struct table *t = test->priv;
	struct pte_ref *ref;

	lock_table(t);
	ref = pte_ref_hold(t->mm, t->pmd, t->addr);
	KUNIT_EXPECT_PTR_EQ(test, ref, t->ref);
	expect_count(t, 0, 1);
	KUNIT_EXPECT_FALSE(test, free_user_pte(t->mm, t->pmd, t->addr));
	KUNIT_EXPECT_TRUE(test, is_linked(t));
	set_entry(t, PRESENT, 3);
	KUNIT_EXPECT_PTR_EQ(test, pte_ref_hold(t->mm, t->pmd, t->addr), ref);
	expect_count(t, 1, 2);
	clear_entry(t, 3);
	pte_ref_put(ref);
	pte_ref_put(ref);
	expect_count(t, 0, 0);

	KUNIT_EXPECT_TRUE(test, free_user_pte(t->mm, t->pmd, t->addr));
	KUNIT_EXPECT_NULL(test, pte_ref_hold(t->mm, t->pmd, t->addr));
	unlock_table(t);
}

/* A table that is allocated with a user stays until it is put. */
static void alloc_hold(struct kunit *test)
{
	struct table *t = test->priv;
	struct pte_ref *ref, *again;
	unsigned long bytes;

	lock_table(t);
	bytes = mm_pgtables_bytes(t->mm);
	KUNIT_EXPECT_TRUE(test, free_user_pte(t->mm, t->pmd, t->addr));
	KUNIT_EXPECT_EQ(test, pte_alloc_hold(t->mm, t->pmd, t->addr, &ref), 0);
	KUNIT_EXPECT_EQ(test, mm_pgtables_bytes(t->mm), bytes);
	KUNIT_EXPECT_NOT_NULL(test, ref);
	KUNIT_EXPECT_PTR_EQ(test, page_ptdesc(pmd_pgtable(*t->pmd))->pte_ref,
			    ref);
	KUNIT_EXPECT_FALSE(test, free_user_pte(t->mm, t->pmd, t->addr));
	/* One that is there is held, not made again. */
	KUNIT_EXPECT_EQ(test, pte_alloc_hold(t->mm, t->pmd, t->addr, &again), 0);
	KUNIT_EXPECT_PTR_EQ(test, again, ref);
	pte_ref_put(ref);
	KUNIT_EXPECT_FALSE(test, free_user_pte(t->mm, t->pmd, t->addr));
	pte_ref_put(again);
	KUNIT_EXPECT_TRUE(test, free_user_pte(t->mm, t->pmd, t->addr));
	unlock_table(t);
}

/* Whatever moment a table is freed at, who asked for a locked one gets it. */
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
			free_user_pte(t->mm, t->pmd, t->addr);
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

/* What zap_pte_range() does with an entry. */
static void zap_entry(struct table *t, unsigned int i, bool note)
{
	int populated = t->ptdesc->pte_populated;
	bool marked = is_marked(t);
	spinlock_t *ptl = NULL;
	pte_t *ptep;

	ptep = pte_offset_map_lock(t->mm, t->pmd, t->addr, &ptl);
	if (!ptep) {
		KUNIT_FAIL(t->test, "the table is gone");
		return;
	}
	pte_get_locked(t->mm, t->addr, ptep);
	KUNIT_EXPECT_EQ(t->test, t->ptdesc->pte_populated, populated + 1);
	ptep_clear(t->mm, entry_addr(t, i), ptep + i);
	KUNIT_EXPECT_GE(t->test, t->ptdesc->pte_populated, 1);
	KUNIT_EXPECT_TRUE(t->test, is_marked(t) == marked);
	pte_put_locked(t->mm, t->addr, ptep, note);
	pte_unmap_unlock(ptep, ptl);
}

/* A zap that looks at the table itself need not have it noted. */
static void reference_of_a_zap(struct kunit *test)
{
	struct table *t = test->priv;
	struct pte_ref *ref;

	lock_table(t);
	set_entries(t, SWAP, 9, 2);
	zap_entry(t, 9, true);
	expect_count(t, 1, 0);
	KUNIT_EXPECT_FALSE(test, is_marked(t));
	zap_entry(t, 10, false);
	expect_count(t, 0, 0);
	KUNIT_EXPECT_FALSE(test, is_marked(t));
	/* It was empty before. */
	zap_entry(t, 10, false);
	expect_count(t, 0, 0);
	KUNIT_EXPECT_FALSE(test, is_marked(t));

	/* Beside a user, whose put notes it. */
	set_entry(t, SWAP, 9);
	ref = pte_ref_tryget(t->pmd);
	zap_entry(t, 9, false);
	expect_count(t, 0, 1);
	KUNIT_EXPECT_FALSE(test, is_marked(t));
	pte_ref_put(ref);
	expect_noted(t);
	unlock_table(t);
	pte_ref_flush(t->mm);
	KUNIT_EXPECT_FALSE(test, is_linked(t));
}

static void zap_of_a_part_notes(struct kunit *test)
{
	struct table *t = test->priv;
	bool entry;

	for (entry = true;; entry = false) {
		lock_table(t);
		link_table(t);
		if (entry)
			set_entry(t, SWAP, 9);
		zap_entry(t, 9, true);
		expect_noted(t);
		expect_count(t, 0, 0);
		unlock_table(t);
		pte_ref_flush(t->mm);
		KUNIT_EXPECT_FALSE(test, is_linked(t));
		if (!entry)
			break;
	}
}

/* In percpu mode the reference of a zap is counted as any other. */
static void zap_in_percpu_mode(struct kunit *test)
{
	struct table *t = test->priv;

	lock_table(t);
	set_entry(t, SWAP, 9);
	KUNIT_EXPECT_EQ(test, pte_ref_attach(t->ref, GFP_KERNEL), 0);
	zap_entry(t, 9, false);
	start_switch(t);
	expect_count(t, 0, 0);
	unlock_table(t);
}

static void users_are_counted(struct kunit *test)
{
	struct table *t = test->priv;
	unsigned long flags;
	spinlock_t *ptl = NULL;
	pte_t *ptep;
	int i;

	lock_table(t);
	set_entries(t, PRESENT, 0, 3);
	for (i = 1; i <= 100; i++) {
		KUNIT_EXPECT_TRUE(test, pte_tryget(t->mm, t->pmd, t->addr));
		expect_count(t, 3, i);
	}
	/* pte_put() takes any entry, with interrupts off or not. */
	ptep = pte_offset_map_lock(t->mm, t->pmd, entry_addr(t, 77), &ptl);
	if (ptep) {
		local_irq_save(flags);
		for (i = 0; i < 50; i++)
			pte_put(ptep + i);
		local_irq_restore(flags);
		for (; i < 100; i++)
			pte_put(ptep);
		pte_unmap_unlock(ptep, ptl);
	}
	expect_count(t, 3, 0);
	clear_table(t);
	unlock_table(t);
}

/* Free */

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
		set_entry(t, kinds[i % ARRAY_SIZE(kinds)], i);
	for (i = 0; i < PTRS_PER_PTE; i += 37) {
		/* Not worth an attempt. */
		KUNIT_EXPECT_FALSE(test, try_to_free(t));
		KUNIT_EXPECT_EQ(test, vm_event(PTE_REF_BUSY), busy);
		KUNIT_EXPECT_FALSE(test, free_user_pte(t->mm, t->pmd, t->addr));
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

	/* Nothing there: nothing to do, nothing to count. */
	KUNIT_EXPECT_FALSE(test, try_to_free(t));
	KUNIT_EXPECT_NULL(test, pte_ref_tryget(t->pmd));
	KUNIT_EXPECT_EQ(test, vm_event(PTE_REF_BUSY), busy);
	unlock_table(t);

	pte_ref_flush(t->mm);
	KUNIT_EXPECT_EQ(test, watched(&t->watch), 1);
}

static void fresh_table_can_be_freed(struct kunit *test)
{
	struct table *t = test->priv;

	lock_table(t);
	KUNIT_EXPECT_TRUE(test, free_user_pte(t->mm, t->pmd, t->addr));
	KUNIT_EXPECT_TRUE(test, pmd_none(*t->pmd));
	unlock_table(t);
	pte_ref_flush(t->mm);
	KUNIT_EXPECT_EQ(test, watched(&t->watch), 1);
}

static void free_refused_to_a_user(struct kunit *test)
{
	struct table *t = test->priv;
	unsigned long deferred = vm_event(PTE_REF_FREE_DEFERRED);
	struct pte_ref *ref;
	unsigned long busy;

	lock_table(t);
	set_entry(t, PRESENT, 0);
	ref = pte_ref_tryget(t->pmd);
	clear_entry(t, 0);
	busy = vm_event(PTE_REF_BUSY);
	KUNIT_EXPECT_FALSE(test, try_to_free(t));
	KUNIT_EXPECT_EQ(test, vm_event(PTE_REF_BUSY), busy + 1);
	KUNIT_EXPECT_FALSE(test, free_user_pte(t->mm, t->pmd, t->addr));
	KUNIT_EXPECT_EQ(test, vm_event(PTE_REF_BUSY), busy + 2);
	unlock_table(t);
	pte_ref_flush(t->mm);
	KUNIT_EXPECT_TRUE(test, is_linked(t));
	KUNIT_EXPECT_EQ(test, vm_event(PTE_REF_FREE_DEFERRED), deferred);

	/* The put notes it. */
	pte_ref_put(ref);
	pte_ref_flush(t->mm);
	KUNIT_EXPECT_FALSE(test, is_linked(t));
	KUNIT_EXPECT_EQ(test, vm_event(PTE_REF_FREE_DEFERRED), deferred + 1);
	KUNIT_EXPECT_EQ(test, watched(&t->watch), 1);
}

/* To clear the last entry is enough to have the table noted. */
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
	/* The work finds the VMA locked, and comes again. */
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
	/* This machine may not be idle. */
	end = jiffies + 10 * HZ;
	while (is_linked(t) && time_before(jiffies, end))
		msleep(20);
	KUNIT_EXPECT_FALSE(test, is_linked(t));
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
	/* Nothing there that could be noted. */
	pte_ref_note(t->mm, 0);
	unlock_table(t);
	pte_ref_flush(t->mm);

	lock_table(t);
	for (i = 0; i < ARRAY_SIZE(tables); i++)
		KUNIT_EXPECT_EQ(test, is_linked(&tables[i]), i != 1);
	/* The notes of a PMD table stay when there is more to note. */
	KUNIT_EXPECT_FALSE(test, is_marked(t));
	clear_table(&tables[2]);
	expect_noted(t);
	clear_table(t);
	unlock_table(t);
}

/* mremap() of whole tables: the empty ones are looked for where they are now. */
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

/* free_pgtables() reads the entries of a range without a VMA without a lock. */
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

	/* Nobody else would free it. */
	addr = vm_mmap(NULL, other.addr, PMD_SIZE, PROT_READ,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, 0);
	KUNIT_EXPECT_EQ(test, addr, other.addr);
	KUNIT_EXPECT_EQ(test, vm_munmap(other.addr, PMD_SIZE), 0);
}

/* Modes */

static void attached_when_users_move(struct kunit *test)
{
	struct table *t = test->priv;
	unsigned int i;

	lock_table(t);
	set_entry(t, PRESENT, 0);
	/* Too slowly: none of these counts. */
	for (i = 0; i < 3 * PTE_REF_ATTACH_MOVES; i++) {
		WRITE_ONCE(t->ref->cpu, U16_MAX);
		WRITE_ONCE(t->ref->second, t->ref->second - 1);
		pte_ref_put(pte_ref_tryget(t->pmd));
		KUNIT_EXPECT_FALSE(test, pte_ref_is_percpu(t->ref));
	}
	KUNIT_EXPECT_LE(test, t->ref->moves, 1);

	/* One was counted above; when the second is over it starts again. */
	for (i = 1; i < 10 * PTE_REF_ATTACH_MOVES; i++) {
		if (pte_ref_is_percpu(t->ref))
			break;
		WRITE_ONCE(t->ref->cpu, U16_MAX);
		pte_ref_put(pte_ref_tryget(t->pmd));
	}
	KUNIT_EXPECT_GE(test, i, PTE_REF_ATTACH_MOVES);
	KUNIT_EXPECT_TRUE(test, pte_ref_is_percpu(t->ref));
	start_switch(t);
	expect_count(t, 1, 0);

	/* Never again. */
	for (i = 0; i < 3 * PTE_REF_ATTACH_MOVES; i++) {
		WRITE_ONCE(t->ref->cpu, U16_MAX);
		pte_ref_put(pte_ref_tryget(t->pmd));
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
	KUNIT_EXPECT_EQ(test, pte_ref_attach(t->ref, GFP_KERNEL), 0);
	KUNIT_EXPECT_TRUE(test, pte_ref_is_percpu(t->ref));
	KUNIT_EXPECT_EQ(test, pte_ref_attach(t->ref, GFP_KERNEL), -EBUSY);
	KUNIT_EXPECT_TRUE(test, pte_ref_start_switch(t->ref));
	KUNIT_EXPECT_FALSE(test, pte_ref_is_percpu(t->ref));
	KUNIT_EXPECT_EQ(test, pte_ref_attach(t->ref, GFP_KERNEL), -EBUSY);
	KUNIT_EXPECT_FALSE(test, pte_ref_start_switch(t->ref));
	rcu_barrier();
	KUNIT_EXPECT_TRUE(test, test_bit(PTE_REF_SWITCHED, &t->ref->state));
	KUNIT_EXPECT_EQ(test, pte_ref_attach(t->ref, GFP_KERNEL), -EBUSY);
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
	start_switch(t);
	expect_count(t, 1, 0);
	KUNIT_EXPECT_EQ(test, pte_ref_attach(t->ref, GFP_KERNEL), -EBUSY);
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
	ref[0] = pte_ref_tryget(t->pmd);
	KUNIT_EXPECT_EQ(test, pte_ref_attach(t->ref, GFP_KERNEL), 0);
	for (i = 1; i < ARRAY_SIZE(ref); i++)
		ref[i] = pte_ref_tryget(t->pmd);
	clear_table(t);
	set_entries(t, PRESENT, 100, 5);
	pte_ref_put(ref[0]);
	start_switch(t);
	expect_count(t, 5, ARRAY_SIZE(ref) - 1);
	for (i = 1; i < ARRAY_SIZE(ref); i++) {
		KUNIT_EXPECT_PTR_EQ(test, ref[i], t->ref);
		pte_ref_put(ref[i]);
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
	KUNIT_EXPECT_EQ(test, pte_ref_attach(t->ref, GFP_KERNEL), 0);
	switches = vm_event(PTE_REF_SWITCH);
	busy = vm_event(PTE_REF_BUSY);
	deferred = vm_event(PTE_REF_FREE_DEFERRED);
	KUNIT_EXPECT_FALSE(test, try_to_free(t));
	KUNIT_EXPECT_TRUE(test, pte_ref_is_percpu(t->ref));
	KUNIT_EXPECT_EQ(test, vm_event(PTE_REF_SWITCH), switches);
	KUNIT_EXPECT_EQ(test, vm_event(PTE_REF_BUSY), busy);

	clear_entry(t, 0);
	KUNIT_EXPECT_FALSE(test, free_user_pte(t->mm, t->pmd, t->addr));
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

/* In percpu mode no put sees zero: that the last entry goes has to do. */
static void percpu_table_is_noted(struct kunit *test)
{
	struct table *t = test->priv;

	lock_table(t);
	set_entry(t, PRESENT, 0);
	KUNIT_EXPECT_EQ(test, pte_ref_attach(t->ref, GFP_KERNEL), 0);
	clear_entry(t, 0);
	unlock_table(t);
	pte_ref_flush(t->mm);
	KUNIT_EXPECT_FALSE(test, is_linked(t));
	KUNIT_EXPECT_EQ(test, watched(&t->watch), 1);
}

/* Filled again while its switch is pending. */
static void refilled_during_switch(struct kunit *test)
{
	struct table *t = test->priv;
	unsigned long deferred = vm_event(PTE_REF_FREE_DEFERRED);

	lock_table(t);
	set_entry(t, PRESENT, 0);
	KUNIT_EXPECT_EQ(test, pte_ref_attach(t->ref, GFP_KERNEL), 0);
	clear_entry(t, 0);
	KUNIT_EXPECT_FALSE(test, try_to_free(t));
	set_entry(t, PRESENT, 1);
	unlock_table(t);
	pte_ref_flush(t->mm);

	lock_table(t);
	KUNIT_EXPECT_TRUE(test, is_linked(t));
	KUNIT_EXPECT_EQ(test, vm_event(PTE_REF_FREE_DEFERRED), deferred);
	expect_count(t, 1, 0);
	clear_entry(t, 1);
	unlock_table(t);
	pte_ref_flush(t->mm);
	KUNIT_EXPECT_FALSE(test, is_linked(t));
	KUNIT_EXPECT_EQ(test, vm_event(PTE_REF_FREE_DEFERRED), deferred + 1);
}

/*
 * Filled while its switch is pending, so that the work has seen it in use, and emptied
 * before the switch is over, so that no put sees zero.
 */
static void emptied_during_switch(struct kunit *test)
{
	struct table *t = test->priv;

	lock_table(t);
	set_entry(t, PRESENT, 0);
	KUNIT_EXPECT_EQ(test, pte_ref_attach(t->ref, GFP_KERNEL), 0);
	clear_entry(t, 0);
	KUNIT_EXPECT_FALSE(test, is_switching(t));
	/* Holds off the end of the switch. */
	rcu_read_lock();
	KUNIT_EXPECT_FALSE(test, try_to_free(t));
	KUNIT_EXPECT_TRUE(test, is_switching(t));
	set_entry(t, PRESENT, 1);
	/* As the work does when it finds nothing. */
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

/* References wander through slots, and so from CPU to CPU. */
#define NR_SLOTS	64

struct users {
	pmd_t			*pmd;
	struct pte_ref		**slots;
	struct task_struct	*task;
	unsigned long		done;
	unsigned long		failed;
	u64			seed;
};

static int users_fn(void *arg)
{
	struct users *u = arg;
	struct rnd_state rnd;

	prandom_seed_state(&rnd, u->seed);
	while (!kthread_should_stop()) {
		int i;

		for (i = 0; i < 64; i++) {
			u32 r = prandom_u32_state(&rnd);
			struct pte_ref *ref = NULL;

			if (r & 1) {
				ref = pte_ref_tryget(u->pmd);
				if (!ref)
					u->failed++;
			}
			ref = xchg(&u->slots[(r >> 1) % NR_SLOTS], ref);
			pte_ref_put(ref);
		}
		u->done++;
		cond_resched();
	}
	return 0;
}

/* One on each CPU; NULL if there is no memory. */
static struct users *start_users(struct table *t)
{
	struct pte_ref **slots;
	struct users *users;
	int cpu;

	users = kunit_kcalloc(t->test, nr_cpu_ids, sizeof(*users), GFP_KERNEL);
	slots = kunit_kcalloc(t->test, NR_SLOTS, sizeof(*slots), GFP_KERNEL);
	if (!users || !slots) {
		KUNIT_FAIL(t->test, "no memory");
		return NULL;
	}
	for_each_online_cpu(cpu) {
		struct users *u = &users[cpu];

		u->pmd = t->pmd;
		u->slots = slots;
		u->seed = cpu + 1;
		u->task = kthread_create(users_fn, u, "pte_ref/%d", cpu);
		if (IS_ERR(u->task)) {
			KUNIT_FAIL(t->test, "no thread for CPU %d", cpu);
			u->task = NULL;
			continue;
		}
		kthread_bind(u->task, cpu);
		wake_up_process(u->task);
	}
	return users;
}

/* Waits until each of them went on by so many rounds. */
static void let_users_run(struct table *t, struct users *users,
			  unsigned long rounds)
{
	unsigned long end = jiffies + 20 * HZ;
	int cpu;

	for_each_online_cpu(cpu) {
		unsigned long done = READ_ONCE(users[cpu].done) + rounds;

		while (users[cpu].task && READ_ONCE(users[cpu].done) < done &&
		       time_before(jiffies, end))
			usleep_range(50, 200);
		KUNIT_EXPECT_GE(t->test, READ_ONCE(users[cpu].done), done);
	}
}

static void stop_users(struct users *users)
{
	int cpu;

	for_each_online_cpu(cpu)
		if (users[cpu].task)
			kthread_stop(users[cpu].task);
}

static struct pte_ref **users_slots(struct users *users)
{
	return users[cpumask_first(cpu_online_mask)].slots;
}

static unsigned int users_held(struct table *t, struct users *users)
{
	unsigned int i, held = 0;

	for (i = 0; i < NR_SLOTS; i++) {
		struct pte_ref *ref = users_slots(users)[i];

		if (!ref)
			continue;
		KUNIT_EXPECT_PTR_EQ(t->test, ref, t->ref);
		held++;
	}
	return held;
}

static void users_put(struct users *users)
{
	unsigned int i;

	for (i = 0; i < NR_SLOTS; i++)
		pte_ref_put(xchg(&users_slots(users)[i], NULL));
}

static void switch_under_load(struct kunit *test)
{
	struct table *t = test->priv;
	struct users *users;
	unsigned int held, i;
	unsigned long end;

	if (num_online_cpus() < 2)
		kunit_skip(test, "needs two CPUs, one is online");

	lock_table(t);
	set_entry(t, MARKER_GUARD, 0);
	users = start_users(t);
	if (!users)
		goto out;
	/* Users on several CPUs are what counters are attached for. */
	end = jiffies + 20 * HZ;
	while (!pte_ref_is_percpu(t->ref) && time_before(jiffies, end))
		usleep_range(50, 200);
	KUNIT_EXPECT_TRUE(test, pte_ref_is_percpu(t->ref));
	for (i = 0; i < 50; i++) {
		set_entries(t, SWAP, 1 + i * 10, 10);
		do_op(t, OP_CLEAR_NONPRESENT, 1 + i * 10, 5);
	}
	let_users_run(t, users, 10);
	KUNIT_EXPECT_TRUE(test, pte_ref_start_switch(t->ref));
	let_users_run(t, users, 10);
	do_op(t, OP_CLEAR_NONPRESENT, 1, 300);
	rcu_barrier();
	KUNIT_EXPECT_TRUE(test, test_bit(PTE_REF_SWITCHED, &t->ref->state));
	let_users_run(t, users, 10);
	KUNIT_EXPECT_FALSE(test, pte_ref_is_percpu(t->ref));
	stop_users(users);

	held = users_held(t, users);
	expect_count(t, 101, held);
	for_each_online_cpu(i)
		KUNIT_EXPECT_EQ(test, users[i].failed, 0);
	clear_table(t);
	expect_count(t, 0, held);
	KUNIT_EXPECT_EQ(test, try_to_free(t), !held);
	users_put(users);
	if (held)
		KUNIT_EXPECT_TRUE(test, try_to_free(t));
out:
	unlock_table(t);
	pte_ref_flush(t->mm);
	KUNIT_EXPECT_EQ(test, watched(&t->watch), 1);
}

/* Lifetime */

static void dies_with_its_mm(struct kunit *test)
{
	struct table *t = test->priv;

	/* Queued, then gone; the rest is seen in pte_ref_test_exit(). */
	lock_table(t);
	set_entry(t, SWAP, 0);
	clear_entry(t, 0);
	unlock_table(t);
}

static void dies_with_its_mm_in_percpu_mode(struct kunit *test)
{
	struct table *t = test->priv;

	touch(t, t->addr, 1);
	KUNIT_EXPECT_EQ(test, pte_ref_attach(t->ref, GFP_KERNEL), 0);
	KUNIT_EXPECT_TRUE(test, pte_ref_is_percpu(t->ref));
}

static void dies_with_its_mm_during_switch(struct kunit *test)
{
	struct table *t = test->priv;

	lock_table(t);
	set_entry(t, SWAP, 0);
	KUNIT_EXPECT_EQ(test, pte_ref_attach(t->ref, GFP_KERNEL), 0);
	clear_entry(t, 0);
	KUNIT_EXPECT_FALSE(test, try_to_free(t));
	expect_noted(t);
	unlock_table(t);
}

/* munmap() takes the table right after its switch was started. */
static void unmapped_during_switch(struct kunit *test)
{
	struct table *t = test->priv;
	int look;

	for (look = 0; look <= 1; look++) {
		unsigned long addr = t->addr + PMD_SIZE;
		struct table other = *t;
		struct watch w = {};

		other.addr = vm_mmap(NULL, addr, PMD_SIZE, PROT_READ | PROT_WRITE,
				     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, 0);
		KUNIT_ASSERT_EQ(test, other.addr, addr);
		lock_table(&other);
		link_table(&other);
		KUNIT_EXPECT_EQ(test, watch_start(&w, other.ref), 0);
		set_entry(&other, SWAP, 0);
		KUNIT_EXPECT_EQ(test, pte_ref_attach(other.ref, GFP_KERNEL), 0);
		clear_entry(&other, 0);
		if (look)
			KUNIT_EXPECT_FALSE(test, try_to_free(&other));
		else
			KUNIT_EXPECT_TRUE(test, pte_ref_start_switch(other.ref));
		unlock_table(&other);

		KUNIT_EXPECT_EQ(test, vm_munmap(addr, PMD_SIZE), 0);
		pte_ref_flush(t->mm);
		KUNIT_EXPECT_EQ(test, watched(&w), 1);
		watch_stop(&w);
	}
}

/*
 * Users that keep their reference over munmap(), as a fault may that drops
 * mmap_lock.
 */
static void user_outlives_table(struct kunit *test)
{
	struct table *t = test->priv;
	int mode;

	for (mode = 0; mode < 4; mode++) {
		bool percpu = mode & 1, late = mode & 2;
		unsigned long addr = t->addr + PMD_SIZE;
		struct table other = *t;
		struct pte_ref *ref[2];
		struct watch w = {};

		other.addr = vm_mmap(NULL, addr, PMD_SIZE, PROT_READ | PROT_WRITE,
				     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, 0);
		KUNIT_ASSERT_EQ(test, other.addr, addr);
		touch(&other, addr, 1);
		lock_table(&other);
		link_table(&other);
		KUNIT_EXPECT_EQ(test, watch_start(&w, other.ref), 0);
		ref[0] = pte_ref_tryget(other.pmd);
		if (percpu)
			KUNIT_EXPECT_EQ(test, pte_ref_attach(other.ref, GFP_KERNEL), 0);
		ref[1] = pte_ref_tryget(other.pmd);
		unlock_table(&other);
		KUNIT_EXPECT_PTR_EQ(test, ref[0], other.ref);
		KUNIT_EXPECT_PTR_EQ(test, ref[1], other.ref);

		KUNIT_EXPECT_EQ(test, vm_munmap(addr, PMD_SIZE), 0);
		/* At once, or long after. */
		if (late)
			pte_ref_flush(t->mm);
		pte_ref_put(ref[0]);
		pte_ref_flush(t->mm);
		KUNIT_EXPECT_EQ(test, watched(&w), 0);
		KUNIT_EXPECT_TRUE(test, test_bit(PTE_REF_DEAD, &ref[1]->state));
		KUNIT_EXPECT_FALSE(test, pte_ref_is_percpu(ref[1]));
		KUNIT_EXPECT_EQ(test, atomic_long_read(&ref[1]->data.count), 1);

		pte_ref_put(ref[1]);
		pte_ref_flush(t->mm);
		KUNIT_EXPECT_EQ(test, watched(&w), 1);
		watch_stop(&w);
	}
}

/* A table that nobody unlinked: made and destroyed by hand. */
static struct pte_ref *make_table(struct table *t, struct watch *w, pgtable_t *pgtable)
{
	struct pte_ref *ref;

	*pgtable = pte_alloc_one(t->mm);
	KUNIT_ASSERT_NOT_NULL(t->test, *pgtable);
	ref = pte_ref_make(t->mm, t->addr, page_ptdesc(*pgtable));
	KUNIT_ASSERT_NOT_NULL(t->test, ref);
	KUNIT_ASSERT_EQ(t->test, watch_start(w, ref), 0);
	return ref;
}

/* Tables are destroyed with entries in them, as in exit. */
static void destroyed_with_entries(struct kunit *test)
{
	struct table *t = test->priv;
	struct watch w = {};
	struct pte_ref *ref;
	pgtable_t pgtable;
	int mode;

	for (mode = 0; mode < 8; mode++) {
		bool entries = mode & 1, percpu = mode & 2, user = mode & 4;

		ref = make_table(t, &w, &pgtable);
		if (entries)
			set_pte_at(t->mm, t->addr, page_address(pgtable),
				   make_entry(t, SWAP, 0));
		if (user)
			percpu_ref_get(&ref->ref);
		KUNIT_EXPECT_EQ(test, pte_ref_read(page_ptdesc(pgtable)),
				(int)entries + user);
		if (percpu)
			KUNIT_EXPECT_EQ(test, pte_ref_attach(ref, GFP_KERNEL), 0);
		pte_free(t->mm, pgtable);
		pte_ref_flush(t->mm);
		KUNIT_EXPECT_EQ(test, watched(&w), !user);
		if (user) {
			pte_ref_put(ref);
			pte_ref_flush(t->mm);
			KUNIT_EXPECT_EQ(test, watched(&w), 1);
		}
		watch_stop(&w);
	}
}

/* The end of the switch finds the table gone. */
static void destroyed_during_switch(struct kunit *test)
{
	struct table *t = test->priv;
	struct watch w = {};
	struct pte_ref *ref;
	pgtable_t pgtable;
	int mode;

	for (mode = 0; mode < 4; mode++) {
		bool entries = mode & 1, user = mode & 2;
		bool pending;

		ref = make_table(t, &w, &pgtable);
		if (entries)
			set_pte_at(t->mm, t->addr, page_address(pgtable),
				   make_entry(t, SWAP, 0));
		if (user)
			percpu_ref_get(&ref->ref);
		KUNIT_EXPECT_EQ(test, pte_ref_attach(ref, GFP_KERNEL), 0);
		/* Holds off the grace period of the switch. */
		rcu_read_lock();
		pte_ref_start_switch(ref);
		pte_free(t->mm, pgtable);
		pending = READ_ONCE(ref->data.confirm_switch);
		rcu_read_unlock();
		KUNIT_EXPECT_TRUE(test, pending);

		pte_ref_flush(t->mm);
		KUNIT_EXPECT_EQ(test, watched(&w), !user);
		if (user) {
			pte_ref_put(ref);
			pte_ref_flush(t->mm);
			KUNIT_EXPECT_EQ(test, watched(&w), 1);
		}
		watch_stop(&w);
	}
}

/* Counters for a ref whose table is gone would hide the last put. */
static void attach_after_death(struct kunit *test)
{
	struct table *t = test->priv;
	struct watch w = {};
	struct pte_ref *ref;
	pgtable_t pgtable;

	ref = make_table(t, &w, &pgtable);
	percpu_ref_get(&ref->ref);
	pte_free(t->mm, pgtable);
	pte_ref_attach(ref, GFP_KERNEL);
	pte_ref_put(ref);
	pte_ref_flush(t->mm);
	KUNIT_EXPECT_EQ(test, watched(&w), 1);
	watch_stop(&w);
}

/* Allocation failure */

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
 * Without memory for its ref a table is not held.  To clear its last entry, and to zap
 * it, needs none.
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
	enum { USER, LAST, ZAP, NR } who;
	unsigned int nth, left, failed[NR] = {};
	struct table bare = *t;
	struct pte_ref *ref;

	bare.addr += PMD_SIZE;
	lock_table(t);
	for (who = 0; who < NR; who++) {
		/* Fail what can fail first, second, until nothing fails. */
		for (nth = 1; nth < 20; nth++) {
			link_bare_table(&bare);
			set_entry(&bare, SWAP, 0);
			ref = NULL;
			*verbose = 0;
			*ignore = false;
			current->fail_nth = nth;
			if (who == USER)
				ref = pte_ref_hold(t->mm, bare.pmd, bare.addr);
			else if (who == LAST)
				clear_entry(&bare, 0);
			else
				zap_entry(&bare, 0, true);
			left = current->fail_nth;
			current->fail_nth = 0;
			*ignore = old_ignore;
			*verbose = old_verbose;
			atomic_set(times, old_times);

			KUNIT_EXPECT_TRUE(test, is_linked(&bare));
			bare.ref = bare.ptdesc->pte_ref;
			if (!ref)
				KUNIT_EXPECT_PTR_EQ(test, bare.ref, &pte_ref_none);
			if (who == USER && !ref)
				failed[who]++;
			if (who != USER)
				expect_noted(&bare);
			pte_ref_put(ref);
			clear_table(&bare);
			KUNIT_EXPECT_TRUE(test, try_to_free(&bare));
			if (left)
				break;
		}
		KUNIT_EXPECT_LT(test, nth, 20);
		KUNIT_EXPECT_EQ(test, failed[who], who == USER);
	}
	unlock_table(t);
}

#else

static void allocation_failure(struct kunit *test)
{
	kunit_skip(test, "needs FAILSLAB and FAULT_INJECTION_DEBUG_FS");
}

#endif

/* Counters and tracepoints */

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

	KUNIT_EXPECT_EQ(test, register_trace_pte_ref_switch(count_trace, &switches), 0);
	KUNIT_EXPECT_EQ(test, register_trace_pte_ref_free(count_trace, &freed), 0);
	KUNIT_EXPECT_EQ(test, register_trace_pte_ref_free_failed(count_trace, &failed), 0);

	lock_table(t);
	set_entry(t, PRESENT, 0);
	KUNIT_EXPECT_FALSE(test, free_user_pte(t->mm, t->pmd, t->addr));
	KUNIT_EXPECT_EQ(test, atomic_read(&failed), 1);
	KUNIT_EXPECT_EQ(test, atomic_read(&switches), 0);
	KUNIT_EXPECT_EQ(test, pte_ref_attach(t->ref, GFP_KERNEL), 0);
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

/* Real pages */

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
	/* The last one, by a zap of a part: it is freed if it stays empty. */
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
	KUNIT_EXPECT_EQ(test, do_madvise(t->mm, t->addr, 3 * PAGE_SIZE,
					 MADV_GUARD_INSTALL), 0);
	KUNIT_EXPECT_EQ(test, t->ptdesc->pte_populated, 3);
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
	ref = pte_ref_tryget(tables[1].pmd);
	KUNIT_EXPECT_PTR_EQ(test, ref, tables[1].ref);
	KUNIT_EXPECT_EQ(test, do_madvise(t->mm, tables[2].addr, PAGE_SIZE,
					 MADV_GUARD_INSTALL), 0);
	busy = vm_event(PTE_REF_BUSY);
	zap(t, t->addr, NR_TABLES * PMD_SIZE);
	for (i = 0; i < NR_TABLES; i++)
		KUNIT_EXPECT_EQ(test, is_linked(&tables[i]), i == 1 || i == 2);
	KUNIT_EXPECT_EQ(test, vm_event(PTE_REF_FREE), freed + NR_TABLES - 2);
	/* The one in use, not the one with entries. */
	KUNIT_EXPECT_EQ(test, vm_event(PTE_REF_BUSY), busy + 1);

	pte_ref_put(ref);
	pte_ref_flush(t->mm);
	for (i = 0; i < NR_TABLES; i++)
		KUNIT_EXPECT_EQ(test, is_linked(&tables[i]), i == 2);
	KUNIT_EXPECT_EQ(test, mm_pgtables_bytes(t->mm), bytes);
}

/* The work frees those of a group that are empty, and no other. */
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
	KUNIT_EXPECT_EQ(test, vm_event(PTE_REF_FREE_DEFERRED), deferred + NR_TABLES - 1);

	lock_table(t);
	clear_table(&tables[2]);
	unlock_table(t);
}

/* Threads that fault and zap pages of shared tables; each has its own pages. */
struct worker {
	struct table		*t;
	struct task_struct	*task;
	unsigned int		id;
	unsigned int		nr;
	unsigned long		rounds;
	unsigned long		failed;
	unsigned long		wrong;
	struct completion	done;
};

#define NR_ROUNDS	400

static int worker_fn(void *arg)
{
	struct worker *w = arg;
	struct mm_struct *mm = w->t->mm;
	struct rnd_state rnd;
	unsigned int i;

	kthread_use_mm(mm);
	prandom_seed_state(&rnd, w->id + 1);
	for (i = 0; i < NR_ROUNDS; i++) {
		u32 r = prandom_u32_state(&rnd);
		unsigned long addr = w->t->addr + (r & 1) * PMD_SIZE +
				     ((r >> 1) % 4 * w->nr + w->id) * PAGE_SIZE;
		u64 value = r, seen = 0;

		if (copy_to_user((void __user *)addr, &value, sizeof(value)) ||
		    copy_from_user(&seen, (void __user *)addr, sizeof(seen)))
			w->failed++;
		else if (seen != value)
			w->wrong++;
		if (do_madvise(mm, addr, PAGE_SIZE, MADV_DONTNEED))
			w->failed++;
		if (r & 0x100) {
			/* What was zapped reads as zero. */
			if (copy_from_user(&seen, (void __user *)addr, sizeof(seen)))
				w->failed++;
			else if (seen)
				w->wrong++;
			if (do_madvise(mm, addr, PAGE_SIZE, MADV_DONTNEED))
				w->failed++;
		}
		w->rounds++;
		cond_resched();
	}
	kthread_unuse_mm(mm);
	complete(&w->done);
	return 0;
}

static void fault_and_zap(struct kunit *test)
{
	struct table *t = test->priv;
	unsigned long deferred = vm_event(PTE_REF_FREE_DEFERRED);
	unsigned long bytes = mm_pgtables_bytes(t->mm);
	unsigned int nr = 2 * num_online_cpus(), i;
	struct worker *workers;

	workers = kunit_kcalloc(test, nr, sizeof(*workers), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, workers);
	for (i = 0; i < nr; i++) {
		struct worker *w = &workers[i];

		w->t = t;
		w->id = i;
		w->nr = nr;
		init_completion(&w->done);
		w->task = kthread_run(worker_fn, w, "pte_ref_zap/%u", i);
		if (IS_ERR(w->task)) {
			KUNIT_FAIL(test, "no thread");
			w->task = NULL;
		}
	}
	for (i = 0; i < nr; i++) {
		struct worker *w = &workers[i];

		if (!w->task)
			continue;
		wait_for_completion(&w->done);
		KUNIT_EXPECT_EQ(test, w->rounds, NR_ROUNDS);
		KUNIT_EXPECT_EQ(test, w->failed, 0);
		KUNIT_EXPECT_EQ(test, w->wrong, 0);
	}
	pte_ref_flush(t->mm);
	KUNIT_EXPECT_GE(test, vm_event(PTE_REF_FREE_DEFERRED), deferred + 2);
	KUNIT_EXPECT_EQ(test, mm_pgtables_bytes(t->mm), bytes - PAGE_SIZE);
}

/* A plain model */

#define MODEL_OPS	3000
#define MODEL_USERS	32

struct model {
	struct rnd_state	rnd;
	enum entry_kind		kind[PTRS_PER_PTE];
	unsigned int		entries;
	struct pte_ref		*user[MODEL_USERS];
	unsigned int		users;
	bool			percpu;
	unsigned int		freed;
	unsigned int		refused;
};

static void model_check(struct table *t, struct model *m)
{
	KUNIT_EXPECT_EQ(t->test, pte_ref_is_percpu(t->ref), m->percpu);
	KUNIT_EXPECT_EQ(t->test, t->ptdesc->pte_populated, m->entries);
	if (!m->percpu)
		KUNIT_EXPECT_EQ(t->test, pte_ref_read(t->ptdesc),
				m->entries + m->users);
}

static void model_fill(struct model *m, enum entry_kind kind, unsigned int i,
		       unsigned int nr)
{
	for (; nr; i++, nr--) {
		m->entries += !!kind - !!m->kind[i];
		m->kind[i] = kind;
	}
}

/* A run of entries from @i on that are all present, or all not. */
static unsigned int model_run(struct model *m, unsigned int i, unsigned int max,
			      bool present)
{
	unsigned int nr = 0;

	while (nr < max && i + nr < PTRS_PER_PTE &&
	       kind_is_present(m->kind[i + nr]) == present)
		nr++;
	return nr;
}

static void model_switched(struct table *t, struct model *m)
{
	rcu_barrier();
	KUNIT_EXPECT_TRUE(t->test, test_bit(PTE_REF_SWITCHED, &t->ref->state));
	m->percpu = false;
	model_check(t, m);
}

/* Free exactly if the model says zero. */
static void model_try_to_free(struct table *t, struct model *m)
{
	bool zero = !m->entries && !m->users, freed;

	freed = try_to_free(t);
	if (m->percpu && !m->entries) {
		KUNIT_EXPECT_FALSE(t->test, freed);
		model_switched(t, m);
		freed = try_to_free(t);
	}
	KUNIT_EXPECT_EQ(t->test, freed, zero);
	KUNIT_EXPECT_EQ(t->test, is_linked(t), !zero);
	if (freed) {
		m->freed++;
		link_table(t);
	} else {
		m->refused++;
	}
}

static void model_drop(struct table *t, struct model *m)
{
	if (m->users)
		pte_ref_put(m->user[--m->users]);
}

static void model_step(struct table *t, struct model *m)
{
	u32 r = prandom_u32_state(&m->rnd);
	unsigned int i = (r >> 8) % PTRS_PER_PTE;
	unsigned int nr = 1 + (r >> 20) % 64;
	enum entry_kind kind;
	enum entry_op op;

	nr = min(nr, PTRS_PER_PTE - i);
	switch (r % 32) {
	case 0 ... 5:
		kind = kinds[(r >> 17) % ARRAY_SIZE(kinds)];
		set_entry(t, kind, i);
		model_fill(m, kind, i, 1);
		break;
	case 6 ... 8:
		nr = model_run(m, i, nr, false);
		if (!nr)
			break;
		set_entries(t, PRESENT, i, nr);
		model_fill(m, PRESENT, i, nr);
		break;
	case 9 ... 11:
		op = OP_PTEP_CLEAR + (r >> 17) % 2;
		do_op(t, op, i, nr);
		model_fill(m, NONE, i, nr);
		break;
	case 12 ... 14:
		nr = model_run(m, i, nr, false);
		if (!nr)
			break;
		op = (r >> 17) % 2 ? OP_CLEAR_NONPRESENT : OP_PTE_CLEAR;
		do_op(t, op, i, nr);
		model_fill(m, NONE, i, nr);
		break;
	case 15 ... 17:
		nr = model_run(m, i, nr, true);
		if (!nr)
			break;
		do_op(t, r & BIT(17) ? OP_CLEAR : OP_GET_AND_CLEAR_BATCH, i, nr);
		model_fill(m, NONE, i, nr);
		break;
	case 18 ... 20:
		nr = model_run(m, i, nr, true);
		if (nr)
			do_op(t, OP_MODIFY_PROT + (r >> 17) % (NR_OPS - OP_MODIFY_PROT),
			      i, nr);
		break;
	case 21 ... 24:
		if (m->users == MODEL_USERS)
			break;
		/* In percpu mode zero does not show. */
		m->user[m->users] = pte_ref_tryget(t->pmd);
		if (!m->percpu || m->entries || m->users)
			KUNIT_EXPECT_EQ(t->test, !!m->user[m->users],
					m->entries || m->users);
		if (m->user[m->users])
			m->users++;
		m->percpu = pte_ref_is_percpu(t->ref);
		break;
	case 25 ... 28:
		model_drop(t, m);
		break;
	case 29:
		model_try_to_free(t, m);
		break;
	case 30:
		if ((r >> 17) % 8 == 0 && !m->percpu)
			m->percpu = !pte_ref_attach(t->ref, GFP_KERNEL);
		else if ((r >> 17) % 8 == 1 && pte_ref_start_switch(t->ref))
			model_switched(t, m);
		break;
	case 31:
		if ((r >> 17) % 4)
			break;
		/* To zero, with steps between. */
		do_op(t, OP_PTEP_CLEAR, 0, PTRS_PER_PTE);
		model_fill(m, NONE, 0, PTRS_PER_PTE);
		model_check(t, m);
		while (m->users) {
			if (m->users < 3)
				model_try_to_free(t, m);
			model_drop(t, m);
		}
		model_check(t, m);
		if (r & BIT(20))
			model_try_to_free(t, m);
		break;
	}
}

static void random_operations(struct kunit *test)
{
	u64 seed = *(const u64 *)test->param_value;
	struct table *t = test->priv;
	struct model *m;
	unsigned int i;

	m = kunit_kzalloc(test, sizeof(*m), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, m);
	prandom_seed_state(&m->rnd, seed);

	lock_table(t);
	for (i = 0; i < MODEL_OPS && test->status != KUNIT_FAILURE; i++) {
		model_step(t, m);
		model_check(t, m);
		if (!(i % 256))
			cond_resched();
	}
	if (test->status == KUNIT_FAILURE)
		kunit_err(test, "seed %llu, after %u operations", seed, i);

	clear_table(t);
	model_fill(m, NONE, 0, PTRS_PER_PTE);
	while (m->users) {
		model_try_to_free(t, m);
		model_drop(t, m);
	}
	model_try_to_free(t, m);
	unlock_table(t);
	/* It was not for nothing. */
	KUNIT_EXPECT_GT(test, m->freed, 3);
	KUNIT_EXPECT_GT(test, m->refused, 20);
}

static void seed_to_desc(const u64 *seed, char *desc)
{
	snprintf(desc, KUNIT_PARAM_DESC_SIZE, "seed %llu", *seed);
}

static const u64 seeds[] = { 1, 2, 3, 4, 5, 6 };

KUNIT_ARRAY_PARAM(seeds, seeds, seed_to_desc);

/* What it costs: make bench reads these figures from a kernel without checks. */

#define TIMED_LOOPS	2000
#define TIMED_SWITCHES	5

/* Each loop, then the same without a reference. */
enum timed {
	GET_PUT, NO_GET_PUT,
	ENTRY_COUNTED, ENTRY,
	TABLE_WITH_REF, TABLE,
	FREE_EMPTY, FREE,
	SWITCH, GRACE_PERIOD,
};

static void timed_table(struct table *t, enum timed what)
{
	pgtable_t pgtable = pte_alloc_one(t->mm);
	struct pte_ref *ref;

	if (!pgtable) {
		KUNIT_FAIL(t->test, "no memory");
		return;
	}
	if (what != TABLE) {
		ref = pte_ref_make(t->mm, t->addr, page_ptdesc(pgtable));
		if (what == SWITCH && ref) {
			percpu_ref_get(&ref->ref);
			if (!pte_ref_attach(ref, GFP_KERNEL))
				pte_ref_start_switch(ref);
			pte_ref_put(ref);
		}
	}
	if (what == SWITCH || what == GRACE_PERIOD)
		rcu_barrier();
	pte_free(t->mm, pgtable);
}

static void timed_free_rcu(struct rcu_head *head)
{
	struct ptdesc *ptdesc = container_of(head, struct ptdesc, pt_rcu_head);

	pte_free(NULL, ptdesc_page(ptdesc));
}

/* Link a table, and free it: by its count, or as one that is known to be empty. */
static void timed_free(struct table *t, enum timed what)
{
	spinlock_t *pml = NULL;

	if (pte_alloc(t->mm, t->pmd)) {
		KUNIT_FAIL(t->test, "no memory");
		return;
	}
	if (what == FREE_EMPTY) {
		KUNIT_EXPECT_TRUE(t->test, try_to_free(t));
		return;
	}
	pml = pmd_lock(t->mm, t->pmd);
	t->ptdesc = page_ptdesc(pmd_pgtable(*t->pmd));
	pmd_clear(t->pmd);
	flush_tlb_range(t->vma, t->addr, t->addr + PMD_SIZE);
	spin_unlock(pml);
	mm_dec_nr_ptes(t->mm);
	call_rcu(&t->ptdesc->pt_rcu_head, timed_free_rcu);
}

static void timed_loop(struct table *t, enum timed what, pte_t *ptep)
{
	spinlock_t *ptl = NULL;

	switch (what) {
	case GET_PUT:
	case NO_GET_PUT:
		ptep = pte_offset_map_lock(t->mm, t->pmd, t->addr, &ptl);
		if (ptep)
			pte_unmap_unlock(ptep, ptl);
		if (what == GET_PUT)
			pte_ref_put(pte_ref_tryget(t->pmd));
		break;
	case ENTRY:
		set_pte_at(&init_mm, t->addr, ptep, make_entry(t, SWAP, 0));
		pte_clear(&init_mm, t->addr, ptep);
		break;
	case ENTRY_COUNTED:
		set_pte_at(t->mm, t->addr, ptep, make_entry(t, SWAP, 0));
		pte_clear(t->mm, t->addr, ptep);
		break;
	case FREE:
	case FREE_EMPTY:
		timed_free(t, what);
		break;
	default:
		timed_table(t, what);
	}
}

/* Nanoseconds of all loops, the least of some tries. */
static u64 timed(struct table *t, enum timed what, unsigned int loops, pte_t *ptep)
{
	u64 start, best = U64_MAX;
	unsigned int i, try;

	for (try = 0; try < 7; try++) {
		start = ktime_get_ns();
		for (i = 0; i < loops; i++)
			timed_loop(t, what, ptep);
		best = min(best, ktime_get_ns() - start);
		/* Not in the time of the next try, if we may wait. */
		if (!ptep) {
			unlock_table(t);
			pte_ref_flush(t->mm);
			lock_table(t);
		}
	}
	return best;
}

static void say_timed(struct kunit *test, const char *what, unsigned int loops,
		      u64 with, u64 without)
{
	u64 ratio = without ? div64_u64(1000 * with, without) : 0;

	kunit_info(test, "%s: %llu ns without %llu ns, %u loops, ratio %llu.%03llu\n",
		   what, with, without, loops, div64_u64(ratio, 1000), ratio % 1000);
	/* A loop that went wrong.  UML turns interrupts off for percpu counters: 350 ns. */
	KUNIT_EXPECT_GT(test, without, 0);
	KUNIT_EXPECT_GT(test, with, 0);
	KUNIT_EXPECT_LT(test, ratio, 1000000);
}

/* @what and what comes after it in enum timed. */
static void time_it(struct table *t, const char *name, enum timed what,
		    unsigned int loops)
{
	u64 with = timed(t, what, loops, NULL);

	say_timed(t->test, name, loops, with, timed(t, what + 1, loops, NULL));
}

static void timing(struct kunit *test)
{
	struct table *t = test->priv;
	struct table bare = *t;
	u64 with = 0, without = 0;
	spinlock_t *ptl = NULL;
	pte_t *ptep;

	lock_table(t);
	set_entry(t, PRESENT, 0);
	time_it(t, "native_get_put_atomic", GET_PUT, TIMED_LOOPS);
	KUNIT_EXPECT_EQ(test, pte_ref_attach(t->ref, GFP_KERNEL), 0);
	time_it(t, "native_get_put_percpu", GET_PUT, TIMED_LOOPS);
	start_switch(t);
	expect_count(t, 1, 0);

	ptep = pte_offset_map_lock(t->mm, t->pmd, entry_addr(t, 7), &ptl);
	if (ptep) {
		with = timed(t, ENTRY_COUNTED, TIMED_LOOPS, ptep);
		without = timed(t, ENTRY, TIMED_LOOPS, ptep);
		pte_unmap_unlock(ptep, ptl);
	}
	say_timed(test, "native_entry", TIMED_LOOPS, with, without);

	time_it(t, "native_table_with_ref", TABLE_WITH_REF, TIMED_LOOPS);
	time_it(t, "native_switch", SWITCH, TIMED_SWITCHES);
	bare.addr += PMD_SIZE;
	bare.pmd++;
	time_it(&bare, "native_free", FREE_EMPTY, TIMED_LOOPS);
	expect_count(t, 1, 0);
	clear_table(t);
	unlock_table(t);
}

static void free_pages_action(void *page)
{
	__free_pages(page, TABLE_ORDER);
}

static int pte_ref_test_init(struct kunit *test)
{
	struct table *t;
	int ret;

	if (!pte_ref_enabled())
		kunit_skip(test, "turned off at boot");

	t = kunit_kzalloc(test, sizeof(*t), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, t);
	t->test = test;
	t->page = alloc_pages(GFP_KERNEL, TABLE_ORDER);
	KUNIT_ASSERT_NOT_NULL(test, t->page);
	ret = kunit_add_action_or_reset(test, free_pages_action, t->page);
	KUNIT_ASSERT_EQ(test, ret, 0);

	/* All tables below one PMD table. */
	t->len = 2 * NR_TABLES * PMD_SIZE;
	t->map = kunit_vm_mmap(test, NULL, 0, t->len, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS, 0);
	KUNIT_ASSERT_NE(test, t->map, 0);
	KUNIT_ASSERT_FALSE(test, IS_ERR_VALUE(t->map));
	t->mm = current->mm;
	/* For pte_ref_test_exit(). */
	mmgrab(t->mm);
	t->addr = ALIGN(t->map, PMD_SIZE);
	if ((t->addr ^ (t->addr + NR_TABLES * PMD_SIZE - 1)) & PUD_MASK)
		t->addr = ALIGN(t->addr, PUD_SIZE);
	if (IS_ENABLED(CONFIG_TRANSPARENT_HUGEPAGE)) {
		ret = do_madvise(t->mm, t->map, t->len, MADV_NOHUGEPAGE);
		KUNIT_ASSERT_EQ(test, ret, 0);
	}

	lock_table(t);
	t->vma = vma_lookup(t->mm, t->addr);
	link_table(t);
	unlock_table(t);
	KUNIT_ASSERT_NOT_NULL(test, t->vma);
	KUNIT_ASSERT_NOT_NULL(test, t->ref);
	KUNIT_ASSERT_EQ(test, watch_start(&t->watch, t->ref), 0);
	test->priv = t;
	return 0;
}

/* Runs when the thread of the test has let go of its mm, or is about to. */
static void pte_ref_test_exit(struct kunit *test)
{
	unsigned long end = jiffies + 10 * HZ;
	struct table *t = test->priv;

	if (!t)
		return;
	do {
		pte_ref_flush(t->mm);
	} while (!watched(&t->watch) && time_before(jiffies, end));
	KUNIT_EXPECT_EQ(test, watched(&t->watch), 1);
	watch_stop(&t->watch);
	mmdrop(t->mm);
}

static struct kunit_case pte_ref_test_cases[] = {
	KUNIT_CASE(new_table),
	KUNIT_CASE(bare_table),
	KUNIT_CASE(user_makes_the_ref),
	KUNIT_CASE(tryget_makes_the_ref),
	KUNIT_CASE(hold_of_a_fault),
	KUNIT_CASE(install_of_a_fault),
	KUNIT_CASE(last_entry_makes_no_ref),
	KUNIT_CASE(other_tables_have_no_ref),
	KUNIT_CASE_PARAM(kinds_of_entries, kinds_gen_params),
	KUNIT_CASE(entries_that_are_none),
	KUNIT_CASE(batch_over_none),
	KUNIT_CASE(batch_over_populated),
	KUNIT_CASE(batch_counted_by_the_caller),
	KUNIT_CASE(batch_clear),
	KUNIT_CASE(transitions_keep_the_count),
	KUNIT_CASE(passing_zero_keeps_the_table),
	KUNIT_CASE(passing_zero_is_not_empty),
	KUNIT_CASE(swapped_in_and_migrated),
	KUNIT_CASE(tryget_against_zero),
	KUNIT_CASE(hold_at_zero),
	KUNIT_CASE(alloc_hold),
	KUNIT_CASE(alloc_map_lock),
	KUNIT_CASE(reference_of_a_zap),
	KUNIT_CASE(zap_of_a_part_notes),
	KUNIT_CASE(zap_in_percpu_mode),
	KUNIT_CASE(users_are_counted),
	KUNIT_CASE(freed_at_zero_only),
	KUNIT_CASE(fresh_table_can_be_freed),
	KUNIT_CASE(free_refused_to_a_user),
	KUNIT_CASE(noted_at_zero),
	KUNIT_CASE(freed_in_time),
	KUNIT_CASE(note_frees_what_is_empty),
	KUNIT_CASE(moved_table_is_noted),
	KUNIT_CASE(kept_without_a_vma),
	KUNIT_CASE(attached_when_users_move),
	KUNIT_CASE(no_switch_back),
	KUNIT_CASE(switch_of_an_atomic_ref),
	KUNIT_CASE(percpu_mode_counts),
	KUNIT_CASE(percpu_table_is_freed),
	KUNIT_CASE(percpu_table_is_noted),
	KUNIT_CASE(emptied_during_switch),
	KUNIT_CASE(refilled_during_switch),
	KUNIT_CASE(switch_under_load),
	KUNIT_CASE(dies_with_its_mm),
	KUNIT_CASE(dies_with_its_mm_in_percpu_mode),
	KUNIT_CASE(dies_with_its_mm_during_switch),
	KUNIT_CASE(unmapped_during_switch),
	KUNIT_CASE(user_outlives_table),
	KUNIT_CASE(destroyed_with_entries),
	KUNIT_CASE(destroyed_during_switch),
	KUNIT_CASE(attach_after_death),
	KUNIT_CASE(allocation_failure),
	KUNIT_CASE(tracepoints),
	KUNIT_CASE(zap_frees_the_table),
	KUNIT_CASE(zap_of_one_keeps_the_other),
	KUNIT_CASE(guard_keeps_the_table),
	KUNIT_CASE(munmap_of_a_part),
	KUNIT_CASE(zap_of_several_tables),
	KUNIT_CASE(work_of_several_tables),
	KUNIT_CASE_SLOW(fault_and_zap),
	KUNIT_CASE_PARAM(random_operations, seeds_gen_params),
	KUNIT_CASE_SLOW(timing),
	{}
};

static struct kunit_suite pte_ref_test_suite = {
	.name = "pte_ref",
	.init = pte_ref_test_init,
	.exit = pte_ref_test_exit,
	.test_cases = pte_ref_test_cases,
};

kunit_test_suite(pte_ref_test_suite);

MODULE_DESCRIPTION("KUnit tests of references to user PTE tables");
MODULE_LICENSE("GPL");
