"""One run of the server's part in a process of its own, with another one that handles the devices' messages.

The real ServerApp and the real ClientApp, on a grid between two processes in place of SuperLink and Ray: a run takes
seconds, and each of the two can be killed alone, at a moment or before a step of its own on the disk.
"""

import multiprocessing
import signal
import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from flwr.app import Context, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run as FlowerRun
from flwr.supercore.task_identity import TaskIdentity

from client.app import app as client_app
from server.app import execute
from server.forgotten import unname
from server.progress import Progress
from server.registry import Registry
from server.run import Run
from server.workspace import Workspace
from server.workspace_settings import of_workspace
from shared.training import one_thread
from simulations.fault_points import Steps

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

Pipe: TypeAlias = "Connection[Any, Any]"
Who = Literal["nobody", "server", "device"]

PROCESSES = multiprocessing.get_context("forkserver")  # a fresh interpreter a try would import PyTorch each time
FIRST_NODE = 100
APP_FAILED, WORKER_DIED = 2, 0  # Flower's codes: an app that raised, and a process that is gone


@dataclass(frozen=True)
class Plan:
    """Whom to kill, and when.

    Attributes:
        who: which of the two processes.
        step: before which of its steps; 0 for none.
        seconds: so long after it was ready; None where a step says when.
        note: a file into which the step is written.
    """

    who: Who = "nobody"
    step: int = 0
    seconds: float | None = None
    note: Path | None = None

    def of(self, who: Who) -> int:
        """Return the fatal step of one process."""
        return self.step if who == self.who else 0


NOBODY = Plan()


@dataclass
class Ended:
    """How a run ended.

    Attributes:
        killed: the moment of the kill, on the machine's monotonic clock; None where none was.
        whole: whether the server's part came to its end.
        error: what it raised, else "".
        seconds: from its beginning to its end.
        steps: of the server's process and of the first of the devices', on the disk.
    """

    killed: float | None = None
    whole: bool = False
    error: str = ""
    seconds: float = 0.0
    steps: tuple[int, int] = (0, 0)


def run_once(home: Path, plan: Plan = NOBODY) -> Ended:
    """Do what is due in a workspace, as `lethe run` does, and kill whom the plan says on the way."""
    with Registry.open(home / "registry.db") as registry:
        slots = [one.slot for one in registry.patients("wearable") if one.slot is not None]
    pipes, devices = [], []
    for fatal in (plan.of("device"), 0):  # the second takes over when the first is killed
        ours, theirs = PROCESSES.Pipe()
        devices.append(PROCESSES.Process(target=_devices, args=(home, slots, theirs, fatal, plan.note)))
        devices[-1].start()
        theirs.close()
        pipes.append(ours)
    hear, tell = PROCESSES.Pipe(duplex=False)
    server = PROCESSES.Process(target=_serve, args=(home, slots, plan, tell, pipes))
    server.start()
    for end in (tell, *pipes):
        end.close()
    try:
        return _followed(server, hear, plan, victim=server if plan.who == "server" else devices[0])
    finally:
        for process in (server, *devices):  # as the watchdog of `lethe run` does
            process.kill()
            process.join()
        for pattern in ("*.json", "*.tmp"):  # and the next launcher
            for path in (home / "flower").glob(pattern):
                path.unlink()


def _followed(server: Any, hear: Pipe, plan: Plan, *, victim: Any) -> Ended:
    """Wait until the server's part has ended, and kill the victim when its time has come."""
    ended, began, due = Ended(), time.monotonic(), None
    while True:
        if due is not None and not hear.poll(max(due - time.monotonic(), 0.0)):
            victim.kill()
            due, ended.killed = None, time.monotonic()
            continue
        try:
            what, told = hear.recv()
        except EOFError:
            break
        if what == "began":
            began = time.monotonic()
            due = None if plan.seconds is None else began + plan.seconds
        elif what == "died":
            ended.killed = told
        else:
            ended.whole, ended.steps, ended.error, due = not told[1], told[0], told[1], None
    server.join()
    if ended.killed is None and server.exitcode == -signal.SIGKILL:
        ended.killed = time.monotonic()
    ended.seconds = time.monotonic() - began
    return ended


