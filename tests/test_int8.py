"""Eight bits on a wearable: made of what is public, through a gate, and gone with the model that they are a copy of."""

import json
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from fleet import TINY, Fleet
from typer.testing import CliRunner
from wearable_signals import chunked, signal

import client.int8
from client.bundle import BUNDLE, INT8, MANIFEST, EightBits, signed
from client.events import Using
from client.int8 import quantise, said, verdict
from client.runtime import load, run
from client.standing import Device, standing
from client.store import Store
from shared.errors import BundleError
from shared.metrics import Scores
from shared.model import digest
from simulations.cli import app as cli
from simulations.summary import closing
from simulations.trace import trace

EIGHT = TINY.with_values({"personalisation.int8": True})
SEGMENTS = np.random.default_rng(0).standard_normal((4, 12, 500)).astype(np.float32)


@pytest.fixture
def gate_open(monkeypatch):
    """A network as small as the tests' would often not pass."""
    monkeypatch.setattr(client.int8, "AUC_MAY_FALL", 1.0)
    monkeypatch.setattr(client.int8, "ACCURACY_MAY_FALL", 1.0)


@pytest.fixture
def gate_shut(monkeypatch):
    monkeypatch.setattr(client.int8, "ACCURACY_MAY_FALL", -1.1)


@pytest.fixture
def eight(fleet: Fleet, gate_open: None) -> Fleet:  # noqa: ARG001 - it is open from then on
    """A fleet whose wearables run eight bits."""
    fleet.run(EIGHT)
    return fleet


def device_of(fleet: Fleet) -> Device:
    return Device.of(fleet.workspace.home, fleet.with_several_records().slot)


def bytes_of(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in folder.rglob("*") if path.is_file()]


def refused(device: Device) -> str:
    with pytest.raises(BundleError) as found:
        load(standing(device))
    return found.value.reason


# What ships


def test_what_passes_the_gate_is_signed_and_runs_in_place_of_the_onnx_file(eight):
    for patient in eight.wearers():
        folder, state = eight.folder(patient), eight.store(patient).state
        told = signed(folder, public=folder)
        assert told.int8 == state.int8
        assert told.runs == (INT8, digest((folder / INT8).read_bytes()), (folder / INT8).stat().st_size)
        assert (told.int8.reason, told.int8.segments) == ("", 12)
        assert told.bundle == state.bundle == digest((folder / BUNDLE).read_bytes())
        now = standing(Device.of(eight.workspace.home, patient.slot))
        assert (now.path, now.kind) == (folder / INT8, "personal")
        (found,) = load(now).probabilities(SEGMENTS[:1])
        (expected,) = said(folder / INT8, SEGMENTS[:1])
        np.testing.assert_array_equal(found, expected)


def test_the_stream_tells_which_file_runs(eight):
    device = device_of(eight)
    (using,) = [event for event in run(device, chunked(signal(1))) if isinstance(event, Using)]
    assert (using.eight_bits, using.bundle) == (True, digest((device.folder / INT8).read_bytes()))
    done = CliRunner().invoke(
        cli,
        [*("devices", "run", "--device", str(device.slot)), *("--generate", "1", "--speed", "0")],
        env={"LETHE_HOME": str(eight.workspace.home)},
    )
    assert f"personal model, bundle {using.bundle[:12]}, eight bits" in done.stdout


def test_the_same_file_gives_the_same_eight_bits_and_another_others(fleet, public, tmp_path):
    sources = [fleet.folder(patient) / BUNDLE for patient in fleet.wearers()[:2]]
    made = []
    for number, source in enumerate((*sources, sources[0])):
        (tmp_path / str(number)).mkdir()
        quantise(source, tmp_path / str(number) / "b", anchor=public.anchor.segments.numpy())
        made.append((tmp_path / str(number) / "b").read_bytes())
    assert made[0] == made[2] != made[1]


def test_the_file_says_what_the_onnx_file_says_and_no_path(eight):
    folder = device_of(eight).folder
    small, full = (onnx.load(folder / name) for name in (INT8, BUNDLE))
    assert {one.key: one.value for one in small.metadata_props} == {one.key: one.value for one in full.metadata_props}
    onnx.checker.check_model(small)
    assert [one.domain for one in small.opset_import] == [""]  # as the contract says
    assert "QuantizeLinear" in {node.op_type for node in small.graph.node}
    data = small.SerializeToString()
    for place in (str(eight.workspace.home), tempfile.gettempdir(), "site-packages"):
        assert place.encode() not in data


