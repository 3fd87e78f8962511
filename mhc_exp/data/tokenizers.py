"""From text to tokens and back: raw bytes, or a byte-level BPE trained on the training part (extra `bpe`)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import islice
from typing import Any, Protocol

import numpy as np

from mhc_exp.data.refusal import refusal

_PIECE = 1 << 20
"""Longest piece of text handed to the BPE library at once, cut after a line break: bounds its memory."""
LEARNED_FROM = 16 << 20
"""Bytes of the training part that merges are learned from, from the start: 0.4 CPU seconds per MB."""


class Tokenizer(Protocol):
    """A reversible map from text to integers below `vocab_size`."""

    vocab_size: int

    def encode(self, text: bytes) -> np.ndarray:
        """Tokens of `text`, one unsigned integer each."""
        ...

    def decode(self, tokens: np.ndarray) -> str:
        """Text of `tokens`; bytes that are not UTF-8 become U+FFFD."""
        ...

    def identity(self) -> dict[str, Any]: ...

    def files(self) -> dict[str, str]:
        """What has to be kept beside a run to read its tokens again: file name -> content."""
        ...


class Bytes:
    """Every byte is a token."""

    vocab_size = 256

    def encode(self, text: bytes) -> np.ndarray:
        return np.frombuffer(text, np.uint8)

    def decode(self, tokens: np.ndarray) -> str:
        return np.asarray(tokens).astype(np.uint8).tobytes().decode("utf-8", "replace")

    def identity(self) -> dict[str, Any]:
        return {"tokenizer": "bytes", "vocab_size": 256}

    def files(self) -> dict[str, str]:
        return {}


class BytePairs:
    """Byte-level byte-pair encoding (GPT-2's pattern, no special tokens), learned from the first 16 MiB of `training`.

    The same text and size give the same merges; a text too small for `vocab_size` gives a smaller vocabulary.
    """

    def __init__(self, training: bytes, vocab_size: int):
        try:
            import tokenizers as library
        except ImportError as error:
            raise refusal(
                "dataset.tokenizer",
                "bpe needs the package tokenizers: pip install 'mhc-exp[bpe]', or type dataset.tokenizer=bytes",
            ) from error
        bpe = library.Tokenizer(library.models.BPE())
        bpe.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
        bpe.decoder = library.decoders.ByteLevel()
        trainer = library.trainers.BpeTrainer(
            vocab_size=vocab_size,
            show_progress=False,
            initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
        )
        bpe.train_from_iterator(_pieces(training[: _end_of_character(training, LEARNED_FROM)]), trainer)
        self._bpe = bpe
        self.vocab_size = bpe.get_vocab_size()
        self.json = bpe.to_str()

    def encode(self, text: bytes) -> np.ndarray:
        encoded = [np.empty(0, np.uint16)]
        pieces = _pieces(text)
        while group := list(islice(pieces, 16)):  # a batch uses every core and keeps no character offsets
            encoded += [np.array(piece.ids, np.uint16) for piece in self._bpe.encode_batch_fast(group)]
        return np.concatenate(encoded)

    def decode(self, tokens: np.ndarray) -> str:
        return self._bpe.decode(np.asarray(tokens).tolist(), skip_special_tokens=False)

    def identity(self) -> dict[str, Any]:
        digest = hashlib.sha256(self.json.encode()).hexdigest()
        return {"tokenizer": "byte-level bpe", "vocab_size": self.vocab_size, "tokenizer_sha256": digest}

    def files(self) -> dict[str, str]:
        return {"tokenizer.json": self.json}


def _pieces(text: bytes) -> Iterator[str]:
    start = 0
    while start < len(text):
        end = min(start + _PIECE, len(text))
        if end < len(text):
            line_break = text.rfind(b"\n", start, end)
            end = line_break + 1 if line_break >= 0 else _end_of_character(text, end)
        try:
            yield text[start:end].decode("utf-8")
        except UnicodeDecodeError as error:
            raise refusal(
                "dataset.tokenizer",
                f"bpe reads UTF-8, but byte {start + error.start:,} of the text is not; type dataset.tokenizer=bytes",
            ) from error
        start = end


def _end_of_character(text: bytes, at: int) -> int:
    """The last place up to `at` that is not inside a UTF-8 character (or `at`, if this is no UTF-8)."""
    if at >= len(text):
        return len(text)
    return next((at - back for back in range(4) if text[at - back] & 0xC0 != 0x80), at)
