"""What the trace tells of devices: by their files on this machine, by what they last told where they are elsewhere."""

import hashlib
import json
import os
import shutil

import pytest
from local_grid import LocalGrid
from typer.testing import CliRunner

from client.app import app as client_app
from server.rows import Patient
from simulations.cli import app
from simulations.trace import trace
from simulations.traced import Holding


@pytest.fixture
def device(fleet):
    """What is told of devices, by the place."""

    def look(who: Patient) -> dict[str, Holding]:
        found = trace(fleet.workspace, fleet.registry, who.id)
        return {one.where: one for one in found if one.where.startswith("device")}

    return look


def records_of(fleet, who):
    return tuple(row.id for row in fleet.registry.records(who.id, consented_only=False))


def told(fleet, slot):
    return next(row for row in fleet.registry.devices() if row.slot == slot)


def deployed(fleet, *, away: int | None = None):
    """As if `lethe deploy keys` had been called, and one device's folder lay on its own machine."""
    fleet.workspace.deploy.mkdir()
    if away is not None:
        shutil.rmtree(fleet.workspace.devices / str(away))


# On a machine of its own


def test_a_device_elsewhere_is_told_by_its_digests_and_when_it_told_them(fleet, device):
    who = fleet.wearers()[0]
    deployed(fleet, away=who.slot)
    row = told(fleet, who.slot)
    (one,) = device(who).values()
    assert one.where == f"device {who.slot}"
    assert one.records == records_of(fleet, who)
    for word in (row.general[:12], row.personal[:12], row.updated_at[:10], "only where it runs"):
        assert word in one.what


def test_a_device_elsewhere_that_never_told_anything_is_not_passed_over(new_fleet):
    who = new_fleet.wearers()[0]
    deployed(new_fleet)
    found = trace(new_fleet.workspace, new_fleet.registry, who.id)
    (one,) = [one for one in found if one.where.startswith("device")]
    assert "has told nothing yet" in one.what


def test_a_device_that_was_sent_a_model_and_never_answered_may_have_it(new_fleet):
    who, public = new_fleet.wearers()[0], new_fleet.registry.patients("corpus")[0]
    (model,) = new_fleet.workspace.models.iterdir()
    new_fleet.registry.note_sending(who.slot, patient=who.id, general=model.name)
    deployed(new_fleet)
    for patient in (who, public):
        found = trace(new_fleet.workspace, new_fleet.registry, patient.id)
        (one,) = [one for one in found if one.where == f"device {who.slot}"]
        assert f"was sent general model {model.name[:12]}" in one.what
        assert one.records == records_of(new_fleet, patient)


def test_the_command_says_that_devices_elsewhere_are_not_seen(fleet):
    who = fleet.wearers()[0]
    command = ["patients", "trace", who.id, "--home", str(fleet.workspace.home)]
    wide = os.environ | {"COLUMNS": "200"}
    assert "machine of its own" not in CliRunner().invoke(app, command, env=wide).stdout
    deployed(fleet, away=who.slot)
    assert "machine of its own" in CliRunner().invoke(app, command, env=wide).stdout
    result = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert "machine of its own" in result["not_seen"]
    assert f"device {who.slot}" in [one["where"] for one in result["holdings"]]


def test_what_is_certified_as_forgotten_is_on_no_device(fleet, device):
    who = fleet.wearers()[0]
    fleet.registry.withdraw(who.id)
    fleet.run()
    deployed(fleet, away=who.slot)
    assert device(who) == {}


# Public patients, whom every device's general model learnt of


def test_a_public_patient_is_in_every_device_s_general_model(fleet, device):
    who = fleet.registry.patients("corpus")[0]
    assert {place: one.records for place, one in device(who).items()} == {
        f"devices/{slot}": records_of(fleet, who) for slot in range(4)
    }


@pytest.mark.parametrize("role", ["corpus", "control"])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_device_that_still_has_an_older_general_model_is_listed_and_no_other(fleet, device, role, elsewhere):
    who, whole = fleet.registry.patients(role)[0], fleet.grid
    fleet.registry.withdraw(who.id)
    fleet.grid = LocalGrid(client_app, nodes=3, run_config={"home": str(fleet.workspace.home)})
    fleet.run(nodes=3)
    if elsewhere:
        deployed(fleet, away=3)
    (one,) = device(who).values()
    assert (one.where, one.records) == ("device 3" if elsewhere else "devices/3", records_of(fleet, who))
    if not elsewhere:
        fleet.grid = whole
        fleet.run()
        assert device(who) == {}


# What cannot be read


@pytest.mark.parametrize("state", ["{", "[]", '{"records": 7}', '{"records": "30"}', '{"records": [{"x": 1}]}', None])
def test_a_model_whose_state_cannot_be_read_counts_as_made_of_everything(fleet, device, state):
    who = fleet.with_several_records()
    path = fleet.folder(who) / "state.json"
    path.unlink() if state is None else path.write_text(state)
    for name in ("model.safetensors", "bundle.onnx"):
        one = device(who)[f"devices/{who.slot}/{name}"]
        assert one.records == records_of(fleet, who)
        assert "cannot be read" in one.what


def test_a_model_that_is_not_the_state_s_counts_as_made_of_everything(fleet, device):
    who = fleet.with_several_records()
    gone, *_ = fleet.records(who)
    fleet.registry.withdraw(who.id, records=[gone])
    fleet.run()
    path = fleet.folder(who) / "model.safetensors"
    place = f"devices/{who.slot}/model.safetensors"
    assert gone not in device(who)[place].records
    path.write_bytes(b"as a process left it that was killed between two renames")
    assert device(who)[place].records == records_of(fleet, who)


def test_the_model_in_eight_bits_is_told_of_as_the_other_and_the_list_s_number_is_nobody_s(fleet, device):
    who = fleet.with_several_records()
    folder, state = fleet.folder(who), json.loads((fleet.folder(who) / "state.json").read_text())
    (folder / "revoked.serial").write_text("1\n")
    (folder / "bundle.int8.onnx").write_bytes(b"eight bits")
    place = f"devices/{who.slot}/bundle.int8.onnx"
    assert "cannot be read" in device(who)[place].what
    state |= {"records": state["records"][1:], "int8": {"digest": hashlib.sha256(b"eight bits").hexdigest()}}
    (folder / "state.json").write_text(json.dumps(state))
    assert device(who)[place].records == tuple(state["records"])
    assert f"devices/{who.slot}/revoked.serial" not in device(who)


@pytest.mark.parametrize(
    "name", ["staged.json", "staged.safetensors", "staged.onnx", "recordings/.57.npz.a1b2c3d4", "recordings/57.bak"]
)
def test_what_was_on_its_way_counts_as_holding_everything(fleet, device, name):
    who = fleet.wearers()[0]
    (fleet.folder(who) / name).write_bytes(b"something")
    one = device(who)[f"devices/{who.slot}/{name}"]
    assert one.records == records_of(fleet, who)


def test_a_device_whose_state_cannot_be_read_may_have_any_general_model(fleet, device):
    who = fleet.registry.patients("corpus")[0]
    fleet.registry.withdraw(who.id)
    fleet.registry.withdraw(fleet.registry.patients("control")[0].id)
    for slot in range(4):
        (fleet.workspace.devices / str(slot) / "state.json").write_text("{")
        shutil.rmtree(fleet.workspace.devices / str(slot) / "general")
    assert set(device(who)) == {f"devices/{slot}" for slot in range(4)}
