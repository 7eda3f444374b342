"""The gateway's benchmark in its short form; LiteLLM's proxy has no part in it."""

import json

import pytest
from gateway import main

from pyramid_moa.router_model.router import Router


def test_what_the_gateway_adds_and_bears(tmp_path, capsys):
    out = tmp_path / "figures.json"
    short = (
        "--no-litellm --rounds 1 --requests 30 --rate 20 --delay-ms 30 --router pretrained:numeric"
    )
    main(["--cases", "added", "throughput", *short.split(), "--out", str(out)])
    found = json.loads(out.read_text())
    alone, slowest, through = found["added"]
    asked = ["a member by itself", "the slowest of the three", "the gateway"]
    assert [row["asked"] for row in found["added"]] == asked
    # The members' time is in it, once: they are asked together.
    assert 30 < alone["p50_ms"] < through["p50_ms"]
    assert 30 < slowest["p50_ms"] < through["p50_ms"]
    assert through["added_p50_ms"] == pytest.approx(through["p50_ms"] - slowest["p50_ms"])
    (most,) = found["throughput"]
    assert most["requests_per_s"] > 0
    assert most["processor_ms"] > 0
    assert not any(row["not_200"] for row in (alone, slowest, through, most))
    printed = capsys.readouterr().out
    assert f"| the gateway | {through['p50_ms']:.1f} |" in printed
    assert "gateway / proxy" not in printed


def test_who_is_too_many_is_told_so(tmp_path):
    out = tmp_path / "figures.json"
    main(["--cases", "overload", "--requests", "150", "--out", str(out)])
    found = json.loads(out.read_text())["overload"]
    assert [row["factor"] for row in found] == [0.5, 1.0, 1.5, 2.0]
    for row in found:
        assert row["unanswered"] == 0
        asked = row["answered"] + row["refused"]
        assert asked == pytest.approx(1.5 * row["rate"], abs=1)
        assert row["answered"] > 0


def test_what_scoring_and_decision_take(tmp_path, monkeypatch):
    loaded = []
    load = Router.load

    def watched(folder, **options):
        loaded.append(load(folder, **options))
        return loaded[-1]

    monkeypatch.setattr(Router, "load", watched)
    out = tmp_path / "figures.json"
    short = "--requests 30 --questions 150 --epochs 1"
    main(["--cases", "router", *short.split(), "--out", str(out)])
    plain, hidden = json.loads(out.read_text())["router"]
    for row in (plain, hidden):
        assert 0 < row["p50_ms"] <= row["p99_ms"]
    without, with_states = (router.card for router in loaded)
    assert without.feature_groups == with_states.feature_groups == ["agreement", "confidence"]
    assert without.hidden_key is None
    assert [member.hidden_size for member in with_states.members] == [4096] * 3
