// SPDX-License-Identifier: GPL-2.0
/*
 * Tests of percpu_ref: those that start without percpu counters
 * (percpu_ref_init_embedded()), and that an ordinary ref is what it was.
 */
#include <kunit/test.h>
#include <linux/completion.h>
#include <linux/cpumask.h>
#include <linux/delay.h>
#include <linux/kthread.h>
#include <linux/mm.h>
#include <linux/percpu-refcount.h>
#include <linux/rcupdate.h>
#include <linux/sched/task.h>
#include <linux/slab.h>

struct obj {
	struct percpu_ref	ref;
	struct percpu_ref_data	data;
	atomic_t		released;
	atomic_t		confirmed;
	/* What confirm_switch() and release() saw. */
	long			count;
	bool			atomic;
	bool			confirmed_first;
	struct completion	*freed;
	struct rcu_head		rcu;
};

static struct obj *to_obj(struct percpu_ref *ref)
{
	return container_of(ref, struct obj, ref);
}

static void obj_release(struct percpu_ref *ref)
{
	struct obj *o = to_obj(ref);

	if (atomic_inc_return(&o->released) == 1)
		o->confirmed_first = atomic_read(&o->confirmed);
}

static bool obj_is_percpu(struct obj *o)
{
	return !(READ_ONCE(o->ref.percpu_count_ptr) & __PERCPU_REF_ATOMIC_DEAD);
}

static long obj_count(struct obj *o)
{
	return atomic_long_read(&o->ref.data->count);
}

static void obj_confirm(struct percpu_ref *ref)
{
	struct obj *o = to_obj(ref);

	o->count = obj_count(o);
	o->atomic = !obj_is_percpu(o);
	atomic_inc(&o->confirmed);
}

static struct obj *new_obj(struct kunit *test)
{
	struct obj *o = kunit_kzalloc(test, sizeof(*o), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, o);
	percpu_ref_init_embedded(&o->ref, &o->data, obj_release);
	return o;
}

static struct obj *new_percpu_obj(struct kunit *test)
{
	struct obj *o = new_obj(test);

	KUNIT_ASSERT_EQ(test, percpu_ref_attach_counters(&o->ref, GFP_KERNEL), 0);
	KUNIT_ASSERT_TRUE(test, obj_is_percpu(o));
	return o;
}

static void starts_at_zero(struct kunit *test)
{
	struct obj *o = new_obj(test);

	KUNIT_EXPECT_FALSE(test, obj_is_percpu(o));
	KUNIT_EXPECT_EQ(test, obj_count(o), 0);
	KUNIT_EXPECT_TRUE(test, percpu_ref_is_zero(&o->ref));
	KUNIT_EXPECT_FALSE(test, percpu_ref_is_dying(&o->ref));
	KUNIT_EXPECT_EQ(test, atomic_read(&o->released), 0);
}

static void tryget_fails_at_zero(struct kunit *test)
{
	struct obj *o = new_obj(test);

	KUNIT_EXPECT_FALSE(test, percpu_ref_tryget(&o->ref));
	KUNIT_EXPECT_FALSE(test, percpu_ref_tryget_many(&o->ref, 3));
	KUNIT_EXPECT_EQ(test, obj_count(o), 0);

	percpu_ref_get(&o->ref);
	KUNIT_EXPECT_TRUE(test, percpu_ref_tryget(&o->ref));
	KUNIT_EXPECT_TRUE(test, percpu_ref_tryget_many(&o->ref, 3));
	KUNIT_EXPECT_EQ(test, obj_count(o), 5);
	percpu_ref_put_many(&o->ref, 5);

	KUNIT_EXPECT_FALSE(test, percpu_ref_tryget(&o->ref));
	KUNIT_EXPECT_EQ(test, obj_count(o), 0);
}

static void released_at_each_zero(struct kunit *test)
{
	struct obj *o = new_obj(test);
	int i;

	for (i = 1; i <= 3; i++) {
		percpu_ref_get(&o->ref);
		percpu_ref_get(&o->ref);
		percpu_ref_put(&o->ref);
		KUNIT_EXPECT_EQ(test, atomic_read(&o->released), i - 1);
		percpu_ref_put(&o->ref);
		KUNIT_EXPECT_EQ(test, atomic_read(&o->released), i);
		KUNIT_EXPECT_EQ(test, obj_count(o), 0);
	}
	percpu_ref_get_many(&o->ref, 7);
	percpu_ref_put_many(&o->ref, 7);
	KUNIT_EXPECT_EQ(test, atomic_read(&o->released), i);
}

