/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What mm/pte_ref.c and its tests share.  Not for anybody else.
 */
#ifndef _MM_PTE_REF_H
#define _MM_PTE_REF_H

#include <linux/llist.h>
#include <linux/percpu-refcount.h>
#include <linux/pte_ref.h>
#include <linux/refcount.h>

/*
 * Times that users of a table must be seen to change the CPU within a second
 * before its ref gets percpu counters.
 */
#define PTE_REF_ATTACH_MOVES	64

/* Bits of pte_ref->state; each is set at most once, except PTE_REF_QUEUED. */
enum {
	PTE_REF_ATTACHED,	/* percpu counters were asked for */
	PTE_REF_SWITCHING,	/* a switch to atomic mode was started */
	PTE_REF_SWITCHED,	/* and is over */
	PTE_REF_PARKED,		/* the switch owns PTE_REF_QUEUED until it is over */
	PTE_REF_QUEUED,		/* in pte_ref_queue; with a hold and an mm_count */
	PTE_REF_DEAD,		/* the table is gone */
	PTE_REF_RETIRED,	/* the table's hold was dropped */
};

/**
 * struct pte_ref - reference to a user PTE table
 * @ref: users of the table, plus one while it has populated entries
 * @data: the part of @ref that percpu_ref_init() would allocate
 * @mm: the mm of the table; only good to touch while the table is not dead, or
 *	under the mm_count of the queue
 * @addr: where the range of the table started when it was last known: a hint
 * @node: in the queue of tables to look at
 * @state: PTE_REF_* bits
 * @hold: reasons to keep this object: the table, and being queued
 * @cpu: CPU of the last user
 * @moves: times that @cpu changed in @second
 * @second: a second of the clock, modulo 65536
 */
struct pte_ref {
	struct percpu_ref	ref;
	struct percpu_ref_data	data;
	struct mm_struct	*mm;
	unsigned long		addr;
	struct llist_node	node;
	unsigned long		state;
	refcount_t		hold;
	u16			cpu;
	u16			moves;
	u16			second;
};

pmd_t *pte_ref_find_pmd(struct mm_struct *mm, unsigned long addr);
unsigned long pte_ref_read(struct ptdesc *ptdesc);
bool pte_ref_is_percpu(struct pte_ref *ref);
int pte_ref_attach(struct pte_ref *ref, gfp_t gfp);
bool pte_ref_start_switch(struct pte_ref *ref, bool look);
void pte_ref_flush(void);

#endif /* _MM_PTE_REF_H */
