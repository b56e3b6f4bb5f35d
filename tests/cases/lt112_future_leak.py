"""LT112: a language model without its causal mask."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_tuning import Preflight
from tests.cases import Case, Run
from tests.helpers import TinyModule

TOKENS, STEPS = 11, 8


def sentences(count: int, seed: int) -> TensorDataset:
    """Each step adds the sentence's stride, modulo the number of tokens: two tokens tell the third."""
    generator = torch.Generator().manual_seed(seed)
    start, stride = torch.randint(TOKENS, (2, count, 1), generator=generator)
    return TensorDataset((start + stride * torch.arange(STEPS + 1)) % TOKENS)


class SelfAttention(nn.Module):
    """One head."""

    def __init__(self, features: int, *, is_causal: bool) -> None:
        super().__init__()
        self.mix, self.out, self.is_causal = nn.Linear(features, 3 * features), nn.Linear(features, features), is_causal

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.mix(x).chunk(3, dim=-1)
        return self.out(F.scaled_dot_product_attention(query, key, value, is_causal=self.is_causal))  # the mask


class LanguageModel(TinyModule):
    """Embeddings of tokens and places, one head of attention, the next token."""

    def __init__(self, *, is_causal: bool) -> None:
        self.is_causal = is_causal
        super().__init__(1e-2)

    def build(self) -> nn.Module:
        return nn.ModuleDict(
            {
                "tokens": nn.Embedding(TOKENS, 32),
                "places": nn.Embedding(STEPS, 32),
                "attention": SelfAttention(32, is_causal=self.is_causal),
                "norm": nn.LayerNorm(32),
                "head": nn.Linear(32, TOKENS),
            }
        )

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.net["tokens"](tokens) + self.net["places"](torch.arange(tokens.shape[1], device=tokens.device))
        return self.net["head"](self.net["norm"](x + self.net["attention"](x)))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        (tokens,) = batch
        logits = self(tokens[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=self.lr)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(sentences(128, seed=0), batch_size=16, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(sentences(32, seed=1), batch_size=16)


CASES = [
    Case(
        code="LT112",
        sick=Run(lambda: LanguageModel(is_causal=False), callbacks=lambda: [Preflight()]),
        healthy=Run(lambda: LanguageModel(is_causal=True), callbacks=lambda: [Preflight()]),
        where="net.attention",
        severity="error",
        line="# the mask",
    )
]
