"""A benchmark whose tokenizer exists already: without `<unk>`, and with one special token for everything."""

import pytest

from resnet_bk.bench.inspect_model import evaluate_run
from resnet_bk.bench.protocol import check_protocol
from resnet_bk.bench.run import load_model
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
        assert [found["config"][f"{name}_token_id"] for name in ("pad", "bos", "eos")] == [0, 0, 0]
        folder = tmp_path / "out" / found["model_name"] / "seed-42"
        assert load_model(folder / "model").generation_config.suppress_tokens is None
        assert evaluate_run(folder, "validation", None)["perplexity"] == pytest.approx(found["held_out_perplexity"])
        done = call("generate", folder, "--prompt", "w1 w", "--max-new-tokens", 5, "--temperature", 0)
        assert done.exit_code == 0, done.output
        assert done.stdout.startswith("w1 w")
    lengths = call("lengths", tmp_path / "out" / "gpt2" / "seed-42", "--tokens", 20, "--documents", 2, "--json")
    assert lengths.exit_code == 0, lengths.output


def test_what_does_not_fit(run, text, tmp_path):
    like_gpt2().save_pretrained(tmp_path / "saved")
    with pytest.raises(ValueError, match=r"has \d+ words, more than vocab_size=64; set vocab_size=\d+"):
        run(tokenizer=str(tmp_path / "saved"))
    with pytest.raises(ValueError, match="pre_tokenizer=whitespace: not read where tokenizer=a/b exists already; set"):
        check_protocol(settings(text, tokenizer="a/b", pre_tokenizer="whitespace"), "tiny")
    with pytest.raises(ValueError, match="tokenizer 'bep': is neither word nor bpe"):
        run(tokenizer="bep")
    assert not (tmp_path / "out").exists()
