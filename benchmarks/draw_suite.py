"""Draw the pyramids that the router is measured on, before any router is fitted.

    python benchmarks/draw_suite.py [--seed 0] [--data ../shared/data]

One pyramid a stratum (data set, difficulty, class of oracle, kind of members). Members and oracle
are drawn by chance, first how many members, and drawn again until they are admissible (another
number, where 50,000 draws of that many are not); what is admissible depends on prices
and on the accuracies of single models alone, never on votes, agreement or a router:

- three to five members of 1B to 34B parameters, on at least 250 questions that all have answered;
- `easy`: the members' mean accuracy is at least 75 %; `hard`: at most 65 %;
- the least accurate member has at least a fifth of the oracle's accuracy and two fifths of the best
  member's;
- the oracle is at least 4 points more accurate than the best member;
- the oracle costs at least 4 times as much a token as the dearest member, and more than all members
  together;
- no two pyramids have the same members.

`mixed` and `tables` pyramids have members of different weights, those of `tables` each from a
table of its own; they list their members by accuracy. `samples` pyramids have several samples of
one model with one prompt. Writes recorded_suite.yaml beside this file, or --out. The folder of
recorded answers is not part of this repository.
"""

import argparse
import hashlib
import sys
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import TypeVar

import yaml
from suite import PRICES, SUITE, Suite, SuitePyramid
from suite_candidates import (
    Candidate,
    accuracy,
    name_within,
    read_candidates,
    shared_questions,
)

from pyramid_moa.atomic_files import write_text_atomically
from pyramid_moa.data_prep.prices import read_prices

__all__ = ["draw_suite", "suite_text"]

T = TypeVar("T")

_TRIES = 50_000
_MEMBERS = [3, 4, 5]
_LEAST_QUESTIONS = 250
_EASY, _HARD = 0.75, 0.65
_LEAST_SHARE_OF_ORACLE = 0.2
_LEAST_SHARE_OF_BEST = 0.4
_LEAST_GAIN = 0.04
_LEAST_PRICE_RATIO = 4.0
_HEADER = """\
# Drawn by benchmarks/draw_suite.py, which says how; not to be edited. Models are priced in
# model_prices.yaml. Accuracies are of single models, as the tables mark answers.
"""
# Of each group of tables: data set, grader, files. The last of GSM8K has questions of its own.
_GROUPS = {
    "gsm8k": (
        "gsm8k",
        "gsm8k",
        tuple(
            f"recorded/{name}.parquet"
            for name in (
                "abel",
                "anytime",
                "cot_uq",
                "modelswitch",
                "mot_cascade",
                "token_entropy",
                "tora",
                "zeroeval",
            )
        ),
    ),
    "gsm8k-train": ("gsm8k", "gsm8k", ("recorded/chain_selfcheck.parquet",)),
    "math-l5": ("math-l5", "math-verify", ("recorded_other/math-l5.parquet",)),
    "crux": ("crux", "python-literal", ("recorded_other/crux.parquet",)),
}
_CLASSES = ("70b", "100b", "gpt-4o", "claude-3.5")


@dataclass(frozen=True, kw_only=True)
class _Stratum:
    """What one pyramid has to be.

    Attributes:
        group: of tables.
        difficulty: ``easy`` or ``hard``.
        oracles: the classes its oracle may be of.
        kind: of members.
        weights: whose samples they are, for the kind ``samples``.
    """

    group: str
    difficulty: str
    oracles: tuple[str, ...] = _CLASSES
    kind: str = "mixed"
    weights: str | None = None

    @property
    def name(self) -> str:
        """Of the pyramid."""
        oracle = self.oracles[0] if len(self.oracles) == 1 else None
        kind = None if self.kind == "mixed" else self.kind
        parts = (self.group, self.difficulty, kind, self.weights, oracle)
        return "-".join(part.lower().partition(" ")[0] for part in parts if part)


_STRATA = (
    *(
        _Stratum(group="gsm8k", difficulty=difficulty, oracles=(oracle,))
        for difficulty in ("easy", "hard")
        for oracle in _CLASSES
    ),
    _Stratum(group="gsm8k", difficulty="easy", kind="tables"),
    _Stratum(group="gsm8k", difficulty="hard", kind="samples", weights="Llama-2-13B"),
    _Stratum(group="gsm8k", difficulty="hard", kind="samples", weights="Llama-3.1-8B (base)"),
    _Stratum(group="gsm8k-train", difficulty="easy"),
    *(
        _Stratum(group=group, difficulty="hard", oracles=(oracle,))
        for group in ("math-l5", "crux")
        for oracle in _CLASSES
    ),
)


