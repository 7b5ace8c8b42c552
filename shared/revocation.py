"""What a hospital takes back of a wearable: the signed list of withdrawn records, beside the plain word.

    notices/<slot>               word for a device at work (`shared/notice.py`)
    notices/<slot>.revoked.json  this list, in a DSSE envelope, signed with the hospital's key

A model that was made of a record in the list may not run any more. The hospital writes it when consent is withdrawn
(`server/revocation.py`), the wearable's runtime looks at it while it streams (`client/standing.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.notice import FOLDER

KIND = "application/vnd.lethe.revocation+json"
FORM = 1


@dataclass(frozen=True)
class Revocation:
    """The withdrawn records of one device's patient.

    Attributes:
        device: whose list it is.
        records: ids of what is withdrawn now.
        serial: how often records of this patient were withdrawn or given again; of two lists the newer has the larger.
    """

    device: int
    records: frozenset[str]
    serial: int

    def content(self) -> dict[str, Any]:
        """Return what is signed; no date, which would lead to an entry in the ledger."""
        return {"form": FORM, "device": self.device, "records": sorted(self.records), "serial": self.serial}


def of_content(content: Mapping[str, Any]) -> Revocation:
    """Return the list that was signed.

    Raises:
        ValueError: it is no list of this form.
    """
    records, device = content.get("records"), content.get("device")
    serial = content.get("serial", 0)  # an older Lethe gave none
    if content.get("form") != FORM or not isinstance(device, int) or not isinstance(records, list):
        raise ValueError(f"it is no revocation of form {FORM}")
    if not isinstance(serial, int):
        raise ValueError("its serial is no number")
    return Revocation(device, frozenset(map(str, records)), serial)


def list_path(home: Path, slot: int) -> Path:
    """Return where the list for a device lies in a workspace."""
    return home / FOLDER / f"{slot}.revoked.json"
