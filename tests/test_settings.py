"""Settings: one home, the same names everywhere, and no value of a wrong type."""

import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.workspace_settings import NO_SETTINGS, keep, of_workspace
from shared.errors import UsageError
from shared.settings import _RANGES, Settings, numbers
from shared.unlearning import parse_methods
from simulations import scenarios

ROOT = Path(__file__).parent.parent
FLAT = Settings().flat()


def flat(table, prefix=""):
    for key, value in table.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


@pytest.mark.parametrize(
    ("key", "bad"),
    [
        *(("probe.epsilons_sd", bad) for bad in ("x", "", "0,-1", "0,nan")),
        *(("unlearning.methods", bad) for bad in ("foo", "", "exact,foo")),
    ],
)
def test_a_list_is_checked_when_it_is_set_and_not_when_a_patient_waits(key, bad):
    with pytest.raises(UsageError):
        Settings().with_values({key: bad})


def test_an_unknown_setting_names_the_one_that_is_near():
    with pytest.raises(UsageError, match=r"did you mean general\.width"):
        Settings().with_values({"general.widht": 3})


def test_flower_s_configuration_holds_exactly_the_defaults():
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    found = dict(flat(config))
    assert [found.pop(name) for name in NO_SETTINGS] == ["", "", 0]
    assert found == FLAT
    assert {name: type(value) for name, value in found.items()} == {name: type(value) for name, value in FLAT.items()}


@pytest.mark.parametrize("path", sorted((ROOT / "simulations").glob("*.toml")), ids=lambda path: path.stem)
def test_a_scenario_s_settings_exist_and_make_sense(path):
    settings = scenarios.scenario(path.stem)
    assert parse_methods(settings.unlearning.methods)
    assert numbers(settings.probe.epsilons_sd)


def test_flat_settings_come_back():
    assert Settings().with_values(FLAT) == Settings()
    other = Settings().with_values({"general.width": 64, "unlearning.methods": "exact", "probe.epsilons_sd": "0"})
    assert Settings().with_values(other.flat()) == other != Settings()
    assert Settings() == Settings().with_values({})


@pytest.mark.parametrize("name", FLAT)
@pytest.mark.parametrize("value", [None, [], object()])
def test_a_value_of_a_wrong_type_is_refused_by_name(name, value):
    with pytest.raises(UsageError, match=name.replace(".", r"\.")):
        Settings().with_values({name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("general.width", value) for value in (16.0, True, "16")),
        *(("personalisation.budget", value) for value in ("0.1", True)),
        ("general.task", "both"),
        ("unlearning.methods", 1),
    ],
)
def test_nothing_is_converted_silently(name, value):
    with pytest.raises(UsageError, match="expected"):
        Settings().with_values({name: value})


@pytest.mark.parametrize(
    ("name", "allowed", "refused"),
    [
        ("cohort.wearables", [1, 500], [0, -1]),
        ("cohort.controls", [1], [0]),
        ("cohort.seed", [0, 2**32 - 1], [-1, 2**32]),
        ("general.width", [1, 64], [0]),
        ("general.smoothing_ms", [0.0, 1000.0], [-1.0, 1001.0]),
        ("general.epochs", [1], [0, -3]),
        ("general.batch_size", [1], [0]),
        ("general.learning_rate", [1e-9], [0.0, -1e-3]),
        ("general.weight_decay", [0.0], [-0.1]),
        ("general.averaging", [0.0, 0.999], [1.0, -0.1]),
        ("general.mixup", [0.0, 3.0], [-0.1]),
        ("general.noise_sd", [0.0], [-0.1]),
        ("general.gain_sd", [0.0], [-0.1]),
        ("general.lead_dropout", [0.0, 0.9], [1.0, -0.1]),
        ("general.dropout", [0.0, 0.9], [1.0, 1.5]),
        ("general.max_segments", [0, 10], [-1]),
        ("general.validation", [0.01, 0.99], [0.0, 1.0]),
        ("general.slices", [1, 3], [0]),
        ("personalisation.steps", [1], [0]),
        ("personalisation.batch_size", [1], [0]),
        ("personalisation.anchor_batch_size", [1], [0]),
        ("personalisation.learning_rate", [1e-9], [0.0]),
        ("personalisation.anchor_segments", [1], [0]),
        ("personalisation.gate_segments", [1], [0]),
        ("personalisation.anchor_weight", [0.0, 100.0], [-1.0]),
        ("personalisation.budget", [0.0, 1.0], [-0.01, 1.01]),
        ("personalisation.held_out", [0.01, 0.99], [0.0, 1.0]),
        ("unlearning.epochs", [1], [0]),
        ("probe.control_segments", [10], [0, 9]),
        ("audit.deadline_days", [1, 92], [0, 93, 400_000_000]),
        ("audit.valid_days", [1, 36_500], [0, 36_501]),
    ],
)
def test_a_number_out_of_range_is_refused_with_what_was_seen_and_expected(name, allowed, refused):
    for value in allowed:
        assert Settings().with_values({name: value}).flat()[name] == value
    for value in refused:
        with pytest.raises(UsageError, match=rf"^{re.escape(name)} is {re.escape(repr(value))}, expected .*\d"):
            Settings().with_values({name: value})


