"""A small client of the CRI (runtime.v1), over gRPC, with the few messages that pods and containers need.

Field numbers: k8s.io/cri-api pkg/apis/runtime/v1/api.proto.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SERVICE = "/runtime.v1.RuntimeService/"
READY = 0  # PodSandboxState

Message = Mapping[int, Any]
"""A protobuf message: field number to int, str, bytes, message, or a list of those."""


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def encode(message: Message) -> bytes:
    """Write a message in protobuf's wire format."""
    out = bytearray()
    for number, item in message.items():
        for each in item if isinstance(item, list | tuple) else [item]:
            if isinstance(each, int):
                out += varint(number << 3) + varint(each)
                continue
            plain = each.encode() if isinstance(each, str) else each
            raw = plain if isinstance(plain, bytes) else encode(plain)
            out += varint(number << 3 | 2) + varint(len(raw)) + raw
    return bytes(out)


def decode(raw: bytes) -> dict[int, list[Any]]:
    """Read one level of a message: field number to its values, int or bytes."""
    found: dict[int, list[Any]] = {}
    place = 0

    def number() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = raw[place]
            place += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while place < len(raw):
        key = number()
        if key & 7 == 0:
            found.setdefault(key >> 3, []).append(number())
        elif key & 7 == 2:
            size = number()
            found.setdefault(key >> 3, []).append(raw[place : place + size])
            place += size
        else:
            raise ValueError(f"wire type {key & 7} is not used by the CRI's messages")
    return found


def text(message: dict[int, list[Any]], number: int) -> str:
    found: list[bytes] = message.get(number, [b""])
    return found[-1].decode()


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a command in a container said."""

    status: int
    stdout: str
    stderr: str


class CriError(Exception):
    """The runtime refused a call; the message is its own."""


class Cri:
    """A connection to a container runtime."""

    def __init__(self, socket: str) -> None:
        # of the distribution's packages, which the guest links into its root; not there for mypy and on the host
        import grpc  # type: ignore[import-untyped,import-not-found,unused-ignore]

        self._grpc = grpc
        self._channel = grpc.insecure_channel(f"unix:{socket}")

    def call(self, method: str, message: Message, timeout: float = 120) -> dict[int, list[Any]]:
        """One call; raises CriError with the runtime's words."""
        invoke = self._channel.unary_unary(SERVICE + method, request_serializer=encode, response_deserializer=decode)
        try:
            answer: dict[int, list[Any]] = invoke(message, timeout=timeout)
        except self._grpc.RpcError as fault:
            raise CriError(f"{method}: {fault.details()}") from None
        return answer

    def close(self) -> None:
        self._channel.close()

    def version(self) -> str:
        answer = self.call("Version", {})
        return f"{text(answer, 2)} {text(answer, 3)}"

    def network_ready(self) -> str:
        """Why the network is not ready, "" if it is."""
        status = decode(self.call("Status", {})[1][0])
        for raw in status.get(1, []):
            condition = decode(raw)
            if text(condition, 1) == "NetworkReady":
                return "" if condition.get(2) == [1] else text(condition, 4) or "not ready"
        return "no condition NetworkReady"

    def run_pod(self, config: Message) -> str:
        return text(self.call("RunPodSandbox", {1: config}), 1)

    def stop_pod(self, pod: str) -> None:
        self.call("StopPodSandbox", {1: pod})

    def remove_pod(self, pod: str) -> None:
        self.call("RemovePodSandbox", {1: pod})

    def pods(self) -> dict[str, int]:
        """Sandbox to its state."""
        listed = [decode(raw) for raw in self.call("ListPodSandbox", {}).get(1, [])]
        return {text(each, 1): each.get(3, [READY])[0] for each in listed}

    def address(self, pod: str) -> str:
        """The address that the runtime took from the CNI result."""
        status = decode(self.call("PodSandboxStatus", {1: pod})[1][0])
        return text(decode(status[5][0]), 1) if 5 in status else ""

    def start_container(self, pod: str, config: Message, pod_config: Message) -> str:
        container = text(self.call("CreateContainer", {1: pod, 2: config, 3: pod_config}), 1)
        self.call("StartContainer", {1: container})
        return container

    def execute(self, container: str, command: Sequence[str], timeout: int = 60) -> Answer:
        answer = self.call("ExecSync", {1: container, 2: list(command), 3: timeout})
        return Answer(status=answer.get(3, [0])[0], stdout=text(answer, 1), stderr=text(answer, 2))


def pod_config(name: str, *, attempt: int = 0) -> dict[int, Any]:
    """PodSandboxConfig of a pod train/<name>."""
    metadata = {1: name, 2: f"uid-{name}", 3: "train", 4: attempt}
    return {1: metadata, 2: name, 3: "/run/podlogs", 8: {1: f"/pods/{name}"}}


def container_config(name: str, image: str, command: Sequence[str]) -> dict[int, Any]:
    """ContainerConfig."""
    return {1: {1: name}, 2: {1: image}, 3: list(command), 11: f"{name}.log", 15: {}}
