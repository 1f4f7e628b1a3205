"""A Hub on this machine: the part of the Hugging Face Hub's HTTP interface by which models and data sets go to and fro.

`huggingface_hub` speaks to it as to the real one. Large files come by Git LFS's basic transfer (not by Xet), and are
handed out by another host than the interface is at, as the real Hub's are.
"""

import base64
import json
import re
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from tests.hub.cards import check_card
from tests.hub.storage import File, Repo, git_hash, is_large

_REPO = r"(?:(?P<kind>model|dataset)s/)?(?P<id>[\w.-]+/[\w.-]+)"
_API = rf"/api/{_REPO}"
_REVISION = r"(?P<revision>[^/]+)"


@dataclass(frozen=True)
class User:
    """Who a token belongs to.

    Attributes:
        may_write: Whether the token may change anything.
        expired: Whether its time is over.
    """

    name: str
    may_write: bool = True
    expired: bool = False


@dataclass
class Fault:
    """What goes wrong with the next requests of one kind.

    Attributes:
        request: Regular expression for method and path, such as `"PUT /lfs"`.
        status: Answered instead; None breaks the connection in the middle of the body.
        times: With how many requests.
        headers: Of the answer.
        after: The connection breaks after the request was carried out, so that only the answer is lost.
    """

    request: str
    status: int | None = None
    times: int = 1
    headers: Mapping[str, str] = field(default_factory=dict)
    after: bool = False


class Refusal(Exception):
    """An answer other than success, with the headers by which the client tells errors apart."""

    def __init__(self, status: int, message: str, code: str | None = None, body: Mapping[str, Any] | None = None):
        super().__init__(message)
        self.status = status
        self.body = {"error": message} if body is None else dict(body)
        self.headers = {"X-Error-Message": message, **({} if code is None else {"X-Error-Code": code})}


