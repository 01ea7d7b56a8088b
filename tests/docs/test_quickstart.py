"""The quick start's last step, as the tests of a cluster read it from the page (tests/cluster/story.py)."""

from __future__ import annotations

import yaml

from tests.cluster.quickstart import arguments, place, read_page


def test_the_pods_get_their_nodes_and_the_registry() -> None:
    pods = list(yaml.safe_load_all(place(read_page().pods, "lab.local", ["node1", "node2"])))
    assert [each["metadata"]["name"] for each in pods] == ["ib-a", "ib-b"]
    assert [each["spec"]["nodeName"] for each in pods] == ["node1", "node2"]
    assert {each["spec"]["containers"][0]["image"] for each in pods} == {"lab.local/ib-test:1"}


def test_the_commands_show_ping_serve_and_measure() -> None:
    shown, ping, server, client = read_page().commands
    assert arguments(shown, "10.0.0.1") == ["exec", "ib-b", "--", "ip", "-br", "address", "show", "net1"]
    assert arguments(ping, "10.0.0.1") == ["exec", "ib-a", "--", "ping", "-c", "3", "10.0.0.1"]
    assert server.endswith("&")
    assert arguments(server, "10.0.0.1")[:4] == ["exec", "ib-b", "--", "ib_write_bw"]
    assert arguments(client, "10.0.0.1")[-1] == "10.0.0.1"
