"""A local stand-in for the W&B server: accepts what wandb 0.31 sends and remembers it. Standard library only."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Standin:
    """What the server was told. `url` is for WANDB_BASE_URL."""

    def __init__(self) -> None:
        self.buckets: list[dict[str, Any]] = []
        """Variables of every UpsertBucket, in order."""
        self.history: list[dict[str, Any]] = []
        self.exit_code: int | None = None
        self.received = b""
        """Every byte of every body."""
        self.paths: list[str] = []
        self.url = ""

    @property
    def bucket(self) -> dict[str, Any]:
        """All that was said of the run, the last word on each."""
        return {key: value for bucket in self.buckets for key, value in bucket.items() if value is not None}

    def graphql(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """Answers are as small as the client puts up with."""
        if "upsertBucket" in query:
            self.buckets.append(variables)
            name = variables.get("name") or "x"
            project = {"id": "p", "name": variables.get("project") or "p", "entity": {"id": "e", "name": "local"}}
            bucket = {"id": "r", "name": name, "displayName": name, "description": None, "config": "{}"}
            bucket |= {"sweepName": None, "historyLineCount": 0, "project": project}
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if "viewer" in query:
            viewer = {"id": "u", "entity": "local", "username": "local", "flags": "{}", "teams": {"edges": []}}
            return {"viewer": viewer}
        if "serverInfo" in query:
            return {"serverInfo": {"cliVersionInfo": None, "latestLocalVersionInfo": None, "features": []}}
        if "createRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in variables.get("files", [])]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        if re.search(r"\b(model|bucket)\(", query):
            return {"model": None}
        return {}

    def stream(self, body: dict[str, Any]) -> None:
        """One request of the file stream: rows, and at the end the exit code."""
        rows = (body.get("files") or {}).get("wandb-history.jsonl", {}).get("content", [])
        self.history += [json.loads(row) for row in rows]
        if body.get("complete"):
            self.exit_code = body.get("exitcode")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    standin: Standin

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
        self.standin.received += body
        self.standin.paths.append(self.path)
        return body

    def _answer(self, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        body = self._body()
        if self.path == "/graphql":
            request = json.loads(body)
            self._answer({"data": self.standin.graphql(request.get("query", ""), request.get("variables") or {})})
        elif "file_stream" in self.path:
            self.standin.stream(json.loads(body))
            self._answer({"exitcode": None, "limits": {}})
        else:
            self._answer({})

    def do_PUT(self) -> None:
        self._body()
        self._answer({})

    def do_GET(self) -> None:
        self._answer({})


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that went away


@contextlib.contextmanager
def serving() -> Iterator[Standin]:
    """A server on a free port of this machine."""
    standin = Standin()
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"standin": standin}))
    standin.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield standin
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def silent_server() -> Iterator[str]:
    """A server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
