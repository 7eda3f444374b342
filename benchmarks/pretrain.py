"""Train the routers that come with the package on recorded answers of many models.

    python benchmarks/pretrain.py --data ../shared/data

Writes `pretrained:numeric`, from GSM8K, and `pretrained:general`, from level 5 of MATH and CRUXEval
output together, into src/pyramid_moa/router_model/pretrained. All recordings are of
WildEval/ZeroEval (Apache-2.0), see pools.py. Every question that has been seen is in the
checkpoint by its hash, so that figures on it can be told apart. The folder of recorded answers is
not part of this repository.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pools import import_pool

from pyramid_moa import __version__
from pyramid_moa.config_file import load_config
from pyramid_moa.data_prep.labelled_run import LabelledRun, read_labelled_run
from pyramid_moa.router_model import pretrained
from pyramid_moa.router_model.card import RouterCard, RouterMember
from pyramid_moa.router_model.features import FeatureSpec, groups_for
from pyramid_moa.router_model.network import HEADS, RouterNetwork
from pyramid_moa.router_model.policy import OperatingPoint
from pyramid_moa.router_model.router import Router
from pyramid_moa.training.config import TrainConfig
from pyramid_moa.training.examples import gather_examples, joined
from pyramid_moa.training.fit import fit_network

# By name of the router the pools it learns from: of graders with the same features.
_LEARNED_FROM = {"numeric": ("gsm8k",), "general": ("math-l5", "crux")}
_SOURCE = "recorded by WildEval/ZeroEval (https://github.com/WildEval/ZeroEval), Apache-2.0"
# Nobody knows the pyramid's oracle and prices: the dial says what risk is taken.
_RISKS = (0.1, 0.02, 0.05, 0.2, 0.5)
_HASH_DIGITS = 16


def main() -> None:
    """Train all of them, or some."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--runs", type=Path, default=Path("build/pools"), help="imported pools")
    parser.add_argument("--out", type=Path, default=Path(pretrained.__file__).parent)
    parser.add_argument("--config", type=Path, default=None, help="YAML of the training")
    parser.add_argument("--names", nargs="+", default=list(_LEARNED_FROM))
    options = parser.parse_args()
    if not options.data.is_dir():
        sys.stdout.write(f"{options.data}: no recorded answers here; --data names their folder\n")
        return
    config = load_config(TrainConfig, options.config) if options.config else TrainConfig()
    for name in options.names:
        pools = [import_pool(pool, options.data, options.runs) for pool in _LEARNED_FROM[name]]
        router = pretrain([read_labelled_run(pool) for pool in pools], options.out / name, config)
        queries = router.card.trained_on["queries"]["fitted"]
        sys.stdout.write(f"{options.out / name}: {queries} questions\n")


def pretrain(runs: Sequence[LabelledRun], out: Path, config: TrainConfig) -> Router:
    """Train a router on runs of many models and write its checkpoint.

    Args:
        runs: whose graders have the same features; the models that all of them have are read.
        out: the checkpoint folder.
        config: how.
    """
    spec = FeatureSpec(groups=groups_for(config.groups, runs[0].grader))
    shared = [
        name
        for name in runs[0].manifest.members
        if all(name in run.manifest.members for run in runs)
    ]
    parts = [
        gather_examples(run, spec, hidden_key=None).of_members(
            [run.manifest.members.index(name) for name in shared]
        )
        for run in runs
    ]
    examples = joined(parts)
    network = fit_network(examples, config, show_progress=sys.stderr.isatty()).network
    questions = sorted({text[:_HASH_DIGITS] for text in examples.questions})
    router = Router(_card(runs, shared, spec, network, questions, config), network)
    router.save(out)
    return router


def _card(
    runs: Sequence[LabelledRun],
    models: Sequence[str],
    spec: FeatureSpec,
    network: RouterNetwork,
    questions: list[str],
    config: TrainConfig,
) -> RouterCard:
    calibration = {
        head: {"slope": slope, "offset": offset}
        for head, (slope, offset) in zip(HEADS, network.calibration.tolist(), strict=True)
    }
    split = "out of fold, two to six models at a time"
    return RouterCard(
        # Under these names nobody meets them: a model of the same name elsewhere has another
        # prompt and other habits.
        members=[RouterMember(name=f"{name} (recorded)", hidden_size=None) for name in models],
        oracle=f"{runs[0].manifest.oracle} (recorded)",
        grader=runs[0].manifest.grader,
        feature_groups=list(spec.groups),
        feature_names=list(spec.names),
        hidden_key=None,
        network=network.shape,
        calibration={"method": "platt", "split": split, **calibration},
        reference=runs[0].manifest.reference,
        price_note="",
        trained_on={
            "dataset": f"{', '.join(run.manifest.dataset for run in runs)}; {_SOURCE}",
            "dataset_hash": ", ".join(run.manifest.dataset_hash for run in runs),
            "queries": {"fitted": sum(len(run.queries) for run in runs), "calibration": 0},
            "config": {k: v for k, v in asdict(config).items() if v is not None},
            "package_version": __version__,
        },
        validation={},
        validation_curve=[],
        operating_points=[
            OperatingPoint(
                name=f"risk-{100 * risk:.0f}",
                threshold=risk,
                target=f"asks the oracle where failure is likelier than {100 * risk:.0f} %",
            )
            for risk in _RISKS
        ],
        seen_questions=questions,
    )


if __name__ == "__main__":
    main()
