"""The parts of a step: who is decayed, what momentum and clipping do to an update, what is random."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kdbias.errors import MachineError
from kdbias.networks import NETWORKS
from kdbias.training.loop import memory_wanting
from kdbias.training.settings import TrainingSettings
from kdbias.training.step import build_optimiser, descend


def test_matrices_alone_are_decayed() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.PReLU(2), nn.Linear(2, 3))
    network[3].weight.requires_grad = False
    for optimizer in ("sgd", "adamw"):
        config = TrainingSettings(optimizer=optimizer, weight_decay=0.3)
        groups = build_optimiser(network, config).param_groups
        decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
        named = {name: decay.get(id(p)) for name, p in network.named_parameters()}
        kept = {name: 0.0 for name in ("0.bias", "1.weight", "1.bias", "2.weight", "3.bias")}
        assert named == {"0.weight": 0.3, "3.weight": None, **kept}


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_sgd_has_nesterov_momentum(momentum: float) -> None:
    point = nn.Parameter(torch.tensor([[1.0]]))
    optimiser = build_optimiser(
        nn.ParameterList([point]), TrainingSettings(momentum=momentum, weight_decay=0.0)
    )
    expected, velocity = 1.0, 0.0
    for _ in range(3):
        descend(
            point.square().sum() / 2, nn.ParameterList([point]), optimiser, scaler(), rate=0.1, clip_grad=0
        )
        gradient = expected
        velocity = momentum * velocity + gradient
        expected -= 0.1 * (gradient + momentum * velocity)
        assert point.item() == pytest.approx(expected)


def scaler(enabled: bool = False) -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cpu", enabled=enabled)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize(("clip_grad", "moved"), [(0.0, 5.0), (1.0, 1.0), (100.0, 5.0)])
def test_a_gradient_is_clipped_to_its_norm_whatever_scales_it(
    scaled: bool, clip_grad: float, moved: float
) -> None:
    point = nn.Parameter(torch.zeros(1, 2))
    holder, loss_scale = nn.ParameterList([point]), scaler(scaled)
    optimiser = build_optimiser(holder, TrainingSettings(momentum=0.0, weight_decay=0.0))
    loss = (point * torch.tensor([3.0, 4.0])).sum()
    descend(loss, holder, optimiser, loss_scale, rate=0.5, clip_grad=clip_grad)
    assert point.tolist() == [pytest.approx([-0.5 * moved * 0.6, -0.5 * moved * 0.8])]


def test_a_gradient_that_overflows_is_skipped_and_the_scale_lowered() -> None:
    point = nn.Parameter(torch.zeros(1, 1))
    holder, loss_scale = nn.ParameterList([point]), scaler(True)
    optimiser = build_optimiser(holder, TrainingSettings())
    before = loss_scale.get_scale()
    descend((point * 1e38).sum(), holder, optimiser, loss_scale, rate=0.1, clip_grad=1.0)
    assert point.item() == 0.0
    assert loss_scale.get_scale() == before / 2


class Dropping(nn.Sequential):
    """A network whose training draws random numbers."""

    def __init__(self, *, dim: int, channels: int, image_size: tuple[int, int]) -> None:
        super().__init__(nn.Flatten(), nn.Dropout(0.5), nn.Linear(channels * math.prod(image_size), dim))


def test_a_resumed_run_drops_what_the_uninterrupted_one_does(
    lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(NETWORKS, "dropping", "small_pictures:dropping")
    monkeypatch.setattr("kdbias.networks.small_pictures.dropping", Dropping, raising=False)
    options = {"student": "dropping", "epochs": 2, "lr": 0.01}
    lab.run(tmp_path / "whole", **options)
    lab.break_off(4, tmp_path / "broken", **options)
    lab.run(tmp_path / "broken", **options)
    assert lab.same(tmp_path / "whole", tmp_path / "broken")


def test_want_of_memory_is_the_machines_failure() -> None:
    with (
        pytest.raises(MachineError, match=r"out of memory at --batch-size 64 .*: halve it"),
        memory_wanting(64),
    ):
        torch.empty(1 << 50)
    with pytest.raises(RuntimeError, match="must match") as other, memory_wanting(64):
        torch.ones(2) + torch.ones(3)
    assert not isinstance(other.value, MachineError)
