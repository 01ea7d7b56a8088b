// SPDX-License-Identifier: GPL-2.0
/* ibemu: completion queues, queue pairs and the small objects around them */
#include "ibemu.h"

static u32 next_qpn;

/* ---- completion queues --------------------------------------------------- */

void em_complete(struct ib_cq *ibcq, const struct ib_wc *wc, bool solicited)
{
	struct em_cq *cq = TO(em_cq, ibcq, ibcq);

	if (cq->head - cq->tail == cq->size) {
		pr_err_ratelimited("ibemu: CQ overrun\n");
		return;
	}
	cq->ring[cq->head++ % cq->size] = *wc;
	if (cq->notify == IB_CQ_NEXT_COMP ||
	    (cq->notify && (solicited || wc->status))) {
		cq->notify = 0;
		if (ibcq->comp_handler)
			ibcq->comp_handler(ibcq, ibcq->cq_context);
	}
}

static void em_purge(struct ib_cq *ibcq, struct em_qp *qp)
{
	struct em_cq *cq = TO(em_cq, ibcq, ibcq);
	u32 i, keep = cq->tail;

	for (i = cq->tail; i != cq->head; i++)
		if (cq->ring[i % cq->size].qp != &qp->ibqp)
			cq->ring[keep++ % cq->size] = cq->ring[i % cq->size];
	cq->head = keep;
}

static int em_create_cq(struct ib_cq *ibcq, const struct ib_cq_init_attr *attr,
			struct em_cq_args *args)
{
	struct em_cq *cq = TO(em_cq, ibcq, ibcq);

	if (attr->flags)
		return -EOPNOTSUPP;
	cq->size = roundup_pow_of_two(attr->cqe + 1);
	cq->ring = kvcalloc(cq->size, sizeof(*cq->ring), GFP_KERNEL);
	if (!cq->ring)
		return -ENOMEM;
	ibcq->cqe = attr->cqe;
	return 0;
}

static int em_destroy_cq(struct ib_cq *ibcq, struct ib_udata *udata)
{
	kvfree(TO(em_cq, ibcq, ibcq)->ring);
	return 0;
}

static int em_poll_cq(struct ib_cq *ibcq, int n, struct ib_wc *wc)
{
	struct em_cq *cq = TO(em_cq, ibcq, ibcq);
	unsigned long flags;
	int i;

	spin_lock_irqsave(&fab_lock, flags);
	for (i = 0; i < n && cq->tail != cq->head; i++)
		wc[i] = cq->ring[cq->tail++ % cq->size];
	spin_unlock_irqrestore(&fab_lock, flags);
	return i;
}

static int em_req_notify_cq(struct ib_cq *ibcq, enum ib_cq_notify_flags fl)
{
	struct em_cq *cq = TO(em_cq, ibcq, ibcq);
	unsigned long flags;
	int missed;

	spin_lock_irqsave(&fab_lock, flags);
	if (cq->notify != IB_CQ_NEXT_COMP)
		cq->notify = fl & IB_CQ_SOLICITED_MASK;
	missed = (fl & IB_CQ_REPORT_MISSED_EVENTS) && cq->head != cq->tail;
	spin_unlock_irqrestore(&fab_lock, flags);
	return missed;
}

/* ---- work requests ------------------------------------------------------- */

static u32 em_sg_len(const struct ib_sge *sge, int n)
{
	u32 len = 0;

	while (n--)
		len += sge++->length;
	return len;
}

static void em_flush_rq(struct em_qp *qp)
{
	while (qp->tail != qp->head) {
		struct ib_wc wc = {
			.wr_id = qp->rq[qp->tail++ % qp->size].wr_id,
			.status = IB_WC_WR_FLUSH_ERR,
			.opcode = IB_WC_RECV,
			.qp = &qp->ibqp,
		};
		em_complete(qp->ibqp.recv_cq, &wc, false);
	}
}

/* The QP is in the error state: what was posted ends. */
void em_set_error(struct em_qp *qp)
{
	qp->state = IB_QPS_ERR;
	em_flush_far(qp);
	em_flush_rq(qp);
}

