"""What a radio carries of a bundle: what differs from the general model's, and with it exactly the bundle again."""

import json
import os
import shutil
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from fleet import Fleet
from typer.testing import CliRunner
from wearable_signals import chunked, signal

from client.bundle import BUNDLE, INT8, KIND, MANIFEST, Manifest, signed
from client.delta import delta, delta_of, read
from client.envelope import HOSPITAL, PUBLIC, device_key, sign
from client.events import Judged
from client.receiving import receive
from client.runtime import load, run
from client.standing import Device, standing
from shared.errors import BundleError, RevokedError
from simulations.cli import app as cli

TODAY = datetime.now(UTC).date()


@pytest.fixture
def device(fleet: Fleet) -> Device:
    return Device.of(fleet.workspace.home, fleet.with_several_records().slot)


def general_of(device: Device) -> bytes:
    state = json.loads((device.folder / "state.json").read_bytes())
    return (device.folder / "general" / state["general"] / BUNDLE).read_bytes()


def public_of(device: Device) -> bytes:
    return (device.folder / PUBLIC).read_bytes()


def applied(device: Device, sent: bytes, *, general: bytes = b"") -> tuple[Manifest, bytes]:
    found = read(sent, public=public_of(device), today=TODAY)
    return found.manifest, found.file(general or general_of(device))


def refused(device: Device, sent: bytes, *, general: bytes = b"") -> str:
    with pytest.raises(BundleError) as found:
        applied(device, sent, general=general)
    return found.value.reason


def made_again(device: Device, runs: bytes | None = None, **changed: object) -> bytes:
    """A delta of the device's bundle, or of another file, with another lineage."""
    state = json.loads((device.folder / "state.json").read_bytes())
    lineage = {"recipe": state["recipe"], "records": state["records"]} | changed
    data = (device.folder / BUNDLE).read_bytes() if runs is None else runs
    return delta(general_of(device), data, (device.folder / MANIFEST).read_bytes(), **lineage)


@pytest.fixture
def wrist(device: Device, tmp_path: Path) -> Device:
    """A wearable with what it needs before anything has come: keys, and the general model's bundle."""
    home = tmp_path / "wrist"
    folder = home / "devices" / str(device.slot)
    general = Path("general", json.loads((device.folder / "state.json").read_bytes())["general"])
    (folder / general).mkdir(parents=True)
    for name in (PUBLIC, HOSPITAL, general / BUNDLE, general / MANIFEST):
        shutil.copy(device.folder / name, folder / name)
    return Device.of(home, device.slot)


def test_the_general_model_s_bundle_and_a_delta_are_the_bundle(fleet):
    for patient in fleet.wearers():
        device = Device.of(fleet.workspace.home, patient.slot)
        told, made = applied(device, delta_of(device))
        assert made == (device.folder / BUNDLE).read_bytes()
        assert told == standing(device).manifest


def test_only_what_the_device_has_trained_travels(device):
    """The last block and the head; the other three quarters of the weights are the general model's."""
    import onnx

    own, general = (onnx.load_from_string(data) for data in ((device.folder / BUNDLE).read_bytes(), general_of(device)))
    pairs = zip(own.graph.initializer, general.graph.initializer, strict=True)
    trained = [one for one, other in pairs if one.raw_data != other.raw_data]
    assert {one.name.split(".")[1] for one in trained} == {"blocks", "head"}
    sent, weights = delta_of(device), sum(len(one.raw_data) for one in trained)
    manifest = (device.folder / MANIFEST).stat().st_size
    assert weights < len(sent) < weights + manifest + 1000


def test_eight_bits_travel_too(fleet, device, monkeypatch):
    for gate in ("AUC_MAY_FALL", "ACCURACY_MAY_FALL"):
        monkeypatch.setattr(f"client.int8.{gate}", 1.0)
    fleet.run(fleet.settings.with_values({"personalisation.int8": True}))
    told, made = applied(device, delta_of(device))
    assert (told.runs.name, made) == (INT8, (device.folder / INT8).read_bytes())


def test_what_was_changed_by_a_bit_is_refused(device):
    sent = delta_of(device)
    ends = range(0, 2000, 7), range(len(sent) - 300, len(sent), 7), range(2000, len(sent), 9001)
    for place in (place for part in ends for place in part):
        changed = sent[:place] + bytes([sent[place] ^ 4]) + sent[place + 1 :]
        assert refused(device, changed) in {"changed", "signature", "superseded"}
    for cut in (0, 5, 20, 1500, len(sent) - 1):
        assert refused(device, sent[:cut]) in {"changed", "signature"}
    assert refused(device, sent + b"\0") == "changed"


def test_another_base_is_refused(device):
    other = general_of(device)[:-1] + b"x"
    assert refused(device, delta_of(device), general=other) == "superseded"


def test_another_device_s_is_refused(fleet, device):
    other = next(patient for patient in fleet.wearers() if patient.slot != device.slot)
    sent = delta_of(Device.of(fleet.workspace.home, other.slot))
    assert refused(device, sent) == "signature"


def test_a_file_that_the_manifest_does_not_name_is_refused(device):
    assert refused(device, made_again(device, b"another model")) == "changed"
    size = (device.folder / BUNDLE).stat().st_size
    assert refused(device, made_again(device, bytes(size))) == "changed"


@pytest.mark.parametrize("changed", [{"records": ["other"]}, {"records": []}, {"recipe": "0" * 64}])
def test_another_lineage_than_was_signed_is_refused(device, changed):
    """Else nobody could revoke it."""
    assert refused(device, made_again(device, **changed)) == "changed"


def test_nothing_of_a_revoked_model_travels(fleet, device):
    fleet.registry.withdraw(fleet.wearer(device.slot).id)
    with pytest.raises(RevokedError, match="withdrawn"):
        delta_of(device)


