"""Which model a patient's device has, in a word or two, as far as the hospital knows."""

from collections.abc import Sequence

from server.rows import UNFORGOTTEN, DeviceRow, Job, Patient


def model_state(patient: Patient, device: DeviceRow | None, jobs: Sequence[Job], *, stale: bool) -> str:
    """Say in a word or two which model a patient's device has, as far as the hospital knows.

    Args:
        patient: who wears it.
        device: what it last told.
        jobs: of the patient.
        stale: whether what it has descends from a general model that is to be replaced.
    """
    due = {job.state for job in jobs if job.state in UNFORGOTTEN}
    if "FAILED" in due:
        return "unlearning failed"
    if due:
        return "unlearning" if "DISPATCHED" in due else "to unlearn"
    if patient.status == "withdrawn":
        return "forgotten"
    if device is None or device.personal is None:
        return "none yet"
    if stale:
        return "stale"
    if not device.accepted:
        return "general (rolled back)"
    return "personal, unlearned" if patient.withdrawn else "personal"
