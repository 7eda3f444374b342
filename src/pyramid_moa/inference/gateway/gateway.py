"""The gateway itself: a gate, its models as upstreams, and what is done with a request."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import replace
from typing import Any

from pyramid_moa.backends import Backend, HiddenStates, ModelSpec, open_backend
from pyramid_moa.backends.openai_api import OpenAIBackend
from pyramid_moa.backends.openai_relay import RelayError
from pyramid_moa.errors import BackendError
from pyramid_moa.inference.gate import Gate, OpenModel
from pyramid_moa.inference.gateway.api_request import ChatRequest, CompletionRequest
from pyramid_moa.inference.gateway.audit import Audit
from pyramid_moa.inference.gateway.direct_model import DirectModel
from pyramid_moa.inference.gateway.gated_answer import (
    Note,
    Opened,
    Whole,
    gated_stream,
    gated_whole,
)
from pyramid_moa.inference.gateway.judges import Judges
from pyramid_moa.inference.gateway.live_course import ORACLE_SHARE, Models
from pyramid_moa.inference.gateway.metrics import Metrics
from pyramid_moa.inference.gateway.plan import Direct, Gated, check_names, offered_models, plan_of
from pyramid_moa.inference.gateway.question import plain_texts
from pyramid_moa.inference.gateway.reply import ReplyForm
from pyramid_moa.inference.gateway.settings import Faults, GatewaySettings
from pyramid_moa.inference.gateway.stand_ins import first_stream, first_whole
from pyramid_moa.inference.gateway.upstream import Upstream
from pyramid_moa.router_model.router import Router

__all__ = ["Gateway", "forgiving"]

_log = logging.getLogger("pyramid_moa.gateway")

_CHECK_EVERY_S = 2.0
# A request waits, and holds its model's place, while a server has it wait for its next try.
_LONGEST_PAUSE_S = 2.0


class Gateway:
    """Answers requests; belongs to the event loop that it is made in.

    Attributes:
        settings: limits.
        rules: what decides, at the gateway's own operating point.
        models: names that clients may ask for.
        audit: of accepted answers.
    """

    def __init__(self, gate: Gate, settings: GatewaySettings, metrics: Metrics) -> None:
        """Put upstreams around a gate's backends, which stay the gate's to close.

        Args:
            gate: what decides, and the backends.
            settings: limits.
            metrics: told of every call and decision.

        Raises:
            ConfigError: a name can't be served by; see ``check_names``.
        """
        pyramid = gate.rules.pyramid
        check_names(pyramid, settings.faults)
        _say_unknowing(gate.rules.router, settings)
        self.settings = settings
        self.rules = gate.rules
        self.models = offered_models(gate.rules)
        self._metrics = metrics
        self._judges = Judges(gate.rules)
        self._upstreams = {
            spec.name: Upstream(
                serving_spec(spec, settings.faults),
                gate.backends[spec.name],
                settings.faults,
                ended=metrics.call_ended,
                paid=metrics.call_paid,
            )
            for spec in pyramid.models
        }
        self.audit = Audit(
            settings.audit,
            self._upstreams[pyramid.oracle.name],
            judges=self._judges.pool,
            deadline_s=settings.faults.deadline_s,
            points=gate.rules.router.card.operating_points if gate.rules.router else [],
        )
        self._models = Models(
            upstreams=self._upstreams,
            member_timeout_s=settings.faults.member_timeout_s,
            judges=self._judges,
            audit=self.audit.consider,
            fallback=settings.faults.fallback_oracle,
        )
        self._checked: tuple[float, asyncio.Task[dict[str, str]]] | None = None

    @property
    def upstreams(self) -> Mapping[str, Upstream]:
        """Every model by name."""
        return self._upstreams

    @property
    def has_own_models(self) -> bool:
        """Whether any of them runs in this process, and takes its memory."""
        return not all(upstream.is_served for upstream in self._upstreams.values())

    def plan(self, request: CompletionRequest, headers: Mapping[str, str]) -> Gated | Direct:
        """Decide what is to be done with a request; see ``plan_of``."""
        return plan_of(request, headers, self.rules, self.settings)

    async def whole(
        self,
        request: CompletionRequest,
        plan: Gated | Direct,
        form: ReplyForm,
        *,
        until: float,
        note: Note,
    ) -> Whole:
        """Answer when all is decided.

        Raises:
            ApiError: there is no answer.
        """
        if isinstance(plan, Gated):
            return await gated_whole(plan, self._models, form, until=until, note=note)
        models = self._direct(plan, request)
        return await first_whole(models, request, form, until=until, note=note)

    def stream(
        self,
        request: CompletionRequest,
        plan: Gated | Direct,
        form: ReplyForm,
        *,
        until: float,
        note: Note,
    ) -> AsyncGenerator[Opened | bytes, None]:
        """Answer as it comes: first that the stream can begin, then its events.

        Raises:
            ApiError: by the generator, before it has begun: there is no answer.
        """
        options = request.stream_options
        rest: dict[str, Any] = {
            "until": until,
            "with_usage": options is not None and options.include_usage,
            "note": note,
        }
        if isinstance(plan, Gated):
            return gated_stream(plan, self._models, form, **rest)
        return first_stream(self._direct(plan, request), request, form, **rest)

    def form_of(self, request: CompletionRequest) -> ReplyForm:
        """What all parts of the reply to a request have in common."""
        wanted = getattr(request, "logprobs", None)
        return ReplyForm(
            chat=isinstance(request, ChatRequest),
            model=request.model,
            # For texts it is a number of alternatives, of which 0 still wants the token's own.
            logprobs=wanted is not None and wanted is not False,
        )

    async def states(self) -> dict[str, str]:
        """How each model is: ``ok``, or what is wrong with it; looked at every few seconds."""
        loop = asyncio.get_running_loop()
        if self._checked is None or loop.time() - self._checked[0] > _CHECK_EVERY_S:
            self._checked = (loop.time(), asyncio.ensure_future(self._look()))
        # Shared: a caller that goes away must not end the look of the others.
        return await asyncio.shield(self._checked[1])

    async def close(self) -> None:
        """Close what is the gateway's own."""
        if self._checked is not None:
            # Whoever still looks does so through clients that are closed below.
            self._checked[1].cancel()
            await asyncio.gather(self._checked[1], return_exceptions=True)
        await self.audit.close()
        for upstream in self._upstreams.values():
            await upstream.close()
        self._judges.close()

    async def _look(self) -> dict[str, str]:
        return dict(
            zip(
                self._upstreams,
                await asyncio.gather(*map(_state, self._upstreams.values())),
                strict=True,
            )
        )

    def _direct(self, plan: Direct, request: CompletionRequest) -> list[DirectModel]:
        """The model that is to answer; where the client has named none, those that can stand in."""
        pyramid = self.rules.pyramid
        names, fallback = [plan.model], self.settings.faults.fallback_oracle
        if not plan.asked_for:
            is_plain = not isinstance(plain_texts(request), str)
            if fallback is not None and (is_plain or self._upstreams[fallback].is_served):
                names.append(fallback)
            if is_plain:
                # The best of the others first: mid oracles from the dearest, then the members.
                others = [spec.name for spec in reversed(pyramid.mid_oracles)]
                names += [n for n in [*others, *pyramid.member_names] if n != fallback]
        return [
            DirectModel(
                plan,
                self._upstreams[name],
                is_oracle=name == pyramid.oracle.name,
                sampling=pyramid.sampling,
                chat=pyramid.prompt.chat,
                patience=1.0 if name == names[-1] else ORACLE_SHARE,
                takes_over=name == fallback,
            )
            for name in names
        ]


