"""From what the command line names to what the cost of a leak is measured on: a model, and text in its words."""

from dataclasses import dataclass
from typing import Any

from transformers import AutoConfig, AutoTokenizer

from resnet_bk.bench.audit.target import audit_target
from resnet_bk.bench.data import default_cache_dir, open_corpus, protocol_tokenizer, split_tokens
from resnet_bk.bench.peers import resolve_configs
from resnet_bk.bench.protocol import Protocol, check_protocol
from resnet_bk.bench.resolve import protocol_with, resolve
from resnet_bk.bench.run_folder import read_run
from resnet_bk.bench.trained.opened_run import check_same_text
from resnet_bk.bench.trained.saved_model import load_model
from resnet_bk.data import Corpus, TokenCache
from resnet_bk.data.saved_tokenizer import read_tokenizer, special_ids

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")


@dataclass(frozen=True)
class LeakSetup:
    """What is measured, and on what.

    Attributes:
        name: of the model.
        config: its configuration.
        model: with its weights; None where a fresh one is to be trained.
        protocol: batch size, length of a segment, optimizer, seed, device.
        learning_rate: peak rate of what is trained: the model's own, else that of the protocol's first model.
        data: name of the corpus.
        train, validation: its tokens.
    """

    name: str
    config: Any
    model: Any | None
    protocol: Protocol
    learning_rate: float
    data: str
    train: TokenCache
    validation: TokenCache


def leak_setup(name: str, protocol: Protocol, data: str | None = None) -> LeakSetup:
    """Find the model and read the text.

    A run folder brings its tokenizer, text and protocol; a saved model or one of the hub its tokenizer; a name or a
    configuration gets the protocol's, trained on the text with as many words as it takes.

    Args:
        name: of any kind that `resolve` knows.
        protocol: where names are looked up; text, batch size, length and optimizer of all but run folders; the device.
        data: text that takes the place of the protocol's, or of the run's.

    Raises:
        ValueError: no such model or text, a saved model without a tokenizer, or one of more words than the model has.
    """
    named = resolve(name, protocol)
    path = named.path
    if named.kind == "run":
        record = read_run(path)
        changes = {"device": protocol.device} | ({} if data is None else {"dataset": data})
        protocol = check_protocol(record["protocol"] | changes, name)
        model = load_model(path / "model").float()
        tokenizer = read_tokenizer(path / "model")
        corpus = open_corpus(protocol)
        if data is None:
            check_same_text(path, record, corpus, "validation")
        return _with_text(name, model.config, model, protocol, record["learning_rate"], tokenizer, corpus)
    if data is not None:
        protocol = protocol.model_copy(update={"dataset": data})
    if named.kind == "config":
        audit_target(name, protocol)  # says what is wrong with it
        config = AutoConfig.from_pretrained(path)
        words = min(protocol.vocab_size, config.get_text_config().vocab_size)
        protocol = protocol.model_copy(update={"vocab_size": words})
        return _with_text(name, config, None, protocol, _rate(protocol), None)
    if named.kind in ("name", "type"):
        return _fresh(name, protocol)
    # Without files transformers may make an empty tokenizer of the right kind up.
    if named.kind == "saved" and not any((path / file).exists() for file in TOKENIZER_FILES):
        raise ValueError(f"--leak-cost: {name} holds no tokenizer; save it beside the model with save_pretrained")
    model = audit_target(name, protocol).float()
    tokenizer = _saved_tokenizer(name, local=named.kind == "saved")
    return _with_text(name, model.config, model, protocol, _rate(protocol), tokenizer)


def _fresh(name: str, protocol: Protocol) -> LeakSetup:
    """A model of the protocol, a known one, or a type of transformers, fresh and sized as the protocol says."""
    protocol = protocol_with(protocol, name)
    rate = protocol.models[name].learning_rate or _rate(protocol)
    corpus = open_corpus(protocol)
    tokenizer = protocol_tokenizer(protocol, corpus, default_cache_dir())
    config = resolve_configs(protocol, len(tokenizer), special_ids(tokenizer), [name])[name]
    return _with_text(name, config, None, protocol, rate, tokenizer, corpus)


def _with_text(
    name: str,
    config: Any,
    model: Any | None,
    protocol: Protocol,
    learning_rate: float,
    tokenizer: Any | None,
    corpus: Corpus | None = None,
) -> LeakSetup:
    corpus = open_corpus(protocol) if corpus is None else corpus
    tokenizer = protocol_tokenizer(protocol, corpus, default_cache_dir()) if tokenizer is None else tokenizer
    text_config = config.get_text_config()
    if len(tokenizer) > text_config.vocab_size:
        raise ValueError(
            f"--leak-cost: the tokenizer of {name} has {len(tokenizer)} words, its model {text_config.vocab_size}; "
            "save the tokenizer that the model was trained with beside it"
        )
    positions = getattr(text_config, "max_position_embeddings", None)
    if isinstance(positions, int) and 0 < positions < protocol.sequence_length:
        protocol = protocol.model_copy(update={"sequence_length": positions})
    train = split_tokens(corpus, "train", tokenizer, default_cache_dir(), protocol.data_limit)
    validation = split_tokens(corpus, "validation", tokenizer, default_cache_dir())
    return LeakSetup(name, config, model, protocol, learning_rate, corpus.name, train, validation)


def _saved_tokenizer(name: str, local: bool) -> Any:
    """The tokenizer of a folder, or of a model of the hub: from its cache if it is there."""
    try:
        try:
            return AutoTokenizer.from_pretrained(name, local_files_only=True)
        except Exception:
            if local:
                raise
            return AutoTokenizer.from_pretrained(name)
    except Exception as error:  # transformers has many ways to fail here
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"--leak-cost: the tokenizer of {name} cannot be read ({reason}); save it again") from error


def _rate(protocol: Protocol) -> float:
    """The peak rate of the protocol's first model; of a grid the one in the middle."""
    rates = sorted(protocol.rates(next(iter(protocol.models))))
    return rates[len(rates) // 2]
