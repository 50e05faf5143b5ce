"""Training: one loop, its loss, checkpoints that survive a kill, and evaluation over whole splits."""

from resnet_bk.figures import perplexity
from resnet_bk.training.evaluate import Evaluation, evaluate
from resnet_bk.training.loop import train
from resnet_bk.training.loss import causal_lm_loss, choose_head
from resnet_bk.training.spec import NonFiniteLossError, RunSpec, TrainingResult, training_device
from resnet_bk.training.trainer_callback import ScheduleCallback

__all__ = [
    "Evaluation",
    "NonFiniteLossError",
    "RunSpec",
    "ScheduleCallback",
    "TrainingResult",
    "causal_lm_loss",
    "choose_head",
    "evaluate",
    "perplexity",
    "train",
    "training_device",
]
