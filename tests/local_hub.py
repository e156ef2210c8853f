"""A stand-in for the Hugging Face Hub: repositories in memory, served to libraries that take it for the Hub.

It creates repositories, takes uploads (LFS objects, then one commit), sets tags, lists files and sends them. All is
public and belongs to `user`. What it does not know is answered with 404, as the Hub does.
"""

import base64
import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

Files = dict[str, bytes]
KINDS = {"model": "", "dataset": "datasets/", "space": "spaces/"}
LARGE = {".safetensors", ".bin", ".pt", ".mp4", ".parquet"}
DATE = "2026-01-01T00:00:00.000Z"


class Refusal(Exception):
    """An answer that libraries turn into the exception of this name."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.reply = Reply({"error": message}, status, {"X-Error-Code": code, "X-Error-Message": message})


@dataclass
class Reply:
    """What is sent back: JSON, or bytes as they are."""

    content: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Request:
    """What a route is given besides the parts of its address."""

    query: dict[str, list[str]]
    headers: Any
    body: bytes
    url: str


@dataclass
class Repository:
    """Commits, each with all its files, and the names of some of them."""

    kind: str
    name: str
    sdk: str | None
    commits: dict[str, Files] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)

    def commit(self, files: Files, branch: str = "main") -> str:
        digest = hashlib.sha1(str(len(self.commits)).encode())
        for path in sorted(files):
            digest.update(path.encode() + files[path])
        self.commits[digest.hexdigest()] = files
        self.names[branch] = digest.hexdigest()
        return digest.hexdigest()

    def at(self, revision: str) -> tuple[str, Files]:
        """Id and files of a branch, a tag or a commit."""
        commit = self.names.get(revision, revision)
        if commit not in self.commits:
            raise Refusal(404, "RevisionNotFound", f"{self.name} has no revision {revision}")
        return commit, self.commits[commit]


def is_large(path: str) -> bool:
    return Path(path).suffix in LARGE


def describe(path: str, content: bytes) -> dict[str, Any]:
    """A file in a listing."""
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    entry = {"type": "file", "path": path, "rfilename": path, "size": len(content), "oid": blob, "blobId": blob}
    if is_large(path):
        digest = hashlib.sha256(content).hexdigest()
        entry["lfs"] = {"oid": digest, "sha256": digest, "size": len(content), "pointerSize": 130}
    return entry


Route = Callable[..., Any]
ROUTES: list[tuple[str, re.Pattern[str], Route]] = []
REPOSITORY = r"/api/(?P<kind>model|dataset|space)s/(?P<name>[^/]+/[^/]+)"


def route(methods: str, pattern: str) -> Callable[[Route], Route]:
    """Enters a method of the server for requests whose whole path matches; named groups become its arguments."""

    def enter(method: Route) -> Route:
        ROUTES.extend((name, re.compile(pattern), method) for name in methods.split())
        return method

    return enter


class Server(ThreadingHTTPServer):
    """The repositories, and what happens to them at each address."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.uploads: list[int] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def repository(self, kind: str, name: str) -> Repository:
        if (kind, name) not in self.repositories:
            raise Refusal(404, "RepoNotFound", f"There is no {kind} {name}")
        return self.repositories[kind, name]

    @route("GET", "/_requests")
    def asked(self, request: Request) -> list[str]:
        return list(self.requests)

    @route("GET", "/api/whoami-v2")
    def whoami(self, request: Request) -> dict:
        token = {"role": "write", "displayName": "local"}
        return {"type": "user", "name": "user", "orgs": [], "auth": {"type": "access_token", "accessToken": token}}

    @route("POST", "/api/validate-yaml")
    def validate(self, request: Request) -> dict:
        return {"errors": [], "warnings": []}

    @route("POST", "/api/repos/create")
    def create(self, request: Request) -> dict | Reply:
        asked = json.loads(request.body)
        kind, name = asked.get("type") or "model", f"{asked.get('organization') or 'user'}/{asked['name']}"
        answer = {"url": f"{request.url}/{KINDS[kind]}{name}", "name": name}
        if (kind, name) in self.repositories:
            return Reply({"error": f"{name} exists", **answer}, 409)
        repository = self.repositories[kind, name] = Repository(kind, name, asked.get("sdk"))
        repository.commit({".gitattributes": b"*.safetensors filter=lfs\n"})
        return answer

    @route("GET", REPOSITORY + "(?:/revision/(?P<revision>.+))?")
    def information(self, request: Request, kind: str, name: str, revision: str | None) -> dict:
        repository = self.repository(kind, name)
        commit, files = repository.at(revision or "main")
        return {
            "id": name,
            "author": name.split("/")[0],
            "sha": commit,
            "private": False,
            "gated": False,
            "disabled": False,
            "tags": [],
            "downloads": 0,
            "likes": 0,
            "createdAt": DATE,
            "lastModified": DATE,
            "siblings": [describe(*file) for file in files.items()],
            **({"sdk": repository.sdk} if kind == "space" else {}),
        }

    @route("GET", REPOSITORY + "/tree/(?P<revision>[^/]+)/?(?P<folder>.*)")
    def tree(self, request: Request, kind: str, name: str, revision: str, folder: str) -> list[dict]:
        _, files = self.repository(kind, name).at(revision)
        prefix = f"{folder.rstrip('/')}/" if folder else ""
        inside = {path: content for path, content in files.items() if path.startswith(prefix)}
        if folder and not inside:
            raise Refusal(404, "EntryNotFound", f"{name} has no folder {folder}")
        if request.query.get("recursive", ["false"])[0].lower() == "true":
            return [describe(*file) for file in inside.items()]
        here = [describe(path, content) for path, content in inside.items() if "/" not in path.removeprefix(prefix)]
        folders = {path.removeprefix(prefix).partition("/")[0] for path in inside if "/" in path.removeprefix(prefix)}
        return here + [{"type": "directory", "path": prefix + each, "oid": "0" * 40, "size": 0} for each in folders]

    @route("POST", REPOSITORY + "/paths-info/(?P<revision>.+)")
    def paths(self, request: Request, kind: str, name: str, revision: str) -> list[dict]:
        _, files = self.repository(kind, name).at(revision)
        asked = parse_qs(request.body.decode()).get("paths", [])
        return [describe(path, files[path]) for path in asked if path in files]

    @route("POST", REPOSITORY + "/preupload/(?P<revision>.+)")
    def preupload(self, request: Request, kind: str, name: str, revision: str) -> dict:
        _, files = self.repository(kind, name).at(revision)
        return {
            "files": [
                {
                    "path": path,
                    "uploadMode": "lfs" if is_large(path) else "regular",
                    "shouldIgnore": False,
                    "oid": describe(path, files[path])["oid"] if path in files else None,
                }
                for path in (file["path"] for file in json.loads(request.body)["files"])
            ]
        }

    @route("POST", "/(?P<name>.+).git/info/lfs/objects/batch")
    def batch(self, request: Request, name: str) -> dict:
        answers = []
        for item in json.loads(request.body)["objects"]:
            answer = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.objects:
                answer["actions"] = {"upload": {"href": f"{request.url}/objects/{item['oid']}"}}
            answers.append(answer)
        return {"transfer": "basic", "objects": answers}

    @route("PUT", "/objects/(?P<digest>[0-9a-f]+)")
    def upload(self, request: Request, digest: str) -> Reply:
        if hashlib.sha256(request.body).hexdigest() != digest:
            raise Refusal(400, "BadRequest", f"The content is not that of {digest}")
        self.objects[digest] = request.body
        self.uploads.append(len(request.body))
        return Reply(b"")

    @route("POST", REPOSITORY + "/commit/(?P<branch>.+)")
    def commit(self, request: Request, kind: str, name: str, branch: str) -> dict:
        repository = self.repository(kind, name)
        files = dict(repository.at(branch)[1])
        for line in request.body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self.objects[value["oid"]]
            elif operation["key"] == "deletedFile":
                del files[value["path"]]
            elif operation["key"] != "header":
                raise Refusal(400, "BadRequest", f"An operation that is not known: {operation['key']}")
        commit = repository.commit(files, branch)
        return {"commitOid": commit, "commitUrl": f"{request.url}/{KINDS[kind]}{name}/commit/{commit}"}

    @route("POST", REPOSITORY + "/tag/(?P<revision>.+)")
    def tag(self, request: Request, kind: str, name: str, revision: str) -> dict:
        repository = self.repository(kind, name)
        repository.names[json.loads(request.body)["tag"]] = repository.at(revision)[0]
        return {}

    @route(
        "GET HEAD",
        "/(?:(?P<kind>dataset|space)s/)?(?P<name>[^/]+/[^/]+)/(?:resolve|raw)/(?P<revision>[^/]+)/(?P<path>.+)",
    )
    def download(self, request: Request, kind: str | None, name: str, revision: str, path: str) -> Reply:
        commit, files = self.repository(kind or "model", name).at(revision)
        if path not in files:
            refusal = Refusal(404, "EntryNotFound", f"{name} has no file {path}")
            refusal.reply.headers["X-Repo-Commit"] = commit
            raise refusal
        content, entry = files[path], describe(path, files[path])
        tag = entry["lfs"]["sha256"] if "lfs" in entry else entry["oid"]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{tag}"', "Accept-Ranges": "bytes"}
        if "lfs" in entry:
            headers |= {"X-Linked-Size": str(len(content)), "X-Linked-ETag": f'"{tag}"'}
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", "")):
            start, end = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
            return Reply(content[start : end + 1], 206, headers)
        return Reply(content, headers=headers)


