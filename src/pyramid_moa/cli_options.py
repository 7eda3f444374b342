"""The command line's options, verb by verb; nothing heavy is imported for them."""

from collections.abc import Callable
from pathlib import Path

from jsonargparse import ArgumentParser
from jsonargparse.typing import NonNegativeInt, PositiveFloat

__all__ = ["OPTIONS"]

# Those of `pyramid_moa.router_model.pretrained`, whose package takes too long to import for --help.
_PRETRAINED = "pretrained:numeric (answers are numbers) or pretrained:general (all others)"


def _demo_options(parser: ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for all it makes")
    parser.add_argument(
        "--seed", type=NonNegativeInt, default=0, help="another seed asks other questions"
    )


def _label_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--dataset",
        required=True,
        help="gsm8k, word-problems, or a .jsonl, .json, .csv or .parquet file; options follow a "
        "question mark, as in questions.csv?question=prompt&answer=target",
    )
    _add_pyramid(parser)
    parser.add_argument("--out", type=Path, required=True, help="the run folder")
    parser.add_argument("--limit", type=int, default=None, help="only the first so many questions")
    parser.add_argument("--split", default=None, help="put all questions in this split")
    parser.add_argument("--resume", action="store_true", help="go on with the run that is there")
    parser.add_argument("--max-usd", type=float, default=None, help="stop before it costs more")
    parser.add_argument("--strict", action="store_true", help="a failed generation is an error")
    parser.add_argument(
        "--engine",
        choices=["local", "ray"],
        default="local",
        help="run the models in this process, or in workers of the Ray cluster of RAY_ADDRESS (of "
        "this machine alone where that is not set)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=None,
        help="of Ray for each model; else as many as there is room for",
    )


def _import_options(parser: ArgumentParser) -> None:
    parser.add_argument("tables", metavar="TABLE", nargs="+", type=Path, help="parquet files")
    parser.add_argument(
        "--member",
        action="append",
        required=True,
        help="MODEL[::VARIANT[::SAMPLE]]; once for each member, best first",
    )
    parser.add_argument(
        "--oracle",
        action="append",
        required=True,
        help="MODEL[::VARIANT[::SAMPLE]]; once for each tier after the members, cheapest first: "
        "the last is the oracle",
    )
    parser.add_argument("--out", type=Path, required=True, help="the run folder")
    parser.add_argument("--prices", type=Path, default=None, help="YAML: MODEL: {input, output}")
    parser.add_argument("--grader", default=None, help="how answers are compared")
    parser.add_argument("--split", default=None, help="put all questions in this split")


def _train_options(parser: ArgumentParser) -> None:
    parser.add_argument("--run", type=Path, required=True, help="a labelled run folder")
    parser.add_argument("--out", type=Path, required=True, help="the checkpoint folder")
    parser.add_argument("--config", type=Path, default=None, help="YAML of the training")
    _add_grader(parser)
    parser.add_argument("--init", default=None, help=f"a checkpoint to start from, {_PRETRAINED}")


def _train_verifier_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--run", type=Path, required=True, help="a labelled run folder, best of many models"
    )
    parser.add_argument("--model", required=True, help="folder or Hugging Face id of an encoder")
    parser.add_argument("--out", type=Path, required=True, help="the verifier's folder")
    parser.add_argument("--config", type=Path, default=None, help="YAML of the training")
    _add_grader(parser)


def _evaluate_options(parser: ArgumentParser) -> None:
    parser.add_argument("--run", type=Path, required=True, help="a labelled run folder")
    _add_router(parser)
    parser.add_argument("--out", type=Path, required=True, help="the report folder")
    _add_grader(parser)
    parser.add_argument("--split", default="test", help="which queries, or all")
    parser.add_argument("--seed", type=NonNegativeInt, default=0, help="of the bootstrap")


def _threshold_options(parser: ArgumentParser) -> None:
    parser.add_argument("--run", type=Path, required=True, help="a labelled run folder")
    parser.add_argument("--router", type=Path, required=True, help="the checkpoint folder")
    parser.add_argument("--target-accuracy", type=float, default=None, help="from 0 to 1")
    parser.add_argument("--max-drop", type=float, default=None, help="below the oracle, 0 to 1")
    parser.add_argument("--target-cost-ratio", type=float, default=None, help="of the oracle's")
    parser.add_argument(
        "--max-usd-per-1000", type=float, default=None, help="for a thousand questions"
    )
    parser.add_argument(
        "--value-usd",
        type=float,
        default=None,
        help="what a right answer is worth; the oracle is asked where it gains more than its price",
    )
    parser.add_argument(
        "--usd-per-second",
        type=float,
        default=0.0,
        help="with --value-usd: what a second of waiting costs",
    )
    parser.add_argument(
        "--confidence",
        type=float,
        default=0.95,
        help="probability that it keeps to the target on questions that nobody has seen",
    )
    parser.add_argument(
        "--no-promise",
        action="store_true",
        help="the point that meets the target as measured; nothing is said of other questions",
    )
    parser.add_argument(
        "--policy",
        choices=("parallel", "sequential"),
        default="parallel",
        help="of the point: members all at once, or step by step",
    )
    _add_grader(parser)
    parser.add_argument("--split", default="calibration", help="the queries it is found on")
    parser.add_argument("--name", default="target", help="its name in the checkpoint")


