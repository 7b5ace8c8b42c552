"""The device's ONNX file: the same predictions as torch, one file, and not a word too much in it."""

import json
import re
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import shared
from client.export import PARITY, export, largest_difference
from server.templates import _key, template
from shared.errors import DataError
from shared.model import build, log_odds, model_digest, probabilities
from shared.onnx_template import INPUT, MARGINS, OUTPUT, export_template, fill
from shared.probing import margin
from shared.settings import LEADS, SUPERCLASSES, General
from simulations.bench_device import network

pytestmark = pytest.mark.usefixtures("resnet34")

SEGMENTS = 0.5 * torch.randn(3, 12, 500, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def templates() -> dict[str, bytes]:
    """One export a task; the graph of another width differs in its tensors' shapes only."""
    return {task: template(network(16, task)) for task in ("single", "multi")}


@pytest.fixture(scope="module")
def wide() -> bytes:
    return template(network(64, "single"))


def run(data: bytes, segments: torch.Tensor, output: str = OUTPUT) -> np.ndarray:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return session.run([output], {INPUT: segments.numpy()})[0]


@pytest.mark.parametrize("task", ["single", "multi"])
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_onnx_runtime_agrees_with_torch_for_any_batch(templates, task, batch):
    net = network(16, task)
    bundle = export(net, templates[task], general="g" * 64, check=SEGMENTS)
    assert bundle.parity <= PARITY == 1e-4
    with torch.inference_mode():
        expected = probabilities(net(SEGMENTS[:batch]), net.task).numpy()
    np.testing.assert_allclose(run(bundle.data, SEGMENTS[:batch]), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("task", ["single", "multi"])
@pytest.mark.parametrize("sure", [1, 30])
def test_the_margins_are_torch_s_and_those_of_the_audit(templates, task, sure):
    net = network(16, task)
    with torch.no_grad():
        net.head.weight *= sure  # so that probabilities round to 0 and 1, and margins do not
    found = run(export(net, templates[task], general="g", check=SEGMENTS).data, SEGMENTS, MARGINS)
    with torch.inference_mode():
        logits = net(SEGMENTS)
    np.testing.assert_allclose(found, log_odds(logits, task).numpy(), atol=1e-4, rtol=1e-5)
    for number in range(5):
        label = torch.eye(5)[[number] * 3]
        if task == "single":
            np.testing.assert_allclose(found[:, number], margin(logits, label, task).numpy(), atol=1e-4, rtol=1e-5)
    if sure == 1:
        p = run(export(net, templates[task], general="g", check=SEGMENTS).data, SEGMENTS)
        np.testing.assert_allclose(found, np.log(p / (1 - p)), atol=1e-4)
    assert np.isfinite(found).all()


def test_onnx_runtime_agrees_with_torch_at_the_paper_s_width(wide):
    net = network(64, "single")
    assert export(net, wide, general="g" * 64, check=SEGMENTS).parity <= 1e-4
    with torch.no_grad():
        net.head.bias += 1  # a device's own weights in the same template
    assert export(net, wide, general="g" * 64, check=SEGMENTS).parity <= 1e-4


def test_the_multi_task_at_the_paper_s_width_too():
    net = network(64, "multi")
    assert export(net, template(net), general="g" * 64, check=SEGMENTS).parity <= 1e-4


@pytest.mark.slow
def test_the_graph_agrees_with_torch_at_an_older_opset_too(monkeypatch, templates):
    """What is exported has opset 20; a device's converter may want 18."""
    assert {one.version for one in onnx.load_from_string(templates["single"]).opset_import} == {20}
    monkeypatch.setattr("torch.onnx.export", partial(torch.onnx.export, opset_version=18))
    net = network(16, "single")
    bundle = export(net, export_template(net), general="g" * 64, check=SEGMENTS)
    assert {one.version for one in onnx.load_from_string(bundle.data).opset_import} == {18}
    assert bundle.parity <= 1e-4


def test_the_same_weights_give_the_same_file_and_others_another(templates):
    first, second = (export(network(16, "single"), templates["single"], general="g", check=SEGMENTS) for _ in range(2))
    assert first.data == second.data
    other = network(16, "single")
    with torch.no_grad():
        other.head.bias += 1
    assert export(other, templates["single"], general="g", check=SEGMENTS).digest != first.digest


def test_a_template_is_the_architecture_s_and_no_model_s(templates):
    untrained = build(General(width=16, task="single", smoothing_ms=10.0, seed=5)).eval()
    assert export_template(untrained) == templates["single"]


def test_a_kept_template_is_used_again_unless_it_is_damaged_or_another_architecture_s(tmp_path, monkeypatch):
    exported = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("server.templates.export_template", lambda net: exported.append(net.width) or b"%d" % net.width)
    assert [template(network(width, "single")) for width in (4, 4, 6, 4)] == [b"4", b"4", b"6", b"4"]
    assert template(network(4, "multi")) == b"4"
    assert exported == [4, 6, 4]
    for path in (tmp_path / "cache" / "lethe").iterdir():
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert template(network(4, "single")) == b"4"
    assert exported == [4, 6, 4, 4]


def test_a_template_that_cannot_be_kept_is_exported_each_time(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("server.templates.export_template", lambda _: b"graph")
    assert [template(network(4, "single")) for _ in range(2)] == [b"graph", b"graph"]


def test_a_template_holds_no_weights(templates):
    """A device's file must not carry another model's weights along."""
    tensors = onnx.load_from_string(templates["single"]).graph.initializer
    weights = network(16, "single").state_dict()
    assert [t.name for t in tensors if t.raw_data and t.name.removeprefix("model.") in weights] == []
    assert len(templates["single"]) < 100_000


def test_the_file_says_what_it_is_and_nothing_of_a_patient(fleet):
    for patient in fleet.wearers():
        data = (fleet.folder(patient) / "bundle.onnx").read_bytes()
        about = {entry.key: entry.value for entry in onnx.load_from_string(data).metadata_props}
        state = fleet.store(patient).state
        assert set(about) == {f"lethe.{n}" for n in ("labels", "leads", "input", "task", "model", "general")}
        assert json.loads(about["lethe.labels"]) == list(SUPERCLASSES)
        assert json.loads(about["lethe.leads"]) == list(LEADS)
        assert (about["lethe.model"], about["lethe.general"]) == (state.model, state.general)
        assert patient.pseudonym.encode() not in data
        assert not re.search(rb"\b%s\b" % patient.id.encode(), b"\n".join(v.encode() for v in about.values()))


@pytest.mark.parametrize("task", ["single", "multi"])
def test_the_file_names_no_path_of_the_machine_that_made_it(templates, task):
    data = export(network(16, task), templates[task], general="g", check=SEGMENTS).data
    places = {Path(shared.__file__).parents[1], Path(torch.__file__).parents[1], Path.home(), Path.cwd()}
    for place in places:
        assert str(place).encode() not in data
    for word in (b".py", b"site-packages", b"stack_trace", b"/tmp"):
        assert word not in data


def test_a_template_of_another_width_is_refused(templates):
    with pytest.raises(DataError, match="belongs to another width"):
        export(network(4, "single"), templates["single"], general="g", check=SEGMENTS)


@pytest.mark.parametrize("damage", [b"", b"no template", None])
def test_a_damaged_template_is_refused(templates, damage):
    template = templates["single"][:5000] if damage is None else damage
    with pytest.raises(DataError):
        export(network(16, "single"), template, general="g", check=SEGMENTS)


def test_a_file_that_strays_from_torch_is_refused(templates):
    """The template of the other task gives other probabilities for the same weights."""
    with pytest.raises(DataError, match="away from torch's, expected at most 1e-04"):
        export(network(16, "single"), templates["multi"], general="g", check=SEGMENTS)


def test_the_largest_difference_is_found_in_any_segment(templates):
    net = network(16, "single")
    data = fill(templates["single"], net, metadata={})
    assert largest_difference(data, net, SEGMENTS) < 1e-5
    with torch.no_grad():
        net.head.bias[0] += 1
    assert largest_difference(data, net, SEGMENTS) > 0.01


def test_a_file_that_is_checked_on_nothing_is_checked_on_a_flat_segment(templates):
    net = network(16, "single")
    assert export(net, templates["single"], general="g", check=SEGMENTS[:0]).parity <= 1e-4


def test_the_digest_in_the_file_is_that_of_the_weights(templates):
    net = network(16, "single")
    data = export(net, templates["single"], general="g" * 64, check=SEGMENTS).data
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    assert about["lethe.model"] == model_digest(net)
    assert about["lethe.input"] == "(batch, 12, 500) millivolts at 500 Hz"


def test_networks_of_other_shapes_are_kept_apart(monkeypatch):
    deep = _key(network(4, "single"))
    assert _key(network(4, "single")) == deep
    monkeypatch.setattr("shared.model.DEPTHS", (1, 1, 1, 2))
    assert _key(network(4, "single")) != deep
