"""The summary of a run: it prints what was measured, and copes with what was not."""

import copy
import io
import json

import pytest
from rich.console import Console

from shared.errors import AuditError
from simulations import scenarios, summary
from simulations.cli import _conclude


@pytest.fixture(scope="session")
def result(first_run_home) -> dict:
    found = json.loads((first_run_home / "reports" / "run-0" / "result.json").read_text())
    return {**found, "report": "reports/run-0/report.html"}


WITHDRAWAL = {
    "job": "j-1", "pseudonym": "p-0badcafe", "slot": 0, "scope": "records", "records": 1, "named": ["77"],
    "served": "exact", "general": "g" * 64, "before": "a" * 64, "after": "b" * 64, "equals_general": False,
    "reason": "", "unlearned_at": "2026-01-01T00:00:00+00:00", "state": "CERTIFIED",
    "verdict": {"verdict": "PASS"}, "certificate": {"file": "j-1.json", "sha256": "c" * 64},
    "erased": {"segments": 10, "bytes": 99, "files": ["recordings/77.npz"]},
    "methods": [
        {
            "method": "exact", "exact": True, "after": "b" * 64, "seconds": 1.0,
            "own": {"n": 10, "general": 0.5, "personal": 0.75, "unlearned": 0.625},
            "others": {"n": 24, "general": 0.25, "personal": 0.125, "unlearned": 0.375},
            "difference": {"forgotten": {"segments": 10, "before": [0.3, 0.2], "after": [0.0, -0.1]}},
        }
    ],
}  # fmt: skip


def printed(result: dict, width: int = 110) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(summary.render(result))
    return console.file.getvalue() + summary.closing(result)


def test_it_prints_accuracies_differences_and_seconds(result):
    text = printed(result)
    own = [row["own_personal"] for row in result["personal"]]
    assert f"{sum(own) / len(own):.3f}" in text
    for word in ("own held-out", "others", "control segments", "personalise", report := result["report"]):
        assert word in text
    assert report in text
    assert "Withdrawals" not in text


def test_it_says_what_the_general_model_was_made_without_and_what_it_should_not_have_had(result):
    assert "  made with" not in printed(result)
    general = {**result["general"], "withdrawn": {"corpus": 2, "control": 0}}
    assert "  made without 2 records of the corpus, withdrawn\n" in printed({**result, "general": general})
    general["withdrawn"]["control"] = 1
    assert "made without 2 records of the corpus and 1 record of the controls" in printed(
        {**result, "general": general}
    )
    general["withdrawn_since"] = {"corpus": 1, "control": 0}
    text = printed({**result, "general": general})
    assert "  made with 1 record of the corpus, withdrawn since; the next run makes it again" in text


def test_a_device_that_had_no_model_has_none_before_and_after(result):
    row = {**WITHDRAWAL, "general": "", "before": "", "after": "", "equals_general": True}
    assert "none > none" in printed({**result, "withdrawals": [row]})


def test_a_general_model_that_stands_in_fits_eighty_columns(result):
    stands_in = {**WITHDRAWAL, "served": "", "after": "g" * 64, "equals_general": True, "named": ["12345"]}
    text = printed({**result, "withdrawals": [stands_in]}, width=80)
    assert "…" not in text
    assert "INCONCLUSIVE" in printed(
        {**result, "withdrawals": [{**stands_in, "verdict": {"verdict": "INCONCLUSIVE"}}]}, width=80
    )


def test_it_prints_what_became_of_a_withdrawal(result):
    text = printed({**result, "withdrawals": [WITHDRAWAL]})
    for said in ("p-0badcafe", "77", "10", "exact", "0.500", "0.750", "0.625", "0.250", "0.375", "+30.0", "-10.0"):
        assert said in text
    assert "aaaaaaa >" in text
    assert "> bbbbbbb" in text


def test_a_withdrawal_that_equals_the_general_model_is_told_apart(result):
    def lines(equals):
        return printed({**result, "withdrawals": [{**WITHDRAWAL, "scope": "patient", "equals_general": equals}]})

    assert "aaaaaaa > general" in lines(True)
    assert "aaaaaaa > general" not in lines(False)
    assert "everything" in lines(True)


