/* SPDX-License-Identifier: GPL-2.0 */
/*
 * pte_ref: references to user PTE tables.  See mm/pte_ref.c for how it works.
 *
 * This header holds what the rest of the kernel calls: the hooks of the
 * primitives that write entries (track_pte_set(), track_pte_clear()), those of
 * a table's constructor and destructor, and the calls of users of a table.
 */
#ifndef _LINUX_PTE_REF_H
#define _LINUX_PTE_REF_H

#include <linux/mm_types.h>

struct mmu_gather;
struct pte_ref;

#ifdef CONFIG_FREE_USER_PTE
#include <linux/jump_label.h>

DECLARE_STATIC_KEY_FALSE(pte_ref_key);

/* Of primitives with a hook, which makes them too large for the taste of gcc. */
#define pte_tracked_inline __always_inline

/* Of a table that needed no ref yet; see mm/pte_ref.c. */
extern struct pte_ref pte_ref_none;

void __pte_ref_free(struct ptdesc *ptdesc, struct pte_ref *ref);
void __pte_ref_populated(unsigned long addr, struct ptdesc *ptdesc);
void __pte_ref_emptied(struct mm_struct *mm, unsigned long addr,
		       struct ptdesc *ptdesc);
void __pte_ref_zapped(struct ptdesc *ptdesc);
void __track_pte_set(struct mm_struct *mm, unsigned long addr, pte_t *ptep,
		     pte_t pte, unsigned int nr);
struct pte_ref *__pte_ref_tryget(pmd_t *pmd);
struct pte_ref *__pte_ref_hold(struct mm_struct *mm, pmd_t *pmd,
			       unsigned long addr);
void __pte_ref_put(struct pte_ref *ref);
void __pte_ref_zap_end(struct mmu_gather *tlb, pmd_t *pmd, unsigned long start,
		       unsigned long end, bool forget);
void __pte_ref_unmapped(struct mm_struct *mm, unsigned long start,
			unsigned long end, unsigned long floor,
			unsigned long ceiling);
void __pte_ref_moved(struct mm_struct *mm, pmd_t *pmd, unsigned long addr,
		     int nr);
void __mm_init_pte_ref(struct mm_struct *mm);
void __mm_exit_pte_ref(struct mm_struct *mm);
void pte_ref_note(struct mm_struct *mm, unsigned long addr);
void pte_ref_note_empty(struct mm_struct *mm, unsigned long addr);

bool pte_tryget(struct mm_struct *mm, pmd_t *pmd, unsigned long addr);
void __pte_put(pgtable_t pgtable);
void pte_put(pte_t *ptep);
struct pte_ref *pmd_install_hold(struct mm_struct *mm, pmd_t *pmd,
				 unsigned long addr, pgtable_t *pte);
int pte_alloc_hold(struct mm_struct *mm, pmd_t *pmd, unsigned long addr,
		   struct pte_ref **refp);
/* For a loop: pte_alloc() at first, and if the table went pte_alloc_hold(). */
#define pte_alloc_hold_if(again, mm, pmd, addr, refp)		\
	((again) ? pte_alloc_hold(mm, pmd, addr, refp) : pte_alloc(mm, pmd))
bool try_to_free_user_pte(struct mm_struct *mm, pmd_t *pmd, unsigned long addr);
bool free_user_pte(struct mm_struct *mm, pmd_t *pmd, unsigned long addr);

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
 * @mm: the mm that the table is made for
 * @ptdesc: the table; nobody else sees it yet
 *
 * Tables of init_mm and those that the kernel makes for itself early at boot (text
 * poking) stay untracked: their slot is NULL and they are never freed by this
 * subsystem.
 *
 * Context: any.
 */
