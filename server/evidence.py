"""How a certificate is written and read: an in-toto statement (v1) in a DSSE envelope.

What a statement says is in `server/statement.py`. There is one way to write it and one way to write its envelope (JSON,
keys sorted, no spaces, ASCII, a newline at the end), so that a file with any byte changed is no certificate, also where
JSON or base64 would not care. Issuing is `server/certificate.py`, verifying `server/verification.py`; neither needs a
database or torch.

Sources: in-toto attestation framework v1, statement and resource descriptor; DSSE v1.0.
"""

import json
import re
from datetime import UTC, datetime
from typing import Any

from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor
from in_toto_attestation.v1.statement import Statement as InToto
from pydantic import ValidationError
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import Error as EnvelopeError

from server.statement import Statement
from shared.errors import DataError

_KEY = re.compile(r"[0-9a-f]{64}")
PAYLOAD_TYPE = "application/vnd.in-toto+json"
MOST_BYTES = 1_000_000  # a certificate has a few thousand


def payload(statement: Statement) -> bytes:
    """Return the bytes that are signed, checked by in-toto's own library."""
    content = statement.model_dump(mode="json", by_alias=True)
    subjects = [ResourceDescriptor(name=one["name"], digest=one["digest"]).pb for one in content["subject"]]
    InToto(subjects, content["predicateType"], content["predicate"]).validate()
    return _canonical(content)


def read_payload(data: bytes) -> Statement:
    """Return the statement that was signed.

    Raises:
        DataError: it is no statement of this kind, or not written as Lethe writes it.
    """
    try:
        statement = Statement.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the statement"
        raise DataError(f"what was signed is no unlearning certificate, version 1: {where}: {first['msg']}") from None
    if payload(statement) != data:
        raise DataError("what was signed is not written as Lethe writes it")
    return statement


def write(envelope: Envelope) -> bytes:
    """Return the file of a signed envelope."""
    return _canonical(envelope.to_dict()) + b"\n"


def read(data: bytes) -> Envelope:
    """Return the envelope of a certificate file, its signature not checked yet.

    Raises:
        DataError: it is no envelope with one signature, not of this type, or not byte for byte as `write` wrote it.
    """
    if len(data) > MOST_BYTES:
        raise DataError(f"{len(data):,} bytes are no certificate, expected at most {MOST_BYTES:,}")
    try:
        content: Any = json.loads(data)
        envelope = Envelope.from_dict(content)
        added = any(signature.unrecognized_fields for signature in envelope.signatures.values())
        same = write(envelope) == data and not added
    except (ValueError, RecursionError):
        raise DataError("this is no JSON, expected a certificate; it may have been cut off or damaged") from None
    except (EnvelopeError, LookupError, TypeError, AttributeError):
        raise DataError("this is no DSSE envelope, expected a certificate") from None
    if envelope.payload_type != PAYLOAD_TYPE:
        raise DataError(f"the envelope holds {envelope.payload_type!r}, expected {PAYLOAD_TYPE!r}")
    if len(envelope.signatures) != 1:
        raise DataError(f"the envelope has {len(envelope.signatures)} signatures, expected 1")
    if not all(isinstance(keyid, str) and _KEY.fullmatch(keyid) for keyid in envelope.signatures):
        raise DataError("the signature names no key, expected 64 hex digits")
    if not same:
        raise DataError("the file is not byte for byte as it was issued: something was added, removed or rewritten")
    return envelope


def moment(text: str) -> datetime:
    """Return a time that `Moment` accepted."""
    return datetime.fromisoformat(text).astimezone(UTC)


def _canonical(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()
