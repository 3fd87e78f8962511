"""Tiny models, batches and perturbed weights shared by the parity tests."""

from __future__ import annotations

import functools

import numpy as np

from mhc_exp.body.parameters import initial_parameters, is_connection
from mhc_exp.config.compose import compose
from mhc_exp.config.schema import Config
from mhc_exp.data.task import Batch
from mhc_exp.paths import find
from mhc_exp.training.trainer import State, Trainer

VOCABULARY = 13

SHIPPED = sorted(file.stem for file in (find("conf") / "variant").glob("*.yaml"))
"""Every variant file: a wiring that ships is a wiring that is tested."""

HALVES = ["variant.segments=2", "variant.fractions=2"]
"""Segments of four channels: a LayerNorm of two channels is a sign, whose gradient float32 cannot resolve."""

COMPOSED = {
    "hc without tanh": ["variant=hc", "variant.squash=none"],
    "hc static": ["variant=hc", "variant.coefficients=static"],
    "hc two streams": ["variant=hc", "variant.streams=2"],
    "mhc static": ["variant=mhc", "variant.coefficients=static"],
    "mhc three streams": ["variant=mhc", "variant.streams=3"],
    "mhc one stream": ["variant=mhc", "variant.streams=1"],
    "mhc columns last": ["variant=mhc", "variant.mix.order=columns_last"],
    "mhc tanh": ["variant=mhc", "variant.squash=tanh"],
    "mhc at block sites": ["variant=mhc", "variant.site=block"],
    "mhc with head": ["variant=mhc", "variant.reduce=head"],
    "mhc exp": ["variant=mhc", "variant.mix.chart=exp"],
    "mhc per-stream norm": ["variant=mhc", "variant.norm=layer"],
    "mhc newton": ["variant=mhc", "variant.mix.solver=newton"],
    "mhc newton three streams": [
        "variant=mhc", "variant.mix.solver=newton", "variant.streams=3", "variant.mix.order=columns_last",
    ],
    "mhc row_softmax": ["variant=mhc", "variant.mix.chart=row_softmax"],
    "mhc column_softmax": ["variant=mhc", "variant.mix.chart=column_softmax"],
    "mhc sigmoid_diagonal": ["variant=mhc", "variant.mix.chart=sigmoid_diagonal"],
    "mhc cayley": ["variant=mhc", "variant.mix.chart=cayley"],
    "mhc cayley five streams": ["variant=mhc", "variant.mix.chart=cayley", "variant.streams=5"],
    "mhc fixed scale": ["variant=mhc", "variant.mix.scale=fixed", "variant.alpha=0.7"],
    "mhc leaky transposed": ["variant=mhc", "variant.mix.budget=2.0", "variant.mix.apply=transposed"],
    "hc cayley": ["variant=hc", "variant.norm=flat_rms", "variant.mix.chart=cayley"],
    "mhc_lite static": ["variant=mhc_lite", "variant.coefficients=static"],
    "mhc_lite three streams": ["variant=mhc_lite", "variant.streams=3"],
    "kromhc static": ["variant=kromhc", "variant.coefficients=static"],
    "kromhc eight streams": ["variant=kromhc", "variant.streams=8"],
    "ohc static": ["variant=ohc", "variant.coefficients=static", "variant.init=lite_repo"],
    "ohc learned scale": ["variant=ohc", "variant.mix.scale=learned"],
    "go_mhc static": ["variant=go_mhc", "variant.coefficients=static"],
    "go_mhc s 1": ["variant=go_mhc", "variant.mix.expansion=1"],
    "go_mhc s 3, three streams": ["variant=go_mhc", "variant.mix.expansion=3", "variant.streams=3"],
    "tbp_mhc static": ["variant=tbp_mhc", "variant.coefficients=static"],
    "tbp_mhc two streams": ["variant=tbp_mhc", "variant.streams=2"],
    "c_mhc static": ["variant=c_mhc", "variant.coefficients=static", "variant.init=lite_repo"],
    "c_mhc not leaky, three streams": ["variant=c_mhc", "variant.mix.budget=null", "variant.streams=3"],
    "identity_hc static": ["variant=identity_hc", "variant.coefficients=static"],
    "rezero per sublayer": ["variant=rezero", "variant.gate.per=sublayer"],
    "rezero with pre-norm": ["variant=rezero", "variant.norm=pre"],
    "layer_scale after one norm": ["variant=layer_scale", "variant.norm=post", "variant.gate.per=block"],
    "deepnorm from the body's weights": ["variant=deepnorm", "variant.deepnorm_init=false"],
    "laurel rw": ["variant=laurel", "variant.laurel.terms=rw", "variant.laurel.weights=sigmoid"],
    "laurel lr": ["variant=laurel", "variant.laurel.terms=lr", "variant.laurel.rank=1"],
    "laurel free": ["variant=laurel", "variant.laurel.weights=free"],
    "none after norms": ["variant=none", "variant.norm=post"],
    "deepseek_v4 static": ["variant=deepseek_v4", "variant.coefficients=static"],
    "history keeping the newest": ["variant=history", "variant.constraint=identity_preserving", "variant.window=3"],
    "history doubly stochastic": ["variant=history", "variant.constraint=doubly_stochastic", "variant.window=3"],
    "history of one state": ["variant=history", "variant.window=1"],
    "denseformer 2x2": ["variant=denseformer", "variant.dilation=2", "variant.period=2"],
    "block_attnres of two sublayers": ["variant=block_attnres", "variant.blocks=2"],
    "block_attnres with a shorter last block": ["variant=block_attnres", "variant.blocks=3", "depth=4"],
    "mhar in two blocks": ["variant=mhar", "variant.heads=2", "variant.blocks=2"],
    "muddformer static": ["variant=muddformer", "variant.coefficients=static"],
    "muddformer one way": ["variant=muddformer", "variant.multiway=false"],
    "value_residual fixed": ["variant=value_residual", "variant.learnable=false"],
    "value_residual in late blocks": ["variant=value_residual", "variant.start=3", "depth=3"],
    "deep_cross_attention static": ["variant=deep_cross_attention", "variant.coefficients=static"],
    "deep_cross_attention last 1": ["variant=deep_cross_attention", "variant.last=1", "depth=4"],
    "deepseek_v41 static": ["variant=deepseek_v41", "variant.coefficients=static"],
    "mhc single pass with sum": ["variant=mhc", "variant.read_from=previous"],
    "hc single pass": ["variant=hc", "variant.read_from=previous", "variant.reduce=last_read"],
    "hc learned_scale": ["variant=hc", "variant.expand=learned_scale", "variant.streams=3"],
    "gated_residual two streams with mean": ["variant=gated_residual", "variant.streams=2", "variant.reduce=mean"],
    "gated_residual learned_scale with sum": [
        "variant=gated_residual", "variant.expand=learned_scale", "variant.reduce=sum", "variant.bottleneck=2",
    ],
    "frac of four": ["variant=frac", "model.width=16"],
    "frac static": ["variant=frac", "variant.coefficients=static"],
    "frac without tanh": ["variant=frac", *HALVES, "variant.squash=none"],
    "frac over-wide": ["variant=frac", "variant.fractions=2", "variant.segments=5"],
    "vwn static": ["variant=vwn", "variant.coefficients=static"],
    "vwn one and a half": ["variant=vwn", "variant.segments=3", "variant.fractions=2", "variant.reduce_norm=none"],
    "vwn repeated": ["variant=vwn", "variant.expand=repeat", "variant.reduce=mean", "variant.write=diagonal"],
    "xhc all routed": ["variant=xhc", "variant.streams=6", "variant.active=3", "variant.fixed=0"],
    "xhc all active": ["variant=xhc", "variant.streams=3", "variant.active=3", "variant.fixed=3"],
    "xhc all active near_identity": [
        "variant=xhc", "variant.streams=3", "variant.active=3", "variant.fixed=3", "variant.init=near_identity",
    ],
    "xhc identity learned_scale": [
        "variant=xhc", "variant.mix.chart=identity", "variant.expand=learned_scale", "variant.reduce=mean",
    ],
    "xhc permutation, three active": ["variant=xhc", "variant.mix.chart=permutation", "variant.active=3"],
    "xhc circulant, leaky": ["variant=xhc", "variant.mix.chart=circulant", "variant.mix.budget=2.0"],
    "xhc cayley, fixed scale": [
        "variant=xhc", "variant.clamp=false", "variant.mix.chart=cayley", "variant.mix.scale=fixed",
        "variant.alpha=0.7",
    ],
    "xhc newton": ["variant=xhc", "variant.mix.solver=newton", "variant.init=circulant_repo"],
    "xhc exp transposed clamped": ["variant=xhc", "variant.mix.chart=exp", "variant.mix.apply=transposed"],
    "hyperloop between two blocks": ["variant=hyperloop", "depth=4"],
    "hyperloop after two blocks, once": [
        "variant=hyperloop", "variant.begin=2", "variant.end=0", "variant.loops=1", "depth=3",
    ],
    "hyperloop before a block, without positions": [
        "variant=hyperloop", "variant.begin=0", "variant.end=1", "variant.loops=2", "variant.loop_positions=none",
    ],
    "hyperloop sinkhorn learned_scale": [
        "variant=hyperloop", "variant.mix.chart=sinkhorn", "variant.expand=learned_scale",
    ],
    "hyperloop leaky circulant": ["variant=hyperloop", "variant.mix.chart=circulant", "variant.mix.budget=2.0"],
    "hyperloop identity static": [
        "variant=hyperloop", "variant.mix.chart=identity", "variant.coefficients=static", "variant.streams=2",
    ],
    "hyperloop per-stream norm": ["variant=hyperloop", "variant.norm=layer", "variant.squash=tanh"],
    "deepseek_v41 learned_scale": ["variant=deepseek_v41", "variant.expand=learned_scale"],
    "go_mhc single pass learned_scale": [
        "variant=go_mhc", "variant.read_from=previous", "variant.reduce=last_read", "variant.expand=learned_scale",
    ],
}  # fmt: skip
WIRINGS = {name: [f"variant={name}"] for name in SHIPPED} | {"frac": ["variant=frac", *HALVES]} | COMPOSED

