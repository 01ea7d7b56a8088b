// SPDX-License-Identifier: GPL-2.0
/* ibemu: the wire between the ports */
#include "ibemu.h"

DEFINE_SPINLOCK(fab_lock);
struct em_fn *fab_lid[EM_MAX_PF * 0x100];
LIST_HEAD(fab_members);
DEFINE_XARRAY_FLAGS(fab_qps, XA_FLAGS_ALLOC | XA_FLAGS_LOCK_IRQ);
static u8 fab_buf[4096];

/* ---- delivery ------------------------------------------------------------ */

static bool em_connected(const struct em_qp *qp)
{
	return em_state(qp->fn) == IB_PORT_ACTIVE && qp->attr.port_num != 2;
}

bool em_listens(const struct em_qp *qp)
{
	return qp && qp->state >= IB_QPS_RTR && qp->state <= IB_QPS_SQE && em_connected(qp);
}

/* Put a message in the next receive buffer, at offset off (40: after a GRH). */
enum ib_wc_status em_recv(struct em_qp *dst, const struct em_src *src, u32 off,
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

static u16 em_qp_pkey(const struct em_qp *qp)
{
	return em_pkey(qp->fn, qp->attr.pkey_index);
}

struct em_fn *em_route(u32 lid)
{
	return lid < ARRAY_SIZE(fab_lid) ? fab_lid[lid] : NULL;
}

enum ib_wc_status em_xmit_ud(struct em_qp *qp, const struct ib_send_wr *wr,
				    const struct em_src *src)
{
	const struct ib_ud_wr *ud = ud_wr(wr);
	const struct rdma_ah_attr *ah = &TO(em_ah, ibah, ud->ah)->attr;
	u32 dlid = rdma_ah_get_dlid(ah), qkey = ud->remote_qkey;
	bool solicited = wr->send_flags & IB_SEND_SOLICITED;
	struct ib_grh grh, *g = NULL;
	struct em_fn *fn = qp->fn, *to;
	struct em_member *m;
	struct em_qp *dst;
	u16 pkey = qp == fn->gsi ? em_pkey(fn, ud->pkey_index) : em_qp_pkey(qp);
	int index = 0;
	struct ib_wc wc = {
		.opcode = IB_WC_RECV,
		.src_qp = qp->ibqp.qp_num,
		.slid = fn->lid,
		.sl = rdma_ah_get_sl(ah),
		.wc_flags = wr->opcode == IB_WR_SEND_WITH_IMM ? IB_WC_WITH_IMM : 0,
		.ex.imm_data = wr->ex.imm_data,
	};

	if (wr->opcode != IB_WR_SEND && wr->opcode != IB_WR_SEND_WITH_IMM)
		return IB_WC_LOC_QP_OP_ERR;
	if (src->len > sizeof(fab_buf))
		return IB_WC_LOC_LEN_ERR;
	if (em_sg(src, 0, fab_buf, src->len, false))
		return IB_WC_LOC_PROT_ERR;
	if (!em_connected(qp))
		return IB_WC_SUCCESS;		/* unreliable: lost */
	if (qkey & 0x80000000)
		qkey = qp->attr.qkey;
	if (rdma_ah_get_ah_flags(ah) & IB_AH_GRH) {
		const struct ib_global_route *r = rdma_ah_read_grh(ah);

		grh = (struct ib_grh){
			.version_tclass_flow = cpu_to_be32(6 << 28 | r->traffic_class << 20 | r->flow_label),
			.paylen = cpu_to_be16(src->len + 24),
			.next_hdr = 0x1b,
			.hop_limit = r->hop_limit,
			.dgid = r->dgid,
		};
		em_gid(fn, &grh.sgid);
		g = &grh;
	}
	fn->tx_pkts++;
	fn->tx_bytes += src->len;

	if (dlid >= be16_to_cpu(IB_MULTICAST_LID_BASE)) {
		list_for_each_entry(m, &fab_members, list) {
			struct ib_wc copy = wc;

			if (!g || m->qp == qp || memcmp(&m->gid, &g->dgid, 16) ||
			    !em_listens(m->qp) || m->qp->attr.qkey != qkey ||
			    !em_pkeys_match(em_qp_pkey(m->qp), pkey))
				continue;
			m->qp->fn->rx_mcast++;
			em_recv(m->qp, src, sizeof(grh), g, &copy, solicited);
		}
		return IB_WC_SUCCESS;
	}
	if (dlid == EM_SM_LID) {
		if (ud->remote_qpn == 1)
			em_sa(fn, src);
		return IB_WC_SUCCESS;
	}
	to = em_route(dlid);
	if (!to)
		return IB_WC_SUCCESS;
	dst = ud->remote_qpn == 1 ? to->gsi : xa_load(&fab_qps, ud->remote_qpn);
	if (dst && dst == to->gsi) {
		index = em_find_pkey(to, pkey);	/* any entry will do */
		wc.pkey_index = max(index, 0);
	} else if (dst && !em_pkeys_match(em_qp_pkey(dst), pkey)) {
		index = -1;
	}
	if (index >= 0 && em_listens(dst) && dst->fn == to && dst->attr.qkey == qkey &&
	    dst->ibqp.qp_type != IB_QPT_RC)
		em_recv(dst, src, sizeof(grh), g, &wc, solicited);
	return IB_WC_SUCCESS;
}

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
