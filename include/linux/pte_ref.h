/* SPDX-License-Identifier: GPL-2.0 */
/*
 * pte_ref: references to user PTE tables.  See mm/pte_ref.c for how it works.
 *
 * This header has what the headers of architectures need, the hooks of
 * primitives that write entries (track_pte_set(), track_pte_clear()), and those
 * of a table's constructor and destructor and of an mm.  What the rest of mm/
 * calls is in mm/pte_ref.h.
 */
#ifndef _LINUX_PTE_REF_H
#define _LINUX_PTE_REF_H

#include <linux/mm_types.h>

struct pte_ref;

#ifdef CONFIG_FREE_USER_PTE
#include <linux/jump_label.h>

DECLARE_STATIC_KEY_FALSE(pte_ref_key);

/* Of primitives that a hook makes too large for gcc to inline. */
#define pte_tracked_inline __always_inline

/* Of a table that had no holder yet; see mm/pte_ref.c. */
extern struct pte_ref pte_ref_none;

void __pte_ref_free(struct ptdesc *ptdesc, struct pte_ref *ref);
void __pte_ref_populated(unsigned long addr, struct ptdesc *ptdesc);
void __pte_ref_emptied(struct mm_struct *mm, unsigned long addr,
		       struct ptdesc *ptdesc);
void __track_pte_set(struct mm_struct *mm, unsigned long addr, pte_t *ptep,
		     pte_t pte, unsigned int nr);
void __mm_init_pte_ref(struct mm_struct *mm);
void __mm_exit_pte_ref(struct mm_struct *mm);
void pte_ref_note(struct mm_struct *mm, unsigned long addr);
pte_t *pte_alloc_pinned(struct mm_struct *mm, pmd_t *pmd, unsigned long addr);
pte_t *pte_offset_pinned(pmd_t *pmd, unsigned long addr);

/**
 * pte_ref_enabled() - is the subsystem on?
 *
 * Set once at boot, before the first process of user space exists.
 *
 * Return: true if tables that are made from now on are counted.
 */
static __always_inline bool pte_ref_enabled(void)
{
	return static_branch_likely(&pte_ref_key);
}

/**
 * pte_ref_init() - start to count a new PTE table
 * @mm: the mm that the table is made for, or NULL
 * @ptdesc: the table; nobody else sees it yet
 *
 * Tables of init_mm, of no mm (EFI) and those that the kernel makes for itself
 * early at boot (text poking) stay untracked: their slot is NULL and they are
 * never freed by this subsystem.
 *
 * Context: any.
 */
static inline void pte_ref_init(struct mm_struct *mm, struct ptdesc *ptdesc)
{
	if (!pte_ref_enabled() || !mm || mm == &init_mm)
		return;
	ptdesc->pte_populated = 0;
	ptdesc->pte_ref = &pte_ref_none;
}

/**
 * pte_ref_free() - take the ref away from a page table that is destroyed
 * @ptdesc: a page table of any level, which no walker can find any more
 *
 * Context: any.
 */
static inline void pte_ref_free(struct ptdesc *ptdesc)
{
	struct pte_ref *ref = ptdesc->pte_ref;

	if (!ref)
		return;
	ptdesc->pte_ref = NULL;
	if (unlikely(ref != &pte_ref_none))
		__pte_ref_free(ptdesc, ref);
}

/*
 * Compiles to nothing where the caller names init_mm.  Elsewhere a kernel table
 * is known by its slot, which is NULL.
 */
static __always_inline bool pte_ref_tracks(struct mm_struct *mm)
{
	if (__builtin_constant_p(mm == &init_mm) && mm == &init_mm)
		return false;
	return pte_ref_enabled();
}

#ifndef pte_ptdesc
#define pte_ptdesc(ptep) page_ptdesc(virt_to_page(ptep))
#endif

/*
 * Entries of a table are written under its lock (or while nobody else can
 * find the table), so that a plain count in the table's descriptor, on the
 * cache line of that lock, is exact.  Only the first and the last entry of a
 * table look whether the table is tracked; in others the count is noise.
 */
static __always_inline void pte_ref_count(struct mm_struct *mm,
					  unsigned long addr, pte_t *ptep,
					  int delta)
{
	struct ptdesc *ptdesc = pte_ptdesc(ptep);
	int nr;

	nr = ptdesc->pte_populated + delta;
	WRITE_ONCE(ptdesc->pte_populated, nr);
	if (delta > 0 && unlikely(nr == delta))
		__pte_ref_populated(addr, ptdesc);
	else if (unlikely(!nr))
		__pte_ref_emptied(mm, addr, ptdesc);
}

/* The same for entries that were none. */
static __always_inline void pte_ref_count_new(unsigned long addr, pte_t *ptep,
					      int new)
{
	struct ptdesc *ptdesc = pte_ptdesc(ptep);
	int nr = ptdesc->pte_populated + new;

	WRITE_ONCE(ptdesc->pte_populated, nr);
	if (unlikely(nr == new))
		__pte_ref_populated(addr, ptdesc);
}

