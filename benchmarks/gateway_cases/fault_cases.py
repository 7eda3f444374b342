"""The rows of the fault matrix: which models fail how, and what clients may then be told."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway_cases.fault_load import Outcome

__all__ = ["FAULT_CASES", "FaultCase"]

_FINE: frozenset[Outcome] = frozenset({"answered"})
_ANY_ANSWER: frozenset[Outcome] = frozenset({"answered", "degraded"})
# Of requests that no member can stand in for: an answer, or the right error.
_ORACLE_ONLY: frozenset[Outcome] = _ANY_ANSWER | {"unavailable", "busy", "broken off"}
_BROKEN: frozenset[Outcome] = _ANY_ANSWER | {"broken off"}


@dataclass(frozen=True, kw_only=True)
class FaultCase:
    """A row.

    Attributes:
        name: in words.
        moods: of the models that are not well.
        fallback: whether a fallback oracle is named.
        judged: how requests that the pyramid judges may end.
        turns: how conversations of several turns may, for which any model can stand in.
        tools: how requests with tools may, which are the oracles' alone.
    """

    name: str
    moods: Mapping[str, str]
    fallback: bool = False
    judged: frozenset[Outcome] = field(default=_ANY_ANSWER)
    turns: frozenset[Outcome] = field(default=_ANY_ANSWER)
    tools: frozenset[Outcome] = field(default=_FINE)

    def allowed(self, kind: str) -> frozenset[Outcome]:
        """How requests of a kind may end; clients may always go away."""
        by_kind = {"judged": self.judged, "turns": self.turns, "tools": self.tools}
        return by_kind[kind] | {"gone"}


def _one_member(mood: str) -> dict[str, str]:
    return {"b": mood}


def _members(mood: str) -> dict[str, str]:
    return dict.fromkeys("abc", mood)


def _oracle(mood: str) -> dict[str, str]:
    return {"oracle": mood}


def _all(mood: str) -> dict[str, str]:
    return {**_members(mood), "spare": mood, "oracle": mood}


_LEFT_TO_MEMBERS = {"tools": _ORACLE_ONLY}
# Nobody is left: 503 with Retry-After, and nothing else.
_NOBODY: frozenset[Outcome] = frozenset({"unavailable"})
_IN_MID_STREAM = (("dies in mid-stream", "dies"), ("stalls in mid-stream", "stalls"))

FAULT_CASES = (
    FaultCase(name="nothing fails", moods={}, judged=_FINE, turns=_FINE),
    FaultCase(name="a member is slow", moods=_one_member("slow"), judged=_FINE, turns=_FINE),
    FaultCase(name="a member hangs", moods=_one_member("hangs")),
    FaultCase(name="a member answers 500", moods=_one_member("errors")),
    FaultCase(name="a member refuses connections", moods=_one_member("refuses")),
    FaultCase(name="a member answers garbage", moods=_one_member("garbage")),
    FaultCase(name="a member answers 429", moods=_one_member("busy")),
    FaultCase(name="a member breaks off", moods=_one_member("dies")),
    FaultCase(name="all members refuse connections", moods=_members("refuses")),
    FaultCase(name="all members hang", moods=_members("hangs")),
    FaultCase(name="members flap", moods=_members("flaps")),
    FaultCase(name="the oracle refuses connections", moods=_oracle("refuses"), **_LEFT_TO_MEMBERS),
    FaultCase(name="the oracle answers 500", moods=_oracle("errors"), **_LEFT_TO_MEMBERS),
    FaultCase(name="the oracle hangs", moods=_oracle("hangs"), **_LEFT_TO_MEMBERS),
    FaultCase(name="the oracle answers garbage", moods=_oracle("garbage"), **_LEFT_TO_MEMBERS),
    *(
        FaultCase(
            name=f"the oracle {how}",
            moods=_oracle(mood),
            judged=_BROKEN,
            turns=_BROKEN,
            **_LEFT_TO_MEMBERS,
        )
        for how, mood in (*_IN_MID_STREAM, ("flaps", "flaps"))
    ),
    FaultCase(
        name="everything refuses connections",
        moods=_all("refuses"),
        judged=_NOBODY,
        turns=_NOBODY,
        tools=_NOBODY,
    ),
    FaultCase(
        name="everything hangs", moods=_all("hangs"), judged=_NOBODY, turns=_NOBODY, tools=_NOBODY
    ),
    FaultCase(
        name="all but a mid oracle refuse connections",
        moods={**_members("refuses"), "oracle": "refuses"},
        **_LEFT_TO_MEMBERS,
    ),
    FaultCase(
        name="all but a mid oracle hang",
        moods={**_members("hangs"), "oracle": "hangs"},
        **_LEFT_TO_MEMBERS,
    ),
    # A model that has just come back may have been left alone for a second too long.
    FaultCase(
        name="everything flaps",
        moods=_all("flaps"),
        judged=_BROKEN | _NOBODY,
        turns=_BROKEN | _NOBODY,
        tools=_ORACLE_ONLY,
    ),
    FaultCase(
        name="everything fails at random",
        moods=_all("random"),
        judged=_BROKEN,
        turns=_BROKEN,
        tools=_ORACLE_ONLY,
    ),
    *(
        FaultCase(name=f"the oracle {how}", moods=_oracle(mood), fallback=True, tools=_ANY_ANSWER)
        for how, mood in (("refuses connections", "refuses"), ("hangs", "hangs"), *_IN_MID_STREAM)
    ),
)
