"""The command line. Exit codes: 0 done, 1 the answer is no, 2 a bad call, 3 a failure that is no fault of the call, 130
stopped by Ctrl-C, 141 when the reader of its output closed the pipe.

What is heavy is imported inside the commands, so that `resnet-bk --help` is quick.
"""

import functools
import io
import json
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperGroup

from resnet_bk import __version__
from resnet_bk.cli_options import (
    AnyProtocol,
    Data,
    Device,
    EarlyExit,
    Json,
    ModelOrRun,
    ModelProtocol,
    Models,
    Once,
    Out,
    ProtocolArgument,
    Settings,
    Split,
    listed_names,
    listed_numbers,
    out_option,
)
from resnet_bk.process import tune_process

Command = TypeVar("Command", bound=Callable[..., Any])
# What the parser raises for a call that it cannot read, by the only public name that its family has.
UsageError: Any = typer.BadParameter.__base__

# What a model reports of its work, in words.
MEASURES = {
    "pointed": "{:.2f} of the predictions by the pointer",
    "depth": "{:.2f} blocks a token",
    "kept": "{:.2f} of the sites kept",
}


class Commands(TyperGroup):
    """The commands; a call that cannot be read gets one line and exit code 2, as any other bad one."""

    def main(self, *args: Any, **options: Any) -> Any:
        """As in the base class."""
        alone = options.pop("standalone_mode", True)
        options["standalone_mode"] = False
        if not alone:
            return super().main(*args, **options)
        try:
            code = super().main(*args, **options)
        except UsageError as error:
            path = error.ctx.command_path if error.ctx is not None else "resnet-bk"
            _complain(f"{error.format_message().rstrip('.')}; see {path} --help")
            sys.exit(2)
        except SystemExit:  # only where a pipe is closed, and with 1, which is an answer
            sys.exit(141)
        except Exception:  # 1 is an answer, and would be what Python exits with
            traceback.print_exc()
            sys.exit(3)
        sys.exit(code if isinstance(code, int) else 0)


