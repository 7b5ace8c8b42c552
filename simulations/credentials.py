"""Keys and certificates of a deployment: how devices know the hospital, and how the hospital knows each device.

    deploy/address            where devices reach the hospital: host:port
    deploy/ca.pem, ca.key     the authority: devices trust what it signed, and nobody else
    deploy/server.pem, .key   the SuperLink's certificate and key, for that host and for this machine itself
    deploy/devices/<slot>/    one device's kit, to be carried to it: device.key, device.pub, ca.pem, device.json

Keys are on elliptic curves and not encrypted; files have mode 0600, folders 0700. Whoever has a kit is that device;
a slot whose kit was removed gets another key, never the old one again.
"""

import ipaddress
import json
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    SECP384R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from shared.errors import DataError, UsageError, WorkspaceError
from shared.files import flush_folder, write_atomically

AUTHORITY_DAYS = 3650
SERVER_DAYS = 730
SLACK = timedelta(days=1)  # a device whose clock is slow by that much can connect all the same
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")


@dataclass(frozen=True)
class Address:
    """Where devices reach the hospital: a name or an IPv4 address, and a port."""

    host: str
    port: int

    @classmethod
    def of(cls, text: str) -> "Address":
        """Read "host:port".

        Raises:
            UsageError: it is something else.
        """
        host, _, port = text.rpartition(":")
        if not _HOST.fullmatch(host) or not port.isdecimal() or not 0 < int(port) < 65536:
            raise UsageError(
                f"{text!r} is no address, expected a name or an IPv4 address and a port: hospital.lan:9092"
            )
        return cls(host, int(port))

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def here(self) -> bool:
        """Return whether it leads to the machine itself: then nobody else is to reach the SuperLink at all."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


@dataclass(frozen=True)
class Kit:
    """What one device carries.

    Attributes:
        folder: where it lies.
        slot: which device it is.
        superlink: where it finds the hospital.
    """

    folder: Path
    slot: int
    superlink: str

    @classmethod
    def open(cls, folder: Path) -> "Kit":
        """Read a device's kit.

        Raises:
            DataError: there is none, or it is not whole.
        """
        try:
            content = json.loads((folder / "device.json").read_text())
            kit = cls(folder.resolve(), int(content["slot"]), str(Address.of(content["superlink"])))
        except (OSError, ValueError, KeyError, TypeError, UsageError) as error:
            raise DataError(
                f"no device's kit at {folder} ({error!r}); `lethe deploy keys` makes them at the hospital"
            ) from error
        for path in (kit.key, kit.authority):
            if not path.exists():
                raise DataError(f"{path} is missing; carry the whole kit from the hospital's deploy/devices/{kit.slot}")
        if kit.key.stat().st_mode & 0o077:
            raise DataError(f"others may read {kit.key}; if nobody did, `chmod 600 {kit.key}`, else have it replaced")
        return kit

    @property
    def key(self) -> Path:
        """Return the device's private key."""
        return self.folder / "device.key"

    @property
    def public(self) -> Path:
        """Return its public key."""
        return self.folder / "device.pub"

    @property
    def authority(self) -> Path:
        """Return the certificate that says whom to trust as the hospital."""
        return self.folder / "ca.pem"


def make(folder: Path, *, address: Address, slots: Iterable[int]) -> list[int]:
    """Make what a deployment lacks, and the server's certificate anew; return the slots that were given a key.

    Doing it again leaves the authority and the devices' keys as they are: kits that were carried away stay valid.
    """
    for path in (folder, folder / "devices"):
        path.mkdir(mode=0o700, exist_ok=True)
    authority = _authority(folder)
    key = generate_private_key(SECP256R1())
    write_atomically(folder / "server.key", _private(key, PrivateFormat.PKCS8))
    write_atomically(folder / "server.pem", _certified(key, address, by=authority).public_bytes(Encoding.PEM))
    write_atomically(folder / "address", f"{address}\n".encode())
    return [slot for slot in slots if _kit(folder, slot, address)]


