"""What many tests stand on, made once a session: a synthetic cohort, an enrolled workspace, a finished first run."""

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import torch
from databases import Cluster, cluster, programs
from fleet import Fleet, copied, enrol
from hypothesis import settings as hypothesis_settings

from server import registry_url
from server.general import train_general
from shared import model
from shared.model import ResNet34
from shared.package import Package, Public, load_general
from shared.training import one_thread
from simulations.cohort import write_cohort

# What is done with a network is the same for one of 12 layers, at a third of the time. What is said of ResNet-34
# itself is tested on it (the fixture `resnet34`), and so are the runs in processes of their own.
SHALLOW = (1, 1, 1, 2)
DEPTHS, model.DEPTHS = model.DEPTHS, SHALLOW

hypothesis_settings.register_profile("lethe", deadline=None, derandomize=True, max_examples=40)
hypothesis_settings.load_profile("lethe")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files with slow tests first, then those of many tests: a long file that comes last keeps one core waiting."""
    size = Counter(item.path for item in items)
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path not in slow, -size[item.path], item.path))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Bytes are compared everywhere; and threads that wait for each other on a busy machine cost ten times as much."""
    with one_thread():
        yield


@pytest.fixture(scope="session", autouse=True)
def _signals_reach_commands() -> None:
    """A shell's job in the background ignores Ctrl-C and hang-ups, and so would all commands that tests interrupt."""
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)  # a handler is not inherited, unlike being ignored


@contextmanager
def _of_depths(depths: tuple[int, ...]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "DEPTHS", depths)
        yield


@pytest.fixture(scope="module")
def resnet34() -> Iterator[None]:
    """The network at its full depth."""
    with _of_depths(DEPTHS):
        yield


@pytest.fixture(scope="module")
def double() -> Iterator[None]:
    """In float64 what processors round otherwise does not grow, over a hundred steps, into another outcome."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with PTB-XL's excerpts; without it the test is skipped."""
    folder = os.environ.get("LETHE_REAL_DATA")
    if not folder:
        pytest.skip("LETHE_REAL_DATA names no folder with ptbxl-mini and ptbxl-standardised")
    found = Path(folder)
    if not (found / "ptbxl-mini").is_dir():
        pytest.skip(f"LETHE_REAL_DATA is {folder}, which has no folder ptbxl-mini")
    return found


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Cluster]:
    """A PostgreSQL server of the session's own; without its programs the test is skipped."""
    found = programs()
    if found is None:
        pytest.skip("PostgreSQL is not installed: no initdb in /usr/lib/postgresql or on the path")
    with cluster(found) as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request) -> Iterator[Callable[[Path], Path]]:
    """Make room for a registry in a workspace's folder, in either database; returns what `Registry.create` takes."""
    with ExitStack() as made:

        def room(folder: Path) -> Path:
            folder.mkdir(exist_ok=True)
            if request.param == "sqlite":
                return folder / "registry.db"
            server = request.getfixturevalue("postgresql")
            registry_url.keep(folder, server.url(made.enter_context(server.database())))
            return folder / registry_url.FILE

        yield room


@pytest.fixture(scope="session")
def cohort_folder(tmp_path_factory) -> Path:
    """Thirty synthetic patients in PTB-XL's layout."""
    folder = tmp_path_factory.mktemp("data") / "cohort"
    write_cohort(folder, patients=30, seed=1)
    return folder


@pytest.fixture(scope="session")
def enrolled_home(tmp_path_factory, cohort_folder) -> Path:
    """A workspace in which nothing has run. Copy it before changing it."""
    return enrol(tmp_path_factory.mktemp("enrolled") / "home", cohort_folder).home


@pytest.fixture(scope="session")
def trained_home(tmp_path_factory, enrolled_home) -> Path:
    """A workspace with a general model and no device in use. Copy it before changing it."""
    home = copied(enrolled_home, tmp_path_factory.mktemp("trained") / "home")
    fleet = Fleet(home)
    with _of_depths(SHALLOW):  # whoever asks first
        train_general(fleet.workspace, fleet.registry, fleet.settings, tell=lambda _, __: None)
    fleet.close()
    return home


@pytest.fixture(scope="session")
def first_run_home(tmp_path_factory, trained_home) -> Path:
    """A workspace after one run: a general model and four personal ones. Copy it before changing it."""
    home = copied(trained_home, tmp_path_factory.mktemp("ran") / "home")
    fleet = Fleet(home)
    with _of_depths(SHALLOW):
        fleet.run()
    fleet.close()
    return home


@pytest.fixture
def new_fleet(tmp_path, trained_home) -> Iterator[Fleet]:
    """A fleet of its own for the test, with a general model and devices that have not been used."""
    fleet = Fleet(copied(trained_home, tmp_path / "home"))
    yield fleet
    fleet.close()


@pytest.fixture
def fleet(tmp_path, first_run_home) -> Iterator[Fleet]:
    """A fleet of its own for the test, after one run."""
    fleet = Fleet(copied(first_run_home, tmp_path / "home"))
    yield fleet
    fleet.close()


@pytest.fixture(scope="session")
def package(first_run_home) -> Package:
    """A small trained general model as it is published."""
    (folder,) = (first_run_home / "models").iterdir()
    return Package.open(folder)


@pytest.fixture(scope="session")
def _loaded(first_run_home) -> tuple[ResNet34, Public]:
    (folder,) = (first_run_home / "models").iterdir()
    return load_general(folder)


@pytest.fixture
def general(_loaded) -> ResNet34:
    """The model of `package`; do not train it in place."""
    return _loaded[0]


@pytest.fixture
def public(_loaded) -> Public:
    """Anchor, gate and control segments of `package`."""
    return _loaded[1]
