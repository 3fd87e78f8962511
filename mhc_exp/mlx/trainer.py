"""MLX trainer (Apple GPU, Linux CPU): forward, backward, AdamW, evaluation. Policy is in mhc_exp.training.loop.

Mirrors mhc_exp/torch/trainer.py. MLX is lazy: `step` builds the graph and starts it, `fetch` waits for it.
"""

from __future__ import annotations

from typing import Any, cast

import mlx.core as mx
import numpy as np
from mlx import optimizers as optim
from mlx.nn import losses
from mlx.nn.utils import value_and_grad
from mlx.utils import tree_flatten, tree_map, tree_unflatten

from mhc_exp.body.parameters import initial_parameters, is_connection
from mhc_exp.config.machine import memory_bytes
from mhc_exp.config.schema import Config
from mhc_exp.data.task import Batch
from mhc_exp.mlx.diagnosis import diagnose
from mhc_exp.mlx.model import Transformer
from mhc_exp.mlx.recompute import install as install_recompute
from mhc_exp.mlx.wiring import Observer, SourceObserver
from mhc_exp.planning.recompute import decide
from mhc_exp.topology import families
from mhc_exp.topology.diagnosis import Diagnosis, HistoryDiagnosis
from mhc_exp.training.groups import Group, groups
from mhc_exp.training.sampling import generate, step_seed
from mhc_exp.training.trainer import Evaluation, State, StepResult

Arrays = dict[str, mx.array]


