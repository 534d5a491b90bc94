// SPDX-License-Identifier: GPL-2.0
/*
 * KUnit: random operations on a PTE table against a plain model of its count,
 * and threads that fault and zap at the same time.
 */
#include <linux/completion.h>
#include <linux/delay.h>
#include <linux/cpumask.h>
#include <linux/kthread.h>
#include <linux/mman.h>
#include <linux/prandom.h>
#include <linux/uaccess.h>

#include "fixture.h"

#define MODEL_OPS	3000
#define MODEL_HOLDERS	32
/* The last ones of the table; in all of a large one they would rarely meet. */
#define MODEL_ENTRIES	512

struct model {
	struct rnd_state	rnd;
	enum entry_kind		kind[PTRS_PER_PTE];
	unsigned int		entries;
	unsigned int		holders;
	bool			percpu;
	unsigned int		freed;
	unsigned int		refused;
};

static void model_check(struct table *t, struct model *m)
{
	KUNIT_EXPECT_EQ(t->test, pte_ref_is_percpu(t->ref), m->percpu);
	KUNIT_EXPECT_EQ(t->test, t->ptdesc->pte_populated, m->entries);
	if (!m->percpu)
		KUNIT_EXPECT_EQ(t->test, pte_ref_read(t->ptdesc),
				m->entries + m->holders);
}

static void model_fill(struct model *m, enum entry_kind kind, unsigned int i,
		       unsigned int nr)
{
	for (; nr; i++, nr--) {
		m->entries += !!kind - !!m->kind[i];
		m->kind[i] = kind;
	}
}

/* A run of entries from @i on that are all present, or all not. */
static unsigned int model_run(struct model *m, unsigned int i, unsigned int max,
			      bool present)
{
	unsigned int nr = 0;

	while (nr < max && i + nr < PTRS_PER_PTE &&
	       kind_is_present(m->kind[i + nr]) == present)
		nr++;
	return nr;
}

static void model_switched(struct table *t, struct model *m)
{
	rcu_barrier();
	KUNIT_EXPECT_TRUE(t->test, test_bit(PTE_REF_SWITCHED, &t->ref->state));
	m->percpu = false;
	model_check(t, m);
}

/* Free exactly if the model says zero. */
static void model_try_to_free(struct table *t, struct model *m)
{
	bool zero = !m->entries && !m->holders, freed;

	freed = try_to_free(t);
	if (m->percpu && !m->entries) {
		KUNIT_EXPECT_FALSE(t->test, freed);
		model_switched(t, m);
		freed = try_to_free(t);
	}
	KUNIT_EXPECT_EQ(t->test, freed, zero);
	KUNIT_EXPECT_EQ(t->test, is_linked(t), !zero);
	if (freed) {
		m->freed++;
		link_table(t);
	} else {
		m->refused++;
	}
}

static void model_drop(struct table *t, struct model *m)
{
	if (m->holders) {
		pte_put(t->ref);
		m->holders--;
	}
}

