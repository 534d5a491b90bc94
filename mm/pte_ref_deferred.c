// SPDX-License-Identifier: GPL-2.0
/*
 * pte_ref: the deferred work, which frees PTE tables that no zap has freed.
 *
 * A count often comes to zero for a moment only (swap-out, migration and KSM of
 * the only entry of a table), and when memory is short.  Programs that give
 * back a few pages touch them again at once.  So code that leaves a table empty
 * notes where it is, pte_ref_note(), and the deferred work of the mm looks at
 * it PTE_REF_DELAY_MS later.
 *
 * Notes.  A note is no object.  It is a bit in the descriptor of the PMD table,
 * for PTE_NOTES_GROUP tables, and one in that of the PUD table.  To note what
 * is noted already costs a few loads and a barrier.  The deferred work follows
 * the bits, in the order of the addresses, and looks at each table of a group.
 * A bit is a hint: tables move, and what is found is judged by its own count.
 *
 * Whose VMA.  A table may be unlinked by a caller that keeps a VMA over its
 * range attached (see mm/pte_ref.c).  The deferred work tries the lock of that
 * VMA, which no writer of another VMA holds.  If it is held each time,
 * PTE_REF_WAITERS of the works may wait for mmap_lock.
 *
 * Small pages.  Where stock keeps an empty table the next fault maps a small
 * page.  Where the deferred work has freed it a fault must not map a huge one,
 * or memory grows by 2 MiB where 4 KiB of table were saved.  So the deferred
 * work leaves a bit for the table in a struct pte_notes, which it makes for the
 * PMD table, and vmf_wants_small_page() asks for it.  The bit is cleared when a
 * table is linked there, and where stock would free the table: by a zap of its
 * whole range and by munmap().  It moves with mremap() and is copied by fork().
 *
 * Lifetime.  The deferred work is part of its mm and pins nothing of it.  The
 * exit of the mm turns it off and waits for it, at most until it is done with a
 * batch of tables or with the way to the next marks.  It waits for no other mm.
 */
#include <linux/mm.h>
#include <linux/sched.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/vmstat.h>
#include <linux/workqueue.h>

#include "pte_ref_internal.h"

/*
 * How long a table waits that was noted, and how long at most if its VMA is
 * locked each time that the deferred work looks.
 */
#define PTE_REF_DELAY_MS	10
#define PTE_REF_BUSY_MS		80

/* Jiffies that the work of an mm may run before others get their turn. */
#define PTE_REF_SLICE		1

/* Works that run at the same time; those of them that may wait for a lock. */
#define PTE_REF_WORKS		4
#define PTE_REF_WAITERS		2

static struct kmem_cache *pte_notes_cache;
struct workqueue_struct *pte_ref_wq;

/*
 * Walk of upper tables without a lock
 *
 * Each entry is read once, since munmap() may clear it.  Where a level is folded
 * its table is the entry above itself, not the value that was read.  Except
 * where the P4D level is folded at boot, on x86 with four levels: there the
 * table is the value, so its address has to be one in the caller.
 */

static __always_inline p4d_t *pte_ref_p4d_offset(pgd_t *pgdp, pgd_t *pgd,
						 unsigned long addr)
{
	return __is_defined(__PAGETABLE_P4D_FOLDED) ?
	       p4d_offset(pgdp, addr) : p4d_offset_lockless(pgdp, *pgd, addr);
}

static __always_inline pud_t *pte_ref_pud_offset(p4d_t *p4dp, p4d_t *p4d,
						 unsigned long addr)
{
	return __is_defined(__PAGETABLE_PUD_FOLDED) ?
	       pud_offset(p4dp, addr) : pud_offset_lockless(p4dp, *p4d, addr);
}

static __always_inline pmd_t *pte_ref_pmd_offset(pud_t *pudp, pud_t *pud,
						 unsigned long addr)
{
	return __is_defined(__PAGETABLE_PMD_FOLDED) ?
	       pmd_offset(pudp, addr) : pmd_offset_lockless(pudp, *pud, addr);
}

/*
 * The first entry of a PUD table that there is in a range.  *@addrp gets its
 * address or @end, *@nextp where the range of its PUD table ends.
 */
