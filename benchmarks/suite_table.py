"""Import every pyramid of the suite and write down how members, vote and oracle do: suite.csv.

    python benchmarks/suite_table.py --data ../shared/data --out build/suite

`cost` is what all members cost together, relative to the oracle. No router is fitted. The folder of
recorded answers is not part of this repository.
"""

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from suite import SuitePyramid, import_pyramid, read_suite

from pyramid_moa.data_prep.labelled_run import read_labelled_run


def main() -> None:
    """Import all pyramids and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("build/suite"))
    options = parser.parse_args()
    if not options.data.is_dir():
        sys.stdout.write(f"{options.data}: no recorded answers here; --data names their folder\n")
        return
    rows = []
    for pyramid in read_suite().pyramids:
        run = import_pyramid(pyramid, options.data, options.out / "runs")
        rows.append(_row(pyramid, run))
        sys.stdout.write(f"{rows[-1]}\n")
    with (options.out / "suite.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    sys.stdout.write(f"table: {options.out / 'suite.csv'}\n")


def _row(pyramid: SuitePyramid, folder: Path) -> dict[str, Any]:
    run = read_labelled_run(folder)
    correct = {
        name: _mean([bool(row.correct) for row in rows]) for name, rows in run.generations.items()
    }
    usd = {name: sum(row.cost_usd or 0.0 for row in rows) for name, rows in run.generations.items()}
    return {
        "pyramid": pyramid.name,
        "members": "; ".join(f"{name} {correct[name]:.3f}" for name in pyramid.members),
        "oracle": f"{pyramid.oracle} {correct[pyramid.oracle]:.3f}",
        "n": len(run.queries),
        "vote": _mean([label.vote_correct for label in run.labels]),
        "all_agree": _mean([label.vote_share == 1.0 for label in run.labels]),
        "cost": round(sum(usd[name] for name in pyramid.members) / usd[pyramid.oracle], 3),
    }


def _mean(values: Sequence[bool]) -> float:
    return round(sum(values) / len(values), 4)


if __name__ == "__main__":
    main()
