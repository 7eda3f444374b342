"""The demo for several seeds: does the router beat the vote rule on new questions each time?

    python benchmarks/demo_seeds.py --seeds 5 --out build/demo-seeds

Leaves demo_seeds.csv with one row a seed. A seed counts as won where the router, asking the oracle
as often as the vote rule does, is more accurate; or where its default operating point, fixed before
on calibration questions, is at least as accurate as the vote rule and costs less.
"""

import argparse
import csv
import sys
from pathlib import Path
from typing import Any

from pyramid_moa.demo import demo


def main() -> None:
    """Run the demo once a seed and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("build/demo-seeds"))
    options = parser.parse_args()
    rows = []
    for seed in range(options.seeds):
        metrics = demo(options.out / f"seed-{seed}", seed=seed, show=_quiet)
        rows.append(_row(seed, metrics))
        sys.stdout.write(f"{rows[-1]}\n")
        sys.stdout.flush()
    with (options.out / "demo_seeds.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    won = sum(row["won"] for row in rows)
    sys.stdout.write(f"won {won} of {len(rows)} seeds: {options.out / 'demo_seeds.csv'}\n")


def _row(seed: int, metrics: dict[str, Any]) -> dict[str, Any]:
    vote, equal = metrics["vote_rule"], metrics["router_at_vote_cost"]
    point = metrics["operating_point"]
    cheaper = metrics["router_at_vote_accuracy"]["cost_ratio"]
    return {
        "seed": seed,
        "oracle": metrics["oracle"]["accuracy"],
        "ensemble": metrics["ensemble"]["accuracy"],
        "vote_rule": vote["accuracy"],
        "vote_cost": round(vote["cost_ratio"], 4),
        "router_at_vote_cost": equal["accuracy"],
        "router_cost_at_vote_accuracy_in_hindsight": None if cheaper is None else round(cheaper, 4),
        "operating_point": point["accuracy"],
        "operating_point_cost": round(point["cost_ratio"], 4),
        "failure_auroc": round(metrics["failure_auroc"], 4),
        "agreement_auroc": round(metrics["agreement_auroc"], 4),
        "ece": round(metrics["ece"], 4),
        "won": equal["accuracy"] > vote["accuracy"]
        or (
            point["accuracy"] >= vote["accuracy"]
            and point["cost_ratio"] < vote["cost_ratio"] - 1e-9
        ),
    }


def _quiet(text: str) -> None:
    """Show nothing: the table has what counts."""


if __name__ == "__main__":
    main()
