"""Rows 2 and 4: a whole run whose n-th call to the disk is its last, or fails, for every n."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from harness import Answer, ForkServer, configured, litter, rows, weights

from mhc_exp.config.schema import Config

WORDS = ("training.steps=6", "training.checkpoint_every=2", "training.log_every=1", "training.eval_every=3")
ERRORS = ("ENOSPC", "EIO", "EROFS", "EDQUOT")
Strike = list[int | str | bool]


class Struck:
    """An undisturbed run, and runs that are struck at one call and then started again."""

    def __init__(self, server: ForkServer, root: Path, extra: dict[str, list] | None = None) -> None:
        self.server, self.root, self.extra = server, root, extra or {}
        self.straight = configured(root / "straight", *WORDS)
        answer = server.run(self.straight, faults={"strike": [0, "die"], **self.extra})
        assert answer.code == 0
        (self.calls,), self.trained = answer.numbers("calls"), answer.numbers("trained")[0]
        self.opened = answer.numbers("opened")[0]
        """Calls of a whole run, until its last checkpoint, and until it begins to train."""
        assert self.calls > self.trained > self.opened > 20

    def at(self, n: int, *strike: str | bool) -> tuple[Config, Answer]:
        config = configured(Path(tempfile.mkdtemp(dir=self.root)), *WORDS)
        return config, self.server.run(config, faults={"strike": [n, *strike], **self.extra})

    def goes_on(self, config: Config, saved: int) -> list[str]:
        """What is wrong with a run that is started again, without faults, after `saved` was acknowledged."""
        again = self.server.run(config)
        if again.code != 0:
            return [f"exit code {again.code}: {again.said}"]
        wrong = [f"resumed at {step}, not {saved}" for step in again.numbers("resumed") if step < saved]
        complete = again.text("ended")[0].startswith("skipped")  # it died after the result was written
        return wrong + [text for text in self.unlike(config) if not (complete and text.startswith(".tmp-status"))]

    def unlike(self, config: Config) -> list[str]:
        wrong = ["other rows"] * (rows(config) != rows(self.straight))
        wrong += ["other weights"] * (weights(config) != weights(self.straight))
        return wrong + litter(config)


def deaths(struck: Struck, numbers: Iterable[int]) -> list[str]:
    broken = []
    for n in numbers:
        config, answer = struck.at(n, "die")
        assert answer.code == 137, answer
        wrong = struck.goes_on(config, max([0, *answer.numbers("saved")]))
        broken += [f"call {n}: {text}" for text in wrong]
    return broken


def errors(struck: Struck, numbers: Iterable[int], persistent: bool) -> list[str]:
    broken = []
    for n in numbers:
        config, answer = struck.at(n, "fail", ERRORS[n % 4], persistent)
        wrong = answer.text("raised")
        if answer.code == 0:
            wrong += struck.unlike(config)
        elif struck.opened < n and not persistent:
            wrong.append(f"a passing error ended training: {answer.said[-1]}")
        wrong += struck.goes_on(config, max([0, *answer.numbers("saved")]))
        broken += [f"call {n}: {text}" for text in wrong]
    return broken


@pytest.fixture(scope="module")
def struck(numpy_runs: ForkServer, memory: Path) -> Struck:
    return Struck(numpy_runs, memory)


@pytest.mark.fault(row=2)
def test_a_run_that_dies_at_any_of_12_calls_goes_on(struck: Struck, trials: Callable[[int], None]) -> None:
    numbers = range(1, struck.calls + 1, struck.calls // 11)
    trials(len(numbers))
    assert deaths(struck, numbers) == []


@pytest.mark.slow
@pytest.mark.fault(row=2)
@pytest.mark.timeout(600)
def test_a_run_that_dies_at_any_call_goes_on(struck: Struck, trials: Callable[[int], None]) -> None:
    trials(struck.calls)
    assert deaths(struck, range(1, struck.calls + 1)) == []


@pytest.mark.fault(row=4)
@pytest.mark.parametrize("persistent", [False, True], ids=["transient", "persistent"])
def test_a_run_goes_on_if_any_of_8_calls_fails(struck: Struck, trials: Callable[[int], None], persistent: bool) -> None:
    numbers = range(5, struck.calls + 1, struck.calls // 7)
    trials(len(numbers))
    assert errors(struck, numbers, persistent) == []


@pytest.mark.slow
@pytest.mark.fault(row=4)
@pytest.mark.timeout(600)
@pytest.mark.parametrize("persistent", [False, True], ids=["transient", "persistent"])
def test_a_run_goes_on_if_any_call_fails(struck: Struck, trials: Callable[[int], None], persistent: bool) -> None:
    trials(struck.calls)
    assert errors(struck, range(1, struck.calls + 1), persistent) == []


@pytest.mark.fault(row=2, mutation=True)
def test_dying_while_writing_in_place_would_be_noticed(numpy_runs: ForkServer, quick_disk: Path) -> None:
    unsafe = Struck(numpy_runs, quick_disk, {"in_place": [], "trusting": []})
    assert deaths(unsafe, range(unsafe.opened + 20, unsafe.trained, 9))


@pytest.mark.fault(row=4, mutation=True)
def test_dropping_rows_that_the_disk_refused_would_be_noticed(numpy_runs: ForkServer, quick_disk: Path) -> None:
    unsafe = Struck(numpy_runs, quick_disk, {"forgetful_ring": []})
    assert errors(unsafe, range(unsafe.opened + 1, unsafe.opened + 14, 2), persistent=False)
