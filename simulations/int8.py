"""What eight bits cost and save: a general model's ONNX file beside its eight-bit copy (`client/int8.py`).

`bench_device.py int8` runs it.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np

from client.int8 import Samples, quantise, said, verdict
from client.runtime import INPUT, open_session
from shared.metrics import scores
from shared.settings import Task
from shared.training import Examples

ROUNDS = 200


def compare(model: Path, folder: Path, *, anchor: Examples, control: Examples, task: Task) -> dict[str, Any]:
    """Return what an eight-bit copy costs and saves, how long it takes to make, and whether it passes the gate."""
    small, segments = folder / "int8.onnx", control.segments.numpy()
    began = time.perf_counter()
    quantise(model, small, anchor=anchor.segments.numpy())
    seconds = time.perf_counter() - began
    fp32, int8 = (said(path, segments) for path in (model, small))
    before, after = (scores(each, control.labels.numpy(), task=task) for each in (fp32, int8))
    told, _ = verdict(before, after, small.read_bytes())
    return {
        "segments": len(control),
        "seconds": seconds,
        "file_mb": {"fp32": model.stat().st_size / 1e6, "int8": small.stat().st_size / 1e6},
        "ms": {"fp32": _ms(model, segments), "int8": _ms(small, segments)},
        "macro_auc": {"fp32": before["macro_auc"], "int8": after["macro_auc"]},
        "accuracy": {"fp32": before["accuracy"], "int8": after["accuracy"]},
        "largest_difference": float(np.abs(fp32 - int8).max()),
        "same_class": float((fp32.argmax(1) == int8.argmax(1)).mean()),
        "passes": bool(told.digest),
        "reason": told.reason,
    }


def _ms(path: Path, segments: Samples) -> float:
    """Return the median milliseconds for a segment, on one thread.

    The eight-bit graph is fused from its QDQ pairs when it is loaded, so both are rewritten here whatever their size.
    """
    session, times = open_session(path, optimised=True), []
    for number in range(ROUNDS):
        began = time.perf_counter()
        session.run(None, {INPUT: segments[number % len(segments)][None]})
        times.append(time.perf_counter() - began)
    return 1000 * float(np.median(times))
