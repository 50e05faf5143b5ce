"""From the names in a protocol to models of equal size.

Every model is a configuration of a `transformers` causal language model, ours included. The protocol's shape (width,
layers, heads, vocabulary, length) goes into the fields that the configuration has under its own names, dropout is
off, and one field (`size_by`, usually the width of the feed-forward network) is solved for so that the parameters match
the reference: the number that the protocol names, else those of its first model. A model's `config` in the protocol
overrides any field.

Both counts of parameters, with embeddings and without (see `resnet_bk.bench.sizing`), must lie within
`parameter_tolerance` of the reference.

The models of the earlier report (`resnet-bk-seed`, `resnet-bk-seed-causal`) have a fixed shape, of which nothing is
solved for: as the first model of a protocol that names no number such a one sets the size of the others, anywhere else
its parameters are what they are.
"""

import copy
import inspect
from collections.abc import Callable, Collection
from typing import Any

from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, set_seed
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from resnet_bk.bench.protocol import ModelEntry, Protocol
from resnet_bk.bench.sizing import ParameterCount, Template, count_config, solve_size
from resnet_bk.bench.step_sizes import OF_THE_AUTHORS, check_step_sizes, draw_step_sizes, step_size_fields
from resnet_bk.hints import did_you_mean
from resnet_bk.models import PointerConfig  # the import registers our models with the Auto classes
from resnet_bk.training.carried import cache_problem, constant_state

# name -> (model type of transformers, field that is solved for; None for a fixed shape)
KNOWN: dict[str, tuple[str, str | None]] = {
    "resnet-bk": ("resnet_bk", "intermediate_size"),
    "resnet-bk-seed": ("resnet_bk_seed", None),
    "resnet-bk-seed-causal": ("resnet_bk_seed", None),
    "gpt2": ("gpt2", "n_inner"),
    "llama": ("llama", "intermediate_size"),
    "mamba2": ("mamba2", "state_size"),
    # Gated DeltaNet (arXiv 2412.06464): the linear-attention layers of Qwen3.5 without the full-attention ones.
    "gated-deltanet": ("qwen3_5_text", "intermediate_size"),
    # Kimi delta attention (arXiv 2510.26692): the linear-attention layers of Kimi Linear without the full-attention
    # ones and without experts.
    "kimi-delta": ("kimi_linear", "intermediate_size"),
}
# The same fields by model type, for one of these under another name.
SIZED_BY = {model_type: field for model_type, field in KNOWN.values() if field is not None}
# What a name stands for beside its model type; a protocol cannot say otherwise under the same name.
FIXED: dict[str, dict[str, Any]] = {
    "resnet-bk-seed": {"green": "two_sided"},
    "resnet-bk-seed-causal": {"green": "surface"},
}
# Fields that follow from the tokenizer, which all models of a protocol share.
OF_THE_TOKENIZER = ("vocab_size", "pad_token_id", "bos_token_id", "eos_token_id")
SAID_BY_TOKENIZER = "is what the tokenizer has, in all models; leave it out"
OURS = ("resnet_bk", "resnet_bk_seed", "resnet_bk_pointer")
# A Mamba-2 block holds a mixer with its gate and no feed-forward network: two blocks stand for a layer of the others.
# Where that leaves a smaller state than this, there are fewer blocks.
MAMBA2_STATE = 8
# Positions that transformers' Mamba-2 multiplies out with one another; every segment is filled up to a multiple. At its
# default of 256 that is most of the work of a short segment on a CPU. The function is the same at any value.
MAMBA2_CHUNK = 32
# Standard deviation of Mamba-2's embeddings and input projections at the start: that of the other peers, and for the
# embeddings that of its authors' package (mamba_ssm). With the 0.1 of transformers held-out perplexity was 19% higher
# after 1,000 steps (results/mamba2-start; one seed, at a rate of 0.0025).
MAMBA2_START = 0.02


