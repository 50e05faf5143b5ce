"""The training loop against a plain one, its records, and what it does when the loss is no number."""

import json
import math
import re

import pytest
import torch
import torch.nn.functional as F
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import get_scheduler

from resnet_bk.models.cache import ResNetBKCache
from resnet_bk.ops import available_backends
from resnet_bk.training import NonFiniteLossError, RunSpec, loop, train, training_device
from tests.training.tiny import BATCH, LENGTH, Tokens, equal_weights, tiny_gpt2, tiny_llama, tiny_resnet_bk


def spec(**settings) -> RunSpec:
    return RunSpec(**({"name": "tiny", "steps": 12, "learning_rate": 1e-2, "device": "cpu"} | settings))


def test_equals_a_plain_loop(tmp_path):
    model, plain = tiny_gpt2(), tiny_gpt2()
    result = train(model, Tokens(), spec(clip=0.5, weight_decay=0.1, log_interval=1), tmp_path)

    matrices = [parameter for parameter in plain.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in plain.parameters() if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95))
    kind = {"min_lr_rate": 0.1}
    schedule = get_scheduler("cosine_warmup_with_min_lr", optimizer, 0, 12, scheduler_specific_kwargs=kind)
    tokens, losses, rates, norms = Tokens(), [], [], []
    for _ in range(12):
        ids, targets = tokens.next_batch()
        loss = F.cross_entropy(plain(ids).logits.flatten(0, 1), targets.flatten())
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.5).item())
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())

    # The fused head and the fused AdamW order their float32 sums differently; Adam divides by the gradient's size, so
    # a rounding of 1e-7 in a small gradient is a rounding of the step.
    assert [line["loss"] for line in result.log] == pytest.approx(losses, rel=1e-5)
    assert [line["lr"] for line in result.log] == pytest.approx(rates)
    assert [line["grad_norm"] for line in result.log] == pytest.approx(norms, rel=1e-3)
    for mine, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)


def test_tokens_are_counted_batch_by_batch(tmp_path):
    class Shrinking(Tokens):
        def next_batch(self):
            ids, targets = super().next_batch()
            rows = BATCH - self.position % 2
            return ids[:rows], targets[:rows]

    result = train(tiny_gpt2(), Shrinking(), spec(steps=5, log_interval=2), tmp_path)
    sizes = [(BATCH - position % 2) * LENGTH for position in (1, 2, 3, 4, 5)]
    assert result.tokens == sum(sizes)
    assert [line["tokens"] for line in result.log] == [sum(sizes[:step]) for step in (2, 4, 5)]
    speeds = [line["tokens_per_second"] for line in result.log]
    assert speeds[-1] == pytest.approx(sizes[-1] / (result.log[-1]["seconds"] - result.log[-2]["seconds"]))


