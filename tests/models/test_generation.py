"""`generate()` with the constant-size cache, of one configuration of each kind where it takes long. That calls with a
cache give the logits of one call is tested over the whole table in test_invariants.

Greedy choices are compared in float64: there the cached and the uncached evaluation agree to 1e-9, far closer than two
logits of these models lie to each other.
"""

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig, TextStreamer

from resnet_bk.layers import one_token, pointer
from resnet_bk.models import ResNetBKCache, ResNetBKSeedConfig, ResNetBKSeedForCausalLM
from tests.models.configs import GRID, KINDS, VOCAB_SIZE, build, tokens

pytestmark = pytest.mark.sweep
every_config = pytest.mark.parametrize("name", GRID)
every_kind = pytest.mark.parametrize("name", KINDS)
ONE_OF_EACH = ["vector-conv-gate-moe-untied", "matrix-conv-gate-dense-untied"]
one_of_each = pytest.mark.parametrize("name", [*ONE_OF_EACH, "pointer-modulus"])


@one_of_each
def test_the_logits_are_not_left_out(name):
    model, prompt = build(name), tokens(1, 5)
    for option, told in (({"targets": prompt}, "targets"), ({"return_logits": False}, "return_logits=False")):
        with pytest.raises(ValueError, match=f"^{told} leaves out the logits that generate draws from; leave it out"):
            model.generate(prompt, max_new_tokens=2, **option)


@every_kind
def test_cached_greedy_generation_is_uncached_greedy_generation(name):
    model = build(name, dtype=torch.float64)
    prompt = tokens(3, 9)
    cached = model.generate(prompt, max_new_tokens=12, do_sample=False)
    uncached = model.generate(prompt, max_new_tokens=12, do_sample=False, use_cache=False)
    assert torch.equal(cached, uncached)
    assert cached.shape == (3, 21)
    # And it is the arg max, token by token.
    logits = model(cached).logits
    assert torch.equal(logits[:, 8:-1].argmax(-1), cached[:, 9:])


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}, {"do_sample": True}], ids=str)
@pytest.mark.parametrize("padding", [0, 3])
def test_a_token_takes_the_kernels_of_one_token(options, padding, monkeypatch):
    """Behind the prompt, in every block and in the pointer, where rows have no padding."""
    model, calls = build("pointer-modulus", pad_token_id=0), []

    def counted(name, kernel):
        return lambda *arguments, **settings: calls.append(name) or kernel(*arguments, **settings)

    for module, name in ((one_token, "block_step"), (pointer, "pointer_step")):
        monkeypatch.setattr(module, name, counted(name, getattr(module, name)))
    mask = torch.ones(2, 9, dtype=torch.int64)
    mask[0, :padding] = 0
    ids = tokens(2, 9).clamp(min=1)
    model.generate(ids, attention_mask=mask, max_new_tokens=6, min_new_tokens=6, **{"do_sample": False, **options})
    assert calls.count("pointer_step") == 5
    assert calls.count("block_step") == 5 * model.config.num_hidden_layers


@every_kind
def test_left_padded_batch_generates_what_each_prompt_generates_alone(name):
    model = build(name, dtype=torch.float64, pad_token_id=0)
    lengths = [2, 9, 5]
    ids, mask = tokens(3, 9).clamp(min=1), torch.zeros(3, 9, dtype=torch.int64)
    for row, length in enumerate(lengths):
        mask[row, 9 - length :] = 1
    alone = [
        model.generate(ids[row : row + 1, 9 - length :], max_new_tokens=8, do_sample=False)[0, length:]
        for row, length in enumerate(lengths)
    ]
    for use_cache in (True, False):
        together = model.generate(ids, attention_mask=mask, max_new_tokens=8, do_sample=False, use_cache=use_cache)
        assert torch.equal(together[:, 9:], torch.stack(alone))


@every_config
def test_size_of_the_cache_does_not_depend_on_the_length(name):
    model = build(name)
    sizes = set()
    for length in (1, 40):
        output = model.generate(tokens(2, length), max_new_tokens=2, return_dict_in_generate=True)
        cache = output.cache
        assert isinstance(cache, ResNetBKCache)
        assert cache.get_seq_length() == length + 1
        sizes.add(cache.nbytes)
    assert len(sizes) == 1
    assert sizes.pop() > 0


