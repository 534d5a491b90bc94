// SPDX-License-Identifier: GPL-2.0
/*
 * pte_ref: count references to user PTE tables, free the ones that are empty.
 *
 * The count.  Of each user PTE table
 *
 *	count(table) = populated entries + users
 *
 * is known.  An entry is populated if it is not pte_none(); swap and migration
 * entries and markers are.  Entries are written under the page table lock (PTL), or
 * while nobody else can find the table, so they are counted in a plain integer,
 * ptdesc->pte_populated.  A user is whoever needs the table to stay while he is
 * outside its lock.
 *
 * The ref.  Most tables live and die without a user and without being empty for a
 * moment.  So the pte_ref field of a new ptdesc points to pte_ref_none, and the
 * first user, or the first one who must queue the table, makes its struct pte_ref,
 * under the PTL, which stays until the table is destroyed.  In it is a struct
 * percpu_ref, of which each user holds one reference, and all entries together one.
 * So it is zero exactly if the count is.
 *
 * Users.  A fault on an entry that is populated needs no reference: that entry keeps
 * the table, and if it is gone the fault has nothing left to do.  A fault of
 * anonymous memory keeps its page and allocates the table again.  A fault that asks a
 * file comes again if the table went, but one that is not of user mode holds it
 * meanwhile, if somebody may free it, and each holds a table that it links itself.
 * Who allocates a table and then locks it holds it if it went once.  Slow GUP works
 * under the PTL, and what is missing it has faulted in.  A zap works under the PTL
 * too, from its first entry to its last, so its reference is one more in the count of
 * entries.
 *
 * Modes.  A new ref is a few words in atomic mode.  If users come from changing CPUs
 * it gets percpu counters, once.  Nobody can see those reach zero, so the first
 * attempt to free the table switches it to atomic mode, for good.  A switch takes an
 * RCU grace period, for which nobody waits: at its end the table is queued.
 *
 * Zero.  pte_tryget() fails at zero, pte_ref_hold() raises it under the PMD lock,
 * and an entry is set under the PTL, after a check that the table is still linked.
 * So zero that is read under both the PMD lock and the PTL is final, and
 * free_user_pte() unlinks the table.  Zero that is read under less is a hint.  Zero
 * of a linked table is a legal state: a table is born with it.
 *
 * Who frees.  A zap by madvise() or truncate that covers a table tries when it is
 * done with it.  Whoever else brings a table to zero (a zap of a part, reclaim
 * through rmap, a move of entries, a late user, a driver's zap, the end of a switch)
 * queues it, and a work looks at it PTE_REF_DELAY_MS later: programs that give back
 * a few pages and touch them again at once keep their table.  Between the two steps
 * anything can happen to the table, so the work starts from the mm and the address,
 * and looks whether it finds the table of that ref there.
 *
 * Who may unlink.  free_pgtables() reads PMD entries of detached VMAs without a
 * lock.  So free_user_pte() is only for those who know that a VMA over the
 * table's range stays attached: under mmap_lock or a VMA lock with a VMA at hand,
 * or under the i_mmap_rwsem through which the VMA was found, since
 * free_pgtables() unlinks a VMA from its mapping before it looks at the tables.  A
 * driver that zaps may know less (a VMA that it keeps in a list of its own can be
 * detached), so its tables are queued.
 *
 * Lifetime.  A user may outlive its table, as a fault that drops mmap_lock does.
 * A ref lives until its table is destroyed and its last user is gone, it is not
 * queued, and an RCU grace period has passed.
 *
 *	pte_ref->hold		1 for the table, dropped when it is dead and the
 *				count is zero, which a switch holds off;
 *				1 for PTE_REF_QUEUED
 *	mm->mm_count		1 for PTE_REF_QUEUED; 1 while the work has mmap_lock
 *
 * PTE_REF_QUEUED belongs to the queue or to a pending switch.
 *
 * Lock order: mmap_lock, VMA lock or i_mmap_rwsem; PMD lock; PTL.  The queue is
 * lockless, because a count can come to zero under the PTL, with interrupts off,
 * and in an RCU callback.
 */
#define pr_fmt(fmt) "pte_ref: " fmt

#include <linux/hugetlb.h>
#include <linux/mm.h>
#include <linux/pgalloc.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/vmstat.h>
#include <linux/workqueue.h>
#include <asm/tlb.h>
#include <asm/tlbflush.h>

#include "pte_ref.h"

#define CREATE_TRACE_POINTS
#include <trace/events/pte_ref.h>

#ifndef arch_supports_pte_ref
#define arch_supports_pte_ref()	true
#endif

#ifndef arch_flush_user_ptes
/*
 * Flushes entries of the range as well, not only the way to them: somebody may have
 * cleared some, and flush later, and a huge page may come in their place.  @tlb is the
 * gather of a zap, or NULL; with what it has cleared before it needs no other flush.
 * Its helpers take the size as an unsigned int.
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

/*
 * How long a queued table waits for company.  Zero is often passing (mprotect()
 * of a table with a single entry), and a batch of one mm takes its locks once.
 */
#define PTE_REF_DELAY_MS	10

/*
 * Tables that are freed under one hold of the PMD lock and one flush, and that
 * deferred work looks at under one hold of an mmap_lock.
 */
#define PTE_REF_BATCH		64
#define PTE_REF_BATCH_SIZE	(PTE_REF_BATCH * PMD_SIZE)

DEFINE_STATIC_KEY_FALSE(pte_ref_key);
EXPORT_SYMBOL_GPL(pte_ref_key);

/*
 * Its count is zero and stays so: pte_ref_tryget() fails, and a table that has no
 * entries either is found free.
 */
