"""The part of the Hub's HTTP API that a push uses, on the loopback address. It keeps all that it is sent."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

_IN_LFS = (".pth", ".safetensors", ".wav")  # what .gitattributes of a new repository lists, as far as we send it
_LANGUAGE = re.compile(r"[a-z]{2,3}")
_REPO = re.compile(r"[\w.-]+/[\w.-]+")
_RELATIONS = {"adapter", "merge", "quantized", "finetune"}


@dataclass
class Hub:
    """A Hub with repositories of models.

    Attributes:
        repos: The repositories: whether they are private, and their files by name.
        stored: Large files by their SHA-256.
        sent: Everything that was received: method and path, headers, body.
        puts: The SHA-256 of each large file that has arrived whole, in order.
        hold: The SHA-256 of a file whose upload is held up in the middle.
        held: Set once that upload is held up.
        refuses: Status that every request is answered with, where it is not 0.
    """

    repos: dict[str, dict[str, Any]] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)
    sent: list[tuple[str, str, bytes]] = field(default_factory=list)
    puts: list[str] = field(default_factory=list)
    hold: str = ""
    held: threading.Event = field(default_factory=threading.Event)
    refuses: int = 0
    address: str = ""

    def start(self) -> ThreadingHTTPServer:
        handler = type("Handler", (_Handler,), {"hub": self})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        self.address = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    def everything(self) -> bytes:
        """All that was received, without the token, which belongs into a header."""
        return b"\n".join(
            f"{what}\n{re.sub('(?im)^authorization:.*$', '', head)}\n".encode() + body for what, head, body in self.sent
        )


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(b"")

    def do_HEAD(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self._body())

    def do_PUT(self) -> None:
        oid, length = self.path.rpartition("/")[2], int(self.headers["Content-Length"])
        if oid == self.hub.hold:
            self.rfile.read(length // 2)
            self.hub.held.set()
            self.rfile.read()  # until the client is gone
            self.close_connection = True
            return
        body = self.rfile.read(length)
        self._keep(body)
        if len(body) == length and hashlib.sha256(body).hexdigest() == oid:
            self.hub.stored[oid] = body
            self.hub.puts.append(oid)
            self._send(200, {})
        else:
            self.close_connection = True

    def _body(self) -> bytes:
        if "Content-Length" in self.headers:
            return self.rfile.read(int(self.headers["Content-Length"]))
        body = b""
        while self.headers.get("Transfer-Encoding") == "chunked" and (size := int(self.rfile.readline(), 16)):
            body += self.rfile.read(size)
            self.rfile.readline()
        return body

    def _keep(self, body: bytes) -> None:
        self.hub.sent.append((f"{self.command} {self.path}", str(self.headers), body))

    def _answer(self, body: bytes) -> None:
        self._keep(body)
        if self.hub.refuses:
            self._send(self.hub.refuses, {"error": "refused"})
            return
        for pattern, answer in _ROUTES.items():
            if match := re.fullmatch(pattern, self.path.partition("?")[0]):
                answer(self, body, *match.groups())
                return
        self._send(404, {"error": f"no such route: {self.path}"})

    def _send(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        repo = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
        is_new = repo not in self.hub.repos
        private = asked.get("private", asked.get("visibility") == "private")
        self.hub.repos.setdefault(repo, {"private": private, "files": {}, "commits": 0})
        self._send(200 if is_new else 409, {"url": f"{self.hub.address}/{repo}", "name": repo})

    def info(self, body: bytes, repo: str) -> None:
        if repo not in self.hub.repos:
            self._send(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return
        there = self.hub.repos[repo]
        names = [{"rfilename": name} for name in there["files"]]
        counts = {"downloads": 0, "likes": 0}  # huggingface_hub 0.20 wants them
        self._send(
            200, {"id": repo, "private": there["private"], "sha": "0" * 40, "siblings": names, "tags": [], **counts}
        )

    def validate(self, body: bytes) -> None:
        errors = [{"message": message} for message in faults_of_card(json.loads(body)["content"])]
        self._send(400 if errors else 200, {"errors": errors, "warnings": []})

    def preupload(self, body: bytes, repo: str) -> None:
        asked = json.loads(body)["files"]
        modes = {each["path"]: "lfs" if each["path"].endswith(_IN_LFS) else "regular" for each in asked}
        files = [{"path": name, "uploadMode": mode, "shouldIgnore": False} for name, mode in modes.items()]
        self._send(200, {"files": files})

    def batch(self, body: bytes, repo: str) -> None:
        asked = json.loads(body)["objects"]
        url = self.hub.address + "/lfs/"
        upload = {each["oid"]: {"upload": {"href": url + each["oid"]}} for each in asked}
        self._send(
            200,
            {
                "transfer": "basic",
                "objects": [
                    {**each, **({} if each["oid"] in self.hub.stored else {"actions": upload[each["oid"]]})}
                    for each in asked
                ],
            },
        )

    def commit(self, body: bytes, repo: str) -> None:
        there = self.hub.repos[repo]
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                there["files"][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                there["files"][value["path"]] = self.hub.stored[value["oid"]]
        there["commits"] += 1
        url = f"{self.hub.address}/{repo}/commit/{there['commits']:040}"
        self._send(200, {"success": True, "commitUrl": url, "commitOid": f"{there['commits']:040}"})

    def download(self, body: bytes, repo: str, name: str) -> None:
        content = self.hub.repos[repo]["files"][name]
        etag = hashlib.sha1(content, usedforsecurity=False).hexdigest()
        self._send(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": "0" * 40})


_ROUTES = {
    "/api/repos/create": _Handler.create,
    "/api/validate-yaml": _Handler.validate,
    "/api/models/([^/]+/[^/]+)": _Handler.info,
    "/api/models/([^/]+/[^/]+)/preupload/main": _Handler.preupload,
    r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch": _Handler.batch,
    "/api/models/([^/]+/[^/]+)/commit/main": _Handler.commit,
    "/([^/]+/[^/]+)/resolve/[^/]+/(.+)": _Handler.download,
}


def faults_of_card(card: str) -> list[str]:
    """Check the front matter of a card, as far as huggingface.co/docs/hub/model-cards says what is valid."""
    found = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    matter = yaml.safe_load(found[1]) if found else None
    if not isinstance(matter, dict):
        return ["no front matter"]
    is_named = re.fullmatch(r"[a-z0-9-.]+", str(matter.get("license_name"))) and matter.get("license_link")
    texts = ("license", "license_link", "library_name", "pipeline_tag", "base_model_relation")
    valid = {
        "license": matter.get("license") == "other",
        "license_name": bool(is_named),
        "language": all(_LANGUAGE.fullmatch(str(code)) for code in matter.get("language", [])),
        "pipeline_tag": matter.get("pipeline_tag") == "text-to-speech",
        "base_model": all(_REPO.fullmatch(str(name)) for name in matter.get("base_model", [])),
        "base_model_relation": matter.get("base_model_relation", "finetune") in _RELATIONS,
        "tags": all(isinstance(tag, str) for tag in matter.get("tags", [])),
        "texts": all(isinstance(matter.get(key, ""), str) for key in texts),
    }
    return [f'"{key}" is not valid' for key, is_valid in valid.items() if not is_valid]
