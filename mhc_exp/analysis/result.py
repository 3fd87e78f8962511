"""What a person reads when a run ends: the numbers, what to compare them with, and where everything is."""

from __future__ import annotations

import os
import shlex
import statistics
from pathlib import Path
from typing import Any

from mhc_exp.analysis.facts import number
from mhc_exp.analysis.rows import Records
from mhc_exp.analysis.sources import Recorded, read_run

Facts = dict[str, Any]

LABEL_WIDTH = 14


def result_text(run_dir: str | Path) -> str:
    """The closing lines of a run, from its files alone (no pandas). What was not measured is left out."""
    return closing_text(read_run(Path(run_dir)))


def closing_text(run: Recorded) -> str:
    """The closing lines of a run that has been read from its directory; its state is what `sources` made of it."""
    facts, records, run_dir = run.facts, run.records, Path(run.directory)
    lines = [
        _headline(run_dir, records, facts),
        *_loss(records, facts),
        *_work(records, facts),
        *_parameters(facts),
        *_gains(records),
        *_nonfinite(records),
        *_places(run_dir, facts),
        *_sample(run_dir),
    ]
    return "\n".join(lines)


def _line(label: str, text: str) -> str:
    return f"  {label:<{LABEL_WIDTH}}{text}"


def _headline(run_dir: Path, records: Records, facts: Facts) -> str:
    total = number(facts, "total_steps")
    step = number(facts, "step") or 0
    of_total = f" of {total:,.0f}" if total is not None else ""
    reason = f": {facts['reason']}" if facts.get("reason") else ""
    sentences = {
        "done": f"done, {step:,.0f} steps",
        "diverged": f"diverged at step {step:,.0f}{of_total} (not finite){_kept(run_dir)}",
        "interrupted": f"interrupted and saved at step {step:,.0f}{of_total}; the same command goes on from there",
        "killed": f"killed at step {step:,.0f}{of_total}{reason}; the same command resumes it",
        "running": f"running, step {step:,.0f}{of_total}",
        "failed": f"failed at step {step:,.0f}{of_total}{reason}",
    }
    state = str(facts.get("state", "unknown"))
    return f"{run_dir.resolve().name}: {sentences.get(state, state)}"


def _kept(run_dir: Path) -> str:
    names = sorted(path.name for path in (run_dir / "checkpoints").glob("step_*"))
    return f"; the weights before it are in checkpoints/{names[-1]}" if names else ""


def _loss(records: Records, facts: Facts) -> list[str]:
    lines = []
    loss, chance = records.last("val/loss"), number(facts, "chance")
    train = records.last("train/loss")
    if loss is not None:
        beside = [f"uniform guess {chance:.4f}"] if chance is not None else []
        beside += [f"last training batch {train:.4f}"] if train is not None else []
        measured_at = records.series("val/loss")[0][-1]
        beside += [f"measured at step {measured_at:,}"] if measured_at != records.rows[-1]["step"] else []
        suffix = f" ({', '.join(beside)})" if beside else ""
        lines.append(_line("loss", f"{loss:.4f} nats per token on held-out data{suffix}"))
    elif train is not None:
        lines.append(_line("loss", f"{train:.4f} nats per token on the last training batch; no held-out measurement"))
    excess, floor = records.last("val/excess"), number(facts, "floor")
    if excess is not None:
        known = f" {floor:.4f}" if floor is not None else ""
        lines.append(_line("excess", f"{excess:.4f} nats above the known floor{known}"))
    accuracy = records.last("val/accuracy")
    if accuracy is not None:
        lines.append(_line("accuracy", f"{accuracy:.1%} of held-out tokens"))
    bits, yardsticks = records.last("val/bits_per_byte"), facts.get("yardsticks") or {}
    if bits is not None:
        measured = {name: number(yardsticks, name) for name in yardsticks}
        others = [f"{name} {value:.3f}" for name, value in measured.items() if value is not None]
        beside = f"; the whole held-out text: {', '.join(others)}" if others else ""
        lines.append(_line("bits per byte", f"{bits:.3f}{beside}"))
    return lines


