"""What a device does when its patient withdraws: measure every method, serve one, erase, acknowledge.

The forgotten segments are needed once more, to measure what is left of them; they are erased in the same step
that puts the unlearned model in use, and nothing about single segments stays in the answer that is kept. Erasing
depends on nothing: where a model, a package or a method fails, or the disk is full, the general model takes the
personal one's place, or no model does, and the answer says what could not be measured.
"""

import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
import torch
from pydantic import TypeAdapter

from client.bundle import BUNDLE, INT8, MANIFEST
from client.device import Own, accuracy_or_none, change_to, compare, open_general, recipe
from client.scope import kept, named, up_to_date
from client.sensor import Recording
from client.state import Change, State
from client.store import Store
from shared.audit_messages import AuditRequest
from shared.errors import DataError, LetheError, plainly
from shared.messages import Accuracies, ErasedFile, GroupMargins, MethodOutcome, UnlearnReply, UnlearnRequest
from shared.model import ResNet34, load, model_digest
from shared.notice import WithdrawnError
from shared.package import MODEL
from shared.personalisation import Frozen
from shared.probing import probe
from shared.training import Examples
from shared.unlearning import EXACT, METHODS
from shared.unlearning.case import Case

REMADE = "the general model is being remade"
TURNED_DOWN = "others would lose more than the budget by a copy made of what is kept"
_REPLY = TypeAdapter(UnlearnReply)


@dataclass(frozen=True)
class Withdrawal:
    """One withdrawal on one device.

    Attributes:
        case: what the unlearning methods are given.
        held_out: the patient's segments by which methods are compared: neither the personal nor the unlearned
            model was made of them.
        kept: the recordings that stay.
        learnt: the segments that the personal model was made of.
        learnt_from: whether some of them are to be forgotten.
    """

    case: Case
    held_out: Examples
    kept: tuple[Recording, ...]
    learnt: Examples
    learnt_from: bool


@dataclass(frozen=True)
class Effect:
    """What becomes of the model in use, and what is told of it.

    Attributes:
        change: what takes the model's place.
        served: the method that made it, "" for none.
        methods: what was measured.
        reason: why nothing was, or a method made no model; else "".
    """

    change: Change
    served: str = ""
    methods: tuple[MethodOutcome, ...] = ()
    reason: str = ""


def forget(store: Store, request: UnlearnRequest, *, slot: int) -> UnlearnReply:
    """Forget what the request names and answer with what changed; asked again, answer the same.

    Where a method that is not exact was served and an exact one is asked for now, that takes its place. What the
    patient withdraws meanwhile is no more learnt from than what the request bars: then it begins anew.
    """
    first = earlier(store, request.job)
    climbs = first is not None and first.served not in {"", *EXACT} and request.serve in EXACT
    if first is not None and not climbs:
        return first
    while True:
        with suppress(WithdrawnError):
            return _forget(store, up_to_date(store, request), first, slot=slot)


def _forget(store: Store, request: UnlearnRequest, first: UnlearnReply | None, *, slot: int) -> UnlearnReply:
    gone, used = named(store, request), kept(store, request)
    with store.notice.heeded(used):
        effect = _effect(store, request, gone)
    try:
        with store.notice.closed(used):
            return _carry_out(store, effect, request, gone, slot=slot, look=lambda: store.notice.refuse(used))
    except OSError as error:  # beside the model in use there is no room for another; erasing needs next to none
        store = Store(store.folder, store.notice)  # if the change was decided all the same, this carries it out
        if (decided := earlier(store, request.job)) not in (None, first):
            return decided
        none = Effect(Change(State()), reason=f"no model is served: {plainly(error, inside=store.folder)}")
        return _carry_out(store, none, request, gone, slot=slot)


def earlier(store: Store, job: str) -> UnlearnReply | None:
    """Return what was answered to the job, if that can be read; forgetting once more does no harm."""
    try:
        text = store.answer(job)
        return None if text is None else _REPLY.validate_json(text)
    except ValueError:
        return None


def _effect(store: Store, request: UnlearnRequest, gone: Collection[str]) -> Effect:
    """Unlearn, or find what takes the model's place without training."""
    if not store.state.model and not store.model_path.exists():  # it never made one: there is only data to erase
        return Effect(Change(store.state), reason="" if request.retrain else REMADE)
    if not request.retrain:
        return Effect(_without_training(store, request), reason=REMADE)
    try:
        return _unlearn(store, request, gone)
    except WithdrawnError:
        raise
    except Exception as error:  # whatever it is, the data must go
        return Effect(_without_training(store, request), reason=f"nothing could be measured: {_seen(error)}")


def _seen(error: Exception) -> str:
    return str(error) if isinstance(error, LetheError) else f"{type(error).__name__}: {error}"


