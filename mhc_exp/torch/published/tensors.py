"""The connections of a checkpoint without its model: their tensors alone, memory-mapped out of safetensors files."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
NAMES = re.compile(r"(?:^|\.)layers\.(\d+)\.(?:(attn|ffn)_hc\.|hc_(attn|ffn)_(?:layer\.hc_)?)(fn|base|scale)$")
"""As transformers names them, and as DeepSeek and Tencent publish them."""
PARTS = {"attn": "attention", "ffn": "mlp"}
OURS = {"fn": "weight", "base": "bias", "scale": "scale"}

Connections = Mapping[str, Mapping[str, np.ndarray]]
"""`attention 0`, `mlp 0`, ... in order of depth -> weight [S^2 + 2S, S C], bias [S^2 + 2S], scale [3], float32."""


def read(directory: Path) -> Connections:
    """Raises ValueError, which says what is wrong with the checkpoint."""
    found: dict[tuple[int, str], dict[str, np.ndarray]] = {}
    for file, names in _files(directory).items():
        try:
            with safe_open(directory / file, framework="pt") as tensors:
                for name in names or tensors.keys():
                    if match := NAMES.search(name):
                        layer, one, other, part = match.groups()
                        value = tensors.get_tensor(name).float().numpy()
                        found.setdefault((int(layer), one or other), {})[OURS[part]] = value
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{directory / file} cannot be read: {error}") from error
    order = sorted(found, key=lambda key: (key[0], [*PARTS].index(key[1])))
    for layer, part in order:
        missing = OURS.values() - found[layer, part].keys()
        if missing:
            raise ValueError(f"the {PARTS[part]} connection of layer {layer} has no {', '.join(sorted(missing))}")
    return {f"{PARTS[part]} {layer}": found[layer, part] for layer, part in order}


def _files(directory: Path) -> dict[str, list[str]]:
    """The files to open, each with the tensors wanted of it; none named: all that fit."""
    if not (directory / INDEX).exists():
        return {SINGLE: []}
    try:
        places = json.loads((directory / INDEX).read_text(encoding="utf-8"))["weight_map"]
        wanted = [(str(file), str(name)) for name, file in places.items() if NAMES.search(name)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{directory / INDEX} is no index of safetensors files: {error!r}") from error
    files: dict[str, list[str]] = {}
    for file, name in wanted:
        if Path(file).name != file:
            raise ValueError(f"{directory / INDEX} names a file outside its directory: {file}")
        files.setdefault(file, []).append(name)
    return files
