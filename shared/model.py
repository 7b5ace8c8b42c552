"""ResNet-34 for 12-lead ECG segments, its layer groups and its bytes on disk.

Input: segments (B, 12, 500) in millivolts. Smoothing and scaling are the model's first layers, so that an
attack, an ONNX file and a device all start from the same millivolts. Training lives in `shared/training.py`.
Source: He et al. 2016 (the paper's section 3.1.3), one-dimensional; width 64 is the paper's.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_tensors
from safetensors.torch import save
from torch import Tensor, nn

from shared.errors import DataError
from shared.fields import shown
from shared.settings import LEADS, SUPERCLASSES, General, Task
from shared.signals import odd_window

DEPTHS = (3, 4, 6, 3)  # residual blocks a stage: 2 * 16 convolutions + stem + head = 34 layers


class Conv(nn.Conv1d):
    """A one-dimensional convolution of (B, C, 1, T) with the channels last in memory.

    So laid out, training takes four fifths of the time on a CPU (measured); weights and results are Conv1d's.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, out, 1, T / stride)."""
        return F.conv2d(x, self.weight.unsqueeze(2), None, (1, self.stride[0]), (0, int(self.padding[0])))


class Norm(nn.BatchNorm1d):
    """Batch normalisation of (B, C, 1, T)."""

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() != 4:
            raise ValueError(f"got {input.dim()} dimensions, expected (B, C, 1, T)")


class Block(nn.Module):
    """Two 3-tap convolutions and a shortcut: (B, in, 1, T) -> (B, out, 1, T / stride)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = Conv(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = Norm(outputs)
        self.conv2 = Conv(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = Norm(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(Conv(inputs, outputs, 1, stride, bias=False), Norm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(F(x) + shortcut(x))."""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet34(nn.Module):
    """Segments (B, 12, 500) in millivolts -> logits (B, 5).

    `trunk` is all but the last residual block and the head, which are `tail`: a device that trains only the
    tail evaluates the trunk once a segment.
    """

    lead_sd: Tensor

    def __init__(self, width: int, *, task: Task = "single", smoothing_ms: float = 0.0, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout  # in front of the head, in training; the file does not keep it
        self.width, self.task, self.smoothing_ms = width, task, smoothing_ms
        self.register_buffer("lead_sd", torch.ones(len(LEADS)))
        self.stem = nn.Sequential(Conv(len(LEADS), width, 7, 2, padding=3, bias=False), Norm(width))
        self.ends = tuple(accumulate(DEPTHS))  # of the stages, as numbers of blocks
        channels = [width * 2**stage for stage in range(len(DEPTHS))]
        blocks = []
        for stage, (outputs, depth) in enumerate(zip(channels, DEPTHS, strict=True)):
            inputs = channels[max(stage - 1, 0)]
            blocks += [Block(inputs, outputs, 1 if stage == 0 else 2)]
            blocks += [Block(outputs, outputs, 1) for _ in range(depth - 1)]
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(channels[-1], len(SUPERCLASSES))

    def forward(self, segments: Tensor) -> Tensor:
        """Return logits (B, 5)."""
        return self.tail(self.trunk(segments))

    def trunk(self, segments: Tensor, *, ends: list[Tensor] | None = None) -> Tensor:
        """Return the features in front of the last block: (B, 12, 500) mV -> (B, 8 * width, 16).

        `ends` collects what the stages' last blocks give out, (B, C, 1, T); in `tail` too.
        """
        x = segments / self.lead_sd[:, None]
        if self.smoothing_ms:
            window = odd_window(self.smoothing_ms)
            x = F.avg_pool1d(x, window, 1, window // 2, count_include_pad=False)
        x = x.unsqueeze(2).contiguous(memory_format=torch.channels_last)  # (B, 12, 1, 500)
        x = F.relu(self.stem(x))  # (B, width, 1, 250)
        x = F.max_pool2d(x, (1, 3), (1, 2), (0, 1))  # (B, width, 1, 125)
        for number, block in enumerate(list(self.blocks)[:-1], start=1):
            x = block(x)
            if ends is not None and number in self.ends:
                ends.append(x)
        return x.squeeze(2)

    def tail(self, features: Tensor, *, ends: list[Tensor] | None = None) -> Tensor:
        """Return logits: (B, 8 * width, 16) -> (B, 5)."""
        x = self.blocks[-1](features.unsqueeze(2).contiguous(memory_format=torch.channels_last))
        if ends is not None:
            ends.append(x)
        pooled = F.dropout(x.mean(dim=(2, 3)), self.dropout, self.training)
        return self.head(pooled)  # type: ignore[no-any-return]

    def has_trunk_of(self, other: "ResNet34") -> bool:
        """Return whether both trunks are one, bit for bit: then they make the same of every segment."""
        if (self.width, self.smoothing_ms, self.ends) != (other.width, other.smoothing_ms, other.ends):
            return False
        theirs = other.state_dict()
        mine = {name: tensor for name, tensor in self.state_dict().items() if not name.startswith(self.tail_names)}
        return all(torch.equal(tensor, theirs[name]) for name, tensor in mine.items())

    @property
    def tail_names(self) -> tuple[str, str]:
        """Return how the names of the tail's tensors begin."""
        return f"blocks.{len(self.blocks) - 1}.", "head."

    def tail_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the last block and the head."""
        return [*self.blocks[-1].parameters(), *self.head.parameters()]


def probabilities(logits: Tensor, task: Task) -> Tensor:
    """Return class probabilities (B, 5): softmax for `single`, sigmoid for `multi`."""
    return logits.softmax(dim=1) if task == "single" else logits.sigmoid()


def log_odds(logits: Tensor, task: Task) -> Tensor:
    """Return the logarithm of p / (1 - p) of every class, (B, 5): each class's margin over all others together.

    For `single` z_k minus the logsumexp of the other logits, which of the true class is the audit's margin phi (Carlini
    et al. 2022); for `multi` the logits. Unlike probabilities they have a scale where a model is sure.
    """
    if task == "multi":
        return logits
    itself = torch.eye(logits.shape[1], dtype=torch.bool, device=logits.device)
    return logits - logits[:, None].masked_fill(itself, -math.inf).logsumexp(dim=2)


def build(settings: General, *, lead_sd: Tensor | None = None) -> ResNet34:
    """Return an untrained model whose weights depend on `settings.seed` alone.

    `lead_sd` is the corpus's standard deviation of each lead in millivolts, shape (12,).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = ResNet34(
            settings.width, task=settings.task, smoothing_ms=settings.smoothing_ms, dropout=settings.dropout
        )
    if lead_sd is not None:
        model.lead_sd.copy_(lead_sd)
    return model


