"""A wearable's bundle: signed by the device, checked before it runs, revoked by the hospital at once."""

import base64
import json
import stat
import subprocess
import sys
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from fleet import Fleet, copied
from securesystemslib.dsse import Envelope
from securesystemslib.signer import SSlibKey
from wearable_signals import chunked, signal

from client import runtime
from client.bundle import BUNDLE, KIND, MANIFEST, read, signed
from client.envelope import HOSPITAL, PRIVATE, PUBLIC, SERIAL, device_key, sign
from client.events import Judged, Using
from client.runtime import load, run
from client.standing import Device, standing
from server import keys
from shared.errors import BundleError, RevokedError
from shared.notice import FOLDER
from shared.revocation import list_path
from shared.settings import Streaming

TODAY = datetime.now(UTC).date()


@pytest.fixture
def device(fleet: Fleet) -> Device:
    """A wearable with a personal model, in a workspace of its own."""
    patient = fleet.with_several_records()
    return Device.of(fleet.workspace.home, patient.slot)


def sign_again(device: Device, *, key: Ed25519PrivateKey | None = None, **changed: object) -> None:
    """Write the manifest with other fields, or with another key."""
    manifest = asdict(signed(device.folder, public=device.folder)) | changed
    (device.folder / MANIFEST).write_bytes(sign(manifest, kind=KIND, key=key or device_key(device.folder)))


def refused(device: Device, today: date = TODAY) -> BundleError:
    with pytest.raises(BundleError) as found:
        load(standing(device, today=today))
    assert found.value.exit_code == 5
    return found.value


# What a run leaves


def test_every_device_has_its_own_signed_bundle_and_the_general_model_s(fleet):
    for patient in fleet.wearers():
        device = Device.of(fleet.workspace.home, patient.slot)
        state = fleet.store(patient).state
        own = standing(device)
        assert (own.kind, own.manifest.bundle, own.manifest.model) == ("personal", state.bundle, state.model)
        fallback = read(device.folder / "general" / state.general, public=device.folder, today=TODAY)
        assert (fallback.kind, fallback.model, fallback.general) == ("general", state.general, state.general)
        assert own.manifest.bytes == (device.folder / BUNDLE).stat().st_size
        load(own)


def test_a_manifest_names_no_patient_no_record_no_path_and_no_more_than_a_day(fleet):
    for patient in fleet.wearers():
        folder = fleet.folder(patient)
        said = asdict(signed(folder, public=folder))
        assert set(said) == {
            "bundle", "bytes", "model", "general", "width", "task", "int8", "lineage", "issued", "valid_until",
            "labels", "leads", "samples", "hz", "unit", "form",
        }  # fmt: skip
        assert (said["issued"], len(said["valid_until"])) == (TODAY.isoformat(), 10)
        text = json.dumps(said)
        assert patient.pseudonym not in text
        assert "/" not in text
        assert not {patient.id, *fleet.records(patient)} & {str(value) for value in said.values()}


def test_a_device_signs_with_a_key_of_its_own_that_nobody_else_may_read(fleet):
    first, second = (fleet.folder(patient) for patient in fleet.wearers()[:2])
    assert stat.S_IMODE((first / PRIVATE).stat().st_mode) == 0o600
    assert (first / PUBLIC).read_bytes() != (second / PUBLIC).read_bytes()
    before = (first / PRIVATE).read_bytes()
    fleet.run(fleet.settings.with_values({"personalisation.steps": 3}))
    assert (first / PRIVATE).read_bytes() == before
    hospital = (fleet.workspace.keys / keys.PRIVATE).read_bytes()
    assert not [path for path in fleet.workspace.devices.rglob("*") if path.is_file() and hospital in path.read_bytes()]
    assert (first / HOSPITAL).read_bytes() == (fleet.workspace.keys / keys.PUBLIC).read_bytes()


def test_any_library_for_dsse_verifies_a_manifest(device):
    envelope = Envelope.from_dict(json.loads((device.folder / MANIFEST).read_bytes()))
    (keyid,) = envelope.signatures
    public = SSlibKey.from_crypto(load_pem_public_key((device.folder / PUBLIC).read_bytes()), keyid=keyid)
    envelope.verify([public], 1)
    assert keyid == keys.fingerprint((device.folder / PUBLIC).read_bytes())


