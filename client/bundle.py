"""What a device signs of its ONNX file: the manifest beside it, and what makes a runtime believe it.

    bundle.onnx        the model; its digest is certified, so nothing with a date enters it
    bundle.int8.onnx   the same in eight bits, where `personalisation.int8` asks for it and its gate lets it
    bundle.json        the manifest, signed with the device's key

No torch here: `client/export.py` makes the ONNX file, `client/runtime.py` runs it.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, get_origin

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256, Hash

from client.envelope import PUBLIC, opened, sign
from shared.errors import BundleError
from shared.settings import LEADS, SAMPLING_HZ, SEGMENT_SAMPLES, SUPERCLASSES

BUNDLE, INT8, MANIFEST = "bundle.onnx", "bundle.int8.onnx", "bundle.json"
KIND = "application/vnd.lethe.bundle+json"
FORM = 3
UNIT = "mV"

Kind = Literal["personal", "general"]
Part = TypeVar("Part")

_SHA256 = re.compile(r"[0-9a-f]{64}")


class File(NamedTuple):
    """A file beside the manifest: its name, its sha256 and its size."""

    name: str
    digest: str
    bytes: int


@dataclass(frozen=True)
class EightBits:
    """The eight-bit file that ships beside an ONNX file, or why none does.

    Attributes:
        digest, bytes: its sha256 and size; "" and 0 where none ships.
        reason: why none does; "" where one does, or none was asked for.
        segments: of how many public control segments the gate judged; 0 where it did not.
        macro_auc, accuracy: of the ONNX file and of the eight-bit one on these; empty where not measured.
    """

    digest: str = ""
    bytes: int = 0
    reason: str = ""
    segments: int = 0
    macro_auc: tuple[float, ...] = ()
    accuracy: tuple[float, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """What is said of an ONNX file; nothing about the patient, no path, and of time no more than the day.

    Attributes:
        bundle, bytes: sha256 and size of the ONNX file.
        model, general: sha256 of the weights' file, and of the general model that it comes from; equal where the
            general model itself is served.
        width: channels of the network's first stage.
        task: "single" (softmax) or "multi" (sigmoid).
        labels, leads: in the order of the outputs and of the inputs.
        samples, hz, unit: one window, (leads, samples), at so many samples a second.
        int8: the same model in eight bits, which runs in its place where it ships.
        lineage: `lineage_of` what the model was made of.
        issued, valid_until: days, ISO 8601; it may run from the first up to the day before the last.
    """

    bundle: str
    bytes: int
    model: str
    general: str
    width: int
    task: str
    int8: EightBits
    lineage: str
    issued: str
    valid_until: str
    labels: tuple[str, ...] = SUPERCLASSES
    leads: tuple[str, ...] = LEADS
    samples: int = SEGMENT_SAMPLES
    hz: int = SAMPLING_HZ
    unit: str = UNIT
    form: int = FORM

    @property
    def kind(self) -> Kind:
        """Return whose model it is."""
        return "general" if self.model == self.general else "personal"

    @property
    def runs(self) -> File:
        """Return the file that a wearable runs."""
        if self.int8.digest:
            return File(INT8, self.int8.digest, self.int8.bytes)
        return File(BUNDLE, self.bundle, self.bytes)


@dataclass(frozen=True)
class About:
    """What is known of an ONNX file when its manifest is written; the fields are `Manifest`'s."""

    bundle: str
    bytes: int
    model: str
    general: str
    width: int
    task: str
    lineage: str
    int8: EightBits = EightBits()


def lineage_of(recipe: str, records: Sequence[str]) -> str:
    """Return what ties a manifest to what its model was made of, and tells nobody else what that was.

    Args:
        recipe: a digest of the samples, among others, so that the records cannot be guessed; "" where there are none.
        records: their ids.
    """
    total = Hash(SHA256())
    total.update(json.dumps([recipe, sorted(records)]).encode())
    return total.finalize().hex()


def issue(about: About, *, key: Ed25519PrivateKey, today: date, valid_days: int) -> bytes:
    """Return the signed manifest's file."""
    until = today + timedelta(days=valid_days)
    manifest = Manifest(**vars(about), issued=today.isoformat(), valid_until=until.isoformat())
    return sign(asdict(manifest), kind=KIND, key=key)


