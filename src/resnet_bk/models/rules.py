"""Rules of the fields of a configuration, and the problems found: `field=value must be ... (way out)`."""

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

from resnet_bk.hints import nearest

logger = logging.getLogger(__name__)

INFINITE = (math.inf, -math.inf)

# Arguments that transformers itself adds to the dictionary of a configuration when it saves or loads one.
OF_TRANSFORMERS = {
    "_attn_implementation_internal",
    "_commit_hash",
    "_experts_implementation_internal",
    "_name_or_path",
    "_output_attentions",
    "_post_init_done",
    "attn_implementation",
    "auto_map",
    "experts_implementation",
    "model_type",
    "name_or_path",
    "num_labels",
    "output_attentions",
    "per_layer_config",
    "quantization_config",
    "tie_last_hidden_states",
    "torch_dtype",
    "transformers_weights",
    "use_cache",  # `Trainer` sets it on every configuration
}


class Checked:
    """A configuration whose fields have rules."""

    def check(self) -> None:
        """Checks every field again, for one that was set after construction.

        Raises:
            ValueError: as at construction.
        """
        self._refuse(self._problems())

    def save_pretrained(self, *args: Any, **options: Any) -> None:
        """As in `transformers`, of fields that could be loaded again.

        Raises:
            ValueError: as at construction; nothing is written then.
        """
        self.check()
        super().save_pretrained(*args, **options)  # type: ignore[misc]  # of the class that this is mixed into

    def _unknown(self, kwargs: dict[str, Any]) -> list[str]:
        """Problems of the arguments left over that are neither fields nor of `transformers`."""
        fields = [name for name in type(self).__dataclass_fields__ if not name.startswith("_")]  # type: ignore[attr-defined]
        problems = []
        for name in sorted(set(kwargs) - OF_TRANSFORMERS):
            close = nearest(name, fields)
            hint = f"did you mean {close}?" if close else f"see the documentation of {type(self).__name__}"
            problems.append(f"{name} is not a field ({hint})")
        return problems

    def _refuse(self, problems: list[str]) -> None:
        """Raises ValueError with all of them, if there are any."""
        if problems:
            raise ValueError(f"{type(self).__name__}: {'; '.join(problems)}")

    def _problems(self) -> list[str]:
        """Every rule that a value breaks, as `field=value rule (way out)`."""
        raise NotImplementedError


class Rules:
    """Checks fields of a configuration one by one; each check says whether the field is right.

    Attributes:
        problems: one text for each field that is wrong.
    """

    def __init__(self, config: Any) -> None:
        self.config = config
        self.problems: list[str] = []

    def whole(self, name: str, least: int, way_out: str, *, optional: bool = False) -> bool:
        """A whole number of at least `least`; None too where it is `optional`."""

        def fits(value: Any) -> bool:
            return isinstance(value, int) and value >= least

        return self._check(name, f"a whole number of at least {least}", fits, way_out, optional)

    def multiple(self, name: str, of: int, way_out: str, *, optional: bool = False) -> bool:
        """A multiple of `of` above 0; None too where it is `optional`."""

        def fits(value: Any) -> bool:
            return isinstance(value, int) and value > 0 and value % of == 0

        return self._check(name, f"a multiple of {of} above 0", fits, way_out, optional)

    def number(
        self, name: str, rule: str, fits: Callable[[float], bool], way_out: str, *, optional: bool = False
    ) -> bool:
        """A finite number that `fits`; `rule` says so in words."""

        def right(value: Any) -> bool:
            return isinstance(value, int | float) and value not in INFINITE and fits(value)

        value = getattr(self.config, name)
        if isinstance(value, float) and value in INFINITE and fits(value):
            rule = f"a finite number, {rule}"
        return self._check(name, rule, right, way_out, optional)

    def choice(self, name: str, known: Sequence[str], way_out: str | None = None) -> bool:
        """One of `known`, the default first unless there is another way out."""
        way_out = way_out or f"{known[0]} is the default"
        return self._check(name, f"one of {', '.join(known)}", lambda value: value in known, way_out, False)

    def pair(self, name: str, example: str) -> bool:
        """Two finite numbers, low and high."""

        def fits(value: Any) -> bool:
            numbers = isinstance(value, tuple | list) and len(value) == 2
            return (
                numbers
                and all(isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x) for x in value)
                and bool(value[0] <= value[1])
            )

        return self._check(name, "two finite numbers, low and high", fits, f"for example {example}", False)

    def boolean(self, name: str) -> bool:
        """True or False."""
        value = getattr(self.config, name)
        if not isinstance(value, bool):
            self.problems.append(f"{name}={value!r} must be true or false (write it without quotes)")
        return isinstance(value, bool)

    def backend(self) -> bool:
        """The name of a backend; which there are depends on operator and device."""
        fits = "the name of a backend", lambda value: isinstance(value, str) and bool(value)
        return self._check("backend", *fits, "'auto' takes the fastest", False)

    def tokens(self, *names: str) -> None:
        """Tokens of the vocabulary or None, or several; `vocab_size` is a number by then.

        Padding may lie beyond it: `Trainer` writes down that of the tokenizer, which is never read where rows are full.
        """
        last = self.config.vocab_size - 1
        for name in names:
            value = getattr(self.config, name)
            several = isinstance(value, tuple | list) and len(value) > 0 and name == "eos_token_id"
            for token in value if several else [value]:
                whole = isinstance(token, int) and not isinstance(token, bool)
                if name == "pad_token_id" and whole and token > last:
                    logger.warning(
                        "pad_token_id=%d lies beyond the vocabulary, which ends at %d: rows with padding cannot be "
                        "read (resize_token_embeddings makes room, or pad with eos_token)",
                        token,
                        last,
                    )
                elif value is not None and not (whole and 0 <= token <= last):
                    self.problems.append(
                        f"{name}={value!r} must lie in the vocabulary, from 0 to vocab_size - 1 = {last} (take it from "
                        "the tokenizer, or leave it out)"
                    )

    def _check(self, name: str, rule: str, fits: Callable[[Any], bool], way_out: str, optional: bool) -> bool:
        value = getattr(self.config, name)
        if optional and value is None:
            return True
        # bool is an int to Python, and no number to us.
        right = not isinstance(value, bool) and fits(value)
        if not right:
            self.problems.append(f"{name}={value!r} must be {rule} ({way_out})")
        return right
