"""The loss, computed only where there are labels.

Hidden states are selected before the head, so no logits exist for pictures, prompts and padding. Each supervised token
carries a weight, and the weights of a global batch sum to 1: so the loss and its gradient do not depend on how a batch
is cut into ranks and micro-batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from llava.batches import Batch
from llava.conversations import IGNORE
from llava.model import LlavaModel


def supervised_loss(hidden_NTD: torch.Tensor, head: Callable[[torch.Tensor], torch.Tensor], labels_NT: torch.Tensor,
                    weight_NT: torch.Tensor) -> torch.Tensor:
    """Weighted cross-entropy over supervised positions.

    hidden_NTD: float [N, T, D], last hidden states. labels_NT: int64 [N, T], -100 where unsupervised; a label is
    predicted from the position before it. weight_NT: float32 [N, T], the label's weight.
    Returns a float32 scalar in nats, equal to the full-logits loss (tests/llava/test_objective.py); zero, with a
    gradient of zero, for a batch without labels, which only a rank's filler is.
    """
    wanted = labels_NT[:, 1:] != IGNORE
    logits = head(hidden_NTD[:, :-1][wanted]).float()
    each = F.cross_entropy(logits, labels_NT[:, 1:][wanted], reduction="none")
    return (each * weight_NT[:, 1:][wanted]).sum()


def token_weights(num_supervised: Sequence[int], loss_norm: str, virtual_batch: int) -> list[float]:
    """The weight of each sample's tokens within one global batch.

    num_supervised: of each sample, in sampler order. ``token``: mean over the tokens of the global batch. ``paper``:
    mean over consecutive virtual device batches of the mean over the tokens of each, which is what the paper's trainer
    did with its real ones (16 samples in alignment, 4 in tuning).
    """
    if loss_norm == "token":
        total = sum(num_supervised)
        return [1.0 / total] * len(num_supervised)
    if loss_norm != "paper":
        raise ValueError(f"loss_norm {loss_norm!r} is neither 'token' nor 'paper'")
    num_groups = math.ceil(len(num_supervised) / virtual_batch)
    weights = []
    for group in range(num_groups):
        counts = num_supervised[group * virtual_batch:(group + 1) * virtual_batch]
        weights += [1.0 / (sum(counts) * num_groups)] * len(counts)
    return weights


class Objective(nn.Module):
    """What an engine trains: from a batch to its part of the global batch's loss."""

    def __init__(self, model: LlavaModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> torch.Tensor:
        hidden = self.model(batch.ids_NT, batch.mask_NT, batch.pixels)
        return supervised_loss(hidden, self.model.language_model.lm_head, batch.labels_NT, batch.weight_NT)