def build_model(config: PreTrainedConfig, seed: int) -> Any:
    """A freshly initialised causal LM in float32, whatever the `dtype` of its configuration: in which precision it
    computes a protocol says. The same seed gives the same weights."""
    set_seed(seed)
    own = copy.deepcopy(config)  # a model that is saved writes into it
    model = AutoModelForCausalLM.from_config(own).float()
    draw_step_sizes(model, sized(config))
    return model


def resolve_configs(
    protocol: Protocol,
    vocab_size: int,
    special_ids: dict[str, int | None],
    names: Collection[str] | None = None,
) -> dict[str, Any]:
    """The configurations of models of the protocol, sized.

    Args:
        protocol: the protocol.
        vocab_size: words that the tokenizer has.
        special_ids: pad_token_id, bos_token_id, eos_token_id.
        names: which models, None for all; the first is looked at in any case where it gives the size of one of them.

    Raises:
        ValueError: one line with the problems of all models.
    """
    configs: dict[str, Any] = {}
    problems: list[str] = []
    reference = _named_reference(protocol, vocab_size)  # else of the first model
    gives_size = next(iter(protocol.models)) if reference is None else None
    chosen = protocol.models if names is None else names
    any_sized = any(
        entry.match_parameters and not fixed_shape(name, entry)
        for name, entry in protocol.models.items()
        if name in chosen
    )
    for name, entry in protocol.models.items():
        if name not in chosen and (reference is not None or not any_sized):
            continue
        try:
            template = _template(name, entry, protocol, vocab_size, special_ids)
            if entry.size_by is not None:
                _check_size_by(name, entry, gives_size=name == gives_size)
            if reference is None:
                configs[name] = template({})
                reference = count_config(configs[name])
            elif not entry.match_parameters or fixed_shape(name, entry):
                configs[name] = template({})
            else:
                configs[name] = _match(name, entry, template, protocol, reference)
            # Of a model of somebody's own it is not known: it is tried out before the training.
            possible = may_carry(configs[name]) or is_of_others(configs[name].model_type)
            if entry.carry_state and not possible:
                raise ValueError("carry_state=true: the model has no state of constant size to carry; set it to false")
            if entry.head == "model" and configs[name].model_type == "resnet_bk_pointer":
                raise ValueError("head='model': a pointer computes its losses without logits; leave head out")
        except Exception as error:  # any of a hundred architectures may refuse a shape in its own way
            kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
            way_out = "" if isinstance(error, ValueError) else f" (set models.{name}.config to what it needs)"
            problems.append(f"models.{name}: {kind}{error}{way_out}")
            if reference is None:  # the others cannot be sized
                break
    if problems:
        raise ValueError(f"protocol {protocol.name}: {'; '.join(problems)}")
    return configs


def may_carry(config: PreTrainedConfig) -> bool:
    """Whether a model hands a state of constant size from segment to segment."""
    return config.model_type in ("resnet_bk", "resnet_bk_pointer") or constant_state(config)


def carry_problem(model: Any, words: Tensor, *, in_training: bool = False) -> str | None:
    """Why a model cannot hand what it has seen from call to call; None if it can.

    Of ours the configuration says it, for what they hand on has tests. Of others it is tried.

    Args:
        model: a causal LM of `transformers`.
        words: some of its words, int64 [1, T], T at least 2.
        in_training: whether a training is to hand it on, which asks more of it.
    """
    if model.config.model_type in OURS:
        return None if may_carry(model.config) else "it returns no cache"
    return cache_problem(model, words, in_training=in_training)


def fixed_shape(name: str, entry: ModelEntry) -> bool:
    """Whether the model has one shape whatever the others are."""
    return entry.transformers is None and name in KNOWN and KNOWN[name][1] is None


def _named_reference(protocol: Protocol, vocab_size: int) -> ParameterCount | None:
    """The size that the protocol names, which does not count learned positions; None if it names none.

    Raises:
        ValueError: no model is sized to it.
    """
    named = protocol.parameters_without_embeddings
    if named is None:
        return None
    if not any(entry.match_parameters and not fixed_shape(name, entry) for name, entry in protocol.models.items()):
        raise ValueError(
            f"protocol {protocol.name}: parameters_without_embeddings={named}: not read where no model is sized; set "
            "it to null"
        )
    tables = (1 if protocol.tie_word_embeddings else 2) * vocab_size * protocol.hidden_size
    return ParameterCount(named + tables, named)


