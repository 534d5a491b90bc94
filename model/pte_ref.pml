/* SPDX-License-Identifier: GPL-2.0 */
/*
 * pte_ref: a model for spin of mm/pte_ref.c, mm/pte_ref_deferred.c and
 * mm/pte_ref_percpu.c, as they are.  scripts/model.sh checks it.
 *
 * One mm, one PMD entry, up to two tables one after the other, up to two refs.
 * A table has one entry, populated or not.  A process is a task of the mm, or
 * what comes without one: rmap, truncate, the deferred work, callbacks of RCU.
 * Each is named after the function it stands for.  No process but the deferred
 * work and RCU repeats what it does, so all that can happen in a run is looked
 * at.
 *
 * A step is what a CPU or a lock makes atomic: a load, a store, an atomic
 * operation, or what is only visible to those who have the lock.  A step that
 * drops a lock may also do what went before it under that lock, if nobody looks
 * at that without the lock.
 *
 * Weak order.  The store of a count waits in a store buffer: who has the PTL
 * reads pop[], others read vis[], which follows at any time, at the latest at a
 * full barrier or when the PTL is dropped (store(), MB()).  After a zap the loads
 * of pte_ref_looks_free() may come before the unlock (looks_free_early()).  Of
 * each other pair of loads or stores that a barrier keeps in order a variant has
 * the wrong order.
 *
 * RCU.  A callback waits for the read sections that there were at call_rcu().
 * Who has the PTL is in one.
 *
 * What must hold:
 *
 *	count		free_user_ptes() unlinks no table that has an entry, a zap,
 *			a pin or a holder; what a holder holds stays linked until
 *			its put, unless free_pgtables() or a collapse takes it
 *	table		no table is used when it is freed, nor freed twice, nor is
 *			an entry written to one that is unlinked
 *	ref		no ref is used when it is freed; each is freed once, if its
 *			table is; its counts are never negative; no percpu counter
 *			is used that is not there
 *	mm		nobody uses an mm that is gone: the deferred work, a note
 *	end		when nothing is left to do, no table of a live mm is empty
 *	live		an empty table of a live mm is freed in the end, or is not
 *			empty any more: also if a lock is always busy, and whatever
 *			the deferred work does meanwhile (weak fairness)
 *
 * The first five are assertions, must(), those of "end" in final().  The last is the
 * ltl formula at the end, for runs that are "live".
 *
 * Not here: the flush of the TLB; what a walker that lost its table answers (see
 * Documentation/mm/pte_ref.rst); several tables at once, and so batches, groups,
 * where a round of the deferred work stops for other mms and goes on; PMD and
 * PUD tables that are freed; tables that move (mremap, so ref->addr), fork,
 * deposited tables; small pages and struct pte_notes; pte_ref_may_free(); memory
 * that is short, but for the ref of a holder and percpu counters; a PTL that is
 * the PMD lock; when holders get percpu counters (here: at any pte_tryget());
 * more than PTE_REF_WAITERS works that wait for a lock; workqueues and
 * percpu_ref beyond what is used of them.  To have fewer states pte_ref_note()
 * and the take of its marks are one step in runs with NOTE_STEP.
 *
 * Runs, and whether the assertions are checked ("safe") or the formula as well:
 *
 *	RUN_zap		safe	fault, zap of the table, rmap and GUP-fast beside each other
 *	RUN_note	safe	a table that was noted before is populated and emptied
 *	RUN_hold	safe	a table gets its ref, beside a zap and rmap
 *	RUN_pin		safe	hugetlb has a pointer into a table that others empty
 *	RUN_percpu	live	a holder moves the ref to percpu mode, rmap empties the table
 *	RUN_percpu_zap	safe	the same with a zap
 *	RUN_percpu_two	safe	two holders
 *	RUN_percpu_touch safe	a table that was empty is populated and emptied meanwhile
 *	RUN_switch	safe	a switch to atomic mode ends while entries come and go
 *	RUN_munmap	safe	munmap takes the table from a holder, beside a truncate
 *	RUN_retract	safe	retract_page_tables() does, while it moves to percpu mode
 *	RUN_exit	safe	exit, beside rmap
 *	RUN_busy	live	the VMA is locked for write again and again
 *
 * Broken variants.  Each takes one argument of the code away, and is caught in
 * the run that is named, since it violates what stands above it:
 *
 *	count
 *	BREAK_RECHECK	zap	free_user_ptes() does not read the count under the locks
 *	BREAK_RAISE	percpu	pte_tryget() raises the count from zero without a lock
 *	BREAK_INSTALL_PML hold	pte_ref_install() raises it without the PMD lock
 *	BREAK_PIN	pin	pte_alloc_pinned() does not pin
 *	table
 *	BREAK_LINKED	zap	free_user_ptes() does not read the PMD entry again
 *	BREAK_PMD_SAME	zap	nor does who has waited for the PTL
 *	BREAK_TABLE_RCU	zap	a table is freed without a grace period
 *	BREAK_WHO	munmap	who zaps a VMA that is detached frees tables as well
 *	BREAK_WORK_VMA	munmap	the deferred work locks no VMA
 *	ref
 *	BREAK_POPULATED	hold	the first entry takes no reference
 *	BREAK_FREE_REF	munmap	a ref is freed with its table
 *	BREAK_FREE_GET	munmap	the destructor has no reference of its own
 *	BREAK_FREE_POPULATED exit and leaves that of the entries
 *	BREAK_RELEASE_ALIVE hold pte_ref_release() takes zero for the end
 *	BREAK_RELEASE_COUNT munmap it does not read the count again
 *	BREAK_RELEASE_ONCE munmap nor PTE_REF_RETIRED
 *	BREAK_RELEASE_RCU munmap the object is freed without a grace period
 *	BREAK_PERCPU_DEAD retract pte_ref_to_percpu() does not look at PTE_REF_DEAD
 *	BREAK_END_MB	retract	pte_ref_end_percpu() without its barrier
 *	BREAK_CONFIRM_DEAD retract the end of a switch does not look for zero
 *	mm
 *	BREAK_EXIT_WAIT	exit	exit does not wait for the deferred work that runs
 *	BREAK_EXIT_DISABLE exit	nor keeps it from being queued
 *	BREAK_NOTE_EXIT	exit	pte_ref_note() does not look at MM_PTE_REF_EXIT
 *	end
 *	BREAK_NOTE	note	nothing is noted
 *	BREAK_NOTE_MB	note	pte_ref_note() without its barrier
 *	BREAK_NOTE_ORDER note	marks the PUD table first
 *	BREAK_NOTE_EMPTY zap	a fault that fails notes nothing
 *	BREAK_EMPTIED_BARE zap	nor does the last entry of a table without a ref
 *	BREAK_TAKE	note	the mark is taken when the tables were looked at
 *	BREAK_WORK_NOTED note	MM_PTE_REF_NOTED is cleared at the end of the round
 *	BREAK_WORK_MB	note	or, without the barrier, after the marks were read
 *	BREAK_WORK_AGAIN note	the round ends whatever was noted meanwhile
 *	BREAK_MAKE_PTL	hold	pte_ref_make() without the PTL
 *	BREAK_MAKE_COUNT hold	or without a reference for the entries that there are
 *	BREAK_EMPTIED_BEFORE switch __pte_ref_emptied() does not ask before its put
 *	BREAK_EMPTIED_AFTER percpu nor after it
 *	BREAK_SILENT_MB	hold	pte_ref_put_silent() without its barriers
 *	BREAK_USED_NOTE	percpu	the move to percpu mode notes nothing
 *	BREAK_LOOKS_NOTE percpu	nor does who finds zero hidden
 *	BREAK_SWITCH_RCU percpu	a switch to atomic mode without a grace period
 *	BREAK_SWITCHING_RMB percpu the count is read before PTE_REF_SWITCHED
 *	BREAK_HIDES_RMB	percpu_touch the bits are read before the mode
 *	BREAK_CONFIRM_MB percpu	PTE_REF_SWITCHED is set before the count is exact
 *	live
 *	BREAK_UNHIDE	percpu/live nobody starts the switch to atomic mode
 *	BREAK_WORK_BUSY	busy/live a table whose VMA is locked is not noted again
 *	BREAK_WORK_WAIT	busy/live and the deferred work never waits for a lock
 *
 * That pte_ref_note() may load marks and MM_PTE_REF_NOTED in any order was
 * tried, and is not here for its states.
 */

