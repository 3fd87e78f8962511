"""What a person may say about a wiring: one frozen dataclass per family, one docstring per key (group `variant`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from mhc_exp.config.history_variants import HISTORY_FAMILIES, HistoryVariant
from mhc_exp.config.ranges import NonNegative, NonNegativeFloat, Positive, PositiveFloat, Range


@dataclass(frozen=True)
class BranchGate:
    """A learned factor on what a sublayer adds to the stream."""

    shape: Literal["none", "scalar", "vector"]
    """`scalar`: ReZero's a_l; `vector`: LayerScale's gamma_l, one factor per channel."""
    per: Literal["sublayer", "block"]
    """One gate per sublayer, or one that attention and MLP of a block share (ReZero)."""
    init: Literal["zero", "one", "cait"]
    """Initial factor; `cait` depends on the depth: 0.1 up to 18 blocks, 1e-5 up to 24, 1e-6 above."""


@dataclass(frozen=True)
class Laurel:
    """LAuReL, arXiv:2411.07501: x <- a F(x) + b (x + B A x)."""

    terms: Literal["none", "rw", "lr", "rw_lr"]
    """`rw` learns the weights a and b; `lr` adds the low-rank B A x to the skip."""
    weights: Literal["softmax", "sigmoid", "free"]
    """How a and b are kept in bounds: two times softmax or sigmoid of two logits, or 1 + w. All start at 1."""
    rank: Positive
    """Rank r of B A."""


@dataclass(frozen=True)
class Residual:
    """Wirings that keep one stream (`family: residual`): x <- skip(x) + gate F(x), with F(x) = inner(norm(x))."""

    name: str
    family: Literal["residual"]
    skip: Literal["none", "identity", "deepnorm"]
    """What of x is kept: nothing, x, or DeepNorm's (2L)^(1/4) x with L = depth."""
    norm: Literal["pre", "post", "none"]
    """Where the sublayer's norm stands: `pre` in F, `post` after the addition (F = inner), `none`: left out."""
    gate: BranchGate
    laurel: Laurel
    deepnorm_init: bool
    """DeepNorm's beta = (8L)^(-1/4) on the initial value, output and MLP matrices, in place of the 1/sqrt(2L) rule."""


@dataclass(frozen=True)
class Gate:
    """How raw coefficients become the read (H_pre) or write (H_post) weights of the streams."""

    activation: Literal["linear", "sigmoid", "two_sigmoid", "softmax_rows"]
    """`softmax_rows`: the seed demo's n x n row softmax, averaged (read) or summed (write) over its rows."""
    eps: NonNegativeFloat
    """Added after the activation (DeepSeek-V4 adds 1e-6 to its read weights)."""


@dataclass(frozen=True)
class Mix:
    """The residual mixing matrix H_res: which chart, and its convention."""

    chart: Literal[
        "identity",
        "free",
        "exp",
        "row_softmax",
        "column_softmax",
        "sinkhorn",
        "permutation",
        "kronecker",
        "orthostochastic",
        "transport",
        "circulant",
        "quaternion",
        "cayley",
        "sigmoid_diagonal",
    ]
    """Map from logits to the n x n matrix (mhc_exp.topology.reference.chart)."""
    solver: Literal["iterations", "newton"]
    """sinkhorn only: the matrix after `iterations` alternations, or the limit of infinitely many, by Newton's method on
    the dual with the gradient of the limit (arXiv:2606.07574), which it reaches to rounding for any logits."""
    iterations: Positive
    """Sinkhorn-Knopp iterations, one of which normalises rows and columns once each; with newton, the most
    Newton steps: at least 20, and from 5 streams on 32 (a matrix that is done is left alone)."""
    order: Literal["rows_last", "columns_last"]
    """Which sums are exact after truncation. The paper ends with rows, DeepSeek and the seed demo with columns."""
    start: Literal["exp", "softmax"]
    """First matrix: exp(logits), or DeepSeek's row softmax (which is then the first row normalisation)."""
    eps: NonNegativeFloat
    """Added to the softmax start and to every sum divided by (DeepSeek: 1e-6, paper: 0); quaternion: to |v|^2."""
    expansion: Annotated[int, Range(minimum=1, maximum=8)]
    """orthostochastic only: s, the size of the blocks of an orthogonal ns x ns matrix (1: plain orthostochastic)."""
    budget: PositiveFloat | None
    """C-mHC's beta: over K connections H_res = (1 - g) I + g chart(logits) with g = beta / (2 K); null: g = 1."""
    scale: Literal["learned", "fixed"]
    """Whether the scale of the dynamic part of H_res is learned, or stays `alpha` (as in oHC)."""
    apply: Literal["plain", "transposed"]
    """x <- H x, or x <- H^T x (HC's and DeepSeek's storage convention)."""


