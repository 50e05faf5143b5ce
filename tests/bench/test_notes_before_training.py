"""What is said before a training: bfloat16 where it is slow, held-out text that is short."""

import torch

from resnet_bk.bench import slow_precision as module
from resnet_bk.models import ResNetBKConfig


def on_a_processor(monkeypatch, *, with_bfloat16):
    monkeypatch.setattr(module, "cpu_multiplies", lambda dtype: with_bfloat16 or dtype != torch.bfloat16)


def test_a_line_names_each_setting_and_the_way_out(monkeypatch):
    configs = {"a": ResNetBKConfig(), "b": ResNetBKConfig(mixed_precision="bf16")}
    on_a_processor(monkeypatch, with_bfloat16=False)
    first, second = module.slow_precision("bfloat16", configs, "cpu")
    assert first.startswith("dtype: PyTorch has no fast matmuls of bfloat16")
    assert first.endswith("--set dtype=float32 is quicker")
    assert second.endswith("--set models.b.config.mixed_precision=none is quicker")
    assert module.slow_precision("float32", {"a": configs["a"]}, "cpu") == []
    assert module.slow_precision("bfloat16", configs, "cuda") == []
    assert module.slow_precision("bfloat16", {}, "cpu") == []
    on_a_processor(monkeypatch, with_bfloat16=True)
    assert module.slow_precision("bfloat16", configs, "cpu") == []


def test_it_is_said_before_the_training(run, monkeypatch):
    on_a_processor(monkeypatch, with_bfloat16=False)
    _, lines = run(only=["gpt2"], dtype="bfloat16", steps=2)
    (said,) = [i for i, line in enumerate(lines) if "no fast matmuls of bfloat16" in line]
    (trained,) = [i for i, line in enumerate(lines) if "held-out perplexity" in line and "2 steps" in line]
    assert said < trained
    _, lines = run(only=["gpt2"], dtype="bfloat16", steps=2)
    assert not any("fast matmuls" in line for line in lines)  # the advice would be refused: the run is finished


def test_rows_shorter_than_a_segment_are_told(run):
    _, lines = run(only=["gpt2"], steps=2, batch_size=32)
    assert any("its 32 rows have 8 each, less than a segment of 16" in line for line in lines), lines
    _, lines = run("other", only=["gpt2"], steps=2)
    assert not any("less than a segment" in line for line in lines)
