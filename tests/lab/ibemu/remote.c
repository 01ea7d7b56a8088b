// SPDX-License-Identifier: GPL-2.0
/*
 * ibemu: reliable connections to QPs of other kernels
 *
 * A work request becomes packets of at most EM_PART bytes and ends by the
 * answer of the other kernel: EM_ACK with a status, or a READ's EM_DATA.
 * Messages have numbers; the wire keeps the order and loses nothing but a
 * whole peer, whose requests all end with RETRY_EXC.
 */
#include "ibemu.h"

#define RNR_MS	10

/* ---- work requests ------------------------------------------------------- */

int em_init_far(struct em_qp *qp)
{
	struct em_far *far = &qp->far;
	int i;

	INIT_LIST_HEAD(&far->work);
	for (i = 0; i < EM_NODES && !em_peers[i]; i++)
		;
	if (qp->init.qp_type != IB_QPT_RC || i == EM_NODES)
		return 0;
	far->size = roundup_pow_of_two(qp->init.cap.max_send_wr + 1);
	far->sq = kvcalloc(far->size, sizeof(*far->sq), GFP_KERNEL);
	return far->sq ? 0 : -ENOMEM;
}

/* As of a QP that was just made. */
void em_reset_far(struct em_qp *qp)
{
	struct em_far *far = &qp->far;

	list_del_init(&far->work);
	far->head = far->next = far->tail = far->sent = 0;
	far->msn = far->got = far->rnr = 0;
	far->refused = false;
}

/* The oldest work request has ended. */
static void em_end_wqe(struct em_qp *qp, enum ib_wc_status status)
{
	struct em_far *far = &qp->far;
	struct em_swqe *w = &far->sq[far->tail++ % far->size];
	struct ib_wc wc = {
		.wr_id = w->wr_id,
		.qp = &qp->ibqp,
		.byte_len = w->len,
		.status = status,
		.opcode = w->op == EM_READ ? IB_WC_RDMA_READ :
			  w->op == EM_WRITE ? IB_WC_RDMA_WRITE : IB_WC_SEND,
	};

	far->rnr = 0;
	if (status || w->signaled)
		em_complete(qp->ibqp.send_cq, &wc, false);
	if (status && qp->state != IB_QPS_ERR)
		em_set_error(qp);
}

void em_flush_far(struct em_qp *qp)
{
	while (qp->far.tail != qp->far.head)
		em_end_wqe(qp, IB_WC_WR_FLUSH_ERR);
}

static void em_has_work(struct em_qp *qp)
{
	struct em_peer *p = em_peer(qp->dlid);

	if (!p)
		return;
	if (list_empty(&qp->far.work))
		list_add_tail(&qp->far.work, &p->qps);
	em_kick(p);
}

int em_post_far(struct em_qp *qp, const struct ib_send_wr *wr, u32 len)
{
	struct em_far *far = &qp->far;
	struct em_swqe *w = &far->sq[far->head % far->size];

	if (far->head - far->tail >= qp->init.cap.max_send_wr)
		return -ENOMEM;
	*w = (struct em_swqe){
		.wr_id = wr->wr_id,
		.len = len,
		.imm = wr->ex.imm_data,
		.flags = wr->send_flags & IB_SEND_SOLICITED ? EM_SOLICITED : 0,
		.signaled = wr->send_flags & IB_SEND_SIGNALED || qp->init.sq_sig_type == IB_SIGNAL_ALL_WR,
		.fence = wr->send_flags & IB_SEND_FENCE,
		.n = wr->num_sge,
	};
	switch (wr->opcode) {
	case IB_WR_SEND_WITH_IMM:
		w->flags |= EM_IMM;
		fallthrough;
	case IB_WR_SEND:
		w->op = EM_SEND;
		break;
	case IB_WR_RDMA_WRITE_WITH_IMM:
		w->flags |= EM_IMM;
		fallthrough;
	case IB_WR_RDMA_WRITE:
		w->op = EM_WRITE;
		break;
	case IB_WR_RDMA_READ:
		w->op = EM_READ;
		break;
	default:
		return -EINVAL;
	}
	if (w->op != EM_SEND) {
		w->addr = rdma_wr(wr)->remote_addr;
		w->rkey = rdma_wr(wr)->rkey;
	}
	memcpy(w->sge, wr->sg_list, wr->num_sge * sizeof(*w->sge));
	far->head++;
	em_has_work(qp);
	return 0;
}