def test_records(tmp_path):
    seen = []

    def validate(model, head):
        seen.append(head)
        return 42.0

    result = train(tiny_gpt2(), Tokens(), spec(log_interval=5), tmp_path, validate=validate, validation_steps=[4, 8])
    assert (result.steps, result.tokens, result.head, result.device) == (12, 12 * BATCH * LENGTH, "fused", "cpu")
    assert result.backend == {"linear_cross_entropy": available_backends("linear_cross_entropy", "cpu")[0]}
    assert result.resumed_from is None
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines == result.log
    assert [line["step"] for line in lines] == [5, 10, 12]
    assert set(lines[0]) == {"step", "tokens", "seconds", "loss", "lr", "grad_norm", "tokens_per_second"}
    # 12 steps of 5 an epoch; a log line is a mean since the one before, and so are the epochs.
    assert len(result.epoch_losses) == 3
    assert result.epoch_losses[:2] == [line["loss"] for line in lines[:2]]
    assert sum(result.epoch_seconds) == pytest.approx(result.seconds)
    assert result.seconds >= lines[-1]["seconds"]
    assert [(point["step"], point["perplexity"]) for point in result.validation_log] == [(4, 42.0), (8, 42.0)]
    assert seen == ["fused", "fused"]
    assert result.peak_memory_mb > 50
    assert set(result.profile["seconds_per_step"]) == {"data", "forward", "backward", "optimizer", "logging"}
    assert sum(result.profile["seconds_per_step"].values()) * 12 == pytest.approx(result.seconds, rel=0.1)
    assert set(result.profile["seconds_outside"]) == {"warm_up", "validation", "checkpoints"}
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("loss")] == [5, 10, 12]
    assert [event.step for event in events.Scalars("validation_perplexity")] == [4, 8]


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_the_share_of_rows_that_start_anew(share, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(ResNetBKCache, "start_anew", lambda self, rows: drawn.append(rows) or self)
    train(tiny_resnet_bk(), Tokens(), spec(carry_state=True, carry_reset=share, steps=60), tmp_path)
    found = torch.cat(drawn).double()
    assert len(found) > 100
    assert abs(found.mean().item() - share) < 4 * math.sqrt(share * (1 - share) / len(found))


def test_the_seed_of_a_run_decides_which_rows_start_anew(tmp_path):
    ends = []
    for call, (noise, seed) in enumerate([(1, 5), (2, 5), (2, 6)]):
        model = tiny_resnet_bk()
        torch.manual_seed(noise)  # what was drawn before a run is nothing to it
        train(model, Tokens(), spec(carry_state=True, carry_reset=0.5, steps=7, seed=seed), tmp_path / str(call))
        ends.append(model)
    assert equal_weights(ends[0], ends[1])
    assert not equal_weights(ends[0], ends[2])


def test_the_state_is_carried_within_an_epoch_and_dropped_at_its_end(tmp_path, monkeypatch):
    model = tiny_resnet_bk()
    had_state = []
    forward = type(model.base_model).forward

    def watched(self, *args, cache=None, **kwargs):
        if kwargs.get("use_cache"):
            had_state.append(cache is not None)
        return forward(self, *args, cache=cache, **kwargs)

    monkeypatch.setattr(type(model.base_model), "forward", watched)
    result = train(model, Tokens(), spec(carry_state=True, steps=7), tmp_path)
    assert had_state[-7:] == [False, True, True, True, True, False, True]
    assert "propagate_modulus" in result.backend


def test_some_rows_start_anew(tmp_path, monkeypatch):
    drawn = []
    forget = ResNetBKCache.start_anew

    def watched(self, rows):
        drawn.append(rows)
        return forget(self, rows)

    monkeypatch.setattr(ResNetBKCache, "start_anew", watched)
    weights = {}
    for share in (0.0, 0.5):
        weights[share] = tiny_resnet_bk()
        train(weights[share], Tokens(), spec(carry_state=True, carry_reset=share, steps=7), tmp_path / str(share))
    assert len(drawn) == 7 - 2  # not at the beginning of the two epochs, and not without a share
    rows = torch.stack(drawn).float()
    assert 0.2 < rows.mean() < 0.8
    assert len(rows.unique(dim=0)) > 1
    assert not equal_weights(*weights.values())


def test_the_load_balancing_loss_trains_the_router(tmp_path):
    def routers(coefficient):
        model = tiny_resnet_bk(num_experts=2, num_experts_per_tok=1, router_aux_loss_coef=coefficient)
        train(model, Tokens(), spec(steps=3), tmp_path / str(coefficient))
        return model

    assert not equal_weights(routers(0.0), routers(10.0))


def test_bfloat16_is_mixed_precision(tmp_path):
    model = tiny_gpt2()
    result = train(model, Tokens(), spec(dtype="bfloat16", steps=6, log_interval=6), tmp_path / "half")
    full = train(tiny_gpt2(), Tokens(), spec(steps=6, log_interval=6), tmp_path / "full")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    half_loss, full_loss = result.log[-1]["loss"], full.log[-1]["loss"]
    assert half_loss != full_loss
    assert half_loss == pytest.approx(full_loss, rel=0.02)  # bfloat16 holds 3 digits


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_afterwards_the_model_computes_as_before(dtype, tmp_path):
    """What it was trained in is of the training: an audit of the trained model looks at the model."""
    model = tiny_gpt2()
    train(model, Tokens(), spec(dtype=dtype, steps=2), tmp_path)
    fresh = tiny_gpt2()
    fresh.load_state_dict(model.state_dict())
    ids = Tokens().next_batch()[0]
    assert torch.equal(model.eval()(ids).logits, fresh.eval()(ids).logits)


class Poisoned(Tokens):
    """From the step `after` on, calls `spoil`."""

    def __init__(self, after, spoil):
        super().__init__()
        self.after, self.spoil = after, spoil

    def next_batch(self):
        if self.position == self.after:
            self.spoil()
        return super().next_batch()


def test_a_loss_that_is_no_number_stops_the_run_and_loses_nothing(tmp_path):
    model = tiny_gpt2()

    def spoil():
        with torch.no_grad():
            model.transformer.wte.weight.fill_(math.nan)

    settings = spec(log_interval=4, checkpoint_seconds=0.0)
    with pytest.raises(NonFiniteLossError, match=r"tiny: the training loss is nan at step 8 of 12.*learning rate 0.01"):
        train(model, Poisoned(7, spoil), settings, tmp_path)
    with pytest.raises(NonFiniteLossError, match=r"clip None .* try a smaller learning rate or a longer warm-up\."):
        train(model, Tokens(), spec(clip=None), tmp_path / "without")  # its weights are still spoiled
    # The checkpoint before is whole: the run goes on from there, and is the run that was never spoiled.
    resumed = tiny_gpt2()
    result = train(resumed, Tokens(), settings, tmp_path)
    assert result.resumed_from == 7
    clean = tiny_gpt2()
    train(clean, Tokens(), settings, tmp_path / "clean")
    assert equal_weights(resumed, clean)


def test_the_step_is_named_though_losses_are_looked_at_later(tmp_path):
    model = tiny_gpt2()

    def spoil():
        with torch.no_grad():
            model.transformer.wte.weight.fill_(math.inf)

    with pytest.raises(NonFiniteLossError, match="at step 3 of 12"):
        train(model, Poisoned(2, spoil), spec(log_interval=100), tmp_path)


def test_a_gradient_that_is_no_number_is_never_saved(tmp_path):
    """The loss of that step is finite; after it weights would be no numbers."""
    model, steps = tiny_gpt2(), []

    def spoil(gradient):
        steps.append(1)
        return gradient * math.inf if len(steps) == 5 else gradient

    settings = spec(log_interval=100, checkpoint_seconds=0.0)
    model.transformer.ln_f.weight.register_hook(spoil)
    with pytest.raises(NonFiniteLossError, match="tiny: the norm of the gradient is inf at step 5 of 12"):
        train(model, Tokens(), settings, tmp_path)
    assert train(tiny_gpt2(), Tokens(), settings, tmp_path).resumed_from == 4


def test_the_model_is_told_how_far_the_training_is(tmp_path, monkeypatch):
    model, told = tiny_resnet_bk(sparse_bk=0.5), []
    monkeypatch.setattr(type(model), "set_progress", lambda self, share: told.append(share))
    train(model, Tokens(), spec(steps=4), tmp_path)
    assert told == [0, 0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize(
    ("field", "value"), [("optimizer", "Muon"), ("dtype", "bf16"), ("device", "gpu"), ("head", "fused")]
)
def test_a_setting_that_does_not_exist(field, value):
    with pytest.raises(ValueError, match=rf"RunSpec: {field}='{value}' must be one of .*\(change {field}\)"):
        spec(**{field: value})


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("steps", 0, "a whole number of at least 1"),
        ("steps", 2.5, "a whole number of at least 1"),
        ("steps", True, "a whole number of at least 1"),
        ("betas", 0.9, "two numbers from 0 to below 1"),
        ("seed", -1, r"a whole number from 0 to 2\*\*32 - 1"),
        ("learning_rate", -1e-3, "a number, 0 or more"),
        ("learning_rate", math.inf, "a number, 0 or more"),
        ("learning_rate", "1e-2", "a number, 0 or more"),
        ("learning_rate", None, "a number, 0 or more"),
        ("learning_rate", True, "a number, 0 or more"),
        ("embedding_rate", 0.0, "a number above 0"),
        ("weight_decay", -0.1, "a number, 0 or more"),
        ("clip", 0.0, "above 0, or None"),
        ("clip", "1", "above 0, or None"),
        ("warmup_steps", -1, "a whole number, 0 or more"),
        ("warmup_steps", 1.5, "a whole number, 0 or more"),
        ("warmup_steps", "3", "a whole number, 0 or more"),
        ("warmup_steps", 99, r"at most steps=\d+"),
        ("final_lr_ratio", 1.5, "a number from 0 to 1"),
        ("carry_state", "no", "True or False"),
        ("carry_reset", 1.0, "a number, 0 or more and below 1"),
        ("log_interval", 0, "a whole number of at least 1"),
        ("log_interval", 2.5, "a whole number of at least 1"),
        ("checkpoint_seconds", math.nan, "a number, 0 or more"),
    ],
)
def test_a_setting_out_of_its_range(field, value, rule):
    with pytest.raises(ValueError, match=rf"^RunSpec: {field}={value!r} must be {rule} \(change "):
        spec(**{field: value})


