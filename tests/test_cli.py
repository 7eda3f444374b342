"""The command line: what it says, what it refuses, and the whole way through it."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save

from pyramid_moa.cli import main
from synthetic import MEMBERS, ORACLE, write_recorded_table

VERBS = (
    "demo",
    "label",
    "import",
    "train",
    "train-verifier",
    "evaluate",
    "threshold",
    "benchmark",
    "answer",
    "serve",
    "up",
    "export",
)
MEMBER_FLAGS = [flag for name in MEMBERS for flag in ("--member", name)]
QUICK = "network: {units: 8, seeds: 4}\noptimiser: {max_epochs: 15, learning_rate: 0.005}\n"

HELP = """
import json, resource, sys
from pyramid_moa.cli import main
try:
    main(["--help"])
except SystemExit as end:
    assert end.code == 0
used = resource.getrusage(resource.RUSAGE_SELF)
sys.stderr.write(json.dumps([used.ru_utime + used.ru_stime, sorted(sys.modules)]))
"""


def test_help_is_quick_and_loads_nothing_heavy():
    seconds = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", HELP], capture_output=True, text=True, check=True
        )
        used, modules = json.loads(done.stderr)
        seconds.append(used)
        heavy = {"torch", "lightning", "transformers", "numpy", "pyarrow", "datasets", "openai"}
        assert not heavy & set(modules)
        assert len(modules) < 400  # 337, and the same on every machine
    assert min(seconds) < 0.7  # 0.2 where packages are compiled
    for verb in VERBS:
        assert verb in done.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb, capsys):
    with pytest.raises(SystemExit) as end:
        main([verb, "--help"])
    assert end.value.code == 0
    assert "--" in capsys.readouterr().out


def test_the_version(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert "0.1.0" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["train"],
        ["train", "--run", "x"],
        ["train-verifier", "--run", "x", "--out", "y"],
        ["train", "--run", "x", "--out", "y", "--speed", "high"],
        ["answer", "--pyramid", "embedded", "--input", "q.jsonl"],
        ["up"],
        ["up", "--pyramid", "embedded", "--timeout", "0"],
        ["evaluate", "--run", "x", "--out", "y", "--seed", "many"],
        ["import", "--member", "a", "--oracle", "b", "--out", "c"],
    ],
)
def test_wrong_arguments(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 1
    assert shown.err.startswith("pyramid-moa")
    assert "--help" in shown.err
    assert not list(tmp_path.iterdir())


@pytest.fixture
def refused(capsys, tmp_path, monkeypatch):
    """Runs a command that has to end with status 2, one line, and nothing written."""
    monkeypatch.chdir(tmp_path)

    def check(*arguments):
        before = tree(tmp_path)
        assert main([str(argument) for argument in arguments]) == 2
        shown = capsys.readouterr()
        lines = [line for line in shown.err.splitlines() if line.startswith("pyramid-moa ")]
        assert len(lines) == 1, shown.err
        assert shown.err.endswith(lines[0] + "\n")
        assert "Traceback" not in shown.err
        assert shown.out == ""
        assert tree(tmp_path) == before
        assert lines[0].startswith(f"pyramid-moa {arguments[0]}: ")
        return lines[0]

    return check


def tree(folder):
    return {
        path.relative_to(folder): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def import_flags(*tables, out="run"):
    return ["import", *tables, *MEMBER_FLAGS, "--oracle", ORACLE, "--out", out]


class TestImport:
    def test_missing_file(self, refused):
        assert "nowhere.parquet: no such file" in refused(*import_flags("nowhere.parquet"))

    def test_no_parquet(self, refused, tmp_path):
        (tmp_path / "t.parquet").write_bytes(b"\xff\xfe text")
        assert "not a parquet table" in refused(*import_flags("t.parquet"))

    def test_wrong_column(self, refused, tmp_path, recorded_table):
        table = pq.read_table(recorded_table)
        pq.write_table(table.rename_columns({"question": "prompt"}), tmp_path / "t.parquet")
        assert "missing question; found" in refused(*import_flags("t.parquet"))

    def test_empty_table(self, refused, tmp_path, recorded_table):
        pq.write_table(pq.read_table(recorded_table).slice(0, 0), tmp_path / "t.parquet")
        assert "empty table" in refused(*import_flags("t.parquet"))

    def test_an_answer_twice(self, refused, recorded_table):
        assert "found two" in refused(*import_flags(recorded_table, recorded_table))

    def test_unknown_model(self, refused, recorded_table):
        flags = ["--member", "large", "--member", "huge", "--oracle", ORACLE, "--out", "run"]
        message = refused("import", recorded_table, *flags)
        assert "no recording fits 'huge'; found models: 'large'" in message

    def test_unknown_grader(self, refused, recorded_table):
        message = refused(*import_flags(recorded_table), "--grader", "oracle-bone")
        assert "unknown grader 'oracle-bone'" in message

    def test_wrong_prices(self, refused, recorded_table, tmp_path):
        (tmp_path / "prices.yaml").write_text("large: {input: -1, output: 1}\n")
        message = refused(*import_flags(recorded_table), "--prices", "prices.yaml")
        assert "price.input" in message


class TestRuns:
    @pytest.mark.parametrize("verb", ["train", "evaluate", "benchmark"])
    def test_no_run(self, refused, verb):
        message = refused(verb, "--run", "nowhere", "--out", "out")
        assert "nowhere: expected a run folder" in message

    def test_no_run_to_train_a_verifier_on(self, refused):
        flags = ["--run", "nowhere", "--model", "x", "--out", "out"]
        assert "nowhere: expected a run folder" in refused("train-verifier", *flags)

    def test_threshold_without_a_run(self, refused, trained):
        flags = ["--router", trained, "--target-accuracy", "0.9"]
        assert "expected a run folder" in refused("threshold", "--run", "nowhere", *flags)

    def test_a_damaged_run(self, refused, imported_run, tmp_path):
        shutil.copytree(imported_run, tmp_path / "run")
        (tmp_path / "run" / "labels.parquet").write_bytes(b"no table")
        assert "labels.parquet" in refused("train", "--run", "run", "--out", "out")

    def test_a_split_that_is_not_there(self, refused, imported_run):
        flags = ["--run", imported_run, "--out", "out", "--split", "mine"]
        assert "expected queries of the split 'mine'" in refused("evaluate", *flags)

    def test_out_is_something_else(self, refused, imported_run, tmp_path):
        (tmp_path / "thesis").mkdir()
        (tmp_path / "thesis" / "chapter.txt").write_text("mine")
        flags = ["--run", imported_run, "--out", "thesis"]
        assert "found other files" in refused("train", *flags)
        assert "folder of something else" in refused("evaluate", *flags)

    def test_a_folder_that_may_not_be_written_to(self, refused, imported_run, monkeypatch):
        def full(*_, **__):
            raise OSError(28, "No space left on device", "out")

        monkeypatch.setattr("pyramid_moa.training.train._work_folder", full)
        assert "No space left" in refused("train", "--run", imported_run, "--out", "out")


class TestTrainConfig:
    @pytest.mark.parametrize(
        ("text", "word"),
        [
            ("speed: high\n", "speed"),
            ("network: {layers: 9}\n", "layers"),
            ("seed: many\n", "seed"),
            ("network: {units: 0}\n", "network.units: 1 or more"),
            ("groups: [agreement, horoscope]\n", "horoscope"),
            ("- a\n- list\n", "expected keys"),
            ("a: [\n", "not valid YAML"),
            ("hidden_states: layer-1/last_prompt\n", "it has none"),
        ],
    )
    def test_wrong_files(self, refused, imported_run, tmp_path, text, word):
        (tmp_path / "train.yaml").write_text(text)
        flags = ["--run", imported_run, "--out", "out", "--config", "train.yaml"]
        assert word in refused("train", *flags)

    def test_wrong_files_of_a_verifier(self, refused, imported_run, tmp_path):
        (tmp_path / "train.yaml").write_text("tokens: 3\n")
        flags = ["--run", imported_run, "--model", "x", "--out", "out", "--config", "train.yaml"]
        assert "tokens: 32 or more" in refused("train-verifier", *flags)

    def test_missing_and_not_utf8(self, refused, imported_run, tmp_path):
        flags = ["--run", imported_run, "--out", "out", "--config", "train.yaml"]
        assert "No such file" in refused("train", *flags)
        (tmp_path / "train.yaml").write_bytes(b"seed: 1 # \xff\n")
        assert "expected UTF-8 text" in refused("train", *flags)


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def without_a_tensor(path):
    tensors = load_file(path)
    del tensors["query.offset"]
    path.write_bytes(save(tensors))


def other_version(path):
    content = json.loads(path.with_name("router.json").read_text())
    path.with_name("router.json").write_text(json.dumps(content | {"format_version": 99}))


def pickled(path):
    import pickle

    path.write_bytes(pickle.dumps({"weights": [1.0]}))


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (flipped, "router.safetensors: damaged"),
        (lambda path: flipped(path.with_name("router.json")), "router.json: "),
        (without_a_tensor, "router.safetensors: damaged"),
        (other_version, "expected format version 2, found 99"),
        (pickled, "router.safetensors: damaged"),
        (Path.unlink, "missing router.safetensors"),
        (lambda path: path.with_name("router.json").write_bytes(b"\xff"), "not UTF-8"),
    ],
)
@pytest.mark.parametrize("verb", ["evaluate", "threshold", "answer", "export", "train"])
def test_damaged_checkpoints(refused, trained, imported_run, tmp_path, damage, word, verb):
    shutil.copytree(trained, tmp_path / "ck")
    damage(tmp_path / "ck" / "router.safetensors")
    (tmp_path / "q.jsonl").write_text('{"question": "What is 1 + 1?"}\n')
    flags = {
        "evaluate": ["--run", imported_run, "--router", "ck", "--out", "out"],
        "threshold": ["--run", imported_run, "--router", "ck", "--max-drop", "0.1"],
        "answer": [
            *("--pyramid", write_pyramid(tmp_path), "--router", "ck"),
            *("--input", "q.jsonl", "--output", "a.jsonl"),
        ],
        "export": ["--router", "ck", "--out", "out"],
        "train": ["--run", imported_run, "--out", "out", "--init", "ck"],
    }
    assert word in refused(verb, *flags[verb])


def write_pyramid(folder, **fields):
    content = {
        "members": [{"name": name, "model": "nowhere"} for name in MEMBERS],
        "oracles": [{"name": ORACLE, "model": "nowhere"}],
    } | fields
    path = folder / "pyramid.yaml"
    path.write_text(json.dumps(content))  # JSON is YAML
    return path


class TestQuestions:
    """The same data sets for label and answer."""

    @pytest.fixture(params=["label", "answer"])
    def asked(self, request, refused, tmp_path):
        pyramid = write_pyramid(tmp_path)

        def ask(source):
            if request.param == "label":
                return refused("label", "--dataset", source, "--pyramid", pyramid, "--out", "run")
            flags = ["--pyramid", pyramid, "--input", source, "--output", "a.jsonl"]
            # What it says of the vote rule comes after the questions have been read.
            return refused("answer", *flags)

        return ask

    def test_missing_file(self, asked):
        assert "nowhere.jsonl" in asked("nowhere.jsonl")

    def test_no_source(self, asked):
        assert "unknown data set" in asked("nowhere")

    @pytest.mark.parametrize(
        ("content", "word"),
        [
            (b'{"prompt": "What?"}\n', "column 'question'"),
            (b"", "empty"),
            (b'{"id": "1", "question": "A"}\n{"id": "1", "question": "B"}\n', "'1' several times"),
            (b'{"question": "\xff"}\n', "UTF-8"),
            (b"{\n", "q.jsonl"),
        ],
    )
    def test_wrong_content(self, asked, tmp_path, content, word):
        (tmp_path / "q.jsonl").write_bytes(content)
        assert word in asked("q.jsonl")


class TestPyramids:
    def test_nothing_to_serve(self, refused):
        message = refused("up", "--pyramid", "embedded")
        assert "expected entries with a port, found none among member-a, member-b" in message

    @pytest.fixture
    def answered(self, refused, tmp_path):
        (tmp_path / "q.jsonl").write_text('{"question": "What is 1 + 1?"}\n')

        def answer(pyramid, *more):
            flags = ["--pyramid", pyramid, "--input", "q.jsonl", "--output", "a.jsonl"]
            return refused("answer", *flags, *more)

        return answer

    def test_missing(self, answered):
        assert "nowhere.yaml" in answered("nowhere.yaml")

    def test_unknown_key(self, answered, tmp_path):
        assert "colour" in answered(write_pyramid(tmp_path, colour="blue"))

    def test_unknown_model(self, answered, tmp_path):
        assert "transformers can't load 'nowhere'" in answered(write_pyramid(tmp_path))

    def test_operating_point_without_a_router(self, answered, tmp_path):
        message = answered(write_pyramid(tmp_path), "--operating-point", "vote-cost")
        assert "expected a router" in message

    def test_the_input_is_not_overwritten(self, refused, tmp_path):
        (tmp_path / "q.jsonl").write_text('{"question": "What is 1 + 1?"}\n')
        flags = ["--input", "q.jsonl", "--output", "./q.jsonl"]
        assert "the input" in refused("answer", "--pyramid", write_pyramid(tmp_path), *flags)


class TestTargets:
    def test_export_wants_one_target(self, refused, trained):
        assert "expected one of" in refused("export", "--router", trained)
        more = ["--out", "a", "--onnx", "b.onnx"]
        assert "expected one of" in refused("export", "--router", trained, *more)

    def test_threshold_wants_targets(self, refused, trained, imported_run):
        flags = ["threshold", "--run", imported_run, "--router", trained]
        assert "expected one or more of" in refused(*flags)
        assert "found 2" in refused(*flags, "--max-drop", "0.1", "--target-accuracy", "2")
        assert "from 0 to 1" in refused(*flags, "--target-accuracy", "93")
        assert "from 0 to inf" in refused(*flags, "--target-cost-ratio", "-0.5")
        assert "not attainable" in refused(*flags, "--target-cost-ratio", "0.0001")


def test_an_interruption_is_said(monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("pyramid_moa.training.train.train", interrupt)
    assert main(["train", "--run", "x", "--out", "y"]) == 130
    assert capsys.readouterr().err == "pyramid-moa train: interrupted\n"


def test_a_missing_extra_names_the_command(monkeypatch, capsys, tmp_path):
    class Absent:
        def find_spec(self, name, path=None, target=None):
            if name == "sklearn":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.delitem(sys.modules, "sklearn", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Absent(), *sys.meta_path])
    assert main(["train", "--run", str(tmp_path), "--out", "out"]) == 2
    assert "pip install 'pyramid-moa[train]'" in capsys.readouterr().err


def test_the_whole_way(tmp_path, capsys):
    """import -> train -> evaluate -> threshold -> benchmark -> export, as a user types them."""
    table = write_recorded_table(tmp_path / "table.parquet")
    config = tmp_path / "train.yaml"
    config.write_text(QUICK)
    run, router = tmp_path / "run", tmp_path / "router"

    def said(*arguments):
        assert main([str(argument) for argument in arguments]) == 0
        return capsys.readouterr()

    shown = said(*import_flags(table, out=run))
    assert shown.out == f"run: {run}\n"
    assert "300 of 300 questions" in shown.err
    shown = said("train", "--run", run, "--out", router, "--config", config)
    assert f"checkpoint: {router}" in shown.out
    shown = said("evaluate", "--run", run, "--router", router, "--out", tmp_path / "report")
    assert "hindsight" in shown.out
    assert (tmp_path / "report" / "report.html").is_file()
    shown = said("evaluate", "--run", run, "--out", tmp_path / "vote", "--split", "all")
    assert "vote rule (all agree)" in shown.out
    promise = ["threshold", "--run", run, "--router", router, "--max-drop"]
    shown = said(*promise, "0.2")
    assert shown.out.startswith("operating point target: threshold ")
    assert "promised at confidence 0.95 (learn then test" in shown.out
    assert main([str(argument) for argument in (*promise, "0.005")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "not attainable at confidence 0.95 with the 50 questions of calibration" in line
    shown = said(*promise, "0.005", "--no-promise", "--name", "measured")
    assert "measured, not guaranteed" in shown.out
    flags = ["--router", router, "--operating-point", "target", "--out", tmp_path / "report"]
    said("evaluate", "--run", run, *flags)
    metrics = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert metrics["operating_point"]["name"] == "target"
    flags = ["--config", config, "--folds", "2", "--seeds", "1", "--out", tmp_path / "bench"]
    shown = said("benchmark", "--run", run, *flags)
    assert "run: 300 queries, failure AUROC" in shown.out
    assert (tmp_path / "bench" / "benchmark.csv").is_file()
    assert (tmp_path / "bench" / "rules.csv").is_file()
    assert f"page: {tmp_path / 'bench' / 'report.html'}" in shown.out
    assert (tmp_path / "bench" / "report.html").is_file()
    said("export", "--router", router, "--out", tmp_path / "exported")
    assert (tmp_path / "exported" / "README.md").is_file()


BLOCKED = """
import importlib.machinery
import sys