/* Runs: the tasks of each, with their bit for RCU, and what there is at its start. */
#ifdef RUN_zap
#define FAULT		1
#define ZAP		2
#define RMAP		4
#define READER		8
#endif
#ifdef RUN_note
#define START_TABLE
#define START_NOTED
#define FAULT		1
#define RMAP		2
#define RMAP_TWICE	4
#endif
#ifdef RUN_hold
#define START_TABLE
#define HOLDER		1
#define ZAP		2
#define RMAP		4
#endif
#ifdef RUN_pin
#define START_TABLE
#define HUGETLB		1
#define RMAP		2
#define ZAP		4
#endif
#ifdef RUN_percpu
#define START_TABLE
#define START_REF
#define PERCPU_MODE
#define HOLDER		1
#define RMAP		2
#endif
#ifdef RUN_percpu_zap
#define NOTE_STEP
#define START_TABLE
#define START_REF
#define PERCPU_MODE
#define HOLDER		1
#define ZAP		2
#endif
#ifdef RUN_percpu_two
#define NOTE_STEP
#define START_TABLE
#define START_REF
#define PERCPU_MODE
#define PUTTER		1
#define HOLDER		2
#define RMAP		4
#endif
#ifdef RUN_percpu_touch
#define NOTE_STEP
#define START_TABLE
#define START_EMPTY
#define START_REF
#define START_NOTED
#define PERCPU_MODE
#define TOUCH		1
#define HOLDER		2
#define HAS_REF
#endif
#ifdef RUN_switch
#define NOTE_STEP
#define START_TABLE
#define START_REF
#define START_SWITCH
#define START_NOTED
#define FAULT		1
#define RMAP		2
#endif
#ifdef RUN_munmap
#define PERCPU_MODE
#define HOLDER		1
#define MUNMAP		2
#define TRUNCATE	4
#endif
#ifdef RUN_retract
#define NOTE_STEP
#define START_TABLE
#define START_REF
#define PERCPU_MODE
#define HOLDER		1
#define HAS_REF
#define RETRACT		2
#endif
#ifdef RUN_exit
#define START_TABLE
#define START_REF
#define PERCPU_MODE
#define HOLDER		1
#define RMAP		2
#define EXIT_MM		4
#endif
#ifdef RUN_busy
#define START_TABLE
#define RMAP		1
#define WRITER
#endif
#define DEFERRED	32
#define CALLBACK	64
#define DESTRUCTOR	128

#define NT		2	/* tables that can be made */
#define NR		2	/* refs that can be made */
#define PINNED		8	/* PTE_REF_PINNED */
#define BIAS		16	/* PERCPU_COUNT_BIAS */

/* Tables: index 0 is no table. */
#define T_NEW		0	/* not allocated yet */
#define T_LIVE		1
#define T_DYING		2	/* unlinked, waits for RCU */
#define T_FREED		3

byte pmd;			/* the entry of the PMD table: a table or 0 */
bool pml;			/* PMD lock */
bool ptl[NT + 1];		/* PTL */
byte tstate[NT + 1];
byte tgp[NT + 1];		/* readers that its free waits for */
byte pop[NT + 1];		/* ptdesc->pte_populated, for who has the PTL */
bool vis[NT + 1];		/* is it != 0, for who has not */
bool taken[NT + 1];		/* not by this subsystem: for assertions only */
bool ent[NT + 1];		/* is an entry populated? */
byte tref[NT + 1];		/* ptdesc->pte_ref: a ref, or 0 for pte_ref_none */

