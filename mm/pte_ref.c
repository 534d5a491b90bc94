// SPDX-License-Identifier: GPL-2.0
/*
 * pte_ref: count references to user PTE tables, free the ones that are empty.
 *
 * madvise(), truncate and reclaim take pages away and leave the PTE tables that
 * mapped them.  To read all entries of a table, under its lock, to learn that
 * it is empty costs more than the zap that may have emptied it.  So of each
 * user PTE table
 *
 *	count(table) = populated entries + holders
 *
 * is known at any time, and a table whose count is zero is freed.
 *
 * Who counts.  An entry is populated if it is not pte_none(): swap and
 * migration entries and markers are.  Entries are written under the page table
 * lock (PTL), or while nobody else can find the table, so the primitives that
 * write them count in a plain integer, ptdesc->pte_populated: track_pte_set()
 * and the others of <linux/pte_ref.h>.
 *
 * Who zaps.  A zap that covers a table holds it while it has the PTL, which is
 * one more in the same integer: pte_get_locked().  When it is done it calls
 * try_to_free_user_ptes().  A zap that free_pgtables() follows holds it too, so
 * that it is not noted.  Other code that brings a count to zero (a zap of a
 * part, rmap, a move of entries, the last holder, a driver), or leaves a table
 * empty that was just made, calls pte_ref_note(), and the deferred work of the
 * mm looks at the table: see mm/pte_ref_deferred.c.
 *
 * Zero.  A count is raised from zero under the PTL, after a check that the
 * table is still linked, or under the PMD lock.  So zero that is read under
 * both is final, and free_user_ptes() unlinks the table.  Zero that is read
 * under less is a hint.  Zero of a linked table is a legal state: a table is
 * born with it.
 *
 * Who may unlink.  free_pgtables() reads the PMD entries of detached VMAs
 * without a lock.  So free_user_ptes() is only for callers that know that a VMA
 * over the table's range stays attached: they hold mmap_lock or the lock of
 * that VMA, or the i_mmap_rwsem through which they found it, since
 * free_pgtables() unlinks a VMA from its mapping before it looks at the tables.
 * A driver that zaps may know less, so its tables are noted.
 *
 * Holders.  pte_tryget() keeps a table linked while its caller is outside the
 * PTL, until pte_put(); see "Holders".  Most tables live and die without one.
 * So the pte_ref of a new ptdesc is pte_ref_none, and the first holder makes a
 * struct pte_ref.  In it is a percpu_ref, of which each holder has one
 * reference, and all populated entries together one: it is zero exactly if the
 * count is.  It is born in atomic mode, and one whose holders come from many
 * CPUs gets percpu counters: see mm/pte_ref_percpu.c.
 *
 * Lock order: mmap_lock, VMA lock or i_mmap_rwsem; PMD lock; PTL.
 * pte_ref_note() takes none, since a count can come to zero under the PTL, with
 * interrupts off, and in an RCU callback.
 */
#define pr_fmt(fmt) "pte_ref: " fmt

#include <linux/hugetlb.h>
#include <linux/mm.h>
#include <linux/pgalloc.h>
#include <linux/slab.h>
#include <linux/vmstat.h>
#include <linux/workqueue.h>
#include <asm/tlb.h>
#include <asm/tlbflush.h>

#include "pte_ref_internal.h"

#define CREATE_TRACE_POINTS
#include <trace/events/pte_ref.h>

#ifndef arch_supports_pte_ref
#define arch_supports_pte_ref()	true
#endif

#ifndef arch_flush_user_ptes
/*
 * Flushes entries of the range as well, not only the way to them: another task
 * may have cleared some, and flush later, and a huge page may come in their
 * place.
 * @tlb is the gather of a zap, or NULL; with what it has cleared before it
 * needs no other flush.  Its helpers take the size as an unsigned int.
 */
static inline void arch_flush_user_ptes(struct mm_struct *mm,
					struct mmu_gather *tlb,
					unsigned long start, unsigned long end)
{
	struct vm_area_struct vma = TLB_FLUSH_VMA(mm, 0);

	if (!tlb) {
		flush_tlb_range(&vma, start, end);
		return;
	}
	tlb_flush_pte_range(tlb, start, PMD_SIZE);
	tlb_flush_pte_range(tlb, end - PMD_SIZE, PMD_SIZE);
	tlb->freed_tables = 1;
	tlb_flush_mmu_tlbonly(tlb);
}
#endif

#ifndef arch_release_user_pte
static inline void arch_release_user_pte(pgtable_t pgtable)
{
}
#endif

DEFINE_STATIC_KEY_FALSE(pte_ref_key);
EXPORT_SYMBOL(pte_ref_key);

/*
 * Its count is zero and stays so: percpu_ref_tryget() fails, and a table that
 * has no entries either is found free.
 */
struct pte_ref pte_ref_none __ro_after_init = {
	.ref.percpu_count_ptr = __PERCPU_REF_ATOMIC,
	.ref.data = &pte_ref_none.data,
};
EXPORT_SYMBOL(pte_ref_none);

