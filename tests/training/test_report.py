import json
import re
from html.parser import HTMLParser

import numpy as np
import pyarrow.parquet as pq
import pytest

import pyramid_moa.training.report as report_module
from pyramid_moa.errors import DataError
from pyramid_moa.training.decision_kinds import KINDS, kind_masks, pick
from pyramid_moa.training.plots import PLOTS
from pyramid_moa.training.report import REPORT_FILES, write_report

pytest.importorskip("matplotlib")


class Page(HTMLParser):
    """Tags, where they point, and the text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture
def quick_plots(monkeypatch):
    """Spare tests that do not look at the pictures the drawing of them."""

    def write(data, folder):
        (folder / "plots_data.json").write_text(json.dumps(data, allow_nan=False))
        for plot in PLOTS:
            for suffix in (".svg", ".png"):
                (folder / f"{plot}{suffix}").write_bytes(b"<svg/>")

    monkeypatch.setattr(report_module, "write_plots", write)


def page_of(folder):
    return Page((folder / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def report(tmp_path_factory, simulated):
    out = tmp_path_factory.mktemp("reports") / "deep" / "report"
    rows = simulated(80, price_note="stand-in prices of the 8B class")
    metrics = write_report(rows, out, extra={"router": "ck <1>", "seed": 3}, resamples=50)
    return rows, out, metrics


def test_folder_holds_what_it_should_and_no_leftovers(report):
    _, out, metrics = report
    assert {path.name for path in out.iterdir()} == set(REPORT_FILES)
    assert [path.name for path in out.parent.iterdir()] == ["report"]
    assert json.loads((out / "metrics.json").read_text()) == metrics


def test_decisions_have_a_row_per_query(report):
    rows, out, _ = report
    table = pq.read_table(out / "decisions.parquet")
    assert table.num_rows == 80
    wanted = (
        "query_id ensemble_answer p_ensemble_fails p_oracle_right models_called escalated "
        "final_answer correct cost vote_answer vote_share ensemble_correct oracle_correct "
        "held_answer held_correct"
    )
    assert table.column_names == wanted.split()
    assert table["query_id"].to_pylist() == list(rows.query_ids)
    assert [tuple(names) for names in table["models_called"].to_pylist()] == list(
        rows.models_called
    )
    assert table["correct"].to_pylist() == rows.final_correct.tolist()
    assert table["cost"].to_pylist() == rows.final_cost_usd.tolist()
    assert table["p_ensemble_fails"].to_pylist() == rows.p_ensemble_fails.tolist()


@pytest.mark.usefixtures("quick_plots")
def test_unknown_numbers_are_null(tmp_path, five_queries):
    write_report(five_queries(), tmp_path / "report", resamples=0)
    table = pq.read_table(tmp_path / "report" / "decisions.parquet")
    assert table["p_oracle_right"].null_count == 5


def test_page_stands_alone(report):
    _, out, _ = report
    page = page_of(out)
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert len(page.links) == len(PLOTS)
    assert all(link.startswith("data:image/svg+xml;base64,") for link in page.links)
    source = (out / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://", source)


def test_page_shows_figures_price_note_and_how_it_was_made(report):
    _, out, metrics = report
    text = page_of(out).text
    assert f"{100 * metrics['operating_point']['accuracy']:.1f} %" in text
    low, high = metrics["intervals"]["failure_auroc"]
    assert f"{low:.3f} to {high:.3f}" in text
    assert text.count("stand-in prices of the 8B class") >= 4
    assert "How it was made" in text
    assert "ck <1>" in text
    for kind in KINDS:
        assert (kind.title in text) == (not kind.where_any)


def test_text_of_questions_and_models_is_escaped_and_shortened(tmp_path, changed, simulated):
    attack = "<script>alert(1)</script><img src=x onerror=alert(2)> {{ 7 * 7 }} "
    rows = simulated(12, members=1)
    name = "<b>m</b>"
    rows = changed(
        rows,
        questions=tuple(f"{attack}{i} \ud800 " + "long " * 1000 for i in range(12)),
        final_answer=("</p><script>alert(3)</script>",) * 12,
        member_answers=(("<svg onload=alert(4)>",),) * 12,
        members=(name,),
        models_called=tuple(
            (name, "oracle") if escalated else (name,) for escalated in rows.escalated
        ),
        price_note="<i>cheap</i>",
        operating_point="<u>point</u>",
    )
    write_report(rows, tmp_path / "report", resamples=10, extra={"<k>": "<script>alert(5)"})
    page = page_of(tmp_path / "report")
    assert not {"script", "svg", "b", "i", "u", "k"} & set(page.tags) - {"b"}
    assert page.tags.count("img") == len(PLOTS)
    assert "<script>alert(1)</script>" in page.text
    assert "{{ 7 * 7 }}" in page.text
    assert "more characters" in page.text
    assert len((tmp_path / "report" / "report.html").read_bytes()) < 600_000


@pytest.mark.usefixtures("quick_plots")
def test_data_without_gold_says_so(tmp_path, changed, simulated):
    rows = simulated(10, reference="oracle", golds=(None,) * 10, failed_generations=3)
    rows = changed(rows, tokens_estimated=True, oracle_cost_usd=np.zeros(10))
    write_report(rows, tmp_path / "report", resamples=10)
    text = page_of(tmp_path / "report").text
    assert "the oracle's answer is the reference" in text
    assert "3 answers are missing" in text
    assert "estimates" in text
    assert "cost nothing" in text
    assert "oracle's compute (FLOPs)" in text


@pytest.mark.parametrize("right", [True, False])
def test_five_queries_one_member_one_class_and_nothing_known(tmp_path, right, simulated):
    unknown = np.full(5, np.nan)
    rows = simulated(
        5,
        members=1,
        ensemble_correct=np.full(5, right),
        vote_correct=np.full(5, right),
        final_correct=np.full(5, right),
        oracle_cost_usd=unknown,
        oracle_flops=unknown,
        oracle_latency_s=unknown,
        final_cost_usd=unknown,
        p_oracle_right=unknown,
        oracle_answer=(None,) * 5,
    )
    metrics = write_report(rows, tmp_path / "report", examples_per_kind=0, resamples=10)
    assert metrics["failure_auroc"] is None
    text = page_of(tmp_path / "report").text
    assert "n/a" in text
    assert "Not shown." in text


def test_every_query_is_of_one_kind_and_examples_are_of_theirs(simulated):
    rows = simulated(200)
    masks = kind_masks(rows)
    assert list(masks) == [kind.key for kind in KINDS]
    assert (sum(mask.astype(int) for mask in masks.values()) == 1).all()
    picked = pick(rows, per_kind=3, seed=1)
    assert picked == pick(rows, per_kind=3, seed=1)
    for key, chosen in picked.items():
        assert len(chosen) == min(3, masks[key].sum())
        assert masks[key][chosen].all()


@pytest.mark.usefixtures("quick_plots")
def test_an_earlier_report_is_replaced_and_other_files_stay(tmp_path, simulated):
    out = tmp_path / "report"
    out.mkdir()
    first = write_report(simulated(10), out, resamples=0)
    (out / "notes.txt").write_text("mine")
    second = write_report(simulated(20), out, resamples=0)
    assert (first["n"], second["n"]) == (10, 20)
    assert json.loads((out / "metrics.json").read_text())["n"] == 20
    assert (out / "notes.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


@pytest.mark.parametrize("content", [None, "not json", "[]", '{"loss": 1}'])
def test_a_folder_of_something_else_is_left_alone(tmp_path, content, simulated):
    (tmp_path / "thesis.tex").write_text("years of work")
    if content is not None:
        (tmp_path / "metrics.json").write_text(content)
    before = {path: path.read_text() for path in tmp_path.iterdir()}
    with pytest.raises(DataError, match="found a folder of something else"):
        write_report(simulated(5), tmp_path, resamples=0)
    assert {path: path.read_text() for path in tmp_path.iterdir()} == before


def test_a_file_in_the_way_is_refused(tmp_path, simulated):
    (tmp_path / "report").write_text("")
    with pytest.raises(DataError, match="found a file"):
        write_report(simulated(5), tmp_path / "report", resamples=0)


@pytest.mark.parametrize("earlier", [True, False])
@pytest.mark.usefixtures("quick_plots")
def test_a_failure_leaves_no_partial_report(tmp_path, monkeypatch, earlier, simulated):
    out = tmp_path / "report"
    if earlier:
        write_report(simulated(10), out, resamples=0)

    def fail(*_):
        raise RuntimeError("disc full")

    monkeypatch.setattr(report_module, "render_page", fail)
    with pytest.raises(RuntimeError, match="disc full"):
        write_report(simulated(20), out, resamples=0)
    assert [path.name for path in tmp_path.iterdir()] == (["report"] if earlier else [])
    if earlier:
        assert json.loads((out / "metrics.json").read_text())["n"] == 10


@pytest.mark.usefixtures("quick_plots")
def test_an_earlier_report_comes_back_when_renaming_fails(tmp_path, monkeypatch, simulated):
    out = tmp_path / "report"
    write_report(simulated(10), out, resamples=0)
    (out / "notes.txt").write_text("mine")
    rename = type(out).rename

    def refuse(path, target):
        if ".partial-" in path.name:
            raise OSError("no")
        return rename(path, target)

    monkeypatch.setattr(type(out), "rename", refuse)
    with pytest.raises(OSError, match="no"):
        write_report(simulated(20), out, resamples=0)
    assert json.loads((out / "metrics.json").read_text())["n"] == 10
    assert (out / "notes.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


@pytest.mark.usefixtures("quick_plots")
def test_a_link_to_a_folder_stays_a_link(tmp_path, simulated):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_report(simulated(10), tmp_path / "link", resamples=0)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "report.html").exists()


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({}, "the oracle is asked where P(ensemble fails) is above 0.3"),
        ({"rule": "gain"}, "expected to gain more accuracy than 0.3"),
        ({"policy": "sequential"}, "one oracle call has to buy 0.3 of accuracy"),
        ({"policy": "sequential", "threshold": -1.0}, "asked at once, and alone, every time"),
        ({"threshold": -1.0, "outvote": 0.5}, "everybody is asked, every time; the ensemble's"),
    ],
)
@pytest.mark.usefixtures("quick_plots")
def test_page_says_when_the_oracle_is_asked(tmp_path, columns, words, simulated):
    write_report(simulated(10, **columns), tmp_path / "report", resamples=0)
    assert words in page_of(tmp_path / "report").text
