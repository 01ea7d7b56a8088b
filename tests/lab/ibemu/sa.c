// SPDX-License-Identifier: GPL-2.0
/* ibemu: the subnet administrator, which answers path and multicast queries */
#include "ibemu.h"

KNOB(sm_down, bool, false, 0644, "the subnet administrator does not answer");
KNOB(mcast_mtu, uint, 2048, 0644, "MTU of the multicast groups, 256-4096; the ports' is 4096");

static struct { union ib_gid gid; u32 qkey; u16 pkey; } fab_group[EM_GROUPS];
static int fab_groups;

static int em_sa_mcmember(const struct em_port *from, u8 *d, ib_sa_comp_mask mask)
{
	union ib_gid gid;
	u16 pkey = EM_PKEY;
	int i;

	memcpy(&gid, d, 16);
	if (gid.raw[0] != 0xff)
		return 0x0700;			/* invalid GID */
	if (mask & IB_SA_MCMEMBER_REC_PKEY)
		pkey = get_unaligned_be16(d + 40);
	else if (gid.raw[3] == 0x1b)		/* IPoIB's signature (RFC 4391): the P_Key follows */
		pkey = get_unaligned_be16(gid.raw + 4);
	if (em_find_pkey(from, pkey | 0x8000) < 0)
		return 0x0200;			/* invalid request */
	for (i = 0; i < fab_groups; i++)
		if (!memcmp(&fab_group[i].gid, &gid, 16))
			break;
	if (i == fab_groups) {
		if (i == ARRAY_SIZE(fab_group))
			return 0x0100;		/* no resources */
		fab_group[i].gid = gid;
		fab_group[i].qkey = mask & IB_SA_MCMEMBER_REC_QKEY ?
				    get_unaligned_be32(d + 32) : EM_QKEY;
		fab_group[i].pkey = pkey | 0x8000;
		fab_groups++;
	}
	put_unaligned_be32(fab_group[i].qkey, d + 32);
	put_unaligned_be16(0xc000 + i, d + 36);
	d[38] = 2 << 6 | ib_mtu_int_to_enum(mcast_mtu);
	d[39] = 0;				/* traffic class */
	put_unaligned_be16(fab_group[i].pkey, d + 40);
	d[42] = 2 << 6 | IB_RATE_100_GBPS;
	d[43] = 2 << 6 | 18;			/* packet life time */
	put_unaligned_be32(0, d + 44);		/* SL, flow label, hop limit */
	return 0;
}

/* Give an entry of a's table by which it can talk to b, of the wanted partition if one is; 0 if none. */
static u16 em_shared_pkey(const struct em_port *a, const struct em_port *b, u16 wanted)
{
	int i;

	for (i = 0; i < EM_PKEYS; i++) {
		u16 key = a->pkey[i];

		if (!(wanted && (key ^ wanted) & 0x7fff) && em_find_pkey(b, key) >= 0)
			return key;
	}
	return 0;
}

static int em_sa_path(const struct em_port *from, u8 *d, ib_sa_comp_mask mask)
{
	struct sa_path_rec rec = { .rec_type = SA_PATH_REC_TYPE_IB };
	struct em_port to, source;
	u16 pkey;

	ib_sa_unpack_path(d, &rec);
	rec.rec_type = SA_PATH_REC_TYPE_IB;
	if (!em_find_port(be32_to_cpu(sa_path_get_dlid(&rec)),
			  mask & IB_SA_PATH_REC_DGID ? &rec.dgid : NULL, &to))
		return 0x0300;			/* no records */
	pkey = em_shared_pkey(from, &to, mask & IB_SA_PATH_REC_PKEY ? be16_to_cpu(rec.pkey) : 0);
	if (!pkey)
		return 0x0300;
	rec.dgid.global.subnet_prefix = cpu_to_be64(EM_SUBNET);
	rec.dgid.global.interface_id = cpu_to_be64(to.guid);
	sa_path_set_dlid(&rec, to.lid);
	if (em_find_port(0, &rec.sgid, &source))
		sa_path_set_slid(&rec, source.lid);
	rec.pkey = cpu_to_be16(pkey);
	rec.mtu_selector = rec.rate_selector = rec.packet_life_time_selector = 2;
	rec.mtu = IB_MTU_4096;
	rec.rate = IB_RATE_100_GBPS;
	rec.packet_life_time = 18;
	rec.reversible = rec.numb_path = 1;
	rec.hop_limit = 0;
	ib_sa_pack_path(&rec, d);
	return 0;
}

/* A datagram for the subnet manager's LID. */
void em_sa(const struct em_pkt *p, const struct em_src *req)
{
	static struct ib_sa_mad mad;
	struct ib_sge sge = { .addr = (uintptr_t)&mad, .length = sizeof(mad) };
	struct em_src rsp = { .sge = &sge, .n = 1, .len = sizeof(mad) };
	struct em_pkt answer = {
		.op = EM_UD, .slid = EM_SM_LID, .dlid = p->slid, .pkey = EM_PKEY,
		.sqpn = 1, .dqpn = 1, .len = sizeof(mad),
	};
	struct em_port from;
	struct ib_mad_hdr *h = &mad.mad_hdr;
	ib_sa_comp_mask mask;
	int status = 0x0c;			/* method/attribute not supported */
	bool ok;

	BUILD_BUG_ON(sizeof(mad) != IB_MGMT_MAD_SIZE);
	if (sm_down || p->dqpn != 1 || req->len < sizeof(mad) || em_sg(req, 0, &mad, sizeof(mad), false) ||
	    h->mgmt_class != IB_MGMT_CLASS_SUBN_ADM || h->method & IB_MGMT_METHOD_RESP ||
	    !em_find_port(p->slid, NULL, &from))
		return;
	mask = mad.sa_hdr.comp_mask;
	ok = h->method == IB_MGMT_METHOD_GET || h->method == IB_MGMT_METHOD_SET ||
	     h->method == IB_SA_METHOD_DELETE;
	switch (ok ? be16_to_cpu(h->attr_id) : 0) {
	case 0x0001:				/* ClassPortInfo */
		memset(mad.data, 0, sizeof(mad.data));
		mad.data[0] = 1;
		mad.data[1] = 2;
		mad.data[7] = 18;
		status = 0;
		break;
	case IB_SA_ATTR_PATH_REC:
		status = em_sa_path(&from, mad.data, mask);
		break;
	case IB_SA_ATTR_MC_MEMBER_REC:
		status = em_sa_mcmember(&from, mad.data, mask);
		break;
	}
	h->method = h->method == IB_MGMT_METHOD_SET ? IB_MGMT_METHOD_GET_RESP :
		    h->method | IB_MGMT_METHOD_RESP;
	h->status = cpu_to_be16(status);
	em_route_ud(&answer, &rsp, NULL);
}
