"""Every rule on every pyramid of the suite, cross-validated: what `pyramid-moa benchmark` does.

    python benchmarks/router.py --data ../shared/data --out build/router

Imports the pyramids of recorded_suite.yaml where they are not imported yet, and goes on with what
an interrupted call has left. Tables and plots are those of the command; figures are pooled over all
pyramids and over those of each data set. The folder of recorded answers is not part of this
repository.
"""

import argparse
import sys
from pathlib import Path

from pools import POOLS, import_pool
from suite import import_pyramid, read_suite

from pyramid_moa.config_file import load_config
from pyramid_moa.training.benchmark import benchmark
from pyramid_moa.training.config import TrainConfig


def main() -> None:
    """Import the pyramids and run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("build/router"))
    parser.add_argument("--config", type=Path, default=None, help="YAML of the training")
    parser.add_argument("--pyramids", nargs="+", default=None, help="only these")
    parser.add_argument("--rules", nargs="+", default=None, help="only these, and the vote")
    parser.add_argument(
        "--pools", action="store_true", help="also a router that starts from all recorded models"
    )
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    if not options.data.is_dir():
        sys.stdout.write(f"{options.data}: no recorded answers here; --data names their folder\n")
        return
    pyramids = [
        pyramid
        for pyramid in read_suite().pyramids
        if options.pyramids is None or pyramid.name in options.pyramids
    ]
    runs = options.out / "runs"
    for pyramid in pyramids:
        if not (runs / pyramid.name).exists():
            import_pyramid(pyramid, options.data, runs)
    datasets = {pyramid.dataset for pyramid in pyramids} if options.pools else set()
    benchmark(
        [runs / pyramid.name for pyramid in pyramids],
        options.out / "report",
        config=load_config(TrainConfig, options.config) if options.config else None,
        pools=[import_pool(name, options.data, runs) for name in POOLS if name in datasets],
        folds=options.folds,
        seeds=options.seeds,
        rules=options.rules,
        data_sets={pyramid.name: pyramid.dataset for pyramid in pyramids},
        say=lambda line: print(line, flush=True),
    )
    sys.stdout.write(f"tables: {options.out / 'report' / 'rules.csv'}\n")


if __name__ == "__main__":
    main()
