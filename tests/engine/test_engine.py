"""Which engine runs, and what units of several processes come to."""

import subprocess
import sys
import threading

import pytest

from kdbias.engine import ranks
from kdbias.engine.opening import open_engine
from kdbias.engine.settings import Engines, parse_engine
from kdbias.errors import KdbiasError

LAUNCHERS = ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS")


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch) -> None:
    for name in LAUNCHERS:
        monkeypatch.delenv(name, raising=False)


def given(monkeypatch, text: str) -> None:
    for name, value in (pair.split("=") for pair in text.split()):
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("engine", "environment", "expected"),
    [
        (None, "", ("Here", 0, 1)),
        (None, "RANK=1 WORLD_SIZE=3", ("Ranks", 1, 3)),
        ("here", "RANK=1 WORLD_SIZE=3", ("Here", 0, 1)),
        ("ranks", "RANK=1 WORLD_SIZE=3", ("Ranks", 1, 3)),
        ("ranks", "SLURM_PROCID=2 SLURM_NTASKS=4", ("Ranks", 2, 4)),
        ("ranks", "RANK=1 WORLD_SIZE=3 SLURM_PROCID=2 SLURM_NTASKS=4", ("Ranks", 1, 3)),
        (None, "SLURM_PROCID=0 SLURM_NTASKS=4", ("Here", 0, 1)),  # a shell within a job is not one of four
    ],
)
def test_which_engine_runs(monkeypatch, engine, environment, expected) -> None:
    given(monkeypatch, environment)
    with open_engine(Engines(engine=engine)) as found:
        assert (type(found).__name__, found.rank, found.world) == expected


@pytest.mark.parametrize("environment", ["", "SLURM_PROCID=4 SLURM_NTASKS=4", "SLURM_PROCID=0"])
def test_ranks_that_no_launcher_started_are_refused(monkeypatch, environment) -> None:
    given(monkeypatch, environment)
    with pytest.raises(KdbiasError, match=r"--engine ranks: neither RANK .* srun"):
        open_engine(Engines(engine="ranks"))


@pytest.mark.parametrize("text", ["", "slurm", "ray:", "here:1", "rays", "ranks:2"])
def test_an_engine_that_is_none_is_refused(text) -> None:
    with pytest.raises(KdbiasError, match="is not one of here, ranks, ray or ray:ADDRESS"):
        parse_engine(text)


@pytest.mark.parametrize("option", [{"retries": 2}, {"unit_cpus": 4}, {"unit_gpus": 0.5}])
def test_an_option_of_ray_is_refused_elsewhere(option) -> None:
    with pytest.raises(KdbiasError, match="that is an option of --engine ray: leave it out"):
        Engines(**option)
    assert Engines(engine="ray:10.0.0.1:6379", **option).engine_kind == "ray"


def test_two_ranks_share_units_and_do_those_of_one_that_never_came(monkeypatch) -> None:
    monkeypatch.setattr(ranks, "_STALE", 0.4)
    monkeypatch.setattr(ranks, "_LOOK", 0.01)
    made: dict[int, list[int]] = {}

    def work(items):
        for item in items:
            made.setdefault(item, []).append(int(threading.current_thread().name))
            yield item

    def process(rank: int, world: int, engine: ranks.Ranks) -> None:
        engine.rank, engine.world = rank, world
        list(engine.settle(work, list(range(10)), made.__contains__))

    given(monkeypatch, "RANK=0 WORLD_SIZE=2")
    for world in (2, 3):  # of three the last is never started
        made.clear()
        alive = [
            threading.Thread(target=process, args=(rank, world, ranks.Ranks()), name=str(rank))
            for rank in range(2)
        ]
        for thread in alive:
            thread.start()
        for thread in alive:
            thread.join(60)
        assert sorted(made) == list(range(10))
        for item, by in made.items():
            owner = item % world
            assert by == [owner] if owner < 2 else set(by) <= {0, 1}


def test_nothing_imports_ray_unasked() -> None:
    code = (
        "import sys, kdbias, kdbias.cli\n"
        "import kdbias.embedding.stage, kdbias.measurement.stage, kdbias.engine.opening\n"
        "assert 'ray' not in sys.modules, 'ray'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_units_of_a_dead_process_are_done_one_after_another_once_it_is_given_up(monkeypatch) -> None:
    given(monkeypatch, "RANK=0 WORLD_SIZE=2")
    now, made = [0.0], list[int]()
    monkeypatch.setattr(ranks.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(ranks.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))

    def work(items):
        for item in items:
            made.append(item)
            yield item

    list(ranks.Ranks().settle(work, list(range(40)), made.__contains__))
    assert sorted(made) == list(range(40))
    assert 60 < now[0] < 70  # one minute of waiting, not one for each unit


@pytest.mark.parametrize("alone", ["RANK=0", "WORLD_SIZE=2"])
def test_half_of_what_a_launcher_says_is_refused(monkeypatch, alone) -> None:
    given(monkeypatch, alone)
    with pytest.raises(KdbiasError, match=f"{alone[:4]}.* is set, but .* is not; set both"):
        ranks.Ranks(explicit=True)


@pytest.mark.parametrize("where", ["127.0.0.1:1", "//127.0.0.1:1", "127.0.0.1:many"])
def test_an_address_where_nothing_answers_is_refused_at_once(where) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    with pytest.raises(KdbiasError, match=f"nothing answers at {where} .*name the head as HOST:PORT"):
        open_engine(Engines(engine=f"ray:{where}"))
