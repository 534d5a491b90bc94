/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * What user space knows of lib/test_vm_insert.c, a driver to test the ways in
 * which drivers fill page tables.
 */
#ifndef _LIB_TEST_VM_INSERT_UAPI_H
#define _LIB_TEST_VM_INSERT_UAPI_H

#include <linux/types.h>
#include <linux/ioctl.h>

/*
 * The device has this many pages.  No request is larger, nor a mapping that is
 * not of a _LATE kind.
 */
#define TEST_VM_INSERT_NR	64

/*
 * The first word of page i of the device is this plus i.  For mappings of a _LATE
 * kind there are as many other pages as a PTE table maps.
 */
#define TEST_VM_INSERT_MAGIC	0x766d5f696e736572ULL

/*
 * Kinds of mappings.  The file offset of mmap() chooses the kind and, in its low
 * bits, the first page of the device.
 *
 * @TEST_VM_INSERT_MIXED: VM_MIXEDMAP, filled by TEST_VM_INSERT_PAGE and _PAGES
 * @TEST_VM_INSERT_REMAP: VM_PFNMAP, filled by mmap() with remap_pfn_range()
 * @TEST_VM_INSERT_FAULT: VM_PFNMAP, filled by faults with vmf_insert_pfn()
 * @TEST_VM_INSERT_APPLIED: VM_PFNMAP, filled by TEST_VM_INSERT_APPLY
 *
 * In these a fault inserts what is none any more, since another one of the same
 * range has mapped the other size:
 *
 * @TEST_VM_INSERT_PFN_LATE: VM_PFNMAP, vmf_insert_pfn() where a huge pfn is
 * @TEST_VM_INSERT_PAGE_LATE: VM_MIXEDMAP, vmf_insert_page_mkwrite() there
 * @TEST_VM_INSERT_HUGE_LATE: VM_PFNMAP, vmf_insert_pfn_pmd() where a table is
 */
enum test_vm_insert_kind {
	TEST_VM_INSERT_MIXED,
	TEST_VM_INSERT_REMAP,
	TEST_VM_INSERT_FAULT,
	TEST_VM_INSERT_APPLIED,
	TEST_VM_INSERT_PFN_LATE,
	TEST_VM_INSERT_PAGE_LATE,
	TEST_VM_INSERT_HUGE_LATE,
	TEST_VM_INSERT_KINDS,
};

#define TEST_VM_INSERT_KIND_SHIFT	30
#define TEST_VM_INSERT_OFFSET(kind)	((__u64)(kind) << TEST_VM_INSERT_KIND_SHIFT)

/*
 * A request for a part of one mapping, of the device unless it says otherwise.
 *
 * @addr: (in) first address, page aligned
 * @nr: (in) number of pages, 1 to TEST_VM_INSERT_NR
 * @done: (out) pages that were inserted, also if there was an error
 * @sum: (out) of TEST_VM_INSERT_FAST: the first words of all pages done
 */
struct test_vm_insert_cmd {
	__u64		addr;
	__u64		nr;
	__u64		done;
	__u64		sum;
};

/* vm_insert_page() for each page */
#define TEST_VM_INSERT_PAGE	_IOWR('V', 0x00, struct test_vm_insert_cmd)
/* vm_insert_pages() once for all */
#define TEST_VM_INSERT_PAGES	_IOWR('V', 0x01, struct test_vm_insert_cmd)
/* apply_to_page_range(): sets each entry that is none */
#define TEST_VM_INSERT_APPLY	_IOWR('V', 0x02, struct test_vm_insert_cmd)
/* zap_special_vma_range() */
#define TEST_VM_INSERT_ZAP	_IOWR('V', 0x03, struct test_vm_insert_cmd)
/* In other memory: one fixup_user_fault() for each page, done if it is there then */
#define TEST_VM_INSERT_FIXUP	_IOWR('V', 0x04, struct test_vm_insert_cmd)
/* In a mapping of a _LATE kind, or other memory, in which nothing is: makes its PTE table */
#define TEST_VM_INSERT_TABLE	_IOWR('V', 0x05, struct test_vm_insert_cmd)
/* In other memory: get_user_pages_fast_only(), done are the pages that it finds */
#define TEST_VM_INSERT_FAST	_IOWR('V', 0x06, struct test_vm_insert_cmd)

#endif /* _LIB_TEST_VM_INSERT_UAPI_H */
