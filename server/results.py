"""Puts what a run found into `result.json` and `figures.npz`, which the report and the summary are made from.

Only aggregates of a patient's segments are stored; the waveforms in `figures.npz` are public control segments.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from server.corpus import Corpus, record_of
from server.deadlines import deadline_of
from server.enrolment import FACT
from server.general import Trained
from server.paper_probe import difference, summarise
from server.pictures import FIGURES, packed
from server.registry import Registry
from server.rows import Job, Patient, Role, is_final
from server.run import Refusal, Withdrawal
from server.workspace import Workspace
from shared.attacks import fgsm_direction, perturb
from shared.files import write_atomically
from shared.messages import GroupMargins, MethodOutcome, PersonaliseReply, ProbeReply, UnlearnReply
from shared.model import ResNet34
from shared.ptbxl import for_task, index
from shared.settings import Settings, numbers
from shared.training import Examples, apply

EXAMPLE_EPSILON_SD = 0.1  # strength of the attack in the picture of a waveform, if the probe has none nearer


def describe_data(
    workspace: Workspace, registry: Registry, corpus: Corpus, personal: Iterable[PersonaliseReply], settings: Settings
) -> dict[str, Any]:
    """Return what the data are and what was left out of them, with counts; also what was not even enrolled."""
    found = index(workspace.data)
    usable, other = for_task(found.records, settings.general.task)
    left_out = Counter(one.reason for one in (*found.left_out, *other, *corpus.signals.left_out))
    left_out.update((registry.recall(FACT) or {}).get("left_out", {}))
    for reply in personal:
        left_out.update(reply.left_out or {})
    return {
        "folder_name": workspace.data.name,
        "unit": corpus.signals.unit,
        "patients": len({record.patient for record in usable}),
        "records": len(usable),
        "left_out": dict(left_out),
    }


def describe_split(registry: Registry) -> dict[str, Any]:
    """Return each role's patients and records that consent now allows, and how many records have been withdrawn."""
    parts: dict[str, Role] = {"corpus": "corpus", "wearables": "wearable", "controls": "control"}
    found = {}
    for name, role in parts.items():
        rows = registry.records(role=role)
        found[name] = {
            "patients": len({row.patient for row in rows}),
            "records": len(rows),
            "withdrawn": registry.withdrawn([role]),
        }
    return found


def describe_general(registry: Registry, trained: Trained) -> dict[str, Any]:
    """Return what is told of the general model, and how many of its records have been withdrawn since it was made."""
    since = {role: max(0, registry.withdrawn([role]) - before) for role, before in trained.withdrawn.items()}
    about = {"reused": trained.reused, "data": trained.data, "withdrawn": trained.withdrawn, "withdrawn_since": since}
    return {**trained.record, **about}


_TOLD = (
    *("slot", "records", "train_segments", "held_out_segments", "split", "accepted", "reason", "personal", "bundle"),
    *("own_general", "own_personal", "others_general", "others_personal", "parity", "seconds"),
    *("int8", "int8_reason"),
)


def describe_personal(
    replies: Mapping[int, PersonaliseReply], pseudonyms: Mapping[int, str], general: str
) -> list[dict[str, Any]]:
    """Return one row a device that made a personal model."""
    return [
        {**{name: getattr(reply, name) for name in _TOLD}, "pseudonym": pseudonyms[slot], "general": general}
        for slot, reply in sorted(replies.items())
        if reply.status == "ok"
    ]


def describe_probe(replies: Mapping[int, ProbeReply], settings: Settings) -> dict[str, Any]:
    """Return the paper's probe for members, held-out segments and never-used control patients."""
    epsilons = numbers(settings.probe.epsilons_sd)
    answered = [reply for _, reply in sorted(replies.items()) if reply.status == "ok"]

    def group(parts: Iterable[GroupMargins | None]) -> dict[str, Any]:
        return dict(summarise([part for part in parts if part is not None], epsilons, seed=settings.cohort.seed))

    return {
        "epsilons_sd": list(epsilons),
        "groups": {
            "member": group(reply.member for reply in answered),
            "held_out": group(reply.held_out for reply in answered),
            "control": group(reply.control for reply in answered),
        },
    }


