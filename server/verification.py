"""Verifying a certificate: offline, with a public key and nothing else; every check is told in words.

What a signature cannot say (whether the device told the truth, whether copies are elsewhere) is in docs/CERTIFICATE.md.
This file opens nothing and imports neither torch nor a database.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import Key

from server import ledger as chain
from server.demands import checks_of, strange
from server.evidence import moment, read, read_payload
from server.keys import verifier
from server.recount import contradictions
from server.rule import of_job
from server.statement import BUNDLE, EMPTY, MODEL, Statement
from server.verdicts import GENERAL
from shared.errors import UsageError

SKEW = timedelta(minutes=5)  # by how much the clocks of two machines may differ


@dataclass(frozen=True)
class Finding:
    """One check; `holds` is None where it was not made."""

    check: str
    holds: bool | None
    words: str


@dataclass(frozen=True)
class Report:
    """What verifying a certificate found; the certificate's content is there only when its signature is good."""

    findings: tuple[Finding, ...]
    certificate: Statement | None

    @property
    def accepted(self) -> bool:
        """Say whether everything that was checked holds."""
        return self.certificate is not None and all(finding.holds is not False for finding in self.findings)

    @property
    def sentence(self) -> str:
        """Return the outcome in one sentence."""
        if self.certificate is not None and self.accepted:
            kind = "exact" if self.certificate.predicate.method.exact else "approximate"
            until = self.certificate.predicate.valid_until[:10]
            return f"Accepted: signed, whole and consistent; it certifies {kind} unlearning and is valid until {until}."
        failed = [one for one in self.findings if one.holds is False]
        return f"Not to be relied on: {'; '.join(f'{one.check}: {one.words}' for one in failed)}."


def verify(
    data: bytes,
    keys: Sequence[bytes],
    *,
    now: datetime,
    files: Mapping[str, str] | None = None,
    ledger: Sequence[chain.Entry] | None = None,
) -> Report:
    """Check a certificate.

    Args:
        data: the file.
        keys: public keys in PEM, each as good as the others.
        now: with its time zone.
        files: sha256 of the served model's file (`statement.MODEL`) and of its bundle's (`statement.BUNDLE`), as far
            as at hand.
        ledger: the hospital's ledger, if at hand.

    Raises:
        DataError: the file is no certificate, or a key is no public key.
        UsageError: no key was given.
    """
    if not keys:
        raise UsageError("no public key to verify with; give the hospital's signing.pub.pem with --key")
    envelope = read(data)
    form = Finding("form", True, "a DSSE envelope with one signature, byte for byte as it was issued")
    signed = _signature(envelope, keys)
    if not signed.holds:
        return Report((form, signed), None)
    statement = read_payload(envelope.payload)
    (key,) = envelope.signatures
    findings = [form, signed, *content(statement, key=key), _validity(statement, now)]
    findings += [_file(statement, name, (files or {}).get(name)) for name in (BUNDLE, MODEL)]
    return Report((*findings, _ledger(statement, data, ledger)), statement)


def content(statement: Statement, *, key: str) -> list[Finding]:
    """Check what a certificate says against itself; issuing asks the same before it signs."""
    verdict = statement.predicate.audit.verdict
    return [
        _statement(statement, key=key),
        Finding(
            "verdict", verdict == "PASS", f"the verdict is {verdict}" + ("" if verdict == "PASS" else ", not PASS")
        ),
        _evidence(statement),
        _figures(statement),
        _lineage(statement),
        _dates(statement),
    ]


def _statement(statement: Statement, *, key: str) -> Finding:
    told, names = statement.predicate.key, [one.name for one in statement.subject]
    if told != key:
        return Finding("statement", False, f"the statement names key {told[:16]}…, the envelope {key[:16]}…")
    if names != [BUNDLE, MODEL]:
        return Finding("statement", False, f"its subject is {' and '.join(names)}, expected {BUNDLE} and {MODEL}")
    return Finding("statement", True, "an in-toto statement, unlearning certificate version 1")


def _signature(envelope: Envelope, keys: Sequence[bytes]) -> Finding:
    known: list[Key] = [verifier(key) for key in keys]
    (named,) = envelope.signatures
    if named not in {key.keyid for key in known}:
        given = ", ".join(f"{key.keyid[:16]}…" for key in known)
        return Finding("signature", False, f"the file names key {named[:16]}…, and the public key given is {given}")
    try:
        envelope.verify(known, 1)
    except VerificationError:
        return Finding("signature", False, f"the signature is not one of key {named[:16]}… over this content")
    return Finding("signature", True, f"Ed25519, by key {named[:16]}…")


def _validity(statement: Statement, now: datetime) -> Finding:
    told = statement.predicate
    if now + SKEW < moment(told.issued_at):
        words = f"issued at {told.issued_at}, and it is {now.isoformat(timespec='seconds')} here: one clock is wrong"
        return Finding("validity", False, words)
    if now >= moment(told.valid_until):
        return Finding("validity", False, f"it expired on {told.valid_until[:10]}")
    return Finding("validity", True, f"issued {told.issued_at[:10]}, valid until {told.valid_until[:10]}")


