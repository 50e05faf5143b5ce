"""The command line. Exit codes: 0 done, 1 the answer is no, 2 a bad call, 130 stopped by Ctrl-C.

What is heavy is imported inside the commands, so that `resnet-bk --help` is quick.
"""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from resnet_bk.process import tune_process

Command = TypeVar("Command", bound=Callable[..., Any])

app = typer.Typer(
    help="Trains ResNet-BK and its peers on equal budgets, and reports.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def plain_errors(command: Command) -> Command:
    """A ValueError becomes one line on standard error and exit code 2; Ctrl-C a line and 130."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except ValueError as error:
            typer.echo(f"error: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(2) from error
        except KeyboardInterrupt:
            typer.echo("\nstopped; the same command goes on from the last checkpoint", err=True)
            raise typer.Exit(130) from None

    return wrapped  # type: ignore[return-value]


ProtocolArgument = Annotated[
    str, typer.Argument(metavar="PROTOCOL", help="quick, seed-local, or a path to a .yaml file.")
]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder: OUT/<model>/seed-<s>.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the protocol; may be given again."),
]
Models = Annotated[str | None, typer.Option("--models", metavar="A,B", help="Only these models of the protocol.")]
Data = Annotated[
    str | None, typer.Option("--data", metavar="DATA", help="Text to use: a file, a folder, or a hub data set.")
]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Results; by default runs/<protocol>.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
@plain_errors
def bench(
    protocol: ProtocolArgument,
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
    from resnet_bk.bench.runner import bench as run_bench

    loaded = load_protocol(protocol, settings or (), data)
    run_bench(loaded, out or Path("runs") / loaded.name, models=_names(models), test=test)


@app.command()
@plain_errors
def train(
    protocol: ProtocolArgument,
    model: Annotated[str, typer.Option("--model", help="The model of the protocol to train.")] = "resnet-bk",
    data: Data = None,
    settings: Settings = None,
    out: Out = None,
) -> None:
    """Train one model of a protocol, without a report."""
    from resnet_bk.bench.protocol import load_protocol
    from resnet_bk.bench.runner import bench as run_bench

    loaded = load_protocol(protocol, settings or (), data)
    folder = out or Path("runs") / loaded.name
    results = run_bench(loaded, folder, models=[model], report=False)
    for run in results["runs"]:
        if run["model_name"] == model:
            typer.echo(str(folder / run["run_folder"]))


@app.command(name="eval")
@plain_errors
def evaluate(
    run: RunArgument,
    split: Annotated[
        str, typer.Option("--split", help="validation, test, or another split of the data.")
    ] = "validation",
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Perplexity of a trained model over a whole split."""
    from resnet_bk.bench.inspect_model import evaluate_run, run_folder

    found = evaluate_run(run_folder(run), split, data)
    if as_json:
        typer.echo(json.dumps(found))
    else:
        typer.echo(
            f"{found['model_name']} on {found['dataset_name']}, {split}: perplexity {found['perplexity']:.2f}, "
            f"{found['bits_per_character']:.3f} bits a character, {found['tokens']:,} tokens, "
            f"{100 * found['unk_rate']:.2f}% <unk>{', state carried' if found['carry_state'] else ''}"
        )


@app.command()
@plain_errors
def generate(
    run: RunArgument,
    prompt: Annotated[str, typer.Option("--prompt", help="The text to continue.")],
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1)] = 100,
    temperature: Annotated[float, typer.Option("--temperature", min=0.0, help="0 takes the likeliest word.")] = 0.8,
    top_k: Annotated[int, typer.Option("--top-k", min=0, help="Draw from so many words; 0 for all.")] = 50,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
) -> None:
    """Continue a text, word by word as it is produced."""
    from resnet_bk.bench.generation import stream_text
    from resnet_bk.bench.inspect_model import run_folder

    stream_text(run_folder(run), prompt, max_new_tokens, temperature, top_k, seed)


@app.command()
@plain_errors
def flops(protocol: ProtocolArgument, models: Models = None, settings: Settings = None, as_json: Json = False) -> None:
    """Floating-point operations of a training step, by model."""
    from rich.table import Table

    from resnet_bk.bench.flops import step_flops
    from resnet_bk.bench.inspect_model import protocol_config
    from resnet_bk.bench.peers import build_model
    from resnet_bk.bench.protocol import load_protocol, select_models
    from resnet_bk.bench.runner import standard_output
    from resnet_bk.bench.sizing import count_parameters

    loaded = load_protocol(protocol, settings or ())
    counted: dict[str, dict[str, int]] = {}
    for name in select_models(loaded, _names(models)):
        model = build_model(protocol_config(loaded, name), seed=0)
        found = step_flops(model, loaded.batch_size, loaded.sequence_length)
        counted[name] = {"parameters": count_parameters(model).total} | found.as_dict()
    if as_json:
        typer.echo(json.dumps(counted))
        return
    columns = ("parameters", "forward_flops", "backward_flops", "optimizer_flops", "total_flops_per_step")
    table = Table(title=f"{loaded.name}: one step of {loaded.batch_size} x {loaded.sequence_length} tokens")
    table.add_column("model")
    for column in columns:
        table.add_column(column.replace("_flops", "").replace("_", " "), justify="right")
    for name, numbers in counted.items():
        table.add_row(name, *(f"{numbers[column]:,}" for column in columns))
    standard_output().print(table)


@app.command()
@plain_errors
def audit(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A model of the protocol, a run or model folder, or a type of transformers."
        ),
    ],
    protocol: Annotated[str, typer.Option("--protocol", help="Where names are looked up.")] = "quick",
    settings: Settings = None,
) -> None:
    """Does a model see the answer? Exit code 1 if a logit depends on a later token."""
    from resnet_bk.bench.audit import audit_causality
    from resnet_bk.bench.inspect_model import find_model, longest_text
    from resnet_bk.bench.protocol import load_protocol
    from resnet_bk.bench.run import audit_lengths

    found = find_model(model, load_protocol(protocol, settings or ()))
    result = audit_causality(found, found.config.vocab_size, lengths=audit_lengths(longest_text(found) or 128))
    typer.echo(f"{model}: {result.verdict}. {result.detail}")
    if result.verdict == "leaks":
        raise typer.Exit(1)


@app.command()
@plain_errors
def report(out: Annotated[Path, typer.Argument(metavar="OUT", help="A folder that bench wrote.")]) -> None:
    """Write report.html and the plots again from results.json."""
    from resnet_bk.bench.run_folder import read_json
    from resnet_bk.bench.runner import publish, standard_output

    publish(read_json(out / "results.json"), out, standard_output())


def _names(models: str | None) -> list[str] | None:
    return None if models is None else [name.strip() for name in models.split(",") if name.strip()]


def main() -> None:
    """The entry point `resnet-bk`."""
    tune_process()
    app()
