"""Whether a verifier earns its time: the router with and without it, on the same folds.

    python benchmarks/verifier.py --data ../shared/data --encoder FOLDER_OR_ID --out build/verifier

Of each data set a verifier is trained on the answers of all recorded models but those of the
pyramids that it is measured on; every question is scored by an encoder that has not seen it. The
router is then cross-validated by question, with the feature group `verifier` and without it. Leaves
verifier.csv, with paired bootstrap intervals of the difference, and goes on with the verifiers that
an interrupted call has left. The folder of recorded answers is not part of this repository.
"""

import argparse
import csv
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from pools import import_pool
from sklearn.metrics import roc_auc_score
from suite import SuitePyramid, import_pyramid, read_suite

from pyramid_moa.config_file import load_config
from pyramid_moa.data_prep.labelled_run import read_labelled_run
from pyramid_moa.data_prep.manifest import read_manifest
from pyramid_moa.router_model.features import DEFAULT_GROUPS, FeatureSpec, groups_for
from pyramid_moa.training.baselines.ours import OurRule
from pyramid_moa.training.baselines.ours_trained import examples_of
from pyramid_moa.training.baselines.rule_run import RuleRun, rule_run
from pyramid_moa.training.config import TrainConfig
from pyramid_moa.training.head_to_head_cells import compute_cell
from pyramid_moa.training.head_to_head_figures import within_folds
from pyramid_moa.training.head_to_head_folds import folds_of
from pyramid_moa.training.head_to_head_pooling import question_weights
from pyramid_moa.training.head_to_head_results import SeedScores
from pyramid_moa.training.outcomes import FloatArray
from pyramid_moa.training.train_verifier import train_verifier
from pyramid_moa.training.verifier_config import VerifierConfig

_PYRAMIDS = ("gsm8k-easy-70b", "crux-hard-100b", "math-l5-hard-100b")
_ALL_SPLITS = ["train", "validation", "calibration", "test"]
_RESAMPLES = 1000
_FOLDS = 5


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One pyramid.

    Attributes:
        pyramid: its name.
        questions: how many.
        answer_auroc: how well the verifier's logit alone ranks the members' answers.
        without: failure AUROC of the vote, by the router without the verifier, within folds.
        with_verifier: the same with it.
        difference: of the two.
        lower: end of its paired 95 % interval, by resampling questions.
        upper: likewise.
        train_s: seconds that both encoders of the data set's verifier took; 0 where it was there.
        features_s: seconds that reading all answers took, beyond those of the other features.
        router_s: seconds of fitting and deciding, all folds of a seed, with the verifier.
    """

    pyramid: str
    questions: int
    answer_auroc: float
    without: float
    with_verifier: float
    difference: float
    lower: float
    upper: float
    train_s: float
    features_s: float
    router_s: float


def main() -> None:
    """Train the verifiers, cross-validate the routers and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--encoder", required=True, help="folder or Hugging Face id")
    parser.add_argument("--out", type=Path, default=Path("build/verifier"))
    parser.add_argument("--runs", type=Path, default=None, help="imported runs; else <out>/runs")
    parser.add_argument("--pyramids", nargs="+", default=list(_PYRAMIDS))
    parser.add_argument("--config", type=Path, default=None, help="YAML of train-verifier")
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    if not options.data.is_dir():
        sys.stdout.write(f"{options.data}: no recorded answers here; --data names their folder\n")
        return
    runs = options.runs or options.out / "runs"
    config = load_config(VerifierConfig, options.config) if options.config else VerifierConfig()
    pyramids = [one for one in read_suite().pyramids if one.name in options.pyramids]
    for pyramid in pyramids:
        if not (runs / pyramid.name).exists():
            import_pyramid(pyramid, options.data, runs)
    seconds = {
        dataset: _trained(dataset, pyramids, runs, options, config)
        for dataset in dict.fromkeys(pyramid.dataset for pyramid in pyramids)
    }
    rows = []
    for pyramid in pyramids:
        verifier = options.out / "verifiers" / pyramid.dataset
        row = _compared(runs / pyramid.name, verifier, options.seeds, seconds[pyramid.dataset])
        rows.append(row)
        print(
            f"{row.pyramid}: failure AUROC {row.without:.3f} -> {row.with_verifier:.3f} "
            f"({row.difference:+.3f}, {row.lower:+.3f} to {row.upper:+.3f}); the verifier alone on "
            f"answers {row.answer_auroc:.3f}",
            flush=True,
        )
    with (options.out / "verifier.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(asdict(rows[0])), lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def _trained(
    dataset: str,
    pyramids: list[SuitePyramid],
    runs: Path,
    options: argparse.Namespace,
    config: VerifierConfig,
) -> float:
    """Train the verifier of a data set where it is not there yet; the seconds it took."""
    folder = options.out / "verifiers" / dataset
    if folder.exists():
        return 0.0
    pool = import_pool(dataset, options.data, runs)
    measured = {
        name
        for pyramid in pyramids
        if pyramid.dataset == dataset
        for name in read_manifest(runs / pyramid.name).models
    }
    without = [name for name in read_manifest(pool).models if name in measured]
    started = time.perf_counter()
    train_verifier(
        pool,
        options.encoder,
        folder,
        replace(config, without=without, splits=_ALL_SPLITS),
        say=lambda line: print(f"{dataset}: {line}", flush=True),
    )
    return time.perf_counter() - started


