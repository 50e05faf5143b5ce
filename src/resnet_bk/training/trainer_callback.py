"""For those who train with the `Trainer` of `transformers`: it knows nothing of the schedules in our configurations."""

from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments


class ScheduleCallback(TrainerCallback):
    """Tells the model before every step how much of the training is done, as `resnet_bk.training.train` does.

    `sparse_bk` brings its target down by that. Without the callback the target is at its end from the first step on;
    after a training that an exception ended it stays where it was until the next one.

        Trainer(model=model, args=arguments, train_dataset=rows, callbacks=[ScheduleCallback()])

    Raises (in `Trainer.train`):
        ValueError: the model has no `set_progress`.
    """

    def on_train_begin(
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: Any
    ) -> None:
        """Before the first step."""
        if not hasattr(kwargs["model"], "set_progress"):
            raise ValueError(
                f"callbacks: ScheduleCallback needs a model with set_progress, such as ResNetBKForCausalLM, but got "
                f"{type(kwargs['model']).__name__}; leave the callback out"
            )

    def on_step_begin(
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: Any
    ) -> None:
        """Before every step of the optimizer."""
        kwargs["model"].set_progress(state.global_step / state.max_steps)

    def on_train_end(
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: Any
    ) -> None:
        """After the last step."""
        kwargs["model"].set_progress(1.0)