@pytest.mark.parametrize("betas", [(0.9, 1.0), (0.9,), (-0.1, 0.9), ("a", 0.9)])
def test_betas_out_of_their_range(betas):
    told = f"RunSpec: betas={betas!r} must be two numbers from 0 to below 1 (change betas)"
    with pytest.raises(ValueError, match=f"^{re.escape(told)}$"):
        spec(betas=betas)


def test_rows_can_only_be_reset_where_a_state_is_carried():
    with pytest.raises(ValueError, match=r"carry_reset=0.5 has no effect without carry_state, .*set carry_state=True"):
        spec(carry_reset=0.5)


def test_a_list_of_betas_is_the_pair():
    assert spec(betas=[0.5, 0.6]) == spec(betas=(0.5, 0.6))


def no_perplexity(model, head):
    raise AssertionError("is not to be called")


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ({"validation_steps": [3]}, "validation_steps were given without validate, and would not be read; pass both"),
        (
            {"validate": no_perplexity, "validation_steps": [3, 13, 0]},
            r"validation_steps: \[13, 0\] must lie from 1 to steps=12, after which the training ends; leave",
        ),
    ],
)
def test_validations_that_would_not_be_made(given, rule, tmp_path):
    with pytest.raises(ValueError, match=rf"^{rule}"):
        train(tiny_gpt2(), Tokens(), spec(), tmp_path / "run", **given)
    assert not (tmp_path / "run").exists()