static void model_step(struct table *t, struct model *m)
{
	u32 r = prandom_u32_state(&m->rnd);
	unsigned int i = PTRS_PER_PTE - MODEL_ENTRIES + (r >> 8) % MODEL_ENTRIES;
	unsigned int nr = 1 + (r >> 20) % 64;
	enum entry_kind kind;
	enum entry_op op;

	nr = min(nr, PTRS_PER_PTE - i);
	switch (r % 32) {
	case 0 ... 5:
		kind = PRESENT + (r >> 17) % (NR_KINDS - PRESENT);
		/* arm64 breaks before it makes, and warns of who does not. */
		if (kind_is_present(kind) && kind_is_present(m->kind[i]))
			do_op(t, OP_GET_AND_CLEAR, i, 1);
		set_entry(t, kind, i);
		model_fill(m, kind, i, 1);
		break;
	case 6 ... 8:
		nr = model_run(m, i, nr, false);
		if (!nr)
			break;
		set_entries(t, PRESENT, i, nr);
		model_fill(m, PRESENT, i, nr);
		break;
	case 9 ... 11:
		op = OP_PTEP_CLEAR + (r >> 17) % 2;
		do_op(t, op, i, nr);
		model_fill(m, NONE, i, nr);
		break;
	case 12 ... 14:
		nr = model_run(m, i, nr, false);
		if (!nr)
			break;
		op = (r >> 17) % 2 ? OP_CLEAR_NONPRESENT : OP_PTE_CLEAR;
		do_op(t, op, i, nr);
		model_fill(m, NONE, i, nr);
		break;
	case 15 ... 17:
		nr = model_run(m, i, nr, true);
		if (!nr)
			break;
		do_op(t, r & BIT(17) ? OP_CLEAR : OP_GET_AND_CLEAR_BATCH, i, nr);
		model_fill(m, NONE, i, nr);
		break;
	case 18 ... 20:
		nr = model_run(m, i, nr, true);
		if (nr)
			do_op(t, OP_MODIFY_PROT + (r >> 17) % (NR_OPS - OP_MODIFY_PROT),
			      i, nr);
		break;
	case 21 ... 24:
		if (m->holders == MODEL_HOLDERS)
			break;
		/* Also at zero. */
		KUNIT_EXPECT_PTR_EQ(t->test, hold_table(t), t->ref);
		m->holders++;
		m->percpu = pte_ref_is_percpu(t->ref);
		break;
	case 25 ... 28:
		model_drop(t, m);
		break;
	case 29:
		model_try_to_free(t, m);
		break;
	case 30:
		if ((r >> 17) % 8 == 0 && !m->percpu)
			m->percpu = !pte_ref_to_percpu(t->ref, GFP_KERNEL);
		else if ((r >> 17) % 8 == 1 && pte_ref_start_switch(t->ref))
			model_switched(t, m);
		break;
	case 31:
		if ((r >> 17) % 4)
			break;
		/* To zero, with steps between. */
		do_op(t, OP_PTEP_CLEAR, 0, PTRS_PER_PTE);
		model_fill(m, NONE, 0, PTRS_PER_PTE);
		model_check(t, m);
		while (m->holders) {
			if (m->holders < 3)
				model_try_to_free(t, m);
			model_drop(t, m);
		}
		model_check(t, m);
		if (r & BIT(20))
			model_try_to_free(t, m);
		break;
	}
}

static void random_operations(struct kunit *test)
{
	u64 seed = *(const u64 *)test->param_value;
	struct table *t = test->priv;
	struct model *m;
	unsigned int i;

	m = kunit_kzalloc(test, sizeof(*m), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, m);
	prandom_seed_state(&m->rnd, seed);

	lock_table(t);
	for (i = 0; i < MODEL_OPS && test->status != KUNIT_FAILURE; i++) {
		model_step(t, m);
		model_check(t, m);
		if (!(i % 256))
			cond_resched();
	}
	if (test->status == KUNIT_FAILURE)
		kunit_err(test, "seed %llu, after %u operations", seed, i);

	clear_table(t);
	model_fill(m, NONE, 0, PTRS_PER_PTE);
	while (m->holders) {
		model_try_to_free(t, m);
		model_drop(t, m);
	}
	model_try_to_free(t, m);
	unlock_table(t);
	/* Enough of both has happened. */
	KUNIT_EXPECT_GT(test, m->freed, 3);
	KUNIT_EXPECT_GT(test, m->refused, 20);
}

static void seed_to_desc(const u64 *seed, char *desc)
{
	snprintf(desc, KUNIT_PARAM_DESC_SIZE, "seed %llu", *seed);
}

static const u64 seeds[] = { 1, 2, 3, 4, 5, 6 };

KUNIT_ARRAY_PARAM(seeds, seeds, seed_to_desc);

/* Threads that fault and zap pages of shared tables; each has its own pages. */
struct worker {
	struct table		*t;
	struct task_struct	*task;
	struct rnd_state	rnd;
	unsigned long		deferred;
	unsigned int		id;
	unsigned int		nr;
	unsigned long		rounds;
	unsigned long		failed;
	unsigned long		wrong;
	bool			freed;
	struct completion	done;
};

#define NR_ROUNDS	400
#define NR_LAST_ROUNDS	40
#define MAX_REST_MS	8000

