"""The wearable's Flower ClientApp: one short handler a message type, each: load, act, reply.

What is done stands in `client/device.py`, `client/forgetting.py` and `client/auditing.py`. An expected refusal is an
answer with a status, not an exception.
"""

from contextlib import suppress

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.auditing import audit as make_copies
from client.auditing import verify as look
from client.device import make_personal, measure
from client.forgetting import forget
from client.issuing import renew
from client.place import Place
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
from shared.package import MODEL
from shared.training import one_thread
from shared.version import code_version

app = ClientApp()


@app.query("whoami")
def whoami(message: Message, context: Context) -> Message:
    """Tell slot, pseudonym, digests and code, whatever is damaged: who does not answer is not asked to forget.

    Every run asks this of every device, so it is also when a bundle that expires soon is signed anew.
    """
    place, pseudonym = Place.of(context), ""
    with suppress(DataError):
        pseudonym = place.sensor().pseudonym
    store = place.store()
    with suppress(OSError):
        renew(store)
    identity = Identity(
        *(place.slot, pseudonym, store.package, store.state.model, code_version()),
        in_use=store.package_in_use,
        recordings=len(store.record_ids()),
    )
    return Message(write(identity), reply_to=message)


@app.train("personalise")
def personalise(message: Message, context: Context) -> Message:
    """Make the personal model and its ONNX file."""
    place = Place.of(context)
    try:
        request = read(PersonaliseRequest, message)
        with one_thread():
            reply = make_personal(place.store(), place.sensor(), request, slot=place.slot, blobs=blobs(message))
    except (LetheError, OSError) as error:
        reply = PersonaliseReply(place.slot, "refused", _told(error, place))
    return Message(write(reply), reply_to=message)


@app.query("probe")
def probe(message: Message, context: Context) -> Message:
    """Measure the models under attack on the device's own and on public segments."""
    place = Place.of(context)
    try:
        with one_thread():
            reply = measure(place.store(), read(ProbeRequest, message), slot=place.slot)
    except (LetheError, OSError) as error:
        reply = ProbeReply(place.slot, "refused", _told(error, place))
    return Message(write(reply), reply_to=message)


@app.train("unlearn")
def unlearn(message: Message, context: Context) -> Message:
    """Forget what the request names, and answer with what changed."""
    place, job = Place.of(context), ""
    try:
        request = read(UnlearnRequest, message)
        job = request.job
        with one_thread():
            reply = forget(place.store(), request, slot=place.slot)
    except (LetheError, OSError) as error:
        reply = UnlearnReply(job, place.slot, "refused", _told(error, place))
    return Message(write(reply), reply_to=message)


@app.query("audit")
def audit(message: Message, context: Context) -> Message:
    """Train copies with and without the records, and tell what they say; nothing on the disk changes."""
    place, job = Place.of(context), ""
    try:
        request = read(AuditRequest, message)
        job = request.job
        with one_thread():
            reply = make_copies(place.store(), request, slot=place.slot)
    except (LetheError, OSError) as error:
        reply = AuditReply(job, place.slot, "refused", _told(error, place))
    return Message(write(reply), reply_to=message)


@app.query("verify")
def verify(message: Message, context: Context) -> Message:
    """Tell what is on the disk after a withdrawal; in a white-box run the weights in use come along."""
    place, job, weights = Place.of(context), "", {}
    try:
        request = read(VerifyRequest, message)
        job = request.job
        store = place.store()
        with one_thread():
            reply = look(store, request, slot=place.slot)
        if request.white_box and reply.served:
            weights[MODEL] = store.model_path.read_bytes()
    except (LetheError, OSError) as error:
        weights.clear()
        reply = VerifyReply(job, place.slot, "refused", _told(error, place))
    return Message(write(reply, blobs=weights), reply_to=message)


def _told(error: LetheError | OSError, place: Place) -> str:
    return plainly(error, inside=place.folder) if isinstance(error, OSError) else str(error)
