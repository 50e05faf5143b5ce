"""Which runs may be written into results/."""

import json
from types import SimpleNamespace

import pytest

from benchmarks.published import RESULTS, is_published
from resnet_bk.bench.protocol import load_protocol

NAMED = ("ablation-wide", "adaptive", 42)


def a_run(*settings, protocol="ablation-wide", **record):
    """A run of the published one's text, but for what is given."""
    of, model = load_protocol(protocol, settings), record.get("model", "adaptive")
    published = json.loads((RESULTS / "ablation-wide" / "results.json").read_text())
    own = {
        "model": model,
        "seed": 42,
        "learning_rate": of.rates(model)[0],
        "settings": of.run_settings(model),
        "data": {"fingerprints": published["data"]["fingerprints"]},
    }
    return SimpleNamespace(protocol=of, record=own | record)


@pytest.mark.parametrize("settings", [(), ("seeds=[42,43]",), ("models.sparse.config.sparse_bk=0.9",)])
def test_what_does_not_touch_a_run(settings):
    assert is_published(a_run(*settings), *NAMED)


@pytest.mark.parametrize(
    "run",
    [
        a_run("sequence_length=512"),
        a_run("models.adaptive.config.ponder_cost=0.1"),
        a_run("models.adaptive.learning_rate=1e-4"),
        a_run(model="exact"),
        a_run(seed=43),
        a_run(protocol="ablation"),
        a_run(data={"fingerprints": {"corpus": "another"}}),
    ],
    ids=["shape", "model", "rate", "name", "seed", "protocol", "text"],
)
def test_another_run(run):
    assert not is_published(run, *NAMED)
