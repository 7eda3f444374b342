"""How well a router serves pyramids it was not trained on, and how many labels make up for it.

    python benchmarks/transfer.py --data ../shared/data --out build/transfer --seeds 1

For every pyramid of recorded_suite.yaml and every fold a router is fitted on the pool of its data
set (pools.py), without the questions of the fold and without the pyramid's models: its members, its
oracle, and whatever the pool has of the same model under another name, date or host (`base_name`).
It scores the fold as it is, and after going on with 50, 100, 200, 500 and all labelled questions of
the pyramid from the other folds; beside it stands the pyramid's own training on as many labels.

Leaves label_curves.csv (all pyramids, each data set, each pyramid; failure AUROC of the vote's
answer within folds, its difference to own training on all labels, both with paired 95 % intervals
over questions, calibration error, log-loss) and label_curves.svg. Goes on where it was interrupted.

Pyramids share a router where their models together are no more than `_MOST_LEFT_OUT`: each then
does without a few models more than its own. The folder of recorded answers is not part of this
repository.
"""

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

from pools import POOLS, import_pool
from suite import SuitePyramid, import_pyramid, read_suite

from pyramid_moa.config_file import load_config
from pyramid_moa.data_prep.labelled_run import read_labelled_run
from pyramid_moa.training.baselines.rule_run import content_hash, rule_run
from pyramid_moa.training.baselines.starts import Pool
from pyramid_moa.training.config import TrainConfig
from pyramid_moa.training.head_to_head_cells import CellCache
from pyramid_moa.training.label_curves import Protocol, label_points, write_label_curves

# Of 35 to 44 models of a pool.
_MOST_LEFT_OUT = 8
# What tells releases and tunings of one model apart: a date, or the kind of tuning.
_RELEASE = re.compile(
    r"-(?:\d{4}-\d\d-\d\d|\d\d-\d\d-\d\d|\d{8}|\d{4}|instruct|it|chat|latest|preview|exp)$"
)


def main() -> None:
    """Import what is missing, measure, and write the table and the plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("build/transfer"))
    parser.add_argument("--config", type=Path, default=None, help="YAML of the training")
    parser.add_argument("--pyramids", nargs="+", default=None, help="only these")
    parser.add_argument("--labels", type=int, nargs="+", default=[0, 50, 100, 200, 500])
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    if not options.data.is_dir():
        sys.stdout.write(f"{options.data}: no recorded answers here; --data names their folder\n")
        return
    wanted = options.pyramids
    pyramids = [one for one in read_suite().pyramids if wanted is None or one.name in wanted]
    runs = options.out / "runs"
    for pyramid in pyramids:
        if not (runs / pyramid.name).exists():
            import_pyramid(pyramid, options.data, runs)
    config = load_config(TrainConfig, options.config) if options.config else TrainConfig()
    points = {}
    for name in POOLS:
        own = [pyramid for pyramid in pyramids if pyramid.dataset == name]
        if own:
            run = read_labelled_run(import_pool(name, options.data, runs))
            pool = Pool(run, content_hash=content_hash(run))
            starts = _starts(pool, own)
            points |= {one: label_points(config, [starts[one]], options.labels) for one in starts}
    # Pyramids that share a router come one after the other.
    loaded = {name: rule_run(read_labelled_run(runs / name)) for name in points}
    rows = write_label_curves(
        loaded,
        points,
        options.out,
        cache=CellCache(options.out / "cache"),
        protocol=Protocol(folds=options.folds, seeds=range(options.seeds)),
        data_sets={pyramid.name: pyramid.dataset for pyramid in pyramids},
    )
    for row in rows:
        if row["scope"] != "run":
            less = row["auroc_less_own_training"]
            sys.stdout.write(
                f"{row['of']}: {row['curve']}, {row['labels']} labels: failure AUROC "
                f"{row['failure_auroc']:.4f}, less own training on all {less:+.4f}\n"
            )
    sys.stdout.write(f"table: {options.out / 'label_curves.csv'}\n")


def base_name(model: str) -> str:
    """The model behind a recording's name: no variant, host, adapter, date or kind of tuning."""
    name = re.split("::|@| ", model)[0].lower().removeprefix("meta-").replace("chatgpt-", "gpt-")
    while (shorter := _RELEASE.sub("", name)) != name:
        name = shorter
    return name


def same_models(pyramid: SuitePyramid, models: Sequence[str]) -> frozenset[str]:
    """The pool's models that the pyramid has, whatever they are called."""
    own = {base_name(name) for name in (*pyramid.members, pyramid.oracle)}
    return frozenset(name for name in models if base_name(name) in own)


def shared_sets(own: Mapping[str, frozenset[str]], most: int) -> dict[str, frozenset[str]]:
    """Join the sets that have the smallest union, again and again, while that is small enough.

    Args:
        own: by name what has to be left out.
        most: the largest union.

    Returns:
        By name what is left out, its own set among it; joined ones follow each other.
    """
    groups = [([name], models) for name, models in own.items()]
    while len(groups) > 1:
        one, other = min(combinations(groups, 2), key=lambda pair: len(pair[0][1] | pair[1][1]))
        if len(one[1] | other[1]) > most:
            break
        groups = [group for group in groups if group is not one and group is not other]
        groups.append(([*one[0], *other[0]], one[1] | other[1]))
    return {name: models for names, models in groups for name in names}


def _starts(pool: Pool, pyramids: Sequence[SuitePyramid]) -> dict[str, Pool]:
    models = pool.run.manifest.models
    sets = shared_sets({one.name: same_models(one, models) for one in pyramids}, _MOST_LEFT_OUT)
    pools = {left_out: pool.without(left_out) for left_out in sets.values()}
    return {name: pools[left_out] for name, left_out in sets.items()}


if __name__ == "__main__":
    main()