GATED = [*SHIPPED, "frac of four"]
"""What tests/gate looks at: `frac` is there in halves and, in a wider body, as it ships."""

BODIES = {
    "rmsnorm": ["model.norm=rmsnorm"],
    "swiglu": ["model.activation=swiglu"],
    "rotary": ["model.positions=rotary"],
    "no bias": ["model.bias=false"],
    "tied head": ["model.tied_head=true"],
    "all of them": [
        "model.norm=rmsnorm", "model.activation=swiglu", "model.positions=rotary", "model.bias=false",
        "model.tied_head=true",
    ],
    "pytorch init": ["model.init=pytorch"],
    "gpt2 init": ["model.init=gpt2"],
}  # fmt: skip


def tiny(overrides: list[str], backend: str = "cpu") -> Config:
    """A two-block model of width 8 on sequences of 6."""
    fixed = ["model.width=8", "model.heads=2", "model.d_ff=12", "model.seq_len=6", "backend.threads=1"]
    depth = [] if any(word.startswith("depth=") for word in overrides) else ["depth=2"]
    return composed(f"backend={backend}", *fixed, *depth, *overrides)


@functools.cache
def composed(*overrides: str) -> Config:
    """Half of the time of a parity test would be Hydra's, composing the same again."""
    return compose(overrides)


