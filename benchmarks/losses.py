"""Whether a change of the code changed what models compute: their losses and weights over a few steps, bit for bit.

    python -m benchmarks.losses PROTOCOL [--models A,B] [--data D] [--set KEY=VALUE] [--steps N] --out FILE
    python -m benchmarks.losses PROTOCOL ... --against FILE

The first call, on the code as it was, writes what every model of the protocol went through in its first N steps (first
seed, first rate of a grid, no validation); the second, on the code as it is, compares. `PYTHONPATH=OTHER_CHECKOUT/src`
gives the code of another checkout. Bits depend on the processor, the number of threads and the versions of libraries,
and on the settings of the training: a FILE of others is refused, and one that holds no settings, as earlier versions of
this command wrote it. Exit code 1 if a model differs, 2 if FILE is refused.
"""

import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.command import Parser, choose, guarded, json_file, out_file
from resnet_bk.process import tune_process

# What decides the bits beside code and settings.
PLACE = ("cpu", "kernel_instructions", "threads", "gpu", "python", "versions")


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit code.

    Raises:
        ValueError: a bad call, or a FILE that cannot be compared.
    """
    options = Parser(prog="python -m benchmarks.losses", description=__doc__)
    options.add_argument("protocol", metavar="PROTOCOL", help="a shipped protocol, or a path to one")
    options.add_argument("--models", metavar="A,B", help="by default all of the protocol")
    options.add_argument("--data", metavar="D", help="text in the place of the protocol's")
    options.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], dest="settings")
    options.add_argument("--steps", metavar="N", type=int, default=10, help="by default %(default)s")
    options.add_argument("--out", metavar="FILE", help="JSON to write")
    options.add_argument("--against", metavar="FILE", type=Path, help="JSON of an earlier call to compare with")
    given = options.parse_args(arguments)
    if given.steps < 1:
        raise ValueError(f"--steps {given.steps}: must be at least 1")
    for setting in given.settings:
        key = setting.partition("=")[0].strip()
        if key in ("steps", "warmup_steps"):
            raise ValueError(f"--set {setting}: not read; --steps N says how many, and there is no warm-up")
    if given.out is None and given.against is None:
        raise ValueError("--out or --against FILE must be given; name a file to write, or one to compare with")
    out = None if given.out is None else out_file(given.out, "losses", whole=False)
    tune_process()  # before PyTorch is loaded
    from resnet_bk.bench.environment import environment
    from resnet_bk.bench.json_files import read_json, write_json
    from resnet_bk.bench.protocol import load_protocol

    if given.against is not None and not json_file(given.against).exists():
        raise ValueError(f"--against {given.against}: there is no such file; name one that --out wrote")
    try:
        before = None if given.against is None else read_json(json_file(given.against))
    except ValueError as error:
        raise ValueError(f"--against {given.against}: {error}; name a file that --out wrote") from None
    protocol = load_protocol(given.protocol, [*given.settings, f"steps={given.steps}", "warmup_steps=0"], given.data)
    names = choose("--models", given.models, list(protocol.models))
    found: dict[str, Any] = {"environment": environment(), "steps": given.steps, "models": {}}
    settings = {name: settings_of_training(protocol, name) for name in names}
    if before is not None:
        check_comparable(found, before, given.against)
        check_settings(settings, before, given.against)
    for name, passed in passes(protocol, names):
        found["models"][name] = passed | {"settings": settings[name]}
        print(f"{name}: last loss {passed['losses'][-1]!r}, weights {passed['weights'][:12]}", flush=True)
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            write_json(out, found)
    if before is None:
        return 0
    differ = differences(found, before)
    commit = (before["environment"]["git_commit"] or "unknown")[:12]
    for line in differ:
        print(f"DIFFERS: {line}")
    print(f"{len(names) - len(differ)} of {len(names)} models bit for bit as at commit {commit}")
    return int(bool(differ))


def passes(protocol: Any, names: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name, and what a model went through: its loss at every step, and a hash of its weights after the last one."""
    from dataclasses import replace

    from resnet_bk.bench.data import default_cache_dir, open_corpus, prepare
    from resnet_bk.bench.peers import build_model, resolve_configs
    from resnet_bk.bench.run import run_spec
    from resnet_bk.bench.runner import deterministic
    from resnet_bk.data import TokenStream
    from resnet_bk.data.saved_tokenizer import special_ids
    from resnet_bk.training import train

    corpus = open_corpus(protocol)
    prepared = prepare(protocol, corpus, default_cache_dir())
    configs = resolve_configs(protocol, len(prepared.tokenizer), special_ids(prepared.tokenizer), names)
    for name in names:
        with tempfile.TemporaryDirectory() as folder, deterministic():
            run = run_of_model(protocol, Path(folder), name)
            stream = TokenStream(prepared.train.tokens, protocol.batch_size, protocol.sequence_length)
            spec = replace(run_spec(protocol, run, stream.steps_per_epoch), log_interval=1, checkpoint_seconds=1e9)
            model = build_model(configs[name], run.seed)
            trained = train(model, stream, spec, run.folder)
        yield (
            name,
            {
                "text": corpus.fingerprint,
                "losses": [line["loss"] for line in trained.log],
                "weights": fingerprint(model.state_dict().values()),
            },
        )


