"""The registry's writing of consent: who enrols, what is withdrawn, what is given again; and word of it to devices.

What everybody uses is `server/registry.py`; the rules of consent are `server/consent.py`'s.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Literal, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from server import consent, schema
from server.job_book import JobBook, jobs_of
from server.keys import signer
from server.people import patient_of, patients_of, records_of
from server.revocation import listed, only_word, revoke
from server.rows import Enrolment, Job, Patient
from shared.errors import READ_ONLY, UnwritableError, WorkspaceError
from shared.notice import FOLDER, Notice

FEW = 500  # patients


class Unheard(NamedTuple):
    """What could not be left for a device: the word that stops it at work, or the signed list for its wearable."""

    what: Literal["word", "list"]
    why: OSError | WorkspaceError


class ConsentBook(JobBook):
    """An open registry; safe to use from several processes and threads at once."""

    def enrol_many(
        self,
        enrolments: Iterable[Enrolment],
        *,
        before_commit: Callable[[Sequence[Patient]], None] = lambda _: None,
    ) -> list[Patient]:
        """Enrol patients, all or none, and append a consent event for each.

        Args:
            enrolments: who; a wearable without a slot gets the next that was never used.
            before_commit: writes what must be there when the patients are, such as their feeds.

        Raises:
            ConsentError: a patient is enrolled already, withdrawn or not.
            UsageError: an unknown role, no records, or a slot that is taken or makes no sense.
        """
        asked = list(enrolments)
        with self._writing() as connection:
            consent.give(connection, asked, at=self._clock())
            # A statement has no room for the names of a whole cohort, and to read all for one patient takes its time.
            few = [] if len(asked) > FEW else [schema.patients.c.id.in_([one.patient for one in asked])]
            by_id = {patient.id: patient for patient in patients_of(connection, *few)}
            enrolled = [by_id[one.patient] for one in asked]
            before_commit(enrolled)
        return enrolled

    def withdraw(
        self,
        patient: str,
        *,
        records: Sequence[str] | None = None,
        source: str = "operator",
        taken: Callable[[Sequence[str]], None] = lambda _: None,
        unheard: Callable[[Unheard], None] = lambda _: None,
    ) -> list[Job]:
        """Take consent back for the named records, or for all; durable when this returns.

        Word of it is left for the patient's device then, too: what it is making of the records it ends, within a
        step, and a wearable in use stops the model that was made of them. Where no word can be left, or none signed,
        consent is taken back all the same, and the next message to the device says so. Doing it again changes nothing,
        but leaves word anew. The last records named one by one are a withdrawal of the patient.

        Args:
            patient: who.
            records: which; None for all.
            source: who says so.
            taken: told which records this very call took back, once it is durable; none where others did before.
            unheard: told what could not be left for the device, and why.

        Returns:
            The jobs that cover what was named.

        Raises:
            UsageError: an unknown patient or record, or an empty list of records.
        """
        with self._writing() as connection:
            who = patient_of(connection, patient)
            before = _withdrawn(connection, who.id)
            covering = consent.take_back(connection, who, named=records, source=source, at=self._clock())
            now = [record for record in _withdrawn(connection, who.id) if record not in before]
            due = jobs_of(connection, schema.jobs.c.id.in_(covering))
        taken(now)
        if who.slot is not None:
            for one in self._leave_word(who.slot, who.id):
                unheard(one)
        return due

    def consent_again(
        self, patient: str, *, records: Sequence[str] | None = None, source: str = "operator"
    ) -> list[str]:
        """Give consent again for the named records that were withdrawn, or for all; durable when this returns.

        The device may record them and learn from them again then; the word about them is taken back, once consent is
        durable: killed in between, a device has nothing to use that it may not. Doing it again takes back what word is
        left of records that may be used. What is not withdrawn stays as it is.

        Returns:
            The records that may be used from now on and could not be used before.

        Raises:
            ConsentError: a device has yet to forget one of them.
            UsageError: an unknown patient or record, or an empty list of records.
            WorkspaceError: there is no key to sign with, or nobody may take word back: nothing is changed. Or it could
                not be taken back in the end: then consent is given, the device is held back, and that is what it says.
        """
        with self._reading() as connection:
            slot = patient_of(connection, patient).slot
        with self._word(slot):
            with self._writing() as connection:
                who = patient_of(connection, patient)
                again = consent.give_again(connection, who, named=records, source=source, at=self._clock())
                held = records_of(connection, schema.records.c.patient == who.id)
                given = [row.id for row in held if not row.withdrawn and (records is None or row.id in records)]
                gone, serial = [row.id for row in held if row.withdrawn], _serial(connection, who.id)
                if again and slot is not None:
                    signer(self._home / "keys")
            if slot is not None:
                self._take_back_word(slot, given, gone, serial)
        return again

    def _take_back_word(self, slot: int, given: Sequence[str], gone: Sequence[str], serial: int) -> None:
        """Lift the word about records that may be used, and sign the list anew where it names one."""
        named = listed(self._home, slot)
        notice = Notice(self._home / FOLDER / str(slot))
        if not (named | notice.records()).isdisjoint(given):
            try:
                revoke(self._home, slot, gone, serial=serial, key_folder=self._home / "keys")
                notice.lift(given)  # last: it needs neither a key nor room
            except OSError as error:
                raise WorkspaceError(
                    f"consent is given, and the word left for device {slot} cannot be taken back: "
                    f"{error.strerror or error}; until it is, the device makes nothing of these records. Free space "
                    "and give the command again"
                ) from error

    def add_records(
        self,
        patient: str,
        records: Mapping[str, str],
        *,
        source: str = "operator",
        before_commit: Callable[[Patient], None] = lambda _: None,
    ) -> Patient:
        """Take in new records of an enrolled patient, sha256 by id, with consent for them.

        Args:
            patient: who is enrolled.
            records: which are new.
            source: who says so.
            before_commit: writes what must be there when the records are, such as the patient's feed.

        Raises:
            ConsentError: the patient's device has yet to forget everything.
            UsageError: an unknown patient, no record, or one that is enrolled already.
        """
        with self._writing() as connection:
            consent.give_more(connection, patient_of(connection, patient), records, source=source, at=self._clock())
            who = patient_of(connection, patient)
            before_commit(who)
        return who

    @contextmanager
    def _word(self, slot: int | None) -> Iterator[None]:
        """Be the only one who leaves word for a device, or takes it back, and tell plainly where that fails."""
        try:
            with ExitStack() as stack:
                if slot is not None:
                    stack.enter_context(only_word(self._home, slot))
                yield
        except OSError as error:
            kind = UnwritableError if error.errno in READ_ONLY else WorkspaceError
            raise kind(
                f"cannot take back the word left for device {slot}: {error.strerror or error}; nothing was changed, "
                "free space or check the folder's permissions, and try again"
            ) from error

    def _leave_word(self, slot: int, patient: str) -> list[Unheard]:
        """Tell a device at work and a wearable in use which records are withdrawn; return what could not be left."""
        failed = list[Unheard]()
        with ExitStack() as stack:
            with suppress(OSError):  # who cannot lock leaves word all the same
                stack.enter_context(only_word(self._home, slot))
            with self._reading() as connection:
                gone, serial = _withdrawn(connection, patient), _serial(connection, patient)
            try:
                Notice(self._home / FOLDER / str(slot)).leave(gone)
            except OSError as error:
                failed.append(Unheard("word", error))
            try:
                revoke(self._home, slot, gone, serial=serial, key_folder=self._home / "keys")
            except (OSError, WorkspaceError) as error:
                failed.append(Unheard("list", error))
        return failed

    @property
    def _home(self) -> Path:
        return self._path.parent


def _withdrawn(connection: Connection, patient: str) -> list[str]:
    rows = records_of(connection, schema.records.c.patient == patient)
    return [row.id for row in rows if row.withdrawn]


def _serial(connection: Connection, patient: str) -> int:
    """Return how often a record of the patient's was withdrawn or given again; neither table forgets a row."""
    return sum(
        connection.execute(sa.select(sa.func.count()).where(table.c.patient == patient)).scalar_one()
        for table in (schema.withdrawals, schema.renewals)
    )
