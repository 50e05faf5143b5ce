"""Files of a benchmark: where a run lives, what it was started with, whether it is finished.

OUT/protocol.yaml                          the protocol as it was run
OUT/<model>/seed-<s>/                      a run; in a grid OUT/<model>/lr-<rate>/seed-<s>/
    run.json                               everything to repeat it
    log.jsonl, tensorboard/, checkpoint/   while it trains
    model/                                 weights, configuration, tokenizer
    result.json                            written last: a run is finished if it has one beside its run.json
OUT/results.json, report.html, plots/      of all finished runs
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from resnet_bk.bench.json_files import finite, read_json, replace_file, require, write_json
from resnet_bk.bench.protocol import NOT_OF_A_RUN, Comparison, Protocol, what_sizes
from resnet_bk.bench.protocol_file import dump_yaml, parse_yaml

# Files in OUT that a benchmark writes.
WRITTEN = ("protocol.yaml", "results.json", "report.html", ".lock")
# Fields that a model writes into its configuration when it is saved.
SAVED = {"architectures", "dtype"}


@dataclass(frozen=True)
class Run:
    """One run of a protocol and its folder."""

    model: str
    learning_rate: float
    seed: int
    folder: Path

    @property
    def title(self) -> str:
        return f"{self.model}  lr {self.learning_rate:g}  seed {self.seed}"

    @property
    def finished(self) -> bool:
        return all((self.folder / name).exists() for name in ("run.json", "result.json"))

    @property
    def folders(self) -> list[Path]:
        """That of the run, and those which are made in it."""
        return [self.folder, *(self.folder / name for name in ("checkpoint", "model", "tensorboard"))]

    @property
    def files(self) -> list[Path]:
        """Which are written in it."""
        return [self.folder / name for name in ("log.jsonl", "result.json", "run.json")]

    def result(self) -> dict[str, Any]:
        """The run's result.

        Raises:
            ValueError: it cannot be read, or is none.
        """
        return read_json(self.folder / "result.json", "model_name", "learning_rate", "seed", "audit")


def run_of(protocol: Comparison, out: Path, model: str, learning_rate: float, seed: int) -> Run:
    """The run of a model at a rate with a seed; in a grid each rate has a folder."""
    rate = f"lr-{learning_rate!r}" if protocol.learning_rates is not None else ""
    return Run(model, learning_rate, seed, out / model / rate / f"seed-{seed}")


def files_of_runs(out: Path, *names: str) -> list[Path]:
    """What is called so in the folders of runs; what else lies in `out` may be somebody else's."""
    folders = ("*/seed-*", "*/lr-*/seed-*")
    return sorted(path for folder in folders for name in names for path in out.glob(f"{folder}/{name}"))


def check_writable(out: Path) -> None:
    """Nothing is written.

    Raises:
        ValueError: the folder could not be made or written to.
    """
    try:
        os.stat(out)
    except (FileNotFoundError, NotADirectoryError):
        pass  # it is to be made, or a file is in its way
    except OSError as error:  # a folder above it that may not be looked into, a name that is too long
        raise ValueError(f"--out {out}: cannot be looked at ({error.strerror}); name another folder") from error
    place = out.absolute()
    while not place.exists() and not place.is_symlink() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise ValueError(f"--out {out}: {place} is not a folder; name a folder, or one that can be made")
    if not os.access(place, os.W_OK | os.X_OK):
        raise ValueError(f"--out {out}: no permission to write in {place}; name another folder")


def check_places(out: Path, runs: Iterable[Run], folders: Iterable[str], files: Iterable[str]) -> None:
    """Nothing is written.

    Args:
        out: the folder.
        runs: that may be made.
        folders: names in OUT of further folders that may be made.
        files: names in OUT of files that may be written.

    Raises:
        ValueError: something else stands there.
    """
    runs = list(runs)
    made = [*(out / name for name in folders), *(folder for run in runs for folder in run.folders)]
    written = [*(out / name for name in files), *(file for run in runs for file in run.files)]
    below = {place for folder in made for place in (folder, *folder.parents) if out in place.parents}
    wrong = [place for place in sorted(below) if place.exists() and not place.is_dir()]
    wrong += [file for file in written if file.is_dir()]
    if wrong:
        what = "a folder, and a file" if wrong[0].is_dir() else "no folder, and one"
        raise ValueError(
            f"--out {out}: {wrong[0]} is {what} is to be written there; remove it, or give another folder with --out"
        )


