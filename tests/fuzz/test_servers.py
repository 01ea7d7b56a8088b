"""Answers that the node agent asks for: the API server's to an event, the container runtime's list of pods."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ib_sriov_cni.agent.api_server import ApiServer
from ib_sriov_cni.agent.cri import list_pods
from ib_sriov_cni.agent.kube import Events, PodRef
from tests.fuzz.budget import TALLY, descriptors, search
from tests.fuzz.corpus import anything, damaged, encoded
from tests.unit.test_agent_cri import ANSWER, END_STREAM, OPENING, TRAILERS, data, field, frame, headers, message

# ---- answers of the API server

POD = PodRef(namespace="train", name="w-0", uid="u")
API_ANSWERS = (
    b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n{}",
    b'HTTP/1.1 403 Forbidden\r\nContent-Length: 21\r\n\r\n{"message": "no way"}\n',
    b'HTTP/1.1 500 \r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"mes\r\n0\r\n\r\n',
    b"HTTP/1.1 307 Temporary Redirect\r\nLocation: https://127.0.0.1:1/\r\n\r\n",
    b"HTTP/1.1 307 Temporary Redirect\r\nLocation: file:///etc/passwd\r\n\r\n",
    b'HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm="x"\r\nContent-Length: 0\r\n\r\n',
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\n\r\n{}",
    b"HTTP/1.1 abc\r\n\r\n",
    b"HTTP/1.1 201 Created\r\n" + b"a: b\r\n" * 200 + b"\r\n{}",
    b"HTTP/1.1 201 Created\r\nContent-Length: -1\r\n\r\n{}",
    b"HTTP/1.1 201 Created\r\nContent-Encoding: gzip\r\n\r\n\x1f\x8b",
    b"HTTP/9.9 201 \xff\xfe\r\n\r\n[]",
    b"HTTP/1.1 409 Conflict\r\n\r\n{}",
    b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 99999999999\r\n\r\n" + b"[" * 5000,
    b"SSH-2.0-OpenSSH\r\n",
    b"",
)
api_answers = (
    st.sampled_from(API_ANSWERS)
    | damaged(st.sampled_from(API_ANSWERS))
    | st.binary(max_size=60)
    | st.tuples(st.sampled_from((b"201 Created", b"403 Forbidden")), anything.map(encoded)).map(
        lambda pair: b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (pair[0], len(pair[1]), pair[1])
    )
)


class Answering:
    """Answers each connection with the same bytes, whatever the request, and closes it."""

    def __init__(self, listener: socket.socket, wrap: Callable[[socket.socket], socket.socket]) -> None:
        self.answer = b""
        self.listener, self.wrap = listener, wrap
        self.thread = threading.Thread(target=self.work)
        self.thread.start()

    def work(self) -> None:
        while True:
            link = self.listener.accept()[0]
            with link:
                if self.answer == b"the end":
                    return
                try:
                    self.serve(link)
                except OSError:
                    pass  # the client closed the connection early

    def serve(self, raw: socket.socket) -> None:
        raw.settimeout(30)
        with self.wrap(raw) as link:
            request = link.recv(1 << 16)
            while isinstance(link, ssl.SSLSocket) and b'"count"' not in request:  # the end of an event
                request += link.recv(1 << 16)
            link.sendall(self.answer)
            if not isinstance(link, ssl.SSLSocket):
                link.shutdown(socket.SHUT_WR)
                while link.recv(1 << 16):
                    pass

    def close(self) -> None:
        self.answer = b"the end"
        with socket.socket(self.listener.family) as last:
            last.connect(self.listener.getsockname())
        self.thread.join(30)
        self.listener.close()


class Cluster:
    """A service account, and the API server that its files name."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        certificate, key = folder / "ca.crt", folder / "key"
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        command += ["-subj", "/CN=kubernetes", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
        subprocess.run([*command, "-out", certificate, "-keyout", key], check=True, capture_output=True)
        (folder / "token").write_text("t0ken\n")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        listener = socket.create_server(("127.0.0.1", 0))
        self.answers = Answering(listener, lambda link: context.wrap_socket(link, server_side=True))
        self.root = str(folder)
        port = str(listener.getsockname()[1])
        self.environ = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": port, "NODE_NAME": "n"}


@pytest.fixture(scope="module")
def cluster(place: str) -> Iterator[Cluster]:
    before = descriptors()
    made = Cluster(Path(place, "account"))
    yield made
    made.answers.close()
    assert descriptors() == before, "a descriptor was left open"


names = st.text(st.characters(exclude_categories=()), max_size=12)
pods = st.just(POD) | st.builds(PodRef, namespace=names, name=names, uid=names)


@search("api server", leaks=False)
@given(api_answers, pods)
@example(b"HTTP/1.1 abc\r\n\r\n", POD)
def test_answers_of_the_api_server(cluster: Cluster, answer: bytes, pod: PodRef) -> None:
    """Whatever it answers, each event is posted or fails with a message, and the thread is ready for the next one."""
    cluster.answers.answer = answer
    words: list[str] = []
    results: list[str] = []
    api = ApiServer(cluster.environ, root=cluster.root)
    events = Events(api, on_failure=words.append, on_result=results.append)
    TALLY.add(2)
    for _ in range(2):
        events.post(pod, reason="InfiniBandReleased", message="m\n\udcff")
    events.close(30)
    ends = [result for result in results if result != "retried"]
    assert len(ends) == 2, (results, words)
    assert set(ends) <= {"posted", "failed"}
    assert bool(words) is (results != ["posted", "posted"]), (results, words)
    assert all(len(text) < 5000 for text in words)


# ---- answers of the container runtime


@pytest.fixture(scope="module")
def runtime(place: str) -> Iterator[tuple[str, Answering]]:
    path = f"{place}/cri.sock"
    before = descriptors()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(8)
    answers = Answering(listener, lambda link: link)
    yield path, answers
    answers.close()
    assert descriptors() == before, "a descriptor was left open"


frames = st.builds(
    frame,
    st.integers(0, 12),
    st.sampled_from((0, 1, 4, 5, 8, 9, 13, 255)),
    st.sampled_from((0, 1, 1, 2, 3, 0x7FFFFFFF)),
    st.binary(max_size=30),
)
texts = st.text(st.characters(max_codepoint=126, exclude_characters="\0"), max_size=20)
WHOLE = message("4f5e6d" * 10, "a" * 64)
parts = st.sampled_from((OPENING, ANSWER, data(WHOLE), TRAILERS)) | frames
answers_of_runtimes = (
    st.lists(parts, max_size=6).map(b"".join)
    | damaged(st.just(OPENING + ANSWER + data(WHOLE) + TRAILERS))
    | st.tuples(st.binary(max_size=60) | damaged(st.just(WHOLE)), texts, texts).map(
        lambda three: (
            OPENING + ANSWER + data(three[0]) + headers(END_STREAM, grpc_status=three[1][:3], grpc_message=three[2])
        )
    )
    | st.binary(max_size=60)
)


def assert_pods(pods: object) -> None:
    assert isinstance(pods, frozenset)
    assert all(isinstance(name, str) for name in pods)


@search("runtime", leaks=False)
@given(answers_of_runtimes)
def test_answers_of_the_runtime(runtime: tuple[str, Answering], answer: bytes) -> None:
    """A list of pods or an OSError with a message. Never an empty list without a complete answer."""
    path, answers = runtime
    answers.answer = answer
    TALLY.add()
    try:
        pods = list_pods(path, seconds=20)
    except OSError as fault:
        words = str(fault)
    else:
        words = path
        assert_pods(pods)
        assert OPENING in answer or pods or len(answer) > 50
    assert path in words


@search("runtime's pods", leaks=False)
@given(st.binary(max_size=60) | damaged(st.just(WHOLE[5:])) | st.binary(max_size=40).map(lambda body: field(1, body)))
def test_lists_of_pods(runtime: tuple[str, Answering], body: bytes) -> None:
    """A message of any bytes, in an otherwise correct answer."""
    path, answers = runtime
    answers.answer = OPENING + ANSWER + data(b"\0" + len(body).to_bytes(4, "big") + body) + TRAILERS
    TALLY.add()
    try:
        assert_pods(list_pods(path, seconds=20))
    except OSError as fault:
        words = str(fault)
        if path not in words:
            raise