def test_a_bundle_is_signed_again_before_it_expires_and_keeps_its_bytes(fleet, device):
    later = TODAY + timedelta(days=Streaming.valid_days / 2 - 1)
    sign_again(device, issued="2000-01-01", valid_until=later.isoformat())
    before = (device.folder / BUNDLE).read_bytes()
    fleet.run()
    assert signed(device.folder, public=device.folder).issued == TODAY.isoformat()
    assert (device.folder / BUNDLE).read_bytes() == before


def test_who_has_withdrawn_everything_keeps_a_bundle_that_is_signed_again(fleet, device):
    patient = fleet.wearer(device.slot)
    fleet.registry.withdraw(patient.id)
    fleet.run()
    sign_again(device, issued="2000-01-01", valid_until=(TODAY + timedelta(days=1)).isoformat())
    fleet.run()
    assert standing(device).manifest.issued == TODAY.isoformat()
    assert standing(device).kind == "general"


@pytest.mark.parametrize("lost", [MANIFEST, PRIVATE, PUBLIC])
def test_what_is_lost_comes_again_with_the_next_run_and_the_model_stays(fleet, device, lost):
    before = fleet.store(fleet.wearer(device.slot)).state
    (device.folder / lost).unlink()
    fleet.run()
    assert standing(device).manifest.bundle == before.bundle
    assert fleet.store(fleet.wearer(device.slot)).state == before


# What is not run


def test_a_model_with_one_bit_changed_is_not_run(device):
    path = device.folder / BUNDLE
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert refused(device).reason == "changed"


def test_a_manifest_with_any_byte_changed_is_not_believed(device):
    path = device.folder / MANIFEST
    data = path.read_bytes()
    for place in range(0, len(data), 3):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert refused(device).reason == "signature"
    path.write_bytes(data + b" ")
    assert refused(device).reason == "signature"


def test_a_bundle_that_another_key_signed_is_not_run(device):
    sign_again(device, key=Ed25519PrivateKey.generate())
    assert refused(device).reason == "signature"


def test_a_certificate_s_kind_of_signature_is_none_of_a_bundle(device):
    manifest = asdict(signed(device.folder, public=device.folder))
    other = sign(manifest, kind="application/vnd.in-toto+json", key=device_key(device.folder))
    (device.folder / MANIFEST).write_bytes(other)
    assert refused(device).reason == "signature"


@pytest.mark.parametrize("days", [-1, Streaming.valid_days, 10_000])
def test_a_bundle_runs_in_its_time_only(device, days):
    assert standing(device, today=TODAY + timedelta(days=Streaming.valid_days - 1))
    error = refused(device, today=TODAY + timedelta(days=days))
    assert (error.reason, "valid from" in str(error)) == ("validity", True)


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"labels": ("NORM", "MI", "STTC", "HYP", "CD")}, "labels"),
        ({"leads": ("I",)}, "leads"),
        ({"hz": 250}, "hz"),
        ({"samples": 250}, "samples"),
        ({"unit": "V"}, "unit"),
        ({"form": 1}, "form"),
        ({"surprise": 1}, "form"),
    ],
)
def test_a_bundle_for_another_use_is_not_run(device, changed, word):
    sign_again(device, **changed)
    error = refused(device)
    assert (error.reason, word in str(error)) == ("contract", True)


@pytest.mark.parametrize("changed", [{"task": "multi"}, {"model": "f" * 64}])
def test_a_file_that_says_otherwise_than_its_manifest_is_not_run(device, changed):
    sign_again(device, **changed)
    assert refused(device).reason == "contract"


def test_another_model_under_the_same_name_is_not_what_was_hashed(device, monkeypatch):
    """Renamed in after the digest was taken, and out before anybody looks again."""
    path, own, other = (device.folder / name for name in (BUNDLE, "own.onnx", "other.onnx"))
    other.write_bytes(b"another model")
    opened = runtime.open_session

    def swapped(where: Path, *, optimised: bool) -> object:
        path.rename(own)
        other.rename(path)
        try:
            return opened(where, optimised=optimised)
        finally:
            own.rename(path)

    monkeypatch.setattr(runtime, "open_session", swapped)
    assert load(standing(device)).session.get_modelmeta().custom_metadata_map["lethe.task"]


