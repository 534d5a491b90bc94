// SPDX-License-Identifier: GPL-2.0
/*
 * Fills user page tables in each way that drivers have: vm_insert_page(),
 * vm_insert_pages(), remap_pfn_range(), vmf_insert_pfn(), vmf_insert_pfn_pmd()
 * and apply_to_page_range(), and zaps them as drivers do.
 *
 * What is mapped are a few pages with known contents, the same for everybody.
 * Mappings are read only, so that they stay known.  test_vm_insert_uapi.h is the
 * interface.
 *
 * Locks: mmap() has the mmap_lock for write.  The ioctls take it for read, as
 * TCP zerocopy receive does, so that they run beside faults and zaps of the same
 * tables; vm_insert_page() accepts that because VM_MIXEDMAP was set by mmap().
 */
#include <linux/fs.h>
#include <linux/gfp.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/pagemap.h>
#include <linux/uaccess.h>

#include "test_vm_insert_uapi.h"

#define NR		TEST_VM_INSERT_NR
#define KIND_SHIFT	(TEST_VM_INSERT_KIND_SHIFT - PAGE_SHIFT)

/* The pages, physically contiguous, each with its own reference count. */
static void *test_vm_insert_mem;

/* Others, contiguous and aligned as a huge page.  NULL if that is too large. */
static void *test_vm_insert_huge;

/* The pages twice, so that NR pages from any of them on are a part of this. */
static struct page *test_vm_insert_pages[2 * NR];

static enum test_vm_insert_kind test_vm_insert_kind(struct vm_area_struct *vma)
{
	return vma->vm_pgoff >> KIND_SHIFT;
}

/* Index of the page that belongs at @addr. */
static unsigned int test_vm_insert_index(struct vm_area_struct *vma,
					 unsigned long addr)
{
	return linear_page_index(vma, addr) % NR;
}

static unsigned long test_vm_insert_pfn(struct vm_area_struct *vma,
					unsigned long addr)
{
	unsigned int i = test_vm_insert_index(vma, addr);

	return page_to_pfn(test_vm_insert_pages[i]);
}

static bool test_vm_insert_is_late(enum test_vm_insert_kind kind)
{
	return kind >= TEST_VM_INSERT_PFN_LATE;
}

/*
 * As for a write: then a pfn that is there already is compared.  The mapping is
 * read only all the same.
 */
static vm_fault_t test_vm_insert_pmd(struct vm_fault *vmf)
{
	unsigned long start = vmf->address & PMD_MASK;

	if (!IS_ENABLED(CONFIG_TRANSPARENT_HUGEPAGE) ||
	    !range_in_vma(vmf->vma, start, start + PMD_SIZE))
		return VM_FAULT_FALLBACK;
	return vmf_insert_pfn_pmd(vmf, page_to_pfn(virt_to_page(test_vm_insert_huge)),
				  true);
}

/* Inserts the page that belongs at the address. */
static vm_fault_t test_vm_insert_pte(struct vm_fault *vmf)
{
	struct vm_area_struct *vma = vmf->vma;
	struct page *page = virt_to_page(test_vm_insert_huge +
					 (vmf->address & ~PMD_MASK));

	if (vma->vm_flags & VM_MIXEDMAP)
		return vmf_insert_page_mkwrite(vmf, page, false);
	return vmf_insert_pfn(vma, vmf->address, page_to_pfn(page));
}

/*
 * A fault that waits here has no lock that keeps others of the range from being
 * faster.  In a mapping of a _LATE kind it does itself what the others do.
 */
static vm_fault_t test_vm_insert_fault(struct vm_fault *vmf)
{
	struct vm_area_struct *vma = vmf->vma;

	switch (test_vm_insert_kind(vma)) {
	case TEST_VM_INSERT_FAULT:
		return vmf_insert_pfn(vma, vmf->address,
				      test_vm_insert_pfn(vma, vmf->address));
	case TEST_VM_INSERT_PFN_LATE:
	case TEST_VM_INSERT_PAGE_LATE:
		test_vm_insert_pmd(vmf);
		fallthrough;
	case TEST_VM_INSERT_HUGE_LATE:
		return test_vm_insert_pte(vmf);
	default:
		return VM_FAULT_SIGBUS;
	}
}

static vm_fault_t test_vm_insert_huge_fault(struct vm_fault *vmf,
					    unsigned int order)
{
	if (order != PMD_ORDER ||
	    test_vm_insert_kind(vmf->vma) != TEST_VM_INSERT_HUGE_LATE)
		return VM_FAULT_FALLBACK;
	test_vm_insert_pte(vmf);
	return test_vm_insert_pmd(vmf);
}

static const struct vm_operations_struct test_vm_insert_ops = {
	.fault = test_vm_insert_fault,
	.huge_fault = test_vm_insert_huge_fault,
};

