"""What a person at the terminal gets when something is wrong: one line, the right exit code, no traceback."""

import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from server.registry import Registry
from server.workspace import Workspace
from simulations import main_job, scenarios
from simulations.cohort import write_cohort

MAIN = "import sys; from simulations.cli import app, main; "
HEAVY = "torch numpy scipy wfdb flwr ray pydantic sqlalchemy sklearn matplotlib onnx onnxruntime rich httpx psutil"


def lethe(*arguments: str, **options) -> "subprocess.CompletedProcess[str]":
    program = MAIN + "sys.argv[0] = 'lethe'; main()"
    options = {"capture_output": True, "text": True, **options}
    return subprocess.run([sys.executable, "-c", program, *arguments], check=False, **options)


def failing(statement: str, *flags: str) -> "subprocess.CompletedProcess[str]":
    """Run a command that does nothing but fail."""
    program = MAIN + "import errno, sqlite3; from shared.errors import *\n"
    program += f"@app.command()\ndef fail():\n    {statement}\nmain()"
    return subprocess.run([sys.executable, "-c", program, *flags, "fail"], check=False, capture_output=True, text=True)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    write_cohort(folder / "data", patients=12, seed=0)
    settings = scenarios.scenario("quickstart").with_values({"cohort.wearables": 2, "cohort.controls": 2})
    return main_job.prepare(folder / "home", data=folder / "data", settings=settings)[0].home


