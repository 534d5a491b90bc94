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
 * The ref.  Most tables live and die without a user.  So the pte_ref field of a new
 * ptdesc points to pte_ref_none, and the first user makes its struct pte_ref, under the
 * PTL, which stays until the table is destroyed.  In it is a struct percpu_ref, of which
 * each user holds one reference, and all entries together one.  So it is zero exactly if
 * the count is.
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
 * RCU grace period, for which nobody waits: the work looks again until it is over.
 *
 * Zero.  pte_tryget() fails at zero, pte_ref_hold() raises it under the PMD lock,
 * and an entry is set under the PTL, after a check that the table is still linked.
 * So zero that is read under both the PMD lock and the PTL is final, and
 * free_user_pte() unlinks the table.  Zero that is read under less is a hint.  Zero
 * of a linked table is a legal state: a table is born with it.
 *
 * Who frees.  A zap by madvise() or truncate that covers a table tries when it is
 * done with it.  Other code that brings a table to zero (a zap of a part, reclaim
 * through rmap, a move of entries, a late user, a driver's zap), or leaves one empty
 * that was just made, notes where it is: pte_ref_note().  A work of that mm looks at
 * what was noted PTE_REF_DELAY_MS later: programs that give back a few pages and touch
 * them again at once keep their table.
 *
 * Notes.  Zero is often passing (swap-out, migration and KSM of a table's only entry;
 * COW and mprotect() do not count it) and comes when memory is short.  So a note is no
 * object, it is a bit in the descriptor of the PMD table, for a group of tables, and one
 * in that of the PUD table: to note what is noted costs a few loads and a barrier.  The
 * work follows the bits, so it looks at PTE_NOTES_GROUP tables for one that was noted, in
 * the order of their addresses, wherever in the mm they are.  A bit is a hint.  Tables
 * move, and what is found is judged by its own count.
 *
 * Who may unlink.  free_pgtables() reads PMD entries of detached VMAs without a
 * lock.  So free_user_pte() is only for those who know that a VMA over the
 * table's range stays attached: under mmap_lock or a VMA lock with a VMA at hand,
 * or under the i_mmap_rwsem through which the VMA was found, since
 * free_pgtables() unlinks a VMA from its mapping before it looks at the tables.  A
 * driver that zaps may know less (a VMA that it keeps in a list of its own can be
 * detached), so its tables are noted.  The work tries the lock of the VMA, which no other
 * VMA's writer holds, and comes later if it is held; if it is held each time, the work
 * waits for mmap_lock.
 *
 * Huge pages.  Where stock keeps an empty table the next fault maps a small page.  Where
 * the work has freed it faults must not map a huge one, or memory grows by 2 MiB where
 * 4 KiB of table were saved.  So the work leaves a bit per table in struct pte_notes,
 * which it makes for the PMD table, and vmf_wants_small_page() asks for it.  It goes when
 * a table is linked there, and where stock would free the table: with a zap of its whole
 * range and with munmap().  It moves with mremap().
 *
 * Lifetime.  A user may outlive its table, as a fault that drops mmap_lock does.
 * A ref lives until its table is destroyed and its last user is gone, and an RCU grace
 * period has passed.  The work lives in its mm and holds nothing of it: the exit of
 * the mm turns it off and waits for it, at most until it is done with a batch of tables
 * or with the marks below one PUD table.
 *
 * Lock order: mmap_lock, VMA lock or i_mmap_rwsem; PMD lock; PTL.  Notes are
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
 * How long a table waits that was noted, and how long at most if its VMA is locked each
 * time that the work looks.
 */
#define PTE_REF_DELAY_MS	10
#define PTE_REF_BUSY_MS		80

/* For how many jiffies a work may run before others get their turn. */
#define PTE_REF_SLICE		1

/* Works that run at the same time, and those of them that may wait for a lock. */
#define PTE_REF_WORKS		4
#define PTE_REF_WAITERS		2

/* Tables that are freed under one hold of the PMD lock and one flush. */
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
static struct kmem_cache *pte_notes_cache;
static struct workqueue_struct *pte_ref_wq;

/* Chains of tables whose grace period is over; the rcu_head of the first is the node. */
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

/* Is the count biased?  Ordered before what the caller does with the count. */
static bool pte_ref_is_switching(struct pte_ref *ref)
{
	bool switching = test_bit(PTE_REF_SWITCHING, &ref->state) &&
			 !test_bit(PTE_REF_SWITCHED, &ref->state);

	smp_rmb();	/* pairs with pte_ref_confirm_switch() */
	return switching;
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

/*
 * The first entry of a PUD table that there is in a range.  *@addrp gets its address or
 * @end, *@nextp where the range of its PUD table ends.  Each entry is read once, since
 * munmap() may clear it.
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
		p4dp = p4d_offset_lockless(pgdp, pgd, addr);
		p4d = p4dp_get(p4dp);
		next = p4d_addr_end(addr, next);
		if (!p4d_present(p4d))
			continue;
		*addrp = addr;
		*nextp = next;
		return pud_offset_lockless(p4dp, p4d, addr);
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
	p4dp = p4d_offset_lockless(pgdp, pgd, addr);
	p4d = p4dp_get(p4dp);
	if (!p4d_present(p4d))
		return NULL;
	return pud_offset_lockless(p4dp, p4d, addr);
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
 * mm_find_pmd() is for those who know a VMA of normal pages there; an address that
 * was noted can be under a huge PUD by now.
 *
 * Context: mmap_lock or the lock of a VMA in the range, which keeps the tables, or
 * rcu_read_lock(), after which they are freed.
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
	return pmd_offset_lockless(pud, pudval, addr);
}

static void pte_ref_free_object_rcu(struct rcu_head *head)
{
	kmem_cache_free(pte_ref_cache,
			container_of(head, struct pte_ref, data.rcu));
}

/*
 * The slot of a PMD or PUD table, ptdesc->pte_notes: 0, or PTE_NOTES_TAG and marks, one
 * for PTE_NOTES_GROUP entries, or the address of a struct pte_notes, which has them then,
 * with PTE_NOTES_TAG and PTE_NOTES_OBJECT.  So it can be told from that of a PTE table,
 * and is none that page->mapping could have.  Set by cmpxchg, for good until the table is
 * destroyed, which callers hold off by RCU or a VMA.
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

/* Give it some, if it has none.  NULL without memory. */
static struct pte_notes *pte_notes_make(struct mm_struct *mm, pmd_t *pmd, gfp_t gfp)
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

static void pte_notes_free(unsigned long slot)
{
	struct pte_notes *notes = to_pte_notes(slot);

	if (notes)
		kmem_cache_free(pte_notes_cache, notes);
}

/* Forget that faults want small pages in the ranges of these tables. */
static void pte_notes_forget(struct mm_struct *mm, unsigned long addr,
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
			pmd = pmd_offset_lockless(pud, pudval, addr);
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

/* The next fault maps a small page.  False if there is no memory to note that. */
static bool pte_notes_make_small(struct mm_struct *mm, pmd_t *pmd)
{
	struct pte_notes *notes = pte_notes_make(mm, pmd, GFP_KERNEL_ACCOUNT);

	if (notes)
		set_bit(pte_notes_index(pmd), notes->small);
	return notes;
}

/**
 * pte_ref_note() - have the table at an address looked at
 * @mm: the mm; it has users, or its exit is yet to come
 * @addr: user address
 *
 * Sets what is not set, at each level, from below: so what the work takes from above is
 * seen by it, or set again.
 *
 * Context: any.
 */
void pte_ref_note(struct mm_struct *mm, unsigned long addr)
{
	pud_t *pud, pudval;

	if (!pte_ref_enabled())
		return;
	/* Keeps the upper tables, of those who have no lock. */
	rcu_read_lock();
	pud = pte_ref_find_pud(mm, addr);
	pudval = pud ? pudp_get(pud) : __pud(0);
	if (!pud || !pte_ref_pud_ok(pudval)) {
		rcu_read_unlock();
		return;
	}
	/*
	 * The count was written before.  Pairs with the cmpxchg() of pte_notes_take(),
	 * after which the work reads the count: a mark that is seen here is yet to be
	 * taken.
	 */
	smp_mb();
	pte_notes_set(pmd_offset_lockless(pud, pudval, addr));
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
 * For those who may have made a table for nothing: no entry of it is ever cleared, so
 * nobody else notes it.
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

/*
 * The count came to zero.  Called under RCU, by the last put, under any locks.  As long as
 * the table is not dead its mm has users: the task that put, if no other.
 *
 * Of a dead table nobody can raise the count again: no walker finds it, and its
 * destructor came after a grace period or after those who exclude all walkers.
 * The destructor raises the count before it sets PTE_REF_DEAD and drops it last,
 * so a put that sees both dead and zero sees the end; PTE_REF_RETIRED picks one.  Another
 * may still be in here, so the object waits for RCU.
 */
static void pte_ref_release(struct percpu_ref *r)
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

/*
 * A switch is over and the count exact.  Runs in an RCU callback or, if there was
 * nothing to switch, in pte_ref_start_switch() below percpu_ref_switch_lock.
 */
static void pte_ref_confirm_switch(struct percpu_ref *r)
{
	struct pte_ref *ref = to_pte_ref(r);

	/* Who sees the bit must see the count: pairs with pte_ref_is_switching(). */
	smp_mb__before_atomic();
	set_bit(PTE_REF_SWITCHED, &ref->state);
	/* Its mm may be gone: the deferred work of the mm looks again, if there is one. */
	if (test_bit(PTE_REF_DEAD, &ref->state))
		pte_ref_release(r);
}

/**
 * pte_ref_start_switch() - start to switch a ref to atomic mode
 * @ref: the ref; a user, the entries or the table hold it
 *
 * Context: any; does not wait for the switch.
 * Return: false if a switch was started before.
 */
bool pte_ref_start_switch(struct pte_ref *ref)
{
	if (test_and_set_bit(PTE_REF_SWITCHING, &ref->state))
		return false;
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
		pte_ref_start_switch(ref);
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
	pte_ref_note(ref->mm, READ_ONCE(ref->addr));
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
	 * Few, and in a fault, which may be what memory is given back for: so the
	 * atomic reserve may be used, and no memcg keeps us from it.
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

/*
 * The ref of a table that has one.  hugetlb calls the primitives on entries of PMD
 * tables, whose slot is NULL or has their notes.
 */
static struct pte_ref *pte_ref_object(struct ptdesc *ptdesc)
{
	if (!ptdesc->pte_ref || ptdesc->pte_ref == &pte_ref_none ||
	    unlikely(ptdesc->pte_notes & PTE_NOTES_TAG))
		return NULL;
	return ptdesc->pte_ref;
}

void __pte_ref_populated(unsigned long addr, struct ptdesc *ptdesc)
{
	struct pte_ref *ref = pte_ref_object(ptdesc);

	if (!ref)
		return;
	WRITE_ONCE(ref->addr, addr & PMD_MASK);
	percpu_ref_get(&ref->ref);
}
EXPORT_SYMBOL_GPL(__pte_ref_populated);

void __pte_ref_emptied(struct mm_struct *mm, unsigned long addr,
		       struct ptdesc *ptdesc)
{
	struct pte_ref *ref = pte_ref_object(ptdesc);

	if (!ref) {
		if (ptdesc->pte_ref == &pte_ref_none)
			pte_ref_note(mm, addr);
		return;
	}
	WRITE_ONCE(ref->addr, addr & PMD_MASK);
	/*
	 * In percpu mode the put cannot see zero, although this looks like it, nor until
	 * a switch is over: ask for an attempt, which starts it, or comes again.
	 */
	if (pte_ref_is_percpu(ref) || pte_ref_is_switching(ref))
		pte_ref_note(mm, addr);
	percpu_ref_put(&ref->ref);
}
EXPORT_SYMBOL_GPL(__pte_ref_emptied);

/*
 * Below pte_put_locked().  Not noted: if somebody else holds a reference, it is
 * his put that notes the table, or his look that finds it.
 */
void __pte_ref_zapped(struct ptdesc *ptdesc)
{
	struct pte_ref *ref = pte_ref_object(ptdesc);
	unsigned long __percpu *percpu_count;

	if (!ref)
		return;
	/* The table is locked, so it lives, and zero is not the end of its ref. */
	rcu_read_lock();
	if (__ref_is_percpu(&ref->ref, &percpu_count))
		this_cpu_dec(*percpu_count);
	else
		atomic_long_dec(&ref->data.count);
	rcu_read_unlock();
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
	if ((unsigned long)ref & PTE_NOTES_TAG) {
		pte_notes_free((unsigned long)ref);
		return;
	}
	/* See pte_ref_release(). */
	percpu_ref_get(&ref->ref);
	set_bit(PTE_REF_DEAD, &ref->state);
	/* Pairs with pte_ref_attach(). */
	smp_mb__after_atomic();
	if (unlikely(test_bit(PTE_REF_ATTACHED, &ref->state)))
		pte_ref_start_switch(ref);
	/* A table that went with its entries: exit, retract_page_tables(). */
	if (ptdesc->pte_populated)
		percpu_ref_put(&ref->ref);
	percpu_ref_put(&ref->ref);
}
EXPORT_SYMBOL_GPL(__pte_ref_free);

/*
 * Below pte_ref_moved().  The notes of a PMD table have moved with it, those of the PUD
 * table have not.
 */
void __pte_ref_moved(struct mm_struct *mm, pmd_t *pmd, unsigned long addr,
		     int nr)
{
	struct ptdesc *ptdesc;
	struct pte_ref *ref;
	pmd_t pmdval;

	for (; nr; nr--, pmd++, addr += PMD_SIZE) {
		ptdesc = pte_ref_table(pmd, &pmdval);
		if (!ptdesc)
			continue;
		ref = pte_ref_object(ptdesc);
		if (ref)
			WRITE_ONCE(ref->addr, addr & PMD_MASK);
		if (!READ_ONCE(ptdesc->pte_populated))
			pte_ref_note(mm, addr);
	}
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

/* Tables that are freed together: of each pt_index leads to the next. */
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

/* One callback for up to PTE_REF_BATCH tables; mmu_gather has one for up to 500. */
static void pte_free_rcu(struct rcu_head *head)
{
	pte_free_chain(container_of(head, struct ptdesc, pt_rcu_head));
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
 * With @notes the next fault in the range of a table maps a small page.
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
				set_bit(pte_notes_index(pmd), notes->small);
				/* Pairs with vmf_wants_small_page(). */
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
 * Is the table below @pmd worth to be locked?  Starts the switch of a table in
 * percpu mode that looks empty.
 */
static bool pte_ref_looks_free(struct mm_struct *mm, pmd_t *pmd,
			       unsigned long addr)
{
	struct ptdesc *ptdesc;
	struct pte_ref *ref;
	bool zero = false, again;
	pmd_t pmdval;

	rcu_read_lock();
	ptdesc = pte_ref_table(pmd, &pmdval);
	ref = ptdesc ? READ_ONCE(ptdesc->pte_ref) : NULL;
	if (ref && !READ_ONCE(ptdesc->pte_populated)) {
		if (unlikely(pte_ref_is_percpu(ref)))
			pte_ref_start_switch(ref);
		again = pte_ref_is_switching(ref);
		zero = pte_ref_is_zero(ref);
		if (!zero) {
			count_vm_event(PTE_REF_BUSY);
			trace_pte_ref_free_failed(mm, addr & PMD_MASK);
			/* What hides zero now tells nobody when it is over. */
			if (again)
				pte_ref_note(mm, addr);
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
		       unsigned long end, bool forget)
{
	struct mm_struct *mm = tlb->mm;
	unsigned long addr = start & PMD_MASK;

	if (addr < start) {
		addr += PMD_SIZE;
		pmd++;
	}
	end &= PMD_MASK;
	start = addr;
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
						       mask, NULL));
	}
	/* Last, since the work may have been faster. */
	if (forget && READ_ONCE(mm->pte_ref.small))
		pte_notes_forget(mm, start, end);
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
 * Can an empty table be freed while a fault of @mm is outside its lock?  Not without
 * other mm_users, nor deferred work.  Only truncate and reclaim can empty it then, and a
 * fault that loses it ends with nothing mapped.  Read mm_users first: if another task
 * noted a table and dropped its mm_users, which is ordered, its note can be seen, or
 * the work is done, and what it did can be seen.
 */
static bool pte_ref_may_free(struct mm_struct *mm)
{
	return atomic_read_acquire(&mm->mm_users) > 1 ||
	       atomic_read_acquire(&mm->pte_ref.state);
}

/* Slow path of vmf_hold_pte_table(). */
void __vmf_hold_pte_table(struct vm_fault *vmf)
{
	struct mm_struct *mm = vmf->vma->vm_mm;

	if (pte_ref_may_free(mm)) {
		pte_ref_put(vmf->pte_ref);
		vmf->pte_ref = pte_ref_hold(mm, vmf->pmd, vmf->address);
	}
}

/**
 * vmf_install_pte_table() - link the table that a fault allocated before
 * @vmf: the fault
 *
 * It is empty, so if it can be freed before it is locked the fault takes a reference.
 *
 * Context: process context, no page table lock held; does not sleep.
 */
void vmf_install_pte_table(struct vm_fault *vmf)
{
	struct mm_struct *mm = vmf->vma->vm_mm;

	if (pte_ref_enabled() && pte_ref_may_free(mm)) {
		pte_ref_put(vmf->pte_ref);
		vmf->pte_ref = pmd_install_hold(mm, vmf->pmd, vmf->address,
						&vmf->prealloc_pte);
	} else {
		pmd_install(mm, vmf->pmd, &vmf->prealloc_pte);
	}
}

/* Below pte_ref_linked(). */
void __pte_ref_linked(pmd_t *pmd)
{
	struct pte_notes *notes = pte_notes_find(pmd);

	if (notes && test_bit(pte_notes_index(pmd), notes->small))
		clear_bit(pte_notes_index(pmd), notes->small);
}

/* Below vmf_wants_small_page(). */
bool __vmf_wants_small_page(struct vm_fault *vmf)
{
	struct pte_notes *notes = pte_notes_find(vmf->pmd);

	return notes && test_bit(pte_notes_index(vmf->pmd), notes->small);
}

/*
 * Below pte_ref_unmapped(); the conditions mirror free_pgd_range().  The look without the
 * lock of the table is enough to leave it: our own zap is done, so what brings the count
 * to zero after it is another caller, which notes the table.
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

/* Below pte_ref_fork(). */
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
 * Under the PTL no entry is away for a moment only, and the caller keeps faults away.
 * Stock would give the child an empty table, and so small pages.
 *
 * Context: as copy_page_range().
 * Return: true if the table is empty and the child does without; false also if there is no
 * memory to note that it is to have small pages.
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
 * pte_ref_moves_none() - does mremap() move a range without a table, freed by the work?
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
 * Context: mmap_lock held for write.  May sleep for memory; without, the next fault may
 * map a huge page.
 */
void pte_ref_moved_none(struct mm_struct *mm, pmd_t *pmd)
{
	if (pmd_none(pmdp_get_lockless(pmd)))
		pte_notes_make_small(mm, pmd);
}

/*
 * Keep the first VMA in a range attached.
 * Return: the VMA; NULL if there is none; -EAGAIN if another task has locked it, then
 * *@busyp is where it ends.
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
	/* The VMA may be another one meanwhile: only its lock tells. */
	rcu_read_lock();
	vma = mas_find(&mas, end - 1);
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
 * Find the next range with tables that were noted, from *@startp on, in the range of one
 * PUD table, and take its notes.  It lies in one PMD table.  Without one *@startp gets
 * where to go on.
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
	for (; addr < last && !found; addr = next, pud++) {
		/* What is marked here is taken at its start, then seen to its end. */
		if (!mm_pud_folded(mm) &&
		    IS_ALIGNED(addr, PTE_NOTES_GROUP * PUD_SIZE) &&
		    !pte_notes_take(pud)) {
			next = min(last, addr + PTE_NOTES_GROUP * PUD_SIZE);
			pud += PTE_NOTES_GROUP - 1;
			continue;
		}
		next = pud_addr_end(addr, last);
		pudval = pudp_get(pud);
		if (!pte_ref_pud_ok(pudval))
			continue;
		pmd = pmd_offset_lockless(pud, pudval, addr);
		for (; addr < next; pmd += PTE_NOTES_GROUP) {
			unsigned long start = addr;

			addr = min(next, ALIGN(addr + 1, PTE_NOTES_GROUP * PMD_SIZE));
			if (pte_notes_take(pmd)) {
				if (!found)
					*startp = start;
				*endp = addr;
				found = true;
			} else if (found) {
				break;
			}
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
	bool done = true;

	while ((addr = pte_ref_find_empty(mm, addr, end)) < end) {
		struct pte_notes *notes = NULL;
		struct vm_area_struct *vma;
		unsigned long first, last, busy;
		unsigned int i;
		u64 mask = 0;
		pmd_t *pmd;

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
		first = addr & ~(PTE_REF_BATCH_SIZE - 1);
		last = min3(end, first + PTE_REF_BATCH_SIZE,
			    ALIGN(vma->vm_end, PMD_SIZE));
		pmd = pte_ref_find_pmd(mm, first);
		for (; pmd && addr < last; addr += PMD_SIZE) {
			i = (addr - first) / PMD_SIZE;
			if (pte_ref_looks_free(mm, pmd + i, addr))
				mask |= BIT_ULL(i);
		}
		/* Whatever this VMA is, there may be another one, or come one. */
		if (mask && IS_ENABLED(CONFIG_TRANSPARENT_HUGEPAGE)) {
			notes = pte_notes_make(mm, pmd, GFP_NOWAIT | __GFP_NOWARN);
			for (; !notes && mask; mask &= mask - 1) {
				i = __ffs64(mask);
				pte_ref_note(mm, first + i * PMD_SIZE);
			}
		}
		if (mask)
			count_vm_events(PTE_REF_FREE_DEFERRED,
					free_user_ptes(mm, NULL, pmd, first, mask,
						       notes));
		pte_ref_unlock_vma(mm, vma);
		addr = last;
		cond_resched();
	}
	return done;
}

/* Waiters may have to wait as long as a program likes. */
static atomic_t pte_ref_waiters = ATOMIC_INIT(0);

/*
 * Keep all VMAs from being locked, for an mm of which one was locked each time that the
 * work looked.  Killable, so that nobody takes it for a hung task.
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
		/* Its exit waits for us, or the works of other mms for their turn. */
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

	/* The last that is done with the mm, whose exit may not wait for us then. */
	if (atomic_cmpxchg(&queue->state, MM_PTE_REF_WORK, 0) != MM_PTE_REF_WORK)
		queue_delayed_work(pte_ref_wq, &queue->work,
				   msecs_to_jiffies(queue->delay));
}

/* Below mm_init_pte_ref(). */
void __mm_init_pte_ref(struct mm_struct *mm)
{
	atomic_set(&mm->pte_ref.state, 0);
	mm->pte_ref.next = 0;
	mm->pte_ref.delay = PTE_REF_DELAY_MS;
	mm->pte_ref.small = false;
	INIT_DELAYED_WORK(&mm->pte_ref.work, pte_ref_work_fn);
}

/*
 * Slow path of mm_exit_pte_ref().  A note of now, as of reclaim that has found a page of
 * this mm, finds MM_PTE_REF_EXIT and queues nothing, or a work that is disabled.  Its
 * caller holds the lock of the rmap or of the table, for which the rest of the exit waits,
 * so the mm stays meanwhile.
 */
void __mm_exit_pte_ref(struct mm_struct *mm)
{
	/* Mostly it waits for its time; then nobody queues it again. */
	if (!cancel_delayed_work(&mm->pte_ref.work))
		disable_delayed_work_sync(&mm->pte_ref.work);
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
 * @mm: the mm whose tables were noted
 *
 * For tests: waits for switches, for the work, and for tables and refs to be
 * freed.
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
	/* Negative: unlinked while we waited for its lock, see free_user_ptes(). */
	WARN_ONCE(nr != ptdesc->pte_populated && (nr || ptdesc->pte_populated > 0),
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
	pte_notes_cache = kmem_cache_create("pte_ref_notes", sizeof(struct pte_notes),
					    __alignof__(struct pte_notes),
					    SLAB_PANIC | SLAB_NO_MERGE, NULL);
	/* It frees memory, so it must not need some to run. */
	pte_ref_wq = alloc_workqueue("pte_ref", WQ_UNBOUND | WQ_MEM_RECLAIM,
				     PTE_REF_WORKS);
	if (!pte_ref_wq)
		panic("pte_ref: no workqueue");
	static_branch_enable(&pte_ref_key);
	return 0;
}
early_initcall(pte_ref_boot_init);
