"""A wearable takes over what came by radio: the file that runs, its manifest, and what it was made of.

A wearable's folder is like a device's (docs/DEVICE.md), with what it needs to run a bundle and no more: keys, the
general model's bundle, and what was received last.
"""

import json
from datetime import UTC, date, datetime

from client.bundle import BUNDLE, INT8, MANIFEST, Manifest, signed
from client.delta import Delta, read
from client.envelope import PUBLIC
from client.standing import STATE, Device, refuse_revoked
from shared.errors import BundleError, UsageError
from shared.files import write_atomically

OWN = "model.safetensors"  # what only the device has that made it


def receive(device: Device, sent: bytes, *, today: date | None = None) -> Manifest:
    """Put in use what `client/delta.py` made; the same again changes nothing, and so does what is refused.

    Killed in between, the wearable refuses what it has, and takes the same delta again.

    Args:
        device: the wearable.
        sent: what came.
        today: the day in UTC; None asks the clock.

    Raises:
        BundleError: it was changed, is not for this wearable, or older than what is in use ("superseded").
        RevokedError: the patient has withdrawn what it was made of.
        UsageError: this is the folder of the device that made it.
    """
    folder = device.folder
    if (folder / OWN).exists():
        raise UsageError(f"{folder} is the device's own, which makes its bundle itself; name a wearable's folder")
    delta = read(sent, public=_bytes(device, PUBLIC), today=today or datetime.now(UTC).date())
    if delta.manifest.kind == "personal":
        refuse_revoked(device, list(delta.records))
    _refuse_older(device, delta.manifest)
    made = delta.file(_bytes(device, f"general/{delta.manifest.general}/{BUNDLE}"))
    runs = delta.manifest.runs.name
    write_atomically(folder / runs, made)
    write_atomically(folder / MANIFEST, delta.signed)
    write_atomically(folder / STATE, _state(delta))
    (folder / (BUNDLE if runs == INT8 else INT8)).unlink(missing_ok=True)
    return delta.manifest


def _refuse_older(device: Device, manifest: Manifest) -> None:
    """Refuse what was signed on an earlier day than what is here: an old message that comes again."""
    try:
        here = signed(device.folder, public=device.folder)
    except BundleError:
        return  # nothing that could be relied on
    if manifest.issued < here.issued:
        raise BundleError(
            f"it was signed on {manifest.issued}, and what is in use on {here.issued}: it was superseded", "superseded"
        )


def _state(delta: Delta) -> bytes:
    told = delta.manifest
    state = {"general": told.general, "model": told.model, "bundle": told.bundle, "recipe": delta.recipe}
    return json.dumps(state | {"records": delta.records, "int8": {"digest": told.int8.digest}}).encode()


def _bytes(device: Device, name: str) -> bytes:
    try:
        return (device.folder / name).read_bytes()
    except OSError as error:
        raise BundleError(
            f"{error.filename} cannot be read: {error.strerror}; a wearable needs it", "missing"
        ) from None
