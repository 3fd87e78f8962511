"""Very deep small classifiers on real and made data: plain residual, history mixing, mHC, and mHC without mixing.

    pip install scikit-learn mnist1d
    python benchmarks/deep_classifiers.py --log F                # trains what is not in the log, prints the table
    python benchmarks/deep_classifiers.py --log F --only-print

An MLP of width 32 and a CNN of 8 channels on half the resolution, 50 and 200 branches norm -> linear -> GELU, on
the 1,797 digits of scikit-learn and on mnist1d (arXiv:2011.14439, made from its own seed). Every arm of a seed has
the same body and batches. AdamW, one learning rate. Gradients: norm of the loss's gradient at each branch's linear
weights, before the first update and over the last tenth of training.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mhc_exp.analysis.differences import bootstrap_interval
from mhc_exp.torch import HyperSequential, MHCSequential

WIDTH, CHANNELS, CLASSES = 32, 8, 10
STEPS, BATCH, RATE, WARMUP = 200, 64, 1e-3, 20
SEEDS = range(5)
LAYERS = (50, 200)
HELD_OUT = 5
"""Every 5th sample."""


class Split(NamedTuple):
    """Samples [N, 1, H, W] and labels [N], to train on and held out."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor


def digits() -> Split:
    """8 x 8 grey images."""
    from sklearn.datasets import load_digits

    loaded = load_digits()
    return _split(loaded.images[:, None] / 8 - 1, loaded.target)


def mnist1d() -> Split:
    """Signals of 40 samples, as images of one row."""
    from mnist1d.data import get_dataset_args, make_dataset

    made = make_dataset(get_dataset_args())
    x = np.concatenate([made["x"], made["x_test"]])
    return _split(x[:, None, None], np.concatenate([made["y"], made["y_test"]]))


def _split(x: np.ndarray, y: np.ndarray) -> Split:
    held = np.arange(len(y)) % HELD_OUT == 0
    inputs, labels = torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.int64)
    return Split(inputs[~held], labels[~held], inputs[held], labels[held])


DATA: dict[str, Callable[[], Split]] = {"digits": digits, "mnist1d": mnist1d}


class Body(NamedTuple):
    """What is around the branches."""

    branch: Callable[[], nn.Module]
    entrance: Callable[[Tensor], nn.Module]
    exit: Callable[[], nn.Module]
    width: int
    channel_dim: int


def mlp() -> Body:
    def entrance(x: Tensor) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), WIDTH))

    def branch() -> nn.Module:
        return nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.GELU())

    return Body(branch, entrance, lambda: nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CLASSES)), WIDTH, -1)


def cnn() -> Body:
    def entrance(x: Tensor) -> nn.Module:
        return nn.Conv2d(1, CHANNELS, 3, stride=2, padding=1)

    def branch() -> nn.Module:
        return nn.Sequential(nn.GroupNorm(1, CHANNELS), nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), nn.GELU())

    def end() -> nn.Module:
        pool = (nn.GroupNorm(1, CHANNELS), nn.AdaptiveAvgPool2d((1, 4)), nn.Flatten())
        return nn.Sequential(*pool, nn.Linear(4 * CHANNELS, CLASSES))

    return Body(branch, entrance, end, CHANNELS, 1)


BODIES = {"MLP": mlp, "CNN": cnn}
Arm = Callable[[Sequence[nn.Module], Body], nn.Module]
ARMS: dict[str, Arm] = {
    "residual": lambda branches, body: MHCSequential(branches, mode="residual"),
    "history": lambda branches, body: MHCSequential(branches, max_history=4, constraint="simplex"),
    "mhc": lambda branches, body: HyperSequential(branches, body.width, variant="mhc", channel_dim=body.channel_dim),
    "identity_hc": lambda branches, body: HyperSequential(
        branches, body.width, variant="identity_hc", channel_dim=body.channel_dim
    ),
}
Case = tuple[str, str, int, str, int]
"""(data, body, layers, arm, seed)"""


def cases() -> Iterator[Case]:
    return itertools.product(DATA, BODIES, LAYERS, ARMS, SEEDS)


@functools.cache
def loaded(name: str) -> Split:
    return DATA[name]()


