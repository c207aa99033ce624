"""Losses against hand-worked values, at their extremes, and as something that can be minimised."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from kdbias.errors import KdbiasError
from kdbias.loss_terms import OF_LABELS
from kdbias.losses import LOSSES, Targets, build_loss, loss_needs

ROOT = math.sqrt(0.5)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def value(name: str, embedding: torch.Tensor, targets: Targets, **options: float) -> float:
    return build_loss(name, dim=embedding.shape[1], classes=4, options=options)(embedding, targets).item()


def targets(rows: int, dim: int, classes: int = 4) -> Targets:
    return Targets(normalize(torch.randn(rows, dim)), 1 + 9 * torch.rand(rows), torch.arange(rows) % classes)


def test_l2e_is_the_squared_distance_of_unit_vectors_and_cosine_its_half() -> None:
    embedding = torch.tensor([[3.0, 0.0], [0.0, 0.1], [-2.0, 0.0]])
    known = Targets(torch.tensor([[1.0, 0.0], [ROOT, ROOT], [1.0, 0.0]]))
    expected = (0.0 + (2 - math.sqrt(2)) + 4.0) / 3
    assert value("l2e", embedding, known) == pytest.approx(expected, abs=1e-6)
    assert value("cosine", embedding, known) == pytest.approx(expected / 2, abs=1e-6)


@pytest.mark.parametrize("name", ["l2e", "cosine", "rkd"])
def test_distillation_on_the_sphere_ignores_the_length_of_the_embedding(name: str) -> None:
    embedding, known = torch.randn(8, 5), targets(8, 5)
    assert value(name, embedding, known) == pytest.approx(value(name, 17 * embedding, known), rel=1e-4)


def test_raw_l2e_wants_the_teachers_norm_too() -> None:
    known = targets(8, 5)
    assert value("l2e-raw", known.vector * known.norm[:, None], known) == pytest.approx(0, abs=1e-9)
    shifted = known.vector * known.norm[:, None] + 3.0
    assert value("l2e-raw", shifted, known) == pytest.approx(9.0, rel=1e-5)


def relational_by_loops(s: np.ndarray, t: np.ndarray) -> float:
    def huber(a: float) -> float:
        return 0.5 * a * a if abs(a) < 1 else abs(a) - 0.5

    n = len(s)
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
    ds, dt = ({p: np.linalg.norm(x[p[0]] - x[p[1]]) for p in pairs} for x in (s, t))
    ms, mt = np.mean(list(ds.values())), np.mean(list(dt.values()))
    distance = np.mean([huber(ds[p] / ms - dt[p] / mt) for p in pairs])

    def angle(x: np.ndarray, i: int, j: int, k: int) -> float:
        a, b = x[j] - x[i], x[k] - x[i]
        lengths = np.linalg.norm(a) * np.linalg.norm(b)
        return 0.0 if lengths == 0 else float(a @ b / lengths)

    triplets = [(i, j, k) for i in range(n) for j in range(n) for k in range(n)]
    return float(distance + 2 * np.mean([huber(angle(s, *q) - angle(t, *q)) for q in triplets]))


def test_relational_loss_equals_its_definition_by_loops() -> None:
    embedding, known = torch.randn(7, 5), targets(7, 3)
    expected = relational_by_loops(normalize(embedding).double().numpy(), known.vector.double().numpy())
    assert build_loss("rkd", dim=5)(embedding, known).item() == pytest.approx(expected, rel=1e-4)


def test_relational_loss_does_not_mind_a_rotation() -> None:
    known = targets(20, 6)
    rotation, _ = torch.linalg.qr(torch.randn(6, 6))
    assert value("rkd", known.vector @ rotation, known) == pytest.approx(0, abs=1e-5)
    assert value("l2e", known.vector @ rotation, known) > 0.1


def test_arcface_adds_the_margin_to_the_angle_of_the_own_class() -> None:
    loss = build_loss("arcface", dim=2, classes=2, options={"scale": 10.0, "margin": 0.3})
    loss.losses[0].centres.data = torch.tensor([[1.0, 0.0], [0.0, 5.0]])
    theta = 0.8
    embedding = 7 * torch.tensor([[math.cos(theta), math.sin(theta)]])
    own, other = 10 * math.cos(theta + 0.3), 10 * math.cos(math.pi / 2 - theta)
    expected = math.log(1 + math.exp(other - own))
    assert loss(embedding, Targets(label=torch.tensor([0]))).item() == pytest.approx(expected, rel=1e-4)


def test_cosface_takes_the_margin_off_the_cosine() -> None:
    loss = build_loss("cosface", dim=2, classes=2, options={"scale": 10.0})
    loss.losses[0].centres.data = torch.tensor([[1.0, 0.0], [0.0, 5.0]])
    embedding = torch.tensor([[math.cos(0.8), math.sin(0.8)]])
    expected = math.log(1 + math.exp(10 * math.sin(0.8) - 10 * (math.cos(0.8) - 0.4)))
    assert loss(embedding, Targets(label=torch.tensor([0]))).item() == pytest.approx(expected, rel=1e-4)


def test_arcface_falls_with_the_angle_all_the_way_round() -> None:
    loss = build_loss("arcface", dim=2, classes=2).losses[0]
    angles = torch.linspace(0, math.pi, 50)
    assert (loss.lowered(torch.cos(angles)).diff() < 0).all()


def test_softmax_is_the_cross_entropy_of_its_classifier() -> None:
    loss = build_loss("softmax", dim=3, classes=4)
    embedding, label = torch.randn(6, 3), torch.tensor([0, 1, 2, 3, 0, 1])
    classifier = loss.losses[0].classifier
    logits = embedding @ classifier.weight.T + classifier.bias
    expected = -torch.log_softmax(logits, 1)[torch.arange(6), label].mean()
    assert loss(embedding, Targets(label=label)).item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_sum_adds_its_weighted_terms_and_keeps_them() -> None:
    embedding, known = torch.randn(8, 5), targets(8, 5)
    total = build_loss("2*l2e + 0.5*cosine+1e-1*rkd", dim=5)
    expected = [f * value(name, embedding, known) for f, name in ((2, "l2e"), (0.5, "cosine"), (0.1, "rkd"))]
    assert total(embedding, known).item() == pytest.approx(sum(expected), rel=1e-5)
    assert total.parts.tolist() == pytest.approx(expected, rel=1e-5)
    assert total.names == ["l2e", "cosine", "rkd"]


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("case", ["perfect", "opposite", "tiny", "huge", "all the same"])
def test_gradients_are_finite_at_the_extremes(name: str, case: str) -> None:
    loss = build_loss(name, dim=4, classes=3)
    known = targets(6, 4, classes=3)
    term = loss.losses[0]
    start = term.centres.data[known.label] if hasattr(term, "centres") else known.vector
    if case == "all the same":
        start = start[:1].repeat(6, 1)
    factor = {"opposite": -1.0, "tiny": 1e-20, "huge": 1e15}.get(case, 1.0)
    embedding = (factor * start).clone().requires_grad_()
    loss(embedding, known).backward()
    assert torch.isfinite(embedding.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in loss.parameters())


@pytest.mark.parametrize("name", ["rkd", "softmax", "arcface", "cosface"])
def test_reduced_precision_around_a_loss_does_not_reach_its_products(name: str) -> None:
    loss, embedding, known = build_loss(name, dim=8, classes=4), torch.randn(32, 8), targets(32, 8)
    expected = loss(embedding, known).item()
    with torch.autocast("cpu", torch.bfloat16):
        assert loss(embedding, known).item() == expected


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_the_loss(name: str) -> None:
    loss, known = build_loss(name, dim=8, classes=4), targets(32, 8)
    embedding = torch.randn(32, 8, requires_grad=True)
    loss(embedding, known).backward()
    step = 1e-2 * embedding.grad / embedding.grad.norm()
    with torch.no_grad():
        rise = loss(embedding + step, known) - loss(embedding - step, known)
    assert rise.item() / 2e-2 == pytest.approx(embedding.grad.norm().item(), rel=1e-2)


@pytest.mark.parametrize("name", LOSSES)
def test_descent_brings_every_loss_down(name: str) -> None:
    loss = build_loss(name, dim=8, classes=4)
    embedding, known = torch.randn(32, 8, requires_grad=True), targets(32, 8)
    optimiser = torch.optim.Adam([embedding, *loss.parameters()], lr=0.05)
    start = loss(embedding, known).item()
    for _ in range(200):
        optimiser.zero_grad()
        last = loss(embedding, known)
        last.backward()
        optimiser.step()
    assert last.item() < 0.25 * start


def test_what_a_loss_needs_and_what_it_refuses() -> None:
    assert loss_needs("l2e") == {"vector"}
    assert loss_needs("l2e-raw+3*arcface") == {"vector", "norm", "label"}
    for text in ("l2", "l2e+", "0.5", "l2e-arcface", "0*l2e", "1.2.3*l2e", "l2e+2*l2e"):
        with pytest.raises(KdbiasError, match="loss"):
            loss_needs(text)
    for classes in (None, 1):
        with pytest.raises(KdbiasError, match="two classes"):
            build_loss("softmax", dim=2, classes=classes)


def test_names_say_which_losses_learn_from_labels():
    assert {name for name in LOSSES if "label" in loss_needs(name)} == set(OF_LABELS)
    assert not {name for name in OF_LABELS if "vector" in loss_needs(name)}
