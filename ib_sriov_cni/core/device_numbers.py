"""Which character devices a VF has, which a rebind would give it, and which its container was given. No I/O.

A device's number is the lowest that is free when its driver is bound (ida_alloc_max in drivers/infiniband/core/
uverbs_main.c and user_mad.c). The kubelet gives a container the files of its VF by number (/dev/infiniband/uverbs3)
before ADD, so a VF whose numbers change then has another VF's files in its container, or none.
"""

from __future__ import annotations

# A device "issmN" has the number of its port's "umadN", and only some ports have one.
KINDS = ("uverbs", "umad")
ISSM = "issm"


def parse_device(name: str) -> tuple[str, int] | None:
    """Return kind and number of a name like uverbs3; None for another file."""
    for kind in (*KINDS, ISSM):
        digits = name.removeprefix(kind)
        if digits != name and digits.isdigit():
            return kind, int(digits)
    return None


def numbers_of(kind: str, names: tuple[str, ...]) -> set[int]:
    """Return the numbers of the devices of one kind."""
    return {found[1] for found in map(parse_device, names) if found is not None and found[0] == kind}


def missing_devices(wanted: tuple[str, ...], present: tuple[str, ...]) -> tuple[str, ...]:
    """Return what is wanted and not present."""
    return tuple([name for name in wanted if name not in present])


def free_numbers(wanted: tuple[str, ...], own: tuple[str, ...], used: tuple[str, ...]) -> tuple[str, ...]:
    """Return the free names below the wanted ones, which a rebind would give the VF instead of those.

    `own` are the VF's devices now, which the rebind frees; `used` are those of all functions, `own` included.
    """
    found = []
    for kind in KINDS:
        ours = numbers_of(kind, wanted)
        taken = numbers_of(kind, used) - numbers_of(kind, own)
        found += [f"{kind}{number}" for number in range(max(ours, default=0)) if number not in taken | ours]
    return tuple(found)


def predict_devices(wanted: tuple[str, ...], own: tuple[str, ...], used: tuple[str, ...]) -> tuple[str, ...]:
    """Return the devices that the VF will have after a rebind, of the kinds that are wanted; see `free_numbers`."""
    found = []
    for kind in KINDS:
        count = max(len(numbers_of(kind, wanted)), len(numbers_of(kind, own)))
        taken = numbers_of(kind, used) - numbers_of(kind, own)
        free = [number for number in range(len(taken) + count) if number not in taken]
        found += [f"{kind}{number}" for number in free[:count]]
    issm = (
        [f"{ISSM}{number}" for number in sorted(numbers_of("umad", tuple(found)))] if numbers_of(ISSM, wanted) else []
    )
    return (*found, *issm)


def promised_devices(
    seen: tuple[str, ...], allocated: tuple[str, ...] | None, *, shared: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the devices that a container expects of its VF, and those that it was given in place of some.

    `seen`: the VF's devices when the ADD began. `allocated`: those that the kubelet gave the container, None if that is
    unknown. `shared`: these are the devices of several VFs. The second value is empty unless the VF's present
    devices are not among those, and it cannot be told which of them were the VF's.
    """
    if allocated is None:
        return seen, ()
    kinds = {found[0] for found in map(parse_device, allocated) if found is not None}
    ours = tuple([name for name in seen if (found := parse_device(name)) is not None and found[0] in kinds])
    if not kinds or (ours and not missing_devices(ours, allocated)):
        return ours, ()
    others = tuple([name for name in allocated if parse_device(name) is not None])
    return ((), others) if shared else (others, ())
