"""What `python -m simulations.faults` counts, in small: processes killed before steps spread over all they take."""

import random

import pytest

from simulations import fault_checks
from simulations.fault_cli import lethe
from simulations.fault_grid import PROCESSES, run_once
from simulations.fault_world import World, asked
from simulations.faults import WARM, Harness, Try, table

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
EACH = 5  # kills of a process


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Harness:
    PROCESSES.set_forkserver_preload(list(WARM))
    return Harness(World.make(tmp_path_factory.mktemp("faults")), random.Random(0))


def spread(steps: int) -> list[int]:
    """Numbers of steps, evenly from the first to the last."""
    return [1 + round(number * (steps - 1) / (EACH - 1)) for number in range(EACH)]


def is_well(one: Try) -> bool:
    assert one.wrong == [], one
    return one.hit and one.runs <= 1 and one.seconds is not None


def test_a_killed_command_loses_nothing(harness):
    _, steps = harness.usual("record").command
    for step in spread(steps):
        assert is_well(harness.command(1, flower=False, step=step))


@pytest.mark.parametrize("who", ["server", "device"])
def test_a_killed_process_stops_no_withdrawal(harness, who):
    usual = harness.usual("record")
    _, steps = usual.server if who == "server" else usual.device
    tries = [harness.on_grid(who, 1, step=step) for step in spread(steps)]
    assert all(is_well(one) for one in tries)
    assert f"| {who} | grid | {EACH} | 0 | 0 | 0 | 0 | 0 | {EACH} |" in table(tries)


def test_a_kill_in_mid_training_of_the_general_model_leaves_nothing_of_who_withdrew(harness):
    _, steps = harness.usual("corpus").server
    assert is_well(harness.on_grid("server", 4, step=steps // 2))


def test_the_checks_see_what_they_are_to_see(harness):
    home = harness.world.copy("spoilt")
    one = asked(home, "record", random.Random(1))
    assert lethe(home, "patients", "withdraw", one.patient, *one.words, "--yes").code == 0
    assert [words.split(":")[0] for words in fault_checks.registry_is_sound(home)] == ["stuck"]
    assert fault_checks.nothing_withdrawn_is_used(home, one) != []
    assert fault_checks.consent_is_whole(home, one, promised=True) == []
    untouched = harness.world.copy("untouched")
    assert fault_checks.consent_is_whole(untouched, one, promised=True) == [
        "consent: the command had returned 0 and its withdrawal is not in the registry"
    ]
    assert run_once(home).whole
    assert fault_checks.everything(home, one) == []
    device = next(path for path in sorted((home / "devices").iterdir()) if (path / "state.json").exists())
    (device / "staged.onnx").write_bytes(b"half")
    (home / "notices" / ".0.revoked.json.abcdefgh").write_text("{")
    (home / "certificates" / "cut.json").write_text('{"payload":')
    found = fault_checks.no_half_file(home)
    assert [any(name in words for words in found) for name in ("staged.onnx", ".0.revoked", "cut.json")] == [True] * 3
