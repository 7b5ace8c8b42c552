"""What server and devices say to each other: typed payloads <-> Flower records.

Every payload is a frozen dataclass, sent as JSON and checked field by field when it arrives; models and
segments travel beside it as bytes. No waveform of a patient with a device is ever part of an answer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from flwr.app import ConfigRecord, Message, RecordDict
from pydantic import TypeAdapter, ValidationError

from shared.errors import DataError
from shared.settings import Personalisation, Unlearning

WHOAMI = "query.whoami"
PERSONALISE = "train.personalise"
PROBE = "query.probe"
UNLEARN = "train.unlearn"

Payload = TypeVar("Payload")
_ADAPTERS: dict[type[Any], TypeAdapter[Any]] = {}


@dataclass(frozen=True)
class Whoami:
    """Who is there?"""

    run: str


@dataclass(frozen=True)
class Identity:
    """A device's answer: who it is, what it holds and which code it runs.

    Attributes:
        pseudonym: "" when its feed cannot be read.
        package: fingerprint of the newest package of a general model on the device, "" for none.
        personal: digest of the model in use, "" for none.
        in_use: fingerprint of the package that the model in use was made of, "" for none; the older of two, where
            the device was stopped between receiving a version and using it.
    """

    slot: int
    pseudonym: str
    package: str
    personal: str
    code: str
    in_use: str = ""


@dataclass(frozen=True)
class PersonaliseRequest:
    """Make the personal model; the general model's package comes along for a device that lacks it.

    Attributes:
        run: the run's id.
        general: digest of the general model to start from.
        package: fingerprint of its package.
        records: ids of the records that the patient consents to; all others are to be gone.
        settings: how.
        hospital: the hospital's public keys in PEM, with which a device verifies what is revoked; "" tells nothing new.
    """

    run: str
    general: str
    package: str
    records: tuple[str, ...]
    settings: Personalisation
    hospital: str = ""


@dataclass(frozen=True)
class PersonaliseReply:
    """What a device tells of its personal model.

    Attributes:
        status: "ok", or "refused" with the reason, for example nothing to learn from.
        personal, bundle: digests of the model in use and of its ONNX file, "" for none.
        accepted: whether the copy stayed within others' budget; if not, the general model is served.
        records, train_segments, held_out_segments: what the device holds.
        split: how training and held-out segments were told apart.
        own_general, own_personal: accuracy on the held-out segments, None when there are none.
        others_general, others_personal: accuracy on the public control segments.
        left_out: reasons for which records were left out, with counts.
        parity: largest difference of ONNX Runtime's and torch's probabilities.
        seconds: what making the model took; what was found made already took less.
    """

    slot: int
    status: Literal["ok", "refused"]
    reason: str = ""
    personal: str = ""
    bundle: str = ""
    accepted: bool = False
    records: int = 0
    train_segments: int = 0
    held_out_segments: int = 0
    split: Literal["record", "time", "none"] = "none"
    own_general: float | None = None
    own_personal: float | None = None
    others_general: float | None = None
    others_personal: float | None = None
    left_out: Mapping[str, int] | None = None
    parity: float | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class ProbeRequest:
    """Run the paper's probe on the device's own and on the public control segments."""

    run: str
    held_out: float
    epsilons_sd: tuple[float, ...]


@dataclass(frozen=True)
class GroupMargins:
    """A group of N segments under E strengths of attack; rows are strengths.

    Attributes:
        general_hits, personal_hits: (E, N) of 0 and 1.
        general_margins, personal_margins: (E, N) log-odds of the true label.
    """

    general_hits: tuple[tuple[int, ...], ...]
    personal_hits: tuple[tuple[int, ...], ...]
    general_margins: tuple[tuple[float, ...], ...]
    personal_margins: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class ProbeReply:
    """One group each: segments trained on, segments held out, public control segments."""

    slot: int
    status: Literal["ok", "refused"]
    reason: str = ""
    member: GroupMargins | None = None
    held_out: GroupMargins | None = None
    control: GroupMargins | None = None


@dataclass(frozen=True)
class UnlearnRequest:
    """Forget these records; measure every method from the same personal model, serve the one that is named.

    Attributes:
        job: the unlearning job's id; a repeated request gets the first one's answer.
        scope: "patient" empties the device, "records" keeps the rest.
        records: what is forgotten.
        methods: names of `shared.unlearning.METHODS`.
        serve: which of them the device serves.
        retrain: whether a model may be made; False while the general model itself holds withdrawn data, then the
            device only erases and serves the general model until it gets a new one.
        barred: the patient's other records without consent, which a later request of another job erases; nothing is
            made of them meanwhile.
    """

    job: str
    scope: Literal["patient", "records"]
    records: tuple[str, ...]
    methods: tuple[str, ...]
    serve: str
    personalisation: Personalisation
    unlearning: Unlearning
    epsilons_sd: tuple[float, ...]
    retrain: bool
    barred: tuple[str, ...] = ()


@dataclass(frozen=True)
class Accuracies:
    """Accuracy of three models on the same N segments; None when there are none."""

    n: int
    general: float | None
    personal: float | None
    unlearned: float | None


@dataclass(frozen=True)
class MethodOutcome:
    """What one unlearning method did to one personal model.

    The groups "forgotten", "held_out" and "control" compare the general model with the personal one (before)
    and with the unlearned one (after).
    """

    method: str
    exact: bool
    after: str
    seconds: float
    own: Accuracies
    others: Accuracies
    before_groups: Mapping[str, GroupMargins]
    after_groups: Mapping[str, GroupMargins]


@dataclass(frozen=True)
class ErasedFile:
    """A file that the device removed or replaced: its name inside the device's folder and its size."""

    name: str
    bytes: int


