"""A real deployment on loopback: a SuperLink, two devices with keys of their own, TLS; many claims about it.

One patient withdraws, is forgotten and cut off; the other's device is unregistered. Afterwards nothing runs on.
"""

import shutil
import signal
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from flower_runs import TINY, Lethe, error_line, nothing_left_running, prepared, registry_is_sound, result_of

from client.store import Store
from server.registry import Registry
from server.workspace import Workspace
from shared.errors import RunError, WorkspaceError
from simulations import credentials, deployment, main_job

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]

# Each message starts a process: an audit of copies, tested elsewhere, would cost one more a device.
SETTINGS = TINY.with_values({"cohort.wearables": 2, "unlearning.rehearsals": 0, "audit.copies": 0})
ASTRAY = {"HTTPS_PROXY": "http://127.0.0.1:9", "ALL_PROXY": "http://127.0.0.1:9", "FORWARDED_ALLOW_IPS": "*"}


@dataclass
class Seen:
    """What was seen while two devices were deployed."""

    home: Path
    patients: dict[int, str] = field(default_factory=dict)
    stranger: tuple[int, str, str] = (0, "", "")
    first: dict[str, Any] = field(default_factory=dict)
    second: dict[str, Any] = field(default_factory=dict)
    forgotten: tuple[int, str, str] = (0, "", "")
    copied: tuple[int, str, str] = (0, "", "")
    unregistered: tuple[int, str, str] = (0, "", "")
    superlink: tuple[int, str, str] = (0, "", "")


def of(workspace: Workspace) -> dict[int, str]:
    with Registry.open(workspace.registry_path) as registry:
        return {patient.slot: patient.id for patient in registry.patients("wearable")}


