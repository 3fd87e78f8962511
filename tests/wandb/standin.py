"""A local stand-in for the W&B server: remembers what wandb 0.31 sends and gives it back to wandb.Api.

Standard library and yaml only.
"""

from __future__ import annotations

import contextlib
import gzip
import itertools
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml


class Standin:
    """What the server was told. `url` is for WANDB_BASE_URL."""

    def __init__(self) -> None:
        self.buckets: list[dict[str, Any]] = []
        """Variables of every UpsertBucket, in order."""
        self.history: list[dict[str, Any]] = []
        self.runs: dict[str, dict[str, Any]] = {}
        """Run id -> what the read side answers: config, displayName, group, history, summary, exit code."""
        self.exit_code: int | None = None
        self.http_status = 200
        self.delay = 0.0
        """Seconds until a request is answered."""
        self.late = 0
        """Rows of a run that the read side does not show yet."""
        self.deleted: list[str] = []
        """Ids of deleted runs."""
        self.received = b""
        """Every byte of every body."""
        self.paths: list[str] = []
        self.url = ""
        self.views: list[dict[str, Any]] = []
        """Variables of every workspace and report that was saved."""
        self.sweep: dict[str, Any] | None = None
        """The one W&B sweep: its configuration, and the commands that no agent has taken yet."""

    @property
    def bucket(self) -> dict[str, Any]:
        """All that was said of the run, the last word on each."""
        return {key: value for bucket in self.buckets for key, value in bucket.items() if value is not None}

    def graphql(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """Answers are as small as the client puts up with."""
        if "upsertBucket" in query:
            self.buckets.append(variables)
            name = variables.get("name") or "x"
            fresh = name not in self.runs
            known = self.runs.setdefault(name, {"history": [], "summary": {}, "exit_code": None})
            known |= {key: value for key, value in variables.items() if value is not None}
            project = {"id": "p", "name": variables.get("project") or "p", "entity": {"id": "e"}}
            project["entity"]["name"] = variables.get("entity") or "local"
            bucket = {"id": "r", "name": name, "displayName": name, "description": None, "config": "{}"}
            bucket |= {
                "sweepName": variables.get("sweep"),
                "historyLineCount": len(known["history"]),
                "project": project,
            }
            return {"upsertBucket": {"bucket": bucket, "inserted": fresh}}
        if "upsertView" in query:
            self.views.append(variables)
            view = {"id": f"v{len(self.views)}", "name": variables["name"], "type": variables["type"]}
            view |= {"displayName": variables["displayName"], "description": variables["description"]}
            project = {"name": variables["projectName"], "entityName": variables["entityName"]}
            view |= {"project": project, "spec": variables["spec"]}
            return {"upsertView": {"view": view, "inserted": True}}
        if "GetProjects" in query:
            project = {"id": "p", "name": "theirs", "entityName": variables["entity"]}
            node = {**project, "createdAt": "2026-11-22T00:00:00", "isBenchmark": False, "user": None}
            page = {"endCursor": None, "hasNextPage": False}
            return {"models": {"edges": [{"node": node}], "pageInfo": page}}
        if "ProjectInternalId" in query:
            return {"project": {"id": "p", "internalId": "1"}}
        if "upsertSweep" in query or "weep(" in query or "gent" in query:
            return self._of_sweep(query, variables)
        if "viewer" in query:
            viewer = {"id": "u", "entity": "local", "username": "local", "flags": "{}", "teams": {"edges": []}}
            return {"viewer": viewer}
        if "serverInfo" in query:
            return {"serverInfo": {"cliVersionInfo": None, "latestLocalVersionInfo": None, "features": []}}
        if "createRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in variables.get("files", [])]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        if re.search(r"\bruns\(", query):
            edges = [{"node": self._node(name), "cursor": name} for name in self.runs]
            page = {"endCursor": None, "hasNextPage": False}
            runs = {"totalCount": len(edges), "edges": edges, "pageInfo": page}
            return {"project": {"internalId": "1", "runCount": len(edges), "readOnly": False, "runs": runs}}
        if re.search(r"\bparquetHistory\(", query):
            return {"project": {"run": {"parquetHistory": {"parquetUrls": [], "liveData": []}}}}
        if re.search(r"\bhistory\(", query):
            rows = self.runs[variables.get("run") or variables.get("name") or ""]["history"]
            rows = rows[: len(rows) - self.late]
            first, end = int(variables.get("minStep") or 0), int(variables.get("maxStep") or 1 << 62)
            page = [json.dumps(row) for row in rows if first <= row["_step"] < end]
            return {"project": {"run": {"history": page}}}
        if re.search(r"\brun\(", query):
            name = variables.get("name") or variables.get("run") or variables.get("runName") or ""
            return {"project": {"internalId": "1", "run": self._node(name) if name in self.runs else None}}
        if re.search(r"\bdeleteRun\(", query):
            self.deleted.append(variables["id"])
            del self.runs[variables["id"]]
            return {"deleteRun": {"clientMutationId": None}}
        if re.search(r"\b(model|bucket)\(", query):  # RunResumeStatus
            name = variables.get("name") or ""
            project = {"id": "p", "name": "p", "entity": {"id": "e", "name": "local"}}
            return {"model": {**project, "bucket": self._tail(name) if name in self.runs else None}}
        return {}

    def _of_sweep(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """Grid search: an agent without a run gets the next point, and after the last one leave to go."""
        if "upsertSweep" in query:
            config = yaml.safe_load(variables["config"])
            axes = [[(key, value) for value in axis["values"]] for key, axis in config["parameters"].items()]
            points = [{key: {"value": value} for key, value in point} for point in itertools.product(*axes)]
            commands = [
                {"type": "run", "run_id": f"agent{number}", "program": config["program"], "args": point}
                for number, point in enumerate(points)
            ]
            self.sweep = {"config": variables["config"], "commands": commands}
            project = {"id": "p", "name": variables["projectName"], "entity": {"id": "e", "name": "local"}}
            return {"upsertSweep": {"sweep": {"name": "sw1", "project": project}, "configValidationWarnings": []}}
        assert self.sweep is not None
        if "createAgent" in query:
            return {"createAgent": {"agent": {"id": "a1"}}}
        if "agentHeartbeat" in query:
            busy, left = json.loads(variables["runState"]), self.sweep["commands"]
            commands = [] if busy else [left.pop(0)] if left else [{"type": "exit"}]
            return {"agentHeartbeat": {"agent": {"id": "a1"}, "commands": json.dumps(commands)}}
        sweep = {"id": "s", "name": "sw1", "state": "RUNNING", "config": self.sweep["config"], "runs": {"edges": []}}
        return {"project": {"sweep": sweep}}

    def _tail(self, name: str) -> dict[str, Any]:
        """The run `name` as wandb asks for it before it goes on with it."""
        run = self.runs[name]
        tail = json.dumps([json.dumps(row) for row in run["history"][-1:]])
        return {
            **{"id": name, "name": name, "displayName": run.get("displayName") or name, "summaryMetrics": "{}"},
            **{"logLineCount": 0, "eventsLineCount": 0, "eventsTail": "[]", "notes": "", "wandbConfig": '{"t": 1}'},
            **{"historyLineCount": len(run["history"]), "historyTail": tail, "tags": run.get("tags") or []},
            "config": run.get("config") or "{}",
        }

    def _node(self, name: str) -> dict[str, Any]:
        """The run `name` as wandb.Api asks for it."""
        run = self.runs[name]
        rows, code = run["history"], run["exit_code"]
        columns = {key for row in rows for key in row}
        counts = {key: {"typeCounts": [{"type": "number", "count": len(rows)}]} for key in columns}
        state = "running" if code is None else "finished" if code == 0 else "failed"
        return {
            **{"id": name, "name": name, "displayName": run.get("displayName") or name, "state": state},
            **{"config": run.get("config") or "{}", "group": run.get("groupName"), "jobType": run.get("jobType")},
            **{"tags": run.get("tags") or [], "sweepName": None, "commit": None, "readOnly": False},
            **{"createdAt": "2026-11-22T00:00:00", "heartbeatAt": "2026-11-22T00:00:10", "description": ""},
            **{"notes": "", "systemMetrics": "{}", "summaryMetrics": json.dumps(run["summary"])},
            **{"historyLineCount": len(rows), "projectId": 1, "user": {"name": "local", "username": "local"}},
            "historyKeys": {"lastStep": max((row["_step"] for row in rows), default=-1), "keys": counts},
            **{"internalId": "1", "entity": {"name": "local"}},
            "project": {"internalId": "1", "id": "p", "name": run.get("project") or "p", "entityName": "local"},
        }

    def stream(self, path: str, body: dict[str, Any]) -> None:
        """One request of the file stream /files/ENTITY/PROJECT/RUN/file_stream: rows, and at the end the exit code."""
        run = self.runs.setdefault(path.split("/")[-2], {"history": [], "summary": {}, "exit_code": None})
        files = body.get("files") or {}
        if history := files.get("wandb-history.jsonl"):
            rows = [json.loads(row) for row in history["content"]]
            self.history += rows
            run["history"][history["offset"] :] = rows  # what is sent again replaces, as on the server
        for summary in files.get("wandb-summary.json", {}).get("content", []):
            run["summary"] = json.loads(summary)
        if body.get("complete"):
            self.exit_code = run["exit_code"] = body.get("exitcode")


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
        time.sleep(self.standin.delay)
        body = json.dumps(content).encode()
        self.send_response(self.standin.http_status)
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
            self.standin.stream(self.path, json.loads(body))
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
