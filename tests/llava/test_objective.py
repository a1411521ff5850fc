"""Label-only loss equals the full one, gradients included, and its weights mean what they say."""

import math

import pytest
import torch
import torch.nn.functional as F

from llava.objective import supervised_loss, token_weights


@pytest.fixture
def case():
    torch.manual_seed(0)
    labels = torch.randint(0, 50, (3, 9))
    labels[torch.rand(3, 9) < 0.6] = -100
    return torch.randn(3, 9, 16), torch.nn.Linear(16, 50, bias=False), labels


def test_equals_the_full_logits_loss_and_gradient(case):
    """Selecting positions before the head changes neither the loss nor any gradient."""
    hidden, head, labels = case
    count = (labels[:, 1:] != -100).sum()
    full, few = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    expected = F.cross_entropy(head(full)[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
    (wanted,) = torch.autograd.grad(expected, head.weight, retain_graph=True)
    expected.backward()
    loss = supervised_loss(few, head, labels, torch.full((3, 9), 1.0 / count))
    (found,) = torch.autograd.grad(loss, head.weight, retain_graph=True)
    loss.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(few.grad, full.grad)


def test_weights_scale_each_token(case):
    """A token's share of the loss is its weight times its own cross-entropy."""
    hidden, head, labels = case
    weight = torch.rand(3, 9)
    expected = sum(weight[n, t] * F.cross_entropy(head(hidden[n, t - 1]), labels[n, t])
                   for n in range(3) for t in range(1, 9) if labels[n, t] != -100)
    torch.testing.assert_close(supervised_loss(hidden, head, labels, weight), expected)


def test_a_filler_is_zero_with_a_gradient_of_zero(case):
    """Without a label the loss is 0 and every parameter still gets its (zero) gradient."""
    hidden, head, labels = case
    loss = supervised_loss(hidden.requires_grad_(), head, torch.full_like(labels, -100), torch.zeros(3, 9))
    loss.backward()
    assert loss == 0 and not head.weight.grad.any() and not hidden.grad.any()


def test_token_norm_is_the_mean_over_tokens():
    """Every token of the global batch weighs the same, and the weights sum to 1."""
    counts = [3, 1, 6]
    weights = token_weights(counts, "token", 2)
    assert weights == [0.1] * 3 and math.isclose(sum(w * c for w, c in zip(weights, counts, strict=True)), 1)


def test_paper_norm_is_the_mean_of_means():
    """Each virtual device batch weighs the same however many tokens it has; the last one may be smaller."""
    counts = [3, 1, 6, 2, 5]
    weights = token_weights(counts, "paper", 2)
    assert weights == pytest.approx([1 / 12, 1 / 12, 1 / 24, 1 / 24, 1 / 15])
    assert math.isclose(sum(w * c for w, c in zip(weights, counts, strict=True)), 1)
