"""What every test may count on: no network, no telemetry, one thread, no window."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tiny_model import TinyModels

SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "WANDB_MODE": "offline",
    "WANDB_SILENT": "true",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MPLBACKEND": "Agg",
}
SHARE_THE_VLLM_SERVER = {
    "test_label_vllm_faults.py",
    "test_openai_hidden_states.py",
    "test_openai_vllm.py",
    "test_vllm_end_to_end.py",
}
# At import, before any library that reads them; programs that a test starts inherit them.
os.environ.update(SETTINGS)
# With --import-mode=importlib the helpers beside the tests are found nowhere else.
sys.path += [str(Path(__file__).parent), str(Path(__file__).parent / "backends")]
# The real server that several folders' tests ask.
pytest_plugins = ["vllm_server"]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep a file's tests on one process, and so files that share a server, which is costly."""
    from xdist.scheduler import LoadFileScheduling

    class SharedServers(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "vllm_server" if Path(file).name in SHARE_THE_VLLM_SERVER else file

    return SharedServers(config, log)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data(repository: Path) -> Path:
    """The recorded answers of real models, kept beside the checkout."""
    folder = repository.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("shared data absent: ../shared/data is not beside the checkout")
    return folder


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> "TinyModels":
    """Two members and an oracle of 60,000 random parameters."""
    from tiny_model import make_tiny_models

    return make_tiny_models(tmp_path_factory.mktemp("tiny-models"))


@pytest.fixture(scope="session")
def recorded_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 questions with answers of three members and an oracle, as recorded elsewhere."""
    from synthetic import write_recorded_table

    return write_recorded_table(tmp_path_factory.mktemp("table") / "sums.parquet")


@pytest.fixture(scope="session")
def imported_run(recorded_table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That table as a run folder: gold, worked answers, no log-probabilities."""
    from pyramid_moa.data_prep.import_recorded import import_recorded
    from synthetic import COSTS, MEMBERS, ORACLE

    out = tmp_path_factory.mktemp("runs") / "imported"
    import_recorded([recorded_table], members=MEMBERS, oracle=ORACLE, out=out, prices=COSTS)
    return out


@pytest.fixture(scope="session")
def labelled_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with hidden states, which carry the signal, log-probabilities and failed rows."""
    from synthetic import write_run

    return write_run(tmp_path_factory.mktemp("runs") / "labelled")


@pytest.fixture(scope="session")
def three_tier_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The labelled run with a mid oracle between members and oracle."""
    from synthetic import write_run

    return write_run(tmp_path_factory.mktemp("runs") / "three-tiers", mid_oracle=True)


@pytest.fixture(scope="session")
def trained(imported_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint trained on the imported run."""
    return _train(imported_run, tmp_path_factory.mktemp("checkpoints") / "trained")


@pytest.fixture(scope="session")
def trained_on_hidden(labelled_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that reads hidden states and log-probabilities."""
    return _train(labelled_run, tmp_path_factory.mktemp("checkpoints") / "on-hidden")


@pytest.fixture(scope="session")
def trained_on_three_tiers(three_tier_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that knows what a mid oracle's answers are worth."""
    return _train(three_tier_run, tmp_path_factory.mktemp("checkpoints") / "three-tiers")


def _train(run: Path, out: Path) -> Path:
    from pyramid_moa.training.train import train
    from synthetic import quick_config

    train(run, out, quick_config())
    return out
