/* SPDX-License-Identifier: GPL-2.0 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM pte_ref

#if !defined(_TRACE_PTE_REF_H) || defined(TRACE_HEADER_MULTI_READ)
#define _TRACE_PTE_REF_H

#include <linux/tracepoint.h>

DECLARE_EVENT_CLASS(pte_ref_table,
		    TP_PROTO(struct mm_struct *mm, unsigned long addr),
		    TP_ARGS(mm, addr),
		    TP_STRUCT__entry(__field(struct mm_struct *, mm)
				     __field(unsigned long, addr)
		    ),
		    TP_fast_assign(__entry->mm = mm;
				   __entry->addr = addr;
		    ),
		    TP_printk("mm=%p addr=%lx", __entry->mm, __entry->addr)
);

/* The switch of a table's ref to atomic mode was started. */
DEFINE_EVENT(pte_ref_table, pte_ref_switch,
	     TP_PROTO(struct mm_struct *mm, unsigned long addr),
	     TP_ARGS(mm, addr)
);

/* A table was unlinked; its memory is free after a grace period. */
DEFINE_EVENT(pte_ref_table, pte_ref_free,
	     TP_PROTO(struct mm_struct *mm, unsigned long addr),
	     TP_ARGS(mm, addr)
);

/* An attempt found the table populated, held, or in percpu mode. */
DEFINE_EVENT(pte_ref_table, pte_ref_free_failed,
	     TP_PROTO(struct mm_struct *mm, unsigned long addr),
	     TP_ARGS(mm, addr)
);

#endif /* _TRACE_PTE_REF_H */

/* This part must be outside protection */
#include <trace/define_trace.h>