def address(folder: Path) -> Address:
    """Return where devices reach the hospital.

    Raises:
        WorkspaceError: nothing is deployed from here.
    """
    try:
        return Address.of((folder / "address").read_text().strip())
    except (OSError, UsageError) as error:
        raise WorkspaceError(f"no usable {folder / 'address'}; `lethe deploy keys` makes one") from error


def valid_until(folder: Path) -> datetime:
    """Return when the server's certificate ends; `make` makes the next.

    Raises:
        WorkspaceError: there is none.
    """
    try:
        return x509.load_pem_x509_certificate((folder / "server.pem").read_bytes()).not_valid_after_utc
    except (OSError, ValueError) as error:
        raise WorkspaceError(f"no usable {folder / 'server.pem'}; `lethe deploy keys` makes one") from error


def kits(folder: Path) -> dict[int, Kit]:
    """Return the kits that are here, by slot; what cannot be read is none."""
    found = {}
    for path in sorted((folder / "devices").glob("*/device.pub")):
        try:
            kit = Kit.open(path.parent)
        except DataError:
            continue
        found[kit.slot] = kit
    return found


def discard(kit: Kit) -> None:
    """Remove a device's kit for good: the private key first."""
    kit.key.unlink(missing_ok=True)
    shutil.rmtree(kit.folder, ignore_errors=True)
    flush_folder(kit.folder.parent)


def _kit(folder: Path, slot: int, address: Address) -> bool:
    """Make or refresh the kit of a slot, and tell whether its key is new; `device.json` last makes it whole."""
    kit = Kit(folder / "devices" / str(slot), slot, str(address))
    kit.folder.mkdir(mode=0o700, exist_ok=True)
    new = not (kit.key.exists() and kit.public.exists())
    if new:
        key = generate_private_key(SECP384R1())  # Flower takes the curves of NIST
        write_atomically(kit.key, _private(key, PrivateFormat.OpenSSH))
        write_atomically(kit.public, key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH))
    write_atomically(kit.authority, (folder / "ca.pem").read_bytes())
    write_atomically(kit.folder / "device.json", json.dumps({"slot": slot, "superlink": kit.superlink}).encode())
    return new


def _authority(folder: Path) -> tuple[EllipticCurvePrivateKey, x509.Certificate]:
    """Return the authority's key and certificate, made at the first call."""
    private, public = folder / "ca.key", folder / "ca.pem"
    if private.exists() or public.exists():
        try:
            key = load_pem_private_key(private.read_bytes(), password=None)
            certificate = x509.load_pem_x509_certificate(public.read_bytes())
            assert isinstance(key, EllipticCurvePrivateKey)
        except (OSError, ValueError, TypeError, AssertionError):
            raise WorkspaceError(
                f"{private} and {public} are no usable pair; restore them from a backup, or remove {folder} and carry "
                "new kits to all devices"
            ) from None
        return key, certificate
    key = generate_private_key(SECP256R1())
    name = _named("Lethe devices' authority")
    certificate = (
        _builder(name, key, issuer=name, days=AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    write_atomically(private, _private(key, PrivateFormat.PKCS8))
    write_atomically(public, certificate.public_bytes(Encoding.PEM))
    return key, certificate


def _certified(
    key: EllipticCurvePrivateKey, address: Address, *, by: tuple[EllipticCurvePrivateKey, x509.Certificate]
) -> x509.Certificate:
    """Return a server's certificate for an address and for the machine itself, where the app talks to the SuperLink."""
    signer, authority = by
    names = [_alternative(host) for host in dict.fromkeys(["localhost", "127.0.0.1", address.host])]
    return (
        _builder(_named("Lethe SuperLink"), key, issuer=authority.subject, days=SERVER_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, hashes.SHA256())
    )


def _builder(
    subject: x509.Name, key: EllipticCurvePrivateKey, *, issuer: x509.Name, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder(subject_name=subject, issuer_name=issuer, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SLACK)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _private(key: EllipticCurvePrivateKey, form: PrivateFormat) -> bytes:
    return key.private_bytes(Encoding.PEM, form, NoEncryption())
