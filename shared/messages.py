"""What server and devices say to each other: typed payloads <-> Flower records.

Every payload is a frozen dataclass, sent as JSON and checked field by field when it arrives; models and
segments travel beside it as bytes. No waveform of a patient with a device is ever part of an answer.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeVar

from flwr.app import ConfigRecord, Message, RecordDict

from shared.errors import DataError
from shared.fields import (
    MOST_BYTES_BESIDE,
    MOST_BYTES_OF_NUMBERS,
    MOST_BYTES_OF_WORDS,
    Amount,
    Count,
    Hit,
    MaybeDigest,
    MaybeMoment,
    MaybeName,
    Name,
    Place,
    Share,
    Words,
    adapter,
    first_problem,
    payload,
    refuse_larger,
    shown,
)
from shared.settings import Personalisation, Unlearning

WHOAMI = "query.whoami"
PERSONALISE = "train.personalise"
PROBE = "query.probe"
UNLEARN = "train.unlearn"

Payload = TypeVar("Payload")


@payload
class Whoami:
    """Who is there?"""

    run: str


@payload
class Identity:
    """A device's answer: who it is, what it holds and which code it runs.

    Attributes:
        pseudonym: "" when its feed cannot be read.
        package: fingerprint of the newest package of a general model on the device, "" for none.
        personal: digest of the model in use, "" for none.
        in_use: fingerprint of the package that the model in use was made of, "" for none; the older of two, where
            the device was stopped between receiving a version and using it.
        recordings: how many records lie on its disk.
    """

    slot: Count
    pseudonym: Words
    package: MaybeDigest
    personal: MaybeDigest
    code: Words
    in_use: MaybeDigest = ""
    recordings: Count = 0


@payload
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
    general: MaybeDigest
    package: MaybeDigest
    records: tuple[Name, ...]
    settings: Personalisation
    hospital: str = ""


@payload
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
        int8, int8_reason: whether the wearable runs eight bits; why not, where it was asked to, else "".
    """

    slot: Count
    status: Literal["ok", "refused"]
    reason: Words = ""
    personal: MaybeDigest = ""
    bundle: MaybeDigest = ""
    accepted: bool = False
    records: Count = 0
    train_segments: Count = 0
    held_out_segments: Count = 0
    split: Literal["record", "time", "none"] = "none"
    own_general: Share | None = None
    own_personal: Share | None = None
    others_general: Share | None = None
    others_personal: Share | None = None
    left_out: Mapping[Words, Count] | None = None
    parity: Amount | None = None
    seconds: Amount = 0.0
    int8: bool = False
    int8_reason: Words = ""


@payload
class ProbeRequest:
    """Run the paper's probe on the device's own and on the public control segments."""

    run: str
    held_out: Share
    epsilons_sd: tuple[Amount, ...]


@payload
class GroupMargins:
    """A group of N segments under E strengths of attack; rows are strengths.

    Attributes:
        general_hits, personal_hits: (E, N) of 0 and 1.
        general_margins, personal_margins: (E, N) log-odds of the true label.
    """

    general_hits: tuple[tuple[Hit, ...], ...]
    personal_hits: tuple[tuple[Hit, ...], ...]
    general_margins: tuple[tuple[float, ...], ...]
    personal_margins: tuple[tuple[float, ...], ...]


@payload
class ProbeReply:
    """One group each: segments trained on, segments held out, public control segments."""

    MOST_BYTES: ClassVar[int] = MOST_BYTES_OF_NUMBERS
    slot: Count
    status: Literal["ok", "refused"]
    reason: Words = ""
    member: GroupMargins | None = None
    held_out: GroupMargins | None = None
    control: GroupMargins | None = None


@payload
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

    job: Name
    scope: Literal["patient", "records"]
    records: tuple[Name, ...]
    methods: tuple[Name, ...]
    serve: Name
    personalisation: Personalisation
    unlearning: Unlearning
    epsilons_sd: tuple[Amount, ...]
    retrain: bool
    barred: tuple[Name, ...] = ()


@payload
class Accuracies:
    """Accuracy of three models on the same N segments; None when there are none."""

    n: Count
    general: Share | None
    personal: Share | None
    unlearned: Share | None


@payload
class MethodOutcome:
    """What one unlearning method did to one personal model.

    The groups "forgotten", "held_out" and "control" compare the general model with the personal one (before)
    and with the unlearned one (after).
    """

    method: Name
    exact: bool
    after: MaybeDigest
    seconds: Amount
    own: Accuracies
    others: Accuracies
    before_groups: Mapping[Name, GroupMargins]
    after_groups: Mapping[Name, GroupMargins]


@payload
class ErasedFile:
    """A file that the device removed or replaced: its name inside the device's folder and its size."""

    name: Place
    bytes: Count


@payload
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

    MOST_BYTES: ClassVar[int] = MOST_BYTES_OF_NUMBERS
    job: MaybeName
    slot: Count
    status: Literal["ok", "refused"]
    reason: Words = ""
    served: MaybeName = ""
    general: MaybeDigest = ""
    before: MaybeDigest = ""
    after: MaybeDigest = ""
    bundle: MaybeDigest = ""
    segments_erased: Count = 0
    erased: tuple[ErasedFile, ...] = ()
    methods: tuple[MethodOutcome, ...] = ()
    barred: tuple[Name, ...] = ()
    unlearned_at: MaybeMoment = ""


def write(payload: object, *, blobs: Mapping[str, bytes] | None = None) -> RecordDict:
    """Return the Flower content that carries a payload and bytes beside it."""
    text: bytes = adapter(type(payload)).dump_json(payload)
    content: dict[str, Any] = {"payload": ConfigRecord({"json": text})}
    if blobs:
        content["blobs"] = ConfigRecord(dict(blobs))
    return RecordDict(content)


def read(kind: type[Payload], message: Message) -> Payload:
    """Return the payload of a message; its size is looked at before anything else.

    Raises:
        DataError: it is not one of this kind, or larger than any that is.
    """
    try:
        held = {name: [*record.values()] for name, record in message.content.config_records.items()}
        refuse_larger(held.pop("payload", []), getattr(kind, "MOST_BYTES", MOST_BYTES_OF_WORDS))
        refuse_larger(held.pop("blobs", []), MOST_BYTES_BESIDE)
        if strange := sorted(set(message.content) - {"payload", "blobs"}):
            raise ValueError(f"it also carries {shown(strange[0])}, expected a payload and nothing else")
        text = message.content.config_records["payload"]["json"]
        if not isinstance(text, bytes):
            raise ValueError(f"the payload is {type(text).__name__}, expected bytes")
        payload: Payload = adapter(kind).validate_json(text, strict=True)
    except (KeyError, ValueError) as error:
        raise DataError(
            f"message {message.metadata.message_type} is not a {kind.__name__}: {first_problem(error)}"
        ) from error
    return payload


def blobs(message: Message) -> dict[str, bytes]:
    """Return the bytes that travel beside a payload."""
    records = message.content.config_records
    if "blobs" not in records:
        return {}
    return {name: value for name, value in records["blobs"].items() if isinstance(value, bytes)}
