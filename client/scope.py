"""Which of the recordings on a device a request about a withdrawal means: what goes, what stays, what is barred."""

from dataclasses import replace
from typing import TypeVar

from client.store import Store
from shared.audit_messages import AuditRequest, VerifyRequest
from shared.messages import UnlearnRequest

Named = UnlearnRequest | AuditRequest | VerifyRequest  # all say what a withdrawal is about
Request = TypeVar("Request", UnlearnRequest, AuditRequest, VerifyRequest)


def named(store: Store, request: Named) -> tuple[str, ...]:
    """Return the records here that are to go."""
    here = store.record_ids()
    return here if request.scope == "patient" else tuple(record for record in here if record in request.records)


def kept(store: Store, request: Named) -> tuple[str, ...]:
    """Return the records here that stay; of them alone something new may be made."""
    gone = {*named(store, request), *request.barred}
    return tuple(record for record in store.record_ids() if record not in gone)


def up_to_date(store: Store, request: Request) -> Request:
    """Return a request that also bars what the patient has withdrawn since it was sent."""
    return replace(request, barred=_barred(store, request))


def _barred(store: Store, request: Named) -> tuple[str, ...]:
    since = store.notice.records() - {*named(store, request), *request.barred}
    return (*request.barred, *sorted(since))