def _compared(run: Path, verifier: Path, seeds: int, train_s: float) -> Compared:
    """Cross-validate both routers on a run."""
    data = rule_run(read_labelled_run(run))
    plain = TrainConfig(hidden_states="none")
    reading = replace(plain, groups=[*DEFAULT_GROUPS, "verifier"], verifier=str(verifier))
    started = time.perf_counter()
    examples_of(data, plain)
    without_s = time.perf_counter() - started
    examples = examples_of(data, reading)
    features_s = time.perf_counter() - started - 2 * without_s
    spec = FeatureSpec(groups=groups_for(reading.groups, data.run.grader))
    logits = examples.answers[..., spec.answer_names.index("verifier/logit")]
    known = ~logits.isnan()
    weights = question_weights({run.name: data.hashes}, seed=0, resamples=_RESAMPLES)[run.name]
    without, _ = _failure_auroc(OurRule(config=plain), data, seeds, weights)
    with_verifier, router_s = _failure_auroc(OurRule(config=reading), data, seeds, weights)
    difference = with_verifier - without
    lower, upper = np.quantile(difference[1:], [0.025, 0.975])
    return Compared(
        pyramid=run.name,
        questions=data.n,
        answer_auroc=float(roc_auc_score(examples.right[known], logits[known])),
        without=float(without[0]),
        with_verifier=float(with_verifier[0]),
        difference=float(difference[0]),
        lower=float(lower),
        upper=float(upper),
        train_s=train_s,
        features_s=features_s,
        router_s=router_s,
    )


def _failure_auroc(
    rule: OurRule, data: RuleRun, seeds: int, weights: FloatArray
) -> tuple[FloatArray, float]:
    """Within folds, mean of the seeds, under every weighting; and the seconds of a seed."""
    found, seconds = [], 0.0
    for seed in range(seeds):
        folds = folds_of(data.hashes, folds=_FOLDS, seed=seed, name="benchmark")
        p_fail, fails = np.empty(data.n), np.empty(data.n, dtype=bool)
        for fold in range(_FOLDS):
            train, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
            cell = compute_cell(rule, data, train, test, seed)
            p_fail[test], fails[test] = cell.p_fail, cell.own_fails
            seconds += float(cell.seconds)
        nobody = np.zeros(data.n, dtype=np.int64)
        scores = SeedScores(
            p_fail=p_fail, own_fails=fails, own=nobody, p_own_fails=p_fail, fold=folds
        )
        found.append(within_folds(scores, weights)["auroc"])
    return np.mean(found, axis=0), seconds / seeds


if __name__ == "__main__":
    main()