Expansion = Literal["replicate", "learned_scale"]
"""How the embedding becomes n streams: copies, or copies times one learned vector each (LSS, arXiv:2606.03483)."""


StreamInit = Literal[
    "hc_paper",
    "near_identity",
    "uniform",
    "lite_repo",
    "soft_identity",
    "mhc_lab",
    "zero_mix",
    "circulant_repo",
    "preserving",
    "demo",
]
"""Named initial values of stream connections (mhc_exp.topology.init)."""


@dataclass(frozen=True)
class Streams:
    """Wirings that keep n streams (`family: streams`): x' = H_res x + H_post^T F(H_pre x)."""

    name: str
    family: Literal["streams"]
    streams: Annotated[int, Range(minimum=1, maximum=64)]
    """Number of streams n."""
    site: Literal["sublayer", "block"]
    """One connection per attention/MLP sublayer (without inner residual), or one per block that keeps its own."""
    coefficients: Literal["static", "dynamic"]
    """Learned constants, or constants plus a projection of the current token's streams."""
    norm: Literal["flat_rms", "layer"]
    """Input norm of the projection: RMS over all n*C numbers (mHC), or LayerNorm of each stream (HC)."""
    squash: Literal["none", "tanh"]
    """Applied to the dynamic part before its scale (HC uses tanh)."""
    alpha: NonNegativeFloat
    """Initial scale of the dynamic part (0.01 in both papers)."""
    read: Gate
    read_from: Literal["current", "previous"]
    """Which connection predicts the read weights of a sublayer: its own, or the one before it, so that one pass over
    the streams is enough (DeepSeek-V4.1; the first sublayer then reads stream 0)."""
    write: Gate
    mix: Mix
    expand: Expansion
    reduce: Literal["sum", "mean", "head", "last_read"]
    """How n streams become the final hidden state; `head` is DeepSeek-V4's learned sigmoid-weighted sum, `last_read`
    the read weights that the last connection predicted (DeepSeek-V4.1; needs read_from=previous)."""
    init: StreamInit
    """Named initial values (mhc_exp.topology.init); the mHC paper publishes none."""
    scale_output_init: bool
    """Multiply the initial output projections by sqrt(n), the HC paper's implementation note."""


@dataclass(frozen=True)
class Looped:
    """Wirings that repeat the middle blocks with the same weights (`family: looped`), each time inside a connection of
    n streams: x' = H_res x + H_post^T (F(H_pre x) + e_l), F all middle blocks with their inner residuals."""

    name: str
    family: Literal["looped"]
    loops: Positive
    """How often the middle blocks are called."""
    begin: NonNegative | None
    """Blocks before the loop, pre-norm, on one stream; null: a quarter of the blocks, rounded down."""
    end: NonNegative | None
    """Blocks after the loop, pre-norm, on the mean of the streams; null: a quarter of the blocks, rounded down."""
    loop_positions: Literal["none", "learned"]
    """Whether every loop adds a learned vector e_l [C] to the output of the middle blocks."""
    streams: Annotated[int, Range(minimum=1, maximum=64)]
    """Number of streams n during the loops."""
    coefficients: Literal["static", "dynamic"]
    """Learned constants, or constants plus a projection of the current token's streams; every loop has its own."""
    norm: Literal["flat_rms", "layer"]
    """Input norm of the projection: RMS over all n*C numbers (mHC), or LayerNorm of each stream (HC)."""
    squash: Literal["none", "tanh"]
    """Applied to the dynamic part before its scale."""
    alpha: NonNegativeFloat
    """Initial scale of the dynamic part."""
    read: Gate
    write: Gate
    mix: Mix
    expand: Expansion
    init: StreamInit
    """Named initial values (mhc_exp.topology.init), connection k being loop k; the paper publishes none."""