/* ---- requests that are sent ---------------------------------------------- */

/* Whether a QP has nothing to send now; em_has_work() brings it back. */
static bool em_is_idle(const struct em_qp *qp, const struct em_swqe *w)
{
	return qp->state < IB_QPS_RTS || qp->state == IB_QPS_ERR || qp->far.next == qp->far.head ||
	       (w->fence && qp->far.next != qp->far.tail);
}

/* Fill in the next packet of the QPs that talk to p, in turn; returns its length, 0 if there is none. */
u32 em_take_rc(struct em_peer *p, struct em_pkt *k, u8 *data)
{
	struct em_qp *qp, *tmp;

	list_for_each_entry_safe(qp, tmp, &p->qps, far.work) {
		struct em_far *far = &qp->far;
		struct em_swqe *w = &far->sq[far->next % far->size];
		struct em_src src = { qp, w->sge, w->n, w->len };

		if (far->rnr && time_before(jiffies, far->again))
			continue;
		if (em_is_idle(qp, w)) {
			list_del_init(&far->work);
			continue;
		}
		*k = (struct em_pkt){
			.op = w->op, .flags = w->flags, .imm = w->imm,
			.slid = qp->fn->lid, .dlid = qp->dlid, .pkey = em_qp_pkey(qp),
			.sqpn = qp->ibqp.qp_num, .dqpn = qp->attr.dest_qp_num,
			.msn = far->next, .off = far->sent, .total = w->len,
			.len = w->op == EM_READ ? 0 : min_t(u32, w->len - far->sent, EM_PART),
			.rkey = w->rkey, .addr = w->addr,
		};
		/* the oldest request ends first, whichever could not be sent */
		if (!p->up || !em_connected(qp)) {
			em_end_wqe(qp, IB_WC_RETRY_EXC_ERR);
			continue;
		}
		if (em_sg(&src, k->off, data, k->len, false)) {
			em_end_wqe(qp, IB_WC_LOC_PROT_ERR);
			continue;
		}
		if (!k->off) {
			qp->fn->tx_pkts++;
			qp->fn->tx_bytes += w->len;
		}
		far->sent += k->len;
		if (w->op == EM_READ || far->sent == w->len) {
			far->next++;
			far->sent = 0;
		}
		list_move_tail(&far->work, &p->qps);
		return sizeof(*k) + k->len;
	}
	return 0;
}

/* The answer to the oldest work request. */
static void em_take_answer(struct em_qp *qp, const struct em_pkt *k, void *data)
{
	struct em_far *far = &qp->far;
	struct em_swqe *w = &far->sq[far->tail % far->size];
	struct em_src dst = { qp, w->sge, w->n, w->len };

	if (far->tail == far->head || k->msn != far->tail)
		return;
	if (!em_connected(qp)) {		/* the port is down by now */
		em_end_wqe(qp, IB_WC_RETRY_EXC_ERR);
		return;
	}
	if (k->op == EM_DATA) {
		if (em_sg(&dst, k->off, data, k->len, true))
			em_end_wqe(qp, IB_WC_LOC_PROT_ERR);
		else if (k->off + k->len == k->total)
			em_end_wqe(qp, IB_WC_SUCCESS);
	} else if (k->status == IB_WC_RNR_RETRY_EXC_ERR &&
		   (qp->attr.rnr_retry == 7 || far->rnr < qp->attr.rnr_retry)) {
		/* send it again, and what came after it */
		far->rnr = min(far->rnr + 1, 8);
		far->again = jiffies + msecs_to_jiffies(RNR_MS);
		far->next = far->tail;
		far->sent = 0;
	} else {
		em_end_wqe(qp, k->status);
	}
	em_has_work(qp);
}

