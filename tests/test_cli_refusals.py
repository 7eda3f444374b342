"""What the command line refuses: with status 2, one line, and nothing written."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save

from pyramid_moa.cli import main
from synthetic import MEMBERS, ORACLE, import_flags


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