static void attached_once(struct kunit *test)
{
	struct obj *o = new_obj(test);
	unsigned long counters;

	KUNIT_EXPECT_EQ(test, percpu_ref_attach_counters(&o->ref, GFP_KERNEL), 0);
	KUNIT_EXPECT_TRUE(test, obj_is_percpu(o));
	counters = o->ref.percpu_count_ptr;

	KUNIT_EXPECT_EQ(test, percpu_ref_attach_counters(&o->ref, GFP_KERNEL), -EBUSY);
	KUNIT_EXPECT_EQ(test, percpu_ref_attach_counters(&o->ref, GFP_NOWAIT), -EBUSY);
	KUNIT_EXPECT_EQ(test, o->ref.percpu_count_ptr, counters);

	percpu_ref_switch_to_atomic_sync(&o->ref);
	KUNIT_EXPECT_EQ(test, obj_count(o), 0);
}

static void attach_keeps_the_count(struct kunit *test)
{
	struct obj *o = new_obj(test);

	percpu_ref_get_many(&o->ref, 3);
	KUNIT_ASSERT_EQ(test, percpu_ref_attach_counters(&o->ref, GFP_KERNEL), 0);
	percpu_ref_put_many(&o->ref, 2);
	KUNIT_EXPECT_TRUE(test, percpu_ref_tryget(&o->ref));

	percpu_ref_switch_to_atomic_sync(&o->ref);
	KUNIT_EXPECT_FALSE(test, obj_is_percpu(o));
	KUNIT_EXPECT_EQ(test, obj_count(o), 2);
	KUNIT_EXPECT_EQ(test, atomic_read(&o->released), 0);
	percpu_ref_put_many(&o->ref, 2);
	KUNIT_EXPECT_EQ(test, atomic_read(&o->released), 1);
}

static void percpu_mode_hides_zero(struct kunit *test)
{
	struct obj *o = new_obj(test);

	percpu_ref_get(&o->ref);
	KUNIT_ASSERT_EQ(test, percpu_ref_attach_counters(&o->ref, GFP_KERNEL), 0);
	percpu_ref_put(&o->ref);
	KUNIT_EXPECT_EQ(test, atomic_read(&o->released), 0);
	KUNIT_EXPECT_FALSE(test, percpu_ref_is_zero(&o->ref));
	KUNIT_EXPECT_TRUE(test, percpu_ref_tryget(&o->ref));
	percpu_ref_put(&o->ref);

	percpu_ref_switch_to_atomic_sync(&o->ref);
	KUNIT_EXPECT_TRUE(test, percpu_ref_is_zero(&o->ref));
	KUNIT_EXPECT_FALSE(test, percpu_ref_tryget(&o->ref));
	/* The end of a switch is told to confirm_switch() alone. */
	KUNIT_EXPECT_EQ(test, atomic_read(&o->released), 0);
}

static void exact_at_confirm(struct kunit *test)
{
	unsigned long held;
	struct obj *o;

	for (held = 0; held < 3; held++) {
		o = new_percpu_obj(test);
		percpu_ref_get_many(&o->ref, held + 1);
		percpu_ref_put(&o->ref);
		/* Holds off the grace period, so that it is seen to be waited for. */
		rcu_read_lock();
		percpu_ref_switch_to_atomic(&o->ref, obj_confirm);
		KUNIT_EXPECT_EQ(test, atomic_read(&o->confirmed), 0);
		KUNIT_EXPECT_FALSE(test, obj_is_percpu(o));
		rcu_read_unlock();
		rcu_barrier();

		KUNIT_EXPECT_EQ(test, atomic_read(&o->confirmed), 1);
		KUNIT_EXPECT_TRUE(test, o->atomic);
		KUNIT_EXPECT_EQ(test, o->count, held);
		KUNIT_EXPECT_EQ(test, obj_count(o), held);
		KUNIT_EXPECT_EQ(test, atomic_read(&o->released), 0);
	}
}