/* The primitives are called on entries of PMD tables as well, by hugetlb. */
static_assert(offsetof(struct ptdesc, pte_populated) >=
	      offsetof(struct ptdesc, pt_index) + sizeof(atomic_t));

static struct kmem_cache *pte_ref_cache;

/**
 * pte_ref_table() - the PTE table that an entry of a PMD table leads to
 * @pmd: the entry
 * @pmdvalp: gets the value of the entry
 *
 * Context: rcu_read_lock() or the PMD lock: the table is freed by RCU.
 * Return: the table, or NULL if there is none.
 */
struct ptdesc *pte_ref_table(pmd_t *pmd, pmd_t *pmdvalp)
{
	pmd_t pmdval = pmdp_get_lockless(pmd);

	*pmdvalp = pmdval;
	if (pmd_none(pmdval) || !pmd_present(pmdval) || pmd_leaf(pmdval) ||
	    unlikely(pmd_bad(pmdval)))
		return NULL;
	return page_ptdesc(pmd_pgtable(pmdval));
}

/* Count */

/*
 * The ref of a table that has one.  hugetlb calls the primitives on entries of
 * PMD tables, whose slot is NULL or has their notes.
 */
static struct pte_ref *pte_ref_object(struct ptdesc *ptdesc)
{
	if (!ptdesc->pte_ref || ptdesc->pte_ref == &pte_ref_none ||
	    unlikely(ptdesc->pte_notes & PTE_NOTES_TAG))
		return NULL;
	return ptdesc->pte_ref;
}

/* Slow path of track_pte_set() and its like: the first entry of a table. */
void __pte_ref_populated(unsigned long addr, struct ptdesc *ptdesc)
{
	struct pte_ref *ref = pte_ref_object(ptdesc);

	if (!ref)
		return;
	WRITE_ONCE(ref->addr, addr & PMD_MASK);
	percpu_ref_get(&ref->ref);
}
EXPORT_SYMBOL(__pte_ref_populated);

/* Slow path of track_pte_clear() and its like: the last entry of a table. */
void __pte_ref_emptied(struct mm_struct *mm, unsigned long addr,
		       struct ptdesc *ptdesc)
{
	struct pte_ref *ref = pte_ref_object(ptdesc);
	bool hidden;

	if (!ref) {
		if (ptdesc->pte_ref == &pte_ref_none)
			pte_ref_note(mm, addr);
		return;
	}
	WRITE_ONCE(ref->addr, addr & PMD_MASK);
	hidden = pte_ref_hides_zero(ref);
	percpu_ref_put(&ref->ref);
	/*
	 * While zero is hidden the put does not see it.  Asked before the put,
	 * since a switch may end in between, and after it, since
	 * pte_ref_to_percpu() may come in between: its caller notes the table.
	 * In atomic mode the put is a full barrier between our count and this
	 * question, as pte_ref_note() is between the counters and the read of
	 * our count.
	 */
	if (hidden || pte_ref_hides_zero(ref))
		pte_ref_note(mm, addr);
}
EXPORT_SYMBOL(__pte_ref_emptied);

/*
 * Slow path of pte_put_locked().  Does not note the table: the caller looks at
 * it, and if there is another holder, its put notes the table.
 */
void __pte_ref_zapped(struct ptdesc *ptdesc)
{
	struct pte_ref *ref = pte_ref_object(ptdesc);

	/* The table is locked: zero is not the end of its ref. */
	if (ref)
		pte_ref_put_silent(ref);
}

/* Slow path of track_pte_set(): any number of entries, and any value. */
void __track_pte_set(struct mm_struct *mm, unsigned long addr, pte_t *ptep,
		     pte_t pte, unsigned int nr)
{
	int delta = pte_none(pte) ? -(int)nr : 0;
	unsigned int i;

	for (i = 0; i < nr; i++)
		delta += !!pte_none(READ_ONCE(ptep[i]));
	if (delta)
		pte_ref_count(mm, addr, ptep, delta);
}
EXPORT_SYMBOL(__track_pte_set);

/**
 * pte_ref_read() - the count of a table
 * @ptdesc: the table, which the caller keeps; in atomic mode
 *
 * Context: any.
 * Return: number of populated entries plus number of holders.
 */
unsigned long pte_ref_read(struct ptdesc *ptdesc)
{
	int populated = READ_ONCE(ptdesc->pte_populated);

	if (ptdesc->pte_ref == &pte_ref_none)
		return populated;
	return populated + atomic_long_read(&ptdesc->pte_ref->data.count) -
	       !!populated;
}

/*
 * In the count of a pinned table: more than entries and holders can be, so that
 * it is never zero.
 */
#define PTE_REF_PINNED		0x40000000

/*
 * A table that is not tracked is never freed either.  In one that was unlinked
 * half a pointer may lie in the place of the count, see pte_free_chain(): that
 * is negative, on UML a small number, and so no pin.
 */
