"""``label --max-usd``: what is asked before the money is spent."""

import pytest

from label_case import QUESTIONS, assert_same_run, spent, write_pyramid
from pyramid_moa.backends import Failure
from pyramid_moa.data_prep.journal import append_to_journal
from pyramid_moa.data_prep.label import label
from pyramid_moa.data_prep.labelled_run import read_labelled_run
from pyramid_moa.data_prep.manifest import read_manifest
from pyramid_moa.data_prep.pyramid import load_pyramid
from pyramid_moa.data_prep.run_folder import RunFolder
from pyramid_moa.errors import BudgetError, ConfigError, RunFolderError


def test_the_budget_stops_before_it_is_spent_and_resume_goes_on(
    tmp_path, pyramid, dataset, asked, finished
):
    out = tmp_path / "run"
    total = spent(finished)
    with pytest.raises(
        BudgetError, match=r"stopped at --max-usd.*--resume with a larger"
    ) as caught:
        label(dataset, pyramid, out, max_usd=total / 2)
    assert "\n" not in str(caught.value)
    assert 0 < spent(out) <= total / 2
    assert not read_manifest(out).complete
    with pytest.raises(RunFolderError, match="not finished; pyramid-moa label --resume"):
        read_labelled_run(out)
    before = len(asked.prompts)
    with pytest.raises(BudgetError):
        label(dataset, pyramid, out, max_usd=total / 2, resume=True)
    assert len(asked.prompts) == before
    label(dataset, pyramid, out, max_usd=total * 2, resume=True)
    assert len(asked.prompts) == len(set(asked.prompts)) == 3 * QUESTIONS
    assert_same_run(out, finished)


def test_the_budget_learns_how_models_count(tmp_path, tiny_models, dataset, asked):
    """The tiny tokenizer makes several tokens of a word: estimates of prompts fall far short."""
    yaml = write_pyramid(tmp_path / "p.yaml", tiny_models, max_tokens=1)
    yaml.write_text(yaml.read_text().replace("price: {input: 1, output: 2}", "price: {input: 1}"))
    pyramid = load_pyramid(yaml)
    label(dataset, pyramid, tmp_path / "whole")
    rows = RunFolder(tmp_path / "whole").read_generations(0)
    first, second = sum(r.cost_usd for r in rows[:8]), sum(r.cost_usd for r in rows[8:16])
    with pytest.raises(BudgetError):
        label(dataset, pyramid, tmp_path / "run", max_usd=first + 0.9 * second)
    assert spent(tmp_path / "run") == pytest.approx(first)


def test_a_budget_too_small_for_anything_leaves_nothing(tmp_path, pyramid, dataset, asked):
    with pytest.raises(BudgetError):
        label(dataset, pyramid, tmp_path / "run", max_usd=0.0)
    assert asked.prompts == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("amount", [-1.0, float("nan")])
def test_what_is_no_budget(tmp_path, pyramid, dataset, amount):
    with pytest.raises(ConfigError, match="--max-usd: expected 0 US dollars or more"):
        label(dataset, pyramid, tmp_path / "run", max_usd=amount)
    assert list(tmp_path.iterdir()) == []


def test_the_budget_counts_only_what_is_asked_again(tmp_path, pyramid, dataset, asked):
    busy = next(iter(dataset.queries)).question
    asked.fail = lambda name, text: (
        Failure(message="busy", can_retry=True) if (name, text) == ("o", busy) else None
    )
    out = tmp_path / "run"
    label(dataset, pyramid, out)
    asked.fail = lambda name, text: None
    # Enough for one more answer of the oracle, not for the whole part.
    label(dataset, pyramid, out, resume=True, max_usd=spent(out) + 0.001)
    assert read_manifest(out).counts["failed"] == 0


def test_what_stands_in_a_part_and_in_a_journal_is_spent_once(
    pyramid, dataset, tmp_path, asked, finished
):
    """Its process died between the part and the end of the journal."""
    out = tmp_path / "run"
    label(dataset, pyramid, out)
    folder = RunFolder(out)
    for row in folder.read_part(0, 0):
        append_to_journal(folder.journal_path(0, 0), row)
    (out / "generations" / "m02-000000.parquet").unlink()
    label(dataset, pyramid, out, resume=True, max_usd=spent(finished) + 0.001)
    assert_same_run(out, finished)
    assert not list((out / "journal").iterdir())
