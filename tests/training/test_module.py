"""The Lightning module: each network is fitted and stopped by itself."""

import lightning.pytorch as pl
import pytest
import torch

from pyramid_moa.router_model.network import NetworkShape, RouterNetwork
from pyramid_moa.training.config import OptimiserConfig
from pyramid_moa.training.data_module import RouterBatch
from pyramid_moa.training.draws import all_members, draw
from pyramid_moa.training.examples import Examples
from pyramid_moa.training.module import RouterModule

SHAPE = NetworkShape(
    answer_features=3,
    relation_features=1,
    question_features=2,
    members=3,
    hidden_sizes=(),
    components=2,
    code=4,
    units=5,
    seeds=2,
)


def batch(held_out, *, seed=0):
    count, generator = len(held_out), torch.Generator().manual_seed(seed)
    right = (torch.rand(count, 3, generator=generator) < 0.6).float()
    said = 1 - right.long()
    examples = Examples(
        answers=torch.randn(count, 3, 3, generator=generator),
        relations=torch.randn(count, 3, 3, 1, generator=generator),
        clusters=(said[:, :, None] == said[:, None, :]).to(torch.uint8).argmax(2),
        question=torch.randn(count, 2, generator=generator),
        right=right,
        oracle_right=torch.ones(count),
        hidden=(),
        questions=tuple(str(number) for number in range(count)),
    )
    nobody = torch.zeros(count, dtype=torch.bool)
    index = torch.arange(count)
    drawn = draw(examples, torch.zeros(count, 0, 2), index, all_members(examples, count), nobody)
    return RouterBatch(drawn=drawn, held_out=torch.tensor(held_out))


def module(**changes):
    network = RouterNetwork(SHAPE)
    network.reset(torch.Generator().manual_seed(0))
    made = RouterModule(network, OptimiserConfig(**changes), learning_rate=1e-2, seed=3)
    made.log = lambda *args, **options: None
    made.trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    return made


def validate(made, given):
    made.validation_step(given, 0)
    made.on_validation_epoch_end()


def test_a_network_does_not_learn_from_what_it_leaves_out():
    made = module()
    made.training_step(batch([[True, False]] * 8), 0).backward()
    assert not made.network.read.weight.grad[0].any()
    assert made.network.read.weight.grad[1].any()


def test_the_best_weights_of_each_network_are_kept():
    """Validation is by the mean weights: one network's become worse, the other's better."""
    made, given = module(), batch([[True, True]] * 40)
    validate(made, given)
    first = made.best_loss.clone()
    assert torch.isfinite(first).all()
    kept = made.best_query_score_offset.clone()
    targets = given.drawn.target
    nobody = float((targets == 0).float().mean())
    assert 0 < nobody < 0.5
    # Network 0 is told that nobody is ever right; network 1 takes a small step downhill.
    losses = made._losses(made.network.logits(given.drawn.inputs), given).mean(1)
    losses[1].backward()
    with torch.no_grad():
        made.mean_query_score_offset[0, 0, 0] += 50.0
        for name, value in made.network.named_parameters():
            mean = getattr(made, f"mean_{name.replace('.', '_')}")
            if value.grad is not None:
                mean[1] -= 1e-3 * value.grad[1]
    validate(made, given)
    assert made.best_loss[0] == first[0]
    assert made.best_loss[1] < first[1]
    assert torch.equal(made.best_query_score_offset[0], kept[0])
    assert not torch.equal(made.best_query_score_offset[1], kept[1])
    made.restore_best()
    assert torch.equal(made.network.query_score.offset, made.best_query_score_offset)
    assert int(made.epochs) == 2


def test_a_loss_that_is_no_number_is_never_the_best():
    made, given = module(), batch([[True, True]] * 8)
    validate(made, given)
    before = made.best_loss.clone()
    made.mean_read_weight[0] = torch.nan
    validate(made, given)
    assert torch.equal(made.best_loss, before)
    made.restore_best()
    assert torch.isfinite(made.network.read.weight).all()


def test_what_is_started_from_is_a_candidate_and_no_epoch():
    made, given = module(), batch([[True, True]] * 8)
    made.trainer.sanity_checking = True
    validate(made, given)
    assert torch.isfinite(made.best_loss).all()
    assert int(made.epochs) == 0


def test_every_step_pulls_towards_where_the_weights_began():
    made = module(weight_decay=0.5, averaging=0.9)
    began = made.network.read.weight.detach().clone()
    with torch.no_grad():
        made.network.read.weight += 1.0
    made.on_train_batch_end(None, batch([[False, False]]), 0)
    pull = 1e-2 * 0.5
    assert torch.allclose(made.network.read.weight, began + 1.0 - pull, atol=1e-6)
    share = 1 / 1.1  # early on the mean follows closely
    assert torch.allclose(made.mean_read_weight, began + share * (1.0 - pull), atol=1e-6)
    made.steps += 10_000
    made.on_train_batch_end(None, batch([[False, False]]), 0)
    moved = began + (1.0 - pull) * (1.0 - pull)
    expected = (began + share * (1.0 - pull)).lerp(moved, 0.1)
    assert torch.allclose(made.mean_read_weight, expected, atol=1e-6)


def test_all_that_a_restart_needs_is_in_the_state():
    made, given = module(), batch([[True, True]] * 8)
    validate(made, given)
    made.on_train_batch_end(None, given, 0)
    again = module()
    again.load_state_dict(made.state_dict())
    assert torch.equal(again.best_loss, made.best_loss)
    assert (int(again.epochs), int(again.steps)) == (1, 1)
    assert again.epoch_seed() == made.epoch_seed() != module().epoch_seed()


@pytest.mark.parametrize("weight", [0.0, 2.0])
def test_the_oracles_weight(weight):
    given = batch([[False, False]] * 8)
    plain = module(oracle_weight=0.0).training_step(given, 0).detach()
    weighted = module(oracle_weight=weight).training_step(given, 0).detach()
    assert (float(weighted) > float(plain)) == (weight > 0)
