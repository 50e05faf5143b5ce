"""The protocols that come with the package, a YAML file each: their names, without what it takes to read them.

Imports nothing heavy, for `resnet-bk --help` names them.
"""

import re
from pathlib import Path

SHIPPED = Path(__file__).parent
ELSEWHERE = "../shared/"  # where they look for text that does not come with the package
# At the start of a line: in the description of a text it would stand further right.
TASK = re.compile(r"^task: *recall\b", re.MULTILINE)


def shipped_protocols() -> list[str]:
    """Names of all of them."""
    return sorted(file.stem for file in SHIPPED.glob("*.yaml"))


def recall_protocols() -> list[str]:
    """Names of those on associative recall; the others are on a text."""
    return [name for name in shipped_protocols() if TASK.search((SHIPPED / f"{name}.yaml").read_text("utf-8"))]