def _serve(home: Path, slots: list[int], plan: Plan, told: Pipe, pipes: list[Pipe]) -> None:
    """Run the ServerApp once, and tell how it ended."""
    steps = Steps(home, fatal=plan.of("server"), note=plan.note)
    workspace, settings = Workspace.open(home), of_workspace(home)
    name, error = f"run-{uuid.uuid4().hex[:8]}", ""
    progress = Progress(workspace.flower / f"{name}.json")
    grid = ProcessGrid(slots, pipes, died=lambda: told.send(("died", time.monotonic())))
    told.send(("began", None))
    try:
        with (
            one_thread(),
            workspace.lock(f"run {name}"),
            Registry.open(workspace.registry_path) as registry,
        ):
            execute(Run(name, grid, workspace, registry, settings, progress))
            unname(workspace.reports, registry)  # as the launcher does when it has printed the summary
    except Exception as raised:
        error = f"{type(raised).__name__}: {raised}"
    told.send(("ended", ((steps.count, grid.steps), error)))


class ProcessGrid(Grid):
    """A Flower grid whose devices are simulated, one message after the other, by one other process.

    Attributes:
        steps: of the first process of devices on the disk, as far as it has told.
    """

    def __init__(self, slots: list[int], pipes: list[Pipe], *, died: Callable[[], None]) -> None:
        """Use the first pipe, to a process of devices, until that dies; then the next."""
        self._slots, self._pipes, self._died = slots, pipes, died
        self._waiting: dict[str, Message] = {}
        self._first, self.steps = pipes[0], 0
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1  # who makes a message has to have one

    def set_run(self, run: FlowerRun) -> None:
        """Do nothing: there is one run."""

    @property
    def run(self) -> FlowerRun:
        """Refuse: no SuperLink knows of this run."""
        raise RuntimeError("a grid of processes has no run")

    def create_message(self, *_: object, **__: object) -> Message:
        """Refuse: deprecated in Flower."""
        raise RuntimeError("make a Message")

    def get_node_ids(self) -> list[int]:
        """Return a node for each slot."""
        return [FIRST_NODE + slot for slot in self._slots]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Keep messages until they are pulled."""
        ids = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = str(uuid.uuid4())
            ids.append(message.metadata.message_id)
            self._waiting[message.metadata.message_id] = message
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Have the devices answer."""
        return [self._answer(self._waiting.pop(one)) for one in list(message_ids) if one in self._waiting]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:  # noqa: ARG002
        """Push and pull."""
        return self.pull_messages(self.push_messages(messages))

    def _answer(self, message: Message) -> Message:
        """Have the other process answer; where it is dead, go on with the next one, and say what Flower says."""
        try:
            self._pipes[0].send(message)
            answer, steps = self._pipes[0].recv()
        except (EOFError, OSError):
            self._died()
            del self._pipes[0]
            return Message(Error(WORKER_DIED, "the process of the devices is gone"), reply_to=message)
        self.steps = steps if self._pipes[0] is self._first else self.steps
        return Message(Error(APP_FAILED, answer), reply_to=message) if isinstance(answer, str) else answer


def _devices(home: Path, slots: list[int], pipe: Any, fatal: int, note: Path | None) -> None:
    """Answer messages as the devices that they are for, until nobody sends any."""
    steps = Steps(home, fatal=fatal, note=note)
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    contexts = {
        FIRST_NODE + slot: Context(
            run_id=1,
            node_id=FIRST_NODE + slot,
            node_config={"partition-id": slot, "num-partitions": len(slots)},
            state=RecordDict(),
            run_config={"home": str(home)},
        )
        for slot in slots
    }
    with suppress(EOFError, OSError):  # the server's part has ended
        while True:
            message = pipe.recv()
            answer: Message | str
            try:
                answer = client_app(message, contexts[message.metadata.dst_node_id])
            except Exception as error:
                answer = repr(error)
            pipe.send((answer, steps.count))
