"""A Flower grid in this process: the real apps and the real messages, without Ray and without a SuperLink."""

import uuid
from collections.abc import Iterable
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from server.roll_call import node_name

FIRST_NODE = 100
APP_FAILED = 2  # Flower's code for a ClientApp that raised
WORKER_DIED = 0  # and for whatever else went wrong, such as a process that is gone


class WorkerDiedError(Exception):
    """Raised by an app in place of the process that runs it."""


class LocalGrid(Grid):
    """`nodes` devices, each with its own context; a message is answered when it is pulled.

    Attributes:
        silent: nodes that never answer.
        apps: another app for some nodes.
        registered: whether nodes have the names under which a deployment registers keys.
        lost: types of messages that devices act on and whose answers are lost.
        sent, received: every message so far, in order.
    """

    def __init__(self, app: ClientApp, *, nodes: int, run_config: dict[str, object]) -> None:
        self._app = app
        self._contexts = {
            FIRST_NODE + slot: Context(
                run_id=1,
                node_id=FIRST_NODE + slot,
                node_config={"partition-id": slot, "num-partitions": nodes},
                state=RecordDict(),
                run_config=run_config,
            )
            for slot in range(nodes)
        }
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
        self._waiting: dict[str, Message] = {}
        self.apps: dict[int, ClientApp] = {}
        self.sent: list[Message] = []
        self.received: list[Message] = []
        self.silent: set[int] = set()
        self.lost: set[str] = set()
        self.registered = False

    def set_run(self, run: Run) -> None: ...

    @property
    def run(self) -> Run:
        raise RuntimeError("a local grid has no run")

    def create_message(self, *_: object, **__: object) -> Message:
        raise RuntimeError("deprecated in Flower: make a Message")

    def get_node_ids(self) -> list[int]:
        return list(self._contexts)

    def get_nodes(self) -> list[Any]:
        found = list(super().get_nodes())
        for node in found if self.registered else ():
            node.name = node_name(node.node_id - FIRST_NODE)
        return found

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        ids = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = str(uuid.uuid4())
            ids.append(message.metadata.message_id)
            self.sent.append(message)
            self._waiting[message.metadata.message_id] = message
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        replies = []
        for message_id in message_ids:
            message = self._waiting.get(message_id)
            if message is None or message.metadata.dst_node_id in self.silent:
                continue
            node = message.metadata.dst_node_id
            del self._waiting[message_id]
            reply = self._answer(message, node)
            if message.metadata.message_type in self.lost:
                continue
            self.received.append(reply)
            replies.append(reply)
        return replies

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:  # noqa: ARG002
        return self.pull_messages(self.push_messages(messages))

    def _answer(self, message: Message, node: int) -> Message:
        """An app that raises is an error message to the server, as in Flower."""
        try:
            return self.apps.get(node, self._app)(message, self._contexts[node])
        except WorkerDiedError as error:
            return Message(Error(WORKER_DIED, repr(error)), reply_to=message)
        except Exception as error:
            return Message(Error(APP_FAILED, repr(error)), reply_to=message)
