"""How a token's characters are found in the text of an answer."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyramid_moa.backends.answer_text import answer_text

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def tokenizer(backend):
    return backend._tokenizer


def check_spans(answer):
    starts = [start for start, _ in answer.spans]
    ends = [end for _, end in answer.spans]
    assert starts == sorted(starts)
    assert ends == sorted(ends)
    assert all(0 <= start <= end <= len(answer.text) for start, end in answer.spans)


@given(st.text(max_size=20))
@settings(max_examples=60, deadline=None)
def test_spans_cover_the_text_whatever_its_characters(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    found = answer_text(tokenizer, ids, ())
    assert found.text == text
    check_spans(found)
    covered = {at for start, end in found.spans for at in range(start, end)}
    assert covered == set(range(len(text)))


@given(st.lists(st.integers(0, 300), max_size=12), st.sampled_from(["a", "1", "�", "ma"]))
@settings(max_examples=60, deadline=None)
def test_spans_of_bytes_that_are_no_text_stay_in_order(tokenizer, ids, stop):
    ids = [number % len(tokenizer) for number in ids]
    plain = answer_text(tokenizer, ids, ())
    check_spans(plain)
    found = answer_text(tokenizer, ids, (stop,))
    check_spans(found)
    assert found.stopped == (stop in plain.text)
    assert stop not in found.text
    assert plain.text.startswith(found.text)


def test_every_part_of_a_character_covers_it(tokenizer):
    ids = tokenizer("3€ 🍎4")["input_ids"]
    found = answer_text(tokenizer, ids, ())
    covers = [[n for n, (start, end) in enumerate(found.spans) if start <= at < end]
              for at in range(len(found.text))]  # fmt: skip
    assert [len(tokens) for tokens in covers] == [1, 3, 1, 4, 1]


def test_a_token_that_loses_its_space_alone():
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<unk>": 0, "\u2581the": 1, "\u2581answer": 2, "\u25817": 3}
    vocabulary |= {f"<0x{byte:02X}>": 4 + byte for byte in range(256)}
    plain = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    plain.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="<unk>")
    # Byte tokens write an incomplete apple as one mark a byte: longer than the apple itself.
    apple = [4 + byte for byte in "🍎".encode()]
    found = answer_text(tokenizer, [1, 2, *apple, 3], ())
    assert found.text == "the answer🍎 7"
    assert found.spans == [(0, 3), (3, 10), *[(10, 11)] * 4, (11, 13)]
