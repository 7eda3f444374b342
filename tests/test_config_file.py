from dataclasses import dataclass, field
from typing import Literal

import pytest

from pyramid_moa.config_file import build_config, load_config, read_yaml
from pyramid_moa.data_prep.pyramid import Pyramid
from pyramid_moa.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Inner:
    """A part.

    Attributes:
        size: how large.
        kind: which.
    """

    size: int = 1
    kind: Literal["round", "square"] = "round"

    def __post_init__(self):
        if self.size < 0:
            raise ConfigError(f"size: expected 0 or more, found {self.size}")


@dataclass(frozen=True, kw_only=True)
class Outer:
    """The whole.

    Attributes:
        name: of it.
        inner: one part.
        parts: more.
        rate: a number.
        note: or null.
    """

    name: str
    inner: Inner = field(default_factory=Inner)
    parts: list[Inner] = field(default_factory=list)
    rate: float = 0.5
    note: str | None = None


@pytest.fixture
def write(tmp_path):
    def write(content):
        path = tmp_path / "config.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def refused(path, cls=Outer):
    with pytest.raises(ConfigError) as caught:
        load_config(cls, path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert len(message) < 1200
    return message.removeprefix(f"{path}: ")


def test_a_file_becomes_a_dataclass(write):
    path = write("name: Größe\ninner: {size: 3}\nparts: [{kind: square}]\nrate: 1e-3\nnote: null\n")
    assert load_config(Outer, path) == Outer(
        name="Größe", inner=Inner(size=3), parts=[Inner(kind="square")], rate=1e-3
    )


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("name: a\ncolour: red\n", "colour"),
        ("name: a\ninner: {sise: 3}\n", "sise"),
        ("name: a\nparts: [{size: 1}, {sise: 3}]\n", "sise"),
        ("inner: {size: 3}\n", "name"),
        ("name: a\ninner: {size: many}\n", "size"),
        ("name: a\nrate: fast\n", "rate"),
        ("name: a\nparts: 3\n", "parts"),
        ("name: a\ninner: {kind: flat}\n", "kind"),
        ("name: [1, 2]\n", "name"),
        ("name: a\ninner: {size: -1}\n", "size: expected 0 or more, found -1"),
        ("name: a\n1: 2\n", "1"),
    ],
)
def test_a_wrong_key_or_value_is_named(write, content, named):
    message = refused(write(content))
    assert named in message
    assert "'config" not in message
    assert '"config' not in message


def test_what_was_expected_is_said(write):
    message = refused(write("name: a\ninner: {kind: flat}\n"))
    assert "round" in message
    assert "flat" in message


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("name: [a\n", "not valid YAML"),
        ("a:\n\t- b\n", "not valid YAML"),
        ("name: 2024-13-45\n", "not valid YAML: month"),
        ("name: " + "9" * 5000 + "\n", "not valid YAML"),
        ("[" * 50_000, "not valid YAML"),
        ("name: !!python/object/apply:os.system [true]\n", "not valid YAML"),
        ("", "expected keys with values, found NoneType"),
        ("- name\n", "expected keys with values, found list"),
        ("just words\n", "expected keys with values, found str"),
        (b"name: Gr\xf6\xdfe\n", "expected UTF-8 text, found another encoding at byte 8"),
        ("#" * (1 << 20) + "\n", "at most 1 MiB"),
    ],
)
def test_a_file_that_is_no_configuration(write, content, says):
    assert says in refused(write(content))


def test_a_page_that_stands_for_billions_of_values(write):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    assert "at most 65536 values" in refused(write("\n".join(lines)))


def test_an_anchor_may_be_used_again(write):
    path = write("name: a\ninner: &part {size: 2}\nparts: [*part, *part]\n")
    assert load_config(Outer, path).parts == [Inner(size=2)] * 2


def test_a_missing_file(tmp_path):
    assert "can't read this YAML file: No such file" in refused(tmp_path / "absent.yaml")


def test_a_folder(tmp_path):
    assert "can't read this YAML file" in refused(tmp_path)


def test_plain_values(write):
    assert read_yaml(write("a: 1\nb: [x]\n")) == {"a": 1, "b": ["x"]}


def test_an_error_names_its_source():
    with pytest.raises(ConfigError, match=r"^prices\.yaml: gpt: .*size"):
        build_config(Outer, {"name": "a", "inner": {"size": "x"}}, source="prices.yaml: gpt")


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("sampling: {max_tokens: many}", "max_tokens"),
        ("sampling: {max_tokens: 0}", "max_tokens"),
        ("sampling: {tokens: 3}", "tokens"),
        ("hidden_states: {layers: [1], poolings: [maximum]}", "poolings"),
        ("hidden_states: {layers: all}", "layers"),
        ("prompt: {template: nothing}", "question"),
        ("grader: guess", "guess"),
        ("oracle: {name: o, model: y}", "oracle"),
    ],
)
def test_pyramids_say_which_key_is_wrong(write, line, named):
    head = "members: [{name: a, model: x}]\noracles: [{name: o, model: y}]\n"
    assert named in refused(write(head + line + "\n"), Pyramid)


def test_a_key_that_stands_twice_is_refused(tmp_path):
    path = tmp_path / "twice.yaml"
    path.write_text("name: a\ngrader: exact\nname: b\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="the key 'name' stands more than once"):
        read_yaml(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"name": "a", "inner": {"class_path": "evil.Code"}}, "inner: unknown key class_path"),
        ({"name": "a", "inner": "other.yaml"}, "inner: expected keys with values"),
        ({"name": "a", "inner": None}, "inner: expected keys with values"),
        ({"name": "a", "colour": 1}, "unknown key colour; expected among name, inner"),
    ],
)
def test_a_section_is_values_and_nothing_else(content, message):
    with pytest.raises(ConfigError, match=message):
        build_config(Outer, content, source="file")


def test_what_was_read_is_not_changed():
    content = {"name": "a", "inner": {"size": 2}}
    build_config(Outer, content, source="file")
    assert content == {"name": "a", "inner": {"size": 2}}
