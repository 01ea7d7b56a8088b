"""The guest's end of Machine.run: a line for the shell by a connection, its status and output back; "" ends the server.

It runs by `python3 -S` and imports nothing of the project: it is there before anything else.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading

PORT = 2323


def serve(connection: socket.socket) -> None:
    with connection, connection.makefile("rw", encoding="utf-8") as stream:
        request = json.loads(stream.readline())
        if not request["line"]:
            ended.set()
        words = ["timeout", "-k", "5", str(request["limit"]), "bash", "-c", request["line"] or ":"]
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, start_new_session=True, check=False)
        texts = [raw.decode(errors="replace") for raw in (done.stdout, done.stderr)]
        json.dump([done.returncode, *texts], stream)


def accept(server: socket.socket) -> None:
    while True:
        threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()


ended = threading.Event()
if __name__ == "__main__":
    threading.Thread(target=accept, args=(socket.create_server(("", PORT), backlog=32),), daemon=True).start()
    ended.wait()
    sys.exit(0)