def test_a_model_that_is_written_while_it_is_read_is_not_run(device, monkeypatch):
    opened = runtime.open_session

    def written(where: Path, *, optimised: bool) -> object:
        session = opened(where, optimised=optimised)
        (device.folder / BUNDLE).write_bytes((device.folder / BUNDLE).read_bytes() + b" ")
        return session

    monkeypatch.setattr(runtime, "open_session", written)
    assert "replaced while it was read" in str(refused(device))


def test_a_superseded_bundle_that_is_put_back_is_not_run(fleet, device):
    old = {name: (device.folder / name).read_bytes() for name in (BUNDLE, MANIFEST)}
    fleet.run(fleet.settings.with_values({"personalisation.steps": 3}))
    assert standing(device)
    for name, data in old.items():
        (device.folder / name).write_bytes(data)
    assert refused(device).reason == "superseded"


@pytest.mark.parametrize("name", [BUNDLE, MANIFEST, PUBLIC, "state.json"])
def test_a_missing_file_is_named(device, name):
    (device.folder / name).unlink()
    assert refused(device).reason == "missing"


def test_a_device_that_is_not_there_is_named(fleet):
    with pytest.raises(BundleError, match="no device 99 in"):
        Device.of(fleet.workspace.home, 99)


def test_a_device_without_a_model_says_what_to_do(new_fleet):
    new_fleet.store(new_fleet.wearer(0))
    with pytest.raises(BundleError, match="`lethe run` makes"):
        standing(Device.of(new_fleet.workspace.home, 0))


@pytest.mark.parametrize("changed", [{"records": ["other"]}, {"recipe": "0" * 64}, {"records": []}])
def test_what_a_model_was_made_of_is_signed_and_put_right_by_a_run(fleet, device, changed):
    """Else a bit in `state.json` would let a model of withdrawn records run on."""
    path, before = device.folder / "state.json", fleet.store(fleet.wearer(device.slot)).state
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    assert refused(device).reason == "changed"
    fleet.registry.withdraw(next(one for one in fleet.wearers() if one.slot != device.slot).id)
    fleet.run()
    assert standing(device).kind == "personal"
    assert fleet.store(fleet.wearer(device.slot)).state == before


def test_a_withdrawn_patient_s_records_that_are_hidden_let_nothing_of_the_patient_run(fleet, device):
    path = device.folder / "state.json"
    fleet.registry.withdraw(fleet.wearer(device.slot).id)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"records": ["other"]}))
    assert refused(device).reason == "changed"


# Withdrawal


@pytest.mark.parametrize("spoilt", [MANIFEST, BUNDLE])
@pytest.mark.parametrize("how", ["missing", "changed"])
def test_who_has_withdrawn_keeps_a_wearable_that_works_whatever_became_of_the_old_bundle(fleet, device, spoilt, how):
    fleet.registry.withdraw(fleet.wearer(device.slot).id)
    (device.folder / spoilt).unlink() if how == "missing" else (device.folder / spoilt).write_bytes(b"{}")
    now = standing(device)
    assert (now.kind, now.why) == ("general", "the patient has withdrawn what it was made of")
    load(now)


@pytest.mark.parametrize("how", ["missing", "changed"])
@pytest.mark.parametrize("spoilt", [MANIFEST, BUNDLE])
def test_without_a_general_model_that_is_sound_a_withdrawal_is_still_called_one(fleet, device, spoilt, how):
    patient = fleet.wearer(device.slot)
    path = device.folder / "general" / fleet.store(patient).state.general / spoilt
    fleet.registry.withdraw(patient.id)
    path.unlink() if how == "missing" else path.write_bytes(b"{}")
    with pytest.raises(RevokedError, match="has withdrawn what it was made of, and there is no general model") as found:
        list(run(device, chunked(signal(2))))
    assert found.value.exit_code == 3


