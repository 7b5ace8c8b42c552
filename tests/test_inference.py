"""Hand-computed cases of every formula, laws of ROC and AUC, and the figures that the design quotes."""

from math import log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, mannwhitneyu, norm

from shared.inference import (
    BINOMIAL,
    auc,
    auc_interval,
    auc_p,
    clopper_pearson,
    clustered_interval,
    detectable_auc,
    epsilon_bound,
    epsilon_of_errors,
    holm,
    needed,
    rate,
    roc,
    tpr_at,
)

scores = st.lists(st.integers(-3, 3), min_size=1, max_size=9).map(lambda values: np.array(values, dtype=float))


def test_an_auc_by_hand():
    assert auc(np.array([3.0, 1.0]), np.array([2.0, 1.0])) == pytest.approx((1 + 1 + 0 + 0.5) / 4)
    assert auc(np.ones(3), np.ones(5)) == 0.5


@given(scores, scores)
def test_the_auc_is_the_area_under_the_roc_and_the_other_way_round_it_is_one_minus(positive, negative):
    false, true = roc(positive, negative)
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    assert (np.diff(false) >= 0).all()
    assert (np.diff(true) >= 0).all()
    assert auc(positive, negative) == pytest.approx(np.trapezoid(true, false))
    assert auc(negative, positive) == pytest.approx(1 - auc(positive, negative))


def test_a_roc_by_hand():
    false, true = roc(np.array([2.0, 1.0]), np.array([1.0, 0.0]))
    assert false.tolist() == [0, 0, 0.5, 1]
    assert true.tolist() == [0, 0.5, 1, 1]


@given(st.integers(0, 16), st.sampled_from([0.90, 0.95]), st.booleans())
def test_an_interval_of_an_auc_holds_it_has_a_width_and_is_symmetric(wins, confidence, constant):
    value = wins / 16
    low, high = auc_interval(value, 16, confidence=confidence, constant=constant)
    assert 0 <= low <= value <= high <= 1
    assert high - low > 0.05
    mirrored = auc_interval(1 - value, 16, confidence=confidence, constant=constant)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-6)


@given(st.integers(0, 256))
def test_the_interval_excludes_a_half_exactly_when_the_test_rejects(u):
    low, high = auc_interval(u / 256, 16, confidence=0.95)
    assert (low <= 0.5 <= high) == (auc_p(u / 256, 16) >= 0.05)


def test_the_test_is_mann_whitneys():
    rng = np.random.default_rng(0)
    positive, negative = rng.normal(0.5, 1, 16), rng.normal(size=16)
    asked = mannwhitneyu(positive, negative, method="asymptotic", use_continuity=False)
    assert auc_p(auc(positive, negative), 16) == pytest.approx(asked.pvalue)


@given(st.integers(0, 16))
def test_against_a_single_model_the_test_is_the_sign_test(wins):
    low, high = auc_interval(wins / 16, 16, confidence=0.95, constant=True)
    assert (low, high) == clopper_pearson(wins, 16)
    p = auc_p(wins / 16, 16, constant=True)
    assert p == pytest.approx(binomtest(wins, 16).pvalue)
    assert (low <= 0.5 <= high) == (p >= 0.05)


@pytest.mark.parametrize(("shift", "least"), [(0.0, 0.93), (1.0, 0.93), (2.5, 0.93)])
def test_the_interval_covers_the_true_auc_as_often_as_it_says(shift, least):
    from scipy.stats import norm

    rng, true = np.random.default_rng(1), norm.cdf(shift / 2**0.5)
    covered = 0
    for _ in range(600):
        found = auc(rng.normal(shift, 1, 16), rng.normal(size=16))
        low, high = auc_interval(found, 16, confidence=0.95)
        covered += low <= true <= high
    assert covered / 600 >= least


def test_clopper_pearson_by_hand():
    assert clopper_pearson(0, 16, side="upper") == (0.0, pytest.approx(1 - 0.05 ** (1 / 16)))
    assert clopper_pearson(16, 16, side="lower") == (pytest.approx(0.05 ** (1 / 16)), 1.0)
    assert clopper_pearson(0, 16) == (0.0, pytest.approx(1 - 0.025 ** (1 / 16)))
    assert rate(1, 2)["value"] == 0.5


def test_a_rate_below_one_in_n_cannot_be_resolved():
    many, few = np.arange(100.0), np.arange(19.0)
    assert tpr_at(many, few, fpr=0.05) is None
    assert tpr_at(many, np.arange(99.0), fpr=0.01) is None
    found = tpr_at(np.array([99.0, 98.5, 98.0, 5.0]), many, fpr=0.01)
    assert found is not None
    assert found["value"] == 0.5  # one of a hundred may lie above, so the threshold is the second highest, 98
    assert 0 <= found["low"] < 0.5 < found["high"] <= 1


