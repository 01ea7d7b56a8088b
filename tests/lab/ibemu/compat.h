/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What differs between kernels and machine types.  Built against Linux 5.10,
 * 6.1, 6.12 and 7.2 for x86-64, and 6.12 for arm64; between those, the exact
 * versions of a change are guesses.
 */
#ifndef IBEMU_COMPAT_H
#define IBEMU_COMPAT_H

#include <linux/version.h>
#include <linux/pci.h>
#include <rdma/ib_verbs.h>
#include <rdma/ib_umem.h>
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 12, 0)
#include <linux/unaligned.h>
#else
#include <asm/unaligned.h>
#endif

/* Where the number of a root bus's PCI domain is kept. */
#ifdef CONFIG_PCI_DOMAINS_GENERIC
struct em_sysdata { };
static inline void em_set_domain(struct pci_host_bridge *bridge, struct em_sysdata *sd, int domain)
{
	bridge->domain_nr = domain;
}
#else
#define em_sysdata pci_sysdata
static inline void em_set_domain(struct pci_host_bridge *bridge, struct em_sysdata *sd, int domain)
{
	sd->domain = domain;
	sd->node = NUMA_NO_NODE;
}
#endif

#if LINUX_VERSION_CODE < KERNEL_VERSION(5, 13, 0)
typedef u8 em_port_t;
#else
typedef u32 em_port_t;
#endif

#if LINUX_VERSION_CODE < KERNEL_VERSION(5, 11, 0)
#define IB_QP_ATTR_STANDARD_BITS GENMASK(20, 0)
/* The core offers a command only if the driver says so. */
#define EM_COMMAND(name) BIT_ULL(IB_USER_VERBS_CMD_##name)
#define EM_UVERBS_COMMANDS (							\
	EM_COMMAND(GET_CONTEXT) | EM_COMMAND(QUERY_DEVICE) | EM_COMMAND(QUERY_PORT) |	\
	EM_COMMAND(ALLOC_PD) | EM_COMMAND(DEALLOC_PD) | EM_COMMAND(CREATE_AH) |	\
	EM_COMMAND(QUERY_AH) | EM_COMMAND(DESTROY_AH) | EM_COMMAND(REG_MR) |		\
	EM_COMMAND(DEREG_MR) | EM_COMMAND(CREATE_COMP_CHANNEL) | EM_COMMAND(CREATE_CQ) |	\
	EM_COMMAND(DESTROY_CQ) | EM_COMMAND(POLL_CQ) | EM_COMMAND(REQ_NOTIFY_CQ) |	\
	EM_COMMAND(CREATE_QP) | EM_COMMAND(QUERY_QP) | EM_COMMAND(MODIFY_QP) |		\
	EM_COMMAND(DESTROY_QP) | EM_COMMAND(POST_SEND) | EM_COMMAND(POST_RECV) |	\
	EM_COMMAND(ATTACH_MCAST) | EM_COMMAND(DETACH_MCAST))
#else
#define EM_UVERBS_COMMANDS (							\
	BIT_ULL(IB_USER_VERBS_CMD_POLL_CQ) | BIT_ULL(IB_USER_VERBS_CMD_POST_RECV) |	\
	BIT_ULL(IB_USER_VERBS_CMD_POST_SEND) | BIT_ULL(IB_USER_VERBS_CMD_REQ_NOTIFY_CQ))
#endif

#if LINUX_VERSION_CODE < KERNEL_VERSION(5, 15, 0)
static inline struct sg_table *em_umem_table(struct ib_umem *umem)
{
	return &umem->sg_head;
}

static inline unsigned int em_umem_nents(struct ib_umem *umem)
{
	return umem->sg_nents;
}
#else
static inline struct sg_table *em_umem_table(struct ib_umem *umem)
{
	return &umem->sgt_append.sgt;
}

static inline unsigned int em_umem_nents(struct ib_umem *umem)
{
	return umem->sgt_append.sgt.orig_nents;
}
#endif

#if LINUX_VERSION_CODE < KERNEL_VERSION(5, 18, 0)
/* VF n is routing ID n + 1 of its domain (em_cfg). */
static inline int pci_iov_vf_id(struct pci_dev *pdev)
{
	return (pdev->bus->number << 8 | pdev->devfn) - 1;
}
#endif

static inline void em_set_kernel_caps(struct ib_device_attr *a, bool is_vf)
{
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 0, 0)
	a->device_cap_flags |= IB_DEVICE_LOCAL_DMA_LKEY | (is_vf ? IB_DEVICE_VIRTUAL_FUNCTION : 0);
#else
	a->kernel_cap_flags = IBK_LOCAL_DMA_LKEY | (is_vf ? IBK_VIRTUAL_FUNCTION : 0);
#endif
}

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 3, 0)
#define ib_virt_dma_to_ptr(addr) ((void *)(uintptr_t)(addr))
#endif
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 11, 0)
#define em_cq_args ib_udata
#else
#define em_cq_args uverbs_attr_bundle
#endif
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 17, 0)
#define DMAH_ARG struct ib_dmah *dmah,
#else
#define DMAH_ARG
#endif
#if LINUX_VERSION_CODE >= KERNEL_VERSION(7, 2, 0)
#define ib_umem_get ib_umem_get_va
#endif

#endif
