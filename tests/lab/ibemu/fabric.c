// SPDX-License-Identifier: GPL-2.0
/* ibemu: the wire between the ports */
#include "ibemu.h"

DEFINE_SPINLOCK(fab_lock);
struct em_fn *fab_lid[1 << EM_NODE_SHIFT];
LIST_HEAD(fab_members);
DEFINE_XARRAY_FLAGS(fab_qps, XA_FLAGS_ALLOC | XA_FLAGS_LOCK_IRQ);
static u8 fab_buf[4096];

/* ---- delivery ------------------------------------------------------------ */

bool em_connected(const struct em_qp *qp)
{
	return em_state(qp->fn) == IB_PORT_ACTIVE && qp->attr.port_num != 2;
}

bool em_listens(const struct em_qp *qp)
{
	return qp && qp->state >= IB_QPS_RTR && qp->state <= IB_QPS_SQE && em_connected(qp);
}

/* Put a message in the next receive buffer, at offset off (40: after a GRH). */
static enum ib_wc_status em_recv(struct em_qp *dst, const struct em_src *src, u32 off,
				 const struct ib_grh *grh, struct ib_wc *wc, bool solicited)
{
	struct em_src d = { .qp = dst };
	struct em_rwqe *w;
	u32 done, part;

	if (dst->head == dst->tail)
		return IB_WC_RNR_RETRY_EXC_ERR;
	w = &dst->rq[dst->tail++ % dst->size];
	d.sge = w->sge;
	d.n = w->n;
	wc->wr_id = w->wr_id;
	wc->qp = &dst->ibqp;
	wc->port_num = 1;
	wc->byte_len = off + src->len;
	wc->status = IB_WC_SUCCESS;
	if (grh) {
		wc->wc_flags |= IB_WC_GRH;
		if (em_sg(&d, 0, (void *)grh, sizeof(*grh), true))
			wc->status = IB_WC_LOC_LEN_ERR;
	}
	for (done = 0; done < src->len && !wc->status; done += part) {
		part = min_t(u32, src->len - done, sizeof(fab_buf));
		if (em_sg(src, done, fab_buf, part, false))
			wc->status = IB_WC_GENERAL_ERR;
		else if (em_sg(&d, off + done, fab_buf, part, true))
			wc->status = IB_WC_LOC_LEN_ERR;
	}
	dst->fn->rx_pkts++;
	dst->fn->rx_bytes += src->len;
	em_complete(dst->ibqp.recv_cq, wc, solicited);
	return wc->status;
}

/* ---- sending ------------------------------------------------------------- */

u16 em_qp_pkey(const struct em_qp *qp)
{
	return em_pkey(qp->fn, qp->attr.pkey_index);
}

/* The function of this kernel that has the LID. */
struct em_fn *em_route(u32 lid)
{
	return lid >> EM_NODE_SHIFT == em_node ? fab_lid[EM_SLOT(lid)] : NULL;
}

static bool em_is_multicast(u16 lid)
{
	return lid >= be16_to_cpu(IB_MULTICAST_LID_BASE);
}

/* Whether a datagram is in a partition of its receiver; the index of the P_Key that says so, -1 if not. */
static int em_pkey_of(const struct em_qp *qp, u16 pkey)
{
	struct em_port port;

	if (qp->ibqp.qp_type != IB_QPT_GSI)
		return em_pkeys_match(em_qp_pkey(qp), pkey) ? 0 : -1;
	em_port_of(qp->fn, &port);		/* any entry will do */
	return em_find_pkey(&port, pkey);
}

/* Give a datagram to our QPs, but not to the one that sent it. */
void em_deliver_ud(const struct em_pkt *p, const struct em_src *src, const struct em_qp *from)
{
	const struct ib_grh *grh = p->flags & EM_GRH ? &p->grh : NULL;
	bool solicited = p->flags & EM_SOLICITED;
	struct ib_wc wc = {
		.opcode = IB_WC_RECV,
		.src_qp = p->sqpn,
		.slid = p->slid,
		.sl = p->sl,
		.wc_flags = p->flags & EM_IMM ? IB_WC_WITH_IMM : 0,
		.ex.imm_data = p->imm,
	};
	struct em_fn *to;
	struct em_member *m;
	struct em_qp *dst;
	int index = 0;

	if (em_is_multicast(p->dlid)) {
		list_for_each_entry(m, &fab_members, list) {
			struct ib_wc copy = wc;

			if (!grh || m->qp == from || memcmp(&m->gid, &grh->dgid, 16) ||
			    !em_listens(m->qp) || m->qp->attr.qkey != p->qkey || em_pkey_of(m->qp, p->pkey) < 0)
				continue;
			m->qp->fn->rx_mcast++;
			em_recv(m->qp, src, sizeof(*grh), grh, &copy, solicited);
		}
		return;
	}
	if (p->dlid == EM_SM_LID) {
		em_sa(p, src);
		return;
	}
	to = em_route(p->dlid);
	if (!to)
		return;
	dst = p->dqpn == 1 ? to->gsi : xa_load(&fab_qps, p->dqpn);
	if (!em_listens(dst) || dst->fn != to || dst->ibqp.qp_type == IB_QPT_RC)
		return;
	if (p->slid != EM_SM_LID) {		/* the subnet manager's answers always arrive */
		index = em_pkey_of(dst, p->pkey);
		if (index < 0 || dst->attr.qkey != p->qkey)
			return;
	}
	wc.pkey_index = index;
	em_recv(dst, src, sizeof(*grh), grh, &wc, solicited);
}

