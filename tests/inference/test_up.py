"""``up`` with stand-in servers: starts, losses, restarts and stops."""

import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from processes import children, command_line, free_port

from pyramid_moa.backends import HiddenStates, ModelSpec
from pyramid_moa.backends.server_guard import session_members
from pyramid_moa.data_prep.pyramid import Pyramid
from pyramid_moa.errors import BackendError, ConfigError
from pyramid_moa.inference import supervised_server
from pyramid_moa.inference.supervised_server import Patience
from pyramid_moa.inference.up import up

STAND_IN = str(Path(__file__).with_name("stand_in_server.py"))
PATIENCE = Patience(
    start_s=20.0,
    stop_s=2.0,
    check_every_s=0.05,
    check_timeout_s=2.0,
    failed_checks=3,
    restarts=2,
    first_pause_s=0.2,
)
# For servers that die: on a busy machine checks may fail before the death is seen.
SEES_DEATHS_ALONE = replace(PATIENCE, failed_checks=1000)


def guards():
    """The servers' guards, and not what else this process has started: wandb's service, say."""
    return [
        child
        for child in children(os.getpid())
        if any(word.endswith("server_guard.py") for word in command_line(child))
    ]


class Run:
    """One call of ``up`` in this process, and what it said."""

    def __init__(self, folder):
        self.logs = folder / "logs"
        self.said = []
        self.shown = []
        self.guards = []
        self.seen = {}

    def __call__(self, pyramid, *faults, when_up=None, when_said=None, patience=PATIENCE, **each):
        def show(text):
            self.shown.append(text)
            self.guards = guards()
            if when_up is not None:
                when_up()

        def say(text):
            self.said.append(text)
            if when_said is not None:
                when_said(text)

        def command(spec, hidden_states):
            self.seen[spec.name] = hidden_states
            flags = each.get(spec.name.replace("-", "_"), faults)
            return [sys.executable, STAND_IN, str(spec.port), *flags]

        up(pyramid, logs=self.logs, say=say, show=show, patience=patience, command=command)

    def log(self):
        return "".join(path.read_text() for path in sorted(self.logs.glob("*.log")))

    def says(self, pattern):
        return [text for text in self.said if re.search(pattern, text)]


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    # The stand-ins need no GPU, whatever is installed.
    monkeypatch.setattr("pyramid_moa.inference.up.is_cpu_build", lambda: True)
    # Started in the background or under nohup, the test process would ignore these.
    outside = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    result = Run(tmp_path)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    yield result
    # Whatever happened, nothing of it is left.
    assert not guards()
    assert not any(session_members(guard) for guard in result.guards)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    for number, handler in outside.items():
        signal.signal(number, handler)


def interrupt(number=signal.SIGINT):
    os.kill(os.getpid(), number)


