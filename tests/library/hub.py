"""A stand-in for the hub on this machine: it lists one repository and serves its files, and has faults to switch on."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "c0ffee" + "0" * 34


class Hub:
    """Serves the files of `folder` as every repository. Faults are attributes; `asked` remembers what was asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.commit = COMMIT
        self.extra: dict[str, bytes] = {}  # further files, and others in place of those in the folder
        self.listed: dict[str, dict] = {}  # by path: what the list says otherwise
        self.bytes_per_s: float | None = None
        self.cut_after: int | None = None  # bytes of each answer, then the line is dead
        self.cuts_left = 10**9
        self.deaf_to_ranges = False
        self.range_shift = 0  # the bytes begin so much too late
        self.other_bytes: set[str] = set()
        self.status: int | None = None
        self.status_of: dict[str, int] = {}
        self.redirect: str | None = None
        self.asked: list[tuple[str, str]] = []  # path and range
        self.tokens: set[str] = set()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.answer(self)

            def log_message(self, *_) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def files(self) -> dict[str, bytes]:
        found = {f"{p.relative_to(self.folder)}": p.read_bytes() for p in self.folder.rglob("*") if p.is_file()}
        return found | self.extra

    def siblings(self) -> list[dict]:
        found = []
        for path, data in self.files().items():
            one = {
                "rfilename": path,
                "size": len(data),
                "blobId": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest(),
            }
            if path.endswith(".safetensors"):
                one["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
            found.append(one | self.listed.get(path, {}))
        return found

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path.split("?")[0]
        self.asked.append((path, request.headers.get("Range", "")))
        self.tokens.add(request.headers.get("Authorization", ""))
        resolved = re.fullmatch(r"/[^/]+/[^/]+/resolve/([^/]+)/(.+)", path)
        name = resolved[2] if resolved else ""
        if status := self.status_of.get(name, self.status):
            self.reply(request, status, b'{"error": "no"}')
        elif self.redirect and resolved:
            request.send_response(302)
            request.send_header("Location", self.redirect + path)
            request.send_header("Content-Length", "0")
            request.end_headers()
        elif path.startswith("/api/models/"):
            told = {"id": "/".join(path.split("/")[3:5]), "sha": self.commit, "siblings": self.siblings()}
            self.reply(request, 200, json.dumps(told).encode())
        elif resolved and name in self.files():
            self.send_file(request, name)
        else:
            self.reply(request, 404, b"{}")

    def reply(self, request: BaseHTTPRequestHandler, status: int, body: bytes) -> None:
        request.send_response(status)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    def send_file(self, request: BaseHTTPRequestHandler, name: str) -> None:
        data, start = self.files()[name], 0
        if name in self.other_bytes:
            data = data[:-1] + bytes([data[-1] ^ 1])
        wanted = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
        if wanted and not self.deaf_to_ranges:
            start = int(wanted[1])
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            body = data[start + self.range_shift :] + b"?" * self.range_shift
        else:
            request.send_response(200)
            body = data
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        sent = 0
        step = 1024 if self.bytes_per_s else 2**16
        try:
            while sent < len(body):
                if self.cut_after is not None and sent >= self.cut_after and self.cuts_left > 0:
                    self.cuts_left -= 1
                    request.close_connection = True
                    request.connection.shutdown(socket.SHUT_RDWR)
                    return
                request.wfile.write(body[sent : sent + step])
                sent += step
                if self.bytes_per_s:
                    time.sleep(step / self.bytes_per_s)
        except OSError:
            request.close_connection = True
