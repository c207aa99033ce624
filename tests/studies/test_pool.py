"""Tasks in worker processes: one that fails, however it does, leaves the others their turn."""

import os
import signal
from functools import partial
from pathlib import Path

import pytest

from kdbias.studies.pool import Workers


@pytest.mark.parametrize("count", [1, 2])
def test_a_task_that_fails_leaves_the_others_their_turn(tmp_path, count):
    tasks = [
        ("crash", partial(int, "a number")),
        ("silent", partial(next, iter(()))),
        ("dead", partial(os._exit, 1)),
        *((name, partial((tmp_path / name).write_text, name)) for name in "abc"),
    ]
    with Workers(count, 1) as workers:
        failed = workers.run("run", tasks, networks=False)
        assert failed == {
            "crash": "ValueError: invalid literal for int() with base 10: 'a number'",
            "silent": "StopIteration",
            "dead": "its process died; was it out of memory?",
        }
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]
        again = [("d", partial((tmp_path / "d").write_text, "d"))]
        assert workers.run("run", again, networks=False) == {}


def test_an_interrupt_ends_them_all(tmp_path):
    late: Path = tmp_path / "late"
    tasks = [("interrupt", partial(signal.raise_signal, signal.SIGINT)), ("late", late.touch)]
    with pytest.raises(KeyboardInterrupt), Workers(1, 1) as workers:
        workers.run("run", tasks, networks=False)
    assert not late.exists()
