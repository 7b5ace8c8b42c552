"""What a radio carries of a bundle: the bytes in which it differs from the general model's, which the wearable keeps.

A personal copy differs from the general model in its last block and its head, so a fifth of the file travels. All
numbers have four bytes, the least significant first:

    LETHE-DELTA-1 and a line feed
    length, then bundle.json               the signed manifest of what comes out
    sha256 of the general model's file     32 bytes; of no other file can it be made
    length of what comes out
    start, length, bytes                   every run of bytes that differ, first to last, up to the end

An eight-bit file travels the same way, in one run. What comes out is believed for the manifest's signature and the
digest in it, not for anything said here.
"""

import struct
from collections.abc import Iterator
from datetime import UTC, date, datetime

import numpy as np
from cryptography.hazmat.primitives.hashes import SHA256, Hash

from client.bundle import BUNDLE, MANIFEST, Manifest, of_bytes, refuse_other_use
from client.standing import Device, standing
from shared.errors import BundleError, RevokedError

MAGIC = b"LETHE-DELTA-1\n"
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
    base = device.folder / "general" / now.manifest.general / BUNDLE
    try:
        return delta(base.read_bytes(), now.path.read_bytes(), (device.folder / MANIFEST).read_bytes())
    except OSError as error:
        raise BundleError(f"{error.filename} cannot be read: {error.strerror}", "missing") from None


def delta(general: bytes, runs: bytes, manifest: bytes) -> bytes:
    """Return what makes the file `runs` out of the general model's.

    Args:
        general: the general model's ONNX file.
        runs: the device's, or its eight-bit one.
        manifest: the signed manifest that names it.
    """
    parts = [MAGIC, _NUMBER.pack(len(manifest)), manifest, _sha256(general), _NUMBER.pack(len(runs))]
    for start, end in _differing(_to_length(general, len(runs)), runs):
        parts += [_RUN.pack(start, end - start), runs[start:end]]
    return b"".join(parts)


def applied(sent: bytes, *, general: bytes, public: bytes, today: date | None = None) -> tuple[Manifest, bytes]:
    """Return the manifest and the file that it names, made of the general model's file and what was sent.

    Args:
        sent: what `delta` made.
        general: the general model's ONNX file, as it is on the wearable.
        public: the device's public key in PEM.
        today: the day in UTC; None asks the clock.

    Raises:
        BundleError: it was changed or cut off, another key signed it (`reason` "signature", "changed"), it is to
            be made of another general model's file ("superseded"), for another use ("contract") or another day
            ("validity"). Whether it is revoked is for the runtime, `client/standing.py`.
    """
    try:
        if not sent.startswith(MAGIC):
            raise ValueError
        (size,) = _NUMBER.unpack_from(sent, at := len(MAGIC))
        manifest, at = sent[at + _NUMBER.size : at + _NUMBER.size + size], at + _NUMBER.size + size
        base, at = sent[at : at + 32], at + 32
        (length,) = _NUMBER.unpack_from(sent, at)
        told = of_bytes(manifest, public=public)
        refuse_other_use(told, today=today or datetime.now(UTC).date())
        if base != _sha256(general):
            raise BundleError(
                f"it is to be made of another general model's bundle, of sha256 {base.hex()}", "superseded"
            )
        if length != told.runs.bytes or length > MOST_BYTES:
            raise ValueError
        made = _written(_to_length(general, length), sent, at + _NUMBER.size)
    except (ValueError, struct.error):
        raise BundleError("it is no delta of a bundle; it was cut off, or damaged", "changed") from None
    if _sha256(made).hex() != told.runs.digest:
        raise BundleError("what it makes is not the file that was signed; it was changed on the way", "changed")
    return told, made


def _written(base: bytes, sent: bytes, at: int) -> bytes:
    """Return `base` with the runs written over it.

    Raises:
        ValueError, struct.error: a run does not fit.
    """
    made = bytearray(base)
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
