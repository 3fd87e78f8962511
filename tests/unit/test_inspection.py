"""Numbers of `mhc-exp inspect` on matrices whose answers are known, and changes of coefficients in numpy."""

from __future__ import annotations

import numpy as np
import pytest

from mhc_exp.topology import inspection as numbers
from mhc_exp.topology import interventions
from mhc_exp.topology.interventions import Intervention, Window

SWAP = np.array([[0.0, 1.0], [1.0, 0.0]])


def test_distances_are_zero_for_the_identity_and_known_for_a_swap():
    mix = np.stack([np.eye(2), SWAP])[:, None]
    assert numbers.identity_distance(mix) == pytest.approx([0.0, np.sqrt(2)])  # ||I - swap||_F = 2, over sqrt(2)
    assert numbers.distance(mix, mix[::-1]) == pytest.approx([np.sqrt(2)] * 2)
    assert numbers.distance(mix, mix) == pytest.approx([0.0, 0.0])


def test_the_residual_is_that_of_the_worst_token():
    leak = np.array([[0.9, 0.0], [0.1, 1.0]])  # columns sum to one, rows to 0.9 and 1.1
    mix = np.stack([np.stack([SWAP, SWAP]), np.stack([SWAP, leak])])
    assert numbers.constraint_residual(mix) == pytest.approx([0.0, 0.1])


def test_spread_over_tokens_is_a_share_of_the_mean():
    same = np.tile(SWAP, (1, 5, 1, 1))
    assert numbers.token_spread(same) == pytest.approx([0.0])
    assert numbers.token_spread(np.array([[[1.0, 0.0], [3.0, 0.0]]])) == pytest.approx([0.5])  # 2 +- 1
    assert numbers.token_spread(np.ones((3, 1, 4))) == pytest.approx([0.0] * 3)  # static


def test_cosines_do_not_know_the_length_of_a_stream():
    streams = np.array([[1.0, 0.0], [0.0, 5.0], [-2.0, 0.0]])
    cosine = numbers.cosine_matrices((streams @ streams.T)[None, None])
    np.testing.assert_allclose(cosine[0], [[1, 0, -1], [0, 1, 0], [-1, 0, 1]], atol=1e-12)


@pytest.mark.parametrize("count", [1, 5, 24, 25, 96])
def test_the_selection_is_small_even_and_has_both_ends(count):
    chosen = numbers.selection(count)
    assert (chosen[0], chosen[-1], len(chosen)) == (0, count - 1, min(count, 24))
    gaps = np.diff(chosen)
    assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1


# --- changes ---------------------------------------------------------------------------------------------------------


def coefficients(streams=4, tokens=5):
    random = np.random.default_rng(3)
    return (
        random.normal(size=(tokens, streams)),
        random.normal(size=(tokens, streams)),
        random.normal(size=(tokens, streams, streams)),
    )


def step(x, y, read, write, mix):
    """(what the sublayer is given [N, C], new streams [N, S, C]) of streams x and the sublayer's output y."""
    return np.einsum("ns,nsc->nc", read, x), mix @ x + write[..., None] * y[:, None]


def test_each_change_does_to_the_streams_what_its_name_says():
    random = np.random.default_rng(4)
    x, y, old = random.normal(size=(5, 4, 6)), random.normal(size=(5, 6)), coefficients()
    given, new = step(x, y, *old)

    def after(kind, **more):
        return step(x, y, *interventions.apply(Intervention(kind, **more), *old))

    added = old[1][..., None] * y[:, None]
    np.testing.assert_allclose(after("identity")[1], x + added)
    np.testing.assert_allclose(after("uniform")[1], x.mean(1, keepdims=True) + added)
    np.testing.assert_allclose(after("token_mean")[1], old[2].mean(0) @ x + added)
    np.testing.assert_allclose(after("permute", order=(2, 0, 1, 3))[1], new[:, [2, 0, 1, 3]])
    np.testing.assert_allclose(after("permute", order=(2, 0, 1, 3))[0], given)
    x_without = x * (np.arange(4) != 1)[:, None]
    given_without, new_without = step(x_without, y, *old)
    found = after("ablate", stream=1)
    np.testing.assert_allclose(found[0], given_without)
    np.testing.assert_allclose(found[1], new_without * (np.arange(4) != 1)[:, None], atol=1e-12)


@pytest.mark.parametrize(
    ("window", "meant"),
    [(Window(), range(6)), (Window(2), range(2, 6)), (Window(None, 3), range(3)), (Window(5, 6), [5])],
)
def test_a_window_is_a_slice(window, meant):
    assert [*window.indices(6)] == [*meant]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (Intervention("identity", Window(3, 3)), "no connections 3:3; this model has 6"),
        (Intervention("identity", Window(0, 7)), "no connections 0:7"),
        (Intervention("ablate", stream=4), "no stream 4; this model has 4: type 0 to 3"),
        (Intervention("permute", order=(0, 1)), "0,1 is no permutation of the 4 streams"),
        (Intervention("permute", order=(0, 1, 2, 2)), "such as 1,2,3,0"),
    ],
)
def test_a_change_that_does_not_fit_says_what_does(change, says):
    with pytest.raises(ValueError, match=says):
        change.check(streams=4, connections=6)
