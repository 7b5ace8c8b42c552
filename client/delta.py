"""What a radio carries of a bundle: the bytes in which it differs from the general model's, which the wearable keeps.

A personal copy differs from the general model in its last block and its head, so a fifth of the file travels. All
numbers have four bytes, the least significant first:

    LETHE-DELTA-2 and a line feed
    length, then bundle.json               the signed manifest of what comes out
    length, then JSON                      [recipe, records]: what it was made of, so that it can be revoked
    sha256 of the general model's file     32 bytes; of no other file can it be made
    length of what comes out
    start, length, bytes                   every run of bytes that differ, first to last, up to the end

An eight-bit file travels the same way, in one run. What comes out is believed for the manifest's signature and the
digest in it, not for anything said here.
"""

import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
from cryptography.hazmat.primitives.hashes import SHA256, Hash

from client.bundle import BUNDLE, MANIFEST, Manifest, lineage_of, of_bytes, refuse_other_use
from client.standing import Device, read_state, standing
from shared.errors import BundleError, RevokedError

MAGIC = b"LETHE-DELTA-2\n"
_NUMBER, _RUN = struct.Struct("<I"), struct.Struct("<II")
NEAR = _RUN.size  # bytes that are alike between two runs; a run of its own would take as many
MOST_BYTES = 1 << 28  # of what comes out; a bundle at the paper's width has 29 million


def delta_of(device: Device) -> bytes:
    """Return what a wearable that keeps the general model's bundle is to be sent to run this device's.

    Raises:
        BundleError: there is no bundle that can be relied on.
        RevokedError: it is revoked; nothing of it travels.
    """
    now = standing(device)
    if now.why:
        raise RevokedError(f"{now.why}; a wearable has the general model already")
    base, state = device.folder / "general" / now.manifest.general / BUNDLE, read_state(device.folder)
    try:
        general, runs, signed = base.read_bytes(), now.path.read_bytes(), (device.folder / MANIFEST).read_bytes()
    except OSError as error:
        raise BundleError(f"{error.filename} cannot be read: {error.strerror}", "missing") from None
    return delta(general, runs, signed, recipe=state["recipe"], records=state["records"])


def delta(general: bytes, runs: bytes, signed: bytes, *, recipe: str, records: Sequence[str]) -> bytes:
    """Return what makes the file `runs` out of the general model's.

    Args:
        general: the general model's ONNX file.
        runs: the device's, or its eight-bit one.
        signed: the signed manifest that names it.
        recipe, records: what the model was made of.
    """
    lineage = json.dumps([recipe, list(records)]).encode()
    parts = [MAGIC, _NUMBER.pack(len(signed)), signed, _NUMBER.pack(len(lineage)), lineage]
    parts += [_sha256(general), _NUMBER.pack(len(runs))]
    for start, end in _differing(_to_length(general, len(runs)), runs):
        parts += [_RUN.pack(start, end - start), runs[start:end]]
    return b"".join(parts)


@dataclass(frozen=True)
class Delta:
    """What came over the radio, its signature checked.

    Attributes:
        manifest, signed: of what comes out, and the file that says so.
        recipe, records: what it was made of, as `client/state.py` has it; the manifest's lineage is of these.
        base: sha256 of the general model's ONNX file that it is to be made of.
        runs: starts, lengths and bytes.
    """

    manifest: Manifest
    signed: bytes
    recipe: str
    records: tuple[str, ...]
    base: bytes
    runs: bytes

    def file(self, general: bytes) -> bytes:
        """Return the file that the manifest names, made of the general model's ONNX file.

        Raises:
            BundleError: that is another one (`reason` "superseded"), or something was changed on the way ("changed").
        """
        if self.base != _sha256(general):
            raise BundleError(
                f"it is to be made of another general model's bundle, of sha256 {self.base.hex()}", "superseded"
            )
        try:
            made = _written(_to_length(general, self.manifest.runs.bytes), self.runs)
        except (ValueError, struct.error):
            raise _damaged() from None
        if _sha256(made).hex() != self.manifest.runs.digest:
            raise BundleError("what it makes is not the file that was signed; it was changed on the way", "changed")
        return made


def read(sent: bytes, *, public: bytes, today: date) -> Delta:
    """Return what `delta` made.

    Args:
        sent: its bytes.
        public: the device's public key in PEM.
        today: the day in UTC.

    Raises:
        BundleError: it was cut off or changed (`reason` "changed"), another key signed it ("signature"), or it is for
            another use ("contract") or another day ("validity"). Whether it is revoked is for `client/receiving.py`.
    """
    try:
        if not sent.startswith(MAGIC):
            raise ValueError
        signed, at = _part(sent, len(MAGIC))
        lineage, at = _part(sent, at)
        base, at = sent[at : at + 32], at + 32
        (length,) = _NUMBER.unpack_from(sent, at)
        manifest = of_bytes(signed, public=public)
        refuse_other_use(manifest, today=today)
        if length != manifest.runs.bytes or length > MOST_BYTES:
            raise ValueError
        recipe, records = _lineage(lineage)
    except (ValueError, struct.error):
        raise _damaged() from None
    if lineage_of(recipe, records) != manifest.lineage:
        raise BundleError("what it says that the model was made of is not what was signed", "changed")
    return Delta(manifest, signed, recipe, records, base, sent[at + _NUMBER.size :])


def _part(sent: bytes, at: int) -> tuple[bytes, int]:
    """Return a part that its length stands before, and where the next one begins."""
    (size,) = _NUMBER.unpack_from(sent, at)
    begin = at + _NUMBER.size
    if begin + size > len(sent):
        raise ValueError
    return sent[begin : begin + size], begin + size


def _lineage(told: bytes) -> tuple[str, tuple[str, ...]]:
    """Return recipe and records.

    Raises:
        ValueError: these are none.
    """
    try:
        recipe, records = json.loads(told)
    except (TypeError, RecursionError):
        raise ValueError from None
    if not isinstance(records, list) or not all(isinstance(one, str) for one in [recipe, *records]):
        raise ValueError
    return recipe, tuple(records)


def _damaged() -> BundleError:
    return BundleError("it is no delta of a bundle; it was cut off, or damaged", "changed")


def _written(base: bytes, sent: bytes) -> bytes:
    """Return `base` with the runs written over it.

    Raises:
        ValueError, struct.error: a run does not fit.
    """
    made, at = bytearray(base), 0
    while at < len(sent):
        start, size = _RUN.unpack_from(sent, at)
        at += _RUN.size
        if not size or start + size > len(made) or at + size > len(sent):
            raise ValueError
        made[start : start + size] = sent[at : at + size]
        at += size
    return bytes(made)


def _differing(one: bytes, other: bytes) -> Iterator[tuple[int, int]]:
    """Give the runs in which two files of one length differ; what lies near to each other is one run."""
    (places,) = np.nonzero(np.frombuffer(one, np.uint8) != np.frombuffer(other, np.uint8))
    if len(places):
        (breaks,) = np.nonzero(np.diff(places) > NEAR)
        starts, ends = places[[0, *(breaks + 1)]], places[[*breaks, -1]] + 1
        yield from zip(starts.tolist(), ends.tolist(), strict=True)


def _to_length(data: bytes, length: int) -> bytes:
    return data[:length].ljust(length, b"\0")


def _sha256(data: bytes) -> bytes:
    total = Hash(SHA256())
    total.update(data)
    return total.finalize()
