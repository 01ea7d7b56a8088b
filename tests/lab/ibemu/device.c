// SPDX-License-Identifier: GPL-2.0
/* ibemu: what a device tells of itself and of its ports */
#include "ibemu.h"

KNOB(no_ipoib, ullong, 0, 0644, "mask of VFs that get no IPoIB netdev");

static int em_query_device(struct ib_device *ibdev, struct ib_device_attr *a, struct ib_udata *udata)
{
	struct em_fn *fn = TO(em_fn, ibdev, ibdev);

	memset(a, 0, sizeof(*a));
	a->fw_ver = 1ULL << 32;
	a->sys_image_guid = cpu_to_be64(em_base_guid(fn->hca));
	a->max_mr_size = ~0ULL;
	a->page_size_cap = PAGE_SIZE;
	a->vendor_id = EM_VENDOR;
	a->vendor_part_id = fn->pdev->device;
	a->hw_ver = 1;
	a->max_qp = a->max_cq = a->max_mr = a->max_pd = a->max_ah = 0xffff;
	a->max_qp_wr = EM_MAX_WR;
	a->max_cqe = 4 * EM_MAX_WR;
	a->max_send_sge = a->max_recv_sge = a->max_sge_rd = EM_SGE;
	a->max_qp_rd_atom = a->max_qp_init_rd_atom = a->max_res_rd_atom = 16;
	a->max_mcast_grp = EM_GROUPS;
	a->max_mcast_qp_attach = 64;
	a->max_total_mcast_qp_attach = 64 * EM_GROUPS;
	a->max_pkeys = EM_PKEYS;
	a->device_cap_flags = IB_DEVICE_SYS_IMAGE_GUID | IB_DEVICE_PORT_ACTIVE_EVENT |
			      IB_DEVICE_CHANGE_PHY_PORT | IB_DEVICE_RC_RNR_NAK_GEN;
	em_set_kernel_caps(a, fn->vf >= 0);
	return 0;
}

static int em_query_port(struct ib_device *ibdev, em_port_t port, struct ib_port_attr *a)
{
	struct em_fn *fn = TO(em_fn, ibdev, ibdev);

	a->state = port == 1 ? em_state(fn) : IB_PORT_DOWN;
	a->phys_state = port != 1 ? IB_PORT_PHYS_STATE_POLLING :
			a->state == IB_PORT_DOWN ? IB_PORT_PHYS_STATE_DISABLED :
						   IB_PORT_PHYS_STATE_LINK_UP;
	a->max_mtu = a->active_mtu = IB_MTU_4096;
	a->phys_mtu = 4096;
	a->gid_tbl_len = 1;
	a->pkey_tbl_len = EM_PKEYS;
	a->max_msg_sz = 1U << 30;
	a->sm_lid = a->state == IB_PORT_ACTIVE ? EM_SM_LID : 0;
	a->lid = a->state == IB_PORT_ACTIVE ? fn->lid : EM_NO_LID;
	a->max_vl_num = 1;
	a->subnet_timeout = 18;
	a->active_width = IB_WIDTH_4X;
	a->active_speed = IB_SPEED_EDR;
	return 0;
}

static int em_get_port_immutable(struct ib_device *ibdev, em_port_t port, struct ib_port_immutable *im)
{
	im->pkey_tbl_len = EM_PKEYS;
	im->gid_tbl_len = 1;
	if (TO(em_fn, ibdev, ibdev)->ethernet)
		return 0;			/* no MADs, no IPoIB */
	im->core_cap_flags = RDMA_CORE_CAP_PROT_IB | RDMA_CORE_CAP_IB_MAD | RDMA_CORE_CAP_IB_CM |
			     RDMA_CORE_CAP_IB_SA | RDMA_CORE_CAP_AF_IB;
	im->max_mad_size = IB_MGMT_MAD_SIZE;
	return 0;
}

static int em_modify_port(struct ib_device *ibdev, em_port_t port, int mask, struct ib_port_modify *m)
{
	return 0;				/* the CM sets a capability bit */
}

static enum rdma_link_layer em_link_layer(struct ib_device *ibdev, em_port_t port)
{
	return TO(em_fn, ibdev, ibdev)->ethernet ? IB_LINK_LAYER_ETHERNET : IB_LINK_LAYER_INFINIBAND;
}

static int em_query_gid(struct ib_device *ibdev, em_port_t port, int index, union ib_gid *gid)
{
	if (index)
		return -EINVAL;
	em_gid(TO(em_fn, ibdev, ibdev), gid);
	if (port != 1)				/* another port, another GUID */
		gid->raw[11] ^= 0x80;
	return 0;
}

static int em_query_pkey(struct ib_device *ibdev, em_port_t port, u16 index, u16 *pkey)
{
	if (index >= EM_PKEYS)
		return -EINVAL;
	*pkey = em_pkey(TO(em_fn, ibdev, ibdev), index);
	return 0;
}

static void em_fw_str(struct ib_device *ibdev, char *str)
{
	snprintf(str, IB_FW_VERSION_NAME_MAX, "1.0.0");
}

static int em_netdev_params(struct ib_device *ibdev, em_port_t port, enum rdma_netdev_t type,
			    struct rdma_netdev_alloc_params *params)
{
	struct em_fn *fn = TO(em_fn, ibdev, ibdev);

	return HIT(no_ipoib, fn->vf) || fn->no_netdev ? -ENODEV : -EOPNOTSUPP;
}

const struct ib_device_ops em_device_ops = {
	.owner = THIS_MODULE,
	/* the qib provider of libibverbs, ABI 1, does all verbs by system call */
	.driver_id = RDMA_DRIVER_QIB,
	.uverbs_abi_ver = 1,

	.get_dev_fw_str = em_fw_str,
	.get_link_layer = em_link_layer,
	.get_port_immutable = em_get_port_immutable,
	.modify_port = em_modify_port,
	.query_device = em_query_device,
	.query_gid = em_query_gid,
	.query_pkey = em_query_pkey,
	.query_port = em_query_port,
	.rdma_netdev_get_params = em_netdev_params,
};
