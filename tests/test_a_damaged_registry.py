"""A registry that is damaged or gone: every command says so, none makes a new one, and the file stays as it is."""

from pathlib import Path

import pytest
from databases import by_hand
from typer.testing import CliRunner

from server import keys
from server.registry import Registry
from server.workspace import Workspace
from server.workspace_settings import keep
from shared.errors import code_of
from shared.settings import Settings
from shared.terminal import said
from simulations.cli import app

COMMANDS = [
    ["patients", "list"],
    ["patients", "withdraw", "7", "--yes"],
    ["patients", "trace", "7"],
    ["jobs", "check"],
    ["ledger", "verify"],
    ["certificate", "list"],
    ["train"],
    ["run"],
]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    workspace = Workspace.create(tmp_path / "home", data=tmp_path)
    keep(Settings(), home=workspace.home, folder=workspace.home)
    keys.make(workspace.keys)
    Registry.create(workspace.registry_path).close()
    return workspace.home


def ended(home: Path, command: list[str]) -> tuple[int, str]:
    error = CliRunner().invoke(app, [*command, "--home", str(home)]).exception
    assert error is not None
    return code_of(error), str(error)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_damaged_registry_is_exit_code_5_and_is_left_as_it_is(home, command):
    path = home / "registry.db"
    content = bytearray(path.read_bytes())
    content[4096:12288] = b"\xa5" * 8192
    path.write_bytes(content)
    code, said = ended(home, command)
    assert code == 5
    assert "is damaged or is no registry" in said
    assert "restore it from a backup" in said
    assert path.read_bytes() == content


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_registry_that_is_gone_is_never_made_anew(home, command):
    (home / "registry.db").unlink()
    code, said = ended(home, command)
    assert code == 1
    assert "no registry at" in said
    assert not (home / "registry.db").exists()


def damaged(path: Path) -> None:
    path.write_bytes(b"something else")


def newer(path: Path) -> None:
    with by_hand(path) as database:
        database.execute("UPDATE meta SET value = '99' WHERE name = 'schema'")


@pytest.mark.parametrize("spoil", [damaged, newer, Path.unlink])
def test_a_new_workspace_is_not_advised_in_the_folder_that_has_one(home, spoil, monkeypatch):
    spoil(home / "registry.db")
    monkeypatch.setattr("sys.argv", ["lethe", "jobs", "list", "--home", str(home)])
    printed = said(ended(home, ["jobs", "list"])[1])
    assert "`lethe init --home NEW`" in printed
    assert f"--home {home}" not in printed
