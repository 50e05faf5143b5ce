"""Protocol files as plain values: YAML, and the settings of `--set` on top of it.

What the values mean, and whether they are right, is looked at elsewhere (`resnet_bk.bench.protocol`,
`resnet_bk.bench.recall`).
"""

import copy
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from resnet_bk.bench.protocols import SHIPPED, shipped_protocols
from resnet_bk.hints import did_you_mean


class _Loader(yaml.SafeLoader):
    """YAML with the numbers of version 1.2, for PyYAML takes 1e-3 (no dot) for a string, and without keys given twice,
    of which it takes the last."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:  # as written: what an anchor merges in comes later, and may be given again
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    problem = f"the key {key.value} is there twice"
                    raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
                seen.add((key.tag, key.value))
        return node


INT, FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
_Loader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0] not in (INT, FLOAT)]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(INT, re.compile(r"^[-+]?[0-9]+$|^0o[0-7]+$|^0x[0-9a-fA-F]+$"), list("-+0123456789"))
_Loader.add_constructor(INT, lambda _, node: int(node.value, 0 if node.value[1:2] in ("o", "x") else 10))
_Loader.add_implicit_resolver(
    FLOAT,
    re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"),
    list("-+0123456789."),
)


class _Dumper(yaml.SafeDumper):
    """Quotes strings that `_Loader` would take for numbers, such as 08 and 1e3, which PyYAML itself leaves bare."""


_Dumper.yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


def dump_yaml(values: Any) -> str:
    """Plain values as YAML that `parse_yaml` reads back as they are."""
    text: str = yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


def parse_yaml(text: str, where: str) -> Any:
    """YAML as Python values, of which no two are one object: an anchor puts one into several places, and `--set`
    changes one.

    Raises:
        ValueError: malformed YAML, with the line, or values that cannot be made of it.
    """
    try:
        return _unshared(yaml.load(text, Loader=_Loader))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error)
        raise ValueError(f"{where}{line}: not valid YAML ({problem}); write `key: value` lines") from error
    except RecursionError:
        raise ValueError(f"{where}: lists or keys within one another without end; write them out") from None
    # A date that there is not or that is none, a number or truth value that is none.
    except (ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"{where}: not the value that it is written as ({error}); write it otherwise") from None


def read_raw(name_or_path: str, settings: Sequence[str]) -> dict[str, Any]:
    """The plain values of a protocol file with `--set` settings applied, not checked.

    Raises:
        ValueError: the file cannot be read, a setting cannot be applied, or keys make one another void.
    """
    raw = _read(name_or_path)
    before = copy.deepcopy(raw)
    named: set[str] = set()
    for setting in settings:
        _apply(raw, setting)
        key = setting.partition("=")[0].strip()
        lost = [earlier for earlier in named if f"{earlier}.".startswith(f"{key}.")]
        if lost:
            raise ValueError(f"--set {setting}: takes the place of --set {lost[0]}, given before it; leave one out")
        named.add(key)
    _forget_sources(before, raw, named)
    if "epochs" in named and raw.get("steps") is not None:
        raise ValueError(
            f"--set epochs={raw['epochs']}: not read where steps={raw['steps']} says how long the training is; leave "
            "it out, or add --set steps=null"
        )
    if raw.get("task") is None:
        _refuse_unread(name_or_path, raw, named)
        if raw.get("learning_rates") is not None:
            _refuse_rates(raw, named)
    return raw


def _refuse_unread(where: str, raw: dict[str, Any], named: set[str]) -> None:
    """Raises ValueError for keys of a file that others of the same file make void."""
    if raw.get("steps") is not None and raw.get("epochs", 1) != 1 and not {"steps", "epochs"} & named:
        raise ValueError(
            f"protocol {where}: epochs={raw['epochs']} is not read where steps={raw['steps']} says how long the "
            "training is; leave one of them out"
        )
    models, rates = raw.get("models"), raw.get("learning_rates")
    if rates is None or "learning_rates" in named or not isinstance(models, dict):
        return
    for name, entry in models.items():
        set_here = any(key.split(".")[:2] in (["models"], ["models", name]) for key in named)
        if isinstance(entry, dict) and entry.get("learning_rate") is not None and not set_here:
            raise ValueError(
                f"protocol {where}: models.{name}.learning_rate={entry['learning_rate']} is not read where the "
                f"learning_rates {rates} are tried; leave one of them out"
            )


def _refuse_rates(raw: dict[str, Any], named: set[str]) -> None:
    """Raises ValueError where a setting gives a model a rate, for a protocol whose models share a grid of rates."""
    models = raw.get("models")
    for name, entry in models.items() if isinstance(models, dict) else ():
        given = {f"models.{name}.learning_rate", f"models.{name}", "models"} & named
        if given and isinstance(entry, dict) and entry.get("learning_rate") is not None:
            key = max(given)  # the longest
            what = "" if key.endswith("rate") else "its learning_rate is "
            raise ValueError(
                f"--set {key}: {what}not read where the learning_rates {raw['learning_rates']} are tried; leave it "
                "out, or add --set learning_rates=null"
            )


def _forget_sources(before: dict[str, Any], raw: dict[str, Any], named: set[str]) -> None:
    """A rate that is set otherwise was not found by the command that the file names."""
    models = raw.get("models")
    for name, entry in models.items() if isinstance(models, dict) else ():
        key = f"models.{name}.learning_rate"
        if isinstance(entry, dict) and key in named and f"{key}_source" not in named:
            models_before = before.get("models")
            file = (models_before.get(name) if isinstance(models_before, dict) else None) or {}
            if entry.get("learning_rate") != file.get("learning_rate"):
                entry.pop("learning_rate_source", None)


def _read(name_or_path: str) -> dict[str, Any]:
    names = shipped_protocols()
    if name_or_path in names:
        text, where = (SHIPPED / f"{name_or_path}.yaml").read_text(encoding="utf-8"), name_or_path
    else:
        path = Path(name_or_path)
        if path.suffix not in (".yaml", ".yml"):
            if os.path.exists(path / "protocol.yaml"):  # which says no, too, where a name is too long
                raise ValueError(f"{name_or_path!r} is a folder of results; its protocol is {path / 'protocol.yaml'}")
            raise ValueError(
                f"unknown protocol {name_or_path!r}{did_you_mean(name_or_path, names)}; "
                f"shipped are {', '.join(names)}, or give a path to a .yaml file"
            )
        try:
            text, where = path.read_text(encoding="utf-8"), name_or_path
        except FileNotFoundError:
            raise ValueError(
                f"protocol {path} does not exist; give the path of a file that does, or a shipped protocol: "
                f"{', '.join(names)}"
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"protocol {path} cannot be read: {error}; give a file of YAML in UTF-8") from None
    raw = parse_yaml(text, f"protocol {where}")
    if not isinstance(raw, dict):
        raise ValueError(f"protocol {where}: must be `key: value` lines, but holds a {type(raw).__name__}")
    return raw


def _unshared(value: Any) -> Any:
    """The same values, each its own object."""
    if isinstance(value, dict):
        return {key: _unshared(item) for key, item in value.items()}
    return [_unshared(item) for item in value] if isinstance(value, list) else value


def _apply(raw: dict[str, Any], setting: str) -> None:
    key, equals, text = setting.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise ValueError(f"--set {setting}: must be key=value, for example --set steps=100")
    if not text.strip():
        raise ValueError(f'--set {setting}: no value; give one, null where there may be none, or "" for an empty text')
    value = parse_yaml(text, f"--set {key}")
    if not isinstance(value, dict | list) and _has_comment(text):
        raise ValueError(
            f"--set {setting}: what stands behind # would be a comment of YAML; put the value in quotes of its own, "
            f"--set '{key}=\"...\"'"
        )
    place = raw
    for depth, part in enumerate(path[:-1], start=1):
        if place.get(part) is None:
            place[part] = {}
        if not isinstance(place[part], dict):
            raise ValueError(f"--set {setting}: {'.'.join(path[:depth])} is a value, it has no keys; set that itself")
        place = place[part]
    if path[:-1] == ["models"] and value is None:
        _take_out(place, path[-1], setting)
    else:
        place[path[-1]] = value


def _has_comment(text: str) -> bool:
    """Whether YAML, which can be read, has a comment: what is left between its tokens."""
    end = 0
    for token in yaml.scan(text, Loader=_Loader):  # the last one is the end of the text
        if "#" in text[end : token.start_mark.index]:
            return True
        end = max(end, token.end_mark.index)
    return False


def _take_out(models: dict[str, Any], name: str, setting: str) -> None:
    """A model, from a protocol that has it and others."""
    if name not in models:
        has = ", ".join(models) or "no models"
        raise ValueError(f"--set {setting}: there is no such model{did_you_mean(name, models)}; the protocol has {has}")
    if len(models) == 1:
        raise ValueError(f"--set {setting}: takes out the only model; leave it in, or add another one first")
    del models[name]