static int test_vm_insert_mmap(struct file *file, struct vm_area_struct *vma)
{
	enum test_vm_insert_kind kind = test_vm_insert_kind(vma);
	bool late = test_vm_insert_is_late(kind);

	if (kind >= TEST_VM_INSERT_KINDS || (!late && vma_pages(vma) > NR))
		return -EINVAL;
	if (late && !test_vm_insert_huge)
		return -EOPNOTSUPP;
	if (vma->vm_flags & VM_WRITE)
		return -EPERM;

	vm_flags_mod(vma, VM_DONTEXPAND | VM_DONTDUMP, VM_MAYWRITE);
	vma->vm_ops = &test_vm_insert_ops;
	switch (kind) {
	case TEST_VM_INSERT_MIXED:
	case TEST_VM_INSERT_PAGE_LATE:
		vm_flags_set(vma, VM_MIXEDMAP);
		return 0;
	case TEST_VM_INSERT_REMAP:
		/* The pages are contiguous up to the last one. */
		if (test_vm_insert_index(vma, vma->vm_start) + vma_pages(vma) > NR)
			return -EINVAL;
		return remap_pfn_range(vma, vma->vm_start,
				       test_vm_insert_pfn(vma, vma->vm_start),
				       vma->vm_end - vma->vm_start,
				       vma->vm_page_prot);
	default:
		vm_flags_set(vma, VM_PFNMAP | VM_IO);
		return 0;
	}
}

static int test_vm_insert_page(struct vm_area_struct *vma,
			       struct test_vm_insert_cmd *cmd)
{
	unsigned long addr = cmd->addr;
	int ret;

	for (; cmd->done < cmd->nr; cmd->done++, addr += PAGE_SIZE) {
		unsigned int i = test_vm_insert_index(vma, addr);

		ret = vm_insert_page(vma, addr, test_vm_insert_pages[i]);
		if (ret)
			return ret;
	}
	return 0;
}

static int test_vm_insert_batch(struct vm_area_struct *vma,
				struct test_vm_insert_cmd *cmd)
{
	unsigned int i = test_vm_insert_index(vma, cmd->addr);
	unsigned long left = cmd->nr;
	int ret;

	ret = vm_insert_pages(vma, cmd->addr, test_vm_insert_pages + i, &left);
	cmd->done = cmd->nr - left;
	return ret;
}

struct test_vm_insert_walk {
	struct vm_area_struct *vma;
	struct test_vm_insert_cmd *cmd;
};

static int test_vm_insert_entry(pte_t *pte, unsigned long addr, void *data)
{
	struct test_vm_insert_walk *walk = data;
	struct vm_area_struct *vma = walk->vma;
	unsigned long pfn = test_vm_insert_pfn(vma, addr);

	if (!pte_none(ptep_get(pte)))
		return 0;
	set_pte_at(vma->vm_mm, addr, pte,
		   pte_mkspecial(pfn_pte(pfn, vma->vm_page_prot)));
	walk->cmd->done++;
	return 0;
}

static int test_vm_insert_apply(struct vm_area_struct *vma,
				struct test_vm_insert_cmd *cmd)
{
	struct test_vm_insert_walk walk = { .vma = vma, .cmd = cmd };

	return apply_to_page_range(vma->vm_mm, cmd->addr, cmd->nr << PAGE_SHIFT,
				   test_vm_insert_entry, &walk);
}

static int test_vm_insert_no_entry(pte_t *pte, unsigned long addr, void *data)
{
	return 0;
}

static int test_vm_insert_table(struct vm_area_struct *vma,
				struct test_vm_insert_cmd *cmd)
{
	return apply_to_page_range(vma->vm_mm, cmd->addr, cmd->nr << PAGE_SHIFT,
				   test_vm_insert_no_entry, NULL);
}

/* Of memory that is not of the device: a driver or KVM does this. */
static int test_vm_insert_fixup(struct vm_area_struct *vma,
				struct test_vm_insert_cmd *cmd)
{
	unsigned long addr = cmd->addr, end = addr + (cmd->nr << PAGE_SHIFT);
	struct page *page;
	int ret;

	for (; addr < end; addr += PAGE_SIZE) {
		ret = fixup_user_fault(vma->vm_mm, addr, FAULT_FLAG_WRITE, NULL);
		if (ret)
			return ret;
		if (get_user_pages_fast_only(addr, 1, FOLL_WRITE, &page) == 1) {
			put_page(page);
			cmd->done++;
		}
	}
	return 0;
}

/* Only what a walk without a lock finds, and what is in it. */
static int test_vm_insert_fast(struct test_vm_insert_cmd *cmd)
{
	struct page *pages[NR];
	u64 *word;

	cmd->done = get_user_pages_fast_only(cmd->addr, cmd->nr, FOLL_WRITE, pages);
	for (unsigned int i = 0; i < cmd->done; i++) {
		word = kmap_local_page(pages[i]);
		cmd->sum += READ_ONCE(*word);
		kunmap_local(word);
		put_page(pages[i]);
	}
	return 0;
}

static long test_vm_insert_locked(struct mm_struct *mm, unsigned int nr,
				  struct test_vm_insert_cmd *cmd)
{
	unsigned long len = cmd->nr << PAGE_SHIFT;
	struct vm_area_struct *vma;
	bool other = nr == TEST_VM_INSERT_FIXUP || nr == TEST_VM_INSERT_FAST;
	enum test_vm_insert_kind kind;
	bool mixed, late, ours;