def run_of_model(protocol: Any, folder: Path, name: str) -> Any:
    """The run that is looked at: first rate, first seed."""
    from resnet_bk.bench.run_folder import run_of

    return run_of(protocol, folder, name, protocol.rates(name)[0], protocol.seeds[0])


def settings_of_training(protocol: Any, name: str) -> dict[str, Any]:
    """What decides the training of a model beside code and machine, JSON-able. Not the content of the text: code that
    reads it otherwise is a change of the code."""
    from resnet_bk.bench.json_files import finite
    from resnet_bk.bench.protocol import NOT_OF_A_RUN
    from resnet_bk.bench.run_folder import settings_of
    from resnet_bk.training import training_device

    found = settings_of(protocol, run_of_model(protocol, Path(), name), corpus_fingerprint="")
    decide = {key: value for key, value in found.items() if key not in (*NOT_OF_A_RUN, "corpus")}
    named = {"dataset": protocol.dataset, "tokenizer": protocol.tokenizer}
    return finite(decide | named | {"device": training_device(protocol.device).type})


def fingerprint(tensors: Iterable[Any]) -> str:
    """sha256 of their numbers, whatever they are called."""
    import torch

    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def check_comparable(found: dict[str, Any], before: dict[str, Any], file: Path) -> None:
    """Raises ValueError where other bits are to be expected."""
    if not {"models", "environment", "steps"} <= before.keys() or not isinstance(before["models"], dict):
        raise ValueError(f"--against {file}: was not written by this command; name a file of --out")
    places = ({key: of["environment"].get(key) for key in PLACE} | {"--steps": of["steps"]} for of in (before, found))
    there, here = places
    for key, value in here.items():
        if there[key] != value:
            raise ValueError(
                f"--against {file}: was written with {key} {there[key]!r}, and this is {value!r}: other bits are to be "
                "expected; write it anew here"
            )


def check_settings(settings: dict[str, dict[str, Any]], before: dict[str, Any], file: Path) -> None:
    """Raises ValueError where a model of the file was trained otherwise, or the file does not say how."""
    for name, here in settings.items():
        if name not in before["models"]:
            continue  # `differences` says so
        there = before["models"][name].get("settings")
        if there is None:
            raise ValueError(
                f"--against {file}: holds no settings of {name}, as an earlier version of this command wrote it, so "
                "that another training could be taken for other code; write it anew with --out "
                "(PYTHONPATH=OTHER_CHECKOUT/src has the code of that time)"
            )
        keys = sorted(key for key in {*here, *there} if here.get(key) != there.get(key))
        if keys:
            shown = ", ".join(f"{key} ({there.get(key)!r} there, {here.get(key)!r} now)" for key in keys)
            raise ValueError(
                f"--against {file}: {name} was trained there with other settings: {shown}; give those of the file, or "
                "write it anew with these"
            )


def differences(found: dict[str, Any], before: dict[str, Any]) -> list[str]:
    """A line a model that is not the same."""
    lines = []
    for name, passed in found["models"].items():
        earlier = before["models"].get(name)
        if earlier is None:
            lines.append(f"{name}: is not in the file")
        elif earlier["text"] != passed["text"]:
            lines.append(f"{name}: has read another text")
        elif (earlier["losses"], earlier["weights"]) != (passed["losses"], passed["weights"]):
            pairs = enumerate(zip(earlier["losses"], passed["losses"], strict=True), start=1)
            step = next((step for step, (theirs, ours) in pairs if theirs != ours), None)
            lines.append(f"{name}: {'its weights after the last step' if step is None else f'from step {step} on'}")
    return lines


if __name__ == "__main__":
    guarded(main)
