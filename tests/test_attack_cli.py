"""`lethe attack`: the attacks on a workspace's general model, and what it refuses."""

import json
from pathlib import Path

import pytest
from fleet import TINY, copied, enrol
from typer.testing import CliRunner

from server.enrolment import FACT
from server.general import train_general
from server.registry import Registry
from server.workspace_settings import keep
from shared.attack_table import ATTACKS, CLIPPED, CW, SIGNS
from shared.attacks import attack, noise_as_far, per_lead, success
from shared.errors import UsageError
from shared.package import load_general
from simulations.cli import app


@pytest.fixture(scope="module")
def home(tmp_path_factory, cohort_folder) -> Path:
    """A workspace with enough controls that even a tiny model gets some of them right."""
    settings = TINY.with_values({"cohort.controls": 10, "probe.control_segments": 48})
    workspace = enrol(tmp_path_factory.mktemp("attack") / "home", cohort_folder, settings)
    keep(settings, home=workspace.home, folder=workspace.home)
    with Registry.open(workspace.registry_path) as registry:
        train_general(workspace, registry, settings, tell=lambda *_: None)
    return workspace.home


def invoke(home: Path, *options: str):
    return CliRunner().invoke(app, ["attack", "--home", str(home), *options])


def rows(home: Path, *options: str) -> dict[tuple[str, float], dict]:
    done = invoke(home, "--json", *options)
    assert done.exit_code == 0, done.output
    return {(row["attack"], row["epsilon"]): row for row in json.loads(done.stdout)["rows"]}


def test_it_tells_what_each_attack_turns_and_how_far_it_goes(home):
    (folder,) = (home / "models").iterdir()
    model, public = load_general(folder)
    names = [name for name in ATTACKS if name != CW]
    found = rows(home, "--attacks", ",".join(reversed(names)), "--epsilons", "0,0.1", "--seed", "3")
    assert list(found) == [(name, epsilon) for name in names for epsilon in (0.0, 0.1)]
    for name in names:
        assert found[name, 0.0] == {
            "attack": name,
            "epsilon": 0.0,
            "turned": 0.0,
            "turned_by_noise": 0.0,
            "rms_sd": 0.0,
        }
        strength = per_lead(0.1, unit="sd", lead_sd=model.lead_sd)
        moved = attack(model, public.control, name, epsilon=strength, seed=3)
        assert found[name, 0.1]["turned"] == success(model, public.control, moved)
        noise = noise_as_far(public.control.segments, moved, seed=3) if name != "noise" else moved
        assert found[name, 0.1]["turned_by_noise"] == success(model, public.control, noise)
    assert found["fgsm", 0.1]["rms_sd"] == pytest.approx(0.1, rel=0.02)  # where a gradient is 0 nothing is changed
    assert found["noise", 0.1]["rms_sd"] == pytest.approx(found["fgsm", 0.1]["rms_sd"], rel=1e-5)
    assert found["i-fgsm", 0.1]["rms_sd"] > found[CLIPPED, 0.1]["rms_sd"] > found["bim", 0.1]["rms_sd"]


def test_the_clip_radius_is_the_caller_s_and_of_that_attack_alone(home):
    found = rows(home, "--attacks", f"{CLIPPED},bim", "--epsilons", "10", "--unit", "uV", "--alpha", "5")
    assert found[CLIPPED, 10.0]["rms_sd"] < found["bim", 10.0]["rms_sd"]


def test_carlini_wagner_stands_in_the_table_at_every_strength(home, monkeypatch):
    monkeypatch.setattr("shared.attacks.CW_STEPS", 20)
    found = rows(home, "--attacks", CW, "--epsilons", "0.01,0.5")
    assert found[CW, 0.01]["rms_sd"] <= found[CW, 0.5]["rms_sd"]
    assert found[CW, 0.01]["turned"] <= found[CW, 0.5]["turned"]


def test_the_table_for_people_has_a_row_an_attack(home):
    done = invoke(home, "--attacks", "fgsm,noise", "--epsilons", "0.05")
    assert [line.split()[0] for line in done.stdout.splitlines() if "%" in line] == ["noise", "fgsm", "noise"]
    assert "noise as far as fgsm" in done.stdout
    assert "never-used patients" in " ".join(done.stdout.split())


def test_the_help_names_every_attack_of_the_table():
    printed = "".join(CliRunner().invoke(app, ["attack", "--help"]).stdout.split())
    assert ",".join((*SIGNS, CW)) in printed


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--attacks", "deepfool"], "expected names of noise, fgsm"),
        (["--epsilons", "strong"], "expected numbers"),
        (["--epsilons", "0.1,nan"], "is nan, expected a finite number"),
        (["--epsilons", "-0.1"], "not below 0"),
        (["--epsilons", "inf"], "is inf, expected a finite number"),
        (["--epsilons", "0.1,1e38"], "is 1e+38, expected a finite number, not below 0 nor above 100, in sd"),
        (["--epsilons", "1e39"], "is 1e+39, expected a finite number"),
        (["--epsilons", "20001", "--unit", "uV"], "nor above 20000, in uV"),
        (["--alpha", "inf"], "--alpha is inf"),
        (["--alpha", "1e38"], "--alpha is 1e+38"),
        (["--unit", "mV"], "unit 'mV'"),
    ],
)
def test_a_strength_or_a_name_that_makes_no_sense_is_refused(home, options, said):
    done = invoke(home, *options)
    assert done.exit_code != 0
    assert (done.exception.exit_code, said in str(done.exception)) == (2, True)


def test_strengths_that_nobody_names_are_as_large_in_microvolts_as_in_standard_deviations(home):
    by_sd, by_uv = (rows(home, "--attacks", "fgsm", "--unit", unit) for unit in ("sd", "uV"))
    assert [epsilon for _, epsilon in by_sd] == [0.02, 0.05, 0.1, 0.2]
    assert [epsilon for _, epsilon in by_uv] == [4, 10, 20, 40]
    for one, other in zip(by_sd.values(), by_uv.values(), strict=True):
        assert other["rms_sd"] == pytest.approx(one["rms_sd"], rel=0.5)  # of leads that are not all alike


def test_of_standardised_signals_nobody_knows_the_microvolts(home, tmp_path):
    home = copied(home, tmp_path / "home")
    with Registry.open(home / "registry.db") as registry:
        registry.remember(FACT, {**registry.recall(FACT), "unit": "NU"})
    done = invoke(home, "--unit", "uV", "--attacks", "fgsm")
    assert (type(done.exception), "unit NU" in str(done.exception)) == (UsageError, True)
    assert invoke(home, "--attacks", "fgsm", "--epsilons", "0.1").exit_code == 0


@pytest.mark.parametrize("seed", ["-1", str(2**32), "1e3", str(10**30)])
def test_a_seed_that_no_generator_takes_is_refused_with_what_is_expected(home, seed):
    done = invoke(home, "--seed", seed)
    assert done.exit_code == 2
    assert "0<=x<=4294967295" in done.output or "not a valid integer" in done.output


def test_a_model_that_holds_a_withdrawn_control_is_not_attacked(home, tmp_path):
    home = copied(home, tmp_path / "home")
    with Registry.open(home / "registry.db") as registry:
        registry.withdraw(registry.patients("control")[0].id)
    done = invoke(home, "--attacks", "fgsm")
    assert "made of what consent now allows" in str(done.exception)
