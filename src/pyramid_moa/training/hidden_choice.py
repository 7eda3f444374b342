"""Which hidden state a router reads: the layer and pooling that tell failures best.

Legend: n queries, K components of each member's hidden states.
"""

from collections.abc import Sequence

import numpy as np
import torch

from pyramid_moa.data_prep.labelled_run import LabelledRun
from pyramid_moa.errors import ConfigError
from pyramid_moa.progress import Progress
from pyramid_moa.records import question_hash
from pyramid_moa.router_model.hidden_rows import ChosenRows, float_rows, spans
from pyramid_moa.router_model.principal_components import projected, whitened_components
from pyramid_moa.training.baselines.logistic import tuned_logistic
from pyramid_moa.training.examples import hidden_rows_of
from pyramid_moa.training.fit import held_out_parts
from pyramid_moa.training.outcomes import BoolArray, FloatArray

__all__ = ["choose_hidden_key"]

_COMPONENTS = 16
_FOLDS = 4
# So many queries tell one layer from another as far as that is worth it.
_MOST = 4000
_FEWEST_FAILURES = 20


def choose_hidden_key(run: LabelledRun, wanted: str, labelled: Sequence[int]) -> str | None:
    """The hidden state to read, or None.

    ``auto`` takes the one whose principal components, beside the vote share, give the best
    log-loss of the vote's failures by 4-fold cross-validation (logistic regression); where there
    are too few failures to tell, the first. Where there are mid oracles none is read.

    Args:
        run: with hidden states.
        wanted: ``auto``, ``none``, or a key.
        labelled: positions of the queries whose labels may be read.

    Raises:
        ConfigError: the run does not have it of every member.
        RunFolderError: hidden states are not finite.
    """
    if wanted == "none":
        return None
    # Every answer that is read needs a state, and mid oracles have none.
    available = [] if run.manifest.mid_oracles else run.hidden_keys
    if wanted != "auto":
        if wanted not in available:
            raise ConfigError(
                f"hidden_states: expected auto, none, or one that the run has of every member "
                f"({', '.join(available) or 'it has none'}); found {wanted!r}"
            )
        return wanted
    if len(available) < 2:
        return available[0] if available else None
    positions = np.array(labelled[:_MOST], dtype=np.int64)
    fails = np.array([not run.labels[i].vote_correct for i in positions])
    if min(fails.sum(), (~fails).sum()) < _FEWEST_FAILURES:
        return available[0]
    parts = _parts([run.queries[i].question for i in positions])
    share = np.array([run.labels[i].vote_share for i in positions])
    losses = {}
    with Progress("hidden states", total=len(available)) as progress:
        for key in available:
            columns = np.column_stack([share, *_components(run, key, positions)])
            losses[key] = _log_loss(tuned_logistic(columns, fails, parts).out_of_fold, fails)
            progress.advance(note=f"{key}: log-loss {losses[key]:.4f}")
    return min(available, key=losses.__getitem__)


def _parts(questions: Sequence[str]) -> "list[tuple[np.ndarray, np.ndarray]]":
    """Folds by question: fitted on, left out."""
    hashes = [question_hash(question) for question in questions]
    held_out = held_out_parts(hashes, seeds=_FOLDS, seed=0).numpy()
    return [(np.flatnonzero(~own), np.flatnonzero(own)) for own in held_out.T]


def _components(run: LabelledRun, key: str, positions: "np.ndarray") -> list[FloatArray]:
    """Whitened principal components of every member, [n, K] each."""
    reduced = []
    for name in run.manifest.members:
        rows = ChosenRows(hidden_rows_of(run, name, key), positions)
        generator = torch.Generator().manual_seed(0)
        mean, directions = whitened_components(rows, _COMPONENTS, generator)
        pieces = [
            projected(float_rows(rows, span), mean, directions) for span in spans(rows.shape[0])
        ]
        reduced.append(torch.cat(pieces).double().numpy())
    return reduced


def _log_loss(p: FloatArray, fails: BoolArray) -> float:
    likely = np.clip(np.where(fails, p, 1.0 - p), 1e-7, None)
    return float(-np.log(likely).mean())