def _work(records: Records, facts: Facts) -> list[str]:
    tokens, seconds = records.last("tokens"), records.last("seconds")
    if not tokens or seconds is None:
        return []
    text = f"{tokens:,.0f} tokens in {_duration(seconds)}"
    speeds = records.series("perf/tokens_per_second")[1]
    if speeds:
        step_seconds = statistics.median(records.series("perf/step_seconds")[1])
        text += f", {statistics.median(speeds):,.0f} tokens/s, {step_seconds:.3g} s a step (medians)"
    utilisation = records.series("perf/mfu")[1]
    if utilisation:
        text += f", {statistics.median(utilisation):.1%} of peak FLOP/s"
    lines = [_line("work", text)]
    started = number(facts, "seconds_to_first_step")
    if started is not None:
        lines.append(_line("start", f"the first step was complete {started:.1f} s after the process began"))
    memory, device = records.last("perf/peak_memory_bytes"), facts.get("device")
    if device:
        lines.append(_line("device", f"{device}" + (f", peak {memory / 2**20:,.0f} MiB" if memory else "")))
    if kernels := facts.get("kernels"):
        lines.append(_line("kernels", kernels))
    if (recompute := facts.get("recompute")) and str(recompute).startswith(("blocks", "connections")):
        lines.append(_line("recompute", recompute))
    return lines


def _parameters(facts: Facts) -> list[str]:
    body, connections = number(facts, "body_parameters"), number(facts, "connection_parameters")
    if body is None:
        return []
    extra = f" + {connections:,.0f} in the connections" if connections else ""
    return [_line("parameters", f"{body:,.0f} in the body{extra}")]


def _gains(records: Records) -> list[str]:
    measured = [row for row in records.rows if "gain/forward_amax_max" in row]
    ends = [("gains, start", measured[0]), ("gains, end", measured[-1])][: len(measured)] if measured else []
    return [_line(label, _gain_words(row)) for label, row in ends]


def _gain_words(row: dict[str, Any]) -> str:
    words = []
    if "gain/backward_amax_max" in row:
        forward, backward = row["gain/forward_amax_max"], row["gain/backward_amax_max"]
        words.append(f"all mixing together amplifies at most {forward:.4g} x forward, {backward:.4g} x backward")
    if "gain/min_column_sum" in row:
        words.append(f"weakest stream passes on {row['gain/min_column_sum']:.4g}")
    if "streams/cosine" in row:
        words.append(f"cosine between streams {row['streams/cosine']:.4f}")
    return "; ".join(words)


def _nonfinite(records: Records) -> list[str]:
    total = records.last("train/nonfinite_total")
    if total is None:
        return []
    first = next((row["step"] for row in records.rows if row.get("train/nonfinite_total", 0) > 0), None)
    steps = "1 step" if total == 1 else f"{total:,.0f} steps"
    text = "none" if first is None else f"{steps}, first seen at step {first:,}"
    return [_line("non-finite", text)]


def _places(run_dir: Path, facts: Facts) -> list[str]:
    lines = [_line("run", f"{_short(run_dir)}  (rows in metrics.jsonl)")]
    pictures = sorted(file.name for file in (run_dir / "plots").glob("*.png"))
    if pictures:
        lines.append(_line("plots", f"{_short(run_dir / 'plots')}: {', '.join(pictures)}"))
    command = facts.get("command")
    if isinstance(command, list) and command:
        lines.append(_line("again", shlex.join(map(str, command))))
    return lines


def _sample(run_dir: Path) -> list[str]:
    try:
        text = (run_dir / "sample.txt").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return ["", *(f"  | {line}" for line in printable(text.replace("\t", " ")).splitlines())]


def printable(text: str, kept: str = "\n") -> str:
    """A model, a file or a name may hold control characters, which a terminal must not obey; those `kept` stay."""
    return "".join(c if c.isprintable() or c in kept else "\N{REPLACEMENT CHARACTER}" for c in text)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _short(path: Path) -> str:
    """`path` relative to the working directory if it lies below it."""
    path = path.resolve()
    return os.path.relpath(path) if path.is_relative_to(Path.cwd().resolve()) else str(path)
