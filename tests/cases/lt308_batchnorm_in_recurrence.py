"""LT308: one batch norm for all steps of a recurrence; and one over the padding of unpacked sequences."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from torch.utils.data import DataLoader, TensorDataset

from tests.cases.case import Case, Run
from tests.helpers import CLASSES, TinyModule, blobs


class Recurrent(TinyModule):
    """A plain recurrence over six steps, its state normalized in each."""

    shape = (6, 4)

    def __init__(self, norm: type[nn.Module]) -> None:
        self.norm = [norm]
        super().__init__(0.05, batch_size=32)

    def build(self) -> nn.Module:
        return nn.ModuleDict(
            {
                "step": nn.Linear(4 + 16, 16, bias=False),
                "norm": self.norm[0](16),
                "head": nn.Linear(16, CLASSES),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), 16)
        for item in x.unbind(1):
            state = self.net["norm"](self.net["step"](torch.cat((item, state), 1))).tanh()
        return self.net["head"](state)


class Packed(TinyModule):
    """A GRU over sequences of three to six steps; its outputs are normalized with their padding, or without."""

    shape = (6, 4)

    def __init__(self, *, padded: bool) -> None:
        super().__init__(0.1, batch_size=32)
        self.padded = padded

    def build(self) -> nn.Module:
        gru = nn.GRU(4, 16, batch_first=True)
        return nn.ModuleDict({"gru": gru, "norm": nn.BatchNorm1d(16), "head": nn.Linear(16, CLASSES)})

    def forward(self, x: tuple[Tensor, Tensor]) -> Tensor:
        sequence, lengths = x
        packed = pack_padded_sequence(sequence, lengths.cpu(), batch_first=True, enforce_sorted=False)
        output = self.net["gru"](packed)[0]
        if self.padded:
            states, _ = pad_packed_sequence(output, batch_first=True)
            states = self.net["norm"](states.transpose(1, 2)).transpose(1, 2)  # here
        else:
            states, _ = pad_packed_sequence(
                PackedSequence(
                    self.net["norm"](output.data), output.batch_sizes, output.sorted_indices, output.unsorted_indices
                ),
                batch_first=True,
            )
        return self.net["head"](states[torch.arange(len(states)), lengths - 1])

    def _loader(self, seed: int) -> DataLoader[Any]:
        x, y = blobs(self.batches * self.batch_size, self.shape, seed=seed).tensors
        lengths = torch.randint(3, 7, (len(x),), generator=torch.Generator().manual_seed(seed))
        data = TensorDataset(x, lengths, y)
        collate = lambda rows: (
            (torch.stack([r[0] for r in rows]), torch.stack([r[1] for r in rows])),
            torch.stack([r[2] for r in rows]),
        )
        return DataLoader(data, batch_size=self.batch_size, shuffle=True, collate_fn=collate)

    def train_dataloader(self) -> DataLoader[Any]:
        return self._loader(self.seed)

    def val_dataloader(self) -> list[DataLoader[Any]]:
        return []


CASES = [
    Case(
        "LT308",
        Run(lambda: Recurrent(nn.BatchNorm1d)),
        Run(lambda: Recurrent(nn.LayerNorm)),
        where="net.norm",
        severity="info",
    ),
    Case(
        "LT308",
        Run(lambda: Packed(padded=True)),
        Run(lambda: Packed(padded=False)),
        where="net.norm",
        severity="info",
        line="states.transpose",
        name="padding",
    ),
]