static void exact_after_sync(struct kunit *test)
{
	struct obj *o = new_percpu_obj(test);
	int i;

	percpu_ref_get_many(&o->ref, 5);
	percpu_ref_switch_to_atomic_sync(&o->ref);
	KUNIT_EXPECT_EQ(test, obj_count(o), 5);
	for (i = 0; i < 4; i++)
		percpu_ref_put(&o->ref);
	KUNIT_EXPECT_EQ(test, atomic_read(&o->released), 0);
	percpu_ref_put(&o->ref);
	KUNIT_EXPECT_EQ(test, atomic_read(&o->released), 1);

	/* Again is a no-op. */
	percpu_ref_switch_to_atomic_sync(&o->ref);
	KUNIT_EXPECT_EQ(test, obj_count(o), 0);
	KUNIT_EXPECT_EQ(test, atomic_read(&o->released), 1);
}

static void puts_during_switch(struct kunit *test)
{
	struct obj *o = new_percpu_obj(test);

	percpu_ref_get_many(&o->ref, 2);
	rcu_read_lock();
	percpu_ref_switch_to_atomic(&o->ref, obj_confirm);
	percpu_ref_put(&o->ref);
	percpu_ref_get(&o->ref);
	percpu_ref_put_many(&o->ref, 2);
	/* The bias keeps the count off zero until it is complete. */
	KUNIT_EXPECT_FALSE(test, percpu_ref_is_zero(&o->ref));
	KUNIT_EXPECT_EQ(test, atomic_read(&o->released), 0);
	rcu_read_unlock();
	rcu_barrier();

	KUNIT_EXPECT_EQ(test, atomic_read(&o->confirmed), 1);
	KUNIT_EXPECT_EQ(test, o->count, 0);
	KUNIT_EXPECT_EQ(test, atomic_read(&o->released), 0);
}

static void confirmed_at_once_without_counters(struct kunit *test)
{
	struct obj *o = new_obj(test);

	percpu_ref_get(&o->ref);
	percpu_ref_switch_to_atomic(&o->ref, obj_confirm);
	KUNIT_EXPECT_EQ(test, atomic_read(&o->confirmed), 1);
	KUNIT_EXPECT_EQ(test, o->count, 1);
	percpu_ref_put(&o->ref);
	KUNIT_EXPECT_EQ(test, atomic_read(&o->released), 1);
}

static void attach_refused_after_switch(struct kunit *test)
{
	struct obj *o = new_obj(test);

	/* Nothing to switch, but the decision stands. */
	percpu_ref_switch_to_atomic(&o->ref, NULL);
	KUNIT_EXPECT_EQ(test, percpu_ref_attach_counters(&o->ref, GFP_KERNEL), -EBUSY);
	KUNIT_EXPECT_FALSE(test, obj_is_percpu(o));

	o = new_percpu_obj(test);
	rcu_read_lock();
	percpu_ref_switch_to_atomic(&o->ref, obj_confirm);
	KUNIT_EXPECT_EQ(test, percpu_ref_attach_counters(&o->ref, GFP_NOWAIT), -EBUSY);
	rcu_read_unlock();
	rcu_barrier();
	KUNIT_EXPECT_EQ(test, percpu_ref_attach_counters(&o->ref, GFP_KERNEL), -EBUSY);
	KUNIT_EXPECT_EQ(test, o->ref.percpu_count_ptr, __PERCPU_REF_ATOMIC);
	KUNIT_EXPECT_EQ(test, atomic_read(&o->confirmed), 1);
	KUNIT_EXPECT_EQ(test, obj_count(o), 0);
}

static void second_switch_waits(struct kunit *test)
{
	struct obj *o = new_percpu_obj(test);

	percpu_ref_get(&o->ref);
	percpu_ref_switch_to_atomic(&o->ref, obj_confirm);
	percpu_ref_switch_to_atomic_sync(&o->ref);
	KUNIT_EXPECT_FALSE(test, obj_is_percpu(o));
	KUNIT_EXPECT_EQ(test, obj_count(o), 1);
	rcu_barrier();
	KUNIT_EXPECT_EQ(test, atomic_read(&o->confirmed), 1);
	percpu_ref_put(&o->ref);
	KUNIT_EXPECT_EQ(test, atomic_read(&o->released), 1);
}

