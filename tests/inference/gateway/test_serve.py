"""``pyramid-moa serve`` as a program, and its decisions beside those of evaluation."""

import contextlib
import json
import logging
import signal
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import httpx
import openai
import pyarrow.parquet as pq
import pytest
from faulty_server import Reply, faulty_server, soon, stream_events
from processes import free_port
from running_gateway import KEY, QUICK, chat_body, running, says
from served_program import program, write_pyramid

from pyramid_moa.cli import main
from pyramid_moa.data_prep.datasets import load_queries
from pyramid_moa.data_prep.labelled_run import read_labelled_run
from pyramid_moa.inference.gate import Gate
from pyramid_moa.inference.gateway import serve
from pyramid_moa.inference.gateway.settings import GatewaySettings
from pyramid_moa.training.evaluate import evaluate

# More than the kernel keeps for a connection that nobody reads.
_MUCH = 64 << 20


@pytest.fixture
def own_process():
    """This process as it was before a program in it set it up."""
    root = logging.getLogger()
    before, switch_s = (root.handlers[:], root.level), sys.getswitchinterval()
    yield
    sys.setswitchinterval(switch_s)
    root.handlers[:], _ = before
    root.setLevel(before[1])


def refused(capsys, *arguments):
    """What the program says, in one line, before it serves anything."""
    assert main(["serve", *arguments]) == 2
    said = capsys.readouterr()
    assert not said.out
    return said.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("which", "policy"),
    [("imported", None), ("imported", "sequential"), ("labelled", None), ("vote", None)],
)
def test_the_gateway_decides_as_evaluate_does(which, policy, request, tmp_path):
    """The same stored generations through evaluate and over HTTP: the same to the last bit."""
    run = request.getfixturevalue("imported_run" if which == "imported" else "labelled_run")
    names = {"imported": "trained", "labelled": "trained_on_hidden"}
    router = request.getfixturevalue(names[which]) if which in names else None
    evaluate(run, tmp_path / "report", router=router, split="all", policy=policy)
    rows = pq.read_table(tmp_path / "report" / "decisions.parquet").to_pylist()
    queries = read_labelled_run(run).queries
    with (
        Gate.from_run(run, router=router) as gate,
        running(gate, GatewaySettings(faults=QUICK), []) as (url, _),
        httpx.Client(timeout=20) as client,
    ):
        model = "pyramid@sequential" if policy else "pyramid"
        unlike = 0
        for number, (row, query) in enumerate(zip(rows, queries, strict=True)):
            stream = number % 5 == 0
            body = chat_body(query.question, stream=stream, model=model)
            reply = client.post(f"{url}/chat/completions", json=body)
            if row["final_answer"] is None:
                # Evaluation counts it as wrong; a client is given whatever text there is.
                continue
            data = [line[6:] for line in reply.text.splitlines() if line.startswith("data: {")]
            why = json.loads(data[-1] if stream else reply.text)["pyramid"]
            if why["route"] == "direct":
                # A rule of the gateway's, before anything is decided: it may be wrong of one in a
                # hundred questions of the trained kind.
                assert why["cause"] == "out_of_distribution"
                unlike += 1
                continue
            assert why["answer"] == row["final_answer"]
            assert why["escalated"] == row["escalated"]
            assert why["models_called"] == row["models_called"]
            assert why["cost_usd"] == pytest.approx(row["cost"], rel=1e-12)
            assert why["policy"] == (policy or "parallel")
            if policy is None:
                # Going step by step, evaluation shows what is believed once all have spoken.
                assert why["ensemble_answer"] == row["ensemble_answer"]
                assert why["p_ensemble_fails"] == row["p_ensemble_fails"]
                assert why["p_oracle_right"] == row["p_oracle_right"]
    assert 0 < sum(row["escalated"] for row in rows) < len(rows)
    assert unlike <= 0.05 * len(rows)


