"""One record's files: what becomes of the signal, and how bad ones are refused."""

import os
import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from ptbxl_files import change_rows, changed_sample, copy_record, counts_of, header, replaced, rewrite, small_cohort

from shared.ptbxl import BadRecord, index, load, read_signal, record_digest
from shared.settings import LEADS
from shared.waveforms import header_meaning


@pytest.fixture
def data(tmp_path) -> Path:
    return small_cohort(tmp_path / "data")


def test_a_signal_is_the_files_millivolts(data):
    record = index(data).records[0]
    signal, unit = read_signal(data, record)
    assert (signal.shape, signal.dtype, unit) == ((12, 5000), np.float32, "mV")
    np.testing.assert_allclose(signal, counts_of(data, record) / 1000, atol=1e-6)


@pytest.mark.parametrize(("gain", "factor"), [("1.0(0)/uV", 1e-3), ("1000.0(0)/mV", 1e-3), ("1000.0(0)/V", 1.0)])
def test_every_voltage_becomes_millivolts(data, gain, factor):
    record = index(data).records[0]
    counts = counts_of(data, record)
    rewrite(data, record, counts, gain=gain)
    signal, unit = read_signal(data, record)
    assert unit == "mV"
    np.testing.assert_allclose(signal, counts * factor, rtol=1e-6)


def test_standardised_signals_keep_their_unit(data):
    record = index(data).records[0]
    counts = counts_of(data, record)
    rewrite(data, record, counts, gain="200(0)/NU")
    signal, unit = read_signal(data, record)
    assert unit == "NU"
    np.testing.assert_allclose(signal, counts / 200, rtol=1e-6)


def test_a_baseline_is_taken_off(data):
    record = index(data).records[0]
    counts = counts_of(data, record)
    rewrite(data, record, counts + np.int16(700), gain="1000.0(700)/mV")
    signal, _ = read_signal(data, record)
    np.testing.assert_allclose(signal, counts / 1000, atol=1e-4)


def test_leads_in_another_order_and_case_are_put_in_order(data):
    record = index(data).records[0]
    counts = counts_of(data, record)
    names = [name.replace("AV", "aV") for name in LEADS]
    rewrite(data, record, counts[::-1], leads=names[::-1])
    np.testing.assert_allclose(read_signal(data, record)[0], counts / 1000, atol=1e-6)


def test_100_hz_becomes_500_hz_of_the_same_signal(data):
    record = index(data).records[0]
    slow = np.linspace(0, 10, 1000, endpoint=False)
    fast = np.linspace(0, 10, 5000, endpoint=False)
    phases = np.arange(12)[:, None]
    rewrite(data, record, np.rint(1000 * np.sin(2 * np.pi * 3 * slow + phases)).astype(np.int16), hz=100)
    change_rows(data, lambda rows: [row.update(filename_lr=row["filename_hr"]) for row in rows])
    (same, *_) = index(data, hz=100).records
    assert same.hz == 100
    signal, _ = read_signal(data, same)
    assert signal.shape == (12, 5000)
    inside = slice(250, 4750)
    np.testing.assert_allclose(signal[:, inside], np.sin(2 * np.pi * 3 * fast + phases)[:, inside], atol=0.005)


def eleven_leads(folder, record):
    counts = np.delete(counts_of(folder, record), LEADS.index("AVL"), axis=0)
    rewrite(folder, record, counts, leads=[lead for lead in LEADS if lead != "AVL"])


def unknown_lead(folder, record):
    rewrite(folder, record, counts_of(folder, record), leads=[*LEADS[:-1], "V7"])


def same_lead_twice(folder, record):
    rewrite(folder, record, counts_of(folder, record)[[0, *range(12)]], leads=["I", *LEADS])


def short(folder, record):
    rewrite(folder, record, counts_of(folder, record)[:, :4000])


def other_rate(folder, record):
    rewrite(folder, record, counts_of(folder, record), hz=250)


def invalid_sample(folder, record):
    counts = counts_of(folder, record).copy()
    counts[7, 99] = -32768  # WFDB's mark for a sample that is not there
    rewrite(folder, record, counts)


def blank(folder, record):
    counts = counts_of(folder, record).copy()
    counts[6] = 12
    rewrite(folder, record, counts)


