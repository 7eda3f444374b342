"""Fitting on tensors: what is left out, what is kept, what is calibrated."""

import csv
from dataclasses import replace

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from pyramid_moa.errors import CheckpointError, ConfigError, RunFolderError
from pyramid_moa.router_model.calibration import Prior, fit_platt
from pyramid_moa.router_model.features import NO_ANSWER
from pyramid_moa.router_model.network import HEADS
from pyramid_moa.router_model.vote_figures import vote_places
from pyramid_moa.training.config import NetworkConfig, OptimiserConfig
from pyramid_moa.training.examples import Examples
from pyramid_moa.training.fit import fit_network, held_out_parts, scored, vote_fails
from synthetic import quick_config

FAILS, VOTE_FAILS, ORACLE = (
    HEADS.index(h) for h in ("ensemble_fails", "vote_fails", "oracle_right")
)
SHAPE = {"code": 8, "units": 12, "components": 4}


def examples(count=240, *, members=3, seed=0, signal=2.0, features=3):
    """Answers whose first feature tells, in noise, whether they are right; the third is unknown.

    Members are right with falling chance; the wrong ones say one of two things.
    """
    generator = torch.Generator().manual_seed(seed)
    hard = torch.randn(count, 1, generator=generator)
    ability = torch.linspace(1.0, 0.0, members)
    right = (torch.randn(count, members, generator=generator) * 0.7 + ability > hard).float()
    said = torch.where(right > 0, 0, torch.randint(1, 3, (count, members), generator=generator))
    clusters = (said[:, :, None] == said[:, None, :]).to(torch.uint8).argmax(2)
    answers = torch.randn(count, members, features, generator=generator)
    answers[..., 0] += signal * (right - 0.5)
    answers[..., 2] = torch.nan
    relations = torch.randn(count, members, members, 1, generator=generator)
    return Examples(
        answers=answers,
        relations=relations,
        clusters=clusters,
        question=torch.randn(count, 2, generator=generator),
        right=right,
        oracle_right=(torch.rand(count, generator=generator) < 0.95).float(),
        hidden=(),
        questions=tuple(str(number) for number in range(count)),
    )


def auroc(scores, labels):
    from sklearn.metrics import roc_auc_score

    return roc_auc_score(labels.numpy(), scores.numpy())


def chosen_fails(said, data):
    return data.right.gather(1, said.choice[:, None])[:, 0] == 0


def share(data):
    """Share of the members that stand behind the majority."""
    return (data.clusters == vote_places(data.clusters)[:, None]).float().mean(1)


def test_every_seed_leaves_out_a_quarter_of_the_questions():
    questions = [f"question {number}" for number in range(800)]
    held_out = held_out_parts(questions, seeds=8, seed=3)
    assert held_out.shape == (800, 8)
    assert torch.equal(held_out[:, :4].sum(dim=1), torch.ones(800, dtype=torch.long))
    assert torch.equal(held_out[:, 0], held_out[:, 4])
    assert all(150 < int(part.sum()) < 250 for part in held_out.T)
    assert not torch.equal(held_out, held_out_parts(questions, seeds=8, seed=4))
    # A part follows from question and seed alone: whatever the run, equal questions go together.
    assert torch.equal(held_out.flip(0), held_out_parts(questions[::-1], seeds=8, seed=3))


@pytest.mark.parametrize("seeds", [2, 3])
def test_with_few_seeds_every_query_is_left_out_by_somebody(seeds):
    held_out = held_out_parts([str(number) for number in range(90)], seeds=seeds, seed=0)
    assert torch.equal(held_out.sum(1), torch.ones(90, dtype=torch.long))


def by_heart(count=120, *, members=3):
    """Labels of noise, and a network that learns them by heart."""
    generator = torch.Generator().manual_seed(9)
    data = examples(count, members=members, features=30, signal=0.0)
    answers = torch.randn(count, members, 30, generator=generator)
    right = (torch.rand(count, 1, generator=generator) < 0.5).float().expand(-1, members)
    data = replace(data, answers=answers, right=right.clone(), clusters=0 * data.clusters)
    config = quick_config(
        optimiser=OptimiserConfig(
            max_epochs=25,
            patience=25,
            learning_rate=2e-2,
            weight_decay=0.0,
            averaging=0.5,
            batch_size=60,
            epoch_batches=8,
        ),
        network=NetworkConfig(code=8, units=24, seeds=4, dropout=0.0),
    )
    return data, config


