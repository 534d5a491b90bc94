// SPDX-License-Identifier: GPL-2.0
/*
 * Fixture of the KUnit suites of references to user PTE tables: a table in the
 * mm of the test's own thread.
 *
 * Most tests write made-up entries into that table by the primitives, and take
 * them out again.  They hold mmap_lock and all VMAs for write, lock_table(),
 * which keeps the deferred work from freeing what is noted, so that a table of
 * count zero stays until the test says otherwise.  Between lock_table() and
 * unlock_table() there is no KUNIT_ASSERT: it would end the thread with the
 * lock held.
 *
 * The table has a ref from the beginning, link_table(), since most tests are
 * about that; tables that have none are bare.  After each test the ref must
 * have been freed, exactly once.
 */
#include <linux/delay.h>
#include <linux/mman.h>
#include <linux/sched/mm.h>
#include <linux/swap.h>
#include <linux/swapops.h>
#include <linux/uaccess.h>
#include <trace/events/kmem.h>

#include "fixture.h"

#define PAGES_ORDER	get_order(NR_PAGES * PAGE_SIZE)

static void watch_free(void *data, unsigned long call_site, const void *ptr,
		       const struct kmem_cache *s)
{
	struct ref_watch *w = data;

	if (ptr == READ_ONCE(w->obj))
		atomic_inc(&w->freed);
}

/* From here on the memory is another object. */
static void watch_alloc(void *data, unsigned long call_site, const void *ptr,
			struct kmem_cache *s, gfp_t gfp_flags, int node)
{
	struct ref_watch *w = data;

	if (ptr == READ_ONCE(w->obj))
		WRITE_ONCE(w->obj, NULL);
}

int watch_start(struct ref_watch *w, const void *obj)
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

void watch_stop(struct ref_watch *w)
{
	if (!w->registered)
		return;
	unregister_trace_kmem_cache_alloc(watch_alloc, w);
	unregister_trace_kmem_cache_free(watch_free, w);
	tracepoint_synchronize_unregister();
	w->registered = false;
}

unsigned long vm_event(enum vm_event_item item)
{
	static unsigned long events[NR_VM_EVENT_ITEMS];

	all_vm_events(events);
	return events[item];
}

void lock_table(struct table *t)
{
	VMA_ITERATOR(vmi, t->mm, 0);
	struct vm_area_struct *vma;

	mmap_write_lock(t->mm);
	for_each_vma(vmi, vma)
		vma_start_write(vma);
}

void unlock_table(struct table *t)
{
	mmap_write_unlock(t->mm);
}

/* Link a table at t->addr if there is none.  mmap_lock is held. */
void link_bare_table(struct table *t)
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
void link_table(struct table *t)
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

bool is_linked(struct table *t)
{
	pmd_t pmdval = pmdp_get_lockless(t->pmd);

	return pmd_present(pmdval) &&
	       page_ptdesc(pmd_pgtable(pmdval)) == t->ptdesc;
}

pte_t make_entry(struct table *t, enum entry_kind kind, unsigned int i)
{
	unsigned long pfn = page_to_pfn(t->page) + i % NR_PAGES;

	switch (kind) {
	case PRESENT:
		return pfn_pte(pfn, vm_get_page_prot(VM_READ | VM_WRITE));
	case PROTNONE:
		return pfn_pte(pfn, vm_get_page_prot(0));
	case SWAP:
		return swp_entry_to_pte(swp_entry(0, i + 1));
	case MARKER_UFFD_WP:
		return make_pte_marker(PTE_MARKER_UFFD_WP);
	case MARKER_POISON:
		return make_pte_marker(PTE_MARKER_POISONED);
	case MARKER_GUARD:
		return make_pte_marker(PTE_MARKER_GUARD);
	case MIGRATION_READ:
		return swp_entry_to_pte(make_readable_migration_entry(pfn));
	case MIGRATION_WRITE:
		return swp_entry_to_pte(make_writable_migration_entry(pfn));
	default:
		return __pte(0);
	}
}

