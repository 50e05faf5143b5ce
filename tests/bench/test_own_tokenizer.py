"""A benchmark whose tokenizer exists already: one special token for everything, as that of GPT-2 has."""

import pytest

from resnet_bk.bench.protocol import check_protocol
from resnet_bk.bench.trained.perplexities import evaluate_folder
from resnet_bk.bench.trained.saved_model import load_model
from tests.bench.tiny_bench import settings
from tests.command_line import call
from tests.data.test_saved_tokenizer import like_gpt2


def test_from_training_to_generation(run, text, tmp_path, monkeypatch):
    monkeypatch.setenv("RESNET_BK_CACHE", str(tmp_path / "cache"))
    saved = tmp_path / "saved"
    tokenizer = like_gpt2()
    tokenizer.save_pretrained(saved)
    results, _ = run(tokenizer=str(saved), vocab_size=400)
    assert results["data"]["vocab_size"] == len(tokenizer) < 400
    assert results["data"]["bucket_names"][0] == "0-9"
    for found in results["runs"]:
        assert (found["audit"], found["unk_rate"]) == ("causal", 0.0)
        assert [found["config"][f"{name}_token_id"] for name in ("pad", "bos", "eos")] == [None, 0, 0]
        folder = tmp_path / "out" / found["model_name"] / "seed-42"
        assert load_model(folder / "model").generation_config.suppress_tokens is None
        assert evaluate_folder(folder)["perplexity"] == pytest.approx(found["held_out_perplexity"])
        done = call("generate", folder, "--prompt", "w1 w", "--max-new-tokens", 5, "--temperature", 0)
        assert done.exit_code == 0, done.output
        assert done.stdout.startswith("w1 w")
    lengths = call("lengths", tmp_path / "out" / "gpt2" / "seed-42", "--tokens", 20, "--documents", 2, "--json")
    assert lengths.exit_code == 0, lengths.output
    # It may be moved, and not changed.
    saved.rename(tmp_path / "moved")
    _, lines = run(tokenizer=str(tmp_path / "moved"), vocab_size=400)
    assert sum("finished" in line for line in lines) == 2
    tokenizer.add_tokens(["w1"])
    tokenizer.save_pretrained(saved)
    with pytest.raises(ValueError, match=r"made with other train_tokens and .* and vocab_size of the same text"):
        run(tokenizer=str(saved), vocab_size=400)


def test_a_pointer_on_a_language_model_is_read_again(run, text, tmp_path, monkeypatch):
    monkeypatch.setenv("RESNET_BK_CACHE", str(tmp_path / "cache"))
    pointed = {"transformers": "resnet_bk_pointer", "learning_rate": 1e-2, "carry_state": True}
    models = {
        "resnet-bk": {"learning_rate": 1e-2},
        "llama-pointer": pointed | {"config": {"language_model": {"model_type": "llama"}}},
    }
    run(models=models, only=["llama-pointer"])
    folder = tmp_path / "out" / "llama-pointer" / "seed-42"
    lengths = call("lengths", folder, "--tokens", 20, "--documents", 2, "--json")
    assert lengths.exit_code == 0, lengths.output
    saved = evaluate_folder(folder / "model", data=str(text))  # by no run
    assert saved["carry_state"] is True
    assert saved["perplexity_without_carry"] > 1


def test_what_does_not_fit(run, text, tmp_path):
    like_gpt2().save_pretrained(tmp_path / "saved")
    with pytest.raises(ValueError, match=r"has \d+ words, more than vocab_size=64; set vocab_size=\d+"):
        run(tokenizer=str(tmp_path / "saved"))
    with pytest.raises(ValueError, match="pre_tokenizer=whitespace: not read where tokenizer=a/b exists already; set"):
        check_protocol(settings(text, tokenizer="a/b", pre_tokenizer="whitespace"), "tiny")
    with pytest.raises(ValueError, match="tokenizer 'bep': is neither word nor bpe"):
        run(tokenizer="bep")
    assert not (tmp_path / "out").exists()