def batch(seed: int = 0, sequences: int = 4, length: int = 6) -> Batch:
    """Random tokens; about a quarter of the positions are not supervised."""
    random = np.random.default_rng(seed)
    tokens = random.integers(0, VOCABULARY, (sequences, length + 1)).astype(np.int32)
    mask = random.random((sequences, length)) < 0.75
    mask[:, 0] = True
    return Batch(tokens[:, :-1], tokens[:, 1:], mask)


def perturbed(config: Config, seed: int = 1, size: float = 0.2) -> dict[str, np.ndarray]:
    """Initial weights moved off every symmetry and every zero, so that each term of each equation counts."""
    random = np.random.default_rng(seed)
    values = {}
    for name, value in initial_parameters(config, VOCABULARY).items():
        noise = random.uniform(-size, size, value.shape)
        if is_connection(name) and name.endswith("scale"):
            noise = random.uniform(0.5, 1.0, value.shape)
        values[name] = (value + noise).astype(np.float32)
    return values


def with_weights(trainer: Trainer, values: dict[str, np.ndarray]) -> Trainer:
    """`trainer` holding `values`, with its optimizer as it is."""
    trainer.load(State(values, trainer.state().optimizer))
    return trainer


def torch_trainer(config: Config) -> Trainer:
    from mhc_exp.torch.trainer import TorchTrainer

    return TorchTrainer(config, VOCABULARY)


def to_double(trainer: Trainer) -> Trainer:
    """A trainer of PyTorch in float64, which the eager tier alone computes."""
    from mhc_exp.torch.kernels.choice import install
    from mhc_exp.torch.kernels.eager import Eager
    from mhc_exp.torch.trainer import TorchTrainer

    assert isinstance(trainer, TorchTrainer)
    install(trainer.model.topology, Eager())
    trainer.model.double()
    trainer.parameters = dict(trainer.model.named_parameters())
    return trainer


def mlx_trainer(config: Config) -> Trainer:
    from mhc_exp.mlx.trainer import MLXTrainer

    return MLXTrainer(config, VOCABULARY)


TRAINERS = {"torch": torch_trainer, "mlx": mlx_trainer}
