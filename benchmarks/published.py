"""Whether a trained run is one whose figures a page may quote."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resnet_bk.bench.trained.opened_run import OpenedRun

RESULTS = Path(__file__).parents[1] / "results"


def is_published(run: "OpenedRun", protocol: str, model: str, seed: int) -> bool:
    """Whether it is this run of a shipped protocol: with its settings and learning rate, on the text of results/."""
    from resnet_bk.bench.json_files import read_json
    from resnet_bk.bench.protocol import load_protocol
    from resnet_bk.bench.run_folder import Run, settings_of

    record = run.record
    if (run.protocol.name, record["model"], record["seed"]) != (protocol, model, seed):
        return False
    shipped, results = load_protocol(protocol), read_json(RESULTS / protocol / "results.json")
    fingerprints = results["data"]["fingerprints"]
    rate = record["learning_rate"]
    return bool(
        record["settings"] == settings_of(shipped, Run(model, rate, seed, run.folder), fingerprints["corpus"])
        and rate in shipped.rates(model)
        and record["data"]["fingerprints"] == fingerprints
    )
