/* SPDX-License-Identifier: GPL-2.0 */
/*
 * ibemu - an emulated InfiniBand HCA with PCI SR-IOV, for tests.
 *
 * The module makes software PCI root buses, each with one physical function
 * that has a real SR-IOV capability; every function it binds becomes an
 * ib_device with one InfiniBand port.  All functions hang on one software
 * fabric with a built-in subnet administrator, so the kernel's own ib_core,
 * IPoIB, uverbs and RDMA CM run on top unchanged.  Only hardware, firmware and
 * wire are emulated.  Several kernels may share one fabric (peer.c).
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
#define EM_SUBNET	0xfe80000000000000ULL
#define EM_NODES	32		/* kernels in a fabric */
#define EM_NODE_SHIFT	10		/* a LID is node, PF (2 bits), function (8 bits) */
#define EM_SLOT(lid)	((lid) & ((1 << EM_NODE_SHIFT) - 1))
#define EM_PART		32768		/* most data in a packet between kernels */

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
	struct em_sysdata sd;		/* first: bus->sysdata is the hca */
	struct pci_host_bridge *bridge;
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

struct em_swqe {			/* of an RC QP, to another kernel */
	u64 wr_id, addr;
	u32 rkey, len;
	__be32 imm;
	u8 op, flags;
	bool signaled, fence;
	int n;
	struct ib_sge sge[EM_SGE];
};

struct em_far {				/* an RC QP's way to and from another kernel */
	struct list_head work;		/* in the peer's list, while there is something to send */
	struct em_swqe *sq;
	u32 head, next, tail, size;	/* posted, to be sent, to be answered: counts of messages */
	u32 sent;			/* bytes of next */
	int rnr;			/* how often the oldest was refused */
	unsigned long again;		/* then: not before */
	u32 msn, got;			/* the message that is to come, its bytes so far */
	bool refused;			/* no receive buffer: it comes again */
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
	struct em_far far;
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

struct em_port {			/* as the subnet manager sees it */
	u64 guid;
	u16 lid;
	u16 pkey[EM_PKEYS];
};

/* A packet: a datagram, or what goes between kernels, with len bytes that follow. */
enum { EM_PORTS = 1, EM_UD, EM_SEND, EM_WRITE, EM_READ, EM_DATA, EM_ACK };
enum { EM_GRH = 1, EM_IMM = 2, EM_SOLICITED = 4 };

struct em_pkt {
	u8 op, flags, status, sl;
	u16 slid, dlid, pkey;
	u32 sqpn, dqpn, qkey, len;
	__be32 imm;
	u32 msn, off, total;		/* RC: message, place in it, its length */
	u32 rkey;
	u64 addr;
	struct ib_grh grh;
};

struct em_peer {			/* another kernel of the fabric; under fab_lock */
	int node;
	bool linked, up;		/* there is a connection; the peer has told its ports */
	bool told, kick, broken;	/* it knows ours; there is something to send; start anew */
	wait_queue_head_t wait;
	struct list_head queue, qps;	/* struct em_msg; struct em_qp */
	u32 queued;
	int nports;
	struct em_port port[EM_MAX_PF * (1 + EM_MAX_VF)];
};

#define TO(type, field, x) container_of(x, struct type, field)

/* ---- between the files --------------------------------------------------- */

/* One lock for the whole fabric: QPs, CQs, groups, LIDs. */
extern spinlock_t fab_lock;
extern struct em_fn *fab_lid[1 << EM_NODE_SHIFT];	/* by EM_SLOT */
extern struct list_head fab_members;
extern struct xarray fab_qps;

/* port.c */
u16 em_pkey(const struct em_fn *fn, u32 index);
bool em_pkeys_match(u16 a, u16 b);
int em_find_pkey(const struct em_port *port, u16 key);
void em_event(struct em_fn *fn, enum ib_event_type type);
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
void em_set_error(struct em_qp *qp);

/* fabric.c */
struct em_fn *em_route(u32 lid);
u16 em_qp_pkey(const struct em_qp *qp);
bool em_connected(const struct em_qp *qp);
bool em_listens(const struct em_qp *qp);
void em_deliver_ud(const struct em_pkt *p, const struct em_src *src, const struct em_qp *from);
void em_route_ud(const struct em_pkt *p, const struct em_src *src, const struct em_qp *from);
enum ib_wc_status em_xmit_ud(struct em_qp *qp, const struct ib_send_wr *wr,
			     const struct em_src *src);
enum ib_wc_status em_xmit_rc(struct em_qp *qp, const struct ib_send_wr *wr,
			     const struct em_src *src);

/* sa.c */
void em_sa(const struct em_pkt *p, const struct em_src *req);

/* remote.c */
int em_init_far(struct em_qp *qp);
void em_reset_far(struct em_qp *qp);
void em_flush_far(struct em_qp *qp);
int em_post_far(struct em_qp *qp, const struct ib_send_wr *wr, u32 len);
u32 em_take_rc(struct em_peer *p, struct em_pkt *k, u8 *data);
void em_take_in_rc(const struct em_pkt *k, void *data);
void em_fail_rc(struct em_peer *p);

/* peer.c */
extern uint em_node;
extern struct em_peer *em_peers[EM_NODES];
__be32 em_address(int node);
struct em_peer *em_peer(u32 lid);
int em_init_peers(void);
void em_free_peers(void);
void em_port_of(const struct em_fn *fn, struct em_port *port);
bool em_find_port(u32 lid, const union ib_gid *gid, struct em_port *port);
void em_tell_ports(void);
int em_sa_node(void);
void em_kick(struct em_peer *p);
void em_send(struct em_peer *p, const struct em_pkt *pkt, const struct em_src *src);
u32 em_take(struct em_peer *p, struct em_pkt *k, u8 *data);
void em_take_in(struct em_peer *p, const struct em_pkt *k, void *data);
void em_link_up(struct em_peer *p);
void em_link_down(struct em_peer *p);

/* wire.c */
int em_start_wire(void);
void em_stop_wire(void);

/* device.c, pf.c */
extern const struct ib_device_ops em_device_ops, em_pf_ops;

/* driver.c */
u64 em_base_guid(const struct em_hca *hca);

/* bus.c */
int em_add_hcas(void);
void em_del_hcas(void);

#endif