@pytest.mark.parametrize("name", [name for name, value in FLAT.items() if isinstance(value, float)])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_no_setting(name, value):
    with pytest.raises(UsageError, match="expected"):
        Settings().with_values({name: value})


def test_every_range_is_of_a_number_among_the_settings():
    assert {name for name in _RANGES if not isinstance(FLAT.get(name), int | float)} == set()


def test_a_range_is_told_in_words():
    told = {
        "general.width": (0, "1 or more"),
        "general.learning_rate": (0.0, "more than 0"),
        "general.validation": (1.0, "more than 0 and less than 1"),
        "general.dropout": (1.0, "0 or more and less than 1"),
        "personalisation.budget": (2.0, "0 or more and at most 1"),
    }
    for name, (value, words) in told.items():
        with pytest.raises(UsageError, match=f"expected {words}$"):
            Settings().with_values({name: value})


def test_a_whole_number_is_a_number():
    found = Settings().with_values({"personalisation.budget": 1}).personalisation.budget
    assert found == 1.0
    assert type(found) is float


@pytest.mark.parametrize("name", ["width", "general", "general.", ".width", "general.widht", "general.width.x", ""])
def test_an_unknown_setting_is_refused_with_those_that_exist(name):
    with pytest.raises(UsageError, match=r"unknown setting .*general\.width"):
        Settings().with_values({name: 1})


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=5))
def test_numbers_are_read_from_text(values):
    assert numbers(",".join(map(repr, values))) == tuple(values)


@pytest.mark.parametrize("text", ["", "a", "0,,1", "-1", "0,nan", "inf", "1;2"])
def test_what_is_no_list_of_strengths_is_refused(text):
    with pytest.raises(UsageError, match="number"):
        numbers(text)


@given(st.sampled_from(sorted(FLAT)))
def test_an_assignment_of_the_default_changes_nothing(name):
    value = str(FLAT[name]).lower() if isinstance(FLAT[name], bool) else FLAT[name]  # as TOML writes it
    assert scenarios.with_assignments(Settings(), [f"{name}={value}"]) == Settings()


@pytest.mark.parametrize("text", ["general.width", "general.width=", "general.width=wide", "nothing=1"])
def test_an_assignment_that_makes_no_sense_is_refused(text):
    with pytest.raises(UsageError):
        scenarios.with_assignments(Settings(), [text])


def test_a_workspace_keeps_its_settings(tmp_path):
    settings = Settings().with_values({"general.width": 4, "unlearning.methods": "exact"})
    keep(settings, home=tmp_path, folder=tmp_path)
    assert of_workspace(tmp_path) == settings


def test_a_scenario_that_does_not_exist_names_those_that_do(tmp_path):
    with pytest.raises(UsageError, match="quickstart"):
        scenarios.scenario("quikstart")
    (tmp_path / "mine.toml").write_text("[general]\nwidth = 8\n")
    assert scenarios.scenario(str(tmp_path / "mine.toml")).general.width == 8
    (tmp_path / "bad.toml").write_text("[general\n")
    with pytest.raises(UsageError, match="no settings file"):
        scenarios.scenario(str(tmp_path / "bad.toml"))