/* Refs: index 0 is pte_ref_none. */
#define R_NEW		0
#define R_LIVE		1
#define R_FREED		2

#define M_ATOMIC	0	/* ref->percpu_count_ptr: no counters */
#define M_PERCPU	1
#define M_SWITCH	2	/* counters, and __PERCPU_REF_ATOMIC */

#define PERCPU		1	/* PTE_REF_PERCPU */
#define SWITCHING	2
#define SWITCHED	4
#define DEAD		8
#define RETIRED		16

#define CB_NONE		0	/* data.rcu */
#define CB_SWITCH	1	/* percpu_ref_switch_to_atomic_rcu() */
#define CB_FREE		2	/* pte_ref_free_object_rcu() */

byte rstate[NR + 1];
short cnt[NR + 1];		/* data.count */
short pc[NR + 1];		/* sum of the percpu counters */
bool pcok[NR + 1];		/* are there percpu counters? */
byte mode[NR + 1];
bool force[NR + 1];		/* data.force_atomic */
byte st[NR + 1];		/* ref->state */
byte rcb[NR + 1];
byte rgp[NR + 1];
byte gh[NR + 1];		/* holders: for assertions only */
bool swl;			/* percpu_ref_switch_lock */

/* RCU: tasks in a read section, a bit each */
byte rd;

/* The mm */
#define NOTED		1	/* MM_PTE_REF_NOTED */
#define WORK		2
#define EXIT		4

bool mpmd, mpud;		/* marks in the slots of PMD and PUD table */
byte qst;			/* mm->pte_ref.state */
bool pending, running, disabled; /* mm->pte_ref.work */
bool mmgone;			/* is the mm freed? */
byte users;			/* mm_users */

/* Locks above those of the tables */
bool vma = 1;			/* is the VMA attached? */
bool inrmap = 1;		/* can rmap find it? */
bool vw;			/* VMA lock held for write */
byte vr;			/* and for read */
byte rml;			/* i_mmap_rwsem, lock of an anon_vma: readers */
bool mw;			/* mmap_lock held for write */
bool mr;			/* for read, by the deferred work */
bool mq;			/* which waits for it */

#ifdef BREAK_WORK_MB
#define NOTED_LATE	qst = qst & ~NOTED
#else
#define NOTED_LATE	skip
#endif

/* Which of what must hold is violated: the error of spin has the name. */
hidden byte COUNT, TABLE, REF, MM, END;
#define must(what, x)	assert(what || (x))
#define use_t(x)	must(TABLE, tstate[x] == T_LIVE || tstate[x] == T_DYING)
#define use_r(x)	must(REF, rstate[x] == R_LIVE)
#define use_mm()	must(MM, !mmgone)

/* A full barrier of the task that has the PTL of t: its store of the count is seen. */
#define MB()		vis[t] = (pop[t] != 0)

/* A grace period waits for the sections that there were at its start. */
inline rcu_quiet()
{
	rd = rd & ~me;
	tgp[1] = tgp[1] & ~me;
	tgp[2] = tgp[2] & ~me;
	rgp[1] = rgp[1] & ~me;
	rgp[2] = rgp[2] & ~me
}

inline rcu_unlock()
{
	d_step { rcu_quiet() }
}

/* pte_ref_note() */
inline note()
{
#ifdef BREAK_NOTE
	skip
#else
#ifdef NOTE_STEP
	d_step {
		use_mm();
		MB();
		mpmd = 1;
		mpud = 1;
		if
		:: !(qst & (WORK | EXIT)) && !disabled -> pending = 1
		:: else
		fi;
		qst = qst | NOTED | WORK
	}
#else
	use_mm();
#ifndef BREAK_NOTE_MB
	MB();
#endif
#ifdef BREAK_NOTE_ORDER
	d_step { MB(); mpud = 1 };
	d_step { MB(); mpmd = 1 };
#else
	/* cmpxchg() if it is not set, else a load. */
	if
	:: d_step { !mpmd -> MB(); mpmd = 1 }
	:: else
	fi;
	if
	:: d_step { !mpud -> MB(); mpud = 1 }
	:: else
	fi;
#endif
	use_mm();
	if
	:: qst & NOTED
	:: else ->
		d_step { MB(); old = qst; qst = qst | NOTED | WORK };
		if
#ifdef BREAK_NOTE_EXIT
		:: !(old & WORK) ->
#else
		:: !(old & (WORK | EXIT)) ->
#endif
			d_step {
				use_mm();
				if
				:: !disabled -> pending = 1
				:: else
				fi
			}
		:: else
		fi;
		old = 0
	fi
#endif
#endif
}

/* pte_ref_release() */
inline release(r)
{
	use_r(r);
	if
#ifndef BREAK_RELEASE_ALIVE
	:: !(st[r] & DEAD) -> note(); skip
#endif
	:: else ->
		if
#ifndef BREAK_RELEASE_COUNT
		:: cnt[r] != 0
#endif
		:: else ->
#ifdef BREAK_RELEASE_ONCE
			d_step { must(REF, rcb[r] == CB_NONE); rcb[r] = CB_FREE; rgp[r] = rd }
#else
			if
			:: d_step { !(st[r] & RETIRED) ->
				st[r] = st[r] | RETIRED;
				must(REF, rcb[r] == CB_NONE);
				rcb[r] = CB_FREE;
#ifndef BREAK_RELEASE_RCU
				rgp[r] = rd
#else
				rgp[r] = 0
#endif
			}
			:: else
			fi
#endif
		fi
	fi
}

/* percpu_ref_get() */
inline get(r, g)
{
	d_step { rd = rd | me; use_r(r); m = mode[r] };
	d_step {
		use_r(r);
		if
		:: m == M_PERCPU -> must(REF, pcok[r]); pc[r]++
		:: else -> cnt[r]++
		fi;
		gh[r] = gh[r] + g;
		m = 0
	}
}

