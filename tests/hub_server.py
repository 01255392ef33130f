"""A stand-in of the hub on loopback: the part of its API that pushing and loading need.

What is uploaded is kept in memory, as it would be there: files by commit, large ones by the
SHA-256 that the client names and the server checks.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

TOKEN = "hf_ofAnnaForTests"
USER = {
    "type": "user",
    "name": "anna",
    "orgs": [{"name": "lab", "roleInOrg": "write"}, {"name": "museum", "roleInOrg": "read"}],
    "auth": {"type": "access_token", "accessToken": {"displayName": "t", "role": "write"}},
}
_LARGE = (".safetensors", ".parquet")


@dataclass
class Repo:
    """A repository: its visibility, and the files of each commit, the last being main."""

    private: bool = False
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1][1]

    @property
    def sha(self) -> str:
        return self.commits[-1][0]

    def commit(self, files: dict[str, bytes]) -> None:
        sha = hashlib.sha1(f"{len(self.commits)}{sorted(files)}".encode()).hexdigest()
        self.commits.append((sha, files))


@dataclass
class Hub:
    """What the stand-in holds, what it was asked, and what it refuses: path -> status, words."""

    url: str = ""
    user: dict[str, Any] = field(default_factory=lambda: dict(USER))
    repos: dict[str, Repo] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    refuses: dict[str, tuple[int, str]] = field(default_factory=dict)

    def add(
        self, name: str, files: dict[str, bytes] | None = None, *, private: bool = False
    ) -> Repo:
        repo = self.repos.setdefault(name, Repo(private))
        repo.commit({".gitattributes": b"*.safetensors filter=lfs\n"} | (files or {}))
        return repo


class Refused(Exception):
    def __init__(self, status: int, words: str, code: str = "") -> None:
        self.status, self.words, self.code = status, words, code


@contextmanager
def serving_hub() -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _handle(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = unquote(urlsplit(self.path).path)
            hub.asked.append(f"{self.command} {path}")
            headers: dict[str, str] = {}
            try:
                for pattern, (status, words) in hub.refuses.items():
                    if re.search(pattern, f"{self.command} {path}"):
                        raise Refused(status, words)
                known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
                status, content, headers = _answer(hub, self.command, path, body, known=known)
            except Refused as refused:
                status, content = refused.status, json.dumps({"error": refused.words}).encode()
                headers = {"X-Error-Message": refused.words, "X-Error-Code": refused.code}
            self.send_response(status)
            headers = {
                "Content-Type": "application/json",
                "Content-Length": str(len(content)),
            } | headers
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_HEAD = do_POST = do_PUT = _handle

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


Answered = tuple[int, bytes, dict[str, str]]


def _answer(hub: Hub, method: str, path: str, body: bytes, *, known: bool) -> Answered:
    if path == "/api/whoami-v2":
        if not known:
            raise Refused(401, "Invalid credentials in Authorization header")
        return _json(hub.user)
    if path == "/api/validate-yaml":
        yaml.safe_load(json.loads(body)["content"].split("---")[1])
        return _json({"errors": [], "warnings": []})
    if path == "/api/repos/create":
        asked = json.loads(body)
        name = _key(asked.get("type") or "model", f"{asked['organization']}/{asked['name']}")
        if name in hub.repos:
            content = {"error": "You already created this repo", "url": f"{hub.url}/{name}"}
            return 409, json.dumps(content).encode(), {}
        hub.add(name, private=asked.get("visibility") == "private")
        return _json({"url": f"{hub.url}/{name}"})
    if found := re.fullmatch(r"/lfs/([0-9a-f]{64})", path):
        assert method == "PUT" and hashlib.sha256(body).hexdigest() == found[1]
        hub.large[found[1]] = body
        return _json({})
    if found := re.fullmatch(r"/(.+)\.git/info/lfs/objects/batch", path):
        objects = [
            each | {"actions": {"upload": {"href": f"{hub.url}/lfs/{each['oid']}"}}}
            for each in json.loads(body)["objects"]
        ]
        return _json({"transfer": "basic", "objects": objects})
    if found := re.fullmatch(r"/api/(model|dataset)s/([^/]+/[^/]+)(?:/(\w+)/(.+))?", path):
        return _of_repo(hub, _key(found[1], found[2]), found[3] or "revision", body, known=known)
    if found := re.fullmatch(r"/((?:datasets/)?[^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
        return _file(_repo(hub, found[1], known=known), found[3])
    raise Refused(404, f"no such address: {path}")


def _of_repo(hub: Hub, name: str, verb: str, body: bytes, *, known: bool) -> Answered:
    repo = _repo(hub, name, known=known)
    if verb == "revision":
        siblings = [{"rfilename": path} for path in repo.files]
        held = {"id": name.removeprefix("datasets/"), "sha": repo.sha, "private": repo.private}
        return _json(held | {"siblings": siblings})
    if verb == "tree":
        rows = [
            {"type": "file", "path": path, "size": len(content), "oid": _oid(content)}
            for path, content in repo.files.items()
        ]
        return _json(rows)
    if verb == "preupload":
        files = [
            {
                "path": each["path"],
                "uploadMode": "lfs" if each["path"].endswith(_LARGE) else "regular",
                "shouldIgnore": False,
            }
            for each in json.loads(body)["files"]
        ]
        return _json({"files": files})
    assert verb == "commit"
    files = dict(repo.files)
    for line in map(json.loads, body.splitlines()):
        value = line["value"]
        if line["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif line["key"] == "lfsFile":
            files[value["path"]] = hub.large[value["oid"]]
    repo.commit(files)
    return _json({"commitUrl": f"{hub.url}/{name}/commit/{repo.sha}", "commitOid": repo.sha})


def _repo(hub: Hub, name: str, *, known: bool) -> Repo:
    if name not in hub.repos or (hub.repos[name].private and not known):
        raise Refused(401 if not known else 404, "Repository not found", "RepoNotFound")
    return hub.repos[name]


def _file(repo: Repo, path: str) -> Answered:
    if path not in repo.files:
        raise Refused(404, "Entry not found", "EntryNotFound")
    content = repo.files[path]
    return 200, content, {"X-Repo-Commit": repo.sha, "ETag": f'"{_oid(content)}"'}


def _key(kind: str, name: str) -> str:
    return name if kind == "model" else f"datasets/{name}"


def _oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _json(value: Any) -> Answered:
    return 200, json.dumps(value).encode(), {}
