/* SPDX-License-Identifier: GPL-2.0 */

#if defined(RUN_percpu) || defined(RUN_percpu_zap) || defined(RUN_percpu_two) || \
	defined(RUN_percpu_two_zap) || defined(RUN_percpu_set) || defined(RUN_munmap) || defined(RUN_munmap_rmap) || defined(RUN_retract)
#define PERCPU_MODE
#endif
#if defined(RUN_percpu_zap) || defined(RUN_percpu_two) || defined(RUN_percpu_two_zap) || \
	defined(RUN_percpu_set) || defined(RUN_switch) || defined(RUN_retract)
#define NOTE_STEP
#endif
#if defined(RUN_percpu_two_zap) || defined(RUN_percpu_set) || defined(RUN_retract)
#define HAS_REF
#endif
#define NT 2			/* tables that can be made */
#define NR 2			/* refs that can be made */
#define PINNED 8			/* PTE_REF_PINNED */
#define BIAS 16			/* PERCPU_COUNT_BIAS */

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

#define use_t(x)	assert(tstate[x] == T_LIVE || tstate[x] == T_DYING)
#define use_r(x)	assert(rstate[x] == R_LIVE)
#define use_mm()	assert(!mmgone)

/* A full barrier of the task that has the PTL of t: its store of the count is seen. */
#define MB()		vis[t] = (pop[t] != 0)

/* A grace period waits for the sections that there were at its start. */
inline rcu_quiet(x)
{
	rd = rd & ~me;
	tgp[1] = tgp[1] & ~me;
	tgp[2] = tgp[2] & ~me;
	rgp[1] = rgp[1] & ~me;
	rgp[2] = rgp[2] & ~me
}

