"""The page as a person has it: in Chromium, on a desk and on a phone, in front of models."""

import re
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from browsing import chromium, watched
from faulty_server import Reply, chat_reply, soon, stream_events
from running_gateway import DOWN, KEY, QUICK, fails, running_gateway, says

from pyramid_moa.inference.gateway.curve import curve_of
from pyramid_moa.inference.gateway.settings import GatewaySettings, OutOfDistribution, PageSettings
from pyramid_moa.router_model.router import Router
from synthetic import MEMBERS, ORACLE, asked

DIFFER = {"a": says("#### 16"), "b": says("#### 8"), "oracle": says("#### 99")}
TEXTS = GatewaySettings(
    faults=QUICK,
    page=PageSettings(texts=True, decisions=8),
    # Of the questions here, too, one in a hundred is unlike those of training.
    out_of_distribution=OutOfDistribution(enabled=False),
)
# Training comes first, on a machine that may have much else to do.
pytestmark = pytest.mark.timeout(400)
WIDTHS = [pytest.param(1280, id="desk"), pytest.param(390, id="phone")]
ROWS = asked(60)
# So many pieces of a stream go out at once; the others when a test has seen those.
FIRST_PIECES = 4


def held_back(events, told):
    """The events of a stream, the later ones as soon as that is told."""
    yield from events[:FIRST_PIECES]
    told.wait(60)
    yield from events[FIRST_PIECES:]


def model(name, told):
    """A server that knows the questions, and answers as that model of the training run did."""
    responses = {row.question: row.responses[name] for row in ROWS}

    def answer(request):
        if request.body is None:
            return {"data": [{"id": "m"}]}
        text = responses.get(request.prompt, "#### 1")
        if request.body.get("stream"):
            return Reply(events=held_back(stream_events(text), told))
        return Reply(body=chat_reply(text), delay_s=0.05)

    return answer


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def told():
    """Lets the servers' streams go on; it is set but where a test wants to see their beginning."""
    event = threading.Event()
    event.set()
    return event


@pytest.fixture(scope="module")
def gateway(trained, told):
    """A gateway with a router, whose checkpoint holds a curve, and some traffic behind it."""
    servers = {name: model(name, told) for name in (*MEMBERS, ORACLE)}
    router = Router.load(trained)
    name = {"name": "three members and an oracle"}
    with running_gateway(
        servers, settings=TEXTS, router=router, pyramid=name, audit=1.0
    ) as running:
        for row in ROWS[:12]:
            running.ask(row.question)
        running.ask(model=MEMBERS[0])
        assert soon(lambda: 'audits{result="agree"} 0.0' not in running.get("/metrics").text)
        yield running


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    yield folder
    sys.stdout.write(f"\npictures of the page: {folder}\n")


def picture(page, folder: Path, name):
    page.screenshot(path=folder / f"{name}.png", full_page=True)


def escalated_question(gateway):
    """One that the router does not trust the members with, and one that it does."""
    found = {}
    for row in ROWS:
        why = gateway.ask(row.question).pyramid
        found.setdefault(why["escalated"], row.question)
        if len(found) == 2:
            return found[True], found[False]
    raise AssertionError(f"all alike: {found}")


def ask(page, question):
    page.get_by_label("A question of the kind").fill(question)
    page.get_by_role("button", name="Ask").click()
    page.wait_for_selector("#send:enabled")


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_shows_what_has_happened_on_any_width(gateway, browser, pictures, width, scheme):
    with watched(browser, gateway.root, width=width, color_scheme=scheme) as seen:
        seen.page.goto(gateway.root)
        shown = seen.page.inner_text("main")
        for text in (
            "three members and an oracle",
            "escalated",
            "saved",
            "of audits differ",
            "95 % interval",
            "straight to one model",
            "members",
            "The last decisions",
            "members agree: accepted",
            ROWS[11].question,
        ):
            assert text in shown
        assert re.search(r"[\d.]+ %\s*escalated\s*of \d+ judged", shown)
        assert len(seen.page.query_selector_all("#happened .gauge")) >= 5
        assert not seen.overflows()
        paper = seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert paper == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 24, 28)")
        picture(seen.page, pictures, f"figures-{width}-{scheme}")
    assert not seen.outside
    assert not seen.complaints


