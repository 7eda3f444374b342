"""The report folder of an evaluation: decisions, metrics, plots and one self-contained page."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from pyramid_moa.errors import DataError
from pyramid_moa.training.metrics import METRICS_FORMAT, compute_metrics
from pyramid_moa.training.outcomes import FloatArray, Outcomes
from pyramid_moa.training.page import image_uri, render_page
from pyramid_moa.training.plot_data import plots_data
from pyramid_moa.training.plots import PLOTS, write_plots
from pyramid_moa.training.point_results import PointResult
from pyramid_moa.training.report_view import report_view

if TYPE_CHECKING:
    from pyramid_moa.training.stepwise_points import StepDial

__all__ = ["REPORT_FILES", "check_report_folder", "write_report"]

REPORT_FILES = (
    "decisions.parquet",
    "metrics.json",
    "plots_data.json",
    "report.html",
    *(f"{plot}{suffix}" for plot in PLOTS for suffix in (".png", ".svg")),
)
_NOTHING: Mapping[str, object] = MappingProxyType({})


def write_report(
    outcomes: Outcomes,
    out: Path,
    *,
    examples_per_kind: int = 3,
    seed: int = 0,
    resamples: int = 1000,
    extra: Mapping[str, object] = _NOTHING,
    points: Sequence[PointResult] = (),
    dial: "StepDial | None" = None,
) -> dict[str, object]:
    """Write decisions.parquet, metrics.json, the plots and report.html.

    The folder is made aside and renamed, so that it is complete or not there. An earlier report
    under that name is replaced; other files in its folder are kept.

    Args:
        outcomes: the evaluated queries.
        out: the report folder.
        examples_per_kind: examples of each kind of decision at most.
        seed: of the bootstrap and of the choice of examples.
        resamples: of the bootstrap.
        extra: names and values for the table "How it was made".
        points: what the checkpoint's operating points did with the same queries.
        dial: what every setting of the sequential policy came to on them, where there is one.

    Returns:
        What metrics.json holds.

    Raises:
        DataError: ``out`` is a file, or a folder that is neither empty nor a report.
        MissingExtraError: matplotlib is not installed.
    """
    out = out.resolve()  # a link to a folder stays a link
    check_report_folder(out)
    metrics = compute_metrics(outcomes, seed=seed, resamples=resamples, points=points, dial=dial)
    drawn = plots_data(outcomes, seed=seed, resamples=resamples, points=points, dial=dial)
    aside = out.with_name(f".{out.name}.partial-{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        _write_decisions(outcomes, aside / "decisions.parquet")
        _write_text(aside / "metrics.json", json.dumps(metrics, indent=1, allow_nan=False) + "\n")
        write_plots(drawn, aside)
        view = report_view(
            outcomes, metrics, examples_per_kind=examples_per_kind, seed=seed, extra=extra
        )
        images = {plot: image_uri(aside / f"{plot}.svg") for plot in PLOTS}
        page = render_page("report.html.jinja", view | {"images": images})
        _write_text(aside / "report.html", page)
        _put_in_place(aside, out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return metrics


def check_report_folder(out: Path) -> None:
    """Refuse a place where a report would overwrite something else.

    Args:
        out: where a report is to go; may be missing, empty, or an earlier report.

    Raises:
        DataError: it is anything else.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise DataError(f"{out}: expected a folder for the report, found a file; name another one")
    if any(out.iterdir()) and not _is_report(out):
        raise DataError(
            f"{out}: expected a new or empty folder or an earlier report (with its metrics.json), "
            "found a folder of something else; name another one"
        )


def _is_report(folder: Path) -> bool:
    try:
        metrics = json.loads((folder / "metrics.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(metrics, dict) and metrics.get("format") == METRICS_FORMAT


def _put_in_place(aside: Path, out: Path) -> None:
    if not out.exists():
        aside.rename(out)
        return
    earlier = out.with_name(f".{out.name}.replaced-{os.getpid()}")
    out.rename(earlier)
    try:
        for entry in earlier.iterdir():
            if entry.name not in REPORT_FILES:  # the user's own notes, say
                entry.rename(aside / entry.name)
        aside.rename(out)
    except OSError:
        for entry in aside.iterdir():
            if entry.name not in REPORT_FILES:
                entry.rename(earlier / entry.name)
        earlier.rename(out)
        raise
    shutil.rmtree(earlier)


def _write_decisions(outcomes: Outcomes, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def known(column: FloatArray) -> object:
        return pa.array(column, pa.float64(), from_pandas=True)  # nan becomes null

    answer = pa.string()
    columns = {
        "query_id": pa.array(outcomes.query_ids, pa.string()),
        "ensemble_answer": pa.array(outcomes.ensemble_answer, answer),
        "p_ensemble_fails": known(outcomes.p_ensemble_fails),
        "p_oracle_right": known(outcomes.p_oracle_right),
        "models_called": pa.array(
            [list(called) for called in outcomes.models_called], pa.list_(pa.string())
        ),
        "escalated": pa.array(outcomes.escalated),
        "final_answer": pa.array(outcomes.final_answer, answer),
        "correct": pa.array(outcomes.final_correct),
        "cost": known(outcomes.final_cost_usd),
        "vote_answer": pa.array(outcomes.vote_answer, answer),
        "vote_share": known(outcomes.vote_share),
        "ensemble_correct": pa.array(outcomes.ensemble_correct),
        "oracle_correct": pa.array(outcomes.oracle_correct),
        "held_answer": pa.array(outcomes.held_answer, answer),
        "held_correct": pa.array(outcomes.held_correct),
    }
    pq.write_table(pa.table(columns), path)


def _write_text(path: Path, text: str) -> None:
    # A model may have written half of a surrogate pair, which UTF-8 cannot hold.
    path.write_bytes(text.encode("utf-8", "replace"))