struct pte_ref pte_ref_none __ro_after_init = {
	.ref.percpu_count_ptr = __PERCPU_REF_ATOMIC,
};
EXPORT_SYMBOL_GPL(pte_ref_none);

/* The primitives are called on entries of PMD tables as well, by hugetlb. */
static_assert(offsetof(struct ptdesc, pte_populated) >=
	      offsetof(struct ptdesc, pt_index) + sizeof(atomic_t));

static struct kmem_cache *pte_ref_cache;
static struct workqueue_struct *pte_ref_wq;

static void pte_ref_work_fn(struct work_struct *work);
static LLIST_HEAD(pte_ref_queue);
static DECLARE_DELAYED_WORK(pte_ref_work, pte_ref_work_fn);

/* Tables whose grace period is over; the rcu_head is the node. */
static void pte_free_work_fn(struct work_struct *work);
static LLIST_HEAD(pte_free_list);
static DECLARE_WORK(pte_free_work, pte_free_work_fn);

static struct pte_ref *to_pte_ref(struct percpu_ref *ref)
{
	return container_of(ref, struct pte_ref, ref);
}

bool pte_ref_is_percpu(struct pte_ref *ref)
{
	return !(READ_ONCE(ref->ref.percpu_count_ptr) & __PERCPU_REF_ATOMIC);
}

/*
 * Not percpu_ref_is_zero(): that takes a lock for all refs of the system, to
 * find one that was exited.  This one is never exited while a table has it.
 * During a switch the count is biased, so not zero.
 */
static bool pte_ref_is_zero(struct pte_ref *ref)
{
	return !pte_ref_is_percpu(ref) && !atomic_long_read(&ref->data.count);
}

/*
 * The table below @pmd, or NULL.  @pmdvalp gets the value of the entry.
 * Under rcu_read_lock() or the PMD lock: the table is freed by RCU.
 */
static struct ptdesc *pte_ref_table(pmd_t *pmd, pmd_t *pmdvalp)
{
	pmd_t pmdval = pmdp_get_lockless(pmd);

	*pmdvalp = pmdval;
	if (pmd_none(pmdval) || !pmd_present(pmdval) || pmd_leaf(pmdval) ||
	    unlikely(pmd_bad(pmdval)))
		return NULL;
	return page_ptdesc(pmd_pgtable(pmdval));
}

/**
 * pte_ref_find_pmd() - the entry of the PMD table for an address
 * @mm: the mm
 * @addr: user address
 *
 * mm_find_pmd() is for those who know a VMA of normal pages there; an address that
 * was queued can be under a huge PUD by now.
 *
 * Context: mmap_lock or the lock of a VMA in the range, which keeps the tables.
 * Return: the entry, or NULL if there is no PMD table.
 */
pmd_t *pte_ref_find_pmd(struct mm_struct *mm, unsigned long addr)
{
	pgd_t *pgd = pgd_offset(mm, addr);
	p4d_t *p4d;
	pud_t *pud, pudval;

	if (!pgd_present(*pgd))
		return NULL;
	p4d = p4d_offset(pgd, addr);
	if (!p4d_present(*p4d))
		return NULL;
	pud = pud_offset(p4d, addr);
	pudval = pudp_get(pud);
	if (!pud_present(pudval) || pud_leaf(pudval) || pud_bad(pudval))
		return NULL;
	return pmd_offset_lockless(pud, pudval, addr);
}

static void pte_ref_free_object_rcu(struct rcu_head *head)
{
	kmem_cache_free(pte_ref_cache,
			container_of(head, struct pte_ref, data.rcu));
}

/*
 * A putter that brought the count to zero may still be in its release(), under
 * RCU, when somebody else drops the last hold.
 */
static void pte_ref_drop_hold(struct pte_ref *ref)
{
	if (refcount_dec_and_test(&ref->hold))
		call_rcu(&ref->data.rcu, pte_ref_free_object_rcu);
}

static void pte_ref_queue_add(struct pte_ref *ref)
{
	if (llist_add(&ref->node, &pte_ref_queue))
		queue_delayed_work(pte_ref_wq, &pte_ref_work,
				   msecs_to_jiffies(PTE_REF_DELAY_MS));
}

/*
 * Ask for a look at the table.  The caller knows that ref->mm exists.
 *
 * test_and_set_bit() orders what the caller did to the count against the work,
 * which clears the bit, then looks.
 *
 * A table that dies now finds PTE_REF_QUEUED or not, that does not matter: the
 * queue has a hold of its own, and gets none if the last one is gone.
 */
static void pte_ref_enqueue(struct pte_ref *ref)
{
	/* All tables of an mm that exits are about to go. */
	if (!atomic_read(&ref->mm->mm_users))
		return;
	if (test_and_set_bit(PTE_REF_QUEUED, &ref->state))
		return;
	if (!refcount_inc_not_zero(&ref->hold))
		return;
	mmgrab(ref->mm);
	pte_ref_queue_add(ref);
}

/*
 * The count came to zero.  Called under RCU, by whoever did the last put, under
 * whatever he holds.
 *
 * Of a dead table nobody can raise the count again: no walker finds it, and its
 * destructor came after a grace period or after those who exclude all walkers.
 * The destructor raises the count before it sets PTE_REF_DEAD and drops it last,
 * so whoever sees both dead and zero sees the end; PTE_REF_RETIRED picks one.
 */
static void pte_ref_release(struct percpu_ref *r)
{
	struct pte_ref *ref = to_pte_ref(r);

	if (likely(!test_bit(PTE_REF_DEAD, &ref->state))) {
		pte_ref_enqueue(ref);
		return;
	}
	if (!atomic_long_read(&ref->data.count) &&
	    !test_and_set_bit(PTE_REF_RETIRED, &ref->state))
		pte_ref_drop_hold(ref);
}