/* percpu_ref_put(), in an RCU read section */
inline put(r, g)
{
	d_step { use_r(r); m = mode[r] };
	d_step {
		use_r(r);
		zero = 0;
		if
		:: m == M_PERCPU -> must(REF, pcok[r]); pc[r]--
		:: else ->
			MB();
			cnt[r]--;
			must(REF, cnt[r] >= 0);
			zero = (cnt[r] == 0)
		fi;
		gh[r] = gh[r] - g;
		m = 0
	};
	if
	:: zero -> zero = 0; release(r)
	:: else
	fi
}

/* pte_ref_confirm_switch() */
inline confirm(r)
{
	d_step { use_r(r); st[r] = st[r] | SWITCHED };
	if
#ifndef BREAK_CONFIRM_DEAD
	:: st[r] & DEAD -> release(r)
#endif
	:: else
	fi
}

/* pte_ref_start_switch(), percpu_ref_switch_to_atomic() */
inline start_switch(r)
{
	if
	:: d_step { !(st[r] & SWITCHING) -> use_r(r); st[r] = st[r] | SWITCHING };
		/* The bias is on the count, so the count may be raised in the same step. */
		atomic {
			!swl -> use_r(r);
			force[r] = 1;
			if
			:: mode[r] == M_PERCPU ->
				mode[r] = M_SWITCH;
				cnt[r]++;
				must(REF, rcb[r] == CB_NONE);
				rcb[r] = CB_SWITCH;
#ifdef BREAK_SWITCH_RCU
				rgp[r] = 0
#else
				rgp[r] = rd
#endif
			:: else -> swl = 1; sw = 1
			fi
		};
		if
		:: sw -> sw = 0; confirm(r); swl = 0
		:: else
		fi
	:: else
	fi
}

/* pte_ref_hides_zero() */
inline hides_zero(r)
{
#ifdef BREAK_HIDES_RMB
	d_step { use_r(r); hid = (st[r] & SWITCHING) && !(st[r] & SWITCHED) };
	hid = hid || mode[r] == M_PERCPU
#else
	d_step { use_r(r); hid = (mode[r] == M_PERCPU) };
	if
	:: hid
	:: else -> hid = (st[r] & SWITCHING) && !(st[r] & SWITCHED)
	fi
#endif
}

/* pte_ref_to_percpu() and what __pte_ref_used() does after it */
inline to_percpu(r)
{
	if
	:: d_step { !(st[r] & PERCPU) -> use_r(r); st[r] = st[r] | PERCPU };
		/* percpu_ref_attach_counters() */
		if
		:: d_step {
				!swl -> use_r(r);
				if
				:: !force[r] && mode[r] == M_ATOMIC ->
					swl = 1;
					hid = 1;
					cnt[r] = cnt[r] + BIAS;
					pcok[r] = 1
				:: else
				fi
			};
			if
			:: hid -> d_step { mode[r] = M_PERCPU; swl = 0 }
			:: else
			fi
		:: skip		/* no memory */
		fi;
		if
#ifndef BREAK_PERCPU_DEAD
		:: st[r] & DEAD -> start_switch(r)
#endif
		:: else
		fi;
		if
#ifndef BREAK_USED_NOTE
		:: hid -> hid = 0; note()
#endif
		:: else -> hid = 0
		fi
	:: else
	fi
}

/* A store to the count: others may see it later. */
inline store(n)
{
	atomic {
		pop[t] = n;
		if
		:: MB()
		:: vis[t] != (pop[t] != 0) -> skip
		fi
	}
}

/* pte_unmap_unlock() */
inline unlock()
{
	d_step { use_t(t); MB(); ptl[t] = 0; t = 0; rcu_quiet() }
}

/* pte_offset_map_lock(): t is the table, or 0 */
inline map_lock()
{
	do
	:: d_step { rd = rd | me; u = pmd };
		if
		:: u == 0 -> rcu_unlock(); break
		:: else ->
			atomic { !ptl[u] -> use_t(u); ptl[u] = 1; t = u };
			if
#ifdef BREAK_PMD_SAME
			:: true -> u = 0; break
#else
			:: pmd == t -> u = 0; break
			:: else -> u = 0; unlock()
#endif
			fi
		fi
	od
}

/* set_ptes() */
inline set_entry()
{
	if
	:: ent[t]
	:: else ->
		must(TABLE, pmd == t);
		store(pop[t] + 1);
		ent[t] = 1;
		if
#ifndef BREAK_POPULATED
		:: pop[t] == 1 && tref[t] -> get(tref[t], 0)
#endif
		:: else
		fi
	fi
}

/* ptep_get_and_clear(), and __pte_ref_emptied() */
inline clear_entry()
{
	if
	:: ent[t] ->
		ent[t] = 0;
		store(pop[t] - 1);
		if
		:: pop[t] -> skip
		:: !pop[t] && !tref[t] ->
#ifndef BREAK_EMPTIED_BARE
			note()
#endif
			skip
		:: else ->
#ifndef BREAK_EMPTIED_BEFORE
			hides_zero(tref[t]);
#endif
			hid2 = hid;
			put(tref[t], 0);
#ifndef BREAK_EMPTIED_AFTER
			hides_zero(tref[t]);
#endif
			if
			:: hid || hid2 -> hid = 0; hid2 = 0; note()
			:: else
			fi
		fi
	:: else
	fi
}

/* zap_pte_range() that holds the table: pte_get_locked(), pte_put_locked() */
inline zap_entries()
{
	store(pop[t] + 1);
	if
	:: pop[t] == 1 && tref[t] -> get(tref[t], 0)
	:: else
	fi;
	if
	:: ent[t] -> ent[t] = 0; store(pop[t] - 1)
	:: else
	fi;
	store(pop[t] - 1);
	if
	:: !pop[t] && tref[t] ->
		/* pte_ref_put_silent() */
		d_step { use_r(tref[t]); m = mode[tref[t]] };
		d_step {
			/* On x86 the barriers are nothing by themselves. */
			if
			:: m == M_PERCPU -> must(REF, pcok[tref[t]]); pc[tref[t]]--
			:: else ->
#ifndef BREAK_SILENT_MB
				MB();
#endif
				cnt[tref[t]]--
			fi;
			m = 0
		}
	:: else
	fi
}

