"""`lethe patients trace`: every place that holds something of a patient's, before and after it is forgotten."""

import json
import os

import pytest
from fleet import TINY
from typer.testing import CliRunner

from server.corpus import open_corpus
from server.forgotten import unname
from server.general import train_general
from server.sisa import Sharding
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


SLICED = TINY.with_values(
    {"general.unlearning": "sisa", "general.slices": 2, "general.epochs": 2, "general.max_segments": 300}
)


def train(fleet):
    train_general(fleet.workspace, fleet.registry, SLICED, tell=lambda *_: None)


@pytest.mark.parametrize("role", ["corpus", "control"])
def test_a_public_patient_s_data_go_with_the_next_training_and_not_before(fleet, traced, role):
    train(fleet)
    who = fleet.registry.patients(role)[0]
    places = traced(who.id)
    assert len(where(places, "models/")) == 2  # the first run's, and this one
    assert where(places, "cache/")
    public = {place: records for part in ("models/", "cache/") for place, records in where(places, part).items()}
    assert all(set(records) == set(records_of(fleet, who.id)) for records in public.values())
    fleet.registry.withdraw(who.id)
    for path in [
        *fleet.workspace.cache.iterdir(),
        *fleet.workspace.models.rglob("*"),
        *fleet.workspace.slices.iterdir(),
    ]:
        path.touch()  # as a copy of the workspace does
    assert traced(who.id).items() >= public.items()
    train(fleet)
    after = traced(who.id)
    assert not {place for part in ("models/", "cache/", "slices/") for place in where(after, part)}


def test_a_slice_is_named_to_those_alone_whom_it_has_learnt(fleet, traced):
    train(fleet)
    corpus = open_corpus(fleet.workspace, fleet.registry, SLICED)
    place = Sharding(1, 2, SLICED.general.seed).place
    training = {corpus.signals.records[row].patient for row in corpus.training}
    validating = {corpus.signals.records[row].patient for row in corpus.validation}
    slices = {who: {name[:10] for name in where(traced(who), "slices/")} for who in training | validating}
    assert {place(who)[1] for who in training} == {0, 1}
    for who in training:
        assert slices[who] == ({"slices/0-0", "slices/0-1"} if place(who)[1] == 0 else {"slices/0-1"})
    assert all(not slices[who] for who in validating)


def test_what_does_not_say_whom_it_holds_counts_as_holding_everybody(fleet, traced):
    train(fleet)
    who = fleet.registry.patients("corpus")[0]
    for path in (*fleet.workspace.models.rglob("records.json"), *fleet.workspace.slices.glob("*.json")):
        path.write_text("{")
    (cache,) = fleet.workspace.cache.glob("*.samples")
    cache.write_bytes(cache.read_bytes()[:-1])
    (fleet.workspace.cache / "killed.part").write_bytes(b"12")
    own, places = set(records_of(fleet, who.id)), traced(who.id)
    assert [len(where(places, part)) for part in ("models/", "slices/", "cache/")] == [2, 2, 2]
    assert all(
        set(records) == own for part in ("models/", "slices/", "cache/") for records in where(places, part).values()
    )


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


def test_the_copy_that_an_upgrade_kept_is_told(fleet, traced):
    path = fleet.workspace.home / "registry.db.version-2"
    path.write_bytes(b"")
    who = fleet.wearers()[0]
    ((_, records),) = where(traced(who.id), path.name).items()
    assert records == records_of(fleet, who.id)


@pytest.mark.parametrize("feed", ['{"records": [{"x": 1}]}', '{"records": 5}', "{", "[1]", "[" * 100_000])
def test_a_feed_that_cannot_be_read_counts_as_naming_everything(fleet, feed):
    who = fleet.wearers()[0]
    fleet.workspace.feed(who.slot).write_text(feed)
    found = trace(fleet.workspace, fleet.registry, who.id)
    (one,) = [one for one in found if one.where == f"feeds/{who.slot}.json"]
    assert one.records == records_of(fleet, who.id)
    assert "cannot be read" in one.what


@pytest.mark.parametrize("content", [b"junk", b"", b"PK\x03\x04junk"])
def test_a_report_whose_figures_cannot_be_read_counts_as_drawing_everything(fleet, content):
    folder = fleet.workspace.reports / "x"
    folder.mkdir()
    (folder / "figures.npz").write_bytes(content)
    who = fleet.registry.patients("control")[0]
    (one,) = [one for one in trace(fleet.workspace, fleet.registry, who.id) if one.where == "reports/x"]
    assert one.records == records_of(fleet, who.id)
    assert "cannot be read" in one.what