/*
 * A switch is over and the count exact.  Runs in an RCU callback or, if there was
 * nothing to switch, in pte_ref_start_switch() below percpu_ref_switch_lock.
 */
static void pte_ref_confirm_switch(struct percpu_ref *r)
{
	struct pte_ref *ref = to_pte_ref(r);

	/* Whoever sees the bit sees the count: pairs with pte_ref_work_fn(). */
	smp_mb__before_atomic();
	set_bit(PTE_REF_SWITCHED, &ref->state);
	if (test_bit(PTE_REF_PARKED, &ref->state))
		pte_ref_queue_add(ref);
	if (test_bit(PTE_REF_DEAD, &ref->state))
		pte_ref_release(r);
}

/**
 * pte_ref_start_switch() - start to switch a ref to atomic mode
 * @ref: the ref; a user, the entries or the table hold it
 * @look: look at the table when the switch is over; ref->mm exists
 *
 * The mm may be gone when the switch is over, so nothing can be queued then that
 * is not pinned now: the switch becomes the owner of PTE_REF_QUEUED, with the
 * hold and the mm_count that go with it, and only links the node at its end.  If
 * the ref is queued already, it is the work that sees PTE_REF_SWITCHING after it
 * cleared PTE_REF_QUEUED, and queues it again until the switch is over.
 *
 * Context: any; does not wait for the switch.
 * Return: false if a switch was started before.
 */
bool pte_ref_start_switch(struct pte_ref *ref, bool look)
{
	if (test_and_set_bit(PTE_REF_SWITCHING, &ref->state))
		return false;
	if (look && !test_and_set_bit(PTE_REF_QUEUED, &ref->state)) {
		refcount_inc(&ref->hold);
		mmgrab(ref->mm);
		set_bit(PTE_REF_PARKED, &ref->state);
	}
	count_vm_event(PTE_REF_SWITCH);
	trace_pte_ref_switch(ref->mm, ref->addr);
	percpu_ref_switch_to_atomic(&ref->ref, pte_ref_confirm_switch);
	return true;
}

/**
 * pte_ref_attach() - give a ref its percpu counters
 * @ref: the ref, of which the caller is a user
 * @gfp: allocation mask for the counters
 *
 * Context: any, if @gfp does not allow to block.
 * Return: 0, or -EBUSY if it was tried before, or -ENOMEM.
 */
int pte_ref_attach(struct pte_ref *ref, gfp_t gfp)
{
	int ret;

	if (test_and_set_bit(PTE_REF_ATTACHED, &ref->state))
		return -EBUSY;
	ret = percpu_ref_attach_counters(&ref->ref, gfp);
	/*
	 * The table may have died meanwhile, and percpu counters would hide
	 * the last put.  __pte_ref_free() sets PTE_REF_DEAD, then looks for
	 * PTE_REF_ATTACHED; here it is the other way round, so that one of us
	 * starts the switch.  If it came before the counters, they were
	 * refused.
	 */
	smp_mb__after_atomic();
	if (unlikely(test_bit(PTE_REF_DEAD, &ref->state)))
		pte_ref_start_switch(ref, false);
	return ret;
}

/*
 * A user came from another CPU than the last one.  Percpu counters cost memory on
 * every possible CPU, so that has to happen often.  Lost updates do not matter.
 */
static noinline void pte_ref_other_cpu(struct pte_ref *ref, unsigned int cpu)
{
	u16 second = jiffies / HZ;
	u16 moves;

	if (test_bit(PTE_REF_ATTACHED, &ref->state))
		return;
	WRITE_ONCE(ref->cpu, cpu);
	moves = READ_ONCE(ref->second) == second ? READ_ONCE(ref->moves) + 1 : 1;
	WRITE_ONCE(ref->second, second);
	WRITE_ONCE(ref->moves, moves);
	if (moves < PTE_REF_ATTACH_MOVES ||
	    pte_ref_attach(ref, GFP_NOWAIT | __GFP_NOWARN | __GFP_ACCOUNT))
		return;
	/*
	 * Who emptied the table before, in atomic mode, left the look at it to
	 * our put, which does not see zero any more.
	 */
	pte_ref_enqueue(ref);
}

/**
 * pte_ref_make() - give a table its ref, if it has none
 * @mm: the mm of the table
 * @addr: an address in the table's range
 * @ptdesc: the table
 *
 * Context: the table is locked, or nobody else can find it.  Does not sleep.
 * Return: the ref, or NULL if there is no memory for it or the table is untracked.
 */
struct pte_ref *pte_ref_make(struct mm_struct *mm, unsigned long addr,
			     struct ptdesc *ptdesc)
{
	struct pte_ref *ref = ptdesc->pte_ref;

	if (ref != &pte_ref_none)
		return ref;

	/*
	 * Mostly to give back a table, of 4 KiB or more: so the atomic reserve
	 * may be used, and the limit of a memcg, which may be why memory is
	 * given back, does not keep us from it.
	 */
	ref = kmem_cache_alloc(pte_ref_cache,
			       GFP_ATOMIC | __GFP_NOMEMALLOC | __GFP_NOWARN);
	if (!ref)
		return NULL;

	percpu_ref_init_embedded(&ref->ref, &ref->data, pte_ref_release);
	ref->mm = mm;
	ref->addr = addr & PMD_MASK;
	ref->state = 0;
	refcount_set(&ref->hold, 1);
	ref->cpu = raw_smp_processor_id();
	ref->moves = 0;
	ref->second = 0;
	if (ptdesc->pte_populated)
		percpu_ref_get(&ref->ref);
	/* Pairs with the address dependency in __pte_ref_tryget(). */
	smp_store_release(&ptdesc->pte_ref, ref);
	return ref;
}