@dataclass(frozen=True)
class Gated:
    """Wirings that gate n streams and never mix them (`family: gated`): x'_i = x_i + s_i F(mean_j G_j * norm(x_j))."""

    name: str
    family: Literal["gated"]
    streams: Annotated[int, Range(minimum=1, maximum=64)]
    """Number of streams n."""
    bottleneck: Positive
    """The read gates are predicted through C / bottleneck numbers (Qwen: 8)."""
    weight_std: PositiveFloat
    """Initial standard deviation of the gates' projections; at zero the read gates would never get a gradient."""
    expand: Expansion
    reduce: Literal["gate", "sum", "mean"]
    """How n streams become the final hidden state; `gate` reads them once more, as a sublayer does."""


@dataclass(frozen=True)
class Segments:
    """Wirings whose state is n segments of width C/m (`family: segments`): m of them, read from all n, are the input of
    a sublayer, and its output's m parts are written to all n."""

    name: str
    family: Literal["segments"]
    segments: Annotated[int, Range(minimum=1, maximum=512)]
    """Number of segments n; the state is n/m times as wide as the body (the virtual width)."""
    fractions: Annotated[int, Range(minimum=1, maximum=512)]
    """Number of parts m that the body's width is split into."""
    coefficients: Literal["static", "dynamic"]
    """Learned constants, or constants plus a projection of the current token's segments."""
    norm: Literal["layer", "rms"]
    """Norm of each segment before the projection."""
    squash: Literal["none", "tanh"]
    """Applied to the projection before its scale."""
    temperature: Literal["one", "sqrt_width"]
    """The projection is divided by one (Frac-Connections), or by sqrt(C/m) (VWN)."""
    scale: Literal["scalar", "entry"]
    """Scale of the dynamic part: one for read and mix and one for write, or one per coefficient (VWN)."""
    alpha: NonNegativeFloat
    """Initial scale of the dynamic part."""
    write: Literal["diagonal", "full"]
    """Segment j receives its own multiple of part j mod m, or its own combination of all m parts."""
    expand: Literal["repeat", "linear"]
    """How the embedding becomes n segments: its m parts over and over, or one learned linear map (VWN)."""
    reduce: Literal["mean", "linear"]
    """How n segments become the final hidden state: mean of the segments of each part, or one learned linear map."""
    reduce_norm: Literal["none", "group"]
    """Applied before reducing: nothing, or an RMS norm of every m segments (VWN)."""


@dataclass(frozen=True)
class Sparse:
    """Wirings that read n streams and update few of them (`family: sparse`): some fixed, some chosen for each token."""

    name: str
    family: Literal["sparse"]
    streams: Annotated[int, Range(minimum=1, maximum=64)]
    """Number of streams n, all of which every sublayer reads."""
    active: Annotated[int, Range(minimum=1, maximum=64)]
    """Number of streams k that a sublayer mixes and writes."""
    fixed: Annotated[int, Range(minimum=0, maximum=64)]
    """How many of them are always the first ones; the other k - fixed are chosen by the router."""
    alpha: NonNegativeFloat
    """Initial scale of the dynamic part of read, write and mix."""
    mix: Mix
    """The residual mixing matrix of the active streams, k x k."""
    clamp: bool
    """Divide rows of the mixing matrix whose sum exceeds one by it (truncated Sinkhorn that ends in columns)."""
    expand: Expansion
    reduce: Literal["sum", "mean"]
    """How n streams become the final hidden state."""
    init: Literal["near_identity", "uniform", "lite_repo", "soft_identity", "mhc_lab", "zero_mix", "circulant_repo"]
    """Named initial values of read, write and mix (mhc_exp.topology.init)."""
    router_std: PositiveFloat
    """Initial standard deviation of the router's weights; at zero all streams would tie for ever."""


Variant = Residual | Streams | Looped | Gated | Segments | Sparse | HistoryVariant

FAMILIES = {
    "residual": Residual,
    "streams": Streams,
    "looped": Looped,
    "gated": Gated,
    "segments": Segments,
    "sparse": Sparse,
    **HISTORY_FAMILIES,
}
"""Value of `variant.family` -> its dataclass."""
