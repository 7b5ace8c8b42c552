"""Keys of a deployment, who may speak for whom, and what other machines reach: quickly, without Flower's processes."""

import asyncio
import stat
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.app import Context, Error, Message, RecordDict
from local_grid import FIRST_NODE, LocalGrid

from client.app import app as client_app
from client.place import Place
from server.roll_call import directory, node_name
from server.workspace import Workspace
from shared.errors import DataError, RunError, UsageError, WorkspaceError
from shared.version import code_version
from simulations import credentials, deployment
from simulations.credentials import Address, Kit
from simulations.gate import Gate, is_let_by

NODE_UNAVAILABLE = 5  # Flower's code
HERE = Address("127.0.0.1", 9092)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    credentials.make(tmp_path / "deploy", address=HERE, slots=[0, 3])
    return tmp_path / "deploy"


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_file_is_for_its_owners_eyes_only(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_every_device_has_a_key_of_its_own(folder: Path) -> None:
    kits = credentials.kits(folder)
    assert sorted(kits) == [0, 3]
    assert len({kit.key.read_bytes() for kit in kits.values()}) == 2
    for kit in kits.values():
        key = load_ssh_private_key(kit.key.read_bytes(), None)
        assert isinstance(key, EllipticCurvePrivateKey)
        assert key.curve.name == "secp384r1"


def test_the_server_is_certified_for_where_it_is_reached_and_for_itself(tmp_path: Path) -> None:
    credentials.make(tmp_path / "deploy", address=Address("hospital.lan", 9092), slots=[])
    server, authority = (
        x509.load_pem_x509_certificate((tmp_path / "deploy" / name).read_bytes()) for name in ("server.pem", "ca.pem")
    )
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost", "hospital.lan"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    server.verify_directly_issued_by(authority)
    assert not server.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_doing_it_again_leaves_what_devices_have_carried_away(folder: Path) -> None:
    before = content(folder)
    assert credentials.make(folder, address=HERE, slots=[0, 3, 4]) == [4]
    after = content(folder)
    assert {name for name in before if before[name] != after[name]} == {"server.pem", "server.key"}


def test_another_address_reaches_the_kits(folder: Path) -> None:
    credentials.make(folder, address=Address("hospital.lan", 443), slots=[0, 3])
    assert {kit.superlink for kit in credentials.kits(folder).values()} == {"hospital.lan:443"}


def test_a_slot_whose_kit_was_removed_gets_another_key(folder: Path) -> None:
    kit = Kit.open(folder / "devices" / "0")
    before = kit.key.read_bytes()
    credentials.discard(kit)
    assert not kit.folder.exists()
    assert credentials.make(folder, address=HERE, slots=[0, 3]) == [0]
    assert kit.key.read_bytes() != before


def test_an_authority_that_is_lost_is_not_made_anew_silently(folder: Path) -> None:
    (folder / "ca.key").write_bytes(b"")
    before = content(folder)
    with pytest.raises(WorkspaceError, match="no usable pair; restore them from a backup"):
        credentials.make(folder, address=HERE, slots=[0])
    assert content(folder) == before


def test_a_key_that_others_may_read_is_refused(folder: Path) -> None:
    (folder / "devices" / "3" / "device.key").chmod(0o644)
    with pytest.raises(DataError, match="others may read"):
        Kit.open(folder / "devices" / "3")


@pytest.mark.parametrize("damage", ["ca.pem", "device.key", "device.json"])
def test_a_kit_that_is_not_whole_says_so(folder: Path, damage: str) -> None:
    (folder / "devices" / "3" / damage).unlink()
    with pytest.raises(DataError, match=damage.replace("device.json", "no device's kit")):
        Kit.open(folder / "devices" / "3")


@pytest.mark.parametrize("text", ["", "hospital", "hospital:", ":9092", "a b:1", "h:0", "h:65536", "h:x", "[::1]:9092"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no address"):
        Address.of(text)


@pytest.mark.parametrize(("host", "here"), [("127.0.0.1", True), ("localhost", True), ("10.0.0.1", False)])
def test_a_loopback_address_is_for_nobody_else(host: str, here: bool) -> None:
    assert Address(host, 1).here == here


@pytest.mark.parametrize(
    ("client", "path", "let_by"),
    [
        ("10.0.0.7", "/v1/fleet/pull-messages", True),
        ("10.0.0.7", "/v1/control/start-run", False),
        ("10.0.0.7", "/v1/runtime/acquire-task", False),
        ("10.0.0.7", "/v1/fleet", False),
        ("10.0.0.7", "//v1/fleet/x", False),
        ("::ffff:10.0.0.7", "/v1/control/start-run", False),
        ("127.0.0.1", "/v1/control/start-run", True),
        ("::1", "/v1/control/start-run", True),
        (None, "/v1/control/start-run", False),
    ],
)
def test_the_gate_lets_by_devices_and_this_machine(client: str | None, path: str, let_by: bool) -> None:
    scope = {"type": "http", "path": path, "client": (client, 5) if client else None}
    assert is_let_by(scope) == let_by
    passed, sent = [], []

    async def app(scope: Any, _receive: Any, _send: Any) -> None:
        passed.append(scope)

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(Gate(app)(scope, None, send))
    assert passed == ([scope] if let_by else [])
    assert [message.get("status", 403) for message in sent] == ([] if let_by else [403, 403])


@pytest.mark.parametrize(
    ("said", "parts", "status", "passed"),
    [
        (b"9", [b"012345678"], None, [b"012345678"]),
        (None, [b"0", b"1"], None, [b"0", b"1"]),
        (b"11", [], 413, []),
        (b"9" * 5000, [], 413, []),
        (None, [b"012345", b"678901", b"2"], None, [b"012345"]),
        (b"3", [b"012345", b"678901", b"2"], None, [b"012345"]),
    ],
)
def test_the_gate_reads_no_more_of_a_request_than_a_device_has_to_say(
    monkeypatch: pytest.MonkeyPatch, said: bytes | None, parts: list[bytes], status: int | None, passed: list[bytes]
) -> None:
    monkeypatch.setattr("simulations.gate.MOST_BYTES", 10)
    headers = [] if said is None else [(b"content-length", said)]
    scope = {"type": "http", "path": "/v1/fleet/push-object", "client": ("10.0.0.7", 5), "headers": headers}
    coming, got, sent = list(parts), [], []

    async def receive() -> Any:
        return {"type": "http.request", "body": coming.pop(0), "more_body": bool(coming)}

    async def app(_scope: Any, receive: Any, _send: Any) -> None:
        more = True
        while more:
            message = await receive()
            got.extend([message["body"]] if "body" in message else [])
            more = message.get("more_body", False)

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(Gate(app)(scope, receive, send))
    assert got == passed
    assert [message["status"] for message in sent if "status" in message] == ([status] if status else [])


def test_the_gate_lets_no_websocket_by_from_elsewhere() -> None:
    assert not is_let_by({"type": "websocket", "path": "/v1/fleet/x", "client": ("10.0.0.7", 5)})


def context(run_config: dict[str, Any], node_config: dict[str, Any]) -> Context:
    return Context(run_id=1, node_id=1, node_config=node_config, state=RecordDict(), run_config=run_config)


def test_a_deployed_device_takes_no_path_from_the_hospital(tmp_path: Path) -> None:
    told = {"slot": 3, "folder": str(tmp_path / "own"), "feed": str(tmp_path / "feed.json"), "partition-id": 0}
    place = Place.of(context({"home": "/elsewhere"}, told))
    assert (place.slot, place.folder, place.feed) == (3, tmp_path / "own", tmp_path / "feed.json")
    assert place.notice.path is None
    with pytest.raises(DataError, match="folder is 'own', expected an absolute path"):
        Place.of(context({"home": "/elsewhere"}, told | {"folder": "own"}))


def test_a_simulated_device_lies_in_the_workspace(tmp_path: Path) -> None:
    place = Place.of(context({"home": str(tmp_path)}, {"partition-id": 2}))
    assert (place.slot, place.folder, place.feed) == (2, tmp_path / "devices" / "2", tmp_path / "feeds" / "2.json")
    assert place.notice.path == tmp_path / "notices" / "2"
    with pytest.raises(DataError, match="home is 'here', expected an absolute path"):
        Place.of(context({"home": "here"}, {"partition-id": 2}))


class NamedGrid(LocalGrid):
    """Nodes whose keys are registered under names, as in a deployment."""

    names: dict[int, str]

    def get_nodes(self) -> Any:
        found = list(super().get_nodes())
        for node in found:
            node.name = self.names.get(node.node_id, "")
        return found


@pytest.mark.parametrize(
    ("names", "registered", "heard"),
    [
        ({0: node_name(0), 1: node_name(1)}, True, {0, 1}),
        ({0: node_name(1), 1: node_name(0)}, True, set()),
        ({0: node_name(0), 1: node_name(0)}, True, {0}),
        ({0: node_name(0)}, True, {0}),
        ({}, True, set()),
        ({}, False, {0, 1}),
        ({0: node_name(0)}, False, {1}),
    ],
)
def test_a_device_speaks_for_the_slot_alone_that_its_key_was_registered_for(
    tmp_path: Path, names: dict[int, str], registered: bool, heard: set[int]
) -> None:
    grid = NamedGrid(client_app, nodes=2, run_config={"home": str(tmp_path)})
    grid.names = {FIRST_NODE + slot: name for slot, name in names.items()}
    found = directory(grid, run="r", expected=2, code=code_version(), answer_s=60, registered=registered)
    assert set(found) == heard


def test_a_run_goes_on_with_the_devices_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.roll_call.WAIT_FOR_NODES_S", 0.3)
    grid = LocalGrid(client_app, nodes=1, run_config={"home": str(tmp_path)})
    assert set(directory(grid, run="r", expected=2, code=code_version(), answer_s=60, registered=False)) == {0}
    nobody = LocalGrid(client_app, nodes=0, run_config={"home": str(tmp_path)})
    with pytest.raises(RunError, match="none of 2 devices came"):
        directory(nobody, run="r", expected=2, code=code_version(), answer_s=60, registered=False)


def test_without_a_superlink_nobody_is_let_in_and_a_run_says_what_to_start(tmp_path: Path) -> None:
    workspace = Workspace.create(tmp_path / "home", data=tmp_path)
    assert not workspace.deployed
    with pytest.raises(WorkspaceError, match="`lethe deploy keys` makes one"), deployment.serving(workspace):
        pass
    credentials.make(workspace.deploy, address=HERE, slots=[])
    assert workspace.deployed
    assert not deployment.is_running(workspace)
    with pytest.raises(RunError, match="start one with `lethe deploy superlink`"), deployment.running(workspace):
        pass


class GridWithoutPower(LocalGrid):
    """A node that Flower lists and that is gone: its messages come back as errors, as a SuperLink makes them."""

    def _answer(self, message: Message, node: int) -> Message:
        if node == FIRST_NODE:
            return Message(Error(NODE_UNAVAILABLE, "Node Unavailable"), reply_to=message)
        return super()._answer(message, node)


def test_a_device_that_is_gone_holds_up_nobody(tmp_path: Path) -> None:
    grid = GridWithoutPower(client_app, nodes=3, run_config={"home": str(tmp_path)})
    began = time.monotonic()
    found = directory(grid, run="r", expected=3, code=code_version(), answer_s=60, registered=False)
    assert set(found) == {1, 2}
    assert time.monotonic() - began < 30
