"""Revoking a wearable's model: the hospital signs which records it may not be made of any more.

What it means for the device is in `shared/revocation.py`.
"""

import base64
import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from securesystemslib.dsse import Envelope

from server import keys
from shared.files import write_atomically
from shared.revocation import KIND, Revocation, list_path, of_content


@contextmanager
def only_word(home: Path, slot: int) -> Iterator[None]:
    """Be the only one who leaves word for a device: what is left is what the registry said while nobody else did.

    Raises:
        OSError: there is nothing to lock and it cannot be made.
    """
    path = list_path(home, slot).with_suffix(".lock")
    path.parent.mkdir(exist_ok=True)
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def revoke(home: Path, slot: int, records: Iterable[str], *, serial: int, key_folder: Path) -> None:
    """Sign and leave the list of a device's withdrawn records, durable when this returns.

    `serial` never falls from one list of a device to the next: a device takes none that is older than one it has seen.

    Raises:
        OSError: it cannot be written.
        WorkspaceError: there is no key to sign with.
    """
    content = Revocation(slot, frozenset(records), serial).content()
    envelope = Envelope(_canonical(content), KIND, {})
    envelope.sign(keys.signer(key_folder))
    path = list_path(home, slot)
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, _canonical(envelope.to_dict()) + b"\n")
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0).timestamp()
    os.utime(path, (today, today))  # as with the word: the minute would lead to the ledger


def listed(home: Path, slot: int) -> frozenset[str]:
    """Return the records that a device's list names; none where there is no list that can be read."""
    try:
        payload = json.loads(list_path(home, slot).read_bytes())["payload"]
        return of_content(json.loads(base64.b64decode(payload))).records
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return frozenset()


def public_keys(key_folder: Path) -> str:
    """Return the public keys that a device verifies the list with, the current one first, in PEM."""
    return "".join(one.path.read_text() for one in keys.known(key_folder))


def _canonical(content: Mapping[str, Any]) -> bytes:
    """Return the one way to write it: a device believes no file that was rewritten."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