def test_out_of_fold_probabilities_are_of_networks_that_did_not_see_the_query():
    """Labels of noise: whoever had seen them would know them."""
    data, config = by_heart()
    fitted = fit_network(data, config)
    wrong = data.right[:, 0] == 0
    assert 0.3 < auroc(fitted.out_of_fold.probabilities[:, FAILS], wrong) < 0.7


def test_out_of_fold_of_many_members_too():
    data, config = by_heart(members=9)
    fitted = fit_network(data, config)
    wrong = data.right[:, 0] == 0
    assert fitted.out_of_fold.probabilities.shape == (120, len(HEADS))
    assert 0.3 < auroc(fitted.out_of_fold.probabilities[:, FAILS], wrong) < 0.7


def test_new_queries_are_ranked_and_calibrated():
    fitted = fit_network(examples(400), quick_config())
    new = examples(2000, seed=1)
    said = scored(fitted.network, new)
    failed, vote_failed = chosen_fails(said, new), vote_fails(new)
    p = said.probabilities
    assert auroc(p[:, VOTE_FAILS], vote_failed) > auroc(-share(new), vote_failed) + 0.03
    assert auroc(p[:, FAILS], failed) > 0.75
    for head, truth in ((FAILS, failed), (VOTE_FAILS, vote_failed), (ORACLE, new.oracle_right)):
        assert abs(p[:, head].mean() - truth.float().mean()) < 0.07
    # The answer that is believed most is right more often than the majority's.
    assert failed.float().mean() < vote_failed.float().mean()
    assert not fitted.network.training


def test_without_any_signal_it_stays_near_the_vote_rule():
    fitted = fit_network(examples(signal=0.0), quick_config())
    new = examples(2000, seed=1, signal=0.0)
    said = scored(fitted.network, new)
    agreement = auroc(-share(new), vote_fails(new))
    assert auroc(said.probabilities[:, VOTE_FAILS], vote_fails(new)) > agreement - 0.06


def test_the_same_seed_gives_the_same_network():
    data = examples(60)
    one, again = (fit_network(data, quick_config()) for _ in range(2))
    other = fit_network(data, quick_config(seed=1))
    for name, value in one.network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[name]), name
    assert torch.equal(one.out_of_fold.probabilities, again.out_of_fold.probabilities)
    assert not torch.equal(one.network.read.weight, other.network.read.weight)


def test_started_from_another_it_still_says_what_was_not_seen():
    """Labels of noise, known by heart to the network that is started from."""
    data, config = by_heart()
    start = fit_network(data, config)
    fitted = fit_network(data, config, start=start.network)
    wrong = data.right[:, 0] == 0
    assert auroc(scored(start.network, data).probabilities[:, FAILS], wrong) > 0.8
    assert 0.3 < auroc(fitted.out_of_fold.probabilities[:, FAILS], wrong) < 0.7


def test_training_that_diverges_is_one_clear_error():
    config = quick_config(
        optimiser=OptimiserConfig(
            learning_rate=1e30, init_learning_rate=1.0, weight_decay=0.0, max_epochs=2
        )
    )
    with pytest.raises(ConfigError, match=r"training diverged.* lower optimiser.learning_rate"):
        fit_network(examples(60), config)


def test_twenty_queries_are_enough_to_begin_with():
    fitted = fit_network(examples(20), quick_config())
    p = fitted.out_of_fold.probabilities
    assert p.shape == (20, len(HEADS))
    assert bool(((p > 0) & (p < 1)).all())


def test_a_member_that_never_answers():
    data = examples(80)
    clusters = data.clusters.clone()
    said = torch.where(data.right > 0, 0, 1)[:, :2]
    clusters[:, :2] = (said[:, :, None] == said[:, None, :]).to(torch.uint8).argmax(2)
    clusters[:, 2] = NO_ANSWER
    answers, right = data.answers.clone(), data.right.clone()
    answers[:, 2], right[:, 2] = torch.nan, 0.0
    silent = replace(data, clusters=clusters, answers=answers, right=right)
    fitted = fit_network(silent, quick_config())
    assert bool(torch.isfinite(fitted.out_of_fold.probabilities).all())
    assert bool((fitted.out_of_fold.choice < 2).all())
    assert bool(torch.isfinite(fitted.network.habits).all())


