"""Accuracy, macro-F1 and macro-AUC: cases worked out by hand, and what is not defined is None."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from shared.metrics import per_record, scores

EYE = np.eye(5, dtype=np.float32)


def floats(*rows):
    return np.array(rows, dtype=np.float32)


def test_single_by_hand():
    labels = EYE[[0, 0, 1, 1]]
    chance = floats(
        [0.9, 0.1, 0.0, 0.0, 0.0], [0.4, 0.6, 0.0, 0.0, 0.0], [0.3, 0.7, 0.0, 0.0, 0.0], [0.1, 0.2, 0.7, 0.0, 0.0]
    )
    found = scores(chance, labels, task="single")
    assert found["n"] == 4
    assert found["accuracy"] == 0.5  # rows 0 and 2
    # Class 0: 1 right, 1 missed, none false: 2/3. Class 1: 1 right, 1 missed, 1 false: 1/2. The others never occur.
    assert found["macro_f1"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    # Class 0: .9 .4 above .3 .1, all 4 pairs. Class 1: .7 .2 over .1 .6: 3 of 4 pairs.
    assert found["macro_auc"] == pytest.approx((1.0 + 0.75) / 2)


def test_multi_by_hand():
    labels = floats([1, 1, 0, 0, 0], [1, 0, 0, 0, 0], [0, 1, 0, 0, 0])
    chance = floats([0.9, 0.8, 0.1, 0.1, 0.1], [0.6, 0.7, 0.1, 0.1, 0.1], [0.2, 0.6, 0.1, 0.1, 0.1])
    found = scores(chance, labels, task="multi")
    assert found["accuracy"] == pytest.approx(2 / 3)  # the second row names one too many
    # Class 0: all right. Class 1: 2 right, 1 false: 4/5.
    assert found["macro_f1"] == pytest.approx((1 + 0.8) / 2)
    # Class 0: .9 .6 over .2. Class 1: .8 .6 over .7: one of two pairs.
    assert found["macro_auc"] == pytest.approx((1 + 0.5) / 2)


def test_what_is_not_defined_is_none():
    assert scores(EYE[:0], EYE[:0], task="single") == {"n": 0, "accuracy": None, "macro_f1": None, "macro_auc": None}
    one_class = scores(EYE[[0, 0]], EYE[[0, 0]], task="single")
    assert (one_class["accuracy"], one_class["macro_f1"], one_class["macro_auc"]) == (1.0, 1.0, None)
    nothing = scores(EYE[:2] * 0, EYE[:2] * 0, task="multi")
    assert (nothing["accuracy"], nothing["macro_f1"], nothing["macro_auc"]) == (1.0, None, None)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=20))
def test_perfect_predictions_score_one(classes):
    labels = EYE[classes]
    for task in ("single", "multi"):
        found = scores(labels, labels, task=task)
        assert (found["accuracy"], found["macro_f1"]) == (1.0, 1.0)
        assert found["macro_auc"] in (1.0, None)


@given(arrays(np.float32, (12, 5), elements=st.floats(0, 1, width=32)), st.permutations(range(12)))
def test_the_order_of_the_rows_does_not_matter(chance, order):
    labels = EYE[np.arange(12) % 5]
    for task in ("single", "multi"):
        mixed, straight = scores(chance[order], labels[order], task=task), scores(chance, labels, task=task)
        assert mixed == pytest.approx(straight)


def test_a_record_is_the_mean_over_its_segments():
    values = np.arange(20, dtype=np.float32).reshape(10, 2)
    assert per_record(values, 5).tolist() == [[4.0, 5.0], [14.0, 15.0]]
    assert np.array_equal(per_record(values, 1), values)
