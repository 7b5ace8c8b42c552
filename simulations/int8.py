"""Would an eight-bit bundle do? Quantise a general model's ONNX file and hold it to a gate; nothing ships it yet.

Static, per channel, calibrated on the version's public anchor segments, judged on its control patients' segments. The
gate: macro-AUC may fall by .005 and accuracy by a point. `bench_device.py int8` runs it.

Source: ONNX Runtime's quantisation tools (QDQ form, unsigned activations, signed weights).
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from client.runtime import INPUT, open_session
from shared.metrics import Scores, scores
from shared.settings import Task
from shared.training import Examples

AUC_MAY_FALL, ACCURACY_MAY_FALL = 0.005, 0.01
ROUNDS = 200


class Anchors(CalibrationDataReader):  # type: ignore[misc]
    """Gives the anchor segments one by one, as the tools want them."""

    def __init__(self, segments: npt.NDArray[np.float32]) -> None:
        self._left: Iterator[npt.NDArray[np.float32]] = iter(segments)

    def get_next(self) -> dict[str, Any] | None:
        """Return the next segment."""
        segment = next(self._left, None)
        return None if segment is None else {INPUT: segment[None]}


def quantise(model: Path, into: Path, *, anchor: npt.NDArray[np.float32]) -> None:
    """Write an eight-bit copy of an ONNX file; where the processor lacks VNNI, weights keep to seven bits."""
    folded, prepared = into.with_suffix(".folded.onnx"), into.with_suffix(".prepared.onnx")
    for source, target in ((model, folded), (folded, prepared)):  # constants first; only then is BatchNorm fused
        quant_pre_process(str(source), str(target), skip_symbolic_shape=True)  # symbols stumble over our constants
    quantize_static(
        str(prepared),
        str(into),
        Anchors(anchor),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        reduce_range="avx512_vnni" not in Path("/proc/cpuinfo").read_text(),
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


def compare(model: Path, folder: Path, *, anchor: Examples, control: Examples, task: Task) -> dict[str, Any]:
    """Return what an eight-bit copy costs and saves, and whether it would pass the gate."""
    small = folder / "int8.onnx"
    quantise(model, small, anchor=anchor.segments.numpy())
    fp32, int8 = (_judged(path, control.segments.numpy()) for path in (model, small))
    before, after = (scores(each, control.labels.numpy(), task=task) for each in (fp32["said"], int8["said"]))
    return {
        "segments": len(control),
        "file_mb": {"fp32": model.stat().st_size / 1e6, "int8": small.stat().st_size / 1e6},
        "ms": {"fp32": fp32["ms"], "int8": int8["ms"]},
        "macro_auc": {"fp32": before["macro_auc"], "int8": after["macro_auc"]},
        "accuracy": {"fp32": before["accuracy"], "int8": after["accuracy"]},
        "largest_difference": float(np.abs(fp32["said"] - int8["said"]).max()),
        "same_class": float((fp32["said"].argmax(1) == int8["said"].argmax(1)).mean()),
        "passes": passes(before, after),
    }


def passes(before: Scores, after: Scores) -> bool:
    """Return whether no more was lost than the gate allows; what was not measured does not pass."""
    pairs = (
        (before["macro_auc"], after["macro_auc"], AUC_MAY_FALL),
        (before["accuracy"], after["accuracy"], ACCURACY_MAY_FALL),
    )
    return all(one is not None and then is not None and one - then <= allowed + 1e-9 for one, then, allowed in pairs)


def _judged(path: Path, segments: npt.NDArray[np.float32]) -> dict[str, Any]:
    """Return what a file says of segments, and the median milliseconds for one, on one thread.

    The eight-bit graph is fused from its QDQ pairs when it is loaded, so both are rewritten here whatever their size.
    """
    session = open_session(path, size=0)
    said = np.concatenate([session.run(None, {INPUT: one[None]})[0] for one in segments])
    times = []
    for number in range(ROUNDS):
        began = time.perf_counter()
        session.run(None, {INPUT: segments[number % len(segments)][None]})
        times.append(time.perf_counter() - began)
    return {"said": said, "ms": 1000 * float(np.median(times))}
