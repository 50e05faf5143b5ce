"""Gated DeltaNet with the step sizes of its authors' package at the start: log-uniform from 0.001 to 0.1, as in
Mamba-2, where `transformers` has softplus(1) = 1.3 in every head.

    OMP_NUM_THREADS=1 python results/quick-peers/deltanet-start.py bench quick-peers --models gated-deltanet \\
        --out runs/start
"""

import math

import torch
from transformers.models.qwen3_5 import modeling_qwen3_5 as deltanet

from resnet_bk.cli import main

LEAST, MOST = 0.001, 0.1
as_shipped = deltanet.Qwen3_5PreTrainedModel._init_weights


@torch.no_grad()
def with_small_steps(self, module):
    as_shipped(self, module)
    if isinstance(module, deltanet.Qwen3_5GatedDeltaNet):
        step = torch.empty_like(module.dt_bias).uniform_(math.log(LEAST), math.log(MOST)).exp()
        module.dt_bias.copy_(step + torch.log(-torch.expm1(-step)))  # softplus of it is the step


deltanet.Qwen3_5PreTrainedModel._init_weights = with_small_steps

if __name__ == "__main__":
    main()
