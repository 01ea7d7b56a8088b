"""Properties of the allocator, over a store in memory: H3 and H4 for any configuration."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ipam.host_local.allocator import Grant, Holder, Refusal, allocate, next_free
from ipam.host_local.ranges import Range, find_overlaps, parse_range, range_of, ranges_overlap
from ipam.protocol.address import IPV4, parse_address, render_address
from tests.ipam.memory import MemoryStore

BASE = parse_address("10.0.0.0")[1]


@st.composite
def ranges(draw: st.DrawFn, at: int = 0) -> Range:
    start = draw(st.integers(1, 14))
    end = draw(st.integers(start, 14))
    gateway = draw(st.integers(0, 15))
    base = BASE + 16 * at
    return Range(
        bits=IPV4,
        prefix=28,
        start=base + start,
        end=base + end,
        gateway=(IPV4, base + gateway),
        pool=(base, base + 15),
    )


@st.composite
def range_sets(draw: st.DrawFn, at: int = 0) -> tuple[Range, ...]:
    return tuple([draw(ranges(at + index)) for index in range(draw(st.integers(1, 3)))])


SETS = st.tuples(range_sets(0)) | st.tuples(range_sets(0), range_sets(10))


def usable(range_set: tuple[Range, ...]) -> list[int]:
    return [n for part in range_set for n in range(part.start, part.end + 1) if n != part.gateway[1]]


def holder(number: int) -> Holder:
    return Holder(container_id=f"c{number}", ifname="eth0")


def fill(sets: tuple[tuple[Range, ...], ...], store: MemoryStore) -> list[tuple[Grant, ...]]:
    """ADD until it fails."""
    given_out: list[tuple[Grant, ...]] = []
    while True:
        owner = holder(len(store.leases) + 1000 * len(given_out))
        try:
            grants = allocate(sets, (), owner, store)
        except Refusal:
            return given_out
        store.reserve(owner, grants)
        given_out.append(grants)


@given(SETS)
def test_h4_exhaustion_is_exact(sets: tuple[tuple[Range, ...], ...]) -> None:
    store = MemoryStore()
    given_out = fill(sets, store)
    assert len(given_out) == min(len(usable(range_set)) for range_set in sets)
    for index, range_set in enumerate(sets):
        numbers = [grants[index].address[1] for grants in given_out]
        assert len(set(numbers)) == len(numbers)
        assert set(numbers) <= set(usable(range_set))


@given(SETS)
def test_h2_never_outside_and_never_the_gateway(sets: tuple[tuple[Range, ...], ...]) -> None:
    for grants in fill(sets, MemoryStore()):
        for grant in grants:
            part = range_of(sets[grant.index], grant.address)
            assert part is not None
            assert grant.address != part.gateway == grant.gateway
            assert grant.cidr == f"{render_address(grant.address)}/28"


@given(range_sets(), st.lists(st.integers(0, 47), max_size=40), st.integers(-1, 60))
def test_h4_round_robin(range_set: tuple[Range, ...], taken: list[int], cursor: int) -> None:
    """The search is circular: it starts after the cursor's address and tries that address last."""
    circle = usable(range_set)
    last = BASE + cursor
    everything = [n for part in range_set for n in range(part.start, part.end + 1)]
    if last in everything:
        place = everything.index(last) + 1
        circle = [n for n in everything[place:] + everything[:place] if n in circle]
    held = {BASE + number for number in taken}
    expected = next((n for n in circle if n not in held), None)
    found = next_free(range_set, (IPV4, last), lambda address: address[1] in held)
    assert (found and found[1][1]) == expected


@given(range_sets())
def test_h4_an_address_comes_again_only_after_all_others(range_set: tuple[Range, ...]) -> None:
    store = MemoryStore()
    assume(usable(range_set))
    seen = []
    for turn in range(2 * len(usable(range_set))):
        grants = allocate((range_set,), (), holder(turn), store)
        store.reserve(holder(turn), grants)
        store.release(holder(turn))
        seen.append(grants[0].address[1])
    half = len(usable(range_set))
    assert seen[:half] == seen[half:] == usable(range_set)