static void do_op_consecutive(struct table *t, enum entry_op op, unsigned int i,
			      unsigned int nr)
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

/* One primitive on entries of the table, under its lock. */
void do_op(struct table *t, enum entry_op op, unsigned int i, unsigned int nr)
{
	unsigned int k;

	for (; nr; i += k, nr -= k) {
		k = consecutive(i, nr);
		do_op_consecutive(t, op, i, k);
	}
}

void set_entries(struct table *t, enum entry_kind kind, unsigned int i,
		 unsigned int nr)
{
	spinlock_t *ptl = NULL;
	pte_t *start, *ptep;
	unsigned int k;

	start = pte_offset_map_lock(t->mm, t->pmd, entry_addr(t, i), &ptl);
	if (!start) {
		KUNIT_FAIL(t->test, "the table is gone");
		return;
	}
	for (ptep = start; nr; i += k, ptep += k, nr -= k) {
		k = consecutive(i, nr);
		set_ptes(t->mm, entry_addr(t, i), ptep, make_entry(t, kind, i), k);
	}
	pte_unmap_unlock(start, ptl);
}

/* Not set_entries(): a constant number of one is counted in another way. */
void set_entry(struct table *t, enum entry_kind kind, unsigned int i)
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

void clear_entry(struct table *t, unsigned int i)
{
	do_op(t, OP_PTEP_CLEAR, i, 1);
}

void clear_table(struct table *t)
{
	if (is_linked(t))
		do_op(t, OP_PTEP_CLEAR, 0, PTRS_PER_PTE);
}

/*
 * What zap_pte_range() does with an entry if it looks at the table itself
 * afterwards.  A zap that does not is clear_entry().
 */
void zap_entry(struct table *t, unsigned int i)
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
	pte_put_locked(t->mm, t->addr, ptep);
	pte_unmap_unlock(ptep, ptl);
}

/* As a program does: fault a page in, and give it back. */
void touch(struct table *t, unsigned long addr, u64 value)
{
	KUNIT_EXPECT_EQ(t->test, copy_to_user((void __user *)addr, &value,
					      sizeof(value)), 0);
}

void zap(struct table *t, unsigned long addr, unsigned long len)
{
	KUNIT_EXPECT_EQ(t->test, do_madvise(t->mm, addr, len, MADV_DONTNEED), 0);
}

/* The same as pte_ref_read(), from what is really there. */
void expect_count(struct table *t, unsigned int entries, unsigned int holders)
{
	if (!is_linked(t) || !t->ref) {
		KUNIT_FAIL(t->test, "no table, or no ref");
		return;
	}
	KUNIT_EXPECT_EQ(t->test, t->ptdesc->pte_populated, entries);
	KUNIT_EXPECT_EQ(t->test, pte_ref_read(t->ptdesc), entries + holders);
	KUNIT_EXPECT_EQ(t->test, atomic_long_read(&t->ref->data.count),
			holders + !!entries);
}

void to_percpu_mode(struct table *t)
{
	KUNIT_EXPECT_EQ(t->test, pte_ref_to_percpu(t->ref, GFP_KERNEL), 0);
	KUNIT_EXPECT_TRUE(t->test, pte_ref_is_percpu(t->ref));
}

/* Waits until the switch is over. */
void to_atomic_mode(struct table *t)
{
	KUNIT_EXPECT_TRUE(t->test, pte_ref_start_switch(t->ref));
	rcu_barrier();
	KUNIT_EXPECT_TRUE(t->test, test_bit(PTE_REF_SWITCHED, &t->ref->state));
	KUNIT_EXPECT_FALSE(t->test, pte_ref_is_percpu(t->ref));
}