static int em_post_send(struct ib_qp *ibqp, const struct ib_send_wr *wr,
			const struct ib_send_wr **bad)
{
	struct em_qp *qp = TO(em_qp, ibqp, ibqp);
	unsigned long flags;
	int ret = 0;

	spin_lock_irqsave(&fab_lock, flags);
	for (; wr; wr = wr->next) {
		struct em_src src = { qp, wr->sg_list, wr->num_sge,
				      em_sg_len(wr->sg_list, wr->num_sge) };
		struct ib_wc wc = { .wr_id = wr->wr_id, .qp = ibqp, .byte_len = src.len };

		if (qp->state < IB_QPS_RTS || wr->num_sge > EM_SGE) {
			*bad = wr;
			ret = -EINVAL;
			break;
		}
		if (qp->far.sq && qp->state != IB_QPS_ERR && em_peer(qp->dlid)) {
			ret = em_post_far(qp, wr, src.len);
			if (!ret)
				continue;
			*bad = wr;
			break;
		}
		wc.opcode = wr->opcode == IB_WR_RDMA_READ ? IB_WC_RDMA_READ :
			    wr->opcode == IB_WR_RDMA_WRITE ||
			    wr->opcode == IB_WR_RDMA_WRITE_WITH_IMM ? IB_WC_RDMA_WRITE : IB_WC_SEND;
		if (qp->state == IB_QPS_ERR)
			wc.status = IB_WC_WR_FLUSH_ERR;
		else if (ibqp->qp_type == IB_QPT_RC)
			wc.status = em_xmit_rc(qp, wr, &src);
		else
			wc.status = em_xmit_ud(qp, wr, &src);
		if (wc.status || wr->send_flags & IB_SEND_SIGNALED ||
		    qp->init.sq_sig_type == IB_SIGNAL_ALL_WR)
			em_complete(ibqp->send_cq, &wc, false);
		if (wc.status && qp->state != IB_QPS_ERR)
			em_set_error(qp);
	}
	spin_unlock_irqrestore(&fab_lock, flags);
	return ret;
}

static int em_post_recv(struct ib_qp *ibqp, const struct ib_recv_wr *wr,
			const struct ib_recv_wr **bad)
{
	struct em_qp *qp = TO(em_qp, ibqp, ibqp);
	unsigned long flags;
	int ret = 0;

	spin_lock_irqsave(&fab_lock, flags);
	for (; wr; wr = wr->next) {
		struct em_rwqe *w = &qp->rq[qp->head % qp->size];

		if (qp->state == IB_QPS_RESET || wr->num_sge > EM_SGE)
			ret = -EINVAL;
		else if (qp->head - qp->tail == qp->size)
			ret = -ENOMEM;
		if (ret) {
			*bad = wr;
			break;
		}
		w->wr_id = wr->wr_id;
		w->n = wr->num_sge;
		memcpy(w->sge, wr->sg_list, wr->num_sge * sizeof(*w->sge));
		qp->head++;
		if (qp->state == IB_QPS_ERR)
			em_flush_rq(qp);
	}
	spin_unlock_irqrestore(&fab_lock, flags);
	return ret;
}

/* ---- queue pairs --------------------------------------------------------- */

static int em_create_qp(struct ib_qp *ibqp, struct ib_qp_init_attr *init, struct ib_udata *udata)
{
	struct em_qp *qp = TO(em_qp, ibqp, ibqp);
	struct em_fn *fn = TO(em_fn, ibdev, ibqp->device);
	int ret = 0;

	if (init->srq || init->create_flags)
		return -EOPNOTSUPP;
	if (init->cap.max_send_wr > EM_MAX_WR || init->cap.max_recv_wr > EM_MAX_WR ||
	    init->cap.max_send_sge > EM_SGE || init->cap.max_recv_sge > EM_SGE)
		return -EINVAL;
	init->cap.max_inline_data = 0;
	qp->fn = fn;
	qp->init = *init;
	qp->size = roundup_pow_of_two(init->cap.max_recv_wr + 1);
	qp->rq = kvcalloc(qp->size, sizeof(*qp->rq), GFP_KERNEL);
	if (!qp->rq)
		return -ENOMEM;
	ret = em_init_far(qp);
	if (ret)
		goto free;
	switch (init->qp_type) {
	case IB_QPT_GSI:
		ibqp->qp_num = 1;
		qp->attr.port_num = init->port_num;
		if (init->port_num == 1)
			fn->gsi = qp;
		break;
	case IB_QPT_UD:
	case IB_QPT_RC:
		ret = xa_alloc_cyclic_irq(&fab_qps, &ibqp->qp_num, qp, XA_LIMIT(0x40, 0xffffff),
					  &next_qpn, GFP_KERNEL);
		break;
	default:
		ret = -EOPNOTSUPP;
	}
	if (ret >= 0)
		return 0;
	kvfree(qp->far.sq);
free:
	kvfree(qp->rq);
	return ret;
}

