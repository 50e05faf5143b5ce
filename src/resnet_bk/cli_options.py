"""Arguments and options that several commands of the command line share, and lists with commas in them."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from resnet_bk.bench.protocols import recall_protocols, shipped_protocols
from resnet_bk.hints import in_home

RECALL_PROTOCOLS = recall_protocols()
TEXT_PROTOCOLS = [name for name in shipped_protocols() if name not in RECALL_PROTOCOLS]


class Once(TyperCommand):
    """A command that refuses a value that it would not use: of an option given twice the parser keeps the last."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As in the base class."""
        *_, given = self.make_parser(ctx).parse_args(args=list(args))
        for parameter in dict.fromkeys(given):
            other = list(getattr(parameter, "secondary_opts", ()))  # of --full/--quick the second
            if set(parameter.opts) & set(args) and set(other) & set(args):
                ctx.fail(f"{parameter.opts[0]}: given beside {other[0]}; give one of the two")
            twice = given.count(parameter) > 1 and not getattr(parameter, "multiple", False)
            if twice and not getattr(parameter, "is_flag", False):
                ctx.fail(f"{parameter.opts[0]}: given twice; give it once")
        return super().parse_args(ctx, args)


ProtocolArgument = Annotated[
    str,
    typer.Argument(metavar="PROTOCOL", help=f"{', '.join(TEXT_PROTOCOLS)}, or a path to a .yaml file."),
]
AnyProtocol = Annotated[
    str,
    typer.Argument(
        metavar="PROTOCOL",
        help=f"{', '.join(TEXT_PROTOCOLS)}, {', '.join(RECALL_PROTOCOLS)} (recall), or a path to a .yaml file.",
    ),
]
EarlyExit = Annotated[
    float | None,
    typer.Option("--early-exit", metavar="THRESHOLD", help="Of a model with adaptive computation: stop tokens sooner."),
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="DEVICE",
        help="auto, cpu or cuda; by default a GPU where there is one, unless the run's protocol says cpu.",
    ),
]
ModelOrRun = Annotated[
    Path, typer.Argument(metavar="RUN", help="A run folder, OUT/<model>/seed-<s>, or one of a model and its tokenizer.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the protocol; may be given again."),
]
Models = Annotated[str | None, typer.Option("--models", metavar="A,B", help="Only these models of the protocol.")]
Data = Annotated[
    str | None, typer.Option("--data", metavar="DATA", help="Text to use: a file, a folder, or a hub data set.")
]
Split = Annotated[str, typer.Option("--split", help="validation, test, another split, or all of text that has none.")]
ModelProtocol = Annotated[
    str | None,
    typer.Option(
        "--protocol", metavar="PROTOCOL", help="Gives the shapes; by default a run's own protocol, else seed."
    ),
]


def _folder(text: str) -> Path:
    """A folder to write to; a home is looked up, as shells do it for `--out DIR` and not for `--out=DIR`."""
    if not text.strip():
        raise typer.BadParameter("is empty; name a folder, or leave --out out")
    try:
        return in_home(text, "--out")
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def out_option(what: str) -> Any:
    """--out, with what is written there for a help text."""
    return typer.Option("--out", metavar="DIR", parser=_folder, help=what)


Out = Annotated[Path | None, out_option("Results; by default runs/<protocol>.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def listed_names(text: str | None) -> list[str] | None:
    """Names apart by commas; None where the option was left out."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def listed_numbers(option: str, text: str, least: int, example: str) -> list[int]:
    """Numbers apart by commas.

    Raises:
        ValueError: something else, a number below `least`, or one that stands there twice.
    """
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < least:
        raise ValueError(f"{option} {text!r}: must be integers of at least {least}, for example {option} {example}")
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"{option} {text!r}: holds a number twice; give each once")
    return numbers
