"""Scores by hand; arms that are alike score alike, and arms that are not are told apart in either direction."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import expit

from server.comparison import auc_of
from shared.membership import SCORES, Arm, Readout, loss, margin, modified_entropy, rmia, ulira


def readout(margins) -> Readout:
    margins = np.array(margins, dtype=float)
    return Readout(margins, np.logaddexp(0, -margins), margins - 1, margins - 0.1)


def arm(margins, control=None) -> Arm:
    return Arm(readout(margins), readout(np.zeros((len(margins), 3)) if control is None else control))


def normal(rng, shift=0.0, *, copies=16, segments=5) -> Arm:
    return arm(rng.normal(shift, 1, (copies, segments)), rng.normal(size=(copies, 20)))


def test_simple_scores_by_hand():
    one, two = arm([[1, 3], [0, 0]]), arm([[-1, -1], [2, 0]])
    assert margin(one, two).tried.tolist() == [2, 0]
    assert margin(one, two).never.tolist() == [-1, 1]
    assert loss(one, two).tried[1] == pytest.approx(-np.log(2))
    assert loss(one, two).tried[0] == pytest.approx(np.log(expit([1, 3])).mean())
    assert SCORES["entropy"](one, two).tried[1] == pytest.approx(-np.log(2))
    assert SCORES["fgsm"](one, two).tried.tolist() == [1, 1]
    assert SCORES["noise"](one, two).never == pytest.approx([0.1, 0.1])


def test_a_likelihood_ratio_by_hand():
    # Half one: tried 2, 4 (mean 3), never -1, 1 (mean 0); pooled variance (2 + 2) / 2 = 2. Half two is scored by it.
    tried, never = arm([[2], [4], [1], [5]]), arm([[-1], [1], [0], [3]])
    scored = ulira(tried, never)
    by_hand = [0.5 * ((x - 0) ** 2 - (x - 3) ** 2) / 2 for x in (1, 5)]
    assert scored.tried[2:] == pytest.approx(by_hand)
    assert scored.never[2:] == pytest.approx([0.5 * (0 - 9) / 2, 0.5 * (9 - 0) / 2])
    assert scored.crossed
    assert scored.directed


def test_rmia_by_hand():
    # References of the other half: p(x) = 1/2, p(z) = 1/2 for all three controls.
    flat = np.zeros((4, 1))
    control = np.zeros((4, 3))
    control[2] = [-1, 0, 2]  # ratios of the third copy's controls: expit / .5
    tried = arm(np.array([[0], [0], [1], [-2.0]]), control)
    scored = rmia(tried, arm(flat))
    assert scored.tried.tolist() == pytest.approx(
        [1, 1, 2 / 3, 0]
    )  # x = 1 beats -1 and 0; x = -2 beats none of 0, 0, 0
    assert scored.never.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("name", ["margin", "ulira", "rmia", "loss", "entropy"])
def test_arms_that_are_alike_have_an_auc_of_a_half_on_average(name):
    rng = np.random.default_rng(0)
    found = [auc_of(SCORES[name](normal(rng), normal(rng))) for _ in range(150)]
    assert np.mean(found) == pytest.approx(0.5, abs=3 * np.std(found) / 150**0.5)


@pytest.mark.parametrize("shift", [2.0, -2.0])
def test_the_likelihood_ratio_learns_the_direction_and_the_margin_shows_it(shift):
    rng = np.random.default_rng(1)
    tried, never = normal(rng, shift), normal(rng)
    assert auc_of(ulira(tried, never)) > 0.9
    assert (auc_of(margin(tried, never)) > 0.9) == (shift > 0)


def test_an_overshoot_that_varies_as_a_trace_does_is_seen_with_many_copies():
    rng = np.random.default_rng(2)
    wide = arm(rng.normal(0, 3, (256, 5)))
    assert auc_of(ulira(wide, normal(rng, copies=256))) > 0.8
    assert auc_of(margin(wide, normal(rng, copies=256))) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("name", SCORES)
def test_identical_models_score_the_same_number(name):
    same = arm(np.full((16, 4), 2.5), np.full((16, 6), 1.0))
    scored = SCORES[name](same, replace(same))
    assert np.isfinite(scored.tried).all()
    assert auc_of(scored) == 0.5


@pytest.mark.parametrize("name", SCORES)
def test_models_that_are_beyond_doubt_give_finite_scores(name):
    sure, wrong = arm(np.full((8, 2), 1e4)), arm(np.full((8, 2), -1e4))
    scored = SCORES[name](sure, wrong)
    assert np.isfinite(np.concatenate([scored.tried, scored.never])).all()


def test_the_modified_entropy_by_hand():
    p = np.array([[0.7, 0.2, 0.1], [0.2, 0.7, 0.1]])
    right = -(0.3 * np.log(0.7) + 0.2 * np.log(0.8) + 0.1 * np.log(0.9))
    wrong = -(0.8 * np.log(0.2) + 0.7 * np.log(0.3) + 0.1 * np.log(0.9))
    found = modified_entropy(np.log(p) + 4.2, np.array([[1, 0, 0], [1, 0, 0]]))
    assert found == pytest.approx([right, wrong])
    assert modified_entropy([[0.0, 0.0]], [[1, 0]])[0] == pytest.approx(np.log(2))


def test_a_sure_model_has_no_modified_entropy_when_right_and_much_of_it_when_wrong():
    assert modified_entropy([[1000.0, 0, 0]], [[1, 0, 0]])[0] == pytest.approx(0, abs=1e-9)
    assert modified_entropy([[1000.0, 0, 0]], [[0, 1, 0]])[0] == pytest.approx(2 * 1000 - np.log(2), rel=1e-3)


@given(arrays(float, (3, 5), elements=st.floats(-50, 50)), st.integers(0, 4), st.floats(-9, 9))
def test_the_modified_entropy_is_finite_not_negative_and_blind_to_a_shift_of_all_logits(logits, label, shift):
    labels = np.eye(5)[[label] * 3]
    found = modified_entropy(logits, labels)
    assert np.isfinite(found).all()
    assert (found >= -1e-9).all()
    assert modified_entropy(logits + shift, labels) == pytest.approx(found, rel=1e-6, abs=1e-6)
