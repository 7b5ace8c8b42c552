"""`lethe patients trace`: every place that holds something of a patient's, before and after it is forgotten."""

import json
import os

import pytest
from fleet import TINY
from typer.testing import CliRunner

from server.forgotten import unname
from server.general import train_general
from shared.errors import UsageError
from simulations.cli import app
from simulations.trace import trace


@pytest.fixture
def traced(fleet):
    def look(patient: str) -> dict[str, tuple[str, ...]]:
        found = trace(fleet.workspace, fleet.registry, patient)
        return {f"{one.where}: {one.what.split(',')[0]}": one.records for one in found}

    return look


def records_of(fleet, patient):
    return tuple(row.id for row in fleet.registry.records(patient, consented_only=False))


def where(places, beginning):
    return {place: records for place, records in places.items() if place.startswith(beginning)}


def test_a_wearer_s_data_are_on_the_device_and_named_in_feed_registry_and_report(fleet, traced):
    fleet.run()
    who = fleet.with_several_records()
    own, places = set(records_of(fleet, who.id)), traced(who.id)
    device = where(places, f"devices/{who.slot}/")
    assert {place.split("/")[2].split(":")[0] for place in device} == {"recordings", "model.safetensors", "bundle.onnx"}
    assert all(records and set(records) <= own for records in device.values())
    assert set(places[f"devices/{who.slot}/recordings: waveforms and labels"]) == own
    assert where(places, "reports/")
    assert where(places, f"feeds/{who.slot}.json")
    assert not where(places, "models/")


def test_no_file_names_a_wearer_outside_of_what_is_told(fleet):
    """Ids are short numbers that stand in other places too; a pseudonym is the patient's alone."""
    fleet.run()
    who = fleet.wearers()[0]
    told = [one.where for one in trace(fleet.workspace, fleet.registry, who.id)]
    home = fleet.workspace.home
    naming = [path for path in home.rglob("*") if path.is_file() and who.pseudonym.encode() in path.read_bytes()]
    names = {str(path.relative_to(home)) for path in naming if not path.name.startswith("registry.db")}
    assert names
    assert {name for name in names if not any(name.startswith(place) for place in told)} == set()


def test_what_is_forgotten_is_nowhere_but_in_the_registry_and_the_data(fleet, traced):
    who = fleet.wearers()[0]
    fleet.registry.withdraw(who.id)
    waiting = traced(who.id)
    assert where(waiting, f"devices/{who.slot}/recordings")
    fleet.run()
    unname(fleet.workspace.reports, fleet.registry)  # as the command does that has printed who was forgotten
    places = traced(who.id)
    assert not where(places, f"devices/{who.slot}/recordings")
    assert not where(places, f"devices/{who.slot}/model")
    assert not where(places, "reports/")
    assert where(places, "registry: job")


def test_one_record_that_goes_leaves_the_others_where_they_are(fleet, traced):
    who = fleet.with_several_records()
    gone, *kept = records_of(fleet, who.id)
    fleet.registry.withdraw(who.id, records=[gone])
    fleet.run()
    device = where(traced(who.id), f"devices/{who.slot}/")
    assert set(device[f"devices/{who.slot}/recordings: waveforms and labels"]) == set(kept)
    assert all(gone not in records for records in device.values())


@pytest.mark.parametrize("role", ["corpus", "control"])
def test_a_public_patient_s_data_go_with_the_next_training(fleet, traced, role):
    settings = TINY.with_values({"general.slices": 2, "general.epochs": 2, "general.max_segments": 300})
    train_general(fleet.workspace, fleet.registry, settings, tell=lambda *_: None)
    who = fleet.registry.patients(role)[0]
    own = records_of(fleet, who.id)
    places = traced(who.id)
    assert len(where(places, "models/")) == 2  # the first run's, and this one
    assert where(places, "cache/")
    assert bool(where(places, "slices/")) == (role == "corpus")
    assert all(set(records) == set(own) for records in where(places, "models/").values())
    fleet.registry.withdraw(who.id)
    assert where(traced(who.id), "models/").keys() == where(places, "models/").keys()
    train_general(fleet.workspace, fleet.registry, settings, tell=lambda *_: None)
    after = traced(who.id)
    assert not where(after, "models/")
    assert not where(after, "cache/")


def test_the_command_prints_the_places_and_what_it_cannot_see(fleet):
    who = fleet.wearers()[0]
    command = ["patients", "trace", who.id, "--home", str(fleet.workspace.home)]
    printed = CliRunner().invoke(app, command, env=os.environ | {"COLUMNS": "160"}).stdout
    assert f"devices/{who.slot}/recordings" in printed
    assert "Backups" in printed
    told = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert {one["where"] for one in told["holdings"]} >= {f"devices/{who.slot}/recordings", "registry"}


def test_an_unknown_patient_is_an_error(fleet):
    with pytest.raises(UsageError, match="no patient"):
        trace(fleet.workspace, fleet.registry, "nobody")