def test_the_embedded_pyramid_served_answers_as_the_gate_does():
    router = "pretrained:numeric"
    queries = list(load_queries("word-problems?train=1&test=6&seed=3").queries)[-6:]
    with Gate.from_config("embedded", router=router) as gate:
        expected = [gate.answer(query.question) for query in queries]
    with (
        program("--pyramid", "embedded", "--router", router, PYRAMID_MOA_API_KEYS=KEY) as (
            process,
            url,
            logged,
        ),
        openai.OpenAI(base_url=url, api_key=KEY, max_retries=0) as client,
    ):
        for query, decision in zip(queries, expected, strict=True):
            message = {"role": "user", "content": query.question}
            reply = client.chat.completions.create(model="pyramid", messages=[message])
            assert reply.choices[0].message.content == decision.response
            why = reply.pyramid
            assert why["route"] == "router"
            assert why["escalated"] == decision.escalated
            assert why["answered_by"] == decision.answered_by
            assert why["p_ensemble_fails"] == pytest.approx(decision.p_ensemble_fails, abs=1e-4)
            assert why["reason"] == decision.reason
        names = [model.id for model in client.models.list()]
        assert "pyramid@risk-10" in names
        point = client.chat.completions.create(
            model="pyramid@risk-10", messages=[message], stream=True
        )
        assert list(point)[-1].pyramid["answer"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert json.loads(logged[-1])["message"] == "stopped"


@pytest.fixture(scope="module")
def slow_servers():
    with (
        faulty_server(says("#### 16")) as a,
        faulty_server(says("#### 8")) as b,
        faulty_server(says("#### 99", delay_s=1.5)) as oracle,
    ):
        yield {"a": a, "b": b, "oracle": oracle}


def test_what_is_under_way_is_finished_before_it_ends(slow_servers, tmp_path):
    addresses = {name: server.base_url for name, server in slow_servers.items()}
    pyramid = write_pyramid(tmp_path, addresses)
    with program("--pyramid", str(pyramid)) as (process, url, _):
        replies = []

        def ask(stream):
            body = chat_body(stream=stream)
            replies.append(httpx.post(f"{url}/chat/completions", json=body, timeout=20))

        askers = [threading.Thread(target=ask, args=(stream,)) for stream in (False, True)]
        for asker in askers:
            asker.start()
        assert soon(lambda: slow_servers["oracle"].under_way == 2)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/models")
        for asker in askers:
            asker.join()
        assert [reply.status_code for reply in replies] == [200, 200]
        assert all('"degraded":false' in reply.text for reply in replies)
        assert "data: [DONE]" in "".join(reply.text for reply in replies)
        assert process.wait(20) == 0


def test_who_is_not_finished_in_time_is_told_so(tmp_path):
    """Not cut off without a word: clients ask again, and of another gateway."""

    def answer(request):
        if request.body and request.body.get("stream"):
            return Reply(events=stream_events("word " * 200, seconds=0.1))
        return says("#### 99", delay_s=20.0)(request)

    config = tmp_path / "serve.yaml"
    config.write_text("load: {drain_s: 1}\n")
    with faulty_server(answer) as server:
        pyramid = write_pyramid(tmp_path, {"a": server.base_url, "oracle": server.base_url})
        with (
            program("--pyramid", str(pyramid), "--config", str(config)) as (process, url, logged),
            ThreadPoolExecutor() as pool,
        ):
            bodies = [chat_body(model="oracle", stream=stream) for stream in (False, True)]
            asked = [
                pool.submit(httpx.post, f"{url}/chat/completions", json=body, timeout=20)
                for body in bodies
            ]
            assert soon(lambda: server.under_way == 2)
            process.send_signal(signal.SIGTERM)
            whole, stream = [one.result() for one in asked]
            assert process.wait(20) == 0
    assert whole.status_code == 503
    assert int(whole.headers["retry-after"]) >= 1
    assert whole.json()["error"]["code"] == "gateway_ends"
    last = stream.text.strip().splitlines()[-1].removeprefix("data: ")
    assert json.loads(last)["error"]["code"] == "gateway_ends"
    ends = [json.loads(line) for line in logged if '"gateway_ends"' in line]
    assert sorted(end["status"] for end in ends) == [200, 503]


@pytest.fixture(scope="module")
def with_a_member_missing(slow_servers, tmp_path_factory):
    """The program with a small bound on heads, and nothing at the address of one of its models."""
    folder = tmp_path_factory.mktemp("missing")
    addresses = {name: server.base_url for name, server in slow_servers.items()}
    pyramid = write_pyramid(folder, {**addresses, "a": f"http://127.0.0.1:{free_port()}/v1"})
    config = folder / "serve.yaml"
    config.write_text("requests: {header_bytes: 8192}\nfaults: {retries: 0}\n")
    with program("--pyramid", str(pyramid), "--config", str(config)) as (_, url, logged):
        yield url, logged


def test_a_server_that_is_not_there_yet_is_no_reason_not_to_serve(with_a_member_missing):
    url, logged = with_a_member_missing
    assert soon(lambda: any("serving without it" in line for line in logged))
    states = httpx.get(f"{url.removesuffix('/v1')}/readyz", timeout=20).json()["models"]
    assert states == {"a": "unreachable", "b": "ok", "oracle": "ok"}
    reply = httpx.post(f"{url}/chat/completions", json=chat_body(), timeout=20)
    assert reply.json()["choices"][0]["message"]["content"] == "#### 99"


def test_a_head_that_never_ends_is_cut_off(with_a_member_missing):
    url, _ = with_a_member_missing
    host, port = url.removeprefix("http://").removesuffix("/v1").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n")
        sent = 0
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while sent < _MUCH:
                connection.sendall(b"x-padding: " + b"y" * 1000 + b"\r\n")
                sent += 1000
    assert sent < _MUCH
    assert httpx.get(f"{url.removesuffix('/v1')}/healthz").is_success


def test_what_can_not_be_served_is_said_in_one_line(tmp_path, capsys, own_process):
    open_to_all = refused(capsys, "--pyramid", "embedded", "--host", "0.0.0.0")
    assert "expected API keys" in open_to_all
    config = tmp_path / "serve.yaml"
    config.write_text("faults: {dedline_s: 3}")
    wrong = refused(capsys, "--pyramid", "embedded", "--config", str(config))
    assert "unknown key dedline_s" in wrong
    with faulty_server(says("x")) as server:
        port = server.base_url.rpartition(":")[2].removesuffix("/v1")
        assert "in use" in refused(capsys, "--pyramid", "embedded", "--port", port)


def test_windows_is_told_so(capsys, monkeypatch):
    monkeypatch.setattr(serve, "sys", SimpleNamespace(platform="win32"))
    assert "expected Linux or macOS" in refused(capsys, "--pyramid", "embedded")


def test_nobody_reloads_where_there_is_no_administrator(with_a_member_missing):
    url, _ = with_a_member_missing
    reply = httpx.post(f"{url.removesuffix('/v1')}/admin/reload")
    assert reply.status_code == 403
    assert reply.json()["error"]["code"] == "no_admin_key"


def test_a_model_may_not_go_by_the_pyramids_name(slow_servers, tmp_path, capsys, own_process):
    server = slow_servers["a"].base_url
    path = write_pyramid(tmp_path, {"pyramid": server, "pyramid@x": server, "oracle": server})
    said = refused(capsys, "--pyramid", str(path), "--port", "0")
    assert "found pyramid, pyramid@x: rename it" in said
