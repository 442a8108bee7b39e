"""A Hugging Face Hub on this machine, for tests: real clients talk to it over HTTP through `HF_ENDPOINT`.

It keeps what the Hub keeps: repositories of models, datasets and Spaces, every commit with its whole tree, contents by
their hash, private and gated repositories, tokens. A commit becomes visible at once or not at all. `fail` makes
requests go wrong: any status, an answer that never comes, a connection that is cut in the middle of an upload.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

OWNER_TOKEN, READER_TOKEN, REVOKED_TOKEN = "hf_owner", "hf_reader", "hf_revoked"
_LFS_SUFFIXES = (".safetensors", ".parquet", ".bin", ".mp4", ".onnx")
_DATE = "2026-01-01T00:00:00.000Z"


@dataclass
class Commit:
    oid: str
    title: str
    files: dict[str, str]  # path → SHA-256 of the content
    parent: str | None


@dataclass
class Repository:
    kind: str
    name: str
    private: bool = False
    gated: str | bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    @property
    def head(self) -> Commit:
        return self.commits[self.branches["main"]]


@dataclass
class Failure:
    """What befalls requests whose "METHOD /path" the pattern finds. `times` counts down; None goes on for ever."""

    pattern: str
    how: int | str
    times: int | None
    message: str


class LoopbackHub:
    """Use as a context manager; `url` is the endpoint.

    `requests` lists "METHOD /path" of all that was asked, in order.
    """

    def __init__(self):
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.contents: dict[str, bytes] = {}
        self.lfs: set[str] = set()
        self.requests: list[str] = []
        self.users = {OWNER_TOKEN: "org", READER_TOKEN: "somebody"}
        self._failures: list[Failure] = []
        self._lock, self._closing, self._numbers = threading.RLock(), threading.Event(), itertools.count()

    def __enter__(self) -> LoopbackHub:
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def fail(self, pattern: str, how: int | str, *, times: int | None = None, message: str = "injected") -> None:
        """From now on requests fail.

        Args:
            pattern: regular expression, searched in "METHOD /path".
            how: a status; "stall", no answer while the client waits; "cut", the connection is reset when half of the
                body has arrived.
            times: how many requests; None for all.
        """
        self._failures.append(Failure(pattern, how, times, message))

    def heal(self) -> None:
        self._failures.clear()

    def environment(self, token: str | None = OWNER_TOKEN, **more: str) -> dict[str, str]:
        """Variables under which a new process uses this Hub and no other."""
        chosen = {} if token is None else {"HF_TOKEN": token}
        return {
            "HF_ENDPOINT": self.url,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_IMPLICIT_TOKEN": "0",
            **chosen,
            **more,
        }

    def files(self, name: str, kind: str = "model", revision: str | None = None) -> dict[str, bytes]:
        """Path → content at a commit, by default the head of main."""
        repository = self.repositories[kind, name]
        commit = repository.head if revision is None else repository.commits[revision]
        return {path: self.contents[sha] for path, sha in commit.files.items()}

    # --- what the requests do ---------------------------------------------------------------------------------------

    def failure_of(self, request: str) -> Failure | None:
        with self._lock:
            for failure in self._failures:
                if failure.times != 0 and re.search(failure.pattern, request):
                    if failure.times is not None:
                        failure.times -= 1
                    return failure
        return None

    def store(self, content: bytes) -> str:
        sha = hashlib.sha256(content).hexdigest()
        self.contents[sha] = content
        return sha

    def create(self, kind: str, name: str, private: bool) -> bool:
        """Whether it is new."""
        with self._lock:
            if (kind, name) in self.repositories:
                return False
            repository = Repository(kind, name, private)
            self.repositories[kind, name] = repository
            attributes = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in _LFS_SUFFIXES)
            self.append(repository, "main", "initial commit", {".gitattributes": self.store(attributes.encode())})
            return True

    def append(self, repository: Repository, branch: str, title: str, files: dict[str, str]) -> Commit:
        parent = repository.branches.get(branch)
        seed = json.dumps([next(self._numbers), parent, title, sorted(files.items())])
        commit = Commit(hashlib.sha1(seed.encode()).hexdigest(), title, files, parent)
        repository.commits[commit.oid] = commit
        repository.branches[branch] = commit.oid
        return commit

    def commit(self, repository: Repository, branch: str, lines: list[dict]) -> Commit:
        """Applies an ndjson commit as a whole.

        Raises `_Refused` when the branch has moved or an upload is missing, and changes nothing then.
        """
        with self._lock:
            header = next(line["value"] for line in lines if line["key"] == "header")
            if branch not in repository.branches:
                raise _Refused(404, "RevisionNotFound", f"Invalid rev id: {branch}")
            head = repository.branches[branch]
            if header.get("parentCommit") and not head.startswith(header["parentCommit"]):
                raise _Refused(412, None, "A commit has happened since. Please refresh and try again.")
            files = dict(repository.commits[head].files)
            for line in lines:
                key, value = line["key"], line["value"]
                if key == "file":
                    files[value["path"]] = self.store(base64.b64decode(value["content"]))
                elif key == "lfsFile":
                    if value["oid"] not in self.contents:
                        raise _Refused(400, None, f"LFS pointer of {value['path']} points to a file that is not there")
                    files[value["path"]] = value["oid"]
                    self.lfs.add(value["oid"])
                elif key == "deletedFile":
                    files.pop(value["path"])
                elif key == "deletedFolder":
                    folder = value["path"].rstrip("/") + "/"
                    files = {path: sha for path, sha in files.items() if not path.startswith(folder)}
            return self.append(repository, branch, header["summary"], files)


class _Refused(Exception):  # noqa: N818  an answer, no error of the tests
    def __init__(self, status: int, code: str | None, message: str):
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


_API = re.compile(r"^/api/(model|dataset|space)s/([^/]+/[^/]+)(?:/(.*))?$")
_FILE = re.compile(r"^/(?:(dataset|space)s/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)$")
_BATCH = re.compile(r"^/(?:(dataset|space)s/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch$")


class _Handler(BaseHTTPRequestHandler):
    hub: LoopbackHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments) -> None:
        """Requests are kept in `hub.requests`, not printed."""

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (ConnectionResetError, BrokenPipeError, TimeoutError):  # the client gave up
            self.close_connection = True

    def do_request(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        request = f"{self.command} {path}"
        hub.requests.append(request)
        length = int(self.headers.get("Content-Length") or 0)
        failure = hub.failure_of(request)
        if failure is not None and failure.how == "cut":
            self.rfile.read(length // 2)
            # Linger 0: a reset and no orderly goodbye.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
            return
        body = self._body(length)
        if failure is not None and failure.how == "stall":
            hub._closing.wait(60)
            self.close_connection = True
            return
        try:
            if failure is not None:
                raise _Refused(failure.how, None, failure.message)
            self._route(path, body)
        except _Refused as refused:
            headers = {"X-Error-Message": refused.message}
            if refused.code:
                headers["X-Error-Code"] = refused.code
            self._json({"error": refused.message}, status=refused.status, headers=headers)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_request  # noqa: N815  names of BaseHTTPRequestHandler

    def _body(self, length: int) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(length)
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(json.dumps(value).encode(), status, {"Content-Type": "application/json", **(headers or {})})

    def _send(self, content: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    # --- who asks ---------------------------------------------------------------------------------------------------

    def _user(self) -> str | None:
        authorization = self.headers.get("Authorization")
        if authorization is None:
            return None
        user = self.hub.users.get(authorization.removeprefix("Bearer "))
        if user is None:
            raise _Refused(401, None, "Invalid credentials in Authorization header")
        return user

    def _repository(self, kind: str, name: str, *, write: bool = False, files: bool = False) -> Repository:
        user, repository = self._user(), self.hub.repositories.get((kind, name))
        owner = name.partition("/")[0]
        if repository is None or (repository.private and user != owner):
            raise _Refused(404 if user else 401, "RepoNotFound", "Repository not found")
        if write and user != owner:
            status, why = (403, f"You have no right to write to {owner}") if user else (401, "Log in to write")
            raise _Refused(status, None, why)
        if files and repository.gated and user != owner:
            raise _Refused(403 if user else 401, "GatedRepo", f"Access to {kind} {name} is restricted; ask for it")
        return repository

    def _commit(self, repository: Repository, revision: str) -> Commit:
        oid = repository.branches.get(revision.removeprefix("refs/heads/"), revision)
        found = [key for key in repository.commits if len(oid) >= 7 and key.startswith(oid)]
        if not found:
            raise _Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return repository.commits[found[0]]

    # --- what is asked ----------------------------------------------------------------------------------------------

    def _route(self, path: str, body: bytes) -> None:
        if path == "/api/whoami-v2":
            user = self._user()
            if user is None:
                raise _Refused(401, None, "Invalid username or password.")
            return self._json({"type": "user", "name": user, "orgs": [], "auth": {"accessToken": {"role": "write"}}})
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            return self._validate(json.loads(body))
        if path.startswith("/lfs/"):
            return self._upload(path.removeprefix("/lfs/"), body)
        if match := _BATCH.match(path):
            return self._lfs_batch(match[1] or "model", match[2], json.loads(body))
        if match := _FILE.match(path):
            return self._file(match[1] or "model", *match.groups()[1:])
        if match := _API.match(path):
            return self._api(match[1], match[2], match[3] or "", body)
        raise _Refused(404, None, f"Nothing answers {path}")

    def _create(self, wanted: dict) -> None:
        user = self._user()
        if user is None:
            raise _Refused(401, None, "Invalid username or password.")
        owner = wanted.get("organization") or user
        if owner != user:
            raise _Refused(403, None, f"You have no right to create a repository in {owner}")
        kind, name = wanted.get("type") or "model", f"{owner}/{wanted['name']}"
        private = wanted.get("private") or wanted.get("visibility") == "private"
        prefix = "" if kind == "model" else f"{kind}s/"
        answer = {"url": f"{self.hub.url}/{prefix}{name}", "name": name}
        if self.hub.create(kind, name, bool(private)):
            return self._json(answer)
        answer["error"] = "You already created this repo"
        return self._json(answer, status=409)

    def _validate(self, wanted: dict) -> None:
        match = re.match(r"^\s*---\n(.*?)\n---", wanted["content"], re.DOTALL)
        warnings = [] if match else [{"message": "empty or missing yaml metadata in repo card"}]
        try:
            found = yaml.safe_load(match[1]) if match else {}
        except yaml.YAMLError as error:
            return self._json({"errors": [{"message": str(error)}], "warnings": []}, status=400)
        if not isinstance(found, dict):
            return self._json({"errors": [{"message": "not a mapping"}], "warnings": []}, status=400)
        return self._json({"errors": [], "warnings": warnings})

    def _upload(self, sha: str, body: bytes) -> None:
        if hashlib.sha256(body).hexdigest() != sha:
            raise _Refused(400, None, "The content has another hash than was announced")
        self.hub.store(body)
        self._send(b"", 200, {})

    def _lfs_batch(self, kind: str, name: str, wanted: dict) -> None:
        self._repository(kind, name, write=True)
        objects = []
        for item in wanted["objects"]:
            entry = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.hub.contents:
                entry["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{item['oid']}", "header": {}}}
            objects.append(entry)
        self._json({"transfer": "basic", "objects": objects})

    def _file(self, kind: str, name: str, revision: str, path: str) -> None:
        commit = self._commit(self._repository(kind, name, files=True), revision)
        if path not in commit.files:
            raise _Refused(404, "EntryNotFound", "Entry not found")
        sha = commit.files[path]
        content, status = self.hub.contents[sha], 200
        headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{sha}"', "Accept-Ranges": "bytes"}
        if sha in self.hub.lfs:
            headers |= {"X-Linked-Etag": f'"{sha}"', "X-Linked-Size": str(len(content))}
        if match := re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, end = int(match[1]), min(int(match[2] or len(content) - 1), len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
            content, status = content[start : end + 1], 206
        self._send(content, status, headers)

    def _api(self, kind: str, name: str, rest: str, body: bytes) -> None:
        action, _, argument = rest.partition("/")
        actions: dict[str, Callable[[], None]] = {
            "": lambda: self._info(kind, name, "main"),
            "revision": lambda: self._info(kind, name, argument),
            "tree": lambda: self._tree(kind, name, argument),
            "paths-info": lambda: self._paths(kind, name, argument, body),
            "refs": lambda: self._refs(kind, name),
            "commits": lambda: self._commits(kind, name, argument),
            "preupload": lambda: self._preupload(kind, name, argument, json.loads(body)),
            "commit": lambda: self._new_commit(kind, name, argument, body),
            "branch": lambda: self._branch(kind, name, argument, body),
            "settings": lambda: self._settings(kind, name, json.loads(body)),
        }
        if action not in actions:
            raise _Refused(404, None, f"Nothing answers {self.path}")
        actions[action]()

    def _info(self, kind: str, name: str, revision: str) -> None:
        repository = self._repository(kind, name)
        commit = self._commit(repository, revision)
        readme = self.hub.contents.get(commit.files.get("README.md", ""), b"").decode("utf-8")
        match = re.match(r"^\s*---\n(.*?)\n---", readme, re.DOTALL)
        card = yaml.safe_load(match[1]) if match else {}
        info = {
            "id": name,
            "modelId": name,
            "author": name.partition("/")[0],
            "sha": commit.oid,
            "private": repository.private,
            "gated": repository.gated,
            "disabled": False,
            "tags": card.get("tags", []),
            "cardData": card,
            "siblings": [{"rfilename": path} for path in sorted(commit.files)],
            "lastModified": _DATE,
            "createdAt": _DATE,
            "downloads": 0,
            "likes": 0,
        }
        if "pipeline_tag" in card:
            info["pipeline_tag"] = card["pipeline_tag"]
        self._json(info)

    def _entry(self, path: str, sha: str) -> dict[str, Any]:
        size = len(self.hub.contents[sha])
        entry = {"type": "file", "path": path, "size": size, "oid": _git_oid(self.hub.contents[sha])}
        if sha in self.hub.lfs:
            entry["lfs"] = {"oid": sha, "size": size, "pointerSize": 130}
        return entry

    def _folder(self, path: str) -> dict[str, Any]:
        return {"type": "directory", "path": path, "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0}

    def _tree(self, kind: str, name: str, argument: str) -> None:
        revision, _, folder = argument.partition("/")
        commit = self._commit(self._repository(kind, name, files=True), revision)
        prefix = f"{folder}/" if folder else ""
        recursive = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() in ("true", "1")
        inside = {path: sha for path, sha in commit.files.items() if path.startswith(prefix)}
        if folder and not inside:
            raise _Refused(404, "EntryNotFound", f"{folder} does not exist on {revision}")
        parents = {
            path[:index]
            for path in inside
            for index, letter in enumerate(path)
            if letter == "/" and index > len(folder)
        }
        deep = {path for path in [*inside, *parents] if "/" in path[len(prefix) :]}
        listed = [self._folder(path) for path in sorted(parents) if recursive or path not in deep]
        listed += [self._entry(path, sha) for path, sha in sorted(inside.items()) if recursive or path not in deep]
        self._json(listed)

    def _paths(self, kind: str, name: str, revision: str, body: bytes) -> None:
        commit = self._commit(self._repository(kind, name, files=True), revision)
        is_json = "json" in self.headers.get("Content-Type", "")
        paths = json.loads(body)["paths"] if is_json else parse_qs(body.decode()).get("paths", [])
        found = []
        for path in paths:
            if path in commit.files:
                found.append(self._entry(path, commit.files[path]))
            elif any(known.startswith(f"{path.rstrip('/')}/") for known in commit.files):
                found.append(self._folder(path))
        self._json(found)

    def _refs(self, kind: str, name: str) -> None:
        branches = self._repository(kind, name).branches.items()
        listed = [{"name": key, "ref": f"refs/heads/{key}", "targetCommit": oid} for key, oid in branches]
        self._json({"branches": listed, "tags": [], "converts": []})

    def _commits(self, kind: str, name: str, revision: str) -> None:
        repository = self._repository(kind, name)
        listed, commit = [], self._commit(repository, revision)
        while commit is not None:
            listed.append(
                {"id": commit.oid, "title": commit.title, "message": "", "authors": [{"user": "org"}], "date": _DATE}
            )
            commit = repository.commits.get(commit.parent)
        self._json(listed)

    def _preupload(self, kind: str, name: str, revision: str, wanted: dict) -> None:
        commit = self._commit(self._repository(kind, name, write=True), revision)
        answers = []
        for item in wanted["files"]:
            large = item["path"].endswith(_LFS_SUFFIXES) or item["size"] > 10_000_000
            answer = {"path": item["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
            if item["path"] in commit.files:
                sha = commit.files[item["path"]]
                answer["oid"] = sha if large else _git_oid(self.hub.contents[sha])
            answers.append(answer)
        self._json({"files": answers})

    def _new_commit(self, kind: str, name: str, revision: str, body: bytes) -> None:
        repository = self._repository(kind, name, write=True)
        commit = self.hub.commit(repository, revision, [json.loads(line) for line in body.splitlines() if line])
        address = f"{self.hub.url}/{'' if kind == 'model' else kind + 's/'}{name}/commit/{commit.oid}"
        self._json({"commitOid": commit.oid, "commitUrl": address, "success": True})

    def _branch(self, kind: str, name: str, branch: str, body: bytes) -> None:
        repository = self._repository(kind, name, write=True)
        if branch in repository.branches:
            raise _Refused(409, None, f"Reference already exists: {branch}")
        start = json.loads(body or b"{}").get("startingPoint", "main")
        repository.branches[branch] = self._commit(repository, start).oid
        self._json({})

    def _settings(self, kind: str, name: str, wanted: dict) -> None:
        repository = self._repository(kind, name, write=True)
        if "gated" in wanted:
            repository.gated = wanted["gated"]
        if "private" in wanted or "visibility" in wanted:
            repository.private = wanted.get("private", wanted.get("visibility") == "private")
        self._json({"private": repository.private, "gated": repository.gated})


def _git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
