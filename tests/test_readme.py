"""The commands and the Python of the README, run as they stand there."""

import json
import re
import shlex
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pyramid_moa.cli import main
from pyramid_moa.data_prep.word_problems import make_problems

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def write_inputs(folder: Path) -> None:
    problems = make_problems(split="validation", count=220, seed=11)
    with (folder / "questions.jsonl").open("w", encoding="utf-8") as file:
        for problem in problems:
            row = {"question": problem.question, "answer": problem.answer}
            file.write(json.dumps(row) + "\n")
    with (folder / "new.jsonl").open("w", encoding="utf-8") as file:
        for problem in make_problems(split="test", count=6, seed=11):
            file.write(json.dumps({"question": problem.question}) + "\n")
    rows = [
        {
            "question_id": index,
            "question": problem.question,
            "gold": problem.answer,
            "model": model,
            "answer": problem.answer if (index + shift) % 3 else "0",
        }
        for index, problem in enumerate(problems[:30])
        for shift, model in enumerate(("small-a", "small-b", "big"))
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "answers.parquet")


@pytest.mark.timeout(400)
def test_readme_commands_and_python_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_inputs(tmp_path)
    monkeypatch.chdir(tmp_path)
    commands = [
        shlex.split(line)
        for block in blocks("bash")
        for line in block.replace("\\\n", " ").splitlines()
        if line.startswith("pyramid-moa ")
    ]
    verbs = {command[1] for command in commands}
    assert verbs == {"label", "train", "evaluate", "threshold", "import", "export", "answer"}
    for command in commands:
        assert main(command[1:]) == 0, (command, capsys.readouterr().err)
    answers = (tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(answers) == 6
    assert all(json.loads(line)["reason"] for line in answers)
    assert (tmp_path / "reports" / "mine" / "report.html").is_file()
    assert (tmp_path / "exported" / "mine.onnx").stat().st_size > 0
    (snippet,) = blocks("python")
    capsys.readouterr()
    exec(compile(snippet, "README.md", "exec"), {})
    assert "members agree" in capsys.readouterr().out


def test_readme_links_lead_somewhere() -> None:
    root = Path(__file__).parents[1]
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (root / target).exists(), target


def test_make_targets_of_the_readme_exist() -> None:
    makefile = (Path(__file__).parents[1] / "Makefile").read_text(encoding="utf-8")
    targets = [
        line.split()[1]
        for block in blocks("bash")
        for line in block.splitlines()
        if line.startswith("make ")
    ]
    assert targets == ["demo", "test"]
    for target in targets:
        assert f"\n{target}:" in makefile
