"""JSON files that a benchmark leaves, each whole or not at all."""

import json
import math
import os
from pathlib import Path
from typing import Any

# What keys of run.json and result.json hold, where code goes on with it; other keys may hold anything.
KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    **dict.fromkeys(("settings", "data", "protocol", "training", "environment"), ((dict,), "an object")),
    **dict.fromkeys(("model", "model_name"), ((str,), "a string")),
    "seed": ((int,), "a whole number"),
    "learning_rate": ((int, float), "a number"),
}


def read_json(path: Path, *keys: str) -> dict[str, Any]:
    """A JSON object with these keys.

    Raises:
        ValueError: no such file, not a JSON object, or one without a key or with a value of another kind.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist; is {path.parent} a folder that resnet-bk wrote?") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}); {_restore(path)}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no JSON object; {_restore(path)}")
    require(path, content, *keys)
    return content


def require(path: Path, content: dict[str, Any], *keys: str) -> None:
    """Raises ValueError where a JSON object lacks one of these keys, or has a value of another kind there."""
    missing = [key for key in keys if key not in content]
    if missing:
        raise ValueError(f"{path} has no {', '.join(missing)}; {_restore(path)}")
    for key in keys:
        kinds, what = KINDS.get(key, ((object,), "anything"))
        if not isinstance(content[key], kinds):
            raise ValueError(f"{path}: {key} is {json.dumps(content[key])}, and not {what}; {_restore(path)}")


def _restore(path: Path) -> str:
    """The way out where a file is damaged. What a run left behind is of no use without its settings."""
    what = path.parent if path.name == "run.json" else "it"
    return f"restore it, or remove {what} and run again"


def write_json(path: Path, content: dict[str, Any]) -> None:
    """A JSON file as `replace_file` writes it. NaN and infinity become null."""
    text = json.dumps(finite(content), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    replace_file(path, text.encode())


def replace_file(path: Path, content: bytes) -> None:
    """Written under another name and renamed: a reader sees the old file or the new one, never a part."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        unfinished.write_bytes(content)
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def finite(value: Any) -> Any:
    """What JSON has for a value: None in the place of NaN and infinity, lists in that of tuples."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value
