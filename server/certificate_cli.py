"""The commands on certificates and on the signing key; `simulations/cli.py` mounts them and prints errors.

`lethe certificate verify FILE --key PUB` needs no workspace. Nothing heavy is imported before a command runs.
"""

import hashlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.workspace import Workspace
from shared.errors import AuditError, DataError, UsageError, WorkspaceError
from shared.terminal import note, show

if TYPE_CHECKING:
    from server.statement import Statement
    from server.verification import Report

certificate = typer.Typer(help="Check, read and list certificates of unlearning.", no_args_is_help=True)
keys = typer.Typer(help="The key that certificates are signed with.", no_args_is_help=True)

Home = Annotated[Path, typer.Option("--home", envvar="LETHE_HOME", help="The workspace.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
HOME = Path("lethe-home")


@certificate.command("verify")
def verify_certificate(
    file: Annotated[Path, typer.Argument(help="The certificate.", show_default=False)],
    key: Annotated[
        list[Path] | None,
        typer.Option("--key", help="The hospital's public key; without it, the workspace's.", show_default=False),
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option("--bundle", help="The ONNX file that is in use.", show_default=False)
    ] = None,
    model: Annotated[
        Path | None, typer.Option("--model", help="The model file that is in use.", show_default=False)
    ] = None,
    home: Home = HOME,
    as_json: AsJson = False,
) -> None:
    """Check a certificate and say what was checked; with --key offline and without any workspace.

    Exit code 4: it cannot be relied on; 5: it is no certificate.
    """
    from datetime import UTC, datetime

    from server import certificate_views
    from server.ledger import Entry
    from server.statement import BUNDLE, MODEL
    from server.verification import verify

    data = _bytes(file)
    files = {name: _sha256(path) for name, path in ((BUNDLE, bundle), (MODEL, model)) if path is not None}
    entries: list[Entry] | None = None
    public = [_bytes(path) for path in key or ()]
    if not public:
        try:
            public, entries = _of_workspace(home)
        except WorkspaceError as error:
            raise WorkspaceError(f"{error}; outside of a workspace give the hospital's public key with --key") from None
    report = verify(data, public, now=datetime.now(UTC), files=files, ledger=entries)
    show(_told(file, report), as_json=as_json, render=lambda: certificate_views.report_page(file.name, report))
    if not report.accepted:
        raise AuditError(f"certificate {file}: {report.sentence}")


@certificate.command("show")
def show_certificate(
    name: Annotated[str, typer.Argument(metavar="FILE|JOB", help="A certificate, or the id of a job.")],
    home: Home = HOME,
    as_json: AsJson = False,
) -> None:
    """Print what a certificate says, without checking its signature."""
    from server import certificate_views

    path = Path(name)
    if not path.is_file():
        path = _issued(Workspace.open(home), name)
    statement = _read(path)
    result = {"file": str(path), "verified": False, **statement.model_dump(mode="json", by_alias=True)}
    show(result, as_json=as_json, render=lambda: certificate_views.certificate_page(path.name, statement))


@certificate.command("list")
def list_certificates(home: Home = HOME, as_json: AsJson = False) -> None:
    """List the certificates of a workspace, each checked with the keys that it knows."""
    from datetime import UTC, datetime

    from server import certificate_views
    from server.verification import verify

    workspace = Workspace.open(home)
    public, _ = _of_workspace(home)
    rows: list[dict[str, Any]] = []
    for path in sorted(workspace.certificates.glob("*.json")):
        try:
            report = verify(_bytes(path), public, now=datetime.now(UTC))
            rows.append({"name": path.stem, **_told(path, report)})
        except DataError as error:
            rows.append({"name": path.stem, "file": str(path), "accepted": False, "sentence": str(error)})
    show({"certificates": rows}, as_json=as_json, render=lambda: certificate_views.certificate_table(rows))


@keys.command("show")
def show_keys(home: Home = HOME, as_json: AsJson = False) -> None:
    """Print the fingerprints of the public keys, and where they are; never the private one."""
    from server import certificate_views
    from server import keys as store

    workspace = Workspace.open(home)
    known = store.known(workspace.keys)
    signs = (workspace.keys / store.PRIVATE).exists()
    result = {"signs": signs, "keys": [{**vars(one), "path": str(one.path)} for one in known]}
    show(result, as_json=as_json, render=lambda: certificate_views.key_lines(known, signs=signs))


@keys.command("rotate")
def rotate_key(
    home: Home = HOME,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a new signing key; the old private key is destroyed, its public key is kept."""
    from server import keys as store
    from server.registry import Registry

    workspace = Workspace.open(home)
    if not yes:
        _confirm(workspace.keys / store.PRIVATE)
    with (
        workspace.launching(),
        workspace.lock("keys rotate"),
        Registry.open(workspace.registry_path) as registry,
    ):
        old, new = store.rotate(workspace.keys)
        registry.note_key(new)
    public = workspace.keys / store.PUBLIC
    kept = workspace.keys / store.OLD / f"{old}.pub.pem"
    lines = [f"new key {new}", f"public key {public}: give it to those who verify"]
    lines += [f"old key {old}, still good for what it signed: {kept}"] if old else []
    result = {"old": old, "new": new, "public": str(public)}
    show(result, as_json=as_json, render=lambda: "\n".join(lines))


def _confirm(private: Path) -> None:
    """Ask at a terminal.

    Raises:
        UsageError: there is nobody to ask.
    """
    if not private.exists():  # nothing is destroyed
        return
    what = f"the private key {private} is destroyed, for good, and a new one signs from now on"
    if not sys.stdin.isatty():
        raise UsageError(f"{what}, and there is no terminal to ask at; confirm with --yes")
    note(f"If you go on, {what}.")
    print("Rotate? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        note("Nothing was changed.")
        raise typer.Exit(1)


def _of_workspace(home: Path) -> tuple[list[bytes], list[Any]]:
    """Return the public keys of a workspace and the entries of its ledger."""
    from server import keys as store
    from server.registry import Registry

    workspace = Workspace.open(home)
    public = [_bytes(one.path) for one in store.known(workspace.keys)]
    if not public:
        raise UsageError(f"no public key in {workspace.keys}; give one with --key, or make one: `lethe keys rotate`")
    with Registry.open(workspace.registry_path) as registry:
        return public, registry.ledger()


def _issued(workspace: Workspace, name: str) -> Path:
    """Return the file of a certificate, by its own name or by the id of its job.

    Raises:
        UsageError: there is none; that of a forgotten patient is found by no job.
    """
    from server.certificate import path_of
    from server.registry import Registry

    files = {path.stem: path for path in workspace.certificates.glob("*.json")}
    with Registry.open(workspace.registry_path) as registry:
        by_job = {job.id: path_of(workspace, registry, job).stem for job in registry.jobs() if job.id == name}
    path = files.get(by_job.get(name, name))
    if path is None:
        known = ", ".join(sorted(files)) or "none"
        raise UsageError(
            f"{name!r} is no file, no certificate and no job with one; there are: {known}. Of whom everything is "
            "forgotten, the certificate is found by no job any more"
        )
    return path


def _bytes(path: Path) -> bytes:
    """Return a certificate or a key; one byte more than the largest of them shows that a file is neither."""
    from server.evidence import MOST_BYTES

    with _opened(path) as file:
        return file.read(MOST_BYTES + 1)


def _sha256(path: Path) -> str:
    with _opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _opened(path: Path) -> Iterator[BufferedReader]:
    """Open a file to read; what never ends, such as a device or a pipe, is no file here.

    Raises:
        DataError: it is none, or cannot be read.
    """
    try:
        if path.exists() and not path.is_file():
            raise DataError(f"{path} is no file; check the path")
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}); check the path") from None


def _read(path: Path) -> "Statement":
    from server import evidence

    return evidence.read_payload(evidence.read(_bytes(path)).payload)


def _told(path: Path, report: "Report") -> dict[str, Any]:
    said = report.certificate
    return {
        "file": str(path),
        "accepted": report.accepted,
        "sentence": report.sentence,
        "checks": [vars(finding) for finding in report.findings],
        "certificate": said.model_dump(mode="json", by_alias=True) if said is not None else None,
    }
