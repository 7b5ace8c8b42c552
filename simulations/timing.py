"""How long Lethe takes and how much memory it needs: the benchmarks that look at the machine, not at the models.

They are commands of `python -m simulations.benchmark`.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from server.learning import capture
from shared.model import ResNet34, build
from shared.settings import General, Personalisation, Profile
from shared.training import device_for_training, fit, task_loss
from shared.unlearning import METHODS
from simulations.one_device import write_version

Data = Annotated[Path, typer.Option("--data", help="A folder in PTB-XL's layout.")]
START = """
import sys
from pathlib import Path
from shared.ptbxl import index, load
data = Path(sys.argv[1])
print(len(load(index(data), folder=data, cache=Path(sys.argv[2])).records))
"""


def device(width: int = 64, repeats: int = 5) -> None:
    """Time and memory of personalising one wearable on one core: 7 segments, each time in a new process."""
    with tempfile.TemporaryDirectory() as folder:
        write_version(Path(folder), width=width)
        runs = [in_process("simulations.one_device", folder) for _ in range(repeats)]
    printed(
        width=width,
        repeats=repeats,
        seconds_median=float(np.median([run["seconds"] for run in runs])),
        cpu_seconds_median=float(np.median([run["cpu_seconds"] for run in runs])),
        peak_mib_median=float(np.median([run["peak_mib"] for run in runs])),
        runs=runs,
    )


def methods(width: int = 64, profile: Profile = "default", repeats: int = 3) -> None:
    """Time and memory of every unlearning method on one wearable and one core, each time in a new process.

    Retraining is the row `exact`. Of zero-shot transfer, three of the published 4000 groups of steps.
    """
    found = []
    with tempfile.TemporaryDirectory() as folder:
        write_version(Path(folder), width=width, control=Personalisation().gate_segments)
        for method in METHODS:
            runs = [in_process("simulations.one_method", folder, method, profile) for _ in range(repeats)]
            found.append(
                {
                    "method": method,
                    "cpu_seconds_median": float(np.median([run["cpu_seconds"] for run in runs])),
                    "peak_mib_median": float(np.median([run["peak_mib"] for run in runs])),
                    "failed": runs[0]["failed"],
                }
            )
    printed(width=width, profile=profile, repeats=repeats, methods=found)


def in_process(module: str, *arguments: object) -> dict[str, Any]:
    """Return what a module prints, run in a process of its own on one core."""
    command, environment = [sys.executable, "-m", module, *map(str, arguments)], {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def speed(width: int = 64, batch_size: int = 64, repeats: int = 5, steps: int = 8) -> None:
    """Training rate against the matrix-product rate of the same run (fp32, on a GPU bf16), in turn, medians."""
    device = device_for_training()
    model = build(replace(General(), width=width))
    segments = torch.randn(batch_size, 12, 500, device=device)
    labels = torch.eye(5, device=device)[torch.randint(0, 5, (batch_size,), device=device)]
    gflop = 3 * 2 * _multiplications(model) / 1e9  # forward, and twice that backward
    model.to(device).train()
    if device.type == "cuda":
        capture(model, batch_size)
    rates, products = [], []
    for _ in range(repeats):
        products.append(_product_gflops(device))
        began = time.perf_counter()
        fit(
            model.parameters(),
            lambda _: task_loss(model(segments), labels, "single"),
            steps=steps,
            learning_rate=1e-4,
            weight_decay=0.01,
        )
        rates.append(batch_size * steps / (time.perf_counter() - began))
    ratios = [rate * gflop / product for rate, product in zip(rates, products, strict=True)]
    printed(
        width=width,
        batch_size=batch_size,
        gflop_a_segment=gflop,
        segments_a_second_median=float(np.median(rates)),
        product_gflops_median=float(np.median(products)),
        ratio_median=float(np.median(ratios)),
        ratios=ratios,
    )


def start(data: Data, repeats: int = 5) -> None:
    """Time of a start on a folder, in new processes: the first one, which reads every record, and later ones."""
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, "-c", START, str(data), cache]
        found = []
        for _ in range(1 + repeats):
            began = time.perf_counter()
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found.append(time.perf_counter() - began)
    printed(records=int(done.stdout), first_seconds=found[0], later_seconds_median=float(np.median(found[1:])))


def _multiplications(model: ResNet34) -> int:
    """Count the multiply-adds of one forward pass over one segment, in convolutions and the head."""
    total = 0

    def count(layer: torch.nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal total
        weight = layer.weight
        assert isinstance(weight, torch.Tensor)
        total += weight.numel() * (output.shape[-1] if output.dim() > 2 else 1)

    layers = [layer for layer in model.modules() if isinstance(layer, torch.nn.Conv1d | torch.nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    model.eval()(torch.zeros(1, 12, 500))
    for hook in hooks:
        hook.remove()
    return total


def _product_gflops(device: torch.device) -> float:
    """Return the rate of a matrix product in the precision that `device` trains in."""
    on_gpu = device.type == "cuda"
    size, repeats = (8192, 20) if on_gpu else (2048, 5)
    a, b = torch.randn(2, size, size, device=device, dtype=torch.bfloat16 if on_gpu else torch.float32)
    (a @ b)[0, 0].item()
    began = time.perf_counter()
    for _ in range(repeats):
        product = a @ b
    product[0, 0].item()  # a GPU computes beside the program: asking for a number waits for it
    return repeats * 2 * size**3 / (time.perf_counter() - began) / 1e9


def printed(**figures: Any) -> None:
    """Print figures as JSON, with the machine they were found on."""
    machine = {
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load": os.getloadavg()[0],
    }
    sys.stdout.write(json.dumps({**figures, **machine}, indent=2) + "\n")