static bool pte_ref_pinned(struct ptdesc *ptdesc)
{
	return !READ_ONCE(ptdesc->pte_ref) ||
	       READ_ONCE(ptdesc->pte_populated) >= PTE_REF_PINNED;
}

/**
 * pte_offset_pinned() - map an entry of a pinned table
 * @pmd: entry of the PMD table for @addr; stable as for pte_offset_map()
 * @addr: user address
 *
 * hugetlb keeps pointers to entries, without a lock and while it sleeps, and
 * its VMAs may share a table with others, which can leave it empty.  So a table
 * is pinned before hugetlb gets a pointer into it to write to, and stays so
 * until free_pgtables() frees it.  One that is not pinned has no entry of
 * hugetlb.  The entries of hugetlb are not counted: nobody asks for the exact
 * count of a pinned table.
 *
 * RCU keeps the table while it is asked, also one that was just unlinked, which
 * is not pinned.
 *
 * Context: any, also with the table locked.
 * Return: the entry, or NULL if there is no table or it is not pinned.
 */
pte_t *pte_offset_pinned(pmd_t *pmd, unsigned long addr)
{
	struct ptdesc *ptdesc;
	pte_t *ptep = NULL;
	pmd_t pmdval;

	rcu_read_lock();
	ptdesc = pte_ref_table(pmd, &pmdval);
	if (ptdesc && pte_ref_pinned(ptdesc))
		ptep = pte_offset_kernel(&pmdval, addr);
	rcu_read_unlock();
	return ptep;
}

/**
 * pte_alloc_pinned() - allocate a PTE table if there is none, and pin it
 * @mm: the mm
 * @pmd: entry of the PMD table for @addr; stable as for pte_offset_map()
 * @addr: user address
 *
 * Context: may sleep for memory, no page table lock held.
 * Return: the entry, or NULL if there is no memory or a huge page is there.
 */
pte_t *pte_alloc_pinned(struct mm_struct *mm, pmd_t *pmd, unsigned long addr)
{
	pte_t *ptep = pte_offset_pinned(pmd, addr);
	spinlock_t *ptl;

	if (ptep)
		return ptep;
	ptep = pte_alloc_map_lock(mm, pmd, addr, &ptl);
	if (!ptep)
		return NULL;
	if (!pte_ref_pinned(pte_ptdesc(ptep)))
		pte_ref_count_new(addr, ptep, PTE_REF_PINNED);
	pte_unmap_unlock(ptep, ptl);
	return ptep;
}

#ifdef CONFIG_DEBUG_FREE_USER_PTE
/**
 * pte_ref_recount() - compare the count of a table with its entries
 * @ptep: an entry of the table
 * Reads each entry as it is: ptep_get() may look at its neighbours too.
 *
 * Context: the table is locked.
 */
void pte_ref_recount(pte_t *ptep)
{
	struct ptdesc *ptdesc = page_ptdesc(virt_to_page(ptep));
	pte_t *first = (pte_t *)((unsigned long)ptep & PAGE_MASK);
	unsigned long index;
	int i, populated, nr = 0;

	if (pte_ref_pinned(ptdesc))
		return;
	for (i = 0; i < PTRS_PER_PTE; i++)
		nr += !pte_none(READ_ONCE(first[i]));
	/* The count and the other half of its word, at one time. */
	index = READ_ONCE(ptdesc->pt_index);
	populated = upper_32_bits(index);
	/*
	 * Negative: free_user_ptes() unlinked it while we waited, and chained it
	 * by a pointer whose halves are both not zero.  On UML that is positive,
	 * and the half is zero with less than 2 GiB.  Of a table that is linked
	 * the other half is pt_share_count, which is zero.
	 */
	WARN_ONCE(nr != populated &&
		  (nr || populated > 0 || !lower_32_bits(index)),
		  "pte_ref: mismatch: %d entries, %d counted\n", nr, populated);
}
#endif

/*
 * Holders
 *
 * A fault on an entry that is populated holds nothing: that entry keeps the
 * table, and if it is gone the fault has nothing left to do.  A fault of
 * anonymous memory keeps its page and allocates the table again.  A user-mode
 * fault that calls ->fault() does, too, if the table was freed meanwhile.  One
 * that is not of user mode is mostly one of many: GUP, uaccess and KVM fault
 * in page after page of a range.  It holds the table from before ->fault() to
 * its end, so that a zap of another thread does not have each of them make a
 * table, under the folio lock.  Code that allocates a table and then locks it
 * holds it if it was freed once in between.  Slow GUP looks under the PTL
 * (follow_page_pte()), and what is missing it has faulted in (faultin_page()).
 * GUP-fast holds nothing either: it runs with interrupts off, for which the
 * free of a table waits too, and looks at the PMD entry again before it trusts
 * what it found.
 *
 * A holder may outlive its table, as a fault that drops mmap_lock does.  So a
 * reference is to the ref, not to the table.  The ref lives until its table is
 * destroyed, its last holder is gone, and an RCU grace period has passed.
 */

