"""Text from a trained model, streamed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, TextStreamer, set_seed

from resnet_bk.bench.peers import carry_problem, is_of_others
from resnet_bk.bench.trained.early_exit import exit_early
from resnet_bk.bench.trained.positions import longest_text
from resnet_bk.bench.trained.saved_model import check_words, load_model
from resnet_bk.data.saved_tokenizer import never_written, read_tokenizer
from resnet_bk.training import training_device
from resnet_bk.training.carried import ConstantStates, constant_state

# Beyond these the probabilities are no numbers, or those of a temperature within.
TEMPERATURES = (1e-3, 1e3)
TRIED = 8  # tokens on which the cache of a model is tried
KEPT = ("bos_token_id", "eos_token_id", "pad_token_id", "use_cache")  # of what was saved beside the weights


def stream_text(
    folder: Path,
    prompt: str,
    max_new_tokens: int,
    temperature: float,
    top_k: int,
    seed: int,
    early_exit: float | None = None,
    device: str = "cpu",
) -> None:
    """Print the prompt and its continuation, as it is produced.

    Words of the prompt that the model does not know show as `<unk>`; it writes none itself. `<eos>` ends a document.

    Args:
        folder: of a model and its tokenizer.
        prompt: the text to continue; empty for a new document.
        max_new_tokens: at most; the end of the document ends it sooner.
        temperature: 0 takes the likeliest word; else within `TEMPERATURES`.
        top_k: draw from the k likeliest words; 0 from all.
        seed: of the draws.
        early_exit: see `exit_early`.
        device: auto, cpu or cuda.

    Raises:
        ValueError: no finished run, no such device, a tokenizer of another model, nothing to begin with, more tokens
            than the model has positions for, a temperature out of `TEMPERATURES`, or no model that exits early.
    """
    if temperature and not TEMPERATURES[0] <= temperature <= TEMPERATURES[1]:
        low, high = TEMPERATURES
        raise ValueError(
            f"--temperature {temperature:g}: must be 0, for the likeliest word, or from {low:g} to {high:g}"
        )
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"--prompt {prompt!r}: no text in UTF-8 ({error.reason}); give one that is") from None
    model = load_model(folder).to(training_device(device)).eval()
    exit_early(model, early_exit)
    tokenizer = read_tokenizer(folder)
    saved = model.generation_config  # which may say how to draw, and that is said by the call
    model.generation_config = GenerationConfig(**{name: getattr(saved, name, None) for name in KEPT})
    check_words(folder, model, tokenizer)
    known, unwritten = model.get_input_embeddings().num_embeddings, never_written(tokenizer)
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"] or [tokenizer.eos_token_id]
    if ids == [None]:
        raise ValueError(
            f"--prompt {prompt!r}: a new document begins with the eos_token, which the tokenizer in {folder} does not "
            "have; give a text to continue"
        )
    longest = longest_text(model)
    if longest is not None and len(ids) + max_new_tokens > longest:
        room = longest - len(ids)
        raise ValueError(
            f"--max-new-tokens {max_new_tokens} after a prompt of {len(ids)}: this model has {longest} positions; "
            + (f"ask for at most {room}" if room > 0 else f"shorten the prompt to {longest - 1} or less")
        )
    drawing = (
        {"do_sample": True, "temperature": temperature, "top_k": top_k} if temperature > 0 else {"do_sample": False}
    )
    how_to_read = _how_to_read(model)
    set_seed(seed)
    streamer = TextStreamer(tokenizer, skip_prompt=not prompt.strip())
    with _own_errors(model, folder, streamer):
        model.generate(
            torch.tensor([ids], device=model.device),
            attention_mask=torch.ones(1, len(ids), dtype=torch.int64, device=model.device),
            max_new_tokens=max_new_tokens,
            suppress_tokens=[word for word in unwritten if word < known] or None,
            streamer=streamer,
            **how_to_read,
            **drawing,
        )


def _how_to_read(model: Any) -> dict[str, Any]:
    """What `generate` of `transformers` must be told of the cache of a model."""
    if is_of_others(model.config.model_type):
        words = torch.arange(TRIED, device=model.device).remainder(model.get_input_embeddings().num_embeddings)
        if carry_problem(model, words[: longest_text(model)].unsqueeze(0)) is not None:
            # It would be handed a cache and one token at a time, and could not know what came before.
            return {"use_cache": False}
    # Some models ask their cache how long it is, which without a layer of attention it cannot say.
    return {"cache": ConstantStates(model.config)} if constant_state(model.config) else {}


@contextmanager
def _own_errors(model: Any, folder: Path, streamer: TextStreamer) -> Iterator[None]:
    """What goes wrong in a model that `transformers` does not have itself is a matter of that model; what was written
    so far ends its line."""
    try:
        yield
    except (AttributeError, KeyError, IndexError, TypeError, RuntimeError) as error:  # not a pipe that is closed
        if isinstance(error, torch.OutOfMemoryError) or not is_of_others(model.config.model_type):
            raise
        streamer.end()
        raise ValueError(
            f"{folder}: a model of type {model.config.model_type!r} does not generate ({type(error).__name__}: "
            f"{error}); its class must take what `generate` of transformers hands it, a DynamicCache unless "
            "_supports_default_dynamic_cache() is False (CONTRIBUTING.md)"
        ) from error
