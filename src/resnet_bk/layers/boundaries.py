"""Where chains are cut: packed documents and padding, worked out once a forward pass for all layers.

Shape legend: B batch, T tokens, P tokens already in the state, K taps of the short convolution.

A chain is cut before token t by setting its hopping to zero: the surface Green's function and the propagator then start
anew, exactly as at the first token of a sequence. The short convolution must not look across a cut either; tokens of
padding enter it as zeros, which is what lies before the first token of an unpadded sequence.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from resnet_bk.layers.selection import Selection
from resnet_bk.layers.spacer import Spacer, spacer
from resnet_bk.ops.checks import has_values


@dataclass(frozen=True)
class Boundaries:
    """Cuts of one forward pass.

    Attributes:
        keep: 1 where the chain goes on, 0 where it is cut before t; float32 [B, T, 1].
        real: 1 for a token, 0 for padding; float32 [B, T, 1], or None without padding.
        segment: number of cuts up to and with t, counted from the state; int64 [B, T], or None where a convolution
            needs no mask (no documents).
        begun: False for a row that holds nothing but padding so far, bool [B]; None without such rows. The state of
            such a row must be set to zero, which is the same as none.
        padded_right: some row has padding after its last token, so that the state after it is of no use.
        end_segment: segment at the end of the call, int64 [B]; None without documents.
        filling: sites behind the last token of a row that are transparent, so that the state after them is the state
            after that token; None without such rows. Only what `select_boundaries` returns has any.
        ended: True where the document of the last token was over before the end of the call, bool [B]: the state must
            be set to zero. None without documents.
    """

    keep: Tensor
    real: Tensor | None
    segment: Tensor | None
    begun: Tensor | None
    padded_right: bool
    end_segment: Tensor | None = None
    filling: Spacer | None = None
    ended: Tensor | None = None

    def tokens_only(self, like: Tensor) -> Tensor:
        """1 for a token, 0 for padding and filling, to be multiplied with `like`, [B, T, ...]."""
        assert self.real is not None
        return self.real.view(*self.real.shape[:2], *[1] * (like.ndim - 2)).to(like.dtype)

    def same_segment(self, lag: int) -> Tensor:
        """1 where t and t - lag lie in one segment, [B, T, 1]; tokens before the first are in segment 0."""
        assert self.segment is not None
        earlier = F.pad(self.segment, (lag, 0))[:, : self.segment.shape[1]]
        return (self.segment == earlier).unsqueeze(-1)


def find_boundaries(
    attention_mask: Tensor | None,
    document_ids: Tensor | None,
    *,
    shape: tuple[int, int],
    past_length: int = 0,
    last_document: Tensor | None = None,
) -> Boundaries | None:
    """Works out the cuts of B rows of T tokens that follow P = past_length earlier ones.

    Args:
        attention_mask: 1 for a token, 0 for padding, [B, P + T], or [B, T] if it is all ones; padding may stand left,
            right or both.
        document_ids: integers [B, T]; a document ends where the number changes.
        shape: (B, T), of at least one token.
        past_length: P.
        last_document: document of the last token in the state, [B]; needed with document_ids where P > 0.

    Returns:
        None where nothing is cut and nothing is padded.

    Raises:
        ValueError: shapes or dtypes that do not fit, a mask with a hole between tokens or (on the CPU) with other
            values, documents that start in the middle of a state that did not record any.
    """
    if attention_mask is None and document_ids is None:
        return None
    _check_shapes(attention_mask, document_ids, shape=shape, past_length=past_length)
    length = shape[1]
    mask = None if attention_mask is None else _check_mask(attention_mask, length, past_length)
    if mask is not None and mask.shape[1] < past_length + length:
        mask = F.pad(mask, (past_length, 0), value=True)  # it is all ones, and so were the tokens before
    traced = torch.jit.is_tracing()  # what a mask of this call holds is no rule for those of later ones
    if mask is not None and document_ids is None and not traced and bool(mask[:, -(length + 1) :].all()):
        return None

    given = document_ids if attention_mask is None else attention_mask
    assert given is not None
    cut = torch.zeros(shape, dtype=torch.bool, device=given.device)
    real = begun = None
    padded_right = False
    if mask is not None:
        # The first token after padding starts a chain; a cut at the first token of all is exact and changes nothing.
        cut |= (mask & ~F.pad(mask, (1, 0))[:, :-1])[:, -length:]
        row_begun = mask.any(dim=1)
        padded_right = bool((row_begun & ~mask[:, -1]).any())
        begun = None if not traced and bool(row_begun.all()) else row_begun
        real = mask[:, -length:].unsqueeze(-1).float()
    segment = None
    if document_ids is not None:
        cut |= _document_starts(document_ids, past_length, last_document)
        segment = cut.long().cumsum(dim=1)
    end_segment = None if segment is None else segment[:, -1]
    return Boundaries((~cut).unsqueeze(-1).float(), real, segment, begun, padded_right, end_segment)


def is_filled(boundaries: Boundaries | None) -> bool:
    """Whether rows are filled up to one length."""
    return boundaries is not None and boundaries.filling is not None


def without_tokens(boundaries: Boundaries | None) -> Tensor | None:
    """Rows whose state lives on where no token of the call was selected, bool [B]; None for all of them.

    The others have begun another document.
    """
    return None if boundaries is None or boundaries.end_segment is None else boundaries.end_segment == 0


def select_boundaries(boundaries: Boundaries | None, selection: Selection) -> Boundaries | None:
    """The cuts between selected tokens.

    A chain that skips tokens is cut where its neighbours lie in two documents. Padding is never selected, and the state
    before the first token of a padded row is zero, so that padding alone cuts nothing.

    Args:
        boundaries: of the tokens that were selected from.
        selection: the tokens.

    Returns:
        None where nothing is cut and no row is filled up.
    """
    filling = spacer(selection.counts, selection.width) if selection.ragged else None
    segment = end_segment = ended = None
    if boundaries is not None and boundaries.segment is not None:
        end_segment = boundaries.end_segment
        assert end_segment is not None
        segment = selection.gather(boundaries.segment.unsqueeze(-1)).squeeze(-1)
        last = F.pad(segment, (1, 0)).gather(1, selection.counts.unsqueeze(1)).squeeze(1)
        ended = last != end_segment
    if filling is None and segment is None:
        return None
    real = selection.real()
    if segment is None:
        keep = torch.ones(real.shape, dtype=torch.bool, device=real.device)
    else:
        keep = segment == F.pad(segment, (1, 0))[:, :-1]
    return Boundaries(
        keep=keep.unsqueeze(-1).float(),
        real=real.unsqueeze(-1).float() if filling is not None else None,
        segment=segment,
        begun=None,
        padded_right=False,
        end_segment=end_segment,
        filling=filling,
        ended=ended,
    )


def _check_shapes(
    attention_mask: Tensor | None, document_ids: Tensor | None, *, shape: tuple[int, int], past_length: int
) -> None:
    """Checks shapes of a mask and of document numbers for B rows of T tokens after P.

    Args:
        attention_mask, document_ids, shape, past_length: as in `find_boundaries`.

    Raises:
        ValueError: they do not fit together.
    """
    batch, length = shape
    if length < 1:
        raise ValueError(
            f"shape={tuple(shape)} must have at least one token a row; leave the call out where there is none"
        )
    widths = (length, past_length + length)  # not a set: to hash a size would fix it in a graph
    if attention_mask is not None and (
        attention_mask.ndim != 2 or attention_mask.shape[0] != batch or attention_mask.shape[1] not in widths
    ):
        rule = " or ".join(dict.fromkeys(str((batch, width)) for width in widths))
        raise ValueError(
            f"attention_mask must have shape {rule} (1 for a token, 0 for padding), but got "
            f"{tuple(attention_mask.shape)}; pass the mask that the tokenizer returns with these input_ids"
        )
    if document_ids is not None and (
        tuple(document_ids.shape) != tuple(shape) or document_ids.is_floating_point() or document_ids.is_complex()
    ):
        raise ValueError(
            f"document_ids must be integers of shape {tuple(shape)}, one a token, but got {document_ids.dtype} "
            f"{tuple(document_ids.shape)}; give every token the number of its document"
        )


def _check_mask(attention_mask: Tensor, length: int, past_length: int) -> Tensor:
    """The mask, bool."""
    mask = attention_mask != 0
    if attention_mask.dtype != torch.bool and has_values(attention_mask) and not torch.jit.is_tracing():
        other = mask & (attention_mask != 1)
        if bool(other.any()):
            place = other.nonzero()[0].tolist()
            raise ValueError(
                f"attention_mask must be 1 for a token and 0 for padding, but attention_mask{place} is "
                f"{attention_mask[tuple(place)].item():g}; pass the mask that the tokenizer returns (of one that is "
                "added to scores, mask == 0), or document_ids where it numbers packed documents"
            )
    if mask.shape[1] < past_length + length and not bool(mask.all()):
        raise ValueError(
            f"attention_mask has padding, so it must also cover the {past_length} tokens of the cache, but has "
            f"shape {tuple(attention_mask.shape)}; pass all {past_length + length} columns"
        )
    # 0 -> 1 may happen once a row: padding left of the tokens, tokens, padding right of them.
    starts = mask[:, 0].long() + (mask[:, 1:] & ~mask[:, :-1]).sum(dim=1)
    if bool((starts > 1).any()):
        row = int((starts > 1).nonzero()[0])
        raise ValueError(
            f"attention_mask must have its ones side by side, but row {row} has {int(starts[row])} runs of them; "
            "remove the padding between tokens and pad on the left, or pass document_ids to pack several documents "
            "into a row (where no mask was passed, transformers took pad_token_id for padding: pass one)"
        )
    return mask


def _document_starts(document_ids: Tensor, past_length: int, last_document: Tensor | None) -> Tensor:
    """True where a document starts, [B, T]; the first token counts only if it follows another document's."""
    if past_length and last_document is None:
        raise ValueError(
            f"document_ids after a cache need one filled with document_ids, but its {past_length} tokens "
            "came without; pass document_ids from the first call on, or start with an empty cache"
        )
    first = document_ids[:, :1] if last_document is None else last_document.unsqueeze(1)
    return document_ids != torch.cat([first, document_ids[:, :-1]], dim=1)