static void obj_free_rcu(struct rcu_head *rcu)
{
	struct obj *o = container_of(rcu, struct obj, rcu);
	struct completion *freed = o->freed;

	memset(o, POISON_FREE, sizeof(*o));
	kfree(o);
	complete(freed);
}

static void obj_confirm_frees(struct percpu_ref *ref)
{
	call_rcu(&to_obj(ref)->rcu, obj_free_rcu);
}

/* Confirmation is the last step: the owner may let go of the memory in it. */
static void confirm_may_free(struct kunit *test)
{
	DECLARE_COMPLETION_ONSTACK(freed);
	struct obj *o = kzalloc(sizeof(*o), GFP_KERNEL);
	int ret;

	KUNIT_ASSERT_NOT_NULL(test, o);
	percpu_ref_init_embedded(&o->ref, &o->data, obj_release);
	o->freed = &freed;
	ret = percpu_ref_attach_counters(&o->ref, GFP_KERNEL);
	KUNIT_EXPECT_EQ(test, ret, 0);
	percpu_ref_switch_to_atomic(&o->ref, obj_confirm_frees);
	KUNIT_EXPECT_NE(test, wait_for_completion_timeout(&freed, 10 * HZ), 0);
}

#define NR_FILL		65536

/* Takes all percpu memory that can be had without waiting. */
static unsigned int exhaust_percpu(void __percpu **fill, unsigned int nr)
{
	size_t size;

	for (size = PAGE_SIZE; size >= sizeof(unsigned long); size /= 2) {
		while (nr < NR_FILL) {
			fill[nr] = __alloc_percpu_gfp(size, sizeof(unsigned long),
						      GFP_NOWAIT | __GFP_NOWARN);
			if (!fill[nr])
				break;
			nr++;
		}
	}
	return nr;
}

static void attach_without_memory(struct kunit *test)
{
	void __percpu **fill;
	unsigned int nr = 0, try;
	int ret = 0;
	struct obj *o = NULL;

	fill = kvcalloc(NR_FILL, sizeof(*fill), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, fill);
	/*
	 * A work adds memory when there is little, mostly on the CPU that asked
	 * for it, so not before that can be preempted.  More than one try, for
	 * another CPU may have asked, and with PREEMPT_RT the allocator's lock
	 * sleeps.
	 */
	for (try = 0; try < 100 && !ret; try++) {
		o = kunit_kzalloc(test, sizeof(*o), GFP_KERNEL);
		if (!o)
			break;
		percpu_ref_init_embedded(&o->ref, &o->data, obj_release);
		percpu_ref_get(&o->ref);
		if (!IS_ENABLED(CONFIG_PREEMPT_RT))
			preempt_disable();
		nr = exhaust_percpu(fill, nr);
		ret = percpu_ref_attach_counters(&o->ref, GFP_NOWAIT | __GFP_NOWARN);
		if (!IS_ENABLED(CONFIG_PREEMPT_RT))
			preempt_enable();
		if (!ret)
			percpu_ref_switch_to_atomic_sync(&o->ref);
	}
	while (nr)
		free_percpu(fill[--nr]);
	kvfree(fill);

	KUNIT_EXPECT_EQ(test, ret, -ENOMEM);
	KUNIT_ASSERT_NOT_NULL(test, o);
	KUNIT_EXPECT_FALSE(test, obj_is_percpu(o));
	KUNIT_EXPECT_EQ(test, obj_count(o), 1);

	/* It was as if nothing had been tried. */
	KUNIT_EXPECT_EQ(test, percpu_ref_attach_counters(&o->ref, GFP_KERNEL), 0);
	percpu_ref_switch_to_atomic_sync(&o->ref);
	KUNIT_EXPECT_EQ(test, obj_count(o), 1);
	percpu_ref_put(&o->ref);
	KUNIT_EXPECT_EQ(test, atomic_read(&o->released), 1);
}

/* References go from one CPU to another: taken here, dropped there. */
struct hammer {
	struct percpu_ref	*ref;
	atomic_t		*held;
	struct task_struct	*task;
	unsigned long		done;
};

