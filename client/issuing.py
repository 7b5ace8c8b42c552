"""What a device signs and keeps for its wearable: manifests, the general model's bundle, the hospital's keys.

The wearable itself (`client/runtime.py`) only reads what is written here.
"""

from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from client.bundle import BUNDLE, MANIFEST, About, Manifest, issue, lineage_of, signed
from client.envelope import HOSPITAL, SERIAL, device_key, is_serial
from client.export import Bundle, export
from client.state import State
from client.store import Store
from shared.errors import BundleError
from shared.files import write_atomically
from shared.model import ResNet34, digest
from shared.package import TEMPLATE, Public
from shared.settings import Streaming

CHECKED_SEGMENTS = 16  # on which a device compares the general model's ONNX file with torch
VALID_DAYS = Streaming.valid_days


def manifest_of(store: Store, bundle: Bundle, model: ResNet34, state: State) -> bytes:
    """Return the signed manifest of a bundle that `state` says the lineage of."""
    size = len(bundle.data)
    return _issued(store, _about(bundle.digest, size, model, state))


def _about(bundle: str, size: int, network: ResNet34, state: State) -> About:
    """Return what is said of an ONNX file of `size` bytes; any network of the version knows width and task."""
    made_of = lineage_of(state.recipe, state.records)
    return About(bundle, size, state.model, state.general, network.width, network.task, made_of, state.int8)


def keep_signed(store: Store, general: ResNet34, public: Public, version: str, *, anew: bool) -> None:
    """See that there is a signed bundle of the general model, to fall back to, and a manifest of the one in use.

    What was signed with a key that is gone is signed anew; the models stay.

    Args:
        store: the device.
        general, public: the general model and its segments, on some of which its ONNX file is checked.
        version: its digest.
        anew: whether its package has just come, perhaps with another template.
    """
    folder = store.general_folder(version)
    if anew or _sound(folder, store.folder) is None:
        template = (folder / TEMPLATE).read_bytes()
        bundle = export(general, template, general=version, check=public.gate.segments[:CHECKED_SEGMENTS])
        manifest = manifest_of(store, bundle, general, State(version, version))
        write_atomically(folder / BUNDLE, bundle.data)
        write_atomically(folder / MANIFEST, manifest)
    state = store.state
    if state.general == version and store.whole and _sound(store.folder, store.folder) is None:
        size = store.bundle_path.stat().st_size
        write_atomically(store.folder / MANIFEST, _issued(store, _about(state.bundle, size, general, state)))


def believe(store: Store, hospital: str) -> None:
    """Keep the public keys that revocations are verified with, and the note of the newest list only if it is one.

    The message that brings the keys says which records there is consent for, so that no list is needed just now.
    """
    with suppress(FileNotFoundError):
        if not is_serial((store.folder / SERIAL).read_bytes()):
            (store.folder / SERIAL).unlink()
    path = store.folder / HOSPITAL
    if hospital and (not path.exists() or path.read_text() != hospital):
        write_atomically(path, hospital.encode())


def renew(store: Store) -> None:
    """Sign anew what has used up half of its days: a wearer who has withdrawn keeps a model that runs.

    And what is valid from a day to come: it was signed by a clock that has been put right since.
    """
    for folder in (store.folder, store.general_folder(store.state.general)) if store.state.general else ():
        manifest = _sound(folder, store.folder)
        if manifest is None:
            continue
        left = date.fromisoformat(manifest.valid_until) - _today()
        if left < timedelta(VALID_DAYS / 2) or manifest.issued > _today().isoformat():
            about = About(**{name: getattr(manifest, name) for name in About.__dataclass_fields__})
            write_atomically(folder / MANIFEST, _issued(store, about))


def _sound(folder: Path, public: Path) -> Manifest | None:
    """Return the manifest in `folder`, if the device has signed it and it is that of the file beside it."""
    with suppress(BundleError, OSError):
        manifest = signed(folder, public=public)
        if digest((folder / BUNDLE).read_bytes()) == manifest.bundle:
            return manifest
    return None


def _issued(store: Store, about: About) -> bytes:
    return issue(about, key=device_key(store.folder), today=_today(), valid_days=VALID_DAYS)


def _today() -> date:
    return datetime.now(UTC).date()
