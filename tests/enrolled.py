"""Patients put into a registry by hand, without any data, and what a registry holds picked out."""

from collections.abc import Mapping

from server.registry import Enrolment, Patient, Registry
from server.rows import DeviceRow, ModelRow, Role


def digests(*records: str) -> dict[str, str]:
    """Made-up sha256 by record."""
    return {record: f"{int(record):064x}" for record in records}


def enrol(
    registry: Registry, patient: str, *, role: Role, records: Mapping[str, str], slot: int | None = None
) -> Patient:
    (enrolled,) = registry.enrol_many([Enrolment(patient, role, records, slot)])
    return enrolled


def withdrawn(registry: Registry, patient: str) -> tuple[str, ...]:
    """The ids of the records that the patient took back."""
    return tuple(row.id for row in registry.records(patient, consented_only=False) if row.withdrawn)


def told(registry: Registry, slot: int) -> DeviceRow:
    """What one device last told."""
    return next(device for device in registry.devices() if device.slot == slot)


def model_of(registry: Registry, digest: str) -> ModelRow:
    return next(model for model in registry.models() if model.digest == digest)
