"""What ``serve`` can be told in its YAML: limits of faults, load, requests and access."""

import math
from dataclasses import dataclass, field
from typing import Literal

from pyramid_moa.errors import ConfigError

__all__ = [
    "Access",
    "AuditSettings",
    "Faults",
    "GatewaySettings",
    "Load",
    "OutOfDistribution",
    "PageSettings",
    "RequestLimits",
    "Telemetry",
]


def _check(owner: str, checks: list[tuple[str, str, object, bool]]) -> None:
    """Refuse fields that are wrong; each check is name, what is expected, value, good."""
    if problems := [
        f"{name}: expected {expected}, found {value!r}"
        for name, expected, value, good in checks
        if not good
    ]:
        raise ConfigError(f"{owner}: " + "; ".join(problems))


def _is_span(seconds: float) -> bool:
    return 0 < seconds < math.inf


@dataclass(frozen=True, kw_only=True)
class Faults:
    """How long models may take, and what happens to those that fail.

    Attributes:
        member_timeout_s: seconds for a member's answer, all tries together; then the others are
            scored without it.
        deadline_s: seconds for a whole request; what is not there by then has failed.
        retries: further tries of a call that may succeed later, with growing pauses in which a
            server's Retry-After is honoured: up to 2 seconds, and half of ``member_timeout_s``; a
            server that asks for more has failed at once. Models on servers only.
        hedge_after_s: ask a server a second time where it has not answered after so many seconds,
            and take what comes first; null never does. Streams are asked for once: one that does
            not begin is the fallback oracle's, or a stand-in's, to answer.
        breaker_failures: after so many failures in a row a model is not asked for a while.
        breaker_open_s: seconds of that while; then one request at a time tries it again.
        fallback_oracle: any other model of the pyramid's file, which takes over what the oracle was
            to answer and did not, in mid-stream too; null for none.
    """

    member_timeout_s: float = 30.0
    deadline_s: float = 120.0
    retries: int = 2
    hedge_after_s: float | None = None
    breaker_failures: int = 5
    breaker_open_s: float = 10.0
    fallback_oracle: str | None = None

    def __post_init__(self) -> None:
        """Report every problem together.

        Raises:
            ConfigError: a value that makes no sense.
        """
        hedge = self.hedge_after_s
        seconds = "seconds, more than 0"
        _check(
            "faults",
            [
                (
                    "member_timeout_s",
                    seconds,
                    self.member_timeout_s,
                    _is_span(self.member_timeout_s),
                ),
                ("deadline_s", seconds, self.deadline_s, _is_span(self.deadline_s)),
                ("retries", "0 or more", self.retries, self.retries >= 0),
                ("hedge_after_s", f"{seconds}, or null", hedge, hedge is None or _is_span(hedge)),
                (
                    "breaker_failures",
                    "1 or more",
                    self.breaker_failures,
                    self.breaker_failures >= 1,
                ),
                ("breaker_open_s", seconds, self.breaker_open_s, _is_span(self.breaker_open_s)),
            ],
        )


@dataclass(frozen=True, kw_only=True)
class Load:
    """How much is done at once.

    Attributes:
        max_concurrency: requests that are worked on at once.
        max_queue: requests that may wait for their turn; one more gets 429.
        queue_wait_s: the longest wait, in seconds; then 429.
        bodies_bytes: of the bodies of all requests that are here, read or half read; more gets 429.
        drain_s: after SIGTERM, seconds that requests under way have to finish.
    """

    max_concurrency: int = 256
    max_queue: int = 512
    queue_wait_s: float = 10.0
    bodies_bytes: int = 512 * 1024**2
    drain_s: float = 120.0

    def __post_init__(self) -> None:
        """Report every problem together.

        Raises:
            ConfigError: a value that makes no sense.
        """
        seconds = "seconds, more than 0"
        _check(
            "load",
            [
                ("max_concurrency", "1 or more", self.max_concurrency, self.max_concurrency >= 1),
                ("max_queue", "0 or more", self.max_queue, self.max_queue >= 0),
                ("queue_wait_s", seconds, self.queue_wait_s, _is_span(self.queue_wait_s)),
                ("bodies_bytes", "1 or more", self.bodies_bytes, self.bodies_bytes >= 1),
                ("drain_s", seconds, self.drain_s, _is_span(self.drain_s)),
            ],
        )


@dataclass(frozen=True, kw_only=True)
class RequestLimits:
    """What a request may hold.

    Attributes:
        body_bytes: of its body; more gets 413.
        header_bytes: of its head.
        head_s: seconds in which its head has to be there, from its first byte on, and the first
            one's from the connection on.
        body_s: seconds in which its body has to be there; then 408.
        messages: turns of a conversation.
        n: answers to one question, and questions of one request, multiplied.
        max_tokens: the most tokens of an answer that a client may ask for; null for no limit.
        remote_images: whether images, and what else a server fetches or calls (tools' servers),
            may be named by their address; data: addresses always may.
    """

    body_bytes: int = 10 << 20
    header_bytes: int = 64 << 10
    head_s: float = 15.0
    body_s: float = 60.0
    messages: int = 1000
    n: int = 16
    max_tokens: int | None = None
    remote_images: bool = False

    def __post_init__(self) -> None:
        """Report every problem together.

        Raises:
            ConfigError: a value that makes no sense.
        """
        _check(
            "requests",
            [
                *(
                    (name, "1 or more", getattr(self, name), getattr(self, name) >= 1)
                    for name in ("body_bytes", "messages", "n")
                ),
                ("header_bytes", "4096 or more", self.header_bytes, self.header_bytes >= 4096),
                *(
                    (
                        name,
                        "seconds, more than 0",
                        getattr(self, name),
                        _is_span(getattr(self, name)),
                    )
                    for name in ("head_s", "body_s")
                ),
                (
                    "max_tokens",
                    "1 or more, or null",
                    self.max_tokens,
                    self.max_tokens is None or self.max_tokens >= 1,
                ),
            ],
        )


