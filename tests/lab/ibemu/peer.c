// SPDX-License-Identifier: GPL-2.0
/*
 * ibemu: the other kernels of a fabric
 *
 * With the parameters node and peers several kernels make one fabric.  LIDs
 * and the PFs' GUIDs carry the node's number.  Each kernel tells the others
 * which of its ports are active; the subnet administrator is that of the
 * lowest node alive.  Here is what one kernel knows of another and what waits
 * to be sent to it; wire.c carries it.
 */
#include <linux/inet.h>
#include "ibemu.h"

#define QUEUE	1024			/* datagrams that may wait for the wire */

uint em_node;
module_param_named(node, em_node, uint, 0444);
MODULE_PARM_DESC(node, "number of this kernel in a fabric of several, 0-31");
static char *peers;
module_param(peers, charp, 0444);
MODULE_PARM_DESC(peers, "IPv4 addresses of nodes 0, 1, ..., this one's too, by comma; without: a fabric of its own");

struct em_peer *em_peers[EM_NODES];
static int master;			/* the node whose subnet administrator is asked */

struct em_msg {				/* waits for the wire */
	struct list_head list;
	struct em_pkt pkt;
	u8 data[];
};

/* ---- who and where ------------------------------------------------------- */

/* A node's address; 0 if peers has none. */
__be32 em_address(int node)
{
	const char *at = peers;
	__be32 addr = 0;

	while (node-- && at) {
		at = strchr(at, ',');
		at = at ? at + 1 : NULL;
	}
	return at && in4_pton(at, -1, (u8 *)&addr, ',', NULL) ? addr : 0;
}

/* The kernel that a LID belongs to; NULL if it is this one or none. */
struct em_peer *em_peer(u32 lid)
{
	u32 node = lid >> EM_NODE_SHIFT;

	return node < EM_NODES ? em_peers[node] : NULL;
}

int em_init_peers(void)
{
	int i;

	if (em_node >= EM_NODES || (peers && !em_address(em_node)))
		return -EINVAL;
	master = em_node;
	for (i = 0; i < EM_NODES; i++) {
		struct em_peer *p;

		if (i == em_node || !em_address(i))
			continue;
		p = kvzalloc(sizeof(*p), GFP_KERNEL);
		if (!p)
			return -ENOMEM;
		p->node = i;
		INIT_LIST_HEAD(&p->queue);
		INIT_LIST_HEAD(&p->qps);
		init_waitqueue_head(&p->wait);
		em_peers[i] = p;
	}
	return 0;
}

void em_free_peers(void)
{
	int i;

	for (i = 0; i < EM_NODES; i++) {
		kvfree(em_peers[i]);
		em_peers[i] = NULL;
	}
}

/* ---- ports --------------------------------------------------------------- */

void em_port_of(const struct em_fn *fn, struct em_port *port)
{
	int i;

	port->guid = fn->port_guid;
	port->lid = fn->lid;
	for (i = 0; i < EM_PKEYS; i++)
		port->pkey[i] = em_pkey(fn, i);
}

static bool em_is_port(const struct em_port *port, u32 lid, const union ib_gid *gid)
{
	if (!gid)
		return port->lid == lid;
	return gid->global.subnet_prefix == cpu_to_be64(EM_SUBNET) &&
	       gid->global.interface_id == cpu_to_be64(port->guid);
}

/* Fill in the active port of the fabric with that GID, or LID if gid is NULL; false if there is none. */
bool em_find_port(u32 lid, const union ib_gid *gid, struct em_port *port)
{
	int i, k;

	for (i = 0; i < ARRAY_SIZE(fab_lid); i++) {
		if (!fab_lid[i] || em_state(fab_lid[i]) != IB_PORT_ACTIVE)
			continue;
		em_port_of(fab_lid[i], port);
		if (em_is_port(port, lid, gid))
			return true;
	}
	for (i = 0; i < EM_NODES; i++)
		for (k = 0; em_peers[i] && k < em_peers[i]->nports; k++)
			if (em_is_port(&em_peers[i]->port[k], lid, gid)) {
				*port = em_peers[i]->port[k];
				return true;
			}
	return false;
}

/* Our ports or their P_Keys have changed: tell the others. */
void em_tell_ports(void)
{
	int i;

	for (i = 0; i < EM_NODES; i++)
		if (em_peers[i]) {
			em_peers[i]->told = false;
			em_kick(em_peers[i]);
		}
}

static u32 em_take_ports(struct em_pkt *k, struct em_port *port)
{
	int i, n = 0;

	for (i = 0; i < ARRAY_SIZE(fab_lid); i++)
		if (fab_lid[i] && em_state(fab_lid[i]) == IB_PORT_ACTIVE)
			em_port_of(fab_lid[i], &port[n++]);
	*k = (struct em_pkt){ .op = EM_PORTS, .len = n * sizeof(*port) };
	return sizeof(*k) + k->len;
}

