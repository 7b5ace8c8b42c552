"""Whatever lies in place of a data set's files or a cache: it is read, or refused with an error of ours."""

import json
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from fuzzing import altered, broken, fuzz, json_values, little_memory
from hypothesis import given
from hypothesis import strategies as st
from ptbxl_files import header, small_cohort

from client.sensor import Feed
from shared.errors import DataError, LetheError
from shared.fields import plain
from shared.ptbxl import REASONS, checksums, index, load, read_signal, record_digest
from shared.ptbxl_cache import names_in
from shared.settings import LEADS, RECORD_SAMPLES
from shared.waveforms import BadRecord

RATES = st.sampled_from([None, 500, 100])


@pytest.fixture(autouse=True)
def _limits() -> Iterator[None]:
    with warnings.catch_warnings(action="ignore"):
        import wfdb  # noqa: F401 - the room that it takes is no example's

    with little_memory():
        yield


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four patients' records."""
    return small_cohort(tmp_path / "data")


def unchanged(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.mark.parametrize("name", ["ptbxl_database.csv", "scp_statements.csv"])
def test_a_table_is_read_or_refused(folder, name):
    valid, before = (folder / name).read_bytes(), unchanged(folder.parent)
    lines = valid.splitlines(keepends=True)
    few = b"".join(lines[:3])

    @fuzz
    @given(broken(few) | broken(valid) | st.binary(max_size=200), RATES)
    def check(data: bytes, hz: int | None) -> None:
        (folder / name).write_bytes(data)
        with suppress(LetheError):
            for record in index(folder, hz=hz).records:
                assert (folder / f"{record.path}.hea").resolve().is_relative_to(folder.resolve())
                assert record.id.isdecimal()
                assert record.patient.isdecimal()
                assert plain(record.recorded_at) == record.recorded_at

    check()
    assert unchanged(folder.parent) == before


CODES = ["-" * 5000 + "1", "{'NORM': 1e999}", "{'NORM': 1_0}", "("]
PATHS = ["../x", "/etc/passwd", "a\0b", ".", "", "x" * 5000, "a/../../b", "\x1b[2J"]
NUMBERS = ["1e308", "٣", "1_0", "-0.0", "nan"]
CELLS = {
    "scp_codes": st.text(max_size=20) | json_values.map(repr) | st.sampled_from(CODES),
    "filename_hr": st.text(max_size=20) | st.sampled_from(PATHS),
    "patient_id": st.text(max_size=8) | st.floats().map(str) | st.sampled_from(NUMBERS),
    "ecg_id": st.text(max_size=8) | st.floats().map(str) | st.sampled_from(NUMBERS),
    "recording_date": st.text(max_size=30),
    "strat_fold": st.text(max_size=4) | st.integers().map(str),
}


@pytest.mark.parametrize("column", CELLS)
def test_a_cell_is_read_or_refused(folder, column):
    import csv

    with (folder / "ptbxl_database.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))[:2]

    @fuzz
    @given(CELLS[column])
    def check(cell: str) -> None:
        with (folder / "ptbxl_database.csv").open("w", newline="", encoding="utf-8", errors="surrogatepass") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows([rows[0] | {column: cell}, rows[1]])
        with suppress(LetheError):
            found = index(folder)
            for record in found.records:
                assert (folder / f"{record.path}.hea").resolve().is_relative_to(folder.resolve())
                assert plain(record.recorded_at) == record.recorded_at
                if column == "filename_hr":
                    with suppress(BadRecord):
                        read_signal(folder, record)

    check()


@pytest.mark.parametrize("suffix", ["hea", "dat"])
def test_a_record_is_read_or_refused_with_a_reason(folder, suffix):
    record = index(folder).records[0]
    path = header(folder, record).with_suffix(f".{suffix}")
    valid, before = path.read_bytes(), unchanged(folder.parent)

    @fuzz
    @given(broken(valid) | st.binary(max_size=200))
    def check(data: bytes) -> None:
        path.write_bytes(data)
        assert len(record_digest(folder, record)) == 64
        try:
            signal, unit = read_signal(folder, record)
        except BadRecord as error:
            assert error.reason in REASONS  # noqa: PT017
            return
        assert signal.shape == (len(LEADS), RECORD_SAMPLES)
        assert np.isfinite(signal).all()
        assert unit in ("mV", "NU")

    check()
    assert unchanged(folder.parent) == before


FIELDS = "0 1 2 3 9 12 -1 1e9 999999999999 nan inf 16 212 16x2 16:9 16+24 mV 1000.0(0)/mV 0/mV -1/V ../x.dat ~ I AVR"
WORDS = st.sampled_from([*FIELDS.split(" "), "", "\x1b[2J", "x" * 300])


def test_a_header_of_other_words_is_read_or_refused(folder):
    record = index(folder).records[0]
    path = header(folder, record)
    lines = [line.split(" ") for line in path.read_text().splitlines() if line and not line.startswith("#")]

    @fuzz
    @given(
        st.lists(
            st.tuples(st.integers(0, len(lines) - 1), st.integers(0, 8), WORDS),
            min_size=1,
            max_size=5,
        )
    )
    def check(changes: list[tuple[int, int, str]]) -> None:
        told = [[*line] for line in lines]
        for line, word, value in changes:
            told[line][word % len(told[line])] = value
        path.write_text("\n".join(" ".join(line) for line in told) + "\n")
        assert len(record_digest(folder, record)) == 64
        with suppress(BadRecord):
            signal, _ = read_signal(folder, record)
            assert np.isfinite(signal).all()

    check()


def test_a_cache_is_used_or_built_anew(folder, tmp_path):
    records = index(folder).records[:1]
    cache = tmp_path / "cache"
    true = load(records, folder=folder, cache=cache)
    (path,) = cache.glob("*.samples")
    samples, known = path.read_bytes(), (cache / "files.json").read_bytes()
    expected, about = true.millivolts(0), samples[len(true.samples) * true.samples[0].nbytes :]

    @fuzz
    @given(broken(about), st.just(known) | broken(known) | altered(json.loads(known)).map(json.dumps).map(str.encode))
    def check(tail: bytes, remembered: bytes) -> None:
        path.write_bytes(samples[: -len(about)] + tail)
        (cache / "files.json").write_bytes(remembered)
        names_in(path)
        with suppress(LetheError):
            again = load(records, folder=folder, cache=cache)
            if tail == about:
                assert np.array_equal(again.millivolts(0), expected)

    check()


def test_a_list_of_checksums_is_read_or_refused(folder):
    valid = (folder / "SHA256SUMS.txt").read_text()[:400]

    @fuzz
    @given(broken(valid.encode()).map(lambda data: data.decode(errors="replace")) | st.text(max_size=90))
    def check(text: str) -> None:
        with suppress(DataError):
            for name in checksums(text):
                assert (folder / name).resolve().is_relative_to(folder.resolve())

    check()


def test_a_feed_is_read_or_refused(folder, tmp_path):
    record = index(folder).records[0]
    entry = {"id": record.id, "path": record.path, "superclasses": ["NORM"], "recorded_at": "", "hz": 500}
    entry["sha256"] = record_digest(folder, record)
    told = {"data": str(folder), "pseudonym": "p-1", "records": [entry]}

    @fuzz
    @given(altered(told).map(json.dumps).map(str.encode) | broken(json.dumps(told).encode()))
    def check(data: bytes) -> None:
        (tmp_path / "0.json").write_bytes(data)
        with suppress(LetheError):
            Feed.open(tmp_path / "0.json").record({record.id})

    check()