@given(SETS, st.lists(st.integers(0, 255), max_size=4, unique=True), st.lists(st.integers(0, 255), max_size=30))
def test_h3_requested(sets: tuple[tuple[Range, ...], ...], asked: list[int], taken: list[int]) -> None:
    store = MemoryStore()
    for number in taken:
        store.leases[IPV4, BASE + number] = Holder(container_id="other")
    requested = [(IPV4, BASE + number) for number in asked]
    try:
        grants = allocate(sets, requested, holder(1), store)
    except Refusal:
        reasons = [
            any(len([a for a in requested if range_of(one, a)]) > 1 for one in sets),
            any(not any(range_of(one, a) for one in sets) for a in requested),
            any(a in store.leases for a in requested),
            any(part.gateway == a for one in sets for part in one for a in requested),
            any(set(usable(one)) <= {n for _, n in store.leases} for one in sets),
        ]
        assert any(reasons)
    else:
        assert {grant.address for grant in grants} >= set(requested)
        assert not {grant.address for grant in grants} & set(store.leases)


def test_h4_the_same_attachment_twice() -> None:
    sets = ((parse_range({"subnet": "10.0.0.0/29"}),), (parse_range({"subnet": "10.0.1.0/29"}),))
    store = MemoryStore()
    store.reserve(holder(1), allocate(sets, (), holder(1), store))
    with pytest.raises(Refusal, match=r"10\.0\.0\.2 has been allocated to c1, duplicate allocation is not allowed"):
        allocate(sets, (), holder(1), store)
    with pytest.raises(Refusal, match=r"range 1: 10\.0\.1\.2 has been") as caught:
        allocate(((parse_range({"subnet": "10.0.2.0/29"}),), sets[1]), (), holder(1), store)
    assert [grant.cidr for grant in caught.value.granted] == ["10.0.2.2/29"]


def test_h4_messages_are_gos() -> None:
    sets = ((parse_range({"subnet": "10.0.0.0/30"}), parse_range({"subnet": "10.0.1.0/30"})),)
    store = MemoryStore()
    fill(sets, store)
    text = "failed to allocate for range 0: no IP addresses available in range set: 10.0.0.1-10.0.0.2,10.0.1.1-10.0.1.2"
    with pytest.raises(Refusal) as caught:
        allocate(sets, (), holder(9), store)
    assert caught.value.msg == text
    assert caught.value.none_free
    with pytest.raises(Refusal, match=r"failed to allocate all requested IPs: 10\.9\.9\.9 ::1"):
        allocate(
            sets, (parse_address("10.0.0.2"), parse_address("10.9.9.9"), parse_address("::1")), holder(9), MemoryStore()
        )
    with pytest.raises(Refusal, match=r"requested ip 10\.0\.0\.1 is subnet's gateway"):
        allocate(sets, (parse_address("10.0.0.1"),), holder(9), MemoryStore())
    with pytest.raises(Refusal, match=r"requested IP address 10\.0\.0\.2 is not available in range set 10\.0\.0\.1"):
        allocate(sets, (parse_address("10.0.0.2"),), holder(9), store)


def test_h8_a_wide_range_costs_no_more_than_what_is_taken() -> None:
    whole = (parse_range({"subnet": "fd00::/16"}),)
    store = MemoryStore()
    for number in range(100):
        store.reserve(holder(number), allocate((whole,), (), holder(number), store))
    assert store.looks == 100
    store.cursors.clear()
    assert allocate((whole,), (), holder(100), store)[0].cidr == "fd00::66/16"
    assert store.looks == 201


@given(ranges(), ranges())
def test_overlap(one: Range, other: Range) -> None:
    common = set(range(one.start, one.end + 1)) & set(range(other.start, other.end + 1))
    assert ranges_overlap(one, other) == ranges_overlap(other, one) == bool(common)


@given(st.lists(ranges(), max_size=6))
def test_overlaps_of_many(parts: list[Range]) -> None:
    """Every pair found does overlap, and every range that overlaps another is in at least one pair."""
    pairs = [(i, j) for j in range(len(parts)) for i in range(j) if ranges_overlap(parts[i], parts[j])]
    found = find_overlaps(list(enumerate(parts)))
    assert found == sorted(set(found) & set(pairs))
    assert {number for pair in found for number in pair} == {number for pair in pairs for number in pair}
