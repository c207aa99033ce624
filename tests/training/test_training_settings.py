"""The options of a run: one declaration, read from TOML and keywords, refused by name where wrong."""

from pathlib import Path

import pytest

from kdbias.errors import KdbiasError
from kdbias.training.settings import TrainingSettings


def test_options_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('epochs = 3\nloss = "cosine"\nwhere = ["split=train"]\n')
    config = TrainingSettings.read(file, {"epochs": 5, "loss": None})
    assert (config.epochs, config.loss, config.where) == (5, "cosine", ("split=train",))
    assert config.batch_size == TrainingSettings().batch_size


def test_a_written_config_reads_back_the_same(tmp_path: Path) -> None:
    config = TrainingSettings(
        image_size="64x32", where=("a=b",), root='C:\\x"y', lr=0.3, weights="w #1.parquet"
    )
    config.write(tmp_path / "config.toml", "remark")
    assert TrainingSettings.read(tmp_path / "config.toml", {}) == config


def test_the_optimiser_decides_rates_that_are_not_given() -> None:
    assert TrainingSettings().rate == 0.1
    assert TrainingSettings(optimizer="adamw").rate == 0.002
    assert TrainingSettings(optimizer="adamw", lr=0.5).rate == 0.5


def test_the_identity_of_a_run_holds_neither_paths_nor_speed() -> None:
    one = TrainingSettings(device="cpu", workers=1, embeddings="a", weights="b").record()
    assert one == TrainingSettings(device="auto", workers=4, embeddings="c", weights="d").record()
    assert one != TrainingSettings(seed=1).record()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epoch": 3}, "unknown key epoch; did you mean 'epochs'.; known: .*epochs"),
        ({"lr": 0}, "lr is 0, should be above 0"),
        ({"epochs": 2.5}, "epochs is 2.5, should be a whole number"),
        ({"batch_size": True}, "batch_size is True"),
        ({"student": 7}, "student is 7, should be a text"),
        ({"deterministic": "no"}, "should be true or false"),
        ({"optimizer": "adam"}, "optimizer is 'adam', should be one of sgd, adamw"),
        ({"image_size": "12x"}, "should be N or HxW"),
        ({"image_size": [0, 4]}, "at least 1"),
        ({"image_size": 16_385}, "image_size is 16385x16385, both sides .* at most 16,384"),
        ({"image_size": True}, "image_size is True, should be N or HxW"),
        ({"image_size": [32, True]}, "image_size is .*True.*, should be N or HxW"),
        ({"image_size": [32.5, 32]}, "image_size is .*32.5.*, should be N or HxW"),
        ({"image_size": "8x8x8"}, "image_size is '8x8x8', should be N or HxW"),
        ({"seed": -1}, "seed is -1, should be at least 0"),
        ({"warmup": 50, "epochs": 1}, "warmup is 50 epochs and the run has 1, .* shorter warmup"),
        (
            {"milestones": [0.5, "a"], "schedule": "step"},
            "milestones is 'a', should be a number",
        ),
        ({"milestones": [30, 60], "schedule": "step"}, "milestones is 30, should be below 1"),
        ({"milestones": [0.5]}, r"milestones is \[0.5\], but schedule cosine has none: leave it out"),
        ({"sampling": "iid", "instances": 4}, "sampling is 'iid', but with instances"),
        ({"momentum": 0.8, "optimizer": "adamw"}, "momentum is 0.8, but adamw takes none"),
    ],
)
def test_wrong_options_are_refused_by_name(options: dict, words: str) -> None:
    with pytest.raises(KdbiasError, match=words):
        TrainingSettings.read(None, options)


def test_what_is_idle_but_as_by_default_is_no_choice() -> None:
    TrainingSettings(
        optimizer="adamw", momentum=0.9, sampling="systematic", instances=4, milestones=(0.5, 0.75, 0.9)
    )


def test_a_lone_condition_needs_no_list() -> None:
    assert TrainingSettings(where="split=train").where == ("split=train",)


def test_a_file_that_is_no_toml_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text("epochs: 3")
    with pytest.raises(KdbiasError, match="not a TOML file"):
        TrainingSettings.read(tmp_path / "x.toml", {})
    with pytest.raises(KdbiasError, match="no such file"):
        TrainingSettings.read(tmp_path / "y.toml", {})