def check_finished(runs: Iterable[Run]) -> None:
    """Whether the results of all finished runs, which are collected after a training, can be read.

    Raises:
        ValueError: naming one that cannot.
    """
    for run in runs:
        if run.finished:
            run.result()


def check_new(out: Path, name: str) -> None:
    """Nothing is written.

    Raises:
        ValueError: the folder could not be made or written to, or has such a file already.
    """
    check_writable(out)
    if (out / name).exists():
        raise ValueError(
            f"--out {out} holds {name} already, which would be lost; name another folder, or remove that file"
        )


def make_folder(out: Path) -> None:
    """OUT and what is above it.

    Raises:
        ValueError: the system does not let it be made, though `check_writable` found nothing.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--out {out}: cannot be made ({error.strerror}); name another folder") from error


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Make a folder, for one benchmark at a time; the operating system frees the lock of a process that dies."""
    make_folder(out)
    lock = FileLock(out / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(
            f"--out {out}: another resnet-bk is running there; wait for it or name another folder"
        ) from None
    except OSError as error:
        raise ValueError(f"--out {out}: {error}; name another folder") from None
    try:
        yield
    finally:
        lock.release()


def check_same_protocol(protocol: Protocol, out: Path, corpus_fingerprint: str) -> None:
    """Whether the runs that are in `out` belong to this protocol, their size aside, which `run_sizes` compares when it
    is known what it would be now. Nothing is written.

    Raises:
        ValueError: naming the keys that differ.
    """

    def settings(record: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        here, there = comparable(protocol, out, record, corpus_fingerprint), dict(record["settings"])
        if here is None:
            # A model that the protocol no longer has: its data and budget must still be those of the others.
            here = protocol.shared_settings() | {"corpus": corpus_fingerprint}
            there = {key: value for key, value in there.items() if key != "seed" and not key.startswith("models.")}
        for key in what_sizes(here | there, record["model"]):
            here.pop(key, None)
            there.pop(key, None)
        return here, there

    check_same_settings(out, None, settings)


def check_same_settings(
    out: Path, task: str | None, settings: Callable[[dict[str, Any]], tuple[dict[str, Any], dict[str, Any]]]
) -> None:
    """Whether the runs that are in `out` are of a task, and have the settings that they would have now. Nothing is
    written.

    Args:
        out: the folder.
        task: as run.json names it; None for a text.
        settings: from the content of a run.json to the settings that its run would have now, and to those it has.

    Raises:
        ValueError: naming the first run of another task or with other settings, and the keys that differ.
    """
    for file in files_of_runs(out, "run.json"):
        record = read_json(file)
        if record.get("task") != task:
            what = f"of another task ({record['task']})" if "task" in record else "on a text"
            raise ValueError(
                f"--out {out} holds {file.parent.relative_to(out)}, a run {what}; give another folder with --out"
            )
        of_text = () if task is not None else ("seed", "learning_rate", "grid", "data")
        require(file, record, "settings", "model", *of_text)
        _check_place(out, file.parent, record)
        here, there = settings(record)
        here = finite(here)  # as it was written
        compared = {*here, *there} - {*NOT_OF_A_RUN}
        different = [key for key in sorted(compared) if here.get(key) != there.get(key)]
        if different:
            shown = ", ".join(
                f"the text (there {record['data']['name']} as it was then)"
                if key == "corpus"  # a hash
                else f"{key} ({_short(there.get(key))} there, {_short(here.get(key))} now)"
                for key in different
            )
            raise ValueError(
                f"--out {out} holds {file.parent.relative_to(out)}, run with other settings: {shown}; "
                "give another folder with --out, or remove that one"
            )


def _check_place(out: Path, folder: Path, record: dict[str, Any]) -> None:
    """Raises ValueError where a folder is not that of its run, as one that was copied under another name."""
    model, *rate, seed = folder.relative_to(out).parts
    named = {"model": model, "seed": seed.removeprefix("seed-")}
    if rate:
        named["learning_rate"] = rate[0].removeprefix("lr-")
    for key, value in named.items():
        if key in record and str(record[key]) != value:
            raise ValueError(
                f"{folder}: its run.json is of {key} {record[key]}; give the folder its name back, or move it out of "
                f"{out}"
            )


def check_same_tokens(out: Path, fingerprints: dict[str, str], vocab_size: int) -> None:
    """Whether the runs that are in `out` were made with these tokens. Nothing is written.

    Another version of the library that makes the tokenizer may make others of the same text, and a tokenizer that
    exists may have changed.

    Args:
        out: the folder.
        fingerprints: of `Prepared`.
        vocab_size: words of the tokenizer.

    Raises:
        ValueError: naming what differs.
    """
    for file in files_of_runs(out, "run.json"):
        data = read_json(file, "data")["data"]
        there = data["fingerprints"] | {"vocab_size": data.get("vocab_size", vocab_size)}
        here = fingerprints | {"vocab_size": vocab_size}
        kept = ("train_tokens", "validation_tokens", "vocab_size")
        different = [key for key in kept if there.get(key) != here[key]]
        if different:
            raise ValueError(
                f"--out {out} holds {file.parent.relative_to(out)}, made with other {' and '.join(different)} of the "
                "same text (by another tokenizer, or another version of tokenizers?); give another folder with --out, "
                "or remove that one"
            )


def check_ours(out: Path, *, report: bool) -> None:
    """Whether a benchmark wrote what stands in `out` and would be written over: protocol.yaml, which has no comments
    then, and with `report` report.html and plots, which have something of a benchmark beside them. (`check_results`
    looks at results.json.) Nothing is written.

    Raises:
        ValueError: naming a file that would be lost.
    """
    protocol, results = out / "protocol.yaml", out / "results.json"
    lost = ["protocol.yaml"] if (report or not results.exists()) and not _as_written(protocol) else []
    if report and not (files_of_runs(out, "run.json") or results.exists() or protocol.exists()):
        lost += [name for name in ("report.html", "plots") if (out / name).exists()]
    if lost:
        raise ValueError(
            f"--out {out} holds {' and '.join(lost)} that no benchmark wrote, which would be lost; give another folder "
            "with --out, or move that away"
        )


def _as_written(file: Path) -> bool:
    """Whether a protocol is as `write_protocol` leaves it, which has no comments; also where there is none."""
    if not file.exists():
        return True
    try:
        text = file.read_text(encoding="utf-8")
        return dump_yaml(parse_yaml(text, str(file))) == text
    except (OSError, ValueError):
        return False


def check_results(out: Path) -> None:
    """Whether every run of OUT/results.json, which is written anew from the folders of the runs, has one, with its
    result or a checkpoint to measure it from. Nothing is written.

    Raises:
        ValueError: naming a run that would be lost.
    """
    file = out / "results.json"
    if not file.exists():
        return
    found = read_json(file)
    if not {"protocol", "runs"} <= found.keys():
        raise ValueError(
            f"--out {out}: results.json there is none of a benchmark (it has no protocol and runs) and would be "
            "written over; give another folder with --out, or move it away"
        )
    runs = found["runs"] or []
    if not isinstance(runs, list) or not all(isinstance(run, dict) for run in runs):
        raise ValueError(f"{file}: its runs are no list of objects; restore it, or remove it and run again")
    unnamed = any("run_folder" not in run for run in runs)  # as in associative recall, and of before it was noted
    there = {_identity(read_json(result)) for result in files_of_runs(out, "result.json")} if unnamed else set()

    def has_folder(run: dict[str, Any]) -> bool:
        if "run_folder" in run:
            folder = out / run["run_folder"]
            return any((folder / name).exists() for name in ("result.json", "checkpoint"))
        return _identity(run) in there

    lost = [run for run in runs if not has_folder(run)]
    if lost:
        model, rate, seed = _identity(lost[0])
        raise ValueError(
            f"--out {out}: results.json there has runs whose result.json is missing ({len(lost)}; the first is "
            f"{model}, learning rate {rate}, seed {seed}), and would lose them; give another folder with --out, "
            "restore them, or remove results.json, which is then written anew"
        )


def _identity(result: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(result.get(key) for key in ("model_name", "learning_rate", "seed"))


def check_checkpoints(out: Path, configs: dict[str, dict[str, Any]], device: str) -> None:
    """Whether the trainings that were stopped in `out` were of these models, on such a device. Nothing is written.

    Settings were compared before; what they leave open may have got another default since, and "auto" may find another
    device, whose memory and speed would be mixed with those of the first.

    Args:
        out: the folder.
        configs: of models that are to be trained, by name. Fields that one side lacks are of another version, and new.
        device: type of the device on which they are to be.

    Raises:
        ValueError: naming what differs, or a checkpoint or a result without its run.json.
    """
    for path in files_of_runs(out, "checkpoint", "result.json"):
        folder = path.parent
        if not (folder / "run.json").exists():
            what = "result" if path.name == "result.json" else "checkpoint"
            raise ValueError(
                f"{folder} holds a {what} and no run.json, so that nobody knows of what training; restore that, or "
                "remove the folder"
            )
        record = read_json(folder / "run.json", "model")
        if (folder / "result.json").exists() or record["model"] not in configs:
            continue
        different = _differences(record.get("config", {}), finite(configs[record["model"]]))
        if different:
            raise ValueError(
                f"{folder} holds a checkpoint of another model: {', '.join(different)} (by another version of "
                "resnet_bk or transformers?); remove it, or give another folder with --out"
            )
        if record.get("device", device) != device:
            way_out = "add --set device=cpu" if device == "cuda" else "go on where there is a GPU"
            raise ValueError(
                f"{folder} holds a checkpoint of a training on {record['device']}, and this one is on {device}: no "
                f"figure of speed or memory would be of either; {way_out}, remove it, or give another folder with --out"
            )


def _differences(there: dict[str, Any], here: dict[str, Any], prefix: str = "") -> list[str]:
    """Fields of two configurations that both have, with different values."""
    found = []
    for key in sorted({*there} & {*here} - SAVED):
        if isinstance(there[key], dict) and isinstance(here[key], dict):
            found += _differences(there[key], here[key], f"{prefix}{key}.")
        elif there[key] != here[key]:
            found.append(f"{prefix}{key} ({_short(there[key])} there, {_short(here[key])} now)")
    return found


def settings_of(protocol: Protocol, run: Run, corpus_fingerprint: str) -> dict[str, Any]:
    """What determines a run, as flat keys: all but `NOT_OF_A_RUN` must be equal for a run to be skipped or resumed."""
    chosen = {"seed": run.seed, f"models.{run.model}.learning_rate": run.learning_rate}
    return protocol.run_settings(run.model) | chosen | {"corpus": corpus_fingerprint}


def comparable(protocol: Protocol, out: Path, record: dict[str, Any], corpus: str) -> dict[str, Any] | None:
    """The settings that this protocol gives the run of `record`; None if it has no such model."""
    if record["model"] not in protocol.models:
        return None
    run = Run(record["model"], record["learning_rate"], record["seed"], out)
    if protocol.learning_rates is None and not record["grid"]:
        run = Run(run.model, protocol.rates(run.model)[0], run.seed, out)
    return settings_of(protocol, run, corpus)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def write_protocol(protocol: Protocol, out: Path) -> None:
    """OUT/protocol.yaml, which can be given to `resnet-bk bench` again."""
    replace_file(out / "protocol.yaml", dump_yaml(protocol.model_dump()).encode())


def read_results(file: Path) -> dict[str, Any]:
    """OUT/results.json.

    Raises:
        ValueError: there is none, or it cannot be read.
    """
    out = file.parent
    # os.path says no where a path may not be looked into, or is too long; `read_json` tells of that.
    if os.path.isfile(out):
        raise ValueError(f"{out} is no folder; name the folder of a benchmark, or its results.json")
    if not os.path.exists(file) and os.path.exists(out / "run.json"):
        raise ValueError(f"{out} is the folder of a run; name that of the benchmark, in which it lies")
    if not os.path.exists(file) and os.path.isdir(out) and files_of_runs(out, "result.json"):
        raise ValueError(
            f"{out} holds runs and no results.json, as `resnet-bk train` leaves it; `resnet-bk bench` with the same "
            "options, and --models NAME in the place of --model, writes that and a report, and trains nothing that is "
            "finished"
        )
    return read_json(file)


def read_run(folder: Path, *keys: str) -> dict[str, Any]:
    """run.json of a run on text, with these keys.

    Raises:
        ValueError: it cannot be read, lacks a key, or is of another task, which has neither text nor a saved model.
    """
    record = read_json(folder / "run.json")
    if "task" in record:
        raise ValueError(
            f"{folder} is a run of another task ({record['task']}), which keeps no model and reads no text; name a run "
            "on text, or see its result.json"
        )
    require(folder / "run.json", record, *keys)
    return record


def write_found(result: dict[str, Any], out: Path, name: str) -> None:
    """OUT/name of a command that was asked to keep what it printed.

    Raises:
        ValueError: as `check_new`.
    """
    check_new(out, name)
    make_folder(out)
    write_json(out / name, result)