static void worker_rounds(struct worker *w, unsigned int nr)
{
	struct mm_struct *mm = w->t->mm;

	while (nr--) {
		u32 r = prandom_u32_state(&w->rnd);
		unsigned long addr = w->t->addr + (r & 1) * PMD_SIZE +
				     ((r >> 1) % 4 * w->nr + w->id) * PAGE_SIZE;
		u64 value = r, seen = 0;

		if (copy_to_user((void __user *)addr, &value, sizeof(value)) ||
		    copy_from_user(&seen, (void __user *)addr, sizeof(seen)))
			w->failed++;
		else if (seen != value)
			w->wrong++;
		if (do_madvise(mm, addr, PAGE_SIZE, MADV_DONTNEED))
			w->failed++;
		if (r & 0x100) {
			/* What was zapped reads as zero. */
			if (copy_from_user(&seen, (void __user *)addr, sizeof(seen)))
				w->failed++;
			else if (seen)
				w->wrong++;
			if (do_madvise(mm, addr, PAGE_SIZE, MADV_DONTNEED))
				w->failed++;
		}
		w->rounds++;
		cond_resched();
	}
}

static int worker_fn(void *arg)
{
	struct worker *w = arg;
	unsigned int rest;

	kthread_use_mm(w->t->mm);
	prandom_seed_state(&w->rnd, w->id + 1);
	worker_rounds(w, NR_ROUNDS);
	/*
	 * All of that may be over before the deferred work has run, or the tables
	 * had pages whenever it did: rest longer and longer, until one was freed.
	 */
	for (rest = 1; !w->freed && rest <= MAX_REST_MS; rest *= 2) {
		msleep(rest);
		w->freed = vm_event(PTE_REF_FREE_DEFERRED) != w->deferred;
		worker_rounds(w, 1);
	}
	/* Make both again. */
	worker_rounds(w, NR_LAST_ROUNDS);
	kthread_unuse_mm(w->t->mm);
	complete(&w->done);
	return 0;
}

static void fault_and_zap(struct kunit *test)
{
	struct table *t = test->priv;
	unsigned long deferred = vm_event(PTE_REF_FREE_DEFERRED);
	unsigned long bytes = mm_pgtables_bytes(t->mm);
	unsigned int nr = 2 * num_online_cpus(), i;
	struct worker *workers;

	workers = kunit_kcalloc(test, nr, sizeof(*workers), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, workers);
	for (i = 0; i < nr; i++) {
		struct worker *w = &workers[i];

		w->t = t;
		w->deferred = deferred;
		w->id = i;
		w->nr = nr;
		init_completion(&w->done);
		w->task = kthread_run(worker_fn, w, "pte_ref_zap/%u", i);
		if (IS_ERR(w->task)) {
			KUNIT_FAIL(test, "no thread");
			w->task = NULL;
		}
	}
	for (i = 0; i < nr; i++) {
		struct worker *w = &workers[i];

		if (!w->task)
			continue;
		wait_for_completion(&w->done);
		KUNIT_EXPECT_GT(test, w->rounds, NR_ROUNDS + NR_LAST_ROUNDS);
		KUNIT_EXPECT_TRUE_MSG(test, w->freed, "no table while it worked");
		KUNIT_EXPECT_EQ(test, w->failed, 0);
		KUNIT_EXPECT_EQ(test, w->wrong, 0);
	}
	pte_ref_flush(t->mm);
	/* Those two, and the one while the workers worked. */
	KUNIT_EXPECT_GE(test, vm_event(PTE_REF_FREE_DEFERRED), deferred + 3);
	KUNIT_EXPECT_EQ(test, mm_pgtables_bytes(t->mm), bytes - PAGE_SIZE);
}

static struct kunit_case pte_ref_model_cases[] = {
	KUNIT_CASE_PARAM(random_operations, seeds_gen_params),
	KUNIT_CASE_SLOW(fault_and_zap),
	{}
};

static struct kunit_suite pte_ref_model_suite = {
	.name = "pte_ref_model",
	.init = pte_ref_test_init,
	.exit = pte_ref_test_exit,
	.test_cases = pte_ref_model_cases,
};

kunit_test_suite(pte_ref_model_suite);
