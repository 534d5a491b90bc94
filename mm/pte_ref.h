/* SPDX-License-Identifier: GPL-2.0 */
/*
 * pte_ref: what the rest of mm/ calls.  See mm/pte_ref.c for how it works.
 */
#ifndef _MM_PTE_REF_H
#define _MM_PTE_REF_H

#include <linux/pte_ref.h>

#include "internal.h"

struct mmu_gather;

#ifdef CONFIG_FREE_USER_PTE

void __pte_ref_zapped(struct ptdesc *ptdesc);
struct pte_ref *__pte_tryget(struct mm_struct *mm, pmd_t *pmd,
			     unsigned long addr);
void __pte_put(struct pte_ref *ref);
int pte_alloc_get(struct mm_struct *mm, pmd_t *pmd, unsigned long addr,
		  struct pte_ref **refp);
int pte_alloc_get_nofail(struct mm_struct *mm, pmd_t *pmd, unsigned long addr,
			 struct pte_ref **refp);
void __vmf_pte_tryget(struct vm_fault *vmf);
void vmf_pte_install(struct vm_fault *vmf);
void __try_to_free_user_ptes(struct mmu_gather *tlb, pmd_t *pmd,
			     unsigned long start, unsigned long end,
			     bool forget);
bool try_to_free_user_pte(struct mm_struct *mm, pmd_t *pmd, unsigned long addr);
bool pte_ref_empty_locked(struct mm_struct *mm, pmd_t *pmd, unsigned long addr);
void pte_ref_note_empty(struct mm_struct *mm, unsigned long addr);
void __pte_ref_unmapped(struct mm_struct *mm, unsigned long start,
			unsigned long end, unsigned long floor,
			unsigned long ceiling);
void __pte_ref_moved(struct mm_struct *mm, pmd_t *pmd, unsigned long addr,
		     int nr);
bool pte_ref_moves_none(struct mm_struct *mm, unsigned long addr, bool all);
void pte_ref_moved_none(struct mm_struct *mm, pmd_t *pmd);
void __pte_ref_linked(pmd_t *pmd);
bool __vmf_wants_small_page(struct vm_fault *vmf);
void __pte_ref_fork(struct mm_struct *dst_mm, pmd_t *dst_pmd, pmd_t *src_pmd,
		    unsigned long addr, unsigned long end);
bool pte_ref_fork_empty(struct vm_area_struct *dst_vma,
			struct vm_area_struct *src_vma, pmd_t *dst_pmd,
			pmd_t *src_pmd, unsigned long addr);

/* Count: several entries at once */

/**
 * track_ptes() - count entries that set_ptes_untracked() is about to populate
 * @mm: the mm of the table
 * @addr: user address of the first entry
 * @ptep: the first entry, not written yet
 * @nr: number of entries, all in one table, and none if there are more than one
 *
 * Context: the table is locked.
 */
static __always_inline void track_ptes(struct mm_struct *mm, unsigned long addr,
				       pte_t *ptep, unsigned int nr)
{
	if (pte_ref_tracks(mm) && likely(pte_none(READ_ONCE(*ptep))))
		pte_ref_count_new(addr, ptep, nr);
}

/**
 * track_moved_ptes() - count entries that were moved from a table to another
 * @mm: the mm of the tables
 * @src_addr: an address in the range of the one
 * @src_pte: any entry of it
 * @dst_addr: an address in the range of the other
 * @dst_pte: any entry of it
 * @nr: number of entries, which were none in the other before; or 0
 *
 * Context: both tables are locked, as they were since the first entry was
 * cleared by ptep_get_and_clear_untracked().
 */
static __always_inline void track_moved_ptes(struct mm_struct *mm,
					     unsigned long src_addr, pte_t *src_pte,
					     unsigned long dst_addr, pte_t *dst_pte,
					     unsigned int nr)
{
	if (!pte_ref_tracks(mm) || unlikely(!nr))
		return;
	pte_ref_count_new(dst_addr, dst_pte, nr);
	pte_ref_count(mm, src_addr, src_pte, -(int)nr);
}

/**
 * track_new_ptes() - count entries that set_ptes_untracked() populated
 * @mm: the mm of the table
 * @addr: an address in the table's range
 * @ptep: any entry of the table
 * @nr: number of entries, which were none before; or 0
 *
 * Context: the table is locked, as it was since they were none.
 */
