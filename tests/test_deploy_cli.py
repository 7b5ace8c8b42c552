"""The commands of a deployment, as far as they go without Flower: what they print, and when they refuse."""

import fcntl
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from enrolled import digests, enrol
from typer.testing import CliRunner

from server import keys
from server.cli import patients
from server.registry import Registry
from server.workspace import Workspace
from shared.errors import LetheError, UsageError, WorkspaceError
from simulations import credentials, deployment
from simulations.deploy_cli import app
from simulations.supernode import Device, wear


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = Workspace.create(tmp_path / "home", data=tmp_path)
    keys.make(workspace.keys)
    with Registry.create(workspace.registry_path) as registry:
        enrol(registry, "7", role="wearable", records=digests("70", "71"), slot=0)
        enrol(registry, "17", role="wearable", records=digests("170"), slot=3)
        enrol(registry, "9", role="corpus", records=digests("90"))
    return workspace


@pytest.fixture
def lethe(workspace: Workspace) -> Callable[..., str]:
    def run(*arguments: str, of: object = app) -> str:
        """Return what is printed on stdout, or raise what the root would report."""
        result = CliRunner(env={"LETHE_HOME": str(workspace.home), "COLUMNS": "80"}).invoke(of, arguments)
        if isinstance(result.exception, LetheError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.stdout

    return run


def test_keys_are_made_for_every_device_and_made_once(lethe, workspace) -> None:
    assert json.loads(lethe("keys", "--json"))["new"] == [0, 3]
    before = {path: path.read_bytes() for path in (workspace.deploy / "devices").rglob("*") if path.is_file()}
    result = json.loads(lethe("keys", "--json"))
    assert (result["new"], result["address"]) == ([], "127.0.0.1:9092")
    assert all(path.read_bytes() == content for path, content in before.items())


def test_the_address_stays_until_another_is_named(lethe) -> None:
    lethe("keys", "--address", "hospital.lan:443")
    assert "devices reach the hospital at hospital.lan:443" in lethe("keys")
    with pytest.raises(UsageError, match="is no address"):
        lethe("keys", "--address", "hospital.lan")


def test_somebody_enrolled_later_gets_a_key(lethe, workspace) -> None:
    lethe("keys")
    with Registry.open(workspace.registry_path) as registry:
        enrol(registry, "19", role="wearable", records=digests("190"))
    assert json.loads(lethe("keys", "--json"))["new"] == [4]


def test_a_device_is_unregistered_once_and_told_what_stays_due(lethe, workspace) -> None:
    lethe("keys")
    lethe("withdraw", "7", "--yes", of=patients)
    with Registry.open(workspace.registry_path) as registry:
        (job,) = registry.jobs()
    assert f"job {job.id} stays due" in lethe("unregister", "--patient", "7")
    assert sorted(credentials.kits(workspace.deploy)) == [3]
    again = json.loads(lethe("unregister", "--patient", "7", "--json"))
    assert again == {"slot": 0, "changed": False, "due": [job.id]}


def test_word_is_not_promised_to_a_device_on_a_machine_of_its_own(lethe) -> None:
    lethe("keys")
    told = " ".join(lethe("withdraw", "7", "--yes", of=patients).split())
    assert "Device 0, where it runs on this machine, has word" in told
    assert "One on a machine of its own learns of it with the next message" in told


def test_the_list_says_who_has_a_kit_and_that_nobody_serves(lethe) -> None:
    lethe("keys")
    assert lethe("list").splitlines() == [
        "device 0: not connected",
        "device 3: not connected",
        "no SuperLink runs; `lethe deploy superlink` starts it",
    ]


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (["device"], UsageError, "name either --patient"),
        (["device", "--patient", "7", "--kit", "x"], UsageError, "name either --patient"),
        (["device", "--patient", "9"], UsageError, "patient 9 wears no device"),
        (["device", "--patient", "70"], UsageError, "no patient '70'"),
        (["unregister", "--patient", "9"], UsageError, "patient 9 wears no device"),
        (["unregister", "--patient", "7"], WorkspaceError, "nothing is deployed"),
        (["list"], WorkspaceError, "nothing is deployed"),
        (["superlink"], WorkspaceError, "`lethe deploy keys` makes one"),
    ],
)
def test_what_makes_no_sense_is_refused_and_changes_nothing(lethe, workspace, arguments, error, says) -> None:
    with pytest.raises(error, match=says):
        lethe(*arguments)
    assert not workspace.deployed


def test_a_device_that_runs_already_is_not_run_twice(lethe, workspace) -> None:
    lethe("keys")
    device = Device.beside(workspace, 3)
    assert device.folder == workspace.devices / "3"
    with device.log.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(WorkspaceError, match="device 3 runs already"):
            wear(device, connected=print)


def test_a_carried_kit_is_all_that_a_device_needs(lethe, workspace, tmp_path) -> None:
    lethe("keys", "--address", "hospital.lan:443")
    kit = (workspace.deploy / "devices" / "3").rename(tmp_path / "kit")
    device = Device.carried(kit)
    assert (device.kit.slot, device.kit.superlink, device.notice) == (3, "hospital.lan:443", None)
    assert {device.folder, device.feed, device.log} == {kit / "device", kit / "feed.json", kit / "device.log"}


def test_the_kit_of_a_forgotten_patient_goes_also_while_nobody_serves(lethe, workspace) -> None:
    lethe("keys")
    with Registry.open(workspace.registry_path) as registry:
        (job,) = registry.withdraw("17")
        for state in ("DISPATCHED", "UNLEARNED", "AUDITED", "CERTIFIED"):
            assert sorted(credentials.kits(workspace.deploy)) == [0, 3]
            deployment.admit(workspace)  # while it has something to forget, the device is needed
            registry.advance(job.id, state, detail={"method": "exact"})
    deployment.admit(workspace)
    assert sorted(credentials.kits(workspace.deploy)) == [0]
    assert json.loads(lethe("keys", "--json"))["new"] == []
