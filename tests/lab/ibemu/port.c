// SPDX-License-Identifier: GPL-2.0
/* ibemu: state and P_Keys of a port, and what the subnet manager makes of them */
#include "ibemu.h"

/* Something of a registered function's port has changed. */
void em_event(struct em_fn *fn, enum ib_event_type type)
{
	struct ib_event ev = { .device = &fn->ibdev, .element.port_num = 1, .event = type };

	ib_dispatch_event(&ev);
	em_tell_ports();
}

/* ---- P_Keys -------------------------------------------------------------- */

/* Row 0 is every PF's, row n + 1 that of VF n of every PF. */
static u16 fab_pkeys[1 + EM_MAX_VF][EM_PKEYS] = { [0 ... EM_MAX_VF] = { EM_PKEY } };
static char pkeys[1024] = "0:ffff";

u16 em_pkey(const struct em_fn *fn, u32 index)
{
	if (!fn->keyed)
		return index ? 0 : EM_PKEY;
	return index < EM_PKEYS ? fab_pkeys[fn->vf + 1][index] : 0;
}

/* Same partition, and not two limited members (IBTA 10.9.3). */
bool em_pkeys_match(u16 a, u16 b)
{
	return (a & 0x7fff) && !((a ^ b) & 0x7fff) && (a | b) & 0x8000;
}

/* The first entry of a port's table that may talk to key; -1 if none. */
int em_find_pkey(const struct em_port *port, u16 key)
{
	int i;

	for (i = 0; i < EM_PKEYS; i++)
		if (em_pkeys_match(port->pkey[i], key))
			return i;
	return -1;
}

static int em_parse_pkeys(char *at, u16 table[][EM_PKEYS])
{
	char *row, *word;
	unsigned int vf;
	int i;

	while ((row = strsep(&at, ";"))) {
		if (!*row)
			continue;
		word = strsep(&row, ":");
		if (!row || kstrtouint(word, 10, &vf) || vf >= EM_MAX_VF)
			return -EINVAL;
		table[vf + 1][0] = 0;
		for (i = 0; (word = strsep(&row, ",")); i++)
			if (i == EM_PKEYS || kstrtou16(word, 16, &table[vf + 1][i]))
				return -EINVAL;
	}
	return 0;
}

/* Take "VF:KEY,KEY;VF:KEY" for the tables; a VF that is not named has ffff. */
static int em_set_pkeys(const char *val, const struct kernel_param *kp)
{
	/* the lock of the parameters keeps others out */
	static u16 table[1 + EM_MAX_VF][EM_PKEYS];
	static char copy[sizeof(pkeys)], *text;
	bool changed[1 + EM_MAX_VF];
	int i, ret;

	if (strscpy(copy, val, sizeof(copy)) < 0)
		return -E2BIG;
	memset(table, 0, sizeof(table));
	for (i = 0; i <= EM_MAX_VF; i++)
		table[i][0] = EM_PKEY;
	text = strim(copy);
	ret = em_parse_pkeys(text, table);
	if (ret)
		return ret;
	strscpy(copy, val, sizeof(copy));
	strscpy(pkeys, strim(copy), sizeof(pkeys));
	spin_lock_irq(&fab_lock);
	for (i = 0; i <= EM_MAX_VF; i++)
		changed[i] = memcmp(fab_pkeys[i], table[i], sizeof(table[i]));
	memcpy(fab_pkeys, table, sizeof(table));
	for (i = 0; i < ARRAY_SIZE(fab_lid); i++) {
		struct em_fn *fn = fab_lid[i];

		if (fn && fn->registered && changed[fn->vf + 1])
			em_event(fn, IB_EVENT_PKEY_CHANGE);
	}
	spin_unlock_irq(&fab_lock);
	return 0;
}

static int em_get_pkeys(char *buf, const struct kernel_param *kp)
{
	return sysfs_emit(buf, "%s\n", pkeys);
}

static const struct kernel_param_ops em_pkeys_ops = { .set = em_set_pkeys, .get = em_get_pkeys };
module_param_cb(pkeys, &em_pkeys_ops, NULL, 0644);
MODULE_PARM_DESC(pkeys, "P_Key tables, like 0:ffff,8001;1:8002 (VF 0 and VF 1 of every PF; others: ffff)");

/* ---- port state ---------------------------------------------------------- */

static uint sm_delay_ms, pkey_delay_ms;
static int sm_ignores_vfs;

bool em_is_pf(const struct em_fn *fn)
{
	return fn->vf < 0 && !fn->plain;
}

/* Whether the function has a link at all; only the PF can say that a VF has none. */
static bool em_enabled(const struct em_fn *fn)
{
	return fn->vf < 0 ||
	       (fn->hca->vf[fn->vf].state != IFLA_VF_LINK_STATE_DISABLE && fn->port_guid);
}