static int em_destroy_qp(struct ib_qp *ibqp, struct ib_udata *udata)
{
	struct em_qp *qp = TO(em_qp, ibqp, ibqp);
	struct em_member *m, *tmp;
	unsigned long flags;

	if (ibqp->qp_type != IB_QPT_GSI)
		xa_erase_irq(&fab_qps, ibqp->qp_num);
	spin_lock_irqsave(&fab_lock, flags);
	if (qp->fn->gsi == qp)
		qp->fn->gsi = NULL;
	list_for_each_entry_safe(m, tmp, &fab_members, list)
		if (m->qp == qp) {
			list_del(&m->list);
			kfree(m);
		}
	list_del_init(&qp->far.work);
	em_purge(ibqp->send_cq, qp);
	em_purge(ibqp->recv_cq, qp);
	spin_unlock_irqrestore(&fab_lock, flags);
	kvfree(qp->far.sq);
	kvfree(qp->rq);
	return 0;
}

#if LINUX_VERSION_CODE < KERNEL_VERSION(5, 15, 0)
/* The driver allocates the queue pair itself. */
static struct ib_qp *em_new_qp(struct ib_pd *pd, struct ib_qp_init_attr *init, struct ib_udata *udata)
{
	struct em_qp *qp = kzalloc(sizeof(*qp), GFP_KERNEL);
	int ret;

	if (!qp)
		return ERR_PTR(-ENOMEM);
	qp->ibqp.device = pd->device;
	ret = em_create_qp(&qp->ibqp, init, udata);
	if (!ret)
		return &qp->ibqp;
	kfree(qp);
	return ERR_PTR(ret);
}

static int em_free_qp(struct ib_qp *ibqp, struct ib_udata *udata)
{
	em_destroy_qp(ibqp, udata);
	kfree(TO(em_qp, ibqp, ibqp));
	return 0;
}
#endif

static int em_modify_qp(struct ib_qp *ibqp, struct ib_qp_attr *a, int mask, struct ib_udata *udata)
{
	struct em_qp *qp = TO(em_qp, ibqp, ibqp);
	enum ib_qp_state cur, new;
	unsigned long flags;
	int ret = 0;

	if (mask & ~IB_QP_ATTR_STANDARD_BITS)
		return -EOPNOTSUPP;
	spin_lock_irqsave(&fab_lock, flags);
	cur = qp->state;
	new = mask & IB_QP_STATE ? a->qp_state : cur;
	if (!ib_modify_qp_is_ok(cur, new, ibqp->qp_type, mask) ||
	    (mask & IB_QP_PKEY_INDEX && a->pkey_index >= EM_PKEYS)) {
		ret = -EINVAL;
		goto out;
	}
#define TAKE(bit, field) do { if (mask & (bit)) qp->attr.field = a->field; } while (0)
	TAKE(IB_QP_QKEY, qkey);
	TAKE(IB_QP_PORT, port_num);
	TAKE(IB_QP_PKEY_INDEX, pkey_index);
	TAKE(IB_QP_ACCESS_FLAGS, qp_access_flags);
	TAKE(IB_QP_DEST_QPN, dest_qp_num);
	TAKE(IB_QP_PATH_MTU, path_mtu);
	TAKE(IB_QP_RQ_PSN, rq_psn);
	TAKE(IB_QP_SQ_PSN, sq_psn);
	TAKE(IB_QP_TIMEOUT, timeout);
	TAKE(IB_QP_RETRY_CNT, retry_cnt);
	TAKE(IB_QP_RNR_RETRY, rnr_retry);
	TAKE(IB_QP_MAX_QP_RD_ATOMIC, max_rd_atomic);
	TAKE(IB_QP_MAX_DEST_RD_ATOMIC, max_dest_rd_atomic);
	TAKE(IB_QP_MIN_RNR_TIMER, min_rnr_timer);
	if (mask & IB_QP_AV)
		qp->dlid = rdma_ah_get_dlid(&a->ah_attr);
	qp->state = new;
	if (new == IB_QPS_ERR)
		em_set_error(qp);
	if (new == IB_QPS_RESET) {
		qp->head = qp->tail = 0;
		em_reset_far(qp);
		em_purge(ibqp->send_cq, qp);
		em_purge(ibqp->recv_cq, qp);
	}
out:
	spin_unlock_irqrestore(&fab_lock, flags);
	return ret;
}

