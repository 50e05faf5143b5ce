"""Keys of a protocol that commands read which train none of its models: `--set` of another one is an error."""

from collections.abc import Sequence

from resnet_bk.bench.resolve import OF_MODELS, Named

OF_A_TEXT = ("dataset", "data_limit", "tokenizer", "pre_tokenizer", "vocab_size")
OF_A_BATCH = ("batch_size", "sequence_length")
OF_A_STEP = (
    "learning_rates",
    "optimizer",
    "embedding_rate",
    "weight_decay",
    "betas",
    "clip",
    "final_lr_ratio",
    "seeds",
    "dtype",
)
OF_EVAL = (*OF_A_BATCH, "dtype", "device")  # of a model that somebody saved; a run has a protocol of its own
HAVE_A_SHAPE = ("run", "config", "hub", "saved")


def of_flops(named: Named | None = None) -> tuple[str, ...]:
    """Of a model, or of the models of a protocol, whose name is shown."""
    shown = ("name",) if named is None else ()
    return (*shown, *OF_MODELS, *OF_A_BATCH, "optimizer", "steps", "epochs", "data_limit")


def of_inspect(named: Named) -> tuple[str, ...]:
    """Nothing of a protocol is read for a model that has a shape."""
    return () if named.kind in HAVE_A_SHAPE else (*OF_MODELS, "sequence_length")


def of_audit(named: Named) -> tuple[str, ...]:
    """Types of `transformers` are audited in a small shape of their own."""
    return ("device",) if named.kind in (*HAVE_A_SHAPE, "type") else (*OF_MODELS, "sequence_length", "device")


def of_leak_cost(trains: bool, own_tokenizer: bool) -> tuple[str, ...]:
    """Of the cost of a leak, measured by a model that is trained for it or by one that came with its weights, with
    words of the protocol or of a tokenizer beside the model."""
    text = ("dataset", "data_limit") if own_tokenizer else OF_A_TEXT
    return (*text, *OF_A_BATCH, *((*OF_MODELS, *OF_A_STEP) if trains else ()), "device")


def of_ngrams() -> tuple[str, ...]:
    """Of a count of words; of a batch whether the text is long enough for one, as for the models."""
    return ("name", *OF_A_TEXT, *OF_A_BATCH)


def refuse_unread(settings: Sequence[str], read: Sequence[str], what: str) -> None:
    """Raises ValueError for a setting of a key that is not `read` by `what`, a command with its subject."""
    for setting in settings:
        if setting.partition("=")[0].strip().split(".")[0] not in read:
            keys = ", ".join(dict.fromkeys(read)) or "nothing"
            raise ValueError(f"--set {setting}: is not read here, {what} reads {keys} of a protocol; leave it out")
