"""Payloads of every message as hypothesis strategies, each with what its fields may hold."""

from hypothesis import strategies as st

from shared.audit_messages import AuditReply, AuditRequest, Readings, VerifyReply, VerifyRequest
from shared.messages import (
    Accuracies,
    ErasedFile,
    GroupMargins,
    Identity,
    MethodOutcome,
    PersonaliseReply,
    PersonaliseRequest,
    ProbeReply,
    ProbeRequest,
    UnlearnReply,
    UnlearnRequest,
    Whoami,
)
from shared.settings import Personalisation, Unlearning

text = st.text("aZ09é[]%'", max_size=20)
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,9}", fullmatch=True)
digests = st.sampled_from(["", "0" * 64, "f" * 64])
counts = st.integers(0, 10**12)
amounts = st.floats(0, 1e12)
shares = st.floats(0, 1)
numbers = st.floats(allow_nan=False, allow_infinity=False)
hits = st.lists(st.lists(st.integers(0, 1), max_size=3).map(tuple), max_size=3).map(tuple)
margins = st.lists(st.lists(numbers, max_size=3).map(tuple), max_size=3).map(tuple)
groups = st.builds(GroupMargins, hits, hits, margins, margins)
outcomes = st.builds(
    MethodOutcome,
    method=names,
    exact=st.booleans(),
    after=digests,
    seconds=amounts,
    own=st.builds(Accuracies, counts, shares, st.none(), shares),
    others=st.builds(Accuracies, counts, shares, shares, shares),
    before_groups=st.dictionaries(names, groups, max_size=2),
    after_groups=st.dictionaries(names, groups, max_size=2),
)
readings = st.builds(Readings, margins, margins, margins, margins)
PAYLOADS = {
    Whoami: st.builds(Whoami, text),
    Identity: st.builds(Identity, counts, text, digests, digests, text),
    PersonaliseRequest: st.builds(
        PersonaliseRequest, text, digests, digests, st.lists(names).map(tuple), st.just(Personalisation(steps=3))
    ),
    PersonaliseReply: st.builds(
        PersonaliseReply,
        slot=counts,
        status=st.sampled_from(["ok", "refused"]),
        own_general=st.none() | shares,
        left_out=st.none() | st.dictionaries(text, counts, max_size=3),
        split=st.sampled_from(["record", "time", "none"]),
    ),
    ProbeRequest: st.builds(ProbeRequest, text, shares, st.lists(amounts).map(tuple)),
    ProbeReply: st.builds(ProbeReply, counts, st.just("ok"), text, groups, st.none(), groups),
    UnlearnRequest: st.builds(
        UnlearnRequest,
        job=names,
        scope=st.sampled_from(["patient", "records"]),
        records=st.lists(names).map(tuple),
        methods=st.lists(names).map(tuple),
        serve=names,
        personalisation=st.just(Personalisation()),
        unlearning=st.just(Unlearning()),
        epsilons_sd=st.lists(amounts).map(tuple),
        retrain=st.booleans(),
    ),
    UnlearnReply: st.builds(
        UnlearnReply,
        job=names,
        slot=counts,
        status=st.just("ok"),
        erased=st.lists(st.builds(ErasedFile, names, counts), max_size=3).map(tuple),
        methods=st.lists(outcomes, max_size=2).map(tuple),
    ),
    AuditRequest: st.builds(
        AuditRequest,
        job=names,
        scope=st.sampled_from(["patient", "records"]),
        records=st.lists(names).map(tuple),
        methods=st.lists(names).map(tuple),
        personalisation=st.just(Personalisation()),
        unlearning=st.just(Unlearning()),
        copies=counts,
        epsilon_sd=amounts,
        seed=counts,
    ),
    AuditReply: st.builds(
        AuditReply,
        job=names,
        slot=counts,
        status=st.sampled_from(["ok", "refused"]),
        arms=st.dictionaries(names, st.dictionaries(names, readings, max_size=2), max_size=2),
        seconds=amounts,
    ),
    VerifyRequest: st.builds(
        VerifyRequest,
        job=names,
        scope=st.sampled_from(["patient", "records"]),
        records=st.lists(names).map(tuple),
        personalisation=st.just(Personalisation()),
        exact=st.booleans(),
        white_box=st.booleans(),
    ),
    VerifyReply: st.builds(
        VerifyReply,
        job=names,
        slot=counts,
        status=st.sampled_from(["ok", "refused"]),
        records=st.lists(names).map(tuple),
        leftovers=st.lists(text).map(tuple),
        seconds=amounts,
    ),
}