/* pte_ref_looks_free(): zero */
inline looks_free()
{
	d_step { rd = rd | me; u = pmd; zero = 0 };
#ifdef BREAK_LINKED
	seen = u;
#endif
	if
	:: u ->
		d_step { use_t(u); r = tref[u] };
		if
		:: d_step { !vis[u] -> use_t(u) };
			if
			:: r ->
				if
#ifndef BREAK_UNHIDE
				:: mode[r] == M_PERCPU -> use_r(r); start_switch(r)
#endif
				:: else
				fi;
#ifdef BREAK_SWITCHING_RMB
				zero = (cnt[r] == 0);
				hides_zero(r);
#else
				hides_zero(r);
				/* In percpu mode it has the bias. */
				zero = (cnt[r] == 0);
#endif
				if
#ifndef BREAK_LOOKS_NOTE
				:: !zero && hid -> hid = 0; note()
#endif
				:: else -> hid = 0
				fi
			:: else -> zero = 1
			fi
		:: else
		fi;
		r = 0
	:: else
	fi;
	u = 0;
	rcu_unlock()
}

/* free_user_ptes(): one table */
inline free_user_pte()
{
#ifdef BREAK_LINKED
	atomic { !pml -> pml = 1; u = seen; seen = 0 };
#else
	atomic { !pml -> pml = 1; u = pmd };
#endif
	if
	:: u ->
		atomic { !ptl[u] -> use_t(u); ptl[u] = 1; t = u };
		if
#ifdef BREAK_RECHECK
		:: true ->
#else
		:: pop[t] == 0 && cnt[tref[t]] == 0 ->
#endif
			d_step {
				must(TABLE, pmd == t && tstate[t] == T_LIVE);
				must(COUNT, pop[t] == 0 && gh[tref[t]] == 0 && !ent[t]);
				pmd = 0;
				MB();
				ptl[t] = 0;
				t = 0
			};
			d_step {
				pml = 0;
				must(TABLE, tstate[u] == T_LIVE);
				tstate[u] = T_DYING;
#ifndef BREAK_TABLE_RCU
				tgp[u] = rd
#endif
			}
		:: else ->
			d_step { MB(); ptl[t] = 0; t = 0; pml = 0 }
		fi
	:: else -> pml = 0
	fi;
	u = 0
}

/*
 * pte_ref_looks_free() after a zap, if the CPU does its loads before the zap's
 * store of the count is seen: what comes after an unlock may come before it.
 */
inline looks_free_early()
{
	if
	:: t && tref[t] && !pop[t] && mode[tref[t]] != M_PERCPU ->
		r = tref[t];
		hides_zero(r);
		zero = (cnt[r] == 0);
		early = 1;
		unlock();
		if
		:: !zero && hid -> hid = 0; note()
		:: else -> hid = 0
		fi;
		r = 0
	:: else -> unlock()
	fi
}

/* pte_ref_free_range() of one table, for who has a VMA in its range */
inline free_range()
{
	if
	:: early -> early = 0
	:: else -> looks_free()
	fi;
	if
	:: zero -> zero = 0; free_user_pte()
	:: else
	fi
}

/* pte_alloc_one() */
inline alloc_table()
{
	atomic {
		new = 0;
		if
		:: tstate[1] == T_NEW -> new = 1; tstate[1] = T_LIVE
		:: tstate[1] != T_NEW && tstate[2] == T_NEW -> new = 2; tstate[2] = T_LIVE
		:: else
		fi
	}
}

inline free_new()
{
	if
	:: new -> d_step { tstate[new] = T_NEW; new = 0 }
	:: else
	fi
}

/* pmd_install(); and a table that is not needed is freed */
inline pmd_install()
{
	d_step {
		!pml ->
		if
		:: new && pmd == 0 -> pmd = new; new = 0
		:: else
		fi
	};
	free_new()
}

/* pte_ref_install(): h is the table, r the ref */
inline ref_install()
{
	d_step {
		!pml ->
		pml = 1;
		if
		:: new && pmd == 0 -> pmd = new; new = 0
		:: else
		fi;
		h = pmd;
		r = tref[h]
	};
	if
	:: h && !r ->
		/* pte_ref_make() */
		atomic {
#ifndef BREAK_MAKE_PTL
			!ptl[h] ->
			ptl[h] = 1;
#endif
			if
			:: rstate[1] == R_NEW -> r = 1
			:: rstate[1] != R_NEW && rstate[2] == R_NEW -> r = 2
			:: skip		/* no memory */
			fi;
			if
#ifdef BREAK_MAKE_COUNT
			:: r -> rstate[r] = R_LIVE
#else
			:: r -> rstate[r] = R_LIVE; cnt[r] = (pop[h] != 0)
#endif
			:: else
			fi
		};
		d_step {
			tref[h] = r;
#ifndef BREAK_MAKE_PTL
			ptl[h] = 0
#endif
		}
	:: else
	fi;
#ifdef BREAK_INSTALL_PML
	pml = 0;
#endif
	if
	:: r -> get(r, 1)
	:: else
	fi;
	d_step {
#ifndef BREAK_INSTALL_PML
		pml = 0;
#endif
		rcu_quiet()
	};
	free_new()
}

