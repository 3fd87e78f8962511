"""`mhc-exp inspect CHECKPOINT`: the connections of a model of transformers (DeepSeek-V4, GLM-5 Next, HY-V4, Qwen4-Exp).

Without a text the weights of the connections are read alone, whatever the size of the model: its coefficients for an
input of zero, which is what the biases say. With one the model runs on it.
"""

from __future__ import annotations

import importlib
import json
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mhc_exp.analysis.sources import NothingThere
from mhc_exp.config import named
from mhc_exp.config.machine import installed
from mhc_exp.inspection import changes, pictures, table
from mhc_exp.inspection.intervene import Outcome, outcomes_text
from mhc_exp.inspection.measured import Measured, collected
from mhc_exp.topology.diagnosis import Diagnosis
from mhc_exp.topology.interventions import Intervention, Window
from mhc_exp.topology.reference.streams import coefficients

if TYPE_CHECKING:
    from mhc_exp.torch.published.model import PublishedModel

STATIC = ("deepseek_v4", "glm5_next", "glm5_next_text")
"""model_type of the checkpoints whose biases say what H_res is."""
WINDOWS = 4
"""Windows over depth in which H_res is replaced by the identity."""


def is_checkpoint(word: str) -> bool:
    """Whether `word` is a directory as transformers saves one, and no run."""
    directory = Path(word).expanduser()
    return (directory / "config.json").is_file() and not (directory / "run.json").exists()


def inspect(given: Namespace) -> list[Path]:
    """Print what there is to say, and draw it; the pictures. Raises NothingThere."""
    directory = Path(given.run).expanduser()
    if given.checkpoint is not None:
        raise NothingThere("--checkpoint is for runs of mhc_exp; a checkpoint of transformers is its directory")
    if not installed("torch"):
        raise NothingThere("to read a checkpoint of transformers needs PyTorch; type: pip install 'mhc-exp[torch]'")
    out = given.out or Path(f"inspect-{directory.resolve().name}")
    return _run(directory, given, out) if given.text else _read(directory, out)


def _read(directory: Path, out: Path) -> list[Path]:
    """The weights alone."""
    config = _config(directory)
    kind = config.get("model_type")
    if kind not in STATIC:
        raise NothingThere(
            f"{directory} is of type {kind!r}, whose connections say nothing without an input; type --text FILE to "
            f"run it (the weights alone are read for {', '.join(STATIC)})"
        )
    tensors = importlib.import_module("mhc_exp.torch.published.tensors")
    try:
        connections = tensors.read(directory)
        if not connections:
            raise ValueError(f"no file of {directory} has connections such as layers.0.attn_hc.fn")
        found = _biases(config, connections)
    except ValueError as error:
        raise NothingThere(str(error)) from error
    title = f"{directory.resolve().name}, the biases alone (an input of zero)"
    measured = collected(found, title=title, device="no device", given="no tokens", wrapped=[*connections])
    print(table.text(measured), flush=True)
    return pictures.draw(measured, out, only=("mixing", "mixing_over_depth", "learning"))


def _biases(config: dict[str, Any], connections: Any) -> Diagnosis:
    """H_pre, H_post, H_res of streams that are zero. Raises ValueError."""
    first = next(iter(connections.values()))
    streams, eps = int(config["hc_mult"]), float(config["hc_eps"])
    keys = {"streams": streams, "mix.iterations": int(config["hc_sinkhorn_iters"]), "mix.eps": eps, "read.eps": eps}
    variant = named.streams("deepseek_v4", keys)
    rows, width = first["weight"].shape
    nothing = np.zeros((1, 1, streams, width // streams))
    parts = []
    for name, parameters in connections.items():
        if parameters["weight"].shape != (rows, width) or rows != streams * (streams + 2):
            raise ValueError(f"{name}: weight {parameters['weight'].shape} does not fit {streams} streams")
        parts.append([part[0] for part in coefficients(nothing, parameters, variant)])
    read, write, mix = (np.stack(one) for one in zip(*parts, strict=True))
    alphas = np.stack([parameters["scale"] for parameters in connections.values()])
    scales = {name: alphas[:, index] for index, name in enumerate(("read", "write", "mix"))}
    return Diagnosis(mix, read, write, np.full_like(mix, np.nan), scales=scales)


def _config(directory: Path) -> dict[str, Any]:
    """config.json, the part about text. Raises NothingThere."""
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        return {**config.get("text_config", {}), "model_type": config["model_type"]} | (
            {} if "text_config" in config else config
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise NothingThere(f"{directory / 'config.json'} is no configuration of transformers: {error!r}") from error


def _run(directory: Path, given: Namespace, out: Path) -> list[Path]:
    """The model on a text."""
    module = importlib.import_module("mhc_exp.torch.published.model")
    try:
        text = given.text.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise NothingThere(f"{given.text} cannot be read ({error.strerror}); type --text FILE") from error
    try:
        model: PublishedModel = module.PublishedModel(directory, given.device)
        tokens = _sequences(module.encode(directory, text, given.bytes), given, model.vocabulary)
        found = model.diagnose(tokens)
        measured = _measured(model, found, directory, tokens)
        print(table.text(measured), flush=True)
        print(f"\n{_costs(model, tokens)}", flush=True)
    except module.CannotOpen as error:
        raise NothingThere(str(error)) from error
    return pictures.draw(measured, out, only=None if model.mixes else ("streams", "streams_over_depth"))


def _measured(model: PublishedModel, found: Diagnosis, directory: Path, tokens: np.ndarray) -> Measured:
    if not all(np.isfinite(part).all() for part in (found.mix, found.read, found.write, found.gram)):
        raise NothingThere(f"the streams of {directory} are not finite on this text; are its weights complete?")
    title = f"{directory.resolve().name}, {type(model.network).__name__}"
    device = f"{model.device} in {model.dtype}"
    given = f"{tokens.size} tokens of the text"
    return collected(found, title=title, device=device, given=given, wrapped=model.wrapped)


def _sequences(tokens: np.ndarray, given: Namespace, vocabulary: int) -> np.ndarray:
    """[B, T] from the beginning of the text. Raises NothingThere."""
    count = min(given.sequences, len(tokens) // given.length)
    if count == 0:
        raise NothingThere(f"the text has {len(tokens)} tokens, one sequence needs {given.length}; type --length N")
    if tokens.max() >= vocabulary:
        raise NothingThere(
            f"the text has token {tokens.max()}, the model knows 0 to {vocabulary - 1}; "
            "leave --bytes out to use the checkpoint's own tokenizer"
        )
    return tokens[: count * given.length].reshape(count, given.length)


def _costs(model: PublishedModel, tokens: np.ndarray) -> str:
    """What replacing the mixing by the identity costs, everywhere and in windows over depth."""
    count = len(model.connections)
    wanted = [None, Intervention("identity", Window()), *changes.scan(count, WINDOWS)] if model.mixes else [None]
    sizes = np.full(len(tokens), tokens.shape[1] - 1)
    outcomes = [Outcome(change, model.losses(tokens, change), sizes) for change in wanted]
    words = outcomes_text(outcomes, "sequences of the text")
    return words if model.mixes else f"{words}\nH_res is the identity by construction"