def test_tied_scores_are_no_true_positives():
    found = tpr_at(np.ones(50), np.ones(50), fpr=0.05)
    assert found is not None
    assert found["value"] == 0


@pytest.mark.parametrize(("n", "largest"), [(16, 1.35), (64, 2.82), (128, 3.53), (512, 4.93)])
def test_the_largest_epsilon_that_n_models_without_an_error_prove(n, largest):
    assert epsilon_of_errors(0, n, 0, n) == pytest.approx(largest, abs=0.005)


def test_epsilon_by_hand():
    upper = clopper_pearson(1, 20, confidence=0.975, side="upper").high
    zero = clopper_pearson(0, 20, confidence=0.975, side="upper").high
    both = log((1 - 1e-5 - upper) / zero), log((1 - 1e-5 - zero) / upper)
    assert epsilon_of_errors(1, 20, 0, 20) == pytest.approx(max(both))
    assert epsilon_of_errors(20, 20, 20, 20) == 0


def test_epsilon_is_bounded_on_the_half_that_did_not_choose_the_threshold():
    some = np.random.default_rng(0).permutation(32).astype(float)
    apart = epsilon_bound(some + 100, some)
    assert apart == pytest.approx(1.35, abs=0.005)  # 16 of 32 are left to prove it
    below = some, some + 100
    assert epsilon_bound(*below) == apart
    assert epsilon_bound(*below, both=False) == 0
    first_only = np.r_[np.full(16, 9.0), np.zeros(16)], np.zeros(32)
    assert epsilon_bound(*first_only) == 0


def test_equal_arms_prove_an_epsilon_no_more_often_than_the_level():
    rng = np.random.default_rng(2)
    alarms = sum(epsilon_bound(rng.normal(size=256), rng.normal(size=256)) > 0 for _ in range(400))
    assert alarms / 400 <= 0.05


@pytest.mark.parametrize(("n", "smallest"), [(16, 0.79), (64, 0.64), (256, 0.57)])
def test_the_smallest_auc_that_n_an_arm_tell_from_a_half(n, smallest):
    assert detectable_auc(n) == pytest.approx(smallest, abs=0.005)
    assert detectable_auc(n, variance=BINOMIAL) > detectable_auc(n)
    assert detectable_auc(2) == 1


def test_how_many_copies_would_decide():
    assert needed(0.5) == 143
    assert needed(0.79) == pytest.approx(16, abs=1)
    assert needed(0.57) > needed(0.5)  # equivalence gets dearer with what is off
    assert needed(0.21) == needed(0.79)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_never_lowers_a_p_and_keeps_their_order(values):
    adjusted = holm(values)
    assert all(a >= p for a, p in zip(adjusted, values, strict=True))
    assert [adjusted[i] for i in np.argsort(values)] == sorted(adjusted)


def test_the_interval_over_patients_covers_their_mean_though_they_are_few():
    rng = np.random.default_rng(3)
    found = [clustered_interval(rng.normal(size=8), confidence=0.95, rng=rng) for _ in range(300)]
    assert 0.92 <= np.mean([low <= 0 <= high for low, high in found]) <= 0.99


@pytest.mark.parametrize(("patients", "covered"), [(2, 0.50), (3, 0.75), (8, 0.84)])
def test_of_few_patients_with_skewed_figures_the_interval_is_too_narrow_as_it_says(patients, covered):
    rng = np.random.default_rng(5)
    draw = rng.normal if patients < 8 else rng.lognormal
    middle = 0.0 if patients < 8 else np.exp(0.5)
    found = [clustered_interval(draw(size=patients), confidence=0.95, rng=rng) for _ in range(600)]
    assert np.mean([low <= middle <= high for low, high in found]) == pytest.approx(covered, abs=0.05)


def test_beside_an_arm_that_hardly_varies_the_test_is_too_keen_as_the_documents_say():
    """docs/AUDIT.md, limits: Hanley and McNeil's variance is that of arms which vary alike."""
    rng = np.random.default_rng(1)
    wide = [auc(rng.normal(size=64), 1e-4 * rng.normal(size=64)) for _ in range(1500)]
    assert 0.06 <= np.mean([auc_p(value, 64) < 0.05 for value in wide]) <= 0.11
    away = norm.ppf(0.6) * np.sqrt(1 + 0.05**2)
    near = [auc(rng.normal(away, 1, 143), rng.normal(0, 0.05, 143)) for _ in range(1500)]
    assert 0.06 <= np.mean([auc_interval(value, 143, confidence=0.9).high <= 0.6 for value in near]) <= 0.11
