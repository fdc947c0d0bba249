"""A stand-in for the Hub on the loopback address, for the real client: repositories, branches, commits, downloads.

What the client sends is kept, so that tests can say what went over the wire; it can be told to fail at a step.
"""

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

TOKEN = "hf_" + "0123456789abcdef" * 2
# As on the Hub: these, and whatever is large, go through LFS.
_LFS = (".safetensors", ".bin", ".jpg", ".png")


@dataclass
class Repository:
    """Commits are whole trees: path -> sha256 of its content."""

    private: bool
    trees: dict[str, dict[str, str]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, branch: str, tree: dict[str, str], message: str) -> str:
        text = json.dumps([self.branches.get(branch), sorted(tree.items()), message, len(self.messages)])
        sha = hashlib.sha1(text.encode()).hexdigest()
        self.trees[sha], self.branches[branch] = tree, sha
        self.messages.append(message)
        return sha

    def resolve(self, revision: str) -> str:
        sha = self.branches.get(revision, revision)
        if sha not in self.trees:
            raise _Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return sha


class Hub:
    """What the server holds.

    Attributes:
        url: for HF_ENDPOINT.
        fail_at: a step that gets an answer of 400: 'upload' or 'commit'.
        requests: (method, path, Authorization) of every request.
    """

    def __init__(self) -> None:
        self.url = ""
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.fail_at: str | None = None
        self.requests: list[tuple[str, str, str]] = []
        self.lock = threading.Lock()

    def keep(self, content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        self.blobs[digest] = content
        return digest

    def add(self, name: str, files: dict[str, bytes], branch: str = "main") -> str:
        """A commit of these files to a public repository; gives its sha."""
        repository = self.repositories.setdefault(name, Repository(private=False))
        return repository.commit(branch, {path: self.keep(content) for path, content in files.items()}, "files")

    def files(self, name: str, revision: str = "main") -> dict[str, bytes]:
        """The files of a revision with their content."""
        repository = self.repositories[name]
        return {path: self.blobs[digest] for path, digest in repository.trees[repository.resolve(revision)].items()}


@contextmanager
def hub_server() -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Refused(Exception):
    """An answer other than 200: its status, the Hub's code for it, a sentence."""


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def _any(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.requests.append((self.command, path, self.headers.get("Authorization", "")))
        try:
            with self.hub.lock:
                for method, pattern, answer in _ROUTES:
                    if self.command == method and (match := re.fullmatch(pattern, path)):
                        self._answer(*answer(self, *match.groups(), body=body))
                        return
            raise _Refused(404, "", f"no route for {self.command} {path}")
        except _Refused as refusal:
            status, code, text = refusal.args
            self._answer(json.dumps({"error": text}).encode(), {"X-Error-Code": code, "X-Error-Message": text}, status)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _any

    def _answer(self, content: bytes, headers: dict[str, str] | None = None, status: int = 200) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *args: Any) -> None:
        pass

    # Answers: (content, headers, status)

    def whoami(self, body: bytes):
        self._check_token()
        return _json({"type": "user", "name": "someone", "fullname": "Some One", "orgs": [], "auth": {}})

    def create(self, body: bytes):
        self._check_token()
        asked = json.loads(body)
        name = f"{asked['organization'] or 'someone'}/{asked['name']}"
        answer = {"url": f"{self.hub.url}/{name}", "id": name, "name": name}
        if name in self.hub.repositories:
            return _json(answer, status=409)
        repository = self.hub.repositories[name] = Repository(asked.get("visibility") == "private")
        repository.commit("main", {".gitattributes": self.hub.keep(b"")}, "initial commit")
        return _json(answer)

    def check_card(self, body: bytes):
        known = "license: nobodys" not in json.loads(body)["content"]
        errors = [] if known else [{"message": '"license" must be one of [mit, ...]'}]
        return _json({"errors": errors, "warnings": []}, status=200 if known else 400)

    def branch(self, name: str, branch: str, body: bytes):
        self._check_token()
        repository = self._repository(name)
        if branch in repository.branches:
            return _json({"error": "exists"}, status=409)
        start = json.loads(body or b"{}").get("startingPoint", "main")
        repository.branches[branch] = repository.resolve(start)
        return _json({})

    def preupload(self, name: str, revision: str, body: bytes):
        self._check_token()
        self._tree(name, revision)
        files = [
            {"path": file["path"], "uploadMode": "lfs" if file["path"].endswith(_LFS) else "regular"}
            for file in json.loads(body)["files"]
        ]
        return _json({"files": [{**file, "shouldIgnore": False, "oid": None} for file in files]})

    def lfs_batch(self, name: str, body: bytes):
        self._check_token()
        objects = [
            {**item, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{item['oid']}"}}}
            for item in json.loads(body)["objects"]
        ]
        return _json({"transfer": "basic", "objects": objects})

    def lfs_put(self, oid: str, body: bytes):
        if self.hub.fail_at == "upload":
            raise _Refused(400, "", "the upload broke off")
        if self.hub.keep(body) != oid:
            raise _Refused(400, "", "the content is not what was announced")
        return _json({})

    def commit(self, name: str, revision: str, body: bytes):
        self._check_token()
        if self.hub.fail_at == "commit":
            raise _Refused(400, "", "the commit broke off")
        repository, (sha, tree) = self._repository(name), self._tree(name, revision)
        tree, message = dict(tree), ""
        for line in body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                message = value["summary"]
                if value.get("parentCommit") not in (None, sha):
                    raise _Refused(412, "", "a commit has happened since")
            elif item["key"] == "file":
                tree[value["path"]] = self.hub.keep(base64.b64decode(value["content"]))
            elif item["key"] == "lfsFile":
                if value["oid"] not in self.hub.blobs:
                    raise _Refused(400, "", f"{value['path']} was not uploaded")
                tree[value["path"]] = value["oid"]
            elif item["key"] == "deletedFile":
                del tree[value["path"]]
            else:
                raise _Refused(400, "", f"no operation {item['key']}")
        sha = repository.commit(revision, tree, message)
        return _json({"success": True, "commitOid": sha, "commitUrl": f"{self.hub.url}/{name}/commit/{sha}"})

    def info(self, name: str, revision: str | None, body: bytes):
        sha, tree = self._tree(name, revision or "main")
        siblings = [{"rfilename": path} for path in sorted(tree)]
        private = self._repository(name).private
        return _json({"id": name, "modelId": name, "sha": sha, "private": private, "tags": [], "siblings": siblings})

    def tree(self, name: str, revision: str, body: bytes):
        _, tree = self._tree(name, revision)
        rows = [
            {"type": "file", "path": path, "oid": oid[:40], "size": len(self.hub.blobs[oid])}
            for path, oid in sorted(tree.items())
        ]
        return _json(rows)

    def refs(self, name: str, body: bytes):
        branches = self._repository(name).branches.items()
        rows = [{"name": key, "ref": f"refs/heads/{key}", "targetCommit": sha} for key, sha in branches]
        return _json({"branches": rows, "tags": [], "converts": []})

    def file(self, name: str, revision: str, path: str, body: bytes):
        sha, tree = self._tree(name, revision)
        if path not in tree:
            raise _Refused(404, "EntryNotFound", "Entry not found")
        content = self.hub.blobs[tree[path]]
        return content, {"ETag": f'"{tree[path]}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"}, 200

    def _check_token(self) -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise _Refused(401, "", "Invalid credentials in Authorization header")

    def _repository(self, name: str) -> Repository:
        repository = self.hub.repositories.get(name)
        if repository is None:
            raise _Refused(404, "RepoNotFound", "Repository not found")
        if repository.private:
            self._check_token()
        return repository

    def _tree(self, name: str, revision: str) -> tuple[str, dict[str, str]]:
        repository = self._repository(name)
        sha = repository.resolve(revision)
        return sha, repository.trees[sha]


def _json(value: Any, status: int = 200) -> tuple[bytes, dict[str, str], int]:
    return json.dumps(value).encode(), {"Content-Type": "application/json"}, status


_NAME = r"([\w.-]+/[\w.-]+)"
_ROUTES = [
    ("GET", r"/api/whoami-v2", _Handler.whoami),
    ("POST", r"/api/repos/create", _Handler.create),
    ("POST", r"/api/validate-yaml", _Handler.check_card),
    ("POST", rf"/api/models/{_NAME}/branch/(.+)", _Handler.branch),
    ("POST", rf"/api/models/{_NAME}/preupload/(.+)", _Handler.preupload),
    ("POST", rf"/{_NAME}\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    ("PUT", r"/lfs/([0-9a-f]{64})", _Handler.lfs_put),
    ("POST", rf"/api/models/{_NAME}/commit/(.+)", _Handler.commit),
    ("GET", rf"/api/models/{_NAME}(?:/revision/(.+))?", _Handler.info),
    ("GET", rf"/api/models/{_NAME}/tree/([^/]+)(?:/.*)?", _Handler.tree),
    ("GET", rf"/api/models/{_NAME}/refs", _Handler.refs),
    ("HEAD", rf"/{_NAME}/resolve/([^/]+)/(.+)", _Handler.file),
    ("GET", rf"/{_NAME}/resolve/([^/]+)/(.+)", _Handler.file),
]
