"""What a device does when it is asked for its personal model or to measure itself.

Each function takes the device's store and a request and returns the answer; `client/app.py` carries them over
Flower, and `client/forgetting.py` is about withdrawals.
"""

import hashlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt
from torch import Tensor

from client.bundle import EightBits
from client.export import export, largest_difference
from client.int8 import shipped
from client.issuing import believe, keep_signed, manifest_of
from client.sensor import Feed, Recording
from client.state import Change, State
from client.store import Store, examples
from shared.messages import GroupMargins, PersonaliseReply, PersonaliseRequest, ProbeReply, ProbeRequest
from shared.model import ResNet34, check_weights, digest, load, to_bytes
from shared.package import TEMPLATE, Package, Public, load_general
from shared.personalisation import SplitKind, accuracy, held_out_mask, personalise
from shared.probing import Measured, probe
from shared.training import Examples, join
from shared.version import code_version


@dataclass(frozen=True)
class Own:
    """A patient's segments, oldest record first, and which of them are held out.

    Attributes:
        all: N segments.
        owner: (N,) id of the record that each segment is from.
        held: (N,) booleans.
        kind: how the split was made.
    """

    all: Examples
    owner: npt.NDArray[np.str_]
    held: Tensor
    kind: SplitKind

    @classmethod
    def of(cls, recordings: Sequence[Recording], *, held_out: float) -> Self:
        """Join and split recordings; `held_out` is the share to hold out."""
        sizes = [len(recording.segments) for recording in recordings]
        held, kind = held_out_mask(sizes, held_out)
        owner = np.repeat(np.array([recording.id for recording in recordings], dtype=np.str_), sizes)
        return cls(join([examples(recording) for recording in recordings]), owner, held, kind)

    @property
    def training(self) -> Examples:
        """Return the segments that a personal model learns from."""
        return self.all[~self.held]

    @property
    def held_out(self) -> Examples:
        """Return the segments that it never learns from."""
        return self.all[self.held]


def make_personal(
    store: Store, feed: Feed, request: PersonaliseRequest, *, slot: int, blobs: Mapping[str, bytes]
) -> PersonaliseReply:
    """Bring recordings and general model up to date and make the personal model, unless it is there already.

    What an unlearning method served stays in use, exact or not, until general model, records or settings change.

    Raises:
        WithdrawnError: the patient withdraws one of the records meanwhile; nothing is put in use.
    """
    if blobs:
        package = Package.from_blobs(blobs, expected=request.general)
        check_weights(package.model)  # a damaged one must not take a sound one's place
        Public.from_bytes(package.public)
        store.install(package)
    believe(store, request.hospital)
    if store.package != request.package:
        return PersonaliseReply(slot, "refused", f"the package of general model {request.general[:12]} is not here")
    left_out = _synchronise(store, feed, request.records)
    recordings = store.recordings()
    began = time.perf_counter()
    general, public = open_general(store, request.general)
    keep_signed(store, general, public, request.general, anew=bool(blobs))
    if not recordings:
        return _serve_general(store, request, general, public, slot=slot, left_out=left_out)
    own = Own.of(recordings, held_out=request.settings.held_out)
    wanted = recipe(request.general, recordings, request.settings)
    records = tuple(recording.id for recording in recordings)
    if (store.state.made_of, store.state.records) != (wanted, records) or not store.whole:
        with store.notice.heeded(request.records):
            made = personalise(general, own.training, public, request.settings)
        state = State(general=request.general, recipe=wanted, reason=made.reason, records=records)
        change = change_to(store, made.model, state, public, check=own.all.segments, int8=request.settings.int8)
        with store.notice.closed(request.records):
            store.apply(change, look=lambda: store.notice.refuse(request.records))
    seconds = time.perf_counter() - began
    return _describe(store, general, public, own, slot=slot, left_out=left_out, seconds=seconds)


def measure(store: Store, request: ProbeRequest, *, slot: int) -> ProbeReply:
    """Run the paper's probe on member, held-out and control segments.

    Raises:
        WithdrawnError: the patient withdraws one of the records; nothing is told of them.
    """
    state, records = store.state, store.record_ids()
    store.notice.refuse(records)
    if not state.model:
        return ProbeReply(slot, "refused", "there is no model on the device")
    general, public = open_general(store, state.general)
    personal = load(store.model_path)
    own = Own.of(store.recordings(), held_out=request.held_out)

    def group(segments: Examples) -> GroupMargins:
        first, second = probe(general, [general, personal], segments, epsilons_sd=request.epsilons_sd)
        return compare(first, second)

    member, held_out, control = group(own.training), group(own.held_out), group(public.control)
    store.notice.refuse(records)
    return ProbeReply(slot, "ok", member=member, held_out=held_out, control=control)