static int em_query_qp(struct ib_qp *ibqp, struct ib_qp_attr *a, int mask,
		       struct ib_qp_init_attr *init)
{
	struct em_qp *qp = TO(em_qp, ibqp, ibqp);

	*a = qp->attr;
	a->qp_state = a->cur_qp_state = qp->state;
	a->cap = qp->init.cap;
	a->ah_attr.type = RDMA_AH_ATTR_TYPE_IB;
	rdma_ah_set_dlid(&a->ah_attr, qp->dlid);
	*init = qp->init;
	return 0;
}

static int em_attach_mcast(struct ib_qp *ibqp, union ib_gid *gid, u16 lid)
{
	struct em_member *m = kzalloc(sizeof(*m), GFP_KERNEL);
	unsigned long flags;

	if (!m)
		return -ENOMEM;
	m->qp = TO(em_qp, ibqp, ibqp);
	m->gid = *gid;
	spin_lock_irqsave(&fab_lock, flags);
	list_add(&m->list, &fab_members);
	spin_unlock_irqrestore(&fab_lock, flags);
	return 0;
}

static int em_detach_mcast(struct ib_qp *ibqp, union ib_gid *gid, u16 lid)
{
	struct em_member *m, *found = NULL;
	unsigned long flags;

	spin_lock_irqsave(&fab_lock, flags);
	list_for_each_entry(m, &fab_members, list)
		if (&m->qp->ibqp == ibqp && !memcmp(&m->gid, gid, 16))
			found = m;
	if (found)
		list_del(&found->list);
	spin_unlock_irqrestore(&fab_lock, flags);
	kfree(found);
	return found ? 0 : -EINVAL;
}

/* ---- address handles, protection domains, contexts ----------------------- */

static int em_create_ah(struct ib_ah *ibah, struct rdma_ah_init_attr *init, struct ib_udata *udata)
{
	struct em_ah *ah = TO(em_ah, ibah, ibah);

	ah->attr = *init->ah_attr;
	ah->attr.grh.sgid_attr = NULL;
	return 0;
}

static int em_query_ah(struct ib_ah *ibah, struct rdma_ah_attr *attr)
{
	*attr = TO(em_ah, ibah, ibah)->attr;
	return 0;
}

static int em_destroy_ah(struct ib_ah *ibah, u32 flags) { return 0; }
static int em_alloc_pd(struct ib_pd *pd, struct ib_udata *udata) { return 0; }
static int em_dealloc_pd(struct ib_pd *pd, struct ib_udata *udata) { return 0; }
static int em_alloc_ucontext(struct ib_ucontext *uc, struct ib_udata *udata) { return 0; }
static void em_dealloc_ucontext(struct ib_ucontext *uc) { }
static void em_disassociate(struct ib_ucontext *uc) { }

const struct ib_device_ops em_queue_ops = {
#if LINUX_VERSION_CODE < KERNEL_VERSION(5, 15, 0)
	.create_qp = em_new_qp,
	.destroy_qp = em_free_qp,
#else
	.create_qp = em_create_qp,
	.destroy_qp = em_destroy_qp,
	INIT_RDMA_OBJ_SIZE(ib_qp, em_qp, ibqp),
#endif
#if LINUX_VERSION_CODE >= KERNEL_VERSION(5, 11, 0)
	.create_user_ah = em_create_ah,
#endif
	.alloc_pd = em_alloc_pd,
	.alloc_ucontext = em_alloc_ucontext,
	.attach_mcast = em_attach_mcast,
	.create_ah = em_create_ah,
	.create_cq = em_create_cq,
	.dealloc_pd = em_dealloc_pd,
	.dealloc_ucontext = em_dealloc_ucontext,
	.destroy_ah = em_destroy_ah,
	.destroy_cq = em_destroy_cq,
	.detach_mcast = em_detach_mcast,
	.disassociate_ucontext = em_disassociate,
	.modify_qp = em_modify_qp,
	.poll_cq = em_poll_cq,
	.post_recv = em_post_recv,
	.post_send = em_post_send,
	.query_ah = em_query_ah,
	.query_qp = em_query_qp,
	.req_notify_cq = em_req_notify_cq,

	INIT_RDMA_OBJ_SIZE(ib_ah, em_ah, ibah),
	INIT_RDMA_OBJ_SIZE(ib_cq, em_cq, ibcq),
	INIT_RDMA_OBJ_SIZE(ib_pd, em_pd, ibpd),
	INIT_RDMA_OBJ_SIZE(ib_ucontext, em_uctx, ibuc),
};