class Handler(BaseHTTPRequestHandler):
    """Finds the route of a request and sends its answer."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: Server

    def answer(self) -> None:
        address = urlsplit(self.path)
        path = unquote(address.path)
        request = Request(parse_qs(address.query), self.headers, self.read_body(), self.server.url)
        with self.server.lock:
            reply = self.reply(path, request)
            if path != "/_requests":
                self.server.requests.append(f"{self.command} {path} -> {reply.status}")
        as_it_is = isinstance(reply.content, bytes)
        content = reply.content if as_it_is else json.dumps(reply.content).encode()
        self.send_response(reply.status)
        self.send_header("Content-Type", "application/octet-stream" if as_it_is else "application/json")
        self.send_header("Content-Length", str(len(content)))
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def reply(self, path: str, request: Request) -> Reply:
        for method, pattern, act in ROUTES:
            if method == self.command and (found := pattern.fullmatch(path)):
                try:
                    content = act(self.server, request, **found.groupdict())
                except Refusal as refusal:
                    return refusal.reply
                return content if isinstance(content, Reply) else Reply(content)
        return Refusal(404, "RepoNotFound", f"There is nothing at {path}").reply

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer

    def log_message(self, *arguments: Any) -> None:
        pass


@dataclass(frozen=True)
class LocalHub:
    """The stand-in as a test sees it. Libraries read its address when they are imported."""

    server: Server

    @property
    def url(self) -> str:
        return self.server.url

    def environment(self, home: Path) -> dict[str, str]:
        """Variables of a process that takes it for the Hub and keeps its caches in `home`."""
        return {
            **os.environ,
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_TOKEN": "hf_local",
        }

    def run(self, *arguments: str | Path, home: Path, cwd: Path, check: bool = True) -> subprocess.CompletedProcess:
        """Runs Python with these arguments; fails with what it printed, unless `check` is off."""
        done = subprocess.run(
            [sys.executable, *map(str, arguments)], env=self.environment(home), cwd=cwd, capture_output=True, text=True
        )
        assert done.returncode == 0 or not check, done.stdout + done.stderr
        return done

    def requests(self) -> list[str]:
        """What was asked of it so far, such as `GET /api/models/user/name -> 200`."""
        return list(self.server.requests)

    def uploads(self) -> list[int]:
        """Bytes of the large files that arrived so far, in their order."""
        return list(self.server.uploads)


@contextlib.contextmanager
def serve() -> Iterator[LocalHub]:
    """A Hub that runs in a thread of this process."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield LocalHub(server)
        finally:
            server.shutdown()
            thread.join()