def test_eight_bits_say_nearly_the_same(eight, public):
    device = device_of(eight)
    segments = public.control.segments.numpy()
    eight_bits, full = (said(device.folder / name, segments) for name in (INT8, BUNDLE))
    assert 0 < np.abs(eight_bits - full).max() < 0.2
    assert len(np.unique(eight_bits)) == eight_bits.size  # the head is not: probabilities in steps of 1/255 say less


def test_nobody_gets_eight_bits_who_has_not_asked_for_them(fleet):
    for patient in fleet.wearers():
        folder = fleet.folder(patient)
        assert not (folder / INT8).exists()
        assert signed(folder, public=folder).int8 == EightBits()


def test_switched_off_they_go_with_the_next_run_and_the_model_stays(eight):
    device = device_of(eight)
    before = eight.store(eight.wearer(device.slot)).state
    eight.run(TINY)
    after = eight.store(eight.wearer(device.slot)).state
    assert (after.model, after.bundle, after.int8) == (before.model, before.bundle, EightBits())
    assert not (device.folder / INT8).exists()
    assert standing(device).path == device.folder / BUNDLE


# The gate


def scored(accuracy: float | None, auc: float | None) -> Scores:
    return {"n": 120, "accuracy": accuracy, "macro_f1": None, "macro_auc": auc}


@pytest.mark.parametrize(
    ("auc", "accuracy", "reason"),
    [
        (0.9, 0.8, ""),
        (0.895, 0.79, ""),
        (0.894, 0.8, "macro-AUC falls by 0.006, expected at most 0.005"),
        (0.9, 0.789, "accuracy falls by 0.011, expected at most 0.01"),
        (0.99, 0.7, "accuracy falls by 0.100, expected at most 0.01"),
        (None, 0.8, "macro-AUC cannot be measured"),
        (float("nan"), 0.8, "macro-AUC falls by nan, expected at most 0.005"),
    ],
)
def test_the_gate_lets_half_a_point_of_auc_and_a_point_of_accuracy_go(auc, accuracy, reason):
    told, data = verdict(scored(0.8, 0.9), scored(accuracy, auc), b"file")
    whole = f"{reason}, on 120 control segments" if reason else ""
    assert (told.reason, data, bool(told.digest)) == (whole, b"" if reason else b"file", not reason)
    assert told.segments == 120
    assert told.accuracy == (0.8, accuracy)


@pytest.mark.usefixtures("gate_shut")
def test_what_costs_too_much_does_not_ship_and_the_manifest_says_why(fleet):
    result = fleet.run(EIGHT)
    device = device_of(fleet)
    told = signed(device.folder, public=device.folder).int8
    assert (told.digest, told.bytes, (device.folder / INT8).exists()) == ("", 0, False)
    assert "accuracy falls by" in told.reason
    assert standing(device).path == device.folder / BUNDLE
    for reply in result.personal.values():
        assert (reply.int8, reply.int8_reason) == (False, fleet.store(fleet.wearer(reply.slot)).state.int8.reason)


