/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the rest of mm/ asks, and what mm/pte_ref.c and its tests share.
 */
#ifndef _MM_PTE_REF_H
#define _MM_PTE_REF_H

#include <linux/percpu-refcount.h>
#include <linux/pte_ref.h>

#include "internal.h"

/*
 * Times that users of a table must be seen to change the CPU within a second
 * before its ref gets percpu counters.
 */
#define PTE_REF_ATTACH_MOVES	64

/* Bits of pte_ref->state; each is set at most once. */
enum {
	PTE_REF_ATTACHED,	/* percpu counters were asked for */
	PTE_REF_SWITCHING,	/* a switch to atomic mode was started */
	PTE_REF_SWITCHED,	/* and is over */
	PTE_REF_DEAD,		/* the table is gone */
	PTE_REF_RETIRED,	/* and so is its last user */
};

/**
 * struct pte_ref - reference to a user PTE table
 * @ref: users of the table, plus one while it has populated entries
 * @data: the part of @ref that percpu_ref_init() would allocate
 * @mm: the mm of the table; only good to touch while the table is not dead
 * @addr: where the range of the table started when it was last known: a hint
 * @state: PTE_REF_* bits
 * @cpu: CPU of the last user
 * @moves: times that @cpu changed in @second
 * @second: a second of the clock, modulo 65536
 */
struct pte_ref {
	struct percpu_ref	ref;
	struct percpu_ref_data	data;
	struct mm_struct	*mm;
	unsigned long		addr;
	unsigned long		state;
	u16			cpu;
	u16			moves;
	u16			second;
};

/*
 * Marks in the slot of a PMD or PUD table, or in its struct pte_notes: bit
 * PTE_NOTES_SHIFT is for the first PTE_NOTES_GROUP entries.
 */
#define PTE_NOTES_TAG		4UL
#define PTE_NOTES_OBJECT	8UL
#define PTE_NOTES_SHIFT		4
#define PTE_NOTES_GROUP		(PAGE_SIZE / sizeof(pmd_t) / 32)

/**
 * struct pte_notes - what is noted of a PMD table, if more than its slot has room for
 * @marks: groups of PTE tables of which one may be empty
 * @small: entries where a fault maps a small page, since the work has freed their table
 */
struct pte_notes {
	unsigned long		marks;
	DECLARE_BITMAP(small, PAGE_SIZE / sizeof(pmd_t));
} __aligned(2 * PTE_NOTES_OBJECT);

struct pte_ref *pte_ref_make(struct mm_struct *mm, unsigned long addr,
			     struct ptdesc *ptdesc);
pmd_t *pte_ref_find_pmd(struct mm_struct *mm, unsigned long addr);
unsigned long pte_ref_read(struct ptdesc *ptdesc);
bool pte_ref_is_percpu(struct pte_ref *ref);
int pte_ref_attach(struct pte_ref *ref, gfp_t gfp);
bool pte_ref_start_switch(struct pte_ref *ref);
void pte_ref_flush(struct mm_struct *mm);

#ifdef CONFIG_FREE_USER_PTE

void __vmf_hold_pte_table(struct vm_fault *vmf);
void vmf_install_pte_table(struct vm_fault *vmf);
bool pte_ref_empty_locked(struct mm_struct *mm, pmd_t *pmd, unsigned long addr);
bool __vmf_wants_small_page(struct vm_fault *vmf);
void __pte_ref_linked(pmd_t *pmd);
void __pte_ref_fork(struct mm_struct *dst_mm, pmd_t *dst_pmd, pmd_t *src_pmd,
		    unsigned long addr, unsigned long end);
bool pte_ref_fork_empty(struct vm_area_struct *dst_vma,
			struct vm_area_struct *src_vma, pmd_t *dst_pmd,
			pmd_t *src_pmd, unsigned long addr);
bool pte_ref_moves_none(struct mm_struct *mm, unsigned long addr, bool all);
void pte_ref_moved_none(struct mm_struct *mm, pmd_t *pmd);

/**
 * pte_ref_empty() - is there a table below @pmd in which nothing is populated?
 * @pmd: entry of the PMD table; stable as for pte_offset_map()
 *
 * A hint: rmap takes an entry away for a moment, to write another one in its place.
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

/**
 * vmf_hold_pte_table() - take the reference of a fault that asks a file
 * @vmf: the fault
 *
 * A fault of user mode that finds its table gone just comes again.  Of the others,
 * as those of GUP and fixup_user_fault(), somebody expects that the page is mapped.
 *
 * Context: process context, no page table lock held; does not sleep.
 */
static inline void vmf_hold_pte_table(struct vm_fault *vmf)
{
	if (pte_ref_enabled() && unlikely(!(vmf->flags & FAULT_FLAG_USER)))
		__vmf_hold_pte_table(vmf);
}

/**
 * vmf_put_pte_table() - drop the reference of a fault, if it has one
 * @vmf: the fault; its VMA, mm and table may be gone
 *
 * Context: any.
 */
static inline void vmf_put_pte_table(struct vm_fault *vmf)
{
	if (unlikely(vmf->pte_ref)) {
		pte_ref_put(vmf->pte_ref);
		vmf->pte_ref = NULL;
	}
}

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
 * vmf_wants_small_page() - is no huge page to be mapped where there is no PTE table?
 * @vmf: a fault of anonymous memory that could map a huge page
 *
 * Without deferred work there would be a table, so a small page would be mapped.  The
 * bit was set before the table went; a fault that sees the one and not the other, which
 * takes a CPU that reorders loads, costs a huge page.
 *
 * Context: process context; does not sleep.
 */
static inline bool vmf_wants_small_page(struct vm_fault *vmf)
{
	return pte_ref_enabled() &&
	       unlikely(READ_ONCE(vmf->vma->vm_mm->pte_ref.small)) &&
	       __vmf_wants_small_page(vmf);
}

/**
 * pte_ref_fork() - where the parent's next faults map small pages the child's do too
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

static inline void pte_ref_linked(struct mm_struct *mm, pmd_t *pmd) { }

static inline bool vmf_wants_small_page(struct vm_fault *vmf) { return false; }

static inline void pte_ref_fork(struct vm_area_struct *dst_vma,
				struct vm_area_struct *src_vma,
				pmd_t *dst_pmd, pmd_t *src_pmd,
				unsigned long addr, unsigned long end)
{
}

static inline bool pte_ref_empty(pmd_t *pmd) { return false; }

static inline bool pte_ref_fork_empty(struct vm_area_struct *dst_vma,
				      struct vm_area_struct *src_vma,
				      pmd_t *dst_pmd, pmd_t *src_pmd,
				      unsigned long addr)
{
	return false;
}

static inline bool pte_ref_moves_none(struct mm_struct *mm, unsigned long addr,
				      bool all)
{
	return false;
}

static inline void pte_ref_moved_none(struct mm_struct *mm, pmd_t *pmd) { }

static inline void vmf_hold_pte_table(struct vm_fault *vmf) { }

static inline void vmf_install_pte_table(struct vm_fault *vmf)
{
	pmd_install(vmf->vma->vm_mm, vmf->pmd, &vmf->prealloc_pte);
}

static inline void vmf_put_pte_table(struct vm_fault *vmf) { }

#endif /* CONFIG_FREE_USER_PTE */

#endif /* _MM_PTE_REF_H */
