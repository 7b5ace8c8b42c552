"""Is the history whole? The chain itself, what certificates have seen of it, and the tables that follow from it.

A chain alone cannot tell that its end was cut off. But every certificate names the entry that was the last one when it
was signed, and its own issue was entered after that; and consent and jobs are in the registry twice, as they stand and
as they came about.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress

from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import Key

from server import keys
from server.evidence import read, read_payload
from server.ledger import Entry, Finding, Head, head_of
from server.registry import Registry
from server.rows import HOSPITAL, ConsentEvent, Job
from server.workspace import Workspace
from shared.errors import AuditError, DamagedError, DataError


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
        told = [*_contradictions(registry), *_altered_models(registry, entries)]
        findings += [Finding(last, "contradicted", words) for words in told]
    return entries, findings


def refuse_contradicted(registry: Registry) -> None:
    """See that consent and jobs stand as they came about, before anything is made of anybody's records.

    Others may write meanwhile, and each table is read by itself: where the history has grown, it is looked at again.

    Raises:
        AuditError: an entry of the ledger was changed.
        DamagedError: they do not.
    """
    head, told = registry.ledger_head(), next(_contradictions(registry), None)
    while told is not None and head != (head := registry.ledger_head()):
        told = next(_contradictions(registry), None)
    if told is not None:
        raise DamagedError(
            f"the registry contradicts its own history: {told}; nothing was done. `lethe ledger verify` says all "
            "that is wrong; restore the workspace from a backup, and withdraw again what was withdrawn since"
        )


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
    yield from _unknown_people(registry, told)
    yield from _altered_jobs(registry, held)


def _unknown_people(registry: Registry, told: Collection[str]) -> Iterator[str]:
    """Say of whom nothing is in the history although nobody forgot it, and who counts as forgotten and is not.

    Args:
        registry: of which this is.
        told: who is in the history.
    """
    forgotten, jobs = registry.forgotten_pseudonyms(), registry.jobs()
    for patient in registry.patients():
        own = [job for job in jobs if job.patient == patient.id]
        if patient.pseudonym not in forgotten:
            if patient.id not in told:
                yield f"nothing of patient {patient.id} is found in the history: the salt of the name in it was altered"
        elif patient.status != "withdrawn" or any(job.state != "CERTIFIED" for job in own):
            yield f"the name of patient {patient.id} in the history is destroyed, and not all of it is forgotten"
        elif not any(job.scope == "patient" for job in own):
            yield f"patient {patient.id} counts as forgotten, and there is no job about that"


def _altered_models(registry: Registry, entries: Iterable[Entry]) -> Iterator[str]:
    """Say which models are in the table and not in the history; what a device told of itself is its own word."""
    entered = {json.loads(entry.body)["digest"] for entry in entries if entry.kind == "model"}
    for digest in sorted({model.digest for model in registry.models()} - entered):
        yield f"model {digest} is in the table and not in the history"


def _altered_jobs(registry: Registry, held: Mapping[str, set[str]]) -> Iterator[str]:
    """Say where a job is another one than was asked for: its deadline, its records and its device are law.

    A withdrawal and the request of its job are entered one after the other, in one transaction.
    """
    worn = {one.id: HOSPITAL if one.slot is None else one.slot for one in registry.patients()}
    events = registry.events()
    asked: dict[int, Job] = {}
    for job in registry.jobs():
        if not (steps := registry.job_events(job.id)):
            continue  # of a patient who was forgotten since
        first, last = steps[0], steps[-1]
        asked[first.seq] = job
        if last.state != job.state:
            yield f"job {job.id} is {job.state} in the table and {last.state} in the history"
        if first.at != job.requested_at:
            yield f"job {job.id} was asked for at {job.requested_at} in the table and at {first.at} in the history"
        if job.slot != worn.get(job.patient):
            yield f"job {job.id} is of device {job.slot} in the table, and its patient's is {worn.get(job.patient)}"
    for event in events:
        if event.kind != "withdrawn":
            continue
        about = asked.get(event.seq + 1)
        if about is None or about.patient != event.patient:
            yield f"patient {event.patient} has withdrawn by entry {event.seq}, and there is no job about it"
        elif not _is_about(about, event, events, held[event.patient]):
            yield f"job {about.id} names other records in the table than entry {event.seq} of the history"


def _is_about(job: Job, event: ConsentEvent, events: Iterable[ConsentEvent], held: set[str]) -> bool:
    """Return whether a job names what a withdrawal is about: these records, or all that the patient had by then."""
    if job.scope != event.scope or job.scope == "records":
        return job.scope == event.scope and set(job.records) == set(event.records)
    known = {record for one in events if one.patient == job.patient and one.seq <= event.seq for record in one.records}
    return known <= set(job.records) <= held
