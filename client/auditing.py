"""What a device does for the auditor: train copies before a withdrawal, look at its own disk after it.

Copies live in memory and only what they say of segments leaves the device. Nothing on the disk changes here.
"""

import time
from collections.abc import Iterable, Mapping
from contextlib import suppress

from client.bundle import BUNDLE, INT8, MANIFEST
from client.device import Own, open_general
from client.envelope import HOSPITAL, PRIVATE, SERIAL
from client.envelope import PUBLIC as DEVICE
from client.forgetting import Withdrawal, earlier, prepare
from client.scope import kept, named, up_to_date
from client.store import Store
from shared.audit_messages import AuditReply, AuditRequest, Readings, VerifyReply, VerifyRequest
from shared.fields import shown
from shared.machine import cores
from shared.model import digest, model_digest
from shared.notice import WithdrawnError
from shared.package import MODEL, PUBLIC, TEMPLATE
from shared.personalisation import personalise
from shared.settings import LEAST_CONTROLS
from shared.shadows import Shadows, read_arms
from shared.unlearning import METHODS


def audit(store: Store, request: AuditRequest, *, slot: int) -> AuditReply:
    """Train copies with and without the named records and answer what they say of the patient's segments.

    Where the patient withdraws more meanwhile, it begins anew without that.

    Raises:
        DataError: the model in use or the general model is damaged.
    """

    def refused(reason: str) -> AuditReply:
        return AuditReply(request.job, slot, "refused", reason)

    if not request.copies:
        return refused("no copies are asked for (audit.copies is 0)")
    if unknown := sorted({*request.methods} - {*METHODS}):
        return refused(f"there is no unlearning method {shown(unknown[0])} in this device's code")
    if not store.state.recipe:
        return refused("there is no personal model on the device")
    began = time.perf_counter()
    while True:
        request = up_to_date(store, request)
        withdrawal = prepare(store, request, named(store, request))
        if not withdrawal.learnt_from:
            return refused("the personal model was made of no segment that is withdrawn")
        if (controls := len(withdrawal.case.public.control)) < LEAST_CONTROLS:  # control patients withdraw, too
            return refused(f"{controls} control segments came with the general model, and it takes {LEAST_CONTROLS}")
        used = kept(store, request)
        with suppress(WithdrawnError), store.notice.heeded(used):
            arms = _arms(withdrawal, request)
            store.notice.refuse(used)
            return AuditReply(request.job, slot, "ok", arms=arms, seconds=time.perf_counter() - began)


def _arms(withdrawal: Withdrawal, request: AuditRequest) -> Mapping[str, Mapping[str, Readings]]:
    """Return what the copies of each arm say."""
    case = withdrawal.case
    shadows = Shadows(
        general=case.general,
        retain=case.retain,
        forget=case.forget,
        public=case.public,
        personalisation=request.personalisation,
        unlearning=request.unlearning,
        methods=request.methods,
        copies=request.copies,
        epsilon_sd=request.epsilon_sd,
        seed=request.seed,
        learnt=withdrawal.learnt,
    )
    return read_arms(shadows, at_once=max(1, min(request.at_once, cores())))


def verify(store: Store, request: VerifyRequest, *, slot: int) -> VerifyReply:
    """Tell what is on the disk and, where bytes are to be compared, what a fresh copy of what is there would be.

    Raises:
        DataError: a fresh copy cannot be made, because a recording or the general model is damaged.
    """
    began = time.perf_counter()
    here, version = store.digests(), store.state.general
    return VerifyReply(
        job=request.job,
        slot=slot,
        status="ok",
        general=version if version in {package.digest for package in store.packages()} else "",
        served=here.get(MODEL, ""),
        bundle=here.get(BUNDLE, ""),
        fresh=_fresh(store, request) if request.exact else "",
        records=store.record_ids(),
        leftovers=tuple(sorted({*_strangers(store), *_ghosts(store), *_withdrawn(store, request)})),
        seconds=time.perf_counter() - began,
    )


def _fresh(store: Store, request: VerifyRequest) -> str:
    """Return the digest of a personal model made anew of the recordings on the disk; of none, the general model's."""
    general, public = open_general(store, store.state.general)
    while True:
        used = kept(store, up_to_date(store, request))
        recordings = [recording for recording in store.recordings() if recording.id in used]
        own = Own.of(recordings, held_out=request.personalisation.held_out)
        with suppress(WithdrawnError), store.notice.heeded(used):
            return model_digest(personalise(general, own.training, public, request.personalisation).model)


def _strangers(store: Store) -> Iterable[str]:
    """Name the files that have no place in a device's folder."""
    eight = {INT8} if store.digests().get(INT8) == store.state.int8.digest else set()
    here = {MODEL, BUNDLE, *eight, MANIFEST, PRIVATE, DEVICE, HOSPITAL, SERIAL, "state.json"}
    places = {(): here, ("recordings",): {".npz"}, ("answers",): {".json"}}
    for path in store.folder.rglob("*"):
        *folder, name = path.relative_to(store.folder).parts
        if path.is_dir():
            continue
        if len(folder) == 2 and folder[0] == "general":
            known = name in (MODEL, TEMPLATE, PUBLIC, BUNDLE, MANIFEST)
        else:
            known = bool({name, path.suffix} & places.get(tuple(folder), set()))
        if not known:
            yield path.relative_to(store.folder).as_posix()


def _ghosts(store: Store) -> Iterable[str]:
    """Name the files that are a model which an answer says was replaced, wherever they lie now."""
    state, answers = store.state, [earlier(store, path.stem) for path in (store.folder / "answers").glob("*.json")]
    replaced = {answer.before for answer in answers if answer is not None}
    for path in store.folder.rglob("*.*"):
        if path.is_file() and digest(path.read_bytes()) in replaced - {state.model, state.general}:
            yield path.relative_to(store.folder).as_posix()


def _withdrawn(store: Store, request: VerifyRequest) -> Iterable[str]:
    """Name the recordings that are to be gone."""
    return (f"recordings/{record}.npz" for record in named(store, request))
