"""What is linked into the program, called by scripts.

`packaging/build --step interpreter` makes a program that runs a script; it has all else that the packed program has.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from socket import create_server

import pytest

from tests.packaging.conftest import PROJECT, SECONDS, Done, apart

Run = Callable[..., Done]


@pytest.fixture(scope="session")
def interpreter() -> Path:
    for step in (("contents",), ("interpreter", platform.machine())):
        command = [PROJECT / "packaging" / "build", "--step", *step]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return PROJECT / "build" / f"interpreter-{platform.machine()}"


@pytest.fixture
def run(interpreter: Path, tmp_path: Path) -> Run:
    """Runs the text of a script, with these variables and no others."""

    def by_program(script: str, *arguments: str, **environ: str) -> Done:
        path = tmp_path / "script.py"
        path.write_text(script)
        command = [str(interpreter), str(path), *arguments]
        return subprocess.run(command, env=environ, capture_output=True, timeout=SECONDS, check=False)

    return by_program


def test_hashes_of_strings_cannot_be_foreseen(run: Run) -> None:
    script = "import sys; print(sys.hash_info.algorithm, hash('a'))"
    first, second = run(script).stdout, run(script).stdout
    assert first.startswith(b"siphash13 ")
    assert first != second


LOOKUPS = """
import grp, json, os, pwd, socket
found = {
    "localhost": socket.getaddrinfo("localhost", 1)[0][4][0],
    "reverse": socket.gethostbyaddr("127.0.0.1")[0],
    "root": [pwd.getpwnam("root").pw_uid, grp.getgrnam("root").gr_gid, os.getgrouplist("root", 0)],
    "https": socket.getservbyname("https"),
}
try:
    socket.getaddrinfo("unknown.invalid", 1)
except socket.gaierror as fault:
    found["invalid"] = fault.errno
import hashlib, locale, ssl
context = ssl.create_default_context()
found["digest"] = hashlib.new("sha256", b"").hexdigest()[:8]
locale.setlocale(locale.LC_ALL, "C")
"ü".encode("idna")
print(json.dumps(found))
"""


def test_nothing_of_the_hosts_c_library_is_opened(interpreter: Path, tmp_path: Path) -> None:
    """Neither its configuration of lookups nor a module for them, its locales, its tables of encodings, openssl.cnf."""
    script, trace, hosts = tmp_path / "script.py", tmp_path / "trace", tmp_path / "hosts"
    script.write_text(LOOKUPS)
    hosts.write_text("127.0.0.1 localhost\n")
    nsswitch = tmp_path / "nsswitch.conf"
    nsswitch.write_text("hosts: nonsense\npasswd: nonsense\ngroup: nonsense\n")
    mounts = f"mount --bind {hosts} /etc/hosts; mount --bind {nsswitch} /etc/nsswitch.conf"
    calls = "open,openat,connect,execve"
    done = apart(
        f"{mounts}; exec env -i LANG=de_DE.UTF-8 LC_ALL=de_DE.UTF-8 $(type -P strace) -f -e trace={calls} -o {trace} "
        f"{interpreter} {script}"
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["localhost"] == "127.0.0.1"
    assert found["reverse"] == "localhost"
    assert found["root"][:2] == [0, 0]
    assert found["https"] == 443
    assert found["invalid"]
    assert found["digest"] == "e3b0c442"
    seen = trace.read_text()
    assert '"/etc/hosts"' in seen
    assert '"/etc/passwd"' in seen
    foreign = r"nsswitch|nscd|libnss|locale|gconv|openssl\.cnf|ld\.so|\.so[.\"]"
    assert [line for line in seen.splitlines() if re.search(foreign, line)] == []


def test_no_shared_object_is_loaded(run: Run) -> None:
    extension = next(Path("/usr/lib/python3.11/lib-dynload").glob("_json.*.so"))
    done = run(
        "import sys\nfrom importlib import util\n"
        "spec = util.spec_from_file_location('_json', sys.argv[1])\n"
        "try:\n    util.module_from_spec(spec)\nexcept ImportError as fault:\n    print(fault)\n",
        str(extension),
    )
    assert b"linked statically" in done.stdout, done


def make_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    key, certificate = folder / f"{name}.key", folder / f"{name}.pem"
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    named = ["-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"]
    subprocess.run([*made, *named, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return key, certificate


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """A TLS server of the host "api.test"; its port and its CA."""
    key, certificate = make_certificate(tmp_path, "api.test")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                try:
                    with context.wrap_socket(connection, server_side=True) as secured:
                        secured.recv(4096)
                        secured.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                except OSError:
                    connection.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1], certificate
        listening.shutdown(2)
        thread.join()


CLIENT = """
import http.client, ssl, sys
try:
    context = ssl.create_default_context(cafile=sys.argv[2])
    connection = http.client.HTTPSConnection("api.test", int(sys.argv[1]), context=context, timeout=60)
    connection.request("GET", "/")
    print(connection.sock.version(), connection.getresponse().read())
