"""Schedules under the Trainer of transformers."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from resnet_bk.training import ScheduleCallback
from tests.training.tiny import VOCABULARY, tiny_resnet_bk


def trainer(model, folder, **fields):
    rows = [{"input_ids": row, "labels": row} for row in torch.randint(VOCABULARY, (16, 12))]
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=4,
        per_device_train_batch_size=4,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        **{"save_strategy": "no", **fields},
    )
    return Trainer(model=model, args=arguments, train_dataset=rows, callbacks=[ScheduleCallback()])


def listening():
    """A model with a schedule, and the list of what it is told before each of its calls."""
    model = tiny_resnet_bk(num_hidden_layers=2, sparse_bk=[1, 0.5])
    heard = []
    model.register_forward_pre_hook(lambda module, _: heard.append(module.model.stack.progress))
    return model, heard


def test_the_model_hears_how_far_the_training_is(tmp_path):
    model, heard = listening()
    trainer(model, tmp_path, gradient_accumulation_steps=2).train()
    assert heard == [0, 0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75]
    assert model.model.stack.progress == 1


def test_a_resumed_training_goes_on_from_where_it_was(tmp_path):
    trainer(listening()[0], tmp_path, save_strategy="steps", save_steps=3).train()
    model, heard = listening()
    trainer(model, tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert heard == [0.75]
    assert model.model.stack.progress == 1


def test_a_model_without_schedules_is_refused(tmp_path):
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=VOCABULARY, hidden_size=16, num_attention_heads=2, num_hidden_layers=1)
    )
    with pytest.raises(ValueError, match=r"ScheduleCallback needs a model with set_progress.*LlamaForCausalLM; leave"):
        trainer(model, tmp_path).train()