enum ib_port_state em_state(const struct em_fn *fn)
{
	if (em_is_pf(fn))
		return IB_PORT_ACTIVE;
	if (!em_enabled(fn))
		return IB_PORT_DOWN;
	if (fn->ethernet)
		return IB_PORT_ACTIVE;
	if (sm_ignores_vfs == 1)
		return IB_PORT_DOWN;
	return sm_ignores_vfs || !fn->served ? IB_PORT_INIT : IB_PORT_ACTIVE;
}

static void em_state_event(struct em_fn *fn)
{
	em_event(fn, em_state(fn) == IB_PORT_ACTIVE ? IB_EVENT_PORT_ACTIVE : IB_EVENT_PORT_ERR);
}

static void em_serve(struct work_struct *work)
{
	struct em_fn *fn = TO(em_fn, serve, to_delayed_work(work));

	spin_lock_irq(&fab_lock);
	fn->served = em_enabled(fn);
	if (fn->registered && em_state(fn) == IB_PORT_ACTIVE)
		em_state_event(fn);
	spin_unlock_irq(&fab_lock);
}

static void em_key(struct work_struct *work)
{
	struct em_fn *fn = TO(em_fn, key, to_delayed_work(work));

	spin_lock_irq(&fab_lock);
	fn->keyed = true;
	if (fn->registered)
		em_event(fn, IB_EVENT_PKEY_CHANGE);
	spin_unlock_irq(&fab_lock);
}

/* The port is there: let the subnet manager get to work. The fabric lock is held, here and below. */
void em_start_port(struct em_fn *fn)
{
	if (!fn->served && em_enabled(fn))
		mod_delayed_work(system_wq, &fn->serve, msecs_to_jiffies(sm_delay_ms));
	if (!fn->keyed)
		mod_delayed_work(system_wq, &fn->key, msecs_to_jiffies(pkey_delay_ms));
}

/* A new delay counts from now on for the ports that wait already. */
static int em_set_delay(const char *val, const struct kernel_param *kp)
{
	int i, ret = param_set_uint(val, kp);

	spin_lock_irq(&fab_lock);
	for (i = 0; i < ARRAY_SIZE(fab_lid) && !ret; i++)
		if (fab_lid[i] && fab_lid[i]->registered)
			em_start_port(fab_lid[i]);
	spin_unlock_irq(&fab_lock);
	return ret;
}

static const struct kernel_param_ops em_delay_ops = { .set = em_set_delay, .get = param_get_uint };
module_param_cb(sm_delay_ms, &em_delay_ops, &sm_delay_ms, 0644);
MODULE_PARM_DESC(sm_delay_ms, "a port is INIT for this long after bind, and after the PF has enabled it");
module_param_cb(pkey_delay_ms, &em_delay_ops, &pkey_delay_ms, 0644);
MODULE_PARM_DESC(pkey_delay_ms, "a VF's P_Key table is just ffff for this long after bind");

static int em_set_ignores(const char *val, const struct kernel_param *kp)
{
	int i, value, ret = kstrtoint(val, 0, &value);

	if (ret || value < 0 || value > 2)
		return -EINVAL;
	spin_lock_irq(&fab_lock);
	sm_ignores_vfs = value;
	for (i = 0; i < ARRAY_SIZE(fab_lid); i++)
		if (fab_lid[i] && fab_lid[i]->registered && !em_is_pf(fab_lid[i]))
			em_state_event(fab_lid[i]);
	spin_unlock_irq(&fab_lock);
	return 0;
}

static const struct kernel_param_ops em_ignores_ops = { .set = em_set_ignores, .get = param_get_int };
module_param_cb(sm_ignores_vfs, &em_ignores_ops, &sm_ignores_vfs, 0644);
MODULE_PARM_DESC(sm_ignores_vfs, "the subnet manager serves no VF; their ports stay: 1 DOWN, 2 INIT");

void em_gid(const struct em_fn *fn, union ib_gid *gid)
{
	gid->global.subnet_prefix = cpu_to_be64(EM_SUBNET);
	gid->global.interface_id = cpu_to_be64(fn->port_guid);
}

/* When it is known which GUID the port has. */
void em_init_port(struct em_fn *fn)
{
	INIT_DELAYED_WORK(&fn->serve, em_serve);
	INIT_DELAYED_WORK(&fn->key, em_key);
	fn->served = em_is_pf(fn) || (em_enabled(fn) && !sm_delay_ms);
	fn->keyed = fn->vf < 0 || !pkey_delay_ms;
}

/* The PF has set the link state of a registered VF. */
void em_change_link(struct em_fn *fn)
{
	fn->served = em_enabled(fn) && (fn->served || !sm_delay_ms);
	if (!em_enabled(fn))
		cancel_delayed_work(&fn->serve);
	else if (!fn->served)		/* or it waits already */
		queue_delayed_work(system_wq, &fn->serve, msecs_to_jiffies(sm_delay_ms));
	em_state_event(fn);
}

/* Without the fabric lock, when nothing starts the port any more. */
void em_stop_port(struct em_fn *fn)
{
	cancel_delayed_work_sync(&fn->serve);
	cancel_delayed_work_sync(&fn->key);
}