	vma = vma_lookup(mm, cmd->addr);
	ours = vma && vma->vm_ops == &test_vm_insert_ops;
	if (!vma || (ours == other && nr != TEST_VM_INSERT_TABLE) ||
	    !range_in_vma(vma, cmd->addr, cmd->addr + len))
		return -ENXIO;
	kind = test_vm_insert_kind(vma);
	mixed = kind == TEST_VM_INSERT_MIXED;
	late = ours && test_vm_insert_is_late(kind);

	switch (nr) {
	case TEST_VM_INSERT_PAGE:
		return mixed ? test_vm_insert_page(vma, cmd) : -EINVAL;
	case TEST_VM_INSERT_PAGES:
		return mixed ? test_vm_insert_batch(vma, cmd) : -EINVAL;
	case TEST_VM_INSERT_APPLY:
		return mixed || late ? -EINVAL : test_vm_insert_apply(vma, cmd);
	case TEST_VM_INSERT_ZAP:
		zap_special_vma_range(vma, cmd->addr, len);
		return 0;
	case TEST_VM_INSERT_FIXUP:
		return test_vm_insert_fixup(vma, cmd);
	case TEST_VM_INSERT_FAST:
		return test_vm_insert_fast(cmd);
	case TEST_VM_INSERT_TABLE:
		return late || !ours ? test_vm_insert_table(vma, cmd) : -EINVAL;
	default:
		return -ENOTTY;
	}
}

static long test_vm_insert_ioctl(struct file *file, unsigned int nr,
				 unsigned long arg)
{
	struct test_vm_insert_cmd __user *uarg = (void __user *)arg;
	struct mm_struct *mm = current->mm;
	struct test_vm_insert_cmd cmd;
	long ret;

	if (copy_from_user(&cmd, uarg, sizeof(cmd)))
		return -EFAULT;
	if (!PAGE_ALIGNED(cmd.addr) || !cmd.nr || cmd.nr > NR)
		return -EINVAL;
	cmd.done = 0;
	cmd.sum = 0;

	mmap_read_lock(mm);
	ret = test_vm_insert_locked(mm, nr, &cmd);
	mmap_read_unlock(mm);

	if (copy_to_user(uarg, &cmd, sizeof(cmd)))
		return -EFAULT;
	return ret;
}

static const struct file_operations test_vm_insert_fops = {
	.owner		= THIS_MODULE,
	.mmap		= test_vm_insert_mmap,
	.unlocked_ioctl	= test_vm_insert_ioctl,
	.llseek		= noop_llseek,
};

static struct miscdevice test_vm_insert_misc = {
	.minor	= MISC_DYNAMIC_MINOR,
	.name	= "test_vm_insert",
	.fops	= &test_vm_insert_fops,
};

/* Split, so that each page can be inserted by itself. */
static void __init test_vm_insert_init_huge(void)
{
	unsigned long i;

	if (!IS_ENABLED(CONFIG_TRANSPARENT_HUGEPAGE) || PMD_SIZE > SZ_32M)
		return;
	test_vm_insert_huge = alloc_pages_exact(PMD_SIZE, GFP_KERNEL | __GFP_ZERO |
						__GFP_NOWARN);
	if (!test_vm_insert_huge)
		return;
	for (i = 0; i < PTRS_PER_PTE; i++) {
		u64 *word = test_vm_insert_huge + i * PAGE_SIZE;

		*word = TEST_VM_INSERT_MAGIC + i;
	}
}

static void test_vm_insert_free(void)
{
	free_pages_exact(test_vm_insert_mem, NR * PAGE_SIZE);
	if (test_vm_insert_huge)
		free_pages_exact(test_vm_insert_huge, PMD_SIZE);
}

static int __init test_vm_insert_init(void)
{
	unsigned int i;
	int ret;

	test_vm_insert_mem = alloc_pages_exact(NR * PAGE_SIZE,
					       GFP_KERNEL | __GFP_ZERO);
	if (!test_vm_insert_mem)
		return -ENOMEM;
	for (i = 0; i < NR; i++) {
		u64 *word = test_vm_insert_mem + i * PAGE_SIZE;

		*word = TEST_VM_INSERT_MAGIC + i;
		test_vm_insert_pages[i] = virt_to_page(word);
		test_vm_insert_pages[NR + i] = test_vm_insert_pages[i];
	}
	test_vm_insert_init_huge();
	ret = misc_register(&test_vm_insert_misc);
	if (ret)
		test_vm_insert_free();
	return ret;
}

/* A mapping holds the module. */
static void __exit test_vm_insert_exit(void)
{
	misc_deregister(&test_vm_insert_misc);
	test_vm_insert_free();
}

module_init(test_vm_insert_init);
module_exit(test_vm_insert_exit);
MODULE_DESCRIPTION("Test driver that fills user page tables");
MODULE_LICENSE("GPL");
