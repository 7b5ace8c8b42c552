"""`lethe data synth | check | fetch`, as a person at the terminal sees them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from ptbxl_files import changed_sample, set_cell, small_cohort
from typer.testing import CliRunner

from shared.errors import DataError
from shared.ptbxl import index
from simulations.cohort import write_cohort
from simulations.data_cli import app


def call(*words: object):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def data(tmp_path) -> Path:
    return small_cohort(tmp_path / "data")


def test_synth_writes_a_cohort_that_check_finds_sound(tmp_path):
    made = call("synth", tmp_path / "cohort", "--patients", 3, "--seed", 4, "--json")
    assert (made.exit_code, json.loads(made.stdout)["records"]) == (0, 5)
    checked = call("check", tmp_path / "cohort", "--json")
    assert checked.exit_code == 0
    result = json.loads(checked.stdout)
    assert (result["records"], result["usable"], result["patients"]) == (5, 5, 3)
    assert (result["left_out"], result["checksum_problems"], result["hz"]) == ({}, [], 500)
    assert sum(result["superclasses"].values()) >= 5
    assert sum(result["folds"].values()) == 5


def test_synth_refuses_a_folder_that_holds_something(data):
    again = call("synth", data, "--patients", 1)
    assert isinstance(again.exception, DataError)
    assert again.exception.exit_code == 5


def test_check_counts_what_would_be_left_out_and_says_what_was_seen(data):
    records = index(data).records
    set_cell(data, "scp_codes", "{'SR': 100.0}", row=0)
    set_cell(data, "scp_codes", "{'LVH': 100.0, 'AMI': 100.0}", row=1)
    changed_sample(data, records[2])
    result = call("check", data, "--json")
    report = json.loads(result.stdout)
    assert {reason: entry["count"] for reason, entry in report["left_out"].items()} == {
        "no superclass": 1,
        "unreadable": 1,
    }
    assert report["left_out"]["no superclass"]["details"] == {
        "1": "record 1 has no superclass by its codes {'SR': 100.0}, expected one or more"
    }
    (unreadable,) = report["left_out"]["unreadable"]["details"].items()
    assert unreadable[0] == "3"
    assert re.fullmatch(r"record 3 has samples of .* disagree with the checksum in .*, expected .*", unreadable[1])
    assert report["left_out_of_task_single"]["several superclasses"]["details"]["2"] == (
        "record 2 has the superclasses MI, HYP, expected one"
    )
    assert report["usable"] == len(records) - 2


def test_check_prints_what_was_seen_in_the_first_bad_records_a_line_each(tmp_path):
    data = tmp_path / "data"
    write_cohort(data, patients=6, seed=3)
    records = index(data).records
    for record in records[:7]:
        (data / f"{record.path}.dat").unlink()
    changed_sample(data, records[7])
    lines = call("check", data).stdout.splitlines()
    for record in records[:5]:
        seen = f"record {record.id} has no file {record.path.split('/')[-1]}.dat, expected it in {data}"
        assert len([line for line in lines if line.strip().startswith(seen)]) == 1
    assert "  … 2 more; --json prints all" in lines
    assert [line for line in lines if "disagree with the checksum" in line and ", expected " in line]
    assert not [line for line in lines if f"record {records[5].id} has no file" in line]
    all_of_them = json.loads(call("check", data, "--json").stdout)["left_out"]["missing file"]
    assert list(all_of_them["details"]) == [record.id for record in records[:7]]


def test_check_prints_every_finding_in_one_form(data):
    set_cell(data, "scp_codes", "{'SR': 100.0}", row=0)
    set_cell(data, "scp_codes", "{'LVH': 100.0, 'AMI': 100.0}", row=1)
    set_cell(data, "filename_hr", "", row=2)
    changed_sample(data, index(data).records[-1])
    found = [line for line in call("check", data).stdout.splitlines() if line.startswith("  ")]
    assert len(found) == 4
    assert not [line for line in found if not re.fullmatch(r"  record \d+ has .*, expected .+", line)]


def test_check_fails_with_5_when_a_file_is_not_the_listed_one(data):
    changed_sample(data, index(data).records[0])
    result = call("check", data, "--json")
    assert json.loads(result.stdout)["checksum_problems"] == [
        "records500/00000/00001_hr.dat has changed: its sha256 is not the listed one"
    ]
    assert isinstance(result.exception, DataError)
    assert result.exception.exit_code == 5


def test_check_draws_a_table_for_people(tmp_path):
    folder = small_cohort(tmp_path / "[bold]data")  # brackets are no markup
    result = call("check", folder)
    assert result.exit_code == 0
    for words in ("usable", "superclasses", "NORM", "folds", "all as listed", "[bold]data"):
        assert words in result.stdout.replace("\n", ""), words
    assert "\x1b[" not in result.stdout


def test_check_of_an_unusable_table_is_a_data_error(data):
    (data / "ptbxl_database.csv").unlink()
    result = call("check", data)
    assert isinstance(result.exception, DataError)
    assert "ptbxl_database.csv" in str(result.exception)


def test_fetch_says_that_a_server_cannot_be_reached(tmp_path):
    result = call("fetch", tmp_path / "new", "--url", "ftp://127.0.0.1/")
    assert isinstance(result.exception, DataError)


def test_help_imports_nothing_heavy():
    program = (
        "import sys, simulations.data_cli;"
        "heavy = {'torch', 'wfdb', 'numpy', 'scipy', 'httpx', 'rich', 'pandas'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[1])


def test_lethe_itself_exits_with_5_and_one_clear_line_on_stderr(tmp_path):
    program = "from simulations.entry import main; main()"
    words = [sys.executable, "-c", program, "data", "check", str(tmp_path / "nowhere")]
    result = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert (result.returncode, result.stdout) == (5, "")
    assert "is no folder" in result.stderr
    assert "Traceback" not in result.stderr