class HubServer:
    """The Hub, while the context is open.

    Attributes:
        endpoint: Its address, for `HF_ENDPOINT`.
        tokens: Users by their tokens.
        repos: Repositories by their path, such as `"datasets/me/maps"`.
        large: Contents of large files by SHA-256; also those that no commit names yet.
        faults: What shall go wrong.
        requests: Method, path and status of all requests so far; status 0 where the connection broke.
    """

    def __init__(self) -> None:
        self.tokens: dict[str, User] = {}
        self.repos: dict[str, Repo] = {}
        self.large: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str, int]] = []
        self.lock = Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._http.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._http.server_port}"
        self.storage = f"http://localhost:{self._http.server_port}/lfs"

    def __enter__(self) -> "HubServer":
        Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._http.shutdown()
        self._http.server_close()

    def count(self, request: str) -> int:
        """How many requests were of one kind, given as in `Fault`."""
        return sum(re.match(request, f"{method} {path}") is not None for method, path, _ in self.requests)

    def fault_of(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and re.match(fault.request, f"{method} {path}"):
                    fault.times -= 1
                    return fault
        return None


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    routes: Iterable[tuple[str, str]] = (
        ("GET /api/whoami-v2", "whoami"),
        ("POST /api/repos/create", "create_repo"),
        ("POST /api/validate-yaml", "validate_yaml"),
        (f"POST {_API}/branch/{_REVISION}", "create_branch"),
        (f"POST {_API}/preupload/{_REVISION}", "preupload"),
        (f"POST {_API}/commit/{_REVISION}", "commit"),
        (f"POST {_API}/paths-info/{_REVISION}", "paths_info"),
        (f"GET {_API}/tree/{_REVISION}(?:/(?P<path>.+))?", "tree"),
        (f"GET {_API}(?:/revision/{_REVISION})?", "info"),
        (rf"POST /{_REPO}\.git/info/lfs/objects/batch", "lfs_batch"),
        (rf"POST /{_REPO}\.git/info/lfs/objects/verify", "lfs_verify"),
        ("PUT /lfs/(?P<oid>[0-9a-f]{64})", "lfs_put"),
        ("GET /lfs/(?P<oid>[0-9a-f]{64})", "lfs_get"),
        (f"GET /{_REPO}/resolve/{_REVISION}/(?P<path>.+)", "resolve"),
    )

    # ---- HTTP ----------------------------------------------------------------------------------------------------

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        fault = self.hub.fault_of(self.command, path)
        length = int(self.headers.get("Content-Length", 0))
        if fault is not None and fault.status is None and not fault.after and self.command != "GET":
            self.rfile.read(length // 2)
            return self._break(path)
        self.body = self.rfile.read(length)
        self.cut = fault is not None and fault.status is None
        if fault is not None and fault.status is not None:
            # As a gateway answers: in HTML, whatever was asked for.
            page = f"<html><body><h1>{fault.status}</h1></body></html>".encode()
            return self._answer(fault.status, page, {"Content-Type": "text/html", **fault.headers})
        try:
            self._route(path)
        except Refusal as refusal:
            self._json(refusal.body, refusal.status, refusal.headers)

    do_HEAD = do_POST = do_PUT = do_GET

    def _route(self, path: str) -> None:
        method = "GET" if self.command == "HEAD" else self.command
        for pattern, name in self.routes:
            found = re.fullmatch(pattern, f"{method} {path}")
            if found is not None:
                return getattr(self, f"_{name}")(**found.groupdict())
        raise Refusal(404, "Sorry, we can't find the page you are looking for.")

    def _answer(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
        path = urlsplit(self.path).path
        if self.cut and self.command != "GET":
            return self._break(path)
        self.hub.requests.append((self.command, path, 0 if self.cut else status))
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.cut:
            self.wfile.write(content[: len(content) // 2])
            self._hang_up()
        elif self.command != "HEAD":
            self.wfile.write(content)

    def _break(self, path: str) -> None:
        self.hub.requests.append((self.command, path, 0))
        self._hang_up()

    def _hang_up(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)

    def _json(self, content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self._answer(status, json.dumps(content).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _content(self, content: bytes, headers: Mapping[str, str]) -> None:
        """A file, or the part of it that was asked for."""
        headers = {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream", **headers}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            return self._answer(200, content, headers)
        first, last = int(asked[1]), min(int(asked[2] or len(content) - 1), len(content) - 1)
        if first > last:
            return self._answer(416, b"", {**headers, "Content-Range": f"bytes */{len(content)}"})
        part = f"bytes {first}-{last}/{len(content)}"
        self._answer(206, content[first : last + 1], {**headers, "Content-Range": part})

    def log_message(self, *_: Any) -> None:
        pass

    # ---- Users and repositories ----------------------------------------------------------------------------------

    def _user(self) -> User | None:
        """Whose token it is; None without one."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if not token:
            return None
        user = self.hub.tokens.get(token)
        if user is None:
            raise Refusal(401, "Invalid credentials in Authorization header")
        if user.expired:
            raise Refusal(401, f'User Access Token "{user.name}-token" is expired')
        return user

    def _writer(self) -> User:
        user = self._user()
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        if not user.may_write:
            raise Refusal(403, "Forbidden: you must use a write token to upload to a repository.")
        return user

    def _repo(self, kind: str | None, id: str, write: bool = False) -> Repo:
        user = self._user()
        repo = self.hub.repos.get(id if kind in (None, "model") else f"{kind}s/{id}")
        if repo is None or (repo.private and (user is None or user.name != repo.owner)):
            # Whoever may not see a repository isn't told whether it exists.
            if user is None:
                raise Refusal(401, "Invalid username or password.", "RepoNotFound")
            raise Refusal(404, "Repository not found", "RepoNotFound")
        if write and self._writer().name != repo.owner:
            raise Refusal(403, f"You don't have the rights to write to {repo.id}.")
        return repo

    def _commit_of(self, repo: Repo, revision: str | None) -> Any:
        commit = repo.find(unquote(revision or "main"))
        if commit is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def _whoami(self) -> None:
        user = self._user()
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        token = {"displayName": f"{user.name}-token", "role": "write" if user.may_write else "read"}
        auth = {"type": "access_token", "accessToken": token}
        self._json({"type": "user", "id": user.name, "name": user.name, "orgs": [], "auth": auth})

    def _create_repo(self) -> None:
        user, asked = self._writer(), json.loads(self.body)
        owner = asked.get("organization") or user.name
        if owner != user.name:
            raise Refusal(403, f'You don\'t have the rights to create a {asked.get("type")} under "{owner}".')
        repo = Repo(asked.get("type") or "model", owner, asked["name"], asked.get("visibility") == "private")
        about = {"url": f"{self.hub.endpoint}/{repo.path}", "name": repo.id, "id": repo.id}
        with self.hub.lock:
            exists = self.hub.repos.setdefault(repo.path, repo) is not repo
        if exists:
            message = f"You already created this {repo.kind} repo"
            raise Refusal(409, message, body={"error": message, **about})
        self._json(about)

    def _create_branch(self, kind: str | None, id: str, revision: str) -> None:
        repo = self._repo(kind, id, write=True)
        repo.branches[unquote(revision)] = list(repo.branches["main"])
        self._json({"success": True}, 201)

    # ---- Uploading -----------------------------------------------------------------------------------------------

    def _validate_yaml(self) -> None:
        asked = json.loads(self.body)
        errors, warnings = check_card(asked["content"], asked["repoType"])
        found = {"errors": [{"message": text} for text in errors], "warnings": [{"message": text} for text in warnings]}
        self._json(found, 400 if errors else 200)

    def _preupload(self, kind: str | None, id: str, revision: str) -> None:
        held = self._commit_of(self._repo(kind, id, write=True), revision).files
        files = []
        for file in json.loads(self.body)["files"]:
            large = is_large(file["path"], file["size"], base64.b64decode(file["sample"]))
            known = held.get(file["path"])
            files.append(
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if large else "regular",
                    "shouldIgnore": False,
                    **({} if known is None else {"oid": known.oid}),
                }
            )
        self._json({"files": files})

    def _lfs_batch(self, kind: str | None, id: str) -> None:
        repo, asked = self._repo(kind, id, write=True), json.loads(self.body)
        if "basic" not in asked["transfers"]:
            raise Refusal(400, f"Only LFS's basic transfer is known here, not {asked['transfers']}.")
        objects = []
        for wanted in asked["objects"]:
            entry = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.hub.large:
                verify = f"{self.hub.endpoint}/{repo.path}.git/info/lfs/objects/verify"
                entry["actions"] = {
                    "upload": {"href": f"{self.hub.storage}/{wanted['oid']}", "header": {}},
                    "verify": {"href": verify, "header": {}},
                }
            objects.append(entry)
        self._json({"transfer": "basic", "objects": objects})

    def _lfs_put(self, oid: str) -> None:
        if sha256(self.body).hexdigest() != oid:
            raise Refusal(400, "The content has another SHA-256.")
        self.hub.large[oid] = self.body
        self._answer(200, b"", {"ETag": f'"{oid}"'})

    def _lfs_verify(self, kind: str | None, id: str) -> None:
        self._repo(kind, id, write=True)
        asked = json.loads(self.body)
        if len(self.hub.large.get(asked["oid"], b"")) != asked["size"]:
            raise Refusal(404, "LFS object not found")
        self._json({"message": "ok"})

    def _commit(self, kind: str | None, id: str, revision: str) -> None:
        repo, branch = self._repo(kind, id, write=True), unquote(revision)
        if branch not in repo.branches:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        header, *changes = (json.loads(line) for line in self.body.splitlines())
        with self.hub.lock:
            parent = header["value"].get("parentCommit")
            if parent not in (None, repo.branches[branch][-1].oid):
                raise Refusal(412, "A commit has happened since. Please refresh and try again.")
            files = dict(repo.branches[branch][-1].files)
            for change in changes:
                self._change(files, change["key"], change["value"])
            if "README.md" in files:
                errors, _ = check_card(files["README.md"].content.decode(), repo.kind)
                if errors:
                    raise Refusal(400, f"Invalid metadata in README.md: {'; '.join(errors)}")
            commit = repo.commit(branch, header["value"]["summary"], files)
        url = f"{self.hub.endpoint}/{repo.path}/commit/{commit.oid}"
        self._json({"success": True, "commitOid": commit.oid, "commitUrl": url, "hookOutput": ""})

    def _change(self, files: dict[str, File], key: str, value: Mapping[str, Any]) -> None:
        path = value["path"]
        if key == "file":
            files[path] = File(base64.b64decode(value["content"], validate=True), False)
        elif key == "lfsFile":
            if value["oid"] not in self.hub.large:
                raise Refusal(404, f"LFS object {value['oid']} of {path} not found")
            files[path] = File(self.hub.large[value["oid"]], True)
        elif key == "deletedFile" and path in files:
            del files[path]
        elif key == "deletedFolder":
            for name in [name for name in files if name.startswith(f"{path.rstrip('/')}/")]:
                del files[name]
        else:
            raise Refusal(400, f"Can't do {key} of {path}")

    # ---- Downloading ---------------------------------------------------------------------------------------------

    def _info(self, kind: str | None, id: str, revision: str | None) -> None:
        repo = self._repo(kind, id)
        commit = self._commit_of(repo, revision)
        about = {"id": repo.id, "author": repo.owner, "sha": commit.oid, "private": repo.private, "gated": False}
        siblings = [{"rfilename": path} for path in sorted(commit.files)]
        self._json({**about, "disabled": False, "downloads": 0, "likes": 0, "tags": [], "siblings": siblings})

    def _tree(self, kind: str | None, id: str, revision: str, path: str | None) -> None:
        files = self._commit_of(self._repo(kind, id), revision).files
        folder = f"{unquote(path)}/" if path else ""
        asked = parse_qs(urlsplit(self.path).query)
        recursive = asked.get("recursive", ["false"])[0].lower() == "true"
        entries = {}
        for name in sorted(name for name in files if name.startswith(folder)):
            parts = name[len(folder) :].split("/")
            for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
                parent = folder + "/".join(parts[:depth])
                entries[parent] = {"type": "directory", "path": parent, "size": 0, "oid": git_hash(parent.encode())}
            if recursive or len(parts) == 1:
                entries[name] = _entry(name, files[name])
        self._json(list(entries.values()))

    def _paths_info(self, kind: str | None, id: str, revision: str) -> None:
        files = self._commit_of(self._repo(kind, id), revision).files
        asked = parse_qs(self.body.decode()).get("paths", [])
        self._json([_entry(path, files[path]) for path in asked if path in files])

    def _resolve(self, kind: str | None, id: str, revision: str, path: str) -> None:
        commit = self._commit_of(self._repo(kind, id), revision)
        found = {"X-Repo-Commit": commit.oid}
        file = commit.files.get(unquote(path))
        if file is None:
            refusal = Refusal(404, "Entry not found", "EntryNotFound")
            return self._json(refusal.body, 404, {**refusal.headers, **found})
        if not file.is_large:
            return self._content(file.content, {**found, "ETag": f'"{file.oid}"'})
        linked = {"X-Linked-Size": str(len(file.content)), "X-Linked-ETag": f'"{file.oid}"'}
        self._answer(302, b"", {**found, **linked, "Location": f"{self.hub.storage}/{quote(file.oid)}"})

    def _lfs_get(self, oid: str) -> None:
        if oid not in self.hub.large:
            raise Refusal(404, "Not found")
        if "Authorization" in self.headers:
            raise Refusal(400, "A token was sent to the storage, which is another's machine.")
        self._content(self.hub.large[oid], {"ETag": f'"{oid}"'})


def _entry(path: str, file: File) -> dict[str, Any]:
    entry = {"type": "file", "path": path, "size": len(file.content), "oid": file.blob}
    if file.is_large:
        entry["lfs"] = {"oid": file.oid, "size": len(file.content), "pointerSize": len(file.pointer)}
    return entry
