"""Benchmarks of the wearable, run by hand: how fast, how small, how true; figures go to stdout as JSON.

    python -m simulations.bench_device speed
    python -m simulations.bench_device stream
    python -m simulations.bench_device swap
    python -m simulations.bench_device fidelity --data DIR
    python -m simulations.bench_device int8 --version HOME/models/DIGEST

Without `--model` a network has weights that were drawn and statistics of noise: what it says means nothing, and takes
as long. Figures and machine stand in docs/DEVICE.md beside the command.
"""

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx
import torch
import typer

from client.bundle import BUNDLE, MANIFEST, About, issue, lineage_of
from client.envelope import device_key
from client.export import Bundle, export
from client.runtime import INPUT, load
from client.standing import Device, standing
from server.templates import template
from shared.errors import DataError
from shared.model import ResNet34, build, model_digest, probabilities
from shared.model import load as load_model
from shared.package import load_general
from shared.ptbxl import index, read_signal
from shared.settings import General, Streaming, Task
from shared.signals import segments
from shared.training import one_thread
from simulations.int8 import compare
from simulations.timing import Data, in_process, printed

app = typer.Typer(help=__doc__, add_completion=False, pretty_exceptions_enable=False)

Widths = Annotated[list[int], typer.Option("--width", help="May be repeated.")]
Repeats = Annotated[int, typer.Option(help="Processes, of which the median is told.")]
WIDTHS = [16, 64]
MEBI = 1e6


@app.command()
def speed(width: Widths = WIDTHS, repeats: Repeats = 5) -> None:
    """Time a segment and weigh the process, each time in a new one; and beside the bare graph in plain ONNX Runtime."""
    found = []
    for one in width:
        with device_of(network(one)) as (folder, bundle):
            plain = folder / "plain.onnx"
            plain.write_bytes(bare(bundle.data))
            alone = [in_process("simulations.one_wearable", "judge", folder) for _ in range(repeats)]
            both = [in_process("simulations.one_wearable", "beside", folder, plain) for _ in range(repeats)]
        row = {name: median([run[name] for run in alone]) for name in alone[0]}
        ratio = median([run["ms"] / run["bare_ms"] for run in both])
        found.append({"width": one, "file_mb": len(bundle.data) / MEBI, **row, "ratio_to_bare": ratio})
    printed(repeats=repeats, bundles=found)


@app.command()
def stream(width: Widths = WIDTHS[:1], seconds: float = 3600.0) -> None:
    """Judge a stream of an hour, a window every half second, as fast as it goes; does memory grow?"""
    found = []
    for one in width:
        with device_of(network(one)) as (folder, _):
            found.append({"width": one, **in_process("simulations.one_wearable", "hour", folder, seconds)})
    printed(stream_seconds=seconds, hop_s=Streaming.hop_s, streams=found)


@app.command()
def swap(width: Widths = WIDTHS, repeats: Repeats = 9) -> None:
    """Put other weights into a template, check them against torch on 16 segments, and sign: seconds on one thread."""
    found = []
    for one in width:
        with one_thread(), tempfile.TemporaryDirectory() as name:
            model, times = network(one), []
            graph, check = template(model), torch.randn(16, 12, 500, generator=torch.Generator().manual_seed(1))
            for turn in range(repeats):
                with torch.no_grad():
                    model.head.bias.add_(turn)
                began = time.perf_counter()
                _write(Path(name), model, export(model, graph, general="g" * 64, check=check))
                times.append(time.perf_counter() - began)
        found.append({"width": one, "seconds_median": median(times), "seconds_most": max(times)})
    printed(repeats=repeats, swaps=found)