static pud_t *pte_ref_next_pud(struct mm_struct *mm, unsigned long *addrp,
			       unsigned long end, unsigned long *nextp)
{
	unsigned long addr = *addrp, next;

	for (; addr < end; addr = next) {
		pgd_t *pgdp = pgd_offset(mm, addr), pgd = pgdp_get(pgdp);
		p4d_t *p4dp, p4d;

		next = pgd_addr_end(addr, end);
		if (!pgd_present(pgd))
			continue;
		p4dp = pte_ref_p4d_offset(pgdp, &pgd, addr);
		p4d = p4dp_get(p4dp);
		next = p4d_addr_end(addr, next);
		if (!p4d_present(p4d))
			continue;
		*addrp = addr;
		*nextp = next;
		return pte_ref_pud_offset(p4dp, &p4d, addr);
	}
	*addrp = end;
	return NULL;
}

/*
 * The entry of the PUD table for @addr, or NULL if there is none.  Not by
 * pte_ref_next_pud(): each note and each zap of a page takes this way.
 */
static __always_inline pud_t *pte_ref_find_pud(struct mm_struct *mm,
					       unsigned long addr)
{
	pgd_t *pgdp = pgd_offset(mm, addr), pgd = pgdp_get(pgdp);
	p4d_t *p4dp, p4d;

	if (!pgd_present(pgd))
		return NULL;
	p4dp = pte_ref_p4d_offset(pgdp, &pgd, addr);
	p4d = p4dp_get(p4dp);
	if (!p4d_present(p4d))
		return NULL;
	return pte_ref_pud_offset(p4dp, &p4d, addr);
}

/* Does the entry point to a PMD table? */
static bool pte_ref_pud_ok(pud_t pudval)
{
	return pud_present(pudval) && !pud_leaf(pudval) && !pud_bad(pudval);
}

/**
 * pte_ref_find_pmd() - the entry of the PMD table for an address
 * @mm: the mm
 * @addr: user address
 *
 * mm_find_pmd() is for callers that know a VMA of normal pages there; an
 * address that was noted can be under a huge PUD by now.
 *
 * Context: mmap_lock or the lock of a VMA in the range, which keeps the tables,
 * or rcu_read_lock(), after which they are freed.
 * Return: the entry, or NULL if there is no PMD table.
 */
pmd_t *pte_ref_find_pmd(struct mm_struct *mm, unsigned long addr)
{
	pud_t *pud = pte_ref_find_pud(mm, addr);
	pud_t pudval;

	if (!pud)
		return NULL;
	pudval = pudp_get(pud);
	if (!pte_ref_pud_ok(pudval))
		return NULL;
	return pte_ref_pmd_offset(pud, &pudval, addr);
}

/* Notes */

/*
 * The slot of a PMD or PUD table, ptdesc->pte_notes: 0, or PTE_NOTES_TAG and
 * marks, one for PTE_NOTES_GROUP entries, or the address of a struct pte_notes,
 * which has them then, with PTE_NOTES_TAG and PTE_NOTES_OBJECT.  So it can be
 * told from that of a PTE table, and is none that page->mapping could have.
 * Set by cmpxchg, for good until the table is destroyed, which callers hold off
 * by RCU or a VMA.
 */
static_assert(BITS_PER_LONG == 64);

static struct pte_notes *to_pte_notes(unsigned long slot)
{
	return slot & PTE_NOTES_OBJECT ?
	       (struct pte_notes *)(slot & ~(PTE_NOTES_TAG | PTE_NOTES_OBJECT)) : NULL;
}

/* Change marks from @old to (@old & @keep) | @set. */
static noinline unsigned long pte_notes_update(struct ptdesc *upper,
					       unsigned long keep,
					       unsigned long set)
{
	for (;;) {
		unsigned long slot = READ_ONCE(upper->pte_notes), *marks, old, new;
		struct pte_notes *notes = to_pte_notes(slot);

		marks = notes ? &notes->marks : &upper->pte_notes;
		old = notes ? READ_ONCE(*marks) : slot;
		new = (old & keep) | set;
		if (new == old || cmpxchg(marks, old, new) == old)
			return old;
	}
}

static unsigned int pte_notes_index(void *entry)
{
	return offset_in_page(entry) / sizeof(pmd_t);
}

