"""The demo, on fewer questions: every stage is the real one."""

import json
from pathlib import Path

import pytest

from pyramid_moa.demo import demo
from pyramid_moa.errors import DataError


@pytest.mark.timeout(400)
def test_demo_goes_the_whole_path(tmp_path: Path) -> None:
    shown: list[str] = []
    out = tmp_path / "demo"
    metrics = demo(out, seed=3, show=shown.append, train_questions=160, test_questions=48)
    text = "\n".join(shown)
    assert metrics == json.loads((out / "report" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["n"] == 48
    assert metrics["oracle"]["accuracy"] > metrics["ensemble"]["accuracy"]
    assert text.count("  Q: ") == 5
    for part in ("oracle alone", "vote rule (all agree)", "router, parity", "stand-in prices"):
        assert part in text
    assert (out / "report" / "report.html").is_file()
    assert str(out / "report" / "report.html") in text
    # A second demo in the same folder takes the place of the first.
    first = (out / "run" / "queries.parquet").read_bytes()
    demo(out, seed=4, show=shown.append, train_questions=120, test_questions=24)
    assert (out / "run" / "queries.parquet").read_bytes() != first


def test_demo_leaves_other_files_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(DataError, match="other files"):
        demo(tmp_path, seed=0, show=lambda _: None)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
