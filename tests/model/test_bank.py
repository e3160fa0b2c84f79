"""The members of a bank: each as it would be alone."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
import pytest

from stream_lstm.config import DEFAULT_BANK, Member, Members, NetworkMember, TableMember
from stream_lstm.core.session import Session
from stream_lstm.errors import ConfigurationError
from stream_lstm.events import Label, Prediction, Ticks
from stream_lstm.model.plain import bank, member_config

from ..engines import SMALL_BANK, engine_for, settings

BANK = {"learn": True, "bank": "small.toml", "publish_experts": True, "stride": 5}
OUTSIDE_BANK = tuple(member for member in SMALL_BANK if member.name != "latch")
XS = np.random.default_rng(0).standard_t(3, size=300)


@functools.cache
def ran(members: Members | None, **values: Any) -> tuple[dict[str, list[float]], list[Any]]:
    """({member: its p}, weights of each) of a session; "" is a network without a bank."""
    config = settings(**BANK | values)
    ps: dict[str, list[float]] = {}

    def emit(event: Any) -> None:
        if isinstance(event, Prediction):
            for name, p in [(e.name, e.p) for e in event.experts] or [("", event.p)]:
                ps.setdefault(name, []).append(p)

    engine = engine_for(config, members=members)
    session = Session(config, ["x"], emit, members=members, engine=engine)
    if config.stream.labels == "series":
        session.push(Ticks("a", np.arange(len(XS)), XS[:, None]))
    else:
        for n, x in enumerate(XS, 1):
            session.push(Ticks("a", np.array([n]), np.array([[x]])))
            session.label(Label("a", n, int(x < XS[n - 2])))  # rejected without a prediction
    weights = session.weights_for("a")
    return ps, weights if members is not None else [weights]


def bits(tree: Any) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


CASES = [
    *((SMALL_BANK, member, "series") for member in SMALL_BANK),
    *((OUTSIDE_BANK, OUTSIDE_BANK[k], "external") for k in (1, 2, 5)),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("members", "member", "labels"), CASES, ids=[f"{m.name}-{labels}" for _, m, labels in CASES]
)
def test_a_member_gives_beside_others_what_it_gives_alone(
    members: Members, member: Member, labels: str
) -> None:
    together, weights = ran(members, labels=labels)
    alone, own = ran((member,), labels=labels)
    # Compiled together or alone, a sum may round differently.
    assert together[member.name] == pytest.approx(alone[member.name], rel=1e-5)
    pairs = zip(
        jax.tree.leaves(weights[members.index(member)]), jax.tree.leaves(own[0]), strict=True
    )
    for one, other in pairs:
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    assert bits(own[0]) != bits(bank(settings(**BANK), 1, (member,)).init()[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("members", "labels"), [(SMALL_BANK, "series"), (OUTSIDE_BANK, "external")]
)
def test_a_network_gives_in_a_bank_what_it_gives_without_one(
    members: Members, labels: str
) -> None:
    together, weights = ran(members, labels=labels)
    own_settings = {"publish_experts": False, "hidden": 3, "optimizer": "dekf"}
    alone, own = ran(None, bank="none", labels=labels, **own_settings)
    assert together["filtered"] == alone[""]
    assert bits(weights[0]) == bits(own[0])


@pytest.mark.slow
def test_a_members_gain_is_that_of_the_scaler_for_it_alone() -> None:
    """Powers of two scale exactly."""
    one, two, three = (
        ran((NetworkMember("n", hidden=3, gain=gain),), **more)[0]
        for gain, more in ((4.0, {}), (None, {"gain": 4.0}), (None, {}))
    )
    assert one == two != three


def test_a_member_inherits_the_settings_that_it_does_not_have() -> None:
    config = settings(learn=True, hidden=5, layers=2, seed=7, learning_rate=0.5)
    own = member_config(config, NetworkMember("n", hidden=9, targets="published"))
    assert (own.model.hidden, own.model.layers, own.model.seed) == (9, 2, 7)
    assert (own.learning.targets, own.learning.learning_rate) == ("published", 0.5)
    assert own.stream == config.stream


@pytest.mark.parametrize(
    ("member", "says"),
    [
        (NetworkMember("deep", layers=2, gradient="snap1"), "member 'deep'.*one layer"),
        (NetworkMember("odd", optimizer="adamm"), "member 'odd'.*did you mean 'adam'"),
        (NetworkMember("far", gradient="bptt", bptt=99), "member 'far': bptt=99 reaches back"),
    ],
)
def test_an_invalid_member_is_named(member: Member, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        bank(settings(**BANK), 1, (TableMember("fine"), member))
    assert caught.value.key == "bank"


def test_a_bank_carries_its_states() -> None:
    with pytest.raises(ConfigurationError, match="use it with mode=carry"):
        bank(settings(**BANK, mode="window"), 1, SMALL_BANK)


def test_external_labels_need_members_whose_gradient_needs_no_series() -> None:
    outside = settings(**BANK, labels="external")
    with pytest.raises(ConfigurationError, match=r"member 'latch': gradient=rtrl follows .*bptt"):
        bank(outside, 1, SMALL_BANK)


def test_members_must_be_few_and_have_names() -> None:
    one = TableMember("one")
    many = tuple(TableMember(str(k)) for k in range(33))
    for members in ((), (one, one), (TableMember(""),), many):
        with pytest.raises(ConfigurationError, match="member"):
            bank(settings(**BANK), 1, members)


def test_the_default_bank_is_a_bank() -> None:
    ensemble = bank(settings(learn=True, window=100), 1, DEFAULT_BANK)
    assert ensemble.names == tuple(member.name for member in DEFAULT_BANK)
    # The lags of far-lags, which learns from published labels.
    assert ensemble.tape_length == 128 + 9
