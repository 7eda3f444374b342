"""Runs of ``label`` with tiny models, watched, and runs of ``import`` with rows made up."""

from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from label_case import QUESTIONS, write_pyramid, write_questions
from pyramid_moa.backends import open_backend
from pyramid_moa.cli import main
from pyramid_moa.data_prep import label as label_module
from pyramid_moa.data_prep.datasets import load_queries
from pyramid_moa.data_prep.import_recorded import import_recorded
from pyramid_moa.data_prep.labelled_run import read_labelled_run
from pyramid_moa.data_prep.pyramid import load_pyramid


class Asked:
    """Counts what is asked of the real models, and lets some of it go wrong."""

    def __init__(self):
        self.prompts = []
        self.opened = []
        self.closed = []
        self.fail = lambda name, text: None
        self.usage = True

    def open(self, spec, pyramid, *, hidden_states=None):
        self.opened.append(spec.name)
        return _Watched(self, open_backend(spec, hidden_states=hidden_states))


class _Watched:
    def __init__(self, asked, backend):
        self._asked = asked
        self._backend = backend
        self.name = backend.name

    def stream(self, prompts, sampling):
        """Eight at a time, and the last of them first."""
        asked, todo, first = self._asked, iter(prompts), 0
        while drawn := list(islice(todo, 8)):
            asked.prompts += [(self.name, prompt.messages[0].content) for prompt in drawn]
            outcomes = self._backend.generate(drawn, sampling)
            for index in reversed(range(len(drawn))):
                wrong = asked.fail(self.name, drawn[index].messages[0].content)
                yield first + index, wrong or outcomes[index]
            first += len(drawn)

    def close(self):
        self._asked.closed.append(self.name)
        self._backend.close()


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Where the questions, the pyramid and the finished run lie."""
    return tmp_path_factory.mktemp("label")


@pytest.fixture(scope="session")
def pyramid(folder, tiny_models):
    """Two members and an oracle of random parameters."""
    import torch

    torch.set_num_threads(1)
    return load_pyramid(write_pyramid(folder / "pyramid.yaml", tiny_models))


@pytest.fixture(scope="session")
def dataset(folder):
    """Questions with golds."""
    return load_queries(str(write_questions(folder / "questions.jsonl", QUESTIONS)))


@pytest.fixture(scope="session")
def finished(folder, pyramid, dataset):
    """A run of the command itself."""
    out = folder / "finished"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(label_module, "PART_ROWS", 8)
        arguments = ["label", "--dataset", str(folder / "questions.jsonl"), "--pyramid"]
        assert main([*arguments, str(folder / "pyramid.yaml"), "--out", str(out)]) == 0
    return out


@pytest.fixture
def asked(monkeypatch):
    """What ``label`` asks from here on, in chunks of eight."""
    monkeypatch.setattr(label_module, "PART_ROWS", 8)
    asked = Asked()
    monkeypatch.setattr(label_module, "open_model", asked.open)
    return asked


@pytest.fixture
def write(tmp_path):
    """``write(rows, name=..., drop=columns)``: a table as a file."""

    def write(rows, name="table.parquet", drop=()):
        path = tmp_path / name
        pq.write_table(pa.Table.from_pylist(rows).drop_columns(list(drop)), path)
        return path

    return write


@pytest.fixture
def import_rows(write, tmp_path):
    """Import rows as members Foo-8B and Bar-8B with the oracle Big-70B unless said otherwise."""

    def import_rows(rows, *, drop=(), **options):
        out = tmp_path / "run"
        options = {"members": ["Foo-8B", "Bar-8B"], "oracle": "Big-70B", "out": out, **options}
        import_recorded([write(rows, drop=drop)], **options)
        return read_labelled_run(out)

    return import_rows
