"""What a device does when its patient withdraws: measure every method, serve one, erase, acknowledge.

The forgotten segments are needed once more, to measure what is left of them; they are erased in the same step
that puts the unlearned model in use, and nothing about single segments stays in the answer that is kept.
"""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
import torch
from pydantic import TypeAdapter

from client.device import Own, accuracy_or_none, change_to, compare
from client.sensor import Recording
from client.store import Change, State, Store, recipe
from shared.messages import Accuracies, ErasedFile, GroupMargins, MethodOutcome, UnlearnReply, UnlearnRequest
from shared.model import ResNet34, load, model_digest
from shared.package import load_general
from shared.probing import probe
from shared.training import Examples
from shared.unlearning import EXACT, METHODS
from shared.unlearning.case import Case

TURNED_DOWN = "others would lose more than the budget by a copy made of what is kept"


@dataclass(frozen=True)
class Withdrawal:
    """One withdrawal on one device.

    Attributes:
        case: what the unlearning methods are given.
        held_out: the patient's held-out segments by which methods are compared.
        gone: ids of the records that are forgotten.
        kept: the recordings that stay.
    """

    case: Case
    held_out: Examples
    gone: tuple[str, ...]
    kept: tuple[Recording, ...]


def forget(store: Store, request: UnlearnRequest, *, slot: int) -> UnlearnReply:
    """Forget what the request names and answer with what changed; asked again, answer the same."""
    if (earlier := store.answer(request.job)) is not None:
        return TypeAdapter(UnlearnReply).validate_json(earlier)
    state = store.state
    if not state.model:
        return _erase_only(store, request, slot=slot)
    withdrawal = _prepare(store, state, request)
    models = {}
    outcomes = []
    for method in request.methods:
        began = time.perf_counter()
        models[method] = METHODS[method](withdrawal.case)
        outcomes.append(_measure(method, models[method], withdrawal, request, seconds=time.perf_counter() - began))
    return _serve(store, models[request.methods[-1]], outcomes, withdrawal, request, slot=slot)


def _erase_only(store: Store, request: UnlearnRequest, *, slot: int) -> UnlearnReply:
    """Answer for a device that never made a model: there is nothing to unlearn, only to erase."""
    gone = _named(store, request)
    files = store.sizes([f"recordings/{record}.npz" for record in gone])
    count = _count(store, gone)
    erased = tuple(ErasedFile(name, size) for name, size in files.items())
    reply = UnlearnReply(request.job, slot, "ok", segments_erased=count, erased=erased, unlearned_at=_now())
    text = TypeAdapter(UnlearnReply).dump_json(reply).decode()
    store.apply(Change(store.state, erase=gone, answer=(request.job, text)))
    return reply


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _named(store: Store, request: UnlearnRequest) -> tuple[str, ...]:
    """Return the records here that are to go."""
    here = store.record_ids()
    return here if request.scope == "patient" else tuple(record for record in here if record in request.records)


def _prepare(store: Store, state: State, request: UnlearnRequest) -> Withdrawal:
    """Sort the patient's segments into forgotten, retained and held out."""
    gone, recordings, share = _named(store, request), store.recordings(), request.personalisation.held_out
    before = Own.of(recordings, held_out=share)
    forgotten = _from_records(before, gone)
    members = ~before.held & forgotten
    kept = tuple(recording for recording in recordings if recording.id not in gone)
    general, public = load_general(store.general_folder(state.general))
    case = Case(
        general=general,
        personal=load(store.model_path),
        retain=Own.of(kept, held_out=share).training,
        forget=before.all[members if members.any() else forgotten],
        public=public,
        personalisation=request.personalisation,
        unlearning=request.unlearning,
    )
    held_out = before.held_out if request.scope == "patient" else before.all[before.held & ~forgotten]
    return Withdrawal(case, held_out, gone, kept)


def _from_records(own: Own, records: Collection[str]) -> torch.Tensor:
    """Return which segments are from the named records, as booleans."""
    return torch.from_numpy(np.isin(own.owner, np.array(list(records), dtype=np.str_)))


def _measure(
    method: str, unlearned: ResNet34, withdrawal: Withdrawal, request: UnlearnRequest, *, seconds: float
) -> MethodOutcome:
    """Compare general, personal and unlearned model."""
    case = withdrawal.case
    groups = {"forgotten": case.forget, "held_out": withdrawal.held_out, "control": case.public.control}
    before: dict[str, GroupMargins] = {}
    after: dict[str, GroupMargins] = {}
    for name, segments in groups.items():
        models = [case.general, case.personal, unlearned]
        general, personal, later = probe(case.general, models, segments, epsilons_sd=request.epsilons_sd)
        before[name], after[name] = compare(general, personal), compare(general, later)
    return MethodOutcome(
        method=method,
        exact=method in EXACT,
        after=model_digest(unlearned),
        seconds=seconds,
        own=_accuracies(case, unlearned, withdrawal.held_out),
        others=_accuracies(case, unlearned, case.public.control),
        before_groups=before,
        after_groups=after,
    )


def _accuracies(case: Case, unlearned: ResNet34, segments: Examples) -> Accuracies:
    general, personal, later = (accuracy_or_none(m, segments) for m in (case.general, case.personal, unlearned))
    return Accuracies(len(segments), general, personal, later)


def _serve(
    store: Store,
    model: ResNet34,
    outcomes: Sequence[MethodOutcome],
    withdrawal: Withdrawal,
    request: UnlearnRequest,
    *,
    slot: int,
) -> UnlearnReply:
    """Put the unlearned model in use and erase what must go, in one step that survives a crash."""
    before, case = store.state, withdrawal.case
    made_of = recipe(before.general, withdrawal.kept, request.personalisation) if withdrawal.kept else ""
    turned_down = bool(withdrawal.kept) and model_digest(model) == before.general
    state = State(general=before.general, recipe=made_of, reason=TURNED_DOWN if turned_down else "")
    check = torch.cat([case.public.gate.segments, case.retain.segments])
    change = change_to(store, model, state, check=check)
    gone = [f"recordings/{record}.npz" for record in withdrawal.gone]
    replaced = ["model.safetensors", "bundle.onnx"] if change.state.model != before.model else []
    reply = UnlearnReply(
        job=request.job,
        slot=slot,
        status="ok",
        served=request.methods[-1],
        general=before.general,
        before=before.model,
        after=change.state.model,
        bundle=change.state.bundle,
        segments_erased=_count(store, withdrawal.gone),
        erased=tuple(ErasedFile(name, size) for name, size in store.sizes([*gone, *replaced]).items()),
        methods=tuple(outcomes),
        unlearned_at=_now(),
    )
    outline = replace(reply, methods=tuple(replace(each, before_groups={}, after_groups={}) for each in outcomes))
    text = TypeAdapter(UnlearnReply).dump_json(outline).decode()
    store.apply(replace(change, erase=withdrawal.gone, answer=(request.job, text)))
    return reply


def _count(store: Store, records: Collection[str]) -> int:
    """Return how many segments the named recordings hold."""
    return sum(len(recording.segments) for recording in store.recordings() if recording.id in records)
