"""``router.json``: everything about a router but its weights."""

import hashlib
import json
import sys
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NoReturn, get_args

from pyramid_moa.errors import CheckpointError
from pyramid_moa.router_model.features import FeatureGroup
from pyramid_moa.router_model.network import NetworkShape
from pyramid_moa.router_model.policy import OperatingPoint, PolicyKind, Promise, Rule

__all__ = ["CHECKPOINT_FORMAT_VERSION", "RouterCard", "RouterMember", "TypicalCall"]

CHECKPOINT_FORMAT_VERSION = 2
_FORMAT = "pyramid-moa router"
_SELF_HASH = "self_sha256"
_VERIFIER_HASH = "verifier_sha256"
# Keys that earlier versions of this format did not have.
_LATER = {
    _VERIFIER_HASH,
    "typical_calls",
    "steps_curve",
    "threshold_questions",
    "known_questions",
}


@dataclass(frozen=True, kw_only=True)
class RouterMember:
    """A member as the router knows it.

    Attributes:
        name: its name in the pyramid.
        hidden_size: length of its hidden state, or None where the router does not read it.
        logprobs: whether its backend must give token log-probabilities.
    """

    name: str
    hidden_size: int | None
    logprobs: bool = False


@dataclass(frozen=True, kw_only=True)
class TypicalCall:
    """What one answer of a model takes, in the mean over the questions of training.

    Attributes:
        cost_usd: its price.
        latency_s: seconds; None where they were not measured.
    """

    cost_usd: float
    latency_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class RouterCard:
    """What a checkpoint says of itself.

    Attributes:
        members: best first, as in the pyramid it was trained on.
        oracle: the oracle it was trained beside.
        grader: how answers are found and compared.
        feature_groups: names of the feature groups.
        feature_names: every feature of an answer, of two answers and of the question, in order;
            compared with what this version computes.
        hidden_key: which hidden state is read, such as ``layer-1/answer_mean``, or None.
        network: shape of the network.
        calibration: how logits became probabilities, in words and numbers.
        reference: ``gold`` or ``oracle``: what "right" meant in training.
        price_note: said wherever a cost is shown.
        trained_on: data set, its hash, numbers of queries by split, seed, configuration.
        validation: figures on queries that the scoring seeds had left out.
        validation_curve: threshold, escalation_rate, accuracy and cost_ratio on them.
        steps_curve: the same of the settings of the policy that goes step by step, falling; of
            fits of the policy that had left them out, too. Empty where there is no such policy.
        operating_points: positions of the dial by name; the first is used unless another is
            named.
        seen_questions: first 16 hexadecimal digits of the hash of every question it was fitted,
            chosen or calibrated on.
        threshold_questions: those of them that only operating points were chosen on; a promise may
            rest on them. Checkpoints of earlier versions do not tell them apart.
        weights_sha256: of router.safetensors.
        verifier_sha256: of verifier/verifier.json, which has those of the verifier's other files;
            None where the router reads no verifier, and then not in the file either.
        typical_calls: by model, what an answer takes.
        known_questions: of what the checkpoint knows of training's questions: how many there were,
            the share of them that is taken for others, and what is read of a question; None in
            checkpoints that know nothing of them.
        format_version: of the checkpoint.
    """

    members: list[RouterMember]
    oracle: str
    grader: str
    feature_groups: list[FeatureGroup]
    feature_names: list[str]
    hidden_key: str | None
    network: NetworkShape
    calibration: dict[str, Any]
    reference: str
    price_note: str
    trained_on: dict[str, Any]
    validation: dict[str, Any]
    validation_curve: list[dict[str, float | None]]
    operating_points: list[OperatingPoint]
    seen_questions: list[str] = field(default_factory=list)
    threshold_questions: list[str] = field(default_factory=list)
    weights_sha256: str = ""
    verifier_sha256: str | None = None
    steps_curve: list[dict[str, float | None]] = field(default_factory=list)
    typical_calls: dict[str, TypicalCall] = field(default_factory=dict)
    known_questions: dict[str, Any] | None = None
    format_version: int = CHECKPOINT_FORMAT_VERSION

    @property
    def member_names(self) -> list[str]:
        """Names of the members, best first."""
        return [member.name for member in self.members]

    @property
    def fitted_questions(self) -> set[str]:
        """Hashes of the seen questions that more than operating points rests on."""
        return set(self.seen_questions) - set(self.threshold_questions)

    @property
    def needs_logprobs(self) -> bool:
        """Whether any member's backend must give token log-probabilities."""
        return any(member.logprobs for member in self.members)

    def operating_point(
        self, name: str | None = None, *, policy: PolicyKind | None = None
    ) -> OperatingPoint:
        """The operating point of that name, or the first.

        Args:
            name: of the point.
            policy: that it has to have; any where it is left out.

        Raises:
            CheckpointError: there is none of that name, or none of that policy.
        """
        of_policy = [point for point in self.operating_points if policy in (None, point.policy)]
        if name is None and of_policy:
            return of_policy[0]
        if name is None:
            raise CheckpointError(
                f"expected an operating point of the {policy} policy, found "
                f"{', '.join(point.name for point in self.operating_points)}; train again, or "
                "leave the policy out"
            )
        for point in self.operating_points:
            if point.name == name and point in of_policy:
                return point
            if point.name == name:
                raise CheckpointError(
                    f"operating point {name!r}: its policy is {point.policy}, expected {policy}"
                )
        known = ", ".join(point.name for point in self.operating_points)
        raise CheckpointError(f"no operating point {name!r} in this checkpoint; it has {known}")

    def to_json(self) -> str:
        """The text of ``router.json``, with the hash of all the rest in it."""
        content = {"format": _FORMAT, **asdict(self)}
        if self.verifier_sha256 is None:
            del content[_VERIFIER_HASH]
        content[_SELF_HASH] = _digest(content)
        return json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, *, source: str) -> "RouterCard":
        """Read and check the text of ``router.json``.

        Args:
            text: the text.
            source: the file's name, for errors.

        Raises:
            CheckpointError: not this format or version, a key is missing or unknown, or the text
                was changed.
        """
        try:
            content = json.loads(text, parse_constant=_no_number)
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{source}: damaged: not valid JSON ({error})") from error
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise CheckpointError(f"{source}: expected the card of a {_FORMAT}, found another file")
        version = content.get("format_version")
        if version != CHECKPOINT_FORMAT_VERSION:
            raise CheckpointError(
                f"{source}: expected format version {CHECKPOINT_FORMAT_VERSION}, found {version}; "
                "train again, or use the version of pyramid-moa that wrote it"
            )
        stated = content.pop(_SELF_HASH, None)
        if stated != _digest_or_none(content):
            raise CheckpointError(
                f"{source}: damaged: its content does not match its own hash; take another copy, "
                "or train again"
            )
        del content["format"]
        return _card(content, source)


