"""Training of a verifier: a run folder and an encoder in, a verifier's folder out."""

import copy
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save
from torch import Tensor

from pyramid_moa import __version__
from pyramid_moa.data_prep.labelled_run import LabelledRun, read_labelled_run
from pyramid_moa.errors import ConfigError, RunFolderError, import_extra
from pyramid_moa.records import question_hash
from pyramid_moa.router_model.verifier import Verifier, half_of
from pyramid_moa.router_model.verifier_encoder import VerifierEncoder
from pyramid_moa.router_model.verifier_files import (
    BASE,
    CONFIG,
    HALVES,
    TOKENIZER,
    VerifierCard,
    check_new,
    write_verifier,
)
from pyramid_moa.router_model.verifier_text import PairTokenizer
from pyramid_moa.training.verifier_config import VerifierConfig
from pyramid_moa.training.verifier_fit import Labelled, fit_encoder, fitting_pairs
from pyramid_moa.training.verifier_pairs import Pair, draw_pairs, is_held_out

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["train_verifier"]

_FEWEST = 20
_FEWEST_HELD_OUT = 4
# Of the held-out pairs for each that is learned from.
_HELD_OUT_SHARE = 0.25


def train_verifier(
    run: str | Path,
    model: str | Path,
    out: str | Path,
    config: VerifierConfig | None = None,
    *,
    own_grader: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Verifier:
    """Fine-tune an encoder to tell right answers from wrong ones, and write it as a verifier.

    Two encoders are fitted, each on the questions of one half, so that every question can be
    scored by one that has not seen it.

    Args:
        run: the run folder whose answers are learned from, best one of many models.
        model: folder or Hugging Face id of an encoder (any ``AutoModel`` with a stack of layers and
            a tokenizer of ``tokenizers``).
        out: the verifier's folder, which must be new.
        config: how; the defaults of ``VerifierConfig`` where it is left out.
        own_grader: the caller's own ``module:function``, where the run was graded by it.
        say: shown how it went.

    Returns:
        The verifier.

    Raises:
        RunFolderError: the run is missing, or holds too little to learn from.
        ConfigError: the encoder can't be loaded, or the configuration does not fit it or the run.
        CheckpointError: ``out`` is there already.
        MissingExtraError: peft or scikit-learn is not installed.
    """
    out, config = Path(out), config or VerifierConfig()
    for module in ("peft", "sklearn"):
        import_extra(module, extra="train", purpose="training a verifier")
    check_new(out)
    data = read_labelled_run(Path(run), own_grader=own_grader)
    models, positions = _chosen(data, config)
    base, tokenizer = _load(str(model), config)
    pairs = PairTokenizer(
        tokenizer,
        tokens=config.tokens,
        question_tokens=config.question_tokens,
        source=f"the tokenizer of {model}",
    )
    count = fitting_pairs(config, base.config.hidden_size)
    if count < _FEWEST:
        raise ConfigError(
            f"cache_mb: room for {count} answers of {config.tokens} tokens in each half, expected "
            f"{_FEWEST} or more; raise cache_mb, or lower tokens"
        )
    contents = {
        CONFIG: _config_json(base).encode(),
        TOKENIZER: tokenizer.encode(),
        BASE: save(_cloned(base.state_dict(), prefix="encoder.")),
    }
    # All of them, drawn from or not: how a question is scored must not tell how it was answered.
    seen = {question_hash(data.queries[position].question)[:16] for position in positions}
    validation = []
    for half, name in enumerate(HALVES):
        started = time.perf_counter()
        fitted_on, held_out = _drawn(data, positions, models, half, count, config)
        encoder, figures = fit_encoder(
            copy.deepcopy(base),
            _labelled(pairs, fitted_on),
            _labelled(pairs, held_out),
            config,
            what=f"verifier {half + 1}/{len(HALVES)}",
        )
        contents[name] = save(_changed(encoder, base))
        validation.append(figures)
        say(
            f"encoder {half + 1}: {len(fitted_on)} answers, {time.perf_counter() - started:.0f} s; "
            f"on {len(held_out)} answers to other questions AUROC {figures['auroc']:.3f}, "
            f"log-loss {figures['log_loss']:.3f} (chance: 0.693)"
        )
    card = VerifierCard(
        base=Path(model).name if Path(model).is_dir() else str(model),
        tokens=config.tokens,
        question_tokens=config.question_tokens,
        seen_questions=sorted(seen),
        trained_on={
            "dataset": data.manifest.dataset,
            "dataset_hash": data.manifest.dataset_hash,
            "models": models,
            "grader": data.manifest.grader,
            "config": asdict(config),
            "package_version": __version__,
        },
        validation=validation,
        files={},
    )
    write_verifier(out, card, contents)
    say(f"verifier: {out}")
    return Verifier.load(out)


def _chosen(data: LabelledRun, config: VerifierConfig) -> tuple[list[str], list[int]]:
    """Models and positions of queries to learn from."""
    known = list(data.manifest.models)
    if unknown := [name for name in config.without if name not in known]:
        raise ConfigError(
            f"without: the run has no model {', '.join(unknown)}; it has {', '.join(known)}"
        )
    positions = [i for i, query in enumerate(data.queries) if query.split in config.splits]
    if not positions:
        splits = sorted({str(query.split) for query in data.queries})
        raise RunFolderError(
            f"expected queries of the splits {', '.join(config.splits)}, found only "
            f"{', '.join(splits)}"
        )
    return [name for name in known if name not in config.without], positions


def _drawn(
    data: LabelledRun,
    positions: Sequence[int],
    models: Sequence[str],
    half: int,
    count: int,
    config: VerifierConfig,
) -> tuple[list[Pair], list[Pair]]:
    """Pairs of one half's questions: to learn from, and to stop by."""
    hashes = {position: question_hash(data.queries[position].question) for position in positions}
    own = [position for position in positions if half_of(hashes[position]) == half]
    parts = []
    for held_out, most in ((False, count), (True, int(_HELD_OUT_SHARE * count))):
        questions = [p for p in own if is_held_out(hashes[p], seed=config.seed) is held_out]
        drawn = draw_pairs(data, questions, models, count=most, seed=config.seed)
        fewest = _FEWEST_HELD_OUT if held_out else _FEWEST
        if len(drawn) < fewest:
            raise RunFolderError(
                f"expected {fewest} answers with their texts or more to "
                f"{'stop by' if held_out else 'learn from'} in each half of the questions, half of "
                f"them right and half wrong answers to the same questions; found {len(drawn)}; "
                "label or import more questions or models"
            )
        parts.append(drawn)
    return parts[0], parts[1]


def _labelled(tokenizer: PairTokenizer, pairs: Sequence[Pair]) -> list[Labelled]:
    return [
        Labelled(tokens=tokenizer.pair(pair.question, pair.text), right=pair.right)
        for pair in pairs
    ]


def _load(model: str, config: VerifierConfig) -> "tuple[PreTrainedModel, str]":
    """The encoder, and its tokenizer as the text of a tokenizer.json."""
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    # A folder is itself alone: nothing that it lacks is fetched.
    options: dict[str, Any] = {
        "trust_remote_code": False,
        "local_files_only": Path(model).is_dir(),
    }
    try:
        tokenizer = AutoTokenizer.from_pretrained(model, **options)
        content = tokenizer.backend_tokenizer.to_str()
        # The progress bar of loading weights is noise beside our own.
        transformers_logging.disable_progress_bar()
        base: PreTrainedModel = AutoModel.from_pretrained(
            model, dtype=torch.float32, use_safetensors=True, **options
        )
    except Exception as error:  # the library lets through errors of many packages
        lines = str(error).strip().splitlines() or [""]
        raise ConfigError(
            f"--model: transformers can't load {model!r} ({type(error).__name__}: "
            f"{lines[0][:300]}); expected a Hugging Face id that can be reached, or a folder with "
            "config.json, tokenizer.json and model.safetensors"
        ) from error
    if base.config.is_encoder_decoder:
        raise ConfigError(f"--model: expected an encoder, found the encoder-decoder {model!r}")
    longest = getattr(base.config, "max_position_embeddings", None)
    # Some architectures keep two positions for themselves.
    if longest is not None and config.tokens > longest - 2:
        raise ConfigError(f"tokens: {model!r} reads {longest - 2} at most, found {config.tokens}")
    return base.eval(), content


def _config_json(base: "PreTrainedModel") -> str:
    values: dict[str, Any] = json.loads(base.config.to_json_string(use_diff=False))
    # Where it lay is nobody's business, and must not change the hash.
    values.pop("_name_or_path", None)
    return json.dumps(values, indent=2, sort_keys=True) + "\n"


def _cloned(tensors: dict[str, Tensor], *, prefix: str = "") -> dict[str, Tensor]:
    return {f"{prefix}{name}": value.detach().clone() for name, value in tensors.items()}


def _changed(encoder: VerifierEncoder, base: "PreTrainedModel") -> dict[str, Tensor]:
    """The head, and the encoder's tensors that are no longer those of the base."""
    before = _cloned(base.state_dict(), prefix="encoder.")
    return _cloned(
        {
            name: value
            for name, value in encoder.state_dict().items()
            if name not in before or not torch.equal(value, before[name])
        }
    )