/* The peer is gone: nothing will be answered. */
void em_fail_rc(struct em_peer *p)
{
	unsigned long i;
	struct em_qp *qp;

	xa_for_each(&fab_qps, i, qp)
		if (qp->far.tail != qp->far.head && em_peer(qp->dlid) == p)
			em_end_wqe(qp, IB_WC_RETRY_EXC_ERR);
}

/* ---- requests that come -------------------------------------------------- */

static void em_answer(const struct em_pkt *k, int op, int status)
{
	struct em_pkt a = {
		.op = op, .status = status, .slid = k->dlid, .dlid = k->slid,
		.sqpn = k->dqpn, .dqpn = k->sqpn, .msn = k->msn,
		.rkey = k->rkey, .addr = k->addr, .total = k->total,
	};

	em_send(em_peer(k->slid), &a, NULL);
}

/* The last packet of a message is here, or the first that went wrong. */
static void em_end_message(struct em_qp *qp, const struct em_pkt *k, int status)
{
	bool imm = k->flags & EM_IMM;
	struct ib_wc wc = {
		.opcode = k->op == EM_SEND ? IB_WC_RECV : IB_WC_RECV_RDMA_WITH_IMM,
		.status = status ? IB_WC_LOC_LEN_ERR : IB_WC_SUCCESS,
		.qp = &qp->ibqp,
		.src_qp = k->sqpn,
		.slid = k->slid,
		.byte_len = k->total,
		.port_num = 1,
		.wc_flags = imm ? IB_WC_WITH_IMM : 0,
		.ex.imm_data = k->imm,
	};

	qp->far.msn++;
	qp->far.got = 0;
	qp->fn->rx_pkts++;
	qp->fn->rx_bytes += k->total;
	if (k->op == EM_SEND || (imm && !status)) {
		wc.wr_id = qp->rq[qp->tail++ % qp->size].wr_id;
		em_complete(qp->ibqp.recv_cq, &wc, k->flags & EM_SOLICITED);
	}
	em_answer(k, EM_ACK, status);
	if (status)
		em_set_error(qp);
}

static void em_take_request(struct em_qp *qp, const struct em_pkt *k, void *data)
{
	struct em_far *far = &qp->far;
	bool last = k->off + k->len == k->total;
	struct em_rwqe *w = &qp->rq[qp->tail % qp->size];
	struct em_src dst = { qp, w->sge, w->n, k->total };
	int status = 0;

	if (k->msn != far->msn || k->off != far->got) {
		if (!far->refused)		/* else it comes again, in order */
			em_answer(k, EM_ACK, IB_WC_RETRY_EXC_ERR);
		return;
	}
	if (k->op == EM_READ) {
		far->refused = false;
		far->msn++;
		em_answer(k, EM_DATA, 0);
		return;
	}
	far->refused = qp->head == qp->tail && (k->op == EM_SEND || (last && k->flags & EM_IMM));
	if (far->refused) {
		far->got = 0;
		em_answer(k, EM_ACK, IB_WC_RNR_RETRY_EXC_ERR);
		return;
	}
	if (k->op == EM_SEND) {
		if (em_sg(&dst, k->off, data, k->len, true))
			status = IB_WC_REM_INV_REQ_ERR;
	} else if (k->len && em_mem(true, k->rkey, k->addr + k->off, data, k->len, true)) {
		status = IB_WC_REM_ACCESS_ERR;
	}
	far->got += k->len;
	if (last || status)
		em_end_message(qp, k, status);
}

void em_take_in_rc(const struct em_pkt *k, void *data)
{
	struct em_qp *qp = xa_load(&fab_qps, k->dqpn);
	bool answer = k->op == EM_DATA || k->op == EM_ACK;
	bool ours = qp && qp->far.sq && qp->fn->lid == k->dlid &&
		    qp->dlid == k->slid && qp->attr.dest_qp_num == k->sqpn;

	if (answer && ours)
		em_take_answer(qp, k, data);
	else if (!answer && ours && em_listens(qp) && em_pkeys_match(em_qp_pkey(qp), k->pkey))
		em_take_request(qp, k, data);
	else if (!answer)
		em_answer(k, EM_ACK, IB_WC_RETRY_EXC_ERR);
}
