"""What the default metrics cost: time of one diagnosis, spread over training.metrics_every steps; prints a table.

python benchmarks/diagnosis.py               # some minutes on one core
python benchmarks/diagnosis.py --backend mlx
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")

from mhc_exp.config.compose import compose
from mhc_exp.data import make_task
from mhc_exp.topology.diagnosis import per_connection, summarise
from mhc_exp.training.backends import make_trainer
from mhc_exp.training.evaluation import diagnosis_batch, held_out

ROUNDS = 5
WIRINGS = ("mhc", "hc", "vwn", "attnres", "muddformer", "deep_cross_attention")


def milliseconds(call: Callable[[], object]) -> float:
    """Processor time of the fastest of several calls, after one that does not count."""
    found = []
    for _ in range(ROUNDS + 1):
        start = time.process_time()
        call()
        found.append(1e3 * (time.process_time() - start))
    return min(found[1:])


def main() -> None:
    """A line per wiring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", default="cpu", choices=("cpu", "mlx"))
    backend = parser.parse_args().backend
    print(f"{backend}, depth 12, width 64, T = 64, B = 16, processor time; load before {os.getloadavg()[0]:.2f}\n")
    print("| wiring | step, ms | device part, ms | columns, ms | share of the steps |\n|---|---|---|---|---|")
    for wiring in WIRINGS:
        config = compose([f"variant={wiring}", "depth=12", f"backend={backend}", "backend.threads=1"])
        task = make_task(config)
        trainer = make_trainer(config, task.vocab_size)
        batch, seen = task.batch(0, config.training.batch_size), diagnosis_batch(held_out(config, task))
        found = trainer.diagnose(seen)
        assert found is not None
        step = milliseconds(lambda: (trainer.step(1, batch, 1e-3), trainer.fetch()))  # noqa: B023
        looking = milliseconds(lambda: trainer.diagnose(seen))  # noqa: B023
        columns = milliseconds(lambda: (summarise(found), per_connection(found)))  # noqa: B023
        share = (looking + columns) / (step * config.training.metrics_every)
        print(f"| {wiring} | {step:.0f} | {looking:.0f} | {columns:.0f} | {100 * share:.2f} % |", flush=True)


if __name__ == "__main__":
    main()
