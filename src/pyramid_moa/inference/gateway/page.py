"""The page at ``/``: what the gateway does, its dial, and a box to ask it something."""

import math
import secrets
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from pyramid_moa.inference.gateway.audit import AuditCount
from pyramid_moa.inference.gateway.curve import Curve, curve_of
from pyramid_moa.inference.gateway.recent import Recent

if TYPE_CHECKING:
    from jinja2 import Environment

    from pyramid_moa.inference.course import Rules

__all__ = ["page_headers", "render_live", "render_page"]


def render_page(
    rules: "Rules", recent: Recent, audit: AuditCount, *, texts: bool
) -> tuple[str, str]:
    """Make the page.

    Args:
        rules: of the pyramid that is served.
        recent: what has happened.
        audit: what audits have found.
        texts: whether questions may be shown.

    Returns:
        The HTML, and the nonce that its script and style go by.
    """
    pyramid = rules.pyramid
    curve = curve_of(rules.router, rules.point)
    nonce = secrets.token_urlsafe(16)
    html = (
        _environment()
        .get_template("page.html.jinja")
        .render(
            name=pyramid.name,
            members=pyramid.member_names,
            oracles=[spec.name for spec in pyramid.oracles],
            router=rules.router is not None,
            point=rules.point,
            price_note=pyramid.price_note,
            curve=curve,
            curve_data=_data_of(curve) if curve else None,
            points=rules.router.card.operating_points if rules.router is not None else [],
            nonce=nonce,
            **_figures(recent, audit, texts=texts),
        )
    )
    return html, nonce


def render_live(recent: Recent, audit: AuditCount, *, texts: bool) -> str:
    """The part of the page that changes."""
    template = _environment().get_template("live.html.jinja")
    return template.render(**_figures(recent, audit, texts=texts))


def page_headers(nonce: str | None = None) -> dict[str, str]:
    """Headers that keep everything out of the page but what is its own."""
    own = f"'nonce-{nonce}'" if nonce else "'none'"
    return {
        "content-security-policy": (
            f"default-src 'none'; script-src {own}; style-src {own}; connect-src 'self'; "
            # Its icon, which would be asked for otherwise.
            "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        ),
        "cache-control": "no-store",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
    }


def _data_of(curve: Curve) -> dict[str, Any]:
    return {"points": [asdict(point) for point in curve.points], "served": curve.served}


def _figures(recent: Recent, audit: AuditCount, *, texts: bool) -> dict[str, Any]:
    times = recent.times
    return {
        "recent": recent,
        "times": times,
        "audit": audit,
        "warnings": [text[:1].upper() + text[1:] for text in audit.alarms.values()],
        "promises": [watch for watch in audit.promises.values() if watch.drawn],
        "texts": texts,
        "longest_s": max((stage.p95_s for stage in times), default=0.0),
        "share": _share,
        "money": _money,
        "span": _span,
        "clock": _clock,
        "outcome": _outcome,
        "place": _place,
    }


def _share(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{100 * value:.1f} %".replace("-", "−")


def _money(usd: float) -> str:
    """Three figures, however small; none of them an exponent."""
    amount = abs(usd)
    places = 2 if amount >= 1 or amount == 0 else min(12, 2 - math.floor(math.log10(amount)))
    return f"{'−' if usd < 0 else ''}${amount:.{places}f}"


def _span(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{1000 * seconds:.{1 if seconds < 0.01 else 0}f} ms"


def _place(block: Mapping[str, Any]) -> float | None:
    """Where p(ensemble fails) lies from 0 to 1, the threshold in the middle; None without them."""
    fails, threshold = block.get("p_ensemble_fails"), block.get("threshold")
    if fails is None or threshold is None or threshold <= 0:
        return None
    return float(fails / (fails + threshold))


def _outcome(block: Mapping[str, Any]) -> str:
    """What happened, in a word."""
    if block["degraded"]:
        return "degraded"
    if block["route"] == "direct":
        return "direct"
    return "escalated" if block["escalated"] else "accepted"


def _clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%H:%M:%S")


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("pyramid_moa.inference.gateway", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        # A page and its templates belong together: what was read first is served on.
        auto_reload=False,
    )
