"""Tasks in worker processes: one that fails, however it does, leaves the others their turn."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from kdbias.studies.pool import Workers, _sigint_blocked


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


def test_no_task_is_begun_that_would_end_too_late_and_one_at_work_is_interrupted(tmp_path):
    touch = "import pathlib, time; pathlib.Path({!r}).touch(); time.sleep(0.2)"
    tasks = [(name, partial(exec, touch.format(str(tmp_path / name)), {})) for name in "abc"]
    until = time.monotonic() + 60
    with Workers(1, 1) as workers:
        assert workers.run("run", tasks, [1.0, 1000.0, 1.0], networks=False, until=until) == {}
        assert [path.name for path in tmp_path.iterdir()] == ["a"]
        wait = f"import pathlib, time; pathlib.Path({str(tmp_path / 'w')!r}).touch(); time.sleep(600)"
        begun = time.monotonic()
        tasks = [("wait", partial(exec, wait, {})), ("late", partial((tmp_path / "late").touch))]
        assert workers.run("run", tasks, [0.0, 0.0], networks=False, until=begun + 3) == {}
        assert time.monotonic() - begun < 60
        assert not (tmp_path / "late").exists()


def test_an_interrupt_ends_them_all(tmp_path):
    late: Path = tmp_path / "late"
    tasks = [("interrupt", partial(signal.raise_signal, signal.SIGINT)), ("late", late.touch)]
    with pytest.raises(KeyboardInterrupt), Workers(1, 1) as workers:
        workers.run("run", tasks, networks=False)
    assert not late.exists()


def test_an_interrupt_of_the_first_process_ends_its_workers(tmp_path):
    begun: Path = tmp_path / "begun"

    def interrupt():
        while not begun.exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    wait = f"import pathlib, time; pathlib.Path({str(begun)!r}).touch(); time.sleep(600)"
    threading.Thread(target=interrupt, daemon=True).start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), Workers(1, 1) as workers:
        workers.run("run", [("wait", partial(exec, wait, {}))], networks=False)
    (worker,) = workers._started
    worker.shutdown(wait=True)  # as the interpreter does at its end
    assert time.monotonic() - began < 300


def test_an_interrupt_ends_an_idle_worker_without_a_word(tmp_path, capfd):
    with Workers(1, 1) as workers:
        workers.run(
            "run", [("pid", partial(shutil.copy, "/proc/self/stat", tmp_path / "stat"))], networks=False
        )
        pid = int((tmp_path / "stat").read_text().split()[0])
        capfd.readouterr()
        os.kill(pid, signal.SIGINT)
        until = time.monotonic() + 30
        while Path(f"/proc/{pid}").exists() and time.monotonic() < until:
            time.sleep(0.05)
        assert not Path(f"/proc/{pid}").exists()
    assert capfd.readouterr().err == ""


def test_a_process_that_starts_holds_interrupts_until_it_is_ready():
    code = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))"
    with _sigint_blocked():
        started = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert started.stdout == "True\n"
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_a_script_that_its_processes_run_again_is_named(tmp_path):
    script = tmp_path / "mine.py"
    script.write_text(
        "from functools import partial\n"
        "from kdbias.studies.pool import Workers\n"
        "with Workers(1, 1) as workers:\n"
        "    print(workers.run('run', [('a', partial(int, '1'))], networks=False))\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert f"it ran {script} first; put its calls under if __name__ ==" in done.stdout
