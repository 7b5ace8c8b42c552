"""The cache of signals: exact, quick to open again, and without what nobody asks for any more."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ptbxl_files import changed_sample, copy_record, counts_of, rewrite, room_for, small_cohort

from shared.errors import DataError, UsageError, WorkspaceError
from shared.ptbxl import index, load, read_signal
from shared.ptbxl_cache import copies
from shared.settings import SUPERCLASSES


@pytest.fixture
def data(tmp_path) -> Path:
    return small_cohort(tmp_path / "data")


def test_counts_survive_the_cache_exactly(data, tmp_path):
    signals = load(index(data), folder=data, cache=tmp_path / "cache")
    for row, record in enumerate(signals.records):
        np.testing.assert_array_equal(signals.samples[row], counts_of(data, record))
        np.testing.assert_array_equal(signals.millivolts(row), read_signal(data, record)[0])
    assert signals.unit == "mV"
    np.testing.assert_array_equal(signals.labels, [record.labels for record in signals.records])
    assert signals.labels.shape == (len(signals.records), len(SUPERCLASSES))


def test_crops_are_pieces_of_the_records(data, tmp_path):
    signals = load(index(data), folder=data, cache=tmp_path / "cache")
    rows, starts = np.array([2, 0, 2, 1]), np.array([0, 4500, 17, 1000])
    crops = signals.crops(rows, starts)
    assert (crops.shape, crops.dtype) == ((4, 12, 500), np.float32)
    for crop, row, start in zip(crops, rows, starts, strict=True):
        np.testing.assert_array_equal(crop, signals.millivolts(row)[:, start : start + 500])


@pytest.mark.parametrize(("row", "start"), [(0, -1), (0, 4501), (-1, 0)])
def test_a_crop_beyond_the_record_is_refused(data, tmp_path, row, start):
    signals = load(index(data), folder=data, cache=tmp_path / "cache")
    with pytest.raises(UsageError, match="expected 0 to 4500"):
        signals.crops([row], [start])


def test_a_second_start_reads_no_signal_again(data, tmp_path):
    found = index(data)
    first = load(found, folder=data, cache=tmp_path / "cache")
    read: list[int] = []
    second = load(found, folder=data, cache=tmp_path / "cache", progress=read.append)
    assert read == []
    assert (second.digest, second.records, second.left_out) == (first.digest, first.records, first.left_out)
    np.testing.assert_array_equal(second.samples, first.samples)


def test_a_changed_file_is_noticed(data, tmp_path):
    found = index(data)
    before = load(found, folder=data, cache=tmp_path / "cache")
    record = found.records[1]
    rewrite(data, record, counts_of(data, record) + np.int16(1))
    after = load(found, folder=data, cache=tmp_path / "cache")
    assert after.digest != before.digest
    np.testing.assert_array_equal(after.samples[1], counts_of(data, record))


def test_a_touched_file_is_hashed_again_and_the_cache_kept(data, tmp_path):
    found = index(data)
    before = load(found, folder=data, cache=tmp_path / "cache")
    os.utime(data / f"{found.records[0].path}.dat", (1, 1))
    read: list[int] = []
    after = load(found, folder=data, cache=tmp_path / "cache", progress=read.append)
    assert (after.digest, read) == (before.digest, [])


def test_records_no_longer_asked_for_leave_nothing_in_the_cache(data, tmp_path):
    found, cache = index(data), tmp_path / "cache"
    load(found, folder=data, cache=cache)
    withdrawn, kept = found.records[0], found.records[1:]
    load(kept, folder=data, cache=cache)
    content = b"".join(path.read_bytes() for path in cache.iterdir())
    assert counts_of(data, withdrawn).astype("<i2").tobytes() not in content
    assert withdrawn.path.encode() not in content
    assert counts_of(data, kept[0]).astype("<i2").tobytes() in content


@pytest.mark.parametrize("damage", [lambda raw: raw[:-7], lambda raw: raw[:200_000], lambda _: b""])
def test_a_damaged_cache_is_built_again(data, tmp_path, damage):
    found = index(data)
    signals = load(found, folder=data, cache=tmp_path / "cache")
    expected = np.array(signals.samples)
    (path,) = (tmp_path / "cache").glob("*.samples")
    path.write_bytes(damage(path.read_bytes()))
    (tmp_path / "cache" / "files.json").write_text("[")
    np.testing.assert_array_equal(load(found, folder=data, cache=tmp_path / "cache").samples, expected)


def test_a_full_disk_leaves_no_half_cache(data, tmp_path):
    found, cache = index(data), tmp_path / "cache"
    with room_for(300_000), pytest.raises(WorkspaceError, match="make room"):
        load(found, folder=data, cache=cache)
    assert [path.name for path in cache.iterdir()] == ["files.json"]
    assert len(load(found, folder=data, cache=cache).records) == len(found.records)


def test_progress_tells_how_many_records_are_read(data, tmp_path):
    found = index(data)
    read: list[int] = []
    load(found, folder=data, cache=tmp_path / "cache", progress=read.append)
    assert read == list(range(1, len(found.records) + 1))


def test_nothing_usable_is_an_error_that_says_why(data, tmp_path):
    found = index(data)
    changed_sample(data, found.records[0])
    with pytest.raises(DataError, match=r"none of 1 records can be used.*AVR that disagree"):
        load(found.records[:1], folder=data, cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*.samples"))


def test_millivolts_and_standardised_signals_do_not_mix(data, tmp_path):
    found = index(data)
    rewrite(data, found.records[0], counts_of(data, found.records[0]), gain="200(0)/NU")
    with pytest.raises(DataError, match="record 1 is in NU but record 2 is in mV"):
        load(found, folder=data, cache=tmp_path / "cache")


def test_a_second_start_loads_nothing_that_reads_or_filters_signals(data, tmp_path):
    """That keeps it under two seconds on 1,500 records: `python -m simulations.benchmark start`."""
    program = (
        "import sys; from pathlib import Path; from shared import ptbxl; d = Path(sys.argv[1]);"
        "s = ptbxl.load(ptbxl.index(d), folder=d, cache=Path(sys.argv[2])); assert s.unit == 'mV';"
        "assert not {'wfdb', 'scipy', 'torch'} & set(sys.modules)"
    )
    load(index(data), folder=data, cache=tmp_path)
    command = [sys.executable, "-c", program, str(data), str(tmp_path)]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[1])


known = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyzuvw")), max_size=12)


@given(known)
def test_a_recording_is_kept_once_if_it_is_one_patient_s_and_never_if_it_is_two_s(pairs):
    rows = [(str(place), patient, sha256) for place, (patient, sha256) in enumerate(pairs)]
    again = copies(rows)
    for sha256 in {row[2] for row in rows}:
        places = [place for place, row in enumerate(rows) if row[2] == sha256]
        owners = {rows[place][1] for place in places}
        kept = [place for place in places if place not in again]
        assert kept == (places[:1] if len(owners) == 1 else [])
    for place, why in again.items():
        assert f"record {place} is the same recording as record " in why
        assert f"same recording as record {place} " not in why


def test_a_copy_gets_no_place_in_the_cache(data, tmp_path):
    first, second, *_ = records = index(data).records
    copy = replace(second, patient=first.patient)
    copy_record(first, second, of=data, to=data)
    signals = load([first, copy, *records[2:]], folder=data, cache=tmp_path / "cache")
    assert [(one.record, one.reason) for one in signals.left_out] == [(second.id, "same recording")]
    assert f"the same recording as record {first.id} of patient {first.patient}" in signals.left_out[0].detail
    assert signals.records == (first, *records[2:])
