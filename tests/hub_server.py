"""A local stand-in of the hub's HTTP endpoints that huggingface_hub calls to write and read a model repository."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """Repositories in memory: repository -> file -> content. Large files go through LFS, as *.safetensors do there."""

    protocol_version = "HTTP/1.1"
    repositories: dict[str, dict[str, bytes]]
    objects: dict[str, bytes]
    """LFS: SHA-256 -> content."""
    calls: list[str]

    def log_message(self, format: str, *args: object) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.calls.append(f"{self.command} {self.path}")
        self.send_response(status)
        headers = {"Content-Length": str(len(body))} | {name.replace("_", "-"): v for name, v in headers.items()}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer_json(self, content: object) -> None:
        self.answer(200, json.dumps(content).encode(), Content_Type="application/json")

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        repository, _, rest = self.path.lstrip("/").partition("/resolve/")
        files = self.repositories.get(repository)
        if files is None:
            return self.answer(404, X_Error_Code="RepoNotFound")
        revision, _, name = rest.partition("/")
        if revision not in ("main", COMMIT):
            return self.answer(404, X_Error_Code="RevisionNotFound")
        if name not in files:
            return self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        etag = f'"{hashlib.sha256(files[name]).hexdigest()}"'
        return self.answer(200, files[name], ETag=etag, X_Repo_Commit=COMMIT)

    def do_PUT(self) -> None:
        content = self.body()
        self.objects[hashlib.sha256(content).hexdigest()] = content
        self.answer(200)

    def do_POST(self) -> None:
        path, content = self.path.partition("?")[0], self.body()
        address = f"http://{self.headers['Host']}"
        if path == "/api/repos/create":
            asked = json.loads(content)
            repository = "/".join(part for part in (asked.get("organization"), asked["name"]) if part)
            if repository.startswith("forbidden/"):
                return self.answer(403, b'{"error": "no right"}')
            self.repositories.setdefault(repository, {})
            return self.answer_json({"url": f"{address}/{repository}"})
        if path == "/api/validate-yaml":
            return self.answer_json({"errors": [], "warnings": []})
        if path.endswith("/info/lfs/objects/batch"):
            return self.answer_json(
                {"transfer": "basic", "objects": [self.lfs(o) for o in json.loads(content)["objects"]]}
            )
        repository = path.removeprefix("/api/models/").rpartition("/")[0].rpartition("/")[0]
        if "/preupload/" in path:
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(content)["files"]
            ]
            return self.answer_json({"files": modes})
        if "/commit/" in path:
            self.commit(repository, content)
            return self.answer_json({"commitUrl": f"{address}/{repository}/commit/{COMMIT}", "commitOid": COMMIT})
        return self.answer(404)

    def lfs(self, asked: dict) -> dict:
        href = f"http://{self.headers['Host']}/lfs/{asked['oid']}"
        return {"oid": asked["oid"], "size": asked["size"], "actions": {"upload": {"href": href}}}

    def commit(self, repository: str, content: bytes) -> None:
        for line in map(json.loads, content.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                self.repositories[repository][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.repositories[repository][value["path"]] = self.objects[value["oid"]]


@contextmanager
def running_hub() -> Iterator[tuple[str, type[Hub]]]:
    """A hub of its own on a free port: its address, and its handler with the repositories and calls."""

    class Own(Hub):
        repositories, objects, calls = {}, {}, []

    server = ThreadingHTTPServer(("127.0.0.1", 0), Own)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", Own
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
