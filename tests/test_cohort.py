"""The synthetic cohort: PTB-XL's layout, the heart's laws, and neither too easy nor too hard."""

import csv
from collections import Counter, defaultdict
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from ptbxl_files import counts_of, room_for
from torch import nn

from shared.errors import DataError, UsageError
from shared.ptbxl import for_task, index, load, verify_checksums
from shared.settings import LEADS, SUPERCLASSES
from shared.training import fit, one_thread
from simulations.cohort import plan, record_count, write_cohort
from simulations.dipole import FINDINGS, counts, patient_heart

PATIENTS = 60


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cohort") / "data"
    write_cohort(folder, patients=PATIENTS, seed=5)
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_it_has_ptbxls_layout_and_every_record_can_be_used(cohort, tmp_path):
    found = index(cohort)
    assert found.left_out == ()
    assert len(found.records) == record_count(PATIENTS)
    assert verify_checksums(cohort) == []
    assert (cohort / "RECORDS").read_text().split() == [record.path for record in found.records]
    signals = load(found, folder=cohort, cache=tmp_path)
    assert (signals.left_out, signals.unit) == ((), "mV")
    with (cohort / "ptbxl_database.csv").open(newline="") as file:
        assert next(csv.DictReader(file))["patient_id"].endswith(".0")  # a float, as in PTB-XL


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        write_cohort(tmp_path / name, patients=3, seed=seed)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    assert files_of(tmp_path / "a") != files_of(tmp_path / "c")


def test_einthovens_law_holds_to_rounding(cohort):
    for record in index(cohort).records:
        lead = dict(zip(LEADS, counts_of(cohort, record).astype(np.int64), strict=True))
        np.testing.assert_array_equal(lead["III"], lead["II"] - lead["I"])
        for name, law in (
            ("AVR", -(lead["I"] + lead["II"]) / 2),
            ("AVL", lead["I"] - lead["II"] / 2),
            ("AVF", lead["II"] - lead["I"] / 2),
        ):
            assert np.abs(lead[name] - law).max() <= 0.5, (record.id, name)


@pytest.mark.parametrize("patients", [1, 2, 7, 60, 301])
def test_a_third_of_the_patients_has_three_to_five_records_months_apart(patients):
    visits = defaultdict(list)
    for visit in plan(patients, seed=1):
        visits[visit.patient].append(visit.at)
    sizes = [len(dates) for dates in visits.values()]
    assert len(sizes) == patients
    assert sum(sizes) == record_count(patients)
    assert sum(3 <= size <= 5 for size in sizes) >= patients / 3
    assert max(sizes) <= 5
    for dates in visits.values():
        assert all(later - earlier >= timedelta(days=60) for earlier, later in pairwise(dates))


def test_superclasses_folds_and_dates_are_as_promised(tmp_path):
    write_cohort(tmp_path / "data", patients=200, seed=2)
    records = index(tmp_path / "data").records
    single, several = for_task(records, "single")
    assert 0.01 < len(several) / len(records) < 0.1
    shares = Counter(record.superclasses[0] for record in single)
    assert 0.35 < shares["NORM"] / len(single) < 0.5
    assert all(0.1 < shares[name] / len(single) < 0.2 for name in SUPERCLASSES[1:])
    folds = defaultdict(set)
    courses = defaultdict(list)
    for record in records:
        folds[record.patient].add(record.fold)
        courses[record.patient].append(record.superclasses)
        datetime.strptime(record.recorded_at, "%Y-%m-%d %H:%M:%S")
    assert all(len(of_patient) == 1 for of_patient in folds.values())
    assert Counter(fold for of_patient in folds.values() for fold in of_patient) == dict.fromkeys(range(1, 11), 20)
    changing = sum(len(set(course)) > 1 for course in courses.values())
    assert 0.1 < changing / sum(len(course) > 1 for course in courses.values()) < 0.4
    assert [int(record.id) for record in records] == list(range(1, len(records) + 1))
    assert [record.recorded_at for record in records] == sorted(record.recorded_at for record in records)


