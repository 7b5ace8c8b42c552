"""The network: its shapes, its 34 layers, its smoothing, and its bytes."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from shared.errors import DataError
from shared.model import ResNet34, build, digest, load, model_digest, probabilities, to_bytes
from shared.settings import General
from shared.signals import moving_average
from shared.tail import tail_as_products
from shared.training import Examples

pytestmark = pytest.mark.usefixtures("resnet34")

SEGMENTS = torch.randn(3, 12, 500, generator=torch.Generator().manual_seed(0))


def tiny(**values) -> ResNet34:
    return build(General(width=4, **values)).eval()


@pytest.mark.parametrize(("width", "parameters"), [(16, 456_293), (64, 7_225_733)])
def test_the_network_is_the_paper_s_resnet_34(width, parameters):
    model = build(General(width=width))
    layers = [m for m in model.modules() if isinstance(m, nn.Conv1d) and m.kernel_size != (1,)]
    assert len(layers) + 1 == 34
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@pytest.mark.parametrize("batch", [0, 1, 3])
def test_trunk_and_tail_are_the_whole_network_for_any_batch(batch):
    model = tiny()
    features = model.trunk(SEGMENTS[:batch])
    assert features.shape == (batch, 32, 16)
    assert torch.equal(model.tail(features), model(SEGMENTS[:batch]))
    assert model(SEGMENTS[:batch]).shape == (batch, 5)


@pytest.mark.parametrize("batch", [0, 1, 23])
@pytest.mark.parametrize("width", [4, 16])
def test_the_tail_as_products_is_the_tail_and_so_are_its_gradients(width, batch):
    model = build(General(width=width)).eval()
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm1d)):
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.5, 2)
    features = torch.randn(batch, 8 * width, 16, generator=torch.Generator().manual_seed(0))
    labels, found = torch.arange(batch) % 5, []
    for tail in (model.tail, tail_as_products(model)):
        seen = features.clone().requires_grad_(True)
        logits = tail(seen)
        loss = nn.functional.cross_entropy(logits, labels, reduction="sum")
        found.append([logits.detach(), *torch.autograd.grad(loss, [seen, *model.tail_parameters()])])
    for expected, got in zip(*found, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def test_the_tail_s_parameters_are_the_last_block_and_the_head():
    model = tiny()
    names = {name for name, p in model.named_parameters() if any(p is q for q in model.tail_parameters())}
    assert names == {name for name, _ in model.named_parameters() if name.startswith(("blocks.15.", "head."))}


@given(st.floats(0, 60), st.integers(0, 99))
def test_smoothing_in_the_network_is_the_moving_average_of_the_signals(window_ms, seed):
    signals = np.random.default_rng(seed).normal(size=(2, 12, 500)).astype(np.float32)
    smooth, plain = tiny(smoothing_ms=window_ms), tiny(smoothing_ms=0.0)
    with torch.inference_mode():
        found = smooth(torch.from_numpy(signals))
        expected = plain(torch.from_numpy(moving_average(signals, window_ms=window_ms)))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_every_lead_is_divided_by_its_standard_deviation():
    sd = torch.linspace(0.1, 1.2, 12)
    scaled, plain = build(General(width=4), lead_sd=sd).eval(), tiny()
    with torch.inference_mode():
        torch.testing.assert_close(scaled(SEGMENTS * sd[:, None]), plain(SEGMENTS))


def test_weights_depend_on_the_seed_alone():
    torch.manual_seed(5)
    first = model_digest(tiny(seed=1))
    state = torch.get_rng_state()
    assert model_digest(tiny(seed=1)) == first
    assert torch.equal(torch.get_rng_state(), state)
    assert model_digest(tiny(seed=2)) != first


def test_a_segment_s_logits_do_not_depend_on_its_neighbours_in_the_batch():
    model = tiny()
    with torch.inference_mode():
        torch.testing.assert_close(model(SEGMENTS)[1:2], model(SEGMENTS[1:2]))


@pytest.mark.parametrize("task", ["single", "multi"])
def test_a_model_comes_back_from_its_file_as_it_was(tmp_path, task):
    model = build(General(width=4, task=task, smoothing_ms=20.0), lead_sd=torch.rand(12) + 0.5).eval()
    data = to_bytes(model)
    (tmp_path / "model").write_bytes(data)
    read = load(tmp_path / "model")
    assert (read.width, read.task, read.smoothing_ms, read.training) == (4, task, 20.0, False)
    assert to_bytes(read) == data
    assert digest(data) == model_digest(read)
    with torch.inference_mode():
        assert torch.equal(read(SEGMENTS), model(SEGMENTS))


def test_one_changed_weight_changes_the_digest():
    model = tiny()
    before = model_digest(model)
    with torch.no_grad():
        model.head.bias[0] += 1e-6
    assert model_digest(model) != before


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"",
        lambda data: data[:-10],
        lambda data: data[:500],
        lambda data: b"\0" * len(data),
        lambda data: data.replace(b'\\"width\\": 4', b'\\"width\\": 5'),
        lambda data: data.replace(b'"lethe"', b'"other"'),
        lambda data: data.replace(b"head.bias", b"head.base"),
    ],
)
def test_a_damaged_file_is_refused_with_its_name(tmp_path, damage):
    path = tmp_path / "model.safetensors"
    path.write_bytes(damage(to_bytes(tiny())))
    with pytest.raises(DataError, match=r"model\.safetensors is not a model file of Lethe"):
        load(path)


def test_a_missing_file_is_refused_with_its_name(tmp_path):
    with pytest.raises(DataError, match="gone is not a model file"):
        load(tmp_path / "gone")


def test_probabilities_add_up_to_one_for_the_single_task_only():
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0, math.log(4.0)], [100.0, -100.0, 0.0, 0.0, 0.0]])
    single = probabilities(logits, "single")
    torch.testing.assert_close(single[0], torch.tensor([0.125, 0.125, 0.125, 0.125, 0.5]))
    torch.testing.assert_close(single.sum(1), torch.ones(2))
    torch.testing.assert_close(probabilities(logits, "multi")[0], torch.tensor([0.5, 0.5, 0.5, 0.5, 0.8]))


def test_dropout_works_in_training_only():
    model = build(General(width=4, dropout=0.9))
    assert not torch.equal(model.train()(SEGMENTS), model(SEGMENTS))
    model.eval()
    assert torch.equal(model(SEGMENTS), model(SEGMENTS))
    assert len(Examples.empty()) == 0