inline rcu_unlock()
{
	d_step { rcu_quiet(0) }
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
			d_step { assert(rcb[r] == CB_NONE); rcb[r] = CB_FREE; rgp[r] = rd }
#else
			if
			:: d_step { !(st[r] & RETIRED) ->
				st[r] = st[r] | RETIRED;
				assert(rcb[r] == CB_NONE);
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
		:: m == M_PERCPU -> assert(pcok[r]); pc[r]++
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
		:: m == M_PERCPU -> assert(pcok[r]); pc[r]--
		:: else ->
			MB();
			cnt[r]--;
			assert(cnt[r] >= 0);
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
	:: st[r] & DEAD -> release(r)
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
				assert(rcb[r] == CB_NONE);
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
	d_step { use_t(t); MB(); ptl[t] = 0; t = 0; rcu_quiet(0) }
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
		assert(pmd == t);
		store(pop[t] + 1);
		ent[t] = 1;
		if
		:: pop[t] == 1 && tref[t] -> get(tref[t], 0)
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
#ifndef BREAK_SILENT_MB
			MB();
#endif
			if
			:: m == M_PERCPU -> assert(pcok[tref[t]]); pc[tref[t]]--
			:: else -> cnt[tref[t]]--
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
	if
	:: u ->
		d_step { use_t(u); r = tref[u] };
		if
		:: d_step { !vis[u] -> use_t(u) };
			if
			:: r ->
				if
				:: mode[r] == M_PERCPU -> use_r(r); start_switch(r)
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
	atomic { !pml -> pml = 1; u = pmd };
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
				assert(pmd == t && tstate[t] == T_LIVE);
				assert(pop[t] == 0 && gh[tref[t]] == 0 && !ent[t]);
				pmd = 0;
				MB();
				ptl[t] = 0;
				t = 0
			};
			d_step {
				pml = 0;
				assert(tstate[u] == T_LIVE);
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
 * pte_ref_looks_free() after a zap, the loads of which the CPU does before those
 * who may lock the table see the store of its count: an unlock is a release only.
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
			:: else
			fi;
			if
			:: r -> rstate[r] = R_LIVE; cnt[r] = (pop[h] != 0)
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
	if
	:: r -> get(r, 1)
	:: else
	fi;
	d_step { pml = 0; rcu_quiet(0) };
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
				:: m == M_PERCPU -> assert(pcok[r]); pc[r]++; gh[r]++
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
	:: r -> skip
#else
	:: r -> skip
#endif
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

#define LOCALS byte t, u, h, r, new, m, old; bool zero, sw, hid, hid2, early, locked

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
			assert(pmd == h || taken[h]);
			if
			:: h = 0; vma_unlock()		/* drops the lock of the VMA */
#ifndef HAS_REF
			:: map_lock();
				assert(t == h || taken[h]);
				if
				:: t -> set_entry(); unlock()
				:: else
				fi
#endif
			:: skip			/* fails */
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

/* One that has its reference already */
proctype putter(byte me)
{
	LOCALS;

	rd = rd | me;
	put(1, 1);
	rcu_unlock();
	users--
}

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
			assert(pmd == h);
			h = 0
		:: else
		fi;
		vma_unlock()
	:: else
	fi;
	users--
}

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

/* free_pgtables(): whatever the count is */
inline free_pgtables()
{
	atomic { rml == 0 -> inrmap = 0 };
	u = pmd;
	if
	:: u ->
		d_step { assert(pmd == u && tstate[u] == T_LIVE); pmd = 0 };
		d_step {
			assert(tstate[u] == T_LIVE);
			tstate[u] = T_DYING;
			tgp[u] = rd
		}
	:: else
	fi;
	u = 0
}

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

/* pte_ref_reclaim(), pte_ref_lock_vma() */
inline reclaim()
{
	atomic {
		if
		:: vma && !vw -> vr++; locked = 1
		:: vma && vw -> busy = 1
		:: else
		fi
	};
	if
	:: locked -> free_range(); vma_unlock()
	:: busy -> busy = 0; note()
	:: else
	fi
}

/* pte_ref_work_fn() */
proctype work(byte me)
{
	LOCALS;
	bool busy;

end:	do
	:: d_step { pending -> pending = 0; running = 1 };
#ifdef NOTE_STEP
		d_step {
			use_mm();
			qst = qst & ~NOTED;
			zero = mpud && mpmd;
			mpud = 0;
			mpmd = 0
		};
		if
		:: zero ->
			zero = 0;
			reclaim()
		:: else
		fi;
#else
		use_mm();
		qst = qst & ~NOTED;
		if
		:: d_step { mpud -> mpud = 0 };
			if
			:: d_step { mpmd -> mpmd = 0 };
				/* pte_ref_find_empty() */
				d_step { use_mm(); rd = rd | me; u = pmd };
				if
				:: u && !vis[u] -> d_step { use_t(u); zero = 1 }
				:: else
				fi;
				u = 0;
				rcu_unlock();
				if
				:: zero && !(qst & EXIT) -> zero = 0; reclaim()
				:: else -> zero = 0
				fi
			:: else
			fi
		:: else
		fi;
#endif
		use_mm();
		if
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
			assert(cnt[r] > 0)
		};
		/* percpu_ref_confirm_embedded() */
		d_step { use_r(r); pc[r] = 0; pcok[r] = 0; mode[r] = M_ATOMIC };
#ifdef BREAK_CONFIRM_MB
		st[r] = st[r] | SWITCHED;
#endif
		d_step { use_r(r); cnt[r]--; assert(cnt[r] >= 0) };
		confirm(r);
		r = 0;
		rcu_unlock()
	:: atomic {
			if
			:: rcb[1] == CB_FREE && rgp[1] == 0 -> r = 1
			:: rcb[2] == CB_FREE && rgp[2] == 0 -> r = 2
			fi;
			rcb[r] = CB_NONE;
			assert(rstate[r] == R_LIVE && gh[r] == 0);
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
			get(r, 0);
			rcu_unlock();
			st[r] = st[r] | DEAD;
			/* pte_ref_end_percpu() */
			if
			:: st[r] & PERCPU -> start_switch(r)
			:: else
			fi;
			if
			:: pop[h] -> pop[h] = 0; rd = rd | me; put(r, 0); rcu_unlock()
			:: else
			fi;
			rd = rd | me;
			put(r, 0);
			rcu_unlock();
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
	assert(mmgone || !EMPTY);
	assert(users == 0);
	assert(tstate[1] != T_DYING && tstate[2] != T_DYING);
	assert(rstate[1] != R_LIVE || tref[pmd] == 1);
	assert(rstate[2] != R_LIVE || tref[pmd] == 2)
}

/* A table with an entry, to begin with. */
inline begin()
{
	d_step {
		tstate[1] = T_LIVE;
		pmd = 1;
		ent[1] = 1;
		pop[1] = 1;
		vis[1] = 1
	}
}

/* And a ref. */
inline begin_ref()
{
	d_step { rstate[1] = R_LIVE; tref[1] = 1; cnt[1] = 1 }
}

/* And it was noted before. */
inline begin_noted()
{
	d_step { mpmd = 1; mpud = 1; qst = NOTED | WORK; pending = 1 }
}

init {
	atomic {
#ifdef RUN_zap
		users = 2;
		run fault(1); run zap(2); run rmap(4); run reader(8);
#endif
#ifdef RUN_hold
		users = 2;
		run holder(1); run zap(2); run rmap(4);
#endif
#ifdef RUN_hold_fault
		begin();
		users = 2;
		run holder(1); run fault(2); run rmap(4);
#endif
#ifdef RUN_note
		begin(); begin_noted();
		users = 1;
		run fault(1); run rmap(2); run rmap(4);
#endif
#ifdef RUN_percpu
		begin(); begin_ref();
		users = 1;
		run holder(1); run rmap(2);
#endif
#ifdef RUN_percpu_zap
		begin(); begin_ref();
		users = 2;
		run holder(1); run zap(2);
#endif
#ifdef RUN_percpu_two
		begin(); begin_ref();
		users = 2; gh[1]++; cnt[1]++;
		run putter(1); run holder(2); run rmap(4);
#endif
#ifdef RUN_percpu_two_zap
		begin(); begin_ref();
		users = 3; gh[1] = 2; cnt[1] = 3;
		run putter(1); run holder(2); run zap(4);
#endif
#ifdef RUN_percpu_set
		begin(); begin_ref(); begin_noted();
		ent[1] = 0; pop[1] = 0; vis[1] = 0;
		users = 2; gh[1] = 1; cnt[1] = 1;
		run touch(1); run holder(2);
#endif
#ifdef RUN_switch
		begin(); begin_ref(); begin_noted();
		cnt[1] = cnt[1] + BIAS + 1;
		force[1] = 1; pcok[1] = 1; mode[1] = M_SWITCH; rcb[1] = CB_SWITCH;
		st[1] = PERCPU | SWITCHING;
		users = 1;
		run fault(1); run rmap(4);
#endif
#ifdef RUN_munmap
		users = 2;
		run holder(1); run munmap(2); run truncate(4);
#endif
#ifdef RUN_munmap_rmap
		begin(); begin_ref();
		users = 2;
		run holder(1); run munmap(2); run rmap(4);
#endif
#ifdef RUN_retract
		begin(); begin_ref();
		users = 2; gh[1] = 2; cnt[1] = 3;
		run holder(1); run putter(2); run retract(4);
#endif
#ifdef RUN_pin
		begin();
		users = 2;
		run hugetlb(1); run rmap(2); run zap(4);
#endif
#ifdef RUN_exit
		users = 1;
		run holder(1); run rmap(2); run exit_mm(4);
#endif
		run work(32); run rcu(64); run table_rcu(128);
		run final()
	}
}
