"""A published model opened by transformers, watched while it runs, and run with other coefficients."""

from __future__ import annotations

import contextlib
import importlib
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mhc_exp.topology.diagnosis import Diagnosis
from mhc_exp.topology.interventions import Intervention
from mhc_exp.torch.diagnosis import gram
from mhc_exp.torch.interventions import apply
from mhc_exp.torch.published.modules import Kind, UnknownCode, is_readout, kind, observed
from mhc_exp.torch.wiring import Coefficients

TRUSTED = {"local_files_only": True, "trust_remote_code": False}
TOKENIZERS = ("tokenizer*.json", "*.model", "vocab.*")
Watcher = Callable[[int, Coefficients, Tensor], Coefficients | None]
"""(index of the connection, its coefficients, the streams before it) -> other coefficients, or None to leave them."""


class CannotOpen(Exception):
    """The checkpoint cannot be used; the text says why and what to type."""


class PublishedModel:
    """A causal language model with K connections. Nothing in it is changed but while a method runs."""

    def __init__(self, directory: Path, device: str):
        self.network = _loaded(directory).to(device).eval().requires_grad_(False)
        self.device = device
        modules = [(name, module) for name, module in self.network.named_modules()]
        self.connections = [(name, module) for name, module in modules if kind(module) is not None]
        if not self.connections:
            raise CannotOpen(
                f"{type(self.network).__name__} has no connections that are known here; known are those of "
                "DeepSeek-V4, GLM-5 Next, HY-V4 and Qwen4-Exp in transformers"
            )
        self.readout = next((module for _, module in modules if is_readout(module)), None)
        if self.readout is None:
            raise CannotOpen(f"{type(self.network).__name__} has connections, but no known read-out of the streams")

    @property
    def wrapped(self) -> list[str]:
        """`attention 0`, `mlp 0`, ... in order of depth."""
        return [_wrapped(name) for name, _ in self.connections]

    @property
    def mixes(self) -> bool:
        """Whether any connection has an H_res."""
        return any(_kind(module).mixes for _, module in self.connections)

    @property
    def vocabulary(self) -> int:
        return self.network.get_input_embeddings().num_embeddings

    @property
    def dtype(self) -> str:
        return str(self.network.dtype).removeprefix("torch.")

    @torch.no_grad()
    def diagnose(self, tokens: np.ndarray) -> Diagnosis:
        """Coefficients and streams on tokens [B, T]; no gradients. Raises CannotOpen."""
        seen: list[Coefficients] = []
        before: list[Tensor] = []

        def watch(index: int, coefficients: Coefficients, streams: Tensor) -> None:
            seen.append(coefficients)
            before.append(gram(streams).cpu())

        def finish(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            first = _kind(self.connections[0][1])
            before.append(gram(first.streams(self.connections[0][1], arguments[0])).cpu())

        assert self.readout is not None
        with self._watched(watch), _hook(self.readout.register_forward_pre_hook(finish)):
            self._logits(tokens)
        if len(before) != len(seen) + 1:
            raise CannotOpen(f"{len(seen)} connections ran and {len(before)} states of streams were seen")
        streams = seen[0].read.shape[0]
        eye = torch.eye(streams).unsqueeze(2)
        scales = {
            part: np.array([float(module.get_parameter("scale")[i]) for _, module in self.connections])
            for i, part in enumerate(("read", "write", "mix"))
            if all("scale" in dict(module.named_parameters()) for _, module in self.connections)
            and (i < 2 or self.mixes)
        }
        return Diagnosis(
            mix=np.stack([_host((eye if one.mix is None else one.mix).permute(2, 0, 1)) for one in seen]),
            read=np.stack([_host(one.read.t()) for one in seen]),
            write=np.stack([_host(one.write.t()) for one in seen]),
            gram=np.stack([_host(products) for products in before[1:]]),
            scales=scales,
        )

    @torch.no_grad()
    def losses(self, tokens: np.ndarray, change: Intervention | None) -> np.ndarray:
        """Mean nats per token of each sequence [B], with `change` made to every connection of its window."""
        window = change.window.indices(len(self.connections)) if change is not None else range(0)

        def watch(index: int, coefficients: Coefficients, streams: Tensor) -> Coefficients | None:
            return apply(change, coefficients) if change is not None and index in window else None

        with self._watched(watch) if change is not None else contextlib.nullcontext():
            return np.array([self._loss(one[None]) for one in tokens])

    def _loss(self, tokens: np.ndarray) -> float:
        logits = self._logits(tokens)[0, :-1].float()
        return float(functional.cross_entropy(logits, torch.from_numpy(tokens[0, 1:]).to(self.device)))

    def _logits(self, tokens: np.ndarray) -> Tensor:
        return self.network(input_ids=torch.from_numpy(tokens).to(self.device), use_cache=False).logits

    @contextlib.contextmanager
    def _watched(self, watch: Watcher) -> Iterator[None]:
        """Every connection shows its coefficients to `watch`, which may replace them. Raises CannotOpen."""

        def hook(index: int, of: Kind) -> Callable[[nn.Module, Any, Any], Any]:
            def called(module: nn.Module, arguments: Any, returned: Any) -> Any:
                coefficients, streams = observed(module, of, arguments[0], returned)
                new = watch(index, coefficients, streams)
                return None if new is None else of.changed(returned, new, streams)

            return called

        with contextlib.ExitStack() as stack:
            for index, (_, module) in enumerate(self.connections):
                stack.enter_context(_hook(module.register_forward_hook(hook(index, _kind(module)))))
            try:
                yield
            except UnknownCode as error:
                raise CannotOpen(str(error)) from error


def encode(directory: Path, text: str, as_bytes: bool) -> np.ndarray:
    """Tokens [N] of `text` by the checkpoint's own tokenizer, or its bytes. Raises CannotOpen."""
    if as_bytes:
        return np.frombuffer(text.encode(), np.uint8).astype(np.int64)
    transformers = importlib.import_module("transformers")
    if not any(list(directory.glob(pattern)) for pattern in TOKENIZERS):
        raise CannotOpen(f"{directory} has no tokenizer; type --bytes if the model's tokens are bytes")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory, **TRUSTED)
    except (OSError, ValueError, TypeError, KeyError, ImportError, AttributeError) as error:
        first = str(error).strip().partition("\n")[0]
        raise CannotOpen(f"{directory} has no tokenizer that can be used: {first}") from error
    return np.asarray(tokenizer(text, add_special_tokens=False)["input_ids"], np.int64)