except ssl.SSLError as fault:
    print(fault)
"""


@pytest.mark.parametrize(("trusted", "said"), [(True, b"TLSv1.3 b'ok'"), (False, b"certificate verify failed")])
def test_tls(interpreter: Path, server: tuple[int, Path], tmp_path: Path, trusted: bool, said: bytes) -> None:
    """As the agent speaks to the API server: by the CA of a file, with the name from /etc/hosts."""
    port, authority = server
    if not trusted:
        _, authority = make_certificate(tmp_path, "other")
    script, hosts = tmp_path / "script.py", tmp_path / "hosts"
    script.write_text(CLIENT)
    hosts.write_text("127.0.0.1 api.test\n")
    command = shlex.join([str(interpreter), str(script), str(port), str(authority)])
    done = apart(f"mount --bind {hosts} /etc/hosts; exec env -i {command}")
    assert said in done.stdout, done


MODULES = """
import json, sys, zipfile
with zipfile.ZipFile(sys.path[0]) as archive:
    names = [name.removesuffix(".pyc") for name in archive.namelist() if name.endswith(".pyc")]
names = sorted(name.replace("/", ".").removesuffix(".__init__") for name in names)
failed = {}
for name in names:
    if name.endswith("__main__") or name in ("antigravity", "this"):
        continue
    try:
        __import__(name)
    except Exception as fault:
        failed[name] = str(fault)
print(json.dumps(failed))
"""


@pytest.mark.parametrize("start", [{}, {"CNI_COMMAND": "ADD"}], ids=["whole", "short"])
def test_which_modules_cannot_be_imported(run: Run, start: dict[str, str]) -> None:
    """All that is in the archive can, but for what needs an extension module that is left out, or another system."""
    done = run(MODULES, PATH=os.environ["PATH"], **start)
    assert done.returncode == 0, done.stderr
    failed = json.loads(done.stdout.splitlines()[-1])
    missing = {found[1] for reason in failed.values() if (found := re.fullmatch("No module named '(.*)'", reason))}
    of_python = {
        "_bz2",
        "_ctypes",
        "_lzma",
        "pdb",
        *(f"_codecs_{each}" for each in ("cn", "hk", "iso2022", "jp", "kr", "tw")),
    }
    assert missing - of_python == {"_yaml", "yaml._yaml", "docutils", "pyroute2.config", "msvcrt"}
    other = {name for name, reason in failed.items() if not reason.startswith("No module named")}
    assert other == {"asyncio.windows_events", "asyncio.windows_utils", "encodings.mbcs", "encodings.oem"}


SHORT = """
import sys
import encodings, io, codecs
print(io.IOBase.__module__, encodings.search_function("utf-8").name, len(encodings.__path__), "ü".encode("idna"))
text = "a\\r\\nü€𝄞" * 5000
print(io.TextIOWrapper(io.BytesIO(text.encode()), "utf-8").read() == text.replace("\\r\\n", "\\n"))
print(codecs.getincrementaldecoder("utf8")().decode(b"\\xc3"), "\\u20ac", file=sys.stderr)
for name in ("ib_sriov_cni.missing", "sys.missing", "missing", "ipam.protocol.edge.missing", "pyverbs.missing"):
    try:
        __import__(name)
    except ImportError as fault:
        print(fault)
