import sys

import pytest

from pyramid_moa import errors
from pyramid_moa.errors import (
    BackendError,
    BudgetError,
    CheckpointError,
    ConfigError,
    DataError,
    MissingExtraError,
    PyramidError,
    RunFolderError,
    import_extra,
)


def test_every_error_is_one_that_the_command_line_prints():
    for kind in (BudgetError, CheckpointError, ConfigError, DataError, MissingExtraError):
        assert issubclass(kind, PyramidError)
    assert issubclass(RunFolderError, DataError)
    assert issubclass(BackendError, PyramidError)
    assert {"import_extra", *errors.__all__} == set(errors.__all__)


@pytest.mark.parametrize("can_retry", [True, False])
def test_a_backends_error_carries_whether_a_retry_can_help(can_retry):
    error = BackendError("server busy", can_retry=can_retry)
    assert (str(error), error.can_retry) == ("server busy", can_retry)


def test_backends_errors_are_final_unless_they_say_otherwise():
    assert not BackendError("no such model").can_retry


def test_what_is_there_is_imported():
    assert import_extra("json.decoder", extra="x", purpose="y").__name__ == "json.decoder"


@pytest.mark.parametrize("module", ["no_such_package", "no_such_package.part"])
def test_what_is_missing_names_the_pip_command(module):
    with pytest.raises(MissingExtraError) as caught:
        import_extra(module, extra="train", purpose="pyramid-moa train")
    assert str(caught.value) == (
        "no_such_package is needed for pyramid-moa train and is not installed: "
        "run pip install 'pyramid-moa[train]'"
    )


@pytest.mark.parametrize("missing", ["dependency_not_there", "brok"])
def test_a_broken_installation_is_not_explained_away(tmp_path, monkeypatch, missing):
    (tmp_path / "broken_one.py").write_text(
        f"raise ModuleNotFoundError('No module named', name={missing!r})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError) as caught:
        import_extra("broken_one", extra="train", purpose="training")
    assert not isinstance(caught.value, MissingExtraError)
    sys.modules.pop("broken_one", None)
