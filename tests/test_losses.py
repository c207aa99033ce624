"""Losses against hand-worked values, at their extremes, and as something that can be minimised."""

import math

import pytest
import torch

from kdbias.errors import KdbiasError
from kdbias.losses import LOSSES, build_loss, loss_needs

ROOT = math.sqrt(0.5)


def test_l2e_is_the_squared_distance_of_unit_vectors_and_cosine_its_half() -> None:
    embedding = torch.tensor([[3.0, 0.0], [0.0, 0.1], [-2.0, 0.0]])
    target = torch.tensor([[1.0, 0.0], [ROOT, ROOT], [1.0, 0.0]])
    expected = (0.0 + (2 - math.sqrt(2)) + 4.0) / 3
    assert build_loss("l2e", dim=2)(embedding, target, None).item() == pytest.approx(expected, abs=1e-6)
    assert build_loss("cosine", dim=2)(embedding, target, None).item() == pytest.approx(
        expected / 2, abs=1e-6
    )


@pytest.mark.parametrize("name", ["l2e", "cosine"])
def test_distillation_ignores_the_length_of_the_embedding(name: str) -> None:
    embedding, target = torch.randn(8, 5), torch.nn.functional.normalize(torch.randn(8, 5))
    loss = build_loss(name, dim=5)
    assert loss(embedding, target, None).item() == pytest.approx(
        loss(17 * embedding, target, None).item(), rel=1e-5
    )


def test_arcface_adds_the_margin_to_the_angle_of_the_own_class() -> None:
    loss = build_loss("arcface", dim=2, classes=2)
    loss.centres.data = torch.tensor([[1.0, 0.0], [0.0, 5.0]])
    theta = 0.8
    embedding = 7 * torch.tensor([[math.cos(theta), math.sin(theta)]])
    own, other = 64 * math.cos(theta + 0.5), 64 * math.cos(math.pi / 2 - theta)
    expected = math.log(1 + math.exp(other - own))
    assert loss(embedding, None, torch.tensor([0])).item() == pytest.approx(expected, rel=1e-4)


def test_arcface_grows_with_the_angle_all_the_way_round() -> None:
    loss = build_loss("arcface", dim=2, classes=2)
    angles = torch.linspace(0, math.pi, 50)
    own = loss._moved(torch.cos(angles))
    assert (own.diff() < 0).all()


def test_softmax_is_the_cross_entropy_of_its_classifier() -> None:
    loss = build_loss("softmax", dim=3, classes=4)
    embedding, label = torch.randn(6, 3), torch.tensor([0, 1, 2, 3, 0, 1])
    logits = embedding @ loss.classifier.weight.T + loss.classifier.bias
    expected = -torch.log_softmax(logits, 1)[torch.arange(6), label].mean()
    assert loss(embedding, None, label).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("case", ["perfect", "opposite", "tiny", "huge"])
def test_gradients_are_finite_at_the_extremes(name: str, case: str) -> None:
    loss = build_loss(name, dim=4, classes=3)
    target = torch.nn.functional.normalize(torch.randn(6, 4))
    label = torch.tensor([0, 1, 2, 0, 1, 2])
    start = loss.centres.data[label] if hasattr(loss, "centres") else target
    factor = {"perfect": 1.0, "opposite": -1.0, "tiny": 1e-20, "huge": 1e15}[case]
    embedding = (factor * start).clone().requires_grad_()
    loss(embedding, target, label).backward()
    assert torch.isfinite(embedding.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in loss.parameters())


@pytest.mark.parametrize("name", LOSSES)
def test_descent_brings_every_loss_down(name: str) -> None:
    torch.manual_seed(0)
    loss = build_loss(name, dim=8, classes=4)
    embedding = torch.randn(32, 8, requires_grad=True)
    target, label = torch.nn.functional.normalize(torch.randn(32, 8)), torch.arange(32) % 4
    optimiser = torch.optim.Adam([embedding, *loss.parameters()], lr=0.05)
    start = loss(embedding, target, label).item()
    for _ in range(200):
        optimiser.zero_grad()
        value = loss(embedding, target, label)
        value.backward()
        optimiser.step()
    assert value.item() < 0.2 * start


def test_what_a_loss_needs_and_what_it_refuses() -> None:
    assert loss_needs("l2e") == {"target"}
    assert loss_needs("arcface") == {"label"}
    with pytest.raises(KdbiasError, match="l2e, cosine"):
        loss_needs("l2")
    for classes in (None, 1):
        with pytest.raises(KdbiasError, match="two classes"):
            build_loss("softmax", dim=2, classes=classes)