@pytest.mark.parametrize("width", WIDTHS)
def test_the_dial_shows_what_another_threshold_costs_and_gives(gateway, browser, pictures, width):
    curve = curve_of(gateway.gate.rules.router, gateway.gate.rules.point)
    with watched(browser, gateway.root, width=width) as seen:
        page = seen.page
        page.goto(gateway.root)
        slider = page.get_by_label("Another threshold")
        assert slider.input_value() == str(curve.served)
        ring, dot = page.locator("circle.shown"), page.locator("circle.served")
        served = float(dot.get_attribute("cx"))
        assert float(ring.get_attribute("cx")) == pytest.approx(served, abs=0.1)
        slider.focus()
        for key, place in (("Home", 0), ("ArrowRight", 1), ("End", len(curve.points) - 1)):
            page.keyboard.press(key)
            point, shown = curve.points[place], page.inner_text("#at")
            assert f"{point.threshold:.3f}" in shown
            assert f"{100 * point.accuracy:.1f} %" in shown
            assert f"{point.cost_ratio:.3f}" in shown
            assert f"{100 * point.escalation_rate:.1f} %" in shown
            assert float(ring.get_attribute("cx")) == pytest.approx(point.x)
            assert float(ring.get_attribute("cy")) == pytest.approx(point.y)
            assert f"threshold {point.threshold:.3f}" in slider.get_attribute("aria-valuetext")
        assert not seen.overflows()
        page.get_by_text("Points that were named").click()
        assert page.get_by_text("pyramid@parity").is_visible()
        assert not seen.overflows()
        picture(page, pictures, f"dial-{width}")
    assert not seen.complaints


@pytest.mark.parametrize("width", WIDTHS)
def test_the_pyramid_can_be_watched_at_work(gateway, told, browser, pictures, width):
    hard, easy = escalated_question(gateway)
    rows = {row.question: row for row in ROWS}
    with watched(browser, gateway.root, width=width) as seen:
        page = seen.page
        page.goto(gateway.root)
        page.get_by_label("A question of the kind").fill(hard)
        told.clear()
        try:
            page.get_by_role("button", name="Ask").click()
            # The decision is there, and the oracle's text comes in pieces, before it has ended.
            page.get_by_text("The oracle is asked.").first.wait_for()
            page.wait_for_selector(".said")
            first = page.inner_text(".said")
            assert page.get_by_role("button", name="Stop").is_enabled()
        finally:
            told.set()
        page.wait_for_selector("#send:enabled")
        whole = page.inner_text(".said")
        assert whole == rows[hard].responses[ORACLE]
        assert 0 < len(first) < len(whole)
        course = page.inner_text("#course")
        assert all(f"{rows[hard].answers[name]}\n{name}" in course for name in (*MEMBERS, ORACLE))
        assert "the oracle is asked" in course
        assert "by oracle" in course
        assert "cost $" in course
        assert page.inner_text("#status").startswith("Answered by oracle")
        assert not seen.overflows()
        picture(page, pictures, f"asked-{width}")
        ask(page, easy)
        course = page.inner_text("#course")
        assert "accepted" in course
        assert ORACLE not in course
        # Below every probability, the dial's lowest threshold asks the oracle.
        page.get_by_label("Another threshold").focus()
        page.keyboard.press("Home")
        page.get_by_label("at the dial's threshold").check()
        ask(page, easy)
        assert "by oracle" in page.inner_text("#course")
        soon(lambda: easy in page.inner_text("#happened"), within_s=10)
        assert easy in page.inner_text("#happened")
    assert not seen.outside
    assert not seen.complaints


