"""The page at ``/``: what it shows, and what it never does."""

import base64
import json
import re
from html.parser import HTMLParser

import httpx
import pytest
from running_gateway import KEY, QUICK, chat_body, running, running_gateway, says

from pyramid_moa.data_prep.labelled_run import read_labelled_run
from pyramid_moa.inference.gate import Gate
from pyramid_moa.inference.gateway import page
from pyramid_moa.inference.gateway.audit import AuditCount
from pyramid_moa.inference.gateway.curve import curve_of
from pyramid_moa.inference.gateway.promise_watch import watches_of
from pyramid_moa.inference.gateway.recent import Recent
from pyramid_moa.inference.gateway.settings import (
    AuditSettings,
    GatewaySettings,
    PageSettings,
)
from pyramid_moa.router_model.policy import OperatingPoint, Promise
from pyramid_moa.router_model.router import Router

DIFFER = {"a": says("#### 16"), "b": says("#### 8"), "oracle": says("#### 99")}
NASTY = "<script>alert(1)</script> & 'more'?"


class Parser(HTMLParser):
    """Text, and the addresses that the page names."""

    def __init__(self, html):
        super().__init__()
        self.texts, self.addresses, self.inline = [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        own = dict(attributes)
        self.addresses += [own[name] for name in ("src", "href", "action") if name in own]
        self.inline += [name for name in own if name.startswith("on") or name == "style"]

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def test_it_shows_what_has_happened():
    with running_gateway(DIFFER) as gateway:
        assert "– escalated of 0 judged" in Parser(gateway.get("/").text).text
        gateway.ask()
        gateway.ask(extra_body={"pyramid": {"threshold": 0.9}})
        gateway.ask(model="a")
        reply = gateway.get("/")
        shown = Parser(reply.text)
        assert reply.headers["content-type"].startswith("text/html")
        assert "50.0 % escalated of 2 judged" in shown.text
        assert "1 unjudged straight to one model" in shown.text
        assert "1 of 2 members agree: the oracle is asked" in shown.text
        assert "oracle" in shown.text
        live = Parser(gateway.get("/live").text)
        assert "50.0 % escalated of 2 judged" in live.text
        # In the order of time, the latest first.
        assert live.text.index("asked for by name") < live.text.index("the oracle is asked")


def test_it_needs_nothing_from_elsewhere_and_lets_nothing_in():
    with running_gateway(DIFFER) as gateway:
        reply = gateway.get("/")
        parsed = Parser(reply.text)
        # Its icon is in it; the others are links to the gateway's own.
        icon, *links = parsed.addresses
        assert icon.startswith("data:image/svg+xml,")
        assert links == ["openapi.json", "metrics", "readyz"]
        assert not parsed.inline
        policy = reply.headers["content-security-policy"]
        (nonce,) = set(re.findall(r'nonce="([^"]+)"', reply.text))
        assert f"script-src 'nonce-{nonce}'" in policy
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert nonce not in gateway.get("/").text


@pytest.mark.parametrize("texts", [False, True])
def test_questions_are_shown_only_where_that_was_asked_for(texts):
    settings = GatewaySettings(faults=QUICK, page=PageSettings(texts=texts))
    with running_gateway(DIFFER, settings=settings) as gateway:
        gateway.ask(NASTY)
        for path in ("/", "/live"):
            html = gateway.get(path).text
            assert "<script>alert" not in html
            assert (NASTY in Parser(html).text) == texts
            assert "#### 99" not in html


def test_a_browser_is_asked_for_a_key():
    with running_gateway(DIFFER, keys=[KEY]) as gateway:
        refused = gateway.get("/")
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"].startswith("Basic ")
        basic = base64.b64encode(f"me:{KEY}".encode()).decode()
        headers = {"authorization": f"Basic {basic}"}
        assert gateway.get("/", headers=headers).is_success
        assert gateway.get("/live", headers=headers).is_success
        # The page's own box asks with what the browser has.
        assert gateway.post(chat_body(), headers=headers).is_success
        for wrong in ("Basic !", "Basic " + base64.b64encode(b"me:wrong").decode()):
            assert gateway.get("/", headers={"authorization": wrong}).status_code == 401


def test_there_need_be_no_page():
    settings = GatewaySettings(faults=QUICK, page=PageSettings(enabled=False))
    with running_gateway(DIFFER, settings=settings) as gateway:
        assert gateway.get("/").status_code == gateway.get("/live").status_code == 404


def test_the_dial_is_the_checkpoints_curve(imported_run, trained):
    router = Router.load(trained)
    point = router.card.operating_point()
    curve = curve_of(router, point)
    measured = [row for row in router.card.validation_curve if None not in row.values()]
    assert len(curve.points) == len(measured)
    thresholds = [own.threshold for own in curve.points]
    assert thresholds == sorted(thresholds)
    nearest = min(thresholds, key=lambda threshold: abs(threshold - point.threshold))
    assert thresholds[curve.served] == nearest
    # Dearer is further right, better is further up.
    dearest = max(curve.points, key=lambda own: own.cost_ratio)
    best = max(curve.points, key=lambda own: own.accuracy)
    assert dearest.x == max(own.x for own in curve.points)
    assert best.y == min(own.y for own in curve.points)
    settings = GatewaySettings(faults=QUICK, audit=AuditSettings(share=0.0))
    with (
        running(Gate.from_run(imported_run, router=trained), settings, []) as (url, _),
        httpx.Client(timeout=20) as client,
    ):
        root = url.removesuffix("/v1")
        html = client.get(root).text
        told = json.loads(re.search(r'id="curve">(.*?)</script>', html)[1])
        assert [own["threshold"] for own in told["points"]] == thresholds
        assert told["served"] == curve.served
        question = read_labelled_run(imported_run).queries[0].question
        assert client.post(f"{url}/chat/completions", json=chat_body(question)).is_success
        shown = Parser(client.get(root).text).text
        assert f"operating point “{point.name}”" in shown
        assert "of 1 judged" in shown


def test_axes_name_round_values_within_the_frame(trained):
    router = Router.load(trained)
    curve = curve_of(router, router.card.operating_point())
    frame = curve.frame
    assert all(frame.left <= tick.place <= frame.right for tick in curve.across)
    assert all(frame.top <= tick.place <= frame.bottom for tick in curve.up)
    assert 2 <= len(curve.across) <= 7
    assert 2 <= len(curve.up) <= 7
    # A tick lies where a point of its value would.
    low, high = curve.across[0], curve.across[-1]
    scale = (high.place - low.place) / (float(high.text) - float(low.text))
    for point in curve.points:
        expected = low.place + scale * (point.cost_ratio - float(low.text))
        assert point.x == pytest.approx(expected, abs=0.01)


def test_a_promise_that_is_broken_is_seen():
    promise = Promise(
        kind="max_drop", value=0.02, confidence=0.95, questions=500, method="m", most_differ=0.05
    )
    point = OperatingPoint(name="promised", threshold=0.2, target="t", promise=promise)
    audit = AuditCount(promises=watches_of([point]))
    recent = Recent(decisions=1, texts=False)
    assert "What was promised" not in page.render_live(recent, audit, texts=False)
    audit.promises["promised"].add(differs=False)
    shown = Parser(page.render_live(recent, audit, texts=False)).text
    assert "max drop 0.02, sure to 95.0 %" in shown
    assert "not refuted" in shown
    for _ in range(60):
        audit.promises["promised"].add(differs=True)
    shown = Parser(page.render_live(recent, audit, texts=False)).text
    assert "The promise no longer holds for these questions: operating point promised" in shown
    assert "broken" in shown


@pytest.mark.parametrize(
    ("usd", "text"),
    [
        (0, "$0.00"),
        (12.5, "$12.50"),
        (0.00002104, "$0.0000210"),
        (-0.5, "−$0.500"),
        (0.25, "$0.250"),
    ],
)
def test_money_is_written_with_three_figures(usd, text):
    assert page._money(usd) == text


def test_a_gauge_has_the_threshold_in_its_middle():
    assert page._place({"p_ensemble_fails": 0.1, "threshold": 0.1}) == 0.5
    assert page._place({"p_ensemble_fails": 0.3, "threshold": 0.1}) == pytest.approx(0.75)
    assert page._place({"p_ensemble_fails": 0.0, "threshold": 0.1}) == 0
    assert page._place({"p_ensemble_fails": 0.3, "threshold": -1.0}) is None
    assert page._place({}) is None


def test_there_is_no_curve_without_one():
    vote = Recent(decisions=1, texts=False)
    assert (vote.escalated_share, vote.saved_share, vote.times) == (None, None, [])
    assert curve_of(None, Router) is None
