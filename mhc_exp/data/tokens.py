"""`dataset=tokens`: memory-mapped token files, read without copying and never trusted.

Two layouts (little-endian): llm.c / modded-nanogpt, a header of 256 int32 (magic, version, token count) and then the
tokens, uint16 for magic 20240520 and uint32 for 20240801; and nanoGPT's headerless uint16. A headerless file cannot
start with a magic by chance: its first token would be 55432 or 55713, beyond GPT-2's 50257 symbols.
"""

from __future__ import annotations

import glob
import hashlib
import math
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from mhc_exp.config import schema
from mhc_exp.data.refusal import refusal
from mhc_exp.data.task import Batch
from mhc_exp.data.windows import WindowedBatches, Windows, require_windows

TRAINING, HELD_OUT = "dataset.train", "dataset.validation"
HEADER = 1024
LAYOUTS = {20240520: ("<u2", (1,)), 20240801: ("<u4", (1, 7))}
"""Magic -> token type and known versions."""
_FOREIGN = {
    b"\x93NUMPY": "a numpy array",
    b"MMIDIDX": "a Megatron index",
    b"PAR1": "a Parquet file",
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "a gzip file",
    b"\x28\xb5\x2f\xfd": "a zstd file",
}
_FULLY_READ = 1 << 28
"""Bytes (256 MiB, 0.2 s) up to which all tokens are checked and hashed at the start; more are sampled."""
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Shard:
    """One checked token file."""

    path: str
    layout: str
    tokens: np.ndarray


def open_shard(path: str, key: str) -> Shard:
    """Map the file at `path`. Raises ConfigError if its size, magic, version or length does not add up."""
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe would block for ever
        raise refusal(key, f"{path} is not a file")
    try:
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            start = file.read(HEADER)
    except OSError as error:
        raise refusal(key, f"cannot read {path}: {error.strerror or error}") from error
    for magic_bytes, what in _FOREIGN.items():
        if start.startswith(magic_bytes):
            raise refusal(key, f"{path} is {what}; allowed are llm.c token files and headerless uint16 files")
    magic, version, count = (int(word) for word in np.frombuffer(start[:12].ljust(12, b"\0"), "<i4"))
    if magic in LAYOUTS:
        dtype, versions = LAYOUTS[magic]
        itemsize = np.dtype(dtype).itemsize
        if version not in versions:
            allowed = " or ".join(map(str, versions))
            raise refusal(key, f"{path} has version {version} in its header; allowed for magic {magic}: {allowed}")
        if size != HEADER + count * itemsize:
            raise refusal(
                key,
                f"{path} is {size:,} bytes, but its header says {count:,} tokens of {itemsize} bytes after "
                f"{HEADER} bytes of header ({HEADER + count * itemsize:,}); the file is cut short or damaged",
            )
        layout, offset = f"llm.c {magic} version {version}", HEADER
    elif size >= HEADER and (20240000 <= magic <= 20991231 or size in (HEADER + 2 * count, HEADER + 4 * count)):
        allowed = " or ".join(map(str, LAYOUTS))
        raise refusal(key, f"{path} has a header with magic {magic}; allowed: {allowed}, or no header (uint16)")
    elif size % 2:
        raise refusal(key, f"{path} has {size:,} bytes, an odd number: not headerless uint16 tokens")
    else:
        dtype, itemsize, offset, count, layout = "<u2", 2, 0, size // 2, "headerless uint16"
    if count == 0:
        raise refusal(key, f"{path} holds no tokens")
    return Shard(path, layout, np.memmap(path, dtype, "r", offset, (count,)))


