"""How much is read, kept and said: one table, each line with its reason. What is over a bound is refused, in one fault.

Everything here comes from somebody who may be mistaken or hostile: a pod's annotations, interfaces and routes; a file;
an IPAM plugin; a server. Bounds keep one of them from taking the node's memory, disk or time.
"""

from __future__ import annotations

# ---- what comes in
STDIN_BYTES = 1 << 20  # of a configuration; annotations, the largest part, have at most 256 KiB together
JSON_LEVELS = 200  # of nesting: what was read must also be written again, to a record or a delegate
LIST_ITEMS = 1_000  # of one list: routes, addresses; of all requested addresses, and of all ranges of a network
VALID_ATTACHMENTS = 10_000  # of GC's list; a node has at most some hundred pods
NODE_DEFAULTS_BYTES = 1 << 16  # of /etc/ib-sriov/defaults.json, a dozen short values
FILE_BYTES = 1 << 20  # of a file that a configuration names: resolv.conf, subnet.env, a node's index
LEASE_BYTES = 1 << 18  # of a lease; a container ID comes in a variable, of at most 128 KiB (MAX_ARG_STRLEN)
RECORD_BYTES = 1 << 24  # of a record: a configuration and a result of 1 MiB each, in ASCII
CHECKPOINT_BYTES = 1 << 24  # of the kubelet's allocations: some KiB for each container with a device
DELEGATE_BYTES = 1 << 20  # of an IPAM plugin's answer, and of what it writes to standard error

# ---- what is looked at in a pod's namespace, which a pod with CAP_NET_ADMIN fills as it likes
LINKS = 5_000
HOST_LINKS = 100_000  # of the host's namespace, which only root fills: a node may have some thousands
ADDRESSES = 2_000
ROUTES = 10_000
NETLINK_ANSWERS = 20_000  # of any other dump

# ---- what comes to the node agent
HTTP_CLIENTS = 128  # connections to its port at once; there are a probe or two and a Prometheus or two
HTTP_REQUEST_BYTES = 8_192  # of a request up to its empty line
NODE_ANSWER_BYTES = 1 << 22  # of the API server's answer about a node, whose status lists its images
API_ANSWER_BYTES = 1 << 16  # of the API server's answer to an event; only a refusal's message is of use
SANDBOXES = 10_000  # of the container runtime's list; a node has at most some hundred pods
RUNTIME_ANSWER_BYTES = 1 << 24  # of the container runtime's list, as the runtimes bound it: it has the pods' labels
RUNTIME_WORDS_BYTES = 1_000  # of what the runtime says of a refusal
EVENTS = 100  # that wait to be posted; more are dropped, as the API server does with a flood of them
EVENT_CHARACTERS = 1_024  # of an event's message, which the API server refuses to be longer
LOG_LINE_BYTES = 1 << 16  # of a line of the plugin's log; of a longer one only its beginning and its end are kept

# ---- what the doctor looks at
CONFIG_FILE_BYTES = 1 << 20  # of a file of network definitions
NODE_FILE_BYTES = 1 << 24  # of the kubelet's checkpoint and of device information; of a program, where Go has its mark
COUNTED_ADDRESSES = 1 << 20  # of a pool that are tried one by one
READER_BYTES = 1 << 26  # of what a reader process answers: a node has thousands of VFs at most

# ---- what goes out
FAULTS = 10  # named in one message, the others counted
MESSAGE_BYTES = 4_096  # of an error's message, and of its details: kubelet repeats both in an event
LOG_VALUE_BYTES = 2_048  # of one value in a line of the log


def join_faults(faults: list[str], separator: str = "; ") -> str:
    """Return the faults as one text: the first FAULTS of them, and how many more there are."""
    more = len(faults) - FAULTS
    return separator.join(faults[:FAULTS]) + (f"{separator}and {more} more" if more > 0 else "")


def describe_excess(what: str, items: str, found: int, most: int) -> str:
    """Return the fault of a list `what` that has `found` instead of at most `most` items."""
    return f"{what} must have at most {most} {items} (got {found})"


def shorten(text: str, most: int) -> str:
    """Return the text, cut to `most` bytes of UTF-8 with a mark at the end if it is longer."""
    if len(text) * 4 <= most or len(text.encode(errors="surrogatepass")) <= most:
        return text
    mark = f"… ({len(text)} characters)"
    kept = text.encode(errors="surrogatepass")[: most - len(mark.encode())]
    return kept.decode(errors="ignore") + mark
