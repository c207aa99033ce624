"""Batches that a thread makes ahead of the device, and workers that outlive an epoch."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kdbias import loading
from kdbias.data.opening import open_data
from kdbias.errors import KdbiasError
from kdbias.teachers.preprocessing import Preprocessing
from kdbias.training import images
from kdbias.training.data import _student_preprocessing
from kdbias.training.images import StreamedImages, Unreadable, _ahead
from kdbias.training.settings import TrainingSettings

GREY = Preprocessing(size=(4, 4), color="RGB", mean=(127.5,) * 3, std=(127.5,) * 3)


def test_batches_made_ahead_are_the_same_and_few() -> None:
    made: list[int] = []

    def batches() -> Iterator[Any]:
        for number in range(6):
            made.append(number)
            yield number

    taken = []
    for number in _ahead(batches()):
        taken.append(number)
        assert len(made) <= len(taken) + images._AHEAD
    assert taken == list(range(6))


def test_an_error_made_ahead_arrives_in_its_place() -> None:
    def batches() -> Iterator[Any]:
        yield 1
        raise KdbiasError("sample 7 cannot be read")

    ahead = _ahead(batches())
    assert next(ahead) == 1
    with pytest.raises(KdbiasError, match="sample 7"):
        next(ahead)


def test_workers_stay_from_epoch_to_epoch(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def stamped(data: Any, preprocessings: Any, facts: Any) -> list[np.ndarray]:
        return [np.full((4, 4, 3), os.getpid() % 251, np.uint8)]

    monkeypatch.setattr(loading, "prepare_image", stamped)
    source = open_data(lab.data)
    unreadable = Unreadable(source, TrainingSettings(workers=2), np.ones(source.n, bool))
    streamed = StreamedImages(unreadable, [GREY], pin=False)
    epochs = [[np.array([0, 3]), np.array([2, 1])], [np.array([1, 0]), np.array([3, 2])]]
    seen = []
    for epoch in epochs:
        batches = list(streamed.batches(iter(epoch)))
        np.testing.assert_array_equal([batch.rows for batch in batches], epoch)
        seen.append({int(pid) for batch in batches for pid in batch.images[0].flatten()})
    assert seen[0] == seen[1]
    assert os.getpid() % 251 not in seen[0]


@pytest.mark.parametrize(
    ("sides", "options", "said"),
    [
        (
            [(20, 30), (40, 40), (20, 20)],
            {},
            "range from 20x20 to 40x40 pixels .* takes 20x30, the first one's",
        ),
        ([(20, 30), (20, 30)], {"image_size": 24}, "are 20x30 pixels .* takes 24x24, --image-size"),
        ([(20, 30), (20, 30)], {"image_size": "20x30"}, None),
        ([(20, 30), (20, 30)], {"color": "L"}, None),
    ],
)
def test_images_of_other_sizes_than_the_students_are_said(
    sides: list[tuple[int, int]], options: dict[str, Any], said: str | None, tmp_path: Path, capsys: Any
) -> None:
    for number, (height, width) in enumerate(sides * 2):
        file = tmp_path / "data" / str(number % 2) / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (width, height), (number, 200, 0)).save(file)
    settings = TrainingSettings.of({"loss": "softmax", **options})
    unreadable = Unreadable(open_data(tmp_path / "data"), settings, np.ones(2 * len(sides), bool))
    found = _student_preprocessing(settings, unreadable)
    lines = capsys.readouterr().err.splitlines()
    assert found.size == (settings.image_size or sides[0])
    assert len(lines) == (said is not None)
    assert said is None or re.search(said, lines[0])
