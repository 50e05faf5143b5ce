"""Results dicts of the shape that the runner writes, for the tests of the table and the report."""

import math
import random
from typing import Any

BUCKETS = (
    ("over 10,000", 60_000, 7.6),
    ("1,001-10,000", 9_500, 70.0),
    ("101-1,000", 12_000, 420.0),
    ("11-100", 9_000, 3_600.0),
    ("1-10", 2_500, 39_000.0),
    ("<unk>", 4_100, 24.0),
)
# Keys of a model at their defaults.
UNUSED = {"match_parameters": True, "head": "auto", "carry_reset": 0.0, "transformers": None}
PERPLEXITIES = {
    "resnet-bk": 99.2,
    "gpt2": 143.1,
    "llama": 102.1,
    "mamba2": 104.4,
    "resnet-bk-seed-causal": 181.9,
    "a-causal-language-model-with-a-rather-long-name-v2": 120.0,
}


def sample_run(name: str, *, seed: int = 0, perplexity: float | None = None, **changes: Any) -> dict[str, Any]:
    """One run with every key of the runner; ``changes`` overwrite."""
    generator = random.Random(f"{name} {seed}")
    base = (perplexity or PERPLEXITIES.get(name, 110.0)) * (1 + generator.uniform(-0.01, 0.01) * (seed > 0))
    steps, step_tokens = 500, 16 * 128
    speed = {"resnet-bk": 0.105, "gpt2": 0.084, "llama": 0.098}.get(name, 0.12)
    carried = name == "resnet-bk"
    size = {"resnet-bk": 1_490_112, "gpt2": 1_493_760, "llama": 1_478_208}.get(name, 1_485_000)
    log = []
    for step in range(5, steps + 1, 5):
        loss = math.log(base) + 4.6 * math.exp(-step / 45) + 60 / (step + 90) - 0.10 + generator.gauss(0, 0.05)
        point: dict[str, Any] = {"step": step, "seconds": step * speed, "loss": loss}
        if name == "resnet-bk":  # as a model that halts and removes sites would report
            point["measures"] = {"depth": 4 - step / steps, "kept": 1 - 0.5 * min(1.0, 2 * step / steps)}
        log.append(point)
    tilt = generator.uniform(-0.08, 0.08)
    buckets = [
        {"name": label, "tokens": tokens, "perplexity": value * (base / 100) ** 0.9 * (1 + tilt * (index - 2.5) / 2)}
        for index, (label, tokens, value) in enumerate(BUCKETS)
    ]
    run: dict[str, Any] = {
        "model_name": name,
        "dataset_name": "embedded",
        "config": {"hidden_size": 64} | ({"sparse_bk": [1, 0.5], "sparsity_schedule": 0.5} if carried else {}),
        "final_loss": math.log(base) + 0.02,
        "final_perplexity": base * 1.02,
        "best_perplexity": base * 1.02,
        "training_time": steps * speed,
        "total_tokens": steps * step_tokens,
        "vocab_size": 10_000,
        "forward_flops": 6.1e9,
        "backward_flops": 1.22e10,
        "optimizer_flops": 2.2e7,
        "total_flops_per_step": 1.83e10,
        "total_training_flops": 1.83e10 * steps,
        "peak_memory_mb": 742.0 if name != "gpt2" else 1131.0,
        "model_size_mb": size * 4 / 1e6,
        "epoch_losses": [5.6],
        "epoch_perplexities": [270.0],
        "epoch_times": [steps * speed],
        "seed": seed,
        "parameters": size,
        "parameters_without_embeddings": 210_000 + (size - 1_490_000) // 10,
        "held_out_perplexity": base,
        "held_out_loss": math.log(base),
        "test_perplexity": None,
        "tokens_per_second": step_tokens / speed,
        "seconds_per_step": speed,
        "steps": steps,
        "backend": {"propagate": "numba", "linear_cross_entropy": "chunked"} if carried else "torch",
        "device": "cpu",
        "audit": "causal",
        "audit_detail": "logits before a changed token are bitwise the same at 5 positions",
        "profile": None,
        "learning_rate": 3e-3,
        "learning_rates_tried": [
            {"learning_rate": 1e-3, "held_out_perplexity": base * 1.2},
            {"learning_rate": 3e-3, "held_out_perplexity": base},
            {"learning_rate": 1e-2, "held_out_perplexity": base * 1.07},
        ],
        "carry_state": carried,
        "held_out_perplexity_without_carry": base * 1.018 if carried else None,
        "held_out_perplexity_overlapping": base * (1.015 if carried else 0.99),
        "bits_per_character": math.log2(base) / 4.9,
        "unk_rate": 0.0423,
        "buckets": buckets,
        "head": "fused",
        "log": log,
        "validation_log": [
            {"step": step, "seconds": step * speed, "perplexity": base * (1 + 90 / step - 90 / 500)}
            for step in (100, 200, 300, 400, 500)
        ],
        "run_folder": f"{name}/seed-{seed}",
    }
    if changes.get("audit") == "leaks":
        run |= {"held_out_perplexity": None, "held_out_loss": None, "bits_per_character": None, "buckets": []}
        run |= {"held_out_perplexity_overlapping": None}
        run |= {"audit_detail": "changing token 64 moves the logits at 63 by 0.41"}
    return run | changes


def sample_results(*models: str, seeds: tuple[int, ...] = (0,), **changes: Any) -> dict[str, Any]:
    """Results of the named models (by default resnet-bk, gpt2 and llama); ``changes`` apply to every run."""
    names = models or ("resnet-bk", "gpt2", "llama")
    return {
        "protocol": {
            "name": "quick",
            "description": "Three small models on English Wikipedia extracts, in minutes on two cores.",
            "dataset": "embedded",
            "data_limit": None,
            "tokenizer": "word",
            "pre_tokenizer": "words",
            "vocab_size": 10_000,
            "sequence_length": 128,
            "batch_size": 16,
            "epochs": 1,
            "steps": 500,
            "hidden_size": 64,
            "num_layers": 4,
            "num_heads": 4,
            "learning_rates": [1e-3, 3e-3, 1e-2],
            "learning_rate_source": None,
            "weight_decay": 0.01,
            "clip": 0.5,
            "warmup_steps": 50,
            "final_lr_ratio": 0.1,
            "betas": [0.9, 0.95],
            "seeds": list(seeds),
            "dtype": "float32",
            "models": {
                name: {"config": {"conv_size": 4}, "carry_state": name == "resnet-bk"} | UNUSED for name in names
            },
        },
        "environment": {
            "device": "2 x86 cores",
            "threads": 2,
            "platform": "Linux-6.1-x86_64",
            "git_commit": "0123456789abcdef0123456789abcdef01234567",
            "git_dirty": False,
            "versions": {"python": "3.11.9", "torch": "2.13.0", "transformers": "5.24.0", "resnet-bk": "0.1.0"},
        },
        "data": {
            "name": "embedded",
            "description": "English Wikipedia extracts, CC BY-SA 4.0, by its editors.",
            "fingerprint": "9f2c4e7ad0b1",
            "tokenizer_fingerprint": "5b7d11c09e3f",
            "tokens": {"train": 1_024_128, "validation": 97_101},
            "vocabulary": 10_000,
            "document_tokens": [1_201 + number for number in range(81)],
        },
        "runs": [sample_run(name, seed=seed, **changes) for name in names for seed in seeds],
    }
