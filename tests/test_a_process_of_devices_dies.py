"""A process that simulates devices is killed in mid-run: whom it was to simulate is asked again, and nobody is lost."""

from collections.abc import Callable
from functools import partial

import pytest
from fleet import Fleet
from flwr.app import Context, Message
from local_grid import FIRST_NODE, WorkerDiedError
from test_auditing import asked, sent

import client.app
from server import asking
from shared.messages import WHOAMI, Identity, Whoami, write

KINDS = ("query.whoami", "train.personalise", "query.probe", "query.audit", "train.unlearn", "query.verify")


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    monkeypatch.setattr(asking, "AGAIN_S", 0.01)


def dying(kind: str, times: float, meanwhile: Callable[[], object] = lambda: None):
    """The device's app in a process that dies so many times when it gets a message of one type."""
    left = [times]

    def app(message: Message, context: Context) -> Message:
        if message.metadata.message_type == kind and left[0] > 0:
            left[0] -= 1
            meanwhile()
            raise WorkerDiedError
        return client.app.app(message, context)

    return app


def of(fleet: Fleet, kind: str, slot: int) -> list[Message]:
    return [message for message in sent(fleet, kind) if message.metadata.dst_node_id == FIRST_NODE + slot]


@pytest.mark.parametrize("kind", KINDS)
def test_who_met_a_dead_process_is_asked_again(fleet, kind):
    patient = fleet.with_several_records()
    (job,) = fleet.registry.withdraw(patient.id, records=fleet.records(patient)[:1])
    fleet.grid.apps[FIRST_NODE + patient.slot] = dying(kind, 3)
    run = fleet.run()
    assert set(run.personal) == set(run.probes) == {0, 1, 2, 3}
    assert fleet.registry.job(job.id).state == "CERTIFIED"
    assert len(of(fleet, kind, patient.slot)) >= 4


def test_what_is_sent_again_is_made_of_the_consent_of_that_moment(new_fleet):
    patient = new_fleet.with_several_records()
    gone = new_fleet.records(patient)[0]

    def withdraw():
        new_fleet.registry.withdraw(patient.id, records=[gone])

    new_fleet.grid.apps[FIRST_NODE + patient.slot] = dying("train.personalise", 1, withdraw)
    new_fleet.run()
    first, *later = [asked(message)["records"] for message in of(new_fleet, "train.personalise", patient.slot)]
    assert gone in first
    assert later
    assert not [records for records in later if gone in records]
    assert [job.state for job in new_fleet.registry.jobs()] == ["CERTIFIED"]


def test_a_run_in_which_no_process_lives_ends_soon_and_the_next_one_does_it_all(fleet):
    patient = fleet.with_several_records()
    (job,) = fleet.registry.withdraw(patient.id, records=fleet.records(patient)[:1])
    for slot in range(4):
        fleet.grid.apps[FIRST_NODE + slot] = dying("train.unlearn", float("inf"))
    fleet.run()
    assert fleet.registry.job(job.id).state == "DISPATCHED"
    assert len(of(fleet, "train.unlearn", patient.slot)) <= 2 * (asking.LOST_AT_MOST + 1)
    fleet.grid.apps.clear()
    fleet.run()
    assert fleet.registry.job(job.id).state == "CERTIFIED"


def test_who_met_a_dead_process_is_held_back_while_a_living_one_is_at_work(new_fleet, monkeypatch):
    """Else a package of the general model would be sent again every second, for as long as an audit takes."""
    monkeypatch.setattr(asking, "WAVE", 2)
    grid = new_fleet.grid
    grid.silent.add(FIRST_NODE)
    grid.apps[FIRST_NODE + 1] = dying("query.whoami", float("inf"))
    requests = {FIRST_NODE + slot: partial(write, Whoami("r")) for slot in range(4)}
    told = asking.ask(grid, requests, WHOAMI, Identity, group="r", answer_s=1.0)
    assert set(told) == {FIRST_NODE + 2, FIRST_NODE + 3}
    assert (
        len(of(new_fleet, WHOAMI, 1)) <= 1 + 2 + 1
    )  # at first, after each answer, and once the silent one is given up


def test_what_a_device_raises_itself_is_not_asked_again(fleet):
    def broken(message: Message, context: Context) -> Message:
        if message.metadata.message_type == "query.probe":
            raise ValueError("a bug")
        return client.app.app(message, context)

    fleet.grid.apps[FIRST_NODE] = broken
    run = fleet.run()
    assert set(run.probes) == {1, 2, 3}
    assert len(of(fleet, "query.probe", 0)) == 1
