"""The small world, made once a test run, and what is compared with ``recorded/``.

``python -m pytest tests/pinned --record`` records anew what the code gives now.
"""

import fcntl
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RECORDED = HERE / "recorded"
RTOL, ATOL = 5e-4, 2e-6  # kinds of CPU differ by less
_SHOWN = 40  # differences


def alone(module: str, *arguments: object) -> None:
    """Run a module of this folder in a process of its own, with one thread and no GPU."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", f"tests.pinned.{module}", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `tests.pinned.world`, made once however many workers there are. Not to be changed."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, done = shared / "pinned-world", shared / "pinned-world.done"
    with open(shared / "pinned-world.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            alone("world", folder)
            done.touch()
    assert done.exists(), "the world could not be made; another test says why"
    return folder


@pytest.fixture
def at_world(world: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, as the working directory."""
    monkeypatch.chdir(world)
    return world


@pytest.fixture
def recorded(request: pytest.FixtureRequest) -> Callable[[str, Any], None]:
    """Compare a JSON document, or a dictionary of printed texts, with the recorded one of that name."""

    def compare(name: str, now: Any) -> None:
        file = RECORDED / f"{name}.json"
        now = json.loads(json.dumps(rounded(now)))
        if request.config.getoption("record", default=False):
            file.write_text(written(now))
            return
        found = list(differences(json.loads(file.read_text()), now))
        more = [f"... and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
        assert not found, "\n".join([f"{file.name}, recorded -> now:", *found[:_SHOWN], *more])

    return compare


def written(value: Any) -> str:
    """A document as it is recorded: lists of numbers in one line."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    return re.sub(r'\[\n[^\[\]{}"]+\]', lambda found: " ".join(found[0].split()), text) + "\n"


def rounded(value: Any) -> Any:
    """A document with floats of 7 significant digits."""
    if isinstance(value, dict):
        return {str(k): rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v) for v in value]
    return float(f"{value:.7g}") if isinstance(value, float) else value


def differences(old: Any, new: Any, where: str = "") -> Iterator[str]:
    """Where two documents differ: keys, lengths and texts exactly, numbers within the tolerance."""
    if isinstance(old, dict) and isinstance(new, dict):
        yield from (f"{where}/{key}: only recorded" for key in old.keys() - new.keys())
        yield from (f"{where}/{key}: only now" for key in new.keys() - old.keys())
        for key in old.keys() & new.keys():
            yield from differences(old[key], new[key], f"{where}/{key}")
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, (a, b) in enumerate(zip(old, new, strict=True)):
            yield from differences(a, b, f"{where}/{i}")
    elif isinstance(old, str) and isinstance(new, str):
        if not same_text(old, new):
            yield f"{where}: {old!r} -> {new!r}"
    elif not same_number(old, new):
        yield f"{where}: {old!r} -> {new!r}"


def same_number(old: Any, new: Any) -> bool:
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (old, new))
    if numbers and float in (type(old), type(new)):
        return math.isclose(old, new, rel_tol=RTOL, abs_tol=ATOL)
    return type(old) is type(new) and old == new


_NUMBER = re.compile(r"(?<![\w.])([-+]?)(\d[\d,]*)(\.\d+)?(e[-+]?\d+)?(?![\w.]*\w)")


def same_text(old: str, new: str) -> bool:
    """Whether two texts say the same in the same form: of a fraction, the last digit may differ by one."""
    if old == new:
        return True
    if re.sub(_NUMBER, "#", old) != re.sub(_NUMBER, "#", new):
        return False
    return all(map(_alike, _NUMBER.finditer(old), _NUMBER.finditer(new)))


def _alike(old: re.Match[str], new: re.Match[str]) -> bool:
    if old[0] == new[0]:
        return True
    if old[3] is None or new[3] is None or len(old[3]) != len(new[3]) or (old[4] or "") != (new[4] or ""):
        return False
    a, b = (float(m[1] + m[2].replace(",", "") + m[3]) for m in (old, new))
    return abs(a - b) < 1.5 * 10 ** (1 - len(old[3])) or math.isclose(a, b, rel_tol=RTOL)


_VARYING = (
    (re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?(\+\d\d:\d\d)?"), "TIME"),
    (re.compile(r"\b[0-9a-f]{32,}\b"), "DIGEST"),
    (re.compile(r"\b[\d.,]+ (s|ms|min|bytes|[KMG]iB|[kMG]B)\b"), r"# \1"),
    (re.compile(r'("(?:\w+\.)?seconds": )[\d.]+'), r"\1#"),
    (re.compile(r"[\d.,]+ images/s"), "# images/s"),
    (re.compile(r"\b\d+ images of it in"), "# images of it in"),
    (re.compile(r"\boff by [\d.e-]+"), "off by #"),
    (re.compile(r"\b\d+ iterations\b"), "# iterations"),
    (
        re.compile(r"at most [-\d.e]+ above the best possible \([\d.]+%"),
        "at most # above the best possible (#%",
    ),
)


def masked(text: str, world: Path) -> str:
    """A text without what the machine decides: paths, times, sizes of files, digests, versions."""
    from kdbias.version import __version__

    text = text.replace(str(world), "WORLD").replace(__version__, "VERSION")
    for pattern, instead in _VARYING:
        text = pattern.sub(instead, text)
    return text
