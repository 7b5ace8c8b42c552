"""What the benchmarks refuse, and whom `personal` draws; their figures are asserted nowhere."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from shared.errors import UsageError
from shared.model import model_digest
from shared.ptbxl import for_task, index, load
from simulations import benchmark, one_device, one_method


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["general", "--task", "mutli"], "--task"),
        (["personal", "--model", "model.safetensors", "--profile", "papre"], "--profile"),
    ],
)
def test_an_unknown_choice_is_refused(tmp_path, words, option):
    result = CliRunner().invoke(benchmark.app, [*words, "--data", str(tmp_path)])
    assert result.exit_code == 2
    assert option in result.output


def test_a_method_is_measured_on_a_wearable_that_has_learnt_what_it_forgets(tmp_path, capsys):
    one_device.write_version(tmp_path, width=2, control=8)
    case = one_method.case_of(tmp_path, "default")
    assert len(case.retain) == len(case.forget) == one_device.OWN_SEGMENTS
    assert model_digest(case.personal) != model_digest(case.general)
    for method, failed in (("exact", ""), ("gkt-patient", "")):
        one_method.main(tmp_path, method, "default")
        found = json.loads(capsys.readouterr().out)
        assert found["failed"] == failed
        assert found["cpu_seconds"] > 0
        assert found["peak_mib"] >= found["peak_mib_before"] > 50


def test_a_patient_is_drawn_once_by_the_first_record(cohort_folder, tmp_path):
    records, _ = for_task(index(cohort_folder).records, "single")
    signals = load(records, folder=cohort_folder, cache=tmp_path / "cache")
    rows = np.arange(len(signals.records))[::-1]
    people = {record.patient for record in signals.records}
    assert len(people) < len(rows)
    drawn = [signals.records[row] for row in benchmark._first_rows(signals, rows, patients=5)]
    assert sorted(record.patient for record in drawn) == sorted(people)
    for one in drawn:
        assert one.recorded_at == min(r.recorded_at for r in signals.records if r.patient == one.patient)
    with pytest.raises(UsageError, match=f"{len(people)} of {len(people)} patients were asked for"):
        benchmark._first_rows(signals, rows, patients=len(people))
