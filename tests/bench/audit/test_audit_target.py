"""What the command line may name: configurations, folders, repositories of the hub; and lengths that fit the model."""

import json
import time

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from resnet_bk.bench.audit import target
from resnet_bk.bench.audit.command import AuditOptions, run_audit
from resnet_bk.bench.audit.target import audit_target, fitting_lengths, most_tokens, vocabulary
from resnet_bk.bench.model_target import open_target
from resnet_bk.bench.protocol import check_protocol
from resnet_bk.bench.settings_read import of_flops
from resnet_bk.models import PointerConfig, PointerForCausalLM
from tests.bench.tiny_bench import settings


@pytest.fixture
def protocol(tmp_path):
    return check_protocol(settings(tmp_path / "text.txt"), "tiny")


@pytest.fixture
def gpt2():
    torch.manual_seed(0)
    special = {"pad_token_id": 2, "bos_token_id": 1, "eos_token_id": 1}
    config = AutoConfig.for_model("gpt2", vocab_size=40, n_embd=16, n_layer=1, n_head=2, n_positions=24, **special)
    return AutoModelForCausalLM.from_config(config)


def test_a_configuration_is_built(protocol, gpt2, tmp_path):
    gpt2.config.save_pretrained(tmp_path)
    for path in (tmp_path / "config.json", tmp_path):
        built = audit_target(str(path), protocol)
        assert type(built) is type(gpt2)
        assert vocabulary(built) == 40
    again = audit_target(str(tmp_path), protocol)
    assert all(torch.equal(a, b) for a, b in zip(built.parameters(), again.parameters(), strict=True))


def test_a_saved_model_keeps_its_weights(protocol, gpt2, tmp_path):
    gpt2.save_pretrained(tmp_path)
    found = audit_target(str(tmp_path), protocol)
    assert torch.equal(found.transformer.wte.weight, gpt2.transformer.wte.weight)


def test_names_of_the_protocol_have_its_shape(protocol):
    assert audit_target("resnet-bk-seed", protocol).config.green == "two_sided"
    assert audit_target("resnet-bk-seed-causal", protocol).config.green == "surface"
    assert audit_target("resnet-bk", protocol).config.hidden_size == 32


@pytest.mark.parametrize("content", ["not json", "{}", json.dumps({"model_type": "vit"})])
def test_no_configuration_of_a_language_model(protocol, tmp_path, content):
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"config\.json: no configuration of a causal language model"):
        audit_target(str(path), protocol)


@pytest.mark.parametrize("name", ["nobody", "no/such/deep/folder"])
def test_no_such_model(protocol, name):
    with pytest.raises(ValueError, match=f"model '{name}' is no run folder"):
        audit_target(name, protocol)


def test_a_folder_that_is_called_like_a_type(protocol, gpt2, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "opt").mkdir()
    assert audit_target("opt", protocol).config.model_type == "opt"
    gpt2.save_pretrained(tmp_path / "opt")
    assert audit_target("opt", protocol).config.model_type == "gpt2"
    (tmp_path / "runs" / "gpt2" / "seed-1").mkdir(parents=True)
    (tmp_path / "runs" / "gpt2" / "seed-1" / "run.json").write_text("{}")
    with pytest.raises(ValueError, match=r"runs is no run folder .*; it holds the runs runs/gpt2/seed-1"):
        audit_target("runs", protocol)


def test_the_hub_out_of_reach(protocol, monkeypatch):
    asked = []

    def refuse(self, name, timeout):
        asked.append(name)
        raise ConnectionError("no route to host")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", refuse)
    with pytest.raises(ValueError, match=r"model 'nobody/nothing-at-all': .* cannot be reached \(no route to host\)"):
        audit_target("nobody/nothing-at-all", protocol)
    assert asked == ["nobody/nothing-at-all"]


def test_the_hub_that_never_answers(protocol, monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda self, name, timeout: time.sleep(1))
    monkeypatch.setattr(target, "DEADLINE_SECONDS", 0.0)
    with pytest.raises(ValueError, match="no answer in 0 s"):
        audit_target("nobody/nothing-at-all", protocol)


@pytest.mark.parametrize("cached", [True, False])
def test_a_model_of_the_hub(protocol, gpt2, monkeypatch, cached):
    calls = []

    def load(name, local_files_only=False):
        calls.append(local_files_only)
        if local_files_only and not cached:
            raise OSError("not in the cache")
        return gpt2

    monkeypatch.setattr(target.AutoModelForCausalLM, "from_pretrained", load)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda self, name, timeout: calls.append("asked"))
    assert audit_target("somebody/something", protocol) is gpt2
    assert calls == ([True] if cached else [True, "asked", False])
    found = open_target("somebody/something", None, (), of_flops, "flops")
    assert (found.model, found.weights, found.folder) == (gpt2, "somebody/something of the hub", None)


def test_a_model_of_the_hub_that_cannot_be_loaded(protocol, monkeypatch):
    def load(name, local_files_only=False):
        raise OSError("not in the cache" if local_files_only else "no file\nnamed model.safetensors")

    monkeypatch.setattr(target.AutoModelForCausalLM, "from_pretrained", load)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda self, name, timeout: None)
    message = r"cannot be loaded from the hub \(no file named model.safetensors\); give a local folder"
    with pytest.raises(ValueError, match=f"model 'somebody/something': {message}"):
        audit_target("somebody/something", protocol)


def test_a_repository_of_another_kind_of_model(protocol, monkeypatch):
    def load(name, local_files_only=False):
        raise ValueError("Unrecognized configuration class ViTConfig")

    monkeypatch.setattr(target.AutoModelForCausalLM, "from_pretrained", load)
    with pytest.raises(ValueError, match=r"'somebody/images': no causal language model of transformers \(.*ViTConfig"):
        audit_target("somebody/images", protocol)


def test_lengths_that_a_model_takes(protocol, gpt2):
    assert fitting_lengths(gpt2, (2, 17, 65, 301)) == [2, 17, 24]
    assert most_tokens(audit_target("resnet-bk", protocol)) is None
    assert fitting_lengths(audit_target("resnet-bk", protocol), (2, 301)) == [2, 301]
    # A table of positions that is not as long as it says (OPT keeps two rows for itself).
    assert fitting_lengths(audit_target("opt", protocol), (2, 301)) == [2, 128]


def test_lengths_that_the_model_under_a_pointer_takes(gpt2):
    config = PointerConfig(language_model=gpt2.config.to_dict() | {"n_positions": 16}, pointer_key_dim=2)
    assert fitting_lengths(PointerForCausalLM(config), (8, 64)) == [8, 16]


@pytest.mark.parametrize("full", [True, False])
def test_a_model_that_refuses_every_input(gpt2, monkeypatch, tmp_path, full):
    """In one line, whatever it raises."""

    def refuse(*args, **kwargs):
        raise RuntimeError("The size of tensor a (32) must match\nthat of b")

    monkeypatch.setattr(type(gpt2), "forward", refuse)
    gpt2.config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"cannot be audited: .*RuntimeError: The size .* must match that of b$"):
        run_audit(str(tmp_path), AuditOptions(full=full, lengths=(2,)))