/* percpu_ref_tryget() for a caller who is in an RCU read section already. */
static bool pte_ref_tryget_rcu(struct pte_ref *ref)
{
	unsigned long __percpu *percpu_count;

	if (__ref_is_percpu(&ref->ref, &percpu_count)) {
		this_cpu_inc(*percpu_count);
		return true;
	}
	return atomic_long_inc_not_zero(&ref->data.count);
}

/* Below pte_ref_tryget(). */
struct pte_ref *__pte_ref_tryget(pmd_t *pmd)
{
	unsigned int cpu = raw_smp_processor_id();
	struct pte_ref *ref = NULL;
	struct ptdesc *ptdesc;
	pmd_t pmdval;

	/*
	 * RCU keeps the table, and thereby its ref, until the count is raised.
	 * GUP-fast does not come here: it runs with interrupts off, for which
	 * the free of a table waits too, works on no table outside of that, and
	 * looks at the PMD entry again before it trusts what it found.  A
	 * reference would only cost it an atomic operation for each table.
	 */
	rcu_read_lock();
	ptdesc = pte_ref_table(pmd, &pmdval);
	if (ptdesc) {
		ref = READ_ONCE(ptdesc->pte_ref);
		if (ref && !pte_ref_tryget_rcu(ref))
			ref = NULL;
	}
	rcu_read_unlock();

	if (ref && unlikely(READ_ONCE(ref->cpu) != cpu))
		pte_ref_other_cpu(ref, cpu);
	return ref;
}

/**
 * pmd_install_hold() - link a PTE table if there is none, and become its user
 * @mm: the mm
 * @pmd: entry of the PMD table for @addr
 * @addr: an address in the table's range
 * @pte: the table to link, or NULL; set to NULL if it was linked
 *
 * A user whatever the count is: nobody unlinks a table while the PMD lock is held.
 *
 * Context: process context, no page table lock held; does not sleep.
 * Return: what is to be put by pte_ref_put(), or NULL if the table is untracked,
 * there is none, or there is no memory for its ref.
 */
