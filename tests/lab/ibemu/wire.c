// SPDX-License-Identifier: GPL-2.0
/*
 * ibemu: the wire to other kernels, one TCP connection with each
 *
 * The node with the higher number connects.  A thread receives, another one
 * sends.  Who is silent for peer_timeout_ms is gone: each tells its ports
 * often enough.
 */
#include <linux/inet.h>
#include <linux/kthread.h>
#include <linux/tcp.h>
#include <net/sock.h>
#include "ibemu.h"

KNOB(port, ushort, 5470, 0444, "TCP port of the wire to other kernels");
KNOB(peer_timeout_ms, uint, 20000, 0444, "another kernel that is silent for this long is gone");

#define BUFFER	(4 * EM_PART)

struct em_wire {
	struct em_peer *peer;
	struct task_struct *rx, *tx;
	struct mutex sending;		/* the socket is in use by tx */
	struct mutex owner;		/* the two pointers; taken last */
	struct socket *sock, *fresh;	/* in use; accepted, to be used */
	u32 epoch;			/* number of the connection; under fab_lock too */
	u8 *in, *out;
};

static struct em_wire *wires[EM_NODES];
static struct socket *listener;
static struct task_struct *acceptor;
static bool stopping;

/* ---- sockets ------------------------------------------------------------- */

static struct sockaddr_in em_sockaddr(int node, u16 nr)
{
	return (struct sockaddr_in){
		.sin_family = AF_INET, .sin_addr.s_addr = em_address(node), .sin_port = htons(nr),
	};
}

/* A socket with our address. */
static struct socket *em_socket(u16 nr)
{
	struct sockaddr_in sa = em_sockaddr(em_node, nr);
	struct socket *s;
	int ret = sock_create_kern(&init_net, AF_INET, SOCK_STREAM, IPPROTO_TCP, &s);

	if (ret)
		return ERR_PTR(ret);
	sock_set_reuseaddr(s->sk);
	ret = kernel_bind(s, (void *)&sa, sizeof(sa));
	if (!ret)
		return s;
	sock_release(s);
	return ERR_PTR(ret);
}

/* End a connection; its threads notice. */
static void em_cut(struct em_wire *w)
{
	mutex_lock(&w->owner);
	if (w->sock)
		kernel_sock_shutdown(w->sock, SHUT_RDWR);
	mutex_unlock(&w->owner);
}

/* Wait for a connection from a higher node, or make one to a lower; NULL: try again. */
static struct socket *em_connection(struct em_wire *w)
{
	struct sockaddr_in sa = em_sockaddr(w->peer->node, port);
	struct socket *s;

	if (w->peer->node > em_node) {
		wait_event_interruptible(w->peer->wait, READ_ONCE(w->fresh) || kthread_should_stop());
		mutex_lock(&w->owner);
		s = w->fresh;
		w->fresh = NULL;
		mutex_unlock(&w->owner);
		return s;
	}
	s = em_socket(0);
	if (!IS_ERR(s)) {
		s->sk->sk_sndtimeo = HZ;	/* of connect, too */
		if (!kernel_connect(s, (void *)&sa, sizeof(sa), 0))
			return s;
		sock_release(s);
	}
	wait_event_interruptible_timeout(w->peer->wait, kthread_should_stop(), HZ / 4);
	return NULL;
}

/* ---- sending ------------------------------------------------------------- */

/* Put what is to be sent into w->out; returns its length. */
static u32 em_fill(struct em_wire *w, unsigned long *hello, u32 *epoch)
{
	struct em_peer *p = w->peer;
	struct em_pkt k;
	u32 n = 0, part;

	spin_lock_irq(&fab_lock);
	*epoch = w->epoch;
	p->kick = false;
	if (time_after(jiffies, *hello))
		p->told = false;
	if (!p->told)
		*hello = jiffies + msecs_to_jiffies(peer_timeout_ms / 4);
	while (BUFFER - n >= sizeof(k) + EM_PART) {
		part = em_take(p, &k, w->out + n + sizeof(k));
		if (!part)
			break;
		memcpy(w->out + n, &k, sizeof(k));
		n += part;
		p->kick = BUFFER - n < sizeof(k) + EM_PART;	/* perhaps more */
	}
	spin_unlock_irq(&fab_lock);
	return n;
}

static int em_tx(void *arg)
{
	struct em_wire *w = arg;
	struct em_peer *p = w->peer;
	unsigned long hello = jiffies;

	while (!kthread_should_stop()) {
		struct kvec vec = { .iov_base = w->out };
		struct msghdr msg = {};
		u32 epoch;

		/* a QP that was refused waits for its time, not for a kick */
		wait_event_interruptible_timeout(p->wait, READ_ONCE(p->kick) || kthread_should_stop(),
						 list_empty(&p->qps) ? msecs_to_jiffies(peer_timeout_ms / 8) : 1);
		vec.iov_len = em_fill(w, &hello, &epoch);
		mutex_lock(&w->sending);
		while (vec.iov_len && w->sock && epoch == w->epoch && !p->broken) {
			int n = kernel_sendmsg(w->sock, &msg, &vec, 1, vec.iov_len);

			if (n <= 0) {
				p->broken = true;
				break;
			}
			vec.iov_base += n;
			vec.iov_len -= n;
		}
		mutex_unlock(&w->sending);
		if (p->broken)
			em_cut(w);
	}
	return 0;
}

/* ---- receiving ----------------------------------------------------------- */