/**
 * track_pte_set() - count entries that are about to be written
 * @mm: the mm of the table
 * @addr: user address of the first entry
 * @ptep: the first entry, not written yet
 * @pte: what will be written
 * @nr: number of entries; all in one table
 *
 * Context: the table is locked, or nobody else can find it.
 */
static __always_inline void track_pte_set(struct mm_struct *mm,
					  unsigned long addr, pte_t *ptep,
					  pte_t pte, unsigned int nr)
{
	if (!pte_ref_tracks(mm))
		return;

	if (likely(nr == 1 && !pte_none(pte))) {
		if (likely(pte_none(READ_ONCE(*ptep))))
			pte_ref_count_new(addr, ptep, 1);
	} else {
		__track_pte_set(mm, addr, ptep, pte, nr);
	}
}

/**
 * track_pte_clear() - count an entry that becomes none
 * @mm: the mm of the table
 * @addr: user address of the entry
 * @ptep: the entry
 * @old: what stood there
 *
 * Context: the table is locked, or nobody else can find it.
 */
static __always_inline void track_pte_clear(struct mm_struct *mm,
					    unsigned long addr, pte_t *ptep,
					    pte_t old)
{
	if (!pte_ref_tracks(mm))
		return;
	if (likely(!pte_none(old)))
		pte_ref_count(mm, addr, ptep, -1);
}

/**
 * track_pte_clear_full() - an entry becomes none because its mm goes
 * @mm: the mm of the table
 * @addr: user address of the entry
 * @ptep: the entry
 * @old: what stood there
 *
 * Nobody asks for the count of a table any more that free_pgtables() is about
 * to free.
 *
 * Context: the mm has no users.
 */
static __always_inline void track_pte_clear_full(struct mm_struct *mm,
						 unsigned long addr,
						 pte_t *ptep, pte_t old)
{
	if (IS_ENABLED(CONFIG_DEBUG_FREE_USER_PTE))
		track_pte_clear(mm, addr, ptep, old);
}

/**
 * track_ptes_clear() - count a batch of entries that become none
 * @mm: the mm of the table
 * @addr: user address of the first entry
 * @ptep: the first entry
 * @nr: number of entries, all in one table and populated
 * @full: the mm goes, see track_pte_clear_full()
 *
 * Context: the table is locked.
 */
static __always_inline void track_ptes_clear(struct mm_struct *mm,
					     unsigned long addr, pte_t *ptep,
					     unsigned int nr, int full)
{
	if (!pte_ref_tracks(mm) ||
	    (full && !IS_ENABLED(CONFIG_DEBUG_FREE_USER_PTE)))
		return;
	pte_ref_count(mm, addr, ptep, -(int)nr);
}

/**
 * mm_init_pte_ref() - a new mm has nothing noted
 * @mm: the mm; nobody else sees it yet
 */
static inline void mm_init_pte_ref(struct mm_struct *mm)
{
	__mm_init_pte_ref(mm);
}

/**
 * mm_exit_pte_ref() - end the deferred work of an mm
 * @mm: the mm, without users
 *
 * Context: before its VMAs go.  May sleep.
 */
static inline void mm_exit_pte_ref(struct mm_struct *mm)
{
	if (pte_ref_enabled() &&
	    (atomic_fetch_or(MM_PTE_REF_EXIT, &mm->pte_ref.state) & MM_PTE_REF_WORK))
		__mm_exit_pte_ref(mm);
}

#else /* !CONFIG_FREE_USER_PTE */

#define pte_tracked_inline inline
#define pte_alloc_pinned pte_alloc_huge
#define pte_offset_pinned pte_offset_huge

static inline bool pte_ref_enabled(void) { return false; }
static inline void pte_ref_init(struct mm_struct *mm, struct ptdesc *ptdesc) { }
static inline void pte_ref_free(struct ptdesc *ptdesc) { }

static inline void track_pte_set(struct mm_struct *mm, unsigned long addr,
				 pte_t *ptep, pte_t pte, unsigned int nr)
{
}

static inline void track_pte_clear(struct mm_struct *mm, unsigned long addr,
				   pte_t *ptep, pte_t old)
{
}

static inline void track_pte_clear_full(struct mm_struct *mm,
					unsigned long addr, pte_t *ptep,
					pte_t old)
{
}

static inline void track_ptes_clear(struct mm_struct *mm, unsigned long addr,
				    pte_t *ptep, unsigned int nr, int full)
{
}

static inline void mm_init_pte_ref(struct mm_struct *mm) { }
static inline void mm_exit_pte_ref(struct mm_struct *mm) { }

#endif /* CONFIG_FREE_USER_PTE */

#ifdef CONFIG_DEBUG_FREE_USER_PTE
void pte_ref_recount(pte_t *ptep);
#else
static inline void pte_ref_recount(pte_t *ptep) { }
#endif

#endif /* _LINUX_PTE_REF_H */
