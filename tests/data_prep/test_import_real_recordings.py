"""The recorded answers of real models become run folders."""

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pyramid_moa.cli import main
from pyramid_moa.data_prep.labelled_run import read_labelled_run

REAL = {
    "recorded/zeroeval": (
        ["Meta-Llama-3-8B-Instruct", "Qwen2-7B-Instruct", "gemma-2-9b-it"],
        "gpt-4o-2024-08-06",
        [],
        "gsm8k",
        869,
    ),
    "recorded_other/math-l5": (
        ["Qwen2-7B-Instruct", "gemma-2-27b-it", "Meta-Llama-3-70B-Instruct"],
        "o1-mini-2024-09-12",
        ["--grader", "math-verify"],
        "math-verify",
        489,
    ),
    "recorded_other/crux": (
        ["Qwen2-7B-Instruct", "gemma-2-27b-it", "Meta-Llama-3-70B-Instruct"],
        "o1-mini-2024-09-12",
        [],
        "python-literal",
        522,
    ),
}


@pytest.mark.parametrize("table", REAL)
def test_recorded_answers_of_real_models(shared_data, tmp_path, capsys, table):
    members, oracle, options, grader, questions = REAL[table]
    path, out = shared_data / f"{table}.parquet", tmp_path / "run"
    arguments = ["import", str(path), "--oracle", oracle, "--out", str(out), *options]
    for member in members:
        arguments += ["--member", member]
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert f"{questions} of {questions} questions" in captured.err
    assert "estimates" in captured.err
    assert captured.out == f"run: {out}\n"
    run = read_labelled_run(out)
    assert run.manifest.grader == grader
    assert run.manifest.counts["queries"] == questions
    assert run.manifest.counts["generations"] == 4 * questions
    assert run.manifest.tokens_estimated
    recorded = pq.read_table(path, columns=["model", "correct"])
    for name in [*members, oracle]:
        own = recorded.filter(pc.equal(recorded["model"], name))["correct"]
        accuracy = sum(row.correct for row in run.generations[name]) / questions
        assert accuracy == pytest.approx(pc.mean(own.cast(pa.float64())).as_py(), abs=0.01)
        assert all(row.cost_usd > 0 for row in run.generations[name])
    costs = [sum(row.cost_usd for row in run.generations[name]) for name in [*members, oracle]]
    assert max(costs[:-1]) < costs[-1]
    shares = {query.split for query in run.queries}
    assert shares == {"train", "validation", "calibration", "test"}
    train = len(run.of_split("train")) / questions
    assert 0.42 < train < 0.58
