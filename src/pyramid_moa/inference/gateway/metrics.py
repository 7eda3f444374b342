"""What Prometheus is told; no metric holds a text or a name that a client has made up."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pyramid_moa.inference.gateway.audit import AuditCount
from pyramid_moa.inference.gateway.circuit_breaker import BreakerState
from pyramid_moa.inference.gateway.model_call import CallResult
from pyramid_moa.inference.gateway.question import Cause
from pyramid_moa.inference.gateway.spending import PaidFor

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_ROUTER_SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5)
_SHARES = tuple(place / 20 for place in range(1, 21))
_DISTANCES = (0.1, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0)
_STATES: dict[BreakerState, int] = {"closed": 0, "half-open": 1, "open": 2}


class Metrics:
    """The metrics of one gateway, in a registry of their own."""

    def __init__(self) -> None:
        """Begin with nothing counted."""
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        own: dict[str, Any] = {"namespace": "pyramid_moa", "registry": self._registry}
        self._requests = Counter(
            "requests",
            "Requests by model asked for, route and status.",
            ["model", "route", "status"],
            **own,
        )
        self._request_s = Histogram(
            "request_seconds", "Whole requests.", ["route"], buckets=_SECONDS, **own
        )
        self._first_s = Histogram(
            "first_byte_seconds", "Until a stream began.", ["route"], buckets=_SECONDS, **own
        )
        self._escalations = Counter("escalations", "Judged requests that asked the oracle.", **own)
        self._judged = Counter("judged", "Requests that the router, or the vote, judged.", **own)
        self._degraded = Counter(
            "degraded", "Answers of models that stand in for others, which failed.", **own
        )
        self._calls = Counter(
            "model_calls", "Calls of models by how they ended.", ["model", "result"], **own
        )
        self._call_s = Histogram(
            "model_call_seconds", "Calls that were answered.", ["model"], buckets=_SECONDS, **own
        )
        self._stage_s = Histogram(
            "stage_seconds", "Members and oracle.", ["stage"], buckets=_SECONDS, **own
        )
        self._router_s = Histogram(
            "router_seconds", "Grading, features and router.", buckets=_ROUTER_SECONDS, **own
        )
        self._p_fails = Histogram(
            "p_ensemble_fails", "The router's probability.", buckets=_SHARES, **own
        )
        self._direct = Counter(
            "direct",
            "Answers that nobody judged, by why: out_of_distribution, ...",
            ["cause"],
            **own,
        )
        for cause in get_args(Cause):
            self._direct.labels(cause)
        self._distance = Histogram(
            "question_distance",
            "From the questions of training; from 1 on they are not judged by default.",
            buckets=_DISTANCES,
            **own,
        )
        self._tokens = Counter("tokens", "Of all calls.", ["kind"], **own)
        self._cost = Counter(
            "cost_usd", "Price of answers: of the calls that each of them names.", **own
        )
        self._model_cost = Counter(
            "model_cost_usd",
            "Price of every try of a call as the gateway sees it, given-up ones and audits, too.",
            ["model", "result"],
            **own,
        )
        self._oracle_cost = Counter(
            "oracle_cost_usd",
            "The oracle alone in place of the pyramid; answers that nobody judged at their price.",
            **own,
        )
        # It may fall: members' calls are paid for, too.
        self._saved = Gauge("saved_usd", "Against asking the oracle every time.", **own)
        self._in_progress = Gauge("requests_in_progress", "Worked on now.", **own)
        self._waiting = Gauge("requests_waiting", "Waiting for their turn.", **own)

    def watch(
        self,
        *,
        working: Callable[[], int],
        waiting: Callable[[], int],
        breakers: Callable[[], Mapping[str, BreakerState]],
        audit: Callable[[], AuditCount],
    ) -> None:
        """Say where to look when Prometheus asks."""
        self._in_progress.set_function(working)
        self._waiting.set_function(waiting)
        self._registry.register(_Breakers(breakers))
        self._registry.register(_Audits(audit))

    def call_ended(self, model: str, result: CallResult, seconds: float) -> None:
        """Count a call of a model."""
        self._calls.labels(model, result).inc()
        if result == "answered":
            self._call_s.labels(model).observe(seconds)

    def call_paid(self, model: str, result: PaidFor, usd: float) -> None:
        """Count what a try of a call has cost."""
        self._model_cost.labels(model, result).inc(usd)

    def decided(self, block: Mapping[str, Any], usage: Mapping[str, int]) -> None:
        """Count a decision by its ``pyramid`` block, and the tokens that it took."""
        for kind in ("prompt", "completion"):
            self._tokens.labels(kind).inc(usage.get(f"{kind}_tokens", 0))
        self._cost.inc(block.get("cost_usd") or 0.0)
        for one in block.get("choices", [block]):
            self._degraded.inc(one["degraded"])
            if (distance := one.get("question_distance")) is not None:
                self._distance.observe(distance)
            if one["route"] == "direct":
                self._direct.labels(one["cause"]).inc()
                self._oracle_cost.inc(one.get("cost_usd") or 0.0)
                continue
            self._judged.inc()
            self._escalations.inc(one["escalated"])
            self._oracle_cost.inc(one["oracle_cost_usd"])
            self._saved.inc(one["saved_usd"])
            self._p_fails.observe(one["p_ensemble_fails"])
            self._router_s.observe(one["router_s"])
            for stage in ("members", "oracle"):
                if one[f"{stage}_s"] > 0:
                    self._stage_s.labels(stage).observe(one[f"{stage}_s"])

    def began(self, route: str, seconds: float) -> None:
        """Count the wait for a stream's first byte."""
        self._first_s.labels(route).observe(seconds)

    def ended(self, model: str, route: str, status: int, seconds: float) -> None:
        """Count a request; the model is one that is offered, or ``other``."""
        self._requests.labels(model, route, str(status)).inc()
        self._request_s.labels(route).observe(seconds)

    def text(self) -> bytes:
        """All of it in Prometheus's text format."""
        return generate_latest(self._registry)


