"""What is said of the wirings that keep one stream."""

from __future__ import annotations

from mhc_exp.topology.catalogue.entry import Entry

_ONE = "x [B, T, C]"

ENTRIES = (
    Entry(
        name="none",
        title="No residual connection",
        source="the floor that every wiring has to beat",
        equation="x' = F(norm(x))",
        parameters="0",
        state=_ONE,
    ),
    Entry(
        name="baseline",
        title="Pre-norm residual",
        source="arXiv:2002.04745, figure 1b",
        equation="x' = x + F(norm(x))",
        parameters="0",
        state=_ONE,
        checked_against="torch.nn.TransformerEncoderLayer(norm_first=True)",
    ),
    Entry(
        name="post_norm",
        title="Post-norm residual",
        source="arXiv:1706.03762; arXiv:2002.04745, figure 1a",
        equation="x' = norm(x + F(x))",
        parameters="0",
        state=_ONE,
        open_choices=(
            "The paper has no final norm; the body's stays, as for every wiring.",
            "The norm is the body's (LayerNorm or RMSNorm) and is the same parameter that pre-norm puts in front.",
        ),
        checked_against="torch.nn.TransformerEncoderLayer(norm_first=False)",
    ),
    Entry(
        name="rezero",
        title="ReZero",
        source="arXiv:2003.04887, equation 1 and section 4",
        equation="x' = x + a F(x), a = 0 at the start, no norm in front of F",
        parameters="L",
        state=_ONE,
        open_choices=(
            "Without norms, as in the paper; the norms' parameters stay in the body and have no gradient. "
            "`variant.norm=pre` keeps them in use.",
            "One a per block, shared by attention and MLP, as in the authors' code (`variant.gate.per=sublayer`: two).",
            "The body's final norm stays.",
        ),
        checked_against="the authors' RZTXEncoderLayer (rezero 0.1.0)",
    ),
    Entry(
        name="layer_scale",
        title="LayerScale",
        source="arXiv:2103.17239 (CaiT), equation 4",
        equation="x' = x + gamma * F(norm(x)), gamma [C] = 0.1 up to 18 blocks, 1e-5 up to 24, 1e-6 above",
        parameters="2 * L * C",
        state=_ONE,
        open_choices=("Only the residual: CaiT's class-attention layers belong to image classification.",),
        checked_against="x-transformers 2.31.10",
    ),
    Entry(
        name="deepnorm",
        title="DeepNorm",
        source="arXiv:2203.00555, equation 1 and figure 2 (decoder-only)",
        equation="x' = norm((2L)^(1/4) x + F(x)); initial value, output and MLP matrices times (8L)^(-1/4)",
        parameters="0",
        state=_ONE,
        open_choices=(
            "The paper scales Xavier's initial values; here beta scales those of `model.init`, in place of the "
            "1/sqrt(2L) that GPT-2's rule puts on output matrices. `variant.deepnorm_init=false` leaves them alone.",
            "The body's final norm stays.",
        ),
        checked_against="the scaled post-norm residual of x-transformers 2.31.10; constants: torchscale 0.3.0 (read)",
    ),
    Entry(
        name="laurel",
        title="LAuReL (RW+LR)",
        source="arXiv:2411.07501, equations 2-4",
        equation="x' = a F(norm(x)) + b (x + B A x)",
        parameters="2 * L * (2 + 8 * C)",
        state=_ONE,
        open_choices=(
            "The paper wants a and b bounded and leaves open how: here two times a softmax of two logits, so that "
            "a = b = 1 at the start (also `sigmoid`, `free`).",
            "Rank r = 4 (`variant.laurel.rank`); B = 0, and A[i mod r, i] = (rC)^(-1/2), column-orthogonal.",
            "The paper's third form, previous activations (PA), is not offered.",
        ),
        checked_against="the low-rank term of Gemma 3n in transformers 5.23.0, before it norms it",
    ),
)
