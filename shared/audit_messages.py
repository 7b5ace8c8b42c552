"""What the auditor asks a device before and after a withdrawal, and what it answers.

Sent and checked as all payloads are: `shared/messages.py`.
"""

from collections.abc import Mapping
from dataclasses import field
from typing import ClassVar, Literal

from shared.fields import MOST_BYTES_OF_NUMBERS, Amount, Count, MaybeDigest, MaybeName, Name, Words, payload
from shared.settings import Personalisation, Unlearning

AUDIT = "query.audit"
VERIFY = "query.verify"


@payload
class AuditRequest:
    """Before a withdrawal is carried out: train copies that saw the records and copies that did not, and measure them.

    The copies live in the device's memory and are gone with the answer; nothing on the device changes.

    Attributes:
        job: the unlearning job's id.
        scope, records, methods, personalisation, unlearning, barred: as in `UnlearnRequest`.
        copies: K, how many copies an arm.
        epsilon_sd: strength of the attack, in standard deviations of a lead.
        seed: of the copies; arms never share one.
        at_once: how many copies the device may make at a time, if it has as many cores.
    """

    job: Name
    scope: Literal["patient", "records"]
    records: tuple[Name, ...]
    methods: tuple[Name, ...]
    personalisation: Personalisation
    unlearning: Unlearning
    copies: Count
    epsilon_sd: Amount
    seed: Count
    barred: tuple[Name, ...] = ()
    at_once: Count = 1


@payload
class Readings:
    """N segments under K copies; rows are copies.

    Attributes:
        margins: (K, N) log-odds of the true label.
        entropy: (K, N) modified entropy (Song and Mittal 2021), in nats.
        attacked: (K, N) margins under FGSM on each copy's own gradient.
        noised: (K, N) margins under random signs of the same strength.
    """

    margins: tuple[tuple[float, ...], ...]
    entropy: tuple[tuple[float, ...], ...]
    attacked: tuple[tuple[float, ...], ...]
    noised: tuple[tuple[float, ...], ...]


@payload
class AuditReply:
    """What the copies said; never a waveform and never a weight.

    Attributes:
        status: "ok", or "refused" with the reason, for example that the device has no personal model.
        arms: arm -> group -> readings. Arms: "never" (made without the records), "nothing" (made with them, and
            not unlearned), and every method's name (made with them, then unlearned). Groups: "forgotten",
            "retained" (what the patient keeps, as far as it is trained on), "control" (public, never-used).
        seconds: what it took.
    """

    MOST_BYTES: ClassVar[int] = MOST_BYTES_OF_NUMBERS
    job: MaybeName
    slot: Count
    status: Literal["ok", "refused"]
    reason: Words = ""
    arms: Mapping[Name, Mapping[Name, Readings]] = field(default_factory=dict)
    seconds: Amount = 0.0


@payload
class VerifyRequest:
    """After a withdrawal was carried out: what is on the device, and is it what it would have been?

    Attributes:
        records: what is to be gone.
        barred: as in `UnlearnRequest`; the fresh copy is not made of them.
        personalisation: how a fresh copy is made.
        exact: whether to make one and compare bytes.
        white_box: whether the served weights come along, for the server's memory alone.
    """

    job: Name
    scope: Literal["patient", "records"]
    records: tuple[Name, ...]
    personalisation: Personalisation
    exact: bool
    white_box: bool
    barred: tuple[Name, ...] = ()


@payload
class VerifyReply:
    """What a device found when it looked at its own disk.

    Attributes:
        general, served, bundle: digests of the general model and of the files on the disk, "" for none.
        fresh: digest of a model made anew from what is on the disk, "" when none was asked for.
        records: ids of the records on the disk.
        leftovers: names of files that should not be there.
    """

    job: MaybeName
    slot: Count
    status: Literal["ok", "refused"]
    reason: Words = ""
    general: MaybeDigest = ""
    served: MaybeDigest = ""
    bundle: MaybeDigest = ""
    fresh: MaybeDigest = ""
    records: tuple[Name, ...] = ()
    leftovers: tuple[Words, ...] = ()
    seconds: Amount = 0.0
