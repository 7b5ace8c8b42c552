"""One real run, with SuperLink and Ray, in surroundings that want to lead it astray; many claims about it.

At the same time another checkout with other client code runs, a foreign SuperLink listens on Flower's own ports,
the caller stands in a folder with packages of our names, and his environment points to others' servers. The
workspace lies deep, under a name with a space, quotes, an equals sign and letters from elsewhere.
"""

import hashlib
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import psutil
import pytest
from flower_runs import CHECKOUT, Lethe, alive, nothing_left_running, prepared, registry_is_sound, result_of

from server.registry import Registry
from shared.version import code_version
from simulations.processes import HOME_MARK, marked

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

ODD = 'it\'s a "home" = ünï: 心 ' + "x" * 120  # of Ray's sockets 107 bytes at most may be the path
ASTRAY = {
    "HTTP_PROXY": "http://127.0.0.1:9",
    "ALL_PROXY": "http://127.0.0.1:9",
    "RAY_ADDRESS": "127.0.0.1:9",
    "FLWR_HOME": "/nonexistent",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "soon",
}


@dataclass
class Ran:
    """Two runs at once that have ended, and what was seen meanwhile."""

    home: Path
    other_home: Path
    other_code: str
    ended: tuple[int, str, str] = (1, "", "")
    other_ended: tuple[int, str, str] = (1, "", "")
    memory: list[int] = field(default_factory=list)  # bytes of all processes of our run, proportional share
    commands: set[str] = field(default_factory=set)
    scratch: set[str] = field(default_factory=set)

    def result(self) -> dict[str, Any]:
        return result_of(self.home)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("real")
    astray = folder / "astray"
    for package in ("server", "client", "shared"):
        (astray / package).mkdir(parents=True)
        (astray / package / "__init__.py").write_text("raise ImportError('captured')\n")
    other, other_code = another_checkout(folder / "other checkout")
    home = prepared(folder / ODD / "home", data=folder / "data").home
    other_home = prepared(folder / "other", data=folder / "other-data", patients=20).home
    seen = Ran(home, other_home, other_code)
    environment = {**ASTRAY, "PYTHONPATH": str(astray)}
    with nothing_left_running(), foreign_superlink(astray), watching(seen):
        ours = Lethe("run", "--yes", "--home", str(home), folder=astray, environment=environment)
        less = ["--set", "unlearning.rehearsals=0"]
        theirs = Lethe("run", "--home", str(other_home), *less, folder=other, checkout=other)
        seen.ended, seen.other_ended = ours.end(within=380), theirs.end(within=380)
    return seen


def another_checkout(folder: Path) -> tuple[Path, str]:
    """Copy the code, change a harmless line in the client's, and return its folder and code version."""
    for package in ("server", "client", "shared", "simulations"):
        shutil.copytree(CHECKOUT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(CHECKOUT / name, folder)
    with (folder / "client" / "app.py").open("a") as code:
        code.write("\n# Another line.\n")
    program = f"import sys; sys.path.insert(0, {str(folder)!r}); import shared.version as v; print(v.code_version())"
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True)
    return folder, done.stdout.strip()


@contextmanager
def foreign_superlink(folder: Path) -> Iterator[None]:
    """Let a SuperLink of somebody else listen where `flwr` looks by default, if nobody does yet."""
    command = [str(Path(sys.executable).parent / "flower-superlink"), "--insecure", "--simulation"]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        for one in [*psutil.Process(process.pid).children(recursive=True), process]:
            one.kill()
        process.wait()


@contextmanager
def watching(seen: Ran) -> Iterator[None]:
    """Note what our run's processes are and how much memory they take, once a second."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(1.0):
            total = 0
            for process in marked(HOME_MARK, str(seen.home)):
                try:
                    total += process.memory_full_info().pss
                    seen.commands.add(" ".join(process.cmdline()))
                    seen.scratch.add(process.environ()["RAY_TMPDIR"])
                except (psutil.Error, KeyError):  # gone, or its title has just been written over its environment
                    continue
            seen.memory.append(total)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def test_the_run_ends_well(ran: Ran) -> None:
    code, out, err = ran.ended
    assert code == 0, err
    assert "error" not in err
    assert out.strip()


def test_every_device_has_a_personal_model(ran: Ran) -> None:
    personal = ran.result()["personal"]
    assert len(personal) == 3
    assert [device["slot"] for device in personal].count(None) == 1  # whose patient was forgotten in this run
    assert all(device["accepted"] for device in personal)


def test_withdrawals_are_unlearned_and_a_full_one_serves_the_general_model(ran: Ran) -> None:
    withdrawals = {one["scope"]: one for one in ran.result()["withdrawals"]}
    assert set(withdrawals) == {"records", "patient"}
    assert withdrawals["patient"]["equals_general"]
    assert not withdrawals["records"]["equals_general"]
    with Registry.open(ran.home / "registry.db") as registry:
        jobs = registry.jobs()
        assert [job.state for job in jobs] == ["CERTIFIED", "CERTIFIED"]
        assert [run.status for run in registry.runs()] == ["finished"]
    assert registry_is_sound(ran.home)


def test_bundles_on_disk_are_the_registered_ones_and_run(ran: Ran) -> None:
    with Registry.open(ran.home / "registry.db") as registry:
        devices = registry.devices()
    assert len(devices) == 3
    for device in devices:
        bundle = (ran.home / "devices" / str(device.slot) / "bundle.onnx").read_bytes()
        assert hashlib.sha256(bundle).hexdigest() == device.bundle
        session = onnxruntime.InferenceSession(bundle, providers=["CPUExecutionProvider"])
        segments = np.zeros((2, 12, 500), dtype=np.float32)
        (out, *_) = session.run(None, {session.get_inputs()[0].name: segments})
        assert len(out) == 2


def test_the_report_is_there(ran: Ran) -> None:
    (page,) = (ran.home / "reports").glob("*/report.html")
    assert page.stat().st_size > 10_000


def test_each_checkout_runs_its_own_code(ran: Ran) -> None:
    assert ran.other_ended[0] == 0, ran.other_ended[2]
    assert ran.result()["code_version"] == code_version()
    assert result_of(ran.other_home)["code_version"] == ran.other_code
    assert ran.other_code != code_version()


def test_nothing_of_the_runs_is_left(ran: Ran) -> None:
    assert alive(ran.home) == alive(ran.other_home) == []
    assert len(ran.scratch) == 1
    for folder in ran.scratch:
        assert not Path(folder).exists()
        for process in psutil.process_iter(["cmdline"]):
            assert not any(folder in part for part in process.info["cmdline"] or [])
    left = sorted(path.name for path in (ran.home / "flower").iterdir())
    assert left == ["launcher.lock", "superlink.log"]


def test_a_run_keeps_to_six_gigabytes(ran: Ran) -> None:
    assert any("flwr-simulation" in command for command in ran.commands)
    assert max(ran.memory) < 6e9


def test_ray_serves_no_dashboard(ran: Ran) -> None:
    boards = [command for command in ran.commands if "dashboard/dashboard.py" in command]
    assert all("--disable-frontend" in command for command in boards)