static inline void pte_ref_init(struct mm_struct *mm, struct ptdesc *ptdesc)
{
	if (!pte_ref_enabled() || mm == &init_mm)
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
 * Context: both tables are locked, as they were since the first entry was cleared by
 * ptep_get_and_clear_untracked().
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
 * track_copied_ptes() - count entries that fork populated by set_ptes_untracked()
 * @mm: the mm of the child
 * @addr: an address in the table's range
 * @ptep: any entry of the table
 * @nr: number of entries, which were none before; or 0
 *
 * The parent's table may have had entries of a neighbour only, which is not copied.
 * Then the new table is empty, and no entry of it was ever cleared.
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
 * pte_ref_tryget() - take a reference to the table below @pmd, if there is one
 * @pmd: entry of the PMD table; stable as for pte_offset_map()
 *
 * Holds off reclaim by this subsystem, not free_pgtables() nor the collapse to
 * a huge page.  The reference stays good when its table goes: put it whenever,
 * even after mmap_lock was dropped.
 *
 * Context: any; does not sleep.
 * Return: the ref, or NULL if there is no table, the table is untracked, has no ref
 * yet, or its count is zero.  The caller goes on without, through the locked path.
 */
static inline struct pte_ref *pte_ref_tryget(pmd_t *pmd)
{
	return pte_ref_enabled() ? __pte_ref_tryget(pmd) : NULL;
}

/**
 * pte_ref_hold() - take a reference to the table below @pmd
 * @mm: the mm
 * @pmd: entry of the PMD table for @addr; stable as for pte_offset_map()
 * @addr: an address in the table's range
 *
 * As pte_ref_tryget(), but takes the PMD lock if the table has no ref or its count
 * is zero: whoever frees the table needs that lock.  So a table that is there
 * stays, as far as this subsystem is concerned.
 *
 * Context: process context, no page table lock held; does not sleep.
 * Return: the ref, or NULL if there is no table, it is untracked, or there is no
 * memory for its ref.
 */
static inline struct pte_ref *pte_ref_hold(struct mm_struct *mm, pmd_t *pmd,
					   unsigned long addr)
{
	struct pte_ref *ref;

	if (!pte_ref_enabled())
		return NULL;
	ref = __pte_ref_tryget(pmd);
	return likely(ref) ? ref : __pte_ref_hold(mm, pmd, addr);
}

/**
 * pte_ref_put() - drop what pte_ref_tryget() took
 * @ref: the ref; NULL is ignored
 *
 * Context: any; does not sleep.
 */
static inline void pte_ref_put(struct pte_ref *ref)
{
	if (ref)
		__pte_ref_put(ref);
}

/**
 * pte_get_locked() - take a reference to a table that is locked
 * @mm: the mm
 * @addr: an address in the table's range
 * @ptep: any entry of the table
 *
 * For those who keep the lock until they are done with the table, as a zap does: their
 * reference is one more in the count of entries.
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
 * @note: have the table looked at if it is empty
 *
 * Without @note the caller looks at it, or the table goes with its VMA.
 *
 * Context: the table is locked, as it was since pte_get_locked().
 */
static __always_inline void pte_put_locked(struct mm_struct *mm,
					   unsigned long addr, pte_t *ptep,
					   bool note)
{
	struct ptdesc *ptdesc;
	int nr;

	if (!pte_ref_enabled())
		return;
	ptdesc = pte_ptdesc(ptep);
	nr = ptdesc->pte_populated - 1;
	WRITE_ONCE(ptdesc->pte_populated, nr);
	if (nr)
		return;
	if (note)
		__pte_ref_emptied(mm, addr, ptdesc);
	else if (ptdesc->pte_ref != &pte_ref_none)
		__pte_ref_zapped(ptdesc);
}

/**
 * pte_ref_zap_end() - try to free the tables of a range that was zapped
 * @tlb: the gather of the zap; if a table goes, it flushes the TLB
 * @pmd: entry of the PMD table for @start
 * @start: first address that was zapped
 * @end: end of what was zapped, in the same PMD table
 * @forget: stock would have freed these tables too, so what the work has freed there
 *	before may be mapped by huge pages
 *
 * Frees the tables that the range covers.  Of those at its edges more is mapped,
 * and what was zapped there is often touched again soon: pte_put_locked() noted
 * them.
 *
 * Context: as try_to_free_user_pte().
 */
static inline void pte_ref_zap_end(struct mmu_gather *tlb, pmd_t *pmd,
				   unsigned long start, unsigned long end,
				   bool forget)
{
	if (pte_ref_enabled())
		__pte_ref_zap_end(tlb, pmd, start, end, forget);
}

/**
 * pte_ref_unmapped() - the tables of a range went with its VMAs
 * @mm: the mm
 * @start: first address that was unmapped
 * @end: end of what was unmapped
 * @floor: as for free_pgtables()
 * @ceiling: as for free_pgtables()
 *
 * free_pgtables() leaves a table that a neighbouring VMA shares.  If it is
 * empty it is noted.  What comes in the range of the others may be mapped by huge
 * pages again.
 *
 * Context: mmap_lock held for read or write.
 */
static inline void pte_ref_unmapped(struct mm_struct *mm,
				    unsigned long start, unsigned long end,
				    unsigned long floor, unsigned long ceiling)
{
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
 * Context: the lock of the PMD table, or of the upper table that it was moved to.
 */
static inline void pte_ref_moved(struct mm_struct *mm, pmd_t *pmd,
				 unsigned long addr, int nr)
{
	if (pte_ref_enabled())
		__pte_ref_moved(mm, pmd, addr, nr);
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
 * mm_exit_pte_ref() - nobody is to look at the tables of an mm any more
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

static inline bool pte_ref_enabled(void) { return false; }
static inline void pte_ref_init(struct mm_struct *mm, struct ptdesc *ptdesc) { }
static inline void pte_ref_free(struct ptdesc *ptdesc) { }

static inline void track_pte_set(struct mm_struct *mm, unsigned long addr,
				 pte_t *ptep, pte_t pte, unsigned int nr)
{
}

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

static inline void track_pte_clear(struct mm_struct *mm, unsigned long addr,
				   pte_t *ptep, pte_t old)
{
}

static inline void track_pte_clear_full(struct mm_struct *mm,
					unsigned long addr, pte_t *ptep,
					pte_t old)
{
}

static inline struct pte_ref *pte_ref_tryget(pmd_t *pmd) { return NULL; }

static inline struct pte_ref *pte_ref_hold(struct mm_struct *mm, pmd_t *pmd,
					   unsigned long addr)
{
	return NULL;
}

static inline void pte_ref_put(struct pte_ref *ref) { }

static inline void pte_get_locked(struct mm_struct *mm, unsigned long addr,
				  pte_t *ptep)
{
}

static inline void pte_put_locked(struct mm_struct *mm, unsigned long addr,
				  pte_t *ptep, bool note)
{
}

static inline void pte_ref_zap_end(struct mmu_gather *tlb, pmd_t *pmd,
				   unsigned long start, unsigned long end,
				   bool forget)
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

static inline void mm_init_pte_ref(struct mm_struct *mm) { }
static inline void mm_exit_pte_ref(struct mm_struct *mm) { }
static inline void pte_ref_note(struct mm_struct *mm, unsigned long addr) { }

static inline void pte_ref_note_empty(struct mm_struct *mm, unsigned long addr)
{
}

static inline bool pte_tryget(struct mm_struct *mm, pmd_t *pmd,
			      unsigned long addr)
{
	return false;
}

static inline void __pte_put(pgtable_t pgtable) { }
static inline void pte_put(pte_t *ptep) { }

/* Macros: the headers that have what they call come later. */
#define pmd_install_hold(mm, pmd, addr, pte) \
	((void)(addr), pmd_install(mm, pmd, pte), (struct pte_ref *)NULL)
#define pte_alloc_hold(mm, pmd, addr, refp) \
	((void)(addr), *(refp) = NULL, pte_alloc(mm, pmd))
#define pte_alloc_hold_if(again, mm, pmd, addr, refp) \
	((void)(again), (void)(addr), (void)(refp), pte_alloc(mm, pmd))

static inline bool try_to_free_user_pte(struct mm_struct *mm, pmd_t *pmd,
					unsigned long addr)
{
	return false;
}

#endif /* CONFIG_FREE_USER_PTE */

#ifdef CONFIG_DEBUG_FREE_USER_PTE
void pte_ref_recount(pte_t *ptep);
#else
static inline void pte_ref_recount(pte_t *ptep) { }
#endif

#endif /* _LINUX_PTE_REF_H */
