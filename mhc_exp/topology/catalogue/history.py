"""Facts about the wirings whose state is the list of earlier outputs."""

from __future__ import annotations

from mhc_exp.topology.catalogue.entry import Entry

_HEADLESS = "the head reads one more mix of everything, after the last sublayer"

ENTRIES = (
    Entry(
        name="history",
        title="Learned history mixing",
        source="the idea of the package mhc 0.5.5, rebuilt: no paper",
        equation="x_(l+1) = sum_(k<H) a_k x_(l-k) + F(x_l), a = softmax of H logits per sublayer",
        parameters="2 * L * H - H * (H - 1) // 2 - 1",
        state="the last 4 states (after each sublayer, the embedding first)",
        open_choices=(
            "States are those after each sublayer; F reads the newest one; the history grows from 1 to H and is "
            "local to a call, and every skip carries its gradient.",
            "Initial weight of the newest state 0.98, the others share the rest; a softmax never equals the "
            "residual, so only variant.window=1 is the pre-norm transformer.",
            "identity_preserving: (1 - floor) softmax + floor on the newest state, floor 0.1 as in the package.",
            "doubly_stochastic: row 0 of the matrix is the next state before F, rows 0, 1, ... are what is "
            "remembered, and the last row of a full history is what is forgotten, so all rows act. The package uses "
            "one row.",
        ),
        checked_against="MHCSkip of mhc 0.5.5, for both vector constraints",
    ),
    Entry(
        name="denseformer",
        title="DenseFormer",
        source="arXiv:2402.02622, section 3",
        equation="X_i = B_i(Y_(i-1)), Y_i = sum_j alpha_ij X_j over j = i, i-k, i-2k, ... after every p-th block",
        parameters="L * (L + 3) // 2",
        state="all block outputs X_0 ... X_i",
        open_choices=(
            "Nothing: alpha starts at e_i, and with a dilation the embedding belongs to the group of multiples of k, "
            "as in the authors' code.",
        ),
        checked_against="index sets and initial values of epfml/DenseFormer",
    ),
    Entry(
        name="attnres",
        title="Attention Residuals (full)",
        source="arXiv:2603.15031",
        equation="h_l = sum_(i<l) softmax_i(w_l . RMSNorm(v_i)) v_i over the embedding and all sublayer outputs v_i",
        parameters="4 * L * C",
        state="embedding and all sublayer outputs",
        open_choices=(
            "The RMSNorm of the keys has a weight per read and eps 1e-6.",
            "The first read has a single source, whose softmax is 1: it has no parameters here.",
            "Queries start at zero, so every read is a mean: the residual state up to a factor that norms remove.",
            _HEADLESS,
        ),
        checked_against="AttnResTransformer of attn-res 0.1.0 and naive_attnres of fla-core 0.6.0",
    ),
    Entry(
        name="block_attnres",
        title="Block Attention Residuals",
        source="arXiv:2603.15031",
        equation="as attnres, over the embedding, the sums of finished blocks of sublayers, and the current partial "
        "sum",
        parameters="4 * L * C",
        state="embedding, up to 8 sums",
        open_choices=(
            "variant.blocks is the number of blocks; a block has ceil(2L / blocks) sublayers, the last may have "
            "fewer, and with more blocks than sublayers it is attnres.",
            _HEADLESS,
        ),
        checked_against="AttnResTransformer of attn-res 0.1.0 and naive_attnres of fla-core 0.6.0",
    ),
    Entry(
        name="mhar",
        title="Multi-Head Attention Residuals",
        source="arXiv:2607.27230",
        equation="as attnres with a softmax of its own for each of H groups of channels",
        parameters="4 * L * C",
        state="embedding and all sublayer outputs",
        open_choices=(
            "Keys are normalised over all channels, and scores are not divided by a temperature; read from the "
            "description of the authors' repository (a reshape of the query, no parameters added), not from the paper.",
            "8 heads, which the authors adopt for large models; their optimum is flat between 4 and 8.",
        ),
        checked_against="naive_attnres of fla-core 0.6.0, once per head (the read, not the paper)",
    ),
    Entry(
        name="muddformer",
        title="MUDDFormer",
        source="arXiv:2502.12170, equations 5-8",
        equation="Q, K, V, R = sum_j A_j X_j, A = GELU(RMSNorm(X_i) W1) W2 + a, each with its own W1, W2 and a; "
        "h = R + MHA(LN(Q), LN(K), LN(V)), X = h + FFN(LN(h))",
        parameters="2 * (L - 1) * (L + 2) * (C + 2) + 4 * (L - 1) * L * (L + 1) // 3 + (L + 1) * (C + L + 2)",
        state="all block outputs",
        open_choices=(
            "W1, W2 and a per way, as the equations have it; the authors' code lets the four ways share one hidden "
            "layer of 4(i+1) units.",
            "W1 is uniform with the paper's variance 1/C, the RMSNorm has no weight, after the last block there is "
            "one way.",
            "PrePostDANorm (for deep, narrow models) and the re-allocated FFN widths are left out: they change the "
            "body.",
        ),
        checked_against="equations and initial values as quoted by two independent ports of Caiyun-AI/MUDDFormer",
    ),
    Entry(
        name="value_residual",
        title="Value residual (ResFormer)",
        source="arXiv:2410.17897",
        equation="pre-norm residual with V_n = lambda_1 V_1 + lambda_2 H_(n-1) W_n^V in the attention of blocks n >= 2",
        parameters="2 * (L - 1)",
        state="the residual and the first block's values",
        open_choices=(
            "Learnable-ResFormer, both lambdas starting at 0.5; identity: variant.learnable=false; constant: also "
            "variant.first=2 variant.own=1; sparse: variant.start.",
            "V_1 is the first block's value before heads are split, and keeps its gradient.",
        ),
        checked_against="x-transformers 2.31.10, for variant.learnable=false",
    ),
    Entry(
        name="deep_cross_attention",
        title="DeepCrossAttention",
        source="arXiv:2502.06785, GRN-v3",
        equation="q, k, v = (G * (b + ReLU(w^T G))) 1, a = attention(q, k, v), f = a + MLP(q + a), G = (embedding, "
        "f, ...)",
        parameters="3 * C * (L * (L + 1) // 2 + L) + C * (L + 2)",
        state="embedding and all block outputs f",
        open_choices=(
            "w starts at zero, where ReLU has a kink: with slope 0 there, w would never move. Our slope is 1/2, the "
            "middle of the two sides.",
            "The query's read is the residual of the block, and a block outputs f without it, so the reads' start (b "
            "= 1, w = 0) is the pre-norm transformer.",
            "k-DCA (variant.last=k) reads the embedding, the sum of what lies between, and the last k outputs.",
            _HEADLESS,
        ),
    ),
)
