"""The tables of a folder in PTB-XL's layout: which records it has, and what makes no sense."""

from pathlib import Path

import numpy as np
import pytest
from ptbxl_files import change_rows, changed_sample, counts_of, header, set_cell, small_cohort

from shared.errors import DataError, UsageError
from shared.ptbxl import checksums, for_task, index, load, read_signal, verify_checksums


@pytest.fixture
def data(tmp_path) -> Path:
    return small_cohort(tmp_path / "data")


def test_a_record_says_what_the_tables_say(data):
    def change(rows):
        rows[0].update(ecg_id="17", patient_id="15709.0", strat_fold="8", recording_date="1984-11-09 09:17:34")
        rows[0].update(scp_codes="{'LVH': 80.0, 'IMI': 15.0, 'NORM': 0.0, 'SR': 0.0}")

    change_rows(data, change)
    record = index(data).records[0]
    assert (record.id, record.patient, record.fold, record.hz) == ("17", "15709", 8, 500)
    assert record.recorded_at == "1984-11-09 09:17:34"
    assert record.path == "records500/00000/00001_hr"
    assert record.superclasses == ("MI", "HYP")  # in the order of SUPERCLASSES, whatever the row's
    assert record.labels == (0.0, 1.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("codes", "superclasses"),
    [
        ("{'NORM': 100.0}", ("NORM",)),
        ("{'NORM': 0.0}", ()),  # a likelihood of 0 means unknown
        ("{'SR': 100.0}", ()),  # a rhythm is no diagnosis
        ("{}", ()),
        ("{'AMI': 15.0, 'IMI': 50}", ("MI",)),
    ],
)
def test_superclasses_come_from_diagnostic_statements_above_zero(data, codes, superclasses):
    set_cell(data, "scp_codes", codes)
    found = index(data)
    if superclasses:
        assert found.records[0].superclasses == superclasses
        assert found.left_out == ()
    else:
        assert [(one.record, one.reason) for one in found.left_out] == [("1", "no superclass")]


def test_without_recording_dates_records_have_none(data):
    change_rows(data, lambda rows: [row.pop("recording_date") for row in rows])
    assert {record.recorded_at for record in index(data).records} == {""}


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("scp_codes", "{'NOSUCH': 100.0}", "record 1 has the SCP code 'NOSUCH'"),
        ("scp_codes", "{'NOSUCH': 0.0}", "SCP code 'NOSUCH'"),
        ("scp_codes", "{'NORM': 100.0", "record 1 has scp_codes"),
        ("scp_codes", "__import__('os').system('true')", "record 1 has scp_codes"),
        ("scp_codes", "['NORM']", "not|expected"),
        ("scp_codes", "{'NORM': None}", "scp_codes"),
        ("scp_codes", "{'NORM': 101.0}", "scp_codes"),
        ("scp_codes", "(" * 5000, "scp_codes"),
        ("scp_codes", "", "scp_codes"),
        ("ecg_id", "2", "record 2 again"),
        ("ecg_id", "1.5", "expected a whole number"),
        ("patient_id", "", "patient_id '', expected a whole number"),
        ("patient_id", "nan", "expected a whole number"),
        ("patient_id", "inf", "expected a whole number"),
        ("strat_fold", "x", "strat_fold 'x'"),
        ("strat_fold", "0", "line 2 has the strat_fold 0, expected 1 to 10"),
        ("strat_fold", "11", "line 2 has the strat_fold 11, expected 1 to 10"),
        ("filename_hr", "../elsewhere", "expected one within the folder"),
        ("filename_hr", "/etc/hostname", "expected one within the folder"),
        ("filename_hr", "records500/../../x", "expected one within the folder"),
        ("filename_hr", "s3://bucket/x", "expected one within the folder"),
    ],
)
def test_a_cell_that_makes_no_sense_is_a_clear_error(data, column, value, message):
    set_cell(data, column, value)
    with pytest.raises(DataError, match=message):
        index(data)


@pytest.mark.parametrize("column", ["ecg_id", "patient_id", "scp_codes", "strat_fold", "filename_hr"])
def test_a_missing_column_is_named(data, column):
    change_rows(data, lambda rows: [row.pop(column) for row in rows])
    with pytest.raises(DataError, match="no column"):
        index(data)


