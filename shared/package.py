"""One version of the general model as it is published: weights, ONNX template, public segments.

The server keeps it in `models/<digest>/`, every device in `general/<digest>/`; it travels once a version.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save
from torch import Tensor

from shared.errors import DataError
from shared.files import write_atomically
from shared.model import ResNet34, digest, load
from shared.training import Examples, apply, one_thread

MODEL, TEMPLATE, PUBLIC = "model.safetensors", "template.onnx", "public.safetensors"


@dataclass(frozen=True)
class Public:
    """Public, consented segments that travel to every device once a version.

    Attributes:
        anchor: of corpus patients whom the general model trained on; they hold a copy to it.
        gate: of corpus patients held out from training; they measure what others lose by a copy.
        control: of patients whom no model ever sees; they only report.
        anchor_features, gate_features: (N, 8 * width, 16), what the general model's trunk makes of them: evaluated
            once by the server, so that no device does it again for every copy.
    """

    anchor: Examples
    gate: Examples
    control: Examples
    anchor_features: Tensor
    gate_features: Tensor

    @classmethod
    def of(cls, general: ResNet34, *, anchor: Examples, gate: Examples, control: Examples) -> Self:
        """Return the segments with what `general` makes of them, in evaluation mode; the same bytes on any cores."""
        with one_thread():
            return cls(
                anchor, gate, control, apply(general.trunk, anchor.segments), apply(general.trunk, gate.segments)
            )

    def to_bytes(self) -> bytes:
        """Return all of it as a safetensors file."""
        parts = {"anchor": self.anchor, "gate": self.gate, "control": self.control}
        tensors = {f"{name}.segments": part.segments.contiguous() for name, part in parts.items()}
        tensors |= {f"{name}.labels": part.labels.contiguous() for name, part in parts.items()}
        features = {"anchor.features": self.anchor_features, "gate.features": self.gate_features}
        return save(tensors | {name: part.contiguous() for name, part in features.items()})

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what `to_bytes` wrote.

        Raises:
            DataError: the bytes are damaged.
        """
        try:
            found = load_tensors(data)
            anchor, gate, control = (
                Examples(found[f"{name}.segments"], found[f"{name}.labels"]) for name in ("anchor", "gate", "control")
            )
            return cls(anchor, gate, control, found["anchor.features"], found["gate.features"])
        except (SafetensorError, KeyError) as error:
            raise DataError(f"the public segments are damaged ({error}); they come again with the model") from error


@dataclass(frozen=True)
class Package:
    """The bytes of one version."""

    model: bytes
    template: bytes
    public: bytes

    @cached_property
    def digest(self) -> str:
        """Return the sha256 of the weights' file; it names the version."""
        return digest(self.model)

    @cached_property
    def fingerprint(self) -> str:
        """Return a sha256 over all parts: whether a device has this very package."""
        return digest("".join(digest(part) for part in self.blobs().values()).encode())

    def blobs(self) -> dict[str, bytes]:
        """Return the parts by their file names."""
        return {MODEL: self.model, TEMPLATE: self.template, PUBLIC: self.public}

    @classmethod
    def from_blobs(cls, blobs: Mapping[str, bytes], *, expected: str) -> Self:
        """Return the package that `blobs` holds.

        Raises:
            DataError: a part is missing, or the weights are not those of the expected digest.
        """
        missing = [name for name in (MODEL, TEMPLATE, PUBLIC) if name not in blobs]
        if missing:
            raise DataError(f"a general model came without {', '.join(missing)}")
        package = cls(blobs[MODEL], blobs[TEMPLATE], blobs[PUBLIC])
        if package.digest != expected:
            raise DataError(f"a general model has digest {package.digest}, expected {expected}; it is refused")
        return package

    def save(self, folder: Path) -> None:
        """Write the parts into `folder`, the weights last: where they are, all is there."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in (TEMPLATE, PUBLIC, MODEL):
            write_atomically(folder / name, self.blobs()[name])

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Read a saved package.

        Raises:
            DataError: a file is missing, or the weights are not those that the folder is named after.
        """
        try:
            blobs = {name: (folder / name).read_bytes() for name in (MODEL, TEMPLATE, PUBLIC)}
        except OSError as error:
            raise DataError(f"the general model in {folder} is incomplete ({error}); train again") from error
        return cls.from_blobs(blobs, expected=folder.name)


def load_general(folder: Path) -> tuple[ResNet34, Public]:
    """Return the model and the public segments of a saved package."""
    return load(folder / MODEL), Public.from_bytes((folder / PUBLIC).read_bytes())
