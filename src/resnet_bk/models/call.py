"""What the arguments of a call come to: looked at once, by the model that is called, for all of its parts.

Shape legend: B batch, T tokens of this call, P tokens already in the cache, D hidden size.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from resnet_bk.layers.boundaries import Boundaries, find_boundaries
from resnet_bk.models.cache import ResNetBKCache
from resnet_bk.models.checks import check_cache, check_tensors, check_tokens
from resnet_bk.models.configuration_resnet_bk import ResNetBKConfig
from resnet_bk.models.packing import packed_documents


@dataclass(frozen=True)
class Call:
    """A call whose arguments fit together.

    Attributes:
        shape: (B, T).
        document_ids: the number of its document for every token, integers [B, T]; None without packed documents.
        boundaries: where chains are cut; None where nothing is cut or padded.
        device: of the tokens.
    """

    shape: tuple[int, int]
    document_ids: Tensor | None
    boundaries: Boundaries | None
    device: torch.device


def read_call(
    config: ResNetBKConfig,
    mixer: Any,
    input_ids: Tensor | None,
    inputs_embeds: Tensor | None,
    cache: ResNetBKCache | None,
    *,
    attention_mask: Tensor | None,
    document_ids: Tensor | None,
    position_ids: Tensor | None,
    seq_idx: Tensor | None,
    cu_seq_lens_q: Tensor | None,
) -> Call:
    """Looks at the arguments of `ResNetBKModel.forward`, before the call brings the cache up to date.

    Args:
        config: of the model.
        mixer: of its first block.
        input_ids, inputs_embeds, cache, attention_mask, document_ids, position_ids, seq_idx,
            cu_seq_lens_q: as there.

    Raises:
        ValueError: tokens, cache, mask or documents that do not fit the model or one another.
    """
    shape = check_tokens(input_ids, inputs_embeds, config)
    check_tensors(
        attention_mask=attention_mask,
        document_ids=document_ids,
        position_ids=position_ids,
        seq_idx=seq_idx,
        cu_seq_lens_q=cu_seq_lens_q,
    )
    check_cache(cache, shape[0], config, mixer)
    if cache is not None and torch.is_grad_enabled() and not torch.compiler.is_compiling():
        cache.leave_inference_mode()
    past_length = 0 if cache is None else cache.get_seq_length()
    document_ids = packed_documents(
        document_ids,
        position_ids,
        seq_idx,
        cu_seq_lens_q,
        shape=shape,
        past_length=past_length,
        attention_mask=attention_mask,
    )
    boundaries = find_boundaries(
        attention_mask,
        document_ids,
        shape=shape,
        past_length=past_length,
        last_document=None if cache is None else cache.last_document,
    )
    given = input_ids if inputs_embeds is None else inputs_embeds
    assert given is not None
    return Call(shape, document_ids, boundaries, given.device)