@pytest.mark.parametrize("note", [b"", b"x\n", b"1", b"-1\n", b"\xff" * 9, b"1" * 30 + b"\n"])
def test_a_damaged_note_of_the_newest_list_is_no_older_one_and_a_run_puts_it_right(fleet, device, note):
    (device.folder / SERIAL).write_bytes(note)
    now = standing(device)
    assert (now.kind, "note of the newest list" in now.why) == ("general", True)
    fleet.run()
    assert standing(device).kind == "personal"


def test_a_withdrawal_stops_the_personal_model_at_once_and_the_general_one_runs(fleet, device):
    patient = fleet.wearer(device.slot)
    assert standing(device).kind == "personal"
    fleet.registry.withdraw(patient.id, records=fleet.records(patient)[:1])
    now = standing(device)
    assert (now.kind, now.manifest.model) == ("general", fleet.store(patient).state.general)
    assert now.why == "the patient has withdrawn what it was made of"
    load(now)


@pytest.mark.parametrize("everything", [True, False])
def test_after_the_device_has_forgotten_what_is_left_runs(fleet, device, everything):
    patient = fleet.wearer(device.slot)
    gone = fleet.records(patient)[:1]
    fleet.registry.withdraw(patient.id, records=None if everything else gone)
    run = fleet.run()
    ((_, reply),) = run.unlearned
    now = standing(device)
    assert (now.kind, now.why) == ("general" if everything else "personal", "")
    assert now.manifest.bundle == reply.bundle
    assert {BUNDLE, MANIFEST} <= {file.name for file in reply.erased}
    (look,) = run.withdrawals.values()
    assert look.verdict["verdict"] == "PASS"  # keys and manifests are no stray files


def test_another_patient_s_withdrawal_stops_nothing(fleet, device):
    other = next(patient for patient in fleet.wearers() if patient.slot != device.slot)
    fleet.registry.withdraw(other.id)
    assert standing(device).kind == "personal"


def test_a_withdrawal_while_samples_stream_stops_the_model_at_the_next_look(fleet, device):
    patient, seconds = fleet.wearer(device.slot), iter(range(1000))

    def chunks():
        for number, chunk in enumerate(chunked(signal(8))):
            if number == 14:
                fleet.registry.withdraw(patient.id)
            yield chunk

    events = list(run(device, chunks(), clock=lambda: float(next(seconds))))
    used = [number for number, event in enumerate(events) if isinstance(event, Using)]
    assert [events[number].kind for number in used] == ["personal", "general"]
    before = [event.until_s for event in events[: used[1]] if isinstance(event, Judged)]
    assert max(before) <= 14 * 0.25 < 8
    assert [event for event in events[used[1] :] if isinstance(event, Judged)]


def test_a_bundle_that_is_replaced_while_samples_stream_is_taken_up(fleet, device):
    seconds = iter(range(1000))

    def chunks():
        for number, chunk in enumerate(chunked(signal(4))):
            if number == 8:
                fleet.run(fleet.settings.with_values({"personalisation.steps": 3}))
            yield chunk

    events = run(device, chunks(), clock=lambda: float(next(seconds)))
    used = [event for event in events if isinstance(event, Using)]
    assert [one.kind for one in used] == ["personal", "personal"]
    assert used[0].bundle != used[1].bundle == fleet.store(fleet.wearer(device.slot)).state.bundle


def shortened(device: Device) -> None:
    content = json.loads(device.revocations.read_bytes())
    payload = json.dumps({"form": 1, "device": device.slot, "records": []}).encode()
    content["payload"] = base64.b64encode(payload).decode()
    device.revocations.write_text(json.dumps(content))


def of_another_key(device: Device) -> None:
    content = {"form": 1, "device": device.slot, "records": []}
    data = sign(content, kind="application/vnd.lethe.revocation+json", key=Ed25519PrivateKey.generate())
    device.revocations.write_bytes(data)


@pytest.mark.parametrize(
    "spoil",
    [
        shortened,
        of_another_key,
        lambda device: device.revocations.write_bytes(b"{"),
        lambda device: (device.folder / HOSPITAL).unlink(),
        lambda device: (device.revocations.unlink(), device.revocations.mkdir()),
    ],
    ids=["shortened", "another key", "damaged", "hospital unknown", "a folder"],
)
def test_a_list_that_cannot_be_verified_lets_nothing_of_the_patient_run(fleet, device, spoil):
    fleet.registry.withdraw(fleet.wearer(device.slot).id)
    spoil(device)
    now = standing(device)
    assert (now.kind, "the list of withdrawn records cannot be" in now.why) == ("general", True)


