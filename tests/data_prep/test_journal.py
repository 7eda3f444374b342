import numpy as np

from pyramid_moa.data_prep.journal import append_to_journal, read_journal
from pyramid_moa.records import Generation, LogprobStatistics


def generation(number, **fields):
    return Generation(query_id=f"q{number}", model="m", **fields)


WHOLE = generation(
    0,
    response="zwölf\n\u2028 \N{GRINNING FACE}",
    answer="12",
    correct=True,
    finish_reason="stop",
    prompt_tokens=3,
    completion_tokens=4,
    latency_s=0.1 + 0.2,
    cost_usd=1e-9 / 3,
    logprobs=LogprobStatistics(mean=-0.1, minimum=-1 / 3),
    hidden_states={
        "layer-1/answer_mean": np.array([1.5, -65504.0, 6e-8], np.float16),
        "layer2/last_prompt": np.zeros(2, np.float16),
    },
)


def write(path, *rows):
    for row in rows:
        append_to_journal(path, row)


def test_what_is_read_is_what_was_written(tmp_path):
    path = tmp_path / "journal" / "m00-000000.jsonl"
    failed = generation(1, error="busy", can_retry=True)
    write(path, WHOLE, failed)
    found = read_journal(path)
    assert list(found.values()) == [WHOLE, failed]
    assert found["q1"].hidden_states is None
    for key, vector in WHOLE.hidden_states.items():
        assert found["q0"].hidden_states[key].dtype == np.float16
        np.testing.assert_array_equal(found["q0"].hidden_states[key], vector)


def test_where_there_is_none_there_are_no_rows(tmp_path):
    assert read_journal(tmp_path / "folder" / "j.jsonl") == {}
    assert list(tmp_path.iterdir()) == []


def test_of_several_rows_to_a_query_the_last_counts(tmp_path):
    write(tmp_path / "j", generation(0, error="busy", can_retry=True), generation(0, answer="4"))
    assert read_journal(tmp_path / "j")["q0"].answer == "4"


def test_wherever_it_was_cut_whole_rows_stay_and_more_can_follow(tmp_path):
    path = tmp_path / "j"
    write(path, WHOLE, generation(1, answer="5"))
    content = path.read_bytes()
    first_end = content.index(b"\n", 1)
    for cut in [*range(0, len(content), 37), first_end - 1, first_end, len(content) - 2]:
        path.write_bytes(content[:cut])
        expected = [
            name for name, end in (("q0", first_end), ("q1", len(content) - 1)) if cut >= end
        ]
        assert list(read_journal(path)) == expected
        write(path, generation(2, answer="6"))
        assert list(read_journal(path)) == [*expected, "q2"]
