"""What the kernels of a fabric notice when one of them goes and comes back."""

from __future__ import annotations

from tests.cluster.endpoint import endpoints, join
from tests.cluster.hca import Host
from tests.lab.commands import wait

IPOIB_VF = 3
OWN_PODS = """
ip netns add a && ip netns add b
ip link set {0} netns a name net1 && ip link set {1} netns b name net1
for n in a b; do ip -n $n link set net1 up; done
ip -n a addr add 10.9.0.1/24 dev net1 && ip -n b addr add 10.9.0.2/24 dev net1
"""


def test_requests_end_when_the_other_module_is_unloaded(pair: list[Host]) -> None:
    here, there = pair
    seen = len(here.log())
    with endpoints(here.device(0), there.device(0)) as (one, two):
        join(one, two)
        one.call("post", length=4)  # waits for a buffer
        one.call("post", length=4)
        there.unload()
        assert one.completions(2) == ["RETRY_EXC", "WR_FLUSH"]
    here.wait_for("node 1 is gone", after=seen)
    there.load()
    here.wait_for("node 1 is up", after=seen)
    with endpoints(here.device(0), there.device(0)) as (one, two):
        join(one, two)
        two.call("receive")
        one.call("post", length=4)
        assert one.completions() == two.completions() == ["SUCCESS"]


def test_a_crash_is_noticed_and_another_subnet_manager_takes_over(pair: list[Host]) -> None:
    """The first machine is the master; its plug is pulled, so nothing says good-bye to the second one."""
    there, here = pair
    seen = len(here.log())
    with endpoints(here.device(0), there.device(0)) as (one, two):
        join(one, two)
        one.call("post", length=4)
        there.machine.crash()
        assert one.completions(timeout=120) == ["RETRY_EXC"]
    here.wait_for("node 0 is gone", after=seen)
    here.wait_for("the subnet administrator is node 1's", after=seen)
    # names and paths are looked up anew: in namespaces that know nobody yet
    here.machine.run(OWN_PODS.format(here.vfs[0].netdev, here.vfs[1].netdev))
    ping = "ip netns exec a ping -c 1 -W 5 10.9.0.2"
    assert wait(lambda: here.machine.run(ping, check=False).status == 0, 60, 0.5)
    here.machine.run("ip netns del a; ip netns del b")

    seen = len(here.log())
    there.machine.start()
    there.machine.wait_until_up()
    there.load()
    here.wait_for("node 0 is up", after=seen)
    here.wait_for("the subnet administrator is node 0's", after=seen)
    addresses = [each.address_up(IPOIB_VF) for each in pair]
    assert wait(lambda: here.pings(addresses[0]), 60, 0.5)
    assert there.pings(addresses[1])
