"""Each option with each kind of value that it cannot take, and where it would change nothing.

Status 2, one line that names the option or the value, and nothing written. The words may change.
"""

from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from kdbias.cli import COMMANDS, main
from tests.pinned.world import METHODS, TEACHER

WORKING = {
    "run": f"run {{w}}/data.parquet --teacher {TEACHER} --workers 0 --device cpu --pictures 0",
    "advise": "advise {w}/density",
    "embed": f"embed {{w}}/data.parquet --teacher {TEACHER} --workers 0 --device cpu",
    "uniformity": "uniformity {w}/emb --rectification none --device cpu",
    "suspects": "suspects {w}/density",
    "weights": "weights {w}/density",
    "changes": "changes {w}/weights/equilibrium.parquet",
    "train": "train {w}/data.parquet --embeddings {w}/emb --epochs 1 --workers 0 --device cpu",
    "evaluate": "evaluate {w}/emb",
    "compare": "compare {w}/score/knn --to {w}/score/knn-student",
    "report": "report {w}/density --pictures 0",
    "inspect": "inspect {w}/emb",
    "study": "study {w}/recipe.toml",
    "demo": "demo --quick",
}
"""A command line that works but for -o, or would but for its file (study)."""
MAY_BE_EMPTY = {"cluster_by"}


def option_of(command: str, name: str) -> click.Parameter:
    group = main.get_command(click.Context(main, **main.context_settings), command)
    assert group is not None
    return next(option for option in group.params if option.name == name)


def impossible(option: click.Parameter) -> Iterator[str]:
    """Values that the option's own type cannot mean."""
    kind = option.type
    if isinstance(kind, click.Choice):
        yield "nonsense"
    elif isinstance(kind, click.types.IntParamType | click.types.FloatParamType):
        yield from ("many", "nan")
        if isinstance(kind, click.types.IntParamType):
            yield "0.5"
        if getattr(kind, "min", None) is not None:
            yield str(kind.min - 1)
        if getattr(kind, "max", None) is not None:
            yield str(kind.max + 1)
    elif option.name not in MAY_BE_EMPTY and not option.multiple and option.nargs == 1:
        yield ""


def options() -> list[tuple[str, str]]:
    found = []
    for command in COMMANDS:
        described = main.get_command(click.Context(main, **main.context_settings), command)
        assert described is not None
        for option in described.params:
            if isinstance(option, click.Option) and not option.is_flag and option.name != "output":
                found.append((command, str(option.name)))
    return found


def refuse(world: Path, tmp_path: Path, command: str, *more: str, names: tuple[str, ...]) -> None:
    """The command with these arguments is refused as it should be."""
    out = tmp_path / ("out" if "--frontier" in command else "out.parquet")
    line = [*command.format(w=world).split(), *(m.format(w=world) for m in more)]
    if line[0] not in ("inspect", "advise") and not any(word in ("-o", "--output") for word in line):
        line += ["-o", str(out)]
    result = CliRunner().invoke(main, [*line, "-q"])
    assert isinstance(result.exception, SystemExit), (line, result.output, result.exception)
    assert result.exit_code == 2, (line, result.output)
    (error,) = [text for text in result.stderr.splitlines() if text.startswith("Error: ")]
    assert any(name and name in error for name in names), (line, error)
    assert not list(tmp_path.iterdir()), line


def spellings(name: str) -> tuple[str, ...]:
    return name.replace("_", "-"), name


@pytest.mark.parametrize(("command", "name"), options())
def test_impossible_values(world, tmp_path, monkeypatch, command, name):
    monkeypatch.chdir(world)
    option = option_of(command, name)
    for value in impossible(option):
        flag = max(option.opts, key=len)
        refuse(world, tmp_path, WORKING[command], f"{flag}={value}", names=(*spellings(name), flag, value))


@pytest.mark.parametrize("command", COMMANDS)
def test_unknown_options(world, tmp_path, command):
    for unknown in ("--no-such-option", "--no-such-option=3"):
        refuse(world, tmp_path, WORKING[command], unknown, names=("no-such-option",))


SWITCHES = ("quiet", "debug", "as_json", "overwrite", "flip", "plan", "frontier", "same_order", "dry_run")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_switch_takes_no_value(world, tmp_path, command):
    described = main.get_command(click.Context(main, **main.context_settings), command)
    assert described is not None
    for option in described.params:
        if option.name in SWITCHES and getattr(option, "is_flag", False) and not option.secondary_opts:
            flag = max(option.opts, key=len)
            refuse(world, tmp_path, WORKING[command], f"{flag}=1", names=(flag,))


