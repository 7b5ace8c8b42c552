"""What comes from outside and names a file: it stays in its folder, or is refused."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Context, RecordDict
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from client.sensor import Recording
from client.state import Change, State
from client.store import Store
from server import app as server_app
from server.workspace import Workspace
from shared.errors import DataError, LetheError, UsageError
from shared.fields import safe_name

PIECES = st.sampled_from([*"/\\a1. ~-é:", "..", "\0", "\n", "\x1b[2J", "a" * 200, "\u202e"])
NAMES = st.lists(PIECES, max_size=5).map("".join) | st.text(max_size=12)
quick = settings(suppress_health_check=list(HealthCheck), max_examples=150)


def inside(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@quick
@given(NAMES)
@example("../a")
@example("")
@example("..")
@example("a\n")
@example(".hidden")
def test_a_safe_name_is_one_file_s_and_printable(name):
    try:
        safe_name(name)
    except ValueError as error:
        assert str(error).isprintable()  # noqa: PT017
        return
    assert Path(name).name == name
    assert name.isascii()
    assert name.isprintable()
    assert name[0] not in ".-"
    assert len(name) <= 128


def test_no_name_leads_a_device_out_of_its_folder(tmp_path):
    folder = tmp_path / "devices" / "0"
    beside = tmp_path / "beside.json"
    beside.write_text("untouched")
    store = Store(folder)

    @quick
    @given(NAMES)
    @example("../../../beside")
    def check(name: str) -> None:
        recording = Recording(name, "", np.zeros((1, 12, 500), np.float32), np.zeros(5, np.float32))
        for act in (
            lambda: store.add([recording]),
            lambda: store.erase([name]),
            lambda: store.answer(name),
            lambda: store.general_folder(name),
        ):
            with suppress(DataError):
                act()
        assert inside(tmp_path) == ["beside.json", *(f"devices/0/{one}" for one in inside(folder))]
        assert beside.read_text() == "untouched"

    check()
    store.apply(Change(State(), answer=("j-1", "{}")))
    assert "answers/j-1.json" in inside(folder)


@pytest.mark.parametrize("name", ["../../elsewhere", "a/b", "\x1b[2J", "..", "a" * 200])
def test_a_run_s_name_stays_in_the_workspace(tmp_path, name):
    workspace = Workspace.create(tmp_path / "home", data=tmp_path)
    before = inside(tmp_path)
    config = {"home": str(workspace.home), "run": name, "devices": 0}
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=config)
    with pytest.raises(UsageError, match="cannot name a file"):
        server_app.app(None, context)
    assert inside(tmp_path) == before


def test_a_job_or_run_that_is_asked_for_is_looked_up_and_not_opened(tmp_path):
    from simulations.main_job import latest

    workspace = Workspace.create(tmp_path / "home", data=tmp_path)
    (tmp_path / "result.json").write_text("{}")

    @quick
    @given(NAMES)
    @example("../..")
    def check(name: str) -> None:
        with suppress(LetheError):
            pytest.fail(str(latest(workspace, name)))

    check()
