/* SPDX-License-Identifier: GPL-2.0 */
/*
 * pte_ref: what mm/pte_ref.c, mm/pte_ref_deferred.c, mm/pte_ref_percpu.c and
 * their tests share.
 */
#ifndef _MM_PTE_REF_INTERNAL_H
#define _MM_PTE_REF_INTERNAL_H

#include <linux/percpu-refcount.h>

#include "pte_ref.h"

/*
 * Times that the holders of a table must be seen to change the CPU within a
 * second before its ref gets percpu counters.
 */
#define PTE_REF_PERCPU_MOVES	64

/* Bits of pte_ref->state; each is set at most once. */
enum {
	PTE_REF_PERCPU,		/* see mm/pte_ref_percpu.c */
	PTE_REF_SWITCHING,
	PTE_REF_SWITCHED,
	PTE_REF_DEAD,		/* the table is destroyed */
	PTE_REF_RETIRED,	/* and its last holder is gone */
};

/**
 * struct pte_ref - reference to a user PTE table
 * @ref: holders of the table, plus one while it has populated entries
 * @data: the part of @ref that percpu_ref_init() would allocate
 * @mm: the mm of the table; only good to touch while the table is not dead
 * @addr: where the range of the table started when it was last known: a hint
 * @state: PTE_REF_* bits
 * @cpu: CPU of the last holder
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

/* What is freed under one hold of the PMD lock covers this range at most. */
#define PTE_REF_BATCH_SIZE	(64 * PMD_SIZE)

/*
 * Marks in the slot of a PMD or PUD table, or in its struct pte_notes: bit
 * PTE_NOTES_SHIFT is for the first PTE_NOTES_GROUP entries.
 */
#define PTE_NOTES_TAG		4UL
#define PTE_NOTES_OBJECT	8UL
#define PTE_NOTES_SHIFT		4
#define PTE_NOTES_GROUP		(PAGE_SIZE / sizeof(pmd_t) / 32)

/**
 * struct pte_notes - what is noted of a PMD table, if its slot is too small
 * @marks: groups of PTE tables of which one may be empty
 * @small: entries where a fault maps a small page, since the deferred work has
 *	freed their table
 */
struct pte_notes {
	unsigned long		marks;
	DECLARE_BITMAP(small, PAGE_SIZE / sizeof(pmd_t));
} __aligned(2 * PTE_NOTES_OBJECT);

/* mm/pte_ref.c */
struct ptdesc *pte_ref_table(pmd_t *pmd, pmd_t *pmdvalp);
unsigned long pte_ref_read(struct ptdesc *ptdesc);
struct pte_ref *pte_ref_make(struct mm_struct *mm, unsigned long addr,
			     struct ptdesc *ptdesc);
void pte_ref_set_addr(struct ptdesc *ptdesc, unsigned long addr);
void pte_ref_release(struct percpu_ref *r);
bool free_user_pte(struct mm_struct *mm, pmd_t *pmd, unsigned long addr);
unsigned int pte_ref_free_range(struct mm_struct *mm, struct mmu_gather *tlb,
				pmd_t *pmd, unsigned long addr,
				unsigned long end, bool small);
void pte_ref_flush_free(void);

/* mm/pte_ref_deferred.c */
extern struct workqueue_struct *pte_ref_wq;
void pte_ref_init_deferred(void);
pmd_t *pte_ref_find_pmd(struct mm_struct *mm, unsigned long addr);
struct pte_notes *pte_notes_make(struct mm_struct *mm, pmd_t *pmd, gfp_t gfp);
void pte_notes_set_small(struct pte_notes *notes, pmd_t *pmd);
void pte_notes_free(unsigned long slot);
void pte_notes_forget(struct mm_struct *mm, unsigned long addr,
		      unsigned long end);
void pte_ref_flush(struct mm_struct *mm);

/* mm/pte_ref_percpu.c */
bool pte_ref_hides_zero(struct pte_ref *ref);
bool pte_ref_unhide_zero(struct pte_ref *ref);
bool pte_ref_start_switch(struct pte_ref *ref);
int pte_ref_to_percpu(struct pte_ref *ref, gfp_t gfp);
void pte_ref_end_percpu(struct pte_ref *ref);
void pte_ref_put_silent(struct pte_ref *ref);
void __pte_ref_used(struct pte_ref *ref, unsigned int cpu);

static inline struct pte_ref *to_pte_ref(struct percpu_ref *ref)
{
	return container_of(ref, struct pte_ref, ref);
}

static inline bool pte_ref_is_percpu(struct pte_ref *ref)
{
	return !(READ_ONCE(ref->ref.percpu_count_ptr) & __PERCPU_REF_ATOMIC);
}

/*
 * Not percpu_ref_is_zero(): that takes a lock for all refs of the system, to
 * find one that was exited.  This one is never exited while a table has it.
 * During a switch the count is biased, so not zero.
 */
static inline bool pte_ref_is_zero(struct pte_ref *ref)
{
	return !pte_ref_is_percpu(ref) && !atomic_long_read(&ref->data.count);
}

/**
 * pte_ref_used() - there is one more holder
 * @ref: the ref, of which the caller has a reference
 *
 * Context: any.
 */
static inline void pte_ref_used(struct pte_ref *ref)
{
	unsigned int cpu = raw_smp_processor_id();

	if (unlikely(READ_ONCE(ref->cpu) != cpu))
		__pte_ref_used(ref, cpu);
}

#endif /* _MM_PTE_REF_INTERNAL_H */
