"""Units as tasks of a Ray cluster: nothing of Ray but tasks, no state but files.

A task is given to whatever node has room; one that is lost with its worker or node is given out again. No
actor holds anything: a fixed pool of them would wait for ever for a node that does not come back.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from kdbias import scratch
from kdbias.engine.here import Here
from kdbias.errors import ConfigChangedError, KdbiasError, MachineError, first_line
from kdbias.optional import require
from kdbias.progress import quiet, say
from kdbias.version import __version__
from kdbias.wording import counted

_LOOK = 5.0  # seconds between looks at the cluster while no unit ends
_PATIENCE = 600.0  # seconds that units wait for a node that could hold them
_ANSWER = 10.0  # seconds within which a head is to answer
_AHEAD = 2  # units given out for each that can run


class RayTasks(Here):
    """An engine that is a Ray cluster, joined or, where none is known, started on this machine.

    Args:
        address: of its head; by default RAY_ADDRESS, else a cluster that runs on this machine.
        retries: times that a unit may be lost.
        cpus, gpus, memory: what a unit is given; bytes, 0 for no claim.

    Raises:
        KdbiasError: Ray is not installed, the cluster not reached, or no node of it holds a unit.
    """

    remote = True

    def __init__(self, address: str | None, retries: int, cpus: int, gpus: float, memory: int) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        self._ray = require("ray", extra="ray")
        self._retries, self._ours = retries, not self._ray.is_initialized()
        self.unit_cpus = cpus
        if self._ours:
            self._join(address)
        wanted = {"CPU": float(cpus), "GPU": gpus, "memory": float(memory)}
        self._wanted = {name: amount for name, amount in wanted.items() if amount}
        options = {"num_cpus": cpus, "num_gpus": gpus, "max_retries": 0, "max_calls": 0}
        options |= {"memory": memory} if memory else {}
        # Not the default for GPUs, which ends the process after a task: it keeps what was dear to open.
        self._task = self._ray.remote(**options)(_unit)
        try:
            self._require_room()
        except BaseException:
            self.__exit__()
            raise

    def _join(self, address: str | None) -> None:
        quietly = {"log_to_driver": False, "logging_level": logging.ERROR}
        where = address or os.environ.get("RAY_ADDRESS")
        if where is not None:
            _require_head(where)
        try:
            self._ray.init(address=address or "auto", **quietly)
        except ConnectionError as error:
            if where is not None:
                raise KdbiasError(
                    f"--engine ray: what answers at {where} does not let this process in "
                    f"({first_line(error)}): it is no head of Ray, has another version of it, or asks for a "
                    "token (export RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH as where the head was started)"
                ) from None
            say("--engine ray: none runs here and RAY_ADDRESS names none; one is started on this machine")
            self._ray.init(include_dashboard=False, **quietly)

    def __exit__(self, *error: object) -> None:
        if self._ours:
            self._ray.shutdown()

    @property
    def slots(self) -> int:
        """How many units the nodes that are there now can hold."""
        return sum(map(self._holds, self._nodes()))

    def map(self, work: Callable[[Iterable[Any]], Iterator[Any]], items: Sequence[Any]) -> Iterator[Any]:
        """The results, as they come."""
        waiting, lost = list(reversed(items)), Counter[Any]()
        flying: dict[Any, Any] = {}
        hopeless_since, slots = None, self.slots
        try:
            while waiting or flying:
                while waiting and len(flying) < _AHEAD * max(1, slots):
                    item = waiting.pop()
                    flying[self._task.remote(work, item, *_surroundings())] = item
                ready, _ = self._ray.wait(list(flying), timeout=_LOOK)
                for task in ready:
                    item = flying.pop(task)
                    kind, found = self._outcome(task)
                    if kind == "done":
                        yield from found
                    elif kind == "lost":
                        self._count(item, found, lost)
                        waiting.append(item)
                    else:
                        raise (MachineError if kind == "failed" else KdbiasError)(found)
                slots = self.slots
                hopeless_since = None if slots or ready else hopeless_since or time.monotonic()
                if hopeless_since and time.monotonic() - hopeless_since > _PATIENCE:
                    self._require_room(MachineError)
        finally:
            self._cancel(flying)

    def _outcome(self, task: Any) -> tuple[str, Any]:
        """What `_unit` gave, or ("lost", why); raises what it did not foresee."""
        try:
            return self._ray.get(task)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except self._ray.exceptions.RayError as error:
            return "lost", first_line(error)

    def _count(self, item: Any, reason: str, lost: Counter[Any]) -> None:
        """One more loss of a unit; raises MachineError after too many."""
        lost[item] += 1
        if lost[item] > self._retries:
            raise MachineError(
                f"unit {item} was lost {counted(lost[item], 'time')}, more than --retries {self._retries} "
                f"allows ({reason}); what is done is kept: run the same command again"
            )
        say(f"unit {item} was lost ({reason}); it is done again")

    def _cancel(self, flying: Iterable[Any]) -> None:
        for task in flying:
            self._ray.cancel(task, force=True)

    def _nodes(self) -> list[dict[str, float]]:
        """The resources of each node that is alive."""
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]

    def _holds(self, node: dict[str, float]) -> int:
        """How many units a node can hold."""
        return int(min(node.get(name, 0.0) / amount for name, amount in self._wanted.items()))

    def _require_room(self, kind: type[KdbiasError] = KdbiasError) -> None:
        """Refuse units that no node could hold, with what the nodes have."""
        nodes = self._nodes()
        if any(map(self._holds, nodes)):
            return
        most = {name: max((node.get(name, 0.0) for node in nodes), default=0.0) for name in self._wanted}
        spelled = ", ".join(
            f"{_amount(name, most[name])} of {_amount(name, amount)}" for name, amount in self._wanted.items()
        )
        raise kind(
            f"--engine ray: no node of the cluster can hold a unit ({counted(len(nodes), 'node')}; at most "
            f"{spelled} that it needs); give it other --unit-cpus, --unit-gpus or --memory"
        )


def _require_head(where: str) -> None:
    """Refuse an address at which nothing answers: Ray itself would try for minutes.

    Args:
        where: HOST:PORT; another word of RAY_ADDRESS, such as ``auto``, is left to Ray.
    """
    host, colon, port = where.rpartition(":")
    if not colon:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER).close()
    except (OSError, ValueError) as error:
        raise KdbiasError(
            f"--engine ray: nothing answers at {where} ({first_line(error)}); name the head as HOST:PORT, "
            "such as ray:10.0.0.1:6379"
        ) from None


def _amount(name: str, value: float) -> str:
    return f"{value / 2**30:.3g} GiB" if name == "memory" else f"{value:g} {name}"


def _surroundings() -> tuple[str, str, str | None]:
    """What a unit shares with the driver: the current folder, the version, the scratch folder."""
    return os.getcwd(), __version__, os.environ.get(scratch.VARIABLE)


def _unit(
    work: Callable[[Iterable[Any]], Iterator[Any]], item: Any, folder: str, version: str, shared: str | None
) -> tuple[str, Any]:
    """In a worker: ("done", results), or ("refused", "failed" or "lost", why)."""
    host = socket.gethostname()
    if shared is not None:  # what is written there goes to its store
        os.environ[scratch.VARIABLE] = shared
    if version != __version__:
        return "refused", f"node {host} has kdbias {__version__}, the driver {version}; install the same"
    try:
        if Path.cwd() != Path(folder):
            os.chdir(folder)  # so that relative paths mean what they mean to the driver
    except OSError as error:
        return "refused", f"node {host} does not see {folder} ({error.strerror}); units need a shared folder"
    try:
        with quiet():
            return "done", list(work([item]))
    except MemoryError:
        return "lost", f"out of memory on node {host}"
    except MachineError as error:
        return "failed", f"{error} (node {host})"
    except ConfigChangedError as error:
        return "refused", f"node {host} sees something else than the driver: {error}"
    except KdbiasError as error:
        return "refused", str(error)
    except OSError as error:
        seen = "; do all nodes see that folder?" if isinstance(error, FileNotFoundError) else ""
        return "failed", f"{error.strerror or first_line(error)} ({error.filename}, node {host}){seen}"
