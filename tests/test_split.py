"""Who plays which part, by patient: those who recorded most wear devices; the seed draws ties and controls."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import UsageError
from shared.settings import Cohort
from simulations.split import split_patients

tables = st.dictionaries(st.text("0123456789", min_size=1, max_size=4), st.integers(1, 9), min_size=8, max_size=40)
cohorts = st.builds(Cohort, wearables=st.integers(0, 2), controls=st.integers(0, 2), seed=st.integers(0, 99))


@given(tables, cohorts)
def test_every_patient_plays_exactly_one_part(table, cohort):
    split = split_patients(table, cohort)
    parts = Counter([*split.corpus, *split.wearables, *split.controls])
    assert parts == Counter(list(table))
    assert (len(split.wearables), len(split.controls)) == (cohort.wearables, cohort.controls)
    assert len(split.corpus) >= cohort.wearables + cohort.controls


@given(tables, cohorts, st.randoms())
def test_the_order_of_the_table_does_not_matter(table, cohort, shuffler):
    pairs = list(table.items())
    shuffler.shuffle(pairs)
    assert split_patients(dict(pairs), cohort) == split_patients(table, cohort)


@given(tables, cohorts)
def test_nobody_else_recorded_more_than_a_wearer(table, cohort):
    split = split_patients(table, cohort)
    others = [table[patient] for patient in (*split.corpus, *split.controls)]
    assert all(table[patient] >= max(others) for patient in split.wearables)


TABLE = {str(n): 2 for n in range(200)}


def test_the_same_seed_gives_the_same_split_for_good():
    split = split_patients(TABLE, Cohort(wearables=3, controls=3, seed=0))
    assert split.wearables == ("160", "52", "175")
    assert split.controls == ("197", "192", "33")


def test_another_seed_draws_other_patients():
    drawn = [split_patients(TABLE, Cohort(wearables=20, controls=20, seed=seed)) for seed in (0, 1)]
    assert set(drawn[0].wearables) != set(drawn[1].wearables)
    assert set(drawn[0].controls) != set(drawn[1].controls)


def test_ties_and_controls_are_drawn_independently():
    """A patient who just missed a device is no likelier to become a control."""
    hits = 0
    for seed in range(100):
        more = split_patients(TABLE, Cohort(wearables=50, controls=0, seed=seed)).wearables[25:]
        controls = split_patients(TABLE, Cohort(wearables=25, controls=25, seed=seed)).controls
        hits += len(set(more) & set(controls))
    assert 250 < hits < 465  # 25 of 175 by chance, a hundred times: 357


@pytest.mark.parametrize(
    ("patients", "wearables", "controls", "says"),
    [
        (95, 24, 24, "95 patients, expected at least 96: 24 wearables, 24 controls"),
        (0, 1, 0, "0 patients, expected at least 2"),
        (9, -1, 1, "-1 wearables and 1 controls"),
    ],
)
def test_too_few_patients_are_refused_with_numbers(patients, wearables, controls, says):
    table = {str(n): 1 for n in range(patients)}
    with pytest.raises(UsageError, match=says):
        split_patients(table, Cohort(wearables=wearables, controls=controls))