def test_everything_has_a_name_and_can_be_reached_by_keyboard(gateway, browser):
    with watched(browser, gateway.root, width=1280) as seen:
        page = seen.page
        page.goto(gateway.root)
        tree = page.locator("body").aria_snapshot()
        for control in (
            'slider "Another threshold"',
            'textbox "A question of the kind that it was trained on"',
            'button "Ask"',
            'button "Stop"',
            'checkbox "at the dial',
            'heading "The last decisions"',
            'img "Accuracy over cost',
            "columnheader",
        ):
            assert control in tree, tree
        assert not re.search(r"- (slider|textbox|button|checkbox|link)\s*(\[|:|$)", tree, re.M)
        reached = set()
        for _ in range(9):
            page.keyboard.press("Tab")
            reached.add(
                page.evaluate("document.activeElement.id || document.activeElement.localName")
            )
        assert {"slider", "summary", "question", "send", "at-dial", "a"} <= reached
        page.get_by_label("A question of the kind").focus()
        page.keyboard.type(ROWS[0].question)
        page.keyboard.press("Control+Enter")
        page.wait_for_selector(".said")
        page.wait_for_selector("#send:enabled")
    assert not seen.complaints


def test_what_goes_wrong_is_said(browser):
    with (
        running_gateway({"a": fails(), "b": fails(), "oracle": fails(DOWN)}) as gateway,
        watched(browser, gateway.root, width=390) as seen,
    ):
        seen.page.goto(gateway.root)
        assert "only a trained router has a curve" in seen.page.inner_text("main")
        ask(seen.page, "How many?")
        assert "no model gave an answer" in seen.page.inner_text("#course")
        assert not seen.page.query_selector_all(".waiting")
        assert not seen.overflows()
        assert not seen.outside


def test_a_question_can_be_called_off(browser):
    slow = {**DIFFER, "oracle": says("#### 99", token_s=0.5)}
    with (
        running_gateway(slow) as gateway,
        watched(browser, gateway.root, width=1280) as seen,
    ):
        page = seen.page
        page.goto(gateway.root)
        page.get_by_label("A question of the kind").fill("How many?")
        page.get_by_role("button", name="Ask").click()
        page.wait_for_selector(".said")
        page.get_by_role("button", name="Stop").click()
        page.wait_for_selector("#send:enabled")
        assert "stopped" in page.inner_text("#course")
        assert gateway.servers["oracle"].hung_up.wait(10)
    assert not seen.complaints


def test_texts_of_others_stay_texts(browser):
    nasty = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    answers = {name: says(f"{nasty} #### 16") for name in ("a", "b", "oracle")}
    with (
        running_gateway(answers, settings=TEXTS) as gateway,
        watched(browser, gateway.root, width=390) as seen,
    ):
        seen.page.goto(gateway.root)
        ask(seen.page, nasty)
        assert nasty in seen.page.inner_text(".said")
        seen.page.reload()
        assert nasty in seen.page.inner_text("#happened")
        assert not seen.page.query_selector_all("img, #happened script, #course script")
        assert not seen.overflows()
    assert not seen.complaints


def test_a_key_given_to_the_browser_opens_the_page_and_the_box(browser):
    settings = GatewaySettings(faults=QUICK, page=PageSettings(texts=False))
    credentials = {"username": "me", "password": KEY}
    with (
        running_gateway(DIFFER, keys=[KEY], settings=settings) as gateway,
        watched(browser, gateway.root, width=1280, http_credentials=credentials) as seen,
    ):
        seen.page.goto(gateway.root)
        ask(seen.page, "a question that nobody else may read")
        assert "by oracle" in seen.page.inner_text("#course")
        seen.page.get_by_text("of 1 judged").wait_for()
        assert "nobody else" not in seen.page.inner_text("#happened")
        assert KEY not in seen.page.content()
    assert not seen.complaints


def test_it_is_seen_that_another_model_takes_over(browser):
    dies = Reply(events=stream_events("#### 99", seconds=0.05)[:4], cut_at=0)
    answers = {
        **DIFFER,
        "oracle": lambda request: dies if request.body else {"data": [{"id": "m"}]},
    }
    faults = replace(QUICK, fallback_oracle="b")
    with (
        running_gateway(answers, settings=GatewaySettings(faults=faults)) as gateway,
        watched(browser, gateway.root, width=1280) as seen,
    ):
        seen.page.goto(gateway.root)
        ask(seen.page, "How many?")
        assert seen.page.inner_text(".said del") == "####"
        assert seen.page.inner_text(".said").endswith("\n#### 8")
        assert "by b, degraded" in seen.page.inner_text("#course")
    assert not seen.complaints