static unsigned long pte_notes_mark(void *entry)
{
	return BIT(PTE_NOTES_SHIFT + pte_notes_index(entry) / PTE_NOTES_GROUP);
}

/* Mark the group of an entry of a PMD or PUD table. */
static __always_inline void pte_notes_set(void *entry)
{
	unsigned long marks = READ_ONCE(virt_to_ptdesc(entry)->pte_notes);

	if (marks & PTE_NOTES_OBJECT)
		marks = READ_ONCE(to_pte_notes(marks)->marks);
	if (unlikely(!(marks & pte_notes_mark(entry))))
		pte_notes_update(virt_to_ptdesc(entry), ~0UL,
				 PTE_NOTES_TAG | pte_notes_mark(entry));
}

/* Take the mark of the group of an entry, if it is marked. */
static bool pte_notes_take(void *entry)
{
	unsigned long mark = pte_notes_mark(entry);

	return pte_notes_update(virt_to_ptdesc(entry), ~mark, 0) & mark;
}

/* The bits of the PMD table that has the entry, or NULL if it has none. */
static struct pte_notes *pte_notes_find(pmd_t *pmd)
{
	return to_pte_notes(READ_ONCE(virt_to_ptdesc(pmd)->pte_notes));
}

/**
 * pte_notes_make() - give a PMD table its struct pte_notes, if it has none
 * @mm: the mm
 * @pmd: an entry of the PMD table
 * @gfp: allocation mask
 *
 * Context: any that @gfp is for; the caller keeps the PMD table.
 * Return: the struct, or NULL without memory.
 */
struct pte_notes *pte_notes_make(struct mm_struct *mm, pmd_t *pmd, gfp_t gfp)
{
	unsigned long *slot = &virt_to_ptdesc(pmd)->pte_notes, old;
	struct pte_notes *notes = pte_notes_find(pmd), *new;

	if (notes)
		return notes;
	new = kmem_cache_zalloc(pte_notes_cache, gfp);
	if (!new)
		return NULL;
	WRITE_ONCE(mm->pte_ref.small, true);
	old = READ_ONCE(*slot);
	do {
		notes = to_pte_notes(old);
		if (notes) {
			kmem_cache_free(pte_notes_cache, new);
			return notes;
		}
		new->marks = old;
	} while (!try_cmpxchg(slot, &old, (unsigned long)new | PTE_NOTES_TAG |
					  PTE_NOTES_OBJECT));
	return new;
}

/**
 * pte_notes_set_small() - the next fault maps a small page
 * @notes: what pte_notes_make() returned for the PMD table of @pmd
 * @pmd: the entry
 *
 * Context: any.
 */
void pte_notes_set_small(struct pte_notes *notes, pmd_t *pmd)
{
	set_bit(pte_notes_index(pmd), notes->small);
}

/**
 * pte_notes_free() - free what the slot of a PMD or PUD table points to
 * @slot: the slot of a table that is destroyed
 *
 * Context: any.
 */
void pte_notes_free(unsigned long slot)
{
	struct pte_notes *notes = to_pte_notes(slot);

	if (notes)
		kmem_cache_free(pte_notes_cache, notes);
}

/**
 * pte_notes_forget() - huge pages may be mapped in the ranges of these tables
 * @mm: the mm
 * @addr: where the range of the first table starts
 * @end: where that of the last one ends
 *
 * Context: process context; a VMA in the range, or mmap_lock, keeps the tables.
 */
void pte_notes_forget(struct mm_struct *mm, unsigned long addr,
		      unsigned long end)
{
	unsigned long next, last;
	struct pte_notes *notes;
	unsigned int i, nr;
	pud_t *pud, pudval;
	pmd_t *pmd;

	while ((pud = pte_ref_next_pud(mm, &addr, end, &last))) {
		for (; addr < last; addr = next, pud++) {
			next = pud_addr_end(addr, last);
			pudval = pudp_get(pud);
			if (!pte_ref_pud_ok(pudval))
				continue;
			pmd = pte_ref_pmd_offset(pud, &pudval, addr);
			notes = pte_notes_find(pmd);
			if (!notes)
				continue;
			i = pte_notes_index(pmd);
			nr = i + (next - addr) / PMD_SIZE;
			for_each_set_bit_from(i, notes->small, nr)
				clear_bit(i, notes->small);
		}
		cond_resched();
	}
}

