"""The forecaster of a configuration: one network, or the members of a bank side by side."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ..config import Config
from ..errors import ConfigurationError
from ..members import (
    LogisticMember,
    Member,
    NetworkMember,
    RegimeMember,
    TableMember,
    check_members,
)
from .forecaster import Ensemble, Forecaster, network, side_by_side, slack
from .guard import Caps
from .plain import logistic, regime, table

MODEL_KEYS = ("hidden", "layers", "seed", "init", "init_horizon")
LEARNING_KEYS = (
    "gradient",
    "bptt",
    "targets",
    "positive_weight",
    "optimizer",
    "optimizer_args",
    "learning_rate",
    "clip_norm",
)


def bank(config: Config, features: int, members: Sequence[Member]) -> Ensemble:
    """Return the members side by side.

    Raises ConfigurationError naming the member that cannot be, and for a mode that a bank cannot
    be used with.
    """
    check_members(members)
    if config.model.mode == "window":
        raise ConfigurationError("a bank carries its states: use it with mode=carry", key="bank")
    made = [_member(config, features, member) for member in members]
    return side_by_side(made, slack(config))


def _member(config: Config, features: int, member: Member) -> Forecaster:
    try:
        if isinstance(member, TableMember):
            return table(member, _count(config, member))
        if isinstance(member, LogisticMember):
            return logistic(member, features, _count(config, member), Caps.of(config.learning))
        if isinstance(member, RegimeMember):
            return regime(member)
        gain = 1.0 if member.gain is None else member.gain / config.scaling.gain
        return network(member_config(config, member), features, gain=gain, name=member.name)
    except (ConfigurationError, ValueError) as error:
        raise ConfigurationError(f"member {member.name!r}: {error}", key="bank") from None


def _count(config: Config, member: TableMember | LogisticMember) -> int:
    if member.targets == "published" or config.stream.labels == "external":
        return 1
    # No more than the warm-up: before a stream's first element there are no labels to count.
    return min(config.stream.stride, config.stream.window)


def member_config(config: Config, member: NetworkMember) -> Config:
    """Return `config` with what a member sets for itself.

    Raises ValueError where the settings do not go together.
    """
    model = {k: v for k in MODEL_KEYS if (v := getattr(member, k)) is not None}
    learning = {k: v for k in LEARNING_KEYS if (v := getattr(member, k)) is not None}
    replace = msgspec.structs.replace
    return replace(
        config,
        model=replace(config.model, **model),
        learning=replace(config.learning, **learning),
    )
