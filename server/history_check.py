"""Is the history whole? The chain itself, what certificates have seen of it, and the tables that follow from it.

A chain alone cannot tell that its end was cut off. But every certificate names the entry that was the last one when it
was signed, and its own issue was entered after that; and consent and jobs are in the registry twice, as they stand and
as they came about.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress

from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import Key

from server import keys
from server.evidence import read, read_payload
from server.ledger import Entry, Finding, Head, head_of
from server.registry import Registry
from server.workspace import Workspace
from shared.errors import AuditError, DataError


def check(workspace: Workspace, registry: Registry, *, head: Head | None) -> tuple[list[Entry], list[Finding]]:
    """Return the entries of the ledger and everything that is wrong with them.

    Args:
        workspace: whose certificates bear witness.
        registry: of that workspace.
        head: an entry's seq and hash, seen earlier, that must be there.
    """
    entries, findings = registry.verify_ledger(head=head)
    issued = [entry.body for entry in entries if entry.kind == "certificate"]
    held = {entry.seq: entry.hash for entry in entries}
    last, _ = head_of(entries)
    for name, (seq, digest), sha256 in _witnesses(workspace):
        if held.get(seq) != digest:
            words = f"entry {seq} was there, with another hash, when certificate {name} was signed"
            findings.append(Finding(seq, "changed" if seq in held else "truncated", words))
        elif not any(sha256 in body for body in issued):
            words = (
                f"certificate {name} was signed after entry {seq}, and its issue is not entered: the end was cut off, "
                "or a run was killed in between, and the next one issues it anew"
            )
            findings.append(Finding(last, "truncated", words))
    with suppress(AuditError):  # an entry was changed: that is found already, and nothing follows from it
        findings += [Finding(last, "contradicted", words) for words in _contradictions(registry)]
    return entries, findings


def _witnesses(workspace: Workspace) -> Iterator[tuple[str, Head, str]]:
    """Give name, head and sha256 of every certificate that one of the workspace's keys has signed."""
    known: list[Key] = [keys.verifier(one.path.read_bytes()) for one in keys.known(workspace.keys)]
    for path in sorted(workspace.certificates.glob("*.json")):
        data = path.read_bytes()
        with suppress(DataError, VerificationError):  # `lethe certificate list` says what is wrong with it
            envelope = read(data)
            envelope.verify(known, 1)
            told = read_payload(envelope.payload).predicate.ledger
            yield path.name, (told.seq, told.hash), hashlib.sha256(data).hexdigest()


def _contradictions(registry: Registry) -> Iterator[str]:
    """Say where consent or a job stands otherwise than its history; of forgotten patients nobody knows the history."""
    held, stands = defaultdict[str, set[str]](set), defaultdict[str, set[str]](set)
    for row in registry.records(consented_only=False):
        held[row.patient].add(row.id)
        if row.withdrawn:
            stands[row.patient].add(row.id)
    told: dict[str, set[str]] = {}  # what each patient has withdrawn, by the history
    for event in registry.events():
        # Who was forgotten and has come back begins with all withdrawn: of what was before nobody knows.
        before = told.get(event.patient, set() if event.scope == "patient" else held[event.patient])
        said = set(event.records)
        told[event.patient] = before - said if event.kind == "given" else before | said
    for patient, withdrawn in sorted(told.items()):
        if stands[patient] != withdrawn:
            differ = ", ".join(sorted(stands[patient] ^ withdrawn))
            yield f"whether patient {patient} has withdrawn record {differ} is told otherwise by the history"
    for job in registry.jobs():
        steps = registry.job_events(job.id)
        if steps and steps[-1].state != job.state:
            yield f"job {job.id} is {job.state} in the table and {steps[-1].state} in the history"