@one_of_each
def test_generation_goes_on_from_a_returned_cache(name):
    model = build(name, dtype=torch.float64)
    prompt = tokens(2, 7)
    straight = model.generate(prompt, max_new_tokens=10, do_sample=False)
    first = model.generate(prompt, max_new_tokens=4, do_sample=False, return_dict_in_generate=True)
    second = model.generate(first.sequences, cache=first.cache, max_new_tokens=6, do_sample=False)
    assert torch.equal(second, straight)
    with pytest.raises(ValueError, match="must hold the 16 tokens of the cache and at least one more"):
        model.generate(prompt, cache=first.cache, max_new_tokens=2)


@pytest.mark.parametrize("how", ["argument", "config", "position", "model"])
def test_a_prompt_in_pieces_is_read_once(how):
    """However it is said that it comes in pieces."""
    model, ids = build("modulus-as-it-is", dtype=torch.float64), tokens(2, 12)
    pieces = GenerationConfig(prefill_chunk_size=3, max_new_tokens=2)
    if how == "model":
        model.generation_config.prefill_chunk_size = 3
    arguments, options = {
        "argument": ((), {"prefill_chunk_size": 3, "max_new_tokens": 2}),
        "config": ((), {"generation_config": pieces}),
        "position": ((pieces,), {}),
        "model": ((), {"generation_config": GenerationConfig(max_new_tokens=2)}),
    }[how]
    for text in (ids, ids[:, :8]):
        cache = model(ids, use_cache=True).cache
        with pytest.raises(ValueError, match="input_ids must hold the 12 tokens of the cache and at least one more"):
            model.generate(text, *arguments, cache=cache, **options)


def test_a_prompt_in_pieces_goes_on_behind_a_cache():
    model, ids = build("modulus-as-it-is", dtype=torch.float64), tokens(2, 12)
    options = {"max_new_tokens": 5, "do_sample": False}
    expected = model.generate(ids, **options)
    cache = model(ids[:, :4], use_cache=True).cache
    assert torch.equal(model.generate(ids, cache=cache, prefill_chunk_size=3, **options), expected)


def test_embeddings_in_pieces_would_be_read_more_than_once():
    model, ids = build("modulus-as-it-is"), tokens(2, 7)
    embeddings, says = (
        model.model.embed_tokens(ids),
        "prefill_chunk_size=2 with inputs_embeds {}, which would be read more",
    )
    cache = model(ids[:, :4], use_cache=True).cache
    with pytest.raises(ValueError, match=says.format("after the 4 tokens of the cache")):
        model.generate(inputs_embeds=embeddings, cache=cache, prefill_chunk_size=2, max_new_tokens=1)
    cache = ResNetBKCache(model.config)
    with pytest.raises(ValueError, match=says.format("beside input_ids")):
        model.generate(ids, inputs_embeds=embeddings, cache=cache, prefill_chunk_size=2, max_new_tokens=1)


@one_of_each
def test_beam_search_with_and_without_cache(name):
    model = build(name, dtype=torch.float64, pad_token_id=0, eos_token_id=1)
    prompt = tokens(2, 6) % 50 + 5
    options = {"max_new_tokens": 7, "num_beams": 3, "do_sample": False}
    assert torch.equal(model.generate(prompt, **options), model.generate(prompt, use_cache=False, **options))


@one_of_each
def test_sampling_repeats_with_the_seed(name):
    model = build(name)
    prompt = tokens(2, 6)
    samples = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        samples.append(model.generate(prompt, max_new_tokens=20, do_sample=True, num_return_sequences=2))
    assert samples[0].shape == (4, 26)
    assert torch.equal(samples[0], samples[1])
    assert not torch.equal(samples[0], samples[2])


@one_of_each
def test_prompt_in_chunks_with_padding(name):
    model = build(name, dtype=torch.float64, pad_token_id=0)
    ids, mask = tokens(2, 11).clamp(min=1), torch.ones(2, 11, dtype=torch.int64)
    mask[0, :7] = 0
    options = {"attention_mask": mask, "max_new_tokens": 5, "do_sample": False}
    whole = model.generate(ids, **options)
    assert torch.equal(model.generate(ids, prefill_chunk_size=3, cache=ResNetBKCache(model.config), **options), whole)


@one_of_each
def test_packed_prompt_is_continued_in_its_last_document(name):
    model = build(name, dtype=torch.float64)
    ids = tokens(1, 12)
    document_ids = torch.tensor([[0] * 7 + [1] * 5])
    alone = model.generate(ids[:, 7:], max_new_tokens=6, do_sample=False)
    for use_cache in (True, False):
        packed = model.generate(ids, document_ids=document_ids, max_new_tokens=6, do_sample=False, use_cache=use_cache)
        assert torch.equal(packed[:, 12:], alone[:, 5:])


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_embeddings_as_prompt(name):
    model = build(name, dtype=torch.float64)
    ids = tokens(2, 6)
    expected = model.generate(ids, max_new_tokens=5, do_sample=False)[:, 6:]
    embeddings = model.get_input_embeddings()(ids)
    assert torch.equal(model.generate(inputs_embeds=embeddings, max_new_tokens=5, do_sample=False), expected)


