"""What a radio carries of a bundle: what differs from the general model's, and with it exactly the bundle again."""

import json
from dataclasses import asdict

import pytest
from fleet import Fleet
from typer.testing import CliRunner

from client.bundle import BUNDLE, INT8, KIND, MANIFEST, signed
from client.delta import applied, delta, delta_of
from client.envelope import PUBLIC, device_key, sign
from client.runtime import load
from client.standing import Device, standing
from shared.errors import BundleError, RevokedError
from simulations.cli import app as cli


@pytest.fixture
def device(fleet: Fleet) -> Device:
    return Device.of(fleet.workspace.home, fleet.with_several_records().slot)


def general_of(device: Device) -> bytes:
    state = json.loads((device.folder / "state.json").read_bytes())
    return (device.folder / "general" / state["general"] / BUNDLE).read_bytes()


def public_of(device: Device) -> bytes:
    return (device.folder / PUBLIC).read_bytes()


def refused(device: Device, sent: bytes, *, general: bytes = b"", public: bytes = b"") -> str:
    with pytest.raises(BundleError) as found:
        applied(sent, general=general or general_of(device), public=public or public_of(device))
    return found.value.reason


def test_the_general_model_s_bundle_and_a_delta_are_the_bundle(fleet):
    for patient in fleet.wearers():
        device = Device.of(fleet.workspace.home, patient.slot)
        told, made = applied(delta_of(device), general=general_of(device), public=public_of(device))
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
    told, made = applied(delta_of(device), general=general_of(device), public=public_of(device))
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
    manifest = (device.folder / MANIFEST).read_bytes()
    assert refused(device, delta(general_of(device), b"another model", manifest)) == "changed"


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
    sent = delta(general_of(device), (device.folder / BUNDLE).read_bytes(), (device.folder / MANIFEST).read_bytes())
    assert refused(device, sent) == reason
