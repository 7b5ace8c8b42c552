"""The hospital's signing key: made once, kept from everybody else, replaced on request.

    keys/signing.pem             Ed25519 private key, PKCS #8, mode 0600; leaves this file in memory only
    keys/signing.pub.pem         its public key, mode 0644: anybody may have it
    keys/old/<fingerprint>.pub.pem   public keys of before: what they signed stays verifiable

A fingerprint is the sha256 of the public key's DER form (SubjectPublicKeyInfo), in hex.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from securesystemslib.signer import CryptoSigner, SSlibKey

from shared.errors import DataError, WorkspaceError
from shared.files import flush_folder, write_atomically

PRIVATE = "signing.pem"
PUBLIC = "signing.pub.pem"
OLD = "old"
_MAKE_ONE = "`lethe keys rotate` makes a new one; what the old one signed stays verifiable with its public key"


@dataclass(frozen=True)
class PublicKey:
    """A public key that verifies certificates of this workspace; `current` also signs the next ones."""

    fingerprint: str
    path: Path
    current: bool


def make(folder: Path) -> str:
    """Make the first key of a workspace and return its fingerprint.

    Raises:
        WorkspaceError: there is a key already.
    """
    if (folder / PRIVATE).exists():
        raise WorkspaceError(f"there is a signing key in {folder} already; `lethe keys rotate` replaces it")
    return _put(folder, Ed25519PrivateKey.generate())


def rotate(folder: Path) -> tuple[str | None, str]:
    """Replace the key: the old public key is kept, the old private one overwritten and gone.

    Killed in the middle, it leaves the old key or the new one in service. A lost or damaged private key is
    replaced as well.

    Returns:
        The fingerprints of the old key, None where none was known, and of the new one.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    old = _retire(folder)
    with _overwriting(folder / PRIVATE):
        return old, _put(folder, Ed25519PrivateKey.generate())


def signer(folder: Path) -> CryptoSigner:
    """Return what signs with the workspace's key; the public key beside it is put right should it be another's.

    Raises:
        WorkspaceError: the key is missing, damaged, or others may read it.
    """
    private = _private(folder)
    public = _pem(private.public_key())
    path = folder / PUBLIC
    if not path.exists() or path.read_bytes() != public:  # a rotation was interrupted, or the file was lost
        _publish(path, public)
    return CryptoSigner(private, verifier(public))


def known(folder: Path) -> list[PublicKey]:
    """Return the public keys of a workspace, the current one first."""
    found = []
    for path in (folder / PUBLIC, *sorted((folder / OLD).glob("*.pub.pem"))):
        if path.exists():
            found.append(PublicKey(fingerprint(path.read_bytes()), path, current=path.name == PUBLIC))
    return found


def verifier(public: bytes) -> SSlibKey:
    """Return what verifies signatures of a public key; its key id is the fingerprint.

    Raises:
        DataError: these bytes are no Ed25519 public key in PEM.
    """
    return SSlibKey.from_crypto(_public(public), keyid=fingerprint(public))


def fingerprint(public: bytes) -> str:
    """Return the sha256 of a PEM public key's DER form.

    Raises:
        DataError: these bytes are no Ed25519 public key in PEM.
    """
    der = _public(public).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def _put(folder: Path, private: Ed25519PrivateKey) -> str:
    """Write a pair: first the private key, from which the public one can be made again."""
    secret = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_atomically(folder / PRIVATE, secret)  # its temporary file is made with mode 0600 and keeps it
    public = _pem(private.public_key())
    _publish(folder / PUBLIC, public)
    return fingerprint(public)


def _publish(path: Path, public: bytes) -> None:
    """Write a public key so that anybody may read it; a file that is copied keeps its mode."""
    write_atomically(path, public)
    path.chmod(0o644)


@contextmanager
def _overwriting(path: Path) -> Iterator[None]:
    """Fill the file that has this name now with zeros once the block has given the name to another."""
    if not path.exists():
        yield
        return
    with path.open("r+b") as file:
        yield
        file.write(bytes(os.fstat(file.fileno()).st_size))
        file.flush()
        os.fsync(file.fileno())


def _retire(folder: Path) -> str | None:
    """Keep the public key that is in service under its fingerprint, and return that."""
    try:
        public = _pem(_private(folder).public_key())
    except WorkspaceError:  # the private key is lost; what it signed is still to be verified
        path = folder / PUBLIC
        try:
            public = _pem(_public(path.read_bytes()))
        except (OSError, DataError):
            return None
    name = fingerprint(public)
    old = folder / OLD
    old.mkdir(mode=0o700, exist_ok=True)
    flush_folder(folder)
    _publish(old / f"{name}.pub.pem", public)
    return name


def _private(folder: Path) -> Ed25519PrivateKey:
    path = folder / PRIVATE
    try:
        mode = path.stat().st_mode & 0o777
        if mode & 0o077:
            raise WorkspaceError(
                f"others may read the signing key {path} (mode {mode:04o}, expected 0600); if nobody did, "
                f"`chmod 600 {path}`, else `lethe keys rotate`"
            )
        key = load_pem_private_key(path.read_bytes(), password=None)
    except FileNotFoundError:
        raise WorkspaceError(f"no signing key at {path}; {_MAKE_ONE}") from None
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm):  # the cause is not told: it may quote the file
        raise WorkspaceError(f"{path} is no readable private key; restore it from a backup, or {_MAKE_ONE}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise WorkspaceError(f"{path} is no Ed25519 key, the only kind that Lethe signs with; {_MAKE_ONE}")
    return key


def _pem(public: Ed25519PublicKey) -> bytes:
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _public(pem: bytes) -> Ed25519PublicKey:
    if b"PRIVATE KEY" in pem:
        raise DataError(f"this is a private key, expected the public one, {PUBLIC}; keep the other to yourself")
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise DataError(f"this is no public key in PEM; expected a file such as keys/{PUBLIC}") from None
    if not isinstance(key, Ed25519PublicKey):
        raise DataError(f"this is a public key of another kind, expected Ed25519, as in keys/{PUBLIC}")
    return key
