"""What scoring and decision take by themselves, through the very object that the gate drives."""

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import quantiles

__all__ = ["CASES", "Timing", "time_router"]

CASES = ("agreement and confidence", "with hidden states")
_TOKENS = 100
_WARM_UP = 20


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Milliseconds from the members' answers to the decision.

    Attributes:
        p50: the median.
        p99: the 99th percentile.
    """

    p50: float
    p99: float


def time_router(case: str, *, questions: int, repeats: int, epochs: int) -> Timing:
    """Train a router on a run that is made up, and time its decisions.

    The router's shape is the one that ``train`` gives by default; how well it knows its members
    makes no difference to the time. Three members' answers of a hundred tokens each are graded,
    compared, scored and decided on.

    Args:
        case: one of ``CASES``; the hidden states are three members' of 4,096 numbers.
        questions: of the run.
        repeats: decisions that are timed.
        epochs: of the training.
    """
    # One thread, as a server of one core has; before torch is there.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from pyramid_moa.training.config import OptimiserConfig, TrainConfig
    from pyramid_moa.training.train import train
    from training import write_run

    config = TrainConfig(
        groups=["agreement", "confidence"],
        hidden_states="none" if case == CASES[0] else "auto",
        optimiser=OptimiserConfig(max_epochs=epochs, epoch_batches=2),
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_run(folder / "run", questions)
        train(folder / "run", folder / "checkpoint", config)
        seconds = _decisions(folder / "checkpoint", repeats=repeats)
    return Timing(p50=1000 * _percentile(seconds, 50), p99=1000 * _percentile(seconds, 99))


def _decisions(checkpoint: Path, *, repeats: int) -> list[float]:
    import numpy as np

    from pyramid_moa.backends import Completion, ModelSpec, Token
    from pyramid_moa.data_prep.pyramid import Pyramid
    from pyramid_moa.grading import load_grader
    from pyramid_moa.inference.course import Course, Rules
    from pyramid_moa.records import Query
    from pyramid_moa.router_model.router import Router

    router = Router.load(checkpoint)
    members = router.card.members
    specs = [ModelSpec(name=name, model="m") for name in (*router.card.member_names, "oracle")]
    pyramid = Pyramid(members=specs[:-1], oracles=specs[-1:])
    # Always accepted: what is timed is one decision, not the oracle's answer after it.
    point = replace(router.card.operating_point(), threshold=1.0)
    rules = Rules(
        pyramid=pyramid, router=router, point=point, grader=load_grader(router.card.grader)
    )
    text = " ".join(["so"] * (_TOKENS - 1)) + " #### 16"
    tokens = tuple(
        Token(3 * place, 3 * place + 2, -0.01 * (place % 30)) for place in range(_TOKENS)
    )
    rng = np.random.default_rng(0)
    seconds = []
    for number in range(_WARM_UP + repeats):
        answers = {
            member.name: Completion(
                text=text,
                finish_reason="stop",
                prompt_tokens=20,
                completion_tokens=_TOKENS,
                latency_s=0.1,
                tokens=tokens,
                hidden_states=(
                    {router.card.hidden_key: rng.normal(size=member.hidden_size).astype(np.float16)}
                    if router.card.hidden_key is not None
                    else {}
                ),
            )
            for member in members
        }
        course = Course(rules, Query(query_id="live", question=f"What is {number} plus 7?"))
        begun = time.perf_counter()
        course.receive(answers, seconds=0.1)
        decision = course.decision
        seconds.append(time.perf_counter() - begun)
        assert not decision.escalated
        assert decision.rule == "router"
    return seconds[_WARM_UP:]


def _percentile(seconds: Sequence[float], percent: int) -> float:
    return quantiles(seconds, n=100)[percent - 1]