/* The next fault maps a small page.  False without memory to remember that. */
static bool pte_notes_make_small(struct mm_struct *mm, pmd_t *pmd)
{
	struct pte_notes *notes = pte_notes_make(mm, pmd, GFP_KERNEL_ACCOUNT);

	if (notes)
		pte_notes_set_small(notes, pmd);
	return notes;
}

/**
 * pte_ref_note() - have the table at an address looked at
 * @mm: the mm; it has users, or its exit is yet to come
 * @addr: user address
 *
 * Sets what is not set, at each level, from below: so what the deferred work
 * takes from above is seen by it, or set again.
 *
 * Context: any.
 */
void pte_ref_note(struct mm_struct *mm, unsigned long addr)
{
	pud_t *pud, pudval;

	if (!pte_ref_enabled())
		return;
	/* Keeps the upper tables, for callers that have no lock. */
	rcu_read_lock();
	pud = pte_ref_find_pud(mm, addr);
	pudval = pud ? pudp_get(pud) : __pud(0);
	if (!pud || !pte_ref_pud_ok(pudval)) {
		rcu_read_unlock();
		return;
	}
	/*
	 * The count was written before.  Pairs with the cmpxchg() of
	 * pte_notes_take(), after which the deferred work reads the count: a
	 * mark that is seen here is yet to be taken.
	 */
	smp_mb();
	pte_notes_set(pte_ref_pmd_offset(pud, &pudval, addr));
	if (!mm_pud_folded(mm))
		pte_notes_set(pud);
	rcu_read_unlock();

	if (atomic_read(&mm->pte_ref.state) & MM_PTE_REF_NOTED)
		return;
	if (!(atomic_fetch_or(MM_PTE_REF_NOTED | MM_PTE_REF_WORK, &mm->pte_ref.state) &
	      (MM_PTE_REF_WORK | MM_PTE_REF_EXIT)))
		queue_delayed_work(pte_ref_wq, &mm->pte_ref.work,
				   msecs_to_jiffies(PTE_REF_DELAY_MS));
}

/**
 * pte_ref_note_empty() - have the table at an address looked at, if it is empty
 * @mm: the mm
 * @addr: user address
 *
 * For callers that may have made a table for nothing: no entry of it is ever
 * cleared, so nobody else notes it.
 *
 * Context: any.
 */
void pte_ref_note_empty(struct mm_struct *mm, unsigned long addr)
{
	pmd_t *pmd;

	if (!pte_ref_enabled())
		return;
	rcu_read_lock();
	pmd = pte_ref_find_pmd(mm, addr);
	if (pmd && pte_ref_empty(pmd))
		pte_ref_note(mm, addr);
	rcu_read_unlock();
}

/* Tables that are left behind, moved, or not copied */

/*
 * Slow path of pte_ref_unmapped(); the conditions mirror free_pgd_range().  The
 * look without the lock of the table is enough to leave it: our own zap is
 * done, so what brings the count to zero after it is another caller, which
 * notes the table.
 */
void __pte_ref_unmapped(struct mm_struct *mm, unsigned long start,
			unsigned long end, unsigned long floor,
			unsigned long ceiling)
{
	unsigned long first = start & PMD_MASK;
	unsigned long last = (end - 1) & PMD_MASK;
	bool keeps_first = first < floor;
	bool keeps_last = last + PMD_SIZE - 1 > ceiling - 1;

	if (keeps_first)
		pte_ref_note_empty(mm, first);
	if (keeps_last && !(keeps_first && first == last))
		pte_ref_note_empty(mm, last);
	if (keeps_first)
		first += PMD_SIZE;
	if (!keeps_last)
		last += PMD_SIZE;
	if (first < last && READ_ONCE(mm->pte_ref.small))
		pte_notes_forget(mm, first, last);
}

/*
 * Slow path of pte_ref_moved().  The notes of a PMD table have moved with it,
 * those of the PUD table have not.
 */
void __pte_ref_moved(struct mm_struct *mm, pmd_t *pmd, unsigned long addr,
		     int nr)
{
	struct ptdesc *ptdesc;
	pmd_t pmdval;

	for (; nr; nr--, pmd++, addr += PMD_SIZE) {
		ptdesc = pte_ref_table(pmd, &pmdval);
		if (!ptdesc)
			continue;
		pte_ref_set_addr(ptdesc, addr);
		if (!READ_ONCE(ptdesc->pte_populated))
			pte_ref_note(mm, addr);
	}
}

