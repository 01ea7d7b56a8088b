// SPDX-License-Identifier: GPL-2.0
/* ibemu: what the PF can do to its VFs */
#include "ibemu.h"

KNOB(fail_set_guid, ullong, 0, 0644, "mask of VFs whose set_vf_guid fails");
KNOB(fail_set_state, ullong, 0, 0644, "mask of VFs whose set_vf_link_state fails");
KNOB(fail_errno, int, EIO, 0644, "errno of fail_set_guid and fail_set_state");
KNOB(refuse_zero_guid, ullong, 0, 0644, "mask of VFs for which the PF refuses GUID zero with EINVAL");
KNOB(no_guid_readback, bool, false, 0644, "the PF's netdev does not answer which GUIDs its VFs have");
KNOB(unlisted_vfs, ullong, 0, 0644, "mask of VFs that the PF's netdev leaves out of its list");
KNOB(vf_reads, uint, 0, 0644, "how often a PF was asked for the state of one VF");

static struct em_vfcfg *em_vf(struct ib_device *ibdev, int vf)
{
	struct em_fn *fn = TO(em_fn, ibdev, ibdev);

	return vf >= 0 && vf < pci_num_vf(fn->pdev) ? &fn->hca->vf[vf] : NULL;
}

static int em_set_vf_link_state(struct ib_device *ibdev, int vf, em_port_t port, int state)
{
	struct em_vfcfg *cfg = em_vf(ibdev, vf);
	struct em_fn *pf = TO(em_fn, ibdev, ibdev), *fn;

	if (!cfg || state < IFLA_VF_LINK_STATE_AUTO || state > IFLA_VF_LINK_STATE_DISABLE)
		return -EINVAL;
	if (HIT(fail_set_state, vf))
		return -fail_errno;
	/* Holding the fabric lock keeps the VF's ib_device registered. */
	spin_lock_irq(&fab_lock);
	cfg->state = state;
	fn = em_route(pf->lid + 1 + vf);
	if (fn && fn->registered)
		em_change_link(fn);
	spin_unlock_irq(&fab_lock);
	return 0;
}

static int em_get_vf_config(struct ib_device *ibdev, int vf, em_port_t port, struct ifla_vf_info *info)
{
	struct em_vfcfg *cfg = em_vf(ibdev, vf);

	vf_reads++;
	if (!cfg)
		return -EINVAL;
	/* rtnetlink leaves out a VF that has an error here, and goes on with the next one */
	if (HIT(unlisted_vfs, vf))
		return -EOPNOTSUPP;
	memset(info, 0, sizeof(*info));
	info->linkstate = cfg->state;
	return 0;
}

static int em_get_vf_stats(struct ib_device *ibdev, int vf, em_port_t port, struct ifla_vf_stats *st)
{
	struct em_fn *fn;

	memset(st, 0, sizeof(*st));
	spin_lock_irq(&fab_lock);
	fn = em_route(TO(em_fn, ibdev, ibdev)->lid + 1 + vf);
	if (fn) {
		st->rx_packets = fn->rx_pkts;
		st->rx_bytes = fn->rx_bytes;
		st->tx_packets = fn->tx_pkts;
		st->tx_bytes = fn->tx_bytes;
		st->multicast = fn->rx_mcast;
	}
	spin_unlock_irq(&fab_lock);
	return 0;
}

static int em_set_vf_guid(struct ib_device *ibdev, int vf, em_port_t port, u64 guid, int type)
{
	struct em_vfcfg *cfg = em_vf(ibdev, vf);

	if (!cfg)
		return -EINVAL;
	if (HIT(fail_set_guid, vf))
		return -fail_errno;
	if (!guid && HIT(refuse_zero_guid, vf))
		return -EINVAL;
	if (type == IFLA_VF_IB_NODE_GUID) {
		cfg->node_guid = guid;
		cfg->node_set = true;
	} else {
		cfg->port_guid = guid;
		cfg->port_set = true;
	}
	return 0;
}

static int em_get_vf_guid(struct ib_device *ibdev, int vf, em_port_t port,
			  struct ifla_vf_guid *node, struct ifla_vf_guid *pg)
{
	struct em_vfcfg *cfg = em_vf(ibdev, vf);

	if (!cfg)
		return -EINVAL;
	/* rtnetlink leaves out the two attributes, as Linux before 5.5 does */
	if (no_guid_readback)
		return -EOPNOTSUPP;
	node->guid = cfg->node_set ? cfg->node_guid : 0;
	pg->guid = cfg->port_set ? cfg->port_guid : 0;
	return 0;
}

const struct ib_device_ops em_pf_ops = {
	.get_vf_config = em_get_vf_config,
	.get_vf_guid = em_get_vf_guid,
	.get_vf_stats = em_get_vf_stats,
	.set_vf_guid = em_set_vf_guid,
	.set_vf_link_state = em_set_vf_link_state,
};