static void pte_ref_free_object_rcu(struct rcu_head *head)
{
	kmem_cache_free(pte_ref_cache,
			container_of(head, struct pte_ref, data.rcu));
}

/**
 * pte_ref_release() - the count of a ref came to zero
 * @r: the percpu_ref in it
 *
 * As long as the table is not dead its mm has users: the task that put, if no
 * other.  Of a dead table nobody can raise the count again: no walker finds it,
 * and its destructor came after a grace period or after those that exclude all
 * walkers.  The destructor raises the count before it sets PTE_REF_DEAD and
 * drops it last, so a put that sees both dead and zero sees the end;
 * PTE_REF_RETIRED picks one.  Another may still be in here, so the object waits
 * for RCU.
 *
 * Context: the last put, in an RCU read section, under any lock.
 */
void pte_ref_release(struct percpu_ref *r)
{
	struct pte_ref *ref = to_pte_ref(r);

	if (likely(!test_bit(PTE_REF_DEAD, &ref->state))) {
		pte_ref_note(ref->mm, READ_ONCE(ref->addr));
		return;
	}
	if (!atomic_long_read(&ref->data.count) &&
	    !test_and_set_bit(PTE_REF_RETIRED, &ref->state))
		call_rcu(&ref->data.rcu, pte_ref_free_object_rcu);
}

/**
 * pte_ref_make() - give a table its ref, if it has none
 * @mm: the mm of the table
 * @addr: an address in the table's range
 * @ptdesc: the table
 *
 * Context: the table is locked, or nobody else can find it.  Does not sleep.
 * Return: the ref, or NULL if there is no memory for it or the table is
 * untracked.
 */
struct pte_ref *pte_ref_make(struct mm_struct *mm, unsigned long addr,
			     struct ptdesc *ptdesc)
{
	struct pte_ref *ref = ptdesc->pte_ref;

	if (ref != &pte_ref_none)
		return ref;

	/*
	 * Few, and in a fault, which may be what memory is given back for: so
	 * the atomic reserve may be used, and no memcg keeps us from it.
	 */
	ref = kmem_cache_alloc(pte_ref_cache,
			       GFP_ATOMIC | __GFP_NOMEMALLOC | __GFP_NOWARN);
	if (!ref)
		return NULL;

	percpu_ref_init_embedded(&ref->ref, &ref->data, pte_ref_release);
	ref->mm = mm;
	ref->addr = addr & PMD_MASK;
	ref->state = 0;
	ref->cpu = raw_smp_processor_id();
	ref->moves = 0;
	ref->second = 0;
	if (ptdesc->pte_populated)
		percpu_ref_get(&ref->ref);
	/* Pairs with the address dependency in __pte_tryget(). */
	smp_store_release(&ptdesc->pte_ref, ref);
	return ref;
}

/**
 * pte_ref_set_addr() - a table was moved
 * @ptdesc: the table
 * @addr: where its range starts now
 *
 * Context: the caller keeps the table.
 */
void pte_ref_set_addr(struct ptdesc *ptdesc, unsigned long addr)
{
	struct pte_ref *ref = pte_ref_object(ptdesc);

	if (ref)
		WRITE_ONCE(ref->addr, addr & PMD_MASK);
}

/*
 * Link the table *@pte, if there is none, and become its holder, whatever its
 * count is: nobody unlinks a table while the PMD lock is held.  *@pte is NULL,
 * or becomes NULL if it was linked.
 * Return: NULL if there is no table, it is untracked, or no memory for its ref.
 */
static struct pte_ref *pte_ref_install(struct mm_struct *mm, pmd_t *pmd,
				       unsigned long addr, pgtable_t *pte)
{
	spinlock_t *ptl, *pml = pmd_lock(mm, pmd);
	struct ptdesc *ptdesc;
	struct pte_ref *ref;
	pmd_t pmdval;

	if (*pte && pmd_none(*pmd)) {
		mm_inc_nr_ptes(mm);
		smp_wmb();	/* see pmd_install() */
		pmd_populate(mm, pmd, *pte);
		*pte = NULL;
		pte_ref_linked(mm, pmd);
	}
	ptdesc = pte_ref_table(pmd, &pmdval);
	ref = ptdesc ? READ_ONCE(ptdesc->pte_ref) : NULL;
	if (ref == &pte_ref_none) {
		ptl = pte_lockptr(mm, &pmdval);
		if (ptl != pml)
			spin_lock_nested(ptl, SINGLE_DEPTH_NESTING);
		ref = pte_ref_make(mm, addr, ptdesc);
		if (ptl != pml)
			spin_unlock(ptl);
	}
	if (ref) {
		/* If it is still empty at the put it is looked for there. */
		WRITE_ONCE(ref->addr, addr & PMD_MASK);
		percpu_ref_get(&ref->ref);
	}
	spin_unlock(pml);
	return ref;
}

