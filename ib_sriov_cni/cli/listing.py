"""`ib-sriov list`: PFs, VFs, and who holds which."""

from __future__ import annotations

import click

from ib_sriov_cni.cli.facts import COLUMNS, WIDE, clock, inventory_document, make_tree, stray_row, strays, vf_row
from ib_sriov_cni.cli.output import (
    INCOMPLETE,
    OK,
    Site,
    finish,
    note,
    output_option,
    pass_site,
    print_json,
    print_table,
    show,
    state_dir_option,
    tell_unseen,
)
from ib_sriov_cni.node.inventory import STATES, Inventory, VfEntry
from ib_sriov_cni.node.read_inventory import read_inventory
from ipam.protocol.value import replace

# As one word, for a shell.
WORDS = {state.lower().replace(" ", "-"): state for state in STATES}
EXAMPLES = (
    """\
\b
States of a VF, for --state in small letters with - for blanks:
"""
    + "\n".join([f"  {state:<15} {words}" for state, words in STATES.items()])
    + """

Examples:

\b
  ib-sriov list
  ib-sriov list --tree
  ib-sriov list --pf eth100 --state free
  ib-sriov list --state leftover --state unbound
  ib-sriov list -o json | jq -r '.attachments[] | select(.state == "dead") | .pod'

The exit status is 5 if something could not be seen, without root the records for one.
"""
)


def filtered(inventory: Inventory, *, pf: str, states: tuple[str, ...], network: str) -> Inventory:
    """Leave out what was not asked for."""

    def wanted(vf: VfEntry) -> bool:
        held = vf.attachment
        return (not states or vf.state in states) and (not network or bool(held and held.key.network == network))

    pfs = [entry for entry in inventory.pfs if not pf or pf in {entry.pci, entry.netdev, entry.rdma}]
    if pf or states or network:
        pfs = [replace(entry, vfs=tuple([vf for vf in entry.vfs if wanted(vf)])) for entry in pfs]
        here = {vf.attachment.key for entry in pfs for vf in entry.vfs if vf.attachment}
        extra = {held.key for held in strays(inventory) if network == held.key.network and not (pf or states)}
        attachments = [held for held in inventory.attachments if held.key in here | extra]
        return replace(inventory, pfs=tuple(pfs), attachments=tuple(attachments))
    return inventory


@click.command(epilog=EXAMPLES)
@output_option
@click.option("--tree", is_flag=True, help="PFs, their VFs and what holds them, as a tree.")
@click.option("-w", "--wide", is_flag=True, help="More columns: driver, RDMA device, netdev, link state.")
@click.option("--pf", metavar="NAME", default="", help="The VFs of one PF: its netdev, RDMA device or PCI address.")
@click.option("--state", "states", multiple=True, type=click.Choice(list(WORDS)), help="VFs in that state; repeatable.")
@click.option("--network", metavar="NAME", default="", help="VFs that an attachment of this network holds.")
@state_dir_option
@pass_site
def command(
    site: Site, *, output: str, tree: bool, wide: bool, pf: str, states: tuple[str, ...], network: str, state_dir: str
) -> None:
    """List PFs and VFs, and which pod holds which.

    A row is a VF: where it is, what it is doing, and the attachment that holds it, with its addresses, its port GUID
    and for how long. Attachments whose VF is not on this node any more come last.
    """
    with site.open_host(state_dir=state_dir) as host:
        everything = read_inventory(host)
    inventory = filtered(everything, pf=pf, states=tuple([WORDS[word] for word in states]), network=network)
    now = clock()
    if output == "json":
        print_json(inventory_document(inventory))
    elif tree:
        show(make_tree(inventory, now))
    else:
        rows = [vf_row(entry, vf, now, wide=wide) for entry in inventory.pfs for vf in entry.vfs]
        rows += [stray_row(held, now, wide=wide) for held in strays(inventory)]
        print_table(WIDE if wide else COLUMNS, rows, fold=())
    if output != "json":
        _tell_the_rest(inventory, everything, filters=bool(pf or states or network))
    finish(INCOMPLETE if inventory.unseen else OK)


def _tell_the_rest(inventory: Inventory, everything: Inventory, *, filters: bool) -> None:
    """What is no VF and no attachment, beside the table."""
    if not everything.pfs:
        note("no InfiniBand PF with SR-IOV is here: is the HCA's driver loaded, and SR-IOV enabled in its firmware?")
    elif not everything.vfs:
        first = everything.pfs[0].pci
        note(f"there are no VFs: write their number to /sys/bus/pci/devices/{first}/sriov_numvfs")
    if not filters:
        for damaged in inventory.damaged:
            note(f"damaged: {damaged.path}: {damaged.words}")
        for foreign in inventory.foreign:
            note(f"foreign: {foreign.path}: a record of the Go ib-sriov-cni; its DEL takes it over")
    tell_unseen(inventory.unseen)