/* Slow path of pte_ref_linked(). */
void __pte_ref_linked(pmd_t *pmd)
{
	struct pte_notes *notes = pte_notes_find(pmd);

	if (notes && test_bit(pte_notes_index(pmd), notes->small))
		clear_bit(pte_notes_index(pmd), notes->small);
}

/* Slow path of vmf_wants_small_page(). */
bool __vmf_wants_small_page(struct vm_fault *vmf)
{
	struct pte_notes *notes = pte_notes_find(vmf->pmd);

	/* The fault has read the PMD entry.  Pairs with free_user_ptes(). */
	smp_rmb();
	return notes && test_bit(pte_notes_index(vmf->pmd), notes->small);
}

/* Slow path of pte_ref_fork(). */
void __pte_ref_fork(struct mm_struct *dst_mm, pmd_t *dst_pmd, pmd_t *src_pmd,
		    unsigned long addr, unsigned long end)
{
	struct pte_notes *src = pte_notes_find(src_pmd), *dst = NULL;
	unsigned int i = pte_notes_index(src_pmd);
	unsigned int nr = i + (ALIGN(end, PMD_SIZE) - (addr & PMD_MASK)) / PMD_SIZE;

	if (!src)
		return;
	for_each_set_bit_from(i, src->small, nr) {
		if (!dst)
			dst = pte_notes_make(dst_mm, dst_pmd, GFP_KERNEL_ACCOUNT);
		/* Without memory it gets a huge page there. */
		if (!dst)
			return;
		set_bit(i, dst->small);
	}
}

/**
 * pte_ref_fork_empty() - has the parent a table that fork need not copy?
 * @dst_vma: VMA of the child
 * @src_vma: VMA of the parent
 * @dst_pmd: entry of the child's PMD table for @addr
 * @src_pmd: entry of the parent's
 * @addr: an address in the table's range
 *
 * Under the PTL no entry is away for a moment only, and the caller keeps faults
 * away.  Stock would give the child an empty table, and so small pages.
 *
 * Context: as copy_page_range().
 * Return: true if the table is empty and the child does without; false also if
 * there is no memory to note that it is to have small pages.
 */
bool pte_ref_fork_empty(struct vm_area_struct *dst_vma,
			struct vm_area_struct *src_vma, pmd_t *dst_pmd,
			pmd_t *src_pmd, unsigned long addr)
{
	if (!pte_ref_empty(src_pmd) ||
	    !pte_ref_empty_locked(src_vma->vm_mm, src_pmd, addr))
		return false;
	return !IS_ENABLED(CONFIG_TRANSPARENT_HUGEPAGE) || !vma_is_anonymous(dst_vma) ||
	       pte_notes_make_small(dst_vma->vm_mm, dst_pmd);
}

/**
 * pte_ref_moves_none() - does mremap() move a range whose table was freed?
 * @mm: the mm
 * @addr: address in the range
 * @all: the range of the table is moved, not a part of it
 *
 * Stock would move the table.
 *
 * Context: mmap_lock held for write.
 * Return: true if small pages are to be mapped at the new address.
 */
bool pte_ref_moves_none(struct mm_struct *mm, unsigned long addr, bool all)
{
	struct pte_notes *notes;
	pmd_t *pmd;

	mmap_assert_write_locked(mm);
	if (!pte_ref_enabled() || !READ_ONCE(mm->pte_ref.small))
		return false;
	pmd = pte_ref_find_pmd(mm, addr);
	notes = pmd ? pte_notes_find(pmd) : NULL;
	if (!notes || !test_bit(pte_notes_index(pmd), notes->small))
		return false;
	if (all)
		clear_bit(pte_notes_index(pmd), notes->small);
	return true;
}

/**
 * pte_ref_moved_none() - what pte_ref_moves_none() said is done
 * @mm: the mm
 * @pmd: entry of the PMD table for the new address
 *
 * Context: mmap_lock held for write.  May sleep for memory; without, the next
 * fault may map a huge page.
 */