def test_ctrl_c_while_the_command_is_still_being_imported_is_one_line_too():
    program = """
import os, signal, sys
from importlib.abc import MetaPathFinder
class Interrupt(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "simulations.cli":
            os.kill(os.getpid(), signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Interrupt())
from simulations.entry import main
main()
"""
    done = subprocess.run([sys.executable, "-c", program, "--help"], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: interrupted; nothing is half done, run the command again\n"


def test_a_terminal_of_few_letters_gets_question_marks_and_no_error(home):
    done = lethe("patients", "list", "--home", str(home), env={**os.environ, "PYTHONIOENCODING": "latin-1"})
    assert done.returncode == 0, done.stderr
    assert "wearable" in done.stdout


def test_a_workspace_without_its_settings_says_what_to_put_back(home, tmp_path):
    broken = shutil.copytree(home, tmp_path / "home")
    (broken / "settings.toml").unlink()
    done = lethe("train", "--home", str(broken))
    assert done.returncode == 1
    assert "settings.toml" in done.stderr
    assert "put the workspace's own file back" in done.stderr


@pytest.mark.parametrize(
    ("statement", "code", "said"),
    [
        ("raise LetheError('no luck')", 1, "no luck"),
        ("raise UsageError('no sense')", 2, "no sense"),
        ("raise ConsentError('withdrawn')", 3, "withdrawn"),
        ("raise AuditError('not forgotten')", 4, "not forgotten"),
        ("raise DataError('no [ECG]')", 5, "no [ECG]"),
        ("raise WorkspaceError('in\\n   use')", 1, "in use"),
        ("raise KeyboardInterrupt", 1, "interrupted"),
        ("raise EOFError", 1, "interrupted"),
        ("raise MemoryError", 1, "not enough memory"),
        ("raise OSError(errno.ENOSPC, 'No space left on device', 'a/b')", 1, "the disk is full (a/b)"),
        ("raise sqlite3.OperationalError('database or disk is full')", 1, "the disk is full"),
        ("open('/nonexistent/file')", 1, "No such file or directory (/nonexistent/file)"),
        ("{}['slot']", 1, "a bug in Lethe: KeyError: 'slot'; `lethe --debug`"),
        ("assert False", 1, "a bug in Lethe: AssertionError"),
    ],
)
def test_every_failure_is_one_line_and_its_own_exit_code(statement: str, code: int, said: str) -> None:
    done = failing(statement)
    assert done.returncode == code
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_debug_adds_the_traceback_and_keeps_the_exit_code() -> None:
    done = failing("raise ConsentError('withdrawn')", "--debug")
    assert done.returncode == 3
    assert "Traceback" in done.stderr
    assert done.stderr.endswith("error: withdrawn\n")


def test_a_long_message_is_not_wrapped() -> None:
    assert failing(f"raise UsageError('{'word ' * 60}')").stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [["--bogus"], ["bogus"], ["run", "--bogus"], ["report", "a", "b"], ["init"], ["patients", "withdraw"]]
)
def test_wrong_usage_is_exit_code_2_with_a_hint(arguments: list[str]) -> None:
    done = lethe(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Usage: lethe" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["run", "--set", "general.width"], ["run", "--set", "general.wide=3"]])
def test_a_wrong_setting_is_exit_code_2(home: Path, arguments: list[str]) -> None:
    done = lethe(*arguments, "--home", str(home))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")


@pytest.mark.parametrize("command", ["run", "train"])
def test_a_setting_that_contradicts_the_enrolment_is_refused_at_once(home: Path, command: str) -> None:
    done = lethe(command, "--set", "cohort.wearables=50", "--home", str(home))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(
        "error: cohort.wearables is 50, but the patients of this workspace were enrolled "
    )
    assert list((Workspace.open(home).flower).glob("*.log")) == []  # Flower was not even started


def test_a_run_rehearses_withdrawals_of_real_patients_on_a_yes_alone(home: Path) -> None:
    done = lethe("run", "--set", "unlearning.rehearsals=1", "--home", str(home))
    assert done.returncode == 2
    assert "would withdraw, for good" in done.stderr
    with Registry.open(Workspace.open(home).registry_path) as registry:
        assert registry.jobs() == []


@pytest.mark.parametrize("command", [["train"], ["keys", "rotate", "--yes"], ["run"]])
def test_nothing_gets_in_between_the_start_of_a_run_and_the_run(home: Path, command: list[str]) -> None:
    with Workspace.open(home).launching():
        done = lethe(*command, "--home", str(home))
    assert done.returncode == 1
    assert "another run is going on" in done.stderr


def test_a_reader_that_leaves_early_is_no_error(home: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN + "main()", "patients", "list", "--json", "--home", str(home)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    _, said = process.communicate(timeout=30)
    assert said == b""
    assert process.returncode == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a full device")
@pytest.mark.parametrize("arguments", [["--help"], ["patients", "list", "--json"], ["patients", "list"]])
def test_a_full_disk_on_stdout_is_one_clear_line(home: Path, arguments: list[str]) -> None:
    more = [] if "--help" in arguments else ["--home", str(home)]
    with Path("/dev/full").open("w") as full:
        done = lethe(*arguments, *more, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr == "error: the disk is full; free some space and run the command again\n"


def test_a_closed_stdout_is_like_the_null_device(home: Path) -> None:
    command = f"exec {sys.executable} -c '{MAIN} main()' patients list --json --home '{home}' >&-"
    done = subprocess.run(["bash", "-c", command], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_help_imports_nothing_heavy_and_is_quick() -> None:
    program = MAIN + f"import atexit; heavy = '{HEAVY}'.split(); "
    program += (
        "atexit.register(lambda: print([name for name in heavy if name in sys.modules], file=sys.stderr)); main()"
    )
    took = []
    for _ in range(3):
        began = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", program, "--help"], check=False, capture_output=True, text=True)
        took.append(time.perf_counter() - began)
        assert done.returncode == 0
        assert done.stderr == "[]\n"
        assert "..." not in done.stdout.split("Commands:")[1]  # no description is cut
    assert statistics.median(took) < 0.5 * 2  # .2 s on an idle core; twice the promise, for a loaded one


def test_a_run_refuses_while_the_workspace_is_in_use(home: Path) -> None:
    with Workspace.open(home).lock("train"):
        done = lethe("run", "--home", str(home))
    assert done.returncode == 1
    assert "is in use by train" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_is_told_to_end_leaves_nothing_half_made(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-c", MAIN + "main()", "data", "synth", str(tmp_path / "cohort"), "--patients", "5000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.iterdir()):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "interrupted" in told
    assert "Traceback" not in told
    assert list(tmp_path.iterdir()) == []
