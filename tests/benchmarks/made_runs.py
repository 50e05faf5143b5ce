"""Runs as they are in results.json, with no more of them than the pages read."""

ENVIRONMENT = {
    "cpu": "a processor",
    "cpu_count": 2,
    "threads": 1,
    "python": "3.11.1",
    "versions": {"torch": "2.9.0", "numba": "0.62.0"},
}
ORDERS = [(order, {"perplexity": 100.0 * order, "bits_per_character": 2.0 + order}) for order in (1, 2, 5)]
NGRAMS = {
    "method": "counted",
    "split": "validation",
    "ngrams": [{"order": order, "name": f"{order}-gram", "different_ngrams": 9} | found for order, found in ORDERS],
}


def point(step, seconds, perplexity):
    return {"step": step, "seconds": seconds, "perplexity": perplexity}


def run(name, perplexity, seed=0, **changes):
    return {
        "model_name": name,
        "seed": seed,
        "git_commit": "0123456789abcdef",
        "git_dirty": False,
        "held_out_perplexity": perplexity,
        "held_out_perplexity_without_carry": None,
        "held_out_perplexity_overlapping": None,
        "parameters": 1_000,
        "learning_rate": 0.01,
        "peak_memory_mb": 64.4,
        "validation_log": [point(1_000, 8.0, 60.0), point(2_000, 12.0, 50.0)],
        "learning_rates_tried": [{"learning_rate": 0.01, "held_out_perplexity": perplexity}],
    } | changes
