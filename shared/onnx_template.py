"""An architecture's ONNX graph without weights: exported once a general model, filled in on every device.

Exporting through PyTorch takes seconds, filling in takes milliseconds; `client/export.py` fills, checks and
stores. The graph takes raw millivolts and gives probabilities and margins, with a dynamic batch.
"""

import warnings

import onnx
import torch
from onnx import ModelProto, numpy_helper
from torch import Tensor, nn

from shared.errors import DataError
from shared.model import ResNet34, log_odds, probabilities
from shared.settings import LEADS, SEGMENT_SAMPLES

INPUT, OUTPUT, MARGINS = "segments", "probabilities", "margins"
_PREFIX = "model."


class _Outputs(nn.Module):
    """Segments (B, 12, 500) in millivolts -> class probabilities and their log-odds, (B, 5) each."""

    def __init__(self, model: ResNet34) -> None:
        super().__init__()
        self.model = model

    def forward(self, segments: Tensor) -> tuple[Tensor, Tensor]:
        logits, task = self.model(segments), self.model.task
        return probabilities(logits, task), log_odds(logits, task)


def export_template(model: ResNet34) -> bytes:
    """Return the model's graph as ONNX, its weights left out and nothing of this machine's paths left in."""
    example = torch.zeros(2, len(LEADS), SEGMENT_SAMPLES)  # a batch of 1 would be taken for a constant
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        program = torch.onnx.export(
            _Outputs(model).eval(),
            (example,),
            dynamo=True,
            optimize=False,  # so that every initialiser keeps its name in the state dict
            external_data=False,
            dynamic_shapes=({0: "batch"},),
            input_names=[INPUT],
            output_names=[OUTPUT, MARGINS],
            verbose=False,
        )
    if program is None:
        raise DataError("PyTorch exported no ONNX program")
    graph = program.model_proto
    strip(graph)
    weights = model.state_dict()
    for tensor in graph.graph.initializer:
        if tensor.name.removeprefix(_PREFIX) in weights:
            tensor.ClearField("raw_data")
    return bytes(graph.SerializeToString(deterministic=True))


def fill(template: bytes, model: ResNet34, *, metadata: dict[str, str]) -> bytes:
    """Return a complete ONNX file: the template with the model's weights and the given metadata.

    Raises:
        DataError: the template is damaged or belongs to another architecture.
    """
    graph = ModelProto()
    try:
        graph.ParseFromString(template)
    except Exception as error:
        raise DataError(f"the ONNX template is damaged ({error}); it comes again with the next run") from error
    weights = model.state_dict()
    for tensor in graph.graph.initializer:
        weight = weights.get(tensor.name.removeprefix(_PREFIX))
        if weight is None:
            continue
        if list(tensor.dims) != list(weight.shape):
            raise DataError(
                f"ONNX tensor {tensor.name} is {list(tensor.dims)}, the model has {list(weight.shape)}; "
                "the template belongs to another width"
            )
        tensor.CopyFrom(numpy_helper.from_array(weight.numpy(), tensor.name))
    onnx.helper.set_model_props(graph, metadata)
    try:
        onnx.checker.check_model(graph)
    except onnx.checker.ValidationError as error:
        raise DataError(f"the ONNX template makes no model ({error}); it comes again with the next run") from error
    return bytes(graph.SerializeToString(deterministic=True))


def strip(model: ModelProto) -> None:
    """Remove what an exporter or another tool noted about its own source files and doings."""
    del model.metadata_props[:]
    graph = model.graph
    del graph.metadata_props[:]
    named = [
        *graph.node,
        *graph.initializer,
        *graph.value_info,
        *graph.input,
        *graph.output,
        *model.functions,
    ]
    for part in named:
        del part.metadata_props[:]
        part.doc_string = ""
    for function in model.functions:
        for node in function.node:
            del node.metadata_props[:]
            node.doc_string = ""