def test_streams_tokens(capsys):
    class Decoder:
        """Stands in for a tokenizer."""

        def decode(self, ids, **_):
            return "".join(f"<{int(token)}>" for token in ids)

    model = build("matrix-conv-gate-dense-untied")
    prompt = tokens(1, 4)
    result = model.generate(prompt, max_new_tokens=3, do_sample=False, streamer=TextStreamer(Decoder()))
    assert capsys.readouterr().out.strip() == Decoder().decode(result[0])


def test_what_generation_refuses():
    model = build("matrix-conv-gate-dense-untied", pad_token_id=0)
    prompt = tokens(2, 6)
    mask = torch.ones_like(prompt)
    mask[0, -2:] = 0
    with pytest.raises(ValueError, match=r"padding after tokens.*pad on the left"):
        model.generate(prompt, attention_mask=mask, max_new_tokens=2)
    with pytest.raises(ValueError, match=r"cache_implementation='static'.*leave the argument out"):
        model.generate(prompt, cache_implementation="static", max_new_tokens=2)
    with pytest.raises(ValueError, match="must be a ResNetBKCache, but got dict"):
        model.generate(prompt, cache={}, max_new_tokens=2)


def test_drafts_whose_tokens_would_be_taken_back():
    model, prompt = build("matrix-conv-gate-dense-untied"), tokens(1, 6)
    seed = ResNetBKSeedForCausalLM(ResNetBKSeedConfig(vocab_size=VOCAB_SIZE, hidden_size=16, num_hidden_layers=1))
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    llama = AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=VOCAB_SIZE, **sizes))
    for ours, reason in ((model, "the state of a recurrence does not say how to undo it"), (seed, "it has no cache")):
        needs = f"needs a model that can take tokens back, but {ours.config.model_type} cannot: {reason}; "
        for options in (
            {"assistant_model": llama},
            {"assistant_model": llama, "use_cache": False},
            {"assistant_model": ours},
            {"prompt_lookup_num_tokens": 2},
            {"assistant_early_exit": 1},
            {"use_mtp": True},
        ):
            with pytest.raises(ValueError, match=f"{next(iter(options))} {needs}leave the argument out"):
                ours.generate(prompt, **options, max_new_tokens=2)
        with pytest.raises(ValueError, match=f"assistant_model {needs}draft with another model"):
            llama.generate(prompt, assistant_model=ours, max_new_tokens=2)


def test_a_cache_that_holds_a_text_and_is_not_to_be_used():
    model = build("modulus-as-it-is")
    cache = model(tokens(1, 5), use_cache=True).cache
    with pytest.raises(ValueError, match=r"use_cache=False with a cache of 5 tokens: .*leave use_cache out, or the"):
        model.generate(tokens(1, 3), cache=cache, use_cache=False, max_new_tokens=2)


@pytest.mark.parametrize("name", ["pointer-switched", "all-modulus", "delta-as-it-is"])
def test_a_cache_of_inference_mode_serves_outside_of_it(name):
    model, ids = build(name), tokens(2, 12)
    with torch.inference_mode():
        cache = model(ids[:, :7], use_cache=True).cache
    expected = model(ids[:, :7], use_cache=True).cache
    rows = torch.tensor([True, False])
    loss = model(ids[:, 7:], targets=ids[:, 7:], cache=cache.start_anew(rows), use_cache=True).loss
    assert_close(loss, model(ids[:, 7:], targets=ids[:, 7:], cache=expected.detach().start_anew(rows)).loss)
    loss.backward()
    with torch.inference_mode():
        cache = model(ids[:, :7], use_cache=True).cache
    model(ids[:, 7:], labels=ids[:, 7:], cache=cache).loss.backward()


def test_beams_go_on_from_a_cache_whose_rows_are_repeated():
    model, ids = build("modulus-as-it-is", dtype=torch.float64), tokens(2, 12)
    options = {"max_new_tokens": 5, "num_beams": 3, "do_sample": False}
    cache = model(ids[:, :7], use_cache=True).cache.detach()
    with pytest.raises(ValueError, match=r"holds 2 rows, but this batch has 6; repeat each row with .*interleave\(3\)"):
        model.generate(ids, cache=cache, **options)
    cache.batch_repeat_interleave(3)
    assert torch.equal(model.generate(ids, cache=cache, **options), model.generate(ids, **options))