def test_a_model_without_a_state_to_carry(tmp_path):
    told = r"carry_state=True: the cache that llama returns \(DynamicCache\) lacks detach, to, start_anew, .*; leave"
    with pytest.raises(ValueError, match=f"^{told}"):
        train(tiny_llama(), Tokens(), spec(carry_state=True), tmp_path)


def test_accelerate_is_set_for_another_device(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", "meta")
    told = "device=cpu: is cpu here, but accelerate takes meta, as ACCELERATE_TORCH_DEVICE or .*; unset them,"
    with pytest.raises(ValueError, match=told):
        loop.make_accelerator(spec(device="cpu"), tmp_path)


def test_accelerate_refuses_the_machine(tmp_path, monkeypatch):
    def refuse(**_):
        raise NotImplementedError("these GPUs do not support faster communication")

    monkeypatch.setattr(loop, "Accelerator", refuse)
    told = "device=auto: accelerate refuses this machine .these GPUs .*; set NCCL_P2P_DISABLE=1"
    with pytest.raises(ValueError, match=told):
        loop.make_accelerator(spec(device="auto"), tmp_path)


def test_the_number_of_threads_stays(tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        train(tiny_resnet_bk(), Tokens(), spec(steps=1), tmp_path)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_a_gpu_that_is_not_there():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ValueError, match="device=cuda: PyTorch sees no CUDA GPU"):
        training_device("cuda")
    assert training_device("auto").type == "cpu"


def test_several_processes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(loop.Accelerator, "num_processes", property(lambda self: 2))
    with pytest.raises(ValueError, match="runs in one process, but accelerate started 2; call resnet-bk without"):
        train(tiny_gpt2(), Tokens(), spec(), tmp_path)