def belongs_to(folder: Path) -> list[str]:
    """The commands of living processes that name a folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = " ".join(process.info["cmdline"] or [])
        if str(folder) in command:
            found.append(command)
    return found


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    folder = tmp_path_factory.mktemp("deployment")
    workspace = prepared(folder / "home", data=folder / "data", settings=SETTINGS)
    seen = Seen(workspace.home, of(workspace))
    at = ["--home", str(workspace.home)]

    def lethe(*arguments: str) -> Lethe:
        return Lethe(*arguments, folder=folder, environment=ASTRAY)

    def done(*arguments: str) -> str:
        code, out, err = lethe(*arguments).end(within=300)
        assert code == 0, err
        return out

    with nothing_left_running():
        done("deploy", "keys", "--address", f"127.0.0.1:{free_port()}", *at)
        superlink = lethe("deploy", "superlink", *at)
        superlink.until(lambda: deployment.is_running(workspace))
        wait_for(superlink, workspace, connected=0)
        devices = {slot: lethe("deploy", "device", "--patient", seen.patients[slot], *at) for slot in (0, 1)}
        seen.stranger = stranger(folder / "stranger", workspace, lethe)
        wait_for(superlink, workspace, connected=2)
        copy = shutil.copytree(workspace.deploy / "devices" / "0", folder / "copy")

        done("run", *at)
        seen.first = result_of(workspace.home)
        done("patients", "withdraw", seen.patients[0], "--yes", *at)
        done("run", *at)
        seen.second = result_of(workspace.home)
        seen.forgotten = devices[0].end(within=60)
        seen.copied = lethe("deploy", "device", "--kit", str(copy)).end(within=60)

        done("deploy", "unregister", "--patient", seen.patients[1], *at)
        seen.unregistered = devices[1].end(within=60)
        superlink.process.send_signal(signal.SIGINT)
        seen.superlink = superlink.end(within=30)
    return seen


def wait_for(superlink: Lethe, workspace: Workspace, *, connected: int) -> None:
    """Wait until so many devices are connected."""

    def ready() -> bool:
        try:
            with deployment.roster(workspace) as known:
                return len(known.nodes()) == 2 and sum(node.online for node in known.nodes().values()) >= connected
        except RunError:
            return False

    superlink.until(ready, within=60)


def stranger(folder: Path, workspace: Workspace, lethe: Any) -> tuple[int, str, str]:
    """Try to connect with a key that this hospital never registered, for a slot that it did."""
    folder.mkdir()
    credentials.make(folder, address=credentials.address(workspace.deploy), slots=[0])
    kit = folder / "devices" / "0"
    shutil.copy(workspace.deploy / "ca.pem", kit / "ca.pem")
    return lethe("deploy", "device", "--kit", str(kit)).end(within=60)


def test_a_key_that_was_never_registered_is_not_let_in(seen: Seen) -> None:
    code, _, err = seen.stranger
    assert code == 1
    assert "does not let device 0 in: its key is not registered there" in error_line(err)


def test_every_device_makes_its_personal_model(seen: Seen) -> None:
    assert [device["slot"] for device in seen.first["personal"]] == [0, 1]
    assert all(device["accepted"] for device in seen.first["personal"])


def test_a_withdrawn_patient_is_forgotten_and_certified(seen: Seen) -> None:
    (withdrawal,) = seen.second["withdrawals"]
    assert withdrawal["verdict"]["verdict"] == "PASS"
    assert withdrawal["certificate"]
    with Registry.open(seen.home / "registry.db") as registry:
        assert [job.state for job in registry.jobs()] == ["CERTIFIED"]
        assert registry.forgotten() == {0}
    store = Store(seen.home / "devices" / "0")
    assert store.record_ids() == ()
    assert store.state.model == store.state.general != ""
    assert registry_is_sound(seen.home)


def test_the_device_of_a_forgotten_patient_is_cut_off_and_its_key_is_gone(seen: Seen) -> None:
    code, _, err = seen.forgotten
    assert code == 1
    assert "device 0 was cut off" in error_line(err)
    assert not (seen.home / "deploy" / "devices" / "0").exists()


def test_whoever_has_kept_the_key_of_a_device_that_was_cut_off_is_not_let_in(seen: Seen) -> None:
    code, _, err = seen.copied
    assert code == 1
    assert "does not let device 0 in" in error_line(err)


def test_an_unregistered_device_is_cut_off(seen: Seen) -> None:
    code, _, err = seen.unregistered
    assert code == 1
    assert "device 1 was cut off" in error_line(err)


def test_ctrl_c_ends_the_superlink_and_nothing_stays_behind(seen: Seen) -> None:
    code, _, err = seen.superlink
    assert (code, error_line(err)) == (1, "error: interrupted; nothing is half done, run the command again")
    assert belongs_to(seen.home) == []
    left = {path.name for path in (seen.home / "deploy").iterdir()}
    assert left == {"address", "ca.key", "ca.pem", "devices", "server.key", "server.pem", "superlink.lock"}
    assert not list((seen.home / "flower").glob("*scratch*"))


def test_a_run_does_not_simulate_devices_that_are_deployed(seen: Seen) -> None:
    with pytest.raises(RunError, match="no SuperLink runs for them; start one with `lethe deploy superlink`"):
        main_job.run(Workspace.open(seen.home), SETTINGS)


def test_other_machines_reach_the_devices_interface_and_no_other(tmp_path: Path) -> None:
    """Seen from an address of this machine that is not its loopback one."""
    found = [one.address for name in psutil.net_if_addrs().values() for one in name if one.family == socket.AF_INET]
    elsewhere = [address for address in found if not address.startswith("127.")]
    if not elsewhere:
        pytest.skip("this machine has no address but the loopback one")
    workspace, port = Workspace.create(tmp_path / "home", data=tmp_path), free_port()
    credentials.make(workspace.deploy, address=credentials.Address(elsewhere[0], port), slots=[])
    trusted = ssl.create_default_context(cafile=str(workspace.deploy / "ca.pem"))
    with deployment.serving(workspace) as link, httpx.Client(verify=trusted, trust_env=False) as http:
        with pytest.raises(WorkspaceError, match="a SuperLink runs"), deployment.serving(workspace):
            pass

        def status(host: str, path: str) -> int:
            return http.post(f"https://{host}:{port}{path}").status_code

        for path in ("/v1/control/list-nodes", "/v1/control/start-run", "/v1/runtime/acquire-task", "/health", "/docs"):
            assert status(elsewhere[0], path) == 403, path
        assert status(elsewhere[0], "/v1/fleet/pull-messages") != 403
        assert status("127.0.0.1", "/v1/control/list-nodes") != 403
        with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
            httpx.get(f"https://127.0.0.1:{port}/health", trust_env=False)  # whom nobody told to trust the authority
    assert link.ended()