struct pte_ref *pmd_install_hold(struct mm_struct *mm, pmd_t *pmd,
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

/* Below pte_ref_hold(). */
struct pte_ref *__pte_ref_hold(struct mm_struct *mm, pmd_t *pmd,
			       unsigned long addr)
{
	pgtable_t none = NULL;

	if (pmd_none(pmdp_get_lockless(pmd)))
		return NULL;
	return pmd_install_hold(mm, pmd, addr, &none);
}

/**
 * pte_alloc_hold() - allocate a PTE table if there is none, and become its user
 * @mm: the mm
 * @pmd: entry of the PMD table for @addr; stable as for pte_offset_map()
 * @addr: an address in the table's range
 * @refp: gets what pmd_install_hold() returns
 *
 * As pte_alloc(), but this subsystem does not free the table before the caller
 * maps it, unless there was no memory for a ref.  A collapse to a huge page may.
 *
 * Context: may sleep for memory, no page table lock held.
 * Return: 0 or -ENOMEM.
 */
int pte_alloc_hold(struct mm_struct *mm, pmd_t *pmd, unsigned long addr,
		   struct pte_ref **refp)
{
	pgtable_t new = NULL;

	*refp = NULL;
	if (!pte_ref_enabled())
		return pte_alloc(mm, pmd);

	if (pmd_none(pmdp_get_lockless(pmd))) {
		new = pte_alloc_one(mm);
		if (!new)
			return -ENOMEM;
	}
	for (;;) {
		*refp = pmd_install_hold(mm, pmd, addr, &new);
		if (*refp || !pmd_none(pmdp_get_lockless(pmd)))
			break;
		/* What was there a moment ago is gone: a table, a huge page. */
		if (!new)
			new = pte_alloc_one(mm);
		if (!new)
			return -ENOMEM;
	}
	if (new)
		pte_free(mm, new);
	return 0;
}

/* Below pte_ref_put(). */
void __pte_ref_put(struct pte_ref *ref)
{
	percpu_ref_put(&ref->ref);
}

/**
 * pte_tryget() - become a user of the PTE table at an address
 * @mm: the mm
 * @pmd: entry of the PMD table for @addr; stable as for pte_offset_map()
 * @addr: user address
 *
 * For a caller who knows that the table can only be taken away by this
 * subsystem until he calls pte_put(); others use pte_ref_hold() and keep what
 * it returns.
 *
 * Context: process context, no page table lock held; does not sleep.
 * Return: true if the table stays until pte_put().  False if there is none, it is
 * untracked, its count is zero, or there is no memory for its ref.
 */
bool pte_tryget(struct mm_struct *mm, pmd_t *pmd, unsigned long addr)
{
	struct pte_ref *ref = pte_ref_tryget(pmd);
	struct ptdesc *ptdesc;
	spinlock_t *ptl = NULL;
	pte_t *ptep;

	if (ref || !pte_ref_enabled())
		return ref;
	/* At zero, or without a ref. */
	ptep = pte_offset_map_lock(mm, pmd, addr, &ptl);
	if (!ptep)
		return false;
	ptdesc = page_ptdesc(virt_to_page(ptep));
	if (ptdesc->pte_populated)
		ref = pte_ref_make(mm, addr, ptdesc);
	if (ref)
		percpu_ref_get(&ref->ref);
	pte_unmap_unlock(ptep, ptl);
	return ref;
}

/**
 * __pte_put() - drop what pte_tryget() took
 * @pgtable: the table
 *
 * Context: any; does not sleep.
 */
void __pte_put(pgtable_t pgtable)
{
	pte_ref_put(page_ptdesc(pgtable)->pte_ref);
}

/**
 * pte_put() - drop what pte_tryget() took
 * @ptep: any entry of the table
 *
 * Context: any; does not sleep.
 */
void pte_put(pte_t *ptep)
{
	__pte_put(virt_to_page(ptep));
}

/* Below track_pte_set() and track_pte_clear(). */

void __pte_ref_populated(unsigned long addr, struct ptdesc *ptdesc)
{
	struct pte_ref *ref = ptdesc->pte_ref;

	if (!ref || ref == &pte_ref_none)
		return;
	WRITE_ONCE(ref->addr, addr & PMD_MASK);
	percpu_ref_get(&ref->ref);
}
EXPORT_SYMBOL_GPL(__pte_ref_populated);

/*
 * Queue a table that is empty and locked and had no ref, so has no users.  If there
 * is no memory for that, it stays until a zap comes along, or munmap().
 */
static bool pte_ref_make_queued(struct mm_struct *mm, unsigned long addr,
				struct ptdesc *ptdesc)
{
	struct pte_ref *ref;

	if (!atomic_read(&mm->mm_users))
		return true;
	ref = pte_ref_make(mm, addr, ptdesc);
	if (ref)
		pte_ref_enqueue(ref);
	return ref;
}

void __pte_ref_emptied(struct mm_struct *mm, unsigned long addr,
		       struct ptdesc *ptdesc)
{
	struct pte_ref *ref = ptdesc->pte_ref;

	if (!ref)
		return;
	if (ref == &pte_ref_none) {
		pte_ref_make_queued(mm, addr, ptdesc);
		return;
	}
	WRITE_ONCE(ref->addr, addr & PMD_MASK);
	/*
	 * In percpu mode the put cannot see zero, although this looks like it:
	 * ask for an attempt, which starts the switch.
	 */
	if (pte_ref_is_percpu(ref))
		pte_ref_enqueue(ref);
	percpu_ref_put(&ref->ref);
}
EXPORT_SYMBOL_GPL(__pte_ref_emptied);

/*
 * Below pte_ref_zap_done().  Not queued: if somebody else holds a reference, it is
 * his put that queues the table, or his look that finds it.
 */
bool __pte_ref_zapped(struct mm_struct *mm, unsigned long addr,
		      struct ptdesc *ptdesc, bool queue)
{
	struct pte_ref *ref = ptdesc->pte_ref;
	unsigned long __percpu *percpu_count;

	if (!ref)
		return true;
	if (ref == &pte_ref_none)
		return pte_ref_make_queued(mm, addr, ptdesc);
	if (queue) {
		__pte_ref_emptied(mm, addr, ptdesc);
		return true;
	}
	/* The table is locked, so it lives, and zero is not the end of its ref. */
	rcu_read_lock();
	if (__ref_is_percpu(&ref->ref, &percpu_count))
		this_cpu_dec(*percpu_count);
	else
		atomic_long_dec(&ref->data.count);
	rcu_read_unlock();
	return true;
}

/* Any number of entries, and any value. */
void __track_pte_set(struct mm_struct *mm, unsigned long addr, pte_t *ptep,
		     pte_t pte, unsigned int nr)
{
	int delta = pte_none(pte) ? -(int)nr : 0;
	unsigned int i;

	for (i = 0; i < nr; i++)
		delta += !!pte_none(ptep_get(ptep + i));
	if (delta)
		pte_ref_count(mm, addr, ptep, delta);
}
EXPORT_SYMBOL_GPL(__track_pte_set);

/*
 * Below pte_ref_free().  No walker can find the table, but users that took
 * their reference before may still hold it.
 */
void __pte_ref_free(struct ptdesc *ptdesc, struct pte_ref *ref)
{
	/* See pte_ref_release(). */
	percpu_ref_get(&ref->ref);
	set_bit(PTE_REF_DEAD, &ref->state);
	/* Pairs with pte_ref_attach(). */
	smp_mb__after_atomic();
	if (unlikely(test_bit(PTE_REF_ATTACHED, &ref->state)))
		pte_ref_start_switch(ref, false);
	/* A table that went with its entries: exit, retract_page_tables(). */
	if (ptdesc->pte_populated)
		percpu_ref_put(&ref->ref);
	percpu_ref_put(&ref->ref);
}
EXPORT_SYMBOL_GPL(__pte_ref_free);

/* Below pte_ref_moved(). */
void __pte_ref_moved(pmd_t *pmd, unsigned long addr)
{
	struct ptdesc *ptdesc;
	struct pte_ref *ref;
	pmd_t pmdval;

	ptdesc = pte_ref_table(pmd, &pmdval);
	ref = ptdesc ? READ_ONCE(ptdesc->pte_ref) : NULL;
	if (ref && ref != &pte_ref_none)
		WRITE_ONCE(ref->addr, addr & PMD_MASK);
}

static void pte_free_debug(struct ptdesc *ptdesc)
{
	pte_t *ptep = ptdesc_address(ptdesc);
	int i;

	if (!IS_ENABLED(CONFIG_DEBUG_VM))
		return;
	for (i = 0; i < PTRS_PER_PTE; i++)
		VM_WARN_ON_ONCE(!pte_none(ptep_get(ptep + i)));
}

static void pte_free_rcu(struct rcu_head *head)
{
	struct ptdesc *ptdesc = container_of(head, struct ptdesc, pt_rcu_head);

	pte_free(NULL /* not used */, ptdesc_page(ptdesc));
}

/*
 * Callbacks of RCU run in the timer interrupt, ten at a time, and take it from whoever
 * is there.  So tables that were not unlinked by a zap, which may be many, are freed by
 * a work.  Those of zaps are not: they come from all CPUs, one work could fall behind.
 */
static void pte_free_later_rcu(struct rcu_head *head)
{
	if (llist_add((struct llist_node *)head, &pte_free_list))
		queue_work(pte_ref_wq, &pte_free_work);
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

/*
 * Unlink and free those of a group of tables whose count is zero.
 * @pmd and @addr belong to bit 0 of @mask.
 *
 * One flush serves the group, so it lies in one PMD table, whose lock is held
 * from the first pmd_clear() until the flush is done: no second table and no huge
 * page is there while a CPU may still walk through an old entry.  A zap hands in its
 * gather, which need not flush again what it cleared in these tables; @tlb may be NULL.
 * With @queued only tables that have a ref, as those that were queued do: one that
 * replaced such a table is left to the fault that has just linked it.
 */
static unsigned int free_user_ptes(struct mm_struct *mm, struct mmu_gather *tlb,
				   pmd_t *pmd, unsigned long addr, u64 mask,
				   bool queued)
{
	unsigned long start = ULONG_MAX, end = 0;
	unsigned int nr = 0;
	struct ptdesc *ptdesc, *next;
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
		    !(queued && ptdesc->pte_ref == &pte_ref_none) &&
		    pte_ref_is_zero(ptdesc->pte_ref)) {
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

	list_for_each_entry_safe(ptdesc, next, &tables, pt_list) {
		mm_dec_nr_ptes(mm);
		pte_free_debug(ptdesc);
		arch_release_user_pte(ptdesc_page(ptdesc));
		call_rcu(&ptdesc->pt_rcu_head,
			 tlb ? pte_free_rcu : pte_free_later_rcu);
	}
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
	return free_user_ptes(mm, NULL, pmd, addr & PMD_MASK, 1, false);
}

/*
 * Is the table below @pmd worth to be locked?  Starts the switch of a table in
 * percpu mode that looks empty.
 */
static bool pte_ref_looks_free(struct mm_struct *mm, pmd_t *pmd,
			       unsigned long addr)
{
	struct ptdesc *ptdesc;
	struct pte_ref *ref;
	bool zero = false;
	pmd_t pmdval;

	rcu_read_lock();
	ptdesc = pte_ref_table(pmd, &pmdval);
	ref = ptdesc ? READ_ONCE(ptdesc->pte_ref) : NULL;
	if (ref && !READ_ONCE(ptdesc->pte_populated)) {
		if (unlikely(pte_ref_is_percpu(ref)))
			pte_ref_start_switch(ref, true);
		else
			zero = pte_ref_is_zero(ref);
		if (!zero) {
			count_vm_event(PTE_REF_BUSY);
			trace_pte_ref_free_failed(mm, addr & PMD_MASK);
		}
	}
	rcu_read_unlock();
	return zero;
}

/**
 * try_to_free_user_pte() - free a PTE table if it is empty and has no users
 * @mm: the mm
 * @pmd: entry of the PMD table for @addr
 * @addr: an address in the table's range
 *
 * Starts the switch to atomic mode of a table in percpu mode that looks empty;
 * it is then freed, if it is empty, by deferred work.
 *
 * Context: process context, no page table lock held, may not be called below
 * rcu_read_lock().  The caller holds mmap_lock or a VMA lock and has an attached
 * VMA in the table's range, or found that VMA under the i_mmap_rwsem that it
 * holds.  Takes no other lock than those of the tables and allocates nothing.
 * Never waits for a grace period.
 * Return: true if the table was unlinked.
 */
bool try_to_free_user_pte(struct mm_struct *mm, pmd_t *pmd, unsigned long addr)
{
	if (!pte_ref_looks_free(mm, pmd, addr) || !free_user_pte(mm, pmd, addr))
		return false;
	count_vm_event(PTE_REF_FREE);
	return true;
}

/*
 * Below pte_ref_zap_end(): try_to_free_user_pte() for all tables of which the range
 * covers all, in one PMD table.
 */
void __pte_ref_zap_end(struct mmu_gather *tlb, pmd_t *pmd, unsigned long start,
		       unsigned long end)
{
	struct mm_struct *mm = tlb->mm;
	unsigned long addr = start & PMD_MASK;

	if (addr < start) {
		addr += PMD_SIZE;
		pmd++;
	}
	end &= PMD_MASK;
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
		if (mask)
			count_vm_events(PTE_REF_FREE,
					free_user_ptes(mm, tlb, first_pmd, first,
						       mask, false));
	}
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

/*
 * Slow path of vmf_hold_pte_table().  Not if nobody can free the table: no other
 * mm_users, and no deferred work, which has an mm_count from the time when a table is
 * queued until it has freed what it found.  Read mm_users first: if another task has
 * queued a table and dropped its mm_users, which is ordered, its mm_count can be seen,
 * or that is dropped too, and what the work did can be seen.  Without either only
 * truncate and reclaim can empty the table meanwhile, and a fault that loses it ends
 * with nothing mapped.
 */
void __vmf_hold_pte_table(struct vm_fault *vmf)
{
	struct mm_struct *mm = vmf->vma->vm_mm;

	if (atomic_read_acquire(&mm->mm_users) > 1 ||
	    atomic_read_acquire(&mm->mm_count) > 1) {
		pte_ref_put(vmf->pte_ref);
		vmf->pte_ref = pte_ref_hold(mm, vmf->pmd, vmf->address);
	}
}

/**
 * vmf_install_pte_table() - link the table that a fault allocated before
 * @vmf: the fault
 *
 * It is empty, so if the mm has other users the fault takes a reference, that no zap
 * frees the table before it is locked.  The work does not: it frees only tables that
 * have a ref, and this one has none yet.
 *
 * Context: process context, no page table lock held; does not sleep.
 */
void vmf_install_pte_table(struct vm_fault *vmf)
{
	struct mm_struct *mm = vmf->vma->vm_mm;

	if (pte_ref_enabled() && atomic_read(&mm->mm_users) > 1) {
		pte_ref_put(vmf->pte_ref);
		vmf->pte_ref = pmd_install_hold(mm, vmf->pmd, vmf->address,
						&vmf->prealloc_pte);
	} else {
		pmd_install(mm, vmf->pmd, &vmf->prealloc_pte);
	}
}

/*
 * Queue the table at @addr if it is empty.
 *
 * The look without its lock is enough to leave it.  Our own zap is done, so whoever brings
 * the count to zero after it is somebody else, who queues the table: only a zap for munmap
 * or exit does not, which mmap_lock keeps away, nor one that covers the table, and what
 * is left of the VMAs here no longer covers it.
 */
static void pte_ref_queue_empty(struct mm_struct *mm, unsigned long addr)
{
	pmd_t *pmd = pte_ref_find_pmd(mm, addr);
	struct ptdesc *ptdesc;
	spinlock_t *ptl = NULL;
	pte_t *ptep;

	if (!pmd || !pte_ref_empty(pmd))
		return;
	ptep = pte_offset_map_lock(mm, pmd, addr, &ptl);
	if (!ptep)
		return;
	ptdesc = page_ptdesc(virt_to_page(ptep));
	if (ptdesc->pte_ref && !ptdesc->pte_populated) {
		struct pte_ref *ref = pte_ref_make(mm, addr, ptdesc);

		if (ref) {
			WRITE_ONCE(ref->addr, addr & PMD_MASK);
			pte_ref_enqueue(ref);
		}
	}
	pte_unmap_unlock(ptep, ptl);
}

/* Below pte_ref_unmap_edges(); the conditions mirror free_pgd_range(). */
void __pte_ref_unmap_edges(struct mm_struct *mm, unsigned long start,
			   unsigned long end, unsigned long floor,
			   unsigned long ceiling)
{
	unsigned long first = start & PMD_MASK;
	unsigned long last = (end - 1) & PMD_MASK;
	bool keeps_first = first < floor;
	bool keeps_last = last + PMD_SIZE - 1 > ceiling - 1;

	if (keeps_first)
		pte_ref_queue_empty(mm, first);
	if (keeps_last && !(keeps_first && first == last))
		pte_ref_queue_empty(mm, last);
}

/*
 * May tables in this range be freed?  Only under an attached VMA.  A hugetlb VMA
 * can have entries in PTE tables that its users reach through raw pointers
 * (arm64 CONT_PTE).
 */
static bool pte_ref_range_ok(struct mm_struct *mm, unsigned long addr)
{
	VMA_ITERATOR(vmi, mm, addr);
	struct vm_area_struct *vma;
	bool found = false;

	for_each_vma_range(vmi, vma, addr + PMD_SIZE) {
		if (is_vm_hugetlb_page(vma))
			return false;
		found = true;
	}
	return found;
}

/* Tables that deferred work has found, to be freed under one flush. */
struct pte_ref_group {
	struct mm_struct *mm;	/* mmap_lock held for read, or NULL; an mm_count */
	pmd_t *pmd;		/* of the first table of the group */
	unsigned long addr;	/* where its range starts */
	u64 mask;		/* tables to free */
	int seen;		/* refs looked at since mmap_lock was taken */
};

static void pte_ref_group_free(struct pte_ref_group *group)
{
	if (group->mask)
		count_vm_events(PTE_REF_FREE_DEFERRED,
				free_user_ptes(group->mm, NULL, group->pmd,
					       group->addr, group->mask, true));
	group->mask = 0;
}

static void pte_ref_group_end(struct pte_ref_group *group)
{
	if (!group->mm)
		return;
	pte_ref_group_free(group);
	mmap_read_unlock(group->mm);
	mmdrop(group->mm);
	group->mm = NULL;
}

/*
 * No mm_users is taken: the last one to be dropped tears the mm down, and would do so
 * after the exit of the process, which its parent has been told of, has left files
 * busy and memory in use.  mm_count, mmap_lock for read and the look for a VMA in
 * pte_ref_range_ok() suffice: exit_mmap() frees tables under mmap_lock for write, and
 * leaves no VMA when it drops it.  It waits for this group of tables at most.
 */
static bool pte_ref_group_start(struct pte_ref_group *group, struct mm_struct *mm)
{
	if (!mmap_read_trylock(mm))
		return false;
	mmgrab(mm);
	group->mm = mm;
	group->seen = 0;
	return true;
}

/* Look at the table of a ref that was queued. */
static void pte_ref_group_add(struct pte_ref_group *group, struct pte_ref *ref)
{
	unsigned long addr = READ_ONCE(ref->addr);
	struct mm_struct *mm = group->mm;
	struct ptdesc *ptdesc;
	unsigned int nr;
	pmd_t *pmd, pmdval;
	bool same;

	/* All tables of an mm that exits are about to go. */
	if (!atomic_read(&mm->mm_users) || !pte_ref_range_ok(mm, addr))
		return;
	pmd = pte_ref_find_pmd(mm, addr);
	if (!pmd)
		return;

	rcu_read_lock();
	ptdesc = pte_ref_table(pmd, &pmdval);
	same = ptdesc && READ_ONCE(ptdesc->pte_ref) == ref;
	rcu_read_unlock();

	/* If it is replaced now, the other one is judged by its own count. */
	if (!same || !pte_ref_looks_free(mm, pmd, addr))
		return;

	nr = (addr % PTE_REF_BATCH_SIZE) / PMD_SIZE;
	if (group->mask && group->addr != addr - nr * PMD_SIZE)
		pte_ref_group_free(group);
	group->pmd = pmd - nr;
	group->addr = addr - nr * PMD_SIZE;
	group->mask |= BIT_ULL(nr);
}

static void pte_ref_work_fn(struct work_struct *work)
{
	struct llist_node *list = llist_del_all(&pte_ref_queue);
	struct pte_ref_group group = { };
	struct pte_ref *ref, *next;

	list = llist_reverse_order(list);
	llist_for_each_entry_safe(ref, next, list, node) {
		struct mm_struct *mm = ref->mm;
		bool dead = test_bit(PTE_REF_DEAD, &ref->state);
		bool switched;

		if (group.mm && (group.mm != mm ||
				 ++group.seen >= PTE_REF_BATCH ||
				 mmap_lock_is_contended(group.mm)))
			pte_ref_group_end(&group);
		if (!group.mm)
			cond_resched();
		if (!dead && !group.mm && atomic_read(&mm->mm_users) &&
		    !pte_ref_group_start(&group, mm)) {
			/* Do not let one mm hold up the tables of others. */
			pte_ref_queue_add(ref);
			continue;
		}

		/* From here on whoever sees zero queues it again. */
		clear_bit(PTE_REF_QUEUED, &ref->state);
		/* Pairs with pte_ref_enqueue() and pte_ref_start_switch(). */
		smp_mb__after_atomic();

		if (!dead && group.mm) {
			/*
			 * A look during a switch finds nothing, and the end of
			 * the switch does not queue a ref that it found queued:
			 * look again, unless the switch was over before.
			 */
			switched = test_bit(PTE_REF_SWITCHED, &ref->state);
			smp_rmb();	/* pairs with pte_ref_confirm_switch() */
			pte_ref_group_add(&group, ref);
			if (!switched &&
			    test_bit(PTE_REF_SWITCHING, &ref->state) &&
			    !test_and_set_bit(PTE_REF_QUEUED, &ref->state)) {
				pte_ref_queue_add(ref);
				continue;
			}
		}
		mmdrop(mm);
		pte_ref_drop_hold(ref);
	}
	pte_ref_group_end(&group);
}

/**
 * pte_ref_read() - the count of a table
 * @ptdesc: the table, which the caller keeps; in atomic mode
 *
 * Return: number of populated entries plus number of users.
 */
unsigned long pte_ref_read(struct ptdesc *ptdesc)
{
	int populated = READ_ONCE(ptdesc->pte_populated);

	if (ptdesc->pte_ref == &pte_ref_none)
		return populated;
	return populated + atomic_long_read(&ptdesc->pte_ref->data.count) -
	       !!populated;
}

/**
 * pte_ref_flush() - wait until everything that is pending was looked at
 *
 * For tests: waits for switches, for the queue, and for tables and refs to be
 * freed.
 *
 * Context: may sleep, no locks held.
 */
void pte_ref_flush(void)
{
	rcu_barrier();
	flush_delayed_work(&pte_ref_work);
	/* The first round may have started switches. */
	rcu_barrier();
	flush_delayed_work(&pte_ref_work);
	/* Tables, then their refs. */
	rcu_barrier();
	/* Also what a callback linked to a list that another has not queued yet. */
	queue_work(pte_ref_wq, &pte_free_work);
	flush_work(&pte_free_work);
	rcu_barrier();
}

#ifdef CONFIG_DEBUG_FREE_USER_PTE
/**
 * pte_ref_recount() - compare the count of a table with its entries
 * @ptep: an entry of the table
 *
 * Context: the table is locked.
 */
void pte_ref_recount(pte_t *ptep)
{
	struct ptdesc *ptdesc = page_ptdesc(virt_to_page(ptep));
	pte_t *first = (pte_t *)((unsigned long)ptep & PAGE_MASK);
	int i, nr = 0;

	if (!ptdesc->pte_ref)
		return;
	for (i = 0; i < PTRS_PER_PTE; i++)
		nr += !pte_none(ptep_get(first + i));
	WARN_ONCE(nr != ptdesc->pte_populated,
		  "pte_ref: mismatch: %d entries, %d counted\n",
		  nr, ptdesc->pte_populated);
}
#endif

static bool pte_ref_wanted __initdata = true;

static int __init early_pte_ref(char *buf)
{
	return kstrtobool(buf, &pte_ref_wanted);
}
early_param("pte_ref", early_pte_ref);

/*
 * Before there are other CPUs and user space.  Tables that exist already belong to
 * mms of the kernel (text poking), whose tables stay.
 */
static int __init pte_ref_boot_init(void)
{
	if (!pte_ref_wanted || !arch_supports_pte_ref()) {
		pr_info("off\n");
		return 0;
	}
	pte_ref_cache = KMEM_CACHE(pte_ref, SLAB_PANIC | SLAB_NO_MERGE);
	/* It frees memory, so it must not need some to run. */
	pte_ref_wq = alloc_workqueue("pte_ref", WQ_UNBOUND | WQ_MEM_RECLAIM, 0);
	if (!pte_ref_wq)
		panic("pte_ref: no workqueue");
	static_branch_enable(&pte_ref_key);
	return 0;
}
early_initcall(pte_ref_boot_init);
