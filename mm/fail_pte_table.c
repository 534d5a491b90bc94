// SPDX-License-Identifier: GPL-2.0
/*
 * fail_pte_table: free a PTE table at the worst moment.
 *
 * Code that looks at a PMD entry and then maps the PTE table it leads to has to
 * expect that the table was empty and is unlinked, because another CPU has zapped
 * a VMA that has a part of it.  That is a matter of a few hundred instructions.
 * Here the code itself frees the table, just before it maps it, so that with
 * /proc/<pid>/fail-nth each of the steps of a system call can be made to meet it.
 *
 * What is done is what a zap on another CPU may do: a table is freed only if its
 * count is zero, under the same locks.  Nothing is done where the caller could not
 * be the one that zaps: if it holds a spinlock, is in an RCU read section, or holds
 * none of the locks that keep a VMA of the range attached, as a walk through an
 * anon_vma.  With delay-us the caller waits, for other threads to do their worst
 * with a table that is not empty yet.
 *
 * With mapped=1 the table is freed after it was mapped, before the caller takes
 * its lock, if it ever does.  There the caller is in an RCU read section, and may
 * hold the lock of another table, as mremap() does.  So the locks of this one are
 * only tried.
 */
#include <linux/debugfs.h>
#include <linux/delay.h>
#include <linux/fault-inject.h>
#include <linux/hugetlb.h>
#include <linux/mm.h>
#include <linux/pgalloc.h>
#include <linux/sched/mm.h>
#include <linux/vmstat.h>
#include <asm/tlbflush.h>

#include "pte_ref_internal.h"

static struct {
	struct fault_attr attr;
	u32 delay_us;
	bool mapped;
} fault = {
	.attr = FAULT_ATTR_INITIALIZER,
};

static int __init setup_fail_pte_table(char *str)
{
	return setup_fault_attr(&fault.attr, str);
}
__setup("fail_pte_table=", setup_fail_pte_table);

/*
 * Does the caller keep a VMA attached over the table of @addr?  When lockdep is
 * off it does not know, and says so.
 */
static bool fail_pte_table_locked(struct mm_struct *mm, unsigned long addr)
{
	MA_STATE(mas, &mm->mm_mt, 0, 0);
	unsigned long end;

	addr &= PMD_MASK;
	end = addr + PMD_SIZE;
	/*
	 * The caller may keep one of these, not all of them.  Each step goes from
	 * the root, as in pte_ref_lock_vma().
	 */
	guard(rcu)();
	for (; addr < end; addr = mas.last + 1) {
		struct vm_area_struct *vma;

		mas_set(&mas, addr);
		vma = mas_walk(&mas);
		if (!vma && mas.last == ULONG_MAX)
			break;
		if (!vma)
			continue;
		if (lockdep_is_held(&mm->mmap_lock) == LOCK_STATE_HELD)
			return true;
#ifdef CONFIG_PER_VMA_LOCK
		if (lock_is_held(&vma->vmlock_dep_map) == LOCK_STATE_HELD)
			return true;
#endif
		if (vma->vm_file &&
		    lockdep_is_held(&vma->vm_file->f_mapping->i_mmap_rwsem) ==
		    LOCK_STATE_HELD)
			return true;
	}
	return false;
}

/*
 * Only in a system call or a fault of a task, and in an mm that is alive.  What
 * follows takes long, so first of all: is it armed?
 */
static bool fail_pte_table_allowed(struct mm_struct *mm)
{
	if (!READ_ONCE(fault.attr.probability) && !READ_ONCE(current->fail_nth))
		return false;
	return current->mm && mm != &init_mm && atomic_read(&mm->mm_users) &&
	       in_task() && !irqs_disabled();
}

/* Can the caller, with what it holds, be one that frees the table at @pmd? */
static bool fail_pte_table_found(struct mm_struct *mm, pmd_t *pmd,
				 unsigned long addr)
{
	/* Some map by a copy of the entry, of a table that is unlinked. */
	return addr < TASK_SIZE && fail_pte_table_locked(mm, addr) &&
	       pte_ref_find_pmd(mm, addr) == pmd;
}

/*
 * Is the entry at @pmd a copy of the one that leads to a table?  Until it is mapped
 * that can be freed, and a grace period pass, so that something else is mapped.
 * It takes an entry in place to see that, or RCU since it was read.
 */
static bool fail_pte_table_copied(struct mm_struct *mm, pmd_t *pmd,
				  unsigned long addr)
{
	pmd_t *linked, pmdval;

	if (addr >= TASK_SIZE || !fail_pte_table_locked(mm, addr))
		return false;
	linked = pte_ref_find_pmd(mm, addr);
	return linked && linked != pmd && pte_ref_table(linked, &pmdval) &&
	       pmd_same(pmdval, pmdp_get_lockless(pmd));
}