def describe_withdrawal(one: Withdrawal, pseudonym: str, settings: Settings) -> dict[str, Any]:
    """Return what became of one withdrawal."""
    job, reply = one.job, one.reply
    return {
        "job": job.id,
        "pseudonym": pseudonym,
        "slot": job.slot,
        "scope": job.scope,
        "records": len(job.records),
        "named": list(job.records),
        "requested_at": job.requested_at,
        "deadline": deadline_of(job, settings.audit.deadline_days).isoformat(),
        "state": job.state,
        "unlearned_at": reply.unlearned_at or None,
        "served": reply.served,
        "reason": str(job.detail.get("reason", "")) if job.state == "FAILED" else one.note or reply.reason,
        "general": reply.general,
        "before": reply.before,
        "after": reply.after,
        "methods": [_describe_method(outcome) for outcome in reply.methods],
        "equals_general": bool(reply.general) and reply.after == reply.general,
        "erased": {
            "segments": reply.segments_erased,
            "bytes": sum(file.bytes for file in reply.erased),
            "files": [file.name for file in reply.erased],
        },
        "steps": [{"state": state, "at": at} for state, at in one.steps],
        "verdict": one.verdict,
        "certificate": one.certificate,
        "final": is_final(job),
    }


def describe_due(job: Job, pseudonym: str, settings: Settings) -> dict[str, Any]:
    """Return a withdrawal that the device has not acknowledged in this run; a later one takes it up."""
    nothing = UnlearnReply(job.id, job.slot, "refused", "the device has not answered yet")
    return describe_withdrawal(Withdrawal(job, nothing), pseudonym, settings)


def describe_silent(
    wearables: Iterable[Patient], replies: Mapping[int, PersonaliseReply], *, began: datetime
) -> list[dict[str, Any]]:
    """Return the devices of consenting patients that made no personal model, and why; the run began at `began`."""
    rows = []
    for patient in wearables:
        reply = replies.get(-1 if patient.slot is None else patient.slot)
        if patient.status != "withdrawn" and (reply is None or reply.status != "ok"):
            late = datetime.fromisoformat(patient.enrolled_at) >= began
            missing = "enrolled after the run began; the next one asks the device" if late else "no answer"
            reason = missing if reply is None else reply.reason
            rows.append({"slot": patient.slot, "pseudonym": patient.pseudonym, "reason": reason})
    return rows


def describe_refused(refusals: Iterable[Refusal], pseudonyms: Mapping[int, str]) -> list[dict[str, Any]]:
    """Return the answers that were not used, and why, the same once."""
    rows = [
        (one.slot, "a device" if one.slot is None else pseudonyms.get(one.slot, "a device"), one.asked, one.reason)
        for one in dict.fromkeys(refusals)
    ]
    return [dict(zip(("slot", "pseudonym", "asked", "reason"), row, strict=True)) for row in rows]


def figures(model: ResNet34, control: Examples, corpus: Corpus, settings: Settings) -> dict[str, npt.NDArray[Any]]:
    """Attack the general model on public control segments, for the pictures of waveforms and predictions."""
    epsilons = numbers(settings.probe.epsilons_sd)
    if len(control) == 0:
        return {}
    direction = fgsm_direction(model, control)
    attacked = [perturb(control.segments, direction, epsilon_sd=e, lead_sd=model.lead_sd) for e in epsilons]
    predictions = np.array([apply(model, segments).argmax(dim=1).numpy() for segments in attacked])
    labels = control.labels.argmax(dim=1).numpy()
    strength = int(np.abs(np.array(epsilons) - EXAMPLE_EPSILON_SD).argmin())
    clean = apply(model, control.segments).argmax(dim=1).numpy()
    turned = (clean == labels) & (predictions[strength] != labels)
    shown = int(turned.argmax())  # the first segment that the attack turns, else the first
    segment = control.segments[shown].numpy()
    record = record_of(corpus, segment)
    if not record:  # the patient has withdrawn while the run went on
        return {}
    return {
        "record": np.array(record),
        "clean": segment,
        "adversarial": attacked[strength][shown].numpy(),
        "epsilon_sd": np.array(epsilons[strength]),
        "lead_sd": model.lead_sd.numpy(),
        "label": labels[shown],
        "clean_prediction": clean[shown],
        "adversarial_prediction": predictions[strength][shown],
        "labels": labels,
        "predictions": predictions,
    }


def save(folder: Path, result: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write both files into the report's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / FIGURES, packed(arrays.items()))
    write_atomically(folder / "result.json", json.dumps(result, indent=2).encode())


def _describe_method(outcome: MethodOutcome) -> dict[str, Any]:
    def change(name: str) -> dict[str, Any]:
        before, after = outcome.before_groups.get(name), outcome.after_groups.get(name)
        if before is None or after is None:
            return {"segments": 0, "before": [], "after": []}
        return {"segments": len(before.general_hits[0]), "before": difference(before), "after": difference(after)}

    return {
        "method": outcome.method,
        "exact": outcome.exact,
        "after": outcome.after,
        "seconds": outcome.seconds,
        "own": vars(outcome.own),
        "others": vars(outcome.others),
        "difference": {name: change(name) for name in ("forgotten", "held_out", "control")},
    }