/* Send a datagram where its LID leads. */
void em_route_ud(const struct em_pkt *p, const struct em_src *src, const struct em_qp *from)
{
	bool all = em_is_multicast(p->dlid);
	int i, node = p->dlid == EM_SM_LID ? em_sa_node() : p->dlid >> EM_NODE_SHIFT;

	for (i = 0; i < EM_NODES; i++)
		if (all || i == node)
			em_send(em_peers[i], p, src);
	if (all || node == em_node)
		em_deliver_ud(p, src, from);
}

enum ib_wc_status em_xmit_ud(struct em_qp *qp, const struct ib_send_wr *wr,
				    const struct em_src *src)
{
	const struct ib_ud_wr *ud = ud_wr(wr);
	const struct rdma_ah_attr *ah = &TO(em_ah, ibah, ud->ah)->attr;
	struct em_fn *fn = qp->fn;
	struct em_pkt p = {
		.op = EM_UD,
		.flags = (wr->opcode == IB_WR_SEND_WITH_IMM ? EM_IMM : 0) |
			 (wr->send_flags & IB_SEND_SOLICITED ? EM_SOLICITED : 0),
		.slid = fn->lid,
		.dlid = rdma_ah_get_dlid(ah),
		.sl = rdma_ah_get_sl(ah),
		.pkey = qp == fn->gsi ? em_pkey(fn, ud->pkey_index) : em_qp_pkey(qp),
		.sqpn = qp->ibqp.qp_num,
		.dqpn = ud->remote_qpn,
		.qkey = ud->remote_qkey & 0x80000000 ? qp->attr.qkey : ud->remote_qkey,
		.len = src->len,
		.imm = wr->ex.imm_data,
	};

	if (wr->opcode != IB_WR_SEND && wr->opcode != IB_WR_SEND_WITH_IMM)
		return IB_WC_LOC_QP_OP_ERR;
	if (src->len > sizeof(fab_buf))
		return IB_WC_LOC_LEN_ERR;
	if (em_sg(src, 0, fab_buf, src->len, false))
		return IB_WC_LOC_PROT_ERR;
	if (!em_connected(qp))
		return IB_WC_SUCCESS;		/* unreliable: lost */
	if (rdma_ah_get_ah_flags(ah) & IB_AH_GRH) {
		const struct ib_global_route *r = rdma_ah_read_grh(ah);

		p.flags |= EM_GRH;
		p.grh = (struct ib_grh){
			.version_tclass_flow = cpu_to_be32(6 << 28 | r->traffic_class << 20 | r->flow_label),
			.paylen = cpu_to_be16(src->len + 24),
			.next_hdr = 0x1b,
			.hop_limit = r->hop_limit,
			.dgid = r->dgid,
		};
		em_gid(fn, &p.grh.sgid);
	}
	fn->tx_pkts++;
	fn->tx_bytes += src->len;
	em_route_ud(&p, src, qp);
	return IB_WC_SUCCESS;
}

/* To a QP of this kernel, at once. */
enum ib_wc_status em_xmit_rc(struct em_qp *qp, const struct ib_send_wr *wr,
				    const struct em_src *src)
{
	struct em_qp *dst = xa_load(&fab_qps, qp->attr.dest_qp_num);
	bool imm = wr->opcode == IB_WR_SEND_WITH_IMM || wr->opcode == IB_WR_RDMA_WRITE_WITH_IMM;
	bool send = wr->opcode == IB_WR_SEND || wr->opcode == IB_WR_SEND_WITH_IMM;
	bool read = wr->opcode == IB_WR_RDMA_READ;
	struct em_src none = {};
	struct ib_wc wc = {
		.opcode = send ? IB_WC_RECV : IB_WC_RECV_RDMA_WITH_IMM,
		.src_qp = qp->ibqp.qp_num,
		.slid = qp->fn->lid,
		.wc_flags = imm ? IB_WC_WITH_IMM : 0,
		.ex.imm_data = wr->ex.imm_data,
	};
	u32 done, part;

	if (!em_connected(qp) || !em_listens(dst) ||
	    dst->ibqp.qp_type != IB_QPT_RC || dst->fn != em_route(qp->dlid) ||
	    dst->attr.dest_qp_num != qp->ibqp.qp_num ||
	    !em_pkeys_match(em_qp_pkey(qp), em_qp_pkey(dst)))
		return IB_WC_RETRY_EXC_ERR;
	qp->fn->tx_pkts++;
	qp->fn->tx_bytes += src->len;
	if (send)
		return em_recv(dst, src, 0, NULL, &wc, wr->send_flags & IB_SEND_SOLICITED);
	if (!read && wr->opcode != IB_WR_RDMA_WRITE && wr->opcode != IB_WR_RDMA_WRITE_WITH_IMM)
		return IB_WC_LOC_QP_OP_ERR;
	for (done = 0; done < src->len; done += part) {
		u64 addr = rdma_wr(wr)->remote_addr + done;
		u32 key = rdma_wr(wr)->rkey;

		part = min_t(u32, src->len - done, sizeof(fab_buf));
		if (read ? em_mem(true, key, addr, fab_buf, part, false) ||
			   em_sg(src, done, fab_buf, part, true) :
			   em_sg(src, done, fab_buf, part, false) ||
			   em_mem(true, key, addr, fab_buf, part, true))
			return IB_WC_REM_ACCESS_ERR;
	}
	if (imm) {
		none.len = 0;
		return em_recv(dst, &none, 0, NULL, &wc, wr->send_flags & IB_SEND_SOLICITED);
	}
	return IB_WC_SUCCESS;
}