# What texts and lists cannot mean, beside what tests/cli/test_option_limits.py holds of numbers.
NONSENSE = {
    ("embed", "teacher"): ("oracle:x", "precomputed:", "python:nowhere:factory", "python:", "run:nowhere"),
    ("embed", "device"): ("tpu", "cuda:99", "cuda:x"),
    ("embed", "where"): ("label", "label=nonsense", "shoe=1"),
    ("embed", "preprocessing"): ("nowhere.toml",),
    **{(c, n): ("shoe",) for c in ("embed",) for n in ("id_column", "label_column", "image_column")},
    ("uniformity", "t"): ("warm", "2,warm", "auto,2"),
    ("uniformity", "device"): ("tpu", "cuda:99"),
    ("uniformity", "memory"): ("much", "4XiB", "-4GiB"),
    ("uniformity", "group_by"): ("shoe",),
    ("uniformity", "weights"): ("nowhere.parquet", "{w}/data.parquet", "{w}/emb"),
    ("weights", "embeddings"): ("nowhere", "{w}/density", "{w}/emb-options"),
    ("weights", "memory"): ("much",),
    ("weights", "towards"): ("nowhere", "{w}/density", "{w}/emb", "balanced:", "balanced:shoe", "@w.parquet"),
    ("weights", "with_column"): ("shoe",),
    ("weights", "t"): ("warm", "2,warm", "auto", "0", "2,nan"),
    ("changes", "density"): ("nowhere", "{w}/emb"),
    ("changes", "group_by"): ("shoe",),
    ("train", "config"): ("nowhere.toml", "{w}/data.parquet"),
    ("train", "embeddings"): ("nowhere", "{w}/density"),
    ("train", "weights"): ("nowhere.parquet", "{w}/data.parquet", "{w}/emb"),
    ("train", "live_teacher"): ("oracle:x",),
    ("train", "where"): ("label", "label=nonsense", "shoe=1"),
    ("train", "student"): ("giant", "torchvision:nonsense"),
    ("train", "image_size"): ("wide", "12x12x12", "12x"),
    ("train", "loss"): ("hinge", "l2e+", "l2e+x*arcface", "0*l2e"),
    ("train", "milestones"): ("late", "0.5,late", "0.5,2"),
    ("train", "cache"): ("much",),
    ("train", "device"): ("tpu", "cuda:99"),
    **{("train", n): ("shoe",) for n in ("id_column", "label_column", "image_column")},
    ("evaluate", "where"): ("label", "label=nonsense", "shoe=1"),
    ("evaluate", "gallery_where"): ("label", "label=nonsense", "shoe=1"),
    ("evaluate", "group_by"): ("shoe",),
    ("evaluate", "cluster_by"): ("shoe",),
    **{("evaluate", n): ("nowhere", "{w}/density") for n in ("reference", "gallery")},
    ("evaluate", "tail_from"): ("nowhere",),
    ("evaluate", "data"): ("nowhere.parquet",),
    ("compare", "b"): ("nowhere", "{w}/emb", "{w}/score/linear"),
    ("demo", "device"): ("tpu", "cuda:99"),
}


@pytest.mark.parametrize(("command", "name"), NONSENSE)
def test_nonsense(world, tmp_path, monkeypatch, command, name):
    monkeypatch.chdir(world)
    flag = max(option_of(command, name).opts, key=len)
    for value in NONSENSE[command, name]:
        parts = [value.format(w=world), *value.split(","), *value.split("="), *value.split(":")]
        names = (*spellings(name), *(part for part in parts if part))
        refuse(world, tmp_path, WORKING[command], f"{flag}={value}", names=names)


OF_METHODS = {
    "--t=2": ("inverse-density", "equilibrium"),
    "--beta=0.9": ("effective-number",),
    "--exponent=2": ("knn-distance", "hard"),
    "--keep=0.5": ("cluster-balanced",),
    "--clusters=20,5": ("cluster-balanced",),
    "--seed=3": ("cluster-balanced",),
    "--cap=4": ("equilibrium",),
    "--tolerance=0.01": ("equilibrium",),
    "--max-seconds=9": ("equilibrium",),
    "--memory=64MiB": ("equilibrium",),
    "--near=0.9999": (),
    "--penalty=entropy": ("equilibrium",),
    "--towards=sphere": (),
    "--with=camera": (),
    "--stop=floor": (),
}