def test_one_member_alone():
    fitted = fit_network(examples(80, members=1), quick_config())
    assert not fitted.out_of_fold.choice.any()
    p = fitted.out_of_fold.probabilities
    assert bool(torch.isfinite(p).all())


def test_what_cannot_be_learned_from():
    with pytest.raises(RunFolderError, match="at least 20 queries"):
        fit_network(examples(19), quick_config())
    data = examples(40)
    with pytest.raises(RunFolderError, match="never fails"):
        fit_network(replace(data, right=torch.ones(40, 3)), quick_config())
    with pytest.raises(RunFolderError, match="always fails"):
        fit_network(replace(data, right=torch.zeros(40, 3)), quick_config())


def test_one_class_of_the_oracle_is_no_problem():
    data = replace(examples(60), oracle_right=torch.ones(60))
    fitted = fit_network(data, quick_config())
    assert float(fitted.out_of_fold.probabilities[:, ORACLE].min()) > 0.7


@pytest.fixture(scope="module")
def learned():
    return fit_network(examples(400), quick_config()).network


def test_starting_from_a_network_of_other_members(learned):
    """On few queries what was learned of others tells; nothing is kept of who they were."""
    few, new = examples(24, members=4, seed=5), examples(1000, members=4, seed=6)
    brief = OptimiserConfig(max_epochs=2, patience=2, init_learning_rate=1e-4, epoch_batches=1)
    config = quick_config(optimiser=brief)
    started = fit_network(few, config, start=learned).network
    assert started.shape.members == 4
    assert torch.equal(started.answer_mean, learned.answer_mean)
    assert not torch.equal(started.skills[:3], learned.skills)
    fresh = fit_network(few, config).network
    ranked = [
        auroc(scored(net, new).probabilities[:, VOTE_FAILS], vote_fails(new))
        for net in (started, fresh)
    ]
    assert ranked[0] > ranked[1]
    assert ranked[0] > auroc(-share(new), vote_fails(new))


def test_a_start_that_nothing_improves_on_is_kept(learned):
    data = examples(400)
    ruinous = OptimiserConfig(max_epochs=2, patience=2, init_learning_rate=3.0, epoch_batches=2)
    kept = fit_network(data, quick_config(optimiser=ruinous), start=learned).network
    assert torch.equal(kept.read.weight, learned.read.weight)


def test_what_no_answer_had_in_training_says_nothing(learned):
    """The third feature is unknown in training; a member that has it is read as if it had not."""
    plain = examples(50, seed=8)
    told = replace(plain, answers=plain.answers.clone())
    told.answers[..., 2] = 3.0
    expected, said = (scored(learned, data).probabilities for data in (plain, told))
    assert torch.allclose(said, expected, atol=1e-6)
    assert learned.answer_scale[2] == 1


def test_what_is_new_to_a_start_is_learned(learned):
    """Where the run has a feature that the start never met, it may tell everything."""
    data = examples(300, seed=9, signal=0.0)
    data.answers[..., 2] = 500.0 + 100.0 * data.right
    fast = replace(quick_config().optimiser, init_learning_rate=1e-2)
    started = fit_network(data, quick_config(optimiser=fast), start=learned).network
    assert 500 < started.answer_mean[2] < 600
    assert torch.equal(started.answer_mean[:2], learned.answer_mean[:2])
    told = scored(started, data).probabilities[:, VOTE_FAILS]
    assert auroc(told, vote_fails(data)) > 0.95