static int hammer_fn(void *arg)
{
	struct hammer *h = arg;

	while (!kthread_should_stop()) {
		int i;

		for (i = 0; i < 64; i++) {
			if ((h->done ^ i) & 1) {
				if (percpu_ref_tryget(h->ref))
					atomic_inc(h->held);
			} else if (atomic_dec_if_positive(h->held) >= 0) {
				percpu_ref_put(h->ref);
			}
		}
		WRITE_ONCE(h->done, h->done + 1);
		cond_resched();
	}
	return 0;
}

static struct hammer *start_hammers(struct kunit *test, struct percpu_ref *ref,
				    atomic_t *held)
{
	struct hammer *hammers;
	int cpu;

	hammers = kunit_kcalloc(test, nr_cpu_ids, sizeof(*hammers), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, hammers);
	for_each_online_cpu(cpu) {
		struct hammer *h = &hammers[cpu];

		h->ref = ref;
		h->held = held;
		h->task = kthread_create(hammer_fn, h, "percpu_ref/%d", cpu);
		if (IS_ERR(h->task)) {
			KUNIT_FAIL(test, "no thread for CPU %d", cpu);
			h->task = NULL;
			continue;
		}
		kthread_bind(h->task, cpu);
		wake_up_process(h->task);
	}
	return hammers;
}

/* Waits until each thread went on by so many rounds. */
static void let_hammers_run(struct kunit *test, struct hammer *hammers,
			    unsigned long rounds)
{
	unsigned long end = jiffies + 20 * HZ;
	int cpu;

	for_each_online_cpu(cpu) {
		unsigned long done = READ_ONCE(hammers[cpu].done) + rounds;

		while (hammers[cpu].task && READ_ONCE(hammers[cpu].done) < done &&
		       time_before(jiffies, end))
			usleep_range(50, 200);
		KUNIT_EXPECT_GE(test, READ_ONCE(hammers[cpu].done), done);
	}
}

static void stop_hammers(struct hammer *hammers)
{
	int cpu;

	for_each_online_cpu(cpu)
		if (hammers[cpu].task)
			kthread_stop(hammers[cpu].task);
}

static void attach_and_switch_under_load(struct kunit *test)
{
	struct hammer *hammers;
	struct obj *o;
	atomic_t held;
	int i;

	if (num_online_cpus() < 2)
		kunit_skip(test, "needs two CPUs, one is online");

	for (i = 0; i < 5; i++) {
		o = new_obj(test);
		atomic_set(&held, 0);
		percpu_ref_get(&o->ref);
		hammers = start_hammers(test, &o->ref, &held);
		let_hammers_run(test, hammers, 5);
		KUNIT_EXPECT_EQ(test, percpu_ref_attach_counters(&o->ref, GFP_KERNEL), 0);
		let_hammers_run(test, hammers, 5);
		percpu_ref_switch_to_atomic(&o->ref, obj_confirm);
		let_hammers_run(test, hammers, 5);
		percpu_ref_switch_to_atomic_sync(&o->ref);
		let_hammers_run(test, hammers, 5);
		stop_hammers(hammers);
		rcu_barrier();

		KUNIT_EXPECT_EQ(test, atomic_read(&o->confirmed), 1);
		KUNIT_EXPECT_TRUE(test, o->atomic);
		KUNIT_EXPECT_EQ(test, obj_count(o), 1 + atomic_read(&held));
		KUNIT_EXPECT_EQ(test, atomic_read(&o->released), 0);
		percpu_ref_put_many(&o->ref, 1 + atomic_read(&held));
		KUNIT_EXPECT_EQ(test, obj_count(o), 0);
		KUNIT_EXPECT_EQ(test, atomic_read(&o->released), 1);
	}
}

struct attacher {
	struct obj		*o;
	struct completion	done;
	int			ret;
};

static int attach_fn(void *arg)
{
	struct attacher *a = arg;

	a->ret = percpu_ref_attach_counters(&a->o->ref, GFP_KERNEL);
	complete(&a->done);
	return 0;
}