/* Slow path of pte_tryget(): the subsystem is on. */
struct pte_ref *__pte_tryget(struct mm_struct *mm, pmd_t *pmd,
			     unsigned long addr)
{
	struct pte_ref *ref = NULL;
	struct ptdesc *ptdesc;
	pgtable_t none = NULL;
	pmd_t pmdval;

	/* RCU keeps the table, and so its ref, until the count is raised. */
	rcu_read_lock();
	ptdesc = pte_ref_table(pmd, &pmdval);
	if (ptdesc) {
		ref = READ_ONCE(ptdesc->pte_ref);
		if (ref && !percpu_ref_tryget(&ref->ref))
			ref = NULL;
	}
	rcu_read_unlock();

	if (ref)
		pte_ref_used(ref);
	else if (ptdesc)
		/* At zero, or without a ref. */
		ref = pte_ref_install(mm, pmd, addr, &none);
	return ref;
}

/**
 * __pte_put() - drop what pte_tryget() or pte_alloc_get() took
 * @ref: the ref
 *
 * Context: any; does not sleep.
 */
void __pte_put(struct pte_ref *ref)
{
	percpu_ref_put(&ref->ref);
}

/*
 * With __GFP_NOFAIL the page does not fail.  The lock of the table does not ask
 * for that, where it is an object of its own.
 */
static pgtable_t pte_ref_alloc_one(struct mm_struct *mm, gfp_t gfp)
{
	pgtable_t new;

	do {
		new = __pte_alloc_one(mm, GFP_PGTABLE_USER | gfp);
	} while (!new && gfp & __GFP_NOFAIL);
	return new;
}

static int __pte_alloc_get(struct mm_struct *mm, pmd_t *pmd, unsigned long addr,
			   gfp_t gfp, struct pte_ref **refp)
{
	pgtable_t new = NULL;

	*refp = NULL;
	if (!pte_ref_enabled())
		return pte_alloc(mm, pmd);

	if (pmd_none(pmdp_get_lockless(pmd))) {
		new = pte_ref_alloc_one(mm, gfp);
		if (!new)
			return -ENOMEM;
	}
	for (;;) {
		*refp = pte_ref_install(mm, pmd, addr, &new);
		if (*refp || !pmd_none(pmdp_get_lockless(pmd)))
			break;
		/* What was there a moment ago is gone: a table, a huge page. */
		if (!new)
			new = pte_ref_alloc_one(mm, gfp);
		if (!new)
			return -ENOMEM;
	}
	if (new)
		pte_free(mm, new);
	return 0;
}

/**
 * pte_alloc_get() - allocate a PTE table if there is none, and become a holder
 * @mm: the mm
 * @pmd: entry of the PMD table for @addr; stable as for pte_offset_map()
 * @addr: an address in the table's range
 * @refp: gets what is to be put by pte_put()
 *
 * As pte_alloc(), but the table is not freed by this subsystem before the
 * caller maps it, unless there was no memory for a ref.  A collapse to a huge
 * page may free it.
 *
 * Context: may sleep for memory, no page table lock held.
 * Return: 0 or -ENOMEM.
 */
int pte_alloc_get(struct mm_struct *mm, pmd_t *pmd, unsigned long addr,
		  struct pte_ref **refp)
{
	return __pte_alloc_get(mm, pmd, addr, 0, refp);
}

/**
 * pte_alloc_get_nofail() - pte_alloc_get() of what must not fail
 * @mm: the mm
 * @pmd: as for pte_alloc_get()
 * @addr: an address in the table's range
 * @refp: gets what is to be put by pte_put()
 *
 * For a caller that could rely on a table that was there a moment ago, if this
 * subsystem had not freed it.  With pte_ref=off it is there, and this is
 * pte_alloc().
 *
 * Context: sleeps for memory as long as it takes, no page table lock held.
 * Return: 0; -ENOMEM only with pte_ref=off.
 */
int pte_alloc_get_nofail(struct mm_struct *mm, pmd_t *pmd, unsigned long addr,
			 struct pte_ref **refp)
{
	return __pte_alloc_get(mm, pmd, addr, __GFP_NOFAIL, refp);
}

/*
 * Can an empty table be freed while a fault of @mm is outside its lock?  Not
 * without other mm_users, nor deferred work: only truncate and reclaim can
 * empty it then, and a fault that loses its table makes another.  Read mm_users
 * first: if another task noted a table and then dropped its mm_users, which is
 * ordered, either its note is visible or the work that it asked for is done,
 * and what that did is visible.
 */
static bool pte_ref_may_free(struct mm_struct *mm)
{
	return atomic_read_acquire(&mm->mm_users) > 1 ||
	       atomic_read_acquire(&mm->pte_ref.state);
}

