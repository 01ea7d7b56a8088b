// SPDX-License-Identifier: GPL-2.0
/* ibemu: the PCI driver, and the module */
#include <linux/kprobes.h>
#include "ibemu.h"

static char *prefix = "ibemu_";
module_param(prefix, charp, 0644);
MODULE_PARM_DESC(prefix, "RDMA device name prefix");
KNOB(vf_guid_base, ullong, 0, 0644, "preset VF GUIDs: base + 65536*node + 256*pf + vf (0: all zeros)");
KNOB(vf_state, int, IFLA_VF_LINK_STATE_AUTO, 0644, "first VF link state: 0 auto, 1 enable, 2 disable");
KNOB(ports, uint, 1, 0444, "ports of each VF (1-2); nothing is plugged into the second one");
KNOB(probe_delay_ms, uint, 0, 0644, "sleep this long in a VF's probe");
KNOB(late_ms, uint, 0, 0644, "register the RDMA device this long after a VF's probe returned");
KNOB(fail_probe, ullong, 0, 0644, "mask of VFs whose probe fails with EIO");
KNOB(fail_probes, int, -1, 0644, "how many probes fail by that mask; -1: all");
KNOB(ignore_guid, ullong, 0, 0644, "mask of VFs that keep their old GUIDs on rebind");
KNOB(lose_netdev, ullong, 0, 0644, "mask of VFs whose next bind, and no later one, makes no IPoIB netdev");
KNOB(lose_rdma, ullong, 0, 0644, "mask of VFs whose next bind, and no later one, makes neither device");
KNOB(ethernet, ullong, 0, 0644, "mask of VFs whose link layer is Ethernet from their next bind on");
KNOB(renumber, bool, false, 0644, "never reuse an RDMA device number");
KNOB(refuse_rdma_rename, int, 0, 0644, "errno with which renaming any RDMA device is refused; 0: it is not");

static atomic_t next_number;

/* The node GUID of a PF. */
u64 em_base_guid(const struct em_hca *hca)
{
	return 0x0002c90300e1b000ULL + ((u64)em_node << 16) + hca->id * 0x100;
}

/* ---- PCI driver ---------------------------------------------------------- */

static int em_register(struct em_fn *fn)
{
	char name[IB_DEVICE_NAME_MAX];
	int ret;

	spin_lock_irq(&fab_lock);
	fab_lid[EM_SLOT(fn->lid)] = fn;
	spin_unlock_irq(&fab_lock);
	if (renumber)
		snprintf(name, sizeof(name), "%s%d", prefix, atomic_inc_return(&next_number) + 99);
	else
		snprintf(name, sizeof(name), "%s%%d", prefix);
	ret = ib_register_device(&fn->ibdev, name, NULL);
	spin_lock_irq(&fab_lock);
	if (ret)
		fab_lid[EM_SLOT(fn->lid)] = NULL;
	fn->registered = !ret;
	if (fn->registered)
		em_start_port(fn);
	em_tell_ports();
	spin_unlock_irq(&fab_lock);
	return ret;
}

static void em_late(struct work_struct *work)
{
	struct em_fn *fn = TO(em_fn, late, to_delayed_work(work));

	if (em_register(fn))
		dev_err(&fn->pdev->dev, "late registration failed\n");
}

static void em_remove(struct pci_dev *pdev)
{
	struct em_fn *fn = pci_get_drvdata(pdev);
	bool registered;

	if (em_is_pf(fn))
		pci_disable_sriov(pdev);
	cancel_delayed_work_sync(&fn->late);
	spin_lock_irq(&fab_lock);
	registered = fn->registered;
	fn->registered = false;
	spin_unlock_irq(&fab_lock);
	em_stop_port(fn);
	if (registered)
		ib_unregister_device(&fn->ibdev);
	spin_lock_irq(&fab_lock);
	fab_lid[EM_SLOT(fn->lid)] = NULL;
	em_tell_ports();
	spin_unlock_irq(&fab_lock);
	ib_dealloc_device(&fn->ibdev);
	pci_disable_device(pdev);
}

/* Whether a mask names the VF, once: its bit is cleared. */
static bool em_once(ullong *mask, int vf)
{
	if (!HIT(*mask, vf))
		return false;
	*mask &= ~(1ULL << vf);
	return true;
}