static __always_inline void track_new_ptes(struct mm_struct *mm,
					   unsigned long addr, pte_t *ptep,
					   unsigned int nr)
{
	if (pte_ref_tracks(mm) && likely(nr))
		pte_ref_count_new(addr, ptep, nr);
}

/**
 * track_copied_ptes() - count entries that fork() has populated
 * @mm: the mm of the child
 * @addr: an address in the table's range
 * @ptep: any entry of the table
 * @nr: number of entries, which were none before; or 0
 *
 * The parent's table may have had entries of a neighbour only, which is not
 * copied.  Then the new table is empty, and no entry of it was ever cleared.
 *
 * Context: the table is locked, as it was since they were none.
 */
static __always_inline void track_copied_ptes(struct mm_struct *mm,
					      unsigned long addr, pte_t *ptep,
					      unsigned int nr)
{
	if (!pte_ref_tracks(mm))
		return;
	if (likely(nr))
		pte_ref_count_new(addr, ptep, nr);
	else if (!pte_ptdesc(ptep)->pte_populated)
		pte_ref_note(mm, addr);
}

/* Holders */

/**
 * pte_tryget() - become a holder of the PTE table that @pmd leads to
 * @mm: the mm
 * @pmd: entry of the PMD table for @addr; stable as for pte_offset_map()
 * @addr: an address in the table's range
 *
 * A table that is there stays linked until pte_put(), as far as this subsystem
 * is concerned, also if its count was zero: then it is raised under the PMD
 * lock, which it takes to unlink a table.  free_pgtables() and the collapse to
 * a huge page do not ask.  So what is held is the ref, which stays good when
 * its table is freed: put it whenever, even after mmap_lock was dropped.
 *
 * Context: process context, no page table lock held; does not sleep.
 * Return: the ref, or NULL if there is no table, it is untracked, or there is
 * no memory for its ref.
 */
static inline struct pte_ref *pte_tryget(struct mm_struct *mm, pmd_t *pmd,
					 unsigned long addr)
{
	return pte_ref_enabled() ? __pte_tryget(mm, pmd, addr) : NULL;
}

/**
 * pte_put() - drop what pte_tryget() or pte_alloc_get() took
 * @ref: the ref; NULL is ignored
 *
 * Context: any; does not sleep.
 */
static inline void pte_put(struct pte_ref *ref)
{
	if (ref)
		__pte_put(ref);
}

/**
 * pte_get_locked() - become a holder of a table that is locked
 * @mm: the mm
 * @addr: an address in the table's range
 * @ptep: any entry of the table
 *
 * For a caller that empties the table under one hold of its lock, as a zap
 * does, and then looks at it itself: the reference is one more in the count of
 * entries, so the table is not noted meanwhile.
 *
 * Context: the table is locked.
 */
static __always_inline void pte_get_locked(struct mm_struct *mm,
					   unsigned long addr, pte_t *ptep)
{
	if (pte_ref_enabled())
		pte_ref_count_new(addr, ptep, 1);
}

/**
 * pte_put_locked() - drop what pte_get_locked() took
 * @mm: the mm
 * @addr: an address in the table's range
 * @ptep: any entry of the table
 *
 * Context: the table is locked, as it was since pte_get_locked().
 */
static __always_inline void pte_put_locked(struct mm_struct *mm,
					   unsigned long addr, pte_t *ptep)
{
	struct ptdesc *ptdesc;
	int nr;

	if (!pte_ref_enabled())
		return;
	ptdesc = pte_ptdesc(ptep);
	nr = ptdesc->pte_populated - 1;
	WRITE_ONCE(ptdesc->pte_populated, nr);
	if (!nr && ptdesc->pte_ref != &pte_ref_none)
		__pte_ref_zapped(ptdesc);
}

/**
 * vmf_pte_tryget() - become a holder of the table that a fault will map
 * @vmf: a fault that is about to call ->fault()
 *
 * A user-mode fault that finds its table freed makes another.  The others, as
 * those of GUP, fault in page after page and hold the table meanwhile.
 *
 * Context: process context, no page table lock held; does not sleep.
 */
static inline void vmf_pte_tryget(struct vm_fault *vmf)
{
	if (pte_ref_enabled() && unlikely(!(vmf->flags & FAULT_FLAG_USER)))
		__vmf_pte_tryget(vmf);
}

/**
 * vmf_pte_put() - drop the reference of a fault, if it has one
 * @vmf: the fault; its VMA, mm and table may be gone
 *
 * Context: any.
 */
static inline void vmf_pte_put(struct vm_fault *vmf)
{
	if (unlikely(vmf->pte_ref)) {
		pte_put(vmf->pte_ref);
		vmf->pte_ref = NULL;
	}
}