/* Counts as a point. */
static bool fail_pte_table_now(void)
{
	u32 delay_us = READ_ONCE(fault.delay_us);

	if (!should_fail(&fault.attr, 1))
		return false;
	if (delay_us)
		usleep_range(delay_us, delay_us + delay_us / 8);
	return true;
}

/**
 * fail_pte_table() - maybe free the PTE table that the caller is about to map
 * @mm: the mm, or NULL in __pte_offset_map(), which asks for that of the task
 * @pmd: entry of the PMD table
 * @addr: an address in the table's range
 *
 * Context: any; does nothing where the caller may not sleep.
 */
void fail_pte_table(struct mm_struct *mm, pmd_t *pmd, unsigned long addr)
{
	if (READ_ONCE(fault.mapped) || !preemptible() || rcu_preempt_depth())
		return;
	/* Its callers ask for other mms; once for a map is enough. */
	if (!mm)
		mm = current->mm;
	else if (mm == current->mm)
		return;
	if (!fail_pte_table_allowed(mm))
		return;
	if (fail_pte_table_found(mm, pmd, addr) && fail_pte_table_now())
		try_to_free_user_pte(mm, pmd, addr);
	WARN_ONCE(fail_pte_table_copied(mm, pmd, addr),
		  "a PTE table is mapped by a copy of its PMD entry");
}

/**
 * fail_pte_table_new() - maybe free a PTE table that was just made
 * @mm: the mm
 * @pmd: entry of the PMD table
 *
 * Its address is not known, so what is flushed first is not its range.  RCU
 * keeps it until that is.  A huge page that comes in its place before is more
 * than arm64 allows to a CPU without BBML2.
 *
 * Context: any; does nothing where the caller may not sleep.
 */
void fail_pte_table_new(struct mm_struct *mm, pmd_t *pmd)
{
	if (READ_ONCE(fault.mapped) || !preemptible() || rcu_preempt_depth() ||
	    !fail_pte_table_allowed(mm) || !fail_pte_table_now())
		return;
	preempt_disable();
	if (try_to_free_user_pte(mm, pmd, 0))
		flush_tlb_mm(mm);
	preempt_enable();
}

/**
 * fail_pte_table_mapped() - maybe free the PTE table that the caller has mapped
 * @mm: the mm
 * @pmd: entry of the PMD table
 * @addr: an address in the table's range
 *
 * The deferred work and zaps free a table under the same two locks; see
 * free_user_ptes().  They are tried, since the caller may hold the PTL of another
 * table, which comes after the PMD lock.  RCU keeps the table for the caller.
 *
 * Context: any; does nothing with interrupts off, nor while a task holds the PMD
 * lock or the PTL.
 */
void fail_pte_table_mapped(struct mm_struct *mm, pmd_t *pmd, unsigned long addr)
{
	struct vm_area_struct vma = TLB_FLUSH_VMA(mm, 0);
	struct ptdesc *ptdesc = NULL;
	spinlock_t *pml, *ptl;
	pmd_t pmdval;

	if (!READ_ONCE(fault.mapped) || !fail_pte_table_allowed(mm) ||
	    !fail_pte_table_found(mm, pmd, addr) || !should_fail(&fault.attr, 1))
		return;
	addr &= PMD_MASK;
	pml = pmd_lockptr(mm, pmd);
	if (!spin_trylock(pml))
		return;
	ptdesc = pte_ref_table(pmd, &pmdval);
	ptl = ptdesc ? pte_lockptr(mm, &pmdval) : NULL;
	if (ptdesc && (ptl == pml || spin_trylock(ptl))) {
		if (ptdesc->pte_ref && !ptdesc->pte_populated &&
		    pte_ref_is_zero(ptdesc->pte_ref))
			pmd_clear(pmd);
		else
			ptdesc = NULL;
		if (ptl != pml)
			spin_unlock(ptl);
	} else {
		ptdesc = NULL;
	}
	if (ptdesc)
		flush_tlb_range(&vma, addr, addr + PMD_SIZE);
	spin_unlock(pml);
	if (!ptdesc)
		return;
	count_vm_event(PTE_REF_FREE);
	mm_dec_nr_ptes(mm);
#ifdef arch_release_user_pte
	arch_release_user_pte(ptdesc_page(ptdesc));
#endif
	pte_free_defer(mm, ptdesc_page(ptdesc));
}

static int __init fail_pte_table_init(void)
{
	struct dentry *dir;

	/* Nothing fails, so say nothing unless asked. */
	fault.attr.verbose = 0;
	if (!IS_ENABLED(CONFIG_FAULT_INJECTION_DEBUG_FS))
		return 0;
	dir = fault_create_debugfs_attr("fail_pte_table", NULL, &fault.attr);
	debugfs_create_u32("delay-us", 0600, dir, &fault.delay_us);
	debugfs_create_bool("mapped", 0600, dir, &fault.mapped);
	return 0;
}
late_initcall(fail_pte_table_init);
