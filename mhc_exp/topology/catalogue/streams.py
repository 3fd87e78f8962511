"""What is said of the wirings that keep n streams, x [n, C] per token: x' = H_res x + H_post^T F(H_pre x)."""

from __future__ import annotations

from mhc_exp.topology.catalogue.entry import Entry

_STREAMS = "x [B, T, n, C]"
_INITIAL = "Initial phi and b are not published; `variant.init` names the presets (see Initial values)."
_ENDS = "How streams begin and end is not stated; replicate and sum, as in HC."
_NORM = (
    "The RMS norm's weight is absorbed in phi, as the paper says; eps is 1e-6 (the paper's 1e-20 differs only at zero)."
)

ENTRIES = (
    Entry(
        name="hc",
        title="Hyper-Connections",
        source="arXiv:2409.19606, equations 1-14 and appendix J",
        equation="[H_pre | H_res^T] = [A_m | A_r] + s_a tanh(LN(x) W_a), H_post = B + s_b tanh(LN(x) W_b)",
        parameters="2 * L * (n * (n + 2) + (n + 2) * C + 2 * C + 2)",
        state=_STREAMS,
        open_choices=(
            "Weight, bias and eps of the norm on the streams: LayerNorm with both, eps 1e-6.",
            "Output projections times sqrt(n) are in the implementation notes only: `variant.scale_output_init=true`.",
        ),
        checked_against="lucidrains' HyperConnections (hyper-connections 0.4.11) with LayerNorm for its RMSNorm",
    ),
    Entry(
        name="mhc",
        title="Manifold-Constrained Hyper-Connections",
        source="arXiv:2512.24880, equations 3-9",
        equation="H_pre = sigmoid(z), H_post = 2 sigmoid(z), H_res = Sinkhorn(exp(z)), z = b + alpha phi RMS(vec x)",
        parameters="2 * L * ((n * C + 1) * (n ** 2 + 2 * n) + 3)",
        state=_STREAMS,
        open_choices=(_INITIAL, _ENDS, _NORM),
        checked_against="the projection of tile-kernels 1.0.0 and the Sinkhorn of hyper-connections 0.4.11",
    ),
    Entry(
        name="identity_hc",
        title="Identity hyper-connections",
        source="an arm of the ICML version of arXiv:2512.24880",
        equation="as mhc with H_res = I",
        parameters="2 * L * ((n * C + 1) * 2 * n + 2)",
        state=_STREAMS,
        open_choices=(_INITIAL,),
        checked_against="HYV4HyperConnection of transformers 5.23.0",
    ),
    Entry(
        name="exp_hc",
        title="mHC without its constraint",
        source="the unconstrained arm of `sweep=chart`",
        equation="as mhc with H_res = exp(z)",
        parameters="2 * L * ((n * C + 1) * (n ** 2 + 2 * n) + 3)",
        state=_STREAMS,
    ),
    Entry(
        name="unmixed_hc",
        title="Hyper-Connections without mixing",
        source="the identity arm of `sweep=chart`",
        equation="as hc with H_res = I",
        parameters="2 * L * (2 * n + 4 * C + 2)",
        state=_STREAMS,
    ),
    Entry(
        name="deepseek_v4",
        title="mHC as in DeepSeek-V4",
        source="arXiv:2606.19348 and the TileKernels repository",
        equation="as mhc; H_res^T = row softmax + eps, columns, 19 x (rows, columns); H_pre + eps; learned read-out",
        parameters="2 * L * ((n * C + 1) * (n ** 2 + 2 * n) + 3) + n ** 2 * C + n + 1",
        state=_STREAMS,
        open_choices=("Initial values are known from checkpoints only; the presets of mhc.",),
        checked_against="DeepSeek's reference (tile-kernels 1.0.0) and DeepseekV4HyperConnection (transformers 5.23.0)",
    ),
    Entry(
        name="demo_hc",
        title="The seed demo's HC",
        source="softwarewrighter/mHC-poc",
        equation="one static connection per block, which keeps its inner residuals; H_res = exp(z)",
        parameters="3 * L * n ** 2",
        state=_STREAMS,
        open_choices=("Kept as it is, a permanent saddle: see seed_demo.md.",),
    ),
    Entry(
        name="demo_mhc",
        title="The seed demo's mHC",
        source="softwarewrighter/mHC-poc",
        equation="as demo_hc with H_res = Sinkhorn_20(exp(z)), columns last",
        parameters="3 * L * n ** 2",
        state=_STREAMS,
        open_choices=("Kept as it is, a permanent saddle: see seed_demo.md.",),
    ),
)
