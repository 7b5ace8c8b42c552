"""What a certificate must have compared, by its method, scope and place, and what it cannot be.

For `server/verification.py`; nothing here looks at a figure.
"""

from server.statement import BUNDLE, EMPTY, Statement
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
    """Return what no withdrawal is: a method that its place does not have, and a hospital that serves a wearable."""
    told, at_home = statement.predicate, statement.predicate.erased.where == "hospital"
    name, exact = told.method.name, told.method.exact
    known = OF_THE_HOSPITAL if at_home else OF_A_DEVICE
    wrong = []
    if name not in known:
        wrong.append(f"no {told.erased.where} unlearns by {name!r}, expected one of {', '.join(known)}")
    elif exact != known[name]:
        wrong.append(f"{name!r} is {'not ' if exact else ''}exact, and it says otherwise")
    if at_home and (told.lineage.after, statement.digest(BUNDLE)) != (told.lineage.general, EMPTY):
        wrong.append("a hospital makes its general model anew and no bundle, and the model or the bundle is another")
    if at_home and (told.audit.after is not None or told.erased.segments):
        wrong.append("a hospital compares no copies and has no segments of a wearable")
    return wrong
