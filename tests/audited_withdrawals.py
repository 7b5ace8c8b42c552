"""Withdrawals with verdicts as the auditor gives them, from made-up margins: one of each kind the page must tell."""

from datetime import datetime, timedelta
from functools import cache

import numpy as np

from server.auditor import judge_job, look
from shared.audit_messages import AuditReply, Readings

ASKED = datetime.fromisoformat("2026-11-23T15:43:10+00:00")


def at(*, days=0, seconds=0):
    return (ASKED + timedelta(days=days, seconds=seconds)).isoformat()


def readings(rng, copies, segments, mean, sd):
    margins = rng.normal(mean, sd, (copies, segments)) + np.linspace(-1, 1, segments)
    parts = (margins, np.logaddexp(0, -margins), margins - 0.4, margins - 0.05)
    return Readings(*(tuple(tuple(row) for row in part.tolist()) for part in parts))


def answer(seed, *, copies, means, exact, kept=True, segments=10, moved=0.0):
    """Return a device's answer; `means` are those of "never", "nothing" and the method's copies.

    Nothing kept is a whole withdrawal: its copies without the records are the general model, all alike. By `moved` the
    method makes copies surer of what is kept.
    """
    rng = np.random.default_rng(seed)
    names = ("never", "nothing", "exact" if exact else "finetune")
    arms = {}
    for name, mean in zip(names, means, strict=True):
        arms[name] = {
            "forgotten": readings(rng, copies, segments, mean, 1.1 if kept or name == "nothing" else 0.0),
            "control": readings(rng, copies, 20, 1.0, 0.3),
        }
        if kept:
            arms[name]["retained"] = readings(rng, copies, 20, 2.4 + moved * (name == names[2]), 0.3)
    return AuditReply("j", 0, "ok", arms=arms, seconds=9.0)


def checks(digest, *, whole, exact, holds):
    rows = [("withdrawn records", "none", "none" if holds else "812", holds), ("leftover files", "none", "none", True)]
    if exact:
        rows.append(("the general model's bytes" if whole else "the bytes of a fresh copy", digest, digest, True))
    rows = [dict(zip(("name", "expected", "seen", "holds"), row, strict=True)) for row in rows]
    return {"holds": holds, "checks": rows}


@cache
def verdict_of(*, exact=True, whole=False, copies=16, means=(0.4, 1.9, 0.4), holds=True, looks=1, seed=1, moved=0.0):
    """Return the auditor's verdict; `copies` 0 compares none, a second look has four times as many."""
    counts = [copies * 4**look for look in range(looks)] if copies else []
    answers = [
        answer(seed + n, copies=count, means=means, exact=exact, kept=not whole, moved=moved)
        for n, count in enumerate(counts)
    ]
    method = "exact" if exact else "finetune"
    found = [look(one, method, exact=exact, seed=7 + n) for n, one in enumerate(answers)]
    return judge_job(found, checks("", whole=whole, exact=exact, holds=holds), method=method, exact=exact)


def audited(row, **changes):
    """Return a withdrawal with a verdict and, if it passed, a certificate; `changes` go to `verdict_of`."""
    exact = changes.get("exact", True)
    digest = next(m["after"] for m in row["methods"] if m["exact"])
    whole = row["scope"] == "patient"
    found = checks(digest, whole=whole, exact=exact, holds=changes.get("holds", True))
    verdict = verdict_of(whole=whole, **changes) | {"bytes": found}
    passed = verdict["verdict"] == "PASS"
    steps = [*row["steps"], {"state": "AUDITED", "at": at(seconds=131)}]
    steps.append({"state": "CERTIFIED" if passed else "FAILED", "at": at(seconds=132)})
    certificate = {"file": f"{row['job']}.json", "sha256": "5c" * 32} if passed else None
    changed = {"verdict": verdict, "certificate": certificate, "steps": steps, "state": steps[-1]["state"]}
    if not exact:
        after = next(m["after"] for m in row["methods"] if not m["exact"])
        changed |= {"served": "finetune", "after": after, "equals_general": False}
    return row | changed
