"""Help is a tested artefact: each command explains itself, quickly, and the reference is what it says."""

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from kdbias.cli import COMMANDS, main
from kdbias.cli.common import StageCommand
from kdbias.cli.reference import render, stub
from kdbias.training.result import TrainingResult
from kdbias.version import __version__

ROOT = Path(__file__).parents[2]


def command_of(name: str) -> click.Command:
    found = main.get_command(click.Context(main, **main.context_settings), name)
    assert found is not None
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_command_explains_itself(name):
    command = command_of(name)
    assert isinstance(command, StageCommand)
    assert command.help
    examples = re.findall(rf"^\s+kdbias {name}\b.*$", command.help, re.MULTILINE)
    assert examples, f"kdbias {name} --help shows no example"
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help, f"kdbias {name} {option.opts[0]} has no help"


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_use_options_that_exist(name):
    command = command_of(name)
    known = {flag for option in command.params for flag in (*option.opts, *option.secondary_opts)}
    used = re.findall(
        r"(?<!\S)--?[a-z][\w-]*", "\n".join(re.findall(rf"kdbias {name}\b.*", command.help or ""))
    )
    assert not set(used) - known


@pytest.mark.parametrize("name", COMMANDS)
def test_command_is_in_the_documents(name):
    assert f"kdbias {name}" in (ROOT / "README.md").read_text()


def test_reference_is_up_to_date():
    assert (ROOT / "docs" / "commands.md").read_text() == render(), "run `make docs`"
    assert (ROOT / "kdbias" / "__init__.pyi").read_text() == stub(), "run `make docs`"


def test_what_editors_read_is_in_the_wheel():
    import tomllib

    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    shipped = {file.name for glob in setup["package-data"]["kdbias"] for file in (ROOT / "kdbias").glob(glob)}
    assert shipped == {"py.typed", "__init__.pyi"}


def test_type_checkers_know_the_options(tmp_path):
    """mypy takes the stub, and in a user's script tells a wrong type, an unknown option and a missing one."""
    script = tmp_path / "script.py"
    script.write_text(
        'import kdbias\nkdbias.train("data", "run", epochs=3, where=["split=train"], image_size="64")\n'
        'kdbias.train("data", "run", epochs="3")\nkdbias.train("data", "run", epoch=3)\n'
        'kdbias.train("data")\n'
    )
    options = ["--follow-imports=skip", "--config-file=", f"--cache-dir={tmp_path}", "--no-error-summary"]
    mypy = [sys.executable, "-m", "mypy", *options, "kdbias/__init__.pyi", str(script)]
    found = subprocess.run(mypy, cwd=ROOT, capture_output=True, text=True)
    errors = [line.partition("script.py:")[2] for line in found.stdout.splitlines() if "error:" in line]
    assert [error.partition(":")[0] for error in errors] == ["3", "4", "5"], found.stdout + found.stderr
    assert '"epochs" to "train" has incompatible type "str"; expected "int"' in errors[0]
    assert 'Unexpected keyword argument "epoch"' in errors[1]


@pytest.mark.parametrize("arguments", [["--help"], *[[name, "--help"] for name in COMMANDS]])
def test_help_imports_nothing_heavy(arguments):
    code = (
        "import sys; from kdbias.cli import main\n"
        f"try: main({arguments!r})\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'faiss', 'pandas', 'numpy', 'pyarrow', 'matplotlib', 'scipy'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_importing_kdbias_is_light():
    heavy = "{'torch', 'faiss', 'pandas', 'numpy'}"
    code = f"import sys, kdbias; dir(kdbias); sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_every_public_name_exists():
    import kdbias

    for name in kdbias.__all__:
        assert getattr(kdbias, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        kdbias.nonsense  # noqa: B018


def test_version_and_unknown_command():
    runner = CliRunner()
    assert runner.invoke(main, ["--version"]).output == f"kdbias {__version__}\n"
    result = runner.invoke(main, ["wieghts"])
    assert result.exit_code == 2
    assert "wieghts" in result.output


def test_options_are_the_librarys_parameters():
    import inspect
    from dataclasses import fields

    import kdbias
    from kdbias.training.settings import TrainingSettings

    own = {"as_json", "quiet", "debug", "help", "frontier"}
    for name in COMMANDS:
        options = {option.name for option in command_of(name).params} - own
        parameters = set(
            inspect.signature(getattr(kdbias, {"changes": "what_changed"}.get(name, name))).parameters
        )
        if name == "changes":
            options -= {"output"}
        if name == "advise":  # with --pilot it is followed by another function
            parameters |= set(inspect.signature(kdbias.pilot).parameters)
        if name == "study":  # with --init it is another function
            parameters |= set(inspect.signature(kdbias.new_study).parameters)
        if name == "train":
            parameters = parameters - {"options"} | {field.name for field in fields(TrainingSettings)}
        assert options == parameters, name


def test_no_module_hides_a_public_function():
    import pkgutil

    import kdbias

    assert not {module.name for module in pkgutil.iter_modules(kdbias.__path__)} & set(kdbias.__all__)


def test_every_weight_scheme_is_offered():
    from kdbias.weighting.schemes import SCHEMES

    offered = next(option for option in command_of("weights").params if option.name == "method")
    assert tuple(SCHEMES) == tuple(offered.type.choices)


@pytest.mark.parametrize("option", [[], ["--json"]])
def test_one_of_several_processes_prints_the_result_of_training(monkeypatch, option):
    result = TrainingResult(Path("run"), Path("run/student.pt"), 0.5, 1, 2, 3.0)
    monkeypatch.setattr("kdbias.train", lambda **parameters: result)
    monkeypatch.setenv("WORLD_SIZE", "2")
    printed = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        printed.append(CliRunner().invoke(main, ["train", "data", "-o", "run", *option]).stdout)
    assert "student.pt" in printed[0]
    assert printed[1] == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["a0", "a1", "--to", "b0", "b1", "--seed", "3"],
        ["--seed", "3", "a0", "a1", "--to=b0", "--to", "b1"],
        ["a0", "--to", "b0", "b1", "--seed", "3", "a1"],
    ],
)
def test_what_follows_to_is_what_is_compared_to(monkeypatch, arguments):
    taken = {}
    monkeypatch.setattr("kdbias.evaluation.compare", lambda **parameters: taken.update(parameters))
    result = CliRunner().invoke(main, ["compare", *arguments])
    assert result.exit_code == 0, result.output
    assert (taken["a"], taken["b"], taken["seed"]) == (("a0", "a1"), ("b0", "b1"), 3)
    assert "Missing argument 'A...'" in CliRunner().invoke(main, ["compare", "--to", "b0", "b1"]).output
