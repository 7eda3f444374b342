"""What is to be done with a request: through the pyramid, or to one model as it is."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from pydantic import ValidationError

from pyramid_moa.backends import Sampling
from pyramid_moa.data_prep.pyramid import Pyramid
from pyramid_moa.errors import CheckpointError, ConfigError
from pyramid_moa.inference.budget import Budget
from pyramid_moa.inference.course import Rules
from pyramid_moa.inference.gateway.api_error import ApiError, bad_request
from pyramid_moa.inference.gateway.api_request import CompletionRequest, PyramidOptions
from pyramid_moa.inference.gateway.out_of_distribution import furthest, is_unlike
from pyramid_moa.inference.gateway.question import (
    Cause,
    Unjudged,
    check_limits,
    client_sampling,
    find_questions,
)
from pyramid_moa.inference.gateway.settings import Faults, GatewaySettings
from pyramid_moa.inference.requirements import check_point
from pyramid_moa.router_model.policy import OperatingPoint

__all__ = ["PYRAMID", "Direct", "Gated", "check_names", "offered_models", "plan_of"]

PYRAMID = "pyramid"
_HEADERS = ("threshold", "max_cost_usd", "max_latency_ms", "policy")


@dataclass(frozen=True, kw_only=True)
class Gated:
    """Questions for the pyramid.

    Attributes:
        rules: what decides, at the operating point that the client wants.
        questions: one or more, each taken by itself.
        sampling: how models answer.
        budget: limits of all of it, by which calls are planned; the ways through the pyramid that
            it takes have equal shares of the money.
        limit_s: seconds for all of it.
        is_cut: whether those are the client's own (``max_latency_ms``), and not the gateway's.
        n: answers to each question.
        as_trained: whether models answer as they did when the router was trained; where they do
            not, its probabilities are less sure than they say.
        distance: of the questions from those of training (1 is where they are no longer judged by
            default); None where the router can't say.
    """

    rules: Rules
    questions: tuple[str, ...]
    sampling: Sampling
    budget: Budget
    limit_s: float
    is_cut: bool
    n: int
    as_trained: bool
    distance: float | None = None


@dataclass(frozen=True, kw_only=True)
class Direct:
    """One model answers what the client has written, unjudged.

    Attributes:
        model: its name in the pyramid.
        reason: why, in words.
        asked_for: whether the client has named it.
        cause: why, in a word.
        distance: as in ``Gated``.
        questions: that are unlike those of training; none where it is about something else.
        max_usd: US dollars that it may cost; None for no limit.
        limit_s: seconds for all of it.
        is_cut: whether those are the client's own (``max_latency_ms``), and not the gateway's.
    """

    model: str
    reason: str
    asked_for: bool
    max_usd: float | None
    limit_s: float
    is_cut: bool
    cause: Cause = "by_name"
    distance: float | None = None
    questions: tuple[str, ...] = ()


def offered_models(rules: Rules) -> list[str]:
    """Names that a client may ask for: the pyramid, at each point of the dial, and its models."""
    points = rules.router.card.operating_points if rules.router is not None else []
    own = [PYRAMID, *(f"{PYRAMID}@{point.name}" for point in points)]
    return [*own, *(spec.name for spec in rules.pyramid.models)]


def check_names(pyramid: Pyramid, faults: Faults) -> None:
    """Refuse names that can't be served by.

    Raises:
        ConfigError: a model goes by the pyramid's own name, or the fallback oracle is none of its
            other models.
    """
    if taken := [spec.name for spec in pyramid.models if spec.name.partition("@")[0] == PYRAMID]:
        raise ConfigError(
            f"expected models with names other than {PYRAMID!r}, which is what clients call all "
            f"of them together; found {', '.join(taken)}: rename it"
        )
    others = [spec.name for spec in pyramid.models_before_oracle]
    if faults.fallback_oracle is not None and faults.fallback_oracle not in others:
        raise ConfigError(
            f"faults.fallback_oracle: expected one of {', '.join(others)}, found "
            f"{faults.fallback_oracle!r}; to have another model, list it among oracles, before the "
            "last"
        )


def plan_of(
    request: CompletionRequest,
    headers: Mapping[str, str],
    rules: Rules,
    settings: GatewaySettings,
) -> Gated | Direct:
    """Decide on a request before any model is asked.

    Args:
        request: the client's.
        headers: by lower-case name; ``x-pyramid-threshold`` and the like stand for the fields of
            ``pyramid`` that the body leaves out.
        rules: of the gateway, at its own operating point.
        settings: limits, and what becomes of requests that can't be judged.

    Raises:
        ApiError: there is no such model, or the request asks for what can't be done.
    """
    check_limits(request, settings.requests)
    options = _options(request, headers)
    own_s = math.inf if options.max_latency_ms is None else options.max_latency_ms / 1000.0
    limit_s, is_cut = min(own_s, settings.faults.deadline_s), own_s < settings.faults.deadline_s
    name, at, point_name = request.model.partition("@")
    if name != PYRAMID:
        if request.model not in {spec.name for spec in rules.pyramid.models}:
            raise _no_such_model(request.model, rules)
        return Direct(
            model=request.model,
            reason="asked for by name",
            asked_for=True,
            max_usd=options.max_cost_usd,
            limit_s=limit_s,
            is_cut=is_cut,
        )
    point = _point(rules, point_name if at else None, options, asked=request.model)
    found, distance = find_questions(request, rules.pyramid), None
    if not isinstance(found, Unjudged):
        distance = furthest(found, rules.router, settings.out_of_distribution)
        found = is_unlike(found, distance, settings.out_of_distribution) or found
    far = None if distance is None else distance.value
    if isinstance(found, Unjudged):
        if settings.unsupported == "refuse":
            raise bad_request(
                f"{found.param}: the router was not trained on {found.why}; ask a model of "
                f"{', '.join(spec.name for spec in rules.pyramid.models)} by name",
                param=found.param,
                code="not_judged" if found.cause == "not_supported" else found.cause,
            )
        reason = f"the router was not trained on {found.why}: straight to the oracle"
        return Direct(
            model=rules.pyramid.oracle.name,
            reason=reason,
            asked_for=False,
            cause=found.cause,
            distance=far,
            questions=found.texts,
            max_usd=options.max_cost_usd,
            limit_s=limit_s,
            is_cut=is_cut,
        )
    trained = rules.pyramid.sampling
    sampling = client_sampling(request, trained)
    return Gated(
        rules=replace(rules, point=point),
        questions=found.texts,
        sampling=sampling,
        budget=_budget(options, rules),
        limit_s=limit_s,
        is_cut=is_cut,
        n=request.n or 1,
        as_trained=replace(sampling, seed=trained.seed) == trained,
        distance=far,
    )


def _budget(options: PyramidOptions, rules: Rules) -> Budget:
    """What calls are planned by; time only where the router knows how long models take."""
    typical = rules.router.card.typical_calls if rules.router is not None else {}
    calls = [typical.get(spec.name) for spec in rules.pyramid.models]
    known = all(call is not None and call.latency_s is not None for call in calls)
    return Budget(max_usd=options.max_cost_usd, max_ms=options.max_latency_ms if known else None)


def _options(request: CompletionRequest, headers: Mapping[str, str]) -> PyramidOptions:
    given = {
        name: headers[key]
        for name in _HEADERS
        if (key := f"x-pyramid-{name.replace('_', '-')}") in headers
    }
    own = request.pyramid.model_dump(exclude_none=True) if request.pyramid is not None else {}
    if not given:
        return request.pyramid or PyramidOptions()
    try:
        # Headers are text: here a number may be written as one.
        from_headers = PyramidOptions.model_validate(given, strict=False)
    except ValidationError as error:
        name = str(error.errors(include_input=False)[0]["loc"][0])
        raise bad_request(
            f"x-pyramid-{name.replace('_', '-')}: expected what pyramid.{name} takes",
            param=f"pyramid.{name}",
        ) from None
    return PyramidOptions.model_validate({**from_headers.model_dump(exclude_none=True), **own})


def _point(
    rules: Rules, name: str | None, options: PyramidOptions, *, asked: str
) -> OperatingPoint:
    point = rules.point
    router = rules.router
    if name is not None:
        known = {own.name: own for own in router.card.operating_points} if router else {}
        if name not in known:
            raise _no_such_model(asked, rules)
        point = known[name]
    try:
        if options.policy is not None and options.policy != point.policy:
            if router is None or (name is not None and options.threshold is None):
                raise bad_request(
                    f"pyramid.policy: expected {point.policy}, which is what {asked} does; found "
                    f"{options.policy}",
                    param="pyramid.policy",
                )
            if options.threshold is None:
                point = router.card.operating_point(policy=options.policy)
        if options.threshold is not None:
            point = OperatingPoint(
                name="given",
                threshold=options.threshold,
                target="given by the client",
                policy=options.policy or point.policy,
                rule=point.rule,
            )
        check_point(point, router, rules.pyramid)
    except CheckpointError as error:
        raise bad_request(f"pyramid.policy: {error}", param="pyramid.policy") from error
    return point


def _no_such_model(name: str, rules: Rules) -> ApiError:
    known = ", ".join(offered_models(rules))
    # The name is not repeated: it is whatever a client has sent.
    return ApiError(
        404,
        f"model: expected one of {known}; found another name of {len(name)} characters",
        code="model_not_found",
        param="model",
    )
