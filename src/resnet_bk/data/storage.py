"""Cached folders: built once, under a lock, and seen by others only when they are whole."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from filelock import FileLock

from resnet_bk.hints import in_home

T = TypeVar("T")
logger = logging.getLogger(__name__)


def cached_folder(path: Path, load: Callable[[Path], T | None], build: Callable[[Path], None]) -> T:
    """What `load` reads from the folder at path; where it reads None, `build` writes the folder anew first.

    The folder is built under another name and renamed when it is whole, so a killed build leaves nothing that could
    be taken for a result. A lock, freed by the operating system when its holder dies, lets one process build while
    others wait for it. A valid folder is read without writing anything.

    `~` is the home folder.

    Raises ValueError naming the folder where it cannot be written, or where what was just written reads as None.
    """
    path = in_home(str(path), "cache_dir")
    found = load(path)
    if found is not None:
        return found
    temporary = path.with_name(f".{path.name}.building")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            found = load(path)  # another process may have built it meanwhile
            if found is not None:
                return found
            if path.exists():
                logger.warning("%s is damaged and is built again", path)
                shutil.rmtree(path)
            shutil.rmtree(temporary, ignore_errors=True)  # of a build that was killed
            temporary.mkdir()
            try:
                build(temporary)
                temporary.rename(path)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        place = None if error.filename is None else Path(error.filename)
        if place is not None and place not in path.parents and path.parent not in place.parents:
            raise  # of what `build` reads
        raise ValueError(
            f"cache_dir {str(path.parent)!r} cannot be written ({error.strerror or error}); set RESNET_BK_CACHE (in "
            "Python: cache_dir) to a folder that can"
        ) from error
    found = load(path)
    if found is None:
        raise ValueError(
            f"cache_dir {str(path.parent)!r} does not give back what is written: {path.name} is damaged right after it "
            "was built; set RESNET_BK_CACHE (in Python: cache_dir) to a folder on another disk"
        )
    return found
