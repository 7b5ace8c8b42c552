"""What a certificate must have compared, by its method, scope and place, and what it cannot be.

For `server/verification.py`; nothing here looks at a figure.
"""

from collections.abc import Mapping

from server.statement import BUNDLE, EMPTY, Predicate, Statement
from server.verdicts import (
    BUNDLED,
    COPIES,
    FRESH,
    GENERAL,
    LEFTOVERS,
    LINEAGE,
    NO_MODEL,
    OTHERS,
    RECORDS,
    SERVED,
    SLICED,
    STANDS_IN,
    START,
    WEIGHTS,
)
from shared.unlearning import EXACT, METHODS

OF_A_DEVICE = dict.fromkeys(METHODS, False) | dict.fromkeys((*EXACT, STANDS_IN), True)  # name -> whether it is exact
OF_THE_HOSPITAL = dict.fromkeys((*EXACT, SLICED), True)


def checks_of(statement: Statement) -> dict[str, str]:
    """Return the checks of bytes that there must be, and what each must have expected."""
    told = statement.predicate
    model, bundle = told.lineage.after or "none", statement.digest(BUNDLE)
    if told.erased.where == "hospital":  # the general model itself, made again
        return {SERVED: model, RECORDS: "none", LINEAGE: "no withdrawn record", COPIES: "none"}
    found = {SERVED: model, BUNDLED: "none" if bundle == EMPTY else bundle, RECORDS: "none", LEFTOVERS: "none"}
    found[OTHERS] = "unchanged"
    if told.audit.mode == "white-box":
        found[WEIGHTS] = model
    if not told.method.exact:
        return found
    found[LINEAGE] = "no withdrawn record"
    if model == "none":
        return found | {NO_MODEL: "none"}
    if told.request.scope == "patient" or told.method.name == STANDS_IN:
        return found | {GENERAL: told.lineage.general}
    return found | {START: told.lineage.general, FRESH: model}


def strange(statement: Statement) -> list[str]:
    """Return what no withdrawal is, whoever signed it: of either place, of a device, of a hospital."""
    told = statement.predicate
    at_home = told.erased.where == "hospital"
    wrong = _of_a_method(told, OF_THE_HOSPITAL if at_home else OF_A_DEVICE)
    if (told.erased.bytes or told.erased.segments) and not told.erased.files:
        seen = f"{told.erased.segments} segments and {told.erased.bytes} bytes"
        wrong.append(f"{seen} were erased, and no file")
    if told.lineage.after in (EMPTY, statement.digest(BUNDLE)):
        wrong.append("the digest of the model in use is that of no bytes, or of its ONNX file")
    if told.lineage.after and not told.lineage.general:
        wrong.append("a model is in use that comes from no general model")
    return wrong + (_of_a_hospital(statement) if at_home else _of_a_device(statement))


def _of_a_method(told: Predicate, known: Mapping[str, bool]) -> list[str]:
    name, exact = told.method.name, told.method.exact
    if name not in known:
        return [f"no {told.erased.where} unlearns by {name!r}, expected one of {', '.join(known)}"]
    return [] if exact == known[name] else [f"{name!r} is {'not ' if exact else ''}exact, and it says otherwise"]


def _of_a_hospital(statement: Statement) -> list[str]:
    told, wrong = statement.predicate, []
    if not told.lineage.after:
        wrong.append("a hospital makes its general model anew, and there is none")
    if (told.lineage.after, statement.digest(BUNDLE)) != (told.lineage.general, EMPTY):
        wrong.append("a hospital makes its general model anew and no bundle, and the model or the bundle is another")
    if told.audit.after is not None or told.erased.segments:
        wrong.append("a hospital compares no copies and has no segments of a wearable")
    return wrong


def _of_a_device(statement: Statement) -> list[str]:
    told, wrong = statement.predicate, []
    stands_in = told.method.name == STANDS_IN
    if bool(told.lineage.after) != (statement.digest(BUNDLE) != EMPTY):
        wrong.append("a model is in use without its ONNX file, or the file without its model")
    if not told.lineage.after and not stands_in:
        wrong.append(f"{told.method.name!r} made the model in use, and none is")
    if stands_in and told.audit.after is not None:
        wrong.append("the general model stands in for a copy that no method made, and such copies were compared")
    if told.request.scope == "patient" and told.audit.retained is not None:
        wrong.append("the patient keeps nothing, and there are figures of what is kept")
    return wrong