@pytest.mark.parametrize("method", METHODS)
def test_options_of_other_methods(world, tmp_path, method):
    for option, methods in OF_METHODS.items():
        if method not in methods:
            names = spellings(option.split("=")[0][2:].replace("-", "_"))
            refuse(world, tmp_path, f"weights {{w}}/density --method {method}", option, names=names)


OF_PROTOCOLS = {
    "--reference={w}/emb": ("knn", "fidelity"),
    "--gallery={w}/emb": ("knn", "linear", "reid"),
    "--gallery-where=split=train": ("knn", "linear", "reid"),
    "--k=3": ("knn",),
    "--tail-from={w}/density": ("knn", "linear"),
    "--density={w}/density": ("fidelity",),
    "--pairs={w}/pairs.csv": ("verification", "rfw", "ijbc"),
    "--folds=1,2": ("verification", "rfw"),
    "--style=exact": ("verification", "rfw"),
    "--flip-fusion=unit": ("verification", "rfw", "ijbc"),
    "--far=0.1": ("verification", "ijbc"),
    "--group-column=camera": ("rfw",),
    "--camera-column=camera": ("reid",),
    "--templates={w}/templates.txt": ("ijbc",),
    "--detector-scores={w}/points.txt": ("ijbc",),
    "--no-keep-norm": ("ijbc",),
    # of what embeds --data, without which these have nothing to do
    "--id-column=key": (),
    "--label-column=person": (),
    "--image-column=image": (),
    "--path-column=image": (),
    "--root=.": (),
    "--device=cpu": (),
    "--batch-size=8": (),
    "--precision=fp32": (),
    "--workers=0": (),
    "--flip": (),
}
NEEDED = {
    "fidelity": "--reference {w}/emb",
    "linear": "--where split=test --gallery {w}/emb",
    "verification": "--pairs {w}/pairs.csv",
    "rfw": "--pairs {w}/pairs.csv --group-column camera",
    "ijbc": "--pairs {w}/template_pairs.txt",
    "reid": "--where split=test --gallery-where split=train",
}


@pytest.mark.parametrize("protocol", ["knn", *NEEDED])
def test_options_of_other_protocols(world, tmp_path, protocol):
    command = f"evaluate {{w}}/emb --protocol {protocol} {NEEDED.get(protocol, '')}"
    for option, protocols in OF_PROTOCOLS.items():
        if protocol not in protocols:
            name = option.split("=")[0].removeprefix("--").removeprefix("no-")
            refuse(world, tmp_path, command, option, names=spellings(name.replace("-", "_")))


IDLE = {
    "embed {w}/data.parquet --teacher precomputed:{w}/vectors.npy --same-order": (
        *("--flip", "--precision=bf16", "--channels-last", "--compile"),
        "--preprocessing={w}/preprocessing.toml",
    ),
    WORKING["embed"]: (
        *("--channels-last", "--compile", "--preprocessing={w}/preprocessing.toml"),
        "--precision=bf16",
    ),
    WORKING["uniformity"]: ("--exponent=3", "--precision=bf16"),
    "weights {w}/density --frontier": (
        *("--method=hard", "--min-ess=0.5", "--temper=0.5", "--clip=3", "--cap=4", "--mix=0.1"),
        *("--collapse=none", "--near=0.99", "--beta=0.9", "--exponent=2", "--keep=0.5"),
        *("--clusters=20,5", "--max-seconds=9", "--penalty=entropy", "--stop=floor"),
    ),
    WORKING["train"]: (
        *("--scale=32", "--margin=0.3", "--milestones=0.5", "--flip=target", "--resume"),
        "--live-teacher=" + TEACHER,
    ),
    WORKING["train"] + " --optimizer adamw": ("--momentum=0.5",),
    WORKING["train"] + " --instances 2": ("--sampling=iid",),
    WORKING["train"] + " --loss cosface": ("--scale=0",),
}


@pytest.mark.parametrize("command", IDLE)
def test_options_without_effect(world, tmp_path, command):
    for option in IDLE[command]:
        name = option.split("=")[0].removeprefix("--").removeprefix("no-")
        value = option.partition("=")[2]
        refuse(world, tmp_path, command, option, names=(*spellings(name.replace("-", "_")), value))


@pytest.mark.parametrize("text", ["epocs = 3", "epochs = 'two'", "epochs = true", "lr = nan", "loss = 3"])
def test_keys_of_a_configuration(world, tmp_path, tmp_path_factory, text):
    file = tmp_path_factory.mktemp("recipe") / "recipe.toml"
    file.write_text(text + "\n")
    key = text.split()[0]
    refuse(world, tmp_path, WORKING["train"].replace(" --epochs 1", ""), f"--config={file}", names=(key,))
