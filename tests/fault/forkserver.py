"""A process that has imported everything and forks a run per request, so that hundreds of deaths take seconds.

    python forkserver.py numpy|torch|mlx

A line of JSON on stdin is a request, a line on stdout its answer: `{"codes": [...], "said": [...]}`.

    config      the configuration of the run, as run.json holds it (started like `mhc-exp`, in the forked process)
    count       how many processes to start at once (1)
    kill_after  seconds until SIGKILL, or null: wait for the end
    from_word   what the process must have said for these seconds to begin (null: they begin at once)
    faults      calls of `injections.py` by name, with their arguments: {"strike": [7, "die"]}
    environment variables of the forked process

What a forked process said before it died is all that it acknowledged: `resumed 7`, `saved 8`, `row 8`, `calls 140`.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
sys.modules["matplotlib"] = None  # type: ignore[assignment]
sys.path.insert(0, str(Path(__file__).parents[1] / "cli"))

import injections  # noqa: E402
import numpy as np  # noqa: E402
import numpy_worker  # noqa: E402

from mhc_exp.config.build import build  # noqa: E402
from mhc_exp.data.task import Batch  # noqa: E402
from mhc_exp.runs import identity  # noqa: E402
from mhc_exp.runs.launch import launch  # noqa: E402
from mhc_exp.training import backends, loop  # noqa: E402, F401


def warm(backend: str, config: Any) -> None:
    """Load what a run would load. PyTorch also takes a step; MLX may not, for its threads would not survive a fork."""
    for name in ("safetensors.numpy", "mhc_exp.runs.worker", "mhc_exp.data", "mhc_exp.sinks.console", "yaml"):
        importlib.import_module(name)
    identity.git_state = lambda checkout: None  # half of the time of such small runs
    if backend == "numpy":
        backends.make_trainer = numpy_worker.NumpyTrainer
    elif backend == "mlx":
        importlib.import_module("mhc_exp.mlx.trainer")
    elif backend == "torch":
        trainer = backends.make_trainer(config, 16)
        tokens = np.zeros((1, 8), np.int32)
        trainer.step(1, Batch(tokens, tokens, np.ones((1, 8), np.float32)), 0.1)
        trainer.fetch()


def child(request: dict[str, Any], told: int) -> int:
    """A run from its configuration to its end, in a process of its own; returns its exit code."""
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    os.environ.update(request.get("environment", {}))

    def say(text: str) -> None:
        os.write(told, text.encode() + b"\n")

    injections.acknowledge(say)
    for name, arguments in request.get("faults", {}).items():
        getattr(injections, name)(say, *arguments)
    result = launch(build(request["config"]), sweep=None, command=["mhc_exp"], multirun=False)
    say(f"ended {result.state} {' '.join(result.message.split())}")
    return result.exit_code


def answer(request: dict[str, Any]) -> dict[str, Any]:
    ear, mouth = os.pipe()
    children = []
    for _ in range(request.get("count", 1)):
        pid = os.fork()
        if pid == 0:
            code = 70
            try:
                os.close(ear)
                code = child(request, mouth)
            except BaseException as error:
                os.write(mouth, f"raised {type(error).__name__}: {error}\n".encode())
            finally:
                os._exit(code)
        children.append(pid)
    os.close(mouth)
    said = listen(ear, children, request.get("kill_after"), request.get("from_word"))
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    return {"codes": codes, "said": said}


def listen(ear: int, children: list[int], kill_after: float | None, word: str | None) -> list[str]:
    """Everything the children say until the last one has ended; they are killed as the request wants it."""
    deadline, heard = None, b""
    while True:
        if deadline is None and kill_after is not None and (word is None or word.encode() in heard):
            deadline, kill_after = time.monotonic() + kill_after, None
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if select.select([ear], [], [], left)[0]:
            if not (piece := os.read(ear, 65536)):
                break
            heard += piece
        else:
            for pid in children:
                os.kill(pid, signal.SIGKILL)
            deadline = None
    os.close(ear)
    return heard.decode().splitlines()


def main(backend: str) -> None:
    for number, line in enumerate(sys.stdin):
        request = json.loads(line)
        if number == 0:
            warm(backend, build(request["config"]))
        print(json.dumps(answer(request)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