void pte_ref_moved_none(struct mm_struct *mm, pmd_t *pmd)
{
	if (pmd_none(pmdp_get_lockless(pmd)))
		pte_notes_make_small(mm, pmd);
}

/* The deferred work */

/*
 * Keep the first VMA in a range attached.
 * Return: the VMA; NULL if there is none; -EAGAIN if another task has locked
 * it, then *@busyp is where it ends.
 */
static struct vm_area_struct *pte_ref_lock_vma(struct mm_struct *mm,
					       unsigned long start,
					       unsigned long end,
					       unsigned long *busyp)
{
#ifdef CONFIG_PER_VMA_LOCK
	MA_STATE(mas, &mm->mm_mt, start, start);
	struct vm_area_struct *vma;

	*busyp = end;
	/* fork is still filling its tree. */
	if (!mt_in_rcu(&mm->mm_mt))
		return ERR_PTR(-EAGAIN);
	/*
	 * The VMA may be another one meanwhile: only its lock tells.  Each step
	 * goes from the root, since mas_find() from one node to the next spins
	 * as long as a writer that changes both is preempted.
	 */
	rcu_read_lock();
	while (!(vma = mas_walk(&mas)) && mas.last < end - 1)
		mas_set(&mas, mas.last + 1);
	if (vma) {
		start = max(READ_ONCE(vma->vm_start), start);
		*busyp = min(READ_ONCE(vma->vm_end), end);
	}
	rcu_read_unlock();
	if (!vma)
		return NULL;
	vma = start < end ? lock_vma_under_rcu(mm, start) : NULL;
	return vma ?: ERR_PTR(-EAGAIN);
#else
	struct vm_area_struct *vma;

	*busyp = end;
	if (!mmap_read_trylock(mm))
		return ERR_PTR(-EAGAIN);
	vma = find_vma_intersection(mm, start, end);
	if (!vma)
		mmap_read_unlock(mm);
	return vma;
#endif
}

static void pte_ref_unlock_vma(struct mm_struct *mm, struct vm_area_struct *vma)
{
#ifdef CONFIG_PER_VMA_LOCK
	vma_end_read(vma);
#else
	mmap_read_unlock(mm);
#endif
}

/*
 * Does the entry of the PUD table lead to this PMD table still?  Its A bit may
 * have changed.
 */
static bool pte_ref_leads_to(pud_t *pud, unsigned long addr, pmd_t *pmd)
{
	pud_t pudval = pudp_get(pud);

	return pte_ref_pud_ok(pudval) &&
	       !(((unsigned long)pte_ref_pmd_offset(pud, &pudval, addr) ^
		  (unsigned long)pmd) & PAGE_MASK);
}

/*
 * Find the next range with tables that were noted, from *@startp on, in the
 * range of one PUD table, and take its notes.  It lies in one PMD table, and is
 * less than a batch and a group long.  Without one *@startp gets where to go on.
 */
static bool pte_ref_next(struct mm_struct *mm, unsigned long *startp,
			 unsigned long *endp)
{
	unsigned long addr = *startp, next, last;
	bool found = false;
	pud_t *pud, pudval;
	pmd_t *pmd;

	rcu_read_lock();
	pud = pte_ref_next_pud(mm, &addr, mm->task_size, &last);
	if (!pud) {
		*startp = addr;
		goto out;
	}
	if (!mm_pud_folded(mm) && !READ_ONCE(virt_to_ptdesc(pud)->pte_notes))
		addr = last;
	/* Then there is one PMD table, whose range has no other table above. */
	if (mm_pmd_folded(mm))
		last = mm->task_size;
	for (; addr < last && !found; addr = next, pud++) {
		/* A mark here is taken at its start, then seen to its end. */
		if (!mm_pud_folded(mm) &&
		    IS_ALIGNED(addr, PTE_NOTES_GROUP * PUD_SIZE) &&
		    !pte_notes_take(pud)) {
			next = min(last, addr + PTE_NOTES_GROUP * PUD_SIZE);
			pud += PTE_NOTES_GROUP - 1;
			continue;
		}
		next = mm_pmd_folded(mm) ? last : pud_addr_end(addr, last);
		pudval = pudp_get(pud);
		if (!pte_ref_pud_ok(pudval))
			continue;
		pmd = pte_ref_pmd_offset(pud, &pudval, addr);
		for (; addr < next; pmd += PTE_NOTES_GROUP) {
			unsigned long start = addr;

			/* Between two, our caller looks at the clock. */
			if (found && start - *startp >= PTE_REF_BATCH_SIZE)
				break;
			addr = min(next, ALIGN(addr + 1, PTE_NOTES_GROUP * PMD_SIZE));
			if (!pte_notes_take(pmd)) {
				if (found)
					break;
				continue;
			}
			/*
			 * mremap() moves a PMD table as a whole, with its marks,
			 * and notes for the new address what is empty.  We may
			 * have taken that mark for the old address.  It clears
			 * the entry before it sets marks, we read it after we
			 * took one, with full barriers in between: either we see
			 * that, or its mark comes after.  MM_PTE_REF_NOTED and
			 * the mark in the PUD table are still to be seen, since
			 * we took those before the entry, which led here then.
			 * RCU keeps the PMD table.
			 */
			if (unlikely(!pte_ref_leads_to(pud, start, pmd))) {
				pte_notes_set(pmd);
				break;
			}
			if (!found)
				*startp = start;
			*endp = addr;
			found = true;
		}
	}
	if (!found)
		*startp = addr;
out:
	rcu_read_unlock();
	return found;
}