def pyramid(**options):
    ports = [free_port(), free_port()]
    return Pyramid(
        members=[ModelSpec(name="small", model="m/small", backend="vllm", port=ports[0])],
        oracles=[ModelSpec(name="big", model="m/big", backend="vllm", port=ports[1])],
        **options,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_runs_until_it_is_told_to_stop(run, number):
    served = pyramid()
    run(served, when_up=lambda: interrupt(number))
    (table,) = run.shown
    small, big, last = table.splitlines()
    assert small == f"small  http://127.0.0.1:{served.members[0].port}/v1  m/small"
    assert big == f"big  http://127.0.0.1:{served.oracle.port}/v1  m/big"
    assert "Ctrl-C" in last
    assert run.said == ["stopping 2 servers"]
    assert sorted(path.name for path in run.logs.iterdir()) == [
        f"big-{served.oracle.port}.log",
        f"small-{served.members[0].port}.log",
    ]
    assert run.log().count("stand-in: loading") == 2


def test_progress_is_a_plain_line_where_there_is_no_terminal(run, capsys):
    run(pyramid(), when_up=interrupt)
    assert "servers up: 2/2\n" in capsys.readouterr().err


def test_members_get_the_hidden_states_and_the_oracle_none(run, tmp_path):
    wanted = HiddenStates(layers=(-1,), poolings=("answer_mean",))
    served = pyramid(hidden_states=wanted)
    root = tmp_path / f"pyramid-moa-{os.getuid()}"
    folder = root / f"port-{served.members[0].port}"
    root.mkdir(mode=0o700)
    folder.mkdir(mode=0o700)
    (folder / "left-behind.safetensors").write_bytes(b"of an earlier server")
    run(served, when_up=interrupt)
    assert run.seen == {"small": wanted, "big": None}
    assert list(root.iterdir()) == [folder]
    assert list(folder.iterdir()) == []
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_folder_for_hidden_states_that_others_can_write_to_is_refused(run, tmp_path):
    folder = tmp_path / f"pyramid-moa-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(BackendError, match="found mode 777"):
        run(pyramid(hidden_states=HiddenStates()))
    assert run.log() == ""


def test_a_folder_for_hidden_states_of_the_entrys_own_is_kept_as_it_is(run, tmp_path):
    own = tmp_path / "own" / "states"
    own.mkdir(parents=True)
    (own / "mine.safetensors").write_bytes(b"mine")
    spec = ModelSpec(
        name="small", model="m", backend="vllm", port=free_port(), hidden_states_dir=str(own)
    )
    oracle = ModelSpec(name="big", model="m/big")
    run(Pyramid(members=[spec], oracles=[oracle], hidden_states=HiddenStates()), when_up=interrupt)
    assert (own / "mine.safetensors").read_bytes() == b"mine"


def test_a_server_that_ends_while_starting_stops_the_others(run):
    with pytest.raises(BackendError) as refused:
        run(pyramid(), small=["--dies-at-start"], big=["--never-serves"])
    assert "small: the server ended with status 3 while starting; its log is" in str(refused.value)
    (tail,) = run.says("the end of")
    assert "stand-in: no memory left" in tail
    assert "\x1b" not in tail
    assert run.said[-1] == "stopping 2 servers"
    assert run.shown == []


def test_a_server_that_does_not_become_healthy_in_time(run):
    patience = Patience(start_s=0.6, stop_s=2.0)
    with pytest.raises(BackendError, match=r"not healthy 0\.6 s after its start \(--timeout"):
        run(pyramid(), small=[], big=["--never-serves"], patience=patience)


def test_a_stop_while_starting_is_an_interruption(run):
    threading.Timer(1.0, interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        run(pyramid(), "--never-serves")
    assert run.said == ["stopping 2 servers"]
    assert run.log().count("stand-in: loading") == 2


def test_a_server_that_dies_is_started_again(run, tmp_path):
    starts = tmp_path / "starts"
    faults = ["--dies-after", "0.3", "--well-from-start", "2", "--starts", str(starts)]
    run(
        pyramid(),
        small=faults,
        big=["--leaves-a-child"],
        when_said=lambda text: interrupt() if "healthy again" in text else None,
        patience=SEES_DEATHS_ALONE,
    )
    assert run.said[0] == (
        "small: the server was ended by SIGKILL; restart 1 of at most 2 in 0.2 s"
    )
    assert run.said[1].startswith("small: healthy again after")
    assert len(starts.read_text().splitlines()) == 2
    assert len(run.shown) == 1
    # The second start is appended to the log.
    assert run.log().count("stand-in: loading") == 3


def test_a_server_that_dies_again_and_again_ends_all_with_growing_pauses(run, tmp_path):
    starts = tmp_path / "starts"
    faults = ["--dies-after", "0.2", "--starts", str(starts)]
    with pytest.raises(BackendError) as given_up:
        run(pyramid(), small=faults, big=[], patience=SEES_DEATHS_ALONE)
    assert "small: the server was ended by SIGKILL, after 2 restarts within 600 s" in str(
        given_up.value
    )
    assert [text.rpartition("; ")[2] for text in run.says("restart")] == [
        "restart 1 of at most 2 in 0.2 s",
        "restart 2 of at most 2 in 0.4 s",
    ]
    assert len(starts.read_text().splitlines()) == 3


def test_restarts_long_ago_do_not_count(run, tmp_path):
    starts = tmp_path / "starts"
    faults = ["--dies-after", "0.2", "--well-from-start", "5", "--starts", str(starts)]
    patience = Patience(
        stop_s=2.0, check_every_s=0.05, restarts=1, restarts_within_s=0.3, first_pause_s=0.1
    )
    again = []

    def count(text):
        if "healthy again" in text:
            again.append(text)
            if len(again) == 4:
                interrupt()

    run(pyramid(), small=faults, big=[], patience=patience, when_said=count)
    assert len(run.says("restart 1 of at most 1 in 0.1 s")) == 4


def test_a_server_that_is_ill_is_treated_like_a_dead_one(run, tmp_path):
    starts = tmp_path / "starts"
    faults = ["--ill-after", "0.2", "--well-from-start", "2", "--starts", str(starts)]
    run(
        pyramid(),
        small=faults,
        big=[],
        when_said=lambda text: interrupt() if "healthy again" in text else None,
    )
    assert run.says("small: the server failed 3 health checks in a row; restart 1")
    first, second = (int(line.split()[0]) for line in starts.read_text().splitlines())
    assert first != second


def test_a_restart_that_fails_is_tried_again(run, tmp_path):
    served = pyramid()
    starts = tmp_path / "starts"
    faults = ["--dies-after", "0.3", "--well-from-start", "4", "--starts", str(starts)]
    flag = tmp_path / "fail"
    program = (
        "import os, sys; os.path.exists(sys.argv[1]) and os.remove(sys.argv[1]) is None and "
        "sys.exit(7); os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
    )

    def command(spec, _):
        stand_in = [STAND_IN, str(spec.port), *(faults if spec.name == "small" else [])]
        return [sys.executable, "-c", program, str(flag), *stand_in]

    said = []

    def say(text):
        said.append(text)
        # However it is noticed: a busy machine may miss a health check first.
        if "small: " in text and "; restart 1" in text:
            flag.touch()
        if "healthy again" in text:
            interrupt()

    up(served, logs=run.logs, say=say, show=run.shown.append, patience=PATIENCE, command=command)
    assert any("small: the server did not start again; restart 2" in text for text in said)


def test_a_server_that_ignores_sigterm_is_killed_with_its_children(run):
    begun = []

    def stop():
        begun.append(time.monotonic())
        interrupt()

    run(pyramid(), "--ignores-sigterm", "--leaves-a-child", when_up=stop)
    assert 2.0 <= time.monotonic() - begun[0] < 8.0
    assert run.log().count("still there 2 s after SIGTERM: killing the server") == 2


def test_a_second_signal_hurries_the_stop(run):
    def stop():
        interrupt()
        threading.Timer(0.5, interrupt).start()

    begun = time.monotonic()
    patience = Patience(stop_s=60.0, check_every_s=0.05)
    run(pyramid(), "--ignores-sigterm", when_up=stop, patience=patience)
    assert time.monotonic() - begun < 20.0


def test_a_guard_that_is_killed_takes_its_server_along(run):
    def kill_a_guard():
        os.kill(run.guards[0], signal.SIGKILL)

    run(
        pyramid(),
        "--ignores-sigterm",
        when_up=kill_a_guard,
        when_said=lambda text: interrupt() if "healthy again" in text else None,
    )
    assert run.says("was ended by SIGKILL; restart 1")
    assert not session_members(run.guards[0])


def test_only_guards_are_taken_for_guards(run):
    # A child in a session of its own, as wandb's service is one for the rest of the test session.
    waiting = [sys.executable, "-c", "input()"]
    with subprocess.Popen(waiting, stdin=subprocess.PIPE, start_new_session=True) as other:
        run(pyramid(), when_up=interrupt)
        assert len(run.guards) == 2
        assert other.pid not in run.guards
        assert other.poll() is None


def test_an_old_log_that_has_grown_is_put_aside(run, monkeypatch):
    monkeypatch.setattr(supervised_server, "_LOG_BYTES", 100)
    served = pyramid()
    run.logs.mkdir()
    log = run.logs / f"small-{served.members[0].port}.log"
    log.write_text("x" * 101)
    run(served, when_up=interrupt)
    assert log.with_name(log.name + ".1").read_text() == "x" * 101
    assert "xxx" not in log.read_text()


def test_servers_that_share_a_gpu_start_one_after_the_other(run, tmp_path, monkeypatch):
    # Only the order is looked at.
    monkeypatch.setattr("pyramid_moa.inference.up.is_cpu_build", lambda: False)
    starts = {name: tmp_path / name for name in ("one", "two", "three")}
    one, two, three = (
        ModelSpec(name=name, model="m", backend="vllm", port=free_port(), devices=devices)
        for name, devices in (("one", [0]), ("two", [0, 1]), ("three", [2]))
    )
    run(
        Pyramid(members=[one, two], oracles=[three]),
        when_up=interrupt,
        **{name: ["--starts", str(path), "--loads-for", "2"] for name, path in starts.items()},
    )
    (sentence,) = run.says("share GPU")
    assert sentence.startswith("one and two share GPU 0: ")
    begun = {name: float(path.read_text().split()[1]) for name, path in starts.items()}
    assert abs(begun["one"] - begun["two"]) >= 2.0
    assert begun["three"] < max(begun["one"], begun["two"])


def test_keys_reach_only_their_own_server(run, monkeypatch):
    monkeypatch.setenv("SMALL_SECRET", "key-of-small")
    monkeypatch.setenv("OTHER_API_KEY", "key-of-others")
    small = ModelSpec(
        name="small", model="m", backend="vllm", port=free_port(), api_key_env="SMALL_SECRET"
    )
    big = ModelSpec(name="big", model="m/big", backend="vllm", port=free_port())
    environments = {}

    def look():
        for guard in run.guards:
            name = "small" if str(small.port) in command_line(guard) else "big"
            for pid in session_members(guard):
                environments.setdefault(name, []).append(
                    Path(f"/proc/{pid}/environ").read_bytes().decode()
                )
        interrupt()

    run(Pyramid(members=[small], oracles=[big]), when_up=look)
    assert len(environments["small"]) == len(environments["big"]) == 2
    assert all("VLLM_API_KEY=key-of-small" in text for text in environments["small"])
    assert not any("key-of" in text for text in environments["big"])
    assert not any("key-of-others" in text for text in environments["small"])
    assert "key-of" not in run.log()


def test_a_key_that_is_not_set_is_refused(run):
    small = ModelSpec(
        name="small", model="m", backend="vllm", port=free_port(), api_key_env="NOT_SET_ANYWHERE"
    )
    with pytest.raises(ConfigError, match="NOT_SET_ANYWHERE, found it empty or missing"):
        run(Pyramid(members=[small], oracles=[ModelSpec(name="big", model="m/big")]))
    assert not run.logs.exists()
