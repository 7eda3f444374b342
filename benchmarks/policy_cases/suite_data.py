"""The suite's pyramids as the parts of the benchmark of policies read them."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from suite import SuitePyramid, import_pyramid, read_suite

from pyramid_moa.data_prep.labelled_run import read_labelled_run
from pyramid_moa.errors import RunFolderError
from pyramid_moa.training.baselines.rule_run import RuleRun, rule_run

__all__ = ["pyramid_run", "suite_data", "wanted_pyramids"]


def wanted_pyramids(options: argparse.Namespace) -> list[SuitePyramid]:
    """Those of the suite that are asked for.

    Args:
        options: ``suite`` and ``pyramids``, None for all.
    """
    wanted = options.pyramids
    return [
        pyramid
        for pyramid in read_suite(options.suite).pyramids
        if wanted is None or pyramid.name in wanted
    ]


def pyramid_run(pyramid: SuitePyramid, options: argparse.Namespace) -> Path:
    """The run folder of a pyramid, imported where it is not there yet.

    Args:
        pyramid: which.
        options: ``data`` and ``out``.

    Raises:
        RunFolderError: it is that of another suite's pyramid of the same name.
    """
    folder: Path = options.out / "runs" / pyramid.name
    if not folder.exists():
        import_pyramid(pyramid, options.data, folder.parent)
    manifest = read_labelled_run(folder).manifest
    if [*manifest.members, manifest.oracle] != [*pyramid.members, pyramid.oracle]:
        raise RunFolderError(
            f"{folder}: expected {', '.join(pyramid.members)} and {pyramid.oracle}, found another "
            "suite's pyramid of that name; give each suite an --out of its own"
        )
    return folder


def suite_data(options: argparse.Namespace) -> Iterator[tuple[SuitePyramid, RuleRun]]:
    """Read the pyramids that are wanted, one after another; import those that are not there yet.

    Args:
        options: ``suite``, ``data``, ``out`` and ``pyramids``, None for all.
    """
    for pyramid in wanted_pyramids(options):
        yield pyramid, rule_run(read_labelled_run(pyramid_run(pyramid, options)))