/* Of many that attach at the same time one does it. */
static void attach_races(struct kunit *test)
{
	struct attacher *attachers;
	int i, cpu;

	if (num_online_cpus() < 2)
		kunit_skip(test, "needs two CPUs, one is online");

	attachers = kunit_kcalloc(test, nr_cpu_ids, sizeof(*attachers), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, attachers);
	for (i = 0; i < 10; i++) {
		struct obj *o = new_obj(test);
		int attached = 0, refused = 0;

		percpu_ref_get(&o->ref);
		for_each_online_cpu(cpu) {
			struct attacher *a = &attachers[cpu];
			struct task_struct *task;

			a->o = o;
			init_completion(&a->done);
			task = kthread_create(attach_fn, a, "attach/%d", cpu);
			if (IS_ERR(task)) {
				a->ret = PTR_ERR(task);
				complete(&a->done);
				continue;
			}
			kthread_bind(task, cpu);
			wake_up_process(task);
		}
		for_each_online_cpu(cpu) {
			wait_for_completion(&attachers[cpu].done);
			attached += !attachers[cpu].ret;
			refused += attachers[cpu].ret == -EBUSY;
		}
		KUNIT_EXPECT_EQ(test, attached, 1);
		KUNIT_EXPECT_EQ(test, refused, num_online_cpus() - 1);
		percpu_ref_switch_to_atomic_sync(&o->ref);
		KUNIT_EXPECT_EQ(test, obj_count(o), 1);
	}
}

/* percpu_ref_init() */

static struct obj *new_ordinary(struct kunit *test, unsigned int flags)
{
	struct obj *o = kunit_kzalloc(test, sizeof(*o), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, o);
	KUNIT_ASSERT_EQ(test, percpu_ref_init(&o->ref, obj_release, flags,
					      GFP_KERNEL), 0);
	return o;
}

static void ordinary_kill(struct kunit *test)
{
	struct obj *o = new_ordinary(test, 0);

	KUNIT_EXPECT_TRUE(test, obj_is_percpu(o));
	KUNIT_EXPECT_TRUE(test, percpu_ref_tryget_live(&o->ref));
	rcu_read_lock();
	percpu_ref_kill_and_confirm(&o->ref, obj_confirm);
	KUNIT_EXPECT_TRUE(test, percpu_ref_is_dying(&o->ref));
	KUNIT_EXPECT_FALSE(test, percpu_ref_tryget_live(&o->ref));
	KUNIT_EXPECT_EQ(test, atomic_read(&o->confirmed), 0);
	rcu_read_unlock();
	rcu_barrier();

	KUNIT_EXPECT_EQ(test, atomic_read(&o->confirmed), 1);
	KUNIT_EXPECT_EQ(test, atomic_read(&o->released), 0);
	KUNIT_EXPECT_FALSE(test, percpu_ref_is_zero(&o->ref));
	percpu_ref_put(&o->ref);
	KUNIT_EXPECT_EQ(test, atomic_read(&o->released), 1);
	KUNIT_EXPECT_TRUE(test, percpu_ref_is_zero(&o->ref));
	percpu_ref_exit(&o->ref);
	KUNIT_EXPECT_TRUE(test, percpu_ref_is_zero(&o->ref));
}

/* Without other users it is the end of the switch that releases. */
static void ordinary_confirm_then_release(struct kunit *test)
{
	struct obj *o = new_ordinary(test, 0);

	percpu_ref_kill_and_confirm(&o->ref, obj_confirm);
	rcu_barrier();
	KUNIT_EXPECT_EQ(test, atomic_read(&o->confirmed), 1);
	/* The switch still had a count of its own. */
	KUNIT_EXPECT_EQ(test, o->count, 1);
	KUNIT_EXPECT_EQ(test, atomic_read(&o->released), 1);
	KUNIT_EXPECT_TRUE(test, o->confirmed_first);
	percpu_ref_exit(&o->ref);
}

