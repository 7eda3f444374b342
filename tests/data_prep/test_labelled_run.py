import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from pyramid_moa.backends import Price
from pyramid_moa.data_prep.labelled_run import read_labelled_run
from pyramid_moa.data_prep.labels import label_queries
from pyramid_moa.data_prep.manifest import Manifest, ModelCost, write_manifest
from pyramid_moa.data_prep.run_folder import RunFolder
from pyramid_moa.errors import RunFolderError
from pyramid_moa.grading import load_grader
from pyramid_moa.records import Generation, Query
from synthetic import HIDDEN_KEY, MEMBERS, MID_ORACLE, ORACLE

GRADER = load_grader("gsm8k")


def make(path, *, gold=True, complete=True):
    folder = RunFolder(path)
    queries = [
        Query(query_id=f"q{n}", question=f"{n}?", gold=str(n) if gold else None, split="train")
        for n in range(4)
    ]
    folder.create(queries)
    rows = {}
    for model, name in enumerate(("a", "b", "o")):
        rows[name] = [
            Generation(
                query_id=query.query_id,
                model=name,
                answer=None if (name, n) == ("b", 1) else str(n + (model == 1)),
                error="busy" if (name, n) == ("b", 1) else None,
                correct=(model != 1) if gold else None,
                hidden_states=None
                if name == "o" or (name, n) == ("b", 1)
                else {
                    "layer-1/answer_mean": np.full(2, n + 1, np.float16),
                    **({"layer0/last_prompt": np.ones(1, np.float16)} if name == "a" else {}),
                },
            )
            for n, query in enumerate(queries)
        ]
        folder.write_part(model, 0, rows[name][:3])
        folder.write_part(model, 1, rows[name][3:])
    reference = "gold" if gold else "oracle"
    answers = [[row.answer for row in own] for own in rows.values()]
    folder.write_labels(
        label_queries(queries, answers[:-1], answers[-1], GRADER, reference=reference)
    )
    cost = ModelCost(name="a", price=Price(), active_parameters=None)
    write_manifest(
        path,
        Manifest(
            dataset="d", dataset_hash="0", reference=reference, members=["a", "b"], oracle="o",
            costs=[cost], price_note="", grader="gsm8k", splits="hash", pyramid={},
            complete=complete,
        ),
    )  # fmt: skip
    return path


def test_a_run_in_memory(tmp_path):
    run = read_labelled_run(make(tmp_path / "run"))
    assert list(run.generations) == ["a", "b", "o"]
    assert list(run.hidden_states) == ["a", "b"]
    assert run.hidden_keys == ["layer-1/answer_mean"]
    answers = run.member_answers(2)
    assert list(answers) == ["a", "b"]
    np.testing.assert_array_equal(answers["b"].hidden_states["layer-1/answer_mean"], [3, 3])
    # Zeros stand for a failed row in the array; the row itself has none.
    assert run.member_answers(1)["b"].hidden_states is None
    assert not run.hidden_states["b"]["layer-1/answer_mean"][1].any()
    assert run.of_split("train") == [0, 1, 2, 3]
    with pytest.raises(RunFolderError, match="split 'test', found only train"):
        run.of_split("test")


def test_without_gold_correct_is_filled_in_against_the_oracle(tmp_path):
    run = read_labelled_run(make(tmp_path / "run", gold=False))
    assert [row.correct for row in run.generations["a"]] == [True] * 4
    assert [row.correct for row in run.generations["b"]] == [False] * 4
    assert [row.correct for row in run.generations["o"]] == [True] * 4


def test_a_run_of_three_tiers(three_tier_run, labelled_run):
    run, without = read_labelled_run(three_tier_run), read_labelled_run(labelled_run)
    assert list(run.generations) == [*MEMBERS, MID_ORACLE, ORACLE]
    assert list(run.hidden_states) == list(MEMBERS)
    assert run.hidden_keys == without.hidden_keys == [HIDDEN_KEY]
    answers = run.answers_before_oracle(0)
    assert list(answers) == [*MEMBERS, MID_ORACLE]
    assert answers[MID_ORACLE] == run.generations[MID_ORACLE][0]
    assert answers[MID_ORACLE].hidden_states is None
    for name, row in run.member_answers(0).items():
        np.testing.assert_array_equal(
            answers[name].hidden_states[HIDDEN_KEY], row.hidden_states[HIDDEN_KEY]
        )
    # A mid oracle has no vote and is no reference.
    assert run.labels == without.labels
    assert list(without.answers_before_oracle(0)) == list(MEMBERS)


def test_a_missing_part_of_a_mid_oracle(three_tier_run, tmp_path):
    run = shutil.copytree(three_tier_run, tmp_path / "run")
    (run / "generations" / "m03-000001.parquet").unlink()
    with pytest.raises(RunFolderError, match="expected one generation of mid-oracle a query"):
        read_labelled_run(run)


def test_an_unfinished_run(tmp_path):
    with pytest.raises(RunFolderError, match="not finished; pyramid-moa label --resume"):
        read_labelled_run(make(tmp_path / "run", complete=False))


def test_a_missing_folder(tmp_path):
    with pytest.raises(RunFolderError, match="no such folder"):
        read_labelled_run(tmp_path / "absent")


@pytest.mark.parametrize("name", ["m01-000000", "m01-000001"])
def test_a_missing_part(tmp_path, name):
    run = make(tmp_path / "run")
    (run / "generations" / f"{name}.parquet").unlink()
    with pytest.raises(RunFolderError, match="expected one generation of b a query, in order"):
        read_labelled_run(run)


def test_parts_in_another_order(tmp_path):
    run = make(tmp_path / "run")
    folder = run / "generations"
    shutil.copy(folder / "m00-000001.parquet", folder / "m00-000002.parquet")
    (folder / "m00-000001.parquet").unlink()
    (folder / "m00-000000.parquet").rename(folder / "m00-000003.parquet")
    with pytest.raises(RunFolderError, match="in order; found 4 for 4 queries"):
        read_labelled_run(run)


@pytest.mark.parametrize("rows", [0, 3])
def test_labels_that_do_not_fit(tmp_path, rows):
    run = make(tmp_path / "run")
    path = run / "labels.parquet"
    pq.write_table(pq.read_table(path).slice(0, rows), path)
    with pytest.raises(RunFolderError, match=r"labels\.parquet does not fit"):
        read_labelled_run(run)
