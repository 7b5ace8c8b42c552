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
from server.evidence import moment, read, read_payload
from server.keys import verifier
from server.statement import BUNDLE, MODEL, Score, Statement, Statistics
from shared.errors import UsageError

LOW, HIGH = 0.4, 0.6  # where the 90 % interval of an approximate method's AUC must lie
HOLM = 0.05
SKEW = timedelta(minutes=5)  # by how much the clocks of two machines may differ
EMPTY = hashlib.sha256(b"").hexdigest()  # the served model's digest where none is served


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
    files: Mapping[str, bytes] | None = None,
    ledger: Sequence[chain.Entry] | None = None,
) -> Report:
    """Check a certificate.

    Args:
        data: the file.
        keys: public keys in PEM, each as good as the others.
        now: with its time zone.
        files: bytes of the served model (`statement.MODEL`) and of its bundle (`statement.BUNDLE`), as far as at hand.
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
    told = statement.predicate
    verdict = told.audit.verdict
    return [
        Finding(
            "statement",
            told.key == key,
            "an in-toto statement, unlearning certificate version 1"
            if told.key == key
            else f"the statement names key {told.key[:16]}…, the envelope {key[:16]}…",
        ),
        Finding(
            "verdict", verdict == "PASS", f"the verdict is {verdict}" + ("" if verdict == "PASS" else ", not PASS")
        ),
        _evidence(statement),
        _figures(statement),
        _lineage(statement),
        _dates(statement),
    ]


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
    if asked.kept != (issued <= moment(asked.deadline)):
        wrong.append("whether the deadline was kept contradicts the dates")
    kept = "kept" if asked.kept else "missed"
    good = f"requested {asked.requested_at[:10]}, erased {told.erased.at[:10]}; deadline {asked.deadline[:10]} {kept}"
    return Finding("dates", not wrong, "; ".join(wrong) or good)


def _evidence(statement: Statement) -> Finding:
    """Check that the verdict follows from the evidence, as docs/AUDIT.md defines it."""
    told, audit = statement.predicate, statement.predicate.audit
    wrong = [f"the check of bytes {one.name!r} fails" for one in audit.bytes.checks if not one.holds]
    if not audit.bytes.checks or audit.bytes.holds != (not wrong):
        wrong.append("the checks of bytes are missing or contradict each other")
    if audit.after is not None and audit.after.method != told.method.name:
        wrong.append(f"the statistics are of {audit.after.method!r}, the method is {told.method.name!r}")
    wrong += _of_exact(statement) if told.method.exact else _of_approximate(audit.after)
    good = "every check of bytes holds, and the statistics do not contradict"
    return Finding("evidence", not wrong, "; ".join(wrong) or good)


def _of_exact(statement: Statement) -> list[str]:
    told, wrong = statement.predicate, []
    if told.audit.after is not None and told.audit.after.verdict == "FAIL":
        wrong.append("the statistics say FAIL")
    if told.request.scope == "patient" and told.lineage.after not in ("", told.lineage.general):
        wrong.append("after a full withdrawal the model in use is not the general one")
    return wrong


def _of_approximate(after: Statistics | None) -> list[str]:
    primary = [one for one in after.scores if one.primary] if after else []
    if after is None or len(primary) != 1:
        return ["an approximate method without statistics and one primary score"]
    (score,) = primary
    wrong = [] if after.verdict == "PASS" else [f"the statistics say {after.verdict}"]
    if not LOW <= score.low90 <= score.high90 <= HIGH:
        wrong.append(f"the 90 % interval {score.low90:.3f} to {score.high90:.3f} is not within {LOW} to {HIGH}")
    if score.epsilon > 0:
        wrong.append(f"the lower bound on epsilon is {score.epsilon:.3g}, expected 0")
    if not score.low95 <= 0.5 <= score.high95:
        wrong.append("the 95 % interval excludes .5")
    wrong += [f"score {one.name} rejects" for one in after.scores if not one.primary and one.p_holm < HOLM]
    return wrong


def _figures(statement: Statement) -> Finding:
    audit = statement.predicate.audit
    made = [one for one in (audit.before, audit.after, audit.retained) if one is not None]
    wrong = [f"{one.method}: {score.name}" for one in made for score in one.scores if not _in_order(score)]
    wrong += [f"{one.method}: {sum(s.primary for s in one.scores)} primary scores" for one in made if _unfit(one)]
    if made and not audit.seeds:
        wrong.append("statistics without a seed")
    if wrong:
        return Finding("figures", False, f"figures contradict each other ({'; '.join(wrong)})")
    if audit.after is None:
        return Finding("figures", True, "no statistics were made; the verdict rests on bytes alone")
    power = f"{audit.after.n} copies an arm tell an AUC of {audit.after.detectable:.2f} from .5 with 80 % power"
    return Finding("figures", True, f"consistent; {power}")


def _unfit(one: Statistics) -> bool:
    return bool(one.scores) and (sum(score.primary for score in one.scores) != 1 or one.n == 0)


def _in_order(score: Score) -> bool:
    rates = [(rate.low, rate.value, rate.high) for rate in (score.tpr_at_1, score.tpr_at_5) if rate is not None]
    runs = [(score.low95, score.low90, score.auc, score.high90, score.high95), (score.p, score.p_holm), *rates]
    return all(list(run) == sorted(run) for run in runs)


def _lineage(statement: Statement) -> Finding:
    told = statement.predicate.lineage
    holds = statement.digest(MODEL) == (told.after or EMPTY) and bool(statement.digest(BUNDLE))
    after = f"{told.after[:16]}… (was {told.before[:16] or 'none'}…)" if told.after else "none is served"
    words = f"the model in use is {after}" if holds else "the subject is not the model that the lineage ends with"
    return Finding("lineage", holds, words)


def _file(statement: Statement, name: str, data: bytes | None) -> Finding:
    if data is None:
        return Finding(name, None, "not given, not checked")
    seen, expected = hashlib.sha256(data).hexdigest(), statement.digest(name)
    holds = seen == expected
    rest = "as certified" if holds else f"and certified is {expected[:16]}…"
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