def _dates(statement: Statement) -> Finding:
    """Check that things happened in the order in which they can."""
    told, asked = statement.predicate, statement.predicate.request
    wrong = []
    erased, issued = moment(told.erased.at), moment(told.issued_at)  # one is the device's clock, the other the server's
    if not moment(asked.requested_at) - SKEW <= erased <= issued + SKEW:
        wrong.append("erased before it was requested, or after it was certified")
    if not moment(asked.requested_at) <= issued < moment(told.valid_until):
        wrong.append("requested, issued and valid until are not in this order")
    if moment(asked.deadline) < moment(asked.requested_at):
        wrong.append("the deadline is before the request")
    if asked.kept != (issued <= moment(asked.deadline)):
        wrong.append("whether the deadline was kept contradicts the dates")
    kept = "kept" if asked.kept else "missed"
    good = f"requested {asked.requested_at[:10]}, erased {told.erased.at[:10]}; deadline {asked.deadline[:10]} {kept}"
    return Finding("dates", not wrong, "; ".join(wrong) or good)


def _evidence(statement: Statement) -> Finding:
    """Check that the bytes that had to be compared were, and that the verdict follows, as docs/AUDIT.md defines it."""
    told, audit = statement.predicate, statement.predicate.audit
    checks = {check.name: check for check in audit.bytes.checks}
    wrong = [
        f"the check of {one.name!r} fails" for one in audit.bytes.checks if not one.holds or one.expected != one.seen
    ]
    expected = checks_of(statement)
    wrong += strange(statement)
    wrong += [f"there is no check of {name!r}" for name in expected if name not in checks]
    wrong += [f"nobody checks {name!r} of such a withdrawal" for name in checks if name not in expected]
    wrong += [f"{name!r} is checked twice" for name in checks if [c.name for c in audit.bytes.checks].count(name) > 1]
    wrong += [
        f"the check of {name!r} expected {checks[name].expected}, and it should be {value}"
        for name, value in expected.items()
        if name in checks and checks[name].expected != value
    ]
    if GENERAL in expected and told.lineage.after != told.lineage.general:
        wrong.append("the model in use is not the general one")
    if audit.bytes.holds != all(check.holds for check in audit.bytes.checks):
        wrong.append("the checks of bytes contradict their sum")
    looks = [*audit.earlier, *([audit.after] if audit.after is not None else [])]
    outcomes = [one.verdict for one in looks]
    kept = audit.retained.verdict if audit.retained is not None else None
    verdict = of_job(outcomes, kept, holds=audit.bytes.holds, answered=True, exact=told.method.exact)
    if verdict != audit.verdict:
        wrong.append(f"the evidence comes to {verdict}, and the verdict is {audit.verdict}")
    good = "every check of bytes holds, and the statistics do not contradict"
    return Finding("evidence", not wrong, "; ".join(wrong) or good)


def _figures(statement: Statement) -> Finding:
    """Check that interval, p-value, power, verdict and words are those that the AUCs and counts come to."""
    told, audit = statement.predicate, statement.predicate.audit
    wrong = contradictions(audit, method=told.method.name, exact=told.method.exact)
    if wrong:
        return Finding("figures", False, f"figures contradict each other ({'; '.join(wrong)})")
    if audit.after is None:
        return Finding("figures", True, "no statistics were made; the verdict rests on bytes alone")
    power = f"{audit.after.n} copies an arm tell an AUC of {audit.after.detectable:.2f} from .5 with 80 % power"
    return Finding("figures", True, f"each follows from its AUC and counts; {power}")


def _lineage(statement: Statement) -> Finding:
    told = statement.predicate.lineage
    holds = statement.digest(MODEL) == (told.after or EMPTY) and bool(statement.digest(BUNDLE))
    after = f"{told.after[:16]}… (was {told.before[:16] or 'none'}…)" if told.after else "none is served"
    words = f"the model in use is {after}" if holds else "the subject is not the model that the lineage ends with"
    return Finding("lineage", holds, words)


def _file(statement: Statement, name: str, seen: str | None) -> Finding:
    if seen is None:
        return Finding(name, None, "not given, not checked")
    expected = statement.digest(name)
    holds = seen == expected
    rest = "as certified" if holds else f"certified is {expected[:16]}…; since then a run may have made another"
    words = f"the file given has sha256 {seen[:16]}…, {rest}"
    return Finding(name, holds, words)


def _ledger(statement: Statement, data: bytes, entries: Sequence[chain.Entry] | None) -> Finding:
    """Check the chain up to the certificate's head and after it, and that the issue of this very file is entered."""
    head = (statement.predicate.ledger.seq, statement.predicate.ledger.hash)
    if entries is None:
        return Finding("ledger", None, f"not given, not checked; its head was {head[0]}:{head[1][:16]}…")
    broken = chain.verify(entries, head=head)
    issued = hashlib.sha256(data).hexdigest()
    if not broken and not any(entry.kind == "certificate" and issued in entry.body for entry in entries):
        return Finding("ledger", False, "whole, but it knows of no certificate with the sha256 of this file")
    more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
    words = (
        f"the ledger is broken: {broken[0].words}{more}"
        if broken
        else f"whole, entry {head[0]} is as certified, and the certificate is entered"
    )
    return Finding("ledger", not broken, words)
