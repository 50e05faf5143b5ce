"""Configuration of ResNet-BK."""

import math
from typing import Any, ClassVar

from transformers import PreTrainedConfig

from resnet_bk.layers.induction import KEY_DIM
from resnet_bk.layers.mixer import Mixer
from resnet_bk.layers.output_gate import GATES, NO_GATE
from resnet_bk.layers.registry import MIXERS, unread_fields
from resnet_bk.models.rules import Checked, Rules
from resnet_bk.models.switches import switch_problems


class ResNetBKConfig(Checked, PreTrainedConfig):
    r"""Shape and start of a ResNet-BK language model. All arguments are keywords; unknown ones are errors.

    Args:
        vocab_size (`int`): tokens of the embedding and of the head.
        hidden_size (`int`): width of the residual stream.
        num_hidden_layers (`int`): blocks.
        num_heads (`int`): heads of the modulus, the delta and the matrix state.
        state (`str`): "modulus" (one chain a head, carrying key x value weighed by the modulus of its propagator, with
            a write gate and a norm on what is read), "delta" (the same, where a token replaces what the chain holds
            along its key), "matrix" (key x value weighed by the propagator itself) or "vector" (one chain a channel).
        key_dim (`int`, *optional*): key size of a head; hidden_size / num_heads by default.
        value_dim (`int`, *optional*): value size of a head; hidden_size / num_heads by default.
        state_channels (`int`, *optional*): chains of the vector state; hidden_size by default.
        intermediate_size (`int`, *optional*): width of the feed-forward network, of each expert where there are
            experts; 8/3 of hidden_size, rounded up to a multiple of 8, by default.
        conv_size (`int`): taps of the short convolution before the propagator; 0 leaves it out.
        output_gate (`str`, *optional*): multiply what the mixer reads by "affine" (1 + x), "silu" or "sigmoid" of a
            projection of the token; "none" leaves the gate out.
        query_key_bias (`float`, *optional*): length at the start of a learned bias on the unit queries and keys of a
            modulus, delta or matrix state (`resnet_bk.layers.QueryKey`); 0 leaves it out.
        induction_heads (`int`, *optional*): heads of a modulus, delta or matrix state that start as induction heads
            (`resnet_bk.layers.induction`). By default half of them where keys have 64 numbers or more, but none of a
            matrix state or without a convolution.
        num_experts (`int`): experts of the feed-forward network; 0 is a dense one.
        num_experts_per_tok (`int`): experts that a token passes through.
        router_aux_loss_coef (`float`): weight of the load-balancing loss in the loss.
        potential_init (`tuple[float, float]`, *optional*): lowest and highest potential at the start, in units of
            2 hopping_init, the half width of the band.
        absorption_min (`float`): floor of the absorption; its inverse bounds the resolvent.
        absorption_init (`tuple[float, float]`, *optional*): lowest and highest absorption at the start.
        hopping_init (`float`): hopping at the start.
        site_gain (`float`): how many times as far as by default a token bends the chains of the mixers, and moves the
            write gates of a modulus or delta state (`resnet_bk.layers.ChainProjection`).
        value_residual (`bool`): add the values of the first block, times a learned weight a head, to those of the
            others (`resnet_bk.layers.value_residual`); of all states but the vector state.
        pointer_heads (`int`): heads of the pointer, which predicts tokens that were seen again
            (`resnet_bk.layers.pointer`); 0 leaves it out.
        pointer_key_dim (`int`): kinds of context that a head of the pointer tells apart.
        sandwich_norm (`bool`): an RMSNorm behind every mixer and feed-forward network too, before the sum with the
            residual stream.
        embedding_multiplier (`float`): of the embeddings on their way into the first block, not in the head; with a
            sandwich norm, whose parts add numbers of about 1, hidden_size^(1/2) is usual.
        rms_norm_eps (`float`): epsilon of the RMSNorms of the residual stream.
        initializer_range (`float`): standard deviation of weights at the start.
        tie_word_embeddings (`bool`): let the head share the embedding matrix.
        backend (`str`): backend of the mixers' operators, "auto" or one of `resnet_bk.ops.available_backends`.
        gradient (`str`): of the mixers' operators: "exact", "diagonal" (the earlier system's, incomplete) or "autograd"
            (slow); see `resnet_bk.layers.gradients`.
        mixed_precision (`str`): "none", or "bf16": matmuls and head in bfloat16; weights, chains, norms and loss in
            float32.
        adaptive_computation (`bool`): tokens stop at a block of their own (`resnet_bk.layers.adaptive`).
        halting_threshold (`float`): sum of halting probabilities at which a token stops.
        ponder_cost (`float`): weight of the ponder cost in the loss.
        early_exit_threshold (`float`, *optional*): halting threshold in evaluation and generation; that of training by
            default.
        multi_scale (`list[int]`, *optional*): by how much the sequence is shortened for each block, for example
            [1, 2, 4, 2, 1] (`resnet_bk.layers.multi_scale`).
        sparse_bk (`float` or `list[float]`, *optional*): share of sites that the gates learn to keep
            (`resnet_bk.layers.sparse`): one number for all blocks, or one a block, where 1 is a block without a gate.
        sparsity_loss_coef (`float`): weight, above 0, of the loss that draws the share there.
        sparsity_schedule (`float`): share of the training over which it is brought down from 1.
        use_cache (`bool`): return a cache outside training where the call does not say and has no labels.
        pad_token_id, bos_token_id, eos_token_id (`int`, *optional*): special tokens.

    Left out, output_gate, query_key_bias, potential_init and absorption_init are those of the state (`start` of its
    mixer). That, and how many heads induce, is settled at construction: a state that is set later finds them as they
    are.

    Raises:
        ValueError: naming every field that is wrong, its value, the rule and the way out.
    """

    model_type: ClassVar[str] = "resnet_bk"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["cache", "aux_loss", "measures"]

    vocab_size: int = 30000
    hidden_size: int = 64
    num_hidden_layers: int = 4
    num_heads: int = 4
    state: str = "modulus"
    key_dim: int | None = None
    value_dim: int | None = None
    state_channels: int | None = None
    intermediate_size: int | None = None
    conv_size: int = 4
    output_gate: str | None = None
    query_key_bias: float | None = None
    induction_heads: int | None = None
    num_experts: int = 0
    num_experts_per_tok: int = 2
    router_aux_loss_coef: float = 0.01
    potential_init: tuple[float, float] | list[float] | None = None
    absorption_min: float = 1e-3
    absorption_init: tuple[float, float] | list[float] | None = None
    hopping_init: float = 1.0
    site_gain: float = 1.0
    value_residual: bool = False
    pointer_heads: int = 0
    pointer_key_dim: int = 16
    sandwich_norm: bool = False
    embedding_multiplier: float = 1.0
    rms_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False
    backend: str = "auto"
    gradient: str = "exact"
    mixed_precision: str = "none"
    adaptive_computation: bool = False
    halting_threshold: float = 0.99
    ponder_cost: float = 0.01
    early_exit_threshold: float | None = None
    multi_scale: tuple[int, ...] | list[int] | None = None
    sparse_bk: float | tuple[float, ...] | list[float] | None = None
    sparsity_loss_coef: float = 1.0
    sparsity_schedule: float = 0.5
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if kwargs.get("hopping_phase") is False:  # models that were saved when there was such a field had none
            del kwargs["hopping_phase"]
        self._start()
        self._refuse(self._unknown(kwargs) + self._problems() + self._unread())
        for name in self._default_sizes():
            if name not in self._mixer().fields():
                setattr(self, name, None)  # if it was said, then as what it is by default
        self._fill_sizes()
        for name in ("potential_init", "absorption_init"):
            low, high = getattr(self, name)
            setattr(self, name, (float(low), float(high)))
        if self.multi_scale is not None:
            self.multi_scale = tuple(self.multi_scale)
        if isinstance(self.sparse_bk, list):
            self.sparse_bk = tuple(self.sparse_bk)
        super().__post_init__(**kwargs)

    def check(self) -> None:
        """Checks every field again, for one that was set after construction, and fills in sizes that were left out.

        Raises:
            ValueError: as at construction.
        """
        self._refuse(self._problems() + self._unread())
        self._fill_sizes()

    def _fill_sizes(self) -> None:
        """Those that the state has; another may be left from a width of before."""
        for name, size in self._default_sizes().items():
            if getattr(self, name) is None and name in self._mixer().fields():
                setattr(self, name, size)
        if self.induction_heads is None:
            able = self._mixer().induces and self.conv_size > 0
            self.induction_heads = self.num_heads // 2 if able and (self.key_dim or 0) >= KEY_DIM else 0
        if self.intermediate_size is None:
            self.intermediate_size = 8 * math.ceil(self.hidden_size / 3)

    def _start(self) -> None:
        """Fills in what the mixer of the state starts from."""
        for name, value in self._mixer().start._asdict().items():
            if getattr(self, name) is None:
                setattr(self, name, value)

    def _mixer(self) -> type[Mixer]:
        """That of the state; of an unknown one, which is reported with the other problems, that of the default."""
        return MIXERS[self.state if self._known_state() else type(self).state]

    def _known_state(self) -> bool:
        return isinstance(self.state, str) and self.state in MIXERS

    def _divides(self) -> bool:
        """Whether heads share out the hidden size."""
        sizes = [getattr(self, name) for name in ("key_dim", "value_dim") if name in self._mixer().fields()]
        return None in sizes

    def block_scales(self) -> list[int]:
        """By how much the sequence is shortened for each block; 1 where it is not."""
        return [1] * self.num_hidden_layers if self.multi_scale is None else list(self.multi_scale)

    def shortening_factors(self) -> list[int]:
        """The factor of every shortening on the way through the blocks, in order."""
        factors, open_scales = [], [1]
        for scale in self.block_scales():
            while scale < open_scales[-1]:
                open_scales.pop()
            if scale > open_scales[-1]:
                factors.append(scale // open_scales[-1])
                open_scales.append(scale)
        return factors

    def site_shares(self) -> list[float]:
        """The share of sites that each block is to keep; 1 where it has no gate."""
        if isinstance(self.sparse_bk, tuple | list):
            return list(self.sparse_bk)
        return [1 if self.sparse_bk is None else self.sparse_bk] * self.num_hidden_layers

    def _problems(self) -> list[str]:
        """Every rule that a value breaks, as `field=value rule (way out)`."""
        rules = Rules(self)
        problems = rules.problems
        if rules.whole("vocab_size", 1, "the size of the tokenizer, len(tokenizer)"):
            rules.tokens("pad_token_id", "bos_token_id", "eos_token_id")
        sizes = rules.whole("hidden_size", 1, "for example 64")
        rules.whole("num_hidden_layers", 1, "for example 4")
        sizes = rules.whole("num_heads", 1, "for example 4") and sizes
        if not self._known_state():
            problems.append(f"state={self.state!r} must be one of {', '.join(sorted(MIXERS))} (modulus is the default)")
        elif sizes and self._divides() and self.hidden_size % self.num_heads:
            below = self.hidden_size - self.hidden_size % self.num_heads
            near = [str(size) for size in (below, below + self.num_heads) if size]
            problems.append(
                f"hidden_size={self.hidden_size} must be divisible by num_heads={self.num_heads} "
                f"(set hidden_size to {' or '.join(near)}, change num_heads, or give key_dim and value_dim)"
            )
        for name in ("key_dim", "value_dim", "state_channels", "intermediate_size"):
            rules.whole(name, 1, "leave it out for the default", optional=True)
        rules.whole("conv_size", 0, "4 is usual, 0 leaves the convolution out")
        if self.conv_size == 1:
            problems.append("conv_size=1 must be 0 or at least 2 (one tap mixes nothing; 0 leaves the convolution out)")
        if rules.whole("num_experts", 0, "0 is a dense feed-forward network") and self.num_experts:
            self._expert_problems(rules)
        rules.number("router_aux_loss_coef", "0 or above", lambda x: x >= 0, "0.01 is usual")
        floor = rules.number("absorption_min", "above 0", lambda x: x > 0, "1e-3 bounds the resolvent by 1000")
        rules.pair("potential_init", "0.3, 1.2")
        if rules.pair("absorption_init", "0.05, 1.0") and floor:
            assert self.absorption_init is not None
            if self.absorption_init[0] <= self.absorption_min:
                problems.append(
                    f"absorption_init={self.absorption_init!r} must be above absorption_min={self.absorption_min} "
                    f"(for example {2 * self.absorption_min:g}, {max(1.0, 4 * self.absorption_min):g})"
                )
        rules.number("hopping_init", "above 0", lambda x: x > 0, "1 sets the unit of energy")
        rules.number("site_gain", "0 or above", lambda x: x >= 0, "1 is usual, 0 bends no chain")
        rules.choice("output_gate", (*GATES, NO_GATE), "affine and silu are usual")
        rules.number("query_key_bias", "0 or above", lambda x: x >= 0, "1 is usual, 0 leaves it out")
        if rules.whole("induction_heads", 0, "leave it out for the default", optional=True) and self.induction_heads:
            problems += self._induction_problems(self.induction_heads)
        rules.whole("pointer_heads", 0, "4 is usual, 0 leaves the pointer out")
        rules.whole("pointer_key_dim", 2, "16 is usual")
        rules.boolean("sandwich_norm")
        rules.number("embedding_multiplier", "above 0", lambda x: x > 0, "1 leaves embeddings as they are")
        rules.number("rms_norm_eps", "above 0", lambda x: x > 0, "1e-6 is usual")
        rules.number("initializer_range", "above 0", lambda x: x > 0, "0.02 is usual")
        for name in ("tie_word_embeddings", "use_cache", "adaptive_computation"):
            rules.boolean(name)
        if rules.boolean("value_residual") and self.value_residual:
            problems += self._value_problems()
        rules.backend()
        return problems + switch_problems(self)

    def _value_problems(self) -> list[str]:
        """value_residual: every block must have values, and of the same tokens as the first."""
        if not self._mixer().has_values:
            return [f"value_residual=True takes values, which state={self.state!r} has not (take another state)"]
        if self.num_hidden_layers == 1:
            return ["value_residual=True takes a second block, not num_hidden_layers=1 (add blocks, or leave it out)"]
        return [
            f"value_residual=True takes blocks that all have every token, which {name}={getattr(self, name)!r} does "
            "not leave them (leave one of the two out)"
            for name in ("multi_scale", "sparse_bk")
            if getattr(self, name) is not None
        ]

    def _induction_problems(self, heads: int) -> list[str]:
        found = f"induction_heads={heads}"
        if "induction_heads" not in self._mixer().fields():
            return []  # it is not read
        if isinstance(self.conv_size, int) and self.conv_size < 2:
            return [f"{found} takes a short convolution, not conv_size={self.conv_size} (set that to 4, or this to 0)"]
        if isinstance(self.num_heads, int) and heads > self.num_heads:
            return [f"{found} must be at most num_heads={self.num_heads} (lower it, or have more heads)"]
        return []

    def _unread(self) -> list[str]:
        """Fields that other states read and this one does not, with another value than they get by default."""
        mixer, sizes, problems = self._mixer(), self._default_sizes(), []
        if not self._known_state():
            return []  # nobody knows what it reads
        filled_in = mixer.start._asdict() | {"induction_heads": 0}  # what has taken the place of None
        for name in unread_fields(mixer):
            if name == "absorption_min" and self.pointer_heads:
                continue  # the pointer reads it
            value, default = getattr(self, name), filled_in.get(name, getattr(type(self), name))
            value = tuple(value) if isinstance(value, list) else value  # as of JSON
            if value not in (None, default, sizes.get(name)):
                problems.append(
                    f"{name}={value!r} has no effect with state={self.state!r}, which does not read it (leave {name} "
                    f"out where the configuration is built, or set it to {default!r})"
                )
        return problems

    def _default_sizes(self) -> dict[str, int]:
        """What `key_dim`, `value_dim` and `state_channels` are where left out; empty where other sizes are wrong."""
        sizes = (self.hidden_size, self.num_heads)
        if not all(isinstance(size, int) and size > 0 for size in sizes):
            return {}
        a_head = self.hidden_size // self.num_heads
        return {"key_dim": a_head, "value_dim": a_head, "state_channels": self.hidden_size}

    def _expert_problems(self, rules: Rules) -> None:
        problems = rules.problems
        if self.num_experts == 1:
            problems.append("num_experts=1 must be 0 or at least 2 (0 is a dense feed-forward network)")
        if rules.whole("num_experts_per_tok", 1, "2 is usual") and self.num_experts_per_tok > self.num_experts:
            problems.append(
                f"num_experts_per_tok={self.num_experts_per_tok} must be at most num_experts={self.num_experts} "
                "(lower it, or have more experts)"
            )
        for name in ("hidden_size", "intermediate_size"):
            size = getattr(self, name)
            if isinstance(size, int) and size > 0 and size % 8:
                problems.append(
                    f"{name}={size} must be a multiple of 8 where there are experts (grouped matmuls need rows of "
                    f"whole 16 bytes; set it to {8 * math.ceil(size / 8)})"
                )
