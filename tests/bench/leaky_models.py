"""A small language model with one mistake at a time, of the kinds that are made. Shapes: hidden [B, T, D]."""

import torch
import torch.nn.functional as F
from torch import nn
from transformers.modeling_outputs import CausalLMOutput

WORDS = 40
WIDTH = 16


class Attention(nn.Module):
    """One head. `sees(i, j)` says whether position i sees position j; a causal one is `j <= i`."""

    def __init__(self, sees=lambda i, j: j <= i, keeps_documents=True):
        super().__init__()
        self.project, self.sees, self.keeps_documents = nn.Linear(WIDTH, 3 * WIDTH), sees, keeps_documents

    def forward(self, hidden, real, document):
        query, key, value = self.project(hidden).chunk(3, -1)
        index = torch.arange(hidden.shape[1])
        mask = self.sees(index[:, None], index[None]) & real[:, None]
        if self.keeps_documents:
            mask = mask & (document[:, :, None] == document[:, None])
        mask = mask | torch.eye(hidden.shape[1], dtype=torch.bool)  # padding sees itself, so that no row is empty
        return F.scaled_dot_product_attention(query, key, value, mask)


class Convolution(nn.Module):
    """Three taps, on both sides of a token (`left=1`) or before it (`left=2`)."""

    def __init__(self, left):
        super().__init__()
        self.taps, self.left = nn.Conv1d(WIDTH, WIDTH, 3), left

    def forward(self, hidden, real, document):
        return self.taps(F.pad(hidden.mT, (self.left, 2 - self.left))).mT


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, hidden, real, document):
        return self.function(hidden, real)


class OverTime(nn.BatchNorm1d):
    """Normalises with the mean over all tokens while it trains, and with a running one otherwise."""

    def forward(self, hidden, real, document):
        return super().forward(hidden.mT).mT


class Leaky(nn.Module):
    """Embedding, one mixer, head."""

    def __init__(self, mixer):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.head = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, WORDS)
        self.mixer = mixer

    def get_input_embeddings(self):
        return self.embedding

    def forward(self, input_ids, attention_mask=None, document_ids=None):
        real = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask == 1
        document = torch.zeros_like(input_ids) if document_ids is None else document_ids
        hidden = self.embedding(input_ids)
        return CausalLMOutput(logits=self.head(hidden + self.mixer(hidden, real, document)))


class ByPosition(Leaky):
    """The same, told of documents by positions that start anew; it counts them and keeps nothing apart."""

    def forward(self, input_ids, attention_mask=None, position_ids=None):
        return super().forward(input_ids, attention_mask)
