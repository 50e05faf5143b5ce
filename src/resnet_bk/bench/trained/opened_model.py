"""A trained model with text to read: any that `save_pretrained` wrote beside its tokenizer (of runs: `opened_run`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from resnet_bk.bench.audit import audit_causality
from resnet_bk.bench.data import check_split, default_cache_dir, open_corpus, split_tokens
from resnet_bk.bench.model_check import refused
from resnet_bk.bench.peers import carry_problem
from resnet_bk.bench.protocol import Protocol, load_protocol
from resnet_bk.bench.run import audit_lengths
from resnet_bk.bench.settings_read import OF_EVAL, refuse_unread
from resnet_bk.bench.trained.positions import check_positions
from resnet_bk.bench.trained.saved_model import check_words, load_model
from resnet_bk.data import Corpus, TokenCache
from resnet_bk.data.saved_tokenizer import saved_tokenizer
from resnet_bk.models.mixed_precision import is_mixed
from resnet_bk.training import choose_head, training_device
from resnet_bk.training.loss import Head

DEFAULT_PROTOCOL = "quick"
TRIED = 16  # tokens on which head and cache of a model are tried


@dataclass(frozen=True)
class OpenedModel:
    """A trained model with text to read.

    Attributes:
        name: of the model.
        protocol: rows, segments and precision in which it reads; its `dataset` is the text.
        model: trained, on the device that was asked for.
        audit: "causal" or "leaks".
        head: the path by which its loss is computed, "fused" or "model".
        carry_state: whether its state is handed from segment to segment.
        corpus: the text.
        tokens: of the split, by the model's tokenizer.
    """

    name: str
    protocol: Protocol
    model: Any
    audit: str
    head: Head
    carry_state: bool
    corpus: Corpus
    tokens: TokenCache


@dataclass(frozen=True)
class OpenedSaved(OpenedModel):
    """The same by no run.

    Attributes:
        notes: lines on how it reads.
    """

    notes: tuple[str, ...]


def open_saved(
    folder: Path,
    split: str,
    data: str | None,
    device: str | None = None,
    protocol: str | None = None,
    settings: Sequence[str] = (),
) -> OpenedSaved:
    """A saved model and a split of text. It is audited here; its state is carried where it has one that can be.

    Args:
        folder: of a model and its tokenizer; the weights are read in float32.
        split: "validation", another split of the text, or "all" for text that has none.
        data: the text.
        device: "auto", "cpu" or "cuda"; None for that of the protocol.
        protocol: whose rows, segments and precision count; None for `DEFAULT_PROTOCOL`.
        settings: "key=value" each, for what of the protocol is read, `OF_EVAL`.

    Raises:
        ValueError: no text named, none of that name, no such split, device or protocol; a model or tokenizer that
            cannot be read, a tokenizer without an end of documents or of another model, or segments longer than the
            model's positions.
    """
    if data is None:
        raise ValueError(f"{folder} is a model and no run, which would know its text; name the text with --data")
    refuse_unread(settings, OF_EVAL, "eval of a saved model")
    for setting in settings:
        if device is not None and setting.partition("=")[0].strip() == "device":
            raise ValueError(f"--set {setting}: --device {device} says so too; leave one of the two out")
    loaded = load_protocol(protocol or DEFAULT_PROTOCOL, settings, data)
    corpus = open_corpus(loaded, ())
    check_split(corpus, split)
    tokenizer = saved_tokenizer(str(folder))
    model = load_model(folder).float().to(training_device(loaded.device if device is None else device))
    check_positions(model, loaded)
    check_words(folder, model, tokenizer)
    tokens = split_tokens(corpus, split, tokenizer, default_cache_dir())
    known, length = model.get_input_embeddings().num_embeddings, loaded.sequence_length
    words = torch.arange(min(TRIED, length), device=model.device).remainder(known).unsqueeze(0)
    with refused(f"{folder}: this {model.config.model_type} cannot be read by segments", "take another model"):
        audit = audit_causality(model, known, lengths=audit_lengths(length))
        causal = audit.verdict == "causal"  # else its loss is no measure, and may be no number
        head: Head = choose_head(model, words) if causal else "model"
        carries = causal and carry_problem(model, words, in_training=True) is None
    return OpenedSaved(
        name=str(folder),
        protocol=loaded,
        model=model,
        audit=audit.verdict,
        head=head,
        carry_state=carries,
        corpus=corpus,
        tokens=tokens,
        notes=(*_notes(loaded, model, tokenizer), *([] if causal else [f"audit: {audit.detail}"])),
    )


def _notes(protocol: Protocol, model: Any, tokenizer: PreTrainedTokenizerFast) -> tuple[str, ...]:
    dtype = "bfloat16" if is_mixed(model.config) else protocol.dtype
    how = (
        f"read in {protocol.batch_size} rows by segments of {protocol.sequence_length} tokens, in {dtype} (protocol "
        f"{protocol.name}); whether the model was trained on this text is not known here"
    )
    # What ends a document is there.
    left_out = [word for word in tokenizer("")["input_ids"] if word != tokenizer.eos_token_id]
    if not left_out:
        return (how,)
    names = " ".join(tokenizer.convert_ids_to_tokens(left_out))
    return (how, f"without the {names} that the tokenizer puts around every text, which may make perplexities high")
