"""Which bundle a wearable may run now: its own, unless what that was made of is withdrawn; then the general model's.

Only small files are read here, so that it can be asked every second while samples stream. The wearable writes one
number, `revoked.serial`: that of the newest list of withdrawn records it has seen, so that an older one put in its
place, or none, stops the personal model. The device's own process (`client/issuing.py`, `client/store.py`) makes
the rest.
"""

import json
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from client.bundle import Kind, Manifest, lineage_of, read
from client.envelope import HOSPITAL, SERIAL, is_serial, opened
from shared.errors import BundleError, RevokedError
from shared.files import write_atomically
from shared.revocation import KIND, Revocation, list_path, of_content

PATIENCE_S = 1.0  # how long a change that the device is carrying out is waited for
POLL_S = 0.02
STATE = "state.json"
_DIGEST = re.compile(r"([0-9a-f]{64})?")


@dataclass(frozen=True)
class Device:
    """Where a wearable finds its files.

    Attributes:
        folder: the device's own.
        slot: its number.
        revocations: the hospital's signed list, which need not be there.
    """

    folder: Path
    slot: int
    revocations: Path

    @classmethod
    def of(cls, home: Path, slot: int) -> "Device":
        """Return a device of a workspace.

        Raises:
            BundleError: there is none with this number.
        """
        folder = home / "devices" / str(slot)
        if not folder.is_dir():
            raise BundleError(f"no device {slot} in {home}; `lethe devices list` names those that there are", "missing")
        return cls(folder, slot, list_path(home, slot))


@dataclass(frozen=True)
class Standing:
    """What may run.

    Attributes:
        path: the ONNX file, or the eight-bit one that ships beside it.
        manifest: what is signed of it.
        why: why it is not the device's own, else "".
    """

    path: Path
    manifest: Manifest
    why: str = ""

    @property
    def kind(self) -> Kind:
        """Return whose model it is."""
        return self.manifest.kind


def standing(device: Device, *, today: date | None = None) -> Standing:
    """Return what may run now: signature, use, validity, supersession and revocation are looked at, in this order.

    Raises:
        BundleError: neither bundle can be relied on.
        RevokedError: the device's own is revoked, and it has no general one to fall back to.
    """
    today = today or datetime.now(UTC).date()
    _await_change(device.folder)
    try:
        return _standing(device, today=today)
    except BundleError:  # what was read may be half of a change that has begun since
        _await_change(device.folder)
        return _standing(device, today=today)


def _standing(device: Device, *, today: date) -> Standing:
    state = read_state(device.folder)
    try:
        own = _own(device.folder, state, today=today)
        if own.kind == "personal":
            refuse_revoked(device, state["records"])
        return Standing(device.folder / own.runs.name, own)
    except RevokedError as error:
        return _general(device, state["general"], today=today, why=error)
    except BundleError:
        # Who has withdrawn keeps a wearable that works, whatever has become of the bundle that must not run anyway.
        if (revoked := _why_revoked(device, state["records"])) is None:
            raise
        return _general(device, state["general"], today=today, why=revoked)


def _own(folder: Path, state: Mapping[str, Any], *, today: date) -> Manifest:
    """Return the manifest of the bundle in use.

    Raises:
        BundleError: it cannot be relied on, or is not what the device says is in use, and made of what it says.
    """
    own = read(folder, public=folder, today=today)
    if (own.bundle, own.int8.digest) != (state["bundle"], state["int8"]):
        raise BundleError("the bundle is not the one in use: it was superseded, or put back from a copy", "superseded")
    if own.lineage != lineage_of(state["recipe"], state["records"]):
        raise BundleError(
            f"{folder / STATE} says otherwise than the signed manifest what the bundle was made of; it is not "
            "run, `lethe run` makes it anew",
            "changed",
        )
    return own


def _why_revoked(device: Device, records: list[str]) -> RevokedError | None:
    try:
        refuse_revoked(device, records)
    except RevokedError as error:
        return error
    return None