def _say_unknowing(router: Router | None, settings: GatewaySettings) -> None:
    """Say that questions of any kind are judged, where they are against the owner's will."""
    if router is not None and router.known is None and settings.out_of_distribution.enabled:
        _log.warning(
            "the router does not know what its questions look like (one that comes with the "
            "package never does), so questions of any kind are judged: train on a hundred of yours "
            "or more; --init CHECKPOINT, or --init pretrained:..., goes on from what it has learned"
        )


async def _state(upstream: Upstream) -> str:
    if upstream.breaker.state == "open":
        return "left alone after failures"
    try:
        await upstream.check()
    except RelayError:
        return "unreachable"
    return "ok"


def serving_spec(spec: ModelSpec, faults: Faults) -> ModelSpec:
    """A model's entry with the tries, the pauses and the time that a live request has."""
    return replace(
        spec,
        max_retries=faults.retries,
        # A pause that leaves a member no time to answer is of no use.
        longest_pause_s=min(spec.longest_pause_s, _LONGEST_PAUSE_S, faults.member_timeout_s / 2),
        timeout_s=min(spec.timeout_s, faults.deadline_s),
    )


def forgiving(faults: Faults, *, say: Callable[[str], None]) -> OpenModel:
    """How the gateway opens models: one whose server is not there yet is no reason not to serve.

    Args:
        faults: the tries and the time that calls have.
        say: told of models that are not there.
    """

    def open_model(spec: ModelSpec, *, hidden_states: HiddenStates | None) -> Backend:
        own = serving_spec(spec, faults)
        try:
            return open_backend(own, hidden_states=hidden_states)
        except BackendError as error:
            if not (spec.is_served and error.can_retry):
                raise
            say(f"{error}; serving without it until it is there")
            return OpenAIBackend(own, hidden_states=hidden_states)

    return open_model
