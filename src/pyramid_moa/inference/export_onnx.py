"""The router as an ONNX file: features and hidden states in, probabilities out."""

import json
import logging
import warnings
from pathlib import Path

import torch

from pyramid_moa.atomic_files import written_aside
from pyramid_moa.errors import CheckpointError, import_extra
from pyramid_moa.router_model.router import Router

__all__ = ["export_onnx"]

_TOLERANCE = 1e-5
_CHECKED_ROWS = 16


def export_onnx(checkpoint: str | Path, file: str | Path) -> None:
    """Write the network and check that onnxruntime gives the same scores.

    Inputs: ``features`` [B, F] float32, NaN where unknown, in the order of the metadata entry
    ``feature_names``; then ``hidden_<member index>`` [B, H] float32 for routers that read hidden
    states. Output: ``probabilities`` [B, 2]: the ensemble fails, the oracle is right.

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
    hidden = inputs[1:]
    names = ["features", *(f"hidden_{index}" for index in range(len(inputs) - 1))]
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
            output_names=["probabilities"],
            # Arguments that are not there have no shape, not even an empty one.
            dynamic_shapes=({0: batch}, *([tuple({0: batch} for _ in hidden)] if hidden else [])),
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
    noise = torch.randn(_CHECKED_ROWS, shape.features, generator=generator)
    features = network.feature_mean + network.feature_scale * noise
    features[torch.rand(features.shape, generator=generator) < 0.1] = torch.nan
    hidden = [
        getattr(network, f"hidden_mean_{index}")
        + torch.randn(_CHECKED_ROWS, size, generator=generator)
        for index, size in enumerate(shape.hidden_sizes)
    ]
    for states in hidden:
        states[0] = 0.0
    return (features, *hidden)


def _check(
    content: bytes, router: Router, names: list[str], inputs: tuple[torch.Tensor, ...]
) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    feed = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
    (found,) = session.run(None, feed)
    with torch.inference_mode():
        expected = router.network(*inputs)
    difference = float((torch.from_numpy(found) - expected).abs().max())
    if not difference <= _TOLERANCE:
        raise CheckpointError(
            f"onnxruntime's scores differ from the checkpoint's by {difference:.2g}, expected at "
            f"most {_TOLERANCE:g}: the export was not written"
        )
