"""The commands of a deployment, in which devices are machines of their own."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.workspace import Workspace
from shared.errors import RunError, UsageError, WorkspaceError
from shared.terminal import note, show

if TYPE_CHECKING:
    from simulations.deployment import Admitted

app = typer.Typer(help="Real devices: their keys, their SuperLink, who is let in.", no_args_is_help=True)

Home = Annotated[Path, typer.Option("--home", envvar="LETHE_HOME", help="The workspace.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
PatientId = Annotated[str, typer.Option("--patient", help="Whose device, by the patient's id.", show_default=False)]
HOME = Path("lethe-home")
ADDRESS = "127.0.0.1:9092"
LOOK_S = 1.0
SOON_DAYS = 30


@app.command()
def keys(
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            help=f"Where devices reach the hospital, host:port; as before, or {ADDRESS}.",
            show_default=False,
        ),
    ] = None,
    home: Home = HOME,
    as_json: AsJson = False,
) -> None:
    """Make the certificates and a key for every device that has none, and let these in.

    From then on a run asks real devices, and simulates none.
    """
    from simulations import credentials, deployment

    workspace = Workspace.open(home)
    folder = workspace.deploy
    known = str(credentials.address(folder)) if folder.exists() and address is None else ADDRESS
    where = credentials.Address.of(address or known)
    new = credentials.make(folder, address=where, slots=_worn(workspace).values())
    admitted = deployment.admit(workspace)
    until = credentials.valid_until(folder)
    result = {"folder": str(folder), "address": str(where), "new": new, "certificate_until": until.isoformat()}
    made = f"new keys for {_devices(new)}" if new else "no device lacked a key"
    lines = [f"{made}; each device's kit is a folder of {folder / 'devices'}"]
    lines += [f"devices reach the hospital at {where}; its certificate ends on {until:%Y-%m-%d}"]
    lines += [_told(admitted)] if admitted.registered or admitted.cut_off else []
    show(result, as_json=as_json, render=lambda: "\n".join(lines))


@app.command()
def superlink(home: Home = HOME) -> None:
    """Run the SuperLink that devices connect to, until Ctrl-C; `lethe run` hands it the work that is due."""
    from datetime import UTC, datetime
    from time import sleep

    from shared.interrupts import heed
    from simulations import credentials, deployment

    workspace = Workspace.open(home)
    with deployment.serving(workspace) as link:
        admitted = deployment.admit(workspace)
        until = credentials.valid_until(workspace.deploy)
        if (until - datetime.now(UTC)).days < SOON_DAYS:
            note(f"the server's certificate ends on {until:%Y-%m-%d}; `lethe deploy keys` makes the next")
        where = credentials.address(workspace.deploy)
        note(f"{len(admitted.registered)} devices may connect to {where}; Ctrl-C ends this")
        while not (how := link.ended()):
            sleep(LOOK_S)
            heed()
    raise RunError(f"Flower's SuperLink {how}; see {link.log}")


@app.command()
def device(
    patient: Annotated[
        str | None, typer.Option("--patient", help="A device on the hospital's own machine.", show_default=False)
    ] = None,
    kit: Annotated[
        Path | None, typer.Option("--kit", help="Elsewhere: the folder of the device's kit.", show_default=False)
    ] = None,
    home: Home = HOME,
) -> None:
    """Run one device, until Ctrl-C or until the hospital cuts it off."""
    from simulations.supernode import Device, wear

    if (patient is None) == (kit is None):
        raise UsageError("name either --patient, on the hospital's machine, or --kit, on the device's own")
    if kit is not None:
        worn = Device.carried(kit)
    else:
        workspace = Workspace.open(home)
        worn = Device.beside(workspace, _slot(workspace, str(patient)))
    wear(worn, connected=lambda: note(f"device {worn.kit.slot} is connected to {worn.kit.superlink}; Ctrl-C ends it"))


@app.command("list")
def list_devices(home: Home = HOME, as_json: AsJson = False) -> None:
    """List the devices that are let in, and whether they are connected."""
    from server.roll_call import node_name
    from simulations import credentials, deployment

    workspace = Workspace.open(home)
    registered = {}
    if deployment.is_running(workspace):
        with deployment.roster(workspace) as known:
            registered = dict(known.nodes())
    slots = sorted(credentials.kits(_deployed(workspace)))
    online = {slot: node_name(slot) in registered and registered[node_name(slot)].online for slot in slots}
    lines = [f"device {slot}: {'connected' if online[slot] else 'not connected'}" for slot in slots]
    if not deployment.is_running(workspace):
        lines.append("no SuperLink runs; `lethe deploy superlink` starts it")
    result = {"devices": [{"slot": slot, "connected": online[slot]} for slot in slots]}
    show(result, as_json=as_json, render=lambda: "\n".join(lines))


@app.command()
def unregister(patient: PatientId, home: Home = HOME, as_json: AsJson = False) -> None:
    """Cut a device off for good, one that was lost for example; `lethe deploy keys` makes a key for another."""
    from server.registry import Registry
    from server.rows import DUE
    from simulations import credentials, deployment

    workspace = Workspace.open(home)
    slot = _slot(workspace, patient)
    kit = credentials.kits(_deployed(workspace)).get(slot)
    if kit is not None:
        credentials.discard(kit)
    admitted = deployment.admit(workspace)
    with Registry.open(workspace.registry_path) as registry:
        due = [job.id for job in registry.jobs(DUE) if job.slot == slot]
    lines = [f"device {slot} is let in no more" if kit or admitted.cut_off else f"device {slot} was not let in anyway"]
    lines += [f"job {job} stays due: nobody can tell whether that device forgets" for job in due]
    result = {"slot": slot, "changed": kit is not None or bool(admitted.cut_off), "due": due}
    show(result, as_json=as_json, render=lambda: "\n".join(lines))


def _deployed(workspace: Workspace) -> Path:
    if not workspace.deployed:
        raise WorkspaceError(f"nothing is deployed from {workspace.home}; `lethe deploy keys` begins it")
    return workspace.deploy


def _worn(workspace: Workspace) -> dict[str, int]:
    """Return the slots of the patients who are not forgotten, by patient."""
    from server.registry import Registry

    with Registry.open(workspace.registry_path) as registry:
        gone = registry.forgotten()
        people = registry.patients("wearable")
    return {one.id: one.slot for one in people if one.slot is not None and one.slot not in gone}


def _slot(workspace: Workspace, patient: str) -> int:
    from server.registry import Registry

    with Registry.open(workspace.registry_path) as registry:
        slot = registry.patient(patient).slot
    if slot is None:
        raise UsageError(f"patient {patient} wears no device; `lethe patients list` names those who do")
    return slot


def _told(admitted: "Admitted") -> str:
    parts = [f"let in: {_devices(admitted.registered)}"] if admitted.registered else []
    parts += [f"cut off: {_devices(admitted.cut_off)}"] if admitted.cut_off else []
    return "; ".join(parts)


def _devices(slots: "list[int] | tuple[int, ...]") -> str:
    return f"{'device' if len(slots) == 1 else 'devices'} {', '.join(map(str, slots))}"
