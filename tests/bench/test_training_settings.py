"""What every training of a protocol is given."""

from dataclasses import fields

import pytest

from benchmarks.cases.training_step import Trainer
from resnet_bk.bench.protocol import Protocol, load_protocol
from resnet_bk.bench.training_settings import training_settings
from resnet_bk.training import RunSpec

# Worked out from the steps, or a matter of the one who trains.
OWN = {"name", "steps", "warmup_steps", "log_interval", "checkpoint_seconds"}


def test_no_setting_of_a_protocol_is_forgotten():
    both = {field.name for field in fields(RunSpec)} & set(Protocol.model_fields)
    assert set(training_settings(load_protocol("quick"), "llama")) == both - OWN


@pytest.mark.parametrize(("key", "value"), [("embedding_rate", 3.0), ("optimizer", "muon"), ("final_lr_ratio", 0.5)])
def test_they_are_those_of_the_protocol(key, value):
    protocol = load_protocol("quick")
    assert getattr(protocol, key) != value
    assert training_settings(protocol.model_copy(update={key: value}), "llama")[key] == value


def test_a_model_may_have_an_optimizer_of_its_own():
    protocol = load_protocol("quick", ("models.gpt2.optimizer=muon-parts",))
    found = {name: training_settings(protocol, name)["optimizer"] for name in ("gpt2", "llama", "not-in-it")}
    assert found == {"gpt2": "muon-parts", "llama": "adamw", "not-in-it": "adamw"}


def test_a_timed_step_is_one_of_its_protocol():
    protocol = load_protocol("quick", ("vocab_size=200", "hidden_size=16", "num_heads=2", "num_layers=1"))
    assert protocol.embedding_rate != 1
    trainer = Trainer(protocol, "resnet-bk")
    table = trainer.model.get_input_embeddings().weight
    groups = trainer.optimizer.param_groups
    (rate,) = [group["lr"] for group in groups if any(parameter is table for parameter in group["params"])]
    assert rate == pytest.approx(protocol.embedding_rate * trainer.spec.learning_rate)