def to_bytes(model: ResNet34) -> bytes:
    """Return the model as a safetensors file: the same weights give the same bytes."""
    about = {"width": model.width, "task": model.task, "smoothing_ms": model.smoothing_ms}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    return save(tensors, metadata={"lethe": json.dumps(about, sort_keys=True)})


def digest(data: bytes) -> str:
    """Return the sha256 that names a model, in hex: that of its file."""
    return hashlib.sha256(data).hexdigest()


def model_digest(model: ResNet34) -> str:
    """Return the digest of the file that `model` would be stored as."""
    return digest(to_bytes(model))


def check_weights(data: bytes) -> None:
    """See that bytes from elsewhere are tensors of finite numbers, before anybody keeps or believes them.

    Raises:
        DataError: they are not.
    """
    try:
        tensors = load_tensors(data)
    except (SafetensorError, KeyError, ValueError) as error:  # a type that torch lacks is a KeyError
        raise DataError(f"the weights that came are no weights ({error}); they are refused") from error
    _refuse_infinite(tensors, "the weights that came")


def _refuse_infinite(tensors: Mapping[str, Tensor], what: str) -> None:
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor.float()).all()):
            raise DataError(f"{what} hold a number that is none ({shown(name)}); they are refused")


def load(path: Path) -> ResNet34:
    """Read a model file, in evaluation mode on the CPU.

    Raises:
        DataError: the file is missing, damaged or not one of Lethe's, or a weight is not finite.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["lethe"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if tensors["head.weight"].shape[1] != about["width"] * 2 ** (
                len(DEPTHS) - 1
            ):  # room is made for what it says
                raise ValueError(f"its width is not {shown(about['width'])}")
            model = ResNet34(about["width"], task=about["task"], smoothing_ms=about["smoothing_ms"])
            model.load_state_dict(tensors)
    except (OSError, SafetensorError, LookupError, TypeError, ValueError, RuntimeError, RecursionError) as error:
        raise DataError(f"{path} is not a model file of Lethe ({error}); train again or restore it") from error
    _refuse_infinite(tensors, f"the weights in {path}")
    return model.eval()
