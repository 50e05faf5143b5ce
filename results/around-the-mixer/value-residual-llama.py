"""`resnet-bk` with a Llama whose blocks add the values of the first one, times a weight a head that starts at VRES, to
their own (arXiv 2410.17897):

    VRES=0.5 python results/around-the-mixer/value-residual-llama.py bench quick --models llama --set 'seeds=[42,43]'
"""

import os

import torch
from torch import nn
from transformers.models.llama import modeling_llama as llama

from resnet_bk.cli import main

FIRST = {}


class WithFirstValues(nn.Linear):
    def __init__(self, of: nn.Linear, layer: int, heads: int):
        super().__init__(of.in_features, of.out_features, bias=of.bias is not None)
        self.layer, self.heads = layer, heads
        self.mix = nn.Parameter(torch.full((heads,), float(os.environ["VRES"]))) if layer else None

    def forward(self, hidden):
        values = super().forward(hidden)
        if self.mix is None:
            FIRST["values"] = values
            return values
        first = FIRST["values"].unflatten(-1, (self.heads, -1))
        return values + (self.mix[:, None].to(values.dtype) * first).flatten(-2)


built = llama.LlamaAttention.__init__


def build(self, config, layer_idx):
    built(self, config, layer_idx)
    self.v_proj = WithFirstValues(self.v_proj, layer_idx, config.num_key_value_heads)


if "VRES" in os.environ:
    llama.LlamaAttention.__init__ = build
main()
