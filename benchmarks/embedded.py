"""Every rule on the embedded pyramid, whose answers have log-probabilities and hidden states.

    python benchmarks/embedded.py --out build/embedded-benchmark

Labels generated word problems with the embedded models, runs `pyramid-moa benchmark` with all rules
(5 folds by question), and measures what log-probabilities and hidden states are worth: the router
without either and without both, on the same folds. Recorded tables have neither, so this is where
`self-check` and `hidden-probe` can stand beside the others. Leaves the benchmark's tables, plots
and page in `report`, and ablation.csv in `ablation`. Goes on where it was interrupted.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from ablation import WHOLE, ablate

from pyramid_moa.data_prep.datasets import load_queries
from pyramid_moa.data_prep.label import label
from pyramid_moa.data_prep.labelled_run import read_labelled_run
from pyramid_moa.data_prep.pyramid import load_pyramid
from pyramid_moa.errors import RunFolderError
from pyramid_moa.training.baselines.all_rules import chosen_rules
from pyramid_moa.training.baselines.ours import OurRule
from pyramid_moa.training.baselines.rule_run import rule_run
from pyramid_moa.training.benchmark import benchmark
from pyramid_moa.training.config import TrainConfig

NAME = "embedded"
# What recorded tables lack, so a benchmark on them is without.
NEEDED = ("self-check", "hidden-probe")


def main() -> None:
    """Label, run the benchmark, and leave signals out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/embedded-benchmark"))
    parser.add_argument("--questions", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0, help="of the questions")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3, help="divisions into folds")
    parser.add_argument(
        "--ablation-seeds", type=int, default=1, help="likewise, where signals are left out"
    )
    options = parser.parse_args()
    run = labelled(options.out / "runs" / NAME, questions=options.questions, seed=options.seed)
    report = options.out / "report"
    benchmark([run], report, folds=options.folds, seeds=options.seeds, say=_say)
    data = rule_run(read_labelled_run(run))
    data_sets = {NAME: data.run.manifest.dataset}
    rules = {NAME: without_signals(TrainConfig())}
    ablate({NAME: data}, rules, data_sets, options.out / "ablation", seeds=options.ablation_seeds)
    _say(f"tables: {report / 'rules.csv'}")


def labelled(run: Path, *, questions: int, seed: int) -> Path:
    """The run of so many questions that no embedded model has seen.

    Raises:
        RunFolderError: the folder holds another run, or answers lack what the rules need.
    """
    queries = load_queries(f"word-problems?train={questions}&test=0&seed={seed}")
    label(queries, load_pyramid("embedded"), run, resume=run.exists(), say=_say)
    data = rule_run(read_labelled_run(run))
    for rule in chosen_rules(TrainConfig(), NEEDED):
        if reason := rule.absent(data):
            raise RunFolderError(f"{run}: {rule.name} can't take part: {reason}")
    return run


def without_signals(config: TrainConfig) -> list[OurRule]:
    """The router with everything, and without what only models that are run can give."""
    others = [group for group in config.groups if group != "confidence"]
    return [
        OurRule(config=config, name=WHOLE),
        OurRule(config=replace(config, groups=others), name="confidence"),
        OurRule(config=replace(config, hidden_states="none"), name="hidden states"),
        OurRule(config=replace(config, groups=others, hidden_states="none"), name="both"),
    ]


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