app = typer.Typer(
    cls=Commands,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Trains ResNet-BK and its peers on equal budgets, and reports."""


def _complain(message: str) -> None:
    """One line on standard error."""
    typer.echo(f"error: {' '.join(message.split())}", err=True)


def plain_errors(command: Command) -> Command:
    """A ValueError becomes one line on standard error and exit code 2; Ctrl-C a line and 130."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except ValueError as error:
            _complain(str(error))
            raise typer.Exit(2) from error
        except KeyboardInterrupt:
            trains = command.__name__ in ("bench", "train")
            way_on = "; the same command goes on from the last checkpoint, where there is one" if trains else ""
            typer.echo(f"\nstopped{way_on}", err=True)
            raise typer.Exit(130) from None

    return wrapped  # type: ignore[return-value]


@app.command(cls=Once)
@plain_errors
def bench(
    protocol: AnyProtocol,
    models: Models = None,
    data: Data = None,
    settings: Settings = None,
    out: Out = None,
    test: Annotated[bool, typer.Option("--test", help="Read the test split too, once a run.")] = False,
) -> None:
    """Train and compare the models of a protocol; write results.json and report.html.

    Finished runs are skipped, a stopped one is resumed.
    """
    from resnet_bk.bench.protocol import load_protocol
    from resnet_bk.bench.recall import bench_recall, is_recall, load_recall
    from resnet_bk.bench.runner import bench as run_bench

    if is_recall(protocol):
        if data is not None or test:
            raise ValueError(f"{protocol} draws its own examples and always tests; leave out --data and --test")
        recall = load_recall(protocol, settings or ())
        bench_recall(recall, out or Path("runs") / recall.name, models=listed_names(models))
        return
    loaded = load_protocol(protocol, settings or (), data)
    run_bench(loaded, out or Path("runs") / loaded.name, models=listed_names(models), test=test)


@app.command(cls=Once)
@plain_errors
def train(
    protocol: ProtocolArgument,
    model: Annotated[
        str | None, typer.Option("--model", help="The model to train; by default resnet-bk, or the only one.")
    ] = None,
    data: Data = None,
    settings: Settings = None,
    out: Out = None,
) -> None:
    """Train one model of a protocol, without a report."""
    from resnet_bk.bench.protocol import load_protocol, select_model
    from resnet_bk.bench.runner import bench as run_bench

    loaded = load_protocol(protocol, settings or (), data)
    chosen = select_model(loaded, model)
    folder = out or Path("runs") / loaded.name
    results = run_bench(loaded, folder, models=[chosen], report=False)
    for run in results["runs"]:
        if run["model_name"] == chosen:
            typer.echo(str(folder / run["run_folder"]))


@app.command(name="eval", cls=Once)
@plain_errors
def evaluate(
    run: ModelOrRun,
    split: Split = "validation",
    data: Data = None,
    early_exit: EarlyExit = None,
    device: Device = None,
    protocol: Annotated[
        str | None, typer.Option("--protocol", help="Gives a saved model its rows and segments; by default quick.")
    ] = None,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Perplexity of a trained model over a whole split."""
    from resnet_bk.bench.trained.perplexities import evaluate_folder

    found = evaluate_folder(run, split, data, early_exit, device, protocol, settings or ())
    if as_json:
        _print_json(found)
    else:
        if found["audit"] == "causal":
            views = [f"{found['overlapping_perplexity']:.2f} in overlapping windows"]
            if found["perplexity_without_carry"] is not None:
                views.insert(0, f"{found['perplexity_without_carry']:.2f} with the state not carried")
            bits = f"{found['bits_per_character']:.3f} bits a character"
            figures = f"perplexity {found['perplexity']:.2f} ({', '.join(views)}), {bits}"
        else:
            figures = f"no perplexity, for it leaks ({found['leaking_perplexity']:.2f} with the answer in sight)"
        typer.echo(
            f"{found['model_name']} on {found['dataset_name']}, {split}: {figures}, {found['tokens']:,} tokens, "
            f"{100 * found['unk_rate']:.2f}% <unk>{', state carried' if found['carry_state'] else ''}"
            + ("" if found["early_exit_threshold"] is None else f", early exit at {found['early_exit_threshold']:g}")
            + "".join(
                f", {MEASURES.get(name, name + ' {:.2f}').format(value)}" for name, value in found["measures"].items()
            )
            + f", on {found['device']}"
        )
        if found["divided"]:
            part = f"{found['dataset_name']} came without splits, and {split} is a part of it (90/5/5)"
            typer.echo(f"{part}; --split all reads the whole")
        for line in found["notes"]:
            typer.echo(line)


@app.command(cls=Once)
@plain_errors
def lengths(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN ...", help="Run folders of one protocol.")],
    data: Data = None,
    split: Split = "validation",
    tokens: Annotated[int, typer.Option("--tokens", min=1, help="Of each document, from its start.")] = 65536,
    documents: Annotated[int, typer.Option("--documents", min=1, help="How many, the first long enough.")] = 4,
    windows: Annotated[
        str | None, typer.Option("--windows", metavar="W,W", help="Tokens in view. [1, 4 and 16 segments]")
    ] = None,
    out: Annotated[Path | None, out_option("Write DIR/lengths.json as well.")] = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Perplexity of trained models by place in long documents, read as one stream and in windows."""
    from resnet_bk.bench.resolve import run_folders
    from resnet_bk.bench.run_folder import check_new, write_found
    from resnet_bk.bench.trained.lengths import FILE, length_profiles
    from resnet_bk.bench.trained.lengths_table import lengths_table

    sizes = None if windows is None else listed_numbers("--windows", windows, 2, "512,2048")
    if out is not None:
        check_new(out, FILE)  # before the work
    found = length_profiles(run_folders(runs), data, split, tokens, documents, sizes, device)
    if out is not None:
        write_found(found, out, FILE)  # first: what is printed may not arrive
    _show(found, as_json, lengths_table)


@app.command(cls=Once)
@plain_errors
def repeats(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN ...", help="Run folders of one protocol.")],
    data: Data = None,
    split: Split = "validation",
    window: Annotated[
        int | None, typer.Option("--window", metavar="W", help="Tokens of a window; by default those of a segment.")
    ] = None,
    out: Annotated[Path | None, out_option("Write DIR/repeats.json as well.")] = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Loss of trained models on new words, on words seen before, and on pairs of words that come again."""
    from resnet_bk.bench.resolve import run_folders
    from resnet_bk.bench.run_folder import check_new, write_found
    from resnet_bk.bench.trained.repeats import FILE, repeat_losses
    from resnet_bk.bench.trained.repeats_table import repeats_table

    if out is not None:
        check_new(out, FILE)  # before the work
    found = repeat_losses(run_folders(runs), data, split, window, device)
    if out is not None:
        write_found(found, out, FILE)  # first: what is printed may not arrive
    _show(found, as_json, repeats_table)


@app.command(cls=Once)
@plain_errors
def generate(
    run: ModelOrRun,
    prompt: Annotated[str, typer.Option("--prompt", help="The text to continue.")],
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="At most.")] = 100,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0.0, help="From 0.001 to 1000; 0 takes the likeliest word.")
    ] = 0.8,
    top_k: Annotated[int, typer.Option("--top-k", min=0, help="Draw from so many tokens; 0 for all.")] = 50,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="Of the draws.")] = 0,
    early_exit: EarlyExit = None,
    device: Annotated[str, typer.Option("--device", metavar="DEVICE", help="auto, cpu or cuda.")] = "cpu",
) -> None:
    """Continue a text, word by word as it is produced."""
    from resnet_bk.bench.resolve import model_folder
    from resnet_bk.bench.trained.generation import stream_text

    stream_text(model_folder(run), prompt, max_new_tokens, temperature, top_k, seed, early_exit, device)


@app.command(cls=Once)
@plain_errors
def flops(
    target: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|PROTOCOL",
            help="A model (a known name, a type of transformers, a run or model folder, a config.json), or a protocol.",
        ),
    ],
    models: Models = None,
    protocol: ModelProtocol = None,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Floating-point operations of a training step: of one model by part, or of the models of a protocol."""
    from resnet_bk.bench.flops.report import comparison_table, model_flops, model_tables
    from resnet_bk.bench.model_target import open_target
    from resnet_bk.bench.peers import build_model
    from resnet_bk.bench.protocol import load_protocol, select_models
    from resnet_bk.bench.resolve import is_protocol, protocol_config
    from resnet_bk.bench.settings_read import of_flops, refuse_unread

    counted: dict[str, Any]
    if is_protocol(target):
        if protocol is not None:
            raise ValueError(f"--protocol {protocol}: {target} is a protocol already; leave the option out")
        loaded = load_protocol(target, settings or ())
        refuse_unread(settings or (), of_flops(), "flops")
        names = select_models(loaded, listed_names(models))
        counted = {name: model_flops(build_model(protocol_config(loaded, name), 0), loaded, name) for name in names}
        title = f"{loaded.name}: one step of {loaded.batch_size} x {loaded.sequence_length} tokens"
        tables: list[Any] = [comparison_table(title, counted)]
    else:
        if models is not None:
            raise ValueError(f"--models {models}: {target} is one model; leave the option out, or name a protocol")
        found = open_target(target, protocol, settings or (), of_flops, "flops")
        counted = {"model": target} | model_flops(found.model, found.protocol, found.name, found.steps)
        tables = model_tables(target, counted)
    if as_json:
        _print_json(counted)
        return
    _print_all(tables)


@app.command(cls=Once)
@plain_errors
def inspect(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|RUN",
            help="A run or model folder, a known model, a type of transformers, or a config.json.",
        ),
    ],
    protocol: ModelProtocol = None,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Configuration, parameters by part, state in generation and learned time scales of a model."""
    from resnet_bk.bench.inspection import inspect_model, inspection_tables
    from resnet_bk.bench.model_target import open_target
    from resnet_bk.bench.settings_read import of_inspect

    found = open_target(model, protocol, settings or (), of_inspect, "inspect")
    shown = inspect_model(found.model, found.weights, found.folder)
    if as_json:
        _print_json({"model": model} | shown)
        return
    _print_all(inspection_tables(model, shown))


@app.command(cls=Once)
@plain_errors
def audit(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A model of the protocol, a type of transformers, a run or model folder, a config.json, or owner/name "
            "on the hub.",
        ),
    ],
    full: Annotated[
        bool,
        typer.Option("--full/--quick", help="Every layout, mode and dtype, or the short audit of the benchmark."),
    ] = True,
    lengths: Annotated[str | None, typer.Option("--lengths", metavar="T,T", help="Numbers of tokens.")] = None,
    leak_cost: Annotated[
        bool, typer.Option("--leak-cost", help="Measure what a leak buys, in nats a token, as well.")
    ] = False,
    data: Data = None,
    steps: Annotated[
        int | None, typer.Option("--steps", help="With --leak-cost: training of a model without weights. [200]")
    ] = None,
    segments: Annotated[
        int | None, typer.Option("--segments", help="With --leak-cost: held-out segments to look at. [32]")
    ] = None,
    protocol: Annotated[str | None, typer.Option("--protocol", help="Where it finds names; by default quick.")] = None,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Does a model see the answer? Exit code 1 if a logit depends on a later token."""
    from resnet_bk.bench.audit.command import AuditOptions, run_audit
    from resnet_bk.bench.console import standard_output

    sizes = None if lengths is None else listed_numbers("--lengths", lengths, 2, "2,65,300")
    options = AuditOptions(full=full, lengths=sizes, leak_cost=leak_cost, data=data, steps=steps, segments=segments)
    found = run_audit(model, options, protocol, settings or ())
    if as_json:
        _print_json(found.as_dict())
    else:
        found.show(standard_output())
    if found.verdict == "leaks":
        raise typer.Exit(1)


@app.command(cls=Once)
@plain_errors
def ngrams(
    protocol: ProtocolArgument,
    data: Data = None,
    settings: Settings = None,
    orders: Annotated[str, typer.Option("--orders", metavar="N,N", help="Lengths of the n-grams.")] = "1,2,5",
    split: Annotated[str, typer.Option("--split", help="validation, test, or another held-out split.")] = "validation",
    out: Annotated[Path | None, out_option("Write DIR/ngrams.json as well.")] = None,
    as_json: Json = False,
) -> None:
    """Perplexity of n-gram models (Kneser-Ney) on the tokens that a protocol's models are scored on."""
    from resnet_bk.bench.ngrams.baselines import check_ngrams, ngram_baselines, write_ngrams
    from resnet_bk.bench.ngrams.table import ngram_table
    from resnet_bk.bench.protocol import load_protocol
    from resnet_bk.bench.settings_read import of_ngrams, refuse_unread

    lengths = listed_numbers("--orders", orders, 1, "1,2,5")
    if out is not None:
        check_ngrams(out, split, lengths)  # before the work
    loaded = load_protocol(protocol, settings or (), data)
    refuse_unread(settings or (), of_ngrams(), "ngrams")
    found = ngram_baselines(loaded, orders=lengths, split=split)
    if out is not None:
        write_ngrams(found, out)  # first: what is printed may not arrive
    _show(found, as_json, ngram_table)


@app.command(cls=Once)
@plain_errors
def compare(
    outs: Annotated[list[Path], typer.Argument(metavar="OUT OUT ...", help="Folders that bench wrote.")],
    as_json: Json = False,
) -> None:
    """Finished benchmarks side by side: data, perplexity, time, FLOPs (WikiText-2 and WikiText-103, for example)."""
    from resnet_bk.bench.report.compare import compare_results, comparison_table

    compared = compare_results(outs)
    _show(compared, as_json, comparison_table)


@app.command(cls=Once)
@plain_errors
def report(out: Annotated[Path, typer.Argument(metavar="OUT", help="That bench wrote, or its results.json.")]) -> None:
    """Write report.html and the plots again from results.json."""
    from resnet_bk.bench.console import standard_output
    from resnet_bk.bench.report.publish import publish
    from resnet_bk.bench.run_folder import read_results

    folder = out.parent if out.name == "results.json" else out
    publish(read_results(folder / "results.json"), folder, standard_output())


def _print_json(found: dict[str, Any]) -> None:
    """JSON has no infinity and no NaN: null stands in their place."""
    from resnet_bk.bench.json_files import finite

    typer.echo(json.dumps(finite(found), allow_nan=False))


def _show(found: dict[str, Any], as_json: bool, table: Callable[[dict[str, Any]], Any]) -> None:
    """As JSON, or as a table."""
    if as_json:
        _print_json(found)
    else:
        from resnet_bk.bench.console import standard_output

        standard_output().print(table(found))


def _print_all(parts: Sequence[Any]) -> None:
    """Lines of text and tables."""
    from resnet_bk.bench.console import standard_output

    console = standard_output()
    for part in parts:
        console.print(part, soft_wrap=isinstance(part, str), markup=False, highlight=False)


def main() -> None:
    """The entry point `resnet-bk`."""
    # A terminal or a file that cannot take a letter is no reason to end a training.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    tune_process()
    app()