def test_an_older_list_and_none_are_not_taken_for_the_newest(fleet, device):
    """With the list of before, a model would run again that was made of what has been withdrawn since."""
    patient = fleet.wearer(device.slot)
    first, second, *_ = fleet.records(patient)
    fleet.registry.withdraw(patient.id, records=[first])
    fleet.run()
    assert standing(device).kind == "personal"
    older = device.revocations.read_bytes()
    fleet.registry.withdraw(patient.id, records=[second])
    assert standing(device).why == "the patient has withdrawn what it was made of"
    newest = device.revocations.read_bytes()
    device.revocations.write_bytes(older)
    now = standing(device)
    assert (now.kind, "older than one that was here: serial 1, expected 2 or more" in now.why) == ("general", True)
    device.revocations.unlink()
    now = standing(device)
    assert (now.kind, "is gone, and this device has seen one" in now.why) == ("general", True)
    device.revocations.write_bytes(newest)
    run = fleet.run()
    (look,) = run.withdrawals.values()
    assert look.verdict["verdict"] == "PASS"  # the serial is no stray file
    assert standing(device).why == ""


def test_a_list_with_fewer_records_is_newer_where_consent_was_given_again(fleet, device):
    patient = fleet.wearer(device.slot)
    fleet.registry.withdraw(patient.id)
    assert standing(device).kind == "general"
    fleet.run()
    fleet.registry.consent_again(patient.id)
    fleet.run()
    assert (standing(device).kind, standing(device).why) == ("personal", "")


def test_asking_twice_for_the_same_leaves_the_same_list(fleet, device):
    patient = fleet.wearer(device.slot)
    lists = []
    for _ in range(2):
        fleet.registry.withdraw(patient.id)
        lists.append(device.revocations.read_bytes())
    assert lists[0] == lists[1]
    assert patient.pseudonym.encode() not in lists[0]


def test_a_list_without_a_serial_is_believed_until_one_with_a_serial_was_here(fleet, device):
    patient = fleet.wearer(device.slot)
    key = load_pem_private_key((fleet.workspace.keys / keys.PRIVATE).read_bytes(), password=None)
    nothing = {"form": 1, "device": device.slot, "records": []}
    unnumbered = sign(nothing, kind="application/vnd.lethe.revocation+json", key=key)
    device.revocations.write_bytes(unnumbered)
    assert standing(device).kind == "personal"
    fleet.registry.withdraw(patient.id, records=fleet.records(patient)[:1])
    assert standing(device).kind == "general"
    device.revocations.write_bytes(unnumbered)
    assert "older than one that was here" in standing(device).why


def test_another_device_s_list_is_not_taken_for_this_one_s(fleet, device):
    other = next(patient for patient in fleet.wearers() if patient.slot != device.slot)
    fleet.registry.withdraw(other.id)
    device.revocations.write_bytes(list_path(fleet.workspace.home, other.slot).read_bytes())
    assert f"it is for device {other.slot}" in standing(device).why


def test_without_a_general_model_a_revoked_device_runs_nothing(fleet, device):
    patient = fleet.wearer(device.slot)
    fleet.registry.withdraw(patient.id)
    (device.folder / "general" / fleet.store(patient).state.general / MANIFEST).unlink()
    with pytest.raises(RevokedError, match="no general model to fall back to") as found:
        standing(device)
    assert found.value.exit_code == 3


def test_a_personal_model_put_in_the_general_one_s_place_is_not_fallen_back_to(fleet, device):
    patient = fleet.wearer(device.slot)
    folder = device.folder / "general" / fleet.store(patient).state.general
    for name in (BUNDLE, MANIFEST):
        (folder / name).write_bytes((device.folder / name).read_bytes())
    fleet.registry.withdraw(patient.id)
    with pytest.raises(RevokedError, match="is not the general model"):
        standing(device)


