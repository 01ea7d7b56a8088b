"""`ib-sriov list`: PFs, VFs, and who holds which."""

from __future__ import annotations

import time

import click

from ib_sriov_cni.cli.output import (
    EXIT_INCOMPLETE,
    EXIT_OK,
    Site,
    exit_with,
    output_option,
    pass_site,
    print_json,
    print_note,
    print_rich,
    print_table,
    print_unseen,
    state_dir_option,
)
from ib_sriov_cni.cli.present import (
    COLUMNS,
    WIDE_COLUMNS,
    find_without_vf,
    make_inventory_document,
    make_tree,
    make_vf_row,
    make_without_vf_row,
    pf_name,
)
from ib_sriov_cni.node.inventory import STATES, Inventory, PfEntry, VfEntry
from ib_sriov_cni.node.read_inventory import read_inventory
from ipam.protocol.value import replace

# The states as single words, for a shell.
STATE_WORDS = {state.lower().replace(" ", "-"): state for state in STATES}
EXAMPLES = (
    """\
\b
States of a VF (for --state, in lower case with - instead of spaces):
"""
    + "\n".join([f"  {state:<15} {meaning}" for state, meaning in STATES.items()])
    + """

Examples:

\b
  ib-sriov list
  ib-sriov list --tree
  ib-sriov list --pf eth100 --state free
  ib-sriov list --state leftover --state unbound
  ib-sriov list -o json | jq -r '.attachments[] | select(.state == "dead") | .pod'

The exit status is 5 if something could not be read; without root, this includes the records.
"""
)


def filter_inventory(inventory: Inventory, *, pf: str, states: tuple[str, ...], network: str) -> Inventory:
    """Return only the PFs, VFs and attachments that match the options."""

    def wanted(vf: VfEntry) -> bool:
        attachment = vf.attachment
        return (not states or vf.state in states) and (
            not network or bool(attachment and attachment.key.network == network)
        )

    pfs = [entry for entry in inventory.pfs if not pf or _is_named(entry, pf)]
    if pf or states or network:
        pfs = [replace(entry, vfs=tuple([vf for vf in entry.vfs if wanted(vf)])) for entry in pfs]
        here = {vf.attachment.key for entry in pfs for vf in entry.vfs if vf.attachment}
        extra = {
            attachment.key
            for attachment in find_without_vf(inventory)
            if network == attachment.key.network and not (pf or states)
        }
        attachments = [attachment for attachment in inventory.attachments if attachment.key in here | extra]
        return replace(inventory, pfs=tuple(pfs), attachments=tuple(attachments))
    return inventory


@click.command(epilog=EXAMPLES)
@output_option
@click.option("--tree", is_flag=True, help="Print a tree of PFs, VFs and attachments.")
@click.option("-w", "--wide", is_flag=True, help="Add columns: driver, RDMA device, netdev, link state.")
@click.option(
    "--pf", metavar="NAME", default="", help="Only VFs of this PF, named by netdev, RDMA device or PCI address."
)
@click.option(
    "--state", "states", multiple=True, type=click.Choice(list(STATE_WORDS)), help="Only VFs in this state; repeatable."
)
@click.option("--network", metavar="NAME", default="", help="Only VFs held by attachments of this network.")
@state_dir_option
@pass_site
def command(
    site: Site, *, output: str, tree: bool, wide: bool, pf: str, states: tuple[str, ...], network: str, state_dir: str
) -> None:
    """List PFs and VFs, and which pod holds which.

    Each row is a VF: its place, its state, and the attachment that holds it, with its addresses, its port GUID and its
    age. Attachments whose VF is no longer on this node come last.
    """
    with site.open_host(state_dir=state_dir) as host:
        everything = read_inventory(host)
    inventory = filter_inventory(
        everything, pf=pf, states=tuple([STATE_WORDS[word] for word in states]), network=network
    )
    now = time.time()
    if output == "json":
        print_json(make_inventory_document(inventory))
    elif tree:
        print_rich(make_tree(inventory, now))
    else:
        rows = [make_vf_row(entry, vf, now, wide=wide) for entry in inventory.pfs for vf in entry.vfs]
        rows += [make_without_vf_row(attachment, now, wide=wide) for attachment in find_without_vf(inventory)]
        print_table(WIDE_COLUMNS if wide else COLUMNS, rows, fold=())
    if output != "json":
        _print_notes(inventory, everything, filters=bool(pf or states or network))
        _print_unknown_names(everything, pf=pf, network=network)
    exit_with(EXIT_INCOMPLETE if inventory.unseen else EXIT_OK)


def _print_notes(inventory: Inventory, everything: Inventory, *, filters: bool) -> None:
    """Print what the table does not contain, to standard error."""
    if not everything.pfs:
        print_note(
            "no InfiniBand PF with SR-IOV on this node: is the HCA's driver loaded, and SR-IOV enabled in its firmware?"
        )
    elif not everything.vfs and everything.pfs[0].pci:
        first = everything.pfs[0].pci
        print_note(f"there are no VFs: write the number you want to /sys/bus/pci/devices/{first}/sriov_numvfs")
    if not filters:
        for damaged in inventory.damaged:
            print_note(f"damaged: {damaged.path}: {damaged.words}")
        for foreign in inventory.foreign:
            print_note(f"foreign: {foreign.path}: a record of the Go ib-sriov-cni; the DEL of its pod releases it")
    print_unseen(inventory.unseen)


def _print_unknown_names(everything: Inventory, *, pf: str, network: str) -> None:
    """Print which of the names in the options nothing has."""
    if pf and not any(_is_named(entry, pf) for entry in everything.pfs):
        here = ", ".join([pf_name(entry) for entry in everything.pfs]) or "none"
        print_note(f"no PF is named {pf}; PFs here: {here}")
    networks = sorted({attachment.key.network for attachment in everything.attachments})
    if network and network not in networks:
        print_note(f"no attachment is of network {network}; networks here: {', '.join(networks) or 'none'}")


def _is_named(entry: PfEntry, name: str) -> bool:
    return name in {entry.pci or "none", entry.netdev, entry.rdma}
