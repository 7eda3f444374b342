"""Routers with random weights: nothing is trained here."""

import pytest
import torch

from pyramid_moa.router_model.card import RouterCard, RouterMember
from pyramid_moa.router_model.features import FeatureSpec
from pyramid_moa.router_model.network import NetworkShape, RouterNetwork
from pyramid_moa.router_model.policy import OperatingPoint
from pyramid_moa.router_model.router import Router


def _router(
    *,
    hidden_key=None,
    groups=("agreement", "confidence", "semantics", "question"),
    verifier=None,
    **changes,
):
    """An untrained router of the members a, b and c."""
    spec = FeatureSpec(groups=groups)
    size = 6 if hidden_key else None
    shape = NetworkShape(
        answer_features=len(spec.answer_names),
        relation_features=len(spec.relation_names),
        question_features=len(spec.question_names),
        members=3,
        hidden_sizes=(6, 6, 6) if hidden_key else (),
        components=3,
        code=4,
        units=5,
        seeds=2,
    )
    network = RouterNetwork(shape)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0.0, 0.3, generator=generator)
    answers = torch.randn(40, 3, shape.answer_features, generator=generator)
    answers[::5, 1] = torch.nan
    relations = torch.randn(40, 3, 3, shape.relation_features, generator=generator)
    question = torch.randn(40, shape.question_features, generator=generator)
    network.fit_inputs(answers, relations, question)
    right = (torch.rand(40, 3, generator=generator) < torch.tensor([0.9, 0.6, 0.3])).float()
    network.fit_members(answers, torch.arange(3).expand(40, -1), right)
    hidden = [torch.randn(40, 6, generator=generator) for _ in shape.hidden_sizes]
    network.fit_hidden(hidden, generator)
    card = RouterCard(
        **{
            "members": [RouterMember(name=n, hidden_size=size) for n in "abc"],
            "oracle": "oracle",
            "grader": "gsm8k",
            "feature_groups": list(groups),
            "feature_names": list(spec.names),
            "hidden_key": hidden_key,
            "network": shape,
            "calibration": {"method": "none"},
            "reference": "gold",
            "price_note": "",
            "trained_on": {"dataset": "made up"},
            "validation": {},
            "validation_curve": [],
            "operating_points": [
                OperatingPoint(name="first", threshold=0.5, target="half"),
                OperatingPoint(name="second", threshold=0.25, target="quarter"),
            ],
            "seen_questions": ["00ff"],
        }
        | changes
    )
    return Router(card, network, verifier=verifier)


@pytest.fixture(scope="session")
def make_router():
    """``make_router(hidden_key=None, groups=..., **fields of the card)``."""
    return _router


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint folder that reads hidden states."""
    folder = tmp_path / "checkpoint"
    _router(hidden_key="layer-1/answer_mean").save(folder)
    return folder
