// SPDX-License-Identifier: GPL-2.0
/* ibemu: the PCI root buses and the configuration space of the functions on them */
#include "ibemu.h"

KNOB(pfs, uint, 1, 0444, "physical functions, one PCI domain each (1-4)");
KNOB(total_vfs, uint, 8, 0444, "sriov_totalvfs of each PF (0-64)");
KNOB(domain, uint, 1, 0444, "PCI domain of the first PF");
KNOB(no_physfn, uint, 0, 0444, "functions beside each PF that are neither PF nor VF (0-4)");

static struct em_hca *hcas[EM_MAX_PF];

/* The PF is routing ID 0 of its domain, VF n is n + 1; plain functions are devices 31, 30 ... */
static u8 *em_cfg(struct pci_bus *bus, unsigned int devfn)
{
	struct em_hca *hca = (struct em_hca *)bus->sysdata;
	u8 *pf = hca->cfg[0];
	int rid = bus->number << 8 | devfn, i;

	for (i = 0; i < no_physfn; i++)
		if (rid == PCI_DEVFN(31 - i, 0))
			return hca->cfg[1 + EM_MAX_VF + i];
	if (rid && (rid > get_unaligned_le16(pf + EM_IOV_POS + PCI_SRIOV_NUM_VF) ||
		    !(pf[EM_IOV_POS + PCI_SRIOV_CTRL] & PCI_SRIOV_CTRL_VFE)))
		return NULL;
	return hca->cfg[rid];
}

static int em_cfg_read(struct pci_bus *bus, unsigned int devfn, int where, int size, u32 *val)
{
	u8 *cfg = em_cfg(bus, devfn);

	if (!cfg) {
		*val = ~0;
		return PCIBIOS_DEVICE_NOT_FOUND;
	}
	*val = 0;
	if (where + size <= EM_CFG_LEN)
		memcpy(val, cfg + where, size);
	return PCIBIOS_SUCCESSFUL;
}

static bool em_cfg_writable(bool pf, int at)
{
	switch (at) {
	case PCI_COMMAND ... PCI_COMMAND + 1:
	case PCI_CACHE_LINE_SIZE:
	case PCI_INTERRUPT_LINE:
	case EM_EXP_POS + PCI_EXP_DEVCTL:
		return true;
	case EM_IOV_POS + PCI_SRIOV_CTRL ... EM_IOV_POS + PCI_SRIOV_CTRL + 1:
	case EM_IOV_POS + PCI_SRIOV_NUM_VF ... EM_IOV_POS + PCI_SRIOV_NUM_VF + 1:
	case EM_IOV_POS + PCI_SRIOV_SYS_PGSIZE ... EM_IOV_POS + PCI_SRIOV_SYS_PGSIZE + 3:
		return pf;
	}
	return false;
}

static int em_cfg_write(struct pci_bus *bus, unsigned int devfn, int where, int size, u32 val)
{
	u8 *cfg = em_cfg(bus, devfn);

	if (!cfg)
		return PCIBIOS_DEVICE_NOT_FOUND;
	for (; size--; where++, val >>= 8)
		if (em_cfg_writable(!bus->number && !devfn, where))
			cfg[where] = val;
	return PCIBIOS_SUCCESSFUL;
}

static struct pci_ops em_pci_ops = { .read = em_cfg_read, .write = em_cfg_write };

static void em_cfg_init(struct em_hca *hca)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(hca->cfg); i++) {
		bool vf = i && i <= EM_MAX_VF;
		u8 *c = hca->cfg[i];

		/* a VF answers all ones for its IDs; the core takes the PF's */
		put_unaligned_le16(vf ? 0xffff : EM_VENDOR, c + PCI_VENDOR_ID);
		put_unaligned_le16(vf ? 0xffff : i ? EM_VF_ID : EM_PF_ID, c + PCI_DEVICE_ID);
		put_unaligned_le16(PCI_STATUS_CAP_LIST, c + PCI_STATUS);
		put_unaligned_le32(0x020700 << 8 | 1, c + PCI_CLASS_REVISION);	/* InfiniBand */
		put_unaligned_le16(EM_VENDOR, c + PCI_SUBSYSTEM_VENDOR_ID);
		put_unaligned_le16(EM_PF_ID, c + PCI_SUBSYSTEM_ID);
		c[PCI_CAPABILITY_LIST] = EM_EXP_POS;
		c[EM_EXP_POS] = PCI_CAP_ID_EXP;
		put_unaligned_le16(2 | PCI_EXP_TYPE_RC_END << 4, c + EM_EXP_POS + PCI_EXP_FLAGS);
		put_unaligned_le32(PCI_EXP_DEVCAP_FLR, c + EM_EXP_POS + PCI_EXP_DEVCAP);
		if (i)
			continue;
		c += EM_IOV_POS;
		put_unaligned_le32(PCI_EXT_CAP_ID_SRIOV | 1 << 16, c);
		put_unaligned_le16(total_vfs, c + PCI_SRIOV_INITIAL_VF);
		put_unaligned_le16(total_vfs, c + PCI_SRIOV_TOTAL_VF);
		put_unaligned_le16(1, c + PCI_SRIOV_VF_OFFSET);
		put_unaligned_le16(1, c + PCI_SRIOV_VF_STRIDE);
		put_unaligned_le16(EM_VF_ID, c + PCI_SRIOV_VF_DID);
		put_unaligned_le32(0x553, c + PCI_SRIOV_SUP_PGSIZE);
		put_unaligned_le32(1, c + PCI_SRIOV_SYS_PGSIZE);
	}
}

static int em_add_hca(int id)
{
	struct pci_host_bridge *bridge = pci_alloc_host_bridge(0);
	struct em_hca *hca = kvzalloc(sizeof(*hca), GFP_KERNEL);
	int ret = -ENOMEM;

	if (!bridge || !hca)
		goto free;
	hca->id = id;
	hca->busn = (struct resource){ .name = "ibemu bus", .start = 0, .end = 0xff,
				       .flags = IORESOURCE_BUS };
	em_cfg_init(hca);
	bridge->ops = &em_pci_ops;
	bridge->sysdata = hca;
	em_set_domain(bridge, &hca->sd, domain + id);
	pci_add_resource(&bridge->windows, &hca->busn);
	pci_lock_rescan_remove();
	ret = pci_scan_root_bus_bridge(bridge);
	if (!ret)
		pci_bus_add_devices(bridge->bus);
	pci_unlock_rescan_remove();
	if (ret)
		goto free;
	hca->bridge = bridge;
	hcas[id] = hca;
	return 0;
free:
	if (bridge)
		pci_free_host_bridge(bridge);
	kvfree(hca);
	return ret;
}

void em_del_hcas(void)
{
	int i;

	for (i = 0; i < EM_MAX_PF && hcas[i]; i++) {
		struct pci_host_bridge *bridge = hcas[i]->bridge;

		pci_lock_rescan_remove();
		pci_stop_root_bus(bridge->bus);
		pci_remove_root_bus(bridge->bus);
		pci_unlock_rescan_remove();
		pci_free_host_bridge(bridge);
		kvfree(hcas[i]);
	}
}

int em_add_hcas(void)
{
	int i, ret = 0;

	if (!pfs || pfs > EM_MAX_PF || total_vfs > EM_MAX_VF || no_physfn > EM_MAX_PLAIN)
		return -EINVAL;
	for (i = 0; i < pfs && !ret; i++)
		ret = em_add_hca(i);
	return ret;
}