/* __pte_tryget() */
inline tryget()
{
	d_step { rd = rd | me; h = pmd };
	if
	:: h ->
		d_step { use_t(h); r = tref[h] };
		if
		:: r ->
			/* percpu_ref_tryget() */
			d_step { use_r(r); m = mode[r] };
			d_step {
				use_r(r);
				if
				:: m == M_PERCPU -> must(REF, pcok[r]); pc[r]++; gh[r]++
#ifdef BREAK_RAISE
				:: m != M_PERCPU ->
#else
				:: m != M_PERCPU && cnt[r] ->
#endif
					cnt[r]++; gh[r]++
				:: else -> r = 0
				fi;
				m = 0
			}
		:: else
		fi
	:: else
	fi;
	rcu_unlock();
	if
#ifdef PERCPU_MODE
	:: r -> to_percpu(r)
#endif
	:: r
	:: !r && h -> ref_install()
	:: else
	fi
}

/* pte_ref_note_empty() */
inline note_empty()
{
	d_step { rd = rd | me; u = pmd };
	if
	:: u ->
		if
#ifndef BREAK_NOTE_EMPTY
		:: d_step { !vis[u] -> use_t(u) }; note()
#endif
		:: else
		fi
	:: else
	fi;
	u = 0;
	rcu_unlock()
}

inline vma_lock()
{
	/* lock_vma_under_rcu(), or it waits for mmap_lock. */
	atomic {
		!vw || !vma ->
		if
		:: vma -> vr++; locked = 1
		:: else
		fi
	}
}

inline vma_unlock()
{
	d_step { vr--; locked = 0 }
}

#ifdef BREAK_LINKED
#define SEEN byte seen;
#else
#define SEEN
#endif
#define LOCALS SEEN byte t, u, h, r, new, m, old; bool zero, sw, hid, hid2, early, locked

#ifdef FAULT
/* A user-mode fault, and one of anonymous memory: no holder. */
proctype fault(byte me)
{
	LOCALS;

	vma_lock();
	if
	:: locked ->
		do
		:: pmd == 0 -> alloc_table();
			if
			:: new -> pmd_install()
			:: else -> break
			fi
		:: else ->
			map_lock();
			if
			:: t -> set_entry(); unlock(); break
			:: t -> unlock(); note_empty(); break	/* it fails */
			:: else
			fi
		od;
		vma_unlock()
	:: else
	fi;
	users--
}
#endif

#ifdef HOLDER
/* A fault that calls ->fault() and is not of user mode, or links a table. */
proctype holder(byte me)
{
	LOCALS;

	vma_lock();
	if
	:: locked ->
#ifdef HAS_REF
		h = 1;
		r = 1;
		to_percpu(r);
#else
		tryget();
#endif
		if
		:: !h -> alloc_table(); ref_install()
		:: else
		fi;
		if
		:: r ->
			/* ->fault() */
			must(COUNT, pmd == h || taken[h]);
			if
			:: h = 0; vma_unlock()		/* it drops the lock */
#ifndef HAS_REF
			:: map_lock();
				must(COUNT, t == h || taken[h]);
				if
				:: t -> set_entry(); unlock()
				:: else
				fi
#endif
			:: must(COUNT, pmd == h || taken[h])	/* fails */
			fi;
			h = 0;
			rd = rd | me;
			put(r, 1);
			r = 0;
			rcu_unlock()
		:: else ->
			/* No memory for a ref: as fault(). */
			h = 0;
			map_lock();
			if
			:: t -> set_entry(); unlock()
			:: t -> unlock(); note_empty()
			:: else
			fi
		fi;
		if
		:: locked -> vma_unlock()
		:: else
		fi
	:: else
	fi;
	users--
}
#endif

#ifdef PUTTER
/* Another holder, before its put */
proctype putter(byte me)
{
	LOCALS;

	rd = rd | me;
	put(1, 1);
	rcu_unlock();
	users--
}
#endif

#ifdef ZAP
/* madvise() of a range that covers the table */
proctype zap(byte me)
{
	LOCALS;

	vma_lock();
	if
	:: locked ->
		map_lock();
		if
		:: t -> zap_entries();
			if
			:: looks_free_early()
			:: unlock()
			fi
		:: else
		fi;
		free_range();
		vma_unlock()
	:: else
	fi;
	users--
}
#endif

#ifdef TRUNCATE
/* Truncate or hole punch: the same under i_mmap_rwsem; it may be no task of the mm. */
proctype truncate(byte me)
{
	LOCALS;

	if
	:: atomic { inrmap -> rml++; locked = 1 }
#ifdef BREAK_WHO
	:: skip
#else
	:: !inrmap
#endif
	fi;
	if
#ifdef BREAK_WHO
	:: true ->
#else
	:: locked ->
#endif
		map_lock();
		if
		:: t -> zap_entries();
			if
			:: looks_free_early()
			:: unlock()
			fi
		:: else
		fi;
		free_range();
		if
		:: locked -> locked = 0; rml--
		:: else
		fi
	:: else
	fi
}
#endif

#ifdef RMAP
/* Reclaim, migration: clears an entry under the PTL, found by rmap; no task of the mm. */
proctype rmap(byte me)
{
	LOCALS;

	if
	:: atomic { inrmap -> rml++ };
		map_lock();
		if
		:: t -> clear_entry(); unlock()
		:: else
		fi;
		rml--
	:: !inrmap
	fi
}
#endif

#ifdef RETRACT
/* retract_page_tables(): takes the table whatever its count is */
proctype retract(byte me)
{
	LOCALS;

	if
	:: atomic { inrmap -> rml++ };
		atomic { !pml -> pml = 1; u = pmd };
		if
		:: u ->
			atomic { !ptl[u] -> use_t(u); ptl[u] = 1 };
			d_step { pmd = 0; ent[u] = 0; ptl[u] = 0; taken[u] = 1 };
			d_step { tstate[u] = T_DYING; tgp[u] = rd };
			u = 0
		:: else
		fi;
		pml = 0;
		rml--
	:: !inrmap
	fi
}
#endif

