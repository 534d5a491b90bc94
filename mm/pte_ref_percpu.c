// SPDX-License-Identifier: GPL-2.0
/*
 * pte_ref in percpu mode.
 *
 * Several threads that hold the same table, as they do when read(), GUP or KVM
 * fault in pages of one file mapping, share the cache line of its count.  With
 * a counter on each CPU they do not.
 *
 * But nobody can see percpu counters reach zero, and they cost memory on each
 * possible CPU, of which most tables would make no use.  So a ref is born in
 * atomic mode, and pte_ref_used() gives it percpu counters, once, when its
 * holders were seen to come from changing CPUs PTE_REF_PERCPU_MOVES times in a
 * second.
 *
 * In percpu mode zero is hidden.  Code that would free the table first switches
 * the ref to atomic mode, for good: pte_ref_unhide_zero().  The switch takes an
 * RCU grace period, for which nobody waits: the count is biased meanwhile, zero
 * is hidden still, and the deferred work looks again until it is over.
 *
 * Each of the three bits of pte_ref->state below is set once:
 *
 *	PTE_REF_PERCPU		percpu counters were asked for
 *	PTE_REF_SWITCHING	a switch to atomic mode was started
 *	PTE_REF_SWITCHED	and is over
 */
#include <linux/mm.h>
#include <linux/vmstat.h>
#include <trace/events/pte_ref.h>

#include "pte_ref_internal.h"

/* Is the count biased?  Ordered before what the caller does with the count. */
static bool pte_ref_is_switching(struct pte_ref *ref)
{
	bool switching = test_bit(PTE_REF_SWITCHING, &ref->state) &&
			 !test_bit(PTE_REF_SWITCHED, &ref->state);

	smp_rmb();	/* pairs with pte_ref_confirm_switch() */
	return switching;
}

/**
 * pte_ref_hides_zero() - does a put not see that it was the last?
 * @ref: the ref, which the caller keeps
 *
 * Context: any.
 * Return: true if the ref is in percpu mode or on its way out of it.
 */
bool pte_ref_hides_zero(struct pte_ref *ref)
{
	if (pte_ref_is_percpu(ref))
		return true;
	/* If it is atomic again, its switch is seen: the bit was set first. */
	smp_rmb();
	return pte_ref_is_switching(ref);
}

/**
 * pte_ref_unhide_zero() - have zero seen, since the table might be freed
 * @ref: the ref, which the caller keeps
 *
 * Context: any.
 * Return: true if that takes until later.
 */
bool pte_ref_unhide_zero(struct pte_ref *ref)
{
	if (unlikely(pte_ref_is_percpu(ref)))
		pte_ref_start_switch(ref);
	return pte_ref_hides_zero(ref);
}

/*
 * A switch is over and the count exact.  Runs in an RCU callback or, if there
 * was nothing to switch, in pte_ref_start_switch() under
 * percpu_ref_switch_lock.
 */
static void pte_ref_confirm_switch(struct percpu_ref *r)
{
	struct pte_ref *ref = to_pte_ref(r);

	/* The count before the bit: pairs with pte_ref_is_switching(). */
	smp_mb__before_atomic();
	set_bit(PTE_REF_SWITCHED, &ref->state);
	/* Otherwise the deferred work of its mm looks again. */
	if (test_bit(PTE_REF_DEAD, &ref->state))
		pte_ref_release(r);
}

/**
 * pte_ref_start_switch() - start to switch a ref to atomic mode
 * @ref: the ref; a holder, the entries or the table keep it
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
 * pte_ref_to_percpu() - give a ref its percpu counters
 * @ref: the ref, of which the caller has a reference
 * @gfp: allocation mask for the counters
 *
 * Context: any, if @gfp does not allow to block.
 * Return: 0, or -EBUSY if they were asked for before, or -ENOMEM.
 */
int pte_ref_to_percpu(struct pte_ref *ref, gfp_t gfp)
{
	int ret;

	if (test_and_set_bit(PTE_REF_PERCPU, &ref->state))
		return -EBUSY;
	ret = percpu_ref_attach_counters(&ref->ref, gfp);
	/*
	 * The table may have died meanwhile, and percpu counters would hide the
	 * last put.  __pte_ref_free() sets PTE_REF_DEAD, then
	 * pte_ref_end_percpu() looks for PTE_REF_PERCPU; here it is the other
	 * way round, ordered by test_and_set_bit(), so that one of us starts
	 * the switch.  If it came before the counters, they were refused.
	 */
	if (unlikely(test_bit(PTE_REF_DEAD, &ref->state)))
		pte_ref_start_switch(ref);
	return ret;
}

/**
 * pte_ref_end_percpu() - the table is dead, so zero must be seen
 * @ref: the ref, of which the caller has a reference and has set PTE_REF_DEAD
 *
 * Context: any.
 */
void pte_ref_end_percpu(struct pte_ref *ref)
{
	/* Pairs with pte_ref_to_percpu(). */
	smp_mb__after_atomic();
	if (unlikely(test_bit(PTE_REF_PERCPU, &ref->state)))
		pte_ref_start_switch(ref);
}

/**
 * __pte_ref_used() - a holder came from another CPU than the last one
 * @ref: the ref, of which the caller has a reference
 * @cpu: the CPU
 *
 * Lost updates do not matter.
 *
 * Context: any.
 */
void __pte_ref_used(struct pte_ref *ref, unsigned int cpu)
{
	u16 second = jiffies / HZ;
	u16 moves;

	if (test_bit(PTE_REF_PERCPU, &ref->state))
		return;
	WRITE_ONCE(ref->cpu, cpu);
	moves = READ_ONCE(ref->second) == second ? READ_ONCE(ref->moves) + 1 : 1;
	WRITE_ONCE(ref->second, second);
	WRITE_ONCE(ref->moves, moves);
	if (moves < PTE_REF_PERCPU_MOVES ||
	    pte_ref_to_percpu(ref, GFP_NOWAIT | __GFP_NOWARN | __GFP_ACCOUNT))
		return;
	/*
	 * If the table was emptied in atomic mode, the look at it was left to
	 * our put, which does not see zero any more.
	 */
	pte_ref_note(ref->mm, READ_ONCE(ref->addr));
}

/**
 * pte_ref_put_silent() - drop a reference, and tell nobody if it was the last
 * @ref: the ref of a table that is locked
 *
 * Context: any.
 */
void pte_ref_put_silent(struct pte_ref *ref)
{
	unsigned long __percpu *percpu_count;

	rcu_read_lock();
	/*
	 * As percpu_ref_put() does: our count before the put, so that another
	 * holder whose put sees zero, and notes the table, sees that it is
	 * empty; and before the caller's look at the mode, see
	 * __pte_ref_used().
	 */
	smp_mb__before_atomic();
	if (__ref_is_percpu(&ref->ref, &percpu_count))
		this_cpu_dec(*percpu_count);
	else
		atomic_long_dec(&ref->data.count);
	smp_mb__after_atomic();	/* see above */
	rcu_read_unlock();
}