def test_the_command_writes_it_and_prints_the_bytes_on_the_wire(fleet, device, tmp_path):
    words = ["devices", "delta", str(tmp_path / "delta"), "--device", str(device.slot)]
    env = {"LETHE_HOME": str(fleet.workspace.home)}
    done = CliRunner().invoke(cli, words, env=env)
    sent = (tmp_path / "delta").read_bytes()
    assert sent == delta_of(device)
    size = (device.folder / BUNDLE).stat().st_size
    assert done.stdout.startswith(f"{len(sent):,} bytes on the wire, {100 * len(sent) / size:.1f} % of the {size:,}")
    told = json.loads(CliRunner().invoke(cli, [*words, "--json"], env=env).stdout)
    assert told == {"bytes_on_the_wire": len(sent), "bytes": size, "runs": BUNDLE}
    load(standing(device))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [({"hz": 250}, "contract"), ({"valid_until": "2026-01-01"}, "validity"), ({"bytes": 1}, "changed")],
)
def test_what_is_for_another_use_another_day_or_of_another_size_is_not_made(device, changed, reason):
    manifest = asdict(signed(device.folder, public=device.folder)) | changed
    (device.folder / MANIFEST).write_bytes(sign(manifest, kind=KIND, key=device_key(device.folder)))
    assert refused(device, made_again(device)) == reason


# On the wearable


@pytest.mark.parametrize("eight", [False, True])
def test_what_comes_by_radio_runs_until_it_is_withdrawn(fleet, device, wrist, monkeypatch, eight):
    for gate in ("AUC_MAY_FALL", "ACCURACY_MAY_FALL"):
        monkeypatch.setattr(f"client.int8.{gate}", 1.0)
    if eight:
        receive(wrist, delta_of(device))
        fleet.run(fleet.settings.with_values({"personalisation.int8": True}))
    assert receive(wrist, delta_of(device)) == standing(device).manifest
    now = standing(wrist)
    assert (now.kind, now.manifest, now.path.name) == ("personal", standing(device).manifest, INT8 if eight else BUNDLE)
    assert {path.name for path in wrist.folder.glob("bundle.*")} == {now.path.name, MANIFEST}
    expected = [event for event in run(device, chunked(signal(3))) if isinstance(event, Judged)]
    assert [event for event in run(wrist, chunked(signal(3))) if isinstance(event, Judged)] == expected

    old = delta_of(device)
    fleet.registry.withdraw(fleet.wearer(device.slot).id)
    wrist.revocations.parent.mkdir()
    shutil.copy(device.revocations, wrist.revocations)  # by radio, too
    assert (standing(wrist).kind, load(standing(wrist)) is not None) == ("general", True)
    with pytest.raises(RevokedError, match="withdrawn"):
        receive(wrist, old)
    fleet.run()
    assert receive(wrist, delta_of(device)).kind == "general"
    assert (standing(wrist).kind, standing(wrist).why) == ("general", "")
    with pytest.raises(RevokedError, match="withdrawn"):
        receive(wrist, old)


def test_an_older_delta_does_not_take_a_newer_one_s_place(device, wrist):
    old = asdict(signed(device.folder, public=device.folder)) | {"issued": (TODAY - timedelta(days=1)).isoformat()}
    now = (device.folder / MANIFEST).read_bytes()
    receive(wrist, delta_of(device))
    (device.folder / MANIFEST).write_bytes(sign(old, kind=KIND, key=device_key(device.folder)))
    with pytest.raises(BundleError, match="what is in use on") as found:
        receive(wrist, made_again(device))
    assert found.value.reason == "superseded"
    assert (wrist.folder / MANIFEST).read_bytes() == now


@pytest.mark.parametrize("step", range(3))
def test_a_wearable_that_is_killed_while_it_receives_takes_it_again(fleet, device, wrist, monkeypatch, step):
    receive(wrist, delta_of(device))
    fleet.run(fleet.settings.with_values({"personalisation.steps": 3}))
    sent, calls, replace = delta_of(device), iter(range(99)), os.replace

    def rename(source: str, target: str) -> None:
        if next(calls) == step:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", rename)
    with pytest.raises(KeyboardInterrupt):
        receive(wrist, sent)
    monkeypatch.undo()
    with suppress(BundleError):  # what it has is of one delta, or not run
        assert load(standing(wrist)).standing.manifest in (standing(device).manifest, standing(wrist).manifest)
    assert receive(wrist, sent) == standing(wrist).manifest == standing(device).manifest
    load(standing(wrist))


def test_the_commands_carry_a_bundle_from_the_device_to_the_wrist(fleet, device, wrist, tmp_path):
    slot, file = str(device.slot), str(tmp_path / "delta")
    home = str(wrist.folder.parent.parent)
    sent = CliRunner().invoke(cli, ["devices", "delta", file, "--device", slot, "--home", str(fleet.workspace.home)])
    assert sent.exit_code == 0
    got = CliRunner().invoke(cli, ["devices", "receive", file, "--device", slot, "--home", home])
    size = (device.folder / BUNDLE).stat().st_size
    assert got.stdout.startswith(f"{BUNDLE} in use, {size:,} bytes, sha256 ")
    words = ["devices", "run", "--device", slot, "--home", home, "--generate", "3", "--speed", "0"]
    assert "personal model" in CliRunner().invoke(cli, words).stdout
    own = CliRunner().invoke(cli, ["devices", "receive", file, "--device", slot, "--home", str(fleet.workspace.home)])
    assert "is the device's own" in str(own.exception)
    gone = CliRunner().invoke(cli, ["devices", "receive", file + "x", "--device", slot, "--home", home])
    assert "cannot be read" in str(gone.exception)