static void ordinary_reinit(struct kunit *test)
{
	struct obj *o = new_ordinary(test, PERCPU_REF_ALLOW_REINIT);

	percpu_ref_kill(&o->ref);
	rcu_barrier();
	KUNIT_EXPECT_EQ(test, atomic_read(&o->released), 1);
	KUNIT_EXPECT_TRUE(test, percpu_ref_is_zero(&o->ref));

	percpu_ref_reinit(&o->ref);
	KUNIT_EXPECT_TRUE(test, obj_is_percpu(o));
	KUNIT_EXPECT_TRUE(test, percpu_ref_tryget_live(&o->ref));
	percpu_ref_put(&o->ref);

	percpu_ref_switch_to_atomic_sync(&o->ref);
	KUNIT_EXPECT_FALSE(test, obj_is_percpu(o));
	percpu_ref_switch_to_percpu(&o->ref);
	KUNIT_EXPECT_TRUE(test, obj_is_percpu(o));

	percpu_ref_kill(&o->ref);
	rcu_barrier();
	KUNIT_EXPECT_EQ(test, atomic_read(&o->released), 2);
	percpu_ref_exit(&o->ref);
}

static void ordinary_starts_atomic(struct kunit *test)
{
	struct obj *o = new_ordinary(test, PERCPU_REF_INIT_ATOMIC);

	KUNIT_EXPECT_FALSE(test, obj_is_percpu(o));
	KUNIT_EXPECT_EQ(test, obj_count(o), 1);
	percpu_ref_switch_to_percpu(&o->ref);
	KUNIT_EXPECT_TRUE(test, obj_is_percpu(o));
	percpu_ref_kill(&o->ref);
	rcu_barrier();
	KUNIT_EXPECT_EQ(test, atomic_read(&o->released), 1);
	percpu_ref_exit(&o->ref);
}

static void ordinary_under_load(struct kunit *test)
{
	struct hammer *hammers;
	struct obj *o;
	atomic_t held;

	if (num_online_cpus() < 2)
		kunit_skip(test, "needs two CPUs, one is online");

	o = new_ordinary(test, 0);
	atomic_set(&held, 0);
	percpu_ref_get(&o->ref);
	hammers = start_hammers(test, &o->ref, &held);
	let_hammers_run(test, hammers, 5);
	percpu_ref_kill_and_confirm(&o->ref, obj_confirm);
	let_hammers_run(test, hammers, 5);
	rcu_barrier();
	let_hammers_run(test, hammers, 5);
	stop_hammers(hammers);

	KUNIT_EXPECT_EQ(test, atomic_read(&o->confirmed), 1);
	KUNIT_EXPECT_EQ(test, obj_count(o), 1 + atomic_read(&held));
	KUNIT_EXPECT_EQ(test, atomic_read(&o->released), 0);
	percpu_ref_put_many(&o->ref, 1 + atomic_read(&held));
	KUNIT_EXPECT_EQ(test, atomic_read(&o->released), 1);
	percpu_ref_exit(&o->ref);
}

/* RCU callbacks that still know the objects of a test go before them. */
static void percpu_ref_test_exit(struct kunit *test)
{
	rcu_barrier();
}

static struct kunit_case percpu_ref_test_cases[] = {
	KUNIT_CASE(starts_at_zero),
	KUNIT_CASE(tryget_fails_at_zero),
	KUNIT_CASE(released_at_each_zero),
	KUNIT_CASE(attached_once),
	KUNIT_CASE(attach_keeps_the_count),
	KUNIT_CASE(percpu_mode_hides_zero),
	KUNIT_CASE(exact_at_confirm),
	KUNIT_CASE(exact_after_sync),
	KUNIT_CASE(puts_during_switch),
	KUNIT_CASE(confirmed_at_once_without_counters),
	KUNIT_CASE(attach_refused_after_switch),
	KUNIT_CASE(second_switch_waits),
	KUNIT_CASE(confirm_may_free),
	KUNIT_CASE(attach_without_memory),
	KUNIT_CASE_SLOW(attach_and_switch_under_load),
	KUNIT_CASE(attach_races),
	KUNIT_CASE(ordinary_kill),
	KUNIT_CASE(ordinary_confirm_then_release),
	KUNIT_CASE(ordinary_reinit),
	KUNIT_CASE(ordinary_starts_atomic),
	KUNIT_CASE(ordinary_under_load),
	{}
};

static struct kunit_suite percpu_ref_test_suite = {
	.name = "percpu_ref",
	.exit = percpu_ref_test_exit,
	.test_cases = percpu_ref_test_cases,
};

kunit_test_suite(percpu_ref_test_suite);

MODULE_DESCRIPTION("KUnit tests of percpu_ref");
MODULE_LICENSE("GPL");
