"""What a person may say: one frozen dataclass per config group, one docstring per key.

Only types and ranges live here. YAML values are in `conf/`, rules that span several keys are in `checks.py`, and
`build.py` turns a composed mapping into a `Config`. Nothing below the command line ever sees hydra or omegaconf.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from mhc_exp.config.ranges import Fraction, NonNegative, NonNegativeFloat, Positive, PositiveFloat, Range
from mhc_exp.config.variants import FAMILIES, Variant


@dataclass(frozen=True)
class Backend:
    """Which trainer runs the job, where and in what precision (`backend=auto|cpu|cuda|mlx`)."""

    name: Literal["auto", "cpu", "cuda", "mlx"]
    """`cpu` and `cuda` are PyTorch; `auto` picks cuda, then MLX on an Apple machine, then cpu."""
    dtype: Literal["float32", "bfloat16"]
    """Arithmetic of the body's matrix products; streams, coefficients, norms, weights, optimizer stay float32."""
    tf32: bool
    """Let CUDA matrix products use TF32; only for backend=cuda."""
    threads: Positive | None
    """CPU threads of the worker; null means one below width 256, else every core this process may use."""
    kernels: Literal["auto", "native", "compiled", "eager"] = "auto"
    """Who computes the connections: kernels compiled at first use (native: C on a CPU, Triton on cuda), loops made by
    torch.compile (compiled), the framework's own operations (eager), or the faster of native and eager that is exact
    for this wiring and machine. The run's log says which."""
    graphs: bool = False
    """Record a training step as one CUDA graph and replay it, which spares a small model the launches of its many
    short kernels; only for backend=cuda, without dropout and recomputation."""


@dataclass(frozen=True)
class Model:
    """The transformer body shared by all wirings."""

    width: Positive
    """Channels C of one stream."""
    heads: Positive
    d_ff: Positive | None
    """Hidden width of the MLP; null means 4*width (GELU) or 8/3*width rounded up to a multiple of 8 (SwiGLU)."""
    seq_len: Positive
    """Longest sequence T in tokens; datasets of windows use exactly this length."""
    norm: Literal["layernorm", "rmsnorm"]
    norm_eps: PositiveFloat
    """Added to the variance; stated because library defaults differ (1e-5 in MLX, 1.2e-7 in torch's RMSNorm)."""
    activation: Literal["gelu", "swiglu"]
    positions: Literal["learned", "rotary"]
    bias: bool
    """Bias vectors in the linear layers and norms."""
    tied_head: bool
    """Use the embedding matrix as the output matrix."""
    dropout: Annotated[float, Range(minimum=0.0, maximum=0.9)]
    """On sublayer outputs and the embedding; drawn from (seed, step), so a resumed run drops the same units."""
    init: Literal["fan_in", "gpt2", "pytorch"]
    """Initial scales of the body (mhc_exp.body.parameters)."""


@dataclass(frozen=True)
class SourceCode:
    """Real text without a download: the Python source of sympy, which PyTorch itself depends on."""

    kind: Literal["source_code"]


@dataclass(frozen=True)
class Text:
    """Any text file, or every text file under a directory."""

    kind: Literal["text"]
    path: str
    """File or directory, relative to where the command is typed."""
    tokenizer: Literal["bytes", "bpe"]
    """Raw bytes (256 symbols), or a byte-level BPE trained on the training part and stored in the run."""
    vocab_size: Annotated[int, Range(minimum=257, maximum=65535)]
    """Symbols of the BPE (ignored for bytes)."""
    validation_percent: Annotated[float, Range(minimum=0.1, maximum=50.0)]
    """Share of the text held out: whole files by hash of their name, the tail if there is one file."""


@dataclass(frozen=True)
class Corpus:
    """An English corpus found on this machine by a recipe (never downloaded, never committed)."""

    kind: Literal["corpus"]
    recipe: Literal["austen", "kjv", "brown"]
    path: str | None
    """Where the package is unpacked, if not in its usual place."""


@dataclass(frozen=True)
class Increment:
    """The seed demo's task: tokens count upwards modulo the vocabulary."""

    kind: Literal["increment"]
    vocab_size: Annotated[int, Range(minimum=2, maximum=65535)]


@dataclass(frozen=True)
class NoisyIncrement:
    """Increment with known noise, hence a known loss floor: the calibration of the whole pipeline."""

    kind: Literal["noisy_increment"]
    vocab_size: Annotated[int, Range(minimum=2, maximum=65535)]
    shift: Positive
    epsilon: Fraction
    """Probability that the next token is uniform instead of (x + shift) mod vocab_size."""


@dataclass(frozen=True)
class PointerChasing:
    """k hops over a random permutation of N nodes given in the context: needs depth."""

    kind: Literal["pointer_chasing"]
    nodes: Annotated[int, Range(minimum=2, maximum=4096)]
    hops: Positive


@dataclass(frozen=True)
class Permutation:
    """Word problem: running product of group elements."""

    kind: Literal["permutation"]
    group: Literal["S3", "A5", "S5"]


@dataclass(frozen=True)
class Tokens:
    """Memory-mapped token files: llm.c / modded-nanogpt header, or headerless nanoGPT uint16."""

    kind: Literal["tokens"]
    train: str
    """Path of the training .bin file, or a glob of shards."""
    validation: str
    vocab_size: Annotated[int, Range(minimum=2)]
    bytes_per_token: PositiveFloat | None
    """Mean bytes per token of the underlying text, for bits per byte; null leaves that metric out."""


