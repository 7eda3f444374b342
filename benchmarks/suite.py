"""The pyramids of recorded_suite.yaml, and their import into run folders."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pyramid_moa.config_file import load_config
from pyramid_moa.data_prep.import_recorded import import_recorded
from pyramid_moa.data_prep.prices import read_prices

__all__ = ["PRICES", "SUITE", "Suite", "SuitePyramid", "import_pyramid", "read_suite"]

SUITE = Path(__file__).with_name("recorded_suite.yaml")
PRICES = Path(__file__).with_name("model_prices.yaml")


@dataclass(frozen=True, kw_only=True)
class SuitePyramid:
    """A pyramid of recorded models.

    Attributes:
        name: of the pyramid; also of its run folder.
        dataset: ``gsm8k``, ``math-l5`` or ``crux``.
        difficulty: ``easy`` or ``hard``, by the members' mean accuracy.
        oracle_class: ``70b``, ``100b``, ``gpt-4o`` or ``claude-3.5``.
        kind: ``mixed`` (members of different weights), ``tables`` (and of different tables) or
            ``samples`` (several samples of one model).
        tables: files below the folder of data that hold the recordings.
        members: names as ``import`` takes them, best first.
        oracle: likewise.
        grader: how answers are compared.
        questions: for how many every model has a row.
        member_accuracies: share of them that each member has right, as the tables mark answers.
        oracle_accuracy: likewise.
    """

    name: str
    dataset: str
    difficulty: str
    oracle_class: str
    kind: str
    tables: list[str]
    members: list[str]
    oracle: str
    grader: str
    questions: int
    member_accuracies: list[float]
    oracle_accuracy: float


@dataclass(frozen=True, kw_only=True)
class Suite:
    """What was drawn.

    Attributes:
        seed: of the draw.
        tables: SHA-256 of each table that was drawn from.
        pyramids: in the order of the draw.
    """

    seed: int
    tables: dict[str, str]
    pyramids: list[SuitePyramid]


def read_suite(path: Path = SUITE) -> Suite:
    """Read a suite.

    Raises:
        ConfigError: the file is missing or wrong.
    """
    return load_config(Suite, path)


def import_pyramid(
    pyramid: SuitePyramid,
    data: Path,
    out: Path,
    *,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Make the run folder of a pyramid, as ``pyramid-moa import`` does.

    Args:
        pyramid: which.
        data: the folder that ``recorded`` and ``recorded_other`` are in.
        out: the folder that run folders are made in.
        say: shown what was kept and assumed.

    Returns:
        The run folder, ``out`` / name of the pyramid.

    Raises:
        DataError: a table is missing or another one.
        RunFolderError: the run folder is there already.
    """
    run = out / pyramid.name
    import_recorded(
        [data / table for table in pyramid.tables],
        members=pyramid.members,
        oracle=pyramid.oracle,
        out=run,
        prices=read_prices(PRICES),
        grader_name=pyramid.grader,
        say=say,
    )
    return run
