"""Mutated inputs for every reader of files: `make fuzz`, or python tests/fault/fuzz.py --seconds 60 [--target metrics].

With atheris (libFuzzer for Python) the mutations follow the branches that they reach; without it, they are drawn from a
seeded generator over a corpus that grows by what was refused for a new reason. An input that breaks a promise is kept.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

try:
    import atheris
except ImportError:
    atheris = None
if atheris is not None and "--guided" in sys.argv:
    with atheris.instrument_imports(include=["mhc_exp"]):
        import fuzz_targets
else:
    import fuzz_targets

TARGETS, DICTIONARY, corpus = fuzz_targets.TARGETS, fuzz_targets.DICTIONARY, fuzz_targets.corpus


def mutated(data: bytes, others: list[bytes], draw: random.Random) -> bytes:
    """`data` after 1 to 4 changes: bits, cuts, copies, words of the dictionary, the end of another input."""
    for _ in range(draw.randint(1, 4)):
        at, end = sorted(draw.randrange(len(data) + 1) for _ in range(2))
        match draw.randrange(8):
            case 0 if data:
                at = draw.randrange(len(data))
                data = data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]
            case 1:
                data = data[:at] + data[end:]
            case 2:
                data = data[:end] + data[at:end] + data[end:]
            case 3:
                data = data[:at] + draw.choice(DICTIONARY) + data[at:]
            case 4:
                data = data[:at] + draw.choice(DICTIONARY) + data[end:]
            case 5:
                data = data[:at] + draw.randbytes(draw.randint(1, 8)) + data[end:]
            case 6:
                other = draw.choice(others)
                data = data[:at] + other[draw.randrange(len(other) + 1) :]
            case _:
                data = data[:at]
    return data


def campaign(target: Callable[[bytes], None], inputs: list[bytes], *, seed: int, enough: Callable[[int], bool]) -> int:
    """Mutations until `enough(count)`; their number. Raises Broken with the first input that breaks a promise."""
    draw, pool, count = random.Random(seed), list(inputs), 0
    while not enough(count):
        data = mutated(draw.choice(pool), pool, draw)
        count += 1
        try:
            target(data)
        except Exception as error:
            raise Broken(data) from error
        if draw.random() < 0.01 and len(data) < 20_000:
            pool = [*pool[-500:], data]
    return count


class Broken(Exception):
    """An input that breaks a promise of a reader; the cause says which."""

    @property
    def data(self) -> bytes:
        return self.args[0]


def guided(name: str, seconds: float, findings: Path) -> None:
    """Never returns: libFuzzer ends the process."""
    place = findings / f"corpus-{name}"
    place.mkdir(parents=True, exist_ok=True)
    for data in corpus()[name]:
        (place / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)

    def one(data: bytes) -> None:
        try:
            TARGETS[name](data)
        except Exception:
            keep(name, data, findings)
            raise

    options = [f"-max_total_time={seconds:.0f}", "-max_len=20000", "-print_final_stats=1", "-verbosity=0"]
    atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={findings}/", str(place)], one)
    atheris.Fuzz()


def keep(name: str, data: bytes, findings: Path) -> Path:
    """Write down an input that broke something."""
    findings.mkdir(parents=True, exist_ok=True)
    file = findings / f"{name}-{hashlib.sha256(data).hexdigest()[:12]}"
    file.write_bytes(data)
    return file


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0, help="for all targets together")
    parser.add_argument("--target", choices=TARGETS, action="append")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"))
    parser.add_argument("--guided", action="store_true", help="one target in this process, by atheris")
    given = parser.parse_args()
    names = given.target or list(TARGETS)
    share = given.seconds / len(names)
    if given.guided:
        guided(names[0], share, given.findings)
    broken = 0
    for name in names:
        if atheris is not None:
            command = [sys.executable, __file__, "--guided", "--target", name, "--seconds", str(share)]
            done = subprocess.run([*command, "--findings", str(given.findings)], capture_output=True, text=True)
            stats = [line for line in done.stderr.splitlines() if "number_of_executed_units" in line]
            print(
                f"{name}: {'broken' if done.returncode else 'held'} {' '.join(stats)} (guided by coverage)", flush=True
            )
            if done.returncode:
                print(done.stderr[-3000:])
            broken += done.returncode != 0
            continue
        until = time.monotonic() + share
        try:
            count = campaign(
                TARGETS[name], corpus()[name], seed=given.seed, enough=lambda _, until=until: time.monotonic() > until
            )
            print(f"{name}: held for {count} mutations (seed {given.seed})", flush=True)
        except Broken as found:
            traceback.print_exception(found.__cause__)
            print(f"{name}: broken by {keep(name, found.data, given.findings)}", flush=True)
            broken += 1
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
