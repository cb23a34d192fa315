"""An HTTP server for the files of a folder: it sends ranges, counts what it sends, and fails on request.

    python -m tests.models.file_server FOLDER [--broken N] [--without-ranges] [--bytes-per-second B]

serves until its input ends, prints its address first and what it has sent last, as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

_BLOCK = 1 << 20


class FileServer:
    """A server on the loopback address, in threads of this process.

    Attributes:
        sent: Bytes of files sent, by name; headers do not count.
        requests: Method and address of each request.
        broken: Number of answers of at least `break_from` bytes that are still to be cut off in the middle.
        break_from: See `broken`; requests for the list at the end of a file are smaller.
        ranges: Whether parts are sent; otherwise, as some servers do, the whole file is.
        announces: Whether the answer says so.
        failing: Names answered with this status.
        pages: Answers in JSON, by the path that is asked for.
        prefix: What stands before the names of files in the path that is asked for.
        password: What every request must bring, as ``USER:PASSWORD``.
        before_range: Called with name and first byte before each part is sent.
        bytes_per_second: The most that all connections together get; 0 is no limit.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sent: dict[str, int] = {}
        self.requests: list[str] = []
        self.broken = 0
        self.break_from = 1 << 20
        self.broken_so_far = 0
        self.ranges = True
        self.announces = True
        self.failing: dict[str, int] = {}
        self.pages: dict[str, Any] = {}
        self.prefix = ""
        self.password = ""
        self.before_range: Callable[[str, int], None] | None = None
        self.bytes_per_second = 0.0
        self._free_at = 0.0
        self.lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> FileServer:
        self._thread.start()
        return self

    def take_time(self, count: int) -> None:
        """Wait as long as the line is taken by that many bytes, after those of the other connections."""
        if self.bytes_per_second:
            with self.lock:
                self._free_at = max(self._free_at, time.monotonic()) + count / self.bytes_per_second
                wait = self._free_at - time.monotonic()
            time.sleep(max(0.0, wait))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, server: FileServer, *args: object) -> None:
        self.of = server
        super().__init__(*args)  # type: ignore[arg-type]

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        asked_for = unquote(urlsplit(self.path).path)
        name = asked_for.lstrip("/").removeprefix(self.of.prefix)
        with self.of.lock:
            self.of.requests.append(f"{self.command} {self.path}")
        if asked_for in self.of.pages:
            self._page(self.of.pages[asked_for])
            return
        path = self.of.folder / name
        status = self._refusal(name, path)
        if status:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        with path.open("rb") as file:
            facts = os.fstat(file.fileno())
            start, stop = 0, facts.st_size
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            is_part = self.of.ranges and asked is not None
            if is_part:
                start, stop = int(asked[1]), min(stop, int(asked[2]) + 1 if asked[2] else stop)
                if self.of.before_range is not None:
                    self.of.before_range(name, start)
            self.send_response(206 if is_part else 200)
            if is_part:
                self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{facts.st_size}")
            if self.of.announces:
                self.send_header("Accept-Ranges", "bytes" if self.of.ranges else "none")
            self.send_header("ETag", f'"{facts.st_ino}-{facts.st_mtime_ns}-{facts.st_size}"')
            self.send_header("Content-Length", str(stop - start))
            self.end_headers()
            if with_body:
                self._send(name, file, start, stop)

    def _page(self, content: Any) -> None:
        text = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _refusal(self, name: str, path: Path) -> int:
        if self.of.password:
            import base64

            expected = f"Basic {base64.b64encode(self.of.password.encode()).decode()}"
            if self.headers.get("Authorization") != expected:
                return 401
        return self.of.failing.get(name) or (0 if path.is_file() else 404)

    def _send(self, name: str, file: object, start: int, stop: int) -> None:
        with self.of.lock:
            breaks = self.of.broken > 0 and stop - start >= self.of.break_from
            self.of.broken -= breaks
            self.of.broken_so_far += breaks
        end = start + (stop - start) // 2 if breaks else stop
        while start < end:
            try:
                count = self.connection.sendfile(file, start, min(_BLOCK, end - start))  # type: ignore[arg-type]
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True
                return
            if count == 0:
                break
            start += count
            with self.of.lock:
                self.of.sent[name] = self.of.sent.get(name, 0) + count
            self.of.take_time(count)
        if breaks:
            self.close_connection = True


def main() -> None:
    """Serve a folder to other processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--broken", type=int, default=0)
    parser.add_argument("--without-ranges", action="store_true")
    parser.add_argument("--bytes-per-second", type=float, default=0.0)
    args = parser.parse_args()
    with FileServer(args.folder) as server:
        server.broken = args.broken
        server.ranges = not args.without_ranges
        server.bytes_per_second = args.bytes_per_second
        print(server.url, flush=True)
        sys.stdin.read()
        print(json.dumps({"sent": server.sent, "requests": len(server.requests), "broken": server.broken_so_far}))


if __name__ == "__main__":
    main()