/* ---- the subnet administrator -------------------------------------------- */

/* Which node answers what is sent to the subnet manager's LID. */
int em_sa_node(void)
{
	return master;
}

/* The lowest node alive is asked; when it is another than before, all joins are to be made again. */
static void em_elect(void)
{
	int i;

	for (i = 0; i < em_node && !(em_peers[i] && em_peers[i]->up); i++)
		;
	if (i == master)
		return;
	master = i;
	pr_info("ibemu: the subnet administrator is node %d's\n", i);
	for (i = 0; i < ARRAY_SIZE(fab_lid); i++)
		if (fab_lid[i] && fab_lid[i]->registered)
			em_event(fab_lid[i], IB_EVENT_CLIENT_REREGISTER);
}

/* ---- what is sent -------------------------------------------------------- */

void em_kick(struct em_peer *p)
{
	p->kick = true;
	wake_up(&p->wait);
}

/* Queue a packet; a datagram is lost when too many wait. */
void em_send(struct em_peer *p, const struct em_pkt *pkt, const struct em_src *src)
{
	struct em_msg *m;

	if (!p || !p->up || (pkt->op == EM_UD && p->queued >= QUEUE))
		return;
	m = kmalloc(sizeof(*m) + pkt->len, GFP_ATOMIC);
	if (m && pkt->len && em_sg(src, 0, m->data, pkt->len, false)) {
		kfree(m);
		m = NULL;
	}
	if (m) {
		m->pkt = *pkt;
		list_add_tail(&m->list, &p->queue);
		p->queued++;
	} else if (pkt->op != EM_UD) {
		p->broken = true;		/* an answer is lost: start anew */
	}
	em_kick(p);
}

/* The next packet of the queue.  What a READ asks for is read here, a part at a time. */
static u32 em_take_msg(struct em_peer *p, struct em_pkt *k, u8 *data)
{
	struct em_msg *m = list_first_entry_or_null(&p->queue, struct em_msg, list);

	if (!m)
		return 0;
	*k = m->pkt;
	if (k->op == EM_DATA) {
		k->len = min_t(u32, k->total - k->off, EM_PART);
		if (k->len && em_mem(true, k->rkey, k->addr + k->off, data, k->len, false)) {
			k->op = EM_ACK;
			k->status = IB_WC_REM_ACCESS_ERR;
			k->len = 0;
		} else {
			m->pkt.off += k->len;
			if (m->pkt.off < k->total)
				return sizeof(*k) + k->len;
		}
	} else {
		memcpy(data, m->data, k->len);
	}
	list_del(&m->list);
	kfree(m);
	p->queued--;
	return sizeof(*k) + k->len;
}

/* Fill in the next packet for p, at most EM_PART of data; returns its length, 0 if there is none. */
u32 em_take(struct em_peer *p, struct em_pkt *k, u8 *data)
{
	if (p->linked && !p->told) {
		p->told = true;
		return em_take_ports(k, (void *)data);
	}
	return em_take_msg(p, k, data) ?: em_take_rc(p, k, data);
}

/* ---- what comes ---------------------------------------------------------- */

static void em_take_in_ports(struct em_peer *p, const struct em_pkt *k, const void *data)
{
	p->nports = min_t(u32, k->len / sizeof(*p->port), ARRAY_SIZE(p->port));
	memcpy(p->port, data, p->nports * sizeof(*p->port));
	if (p->up)
		return;
	p->up = true;
	pr_info("ibemu: node %d is up\n", p->node);
	em_elect();
}

void em_take_in(struct em_peer *p, const struct em_pkt *k, void *data)
{
	struct ib_sge sge = { .addr = (uintptr_t)data, .length = k->len };
	struct em_src src = { .sge = &sge, .n = 1, .len = k->len };

	if (k->op == EM_PORTS)
		em_take_in_ports(p, k, data);
	else if (k->op == EM_UD)
		em_deliver_ud(k, &src, NULL);
	else
		em_take_in_rc(k, data);
}

/* ---- coming and going ---------------------------------------------------- */

void em_link_up(struct em_peer *p)
{
	p->linked = true;
	p->told = p->broken = false;
	em_kick(p);
}

/* The other kernel is gone, and all that was under way with it. */
void em_link_down(struct em_peer *p)
{
	struct em_msg *m, *tmp;

	if (p->up)
		pr_info("ibemu: node %d is gone\n", p->node);
	p->linked = p->up = false;
	p->nports = 0;
	list_for_each_entry_safe(m, tmp, &p->queue, list)
		kfree(m);
	INIT_LIST_HEAD(&p->queue);
	p->queued = 0;
	em_fail_rc(p);
	em_elect();
}