#ifdef TOUCH
/* A fault, and madvise() of a part of the table */
proctype touch(byte me)
{
	LOCALS;

	vma_lock();
	if
	:: locked ->
		map_lock();
		if
		:: t -> set_entry(); unlock()
		:: else
		fi;
		map_lock();
		if
		:: t -> clear_entry(); unlock()
		:: else
		fi;
		vma_unlock()
	:: else
	fi;
	users--
}
#endif

#ifdef HUGETLB
/* hugetlb on arm64: pte_alloc_pinned(), and a pointer that is kept */
proctype hugetlb(byte me)
{
	LOCALS;

	vma_lock();
	if
	:: locked ->
		map_lock();
		if
		:: t ->
#ifndef BREAK_PIN
			store(pop[t] + PINNED);
			if
			:: pop[t] == PINNED && tref[t] -> get(tref[t], 0)
			:: else
			fi;
#endif
			h = t;
			unlock();
			use_t(h);
			must(COUNT, pmd == h);
			h = 0
		:: else
		fi;
		vma_unlock()
	:: else
	fi;
	users--
}
#endif

#ifdef WRITER
/* A task that locks the VMA for write, again and again */
proctype writer()
{
end:	do
	:: d_step { !mw && !mr && !mq -> mw = 1 };
		vw = 1;
		vr == 0;
		vw = 0;
		mw = 0
	od
}
#endif

#ifdef READER
/* GUP-fast */
proctype reader(byte me)
{
	byte u;

	d_step { rd = rd | me; u = pmd };
	if
	:: u -> use_t(u); use_t(u)
	:: else
	fi;
	u = 0;
	rcu_unlock()
}
#endif

/* free_pgtables(): whatever the count is */
inline free_pgtables()
{
	atomic { rml == 0 -> inrmap = 0 };
	u = pmd;
	if
	:: u ->
		d_step { must(TABLE, pmd == u && tstate[u] == T_LIVE); pmd = 0 };
		d_step {
			must(TABLE, tstate[u] == T_LIVE);
			tstate[u] = T_DYING;
			tgp[u] = rd
		}
	:: else
	fi;
	u = 0
}

#ifdef MUNMAP
/* munmap() of the only VMA over the table, and perhaps mmap() there again */
proctype munmap(byte me)
{
	LOCALS;

	atomic { !mw && !mr && !mq -> mw = 1 };
	vw = 1;
	vr == 0;
	vma = 0;
	map_lock();
	if
	:: t -> zap_entries(); unlock()
	:: else
	fi;
	free_pgtables();
	if
	:: d_step { vma = 1; inrmap = 1 }
	:: skip
	fi;
	d_step { vw = 0; mw = 0 };
	users--
}
#endif

#ifdef EXIT_MM
/* The last mmput() */
proctype exit_mm(byte me)
{
	LOCALS;

	users == 0;
	/* mm_exit_pte_ref() */
	d_step { old = qst; qst = qst | EXIT };
	if
	:: old & WORK ->
		if
		:: d_step { pending -> pending = 0 }
		:: else ->
#ifndef BREAK_EXIT_DISABLE
			d_step { disabled = 1; pending = 0 };
#endif
#ifndef BREAK_EXIT_WAIT
			!running;
#endif
			skip
		fi
	:: else
	fi;
	old = 0;
	/* exit_mmap(): unmap_vmas() does not count. */
	map_lock();
	if
	:: t -> ent[t] = 0; unlock()
	:: else
	fi;
	atomic { !mw && !mr -> mw = 1 };
	vma = 0;
	free_pgtables();
	mmgone = 1
}
#endif

/* pte_ref_reclaim(), pte_ref_lock_vma() */
inline reclaim()
{
#ifdef BREAK_WORK_VMA
	free_range()
#else
	d_step {
		if
		:: vma && !vw -> vr++; locked = 1
		:: vma && vw -> busy = 1
		:: else
		fi
	};
	if
	:: locked -> free_range(); vma_unlock()
	:: busy -> busy = 0;
		late = 1;
#ifndef BREAK_WORK_BUSY
		note();
#endif
		skip
	:: else
	fi
#endif
}

/* pte_ref_work_fn() */
proctype work(byte me)
{
	LOCALS;
	bool busy, late;

end:	do
	:: d_step { pending -> pending = 0; running = 1 };
#ifndef BREAK_WORK_WAIT
		if
		:: late -> mq = 1; d_step { !mw -> mr = 1; mq = 0 }
		:: else
		fi;
#endif
		late = 0;
#ifdef NOTE_STEP
		d_step {
			use_mm();
			qst = qst & ~NOTED;
			zero = mpud && mpmd;
			mpud = 0;
			mpmd = 0
		};
		if
		:: zero -> zero = 0; reclaim()
		:: else
		fi;
#else
		use_mm();
#if !defined(BREAK_WORK_MB) && !defined(BREAK_WORK_NOTED)
		qst = qst & ~NOTED;
#endif
		/* pte_ref_next() */
		if
		:: d_step { mpud -> mpud = 0 };
			if
#ifdef BREAK_TAKE
			:: mpmd ->
#else
			:: d_step { mpmd -> mpmd = 0 };
#endif
#ifdef BREAK_WORK_MB
				qst = qst & ~NOTED;
#endif
				/* pte_ref_find_empty() */
				d_step { use_mm(); rd = rd | me; u = pmd };
				if
				:: u -> d_step { use_t(u); zero = !vis[u] }
				:: else
				fi;
				u = 0;
				rcu_unlock();
				if
				:: zero && !(qst & EXIT) -> zero = 0; reclaim()
				:: else -> zero = 0
				fi;
#ifdef BREAK_TAKE
				mpmd = 0
#else
				skip
#endif
			:: else -> NOTED_LATE
			fi
		:: else -> NOTED_LATE
		fi;
#ifdef BREAK_WORK_NOTED
		qst = qst & ~NOTED;
#endif
#endif
		use_mm();
		mr = 0;
		if
#ifdef BREAK_WORK_AGAIN
		:: true -> d_step { qst = qst & EXIT; running = 0 }
#else
		:: d_step { qst == WORK -> qst = 0; running = 0 }
		:: else ->
			d_step {
				use_mm();
				if
				:: !disabled -> pending = 1
				:: else
				fi;
				running = 0
			}
#endif
		fi
	od
}

