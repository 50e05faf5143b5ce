"""Configuration of the earlier system and of its causal form."""

import math
from difflib import get_close_matches
from typing import Any, ClassVar

from transformers import PreTrainedConfig

from resnet_bk.models.rules import unknown_fields

GREENS = ("two_sided", "surface")
GRADIENTS = ("exact", "diagonal")


class ResNetBKSeedConfig(PreTrainedConfig):
    r"""Shape of the earlier system. The defaults are the published ones: 4,146,120 parameters.

    All arguments are keywords; unknown ones are errors.

    Args:
        vocab_size (`int`): words of the embedding and of the head.
        hidden_size (`int`): width of the residual stream, a multiple of 8.
        num_hidden_layers (`int`): blocks.
        max_position_embeddings (`int`): rows of the table of positions, and so the longest sequence.
        num_experts (`int`): experts of a block; a token passes through one of them.
        intermediate_size (`int`, *optional*): width of an expert, a multiple of 8; 2 hidden_size by default.
        green (`str`): "two_sided" for G_tt, the earlier system: **not causal**, every logit depends on later tokens;
            "surface" for L_t, the same model without that leak.
        gradient (`str`): "exact", or "diagonal" for the published one, -G_tt^2, which leaves out how a site moves the
            Green's function of the others. The report states no limit of its size beyond the two clamps below.
        potential_clamp (`float`): largest size of the learned potential.
        green_clamp (`float`): largest size of the real and of the imaginary part of the Green's function.
        causal (`bool`, *optional*): what `green` says: true for "surface". Written into saved configurations; it cannot
            be chosen apart from it.
        layer_norm_eps (`float`): epsilon of the LayerNorms.
        initializer_range (`float`): standard deviation of weights at the start. The report does not give one; this is
            the value that the other models of a comparison start from.
        tie_word_embeddings (`bool`): let the head share the embedding matrix; the earlier system did not.
        backend (`str`): backend of the operators, "auto" or one of `resnet_bk.ops.available_backends`.
        pad_token_id, bos_token_id, eos_token_id (`int`, *optional*): special tokens.

    Raises:
        ValueError: naming every field that is wrong, its value, the rule and the way out.
    """

    model_type: ClassVar[str] = "resnet_bk_seed"

    vocab_size: int = 30000
    hidden_size: int = 64
    num_hidden_layers: int = 4
    max_position_embeddings: int = 128
    num_experts: int = 4
    intermediate_size: int | None = None
    green: str = "two_sided"
    gradient: str = "exact"
    potential_clamp: float = 3.0
    green_clamp: float = 10.0
    causal: bool | None = None
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False
    backend: str = "auto"
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self._raise(self._unknown(kwargs) + self._problems())
        if self.intermediate_size is None:
            self.intermediate_size = 2 * self.hidden_size
        self.causal = self.green == "surface"
        super().__post_init__(**kwargs)

    def check(self) -> None:
        """Checks every field again, for one that was set after construction.

        Raises:
            ValueError: as at construction.
        """
        self._raise(self._problems())

    def _raise(self, problems: list[str]) -> None:
        if problems:
            raise ValueError(f"ResNetBKSeedConfig: {'; '.join(problems)}")

    def _unknown(self, kwargs: dict[str, Any]) -> list[str]:
        fields = [name for name in type(self).__dataclass_fields__ if not name.startswith("_")]
        problems = []
        for name in unknown_fields(kwargs):
            close = get_close_matches(name, fields, n=1)
            hint = f"did you mean {close[0]}?" if close else "see the documentation of ResNetBKSeedConfig"
            problems.append(f"{name} is not a field ({hint})")
        return problems

    def _problems(self) -> list[str]:
        """Every rule that a value breaks, as `field=value rule (way out)`."""
        problems: list[str] = []

        def wrong(name: str, rule: str, way_out: str) -> None:
            problems.append(f"{name}={getattr(self, name)!r} must {rule} ({way_out})")

        def is_whole(value: Any, least: int) -> bool:
            return isinstance(value, int) and not isinstance(value, bool) and value >= least

        for name, least, way_out in (
            ("vocab_size", 1, "the size of the tokenizer, len(tokenizer)"),
            ("num_hidden_layers", 1, "4 as published"),
            ("max_position_embeddings", 1, "128 as published"),
            ("num_experts", 2, "4 as published"),
        ):
            if not is_whole(getattr(self, name), least):
                wrong(name, f"be a whole number of at least {least}", way_out)
        for name, way_out in (
            ("hidden_size", "64 as published"),
            ("intermediate_size", "leave it out for the default"),
        ):
            value = getattr(self, name)
            if value is None and name == "intermediate_size":
                continue
            if not is_whole(value, 1) or value % 8:
                # Grouped matmuls over experts need rows of whole 16 bytes.
                wrong(name, "be a multiple of 8", way_out)
        for name, known in (("green", GREENS), ("gradient", GRADIENTS)):
            if getattr(self, name) not in known:
                wrong(name, f"be one of {', '.join(known)}", f"{known[0]} as published" if name == "green" else "exact")
        for name, way_out in (
            ("potential_clamp", "3 as published"),
            ("green_clamp", "10 as published"),
            ("layer_norm_eps", "1e-5 is usual"),
            ("initializer_range", "0.02 is usual"),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                wrong(name, "be above 0", way_out)
        if self.causal is not None and self.causal is not (self.green == "surface"):
            wrong("causal", f"be what green={self.green!r} is", "leave it out; green='surface' makes a causal model")
        if not isinstance(self.tie_word_embeddings, bool):
            wrong("tie_word_embeddings", "be true or false", "write it without quotes")
        if not isinstance(self.backend, str) or not self.backend:
            wrong("backend", "be the name of a backend", "'auto' takes the fastest")
        if is_whole(self.vocab_size, 1):
            for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
                value = getattr(self, name)
                tokens = value if isinstance(value, list | tuple) and name == "eos_token_id" else [value]
                if any(token is not None and not (is_whole(token, 0) and token < self.vocab_size) for token in tokens):
                    wrong(
                        name,
                        f"lie in the vocabulary, from 0 to vocab_size - 1 = {self.vocab_size - 1}",
                        "take it from the tokenizer, or leave it out",
                    )
        return problems
