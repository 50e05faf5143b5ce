"""Models that cannot be trained are found before any is."""

import pytest
import torch

from resnet_bk.bench import runner


@pytest.mark.parametrize(
    ("peer", "reason"),
    [
        ({"transformers": "gpt2", "config": {"n_positions": 8}}, r"\(IndexError: .*\)"),
        ({"transformers": "reformer"}, r"\(AssertionError: .*\)"),
        (
            {"transformers": "resnet_bk_pointer", "config": {"language_model": {"model_type": "gemma2"}}},
            r"\(language_model: the logits of gemma2 are more than .*\)",
        ),
        (
            {"transformers": "mamba", "optimizer": "muon-parts"},
            r"\(optimizer=muon-parts: MambaForCausalLM has no joint map .* set its optimizer to muon, .*\)",
        ),
    ],
)
def test_a_model_that_cannot_be_trained_is_found_before_the_others_are(peer, reason, run, tmp_path):
    models = {"gpt2": {"learning_rate": 1e-3}, "peer": peer | {"learning_rate": 1e-3, "match_parameters": False}}
    rule = r"protocol tiny: models\.peer: cannot be trained on segments of 16 tokens "
    with pytest.raises(ValueError, match=rule + reason + r"; change it with --set models\.peer\.config"):
        run(models=models)
    assert not (tmp_path / "out").exists()


def test_memory_that_runs_out_is_no_fault_of_the_call(run, monkeypatch):
    def fail(*arguments, **settings):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr("resnet_bk.bench.model_check.causal_lm_loss", fail)
    with pytest.raises(torch.OutOfMemoryError):
        run(only=["gpt2"])


def test_a_model_that_is_finished_is_not_tried_again(run, monkeypatch):
    run(only=["gpt2"])
    tried = []
    monkeypatch.setattr(runner, "check_model", lambda name, *_: tried.append(name))
    run()
    assert tried == ["resnet-bk"]
