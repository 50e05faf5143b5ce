"""Weights that a finished run has left, or that somebody saved."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar, get_verbosity, set_verbosity, set_verbosity_error

from resnet_bk.bench.json_files import read_json
from resnet_bk.bench.peers import is_causal_lm


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
            "code; read it with the code of its commit (run.json names it), or train it again with another --out"
        )
    if not is_causal_lm(str(config.get("model_type"))):
        raise ValueError(
            f"{folder} holds a model of type {config.get('model_type')!r}, which is none of transformers and not "
            "registered; give this command in a program that imports the model first (CONTRIBUTING.md)"
        )
    disable_progress_bar()  # of transformers, which draws one for every model that is loaded
    verbosity = get_verbosity()
    set_verbosity_error()  # it reports what it misses by a table; here that is an error
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"{folder} cannot be read: {error}; restore it, or train it again with another --out"
        ) from error
    finally:
        set_verbosity(verbosity)
    model, loading = loaded
    # Transformers draws what is missing anew, and drops what it does not know.
    if apart := sorted({*loading["missing_keys"], *loading["unexpected_keys"]}):
        named = ", ".join(apart[:4]) + (", ..." if len(apart) > 4 else "")
        raise ValueError(
            f"{folder} holds other weights than this code has ({named}); read it with the code of its commit (run.json "
            "names it), or train it again with another --out"
        )
    return model