@pytest.mark.parametrize("name", ["ptbxl_database.csv", "scp_statements.csv"])
def test_a_missing_or_unreadable_table_is_named(data, name):
    (data / name).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=name):
        index(data)
    (data / name).unlink()
    with pytest.raises(DataError, match=f"no {name}"):
        index(data)


def test_a_truncated_table_is_refused(data):
    table = data / "ptbxl_database.csv"
    table.write_text(table.read_text()[:-45])
    with pytest.raises(DataError, match=r"cells|cannot be read"):
        index(data)


def test_an_unknown_diagnostic_class_is_refused(data):
    change_rows(data, lambda rows: rows[1].update(diagnostic_class="NEW"), name="scp_statements.csv")
    with pytest.raises(DataError, match="'NEW', expected one of NORM"):
        index(data)


def test_a_missing_folder_is_a_clear_error(tmp_path):
    with pytest.raises(DataError, match="is no folder"):
        index(tmp_path / "nowhere")


def test_a_rate_that_the_data_set_lacks_is_refused(data):
    with pytest.raises(DataError, match="no column filename_lr"):
        index(data, hz=100)
    with pytest.raises(UsageError, match="expected 500 or 100"):
        index(data, hz=250)


def test_a_record_without_a_file_name_is_counted(data):
    set_cell(data, "filename_hr", "")
    assert [one.reason for one in index(data).left_out] == ["missing file"]


def test_task_single_takes_records_with_one_superclass_and_counts_the_others(data):
    set_cell(data, "scp_codes", "{'LVH': 100.0, 'IMI': 100.0}")
    found = index(data)
    kept, left_out = for_task(found.records, "single")
    told = "record 1 has the superclasses MI, HYP, expected one"
    assert [(one.record, one.reason, one.detail) for one in left_out] == [("1", "several superclasses", told)]
    assert len(kept) == len(found.records) - 1
    assert for_task(found.records, "multi") == (found.records, ())


def test_checksums_name_every_file_that_changed_or_went(data):
    assert verify_checksums(data) == []
    record = index(data).records[0]
    changed_sample(data, record)
    header(data, record).unlink()
    problems = verify_checksums(data)
    assert any(f"{record.path}.dat has changed" in line for line in problems)
    assert any(f"{record.path}.hea cannot be read" in line for line in problems)
    assert len(problems) == 2
    assert verify_checksums(data, hz=100) == []  # leaves the records of the other rate alone


def test_a_missing_checksum_list_is_a_problem(data):
    (data / "SHA256SUMS.txt").unlink()
    assert "SHA256SUMS.txt cannot be read" in verify_checksums(data)[0]


@pytest.mark.parametrize("line", ["hello", "0" * 64, "z" * 64 + " a", "0" * 64 + " ../a", "0" * 64 + " /etc/a"])
def test_a_line_that_is_no_checksum_of_a_file_within_the_folder_is_refused(line):
    with pytest.raises(DataError, match="line 1 of SHA256SUMS"):
        checksums(line)


@pytest.mark.real
def test_real_millivolt_records_are_read_as_they_are(real_data, tmp_path):
    folder = real_data / "ptbxl-mini"
    found = index(folder)
    assert (len(found.records), len(found.left_out)) == (393, 11)
    assert {one.reason for one in found.left_out} == {"no superclass"}
    assert sum(record.patient == "13619" for record in found.records) == 3  # five of its eight are rhythm only
    records = found.records[:20]
    signals = load(records, folder=folder, cache=tmp_path / "cache")
    for row, record in enumerate(signals.records):
        np.testing.assert_array_equal(signals.samples[row], counts_of(folder, record))
    assert verify_checksums(folder, hz=500) == []


@pytest.mark.real
def test_real_100_hz_records_are_the_500_hz_ones_up_to_high_frequencies(real_data):
    folder = real_data / "ptbxl-mini"
    for fast, slow in zip(index(folder, hz=500).records[:8], index(folder, hz=100).records[:8], strict=True):
        a, b = read_signal(folder, fast)[0], read_signal(folder, slow)[0]
        for lead in range(12):
            assert np.corrcoef(a[lead, 100:-100], b[lead, 100:-100])[0, 1] > 0.9, (fast.id, lead)
