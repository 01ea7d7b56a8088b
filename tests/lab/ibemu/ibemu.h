/* SPDX-License-Identifier: GPL-2.0 */
/*
 * ibemu - an emulated InfiniBand HCA with PCI SR-IOV, for tests.
 *
 * The module makes software PCI root buses, each with one physical function
 * that has a real SR-IOV capability; every function it binds becomes an
 * ib_device with one InfiniBand port.  All functions hang on one software
 * fabric with a built-in subnet administrator, so the kernel's own ib_core,
 * IPoIB, uverbs and RDMA CM run on top unchanged.  Only hardware, firmware and
 * wire are emulated.
 */
#ifndef IBEMU_H
#define IBEMU_H

#include <linux/module.h>
#include <linux/version.h>
#include <linux/pci.h>
#include <linux/delay.h>
#include <linux/if_link.h>
#include <linux/xarray.h>
#include <rdma/ib_verbs.h>
#include <rdma/ib_cache.h>
#include <rdma/ib_mad.h>
#include <rdma/ib_sa.h>
#include <rdma/ib_umem.h>
#include <rdma/uverbs_ioctl.h>

#include "compat.h"

#define EM_VENDOR	0xe1b0
#define EM_PF_ID	0x0001
#define EM_VF_ID	0x0002
#define EM_MAX_PF	4
#define EM_MAX_VF	64
#define EM_MAX_PLAIN	4
#define EM_SGE		20
#define EM_MAX_WR	16384
#define EM_SM_LID	1
#define EM_NO_LID	0xffff		/* what a ConnectX's VF shows that no subnet manager serves */
#define EM_QKEY		0x0b1b
#define EM_PKEYS	8
#define EM_PKEY		0xffff
#define EM_CFG_LEN	0x140
#define EM_EXP_POS	0x40
#define EM_IOV_POS	0x100
#define EM_GROUPS	256

/* ---- knobs --------------------------------------------------------------- */

/* Module parameters, each in the file that reads it; a mask has bit N for VF N of every PF. */
typedef unsigned long long ullong;
#define KNOB(name, type, val, mode, text)			\
	static type name = val;					\
	module_param(name, type, mode);				\
	MODULE_PARM_DESC(name, text)

#define HIT(mask, vf)	((vf) >= 0 && ((mask) >> (vf) & 1))

/* ---- objects ------------------------------------------------------------- */

struct em_vfcfg {			/* what the PF's firmware holds per VF */
	u64 node_guid, port_guid;
	bool node_set, port_set;
	int state;
};

struct em_hca {
	struct pci_sysdata sd;		/* first: bus->sysdata is the hca */
	struct pci_bus *bus;
	struct resource busn;
	int id;
	u8 cfg[1 + EM_MAX_VF + EM_MAX_PLAIN][EM_CFG_LEN];	/* config space: PF, VF 0, ... */
	struct em_vfcfg vf[EM_MAX_VF];
};

struct em_fn {				/* one bound function */
	struct ib_device ibdev;
	struct pci_dev *pdev;
	struct em_hca *hca;
	int vf;				/* -1: the PF, or plain */
	bool plain;			/* neither PF nor VF, as a guest sees its VF */
	bool ethernet;			/* its link layer */
	bool no_netdev;
	u16 lid;
	u64 node_guid, port_guid;
	bool registered;		/* under fab_lock: may get events */
	bool served, keyed;		/* the subnet manager brought up the port, set the P_Keys */
	struct delayed_work late, serve, key;
	struct em_qp *gsi;
	u64 tx_pkts, tx_bytes, rx_pkts, rx_bytes, rx_mcast;
};

struct em_cq {
	struct ib_cq ibcq;
	struct ib_wc *ring;
	u32 head, tail, size;
	int notify;
};

struct em_rwqe {
	u64 wr_id;
	int n;
	struct ib_sge sge[EM_SGE];
};

struct em_qp {
	struct ib_qp ibqp;
	struct em_fn *fn;
	enum ib_qp_state state;
	struct ib_qp_init_attr init;
	struct ib_qp_attr attr;
	u16 dlid;
	u32 head, tail, size;
	struct em_rwqe *rq;
};

struct em_mr {
	struct ib_mr ibmr;
	struct ib_umem *umem;
	u64 iova, len;
};

struct em_ah {
	struct ib_ah ibah;
	struct rdma_ah_attr attr;
};

struct em_pd { struct ib_pd ibpd; };
struct em_uctx { struct ib_ucontext ibuc; };

struct em_member {			/* one QP attached to a group */
	struct list_head list;
	struct em_qp *qp;
	union ib_gid gid;
};

struct em_src {				/* bytes to be delivered */
	struct em_qp *qp;		/* NULL: kernel memory */
	const struct ib_sge *sge;
	int n;
	u32 len;
};

#define TO(type, field, x) container_of(x, struct type, field)

/* ---- between the files --------------------------------------------------- */

/* One lock for the whole fabric: QPs, CQs, groups, LIDs. */
extern spinlock_t fab_lock;
extern struct em_fn *fab_lid[EM_MAX_PF * 0x100];
extern struct list_head fab_members;
extern struct xarray fab_qps;

/* port.c */
u16 em_pkey(const struct em_fn *fn, u32 index);
bool em_pkeys_match(u16 a, u16 b);
int em_find_pkey(const struct em_fn *fn, u16 key);
bool em_is_pf(const struct em_fn *fn);
enum ib_port_state em_state(const struct em_fn *fn);
void em_gid(const struct em_fn *fn, union ib_gid *gid);
void em_init_port(struct em_fn *fn);
void em_start_port(struct em_fn *fn);
void em_change_link(struct em_fn *fn);
void em_stop_port(struct em_fn *fn);

/* memory.c */
extern const struct ib_device_ops em_memory_ops;
int em_mem(bool user, u32 key, u64 addr, void *buf, u32 len, bool to_mem);
int em_sg(const struct em_src *s, u32 off, void *buf, u32 len, bool to_mem);

/* queue.c */
extern const struct ib_device_ops em_queue_ops;
void em_complete(struct ib_cq *ibcq, const struct ib_wc *wc, bool solicited);

/* fabric.c */
struct em_fn *em_route(u32 lid);
bool em_listens(const struct em_qp *qp);
enum ib_wc_status em_recv(struct em_qp *dst, const struct em_src *src, u32 off,
			  const struct ib_grh *grh, struct ib_wc *wc, bool solicited);
enum ib_wc_status em_xmit_ud(struct em_qp *qp, const struct ib_send_wr *wr,
			     const struct em_src *src);
enum ib_wc_status em_xmit_rc(struct em_qp *qp, const struct ib_send_wr *wr,
			     const struct em_src *src);

/* sa.c */
void em_sa(struct em_fn *fn, const struct em_src *req);

/* device.c, pf.c */
extern const struct ib_device_ops em_device_ops, em_pf_ops;

/* bus.c */
int em_add_hcas(void);
void em_del_hcas(void);

#endif
