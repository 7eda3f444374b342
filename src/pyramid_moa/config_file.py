"""YAML files into frozen dataclasses: unknown keys and wrong types are refused by name."""

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from pyramid_moa.errors import ConfigError

__all__ = ["build_config", "load_config", "read_yaml"]

T = TypeVar("T")

# A configuration is a page or two; anything larger is the wrong file.
_LARGEST_FILE = 1 << 20
_MOST_VALUES = 1 << 16


class _UniqueKeyLoader(yaml.SafeLoader):
    """Refuses a key that stands twice, of which YAML would quietly keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping whose keys differ."""
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in keys:
            # "<<" may stand more than once: it merges other mappings.
            if key != "<<" and keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands more than once", node.start_mark
                )
        return super().construct_mapping(node, deep=deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        ConfigError: no such file, not UTF-8, not YAML, or not a mapping.
    """
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise ConfigError(f"{path}: expected a configuration of at most 1 MiB")
        # Safe: the loader is PyYAML's SafeLoader with one more check.
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
        too_large = _count(content, most=_MOST_VALUES) > _MOST_VALUES
    except OSError as error:
        raise ConfigError(f"{path}: can't read this YAML file: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: expected UTF-8 text, found another encoding at byte {error.start}"
        ) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # dates and numbers that are none
        raise ConfigError(f"{path}: not valid YAML: {_one_line(error)}") from error
    if too_large:
        raise ConfigError(f"{path}: expected at most {_MOST_VALUES} values, aliases written out")
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected keys with values, found {type(content).__name__}")
    return content


def build_config(cls: type[T], content: dict[str, Any], *, source: str) -> T:
    """Build a dataclass from plain values.

    Args:
        cls: a frozen keyword-only dataclass.
        content: its fields as YAML gives them.
        source: where they are from, for the error.

    Raises:
        ConfigError: an unknown or missing key, a wrong type, or what the dataclass refuses.
    """
    _check_keys(cls, content, source)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", type=cls)
    try:
        return parser.instantiate(parser.parse_object({"config": deepcopy(content)})).config  # type: ignore[no-any-return]  # a namespace is untyped
    except (ArgumentError, ConfigError) as error:
        # Our own name for the whole is nothing the file knows.
        message = _one_line(error).replace('Parser key "config.', '"')
        message = message.replace("'config' ", "").replace(" config.", " ")
        raise ConfigError(f"{source}: {message}") from error


def _check_keys(kind: object, content: object, where: str) -> None:
    """Compare keys with fields all the way down.

    jsonargparse would take a file name or a class to import where a mapping belongs; a
    configuration is values and nothing else.
    """
    if is_dataclass(kind):
        if not isinstance(content, dict):
            raise ConfigError(f"{where}: expected keys with values, found {content!r:.80}")
        hints = get_type_hints(kind)
        names = [item.name for item in fields(kind)]
        if unknown := [str(key) for key in content if key not in names]:
            raise ConfigError(
                f"{where}: unknown key {', '.join(unknown)}; expected among {', '.join(names)}"
            )
        for key, value in content.items():
            _check_keys(hints[key], value, f"{where}: {key}")
    elif get_origin(kind) in (list, tuple) and isinstance(content, list):
        for index, value in enumerate(content):
            _check_keys(get_args(kind)[0], value, f"{where}[{index}]")
    elif content is not None and get_origin(kind) in (Union, UnionType):
        for option in get_args(kind):
            if is_dataclass(option):
                _check_keys(option, content, where)


def load_config(cls: type[T], path: Path) -> T:
    """Read a dataclass from a YAML file; see ``read_yaml`` and ``build_config``."""
    return build_config(cls, read_yaml(path), source=str(path))


def _count(content: object, *, most: int) -> int:
    """Count values with aliases written out, as far as ``most``: a page can stand for billions."""
    values = content.values() if isinstance(content, dict) else content
    count = 1
    if isinstance(values, Iterable) and not isinstance(values, str | bytes):
        for value in values:
            if count > most:
                break
            count += _count(value, most=most - count)
    return count


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:1000]
