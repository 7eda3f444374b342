"""The suite's pyramids as the parts of the benchmark of policies read them."""

import argparse
from collections.abc import Iterator

from suite import SuitePyramid, import_pyramid, read_suite

from pyramid_moa.data_prep.labelled_run import read_labelled_run
from pyramid_moa.training.baselines.rule_run import RuleRun, rule_run

__all__ = ["suite_data"]


def suite_data(options: argparse.Namespace) -> Iterator[tuple[SuitePyramid, RuleRun]]:
    """Read the pyramids that are wanted, one after another; import those that are not there yet.

    Args:
        options: ``suite``, ``data``, ``out`` and ``pyramids``, None for all.
    """
    for pyramid in read_suite(options.suite).pyramids:
        if options.pyramids is not None and pyramid.name not in options.pyramids:
            continue
        folder = options.out / "runs" / pyramid.name
        if not folder.exists():
            import_pyramid(pyramid, options.data, options.out / "runs")
        yield pyramid, rule_run(read_labelled_run(folder))
