"""Keeps exported ONNX templates on this machine: one takes PyTorch long, and the architecture alone decides it.

They lie in `lethe/` of the user's cache folder (`XDG_CACHE_HOME`, or `.cache` at home), hold no weights and nothing of
any patient, and may be deleted at any time.
"""

import hashlib
import os
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from shared import model as architecture
from shared import onnx_template, signals
from shared.files import write_atomically
from shared.model import ResNet34
from shared.onnx_template import export_template

SHA256_BYTES = 32


def template(model: ResNet34) -> bytes:
    """Return the ONNX template of a model's architecture: the kept one, or a new export, which is then kept."""
    path = _folder() / f"{_key(model)}.onnx"
    with suppress(OSError):
        kept = path.read_bytes()
        digest, data = kept[:SHA256_BYTES], kept[SHA256_BYTES:]
        if hashlib.sha256(data).digest() == digest:
            return data
    data = export_template(model)
    with suppress(OSError):  # a full disk, or no home: the next model is exported again
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, hashlib.sha256(data).digest() + data)
    return data


def _folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lethe"


def _key(model: ResNet34) -> str:
    """Return a name for everything that a template depends on: the architecture, its sources, and the exporter."""
    parts = [repr((model.width, model.task, model.smoothing_ms))]
    parts += [f"{name} {tuple(tensor.shape)}" for name, tensor in model.state_dict().items()]
    parts += [f"{package} {version(package)}" for package in ("torch", "onnx", "onnxscript")]
    digest = hashlib.sha256("\n".join(parts).encode())
    for module in (architecture, signals, onnx_template):
        digest.update(Path(str(module.__file__)).read_bytes())
    return digest.hexdigest()