def trained(case: Case, steps: int) -> dict[str, Any]:
    """One run: losses, accuracy, gradient statistics."""
    name, kind, layers, arm, seed = case
    data, body = loaded(name), BODIES[kind]()
    torch.manual_seed(seed)
    entrance, branches = body.entrance(data.train_x), [body.branch() for _ in range(layers)]
    model = nn.Sequential(entrance, ARMS[arm](branches, body), body.exit())
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    batches = torch.Generator().manual_seed(seed)
    losses, profiles, start = [], [], time.perf_counter()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, (step + 1) / WARMUP)
        index = torch.randint(len(data.train_y), (BATCH,), generator=batches)
        loss = functional.cross_entropy(model(data.train_x[index]), data.train_y[index])
        optimizer.zero_grad()
        loss.backward()
        if step == 0 or step >= steps * 9 // 10:
            profiles.append([branch[1].weight.grad.norm().item() for branch in branches])
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    seconds = time.perf_counter() - start
    with torch.no_grad():
        logits = model.eval()(data.test_x)
    return {
        "case": list(case),
        "steps": steps,
        "first_loss": losses[0],
        "train_loss": float(np.mean(losses[-steps // 10 :])),
        "test_loss": functional.cross_entropy(logits, data.test_y).item(),
        "accuracy": (logits.argmax(1) == data.test_y).double().mean().item(),
        "gradient_at_start": shape_of(np.array(profiles[0])),
        "gradient_at_end": shape_of(np.mean(profiles[1:], axis=0)),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seconds_a_step": seconds / steps,
    }


def shape_of(profile: np.ndarray) -> dict[str, float]:
    """First over last and largest over smallest of the gradient norms of the branches."""
    smallest = max(float(profile.min()), 1e-30)
    return {"first_over_last": float(profile[0] / max(profile[-1], 1e-30)), "spread": float(profile.max() / smallest)}


def table(runs: list[dict[str, Any]]) -> Iterator[str]:
    """Means over seeds; the difference of the test loss from `residual` of the same seed with its 95 % interval."""
    by_case: dict[tuple[str, str, int, str], dict[int, dict[str, Any]]] = defaultdict(dict)
    for run in runs:
        name, kind, layers, arm, seed = run["case"]
        by_case[name, kind, layers, arm][seed] = run
    yield (
        "| data | body | layers | wiring | seeds | train loss | test loss | minus residual | 95 % interval | accuracy "
        "| gradient first/last, start | end | parameters | s a step |"
    )
    yield "|---" * 14 + "|"
    for (name, kind, layers, arm), seeds in by_case.items():
        base = by_case.get((name, kind, layers, "residual"), {})
        paired = [seeds[seed]["test_loss"] - base[seed]["test_loss"] for seed in seeds if seed in base]
        apart = ["", ""]
        if arm != "residual" and len(paired) > 1:
            low, high = bootstrap_interval(np.array(paired))
            apart = [f"{np.mean(paired):+.3f}", f"{low:+.3f} to {high:+.3f}"]
        values = list(seeds.values())
        ratios = [_geometric([run[when]["first_over_last"] for run in values]) for when in GRADIENTS]
        cells: list[object] = [name, kind, layers, f"`{arm}`", len(values)]
        cells += [_mean(values, "train_loss"), _mean(values, "test_loss")]
        accuracy = f"{100 * float(np.mean([run['accuracy'] for run in values])):.1f} %"
        cells += [*apart, accuracy, *(f"{ratio:.3g}" for ratio in ratios)]
        cells += [f"{values[0]['parameters']:,}", f"{np.median([run['seconds_a_step'] for run in values]):.3f}"]
        yield "| " + " | ".join(map(str, cells)) + " |"


GRADIENTS = ("gradient_at_start", "gradient_at_end")


def _mean(runs: list[dict[str, Any]], key: str) -> str:
    return f"{np.mean([run[key] for run in runs]):.3f}"


def _geometric(values: list[float]) -> float:
    return math.exp(np.mean(np.log(np.maximum(values, 1e-30))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", type=Path, default=Path("runs/deep_classifiers.jsonl"), help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--only-print", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    lines = given.log.read_text(encoding="utf-8").splitlines() if given.log.exists() else []
    runs = [run for run in map(json.loads, lines) if run["steps"] == given.steps]
    done = {tuple(run["case"]) for run in runs}
    for case in [] if given.only_print else [case for case in cases() if case not in done]:
        runs.append(trained(case, given.steps))
        given.log.parent.mkdir(parents=True, exist_ok=True)
        with given.log.open("a", encoding="utf-8") as log:
            log.write(json.dumps(runs[-1]) + "\n")
    print("\n".join(table(runs)))


if __name__ == "__main__":
    main()