@dataclass(frozen=True)
class Hub:
    """A Hugging Face dataset, streamed at a pinned revision (extra `hub`), or a local JSONL file of the same form."""

    kind: Literal["hub"]
    id: str
    """Repository such as `HuggingFaceFW/fineweb-edu`, or the path of a local .jsonl file."""
    subset: str | None
    split: str
    revision: str | None
    """Commit to read; required for a remote dataset, because `main` moves."""
    text_field: str
    tokenizer: Literal["bytes", "bpe"]
    vocab_size: Annotated[int, Range(minimum=257, maximum=65535)]
    max_bytes: Positive
    """Stop reading after this much text; it is cached once in the user's cache directory."""
    validation_percent: Annotated[float, Range(minimum=0.1, maximum=50.0)]


Dataset = SourceCode | Text | Corpus | Increment | NoisyIncrement | PointerChasing | Permutation | Tokens | Hub


@dataclass(frozen=True)
class Optimizer:
    """AdamW with the same arithmetic on every backend, and a closed-form schedule."""

    name: Literal["adamw"]
    lr: PositiveFloat
    """Peak learning rate."""
    beta1: Annotated[float, Range(minimum=0.0, maximum=0.9999)]
    beta2: Annotated[float, Range(minimum=0.0, maximum=0.999999)]
    eps: PositiveFloat
    weight_decay: NonNegativeFloat
    """Decoupled: p <- p * (1 - lr * weight_decay) before the Adam step."""
    decay: Literal["matrices", "all"]
    """Body parameters that decay: those with two or more axes, or all of them."""
    decay_connections: bool
    """Also decay connection parameters; false in the papers, true in torch's default AdamW (a known confound)."""
    connection_lr_multiplier: PositiveFloat
    """Learning rate of the connection parameters relative to the body's."""
    clip: PositiveFloat | None
    """Largest global gradient norm; null turns clipping off."""
    schedule: Literal["constant", "cosine", "wsd"]
    warmup: Fraction
    """Share of all steps with linearly rising learning rate."""
    cooldown: Fraction
    """Share of all steps in the final linear decay (schedule=wsd)."""
    final_lr: Fraction
    """Learning rate at the end relative to the peak (cosine and wsd)."""


@dataclass(frozen=True)
class Training:
    """How long, how much per step, and what happens every so often."""

    steps: Positive | None
    """Budget in optimizer steps. Set exactly one of steps, tokens, flops."""
    tokens: Positive | None
    """Budget in training tokens."""
    flops: PositiveFloat | None
    """Budget in training FLOPs (forward and backward, mhc_exp.body.flops)."""
    batch_size: Positive
    """Sequences per optimizer step, over all ranks and microbatches."""
    accumulation: Positive
    """Microbatches per step; must divide batch_size."""
    log_every: Positive
    """Steps between rows (and between host synchronisations)."""
    eval_every: Positive
    eval_batches: Positive
    """Fixed held-out batches per evaluation."""
    checkpoint_every: Positive
    keep_checkpoints: Annotated[int, Range(minimum=2)]
    """Newest checkpoints kept; at least two, so that a damaged one has a predecessor."""
    metrics_every: Positive
    """Steps between gain and stream diagnostics."""
    nonfinite: Literal["stop", "skip_step", "continue"]
    """On a non-finite loss or gradient norm: stop before the update, skip the update, or do what the seed demo did."""
    sample_tokens: NonNegative
    """Tokens written by the model after a text run."""
    recompute: Literal["none", "connections", "block", "auto"] = "auto"
    """Keep all activations for the backward pass (none), or only what enters each block of connections, and compute the
    block again (block: the same gradients, bit for bit) or its connections alone, keeping what the sublayers gave and
    need (connections: costs less, saves less; PyTorch, family streams); auto: block if the run needs more than four
    fifths of the device's memory without it and the wiring can. The run's log says which."""
    recompute_length: Positive | None = None
    """Connections (or sublayers of a residual stream) per recomputed block; null: round(sqrt(n L / (n + 2))) for L of
    them and n streams (arXiv:2512.24880)."""


@dataclass(frozen=True)
class Tracking:
    """Where rows go beside metrics.jsonl, which is always written."""

    wandb: Literal["auto", "online", "offline", "off"]
    """`auto`: online if an API key is configured, offline otherwise."""
    project: str
    entity: str | None
    tags: list[str]
    tensorboard: bool
    init_timeout: PositiveFloat
    """Seconds to wait for the tracker at the start; training never waits for it."""
    finish_timeout: PositiveFloat
    """Seconds to wait for the tracker at the end."""


@dataclass(frozen=True)
class Launch:
    """Which process trains."""

    mode: Literal["auto", "process", "inline"]
    """`auto`: this process for a single run, a child process for every job of a multirun."""
    timeout: PositiveFloat | None
    """Seconds after which a run (in a process of its own) is stopped by SIGTERM, then SIGKILL; null waits for ever."""


@dataclass(frozen=True)
class Config:
    """Everything a run depends on."""

    depth: Annotated[int, Range(minimum=1, maximum=10000)]
    """Transformer blocks L; each has two sublayers."""
    seed: NonNegative
    """Decides initial weights and data order."""
    name: str | None
    """Run name; null derives it from the choices."""
    runs_root: str
    """Directory of all runs (environment variable MHC_RUNS)."""
    backend: Backend
    variant: Variant
    model: Model
    dataset: Dataset
    optimizer: Optimizer
    training: Training
    tracking: Tracking
    launch: Launch


DISCRIMINATORS = {
    "variant": ("family", FAMILIES),
    "dataset": (
        "kind",
        {
            "source_code": SourceCode,
            "text": Text,
            "corpus": Corpus,
            "increment": Increment,
            "noisy_increment": NoisyIncrement,
            "pointer_chasing": PointerChasing,
            "permutation": Permutation,
            "tokens": Tokens,
            "hub": Hub,
        },
    ),
}
"""Groups whose schema depends on one of their own keys: group -> (key, value -> dataclass)."""
