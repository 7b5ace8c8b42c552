"""The metrics of the comparison, each against cases worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.unlearning_metrics import (
    ain,
    gaps,
    jensen_shannon,
    privleak,
    relearn_ratio,
    steps_until,
    tow,
    zrf,
)

shares = st.floats(0, 1)
rows = st.lists(st.floats(0.01, 1), min_size=5, max_size=5).map(lambda row: (np.array(row) / sum(row)).tolist())


def test_gaps_are_signed_and_of_the_same_groups():
    found = gaps({"forget": 0.5, "retain": 0.9}, {"forget": 0.75, "retain": 0.8})
    assert found == pytest.approx({"forget": -0.25, "retain": 0.1})
    with pytest.raises(ValueError, match=r"got groups \['forget'\], expected .*'others'"):
        gaps({"forget": 0.5}, {"others": 0.5})


@pytest.mark.parametrize(
    ("unlearned", "retrained", "expected"),
    [
        ([0.5, 0.9, 0.8], [0.5, 0.9, 0.8], 1.0),
        ([0.7, 0.9, 0.7], [0.5, 1.0, 0.8], 0.8 * 0.9 * 0.9),
        ([0.3, 0.9, 0.7], [0.5, 1.0, 0.8], 0.8 * 0.9 * 0.9),  # forgetting too much costs as much as too little
        ([1.0, 1.0, 1.0], [0.0, 1.0, 1.0], 0.0),
    ],
)
def test_tow_is_the_product_of_what_is_left_of_each_gap(unlearned, retrained, expected):
    assert tow(unlearned, retrained) == pytest.approx(expected)


@given(st.lists(shares, min_size=3, max_size=3), st.lists(shares, min_size=3, max_size=3))
def test_tow_is_symmetric_and_one_for_the_retrained_model_alone(one, other):
    assert tow(one, other) == pytest.approx(tow(other, one))
    assert 0 <= tow(one, other) <= 1
    assert tow(one, one) == 1


@pytest.mark.parametrize(
    ("curve", "target", "falling", "expected"),
    [
        ([0.2, 0.5, 0.9], 0.5, False, 1),
        ([0.5, 0.2], 0.5, False, 0),  # before any step
        ([0.2, 0.3], 0.5, False, math.inf),
        ([2.0, 1.0, 0.4], 0.5, True, 2),
        ([2.0, 1.0], 0.5, True, math.inf),
    ],
)
def test_steps_are_counted_to_the_first_that_reaches_the_target(curve, target, falling, expected):
    assert steps_until(curve, target, falling=falling) == expected


@pytest.mark.parametrize(
    ("unlearned", "retrained", "expected"),
    [
        ([0.2, 0.6, 0.95], [0.1, 0.2, 0.5, 0.7, 0.96], 2 / 4),  # it comes back twice as fast
        ([0.1, 0.2, 0.5, 0.7, 0.95], [0.2, 0.6, 0.95], 4 / 2),
        ([0.95, 1.0], [0.1, 0.96], 0.0),  # it never forgot
        ([0.1, 0.2], [0.1, 0.96], math.inf),
        ([0.96], [0.95], 1.0),  # nothing to relearn in either
        ([0.1, 0.96], [0.97, 1.0], math.inf),
    ],
)
def test_ain_is_relearn_steps_over_those_of_the_retrained_model(unlearned, retrained, expected):
    assert ain(unlearned, retrained, original=1.0) == pytest.approx(expected)


def test_ain_asks_for_a_share_of_the_original_accuracy():
    assert ain([0.0, 0.4, 0.45, 0.5], [0.0, 0.0, 0.0, 0.5], original=0.5, margin=0.1) == pytest.approx(2 / 3)
    assert math.isnan(ain([0.0], [0.0], original=1.0))


def test_the_relearn_ratio_is_that_of_losses():
    assert relearn_ratio([1.0, 0.4, 0.1], [2.0, 1.0, 0.6, 0.3, 0.2], original=0.3) == pytest.approx(2 / 3)
    assert relearn_ratio([0.3], [2.0, 0.2], original=0.3) == 0


@pytest.mark.parametrize(
    ("p", "q", "expected"),
    [
        ([1.0, 0, 0], [0.0, 1, 0], 1.0),  # nothing in common: one bit
        ([0.5, 0.5, 0], [0.5, 0.5, 0], 0.0),
        # m = (.75, .25): (1 log 4/3 + .5 log 2/3 + .5 log 2) / 2
        ([1.0, 0, 0], [0.5, 0.5, 0], (math.log2(4 / 3) + 0.5 * math.log2(2 / 3) + 0.5) / 2),
    ],
)
def test_the_jensen_shannon_divergence_is_in_bits(p, q, expected):
    assert jensen_shannon([p], [q]) == pytest.approx([expected])


@given(rows, rows)
def test_the_jensen_shannon_divergence_is_symmetric_and_between_0_and_1(p, q):
    (found,), (other) = jensen_shannon([p], [q]), jensen_shannon([q], [p])
    assert found == pytest.approx(other)
    assert -1e-12 <= found <= 1


def test_zrf_is_one_minus_the_mean_divergence_from_the_untrained_model():
    p, q = [[1.0, 0, 0, 0, 0], [0.2] * 5], [[0.0, 1, 0, 0, 0], [0.2] * 5]
    assert zrf(p, q, task="single") == pytest.approx(1 - (1 + 0) / 2)
    assert zrf(q, q, task="single") == 1


def test_zrf_takes_each_label_of_many_as_a_yes_or_a_no():
    """One of five labels is sure and opposite, which is a bit; four agree."""
    p, q = [[1.0, 0.5, 0.2, 0.9, 0.1]], [[0.0, 0.5, 0.2, 0.9, 0.1]]
    assert zrf(p, q, task="multi") == pytest.approx(1 - 1 / 5)


@pytest.mark.parametrize(("unlearned", "expected"), [(0.5, 0.0), (0.75, 50.0), (0.4, -20.0)])
def test_privleak_is_relative_to_the_retrained_model_s_auc(unlearned, expected):
    assert privleak(unlearned, 0.5) == pytest.approx(expected)