class MLXTrainer:
    """One model with its AdamW state on one device; implements mhc_exp.training.trainer.Trainer."""

    def __init__(self, config: Config, vocab_size: int):
        self.config = config
        self.kernels = "eager"
        self.model = Transformer(config, vocab_size)
        recompute = decide(config, vocab_size, native=False, memory=memory_bytes())
        install_recompute(self.model.topology, recompute.length)
        self.recompute = recompute.text
        values = initial_parameters(config, vocab_size)
        self._check_names(_flat(self.model.parameters()), values)
        self.parameters: Arrays = {name: mx.array(value) for name, value in values.items()}
        self._install(self.parameters)
        sizes = {name: value.size for name, value in self.parameters.items()}
        self.connection_parameters = sum(size for name, size in sizes.items() if is_connection(name))
        self.body_parameters = sum(sizes.values()) - self.connection_parameters

        self.groups = groups({name: value.shape for name, value in self.parameters.items()}, config.optimizer)
        self.optimizers = [self._adamw(group) for group in self.groups]
        self.stopped = mx.array(0.0)
        """1 once policy `stop` has seen something non-finite: every later update is suppressed."""
        self.asynchronous = True
        self.pending: list[tuple[int, mx.array]] = []
        self.mix_slices = families.mix_rows(config.variant, list(self.parameters))
        self._value_and_grad = value_and_grad(self.model, self._loss_share)

    @property
    def device(self) -> str:
        return f"mlx {mx.default_device().type.name}"

    def _adamw(self, group: Group) -> optim.AdamW:
        """MLX's AdamW with torch's arithmetic: bias correction is off by default in MLX and decides the curve."""
        settings = self.config.optimizer
        optimizer = optim.AdamW(
            learning_rate=0.0,
            betas=[settings.beta1, settings.beta2],
            eps=settings.eps,
            weight_decay=group.weight_decay,
            bias_correction=True,
        )
        optimizer.init({name: self.parameters[name] for name in group.names})
        return optimizer

    @staticmethod
    def _check_names(targets: dict[str, Any], arrays: dict[str, Any]) -> None:
        if missing := targets.keys() ^ arrays.keys():
            raise ValueError(f"model and arrays disagree on {sorted(missing)[:5]}")

    def _install(self, parameters: Arrays) -> None:
        """Put `parameters` into the module tree; linear layers of the body in the chosen arithmetic."""
        if self.config.backend.dtype == "bfloat16":  # float32 masters stay in self.parameters
            parameters = {n: p.astype(mx.bfloat16) if _is_linear(n) else p for n, p in parameters.items()}
        self.model.update(tree_unflatten(list(parameters.items())))

    # -- one update ------------------------------------------------------------------------------------------------

    def step(self, step: int, batch: Batch, lr: float) -> None:
        """Enqueue update number `step` (1-based) on `batch` with learning rate `lr`."""
        self.model.train()
        if self.config.model.dropout:
            mx.random.seed(step_seed(self.config.seed, step))
        numbers = self._update(*self._accumulate(batch), lr)
        self.pending.append((step, numbers))
        mx.async_eval(self.parameters, [optimizer.state for optimizer in self.optimizers], numbers)

    def _accumulate(self, batch: Batch) -> tuple[mx.array, Arrays]:
        """Mean loss over the supervised tokens of the whole batch, and its gradients."""
        supervised = int(batch.mask.sum())
        loss, gradients = mx.array(0.0), {}
        for part in batch.split(self.config.training.accumulation):
            arrays = mx.array(part.inputs), mx.array(part.targets), _weights(part, supervised)
            share, tree = self._value_and_grad(*arrays)
            loss = loss + share
            flat = {name: gradient.astype(mx.float32) for name, gradient in _flat(tree).items()}
            gradients = {name: gradients[name] + flat[name] for name in flat} if gradients else flat
        return loss, gradients

    def _loss_share(
        self,
        inputs: mx.array,
        targets: mx.array,
        weights: mx.array,
        observe: Observer | SourceObserver | None = None,
    ) -> mx.array:
        """This microbatch's share of the mean loss over the whole batch."""
        return (self._losses(self.model(inputs, observe), targets) * weights).sum()

    @staticmethod
    def _losses(scores: mx.array, targets: mx.array) -> mx.array:
        """Cross entropy [B, T] in float32."""
        return losses.cross_entropy(scores.astype(mx.float32), targets, reduction="none")

    def _update(self, loss: mx.array, gradients: Arrays, lr: float) -> mx.array:
        """Loss, gradient norm, that of the mixing, and 1 if the update was made."""
        norm = _norm(list(gradients.values()))
        mix = [gradients[name][rows] for name, rows in self.mix_slices]
        mix_norm = _norm(mix) if mix else mx.array(-1.0)
        finite = mx.isfinite(loss) & mx.isfinite(norm)
        blocked = self._blocked(~finite)
        if self.config.optimizer.clip is not None:
            divisor = mx.maximum(norm / self.config.optimizer.clip, 1.0)
            gradients = {name: gradient / divisor for name, gradient in gradients.items()}
        for group, optimizer in zip(self.groups, self.optimizers, strict=True):
            optimizer.learning_rate = lr * group.lr_multiplier
            self._apply(group, optimizer, gradients, blocked)
        self._install(self.parameters)
        return mx.stack([loss, norm, mix_norm, 1 - blocked])

    def _apply(self, group: Group, optimizer: optim.AdamW, gradients: Arrays, blocked: mx.array) -> None:
        """One AdamW update of a group; parameters, moments and step count stay as they were where `blocked` is 1."""
        before = {name: self.parameters[name] for name in group.names}
        moments = tree_map(lambda array: array, optimizer.state)
        after = optimizer.apply_gradients({name: gradients[name] for name in group.names}, before)
        if self.config.training.nonfinite != "continue":
            after = tree_map(lambda old, new: mx.where(blocked, old, new), before, after)
            kept = tree_map(lambda old, new: mx.where(blocked, old, new), moments, optimizer.state)
            optimizer.state = kept
        self.parameters |= after

    def _blocked(self, bad: mx.array) -> mx.array:
        """1 if this update must not happen, decided on the device."""
        policy = self.config.training.nonfinite
        if policy == "continue":
            return mx.array(0.0)
        if policy == "stop":
            self.stopped = mx.maximum(self.stopped, bad.astype(mx.float32))
            return self.stopped
        return bad.astype(mx.float32)

    # -- what the host asks for ------------------------------------------------------------------------------------

    def fetch(self, until: int | None = None) -> list[StepResult]:
        """Results of the steps up to `until` since the last call; the only place where training waits for the device,
        and not for the steps after `until`.
        """
        ready = [(step, values) for step, values in self.pending if until is None or step <= until]
        self.pending = self.pending[len(ready) :]
        results = []
        for step, values in ready:
            loss, norm, mix_norm, applied = np.array(values).tolist()
            results.append(StepResult(step, loss, norm, mix_norm if self.mix_slices else None, applied == 1.0))
        return results

    def gradients(self, batch: Batch) -> dict[str, np.ndarray]:
        """Gradient of the mean loss on `batch` by parameter name, without an update; zero where unused."""
        self.model.eval()
        return {name: np.array(gradient) for name, gradient in self._accumulate(batch)[1].items()}

    def mean_loss(self, batch: Batch, observe: Observer | SourceObserver | None = None) -> mx.array:
        """Mean loss over the supervised tokens of `batch`, to be differentiated."""
        self.model.eval()
        weights = _weights(batch, int(batch.mask.sum()))
        return self._loss_share(mx.array(batch.inputs), mx.array(batch.targets), weights, observe)

    def evaluate(self, batches: list[Batch]) -> Evaluation:
        """Mean loss and accuracy over the supervised tokens of `batches`."""
        self.model.eval()
        total = np.zeros(2)
        for batch in batches:
            targets, weights = mx.array(batch.targets), _weights(batch, 1)
            scores = self.model(mx.array(batch.inputs))
            hits = (scores.argmax(-1) == targets) * weights
            total += np.array(mx.stack([(self._losses(scores, targets) * weights).sum(), hits.sum()]))
        tokens = sum(int(batch.mask.sum()) for batch in batches)
        return Evaluation(float(total[0] / tokens), float(total[1] / tokens), tokens)

    def diagnose(self, batch: Batch) -> Diagnosis | HistoryDiagnosis | None:
        """What the wiring does on `batch`, and the gradients of its connections."""
        tokens = batch.inputs.size
        return diagnose(
            self.config, self.model, self.parameters, lambda observe: self.mean_loss(batch, observe), tokens
        )

    def generate(self, prompt: np.ndarray, count: int, seed: int) -> np.ndarray:
        """`count` tokens sampled after `prompt` [T]."""
        self.model.eval()

        def scores(tokens: np.ndarray) -> np.ndarray:
            return np.array(self.model(mx.array(tokens[None]))[0, -1].astype(mx.float32))

        return generate(scores, prompt, count, self.config.model.seq_len, seed)

    # -- state -----------------------------------------------------------------------------------------------------

    def state(self) -> State:
        """Copies of all weights and of AdamW's state, float32, named as in mhc_exp.body.parameters."""
        model = {name: np.array(value) for name, value in self.parameters.items()}
        moments: dict[str, np.ndarray] = {}
        for group, optimizer in zip(self.groups, self.optimizers, strict=True):
            for name in group.names:
                moments[f"exp_avg.{name}"] = np.array(optimizer.state[name]["m"])
                moments[f"exp_avg_sq.{name}"] = np.array(optimizer.state[name]["v"])
        moments["step"] = np.array(self.optimizers[0].state["step"]).astype(np.float32)
        moments["stopped"] = np.array(self.stopped)
        return State(model, moments)

    def load(self, state: State) -> None:
        """Continue from `state`, which either backend may have written."""
        self._check_names(self.parameters, state.model)
        self.parameters = {name: mx.array(state.model[name]) for name in self.parameters}
        for group, optimizer in zip(self.groups, self.optimizers, strict=True):
            for name in group.names:
                optimizer.state[name]["m"] = mx.array(state.optimizer[f"exp_avg.{name}"])
                optimizer.state[name]["v"] = mx.array(state.optimizer[f"exp_avg_sq.{name}"])
            optimizer.state["step"] = mx.array(int(state.optimizer["step"]), mx.uint64)
        self.stopped = mx.array(float(state.optimizer["stopped"]))
        self._install(self.parameters)
        self.pending.clear()

    def peak_memory(self) -> int | None:
        """Largest number of bytes held by MLX arrays so far."""
        return mx.get_peak_memory()


def _is_linear(name: str) -> bool:
    """Whether a parameter belongs to a linear layer of the body (what autocast casts in PyTorch)."""
    return name.split(".")[-2] in ("qkv", "out", "gate", "up", "down", "head") and not is_connection(name)


def _weights(batch: Batch, supervised: int) -> mx.array:
    """1/supervised where the loss is taken, 0 elsewhere: [B, T] float32."""
    return mx.array(batch.mask.astype(np.float32) / np.float32(supervised))


def _flat(tree: dict[str, Any]) -> Arrays:
    """A module's nested parameters or gradients, by dotted name."""
    return dict(cast(list[tuple[str, mx.array]], tree_flatten(tree)))


def _norm(gradients: list[mx.array]) -> mx.array:
    """Global L2 norm."""
    return mx.sqrt(mx.stack([mx.square(gradient).sum() for gradient in gradients]).sum())