def test_a_withdrawal_that_no_device_acknowledged_is_not_passed_over(result):
    due = {
        **WITHDRAWAL,
        "methods": [],
        "unlearned_at": None,
        "verdict": None,
        "reason": "the device has not answered yet",
    }
    text = printed({**result, "withdrawals": [due]})
    assert "still due: j-1 of p-0badcafe: the device has not answered yet" in text


def test_a_certificate_is_told_with_its_path_and_what_is_not_certified_with_the_reason(result):
    text = printed({**result, "report": "/home/reports/run-0/report.html", "withdrawals": [WITHDRAWAL]})
    assert "certificate of p-0badcafe: /home/certificates/j-1.json" in text
    assert "PASS" in text
    failed = {**WITHDRAWAL, "state": "FAILED", "reason": "a leftover file", "certificate": None}
    text = printed({**result, "withdrawals": [{**failed, "verdict": {"verdict": "FAIL"}}]})
    assert "not certified: j-1 of p-0badcafe: a leftover file; the next run tries again" in text
    for answered in (failed["unlearned_at"], None):  # in the run that judged it, and in later ones
        row = {**failed, "unlearned_at": answered, "reason": "copies repeat", "final": True}
        verdict = {"verdict": "FAIL"} if answered else None
        text = " ".join(printed({**result, "withdrawals": [{**row, "verdict": verdict}]}).split())
        assert "not certified, for good: j-1 of p-0badcafe: copies repeat; `lethe jobs close j-1` ends it" in text
    assert "certificate of" not in text
    assert "none yet" in printed({**result, "withdrawals": [{**failed, "verdict": None}]})


def test_a_device_without_a_personal_model_is_named_with_its_reason(result):
    text = printed({**result, "silent": [{"slot": 3, "pseudonym": "p-5111e272", "reason": "no answer"}]})
    assert "made no personal model in this run: p-5111e272: no answer" in text


@pytest.mark.parametrize("name", ["quickstart", "real"])
def test_no_scenario_withdraws_a_patient_by_itself(name):
    assert scenarios.scenario(name).unlearning.rehearsals == 0


def test_what_was_not_measured_is_not_a_number(result):
    poor = copy.deepcopy(result)
    for row in poor["personal"]:
        row["own_general"] = row["own_personal"] = None
    for group in poor["probe"]["groups"].values():
        group["difference"] = [None] * len(poor["probe"]["epsilons_sd"])
    poor["general"]["metrics"]["record"] = {"n": 0, "accuracy": None, "macro_f1": None, "macro_auc": None}
    assert "n/a" in printed(poor)
    assert printed({**poor, "personal": [], "withdrawals": [{**WITHDRAWAL, "methods": []}]})


def test_nothing_is_cut_at_80_columns(result):
    phases = ("directory", "general", "audit", "unlearn", "verify", "personalise", "probe", "audit", "unlearn")
    times = [{"name": name, "seconds": 123.4} for name in phases]
    text = printed({**result, "withdrawals": [{**WITHDRAWAL, "named": ["12345"]}], "phases": times}, width=80)
    assert "…" not in text
    assert "246.8" in text  # what was done twice is added up


def test_a_narrow_terminal_is_no_reason_to_fail(result):
    assert printed({**result, "withdrawals": [WITHDRAWAL]}, width=40)


@pytest.mark.parametrize("verdict", ["PASS", "INCONCLUSIVE", None])
def test_a_run_without_a_refusal_ends_well(result, verdict, capsys):
    row = {**WITHDRAWAL, "verdict": verdict and {"verdict": verdict}}
    _conclude({**result, "withdrawals": [row]}, as_json=False)
    assert "Withdrawals" in capsys.readouterr().out


@pytest.mark.parametrize("as_json", [True, False])
def test_a_run_that_ends_with_a_refusal_prints_all_and_says_so_by_its_exit_code(result, as_json, capsys):
    failed = {**WITHDRAWAL, "state": "FAILED", "reason": "x", "certificate": None, "verdict": {"verdict": "FAIL"}}
    with pytest.raises(AuditError, match=r"FAIL on j-1 of p-0badcafe: no certificate") as raised:
        _conclude({**result, "withdrawals": [WITHDRAWAL, failed]}, as_json=as_json)
    assert raised.value.exit_code == 4
    printed = capsys.readouterr().out
    assert len(json.loads(printed)["withdrawals"]) == 2 if as_json else "Withdrawals" in printed