def recipe(general: str, recordings: Sequence[Recording], settings: object) -> str:
    """Return a digest of everything a personal model depends on, the code that makes it included."""
    made_of = hashlib.sha256(f"{general}{settings!r}{code_version()}".encode())
    for recording in recordings:
        made_of.update(recording.id.encode() + recording.segments.tobytes() + recording.labels.tobytes())
    return made_of.hexdigest()


def open_general(store: Store, version: str) -> tuple[ResNet34, Public]:
    """Return a general model of the device, weights checked, and its public segments.

    Raises:
        DataError: the package is incomplete or damaged.
    """
    folder = store.general_folder(version)
    Package.open(folder)
    return load_general(folder)


def change_to(store: Store, model: ResNet34, state: State, public: Public, *, check: Tensor, int8: bool) -> Change:
    """Return the change that puts `model` in use.

    Args:
        store: the device.
        model: what is to be used.
        state: where it comes from; the digests of what is written are added here.
        public: the version's segments, by which an eight-bit file is made and judged.
        check: on these segments its ONNX file is compared with torch.
        int8: whether an eight-bit file is wanted beside it.
    """
    template = (store.general_folder(state.general) / TEMPLATE).read_bytes()
    bundle = export(model, template, general=state.general, check=check)
    data, eight, small = to_bytes(model), EightBits(), b""
    if int8:
        eight, small = shipped(bundle.data, public, task=model.task, folder=store.folder)
    written = replace(state, model=digest(data), bundle=bundle.digest, int8=eight)
    manifest = manifest_of(store, bundle, model, written)
    return Change(written, model=data, bundle=bundle.data, manifest=manifest, int8=small)


def compare(general: Measured, personal: Measured) -> GroupMargins:
    """Return two measurements of the same segments as they are sent."""
    return GroupMargins(
        general_hits=tuple(map(tuple, general.hits.astype(int).tolist())),
        personal_hits=tuple(map(tuple, personal.hits.astype(int).tolist())),
        general_margins=tuple(map(tuple, general.margins.astype(float).tolist())),
        personal_margins=tuple(map(tuple, personal.margins.astype(float).tolist())),
    )


def accuracy_or_none(model: ResNet34, segments: Examples) -> float | None:
    """Return the accuracy, or None where there is nothing to measure on."""
    return accuracy(model, segments) if len(segments) else None


def _synchronise(store: Store, feed: Feed, consented: Sequence[str]) -> Counter[str]:
    """Record what is consented to and missing, erase what is not consented to; say what could not be used."""
    here = set(store.record_ids())
    store.erase(here - set(consented))
    recordings, left_out = feed.record(set(consented) - here)
    with store.notice.closed(consented):
        store.add(recordings)
    return left_out


def _serve_general(
    store: Store,
    request: PersonaliseRequest,
    general: ResNet34,
    public: Public,
    *,
    slot: int,
    left_out: Mapping[str, int],
) -> PersonaliseReply:
    """Without a record, serve the general model of this version in place of whatever model was in use."""
    version = request.general
    if store.state.model and (store.state.model != version or not store.whole):
        state, check = State(general=version), public.gate.segments
        store.apply(change_to(store, general, state, public, check=check, int8=request.settings.int8))
    state, reason = store.state, "no usable record to learn from"
    return PersonaliseReply(slot, "refused", reason, personal=state.model, bundle=state.bundle, left_out=left_out)


def _describe(
    store: Store,
    general: ResNet34,
    public: Public,
    own: Own,
    *,
    slot: int,
    left_out: Mapping[str, int],
    seconds: float,
) -> PersonaliseReply:
    """Measure the model in use, as torch and as ONNX, beside the general one."""
    state, personal = store.state, load(store.model_path)
    return PersonaliseReply(
        slot=slot,
        status="ok",
        reason=state.reason,
        personal=state.model,
        bundle=state.bundle,
        accepted=not state.reason,
        records=len(set(own.owner.tolist())),
        train_segments=len(own.training),
        held_out_segments=len(own.held_out),
        split=own.kind,
        own_general=accuracy_or_none(general, own.held_out),
        own_personal=accuracy_or_none(personal, own.held_out),
        others_general=accuracy_or_none(general, public.control),
        others_personal=accuracy_or_none(personal, public.control),
        left_out=dict(left_out),
        parity=largest_difference(store.bundle_path.read_bytes(), personal, own.all.segments),
        seconds=seconds,
        int8=bool(state.int8.digest),
        int8_reason=state.int8.reason,
    )