@dataclass(frozen=True)
class UnlearnReply:
    """The device's acknowledgement: what is served now, and what is gone.

    Attributes:
        status: "ok" when the records are gone, also when nothing could be measured; then `methods` is empty.
        reason: why nothing was measured, or why the device refused, else "".
        served: the method whose model is in use, "" when the general model or none took the place of the old one.
        general, after, bundle: digests of the general model, the model in use and its ONNX file, "" for none.
        before: digest of the model that was in use.
        barred: other records that were here, and that nothing was made of.
    """

    job: str
    slot: int
    status: Literal["ok", "refused"]
    reason: str = ""
    served: str = ""
    general: str = ""
    before: str = ""
    after: str = ""
    bundle: str = ""
    segments_erased: int = 0
    erased: tuple[ErasedFile, ...] = ()
    methods: tuple[MethodOutcome, ...] = ()
    barred: tuple[str, ...] = ()
    unlearned_at: str = ""


def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    """Return what checks payloads of a kind; making it takes longer than using it."""
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


def write(payload: object, *, blobs: Mapping[str, bytes] | None = None) -> RecordDict:
    """Return the Flower content that carries a payload and bytes beside it."""
    text: bytes = _adapter(type(payload)).dump_json(payload)
    content: dict[str, Any] = {"payload": ConfigRecord({"json": text})}
    if blobs:
        content["blobs"] = ConfigRecord(dict(blobs))
    return RecordDict(content)


def read(kind: type[Payload], message: Message) -> Payload:
    """Return the payload of a message.

    Raises:
        DataError: it is not one of this kind.
    """
    try:
        text = message.content.config_records["payload"]["json"]
        if not isinstance(text, bytes):
            raise DataError(f"the payload is {type(text).__name__}, expected bytes")
        payload: Payload = _adapter(kind).validate_json(text, strict=True)
    except (KeyError, ValidationError) as error:
        raise DataError(f"message {message.metadata.message_type} is not a {kind.__name__}: {error}") from error
    return payload


def blobs(message: Message) -> dict[str, bytes]:
    """Return the bytes that travel beside a payload."""
    records = message.content.config_records
    if "blobs" not in records:
        return {}
    return {name: value for name, value in records["blobs"].items() if isinstance(value, bytes)}