@app.command()
def fidelity(
    data: Data,
    width: Widths = WIDTHS,
    model: Annotated[list[Path] | None, typer.Option(help="Trained models instead; may be repeated.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Segments.")] = 1000,
) -> None:
    """Compare the wearable's probabilities with torch's on real segments."""
    real = real_segments(data, count)
    found = []
    for net in [load_model(path) for path in model or ()] or [fitted(network(one), real) for one in width]:
        with one_thread(), device_of(net) as (folder, _):
            said = load(standing(Device(folder, 0, folder / "none"))).probabilities(real.numpy())
            with torch.inference_mode():
                expected = probabilities(net(real), net.task).numpy()
        found.append(
            {
                "width": net.width,
                "trained": bool(model),
                "largest_difference": float(np.abs(said - expected).max()),
                "same_class": float((said.argmax(1) == expected.argmax(1)).mean()),
                "classes_said": sorted(set(expected.argmax(1).tolist())),
            }
        )
    printed(segments=len(real), models=found)


@app.command()
def int8(
    version: Annotated[Path, typer.Option(help="A general model's folder, models/<digest> of a workspace.")],
) -> None:
    """Quantise a trained general model's bundle to eight bits, and hold it to the gate on its control segments."""
    net, public = load_general(version)
    with one_thread(), device_of(net) as (folder, _):
        found = compare(folder / BUNDLE, folder, anchor=public.anchor, control=public.control, task=net.task)
    printed(width=net.width, **found)


def network(width: int, task: Task = "single") -> ResNet34:
    """Return a network with drawn weights, and statistics as of other data than it was drawn for."""
    made = build(replace(General(), width=width, task=task), lead_sd=torch.linspace(0.1, 0.6, 12))
    generator = torch.Generator().manual_seed(7)
    for name, tensor in made.state_dict().items():
        if name.endswith("running_mean"):
            tensor.copy_(0.1 * torch.randn(tensor.shape, generator=generator))
        if name.endswith("running_var"):
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
    return made.eval()


def fitted(model: ResNet34, real: torch.Tensor) -> ResNet34:
    """Return the network with statistics of real segments, so that its layers are used as a trained one's are."""
    model.train()
    with torch.no_grad():
        for at in range(0, len(real), 100):
            model(real[at : at + 100])
    return model.eval()


def real_segments(data: Path, count: int) -> torch.Tensor:
    """Return the first segments of a folder's records, (count, 12, 500).

    Raises:
        DataError: there are fewer.
    """
    found: list[Any] = []
    for record in index(data).records:
        if len(found) * 10 >= count:
            break
        found.append(segments(read_signal(data, record)[0]))
    if len(found) * 10 < count:
        raise DataError(f"{data} has {len(found) * 10} segments, expected {count}; ask for fewer with --count")
    return torch.from_numpy(np.concatenate(found)[:count].astype(np.float32))


@contextmanager
def device_of(model: ResNet34) -> Iterator[tuple[Path, Bundle]]:
    """Give a device's folder that serves `model` as its general one, and its bundle."""
    check = torch.randn(16, 12, 500, generator=torch.Generator().manual_seed(1))
    bundle = export(model, template(model), general=model_digest(model), check=check)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write(folder, model, bundle)
        state = {"general": model_digest(model), "bundle": bundle.digest, "recipe": "", "records": []}
        (folder / "state.json").write_text(json.dumps(state))
        yield folder, bundle


def _write(folder: Path, model: ResNet34, bundle: Bundle) -> None:
    digest = model_digest(model)
    about = About(bundle.digest, len(bundle.data), digest, digest, model.width, model.task, lineage_of("", ()))
    today = datetime.now(UTC).date()
    (folder / BUNDLE).write_bytes(bundle.data)
    (folder / MANIFEST).write_bytes(issue(about, key=device_key(folder), today=today, valid_days=Streaming.valid_days))


def bare(data: bytes) -> bytes:
    """Return the graph without smoothing and scaling: what comes after them takes the input itself."""
    graph = onnx.load_from_string(data)
    front = INPUT
    for kind in ("Div", "AveragePool"):
        (node,) = (node for node in graph.graph.node if node.op_type == kind and node.input[0] == front)
        front = node.output[0]
        graph.graph.node.remove(node)
    for node in graph.graph.node:
        for place, name in enumerate(node.input):
            if name == front:
                node.input[place] = INPUT
    return bytes(graph.SerializeToString())


def median(values: list[float]) -> float:
    """Return the median."""
    return float(np.median(values))


if __name__ == "__main__":
    app()
