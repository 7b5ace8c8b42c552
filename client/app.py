"""The wearable's Flower ClientApp: one short handler a message type, each: load, act, reply.

What is done stands in `client/device.py`, `client/forgetting.py` and `client/auditing.py`. An expected refusal is an
answer with a status, not an exception.
"""

from contextlib import suppress
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.auditing import audit as make_copies
from client.auditing import verify as look
from client.device import make_personal, measure
from client.forgetting import forget
from client.issuing import renew
from client.sensor import Feed
from client.store import Store
from shared.audit_messages import AuditReply, AuditRequest, VerifyReply, VerifyRequest
from shared.errors import DataError, LetheError, plainly
from shared.messages import (
    Identity,
    PersonaliseReply,
    PersonaliseRequest,
    ProbeReply,
    ProbeRequest,
    UnlearnReply,
    UnlearnRequest,
    blobs,
    read,
    write,
)
from shared.notice import FOLDER, Notice
from shared.package import MODEL
from shared.training import one_thread
from shared.version import code_version

app = ClientApp()


@app.query("whoami")
def whoami(message: Message, context: Context) -> Message:
    """Tell slot, pseudonym, digests and code, whatever is damaged: who does not answer is not asked to forget.

    Every run asks this of every device, so it is also when a bundle that expires soon is signed anew.
    """
    store, pseudonym = _store(context), ""
    with suppress(DataError):
        pseudonym = _feed(context).pseudonym
    with suppress(OSError):
        renew(store)
    identity = Identity(
        _slot(context), pseudonym, store.package, store.state.model, code_version(), store.package_in_use
    )
    return Message(write(identity), reply_to=message)


@app.train("personalise")
def personalise(message: Message, context: Context) -> Message:
    """Make the personal model and its ONNX file."""
    slot = _slot(context)
    try:
        request = read(PersonaliseRequest, message)
        with one_thread():
            reply = make_personal(_store(context), _feed(context), request, slot=slot, blobs=blobs(message))
    except (LetheError, OSError) as error:
        reply = PersonaliseReply(slot, "refused", _told(error, context))
    return Message(write(reply), reply_to=message)


@app.query("probe")
def probe(message: Message, context: Context) -> Message:
    """Measure the models under attack on the device's own and on public segments."""
    slot = _slot(context)
    try:
        with one_thread():
            reply = measure(_store(context), read(ProbeRequest, message), slot=slot)
    except (LetheError, OSError) as error:
        reply = ProbeReply(slot, "refused", _told(error, context))
    return Message(write(reply), reply_to=message)


@app.train("unlearn")
def unlearn(message: Message, context: Context) -> Message:
    """Forget what the request names, and answer with what changed."""
    slot, request = _slot(context), read(UnlearnRequest, message)
    try:
        with one_thread():
            reply = forget(_store(context), request, slot=slot)
    except (LetheError, OSError) as error:
        reply = UnlearnReply(request.job, slot, "refused", _told(error, context))
    return Message(write(reply), reply_to=message)


@app.query("audit")
def audit(message: Message, context: Context) -> Message:
    """Train copies with and without the records, and tell what they say; nothing on the disk changes."""
    slot, request = _slot(context), read(AuditRequest, message)
    try:
        with one_thread():
            reply = make_copies(_store(context), request, slot=slot)
    except (LetheError, OSError) as error:
        reply = AuditReply(request.job, slot, "refused", _told(error, context))
    return Message(write(reply), reply_to=message)


@app.query("verify")
def verify(message: Message, context: Context) -> Message:
    """Tell what is on the disk after a withdrawal; in a white-box run the weights in use come along."""
    slot, request, weights = _slot(context), read(VerifyRequest, message), {}
    try:
        store = _store(context)
        with one_thread():
            reply = look(store, request, slot=slot)
        if request.white_box and reply.served:
            weights[MODEL] = store.model_path.read_bytes()
    except (LetheError, OSError) as error:
        reply = VerifyReply(request.job, slot, "refused", _told(error, context))
    return Message(write(reply, blobs=weights), reply_to=message)


def _told(error: LetheError | OSError, context: Context) -> str:
    return plainly(error, inside=_store(context).folder) if isinstance(error, OSError) else str(error)


def _slot(context: Context) -> int:
    return int(context.node_config["partition-id"])


def _home(context: Context) -> Path:
    home = Path(str(context.run_config["home"]))
    if not home.is_absolute():
        raise DataError(f"the run's home is {str(home)!r}, expected the absolute path of a workspace")
    return home


def _store(context: Context) -> Store:
    home, slot = _home(context), str(_slot(context))
    return Store(home / "devices" / slot, Notice(home / FOLDER / slot))


def _feed(context: Context) -> Feed:
    return Feed.open(_home(context) / "feeds" / f"{_slot(context)}.json")
