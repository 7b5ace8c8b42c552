"""What fuzzing has found once, each case by itself."""

import json
from dataclasses import asdict
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import torch
from ptbxl_files import header, set_cell, small_cohort
from safetensors.torch import save
from test_fuzz_messages import ABOUT, KEY, SAID, device

from client import bundle, envelope
from client.sensor import Feed
from client.standing import Device, standing
from server.workspace_settings import read_values
from shared.errors import BundleError, DataError, UsageError
from shared.model import ResNet34, load, to_bytes
from shared.ptbxl import BadRecord, checksums, index, read_signal
from shared.ptbxl import load as load_signals

__all__ = ["device"]  # a fixture


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four patients' records."""
    return small_cohort(tmp_path / "data")


@pytest.mark.parametrize(("name", "bad"), [("valid_until", -1), ("issued", None), ("bytes", True), ("general", 7)])
def test_a_signed_manifest_with_a_field_of_another_type_is_not_run(device: Device, name: str, bad: object) -> None:
    data = envelope.sign(SAID | {name: bad}, kind=bundle.KIND, key=KEY)
    (device.folder / bundle.MANIFEST).write_bytes(data)
    with pytest.raises(BundleError, match=f"of another form \\({name} is {type(bad).__name__}"):
        bundle.read(device.folder, public=device.folder, today=date(2026, 2, 1))


@pytest.mark.parametrize("bad", [{"records": [[]]}, {"general": "\0" + "b" * 63}, {"general": "../" + "b" * 61}])
def test_a_state_that_names_what_is_no_model_counts_as_none(device: Device, bad: dict[str, object]) -> None:
    manifest = bundle.issue(ABOUT, key=KEY, today=date(2026, 1, 1), valid_days=90)
    (device.folder / bundle.MANIFEST).write_bytes(manifest)
    state = json.loads((device.folder / "state.json").read_text())
    (device.folder / "state.json").write_text(json.dumps(state | bad))
    with pytest.raises(BundleError, match="no model is in use"):
        standing(device, today=date(2026, 2, 1))


@pytest.mark.parametrize(
    ("column", "cell", "said"),
    [
        ("filename_hr", "x" * 5000, "expected one within the folder"),
        ("filename_hr", "a\x1b[2J", "expected one within the folder"),
        ("recording_date", "\x1b[2J", "expected a date and time"),
        ("recording_date", "1984" * 1000, "expected a date and time"),
    ],
)
def test_a_cell_that_no_file_or_terminal_should_get_is_refused(folder: Path, column: str, cell: str, said: str) -> None:
    set_cell(folder, column, cell)
    with pytest.raises(DataError, match=said) as refused:
        index(folder)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 300


def test_a_header_that_names_a_file_whose_name_is_too_long_misses_it(folder: Path) -> None:
    record = index(folder).records[0]
    path = header(folder, record)
    path.write_text(path.read_text().replace(f"{path.stem}.dat", "x" * 300))
    with pytest.raises(BadRecord) as refused:
        read_signal(folder, record)
    assert refused.value.reason == "missing file"


@pytest.mark.parametrize(
    "bad", [{"files": -1}, {"files": [1]}, {"files": ["\0"]}, {"sha256": None}, {"sha256": "\ud800"}, {}]
)
def test_an_index_of_the_cache_that_is_damaged_is_made_anew(
    folder: Path, tmp_path: Path, bad: dict[str, object]
) -> None:
    records = index(folder).records[:1]
    before = load_signals(records, folder=folder, cache=tmp_path / "cache").millivolts(0).copy()
    path = tmp_path / "cache" / "files.json"
    known = json.loads(path.read_text())
    (name,) = set(known) - {"version"}
    path.write_text(json.dumps(known | {name: known[name] | bad if bad else {}}))
    again = load_signals(records, folder=folder, cache=tmp_path / "cache")
    assert np.array_equal(again.millivolts(0), before)
    assert json.loads(path.read_text()) == known


def test_an_index_of_the_cache_of_brackets_without_end_is_made_anew(folder: Path, tmp_path: Path) -> None:
    records = index(folder).records[:1]
    before = load_signals(records, folder=folder, cache=tmp_path / "cache").millivolts(0).copy()
    (tmp_path / "cache" / "files.json").write_text("[" * 100_000)
    again = load_signals(records, folder=folder, cache=tmp_path / "cache")
    assert np.array_equal(again.millivolts(0), before)


@pytest.mark.parametrize("bad", ["1" * 5000, "[" * 100_000])
def test_settings_that_no_reader_takes_are_no_settings(tmp_path: Path, bad: str) -> None:
    (tmp_path / "settings.toml").write_text(f"general.width = {bad}\n")
    with pytest.raises(UsageError, match="no settings file"):
        read_values(tmp_path / "settings.toml")


@pytest.mark.parametrize("bad", ["id", "path", "hz", "superclasses", "sha256", "recorded_at"])
def test_a_feed_whose_records_lack_something_is_no_feed(tmp_path: Path, bad: str) -> None:
    entry = {"id": "1", "path": "r/1", "superclasses": ["NORM"], "recorded_at": "", "hz": 500, "sha256": "0" * 64}
    for records in ([{k: v for k, v in entry.items() if k != bad}], [entry | {"hz": float("inf")}], "1", [1]):
        (tmp_path / "0.json").write_text(json.dumps({"data": "d", "pseudonym": "p", "records": records}))
        with pytest.raises(DataError, match="no usable feed"):
            Feed.open(tmp_path / "0.json")


def test_a_device_s_state_of_brackets_without_end_is_no_state(tmp_path: Path) -> None:
    (tmp_path / "devices" / "0").mkdir(parents=True)
    (tmp_path / "devices" / "0" / "state.json").write_text("[" * 100_000)
    with pytest.raises(BundleError, match="no model is in use"):
        standing(Device.of(tmp_path, 0))


@pytest.mark.parametrize("width", [10**9, "4", None, 4.5, -1])
def test_a_model_file_that_claims_another_width_is_refused_before_room_is_made_for_it(
    tmp_path: Path, width: object
) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in ResNet34(4).state_dict().items()}
    about = {"width": width, "task": "single", "smoothing_ms": 0.0}
    (tmp_path / "model").write_bytes(save(tensors, metadata={"lethe": json.dumps(about)}))
    with pytest.raises(DataError, match="not a model file"):
        load(tmp_path / "model")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_model_file_with_a_weight_that_is_no_number_is_refused(tmp_path: Path, bad: float) -> None:
    model = ResNet34(4)
    (tmp_path / "model").write_bytes(to_bytes(model))
    assert load(tmp_path / "model").width == 4
    with torch.no_grad():
        model.head.bias[2] = bad
    (tmp_path / "model").write_bytes(to_bytes(model))
    with pytest.raises(DataError, match="a number that is none"):
        load(tmp_path / "model")


def test_every_field_of_a_manifest_is_told() -> None:
    assert set(SAID) == set(asdict(bundle.Manifest(**asdict(ABOUT), issued="", valid_until="")))


@pytest.mark.parametrize("name", ["\0", "a\x1b[2J", "a\u202eb"])
def test_a_checksum_of_a_name_that_no_file_has_is_refused(name: str) -> None:
    with pytest.raises(DataError, match="expected a sha256 and a file within the folder"):
        checksums(f"{'0' * 64}  {name}\n")