def read(folder: Path, *, public: Path, today: date) -> Manifest:
    """Return the manifest in `folder`, once signature, use and validity hold; the ONNX file is not looked at.

    Args:
        folder: where `bundle.onnx` and `bundle.json` are.
        public: the device's folder, which holds its public key.
        today: the day in UTC.

    Raises:
        BundleError: it is missing, signed by another key, changed, for another use or not valid today.
    """
    manifest = signed(folder, public=public)
    refuse_other_use(manifest, today=today)
    return manifest


def refuse_other_use(manifest: Manifest, *, today: date) -> None:
    """See that the file is for what this runtime does, and for today.

    Raises:
        BundleError: it is for other labels, leads, windows, units or another sampling rate ("contract"), or not valid
            today ("validity").
    """
    _refuse_other_contract(manifest)
    if not manifest.issued <= today.isoformat() < manifest.valid_until:
        raise BundleError(
            f"the bundle is valid from {manifest.issued} until {manifest.valid_until}, and today is {today}; the next "
            "`lethe run` signs it anew, or the clock is wrong",
            "validity",
        )


def signed(folder: Path, *, public: Path) -> Manifest:
    """Return the manifest in `folder` with its signature checked, and nothing else.

    Raises:
        BundleError: there is none, or the device's key did not sign it.
    """
    try:
        data, key = (folder / MANIFEST).read_bytes(), (public / PUBLIC).read_bytes()
    except OSError as error:
        raise BundleError(
            f"no signed bundle: {error.strerror} ({error.filename}); the next `lethe run` makes it", "missing"
        ) from None
    try:
        return of_bytes(data, public=key)
    except BundleError as error:
        raise BundleError(
            f"{folder / MANIFEST}: {error}; it is not run, `lethe run` makes it anew", error.reason
        ) from None


def of_bytes(data: bytes, *, public: bytes) -> Manifest:
    """Return the manifest that was signed.

    Args:
        data: its file.
        public: the device's public key in PEM.

    Raises:
        BundleError: the key did not sign it (`reason` "signature"), or it is of another form ("contract").
    """
    content = opened(data, kind=KIND, public=public)
    try:
        manifest = _filled(Manifest, content)
        if not all(map(_SHA256.fullmatch, (manifest.bundle, manifest.model, manifest.general, manifest.runs.digest))):
            raise TypeError("a digest is no sha256")
        return manifest
    except TypeError as error:
        raise BundleError(f"it is of another form ({error}), expected form {FORM}", "contract") from None


def _filled(part: type[Part], content: Any) -> Part:
    """Return a dataclass made of a JSON object, each field of the type that is declared.

    Raises:
        TypeError: a field is missing, too many, or of another type.
    """
    if not isinstance(content, dict):
        raise TypeError(f"{part.__name__} is {type(content).__name__}")
    told: dict[str, Any] = {key: tuple(one) if isinstance(one, list) else one for key, one in content.items()}
    kinds: dict[str, Any] = {field.name: field.type for field in fields(part)}  # type: ignore[arg-type]
    told |= {name: _filled(kinds[name], one) for name, one in told.items() if is_dataclass(kinds.get(name))}
    made = part(**told)
    for name, kind in kinds.items():
        if type(getattr(made, name)) is not (get_origin(kind) or kind):
            raise TypeError(f"{name} is {type(getattr(made, name)).__name__}")
    return made


def _refuse_other_contract(manifest: Manifest) -> None:
    """See that the file is for what this runtime does.

    Raises:
        BundleError: it is for other labels, leads, windows, units or another sampling rate.
    """
    expected = {
        "form": FORM,
        "labels": SUPERCLASSES,
        "leads": LEADS,
        "samples": SEGMENT_SAMPLES,
        "hz": SAMPLING_HZ,
        "unit": UNIT,
    }
    for name, wanted in expected.items():
        if (seen := getattr(manifest, name)) != wanted:
            raise BundleError(
                f"the bundle's {name} is {_listed(seen)}, expected {_listed(wanted)}; it is not run", "contract"
            )


def _listed(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
