"""Facts about the wirings that differ from mHC in the chart of H_res."""

from __future__ import annotations

from mhc_exp.topology.catalogue.entry import Entry

_UPDATE = "x' = H_res x + H_post^T F(H_pre x), read sigmoid, write 2 sigmoid, as mHC; "
_STATE = "n streams [B, T, n, C]"

ENTRIES = (
    Entry(
        name="mhc_lite",
        title="mHC-lite",
        source="arXiv:2601.05732; initial values of its repository",
        equation=_UPDATE + "H_res = sum_k softmax(logits)_k P_k over all n! permutation matrices",
        parameters="2 * L * ((n * C + 1) * (2 * n + factorial(n)) + 3)",
        state=_STATE,
        open_choices=(
            "The weight of the norm (nC numbers per connection in the paper's count) is absorbed in the projection.",
            "Its repository decays mHC's static logits and not its own, by their number of axes; here none is decayed.",
            "Up to 5 streams: 6 would be 720 logits.",
        ),
        checked_against="permutation matrices of sympy 1.14.0 (the chart)",
    ),
    Entry(
        name="kromhc",
        title="KromHC",
        source="arXiv:2601.21579; initial values and order of the factors of its repository",
        equation=_UPDATE + "H_res = U_1 x ... x U_K (Kronecker), U_k = [[p_k, 1 - p_k], [1 - p_k, p_k]]",
        parameters="2 * L * ((n * C + 1) * (2 * n + 2 * log2(n)) + 3)",
        state=_STATE,
        open_choices=(
            "The paper allows any factors i_k; like its repository we have 2 x 2 ones, so n is a power of two.",
            "One scale serves all factors, as in the paper. The weight of the norm is absorbed in the projection.",
        ),
        checked_against="torch.kron (the chart)",
    ),
    Entry(
        name="ohc",
        title="oHC",
        source="arXiv:2609.02672",
        equation=_UPDATE
        + "H_res = L_q R_conj(r) in SO(4), x -> q x conj(r), with v_q = (1 + l_0, l_1, l_2, l_3), q = v/|v|",
        parameters="2 * L * ((n * C + 1) * (2 * n + 8) + 2)",
        state=_STATE,
        open_choices=(
            "The scale of H_res is frozen in the paper, whose value we do not know: it stays alpha = 0.01 and is no "
            "parameter (variant.mix.scale=learned restores it).",
            "Initial gates and projections are not published; its baseline starts from zero biases, and so do we "
            "(preset uniform). H_res then starts as the identity but for the random projections.",
            "eps 1e-8 under the root: rotations are orthogonal to 1e-8, and zero logits are I exactly in float32.",
        ),
        checked_against="pyquaternion 0.9.9 (the chart)",
    ),
    Entry(
        name="go_mhc",
        title="go-mHC",
        source="arXiv:2604.02309",
        equation=_UPDATE + "H_ij = (1/s) sum_kl Q_(i,k),(j,l)^2, Q = (I - A)(I + A)^-1 of size ns, A skew, s = 2",
        parameters="2 * L * ((n * C + 1) * (2 * n + n * s * (n * s - 1) // 2) + 3)",
        state=_STATE,
        open_choices=(
            "Zero logits are the identity, but a critical point of the squares: from there neither bias nor projection "
            "ever has a gradient (tests/unit/test_chart_structure.py). We start beside it: all logits equal, "
            "diagonal 0.999.",
            "Gates start as in the mhc-lite repository. s x n is at most 16.",
        ),
        checked_against="CayleyTransform of sparse-hyper-connections 0.1.2, squared and pooled (the chart)",
    ),
    Entry(
        name="tbp_mhc",
        title="TBP-mHC",
        source="arXiv:2605.21724; initial values of its repository",
        equation=_UPDATE + "H_ij = L_ij + (U_ij - L_ij) sigmoid(logit_ij) for i, j < n, the rest from unit sums",
        parameters="2 * L * ((n * C + 1) * (2 * n + (n - 1) ** 2) + 3)",
        state=_STATE,
        open_choices=(
            "Its repository allocates n^2 projections and uses (n - 1)^2; we allocate what is used.",
            "Its optional floor H = (1 - d) X + d J with a learned d (sigmoid(-8) at the start) is left out.",
            "The map has kinks where two bounds of an interval are equal, as at zero logits; the gradient there is "
            "one-sided, the same on every backend.",
        ),
    ),
    Entry(
        name="c_mhc",
        title="C-mHC",
        source="S. Zwick, Circulant Hyper-Connections (2026), eq. 3 and its leak; initial values of its code",
        equation=_UPDATE + "H_res = (1 - g) I + g sum_k softmax(logits)_k Pi^k, g = beta / (2 x connections), beta = 4",
        parameters="2 * L * ((n * C + 1) * 3 * n + 3)",
        state=_STATE,
        open_choices=(
            "g is at most 1: below two connections beta = 4 would exceed it.",
            "One scale for read, write and mix in its code; three here, as in mHC. Read-out is the mean, as there.",
            "Streams part slowly: reads are uniform and projections small (std 0.02 / sqrt(nC)).",
        ),
    ),
)