def _card(content: dict[str, Any], source: str) -> RouterCard:
    expected = {item.name for item in fields(RouterCard)}
    if set(content) | _LATER != expected:
        raise CheckpointError(
            f"{source}: missing keys {sorted(expected - set(content) - _LATER)}, "
            f"unknown keys {sorted(set(content) - expected)}"
        )
    try:
        shape = content["network"]
        content["network"] = NetworkShape(**{**shape, "hidden_sizes": tuple(shape["hidden_sizes"])})
        content["members"] = [RouterMember(**member) for member in content["members"]]
        content["operating_points"] = [_point(p) for p in content["operating_points"]]
        calls = content.pop("typical_calls", {})
        card = RouterCard(
            **content, typical_calls={name: TypicalCall(**call) for name, call in calls.items()}
        )
        problems = _problems(card)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{source}: damaged: {type(error).__name__}: {error}") from error
    if problems:
        raise CheckpointError(f"{source}: expected " + "; expected ".join(problems))
    return card


def _point(content: dict[str, Any]) -> OperatingPoint:
    promise = content.pop("promise", None)
    if promise is not None:
        others = tuple((kind, value) for kind, value in promise.pop("others", ()))
        promise = Promise(**promise, others=others)
    return OperatingPoint(**content, promise=promise)


def _problems(card: RouterCard) -> list[str]:
    """What does not fit together: a card whose hash is right may still have been made by hand."""
    shape = card.network
    features = shape.answer_features + shape.relation_features + shape.question_features
    counts: list[Any] = [features, shape.components, shape.code, shape.units, shape.seeds]
    counts += shape.hidden_sizes
    sizes = [member.hidden_size for member in card.members]
    read = [size for size in sizes if size is not None]
    texts = [card.oracle, card.grader, card.reference, *card.member_names, *card.feature_names]
    texts += [point.name for point in card.operating_points]
    calls = card.typical_calls.values()
    amounts: list[Any] = [call.cost_usd for call in calls]
    amounts += [call.latency_s for call in calls if call.latency_s is not None]
    promises = [point.promise for point in card.operating_points if point.promise is not None]
    words: list[Any] = [own.method for own in promises]
    words += [kind for own in promises for kind, _ in own.targets]
    promised: list[Any] = [number for own in promises for number in (own.confidence, own.questions)]
    promised += [value for own in promises for _, value in own.targets]
    promised += [own.most_differ for own in promises if own.most_differ is not None]
    checks = {
        "members and an operating point, found none": bool(card.members and card.operating_points),
        "names as text": all(isinstance(text, str) for text in texts),
        "a network shape of whole numbers": all(
            isinstance(count, int) and count >= 0 for count in counts
        ),
        "a network shape with a code, units and seeds": min(shape.code, shape.units, shape.seeds)
        >= 1,
        f"{features} feature names, found {len(card.feature_names)}": len(card.feature_names)
        == features,
        f"{shape.members} members, found {len(card.members)}": len(card.members) == shape.members,
        "the members' hidden sizes in the network's shape": tuple(read) == shape.hidden_sizes,
        "a hidden state of every member, or of none": len(read)
        == (len(sizes) if isinstance(card.hidden_key, str) else 0),
        "a verifier where its features are read, and else none": isinstance(
            card.verifier_sha256, str if "verifier" in card.feature_groups else type(None)
        ),
        "points of finite numbers": all(
            _is_finite(number) for point in card.operating_points for number in _numbers_of(point)
        ),
        "promises in words and numbers": all(isinstance(word, str) for word in words)
        and all(_is_finite(number) for number in promised),
        "what calls take as numbers from 0": all(
            isinstance(amount, int | float) and amount >= 0 for amount in amounts
        ),
        "known questions as an object, or none": isinstance(
            card.known_questions, dict | type(None)
        ),
        "policies and rules that there are": all(
            point.policy in get_args(PolicyKind) and point.rule in get_args(Rule)
            for point in card.operating_points
        ),
    }
    return [expected for expected, good in checks.items() if not good]


def _is_finite(number: object) -> bool:
    """Whether it is a number that a float can hold."""
    return isinstance(number, int | float) and abs(number) <= sys.float_info.max


def _numbers_of(point: OperatingPoint) -> list[Any]:
    told = [point.accuracy, point.escalation_rate, point.cost_ratio, point.outvote]
    return [point.threshold, point.questions, *(number for number in told if number is not None)]


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


def _digest(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _digest_or_none(content: dict[str, Any]) -> str | None:
    """The same of what was read, which may hold numbers that no card has."""
    try:
        return _digest(content)
    except (ValueError, RecursionError):
        return None
