"""The page at ``/``: what the gateway does, its dial, and a box to ask it something."""

import secrets
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from pyramid_moa.inference.gateway.audit import AuditCount
from pyramid_moa.inference.gateway.curve import HEIGHT, WIDTH, curve_of
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
            curve_points=[asdict(point) for point in curve.points] if curve else [],
            width=WIDTH,
            height=HEIGHT,
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
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        ),
        "cache-control": "no-store",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
    }


def _figures(recent: Recent, audit: AuditCount, *, texts: bool) -> dict[str, Any]:
    return {"recent": recent, "audit": audit, "texts": texts, "share": _share, "clock": _clock}


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


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
    )