def refuse_revoked(device: Device, records: list[str]) -> None:
    """See that no record that a model was made of is in the hospital's list.

    A list that is there and cannot be verified might have been shortened, and one that is older than another seen
    before, or gone since, leaves something out: until a newer one comes, nothing of the patient runs.

    Raises:
        RevokedError: one is, or it cannot be told.
    """
    seen = _seen(device.folder)
    try:
        data = device.revocations.read_bytes()
    except FileNotFoundError:
        if seen:
            raise RevokedError("the list of withdrawn records is gone, and this device has seen one") from None
        return
    except OSError as error:
        raise RevokedError(f"the list of withdrawn records cannot be read ({error.strerror})") from None
    try:
        listed = _believed(data, device)
        if listed.serial < seen:
            raise ValueError(f"it is older than one that was here: serial {listed.serial}, expected {seen} or more")
    except (BundleError, OSError, ValueError) as error:
        raise RevokedError(f"the list of withdrawn records cannot be verified ({error})") from None
    if listed.serial > seen:
        with suppress(OSError):  # the next look tries again
            write_atomically(device.folder / SERIAL, f"{listed.serial}\n".encode())
    if not records or not listed.records.isdisjoint(records):  # an older Lethe did not note what it was made of
        raise RevokedError("the patient has withdrawn what it was made of")


def _seen(folder: Path) -> int:
    """Return the serial of the newest list that was here, 0 for none.

    Raises:
        RevokedError: the note of it is damaged, so that an older list might be taken for the newest.
    """
    try:
        note = (folder / SERIAL).read_bytes()
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise RevokedError(
            f"the note of the newest list of withdrawn records cannot be read ({error.strerror})"
        ) from None
    if not is_serial(note):
        raise RevokedError("the note of the newest list of withdrawn records is damaged; the next run puts it right")
    return int(note)


def _believed(data: bytes, device: Device) -> Revocation:
    """Return the list, once the hospital's signature holds and it is this device's."""
    public = (device.folder / HOSPITAL).read_bytes()
    listed = of_content(opened(data, kind=KIND, public=public))
    if listed.device != device.slot:
        raise ValueError(f"it is for device {listed.device}, this is {device.slot}")
    return listed


def _general(device: Device, version: str, *, today: date, why: RevokedError) -> Standing:
    folder = device.folder / "general" / version
    try:
        manifest = read(folder, public=device.folder, today=today)
    except BundleError as error:
        raise RevokedError(f"{why}, and there is no general model to fall back to: {error}") from None
    if (manifest.kind, manifest.model) != ("general", version):
        raise RevokedError(f"{why}, and what is kept to fall back to is not the general model {version[:12]}")
    return Standing(folder / manifest.runs.name, manifest, str(why))


def read_state(folder: Path) -> dict[str, Any]:
    """Return what the device says is in use, of which a wearable looks at digests and at what the model was made of.

    Raises:
        BundleError: nothing is, or it cannot be read.
    """
    try:
        state = json.loads((folder / STATE).read_bytes())
        known: dict[str, Any] = {name: str(state[name]) for name in ("general", "bundle", "recipe")}
        known["records"] = list(state["records"])
        known["int8"] = str(state.get("int8", {}).get("digest", ""))
        if not _DIGEST.fullmatch(known["general"]) or not all(isinstance(one, str) for one in known["records"]):
            raise ValueError("no digest, which names a folder, or an id that is no text")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BundleError(f"no model is in use in {folder}; the next `lethe run` makes one", "missing") from None
    if not known["bundle"]:
        raise BundleError(f"no model is in use in {folder}; the next `lethe run` makes one", "missing")
    return known


def _await_change(folder: Path) -> None:
    """Wait for a change that is being carried out; what a crash left is not waited for longer."""
    until = time.monotonic() + PATIENCE_S
    while (folder / "staged.json").exists() and time.monotonic() < until:
        time.sleep(POLL_S)
