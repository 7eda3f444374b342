"""The router as an ONNX file: features and hidden states in, probabilities out."""

import json
import logging
import warnings
from pathlib import Path

import torch

from pyramid_moa.atomic_files import written_aside
from pyramid_moa.errors import CheckpointError, import_extra
from pyramid_moa.router_model.features import NOT_ASKED
from pyramid_moa.router_model.router import Router
from pyramid_moa.router_model.vote_figures import same_answers

__all__ = ["export_onnx"]

_TOLERANCE = 1e-5
_CHECKED_ROWS = 16
# Inputs that are no hidden states.
_OWN = 4
_UNKNOWN = 0.1


def export_onnx(checkpoint: str | Path, file: str | Path) -> None:
    """Write the network and check that onnxruntime gives the same scores.

    Inputs, for the N members in the order of the metadata entry ``members``: ``answers``
    [B, N, A] and ``relations`` [B, N, N, R] float32, NaN where unknown; ``clusters`` [B, N] int64,
    for each member the first with an equal answer, -1 for no answer, -2 where it was not asked;
    ``question`` [B, Q] float32; then ``hidden_<member index>`` [B, H] float32 for routers that
    read hidden states. Features stand in the order of the metadata entry ``feature_names``:
    first an answer's, then those of two answers, then the question's.

    Outputs: ``probabilities`` [B, 3]: the ensemble fails, the majority's answer is wrong, the
    oracle is right; ``answers_right`` [B, N]: the answer that begins with this member is right.

    Args:
        checkpoint: the checkpoint folder.
        file: the file to write.

    Raises:
        MissingExtraError: onnx, onnxscript or onnxruntime is not installed.
        CheckpointError: onnxruntime's scores differ by more than 1e-5; nothing is written.
    """
    onnx = import_extra("onnx", extra="onnx", purpose="the export to ONNX")
    for module in ("onnxscript", "onnxruntime"):
        import_extra(module, extra="onnx", purpose="the export to ONNX")
    router = Router.load(checkpoint)
    inputs = _example(router)
    hidden = inputs[_OWN:]
    names = ["answers", "relations", "clusters", "question"]
    names += [f"hidden_{index}" for index in range(len(hidden))]
    batch = torch.export.Dim("batch", min=1)
    # It says that operators of a library are not registered which no router uses.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # All inputs share one batch size, and are meant to.
        warnings.filterwarnings("ignore", message=".*axis name: batch will not be used")
        program = torch.onnx.export(
            router.network,
            inputs,
            input_names=names,
            output_names=["probabilities", "answers_right"],
            # Arguments that are not there have no shape, not even an empty one.
            dynamic_shapes=(
                *[{0: batch}] * _OWN,
                *([tuple({0: batch} for _ in hidden)] if hidden else []),
            ),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    onnx.helper.set_model_props(
        model,
        {
            "feature_names": json.dumps(router.card.feature_names),
            "members": json.dumps(router.card.member_names),
            "hidden_key": router.card.hidden_key or "",
            "weights_sha256": router.card.weights_sha256,
        },
    )
    content = model.SerializeToString()
    _check(content, router, names, inputs)
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_aside(path) as aside:
        aside.write_bytes(content)


def _example(router: Router) -> tuple[torch.Tensor, ...]:
    """Inputs as they come: scattered around the training queries, some features unknown."""
    generator = torch.Generator().manual_seed(0)
    network = router.network
    shape = network.shape

    def scattered(kind: str, *rows: int) -> torch.Tensor:
        mean, scale = (network.get_buffer(f"{kind}_{name}") for name in ("mean", "scale"))
        values = mean + scale * torch.randn(_CHECKED_ROWS, *rows, len(mean), generator=generator)
        values[torch.rand(values.shape, generator=generator) < _UNKNOWN] = torch.nan
        return values

    members = shape.members
    answered = torch.randint(NOT_ASKED, members, (_CHECKED_ROWS, members), generator=generator)
    question = torch.nan_to_num(scattered("question"))
    hidden = [
        getattr(network, f"hidden_mean_{index}")
        + torch.randn(_CHECKED_ROWS, size, generator=generator)
        for index, size in enumerate(shape.hidden_sizes)
    ]
    for states in hidden:
        states[0] = 0.0
    relations = scattered("relation", members, members)
    return scattered("answer", members), relations, same_answers(answered), question, *hidden


def _check(
    content: bytes, router: Router, names: list[str], inputs: tuple[torch.Tensor, ...]
) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    feed = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
    found = session.run(None, feed)
    with torch.inference_mode():
        expected = router.network(*inputs)
    difference = max(
        float((torch.from_numpy(one) - other).abs().max())
        for one, other in zip(found, expected, strict=True)
    )
    if not difference <= _TOLERANCE:
        raise CheckpointError(
            f"onnxruntime's scores differ from the checkpoint's by {difference:.2g}, expected at "
            f"most {_TOLERANCE:g}: the export was not written"
        )
