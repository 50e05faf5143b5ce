"""How much larger the norm makes what the mixers read at the start: root mean squares before and behind it, by block.

`python results/wide-start/read-norm.py > results/wide-start/read-norm.json` made the file beside it.
"""

import json

import torch

from resnet_bk.bench.peers import build_model, resolve_configs
from resnet_bk.bench.protocol import load_protocol

SETTINGS = ["models.bf16.config.state=modulus", "models.bf16.config.induction_heads=0"]

protocol = load_protocol("ablation-wide", [*SETTINGS, "models.bf16.config.mixed_precision=none"])
special = {"pad_token_id": 2, "bos_token_id": 1, "eos_token_id": 1}
model = build_model(resolve_configs(protocol, protocol.vocab_size, special, ["bf16"])["bf16"], seed=42).eval()
blocks = []


def measure(_, given, normed):
    before, behind = (float(tensor.square().mean().sqrt()) for tensor in (given[0], normed))
    blocks.append({"before": before, "behind": behind, "times": behind / before})


for block in model.model.layers:
    block.mixer.read_norm.register_forward_hook(measure)
with torch.no_grad():
    model(torch.randint(3, protocol.vocab_size, (2, 1024), generator=torch.Generator().manual_seed(0)))
what = "ablation-wide, modulus state without induction heads, float32: a new model, seed 42, on 2 x 1,024 random tokens"
print(json.dumps({"what": what, "blocks": blocks}, indent=2))