def test_a_new_signing_key_of_the_hospital_s_lets_no_withdrawn_model_run(fleet, device):
    patient = fleet.wearer(device.slot)
    keys.rotate(fleet.workspace.keys)
    fleet.registry.withdraw(patient.id, records=fleet.records(patient)[:1])
    assert standing(device).kind == "general"  # the new key is not known here yet
    fleet.run()
    assert standing(device).kind == "personal"  # now it is, and the record is forgotten
    keys.rotate(fleet.workspace.keys)
    fleet.run()
    assert standing(device).kind == "personal"  # the list is signed with the key of before, which stays known


def test_where_nothing_can_be_signed_the_operator_is_told_and_consent_is_taken_back(fleet, device):
    patient, why = fleet.wearer(device.slot), []
    (fleet.workspace.keys / keys.PRIVATE).unlink()
    fleet.registry.withdraw(patient.id, unheard=why.append)
    assert [(one.what, type(one.why).__name__) for one in why] == [("list", "WorkspaceError")]
    assert "no signing key" in str(why[0].why)
    assert fleet.registry.patient(patient.id).status == "withdrawn"


def test_when_a_patient_withdrew_cannot_be_read_off_the_list(fleet, device):
    fleet.registry.withdraw(fleet.wearer(device.slot).id)
    assert device.revocations.stat().st_mtime % 86_400 == 0
    assert TODAY.isoformat() not in device.revocations.read_text()


# The runtime


def test_the_runtime_imports_neither_torch_nor_what_a_wearable_cannot_afford():
    unwanted = (
        "torch",
        "onnx",
        "pydantic",
        "rich",
        "wfdb",
        "scipy",
        "sqlalchemy",
        "flwr",
        "securesystemslib",
        "hashlib",
    )
    program = f"import client.runtime, client.sources, sys; print([n for n in {unwanted} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_runtime_changes_nothing_on_the_device_but_notes_which_list_it_saw(fleet, device):
    fleet.registry.withdraw(fleet.wearer(device.slot).id)
    places = (device.folder, fleet.workspace.home / FOLDER)

    def picture() -> dict[Path, tuple[int, bytes]]:
        found = [path for place in places for path in place.rglob("*") if path.is_file()]
        return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in found}

    before = picture()
    list(run(device, chunked(signal(3))))
    after = picture()
    assert after.pop(device.folder / SERIAL, None) is not None  # of the list that it has seen
    assert after == before


def test_a_change_that_is_being_carried_out_is_waited_for(device, monkeypatch):
    staged, waited = device.folder / "staged.json", []
    staged.write_text("{}")

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            staged.unlink()

    monkeypatch.setattr("client.standing.time.sleep", sleep)
    assert standing(device).kind == "personal"
    assert len(waited) == 3


@pytest.mark.parametrize("place", ["client.standing.read", "client.runtime.open_session"])
def test_a_change_that_begins_while_the_files_are_read_does_no_harm(fleet, device, monkeypatch, place):
    """Manifest of before and state of after, or the other way round, are looked at once more."""
    module, name = place.rsplit(".", 1)
    original, changed = getattr(sys.modules[module], name), []

    def changing(*args, **more):
        found = original(*args, **more)
        if not changed:
            changed.append(fleet.run(fleet.settings.with_values({"personalisation.steps": 3})))
        return found

    monkeypatch.setattr(place, changing)
    first, *_ = run(device, chunked(signal(1)))
    assert (first.kind, first.bundle) == ("personal", fleet.store(fleet.wearer(device.slot)).state.bundle)


def test_a_model_of_which_it_is_not_known_what_it_was_made_of_is_stopped_by_any_withdrawal(fleet, device):
    patient = fleet.wearer(device.slot)
    path = device.folder / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"records": []}))
    assert refused(device).reason == "changed"
    fleet.registry.withdraw(patient.id, records=fleet.records(patient)[:1])
    assert standing(device).kind == "general"


def test_a_device_s_folder_is_a_whole_wearable_wherever_it_lies(device, tmp_path):
    elsewhere = Device(copied(device.folder, tmp_path / "wrist"), device.slot, tmp_path / "radio.json")
    assert standing(elsewhere).manifest == standing(device).manifest
    load(standing(elsewhere))