class TokenTask(WindowedBatches):
    """Next-token prediction on shards; windows do not cross from one shard into the next."""

    name = "tokens"
    floor: float | None = None

    def __init__(self, shards: dict[str, list[Shard]], config: schema.Config):
        dataset = config.dataset
        assert isinstance(dataset, schema.Tokens)
        self.vocab_size = dataset.vocab_size
        self.chance = math.log(dataset.vocab_size)
        self.bytes_per_token = dataset.bytes_per_token
        self._shards = shards
        windows = {
            key: Windows([shard.tokens for shard in shards[key]], config.model.seq_len) for key in (TRAINING, HELD_OUT)
        }
        for key, part in ((TRAINING, "training"), (HELD_OUT, "held-out")):
            require_windows(windows[key], part, key, "give more tokens")
            self._check_range(key)
        super().__init__(windows[TRAINING], windows[HELD_OUT], config.seed)

    def batch(self, step: int, batch_size: int, rank: int = 0, world: int = 1) -> Batch:
        batch = super().batch(step, batch_size, rank, world)
        return self._in_range(batch, TRAINING)

    def validation(self, count: int, batch_size: int) -> list[Batch]:
        return [self._in_range(batch, HELD_OUT) for batch in super().validation(count, batch_size)]

    def identity(self) -> dict[str, Any]:
        """File names, layouts, token counts and a hash of the content (of 256 evenly spread MiB if it is larger)."""
        record: dict[str, Any] = {"name": self.name, "vocab_size": self.vocab_size, "tokenizer": "unknown"}
        for key, part in ((TRAINING, "training"), (HELD_OUT, "held_out")):
            shards, digest, sampled = self._shards[key], hashlib.sha256(), self._is_sampled(key)
            for shard in shards:
                for chunk in _chunks(shard.tokens, sampled, len(shards)):
                    digest.update(chunk.tobytes())
            record |= {
                f"{part}_files": [os.path.basename(shard.path) for shard in shards],
                f"{part}_layouts": sorted({shard.layout for shard in shards}),
                f"{part}_tokens": sum(len(shard.tokens) for shard in shards),
                f"{part}_sha256{'_of_a_sample' if sampled else ''}": digest.hexdigest(),
            }
        return record | {"split": "separate files", "bytes_per_token": self.bytes_per_token}

    def decode(self, tokens: np.ndarray) -> str | None:
        return None

    def _is_sampled(self, key: str) -> bool:
        return sum(shard.tokens.nbytes for shard in self._shards[key]) > _FULLY_READ

    def _check_range(self, key: str) -> None:
        shards, sampled = self._shards[key], self._is_sampled(key)
        for shard in shards:
            for chunk in _chunks(shard.tokens, sampled, len(shards)):
                largest = int(chunk.max())
                if largest >= self.vocab_size:
                    raise refusal(key, self._beyond(largest, shard.path))

    def _in_range(self, batch: Batch, key: str) -> Batch:
        # uint32 tokens of 2^31 and more arrive here as negative int32
        worst = max(int(array.view(np.uint32).max()) for array in (batch.inputs, batch.targets))
        if worst >= self.vocab_size:
            raise ValueError(f"{key}: {self._beyond(worst, 'one of the shards')}")  # damage found on the way
        return batch

    def _beyond(self, token: int, where: str) -> str:
        return (
            f"{where} has token {token}, but dataset.vocab_size={self.vocab_size} allows 0 to {self.vocab_size - 1}; "
            "type the vocabulary of the tokenizer that wrote it, or the file is of another type"
        )


def _chunks(tokens: np.ndarray, sampled: bool, shards: int) -> list[np.ndarray]:
    """The tokens in pieces of 1 MiB: all of them, or evenly spread ones (256 over all shards, at least 2 each)."""
    size = _CHUNK // tokens.itemsize
    starts = list(range(0, len(tokens), size))
    if sampled:
        wanted = min(len(starts), max(2, 256 // shards))
        starts = [starts[i * (len(starts) - 1) // (wanted - 1)] for i in range(wanted)] if wanted > 1 else starts[:1]
    return [tokens[start : start + size] for start in starts]


def make(config: schema.Config) -> TokenTask:
    dataset = config.dataset
    assert isinstance(dataset, schema.Tokens)
    paths = {TRAINING: _matching(dataset.train, TRAINING), HELD_OUT: _matching(dataset.validation, HELD_OUT)}
    training, held_out = ({os.path.realpath(path) for path in part} for part in paths.values())
    if shared := sorted(training & held_out):
        raise refusal(HELD_OUT, f"{shared[0]} is also a training file; held-out text must be another file")
    shards = {key: [open_shard(path, key) for path in part] for key, part in paths.items()}
    return TokenTask(shards, config)


def _matching(pattern: str, key: str) -> list[str]:
    pattern = os.path.expanduser(pattern)
    if not pattern.strip():
        raise refusal(key, f"is empty; type {key}=FILE.bin or a quoted pattern such as '{key}=data/train_*.bin'")
    if os.path.isdir(pattern):
        raise refusal(key, f"{pattern} is a directory; type {key}={pattern.rstrip('/')}/'*.bin'")
    if os.path.exists(pattern):
        return [pattern]
    found = sorted(path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path))
    if not found:
        raise refusal(key, f"no file matches {pattern} (seen from {os.getcwd()})")
    return found