/* Reclaim */

/**
 * try_to_free_user_ptes() - try to free the tables of a range that was zapped
 * @tlb: the gather of the zap; if a table is unlinked, it flushes the TLB
 * @pmd: entry of the PMD table for @start
 * @start: first address that was zapped
 * @end: end of what was zapped, in the same PMD table
 * @forget: stock would have freed these tables too, so huge pages may be mapped
 *	where the deferred work has freed one before
 *
 * Frees the tables that the range covers and whose count is zero.  Of those at
 * its edges more is mapped, and what was zapped there is often touched again
 * soon: the zap has noted them.
 *
 * Context: as try_to_free_user_pte().
 */
static inline void try_to_free_user_ptes(struct mmu_gather *tlb, pmd_t *pmd,
					 unsigned long start, unsigned long end,
					 bool forget)
{
	if (pte_ref_enabled())
		__try_to_free_user_ptes(tlb, pmd, start, end, forget);
}

/**
 * pte_ref_empty() - is there a table below @pmd in which nothing is populated?
 * @pmd: entry of the PMD table; stable as for pte_offset_map()
 *
 * A hint: rmap takes an entry away for a moment, to write another one in its
 * place.
 *
 * Context: any.
 * Return: true if there is a table that is tracked and looks empty.
 */
static inline bool pte_ref_empty(pmd_t *pmd)
{
	struct ptdesc *ptdesc;
	bool empty = false;
	pmd_t pmdval;

	if (!pte_ref_enabled())
		return false;
	rcu_read_lock();
	pmdval = pmdp_get_lockless(pmd);
	if (pmd_present(pmdval) && !pmd_leaf(pmdval)) {
		ptdesc = page_ptdesc(pmd_page(pmdval));
		empty = !READ_ONCE(ptdesc->pte_populated) &&
			READ_ONCE(ptdesc->pte_ref);
	}
	rcu_read_unlock();
	return empty;
}

/* For the deferred work */

/**
 * pte_ref_unmapped() - the tables of a range were freed with its VMAs
 * @mm: the mm
 * @start: first address that was unmapped
 * @end: end of what was unmapped
 * @floor: as for free_pgtables()
 * @ceiling: as for free_pgtables()
 *
 * free_pgtables() leaves a table that a neighbouring VMA shares.  If it is
 * empty it is noted.  What comes in the range of the others may be mapped by
 * huge pages again.
 *
 * Context: mmap_lock held for read or write.
 */
static inline void pte_ref_unmapped(struct mm_struct *mm,
				    unsigned long start, unsigned long end,
				    unsigned long floor, unsigned long ceiling)
{
	mmap_assert_locked(mm);
	if (pte_ref_enabled())
		__pte_ref_unmapped(mm, start, end, floor, ceiling);
}

/**
 * pte_ref_moved() - whole tables were moved to other addresses
 * @mm: the mm
 * @pmd: entry of the PMD table, in its new place, of the first one
 * @addr: where its range starts now
 * @nr: number of PMD entries to look at
 *
 * Context: the lock of the PMD table, or of the upper table that it was moved
 * to.
 */
static inline void pte_ref_moved(struct mm_struct *mm, pmd_t *pmd,
				 unsigned long addr, int nr)
{
	if (pte_ref_enabled())
		__pte_ref_moved(mm, pmd, addr, nr);
}

/* Small pages where the deferred work has freed a table */

/**
 * pte_ref_linked() - a table was linked, so there is one, as on stock
 * @mm: the mm
 * @pmd: entry of the PMD table
 *
 * Context: the PMD lock.
 */
static inline void pte_ref_linked(struct mm_struct *mm, pmd_t *pmd)
{
	if (pte_ref_enabled() && unlikely(READ_ONCE(mm->pte_ref.small)))
		__pte_ref_linked(pmd);
}

/**
 * vmf_wants_small_page() - is no huge page to be mapped without a PTE table?
 * @vmf: a fault of anonymous memory that could map a huge page
 *
 * Without deferred work there would be a table, so a small page would be
 * mapped.  The bit was set before the table was unlinked.  Only ->small, which
 * is set with the first bit of an mm, may be read too early; that costs a huge
 * page.
 *
 * Context: process context; does not sleep.
 * Return: true if this fault allocates a PTE table and maps a small page.
 */
