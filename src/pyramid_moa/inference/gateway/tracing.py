"""One span a stage of a request, for OpenTelemetry; nothing at all where nobody wants traces.

A span has names, numbers and reasons in a word, never a text that anybody wrote. Which request a
stage belongs to is known from the context of its task: ``stage`` and ``traced_call`` need no more
than their names.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from pyramid_moa import __version__
from pyramid_moa.errors import import_extra
from pyramid_moa.inference.gateway.settings import Telemetry

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

__all__ = [
    "NO_STAGE",
    "RequestStage",
    "Stage",
    "Tracing",
    "open_tracing",
    "stage",
    "traced_call",
    "traces_of",
]

# Headers of W3C Trace Context; other ones of a request are none of a trace's business.
_W3C = ("traceparent", "tracestate")
Value = str | bool | int | float


@dataclass(frozen=True)
class _Trace:
    """What the stages of a request need to know of it."""

    tracer: "Tracer"
    context: "Context"


_current: ContextVar[_Trace | None] = ContextVar("trace", default=None)


class Stage:
    """A stage that goes on; this one is of a request that nobody traces."""

    trace_id: str | None = None

    def note(self, **values: Value | None) -> None:
        """Keep what is known of it, under ``pyramid_moa.NAME``; None is nothing."""

    def note_tokens(self, prompt: int | None, completion: int | None) -> None:
        """Keep how many tokens it took, where that is known."""

    def end(self, *, error: str | None = None) -> None:
        """It is over.

        Args:
            error: what went wrong, in a word.
        """

    @property
    def headers(self) -> Mapping[str, str]:
        """What a request that it sends carries, so that its receiver goes on with the trace."""
        return {}

    def __enter__(self) -> Self:
        """Enter the context."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        """End it, in error where something was raised."""
        self.end(error=None if kind is None else kind.__name__)


NO_STAGE = Stage()


class _Traced(Stage):
    """One that is a span."""

    def __init__(self, span: "Span") -> None:
        self._span = span
        self.trace_id = f"{span.get_span_context().trace_id:032x}"

    def note(self, **values: Value | None) -> None:
        for name, value in values.items():
            if value is not None:
                self._span.set_attribute(f"pyramid_moa.{name}", value)

    def note_tokens(self, prompt: int | None, completion: int | None) -> None:
        for name, count in (("input", prompt), ("output", completion)):
            if count is not None:
                self._span.set_attribute(f"gen_ai.usage.{name}_tokens", count)

    def end(self, *, error: str | None = None) -> None:
        from opentelemetry.trace import Status, StatusCode

        if error is not None:
            self._span.set_attribute("error.type", error)
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()

    # Wanted for every chunk of a stream.
    @cached_property
    def headers(self) -> Mapping[str, str]:
        from opentelemetry.trace import set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        carrier: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carrier, set_span_in_context(self._span))
        return carrier


def stage(name: str, **values: Value | None) -> Stage:
    """Begin a stage of the request that this task works on.

    Args:
        name: of the span.
        values: see ``Stage.note``.

    Returns:
        It, to be ended: by ``with``, or ``end``.
    """
    trace = _current.get()
    if trace is None:
        return NO_STAGE
    begun = _Traced(trace.tracer.start_span(name, context=trace.context))
    begun.note(**values)
    return begun


def traced_call(model: str, *, served_as: str, provider: str) -> Stage:
    """Begin a call of a model, named as the conventions for generative AI want it.

    Source: OpenTelemetry, semantic conventions for generative AI client spans.

    Args:
        model: its name in the pyramid.
        served_as: how what runs it calls it.
        provider: how it is run: its backend.
    """
    trace = _current.get()
    if trace is None:
        return NO_STAGE
    from opentelemetry.trace import SpanKind

    span = trace.tracer.start_span(
        f"chat {served_as}",
        context=trace.context,
        kind=SpanKind.CLIENT,
        attributes={
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": served_as,
            "gen_ai.provider.name": provider,
        },
    )
    begun = _Traced(span)
    begun.note(model=model)
    return begun


class Tracing:
    """Makes the spans of requests; this one, which is where nobody wants traces, makes none."""

    def request(
        self, route: str, headers: Mapping[str, str]
    ) -> "AbstractContextManager[RequestStage]":
        """A request, from here to the end of the context; stages begun in it are its children.

        Args:
            route: its path.
            headers: of the request, by lower-case name; a trace that they name goes on.
        """
        return _UNTRACED

    def close(self) -> None:
        """Send what is left to be sent; may take seconds."""


class RequestStage(Stage):
    """A whole request; this one is of one that nobody traces."""

    def answered(
        self,
        *,
        status: int,
        model: str,
        block: Mapping[str, Any],
        usage: Mapping[str, int],
        code: str | None,
    ) -> None:
        """Keep what became of it.

        Args:
            status: of HTTP.
            model: that was asked for, of those that are offered.
            block: the answer's reason.
            usage: tokens of all calls.
            code: of the error, if it is one.
        """


# Nothing of it ends: it can be entered by many requests at once.
_UNTRACED = RequestStage()
# What of an answer's reason a span has: numbers, names and words of a fixed list.
_TOLD = (
    "route",
    "cause",
    "escalated",
    "degraded",
    "outvoted",
    "budget_exhausted",
    "answered_by",
    "p_ensemble_fails",
    "p_oracle_right",
    "threshold",
    "policy",
    "question_distance",
    "cost_usd",
    "saved_usd",
)


class _TracedRequest(_Traced, RequestStage):
    def answered(
        self,
        *,
        status: int,
        model: str,
        block: Mapping[str, Any],
        usage: Mapping[str, int],
        code: str | None,
    ) -> None:
        self._span.set_attribute("http.response.status_code", status)
        self._span.set_attribute("gen_ai.request.model", model)
        self.note(**{name: block.get(name) for name in _TOLD})
        self.note_tokens(usage.get("prompt_tokens"), usage.get("completion_tokens"))
        if code is not None or status >= 400:
            from opentelemetry.trace import Status, StatusCode

            self._span.set_attribute("error.type", code or str(status))
            # As the conventions for HTTP servers have it: a client's own mistake is none of ours.
            if status >= 500:
                self._span.set_status(Status(StatusCode.ERROR))


class _Traces(Tracing):
    def __init__(self, provider: "TracerProvider") -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("pyramid_moa.gateway", __version__)

    @contextmanager
    def request(self, route: str, headers: Mapping[str, str]) -> Iterator[RequestStage]:
        from opentelemetry.trace import SpanKind, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        carrier = {name: headers[name] for name in _W3C if name in headers}
        span = self._tracer.start_span(
            f"POST {route}",
            context=TraceContextTextMapPropagator().extract(carrier),
            kind=SpanKind.SERVER,
            attributes={
                "http.request.method": "POST",
                "http.route": route,
                "gen_ai.operation.name": "chat" if "chat" in route else "text_completion",
            },
        )
        begun = _TracedRequest(span)
        token = _current.set(_Trace(self._tracer, set_span_in_context(span)))
        try:
            with begun:
                yield begun
        finally:
            _current.reset(token)

    def close(self) -> None:
        self._provider.shutdown()


def traces_of(provider: "TracerProvider") -> Tracing:
    """Spans that a provider takes, which is closed with them."""
    return _Traces(provider)


def open_tracing(settings: Telemetry, environment: Mapping[str, str]) -> Tracing:
    """Begin to trace where that is wanted: to a collector, by OTLP over HTTP.

    Everything that OpenTelemetry's own environment variables say holds: sampler, headers, limits,
    names of the service.

    Args:
        settings: whether, and where to.
        environment: where ``OTEL_TRACES_EXPORTER=otlp`` wants traces, too.

    Raises:
        MissingExtraError: traces are wanted, and the extra ``otel`` is not installed.
    """
    wanted = settings.enabled
    if wanted is None:
        wanted = environment.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "otlp"
    if not wanted or environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return Tracing()
    purpose = "traces (telemetry in the configuration)"
    sdk = import_extra("opentelemetry.sdk.trace", extra="otel", purpose=purpose)
    batches = import_extra("opentelemetry.sdk.trace.export", extra="otel", purpose=purpose)
    resources = import_extra("opentelemetry.sdk.resources", extra="otel", purpose=purpose)
    otlp = import_extra(
        "opentelemetry.exporter.otlp.proto.http.trace_exporter", extra="otel", purpose=purpose
    )
    own = {"service.version": __version__}
    named = "service.name=" in environment.get("OTEL_RESOURCE_ATTRIBUTES", "")
    if not (named or environment.get("OTEL_SERVICE_NAME")):
        own["service.name"] = "pyramid-moa"
    provider = sdk.TracerProvider(resource=resources.Resource.create(own), shutdown_on_exit=False)
    provider.add_span_processor(
        batches.BatchSpanProcessor(otlp.OTLPSpanExporter(endpoint=settings.endpoint))
    )
    return traces_of(provider)
