// SPDX-License-Identifier: GPL-2.0
/* ibemu: memory regions, and copying to and from them */
#include "ibemu.h"

static DEFINE_XARRAY_FLAGS(fab_mrs, XA_FLAGS_ALLOC1 | XA_FLAGS_LOCK_IRQ);
static u32 next_key;

/* Copy between buf and registered memory; key 0 is the kernel's own lkey. */
int em_mem(bool user, u32 key, u64 addr, void *buf, u32 len, bool to_mem)
{
	struct em_mr *mr;
	struct sg_table *t;
	off_t off;

	if (!key && !user) {
		void *p = ib_virt_dma_to_ptr(addr);

		memcpy(to_mem ? p : buf, to_mem ? buf : p, len);
		return 0;
	}
	mr = xa_load(&fab_mrs, key);
	if (!mr || !mr->umem || addr < mr->iova || len > mr->len ||
	    addr - mr->iova > mr->len - len || (to_mem && !mr->umem->writable))
		return -EFAULT;
	t = em_umem_table(mr->umem);
	off = ib_umem_offset(mr->umem) + addr - mr->iova;
	if (to_mem)
		return sg_pcopy_from_buffer(t->sgl, em_umem_nents(mr->umem), buf, len, off) == len ? 0 : -EFAULT;
	return sg_pcopy_to_buffer(t->sgl, em_umem_nents(mr->umem), buf, len, off) == len ? 0 : -EFAULT;
}

/* Copy len bytes at offset off of a scatter list. */
int em_sg(const struct em_src *s, u32 off, void *buf, u32 len, bool to_mem)
{
	bool user = s->qp && s->qp->ibqp.uobject;
	int i, ret;

	for (i = 0; i < s->n && len; i++) {
		const struct ib_sge *g = &s->sge[i];
		u32 part;

		if (off >= g->length) {
			off -= g->length;
			continue;
		}
		part = min(len, g->length - off);
		ret = em_mem(user, g->lkey, g->addr + off, buf, part, to_mem);
		if (ret)
			return ret;
		buf += part;
		len -= part;
		off = 0;
	}
	return len ? -EMSGSIZE : 0;
}

static struct ib_mr *em_new_mr(struct ib_pd *pd, u64 start, u64 len, u64 iova, int access, bool user)
{
	struct em_mr *mr = kzalloc(sizeof(*mr), GFP_KERNEL);
	u32 key;
	int ret;

	if (!mr)
		return ERR_PTR(-ENOMEM);
	if (user) {
		mr->umem = ib_umem_get(pd->device, start, len, access);
		if (IS_ERR(mr->umem)) {
			ret = PTR_ERR(mr->umem);
			goto err;
		}
		mr->iova = iova;
		mr->len = len;
		ret = xa_alloc_cyclic_irq(&fab_mrs, &key, mr, XA_LIMIT(1, 0xffffff),
					  &next_key, GFP_KERNEL);
		if (ret < 0) {
			ib_umem_release(mr->umem);
			goto err;
		}
		mr->ibmr.lkey = mr->ibmr.rkey = key;
	}
	return &mr->ibmr;
err:
	kfree(mr);
	return ERR_PTR(ret);
}

static struct ib_mr *em_get_dma_mr(struct ib_pd *pd, int access)
{
	return em_new_mr(pd, 0, 0, 0, access, false);
}

static struct ib_mr *em_reg_user_mr(struct ib_pd *pd, u64 start, u64 len, u64 iova,
				    int access, DMAH_ARG struct ib_udata *udata)
{
	return em_new_mr(pd, start, len, iova, access, true);
}

static int em_dereg_mr(struct ib_mr *ibmr, struct ib_udata *udata)
{
	struct em_mr *mr = TO(em_mr, ibmr, ibmr);
	unsigned long flags;

	if (mr->umem) {
		xa_erase_irq(&fab_mrs, ibmr->lkey);
		spin_lock_irqsave(&fab_lock, flags);	/* nobody copies now */
		spin_unlock_irqrestore(&fab_lock, flags);
		ib_umem_release(mr->umem);
	}
	kfree(mr);
	return 0;
}

const struct ib_device_ops em_memory_ops = {
	.dereg_mr = em_dereg_mr,
	.get_dma_mr = em_get_dma_mr,
	.reg_user_mr = em_reg_user_mr,
};