def test_what_cannot_be_quantised_runs_as_it_is(fleet, monkeypatch):
    def broken(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(client.int8, "quantise", broken)
    fleet.run(EIGHT)
    device = device_of(fleet)
    assert signed(device.folder, public=device.folder).int8 == EightBits(
        reason="it could not be made: the disk is full; free some space and run the command again"
    )
    load(standing(device))


@pytest.mark.usefixtures("gate_open")
def test_the_summary_counts_who_runs_eight_bits(fleet):
    fleet.run(EIGHT)
    (report,) = [path for path in (fleet.workspace.home / "reports").iterdir() if path.name.startswith("run-1")]
    result = json.loads((report / "result.json").read_text()) | {"report": str(report / "report.html")}
    assert "eight bits on 4 of 4 wearables" in closing(result)
    result["personal"][0] |= {"int8": False, "int8_reason": "accuracy falls by 0.025, expected at most 0.01"}
    who = result["personal"][0]["pseudonym"]
    assert "eight bits on 3 of 4 wearables" in closing(result)
    assert f"  {who} runs the ONNX file: accuracy falls by 0.025, expected at most 0.01" in closing(result)
    assert "eight bits" not in closing(result | {"settings": TINY.flat()})


# What is not run


def test_one_bit_changed_and_it_is_not_run(eight):
    device = device_of(eight)
    data = bytearray((device.folder / INT8).read_bytes())
    data[len(data) // 2] ^= 1
    (device.folder / INT8).write_bytes(data)
    assert refused(device) == "changed"
    (device.folder / INT8).unlink()
    assert refused(device) == "missing"


def test_what_is_lost_or_changed_comes_again_with_the_next_run(eight):
    device = device_of(eight)
    before = (device.folder / INT8).read_bytes()
    for spoil in ((device.folder / INT8).unlink, lambda: (device.folder / INT8).write_bytes(b"other")):
        spoil()
        eight.run(EIGHT)
        assert (device.folder / INT8).read_bytes() == before
        load(standing(device))


def test_a_lost_manifest_is_signed_again_with_what_it_said_of_eight_bits(eight):
    device = device_of(eight)
    before = signed(device.folder, public=device.folder)
    (device.folder / MANIFEST).unlink()
    eight.run(EIGHT)
    assert signed(device.folder, public=device.folder) == before


def test_a_superseded_one_that_is_put_back_is_not_run(eight):
    device = device_of(eight)
    old = {name: (device.folder / name).read_bytes() for name in (INT8, MANIFEST)}
    eight.run(TINY)  # the same ONNX file, without eight bits
    for name, data in old.items():
        (device.folder / name).write_bytes(data)
    assert refused(device) == "superseded"


def test_a_manifest_that_says_half_of_eight_bits_is_of_another_form(eight):
    device = device_of(eight)
    from client.bundle import KIND
    from client.envelope import device_key, sign

    told = asdict(signed(device.folder, public=device.folder))
    for other in ({}, None, told["int8"] | {"bytes": "many"}, told["int8"] | {"digest": "../bundle"}, "e" * 64):
        content = told | {"int8": other}
        (device.folder / MANIFEST).write_bytes(sign(content, kind=KIND, key=device_key(device.folder)))
        assert refused(device) in {"contract", "superseded"}


# Withdrawal


def test_a_withdrawal_stops_them_at_once(eight):
    device = device_of(eight)
    eight.registry.withdraw(eight.wearer(device.slot).id)
    now = standing(device)
    assert (now.kind, now.path.parent.parent) == ("general", device.folder / "general")
    load(now)


@pytest.mark.parametrize("everything", [True, False])
def test_what_is_forgotten_is_in_no_eight_bits(eight, everything):
    device = device_of(eight)
    patient, old = eight.wearer(device.slot), (device.folder / INT8).read_bytes()
    where = f"devices/{device.slot}/{INT8}"
    assert where in {place.where for place in trace(eight.workspace, eight.registry, patient.id)}
    eight.registry.withdraw(patient.id, records=None if everything else eight.records(patient)[:1])
    done = eight.run(EIGHT)
    ((_, reply),) = done.unlearned
    assert {file.name: file.bytes for file in reply.erased}[INT8] == len(old)
    assert {BUNDLE, MANIFEST, INT8} <= {file.name for file in reply.erased}
    assert old not in bytes_of(eight.workspace.devices)
    (look,) = done.withdrawals.values()
    assert look.verdict["verdict"] == "PASS"
    now = standing(device)
    assert (now.kind, now.path.name) == ("general" if everything else "personal", INT8)
    assert eight.store(patient).whole
    places = {place.where for place in trace(eight.workspace, eight.registry, patient.id)}
    assert (where in places) == (not everything)


def test_eight_bits_that_are_left_behind_are_no_clean_disk(eight):
    device = device_of(eight)
    patient, old = eight.wearer(device.slot), (device.folder / INT8).read_bytes()
    eight.registry.withdraw(patient.id)
    eight.run(EIGHT)
    eight.registry.consent_again(patient.id)
    eight.run(TINY)
    (device.folder / INT8).write_bytes(old)
    assert not eight.store(patient).whole
    eight.registry.withdraw(patient.id, records=eight.records(patient)[:1])
    eight.run(TINY)
    assert not (device.folder / INT8).exists()


def test_a_kill_while_they_are_made_leaves_nothing(eight):
    device = device_of(eight)
    left = device.folder / ".int8.abc" / "pre.quant.x"
    left.mkdir(parents=True)
    (left / "optimized.onnx").write_bytes(b"weights")
    Store(device.folder)
    assert b"weights" not in bytes_of(device.folder)
    assert not list(device.folder.glob(".*"))


def test_no_temporary_file_lies_outside_the_device_s_folder(fleet, public, monkeypatch, tmp_path):
    """Those of the tools hold the wearer's weights."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    monkeypatch.setattr(client.int8, "ACCURACY_MAY_FALL", 1.0)
    monkeypatch.setattr(client.int8, "AUC_MAY_FALL", 1.0)
    folder = device_of(fleet).folder
    before = sorted(folder.rglob("*"))
    told, data = client.int8.shipped((folder / BUNDLE).read_bytes(), public, task="single", folder=folder)
    assert (told.digest, sorted(folder.rglob("*"))) == (digest(data), before)
    assert tempfile.tempdir == str(tmp_path / "nowhere")
    assert replace(told, digest="") != EightBits()