def main() -> None:
    """Draw the suite and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=SUITE)
    options = parser.parse_args()
    if not options.data.is_dir():
        sys.stdout.write(f"{options.data}: no recorded answers here; --data names their folder\n")
        return
    text = suite_text(draw_suite(options.data, seed=options.seed))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(options.out, text)
    sys.stdout.write(f"{options.out}: sha256 {hashlib.sha256(text.encode()).hexdigest()}\n")


def draw_suite(data: Path, *, seed: int) -> Suite:
    """Draw one pyramid a stratum.

    Args:
        data: the folder that ``recorded`` and ``recorded_other`` are in.
        seed: of the draw; each stratum has its own random numbers of it.

    Raises:
        RuntimeError: a stratum has no admissible pyramid that could be found.
    """
    costs = read_prices(PRICES)
    candidates = {
        group: read_candidates(data, tables, costs) for group, (_, _, tables) in _GROUPS.items()
    }
    taken: set[frozenset[tuple[str, str]]] = set()
    pyramids = []
    for stratum in _STRATA:
        members, oracle = _draw(stratum, candidates[stratum.group], taken, seed)
        taken.add(_identity(members))
        pyramids.append(_pyramid(stratum, members, oracle, candidates[stratum.group]))
    return Suite(
        seed=seed,
        tables={
            table: hashlib.sha256((data / table).read_bytes()).hexdigest()
            for _, _, tables in _GROUPS.values()
            for table in tables
        },
        pyramids=pyramids,
    )


def suite_text(suite: Suite) -> str:
    """The suite as its file has it."""
    return _HEADER + yaml.safe_dump(asdict(suite), sort_keys=False, width=100)


def _draw(
    stratum: _Stratum,
    candidates: list[Candidate],
    taken: set[frozenset[tuple[str, str]]],
    seed: int,
) -> tuple[list[Candidate], Candidate]:
    """Draw members and an oracle until they are admissible; members in their order."""
    # Of Random only random() is promised to stay the same from one Python to the next.
    random = Random(f"{seed} {stratum.name}")
    pool = [candidate for candidate in candidates if candidate.role == "member"]
    oracles = [candidate for candidate in candidates if candidate.role in stratum.oracles]
    for count in _some(_MEMBERS, len(_MEMBERS), random):
        for _ in range(_TRIES):
            members = _propose(stratum, pool, count, random)
            oracle = _pick(oracles, random)
            if _identity(members) in taken or not _admissible(stratum, members, oracle):
                continue
            questions = shared_questions([*members, oracle])
            if stratum.kind == "samples":  # their accuracies differ by chance alone
                return sorted(members, key=lambda one: one.sample), oracle
            return sorted(members, key=lambda one: (-accuracy(one, questions), one.title)), oracle
    raise RuntimeError(
        f"{stratum.name}: expected an admissible pyramid, found none in {_TRIES} draws of each "
        "number of members: loosen the stratum or the rules"
    )


def _propose(
    stratum: _Stratum, pool: list[Candidate], count: int, random: Random
) -> list[Candidate]:
    """Members by chance, none if there are too few.

    First the weights and then one recording of each; or samples of one model.
    """
    by_weights: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in pool:
        by_weights[candidate.weights].append(candidate)
    if stratum.weights is not None:
        one = _pick(by_weights[stratum.weights], random)
        samples = [c for c in pool if (c.model, c.variant) == (one.model, one.variant)]
        return _some(samples, count, random) if len(samples) >= count else []
    if len(by_weights) < count:
        return []
    return [_pick(by_weights[name], random) for name in _some(sorted(by_weights), count, random)]


def _admissible(stratum: _Stratum, members: list[Candidate], oracle: Candidate) -> bool:
    """Whether prices, sizes and single accuracies are as the first lines of this file have it."""
    if not members:
        return False
    if stratum.kind == "tables" and len({member.table for member in members}) < len(members):
        return False
    prices = [member.price for member in members]
    if oracle.price < _LEAST_PRICE_RATIO * max(prices) or oracle.price <= sum(prices):
        return False
    questions = shared_questions([*members, oracle])
    if questions.bit_count() < _LEAST_QUESTIONS:
        return False
    accuracies = [accuracy(member, questions) for member in members]
    oracles = accuracy(oracle, questions)
    mean = sum(accuracies) / len(accuracies)
    return (
        (mean >= _EASY if stratum.difficulty == "easy" else mean <= _HARD)
        and min(accuracies) >= _LEAST_SHARE_OF_ORACLE * oracles
        and min(accuracies) >= _LEAST_SHARE_OF_BEST * max(accuracies)
        and oracles - max(accuracies) >= _LEAST_GAIN
    )


def _pyramid(
    stratum: _Stratum, members: list[Candidate], oracle: Candidate, candidates: list[Candidate]
) -> SuitePyramid:
    dataset, grader, _ = _GROUPS[stratum.group]
    models = [*members, oracle]
    tables = sorted({model.table for model in models})
    within = [candidate for candidate in candidates if candidate.table in tables]
    questions = shared_questions(models)
    return SuitePyramid(
        name=stratum.name,
        dataset=dataset,
        difficulty=stratum.difficulty,
        oracle_class=oracle.role,
        kind=stratum.kind,
        tables=tables,
        members=[name_within(member, within) for member in members],
        oracle=name_within(oracle, within),
        grader=grader,
        questions=questions.bit_count(),
        member_accuracies=[round(accuracy(member, questions), 4) for member in members],
        oracle_accuracy=round(accuracy(oracle, questions), 4),
    )


def _identity(members: list[Candidate]) -> frozenset[tuple[str, str]]:
    return frozenset((member.table, member.title) for member in members)


def _pick(items: list[T], random: Random) -> T:
    return items[int(random.random() * len(items))]


def _some(items: list[T], count: int, random: Random) -> list[T]:
    """So many of them without repetition."""
    left = list(items)
    return [left.pop(int(random.random() * len(left))) for _ in range(count)]


if __name__ == "__main__":
    main()