def truncated(folder, record):
    path = folder / f"{record.path}.dat"
    path.write_bytes(path.read_bytes()[:-24001])


def longer(folder, record):
    path = folder / f"{record.path}.dat"
    path.write_bytes(path.read_bytes() + b"\0" * 24)


BAD = {
    "eleven leads": (eleven_leads, "wrong leads", "has 11 leads, expected 12 .AVL is missing"),
    "unknown lead": (unknown_lead, "wrong leads", "V6 is missing; unknown: V7"),
    "a lead twice": (same_lead_twice, "wrong leads", "13 leads, expected 12 .more than once: "),
    "8 seconds": (short, "wrong samples", "4000 samples at 500 Hz, expected 5000 at 500 Hz"),
    "another rate": (other_rate, "wrong samples", "250 Hz, expected 5000 at 500 Hz"),
    "an invalid sample": (invalid_sample, "not a number", "invalid samples in V2"),
    "a blank lead": (blank, "blank lead", "V1 never changes"),
    "a truncated .dat": (truncated, "unreadable", "95999 bytes in 00001_hr.dat, expected 120000"),
    "a longer .dat": (longer, "unreadable", "120024 bytes in 00001_hr.dat, expected 120000"),
    "one sample changed": (changed_sample, "unreadable", "AVR that disagree with the checksum"),
    "no .dat": (lambda f, r: (f / f"{r.path}.dat").unlink(), "missing file", "no file 00001_hr.dat"),
    "no header": (lambda f, r: header(f, r).unlink(), "missing file", "no file 00001_hr.hea"),
    "an empty header": (lambda f, r: header(f, r).write_text(""), "unreadable", "cannot be read"),
    "a binary header": (lambda f, r: header(f, r).write_bytes(b"\0\xff\1"), "unreadable", "cannot be read"),
    "an unknown format": (lambda f, r: replaced(f, r, ".dat 16 ", ".dat 999 "), "unreadable", "cannot be read"),
    "a format that disagrees": (
        lambda f, r: replaced(f, r, ".dat 16 ", ".dat 80 "),
        "unreadable",
        "120000 bytes in 00001_hr.dat, expected 60000",
    ),
    "an unknown unit": (lambda f, r: replaced(f, r, "/mV", "/mmHg"), "unreadable", "unit mmHg, expected mV"),
    "a file elsewhere": (lambda f, r: replaced(f, r, "00001_hr.dat", "../x.dat"), "unreadable", "cannot be read"),
    "a missing signal line": (
        lambda f, r: header(f, r).write_text("\n".join(header(f, r).read_text().splitlines()[:-1])),
        "wrong leads",
        "has a header of 11 signals that claims 12, expected as many",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_record_is_refused_with_what_was_seen_and_left_out_with_the_reason(data, tmp_path, case):
    spoil, reason, message = BAD[case]
    found = index(data)
    bad = found.records[0]
    spoil(data, bad)
    with pytest.raises(BadRecord, match=message) as caught:
        read_signal(data, bad)
    assert caught.value.reason == reason
    assert str(caught.value).startswith("record 1 has ") or "cannot be read" in str(caught.value)
    signals = load(found, folder=data, cache=tmp_path / "cache")
    assert [(one.record, one.reason) for one in signals.left_out] == [("1", reason)]
    assert signals.records == found.records[1:]


def test_a_bad_record_survives_the_way_between_processes():
    error = pickle.loads(pickle.dumps(BadRecord("record 1 has ...", "blank lead")))
    assert (str(error), error.reason, error.exit_code) == ("record 1 has ...", "blank lead", 5)


def test_a_header_may_begin_with_a_comment(data):
    record = index(data).records[0]
    before = read_signal(data, record)[0]
    header(data, record).write_text("# of another hospital\n\n" + header(data, record).read_text())
    assert np.array_equal(read_signal(data, record)[0], before)


def test_a_header_may_have_tabs(data):
    record = index(data).records[0]
    before = read_signal(data, record)[0]
    header(data, record).write_text(header(data, record).read_text().replace(".dat ", ".dat\t"))
    assert np.array_equal(read_signal(data, record)[0], before)


def test_a_copy_under_another_name_is_the_same_recording(data):
    record, other, *_ = index(data).records
    copy_record(record, other, of=data, to=data)
    header(data, other).write_text("# copied\n" + header(data, other).read_text())
    assert record_digest(data, record) == record_digest(data, other)


def test_two_records_without_files_are_no_copies(data):
    record, other, *_ = index(data).records
    for one in (record, other):
        header(data, one).unlink()
    assert record_digest(data, record) != record_digest(data, other)


def test_the_digest_of_a_record_changes_with_any_of_its_files(data):
    record = index(data).records[0]
    digests = [record_digest(data, record)]
    changed_sample(data, record)
    digests.append(record_digest(data, record))
    replaced(data, record, "1000.0(0)/mV", "1000.1(0)/mV")
    digests.append(record_digest(data, record))
    (data / f"{record.path}.dat").unlink()
    digests.append(record_digest(data, record))
    assert len(set(digests)) == 4
    assert all(len(digest) == 64 for digest in digests)


def gain_of(written: str) -> str:
    return f"r 1 500 5000\nr.dat 16 {written} 16 0 -3 77 0 aVR\n"


SAME = ("1000.0(0)/mV", "1000/mV", "1e3(0)/mV", "1000.0(0)", "1000.", "+1000(00)/mV")
OTHER = ("1000.0(1)/mV", "1000.0(0)/uV", "1000.5/mV", "200/mV", "nan(0)/mV", "(0)/mV")


@pytest.mark.parametrize("written", SAME)
def test_a_recording_is_the_same_however_its_header_is_written(tmp_path, written):
    for name, text in (
        ("a", gain_of(SAME[0])),
        ("b", "# x\n" + gain_of(written).replace(" ", "\t").replace("aVR", "AVR")),
    ):
        (tmp_path / f"{name}.hea").write_text(text)
    assert header_meaning(tmp_path / "a.hea") == header_meaning(tmp_path / "b.hea")


@pytest.mark.parametrize(
    "text",
    [
        *map(gain_of, OTHER),
        *(
            gain_of(SAME[0]).replace(*pair)
            for pair in ((" 77 ", " 78 "), (" 16 1", " 24 1"), ("aVR", "aVL"), (" 500 ", " 100 "))
        ),
    ],
)
def test_a_header_that_means_something_else_is_another_recording_s(tmp_path, text):
    for name, written in (("a", gain_of(SAME[0])), ("b", text)):
        (tmp_path / f"{name}.hea").write_text(written)
    assert header_meaning(tmp_path / "a.hea") != header_meaning(tmp_path / "b.hea")


@pytest.mark.parametrize("gain", ["nan", "inf", "1e-320", "1e400"])
def test_a_strange_gain_is_refused_without_a_warning(data, gain):
    record = index(data).records[0]
    replaced(data, record, "1000.0(0)/mV 16 0", f"{gain}(0)/mV 16 0")
    with pytest.raises(BadRecord):
        read_signal(data, record)


@pytest.mark.parametrize(
    ("old", "new", "reason", "seen"),
    [
        (" 12 500 5000", " 100000000 500 5000", "wrong leads", "claims 100000000 leads, expected 12"),
        (" 12 500 5000", f" {'9' * 30} 500 5000", "wrong leads", "claims 999999999999… leads"),
        (".dat 16 ", ".dat 16x100000000 ", "unreadable", "16x100000000"),
        (".dat 16 ", ".dat 16:100000000 ", "unreadable", "16:100000000"),
        ("I\n", "I\n" + "# a long story\n" * 10_000, "unreadable", "has a header of"),
    ],
)
def test_what_a_header_claims_is_refused_before_room_is_made_for_it(data, old, new, reason, seen):
    record = index(data).records[0]
    replaced(data, record, old, new)
    read_signal(data, index(data).records[1])  # imports wfdb
    tracemalloc.start()
    try:
        with pytest.raises(BadRecord, match=seen) as caught:
            read_signal(data, record)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
    assert caught.value.reason == reason


def test_a_pipe_in_a_file_s_place_has_no_end_and_is_not_read(data):
    record = index(data).records[0]
    for suffix in ("dat", "hea"):
        path = data / f"{record.path}.{suffix}"
        path.unlink()
        os.mkfifo(path)
        assert len(record_digest(data, record)) == 64
        with pytest.raises(BadRecord, match=rf"has no file {path.name}"):
            read_signal(data, record)