/* Slow path of vmf_pte_tryget(). */
void __vmf_pte_tryget(struct vm_fault *vmf)
{
	struct mm_struct *mm = vmf->vma->vm_mm;

	if (pte_ref_may_free(mm)) {
		pte_put(vmf->pte_ref);
		vmf->pte_ref = pte_tryget(mm, vmf->pmd, vmf->address);
	}
}

/**
 * vmf_pte_install() - link the table that a fault allocated before
 * @vmf: the fault
 *
 * The table is empty, so if it can be freed before it is locked the fault holds
 * it.
 *
 * Context: process context, no page table lock held; does not sleep.
 */
void vmf_pte_install(struct vm_fault *vmf)
{
	struct mm_struct *mm = vmf->vma->vm_mm;

	if (pte_ref_enabled() && pte_ref_may_free(mm)) {
		pte_put(vmf->pte_ref);
		vmf->pte_ref = pte_ref_install(mm, vmf->pmd, vmf->address,
					       &vmf->prealloc_pte);
	} else {
		pmd_install(mm, vmf->pmd, &vmf->prealloc_pte);
	}
}

/*
 * Slow path of pte_ref_free().  No walker can find the table, but holders that
 * took their reference before may still have it.
 */
void __pte_ref_free(struct ptdesc *ptdesc, struct pte_ref *ref)
{
	if ((unsigned long)ref & PTE_NOTES_TAG) {
		pte_notes_free((unsigned long)ref);
		return;
	}
	/* See pte_ref_release(). */
	percpu_ref_get(&ref->ref);
	set_bit(PTE_REF_DEAD, &ref->state);
	pte_ref_end_percpu(ref);
	/* It had entries to the end: exit, retract_page_tables(). */
	if (ptdesc->pte_populated)
		percpu_ref_put(&ref->ref);
	percpu_ref_put(&ref->ref);
}
EXPORT_SYMBOL(__pte_ref_free);

/* Reclaim */

/* Tables that are freed under one hold of the PMD lock and one flush. */
#define PTE_REF_BATCH		(PTE_REF_BATCH_SIZE / PMD_SIZE)

static_assert(PTE_REF_BATCH <= BITS_PER_TYPE(u64));

/* Chains of tables whose grace period is over, by the rcu_head of the first. */
static void pte_free_work_fn(struct work_struct *work);
static struct workqueue_struct *pte_free_wq;
static LLIST_HEAD(pte_free_list);
static DECLARE_WORK(pte_free_work, pte_free_work_fn);

static void pte_free_debug(struct ptdesc *ptdesc)
{
	pte_t *ptep = ptdesc_address(ptdesc);
	int i;

	if (!IS_ENABLED(CONFIG_DEBUG_VM))
		return;
	for (i = 0; i < PTRS_PER_PTE; i++)
		VM_WARN_ON_ONCE(!pte_none(READ_ONCE(ptep[i])));
}

/* Tables that are freed together: pt_index of each leads to the next. */
static void pte_free_chain(struct ptdesc *ptdesc)
{
	struct ptdesc *next;

	for (; ptdesc; ptdesc = next) {
		next = (struct ptdesc *)ptdesc->pt_index;
		/* Its destructor asks for the count, which lies there too. */
		ptdesc->pt_index = 0;
		pte_free(NULL /* not used */, ptdesc_page(ptdesc));
	}
}

/* One callback for PTE_REF_BATCH tables; mmu_gather has one for up to 500. */
static void pte_free_rcu(struct rcu_head *head)
{
	pte_free_chain(container_of(head, struct ptdesc, pt_rcu_head));
}

/*
 * Callbacks of RCU run in the timer interrupt, ten at a time, and take it from
 * whatever task is there.  So tables that were not unlinked by a zap, which may
 * be many, are freed by a work.  Those of zaps are not: they come from all
 * CPUs, one work could fall behind.  Its queue is its own: on that of the
 * deferred work it would come after the rounds of all mms that wait there.
 */
static void pte_free_later_rcu(struct rcu_head *head)
{
	if (llist_add((struct llist_node *)head, &pte_free_list))
		queue_work(pte_free_wq, &pte_free_work);
}

static void pte_free_work_fn(struct work_struct *work)
{
	struct llist_node *node = llist_del_all(&pte_free_list);

	while (node) {
		struct rcu_head *head = (struct rcu_head *)node;

		node = node->next;
		pte_free_rcu(head);
		cond_resched();
	}
}

/**
 * pte_ref_flush_free() - wait until what was unlinked is freed
 *
 * Context: may sleep, no locks held.
 */
void pte_ref_flush_free(void)
{
	/* Tables, then their refs. */
	rcu_barrier();
	/* Also what a callback added to a list not queued yet. */
	queue_work(pte_free_wq, &pte_free_work);
	flush_work(&pte_free_work);
	rcu_barrier();
}

