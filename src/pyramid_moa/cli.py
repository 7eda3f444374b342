"""The command line: one function a verb, thin; heavy imports wait until a verb needs them."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from jsonargparse import ArgumentParser, Namespace

from pyramid_moa import __version__
from pyramid_moa.cli_options import OPTIONS
from pyramid_moa.errors import ConfigError, PyramidError

if TYPE_CHECKING:
    from pyramid_moa.training.config import TrainConfig

__all__ = ["main"]

_DESCRIPTION = (
    "Small language models answer first; a trained router asks the big one only when it pays."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        arguments: as on the command line; those of the process where left out.

    Returns:
        The exit status: 0, or 2 with one line on standard error.
    """
    options = _parser().parse_args(arguments)
    verb = options.verb
    try:
        _VERBS[verb](options[verb])
    except (PyramidError, OSError) as error:
        # A full disk and a folder that may not be written to are the user's to mend, too.
        sys.stderr.write(f"pyramid-moa {verb}: {' '.join(str(error).split())}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write(f"pyramid-moa {verb}: interrupted\n")
        return 130
    return 0


class _Parser(ArgumentParser):
    """Says what is wrong with the arguments in one line."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """End with one line on standard error."""
        sys.stderr.write(f"{self.prog}: {' '.join(message.split())} (--help lists the options)\n")
        raise SystemExit(2) from ex


def _parser() -> ArgumentParser:
    parser = _Parser(prog="pyramid-moa", description=_DESCRIPTION, version=__version__)
    verbs = parser.add_subcommands(dest="verb", metavar="VERB")
    for name, (summary, add_options) in OPTIONS.items():
        sub = _Parser(description=summary)
        add_options(sub)
        verbs.add_subcommand(name, sub, help=summary)
    return parser


def _demo(options: Namespace) -> None:
    from pyramid_moa.demo import demo

    demo(options.out, seed=options.seed, show=_show)


def _label(options: Namespace) -> None:
    from pyramid_moa.data_prep.datasets import load_queries
    from pyramid_moa.data_prep.label import label
    from pyramid_moa.data_prep.pyramid import load_pyramid

    pyramid = load_pyramid(options.pyramid)
    label(
        load_queries(options.dataset, limit=options.limit),
        pyramid,
        options.out,
        split=options.split,
        resume=options.resume,
        max_usd=options.max_usd,
        strict=options.strict,
        engine=options.engine,
        workers=options.workers,
        say=_say,
    )
    _show(f"run: {options.out}")


def _import(options: Namespace) -> None:
    from pyramid_moa.data_prep.import_recorded import import_recorded
    from pyramid_moa.data_prep.prices import read_prices

    import_recorded(
        options.tables,
        members=options.member,
        oracle=options.oracle,
        out=options.out,
        prices=read_prices(options.prices) if options.prices is not None else None,
        grader_name=options.grader,
        split=options.split,
        say=_say,
    )
    _show(f"run: {options.out}")


def _train(options: Namespace) -> None:
    _need_extra("train", "lightning", "sklearn")
    from pyramid_moa.training.train import train

    train(
        options.run,
        options.out,
        _train_config(options.config),
        init=options.init,
        own_grader=options.grader,
        show_progress=sys.stderr.isatty(),
        say=_show,
    )


def _train_verifier(options: Namespace) -> None:
    _need_extra("train-verifier", "peft", "sklearn")
    from pyramid_moa.config_file import load_config
    from pyramid_moa.training.train_verifier import train_verifier
    from pyramid_moa.training.verifier_config import VerifierConfig

    config = None if options.config is None else load_config(VerifierConfig, options.config)
    train_verifier(
        options.run,
        options.model,
        options.out,
        config,
        own_grader=options.grader,
        say=_show,
    )


def _evaluate(options: Namespace) -> None:
    _need_extra("evaluate", "matplotlib")
    from pyramid_moa.training.evaluate import evaluate
    from pyramid_moa.training.summary import summary

    metrics = evaluate(
        options.run,
        options.out,
        router=options.router,
        split=options.split,
        point=options.operating_point,
        policy=options.policy,
        seed=options.seed,
        own_grader=options.grader,
        say=_say,
    )
    _show(summary(metrics))
    _show(f"report: {options.out / 'report.html'}")


def _threshold(options: Namespace) -> None:
    _need_extra("threshold", "scipy")
    from pyramid_moa.training.threshold import add_threshold
    from pyramid_moa.training.value_point import add_value_point

    targets = {
        name: getattr(options, name)
        for name in ("target_accuracy", "max_drop", "target_cost_ratio", "max_usd_per_1000")
    }
    common = {
        "policy": options.policy,
        "own_grader": options.grader,
        "split": options.split,
        "name": options.name,
    }
    if options.value_usd is not None:
        if any(value is not None for value in targets.values()):
            raise ConfigError("expected a target or --value-usd, found both; give each a --name")
        point = add_value_point(
            options.run,
            options.router,
            value_usd=options.value_usd,
            usd_per_second=options.usd_per_second,
            **common,
        )
    else:
        point = add_threshold(
            options.run,
            options.router,
            **targets,
            confidence=None if options.no_promise else options.confidence,
            **common,
        )
    cost = "unknown" if point.cost_ratio is None else f"{point.cost_ratio:.4f}"
    kept = "measured, not guaranteed"
    if point.promise is not None:
        kept = f"promised at confidence {point.promise.confidence:g} ({point.promise.method})"
    _show(
        f"operating point {point.name}: threshold {point.threshold:.6f} ({point.target}); on "
        f"{point.questions} {point.split} questions accuracy {point.accuracy:.4f}, escalated "
        f"{point.escalation_rate:.4f}, cost ratio {cost}; {kept}"
    )
    if point.cost_ratio is not None and point.cost_ratio >= 1:
        _say(f"at {point.name} this pyramid costs more than asking the oracle alone")


def _benchmark(options: Namespace) -> None:
    _need_extra("benchmark", "lightning", "sklearn", "matplotlib")
    from pyramid_moa.training.benchmark import benchmark

    config = _train_config(options.config)
    benchmark(
        options.run,
        options.out,
        config=config,
        pools=options.pool,
        labels=options.labels,
        init=options.init,
        folds=options.folds,
        seeds=options.seeds,
        seed=options.seed,
        rules=options.rules,
        resamples=options.resamples,
        own_grader=options.grader,
        say=_show,
    )
    _show(
        f"page: {options.out / 'report.html'}; tables beside it: rules.csv, differences.csv, "
        "behind_first.csv"
    )


def _answer(options: Namespace) -> None:
    from pyramid_moa.data_prep.datasets import load_queries
    from pyramid_moa.inference.answer import answer_file
    from pyramid_moa.inference.budget import Budget
    from pyramid_moa.inference.gate import Gate

    dataset = load_queries(options.input, limit=options.limit)
    if options.output.exists() and options.output.samefile(options.input.partition("?")[0]):
        raise ConfigError(f"--output: {options.output} is the input; give another file")
    if options.router is None and options.threshold is None:
        _say("no checkpoint: the vote rule decides (the oracle is asked unless all members agree)")
    gate = Gate.from_config(
        options.pyramid,
        router=options.router,
        operating_point=options.operating_point,
        threshold=options.threshold,
        policy=options.policy,
    )
    budget = Budget(max_usd=options.max_usd_per_query, max_ms=options.max_ms_per_query)
    with gate:
        totals = answer_file(
            gate, dataset, options.output, identity=gate.identity, budget=budget, say=_say
        )
    note = f" ({gate.price_note})" if gate.price_note else ""
    _show(
        f"{totals.questions} questions, {totals.escalated} escalated, {totals.unanswered} without "
        f"an answer, {totals.degraded} where the oracle failed; {totals.cost_usd:.6f} USD, the "
        f"oracle alone {totals.oracle_cost_usd:.6f} USD{note}"
    )


def _serve(options: Namespace) -> None:
    from pyramid_moa.errors import import_extra

    for module in ("starlette", "uvicorn", "prometheus_client"):
        import_extra(module, extra="serve", purpose="pyramid-moa serve")
    from pyramid_moa.inference.gateway.serve import serve

    if options.router is None and options.threshold is None:
        _say("no checkpoint: the vote rule decides (the oracle is asked unless all members agree)")
    serve(
        options.pyramid,
        router=options.router,
        operating_point=options.operating_point,
        threshold=options.threshold,
        policy=options.policy,
        config=options.config,
        host=options.host,
        port=options.port,
        show=_show,
    )


def _up(options: Namespace) -> None:
    from pyramid_moa.data_prep.pyramid import load_pyramid
    from pyramid_moa.inference.supervised_server import Patience
    from pyramid_moa.inference.up import up

    up(
        load_pyramid(options.pyramid),
        logs=options.logs,
        say=_say,
        show=_show,
        patience=Patience(start_s=options.timeout),
    )


def _export(options: Namespace) -> None:
    targets = [options.onnx, options.hub, options.out]
    if sum(target is not None for target in targets) != 1:
        raise ConfigError("expected one of --onnx FILE, --hub REPO and --out DIR")
    if options.onnx is not None:
        from pyramid_moa.inference.export_onnx import export_onnx

        export_onnx(options.router, options.onnx)
        _show(f"ONNX: {options.onnx}")
        return
    from pyramid_moa.inference.export_folder import export_folder, push_to_hub

    if options.out is not None:
        export_folder(options.router, options.out)
        _show(f"folder: {options.out}")
    else:
        _show(f"pushed: {push_to_hub(options.router, options.hub)}")


def _need_extra(verb: str, *modules: str) -> None:
    """Say at once which extra is missing, before anything is read."""
    from pyramid_moa.errors import import_extra

    for module in modules:
        import_extra(module, extra="train", purpose=f"pyramid-moa {verb}")


def _train_config(path: Path | None) -> "TrainConfig | None":
    from pyramid_moa.config_file import load_config
    from pyramid_moa.training.config import TrainConfig

    return None if path is None else load_config(TrainConfig, path)


def _show(text: str) -> None:
    """Print a result."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _say(text: str) -> None:
    """Print what is good to know beside the results."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


_VERBS: dict[str, Callable[[Namespace], None]] = {
    "demo": _demo,
    "label": _label,
    "import": _import,
    "train": _train,
    "train-verifier": _train_verifier,
    "evaluate": _evaluate,
    "threshold": _threshold,
    "benchmark": _benchmark,
    "answer": _answer,
    "serve": _serve,
    "up": _up,
    "export": _export,
}