class _Breakers(Collector):
    def __init__(self, states: Callable[[], Mapping[str, BreakerState]]) -> None:
        self._states = states

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily(
            "pyramid_moa_breaker_state", "0 closed, 1 half-open, 2 open.", labels=["model"]
        )
        for model, state in self._states().items():
            family.add_metric([model], _STATES[state])
        yield family


class _Audits(Collector):
    """Audits since the pyramid was last read: with another one they would begin anew."""

    def __init__(self, count: Callable[[], AuditCount]) -> None:
        self._count = count

    def collect(self) -> Iterable[Metric]:
        count = self._count()
        audits = GaugeMetricFamily(
            "pyramid_moa_audits",
            "Accepted answers asked of the oracle, too; left out: drawn, but too many at once.",
            labels=["result"],
        )
        for result in ("agree", "differ", "failed", "left_out"):
            audits.add_metric([result], getattr(count, result))
        yield audits
        share = GaugeMetricFamily(
            "pyramid_moa_audit_disagreement",
            "Share that differs: accuracy given up is at most that; 95 % interval.",
            labels=["bound"],
        )
        for bound, value in zip(("estimate", "low", "high"), count.disagreement, strict=True):
            share.add_metric([bound], value)
        yield share
        cost = "pyramid_moa_audit_cost_usd"
        yield GaugeMetricFamily(cost, "Price of audits.", value=count.cost_usd)
        drift = "pyramid_moa_audit_drifted"
        said = "1 where answers differ more often than the router allows."
        yield GaugeMetricFamily(drift, said, value=float(count.has_drifted))
        yield from _promises(count)


def _promises(count: AuditCount) -> Iterable[Metric]:
    """Of each operating point that promises what audits can speak to."""
    share = GaugeMetricFamily(
        "pyramid_moa_promise_disagreement",
        "Share of all its answers that differ; interval at 95 % for all times; what is allowed.",
        labels=["point", "bound"],
    )
    audits = GaugeMetricFamily(
        "pyramid_moa_promise_audits", "Its answers that were drawn.", labels=["point", "result"]
    )
    broken = GaugeMetricFamily(
        "pyramid_moa_promise_broken", "1 where it surely no longer holds.", labels=["point"]
    )
    for name, watch in count.promises.items():
        bounds = zip(("estimate", "low", "high"), watch.share, strict=True)
        for bound, value in [*bounds, ("allowed", watch.allowed)]:
            share.add_metric([name, bound], value)
        audits.add_metric([name, "same"], watch.same)
        audits.add_metric([name, "differ"], watch.differ)
        broken.add_metric([name], float(watch.broken))
    yield from (share, audits, broken)
