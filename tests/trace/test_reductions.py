"""What is said of a softmax with nothing left; of attention in one kernel too, which gives NaN on some devices only."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_tuning.trace._causes import diagnose
from lightning_tuning.trace._evidence import Evidence

INF = float("inf")


def masked(rows: int, of: int) -> Tensor:
    scores = torch.zeros(of, 4)
    scores[:rows] = -INF
    return scores


def evidence(op: str, inputs: list[Tensor], function: str | None = None, **arguments: Any) -> Evidence:
    output = torch.full(inputs[0].shape, torch.nan)
    return Evidence(op, f"aten::_{op}", inputs, [], output, False, arguments, function)


@pytest.mark.parametrize(
    ("seen", "cause", "detail"),
    [
        (evidence("softmax", [masked(3, 8)], dim=-1), "masked-softmax", "softmax: 3 of 8 rows are -inf alone"),
        (evidence("softmax", [masked(8, 8).T], dim=0), "masked-softmax", "softmax: 8 of 8 rows are -inf alone"),
        (
            evidence("softmax", [masked(64, 64)], "multi_head_attention_forward", dim=-1),
            "masked-softmax",
            "softmax: 64 of 64 rows of the attention mask are -inf alone",
        ),
        (evidence("logsumexp", [masked(2, 2)], dim=[1]), "masked-softmax", "logsumexp: 2 of 2 rows are -inf alone"),
        (evidence("logsumexp", [masked(2, 2)], dim=[0, 1]), "masked-softmax", "logsumexp: 1 of 1 rows are -inf alone"),
        (
            evidence("scaled_dot_product_attention", [torch.zeros(6, 4), torch.zeros(4, 4)], attn_bias=masked(2, 6)),
            "masked-softmax",
            "scaled_dot_product_attention: 2 of 6 rows of the attention mask are -inf alone",
        ),
        (
            evidence("scaled_dot_product_attention", [torch.zeros(6, 4)], attn_mask=masked(2, 6) == 0),
            "masked-softmax",
            "scaled_dot_product_attention: 2 of 6 rows of the attention mask are -inf alone",
        ),
        (
            evidence("softmax", [torch.full((2, 2), INF)], dim=-1),
            "constant",
            "softmax over a row with an infinite number",
        ),
    ],
)
def test_masked_rows_are_counted(seen: Evidence, cause: str, detail: str) -> None:
    assert diagnose(seen) == (cause, detail)
