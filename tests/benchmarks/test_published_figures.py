"""Rules set beside what their sources publish, on recordings of the same models and questions."""

import csv
from pathlib import Path

import pytest

from pyramid_moa.data_prep.import_recorded import import_recorded
from pyramid_moa.data_prep.prices import read_prices
from pyramid_moa.training.benchmark import benchmark

ROUTELLM = """
Mixtral-8x7B-Instruct-v0.1: {input: 0.24, output: 0.24}
gpt-4-1106-preview: {input: 10, output: 30}
"""


@pytest.fixture(scope="module")
def figures(shared_data, tmp_path_factory, repository):
    folder = tmp_path_factory.mktemp("published")
    (folder / "prices.yaml").write_text(ROUTELLM)
    recorded = shared_data / "recorded"
    import_recorded(
        [recorded / "zeroeval.parquet"],
        members=["gemma-2-9b-it", "Qwen2-7B-Instruct", "Meta-Llama-3-8B-Instruct"],
        oracle="Meta-Llama-3-70B-Instruct",
        prices=read_prices(repository / "benchmarks" / "model_prices.yaml"),
        out=folder / "abc",
        grader_name="gsm8k",
    )
    import_recorded(
        [recorded / "routellm.parquet"],
        members=["Mixtral-8x7B-Instruct-v0.1"],
        oracle="gpt-4-1106-preview",
        prices=read_prices(folder / "prices.yaml"),
        out=folder / "routellm",
        grader_name="gsm8k",
    )
    out = folder / "out"
    names = ["query-only", "members-only", "oracle-only"]
    benchmark([folder / "abc", folder / "routellm"], out, rules=names, seeds=1, resamples=0)
    with Path(out / "rules.csv").open(newline="") as file:
        return {(row["name"], row["rule"]): row for row in csv.DictReader(file)}


def test_abc_keeps_a_70b_oracles_accuracy(figures):
    """ABC on GSM8K: 93.1 % with three members of 8B to 9B, against 93.3 % of their 70B alone.

    Here one member and the oracle are of a neighbouring version, and 869 of the 1,319 questions are
    recorded. Its cost (0.46 of the oracle's) can't be compared: at the list prices here the three
    members alone cost 0.8 of that oracle.
    """
    abc = float(figures["abc", "vote"]["accuracy_at_abc_cost"])
    oracle = float(figures["abc", "oracle-only"]["most_accurate"])
    members = float(figures["abc", "members-only"]["most_accurate"])
    assert abc == pytest.approx(0.931, abs=0.015)
    assert oracle == pytest.approx(0.933, abs=0.015)
    assert abc - oracle > -0.005
    assert members < abc - 0.02


def test_the_question_alone_tells_little_on_gsm8k(figures):
    """RouteLLM's own pair and recordings. Random routing has an APGR of 0.5 and a CPT(50 %) of 0.5.

    The ranges hold what this rule reaches (0.59 and 0.38 over three seeds); the paper's figures are
    of routers trained on other data.
    """
    row = figures["routellm", "query-only"]
    assert 0.52 < float(row["apgr"]) < 0.68
    assert 0.3 < float(row["cpt_50"]) < 0.48
    assert float(figures["routellm", "vote"]["apgr"]) == pytest.approx(0.5)
