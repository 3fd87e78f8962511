"""What is said of the stream wirings whose structure is not HC's: another read, another beginning, other states."""

from __future__ import annotations

from mhc_exp.topology.catalogue.entry import Entry

_INITIAL = "Initial values are not published; `variant.init` names the presets, as for mhc."

ENTRIES = (
    Entry(
        name="deepseek_v41",
        title="DeepSeek-V4.1's single-pass mHC",
        source="arXiv:2609.19969",
        equation="x' = H_res x + H_post^T F(H_pre_before x): H_pre is the one the connection before predicted",
        parameters="2 * L * ((n * C + 1) * (n ** 2 + 2 * n) + 3)",
        state="x [B, T, n, C], and the read weights [B, T, n] that wait for the next sublayer",
        open_choices=(
            _INITIAL + " The presets' favourite stream of connection k is therefore read by sublayer k + 1.",
            "The read-out is the sum with the last weights (DeepSeek's sigmoid + 1e-6), then the body's norm.",
        ),
        checked_against="the single-pass block of Megatron-LM (read, not run)",
    ),
    Entry(
        name="mhc_lss",
        title="mHC with learned stream scales",
        source="arXiv:2606.03483",
        equation="as mhc, from x_s = embedding * scale_s, scale [n, C]",
        parameters="2 * L * ((n * C + 1) * (n ** 2 + 2 * n) + 3) + n * C",
        state="x [B, T, n, C]",
        open_choices=("Xavier uniform of the whole n x C matrix, plus 0.6, as in the authors' code.",),
    ),
    Entry(
        name="gated_residual",
        title="Gated Residual (Qwen3.8-Next)",
        source="arXiv:2608.30320, section 2.2",
        equation="R_i = g_i norm(x_i); x_i' = x_i + s_i inner(mean_j sigmoid(W_u silu(W_d R / n))_j R_j), "
        "s = 2 sigmoid(W_w R / n)",
        parameters="2 * L * (n * C + 2 * (C // b) * n * C + n ** 2 * C) + n * C + 2 * (C // b) * n * C",
        state="x [B, T, n, C]",
        open_choices=(
            "The read replaces the sublayer's norm; the body keeps its weight, a factor that the gains g_i share.",
            "The model ends with such a read, not with a norm; ours (`reduce: gate`) is followed by the body's norm.",
            "Initial weights: uniform of deviation 0.02 (`variant.weight_std`); gates then start near 1/2 and 1.",
            "What it reads is a mean over channels of the gates in diagnoses; there is no H_res, so its gains are one.",
        ),
        checked_against="Qwen4ExpTextGatedResidual of transformers 5.23.0",
    ),
    Entry(
        name="frac",
        title="Frac-Connections",
        source="arXiv:2503.14125, equations 6-15 and algorithms 1-3",
        equation="h [m, C/m]: h' = A^T h + B * F(Y^T h), each of A, Y, B a constant + s tanh(LN(h) W); m = 4",
        parameters="2 * L * ((m + n + 1) * (n + C // m) + 2 * (C // m) + 2)",
        state="h [B, T, m, C/m]: as wide as the body",
        open_choices=(
            "Norm of the fractions: LayerNorm with weight and bias, as in the paper's pseudocode; eps 1e-6.",
            "Read and write weights in diagnoses are lengths over the m parts; cosines are not reported.",
        ),
        checked_against="HyperConnections of hyper-connections 0.4.11, of whose write the paper has the diagonal",
    ),
    Entry(
        name="vwn",
        title="Virtual Width Networks",
        source="arXiv:2511.11238, equations 3-12 and algorithms 1-3",
        equation="h [n, C/m]: h' = A^T h + B^T F(A_0^T h), coefficients = constant + s * tanh(RMS(h) W / sqrt(C/m)); "
        "m = 4, n = 8",
        parameters="2 * L * ((2 * m + n) * (2 * n + C // m) + C // m) + 2 * n * C ** 2 // m",
        state="h [B, T, n, C/m]: n/m times as wide as the body",
        open_choices=(
            "The wide embedding: the paper has a wider table, or W_expand of the usual one. Only the latter leaves the "
            "body as it is (`expand: linear`). Its first C rows start as the identity, the others at random (ours).",
            "W_reduce starts by reading the first m segments, so the untrained model is the pre-norm transformer.",
            "The group norm before W_reduce divides by the root mean square of every C numbers, without mean or weight "
            "(its weight is absorbed in W_reduce).",
            "`expand: repeat` and `reduce: mean` are ours and learn nothing. Multi-token prediction is left out.",
        ),
        checked_against="the paper's pseudocode (read, not run)",
    ),
    Entry(
        name="xhc",
        title="xHC without temporal convolutions",
        source="arXiv:2607.14530, sections 3-5",
        equation="x_I' = clamp(H_res) x_I + p * H_post F(H_pre x), I = 2 fixed streams and the 2 best of a sigmoid "
        "router; H_pre over all n, H_res and H_post over the 4 in I",
        parameters="2 * L * ((n * C + 1) * n + (n - f) * n * C + (k + k ** 2) * (k * C + 1) + 3)",
        state="x [B, T, n, C], n = 16",
        open_choices=(
            "Not in it: temporal features (causal convolutions and Gram-Schmidt after each MLP; K_r = 1), and Flash.",
            "Order of Sinkhorn: columns last, because the paper divides rows that sum to more than one, which rows "
            "normalised last never do.",
            "The router has no rows for the fixed streams, whose scores the paper computes and ignores.",
            _INITIAL + " The router starts at random (deviation 0.02), since zero would tie for ever.",
            "Active streams are in order: fixed, then best first; a tie goes to the lower index. Choosing has no "
            "gradient, the score that scales the write has.",
        ),
    ),
    Entry(
        name="hyperloop",
        title="Hyperloop Transformer",
        source="arXiv:2604.21254, section 3 and tables 1 and 6",
        equation="y' = H_res y + H_post (F(H_pre y) + e_l) in loop l = 1 ... r, F = all middle blocks with their inner "
        "residuals; H_pre, H_post as mhc, H_res = diag(sigmoid(z)); before it and on the mean of y: x' = x + F(x)",
        parameters="r * ((n * C + 1) * 3 * n + 3 + C)",
        state="y [B, T, n, C] and the middle blocks' own x [B, T, C] during the loops; x alone before and after them",
        open_choices=(
            "Shares of begin, middle and end: the paper's quarter, half and quarter of the parameters are here those "
            "of the blocks (`variant.begin` and `variant.end`, null: L // 4, so below 4 blocks all are repeated).",
            "Initial values are not published: `zero_mix` has the read and write of mhc's lite_repo and H_res = 1/2, "
            "where its gradient is largest; e_l = 0; alpha = 0.01 and the norm's eps are mHC's.",
            "The body's factor 1/sqrt(2L) counts blocks with weights, not calls: bodies start alike under all wirings.",
            "A run has as many parameters as others of its depth and more FLOPs (`families.passes`). The paper "
            "compares at equal calls: `depth=8` (2 + 3 x 4 + 2) beside `variant=baseline depth=16`.",
        ),
    ),
)
