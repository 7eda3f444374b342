"""What the connector's worker side remembers of a request, without an engine around it."""

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from vllm_server import skip_without_vllm

from pyramid_moa.backends.hidden_states_file import new_name, states_path

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(200)]

HIDDEN_SIZE = 4


def test_two_requests_of_one_name_keep_their_own_prompt_lengths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_without_vllm()
    from pyramid_moa.backends import vllm_connector
    from pyramid_moa.backends.vllm_connector import HiddenStatesConnector, PooledSave

    # Which of two requests a server finishes first, and when it writes, can't be chosen from
    # outside: this is a worker's connector as far as it writes.
    connector = object.__new__(HiddenStatesConnector)
    connector._is_tp_rank_zero = True
    connector._numbers = itertools.count()
    connector._written = itertools.count(1)
    connector._prompt_lengths = {}
    connector._req_copy_events = {}
    connector._folder = tmp_path
    connector._kept_at = {"1": 0}
    connector.last_layers = frozenset()
    # [blocks, layers, block size, H]: position p of block b holds 10 b + p.
    positions = 10.0 * torch.arange(2)[:, None] + torch.arange(8)
    connector._kv_cache = positions[:, None, :, None].expand(2, 1, 8, HIDDEN_SIZE).contiguous()
    written, errors = [], []
    monkeypatch.setattr(
        vllm_connector,
        "write_states",
        lambda path, vectors: written.append((path, vectors["layer1/last_prompt"])),
    )
    monkeypatch.setattr(
        connector, "_on_write_done", lambda _, future: errors.append(future.exception())
    )
    path, may_write = states_path(tmp_path, new_name()), threading.Event()
    with ThreadPoolExecutor(1) as writers:
        connector._executor = writers
        writers.submit(may_write.wait)
        for block, (prompt, tokens) in enumerate([(5, 7), (2, 4)]):
            connector._submit_async_write(
                PooledSave(
                    req_id=str(block),
                    filename=str(path),
                    token_ids=torch.zeros(tokens),
                    block_ids=[block],
                    prompt_length=prompt,
                )
            )
        may_write.set()
    assert errors == [None, None]
    assert [to for to, _ in written] == [path, path]
    np.testing.assert_array_equal(written[0][1], np.full(HIDDEN_SIZE, 4.0))
    np.testing.assert_array_equal(written[1][1], np.full(HIDDEN_SIZE, 11.0))
    assert connector._prompt_lengths == {}