ABSENT = {"lightning", "wandb", "datasets", "peft", "sklearn", "matplotlib", "onnx", "pandas"}


class Finder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in ABSENT else super().find_spec(name, path, target)


sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Finder
"""


def test_answer_needs_nothing_of_the_training(
    repository, tmp_path, trained_on_hidden, imported_run
):
    """With a checkpoint, in a process where the libraries of the extras are not to be had."""
    models = repository / "src" / "pyramid_moa" / "embedded"
    if not (models / "pyramid.yaml").is_file():
        pytest.skip("the embedded pyramid is not there yet")
    (tmp_path / "sitecustomize.py").write_text(BLOCKED)
    router = tmp_path / "router"
    make_router_for_embedded(trained_on_hidden, router, models)
    questions = tmp_path / "q.jsonl"
    questions.write_text('{"question": "Tom has 3 apples and buys 4 more. How many has he?"}\n')
    paths = [str(tmp_path), str(repository / "src"), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pyramid_moa", "answer", "--pyramid", "embedded"),
            *("--router", router, "--input", questions, "--output", tmp_path / "a.jsonl"),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    (row,) = map(json.loads, (tmp_path / "a.jsonl").read_text().splitlines())
    assert row["rule"] == "router"
    assert "1 questions, " in done.stdout
    train = subprocess.run(
        [
            *(sys.executable, "-m", "pyramid_moa", "train"),
            *("--run", imported_run, "--out", tmp_path / "no"),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert train.returncode == 2
    assert "pip install 'pyramid-moa[train]'" in train.stderr


def make_router_for_embedded(checkpoint, out, models):
    """A router's weights as they come; its members are those of the embedded pyramid."""
    from dataclasses import replace

    import torch

    from pyramid_moa.data_prep.pyramid import load_pyramid
    from pyramid_moa.router_model.card import RouterMember
    from pyramid_moa.router_model.features import FeatureSpec
    from pyramid_moa.router_model.network import NetworkShape, RouterNetwork
    from pyramid_moa.router_model.router import Router

    pyramid = load_pyramid("embedded")
    spec = FeatureSpec(groups=("agreement", "confidence"))
    sizes = [
        json.loads((models / name / "config.json").read_text())["hidden_size"]
        for name in pyramid.member_names
    ]
    shape = NetworkShape(
        answer_features=len(spec.answer_names),
        relation_features=len(spec.relation_names),
        question_features=len(spec.question_names),
        members=len(sizes),
        hidden_sizes=tuple(sizes),
        components=2,
        code=2,
        units=2,
        seeds=1,
    )
    network = RouterNetwork(shape)
    network.reset(torch.Generator().manual_seed(0))
    members = [
        RouterMember(name=name, hidden_size=size, logprobs=True)
        for name, size in zip(pyramid.member_names, sizes, strict=True)
    ]
    card = replace(
        Router.load(checkpoint).card,
        members=members,
        grader=pyramid.grader,
        feature_groups=list(spec.groups),
        feature_names=list(spec.names),
        network=shape,
    )
    Router(card, network).save(out)


def test_the_module_runs_as_a_program():
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "pyramid_moa", "train", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "--run" in done.stdout
    assert time.perf_counter() - started < 30