static int em_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct em_hca *hca = (struct em_hca *)pdev->bus->sysdata;
	int vf = pdev->is_virtfn ? pci_iov_vf_id(pdev) : -1, i, ret;
	u64 base = em_base_guid(hca);
	struct em_fn *fn;

	if (vf >= 0 && probe_delay_ms)
		msleep(probe_delay_ms);
	if (HIT(fail_probe, vf) && fail_probes) {
		if (fail_probes > 0)
			fail_probes--;
		return -EIO;
	}
	ret = pci_enable_device(pdev);
	if (ret)
		return ret;
	fn = ib_alloc_device(em_fn, ibdev);
	if (!fn) {
		ret = -ENOMEM;
		goto disable;
	}
	fn->pdev = pdev;
	fn->hca = hca;
	fn->vf = vf;
	fn->plain = !pdev->is_virtfn && pdev->devfn;
	fn->lid = (em_node << EM_NODE_SHIFT) + hca->id * 0x100 + (fn->plain ? pdev->devfn : EM_SM_LID + 2 + vf);
	fn->ethernet = HIT(ethernet, vf);
	fn->no_netdev = em_once(&lose_netdev, vf);
	INIT_DELAYED_WORK(&fn->late, em_late);
	if (fn->plain) {
		fn->node_guid = fn->port_guid = base + pdev->devfn;
	} else if (vf < 0) {
		fn->node_guid = base;
		fn->port_guid = base + 1;
		for (i = 0; i < EM_MAX_VF; i++) {
			u64 g = vf_guid_base ? vf_guid_base + (em_node << 16) + hca->id * 0x100 + i : 0;

			hca->vf[i] = (struct em_vfcfg){ g, g, .state = vf_state };
		}
		ib_set_device_ops(&fn->ibdev, &em_pf_ops);
	} else if (!HIT(ignore_guid, vf)) {
		fn->node_guid = hca->vf[vf].node_guid;
		fn->port_guid = hca->vf[vf].port_guid;
	}
	em_init_port(fn);
	fn->ibdev.node_type = RDMA_NODE_IB_CA;
	fn->ibdev.node_guid = cpu_to_be64(fn->node_guid);
	fn->ibdev.phys_port_cnt = vf < 0 ? 1 : ports;
	fn->ibdev.num_comp_vectors = 1;
	fn->ibdev.local_dma_lkey = 0;
	fn->ibdev.dev.parent = &pdev->dev;
	fn->ibdev.uverbs_cmd_mask |= EM_UVERBS_COMMANDS;
	snprintf(fn->ibdev.node_desc, sizeof(fn->ibdev.node_desc), "ibemu %s", pci_name(pdev));
	ib_set_device_ops(&fn->ibdev, &em_device_ops);
	ib_set_device_ops(&fn->ibdev, &em_queue_ops);
	ib_set_device_ops(&fn->ibdev, &em_memory_ops);
	pci_set_drvdata(pdev, fn);
	if (em_once(&lose_rdma, vf))
		return 0;
	if (vf >= 0 && late_ms) {
		schedule_delayed_work(&fn->late, msecs_to_jiffies(late_ms));
		return 0;
	}
	ret = em_register(fn);
	if (!ret)
		return 0;
	ib_dealloc_device(&fn->ibdev);
disable:
	pci_disable_device(pdev);
	return ret;
}

static int em_sriov_configure(struct pci_dev *pdev, int n)
{
	int ret;

	if (!n) {
		pci_disable_sriov(pdev);
		return 0;
	}
	ret = pci_enable_sriov(pdev, n);
	return ret ?: n;
}

static const struct pci_device_id em_ids[] = {
	{ PCI_DEVICE(EM_VENDOR, EM_PF_ID) },
	{ PCI_DEVICE(EM_VENDOR, EM_VF_ID) },
	{ }
};
MODULE_DEVICE_TABLE(pci, em_ids);

static struct pci_driver em_driver = {
	/* As a qib, which is what the RDMA device is for libibverbs too (driver_id). */
	.name = "ib_qib",
	.id_table = em_ids,
	.probe = em_probe,
	.remove = em_remove,
	.sriov_configure = em_sriov_configure,
};

/* ---- what no driver can refuse ------------------------------------------- */

static noinline int em_no_rename(struct ib_device *ibdev, const char *name)
{
	return -refuse_rdma_rename;
}

/* Have em_no_rename called instead, as a live patch would. */
static int em_at_rename(struct kprobe *probe, struct pt_regs *regs)
{
	if (!refuse_rdma_rename)
		return 0;
	instruction_pointer_set(regs, (unsigned long)em_no_rename);
	return 1;
}

/* A probe that changes where execution goes on must have one. */
static void em_after_rename(struct kprobe *probe, struct pt_regs *regs, unsigned long flags) { }

static struct kprobe em_rename_probe = {
	.symbol_name = "ib_device_rename",
	.pre_handler = em_at_rename,
	.post_handler = em_after_rename,
};

/* ---- module -------------------------------------------------------------- */

static int __init em_init(void)
{
	int ret;

	if (!ports || ports > 2)
		return -EINVAL;
	ret = register_kprobe(&em_rename_probe);
	if (ret)
		return ret;
	ret = em_start_wire();
	if (!ret)
		ret = em_add_hcas();
	if (!ret)
		ret = pci_register_driver(&em_driver);
	if (ret) {
		em_del_hcas();
		em_stop_wire();
		unregister_kprobe(&em_rename_probe);
	}
	return ret;
}

static void __exit em_exit(void)
{
	pci_unregister_driver(&em_driver);
	em_del_hcas();
	em_stop_wire();
	unregister_kprobe(&em_rename_probe);
}

module_init(em_init);
module_exit(em_exit);
MODULE_DESCRIPTION("Emulated InfiniBand HCA with SR-IOV, for tests");
MODULE_LICENSE("GPL");
