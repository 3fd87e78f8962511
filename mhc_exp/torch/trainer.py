"""PyTorch trainer (CPU and CUDA): forward, backward, AdamW, evaluation. Policy is in mhc_exp.training.loop.

Nothing here waits for the device except `fetch`, `evaluate`, `diagnose`, `generate` and `state`.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mhc_exp.allocator import keep_freed_memory
from mhc_exp.body.parameters import initial_parameters, is_connection
from mhc_exp.config.machine import memory_bytes
from mhc_exp.config.schema import Config
from mhc_exp.data.task import Batch
from mhc_exp.planning.recompute import decide
from mhc_exp.threads import thread_count, usable_cpus
from mhc_exp.topology import families
from mhc_exp.topology.diagnosis import Diagnosis, HistoryDiagnosis
from mhc_exp.torch.diagnosis import diagnose
from mhc_exp.torch.graphs import Inputs, StepGraph, inputs
from mhc_exp.torch.kernels.choice import choose, install
from mhc_exp.torch.model import Transformer
from mhc_exp.torch.recompute import Policy
from mhc_exp.torch.recompute import install as install_recompute
from mhc_exp.torch.wiring import Observer, SourceObserver
from mhc_exp.training.groups import groups
from mhc_exp.training.sampling import generate, step_seed
from mhc_exp.training.trainer import Evaluation, State, StepResult


class _Sent(NamedTuple):
    """Numbers of a step on their way to the host."""

    step: int
    numbers: Tensor
    """Loss, gradient norm, that of the mixing, 1 if the update was made; on the host once they have arrived."""
    arrived: torch.cuda.Event | None
    """None where they are there already."""


def _sent(step: int, numbers: Tensor) -> _Sent:
    if not numbers.is_cuda:
        return _Sent(step, numbers, None)
    host, arrived = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True), torch.cuda.Event()
    host.copy_(numbers, non_blocking=True)
    arrived.record()
    return _Sent(step, host, arrived)


def _cross_entropy(scores: Tensor, targets: Tensor, keep: Tensor | None = None) -> Tensor:
    """Of scores [B, T, V] and targets [N], all B T tokens or those at `keep` [N], at least in float32: [N]."""
    scores = scores.flatten(0, 1).to(torch.promote_types(scores.dtype, torch.float32))
    return functional.cross_entropy(scores if keep is None else scores[keep], targets, reduction="none")


class TorchTrainer:
    """One model with its AdamW state on one device; implements mhc_exp.training.trainer.Trainer."""

    def __init__(self, config: Config, vocab_size: int):
        self.config = config
        self.accelerator = torch.device("cuda" if config.backend.name == "cuda" else "cpu")
        self._set_device_options()
        self.model = Transformer(config, vocab_size).to(self.accelerator)
        choice = choose(config, self.accelerator)
        install(self.model.topology, choice.tier)
        self.kernels = choice.text
        recompute = decide(config, vocab_size, choice.tier.name == "native", self._memory())
        policy = None if recompute.length is None else Policy(recompute.length, recompute.connections)
        install_recompute(self.model.topology, policy)
        self.recompute = recompute.text
        self.parameters = dict(self.model.named_parameters())
        self._assign(self.parameters, initial_parameters(config, vocab_size))
        sizes = {name: parameter.numel() for name, parameter in self.parameters.items()}
        self.connection_parameters = sum(size for name, size in sizes.items() if is_connection(name))
        self.body_parameters = sum(sizes.values()) - self.connection_parameters

        self.groups = groups({name: tuple(p.shape) for name, p in self.parameters.items()}, config.optimizer)
        self.exp_avg = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        self.exp_avg_sq = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        self.updates = torch.zeros((), device=self.accelerator)
        """Number of applied updates: Adam's t."""
        self.stopped = torch.zeros((), device=self.accelerator)
        """1 once policy `stop` has seen something non-finite: every later update is suppressed."""
        self.asynchronous = self.accelerator.type != "cpu"
        self.pending: list[_Sent] = []
        self.graph: StepGraph | None = None
        self.mix_slices = families.mix_rows(config.variant, list(self.parameters))

    @property
    def device(self) -> str:
        if self.accelerator.type == "cuda":
            return torch.cuda.get_device_name(self.accelerator)
        return f"cpu ({torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()})"

    def _set_device_options(self) -> None:
        # Torch reads OMP_NUM_THREADS once per process; this job may not be the first one in it.
        threads = thread_count(self.config.backend.threads, self.config.model.width)
        torch.set_num_threads(threads or usable_cpus())
        if self.accelerator.type == "cpu":
            keep_freed_memory()
        else:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True, warn_only=True)
            torch.backends.cuda.matmul.allow_tf32 = self.config.backend.tf32
            torch.backends.cudnn.allow_tf32 = self.config.backend.tf32

    def _memory(self) -> int | None:
        """Bytes of the device."""
        if self.accelerator.type == "cuda":
            return torch.cuda.get_device_properties(self.accelerator).total_memory
        return memory_bytes()

    def _precision(self) -> contextlib.AbstractContextManager:
        if self.config.backend.dtype == "bfloat16":
            return torch.autocast(self.accelerator.type, dtype=torch.bfloat16)
        return contextlib.nullcontext()

    def _tensor(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        if self.accelerator.type == "cuda":
            return tensor.pin_memory().to(self.accelerator, non_blocking=True)
        return tensor

    def _assign(self, targets: Mapping[str, Tensor], arrays: Mapping[str, np.ndarray]) -> None:
        if missing := targets.keys() ^ arrays.keys():
            raise ValueError(f"model and arrays disagree on {sorted(missing)[:5]}")
        with torch.no_grad():
            for name, target in targets.items():
                target.copy_(torch.from_numpy(np.array(arrays[name])))

    # -- one update ------------------------------------------------------------------------------------------------

    def step(self, step: int, batch: Batch, lr: float) -> None:
        """Enqueue update number `step` (1-based) on `batch` with learning rate `lr`."""
        self.model.train()
        if self.config.model.dropout:
            torch.manual_seed(step_seed(self.config.seed, step))
        if self.config.backend.graphs:
            numbers = self._replayed(inputs(batch, self.config.training.accumulation, lr))
        else:
            numbers = self._update(*self._accumulate(batch), lr)
        self.pending.append(_sent(step, numbers))

    def _replayed(self, given: Inputs) -> Tensor:
        """A step of the graph that the first step recorded."""
        if self.graph is None:
            moments = (*self.exp_avg.values(), *self.exp_avg_sq.values())
            state = [*self.parameters.values(), *moments, self.updates, self.stopped]
            self.graph = StepGraph(self._whole_step, given, state)
        return self.graph(given)

    def _whole_step(self, given: Inputs) -> Tensor:
        """A step without a word from the host: the same as `step` for batches of one shape."""
        self._forget_gradients()
        loss = torch.zeros((), device=self.accelerator)
        for tokens, targets, weights in zip(given.tokens, given.targets, given.weights, strict=True):
            with self._precision():
                scores = self.model(tokens)
            share = (_cross_entropy(scores, targets.flatten()) * weights.flatten()).sum()
            share.backward()
            loss += share.detach()
        return self._update(loss, self._gradients(), given.lr)

    def _forget_gradients(self) -> None:
        for parameter in self.parameters.values():
            parameter.grad = None

    def _gradients(self) -> dict[str, Tensor]:
        found = {name: parameter.grad for name, parameter in self.parameters.items()}
        return {name: gradient for name, gradient in found.items() if gradient is not None}

    def _accumulate(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss over the supervised tokens of the whole batch, and its gradients."""
        self._forget_gradients()
        loss = torch.zeros((), device=self.accelerator)
        for part in batch.split(self.config.training.accumulation):
            loss += self._backward(part, int(batch.mask.sum()))
        return loss, self._gradients()

    def _backward(self, batch: Batch, supervised: int) -> Tensor:
        """Add this microbatch's gradients; returns its share of the mean loss over the whole batch."""
        loss = self._loss_share(batch, supervised)
        loss.backward()
        return loss.detach()

    def _loss_share(self, batch: Batch, supervised: int, observe: Observer | SourceObserver | None = None) -> Tensor:
        """This microbatch's share of the mean loss over the whole batch."""
        with self._precision():
            scores = self.model(self._tensor(batch.inputs.astype(np.int64)), observe)
        return self._losses(scores, batch).sum() / supervised

    def _losses(self, scores: Tensor, batch: Batch) -> Tensor:
        """Cross entropy [supervised tokens], at least in float32."""
        targets, keep = self._tensor(batch.targets.astype(np.int64)).flatten(), None
        if not batch.mask.all():
            keep = self._tensor(np.flatnonzero(batch.mask))
            targets = targets[keep]
        return _cross_entropy(scores, targets, keep)

    @torch.no_grad()
    def _update(self, loss: Tensor, gradients: dict[str, Tensor], lr: float | Tensor) -> Tensor:
        """Loss, gradient norm, that of the mixing, and 1 if the update was made."""
        norm = torch.nn.utils.get_total_norm(list(gradients.values()))
        mix = [gradients[name][rows] for name, rows in self.mix_slices if name in gradients]
        mix_norm = torch.nn.utils.get_total_norm(mix) if mix else torch.full_like(norm, -1.0)
        finite = torch.isfinite(loss) & torch.isfinite(norm)
        blocked = self._blocked(~finite)
        self._adamw(gradients, lr, norm, blocked)
        return torch.stack([loss, norm, mix_norm, 1 - blocked])

    def _blocked(self, bad: Tensor) -> Tensor:
        """1 if this update must not happen, decided on the device."""
        policy = self.config.training.nonfinite
        if policy == "continue":
            return torch.zeros_like(self.stopped)
        if policy == "stop":
            self.stopped.copy_(torch.maximum(self.stopped, bad.float()))
            return self.stopped.clone()
        return bad.float()

    def _adamw(self, gradients: dict[str, Tensor], lr: float | Tensor, norm: Tensor, blocked: Tensor) -> None:
        """p <- p (1 - lr wd); p <- p - lr m^ / (sqrt(v^) + eps); nothing changes where `blocked` is 1.

        torch's fused kernel is called directly: constructing torch.optim.AdamW imports half of PyTorch (0.9 s).
        """
        settings = self.config.optimizer
        divisor = None if settings.clip is None else torch.clamp(norm / settings.clip, min=1.0)
        self.updates += 1 - blocked
        for group in self.groups:
            names = [name for name in group.names if name in gradients]
            torch._fused_adamw_(  # pyright: ignore[reportPrivateImportUsage]
                [self.parameters[name] for name in names],
                [gradients[name] for name in names],
                [self.exp_avg[name] for name in names],
                [self.exp_avg_sq[name] for name in names],
                [],
                [self.updates] * len(names),
                lr=lr * group.lr_multiplier,
                beta1=settings.beta1,
                beta2=settings.beta2,
                weight_decay=group.weight_decay,
                eps=settings.eps,
                amsgrad=False,
                maximize=False,
                grad_scale=divisor,
                found_inf=blocked,
            )

    # -- what the host asks for ------------------------------------------------------------------------------------

    def fetch(self, until: int | None = None) -> list[StepResult]:
        """Results of the steps up to `until` since the last call; the only place where training waits for the device,
        and not for the steps after `until`.
        """
        ready = [sent for sent in self.pending if until is None or sent.step <= until]
        self.pending = self.pending[len(ready) :]
        if ready and ready[-1].arrived is not None:
            ready[-1].arrived.synchronize()
        results = []
        for sent in ready:
            loss, norm, mix_norm, applied = sent.numbers.tolist()
            results.append(StepResult(sent.step, loss, norm, mix_norm if self.mix_slices else None, applied == 1.0))
        return results

    def gradients(self, batch: Batch) -> dict[str, np.ndarray]:
        """Gradient of the mean loss on `batch` by parameter name, without an update; zero where unused."""
        self.model.eval()
        _, found = self._accumulate(batch)
        zeros = {name: torch.zeros_like(parameter) for name, parameter in self.parameters.items()}
        return {name: gradient.detach().cpu().numpy().copy() for name, gradient in (zeros | found).items()}

    @torch.no_grad()
    def evaluate(self, batches: list[Batch]) -> Evaluation:
        """Mean loss and accuracy over the supervised tokens of `batches`."""
        self.model.eval()
        total = torch.zeros(2, dtype=torch.float64, device=self.accelerator)
        for batch in batches:
            with self._precision():
                scores = self.model(self._tensor(batch.inputs.astype(np.int64)))
            hits = (scores.argmax(-1) == self._tensor(batch.targets.astype(np.int64))) & self._tensor(batch.mask)
            total += torch.stack([self._losses(scores, batch).double().sum(), hits.sum().double()])
        tokens = sum(int(batch.mask.sum()) for batch in batches)
        loss, accuracy = (total / tokens).tolist()
        return Evaluation(loss, accuracy, tokens)

    def mean_loss(self, batch: Batch, observe: Observer | SourceObserver | None = None) -> Tensor:
        """Mean loss over the supervised tokens of `batch`, to be differentiated."""
        self.model.eval()
        return self._loss_share(batch, int(batch.mask.sum()), observe)

    def diagnose(self, batch: Batch) -> Diagnosis | HistoryDiagnosis | None:
        """What the wiring does on `batch`, and the gradients of its connections."""
        return diagnose(self.config, self.parameters, lambda observe: self.mean_loss(batch, observe))

    @torch.no_grad()
    def generate(self, prompt: np.ndarray, count: int, seed: int) -> np.ndarray:
        """`count` tokens sampled after `prompt` [T]."""
        self.model.eval()

        def scores(tokens: np.ndarray) -> np.ndarray:
            with self._precision():
                return self.model(self._tensor(tokens.astype(np.int64)[None]))[0, -1].float().cpu().numpy()

        return generate(scores, prompt, count, self.config.model.seq_len, seed)

    # -- state -----------------------------------------------------------------------------------------------------

    def state(self) -> State:
        """Copies of all weights and of AdamW's state, float32, named as in mhc_exp.body.parameters."""
        model = {name: parameter.detach().cpu().numpy().copy() for name, parameter in self.parameters.items()}
        optimizer = {f"exp_avg.{name}": moment.cpu().numpy().copy() for name, moment in self.exp_avg.items()}
        optimizer |= {f"exp_avg_sq.{name}": moment.cpu().numpy().copy() for name, moment in self.exp_avg_sq.items()}
        optimizer["step"] = self.updates.cpu().numpy().copy()
        optimizer["stopped"] = self.stopped.cpu().numpy().copy()
        return State(model, optimizer)

    def load(self, state: State) -> None:
        """Continue from `state`, which either backend may have written."""
        self._assign(self.parameters, state.model)
        for prefix, target in (("exp_avg.", self.exp_avg), ("exp_avg_sq.", self.exp_avg_sq)):
            found = {name[len(prefix) :]: a for name, a in state.optimizer.items() if name.startswith(prefix)}
            self._assign(target, found)
        scalars = {"step": self.updates, "stopped": self.stopped}
        self._assign(scalars, {name: state.optimizer[name] for name in scalars})
        self.pending.clear()

    def peak_memory(self) -> int | None:
        """CUDA: peak bytes allocated. CPU: peak resident bytes of this process."""
        if self.accelerator.type == "cuda":
            return torch.cuda.max_memory_allocated(self.accelerator)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