def _check_size_by(name: str, entry: ModelEntry, *, gives_size: bool) -> None:
    """Raises ValueError where `size_by` would be passed over."""
    given = entry.config.get("language_model", {}) | entry.config
    reasons = {
        f"{name} has a fixed shape": fixed_shape(name, entry),
        "the first model is the one that the others are sized to": gives_size,
        "with match_parameters=false nothing is solved for": not entry.match_parameters,
        f"its config gives {entry.size_by} already": entry.size_by in given,
    }
    for reason, applies in reasons.items():
        if applies:
            raise ValueError(f"size_by={entry.size_by!r}: {reason}; leave size_by out")


def _template(
    name: str, entry: ModelEntry, protocol: Protocol, vocab_size: int, special_ids: dict[str, int | None]
) -> Template:
    """A function from further fields to a configuration."""
    model_type = _model_type(name, entry)
    shape = {
        "vocab_size": vocab_size,
        "hidden_size": protocol.hidden_size,
        "num_hidden_layers": protocol.num_layers,
        "num_attention_heads": protocol.num_heads,
        "max_position_embeddings": protocol.sequence_length,
        "tie_word_embeddings": protocol.tie_word_embeddings,
        **special_ids,
    }
    if model_type == "resnet_bk":
        shape["num_heads"] = protocol.num_heads
    special = SHAPES.get(name if entry.transformers is None else model_type)
    if special is not None:
        shape |= special(protocol)
    fixed = FIXED.get(name, {}) if entry.transformers is None else {}
    for key, value in fixed.items():
        if entry.config.get(key, value) != value:
            raise ValueError(
                f"config.{key}={entry.config[key]!r}: {name} is the model with {key}={value!r}; give the other one "
                f"another name, with `transformers: {model_type}`"
            )
    if model_type == "resnet_bk_pointer":
        return _pointer_template(shape, protocol, entry.config)
    return config_template(model_type, shape, fixed | entry.config)


def _pointer_template(shape: dict[str, Any], protocol: Protocol, config: dict[str, Any]) -> Template:
    """Of the language model under the pointer, which has the shape and is sized."""
    given = config.get("language_model")
    inner_type = str(given.get("model_type")) if isinstance(given, dict) else ""
    if not isinstance(given, dict) or not is_causal_lm(inner_type) or inner_type in OURS:
        raise ValueError(
            f"config.language_model={given!r}: must say which causal LM of transformers it is, for example "
            "{model_type: llama}"
        )
    inner = {key: value for key, value in given.items() if key != "model_type"}
    special = SHAPES.get(inner_type)
    template = config_template(inner_type, shape | (special(protocol) if special else {}), inner)
    own = {key: value for key, value in config.items() if key != "language_model"}
    fields = [name for name in PointerConfig.__annotations__ if name not in ("model_type", "sub_configs")]
    for key in own:
        if key in OF_THE_TOKENIZER:
            raise ValueError(f"config.{key}={own[key]!r}: {SAID_BY_TOKENIZER}")
        if key not in fields:
            raise ValueError(f"config.{key}={own[key]!r}: resnet_bk_pointer has the fields {', '.join(fields)}")
    return lambda further: PointerConfig(language_model=template(further), **own)