/* Take in the packets of a buffer; returns how many bytes they were, or an error if these are none. */
static int em_unpack(struct em_wire *w, u32 have)
{
	struct em_pkt k;
	u32 at = 0;

	while (have - at >= sizeof(k)) {
		memcpy(&k, w->in + at, sizeof(k));
		if (k.len > EM_PART)
			return -EPROTO;
		if (have - at < sizeof(k) + k.len)
			break;
		spin_lock_irq(&fab_lock);
		em_take_in(w->peer, &k, w->in + at + sizeof(k));
		spin_unlock_irq(&fab_lock);
		at += sizeof(k) + k.len;
	}
	return at;
}

static void em_receive(struct em_wire *w, struct socket *s)
{
	u32 have = 0;
	int n;

	while (!READ_ONCE(stopping)) {
		struct kvec vec = { w->in + have, BUFFER - have };
		struct msghdr msg = {};

		n = kernel_recvmsg(s, &msg, &vec, 1, vec.iov_len, 0);
		if (n <= 0)
			return;
		have += n;
		n = em_unpack(w, have);
		if (n < 0)
			return;
		have -= n;
		memmove(w->in, w->in + n, have);
	}
}

static int em_rx(void *arg)
{
	struct em_wire *w = arg;

	while (!kthread_should_stop()) {
		struct socket *s = em_connection(w);

		if (!s)
			continue;
		s->sk->sk_sndtimeo = s->sk->sk_rcvtimeo = msecs_to_jiffies(peer_timeout_ms);
		tcp_sock_set_nodelay(s->sk);
		mutex_lock(&w->sending);
		mutex_lock(&w->owner);
		w->sock = s;
		mutex_unlock(&w->owner);
		spin_lock_irq(&fab_lock);
		w->epoch++;
		em_link_up(w->peer);
		spin_unlock_irq(&fab_lock);
		mutex_unlock(&w->sending);

		em_receive(w, s);

		kernel_sock_shutdown(s, SHUT_RDWR);
		spin_lock_irq(&fab_lock);
		em_link_down(w->peer);
		spin_unlock_irq(&fab_lock);
		mutex_lock(&w->sending);
		mutex_lock(&w->owner);
		w->sock = NULL;
		mutex_unlock(&w->owner);
		mutex_unlock(&w->sending);
		sock_release(s);
	}
	return 0;
}

/* The higher node that has this address. */
static struct em_wire *em_who(__be32 addr)
{
	int i;

	for (i = em_node + 1; i < EM_NODES; i++)
		if (wires[i] && em_address(i) == addr)
			return wires[i];
	return NULL;
}

static int em_accept(void *arg)
{
	while (!kthread_should_stop()) {
		struct socket *s, *old;
		struct sockaddr_in sa;
		struct em_wire *w;

		if (kernel_accept(listener, &s, 0)) {
			msleep_interruptible(50);
			continue;
		}
		w = kernel_getpeername(s, (void *)&sa) < 0 ? NULL : em_who(sa.sin_addr.s_addr);
		if (!w) {
			sock_release(s);
			continue;
		}
		mutex_lock(&w->owner);
		old = w->fresh;
		WRITE_ONCE(w->fresh, s);
		mutex_unlock(&w->owner);
		em_cut(w);			/* the other one has started anew */
		wake_up(&w->peer->wait);
		if (old)
			sock_release(old);
	}
	return 0;
}

/* ---- start and end ------------------------------------------------------- */

static int em_start_one(struct em_peer *p)
{
	struct em_wire *w = kzalloc(sizeof(*w), GFP_KERNEL);

	if (!w)
		return -ENOMEM;
	wires[p->node] = w;
	w->peer = p;
	mutex_init(&w->sending);
	mutex_init(&w->owner);
	w->in = kvmalloc(BUFFER, GFP_KERNEL);
	w->out = kvmalloc(BUFFER, GFP_KERNEL);
	if (!w->in || !w->out)
		return -ENOMEM;
	w->rx = kthread_run(em_rx, w, "ibemu-rx%d", p->node);
	if (IS_ERR(w->rx))
		return PTR_ERR(w->rx);
	w->tx = kthread_run(em_tx, w, "ibemu-tx%d", p->node);
	return PTR_ERR_OR_ZERO(w->tx);
}

static void em_stop_one(struct em_wire *w)
{
	em_cut(w);
	if (!IS_ERR_OR_NULL(w->rx))
		kthread_stop(w->rx);
	if (!IS_ERR_OR_NULL(w->tx))
		kthread_stop(w->tx);
	if (w->fresh)
		sock_release(w->fresh);
	kvfree(w->in);
	kvfree(w->out);
	kfree(w);
}

/* When no function is bound any more; also after a start that failed. */
void em_stop_wire(void)
{
	int i;

	WRITE_ONCE(stopping, true);
	if (!IS_ERR_OR_NULL(acceptor)) {
		kernel_sock_shutdown(listener, SHUT_RDWR);
		kthread_stop(acceptor);
	}
	for (i = 0; i < EM_NODES; i++)
		if (wires[i])
			em_stop_one(wires[i]);
	if (!IS_ERR_OR_NULL(listener))
		sock_release(listener);
	em_free_peers();
}

int em_start_wire(void)
{
	int i, ret = em_init_peers();

	for (i = 0; i < EM_NODES && !em_peers[i]; i++)
		;
	if (i == EM_NODES)			/* alone */
		return ret;
	if (!ret) {
		listener = em_socket(port);
		ret = PTR_ERR_OR_ZERO(listener);
	}
	if (!ret)
		ret = kernel_listen(listener, EM_NODES);
	for (i = 0; i < EM_NODES && !ret; i++)
		if (em_peers[i])
			ret = em_start_one(em_peers[i]);
	if (!ret) {
		acceptor = kthread_run(em_accept, NULL, "ibemu-accept");
		ret = PTR_ERR_OR_ZERO(acceptor);
	}
	if (ret)
		pr_err("ibemu: no wire to other kernels: %d; has this one the address that peers names for it?\n", ret);
	return ret;
}
