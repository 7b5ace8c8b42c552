"""Equations 5 to 8 by hand, and the patient as the unit of inference."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.paper_probe import difference, summarise
from shared.messages import GroupMargins

bits = st.lists(st.integers(0, 1), min_size=4, max_size=4)
groups = st.builds(lambda g, p: group([g, g], [p, p]), bits, bits)


def group(general, personal) -> GroupMargins:
    """Rows are strengths, columns segments."""
    rows = tuple(map(tuple, general)), tuple(map(tuple, personal))
    empty = tuple(tuple(0.0 for _ in row) for row in general)
    return GroupMargins(*rows, empty, empty)


FIRST = group([[1, 1, 0, 0], [0, 0, 0, 0]], [[1, 1, 1, 0], [1, 0, 0, 0]])
SECOND = group([[1, 1], [1, 0]], [[0, 1], [1, 0]])


def test_the_difference_by_hand():
    assert difference(FIRST) == [0.25, 0.25]
    assert difference(SECOND) == [-0.5, 0.0]
    assert difference(group([[], []], [[], []])) == [None, None]


def test_two_patients_by_hand():
    found = summarise([FIRST, SECOND], (0.0, 0.05), seed=0)
    assert (found["patients"], found["segments"]) == (2, 6)
    assert found["general"] == pytest.approx([4 / 6, 1 / 6])  # equation 6: over all segments
    assert found["personal"] == pytest.approx([4 / 6, 2 / 6])
    assert found["difference"] == pytest.approx([-0.125, 0.125])  # equation 7: a mean over patients
    assert found["positive"] == 0.5
    assert found["extracted"] == 2  # equation 8: the first patient's third segment and first
    assert (found["low"][0], found["high"][0]) == pytest.approx((-0.5, 0.25))


def test_the_share_of_positive_patients_is_at_the_largest_small_strength():
    above = group([[0], [0], [1]], [[0], [1], [0]])
    assert summarise([above], (0.0, 0.05, 0.1), seed=0)["positive"] == 1.0
    assert summarise([above], (0.07, 0.1, 0.2), seed=0)["positive"] is None


def test_nothing_measured_is_none_and_empty_patients_do_not_count():
    none = summarise([group([[], []], [[], []])], (0.0, 0.1), seed=0)
    assert (none["patients"], none["difference"], none["positive"]) == (0, [None, None], None)
    assert summarise([], (0.0, 0.1), seed=0) == none
    assert summarise([FIRST, group([[], []], [[], []])], (0.0, 0.05), seed=0) == summarise([FIRST], (0.0, 0.05), seed=0)


@given(st.lists(groups, min_size=1, max_size=5))
def test_the_interval_holds_the_mean_and_all_figures_keep_to_their_ranges(patients):
    found = summarise(patients, (0.0, 0.05), seed=1)
    for row in range(2):
        assert -1 <= found["low"][row] <= found["difference"][row] + 1e-9
        assert found["difference"][row] - 1e-9 <= found["high"][row] <= 1
        assert 0 <= found["general"][row] <= 1
    assert 0 <= found["extracted"] <= found["segments"]


@given(groups)
def test_a_copy_that_is_the_general_model_shows_nothing(one):
    same = GroupMargins(one.general_hits, one.general_hits, one.general_margins, one.general_margins)
    found = summarise([same], (0.0, 0.05), seed=0)
    assert found["difference"] == found["low"] == found["high"] == [0.0, 0.0]
    assert (found["positive"], found["extracted"]) == (0.0, 0)


@given(st.lists(groups, min_size=2, max_size=5), st.randoms())
def test_the_order_of_patients_does_not_matter_but_to_the_last_digits(patients, shuffler):
    mixed = list(patients)
    shuffler.shuffle(mixed)
    first, second = (summarise(each, (0.0, 0.05), seed=0) for each in (patients, mixed))
    for name in ("general", "personal", "difference"):
        assert first[name] == pytest.approx(second[name])


def test_a_patient_with_many_segments_counts_once():
    many = group([[0] * 100], [[1] * 100])
    few = group([[1]], [[0]])
    assert summarise([many, few], (0.0,), seed=0)["difference"] == [0.0]


def test_the_seed_decides_the_interval():
    rng = np.random.default_rng(0)
    patients = [group([rng.integers(0, 2, 9).tolist()], [rng.integers(0, 2, 9).tolist()]) for _ in range(8)]
    assert summarise(patients, (0.0,), seed=0) == summarise(patients, (0.0,), seed=0)