/* Callbacks of RCU: of refs */
proctype rcu(byte me)
{
	LOCALS;

end:	do
	:: atomic {
			if
			:: rcb[1] == CB_SWITCH && rgp[1] == 0 -> r = 1
			:: rcb[2] == CB_SWITCH && rgp[2] == 0 -> r = 2
			fi;
			rcb[r] = CB_NONE;
			rd = rd | me
		};
		/* percpu_ref_switch_to_atomic_rcu() */
		d_step {
			use_r(r);
			cnt[r] = cnt[r] + pc[r] - BIAS;
			must(REF, cnt[r] > 0)
		};
		/* percpu_ref_confirm_embedded() */
		d_step { use_r(r); pc[r] = 0; pcok[r] = 0; mode[r] = M_ATOMIC };
#ifdef BREAK_CONFIRM_MB
		st[r] = st[r] | SWITCHED;
#endif
		d_step { use_r(r); cnt[r]--; must(REF, cnt[r] >= 0) };
		confirm(r);
		r = 0;
		rcu_unlock()
	:: atomic {
			if
			:: rcb[1] == CB_FREE && rgp[1] == 0 -> r = 1
			:: rcb[2] == CB_FREE && rgp[2] == 0 -> r = 2
			fi;
			rcb[r] = CB_NONE;
			must(REF, rstate[r] == R_LIVE && gh[r] == 0);
			rstate[r] = R_FREED;
			r = 0
		}
	od
}

/* pte_free(), after a grace period: pagetable_dtor(), __pte_ref_free() */
proctype table_rcu(byte me)
{
	LOCALS;

end:	do
	:: d_step {
			if
			:: tstate[1] == T_DYING && tgp[1] == 0 -> h = 1
			:: tstate[2] == T_DYING && tgp[2] == 0 -> h = 2
			fi;
			tstate[h] = T_FREED;
			r = tref[h];
			tref[h] = 0
		};
		if
		:: r ->
#ifdef BREAK_FREE_REF
			rcb[r] = CB_FREE;
#else
#ifndef BREAK_FREE_GET
			get(r, 0);
			rcu_unlock();
#endif
#ifdef BREAK_END_MB
			if
			:: st[r] & PERCPU -> st[r] = st[r] | DEAD; start_switch(r)
			:: else -> st[r] = st[r] | DEAD
			fi;
#else
			st[r] = st[r] | DEAD;
			/* pte_ref_end_percpu() */
			if
			:: st[r] & PERCPU -> start_switch(r)
			:: else
			fi;
#endif
			if
#ifndef BREAK_FREE_POPULATED
			:: pop[h] -> pop[h] = 0; rd = rd | me; put(r, 0); rcu_unlock()
#endif
			:: else
			fi;
#ifndef BREAK_FREE_GET
			rd = rd | me;
			put(r, 0);
			rcu_unlock();
#endif
#endif
			r = 0
		:: else
		fi;
		h = 0
	od
}

#define EMPTY	(pmd && pop[pmd] == 0 && gh[tref[pmd]] == 0)

proctype final()
{
	timeout ->
	must(END, mmgone || !EMPTY);
	must(END, users == 0);
	must(TABLE, tstate[1] != T_DYING && tstate[2] != T_DYING);
	must(REF, rstate[1] != R_LIVE || tref[pmd] == 1);
	must(REF, rstate[2] != R_LIVE || tref[pmd] == 2)
}

#ifdef LIVE
ltl freed { [] <> (mmgone || !EMPTY) }
#endif

init {
	atomic {
#ifdef START_TABLE
		tstate[1] = T_LIVE;
		pmd = 1;
#ifndef START_EMPTY
		ent[1] = 1;
		pop[1] = 1;
		vis[1] = 1;
#endif
#endif
#ifdef START_REF
		rstate[1] = R_LIVE;
		tref[1] = 1;
		cnt[1] = pop[1];
#endif
#ifdef START_SWITCH
		/* A switch of which the grace period is over. */
		cnt[1] = cnt[1] + BIAS + 1;
		pcok[1] = 1;
		mode[1] = M_SWITCH;
		force[1] = 1;
		st[1] = PERCPU | SWITCHING;
		rcb[1] = CB_SWITCH;
#endif
#ifdef START_NOTED
		mpmd = 1;
		mpud = 1;
		qst = NOTED | WORK;
		pending = 1;
#endif
#ifdef HAS_REF
		cnt[1]++;
		gh[1]++;
#endif
#ifdef PUTTER
		cnt[1]++;
		gh[1]++;
		users++;
		run putter(PUTTER);
#endif
#ifdef FAULT
		users++;
		run fault(FAULT);
#endif
#ifdef TOUCH
		users++;
		run touch(TOUCH);
#endif
#ifdef HOLDER
		users++;
		run holder(HOLDER);
#endif
#ifdef HUGETLB
		users++;
		run hugetlb(HUGETLB);
#endif
#ifdef ZAP
		users++;
		run zap(ZAP);
#endif
#ifdef MUNMAP
		users++;
		run munmap(MUNMAP);
#endif
#ifdef TRUNCATE
		run truncate(TRUNCATE);
#endif
#ifdef RMAP
		run rmap(RMAP);
#endif
#ifdef RMAP_TWICE
		run rmap(RMAP_TWICE);
#endif
#ifdef RETRACT
		run retract(RETRACT);
#endif
#ifdef READER
		run reader(READER);
#endif
#ifdef WRITER
		run writer();
#endif
#ifdef EXIT_MM
		run exit_mm(EXIT_MM);
#endif
		run work(DEFERRED);
		run rcu(CALLBACK);
		run table_rcu(DESTRUCTOR);
		run final()
	}
}