def test_a_patients_records_are_more_alike_than_two_patients():
    def beat_size(patient: int, day: int) -> np.ndarray:
        heart = patient_heart(np.random.default_rng([0, patient]))
        return counts(heart, [("NORM", 0.0)], np.random.default_rng([1, patient, day])).std(axis=1)

    sizes = np.array([[beat_size(patient, day) for day in range(2)] for patient in range(20)])
    own = np.abs(sizes[:, 0] - sizes[:, 1]).mean()
    others = np.abs(sizes[:, 0] - np.roll(sizes[:, 1], 1, axis=0)).mean()
    assert others > 2 * own


@pytest.mark.parametrize("code", sorted(set(FINDINGS) - {"NORM"}))
def test_a_finding_grows_with_its_severity(code):
    heart = patient_heart(np.random.default_rng(0))
    normal, mild, severe = (
        counts(heart, [(code, severity)], np.random.default_rng(1)).astype(float) for severity in (0, 0.2, 1.0)
    )
    assert 0 < 2 * np.abs(mild - normal).mean() < np.abs(severe - normal).mean()


def test_amplitudes_and_rates_are_those_of_people():
    for patient in range(20):
        heart = patient_heart(np.random.default_rng(patient))
        signal = counts(heart, [("NORM", 0.0)], np.random.default_rng(patient)) / 1000
        peak_to_peak = np.ptp(signal, axis=1)
        assert peak_to_peak.min() > 0.1
        assert peak_to_peak.max() < 8  # mV
        assert 50 <= heart.rate <= 105


def test_progress_tells_how_many_records_are_written(tmp_path):
    written: list[int] = []
    write_cohort(tmp_path / "data", patients=3, seed=0, progress=written.append)
    assert written == list(range(1, record_count(3) + 1))


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(DataError, match="choose another"):
        write_cohort(tmp_path, patients=1, seed=0)
    with pytest.raises(DataError, match="choose another"):
        write_cohort(tmp_path / "mine.txt", patients=1, seed=0)
    assert files_of(tmp_path) == {"mine.txt": b"precious"}


def test_an_empty_folder_is_filled(tmp_path):
    write_cohort(tmp_path, patients=1, seed=0)
    assert len(index(tmp_path).records) == record_count(1)


@pytest.mark.parametrize(("patients", "seed"), [(0, 0), (-1, 0), (1, -1)])
def test_impossible_numbers_are_refused(tmp_path, patients, seed):
    with pytest.raises(UsageError, match="at least 1"):
        write_cohort(tmp_path / "data", patients=patients, seed=seed)


def test_a_full_disk_leaves_nothing_behind(tmp_path):
    with room_for(60_000), pytest.raises(DataError, match="make room"):
        write_cohort(tmp_path / "data", patients=2, seed=0)
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_leaves_nothing_behind(tmp_path):
    def interrupt(done: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_cohort(tmp_path / "data", patients=2, seed=0, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_small_network_is_neither_lost_nor_perfect_on_unseen_patients(tmp_path):
    folder = tmp_path / "data"
    write_cohort(folder, patients=140, seed=0)
    records, _ = for_task(index(folder).records, "single")
    signals = load(records, folder=folder, cache=tmp_path / "cache")
    new = np.array([record.fold > 7 for record in signals.records])
    labels = torch.from_numpy(signals.labels)
    rng = np.random.default_rng(0)
    torch.manual_seed(0)

    def layer(inputs: int, outputs: int) -> nn.Sequential:
        convolution = nn.Conv1d(inputs, outputs, 7, 2, padding=3, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm1d(outputs), nn.ReLU())

    pooled = nn.Sequential(nn.AvgPool1d(2), layer(12, 24), layer(24, 32), layer(32, 48), layer(48, 64))
    network = nn.Sequential(pooled, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(64, 5))

    def loss(_: int) -> torch.Tensor:
        rows = rng.choice(np.flatnonzero(~new), 64)
        crops = signals.crops(rows, rng.integers(0, 4501, 64))
        return nn.functional.cross_entropy(network(torch.from_numpy(crops)), labels[rows])

    with one_thread():  # two that wait for each other are slower
        fit(network.parameters(), loss, steps=240, learning_rate=4e-3, weight_decay=1e-2)
    rows = np.repeat(np.flatnonzero(new), 10)
    crops = signals.crops(rows, np.tile(np.arange(0, 5000, 500), int(new.sum())))
    with torch.inference_mode():
        right = network.eval()(torch.from_numpy(crops)).argmax(1) == labels[rows].argmax(1)
    accuracy = right.float().mean().item()
    assert 0.55 < accuracy < 0.92, accuracy