static inline bool vmf_wants_small_page(struct vm_fault *vmf)
{
	return pte_ref_enabled() &&
	       unlikely(READ_ONCE(vmf->vma->vm_mm->pte_ref.small)) &&
	       __vmf_wants_small_page(vmf);
}

/**
 * pte_ref_fork() - faults of the child map small pages where the parent's do
 * @dst_vma: VMA of the child
 * @src_vma: VMA of the parent
 * @dst_pmd: entry of the child's PMD table for @addr
 * @src_pmd: entry of the parent's
 * @addr: first address
 * @end: end of the range, in one PMD table
 *
 * Context: as copy_page_range().
 */
static inline void pte_ref_fork(struct vm_area_struct *dst_vma,
				struct vm_area_struct *src_vma,
				pmd_t *dst_pmd, pmd_t *src_pmd,
				unsigned long addr, unsigned long end)
{
	if (pte_ref_enabled() &&
	    unlikely(READ_ONCE(src_vma->vm_mm->pte_ref.small)) &&
	    vma_is_anonymous(src_vma))
		__pte_ref_fork(dst_vma->vm_mm, dst_pmd, src_pmd, addr, end);
}

#else /* !CONFIG_FREE_USER_PTE */

static inline void track_ptes(struct mm_struct *mm, unsigned long addr,
			      pte_t *ptep, unsigned int nr)
{
}

static inline void track_new_ptes(struct mm_struct *mm, unsigned long addr,
				  pte_t *ptep, unsigned int nr)
{
}

static inline void track_copied_ptes(struct mm_struct *mm, unsigned long addr,
				     pte_t *ptep, unsigned int nr)
{
}

static inline void track_moved_ptes(struct mm_struct *mm, unsigned long src_addr,
				    pte_t *src_pte, unsigned long dst_addr,
				    pte_t *dst_pte, unsigned int nr)
{
}

static inline void pte_put(struct pte_ref *ref) { }

static inline int pte_alloc_get(struct mm_struct *mm, pmd_t *pmd,
				unsigned long addr, struct pte_ref **refp)
{
	return pte_alloc(mm, pmd);
}

static inline int pte_alloc_get_nofail(struct mm_struct *mm, pmd_t *pmd,
				       unsigned long addr,
				       struct pte_ref **refp)
{
	return pte_alloc(mm, pmd);
}

static inline void pte_get_locked(struct mm_struct *mm, unsigned long addr,
				  pte_t *ptep)
{
}

static inline void pte_put_locked(struct mm_struct *mm, unsigned long addr,
				  pte_t *ptep)
{
}

static inline void vmf_pte_tryget(struct vm_fault *vmf) { }

static inline void vmf_pte_install(struct vm_fault *vmf)
{
	pmd_install(vmf->vma->vm_mm, vmf->pmd, &vmf->prealloc_pte);
}

static inline void vmf_pte_put(struct vm_fault *vmf) { }

static inline void try_to_free_user_ptes(struct mmu_gather *tlb, pmd_t *pmd,
					 unsigned long start, unsigned long end,
					 bool forget)
{
}

static inline void pte_ref_note(struct mm_struct *mm, unsigned long addr) { }

static inline void pte_ref_note_empty(struct mm_struct *mm, unsigned long addr)
{
}

static inline void pte_ref_unmapped(struct mm_struct *mm,
				    unsigned long start, unsigned long end,
				    unsigned long floor, unsigned long ceiling)
{
}

static inline void pte_ref_moved(struct mm_struct *mm, pmd_t *pmd,
				 unsigned long addr, int nr)
{
}

static inline bool pte_ref_moves_none(struct mm_struct *mm, unsigned long addr,
				      bool all)
{
	return false;
}

static inline void pte_ref_moved_none(struct mm_struct *mm, pmd_t *pmd) { }
static inline void pte_ref_linked(struct mm_struct *mm, pmd_t *pmd) { }
static inline bool vmf_wants_small_page(struct vm_fault *vmf) { return false; }

static inline void pte_ref_fork(struct vm_area_struct *dst_vma,
				struct vm_area_struct *src_vma,
				pmd_t *dst_pmd, pmd_t *src_pmd,
				unsigned long addr, unsigned long end)
{
}

static inline bool pte_ref_fork_empty(struct vm_area_struct *dst_vma,
				      struct vm_area_struct *src_vma,
				      pmd_t *dst_pmd, pmd_t *src_pmd,
				      unsigned long addr)
{
	return false;
}

#endif /* CONFIG_FREE_USER_PTE */

#endif /* _MM_PTE_REF_H */
