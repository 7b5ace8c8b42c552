"""The fields of a certificate, each with its type and its limits; nothing else is accepted.

No field can hold a patient's or a record's id: the patient is named as the ledger does, records are counted.
"""

import hashlib
from typing import Annotated, Final, Literal

from in_toto_attestation.v1.statement import STATEMENT_TYPE_URI
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from shared.fields import PLAIN, Count, Digest, MaybeDigest, Moment, Share

PREDICATE_TYPE: Final = "urn:lethe:unlearning-certificate:v1"
MODEL: Final = "served-model"
BUNDLE: Final = "served-bundle.onnx"
EMPTY: Final = hashlib.sha256(b"").hexdigest()  # the digest of either where no model is served

Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE"]
Word = Annotated[str, StringConstraints(max_length=200, pattern=PLAIN)]
Words = Annotated[str, StringConstraints(max_length=4000, pattern=PLAIN)]
Seed = Annotated[int, Field(ge=0, le=2**32)]


class _Part(BaseModel):
    """A part of a certificate: typed strictly, complete, with nothing added."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False, populate_by_name=True)


class Rate(_Part):
    """A rate with the ends of its interval."""

    value: Share
    low: Share
    high: Share


class Score(_Part):
    """One way to tell the unlearned copies from those that never saw the records."""

    name: Word
    primary: bool
    auc: Share
    low90: Share
    high90: Share
    low95: Share
    high95: Share
    p: Share
    p_holm: Share
    tpr_at_1: Rate | None
    tpr_at_5: Rate | None
    epsilon: Annotated[float, Field(ge=0)]


class Statistics(_Part):
    """What n copies an arm could tell.

    Attributes:
        identical: whether all copies of both arms answered alike to the last digit.
        certainty: median probability that copies which never saw the segments give their true labels.
        detectable: smallest AUC that would have been told from .5 with 80 % power.
        needed: copies an arm that would decide, None where nothing is open.
    """

    method: Word
    group: Word
    unit: Literal["copy"]
    n: Count
    segments: Count
    identical: bool
    certainty: Share
    scores: Annotated[list[Score], Field(max_length=20)]
    detectable: Share
    needed: Count | None
    verdict: Verdict
    words: Words


class Check(_Part):
    """One comparison of bytes."""

    name: Word
    expected: Words
    seen: Words
    holds: bool


class Bytes(_Part):
    """All comparisons of bytes."""

    holds: bool
    checks: Annotated[list[Check], Field(max_length=50)]


class Audit(_Part):
    """The verdict of one job, and the figures it rests on.

    Attributes:
        mode: who computed the digests: the device, or the server from weights in its memory.
        before: not unlearned against never seen; None where no statistics were made.
        after: unlearned against never seen.
        retained: the same for what the patient keeps.
        earlier: what looks before the last one found, unlearned against never seen.
    """

    mode: Literal["device", "white-box"]
    verdict: Verdict
    words: Words
    copies: Count
    seeds: Annotated[list[Seed], Field(max_length=2)]
    before: Statistics | None
    after: Statistics | None
    retained: Statistics | None
    earlier: Annotated[list[Statistics], Field(max_length=1)]
    bytes: Bytes


class Request(_Part):
    """What was asked and when; `kept` says whether the certificate was issued by the deadline."""

    requested_at: Moment
    deadline: Moment
    kept: bool
    scope: Literal["patient", "records"]
    records: Annotated[int, Field(ge=1)]


class Method(_Part):
    """How it was unlearned."""

    name: Word
    exact: bool


class Lineage(_Part):
    """Digests: the general model, the model in use before, the model in use after; "" where there was none."""

    general: MaybeDigest
    before: MaybeDigest
    after: MaybeDigest


class Erased(_Part):
    """What the device removed or replaced, as it acknowledged; or what the hospital did, of the general model's."""

    where: Literal["device", "hospital"]
    at: Moment
    files: Count
    bytes: Count
    segments: Count


class Version(_Part):
    """Which code ran, and the digest of the data that the general model was made of; "" where it is not known."""

    code: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
    data: MaybeDigest


class LedgerHead(_Part):
    """The last entry of the ledger when the certificate was issued."""

    seq: Annotated[Count, Field(ge=1)]
    hash: Digest


class Predicate(_Part):
    """Everything that is certified; `subject` names the patient as the ledger does."""

    subject: Digest
    request: Request
    method: Method
    lineage: Lineage
    erased: Erased
    audit: Audit
    version: Version
    ledger: LedgerHead
    run: Word
    key: Digest
    issued_at: Moment
    valid_until: Moment


class Sha256(_Part):
    """A digest as in-toto writes it."""

    sha256: Digest


class Subject(_Part):
    """A file that the certificate is about."""

    name: Literal["served-model", "served-bundle.onnx"]
    digest: Sha256


class Statement(_Part):
    """The in-toto statement."""

    type: Annotated[Literal["https://in-toto.io/Statement/v1"], Field(alias="_type")] = STATEMENT_TYPE_URI
    subject: Annotated[list[Subject], Field(min_length=2, max_length=2)]
    predicate_type: Annotated[Literal["urn:lethe:unlearning-certificate:v1"], Field(alias="predicateType")] = (
        PREDICATE_TYPE
    )
    predicate: Predicate

    def digest(self, name: str) -> str:
        """Return the digest of one subject, "" when it is not there."""
        return next((one.digest.sha256 for one in self.subject if one.name == name), "")