/*
 * Unlink and free those of a group of tables whose count is zero.
 * @pmd and @addr belong to bit 0 of @mask.
 *
 * One flush serves the group, so it lies in one PMD table, whose lock is held
 * from the first pmd_clear() until the flush is done: no second table and no
 * huge page is there while a CPU may still walk through an old entry.  A zap
 * hands in its gather, which need not flush again what it cleared in these
 * tables; @tlb may be NULL.  With @notes the next fault in the range of a table
 * maps a small page.
 */
static unsigned int free_user_ptes(struct mm_struct *mm, struct mmu_gather *tlb,
				   pmd_t *pmd, unsigned long addr, u64 mask,
				   struct pte_notes *notes)
{
	unsigned long start = ULONG_MAX, end = 0;
	struct ptdesc *ptdesc, *chain = NULL;
	unsigned int nr = 0;
	spinlock_t *pml, *ptl;
	LIST_HEAD(tables);
	pmd_t pmdval;

	pml = pmd_lock(mm, pmd);
	for (; mask; mask >>= 1, pmd++, addr += PMD_SIZE) {
		if (!(mask & 1))
			continue;
		ptdesc = pte_ref_table(pmd, &pmdval);
		if (!ptdesc)
			continue;
		ptl = pte_lockptr(mm, &pmdval);
		if (ptl != pml)
			spin_lock_nested(ptl, SINGLE_DEPTH_NESTING);
		if (ptdesc->pte_ref && !ptdesc->pte_populated &&
		    pte_ref_is_zero(ptdesc->pte_ref)) {
			if (notes) {
				pte_notes_set_small(notes, pmd);
				/* Pairs with __vmf_wants_small_page(). */
				smp_mb__after_atomic();
			}
			pmd_clear(pmd);
			/* Unlinked: its list space belongs to us. */
			list_add_tail(&ptdesc->pt_list, &tables);
			start = min(start, addr);
			end = addr + PMD_SIZE;
			nr++;
			trace_pte_ref_free(mm, addr);
		} else {
			count_vm_event(PTE_REF_BUSY);
			trace_pte_ref_free_failed(mm, addr);
		}
		if (ptl != pml)
			spin_unlock(ptl);
	}
	if (nr)
		arch_flush_user_ptes(mm, tlb, start, end);
	spin_unlock(pml);

	list_for_each_entry(ptdesc, &tables, pt_list) {
		mm_dec_nr_ptes(mm);
		pte_free_debug(ptdesc);
		arch_release_user_pte(ptdesc_page(ptdesc));
		ptdesc->pt_index = (unsigned long)chain;
		chain = ptdesc;
	}
	if (chain)
		call_rcu(&chain->pt_rcu_head,
			 tlb ? pte_free_rcu : pte_free_later_rcu);
	return nr;
}

/**
 * free_user_pte() - unlink and free a PTE table if its count is zero
 * @mm: the mm
 * @pmd: points to the table
 * @addr: an address in the table's range
 *
 * Context: process context, as try_to_free_user_pte().  Takes the PMD lock and
 * the PTL, flushes the TLB of all CPUs that use @mm.
 * Return: true if the table was unlinked; it is freed after a grace period.
 */
bool free_user_pte(struct mm_struct *mm, pmd_t *pmd, unsigned long addr)
{
	return free_user_ptes(mm, NULL, pmd, addr & PMD_MASK, 1, NULL);
}

/*
 * Is the table that @pmd leads to worth locking?  Starts the switch to
 * atomic mode of one in percpu mode that looks empty.
 */
static bool pte_ref_looks_free(struct mm_struct *mm, pmd_t *pmd,
			       unsigned long addr)
{
	struct ptdesc *ptdesc;
	struct pte_ref *ref;
	bool zero = false, hidden;
	pmd_t pmdval;

	rcu_read_lock();
	ptdesc = pte_ref_table(pmd, &pmdval);
	ref = ptdesc ? READ_ONCE(ptdesc->pte_ref) : NULL;
	if (ref && !READ_ONCE(ptdesc->pte_populated)) {
		hidden = ref != &pte_ref_none && pte_ref_unhide_zero(ref);
		zero = pte_ref_is_zero(ref);
		if (!zero) {
			count_vm_event(PTE_REF_BUSY);
			trace_pte_ref_free_failed(mm, addr & PMD_MASK);
			/* What hides zero now tells nobody when it is over. */
			if (hidden)
				pte_ref_note(mm, addr);
		}
	}
	rcu_read_unlock();
	return zero;
}

/**
 * pte_ref_free_range() - free what is empty of some tables of a PMD table
 * @mm: the mm
 * @tlb: the gather of a zap of the range, or NULL
 * @pmd: entry of the PMD table for @addr
 * @addr: where the range of the first table starts
 * @end: where that of the last one ends
 * @small: stock would keep these tables, so the next fault in the range of one
 *	maps a small page.  Without memory to remember that, the table is noted.
 *
 * The loop of zaps, of the deferred work and of requests for a single table.
 *
 * Context: as try_to_free_user_pte().
 * Return: number of tables that were unlinked.
 */
