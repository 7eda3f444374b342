"""The project's exceptions: each says what was expected, what was found and what to do."""

import importlib
from types import ModuleType

__all__ = [
    "BackendError",
    "BudgetError",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "MissingExtraError",
    "PyramidError",
    "RunFolderError",
    "import_extra",
]


class PyramidError(Exception):
    """Base of every error that a user can mend; the command line prints it as one line."""


class ConfigError(PyramidError, ValueError):
    """A configuration file or flag is wrong."""


class DataError(PyramidError, ValueError):
    """A data set, table or answer file is wrong."""


class RunFolderError(DataError):
    """A run folder is missing, incomplete, or belongs to something else."""


class CheckpointError(PyramidError, ValueError):
    """A router checkpoint is missing, damaged, or does not fit its pyramid."""


class BackendError(PyramidError):
    """A model could not be loaded or reached."""

    def __init__(self, message: str, *, can_retry: bool = False) -> None:
        """Keep the message and whether trying again can help."""
        super().__init__(message)
        self.can_retry = can_retry


class BudgetError(PyramidError):
    """A run would cost more, or has cost more, than the user allowed."""


class MissingExtraError(PyramidError, ImportError):
    """A verb needs an optional dependency that is not installed."""


def import_extra(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import an optional dependency, or say which pip command brings it.

    Args:
        module: import name, such as ``"lightning.pytorch"``.
        extra: the extra of this package that installs it.
        purpose: what it is needed for, as the end of "... is needed for".

    Returns:
        The imported module.

    Raises:
        MissingExtraError: the module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # A module that is there but lacks a dependency of its own is a broken install, not ours to
        # explain.
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise MissingExtraError(
            f"{error.name} is needed for {purpose} and is not installed: "
            f"run pip install 'pyramid-moa[{extra}]'"
        ) from error