try:
    "".encode("no such encoding")
except LookupError as fault:
    print(fault)
import importlib, ipam.protocol, ipam.protocol.value, pyverbs.base, os.path, click, urllib.parse
for module in (ipam, ipam.protocol, ipam.protocol.value, os, pyverbs.base, sys, click, urllib):
    spec = module.__spec__
    print(spec.name, spec.origin, spec.loader is module.__loader__, module.__package__)
    print(getattr(module, "__path__", None), getattr(module, "__file__", None))
    print(module)
print(hasattr(ipam.protocol.value, "missing"), importlib.reload(ipam.protocol) is ipam.protocol)
sys.modules["wave"] = None
try:
    import wave
except ImportError as fault:
    print(fault)
"""


def test_the_short_start_of_cni_commands_differs_in_nothing_else(run: Run) -> None:
    """Modules are what importlib makes of them, and what the interpreter had stand-ins for is the real thing."""
    short, whole = (run(SHORT, **environ) for environ in ({"CNI_COMMAND": "ADD"}, {}))
    assert whole.returncode == 0, whole.stderr
    assert (short.stdout.decode(), short.stderr.decode()) == (whole.stdout.decode(), whole.stderr.decode())


COMPARE = """
import marshal, os, sys
sys.path[:0] = [os.path.join(sys.argv[1], "packaging"), sys.argv[1]]
import machines, make
from libraries import Libraries
from modules import Modules

def normal(value):
    # Sets of constants are tuples there.
    if isinstance(value, frozenset):
        return tuple(sorted(map(normal, value), key=repr))
    if isinstance(value, tuple):
        return tuple(sorted(map(normal, value), key=repr))
    if hasattr(value, "co_code"):
        names = ("co_code", "co_consts", "co_names", "co_varnames", "co_freevars", "co_cellvars", "co_filename",
            "co_name", "co_qualname", "co_flags", "co_stacksize", "co_linetable", "co_exceptiontable")
        return tuple(normal(getattr(value, name)) if name == "co_consts" else getattr(value, name) for name in names)
    return value

main = os.path.join(make.HERE, "program", "run_script.py")
found = os.path.join(make.BUILD, "contents", "contents.json")
modules = Modules(found, Libraries(machines.MACHINES[os.uname().machine]), main)
seen = marshal.load(sys.stdin.buffer)
for name, (code, _package) in modules.frozen.items():
    if normal(seen.pop(name)) != normal(code):
        print(name)
print(len(modules.frozen), sorted(seen))
"""
DUMP = """
import _imp, marshal, sys
names = sys.argv[1].split(",")
sys.stdout.buffer.write(marshal.dumps({name: _imp.get_frozen_object(name) for name in names}))
"""


def test_the_code_of_modules_is_what_was_compiled(run: Run, interpreter: Path) -> None:
    """As static data, escapes in strings and constants of all kinds included."""
    tables = (interpreter.parent / "step" / platform.machine() / "tables.h").read_text()
    names = re.findall(r'\{\.name = "([^"]+)"', tables)
    assert len(names) > 60
    dumped = run(DUMP, ",".join(names))
    assert dumped.returncode == 0, dumped.stderr
    command = [sys.executable, "-c", COMPARE, str(PROJECT)]
    done = subprocess.run(command, input=dumped.stdout, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode() == f"{len(names)} []\n"