@pytest.mark.parametrize("count", [1, 19, 60])
def test_a_start_is_kept_where_there_is_nothing_to_learn(learned, count):
    """Too few labels, or one class: what was learned stays, and says something of everybody."""
    few, new = replace(examples(count, seed=5), right=torch.ones(count, 3)), examples(500, seed=6)
    fitted = fit_network(few, quick_config(), start=learned)
    assert torch.equal(fitted.network.read.weight, learned.read.weight)
    assert torch.equal(fitted.network.calibration, learned.calibration)
    assert not fitted.network.member_code.any()
    assert fitted.out_of_fold.probabilities.shape == (count, len(HEADS))
    assert fitted.out_of_fold.probabilities.isfinite().all()
    as_strangers = scored(learned, new, strangers=True)
    for said in (scored(fitted.network, new), as_strangers):
        assert auroc(said.probabilities[:, VOTE_FAILS], vote_fails(new)) > 0.75
    # More labels say more of who is good; a handful leaves it nearly open.
    most = torch.log(torch.tensor((count + 2) / 2)) - 1.0
    expected = most * count / (count + 20)
    assert torch.allclose(fitted.network.skills, expected.expand(3))


@pytest.mark.parametrize(
    "wrong", [{"network": NetworkConfig(**SHAPE | {"units": 5}, seeds=4)}, {"features": 4}]
)
def test_a_start_of_another_shape_is_one_error(learned, wrong):
    data = examples(40, features=wrong.pop("features", 3))
    with pytest.raises(
        CheckpointError, match=r"has another shape.*use the same feature groups"
    ) as e:
        fit_network(data, quick_config(**wrong), start=learned)
    assert "\n" not in str(e.value)


def test_scores_of_a_query_without_an_answer():
    fitted = fit_network(examples(40), quick_config())
    scores = fitted.out_of_fold.scores([None, *["5"] * 39])
    assert (scores[0].p_ensemble_fails, scores[0].p_vote_fails, scores[0].choice) == (1, 1, None)
    assert scores[1].choice == int(fitted.out_of_fold.choice[1])
    row = fitted.out_of_fold.probabilities[1].tolist()
    assert [scores[1].p_ensemble_fails, scores[1].p_vote_fails, scores[1].p_oracle_right] == row


def test_platt_mends_logits_that_are_too_sure():
    generator = torch.Generator().manual_seed(0)
    true = torch.randn(4000, generator=generator)
    labels = (torch.rand(4000, generator=generator) < torch.sigmoid(true - 0.5)).float()
    slope, offset = fit_platt(3 * true + 1, labels)
    assert slope == pytest.approx(1 / 3, abs=0.04)
    assert offset == pytest.approx(-0.5 - 1 / 3, abs=0.12)


def test_platt_leaves_what_is_believed_as_labels_come_in():
    generator = torch.Generator().manual_seed(2)
    true = torch.randn(4000, generator=generator) * 2 - 1
    labels = (torch.rand(4000, generator=generator) < torch.sigmoid(true)).float()
    believed = Prior(slope=2.0, offset=1.5, questions=100.0)
    nothing, some, all_of_them = (
        fit_platt(true[:count], labels[:count], believed) for count in (0, 50, 4000)
    )
    assert nothing == pytest.approx((2.0, 1.5))
    assert 1.5 > some[1] > all_of_them[1] > -0.1
    assert all_of_them == pytest.approx((1.0, 0.0), abs=0.35)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_platt_does_not_run_away_on_one_class(label):
    slope, offset = fit_platt(torch.linspace(-1, 1, 30), torch.full((30,), label))
    assert 0 < slope < 20
    assert abs(offset) < 20


LOSSES = ("train_loss", "val_loss", "best_val_loss")


def followed(folder, processes):
    """The network, and the curves that it left."""
    config = quick_config()
    config = replace(
        config,
        # Each process draws its own dropout.
        network=replace(config.network, dropout=0.0),
        optimiser=replace(config.optimiser, processes=processes, max_epochs=4),
    )
    network = fit_network(examples(), config, loggers=[CSVLogger(folder)]).network
    (path,) = folder.rglob("metrics.csv")
    with path.open() as file:
        rows = list(csv.DictReader(file))
    return network, {name: [float(row[name]) for row in rows if row.get(name)] for name in LOSSES}


@pytest.mark.timeout(300)
def test_two_processes_give_the_curves_of_one(tmp_path):
    alone, curves = followed(tmp_path / "one", 1)
    together, shared = followed(tmp_path / "two", 2)
    assert len(curves["train_loss"]) == len(curves["val_loss"]) == 4
    for name in LOSSES:
        assert shared[name] == pytest.approx(curves[name], abs=1e-4)
    for name, value in alone.state_dict().items():
        assert torch.allclose(value, together.state_dict()[name], atol=1e-3), name
