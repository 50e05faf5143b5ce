"""Configuration of the earlier system and of its causal form."""

from typing import Any, ClassVar

from transformers import PreTrainedConfig

from resnet_bk.models.rules import Checked, Rules

GREENS = ("two_sided", "surface")
GRADIENTS = ("exact", "diagonal")


class ResNetBKSeedConfig(Checked, PreTrainedConfig):
    r"""Shape of the earlier system. The defaults are the published ones: 4,146,120 parameters.

    All arguments are keywords; unknown ones are errors.

    Args:
        vocab_size (`int`): tokens of the embedding and of the head.
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
        said = self.causal
        self._refuse(self._unknown(kwargs) + self._problems())
        self._fill()
        if said is False and self.causal:
            self._refuse([self._contradiction(said)])
        super().__post_init__(**kwargs)

    def check(self) -> None:
        """Checks every field again, for one that was set after construction. Where `green` was set to a causal one,
        `causal` becomes true.

        Raises:
            ValueError: as at construction.
        """
        super().check()
        self._fill()

    def _fill(self) -> None:
        """What follows from other fields."""
        if self.intermediate_size is None:
            self.intermediate_size = 2 * self.hidden_size
        self.causal = self.green == "surface"

    def _contradiction(self, causal: object) -> str:
        way_out = "leave it out; green='surface' makes a causal model"
        return f"causal={causal!r} must be what green={self.green!r} is ({way_out})"

    def _problems(self) -> list[str]:
        """Every rule that a value breaks, as `field=value rule (way out)`."""
        rules = Rules(self)
        if rules.whole("vocab_size", 1, "the size of the tokenizer, len(tokenizer)"):
            rules.tokens("pad_token_id", "bos_token_id", "eos_token_id")
        rules.whole("num_hidden_layers", 1, "4 as published")
        rules.whole("max_position_embeddings", 1, "128 as published")
        rules.whole("num_experts", 2, "4 as published")
        # Grouped matmuls over experts need rows of whole 16 bytes.
        rules.multiple("hidden_size", 8, "64 as published")
        rules.multiple("intermediate_size", 8, "leave it out for the default", optional=True)
        rules.choice("green", GREENS, "two_sided as published")
        rules.choice("gradient", GRADIENTS)
        for name, way_out in (
            ("potential_clamp", "3 as published"),
            ("green_clamp", "10 as published"),
            ("layer_norm_eps", "1e-5 is usual"),
            ("initializer_range", "0.02 is usual"),
        ):
            rules.number(name, "above 0", lambda x: x > 0, way_out)
        if self.causal not in (None, False) and not (self.causal is True and self.green == "surface"):
            rules.problems.append(self._contradiction(self.causal))
        rules.boolean("tie_word_embeddings")
        rules.backend()
        return rules.problems
