"""Import, train and evaluate on recorded answers, and cross-validate the router against agreement.

    python benchmarks/recorded.py --data ../shared/data --out build/recorded

Three pyramids of real models: GSM8K, level 5 mathematics, and the output of Python functions. The
folder of recorded answers is not part of this repository. Leaves recorded.csv and reports.
"""

import argparse
import csv
import sys
import time
from pathlib import Path
from typing import Any

from pyramid_moa.cli import main as pyramid_moa

_OTHER = ("Qwen2-7B-Instruct", "gemma-2-27b-it", "Meta-Llama-3-70B-Instruct")
_PYRAMIDS = {
    "gsm8k": (
        "recorded/zeroeval.parquet",
        ("Meta-Llama-3-8B-Instruct", "Qwen2-7B-Instruct", "gemma-2-9b-it"),
        "gpt-4o-2024-08-06",
        "gsm8k",
    ),
    "math-l5": ("recorded_other/math-l5.parquet", _OTHER, "o1-mini-2024-09-12", "math-verify"),
    "crux": ("recorded_other/crux.parquet", _OTHER, "o1-mini-2024-09-12", "python-literal"),
}


def main() -> None:
    """Run the three pyramids and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("build/recorded"))
    options = parser.parse_args()
    if not options.data.is_dir():
        sys.stdout.write(f"{options.data}: no recorded answers here; --data names their folder\n")
        return
    seconds = {
        name: _whole_path(name, *pyramid, data=options.data, out=options.out)
        for name, pyramid in _PYRAMIDS.items()
    }
    runs = [str(options.out / name / "run") for name in _PYRAMIDS]
    rows = []
    for name, run in zip(_PYRAMIDS, runs, strict=True):
        out = str(options.out / name / "cross-validation")
        _verb("benchmark", "--run", run, "--out", out, "--rules", "router", "--seeds", "1")
        table = options.out / name / "cross-validation" / "benchmark.csv"
        with table.open(encoding="utf-8", newline="") as file:
            (row,) = csv.DictReader(file)
        rows.append({**row, "run": name, "seconds_import_train_evaluate": round(seconds[name], 1)})
    with (options.out / "recorded.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    sys.stdout.write(f"table: {options.out / 'recorded.csv'}\n")


def _whole_path(
    name: str,
    table: str,
    members: tuple[str, ...],
    oracle: str,
    grader: str,
    *,
    data: Path,
    out: Path,
) -> float:
    """Seconds of import, train and evaluate together."""
    folder = out / name
    if (folder / "run").exists():
        raise SystemExit(f"{folder}: exists already; give another --out")
    started = time.perf_counter()
    named: list[Any] = [part for member in members for part in ("--member", member)]
    run, router = str(folder / "run"), str(folder / "router")
    _verb(
        "import",
        str(data / table),
        *named,
        "--oracle",
        oracle,
        "--grader",
        grader,
        "--out",
        run,
    )
    _verb("train", "--run", run, "--out", router)
    _verb("evaluate", "--run", run, "--router", router, "--out", str(folder / "report"))
    return time.perf_counter() - started


def _verb(*arguments: str) -> None:
    if pyramid_moa(arguments) != 0:
        raise SystemExit(f"failed: pyramid-moa {' '.join(arguments)}")


if __name__ == "__main__":
    main()