def _benchmark_options(parser: ArgumentParser) -> None:
    parser.add_argument("--run", type=Path, nargs="+", required=True, help="labelled run folders")
    parser.add_argument("--out", type=Path, required=True, help="folder for tables and plots")
    parser.add_argument("--config", type=Path, default=None, help="YAML of the training")
    _add_grader(parser)
    parser.add_argument(
        "--pool", type=Path, nargs="+", default=[], help="runs of many models to start from"
    )
    parser.add_argument(
        "--labels",
        type=NonNegativeInt,
        nargs="+",
        default=[],
        help="numbers of labels, such as 0 50 100 200 500, for label_curves.csv and its plot",
    )
    parser.add_argument(
        "--init", default=None, help=f"what curves of labels start from, {_PRETRAINED}"
    )
    parser.add_argument("--folds", type=int, default=5, help="of the cross-validation")
    parser.add_argument("--seeds", type=int, default=3, help="times it is repeated, other folds")
    parser.add_argument(
        "--seed", type=NonNegativeInt, default=0, help="the first; of the bootstrap"
    )
    parser.add_argument(
        "--rules", nargs="+", default=None, help="names of those that take part beside the vote"
    )
    parser.add_argument("--resamples", type=int, default=1000, help="of the bootstrap")


def _answer_options(parser: ArgumentParser) -> None:
    _add_pyramid(parser)
    _add_router(parser)
    parser.add_argument("--input", required=True, help="questions: a data set as of label")
    parser.add_argument("--output", type=Path, required=True, help="JSONL file of answers")
    parser.add_argument("--threshold", type=float, default=None, help="instead of the point's")
    parser.add_argument(
        "--max-usd-per-query", type=float, default=None, help="then the best answer so far is given"
    )
    parser.add_argument(
        "--max-ms-per-query", type=float, default=None, help="likewise; milliseconds in models"
    )
    parser.add_argument("--limit", type=int, default=None, help="only the first so many questions")


def _serve_options(parser: ArgumentParser) -> None:
    _add_pyramid(parser)
    _add_router(parser)
    parser.add_argument("--threshold", type=float, default=None, help="instead of the point's")
    parser.add_argument(
        "--config", type=Path, default=None, help="YAML of timeouts, limits and keys"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at")
    parser.add_argument(
        "--port", type=NonNegativeInt, default=8800, help="to listen at; 0 takes a free one"
    )


def _up_options(parser: ArgumentParser) -> None:
    _add_pyramid(parser)
    parser.add_argument(
        "--logs", type=Path, default=Path("logs"), help="folder for the servers' logs"
    )
    parser.add_argument(
        "--timeout",
        type=PositiveFloat,
        default=1800.0,
        help="seconds that a server may take to start",
    )


def _export_options(parser: ArgumentParser) -> None:
    parser.add_argument("--router", required=True, help=f"the checkpoint folder, {_PRETRAINED}")
    parser.add_argument("--onnx", type=Path, default=None, help="an ONNX file to write")
    parser.add_argument("--hub", default=None, help="a Hugging Face repository to push to")
    parser.add_argument("--out", type=Path, default=None, help="a folder to write, as for the hub")


def _add_grader(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--grader", default=None, help="your own module:function, if the run was graded by one"
    )


def _add_pyramid(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--pyramid", required=True, help="YAML file of members and oracle, or embedded"
    )


def _add_router(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--router", default=None, help=f"checkpoint folder, {_PRETRAINED}; else a vote"
    )
    parser.add_argument(
        "--operating-point", default=None, help="a named point of the checkpoint; else its first"
    )
    parser.add_argument(
        "--policy",
        choices=("parallel", "sequential"),
        default=None,
        help="members all at once, or step by step; else as the point says",
    )


OPTIONS: dict[str, tuple[str, Callable[[ArgumentParser], None]]] = {
    "demo": ("the whole path on the embedded pyramid", _demo_options),
    "label": ("have every model answer a data set, once, and label it", _label_options),
    "import": ("make a run folder of recorded answers", _import_options),
    "train": ("train a router on a run folder", _train_options),
    "train-verifier": ("fine-tune a text encoder for a router to read", _train_verifier_options),
    "evaluate": ("replay the decisions on a run and report", _evaluate_options),
    "threshold": ("find an operating point that keeps to a target", _threshold_options),
    "benchmark": ("cross-validate the router and the field's rules", _benchmark_options),
    "answer": ("answer a file of questions through the pyramid", _answer_options),
    "serve": ("answer over an OpenAI-compatible API", _serve_options),
    "up": ("start the vLLM servers of a pyramid's entries with a port, and keep them", _up_options),
    "export": ("write a checkpoint as folder, ONNX or Hugging Face repository", _export_options),
}