/* The marks of the PMD table. */
unsigned long *note_marks(struct table *t)
{
	unsigned long *slot = &virt_to_ptdesc(t->pmd)->pte_notes;
	struct pte_notes *notes;

	if (!(READ_ONCE(*slot) & PTE_NOTES_OBJECT))
		return slot;
	notes = (void *)(*slot & ~(PTE_NOTES_TAG | PTE_NOTES_OBJECT));
	return &notes->marks;
}

/* As the deferred work does with what it looks at. */
void take_marks(struct table *t)
{
	unsigned long *marks = note_marks(t), old = READ_ONCE(*marks);

	if (old)
		cmpxchg(marks, old, PTE_NOTES_TAG);
}

/* Is the group of the table marked?  Not pmd_index(): the PMD may be folded. */
bool is_marked(struct table *t)
{
	unsigned int index = offset_in_page(t->pmd) / sizeof(*t->pmd);

	return READ_ONCE(*note_marks(t)) &
	       BIT(PTE_NOTES_SHIFT + index / PTE_NOTES_GROUP);
}

/*
 * Will the deferred work look at the table?  If it is about to, it finds the
 * VMA locked and makes the mark again.
 */
void expect_noted(struct table *t)
{
	unsigned long end = jiffies + 20 * HZ;

	while (!is_marked(t) && time_before(jiffies, end))
		usleep_range(50, 200);
	KUNIT_EXPECT_TRUE(t->test, is_marked(t));
	KUNIT_EXPECT_NE(t->test,
			atomic_read(&t->mm->pte_ref.state) & MM_PTE_REF_WORK, 0);
}

/* The next table, without a ref.  mmap_lock is held then. */
void link_beside(struct table *t, struct table *bare)
{
	*bare = *t;
	bare->addr += PMD_SIZE;
	lock_table(t);
	link_bare_table(bare);
}

/* A mapping of its own over the range of the next table. */
void map_beside(struct table *t, struct table *other)
{
	unsigned long addr = t->addr + PMD_SIZE;

	*other = *t;
	other->addr = vm_mmap(NULL, addr, PMD_SIZE, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE |
			      MAP_FIXED, 0);
	KUNIT_ASSERT_EQ(t->test, other->addr, addr);
}

/* A table that is not linked, to be destroyed by pte_free(). */
struct pte_ref *make_table(struct table *t, struct ref_watch *w,
			   pgtable_t *pgtable, bool entries, bool held)
{
	struct pte_ref *ref;

	*pgtable = pte_alloc_one(t->mm);
	KUNIT_ASSERT_NOT_NULL(t->test, *pgtable);
	ref = pte_ref_make(t->mm, t->addr, page_ptdesc(*pgtable));
	KUNIT_ASSERT_NOT_NULL(t->test, ref);
	KUNIT_ASSERT_EQ(t->test, watch_start(w, ref), 0);
	if (entries)
		set_pte_at(t->mm, t->addr, page_address(*pgtable),
			   make_entry(t, SWAP, 0));
	if (held)
		percpu_ref_get(&ref->ref);
	return ref;
}

static void free_pages_action(void *page)
{
	__free_pages(page, PAGES_ORDER);
}

int pte_ref_test_init(struct kunit *test)
{
	struct table *t;
	int ret;

	if (!pte_ref_enabled())
		kunit_skip(test, "turned off at boot");

	t = kunit_kzalloc(test, sizeof(*t), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, t);
	t->test = test;
	t->page = alloc_pages(GFP_KERNEL | __GFP_COMP, PAGES_ORDER);
	KUNIT_ASSERT_NOT_NULL(test, t->page);
	ret = kunit_add_action_or_reset(test, free_pages_action, t->page);
	KUNIT_ASSERT_EQ(test, ret, 0);

	/* All in one PMD table.  The range may be larger than memory. */
	t->len = 2 * NR_TABLES * PMD_SIZE;
	t->map = kunit_vm_mmap(test, NULL, 0, t->len, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, 0);
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
void pte_ref_test_exit(struct kunit *test)
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
