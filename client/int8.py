"""An ONNX file in eight bits, and the gate that it ships through: a file beside the one that is certified.

Convolutions only, static, per channel, calibrated on the version's public anchor segments, judged on its control
patients' segments: no segment of the wearer's enters it, only the weights. Macro-AUC may fall by .005 and accuracy by
a point. What loses more, or cannot be made, does not ship, and the manifest says why; the wearable then runs the ONNX
file itself.

Source: ONNX Runtime's quantisation tools (QDQ form, unsigned activations, signed weights).
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from client.bundle import BUNDLE, INT8, EightBits
from client.runtime import INPUT, OUTPUT, open_session
from shared.errors import plainly
from shared.metrics import Scores, scores
from shared.model import digest
from shared.onnx_template import strip
from shared.package import Public
from shared.settings import Task
from shared.training import Examples

AUC_MAY_FALL, ACCURACY_MAY_FALL = 0.005, 0.01
Samples = npt.NDArray[np.float32]
Pair = tuple[float | None, float | None]  # of the ONNX file, then of eight bits


def shipped(bundle: bytes, public: Public, *, task: Task, folder: Path) -> tuple[EightBits, bytes]:
    """Return what is said of the eight-bit copy of an ONNX file, and its bytes, b"" where it does not ship.

    Args:
        bundle: the ONNX file.
        public: anchor segments to calibrate on, control segments to judge by.
        task: "single" or "multi".
        folder: the device's own; the tools' temporary files lie there, in a folder with a dot in front, so that what
            a kill leaves of a personal model is removed with the next look at the device.
    """
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".int8.") as name:
            full, small = Path(name) / BUNDLE, Path(name) / INT8
            full.write_bytes(bundle)
            quantise(full, small, anchor=public.anchor.segments.numpy())
            before, after = (judged(path, public.control, task=task) for path in (full, small))
            data = small.read_bytes()
    except Exception as error:  # whatever it is, the ONNX file runs as well
        why = plainly(error, inside=folder) or type(error).__name__
        return EightBits(reason=f"it could not be made: {why}"), b""
    return verdict(before, after, data)


def verdict(before: Scores, after: Scores, data: bytes) -> tuple[EightBits, bytes]:
    """Hold an eight-bit file to the gate: `before` is the ONNX file's, `after` its own."""
    auc, accuracy = (before["macro_auc"], after["macro_auc"]), (before["accuracy"], after["accuracy"])
    told = EightBits(segments=before["n"], macro_auc=_rounded(auc), accuracy=_rounded(accuracy))
    reasons = [_lost("macro-AUC", auc, AUC_MAY_FALL), _lost("accuracy", accuracy, ACCURACY_MAY_FALL)]
    if why := "; ".join(filter(None, reasons)):
        return replace(told, reason=f"{why}, on {before['n']} control segments"), b""
    return replace(told, digest=digest(data), bytes=len(data)), data


def _lost(what: str, pair: Pair, allowed: float) -> str:
    """Return what is lost beyond what the gate allows, "" for nothing; what was not measured does not pass."""
    before, after = pair
    if before is None or after is None:
        return f"{what} cannot be measured"
    lost = before - after
    return f"{what} falls by {lost:.3f}, expected at most {allowed}" if not lost <= allowed + 1e-9 else ""


def _rounded(pair: Pair) -> tuple[float, ...]:
    return tuple(round(one, 4) for one in pair if one is not None) if None not in pair else ()


def quantise(model: Path, into: Path, *, anchor: Samples) -> None:
    """Write an eight-bit copy of an ONNX file; where the processor lacks VNNI, weights keep to seven bits.

    The same file gives the same bytes on one kind of processor.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    folded, prepared = into.with_suffix(".folded.onnx"), into.with_suffix(".prepared.onnx")
    with _temporary_files_in(into.parent):
        for source, target in ((model, folded), (folded, prepared)):  # constants first; only then is BatchNorm fused
            quant_pre_process(str(source), str(target), skip_symbolic_shape=True)  # symbols stumble over our constants
        quantize_static(
            str(prepared),
            str(into),
            _Anchors(anchor),
            op_types_to_quantize=["Conv"],  # 98 % of the work; a head or a softmax in steps of 1/255 would say less
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range="avx512_vnni" not in Path("/proc/cpuinfo").read_text(),
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    made, original = onnx.load(into), onnx.load(model)
    strip(made)
    used = {node.domain for node in made.graph.node}
    for one in [one for one in made.opset_import if one.domain not in used]:  # the tools name all that they know
        made.opset_import.remove(one)
    onnx.helper.set_model_props(made, {one.key: one.value for one in original.metadata_props})
    into.write_bytes(made.SerializeToString(deterministic=True))


def judged(path: Path, control: Examples, *, task: Task) -> Scores:
    """Return how good a file is on the control segments, as a wearable would run it."""
    return scores(said(path, control.segments.numpy()), control.labels.numpy(), task=task)


def said(path: Path, segments: Samples) -> Samples:
    """Return the probabilities (N, 5) that a file gives for segments (N, 12, 500), one at a time."""
    session = open_session(path, optimised=True)
    return np.concatenate([session.run([OUTPUT], {INPUT: one[None]})[0] for one in segments])


class _Anchors:
    """Gives the anchor segments one by one, as the tools want them."""

    def __init__(self, segments: Samples) -> None:
        self._left: Iterator[Samples] = iter(segments)

    def get_next(self) -> dict[str, Any] | None:
        """Return the next segment."""
        segment = next(self._left, None)
        return None if segment is None else {INPUT: segment[None]}


@contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """Have the tools, which can be told no place, put their temporary files into a folder."""
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before
