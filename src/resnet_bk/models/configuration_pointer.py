"""Configuration of a causal LM of `transformers` with a pointer."""

from typing import Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from resnet_bk.models.rules import Checked, Rules


class PointerConfig(Checked, PreTrainedConfig):
    r"""A language model and the pointer beside its head. All arguments are keywords.

    Args:
        language_model (`PreTrainedConfig` or `dict`): of a causal LM of `transformers` whose logits are a linear map of
            its last hidden state; a dictionary says with `model_type` of which.
        pointer_heads, pointer_key_dim, absorption_min, pad_token_id, bos_token_id, eos_token_id: as in
            `ResNetBKConfig`.

    Raises:
        ValueError: naming every field that is wrong, its value, the rule and the way out.
    """

    model_type: ClassVar[str] = "resnet_bk_pointer"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["cache", "measures"]
    sub_configs: ClassVar[dict[str, Any]] = {"language_model": AutoConfig}

    language_model: PreTrainedConfig | dict[str, Any] | None = None
    pointer_heads: int = 4
    pointer_key_dim: int = 16
    absorption_min: float = 1e-3
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        inner = self.language_model
        if isinstance(inner, dict) and inner.get("model_type") in CONFIG_MAPPING:
            self.language_model = AutoConfig.for_model(**inner)
        self._output_attentions = kwargs.get("output_attentions", False)  # where its property looks
        self._refuse(self._unknown(kwargs) + self._problems())
        super().__post_init__(**kwargs)

    def _problems(self) -> list[str]:
        """Every rule that a value breaks."""
        rules = Rules(self)
        inner = self.language_model
        is_causal_lm = isinstance(inner, PreTrainedConfig) and isinstance(getattr(inner, "vocab_size", None), int)
        if not is_causal_lm or isinstance(inner, PointerConfig):
            shown = getattr(inner, "model_type", type(inner).__name__ if hasattr(inner, "vocab_size") else inner)
            rules.problems.append(
                f"language_model={shown!r} must be the configuration of a causal LM without a pointer (for example "
                "{'model_type': 'llama'})"
            )
        else:
            rules.tokens("pad_token_id", "bos_token_id", "eos_token_id")
        rules.whole("pointer_heads", 1, "4 is usual")
        rules.whole("pointer_key_dim", 2, "16 is usual")
        rules.number("absorption_min", "above 0", lambda x: x > 0, "1e-3 bounds the resolvent by 1000")
        for name, only in (("return_dict", True), ("output_hidden_states", False), ("output_attentions", False)):
            if getattr(self, name, only) not in (only, None):
                rules.problems.append(
                    f"{name}={getattr(self, name)!r} is read by nothing: a call returns a PointerOutput without hidden "
                    "states and attention maps (leave it out, or ask language_model itself)"
                )
        return rules.problems

    @property
    def inner(self) -> PreTrainedConfig:
        """`language_model` as a configuration."""
        assert isinstance(self.language_model, PreTrainedConfig)
        return self.language_model

    @property
    def vocab_size(self) -> int:
        return int(self.inner.vocab_size)

    @property
    def hidden_size(self) -> int:
        return int(self.inner.hidden_size)

    @property
    def num_hidden_layers(self) -> int:
        return int(self.inner.num_hidden_layers)
