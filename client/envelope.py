"""Signed statements on the device: the key that it signs with, and what it takes to believe a signature.

    device.pem           the device's own Ed25519 key, PKCS #8, mode 0600; made when it first signs
    device.pub.pem       its public key
    hospital.pub.pem     the hospital's public keys, one after the other, as the last run told them
    revoked.serial       the serial of the newest list of withdrawn records that was believed

A statement is JSON in a DSSE envelope, like a certificate. The wearable's runtime has 80 MB in all, so this module
imports neither torch nor a library for envelopes, nor hashlib, which would load OpenSSL a second time. A key id is the
sha256 of the public key's DER form, in hex.

Source: DSSE v1.0, the pre-authentication encoding.
"""

import base64
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256, Hash
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from shared.errors import BundleError
from shared.files import write_atomically

PRIVATE, PUBLIC, HOSPITAL, SERIAL = "device.pem", "device.pub.pem", "hospital.pub.pem", "revoked.serial"
MOST_BYTES = 1_000_000  # a manifest has under two thousand
_SERIAL = re.compile(rb"[0-9]{1,20}\n")
_PEM = re.compile(rb"-----BEGIN PUBLIC KEY-----.+?-----END PUBLIC KEY-----", re.DOTALL)


def device_key(folder: Path) -> Ed25519PrivateKey:
    """Return the device's key; make one where there is none that can be used."""
    try:
        key = load_pem_private_key((folder / PRIVATE).read_bytes(), password=None)
    except (FileNotFoundError, ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        key = Ed25519PrivateKey.generate()
        secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_atomically(folder / PRIVATE, secret)  # its temporary file is made with mode 0600 and keeps it
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    if not (folder / PUBLIC).exists() or (folder / PUBLIC).read_bytes() != public:
        write_atomically(folder / PUBLIC, public)
    return key


def is_serial(note: bytes) -> bool:
    """Return whether this is what is written into `revoked.serial`."""
    return bool(_SERIAL.fullmatch(note))


def sign(content: Mapping[str, Any], *, kind: str, key: Ed25519PrivateKey) -> bytes:
    """Return the file of a signed statement: the same content and key, the same bytes."""
    payload = _canonical(content)
    return _file(payload, kind, key.public_key(), key.sign(_encoding(kind, payload)))


def opened(data: bytes, *, kind: str, public: bytes) -> dict[str, Any]:
    """Return what was signed, once the signature of one of the keys in `public` (PEM, one or several) holds.

    There is one way to write a statement; a file with any byte changed is none.

    Raises:
        BundleError: it is no such statement, or no signature of these keys holds (`reason` "signature").
    """
    try:
        envelope: Any = json.loads(data[:MOST_BYTES])
        payload = base64.b64decode(envelope["payload"], validate=True)
        signature = base64.b64decode(envelope["signatures"][0]["sig"], validate=True)
        named = envelope["payloadType"]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise BundleError("it is no signed statement; it was cut off, or damaged", "signature") from None
    if named != kind:
        raise BundleError(f"it is signed as {named!r}, expected {kind!r}", "signature")
    signed_by = [key for key in _keys(public) if _holds(key, signature, _encoding(kind, payload))]
    if not any(_file(payload, kind, key, signature) == data for key in signed_by):
        raise BundleError("no known key has signed it: its content was changed, or another key signed it", "signature")
    content: Any = json.loads(payload)
    if not isinstance(content, dict):
        raise BundleError("what was signed is no statement of Lethe's", "signature")
    return content


def _file(payload: bytes, kind: str, key: Ed25519PublicKey, signature: bytes) -> bytes:
    signed = {"keyid": _fingerprint(key), "sig": _text(signature)}
    return _canonical({"payload": _text(payload), "payloadType": kind, "signatures": [signed]}) + b"\n"


def _keys(public: bytes) -> list[Ed25519PublicKey]:
    """Return the Ed25519 keys of a PEM file; what is none is passed over."""
    found = []
    for block in _PEM.findall(public):
        try:
            key = load_pem_public_key(block)
        except (ValueError, UnsupportedAlgorithm):
            continue
        if isinstance(key, Ed25519PublicKey):
            found.append(key)
    return found


def _holds(key: Ed25519PublicKey, signature: bytes, signed: bytes) -> bool:
    try:
        key.verify(signature, signed)
    except InvalidSignature:
        return False
    return True


def _fingerprint(key: Ed25519PublicKey) -> str:
    total = Hash(SHA256())
    total.update(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    return total.finalize().hex()


def _encoding(kind: str, payload: bytes) -> bytes:
    """Return what is signed in place of the payload, so that its type is signed too."""
    return b"DSSEv1 %d %s %d %s" % (len(kind.encode()), kind.encode(), len(payload), payload)


def _canonical(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
