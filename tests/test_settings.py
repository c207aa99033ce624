"""Options that are declared once: their checks, files, records, signatures and click options."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

from kdbias.cli.options import given, settings_options
from kdbias.errors import KdbiasError
from kdbias.functions import takes_settings
from kdbias.nested_settings import Named, keys, table, tables
from kdbias.settings import Branching, Settings, option


def even(value: object) -> int:
    number = int(str(value))
    if number % 2:
        raise ValueError(f"is {value!r}, should be even")
    return number


@dataclass(frozen=True, kw_only=True)
class Bread(Settings):
    name = "bake"

    flour: str = option(text="what it is made of", path=True)
    loaves: int = option(1, "how many", least=1, most=100)
    heat: float | None = option(None, "degrees", above=0, shown="the flour's own")
    crust: str = option("thick", "how hard", choices=("thick", "thin"))
    seeds: tuple[str, ...] = option((), "what is strewn on it; repeatable", metavar="SEED")
    cuts: tuple[float, ...] = option((0.5,), "where it is cut", above=0, below=1)
    pairs: int = option(2, "an even number", parse=even)
    oven: int = option(1, "which oven", least=0, operational=True, flag="--in")
    sliced: bool = option(False, "cut it up")
    fresh: bool = option(True, "bake it today")

    def check(self) -> None:
        self.refuse_idle({"cuts": "it is not sliced"} if not self.sliced else {})


@dataclass(frozen=True, kw_only=True)
class Rye(Settings):
    name = "rye"
    sour: float = option(0.5, "share of sourdough", least=0, most=1)
    water: int | None = option(None, "litres", least=1)


@dataclass(frozen=True, kw_only=True)
class Wheat(Settings):
    name = "wheat"
    water: int | None = option(None, "litres", least=1)


@dataclass(frozen=True, kw_only=True)
class Kinds(Branching):
    name = "bake"
    chooser = "kind"
    kind: str = option("wheat", "which grain")
    loaves: int = option(1, "how many", least=1)

    @classmethod
    def branches(cls) -> Mapping[str, type[Settings]]:
        return {"rye": Rye, "wheat": Wheat}


@dataclass(frozen=True, kw_only=True)
class Shelf(Named):
    loaves: int = option(text="how many", least=1)


@dataclass(frozen=True, kw_only=True)
class Shop(Settings):
    name = "shop"
    shelves: Mapping[str, Shelf] = tables(Shelf, "where bread lies")
    oven: Bread | None = table(Bread, "what is baked")  # noqa: RUF009
    till: Mapping[str, object] = keys("another's options")


def test_what_is_not_given_is_the_default_and_what_is_given_is_of_the_field_s_type() -> None:
    found = Bread.of(
        {"flour": Path("a/b"), "loaves": np.int64(3), "seeds": "poppy", "cuts": [0.25], "sliced": True}
    )
    assert found == Bread(flour="a/b", loaves=3, seeds=("poppy",), cuts=(0.25,), sliced=True)
    assert type(found.loaves) is int
    assert Bread.of({"flour": "x", "loaves": None}) == Bread(flour="x")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"loaves": 0}, "bake: loaves is 0, should be at least 1"),
        ({"loaves": 101}, "loaves is 101, should be at most 100"),
        ({"loaves": 2.5}, "loaves is 2.5, should be a whole number"),
        ({"loaves": True}, "loaves is True, should be a whole number"),
        ({"heat": 0}, "heat is 0, should be above 0"),
        ({"heat": float("nan")}, "heat is nan, should be finite"),
        ({"heat": "hot"}, "heat is 'hot', should be a number"),
        ({"crust": "thik"}, "crust is 'thik', should be one of thick, thin; did you mean 'thick'"),
        ({"cuts": [0.5, 1], "sliced": True}, "cuts is 1, should be below 1"),
        ({"cuts": [0.25]}, r"cuts is \[0.25\], but it is not sliced: leave it out"),
        ({"seeds": [1]}, "seeds is 1, should be a text"),
        ({"sliced": "yes"}, "sliced is 'yes', should be true or false"),
        ({"pairs": 3}, "pairs is 3, should be even"),
        ({"loafs": 3}, "bake: unknown key loafs; did you mean 'loaves'.*; known: flour, loaves"),
        ({"flour": None}, "bake: flour is missing"),
    ],
)
def test_what_is_wrong_is_refused_by_name(wrong: dict, words: str) -> None:
    with pytest.raises(KdbiasError, match=words):
        Bread.of({"flour": "x"} | wrong)


def test_a_file_s_keys_give_way_to_options_and_what_is_written_reads_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("flour = 'rye'\nloaves = 3\nseeds = ['poppy']\n")
    found = Bread.read(tmp_path / "a.toml", {"loaves": 5, "heat": None, "seeds": ()})
    assert (found.flour, found.loaves, found.seeds) == ("rye", 5, ("poppy",))
    found.write(tmp_path / "b.toml", "as it was")
    assert Bread.read(tmp_path / "b.toml", {}) == found
    assert (tmp_path / "b.toml").read_text().startswith("# as it was\n")
    (tmp_path / "c.toml").write_text("loafs = 3\n")
    with pytest.raises(KdbiasError, match=r"c.toml: unknown key loafs"):
        Bread.read(tmp_path / "c.toml", {"flour": "x"})


def test_a_record_holds_neither_paths_nor_what_only_changes_the_speed() -> None:
    record = Bread(flour="x", oven=7).record()
    assert not {"flour", "oven"} & set(record)
    assert record["cuts"] == [0.5]


def test_what_a_record_lacks_stands_for_the_default_or_what_that_decides() -> None:
    assert Bread.usual()["cuts"] == [0.5]
    assert not {"flour", "oven"} & set(Bread.usual())
    asked = Kinds.of({"kind": "rye", "loaves": 3})
    config = asked.record() | {"water": 7, "more": {"sour": 1.0, "loaves": 3, "unknown": 1}}
    told = {"kind": "wheat", "loaves": 1, "sour": 0.5, "water": 7}  # the water was decided
    assert asked.defaults(config) == told | {"more": {"sour": 1.0, "loaves": 1, "unknown": None}}


def test_one_option_brings_others() -> None:
    assert Kinds.of({"kind": "rye", "sour": 0.25}).chosen == Rye(sour=0.25)
    assert Kinds.of({"water": 2}).record() == {"kind": "wheat", "loaves": 1, "water": 2}
    with pytest.raises(KdbiasError, match=r"kind wheat has no option sour \(it has: water\); leave it out"):
        Kinds.of({"sour": 0.25})
    with pytest.raises(KdbiasError, match="unknown kind 'rey'; choose one of rye, wheat; did you mean 'rye'"):
        Kinds.of({"kind": "rey"})
    with pytest.raises(KdbiasError, match="rye: sour is 2, should be at most 1"):
        Kinds.of({"kind": "rye", "sour": 2})
    texts = {declared.name: declared.text for declared in Kinds.declared()}
    assert texts["water"] == "litres (rye, wheat)"
    assert texts["sour"] == "share of sourdough [0.5] (rye)"


def test_tables_of_a_file_are_settings_of_their_own_that_say_where_they_stand() -> None:
    found = Shop.of({"shelves": {"top": {"loaves": 3}, "b": {"loaves": 3}}, "till": {"x": [1]}}, "a.toml")
    assert found.shelves == {"top": Shelf(name="top", loaves=3), "b": Shelf(name="b", loaves=3)}
    assert found.shelves["top"] != found.shelves["b"]
    assert (found.oven, found.till) == (None, {"x": [1]})
    assert Shop.of({"oven": {"flour": "x"}}).oven == Bread(flour="x")
    assert Shop().shelves == {} != Shop(shelves=found.shelves).shelves


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"shelves": 3}, "a.toml: shelves is 3, should be a table"),
        ({"shelves": {"top": 3}}, "a.toml: shelves.top is 3, should be a table"),
        ({"shelves": {"a/b": {}}}, "a.toml: shelves: 'a/b' is no name"),
        ({"shelves": {"top": {}}}, "a.toml: shelves.top: loaves is missing"),
        ({"shelves": {"top": {"loaves": 0}}}, "a.toml: shelves.top: loaves is 0, should be at least 1"),
        ({"shelves": {"top": {"loaves": 1, "name": "x"}}}, "shelves.top: unknown key name; known: loaves"),
        ({"oven": {"flour": "x", "crust": 1}}, "a.toml: oven: crust is 1, should be one of thick, thin"),
        ({"till": []}, r"a.toml: till is \[\], should be a table"),
        ({"shelfs": {}}, "a.toml: unknown key shelfs; did you mean 'shelves'"),
    ],
)
def test_what_is_wrong_in_a_table_is_refused_with_its_place(wrong: dict, words: str) -> None:
    with pytest.raises(KdbiasError, match=words):
        Shop.of(wrong, "a.toml")


def test_a_function_shows_its_options_in_signature_and_docstring() -> None:
    @takes_settings(Bread, file="recipe")
    def bake(to: str, *, again: bool = False, settings: Bread) -> tuple[str, bool, Bread]:
        """Bake.

        Args:
            to: where it goes.

        Raises:
            KdbiasError: burnt.
        """
        return to, again, settings

    parameters = inspect.signature(bake).parameters
    assert list(parameters)[:4] == ["to", "again", "recipe", "flour"]
    assert parameters["flour"].default is inspect.Parameter.empty
    assert parameters["heat"].annotation == "float | None"
    assert parameters["flour"].annotation == "str | os.PathLike[str]"
    assert parameters["seeds"].annotation == "Sequence[str]"
    assert all(p.kind is p.KEYWORD_ONLY for p in list(parameters.values())[1:])
    document = inspect.getdoc(bake) or ""
    assert (
        document.index("to: where")
        < document.index("heat: degrees [the flour's own].")
        < document.index("Raises:")
    )
    assert bake("table", flour="x", loaves=2) == ("table", False, Bread(flour="x", loaves=2))
    assert bake(to="table", again=True, flour="x")[:2] == ("table", True)
    with pytest.raises(TypeError, match="to"):
        bake(flour="x")


def test_a_command_s_options_follow_from_the_fields() -> None:
    @click.command()
    @settings_options(Bread)
    def bake(**parameters: object) -> None:
        click.echo(repr(Bread.of(given(parameters))))

    def run(*arguments: str) -> str:
        return CliRunner().invoke(bake, ["--flour", "x", *arguments]).output

    assert run() == f"{Bread(flour='x')!r}\n"
    more = (
        "--loaves",
        "3",
        "--seeds",
        "a",
        "--seeds",
        "b",
        "--sliced",
        "--cuts",
        "0.1,0.2",
        "--no-fresh",
        "--pairs",
        "4",
    )
    expected = Bread(
        flour="x", loaves=3, seeds=("a", "b"), sliced=True, cuts=(0.1, 0.2), fresh=False, pairs=4
    )
    assert run(*more) == f"{expected!r}\n"
    assert run("--in", "2") == f"{Bread(flour='x', oven=2)!r}\n"
    assert "No such option '--oven'" in run("--oven", "2")
    assert "'thik' is not one of 'thick', 'thin'" in run("--crust", "thik")
    assert "is not a list of numbers" in run("--cuts", "a,b", "--sliced")
    shown = " ".join(run("--help").split())
    assert "--flour PATH What it is made of. [required]" in shown
    assert "--heat FLOAT Degrees [the flour's own]." in shown
    assert "--crust [thick|thin] How hard [thick]." in shown