def _without_training(store: Store, request: UnlearnRequest) -> Change:
    """Serve a general model whose package is sound, or nothing; either way the next copy is made anew."""
    for package in store.packages():
        try:
            general, public = open_general(store, package.digest)
            state, check = State(general=package.digest), public.gate.segments
            return change_to(store, general, state, public, check=check, int8=request.personalisation.int8)
        except Exception:  # the package is not sound after all
            continue
    return Change(State())


def _unlearn(store: Store, request: UnlearnRequest, gone: Collection[str]) -> Effect:
    """Measure every method on the model in use and serve the one that is named.

    Where that one makes no model, its error is raised; of another one it is the reason that is told.
    """
    withdrawal = prepare(store, request, gone)
    models: dict[str, ResNet34] = {}
    outcomes, failed = [], []
    for method in request.methods:
        began = time.perf_counter()
        try:
            models[method] = METHODS[method](withdrawal.case)
        except WithdrawnError:
            raise
        except Exception as error:  # whatever it is, the one that is to be served need not suffer from it
            if method == request.serve:
                raise
            failed.append(f"{method} made no model: {_seen(error)}")
            continue
        outcomes.append(_measure(method, models[method], withdrawal, request, seconds=time.perf_counter() - began))
    change = _serve(store, models[request.serve], withdrawal, request)
    return Effect(change, served=request.serve, methods=tuple(outcomes), reason="; ".join(failed))


def prepare(store: Store, request: UnlearnRequest | AuditRequest, gone: Collection[str]) -> Withdrawal:
    """Sort the patient's segments into forgotten, retained and held out.

    Raises:
        DataError: the model in use or the general model is damaged.
    """
    if store.digests().get(MODEL) != store.state.model:
        raise DataError(f"{store.model_path} is missing or damaged, or it is not known which model it is")
    recordings, share = store.recordings(), request.personalisation.held_out
    before = Own.of(recordings, held_out=share)
    forgotten, barred = _from_records(before, gone), _from_records(before, set(request.barred) - set(gone))
    members = ~before.held & forgotten
    kept = tuple(recording for recording in recordings if recording.id not in {*gone, *request.barred})
    after = Own.of(kept, held_out=share)
    general, public = open_general(store, store.state.general)
    case = Case(
        general=general,
        personal=load(store.model_path),
        retain=after.training,
        forget=before.all[members if members.any() else forgotten],
        public=public,
        personalisation=request.personalisation,
        unlearning=request.unlearning,
        frozen=Frozen(general, public, request.personalisation),
    )
    never_seen = before.held.clone()
    never_seen &= ~barred
    never_seen[~forgotten & ~barred] &= after.held  # fewer records are split anew
    if request.scope == "records":
        never_seen &= ~forgotten
    return Withdrawal(case, before.all[never_seen], kept, before.all[~before.held & ~barred], bool(members.any()))


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


def _serve(store: Store, model: ResNet34, withdrawal: Withdrawal, request: UnlearnRequest) -> Change:
    """Return the change that puts the unlearned model in use.

    A model of a method that is not exact may still hold what is forgotten, so its recipe names the method. It
    stays in use until the general model, the records or the settings change: `client.device.make_personal`.
    """
    general, kept, method = store.state.general, withdrawal.kept, request.serve
    made_of = recipe(general, kept, request.personalisation) if kept else ""
    turned_down = bool(kept) and model_digest(model) == general
    state = State(
        general=general,
        recipe=made_of if method in EXACT else f"{method}:{made_of}",
        reason=TURNED_DOWN if turned_down else "",
        records=tuple(recording.id for recording in kept),
    )
    public = withdrawal.case.public
    check = torch.cat([public.gate.segments, withdrawal.case.retain.segments])
    return change_to(store, model, state, public, check=check, int8=request.personalisation.int8)


def _carry_out(
    store: Store,
    effect: Effect,
    request: UnlearnRequest,
    gone: tuple[str, ...],
    *,
    slot: int,
    look: Callable[[], None] = lambda: None,
) -> UnlearnReply:
    """Replace the model and erase what must go, in one step that survives a crash, and say so."""
    before, after = store.state, effect.change.state
    now = {MODEL: after.model, BUNDLE: after.bundle, INT8: after.int8.digest}
    replaced = [name for name, digest in store.digests().items() if digest != now[name]]
    replaced += [MANIFEST] if BUNDLE in replaced else []
    files = store.sizes([*(f"recordings/{record}.npz" for record in gone), *replaced])
    reply = UnlearnReply(
        job=request.job,
        slot=slot,
        status="ok",
        reason=effect.reason,
        served=effect.served,
        general=after.general,
        before=before.model,
        after=after.model,
        bundle=after.bundle,
        segments_erased=store.segments(gone),
        erased=tuple(ErasedFile(name, size) for name, size in files.items()),
        methods=effect.methods,
        barred=request.barred,
        unlearned_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
    )
    kept = replace(reply, methods=tuple(replace(each, before_groups={}, after_groups={}) for each in effect.methods))
    change = replace(effect.change, erase=gone, answer=(request.job, _REPLY.dump_json(kept).decode()))
    store.apply(change, look=look)
    return reply