def _loaded(directory: Path) -> Any:
    """From safetensors only, without code of its own, without network. A model that also sees is given text alone."""
    try:
        transformers = importlib.import_module("transformers")
    except ImportError as error:
        raise CannotOpen(
            "to run the model needs the package transformers; type: pip install transformers, "
            "or leave --text out to see what the weights alone say"
        ) from error
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = transformers.AutoConfig.from_pretrained(directory, **TRUSTED)
            text_only = type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING
            automatic = transformers.AutoModelForCausalLM if text_only else transformers.AutoModelForImageTextToText
            return automatic.from_pretrained(directory, **TRUSTED, use_safetensors=True, dtype="auto")
    except Exception as error:
        first = str(error).strip().partition("\n")[0]
        raise CannotOpen(f"transformers {transformers.__version__} cannot open {directory}: {first}") from error


def _kind(module: nn.Module) -> Kind:
    found = kind(module)
    assert found is not None
    return found


@contextlib.contextmanager
def _hook(handle: Any) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()


def _wrapped(name: str) -> str:
    """`model.layers.3.attn_hc` -> `attention 3`."""
    layer = re.findall(r"\.(\d+)\.", f".{name}.")
    part = "attention" if "attn" in name.rsplit(".", 1)[-1] else "mlp"
    return f"{part} {layer[-1]}" if layer else name


def _host(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().float().numpy()