@dataclass(frozen=True, kw_only=True)
class Access:
    """Who may ask.

    Attributes:
        api_keys_env: environment variable with the clients' keys, parted by commas; any of them
            opens. A variable that is not set counts as no keys.
        api_keys_file: file with one key a line; lines that begin with # are skipped.
        admin_keys_env: environment variable with the keys of those who may have the gateway read
            its files anew over HTTP; clients' keys do not open that.
        allow_unauthenticated: serve other machines without keys, which is refused otherwise.
        host_names: names by which clients may call this server when it asks for no key; loopback
            names always may. Without it a page in a browser could reach it by another name.
    """

    api_keys_env: str = "PYRAMID_MOA_API_KEYS"
    api_keys_file: str | None = None
    admin_keys_env: str = "PYRAMID_MOA_ADMIN_KEYS"
    allow_unauthenticated: bool = False
    host_names: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class AuditSettings:
    """How many accepted answers the oracle is asked about afterwards, at the owner's expense.

    Attributes:
        share: of accepted answers, from 0 (none) to 1.
        max_concurrency: audits at once; further ones are left out.
    """

    share: float = 0.01
    max_concurrency: int = 4

    def __post_init__(self) -> None:
        """Report every problem together.

        Raises:
            ConfigError: a value that makes no sense.
        """
        _check(
            "audit",
            [
                ("share", "from 0 to 1", self.share, 0 <= self.share <= 1),
                ("max_concurrency", "1 or more", self.max_concurrency, self.max_concurrency >= 1),
            ],
        )


@dataclass(frozen=True, kw_only=True)
class OutOfDistribution:
    """Which questions are too far from those of training to be judged.

    Attributes:
        enabled: whether that is looked at, where the checkpoint says what it was trained on.
        threshold: distance from which on they are not judged: 1 is what one in a hundred of
            training's own questions exceeds; less is stricter.
    """

    enabled: bool = True
    threshold: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what makes no sense.

        Raises:
            ConfigError: a threshold that is no distance.
        """
        good = _is_span(self.threshold)
        _check("out_of_distribution", [("threshold", "more than 0", self.threshold, good)])


@dataclass(frozen=True, kw_only=True)
class PageSettings:
    """What the page at ``/`` shows.

    Attributes:
        enabled: whether there is one.
        texts: whether the last questions are shown with their decisions.
        decisions: how many decisions are shown.
    """

    enabled: bool = True
    texts: bool = False
    decisions: int = 20

    def __post_init__(self) -> None:
        """Refuse what makes no sense.

        Raises:
            ConfigError: a negative number of decisions.
        """
        _check("page", [("decisions", "0 or more", self.decisions, self.decisions >= 0)])


@dataclass(frozen=True, kw_only=True)
class Telemetry:
    """Traces for OpenTelemetry, sent by OTLP over HTTP.

    What OpenTelemetry's own environment variables say holds, too.

    Attributes:
        enabled: whether there are any; null where ``OTEL_TRACES_EXPORTER`` is ``otlp``.
        endpoint: address of the collector, such as ``http://127.0.0.1:4318/v1/traces``; null for
            that of the environment (``OTEL_EXPORTER_OTLP_ENDPOINT``), or this machine's.
    """

    enabled: bool | None = None
    endpoint: str | None = None

    def __post_init__(self) -> None:
        """Refuse what makes no sense.

        Raises:
            ConfigError: an endpoint that is no address.
        """
        endpoint = self.endpoint
        good = endpoint is None or endpoint.startswith(("http://", "https://"))
        # It is not repeated: it may hold a password.
        found = "another text"
        _check("telemetry", [("endpoint", "an address of http or https, or null", found, good)])


@dataclass(frozen=True, kw_only=True)
class GatewaySettings:
    """All of it; every part has defaults that are meant to be served with.

    Attributes:
        faults: timeouts, tries, breakers.
        load: what is done at once.
        requests: limits of a request.
        access: keys.
        audit: accepted answers that the oracle is asked about.
        page: what is shown to people.
        out_of_distribution: questions unlike those of training.
        telemetry: traces.
        unsupported: what becomes of a request that the router was not trained to judge (tools,
            images, several turns, a system prompt of its own, a question unlike those of training,
            ...): ``oracle`` hands it to the
            oracle and says so, ``refuse`` answers 400.
    """

    faults: Faults = field(default_factory=Faults)
    load: Load = field(default_factory=Load)
    requests: RequestLimits = field(default_factory=RequestLimits)
    access: Access = field(default_factory=Access)
    audit: AuditSettings = field(default_factory=AuditSettings)
    page: PageSettings = field(default_factory=PageSettings)
    out_of_distribution: OutOfDistribution = field(default_factory=OutOfDistribution)
    telemetry: Telemetry = field(default_factory=Telemetry)
    unsupported: Literal["oracle", "refuse"] = "oracle"
