"""The wearable's benchmarks measure what they say, in small."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from fleet import Fleet
from typer.testing import CliRunner

from client.bundle import BUNDLE
from simulations.bench_device import app, bare

pytestmark = pytest.mark.slow


def figures(*words: object) -> dict:
    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exception is None, done.output
    return json.loads(done.stdout)


def test_a_stream_is_judged_in_a_process_without_torch():
    (found,) = figures("stream", "--width", 4, "--seconds", 12)["streams"]
    assert found["events"] == 25  # the bundle, 23 windows, the end; and no alarm that lasts
    assert len(found["mib_on_the_way"]) == 6
    assert found["peak_mib"] < 150  # torch alone takes more


def test_speed_is_that_of_the_runtime_and_of_the_bare_graph():
    (found,) = figures("speed", "--width", 4, "--repeats", 1)["bundles"]
    assert found["import_s"] < 5
    assert 0 < found["ms"] < 100
    assert 0.1 < found["ratio_to_bare"] < 10


def test_fidelity_is_the_largest_difference_from_torch(cohort_folder):
    found = figures("fidelity", "--data", cohort_folder, "--width", 4, "--count", 30)
    assert found["segments"] == 30
    assert found["models"][0]["largest_difference"] <= 1e-4


def test_the_bare_graph_is_the_bundle_s_without_its_front(fleet: Fleet):
    """Of segments that are smoothed and scaled already it says the same."""
    data = (fleet.folder(fleet.wearer(0)) / BUNDLE).read_bytes()
    scale = next(i for i in onnx.load_from_string(data).graph.initializer if i.name.endswith("lead_sd"))
    segment = torch.randn(1, 12, 500, generator=torch.Generator().manual_seed(0))
    ready = segment / torch.from_numpy(onnx.numpy_helper.to_array(scale).copy())[:, None]
    ready = torch.nn.functional.avg_pool1d(ready, 5, 1, 2, count_include_pad=False)
    said = [
        onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"]).run(None, {"segments": given.numpy()})
        for graph, given in ((data, segment), (bare(data), ready))
    ]
    np.testing.assert_allclose(said[0][0], said[1][0], atol=1e-5)


def test_an_eight_bit_copy_says_nearly_the_same_and_is_held_to_the_gate(fleet: Fleet):
    (version,) = (fleet.workspace.home / "models").iterdir()
    found = figures("int8", "--version", version)
    assert found["segments"] == 12
    assert found["same_class"] >= 0.75
    assert found["passes"] == (found["reason"] == "")
