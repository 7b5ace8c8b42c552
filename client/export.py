"""The device's ONNX file: the version's template filled with its own weights, checked against torch.

One file a device, with labels and digests in its metadata and no word about the patient. A file whose
probabilities stray from torch's is refused before it exists under its final name.
"""

import hashlib
import json
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from shared.errors import DataError
from shared.model import ResNet34, model_digest, probabilities
from shared.onnx_template import INPUT, OUTPUT, fill
from shared.settings import LEADS, SAMPLING_HZ, SEGMENT_SAMPLES, SUPERCLASSES

PARITY = 1e-4  # largest tolerated difference of a probability


@dataclass(frozen=True)
class Bundle:
    """A finished ONNX file.

    Attributes:
        data: its bytes.
        digest: their sha256, in hex.
        parity: largest difference of a probability between ONNX Runtime and torch on the checked segments.
    """

    data: bytes
    digest: str
    parity: float


def export(model: ResNet34, template: bytes, *, general: str, check: Tensor) -> Bundle:
    """Fill the template with `model` and compare it with torch on the segments `check` (N, 12, 500) and a flat one.

    Raises:
        DataError: a probability differs by more than `PARITY`, or the template does not fit.
    """
    metadata = {
        "lethe.labels": json.dumps(SUPERCLASSES),
        "lethe.leads": json.dumps(LEADS),
        "lethe.input": f"(batch, {len(LEADS)}, {SEGMENT_SAMPLES}) millivolts at {SAMPLING_HZ} Hz",
        "lethe.task": model.task,
        "lethe.model": model_digest(model),
        "lethe.general": general,
    }
    data = fill(template, model, metadata=metadata)
    flat = torch.zeros(1, len(LEADS), SEGMENT_SAMPLES)  # so that something is compared when N is 0
    parity = largest_difference(data, model, torch.cat([check, flat]))
    if not parity <= PARITY:
        raise DataError(
            f"the ONNX file gives probabilities up to {parity:.1e} away from torch's, expected at most {PARITY:.0e}; "
            "it is refused and the model before stays in use"
        )
    return Bundle(data, hashlib.sha256(data).hexdigest(), parity)


def largest_difference(data: bytes, model: ResNet34, segments: Tensor) -> float:
    """Return the largest difference of a probability between the ONNX file and the torch model."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    (found,) = session.run([OUTPUT], {INPUT: segments.numpy()})
    with torch.inference_mode():
        expected = probabilities(model(segments), model.task).numpy()
    return float(np.abs(found - expected).max())
