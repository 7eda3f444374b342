import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pyramid_moa.backends.generation_recorder import GenerationRecorder
from pyramid_moa.backends.hidden_states_file import to_float16
from pyramid_moa.backends.stop_texts import StopTexts
from pyramid_moa.errors import BackendError

PROMPT = torch.tensor([[0, 5], [6, 7]])
END = 1


def record(chosen, *, stop_texts=None):
    """Play one call of generate for two rows; chosen [T, 2] are the tokens it takes."""
    recorder = GenerationRecorder(
        prompt_length=2, end_ids=[END], stop_texts=stop_texts, hidden_states=None
    )
    ids, scores = PROMPT, []
    torch.manual_seed(0)
    for tokens in chosen:
        scores.append(torch.randn(2, 9))
        assert recorder(ids, scores[-1]) is scores[-1]
        ids = torch.cat([ids, torch.tensor(tokens)[:, None]], dim=1)
        if stop_texts is not None:
            stop_texts(ids, scores[-1])
    recorder.finish(ids)
    return recorder, [step.log_softmax(-1) for step in scores]


def test_each_row_has_the_log_probabilities_of_its_own_tokens():
    recorder, scores = record([(3, 4), (1, 5), (0, 6)])
    assert recorder.logprobs(0) == pytest.approx([float(scores[0][0, 3]), float(scores[1][0, 1])])
    assert recorder.logprobs(1) == pytest.approx(
        [float(scores[0][1, 4]), float(scores[1][1, 5]), float(scores[2][1, 6])]
    )
    assert recorder.ended(0)
    assert not recorder.ended(1)
    assert recorder.hidden_states(0) == {}


def test_a_row_may_end_with_its_first_and_with_its_last_token():
    recorder, _ = record([(1, 4), (1, 5), (1, 1)])
    assert len(recorder.logprobs(0)) == 1
    assert len(recorder.logprobs(1)) == 3
    assert recorder.ended(0)
    assert recorder.ended(1)


def test_a_stop_text_ends_a_row():
    def decode(ids):
        return ["".join("..abcdefg"[token] for token in row) for row in ids.tolist()]

    stop_texts = StopTexts(("bc", "ag"), decode=decode, prompt_length=2)
    recorder, scores = record([(3, 2), (4, 8), (4, 8)], stop_texts=stop_texts)
    assert stop_texts.stopped.tolist() == [True, True]
    assert recorder.logprobs(0) == pytest.approx([float(scores[0][0, 3]), float(scores[1][0, 4])])
    assert recorder.ended(0)
    assert recorder.ended(1)


def test_a_stop_text_is_found_however_far_its_tokens_reach():
    def decode(ids):
        return ["".join("x" if token else "" for token in row) for row in ids.tolist()]

    stop_texts = StopTexts(("xxxx",), decode=decode, prompt_length=1)
    ids = torch.zeros(1, 1, dtype=torch.long)
    for count in range(1, 5):
        ids = torch.cat([ids, torch.tensor([[0, 0, 1]])], dim=1)
        assert stop_texts(ids, torch.zeros(1, 1)).tolist() == [count == 4]


@given(hnp.arrays(np.float32, st.integers(0, 8), elements=st.floats(-65504, 65504, width=32)))
def test_casting_keeps_what_fits(vector):
    found = to_float16(vector)
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, vector.astype(np.float16))
    assert np.isfinite(found).all()


@pytest.mark.parametrize("value", [65505.0, -1e6, np.inf, -np.inf, np.nan])
def test_casting_refuses_what_does_not(value):
    vector = np.array([0.0, value, 1.0], dtype=np.float32)
    with pytest.raises(BackendError, match=r"does not fit into float16.*65504.*another layer"):
        to_float16(vector)