def _model_type(name: str, entry: ModelEntry) -> str:
    if entry.transformers is None:
        if name not in KNOWN:
            raise ValueError(unknown_model(name))
        return KNOWN[name][0]
    if not is_causal_lm(entry.transformers):
        hint = did_you_mean(entry.transformers, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
        raise ValueError(
            f"transformers={entry.transformers!r}: no causal LM of transformers{hint}; one of your own must be "
            "registered with AutoConfig and AutoModelForCausalLM first (CONTRIBUTING.md)"
        )
    return entry.transformers


def unknown_model(name: str) -> str:
    """What is said of a name that is not known, where the entry does not say what it is."""
    return (
        f"unknown model{did_you_mean(name, KNOWN)}; known are {', '.join(KNOWN)}, any other needs "
        "`transformers: <model type>`"
    )


def is_causal_lm(model_type: str) -> bool:
    """Whether it is one of `transformers`, one of ours, or one that somebody registered with the Auto classes."""
    return model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or registered(model_type)


def registered(model_type: str) -> bool:
    """Whether it is a causal LM that `transformers` does not have itself."""
    extra = CONFIG_MAPPING._extra_content
    return model_type in extra and extra[model_type] in MODEL_FOR_CAUSAL_LM_MAPPING


def is_of_others(model_type: str) -> bool:
    """Whether it is registered and not one of ours: a model of somebody's own."""
    return registered(model_type) and model_type not in OURS


def config_template(model_type: str, shape: dict[str, Any], overrides: dict[str, Any]) -> Template:
    """A function from further fields to a configuration of `model_type`.

    Args:
        model_type: of a causal LM of `transformers`.
        shape: fields under their common names; those that the configuration lacks are left out.
        overrides: fields that must exist.

    Raises:
        ValueError: an override that the configuration does not have, or a configuration of somebody's own with an
            argument that has no default.
    """
    try:
        default = AutoConfig.for_model(model_type)
    except TypeError as error:
        if not is_of_others(model_type):
            raise
        raise ValueError(
            f"the configuration of {model_type} cannot be made without arguments ({error}); give each a default "
            "(CONTRIBUTING.md)"
        ) from error
    names = _fields(default) | {*step_size_fields(model_type)}
    of_the_tokenizer = {default.attribute_map.get(key, key) for key in OF_THE_TOKENIZER}
    for key, value in overrides.items():
        if key not in names:
            raise ValueError(f"config.{key}: {model_type} has no such field{did_you_mean(key, names)}")
        if default.attribute_map.get(key, key) in of_the_tokenizer:
            raise ValueError(f"config.{key}={value!r}: {SAID_BY_TOKENIZER}")
    if is_of_others(model_type):  # those of transformers have them, or are as they are
        needed = ["vocab_size", *(["tie_word_embeddings"] if shape.get("tie_word_embeddings") else [])]
        if lacking := [key for key in needed if key not in names]:
            raise ValueError(
                f"the configuration of {model_type} has no field {' and no '.join(lacking)}, which the protocol sets; "
                "add it, or map it in attribute_map (CONTRIBUTING.md)"
            )
    base = {key: value for key, value in shape.items() if key in names}
    base |= {
        key: 0.0 for key in names if key.endswith(("dropout", "_pdrop", "dropout_prob")) and _is_float(default, key)
    }
    heads = overrides.get("num_attention_heads", shape.get("num_attention_heads"))
    if isinstance(heads, int) and heads > 0:  # anything else the configuration refuses itself
        if "num_key_value_heads" in names:
            base["num_key_value_heads"] = heads
        if "head_dim" in names and model_type != "mamba2":
            width = overrides.get("hidden_size", shape["hidden_size"])
            base["head_dim"] = width // heads if isinstance(width, int) else width

    def make(further: dict[str, Any]) -> Any:
        # The common name and the model's own name of a field are one field.
        own = {default.attribute_map.get(key, key): value for key, value in base.items()}
        own |= {default.attribute_map.get(key, key): value for key, value in (overrides | further).items()}
        try:
            config = AutoConfig.for_model(model_type, **own)
        except (ValueError, TypeError) as error:
            raise ValueError(str(error)) from error
        except Exception as error:  # transformers' strict validation has its own classes
            raise ValueError(f"{type(error).__name__}: {error}") from error
        check_step_sizes(config)
        return config

    return make


def sized(config: PreTrainedConfig) -> PreTrainedConfig:
    """The part of a configuration that has the shape: of a pointer on a language model, that of the latter."""
    return config.inner if isinstance(config, PointerConfig) else config


def _fields(config: PreTrainedConfig) -> set[str]:
    own = set(inspect.signature(type(config).__init__).parameters) | set(config.to_dict())
    return {name for name in own | set(config.attribute_map) if not name.startswith("_") and name != "self"}


def _is_float(config: PreTrainedConfig, key: str) -> bool:
    return isinstance(getattr(config, key, None), float)


def _mamba2_shape(protocol: Protocol) -> dict[str, Any]:
    return {
        "num_heads": 2 * protocol.num_heads,
        "head_dim": protocol.hidden_size // protocol.num_heads,
        "expand": 2,
        "n_groups": 1,
        "chunk_size": MAMBA2_CHUNK,
        "initializer_range": MAMBA2_START,
        "num_hidden_layers": 2 * protocol.num_layers,
    }


def _gated_deltanet_shape(protocol: Protocol) -> dict[str, Any]:
    size = protocol.hidden_size // protocol.num_heads
    return {
        "layer_types": ["linear_attention"] * protocol.num_layers,
        "linear_num_key_heads": protocol.num_heads,
        "linear_num_value_heads": protocol.num_heads,
        "linear_key_head_dim": size,
        "linear_value_head_dim": size,
        **OF_THE_AUTHORS,
    }


def _kimi_delta_shape(protocol: Protocol) -> dict[str, Any]:
    return {
        "layer_types": ["linear_attention"] * protocol.num_layers,
        "mlp_layer_types": ["dense"] * protocol.num_layers,
        "linear_num_heads": protocol.num_heads,
        "linear_head_dim": protocol.hidden_size // protocol.num_heads,
    }


# Fields beyond the common ones, by the name of a known model, or by model type.
SHAPES: dict[str, Callable[[Protocol], dict[str, Any]]] = {
    "mamba2": _mamba2_shape,
    "gated-deltanet": _gated_deltanet_shape,
    "kimi-delta": _kimi_delta_shape,
}


def _match(
    name: str, entry: ModelEntry, template: Template, protocol: Protocol, reference: ParameterCount
) -> PreTrainedConfig:
    """Solve for the size field, or check the size where it is given."""
    shaped = sized(template({}))
    size_by = entry.size_by or SIZED_BY.get(shaped.model_type)
    if size_by is None and "intermediate_size" in _fields(shaped):
        size_by = "intermediate_size"
    fixed = entry.config.get("language_model", {}) | entry.config
    if size_by is None or size_by in fixed:
        config = template({})
        reason = "its config gives the size" if size_by else "no field is solved for, and size_by may name one"
    else:
        config, reason = template({size_by: solve_size(template, size_by, reference)}), f"no {size_by} fits"
        blocks = config.num_hidden_layers
        given = "num_hidden_layers" in fixed
        while _small_mamba2(config) and blocks > 1 and not given:
            blocks -= 1
            shallower = _with(template, num_hidden_layers=blocks)
            config = shallower({size_by: solve_size(shallower, size_by, reference)})
    count = count_config(config)
    if count.deviation(reference) > protocol.parameter_tolerance:
        first, named = next(iter(protocol.models)), protocol.parameters_without_embeddings
        giver = first if named is None else f"parameters_without_embeddings={named}"
        null = "" if named is None else f"set parameters_without_embeddings=null for the size of {first}, "
        raise ValueError(
            f"{count} parameters do not match the {reference} of {giver} within "
            f"parameter_tolerance={protocol.parameter_tolerance}; {reason}: {null}change the shape, raise the "
            f"tolerance, set models.{name}.match_parameters=false, or take the model out with --set models.{name}=null"
        )
    return config


def _small_mamba2(config: PreTrainedConfig) -> bool:
    shaped = sized(config)
    return shaped.model_type == "mamba2" and shaped.state_size < MAMBA2_STATE


def _with(template: Template, **fields: Any) -> Template:
    return lambda further: template(fields | further)
