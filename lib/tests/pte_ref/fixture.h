/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the KUnit suites of references to user PTE tables share: a table to work
 * on, and operations on its entries.  See fixture.c for how tests use it.
 */
#ifndef _LIB_TESTS_PTE_REF_FIXTURE_H
#define _LIB_TESTS_PTE_REF_FIXTURE_H

#include <kunit/test.h>
#include <linux/mm.h>
#include <linux/pgalloc.h>
#include <linux/vmstat.h>

#include "../../../mm/pte_ref_internal.h"

#define NR_TABLES	4

/*
 * Pages that present entries map.  A table of 64 KiB has 8192 entries, and they
 * would map 512 MiB: from NR_PAGES on entries map the same pages again.
 */
#define NR_PAGES	512U

/* Larger huge pages may not be had. */
#if defined(CONFIG_TRANSPARENT_HUGEPAGE) && PMD_SHIFT <= 25
#define COLLAPSES
#endif

/**
 * struct ref_watch - is a ref freed, and how often?
 * @obj: the ref, or NULL when its memory was allocated again
 * @freed: how often
 * @registered: the probes are registered
 */
struct ref_watch {
	const void	*obj;
	atomic_t	freed;
	bool		registered;
};

/**
 * struct table - the table under test, and what is around it
 * @test: the test
 * @mm: the mm of its thread
 * @vma: a private mapping over the ranges of NR_TABLES tables and more
 * @map: where @vma starts
 * @len: its length
 * @addr: where the range of the table starts, in @vma
 * @pmd: points to it
 * @ptdesc: the table
 * @ref: its ref
 * @page: what present entries map: a folio of NR_PAGES pages
 * @watch: of @ref
 */
struct table {
	struct kunit		*test;
	struct mm_struct	*mm;
	struct vm_area_struct	*vma;
	unsigned long		map;
	unsigned long		len;
	unsigned long		addr;
	pmd_t			*pmd;
	struct ptdesc		*ptdesc;
	struct pte_ref		*ref;
	struct page		*page;
	struct ref_watch	watch;
};

enum entry_kind {
	NONE,
	PRESENT,
	PROTNONE,
	SWAP,
	MARKER_UFFD_WP,
	MARKER_POISON,
	MARKER_GUARD,
	MIGRATION_READ,
	MIGRATION_WRITE,
	NR_KINDS = IS_ENABLED(CONFIG_MIGRATION) ? MIGRATION_WRITE + 1 : MIGRATION_READ
};

enum entry_op {
	/* any entry */
	OP_PTE_CLEAR,		/* not if present, for page_table_check */
	OP_PTEP_CLEAR,
	OP_GET_AND_CLEAR,
	/* not present */
	OP_CLEAR_NONPRESENT,
	/* present, consecutive pages */
	OP_CLEAR,
	OP_CLEAR_FULL,
	OP_GET_AND_CLEAR_BATCH,
	OP_GET_AND_CLEAR_BATCH_FULL,
	OP_MODIFY_PROT,
	OP_WRPROTECT,
	OP_MKOLD,
	OP_CLEAR_YOUNG_DIRTY,
	OP_CLEAR_FLUSH_SET,
	NR_OPS
};

/* The table */
int pte_ref_test_init(struct kunit *test);
void pte_ref_test_exit(struct kunit *test);
void lock_table(struct table *t);
void unlock_table(struct table *t);
void link_bare_table(struct table *t);
void link_table(struct table *t);
void link_beside(struct table *t, struct table *bare);
void map_beside(struct table *t, struct table *other);
struct pte_ref *make_table(struct table *t, struct ref_watch *w,
			   pgtable_t *pgtable, bool entries, bool held);
bool is_linked(struct table *t);

/* Its entries */
pte_t make_entry(struct table *t, enum entry_kind kind, unsigned int i);
void set_entries(struct table *t, enum entry_kind kind, unsigned int i,
		 unsigned int nr);
void set_entry(struct table *t, enum entry_kind kind, unsigned int i);
void do_op(struct table *t, enum entry_op op, unsigned int i, unsigned int nr);
void clear_entry(struct table *t, unsigned int i);
void clear_table(struct table *t);
void zap_entry(struct table *t, unsigned int i);
void touch(struct table *t, unsigned long addr, u64 value);
void zap(struct table *t, unsigned long addr, unsigned long len);

/* Its count, its mode, its notes */
void expect_count(struct table *t, unsigned int entries, unsigned int holders);
void to_percpu_mode(struct table *t);
void to_atomic_mode(struct table *t);
unsigned long *note_marks(struct table *t);
void take_marks(struct table *t);
bool is_marked(struct table *t);
void expect_noted(struct table *t);

/* Around it */
int watch_start(struct ref_watch *w, const void *obj);
void watch_stop(struct ref_watch *w);
unsigned long vm_event(enum vm_event_item item);

static inline int watched(struct ref_watch *w)
{
	return atomic_read(&w->freed);
}

static inline unsigned long entry_addr(struct table *t, unsigned int i)
{
	return t->addr + i * PAGE_SIZE;
}

/* How many of so many entries map consecutive pages, if they are present. */
static inline unsigned int consecutive(unsigned int i, unsigned int nr)
{
	return min(nr, NR_PAGES - i % NR_PAGES);
}

static inline bool kind_is_present(enum entry_kind kind)
{
	return kind == PRESENT || kind == PROTNONE;
}

static inline struct pte_ref *hold_table(struct table *t)
{
	return pte_tryget(t->mm, t->pmd, t->addr);
}

/* As a zap does: look at the count first. */
static inline bool try_to_free(struct table *t)
{
	return try_to_free_user_pte(t->mm, t->pmd, t->addr);
}

/* Without a look. */
static inline bool free_table(struct table *t)
{
	return free_user_pte(t->mm, t->pmd, t->addr);
}

#endif /* _LIB_TESTS_PTE_REF_FIXTURE_H */
