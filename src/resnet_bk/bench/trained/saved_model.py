"""Weights that a finished run has left, or that somebody saved."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar, get_verbosity, set_verbosity, set_verbosity_error

from resnet_bk.bench.json_files import read_json
from resnet_bk.bench.peers import is_causal_lm
from resnet_bk.data.saved_tokenizer import never_written


def load_model(folder: Path) -> Any:
    """A saved model, that of a run or another, in the precision in which it was saved.

    Raises:
        ValueError: there is none, or it cannot be read.
    """
    if not (folder / "config.json").exists():
        result = folder.parent / "result.json"
        reason = read_json(result).get("diverged") if result.exists() else None
        if reason is not None:
            raise ValueError(f"{folder} holds no model: the training diverged. {reason}")
        if result.exists():
            raise ValueError(
                f"{folder} holds no model: the result of this run came without its weights, and `resnet-bk bench` "
                "takes it as finished; train it again with another --out"
            )
        raise ValueError(f"{folder} holds no model; is the run finished? `resnet-bk bench` again resumes it")
    config = read_json(folder / "config.json")
    if config.get("model_type") == "resnet_bk" and "induction_heads" not in config:
        raise ValueError(
            f"{folder} was trained before chains were scaled (commit 2e60230), and computes something else with this "
            f"code; {_way_out(folder)}"
        )
    if not is_causal_lm(str(config.get("model_type"))):
        raise ValueError(
            f"{folder} holds a model of type {config.get('model_type')!r}, which is no causal language model of "
            "transformers and not registered; give this command in a program that imports the model first "
            "(CONTRIBUTING.md)"
        )
    disable_progress_bar()  # of transformers, which draws one for every model that is loaded
    verbosity = get_verbosity()
    set_verbosity_error()  # it reports what it misses by a table; here that is an error
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except (OSError, SafetensorError, RuntimeError, ImportError) as error:
        reason = " ".join(str(error).split())[:400]
        again = "train it again with another --out" if _of_a_run(folder) else "save the model there again"
        raise ValueError(f"{folder} cannot be read: {reason}; restore it, or {again}") from error
    finally:
        set_verbosity(verbosity)
    model, loading = loaded
    # Transformers draws what is missing or of another shape anew, and drops what it does not know.
    reshaped = (key for key, *_ in loading["mismatched_keys"])
    if apart := sorted({*loading["missing_keys"], *loading["unexpected_keys"], *reshaped}):
        named = ", ".join(apart[:4]) + (", ..." if len(apart) > 4 else "")
        raise ValueError(
            f"{folder} holds other weights than a model of its configuration has with this code ({named}); "
            f"{_way_out(folder)}"
        )
    return model


def check_words(folder: Path, model: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    """Raises ValueError where a tokenizer has words that the model, of the same folder, has no embedding of."""
    known = model.get_input_embeddings().num_embeddings
    if max({*range(len(tokenizer))} - {*never_written(tokenizer)}, default=0) >= known:
        raise ValueError(
            f"{folder}: its tokenizer has {len(tokenizer):,} words and its model embeddings of {known:,}; save the "
            "tokenizer that the model was trained with there, or make room with resize_token_embeddings and train"
        )


def _of_a_run(folder: Path) -> bool:
    return (folder.parent / "run.json").exists()


def _way_out(folder: Path) -> str:
    if _of_a_run(folder):
        return "read it with the code of its commit (run.json names it), or train it again with another --out"
    return "save model and configuration there again with save_pretrained, or read it with the code that saved it"