/* The first table in a range that looks empty, or @end. */
static unsigned long pte_ref_find_empty(struct mm_struct *mm, unsigned long addr,
					unsigned long end)
{
	pmd_t *pmd;

	rcu_read_lock();
	pmd = pte_ref_find_pmd(mm, addr);
	for (; pmd && addr < end; addr += PMD_SIZE, pmd++) {
		if (pte_ref_empty(pmd))
			break;
	}
	rcu_read_unlock();
	return pmd ? min(addr, end) : end;
}

/*
 * Free what is empty of the tables of a range in one PMD table.
 * Return: false if some were left because a VMA is locked.
 */
static bool pte_ref_reclaim(struct mm_struct *mm, unsigned long addr,
			    unsigned long end)
{
	const bool thp = IS_ENABLED(CONFIG_TRANSPARENT_HUGEPAGE);
	unsigned long last, busy, nr = 0;
	struct vm_area_struct *vma;
	bool done = true;
	pmd_t *pmd;

	while ((addr = pte_ref_find_empty(mm, addr, end)) < end) {
		/* As in pte_ref_work_fn(). */
		if (atomic_read(&mm->pte_ref.state) & MM_PTE_REF_EXIT)
			break;
		vma = pte_ref_lock_vma(mm, addr, end, &busy);
		if (!vma)
			break;
		if (IS_ERR(vma)) {
			done = false;
			do {
				pte_ref_note(mm, addr);
				addr = ALIGN(addr + 1, PTE_NOTES_GROUP * PMD_SIZE);
			} while (addr < busy);
			continue;
		}
		/* Of what it covers, as many tables as one flush is for. */
		addr = max(addr, vma->vm_start & PMD_MASK);
		last = min3(end, ALIGN(addr + 1, PTE_REF_BATCH_SIZE),
			    ALIGN(vma->vm_end, PMD_SIZE));
		pmd = pte_ref_find_pmd(mm, addr);
		/* Whatever this VMA is, there may be another, or come one. */
		if (pmd)
			nr += pte_ref_free_range(mm, NULL, pmd, addr, last, thp);
		pte_ref_unlock_vma(mm, vma);
		addr = last;
		cond_resched();
	}
	count_vm_events(PTE_REF_FREE_DEFERRED, nr);
	return done;
}

/* A program may let them wait as long as it likes. */
static atomic_t pte_ref_waiters = ATOMIC_INIT(0);

/*
 * Keep all VMAs from being locked, for an mm of which one was locked each time
 * that the deferred work looked.  Killable, so that it is not taken for a hung
 * task.
 */
static bool pte_ref_wait_for_lock(struct mm_struct *mm)
{
	bool locked;

	/* The rescuer has others to rescue. */
	if (current_is_workqueue_rescuer() ||
	    !atomic_add_unless(&pte_ref_waiters, 1, PTE_REF_WAITERS))
		return false;
	locked = !mmap_read_lock_killable(mm);
	atomic_dec(&pte_ref_waiters);
	return locked;
}