unsigned int pte_ref_free_range(struct mm_struct *mm, struct mmu_gather *tlb,
				pmd_t *pmd, unsigned long addr,
				unsigned long end, bool small)
{
	struct pte_notes *notes = NULL;
	unsigned int nr = 0;

	while (addr < end) {
		unsigned long first = addr;
		pmd_t *first_pmd = pmd;
		u64 mask = 0;
		int i;

		for (i = 0; i < PTE_REF_BATCH && addr < end; i++) {
			if (pte_ref_looks_free(mm, pmd, addr))
				mask |= BIT_ULL(i);
			pmd++;
			addr += PMD_SIZE;
		}
		if (!mask)
			continue;
		if (small) {
			notes = pte_notes_make(mm, first_pmd,
					       GFP_NOWAIT | __GFP_NOWARN);
			if (!notes) {
				for (; mask; mask &= mask - 1)
					pte_ref_note(mm, first +
						     __ffs64(mask) * PMD_SIZE);
				continue;
			}
		}
		nr += free_user_ptes(mm, tlb, first_pmd, first, mask, notes);
	}
	return nr;
}

/* Slow path of try_to_free_user_ptes(). */
void __try_to_free_user_ptes(struct mmu_gather *tlb, pmd_t *pmd,
			     unsigned long start, unsigned long end,
			     bool forget)
{
	struct mm_struct *mm = tlb->mm;
	unsigned long addr = ALIGN(start, PMD_SIZE);

	if (start < addr)
		pmd++;
	end &= PMD_MASK;
	count_vm_events(PTE_REF_FREE,
			pte_ref_free_range(mm, tlb, pmd, addr, end, false));
	/* Last, since the deferred work may have been faster. */
	if (forget && addr < end && READ_ONCE(mm->pte_ref.small))
		pte_notes_forget(mm, addr, end);
}

/**
 * try_to_free_user_pte() - free a PTE table if its count is zero
 * @mm: the mm
 * @pmd: entry of the PMD table for @addr
 * @addr: an address in the table's range
 *
 * Starts the switch to atomic mode of a table in percpu mode that looks empty;
 * the deferred work frees that one, if it is empty, when the switch is over.
 *
 * Context: process context, no page table lock held, may not be called under
 * rcu_read_lock().  The caller holds mmap_lock or a VMA lock and has an
 * attached VMA in the table's range, or found that VMA under the i_mmap_rwsem
 * that it holds.  Takes no other lock than those of the tables and allocates
 * nothing.  Never waits for a grace period.
 * Return: true if the table was unlinked.
 */
bool try_to_free_user_pte(struct mm_struct *mm, pmd_t *pmd, unsigned long addr)
{
	addr &= PMD_MASK;
	if (!pte_ref_free_range(mm, NULL, pmd, addr, addr + PMD_SIZE, false))
		return false;
	count_vm_event(PTE_REF_FREE);
	return true;
}

/**
 * pte_ref_empty_locked() - is there a table in which nothing is populated?
 * @mm: the mm
 * @pmd: entry of the PMD table for @addr; stable as for pte_offset_map()
 * @addr: an address in the table's range
 *
 * Under the PTL no entry is away for a moment only.
 *
 * Context: process context, no page table lock held.
 * Return: true if there is a table that is tracked and empty.  It stays so if
 * the caller keeps faults away, by mmap_lock and VMA locks for write.
 */
bool pte_ref_empty_locked(struct mm_struct *mm, pmd_t *pmd, unsigned long addr)
{
	struct ptdesc *ptdesc;
	spinlock_t *ptl = NULL;
	pte_t *ptep;
	bool empty;

	ptep = pte_offset_map_lock(mm, pmd, addr, &ptl);
	if (!ptep)
		return false;
	ptdesc = page_ptdesc(virt_to_page(ptep));
	empty = ptdesc->pte_ref && !ptdesc->pte_populated;
	pte_unmap_unlock(ptep, ptl);
	return empty;
}

static bool pte_ref_wanted __initdata = true;

static int __init early_pte_ref(char *buf)
{
	return kstrtobool(buf, &pte_ref_wanted);
}
early_param("pte_ref", early_pte_ref);

/*
 * Before there are other CPUs and user space.  Tables that exist already belong
 * to mms of the kernel (text poking), whose tables stay.
 */
static int __init pte_ref_boot_init(void)
{
	if (!pte_ref_wanted || !arch_supports_pte_ref()) {
		pr_info("off\n");
		return 0;
	}
	pte_ref_cache = KMEM_CACHE(pte_ref, SLAB_PANIC | SLAB_NO_MERGE);
	/* It frees memory, so it must not need some to run. */
	pte_free_wq = alloc_workqueue("pte_ref_free",
				      WQ_UNBOUND | WQ_MEM_RECLAIM, 1);
	if (!pte_free_wq)
		panic("pte_ref: no workqueue");
	pte_ref_init_deferred();
	static_branch_enable(&pte_ref_key);
	return 0;
}
early_initcall(pte_ref_boot_init);
