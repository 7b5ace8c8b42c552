"""Takes forgotten patients' names out of what runs have told: nothing here leads from a patient to the ledger then.

A certificate's digests, times and figures stand in a run's result and on its page. So that they are nobody's once
everything of a patient is certified as forgotten, the result no longer says whose device it was, which job, or which
records. Who is handed the certificate learns it from the run that issued it, on the terminal, and nowhere after that.
"""

import json
import random
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from server.pictures import PAGE
from server.registry import Registry
from shared.files import write_atomically

RESULT = "result.json"
NOBODY = "forgotten"


def unname(reports: Path, registry: Registry) -> list[Path]:
    """Rewrite the results that name a forgotten patient, and remove their pages.

    Returns:
        The folders of the reports whose page has to be built again.
    """
    slots, people, changed = registry.forgotten(), registry.forgotten_pseudonyms(), []
    for path in sorted(reports.glob(f"*/{RESULT}")) if people else []:
        with suppress(ValueError):  # no result: it cannot be read, and `lethe report` says so
            result = json.loads(path.read_text())
            if without_names(result, slots) | without_public_names(result, people):
                (path.parent / PAGE).unlink(missing_ok=True)
                write_atomically(path, json.dumps(result, indent=2).encode())
                changed.append(path.parent)
    return changed


def without_names(result: Any, slots: Collection[int]) -> bool:
    """Take the names of these devices' patients out of a result, in place; return whether there were any."""
    parts = (
        [result.get(part, []) for part in ("personal", "withdrawals", "silent", "refused")]
        if isinstance(result, dict)
        else []
    )
    rows = [row for part in parts for row in part if row.get("slot") in slots]
    taken = sum(str(row.get("pseudonym", "")).startswith(NOBODY) for part in parts for row in part)
    numbers = {slot: number for number, slot in enumerate(_drawn({row["slot"] for row in rows}), start=1)}
    for row in rows:
        row["pseudonym"] = f"{NOBODY} {taken + numbers[row['slot']]}"
        row["slot"] = None
        if "state" in row:
            files = [name if name.count("/") == 0 else f"{name.split('/')[0]}/…" for name in row["erased"]["files"]]
            row |= {"job": "", "named": [], "reason": "", "erased": row["erased"] | {"files": files}}
        else:
            quoted = ("reason",) if "asked" in row else ()  # it may quote a name that the device gave
            row |= {name: "" for name in ("personal", "bundle", *quoted) if name in row}
    for part in parts if rows else []:  # where a row stood among those by slot would say whose it was
        part.sort(key=lambda row: (row["slot"] is None, row["pseudonym"] if row["slot"] is None else ""))
    return bool(rows)


def _drawn(slots: Collection[int]) -> list[int]:
    """Return slots in an order that nobody can guess."""
    return random.SystemRandom().sample(sorted(slots), len(slots))


def without_public_names(result: Any, pseudonyms: Collection[str]) -> bool:
    """Take the names of these corpus and control patients out of a result, in place; return whether there were any."""
    rows = result.get("public_withdrawals", []) if isinstance(result, dict) else []
    named = [row for row in rows if row["pseudonym"] in pseudonyms]
    for row in named:
        row |= {"pseudonym": f"a {NOBODY} patient", "job": ""}
    return bool(named)