static void pte_ref_work_fn(struct work_struct *work)
{
	struct mm_struct *mm = container_of(work, struct mm_struct,
					    pte_ref.work.work);
	struct mm_pte_ref *queue = &mm->pte_ref;
	unsigned long start = queue->next, end, until;
	bool locked = false;

	if (queue->delay == PTE_REF_BUSY_MS)
		locked = pte_ref_wait_for_lock(mm);
	until = jiffies + PTE_REF_SLICE;
	if (!start) {
		atomic_andnot(MM_PTE_REF_NOTED, &queue->state);
		/* From here on what is noted asks for another round. */
		smp_mb__after_atomic();
		queue->busy = false;
	}
	while (start < mm->task_size) {
		if (pte_ref_next(mm, &start, &end)) {
			if (!pte_ref_reclaim(mm, start, end))
				queue->busy = true;
			start = end;
			if (locked && mmap_lock_is_contended(mm)) {
				mmap_read_unlock(mm);
				locked = false;
			}
		}
		/* Its exit waits for us, or other mms wait for their turn. */
		if (atomic_read(&queue->state) & MM_PTE_REF_EXIT ||
		    time_after(jiffies, until))
			break;
		cond_resched();
	}
	if (locked)
		mmap_read_unlock(mm);
	if (start < mm->task_size) {
		queue->next = start;
		/* Does nothing in exit. */
		queue_delayed_work(pte_ref_wq, &queue->work, 0);
		return;
	}
	queue->next = 0;
	queue->delay = queue->busy ? min(2 * queue->delay, PTE_REF_BUSY_MS) :
				     PTE_REF_DELAY_MS;

	/* The last use of the mm: its exit need not wait for us after it. */
	if (atomic_cmpxchg(&queue->state, MM_PTE_REF_WORK, 0) != MM_PTE_REF_WORK)
		queue_delayed_work(pte_ref_wq, &queue->work,
				   msecs_to_jiffies(queue->delay));
}

/* Slow path of mm_init_pte_ref(). */
void __mm_init_pte_ref(struct mm_struct *mm)
{
	atomic_set(&mm->pte_ref.state, 0);
	mm->pte_ref.next = 0;
	mm->pte_ref.delay = PTE_REF_DELAY_MS;
	mm->pte_ref.small = false;
	INIT_DELAYED_WORK(&mm->pte_ref.work, pte_ref_work_fn);
}

/*
 * Slow path of mm_exit_pte_ref().  A note of now, as of reclaim that has found
 * a page of this mm, finds MM_PTE_REF_EXIT and queues nothing, or a work that
 * is disabled.  Its caller holds the lock of the rmap or of the table, for
 * which the rest of the exit waits, so the mm stays meanwhile.
 */
void __mm_exit_pte_ref(struct mm_struct *mm)
{
	/* Mostly it waits for its time; then nobody queues it again. */
	if (!cancel_delayed_work(&mm->pte_ref.work))
		disable_delayed_work_sync(&mm->pte_ref.work);
}

/**
 * pte_ref_flush() - wait until everything that is pending was looked at
 * @mm: the mm whose tables were noted
 *
 * For tests: waits for switches, for the deferred work, and for tables and refs
 * to be freed.
 *
 * Context: may sleep, no locks held.
 */
void pte_ref_flush(struct mm_struct *mm)
{
	rcu_barrier();
	flush_delayed_work(&mm->pte_ref.work);
	/* The first round may have started switches. */
	rcu_barrier();
	flush_delayed_work(&mm->pte_ref.work);
	pte_ref_flush_free();
}

/* The part of pte_ref_boot_init() for this file. */
void __init pte_ref_init_deferred(void)
{
	pte_notes_cache = kmem_cache_create("pte_ref_notes", sizeof(struct pte_notes),
					    __alignof__(struct pte_notes),
					    SLAB_PANIC | SLAB_NO_MERGE, NULL);
	/* It frees memory, so it must not need some to run. */
	pte_ref_wq = alloc_workqueue("pte_ref", WQ_UNBOUND | WQ_MEM_RECLAIM,
				     PTE_REF_WORKS);
	if (!pte_ref_wq)
		panic("pte_ref: no workqueue");
}
