"""The signing key: made once, for its owner's eyes only, replaced without losing what it signed."""

import hashlib
import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_public_key,
)

from server import keys
from server.workspace import Workspace
from shared.errors import DataError, WorkspaceError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    room = Workspace.create(tmp_path / "home", data=tmp_path).keys
    keys.make(room)
    return room


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("umask", [0o022, 0o000, 0o077])
def test_nobody_but_the_owner_may_read_the_key_or_enter_its_room(tmp_path, umask):
    before = os.umask(umask)
    try:
        room = Workspace.create(tmp_path / "home", data=tmp_path).keys
        keys.make(room)
        keys.rotate(room)
    finally:
        os.umask(before)
    assert mode(room) == mode(room / "old") == 0o700
    assert mode(room / "signing.pem") == 0o600
    assert {mode(path) for path in room.rglob("*.pub.pem")} == {0o644}


def test_what_one_key_signs_its_public_key_verifies(folder):
    signature = keys.signer(folder).sign(b"erased")
    public = (folder / "signing.pub.pem").read_bytes()
    keys.verifier(public).verify_signature(signature, b"erased")
    assert signature.keyid == keys.fingerprint(public)


def test_a_fingerprint_is_the_sha256_of_the_public_key_in_der(folder):
    public = (folder / "signing.pub.pem").read_bytes()
    der = load_pem_public_key(public).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert keys.fingerprint(public) == hashlib.sha256(der).hexdigest()


def test_a_key_is_not_made_twice(folder):
    before = (folder / "signing.pem").read_bytes()
    with pytest.raises(WorkspaceError, match="already; `lethe keys rotate`"):
        keys.make(folder)
    assert (folder / "signing.pem").read_bytes() == before


def test_rotation_keeps_the_old_public_key_and_no_old_private_one(folder):
    secret, public = (folder / "signing.pem").read_bytes(), (folder / "signing.pub.pem").read_bytes()
    inode = folder / "another-name"
    inode.hardlink_to(folder / "signing.pem")
    old, new = keys.rotate(folder)
    assert old == keys.fingerprint(public) != new
    assert [(key.fingerprint, key.current) for key in keys.known(folder)] == [(new, True), (old, False)]
    assert (folder / "old" / f"{old}.pub.pem").read_bytes() == public
    assert inode.read_bytes() == bytes(len(secret))  # overwritten, not only unlinked
    assert all(secret not in path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_a_rotation_that_is_interrupted_leaves_a_key_that_signs(folder, monkeypatch):
    old = keys.known(folder)[0].fingerprint
    write = keys.write_atomically

    def killed(path: Path, data: bytes) -> None:
        if path.name == "signing.pub.pem":
            raise KeyboardInterrupt
        write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(keys, "write_atomically", killed)
        with pytest.raises(KeyboardInterrupt):
            keys.rotate(folder)
    new = keys.signer(folder).sign(b"x").keyid
    assert [key.fingerprint for key in keys.known(folder)] == [new, old]


@pytest.mark.parametrize("content", [None, b"", b"-----BEGIN PRIVATE KEY-----\nMC4CAQ"])
def test_a_lost_or_damaged_key_is_named_and_can_be_replaced(folder, content):
    (folder / "signing.pem").unlink()
    if content is not None:
        (folder / "signing.pem").write_bytes(content)
        (folder / "signing.pem").chmod(0o600)
    with pytest.raises(WorkspaceError, match="`lethe keys rotate` makes a new one"):
        keys.signer(folder)
    before = keys.known(folder)[0].fingerprint
    old, new = keys.rotate(folder)
    assert old == before
    assert keys.signer(folder).sign(b"x").keyid == new


def test_a_workspace_without_any_key_gets_one(folder):
    for path in (folder / "signing.pem", folder / "signing.pub.pem"):
        path.unlink()
    folder.rmdir()
    old, new = keys.rotate(folder)
    assert old is None
    assert [key.fingerprint for key in keys.known(folder)] == [new]
    assert mode(folder) == 0o700


def test_a_damaged_public_key_is_made_again_from_the_private_one(folder):
    public = (folder / "signing.pub.pem").read_bytes()
    (folder / "signing.pub.pem").write_bytes(b"torn")
    keys.signer(folder)
    assert (folder / "signing.pub.pem").read_bytes() == public


def test_a_key_that_others_may_read_signs_nothing(folder):
    (folder / "signing.pem").chmod(0o640)
    with pytest.raises(WorkspaceError, match=r"mode 0640, expected 0600"):
        keys.signer(folder)


def test_a_key_of_another_kind_is_refused(folder):
    rsa = generate_private_key(65537, 2048)
    (folder / "signing.pem").write_bytes(rsa.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(WorkspaceError, match="no Ed25519 key"):
        keys.signer(folder)
    with pytest.raises(DataError, match="another kind, expected Ed25519"):
        keys.fingerprint(rsa.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def test_a_private_key_given_for_the_public_one_is_refused_and_not_told(folder):
    secret = (folder / "signing.pem").read_bytes()
    with pytest.raises(DataError, match="this is a private key") as refused:
        keys.verifier(secret)
    assert secret.decode().splitlines()[1] not in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"\xff", b"-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n"])
def test_what_is_no_public_key_is_refused(content):
    with pytest.raises(DataError, match="no public key in PEM"):
        keys.fingerprint(content)


def test_two_keys_never_are_the_same(folder):
    secret = (folder / "signing.pem").read_bytes()
    keys.rotate(folder)
    assert (folder / "signing.pem").read_bytes() != secret
