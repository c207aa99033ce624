"""Weights into a network: every tensor of a file has its place, or the file is refused.

A checkpoint holds the weights in some nesting of dictionaries, under names with some prefix; where, follows
from the network's own names. What may find no place, and is said: a classifier and what else only training
needs (a loss, a projector), known by its name right beside the network or on top of it, other copies of the
network, and tensors beside the whole dictionary in which it stands. What needs no word: optimisers, single
numbers and whole numbers (accuracies, counters, indices, states of random numbers) and buffers that the
network computes by itself, where they are equal. `num_batches_tracked` may be missing: only training reads
it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from kdbias import progress
from kdbias.errors import KdbiasError
from kdbias.networks.plain_values import NumpyArray

# Names that wrappers put in the middle of others; no network has them of its own.
_WRAPPED = re.compile(r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# Words of names: of averages of weights, which are what is meant to be used; of any copy beside another; of
# linear layers on top; of what else only training needs.
_AVERAGES = {"ema", "swa", "teacher"}
_COPIES = _AVERAGES | {"student", "online", "target", "momentum"}
_CLASSIFIERS = {"fc", "classifier", "classification", "head", "heads", "linear", "logits", "cls", "arcface"}
_TRAINING = {"loss", "criterion", "margin", "projector", "projection", "predictor"}
_TRAINING |= {"prototypes", "queue", "center"}

Names = tuple[str, ...]
State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class StateFile:
    """The (nested) dictionaries of tensors of a file.

    Attributes:
        name: the file, for messages.
        content: what it holds.
        chosen: a part of the names under which the weights stand, where its user named one (FILE#CHOSEN).
    """

    name: str
    content: Mapping[Any, Any]
    chosen: str | None = None


@dataclass(frozen=True)
class Place:
    """Where a network's weights stand: under the keys `path`, and there under names that begin with `prefix`.

    `state` holds what stands there, without the prefix; more than the network's own tensors, it may be.
    """

    path: Names
    prefix: str
    state: State

    def __str__(self) -> str:
        return " ".join([*(f"[{key}]" for key in self.path), self.prefix]).strip() or "the top"

    def holds(self, path: Names, key: str) -> bool:
        """Whether a tensor of the file belongs to this place."""
        return path == self.path and key.startswith(self.prefix)


def tensors(file: StateFile) -> dict[Names, State]:
    """The tensors of a file by the keys of the dictionary that holds them; optimisers are passed over.

    Raises:
        KdbiasError: there are none.
    """
    found, seen = dict[Names, State](), set[int]()
    waiting: list[tuple[Names, Mapping[Any, Any]]] = [((), file.content)]
    while waiting:
        path, level = waiting.pop(0)
        if id(level) in seen or "param_groups" in level:
            continue
        seen.add(id(level))
        named = dict[str, Any]()
        for key, value in level.items():
            if isinstance(key, str):
                plain = _WRAPPED.sub("", key)
                named[key if plain in named else plain] = value
        state = {key: tensor for key, value in named.items() if (tensor := _tensor(value)) is not None}
        if state:
            found[path] = state
        waiting += [((*path, key), value) for key, value in named.items() if isinstance(value, Mapping)]
    if not found:
        keys = ", ".join(str(key) for key in list(file.content)[:6])
        raise KdbiasError(f"{file.name} holds no tensors; its keys are {keys or 'none'}")
    return found


def find_place(network: torch.nn.Module, file: StateFile) -> Place:
    """Where in a file the weights of `network` stand; of several places the one that fits best.

    Of those that fit equally, an average of weights (ema, swa, teacher).

    Raises:
        KdbiasError: there are no tensors, or none under the chosen name.
    """
    return _ranked(network, tensors(file), file)[0][1]


def load_into(network: torch.nn.Module, file: StateFile, heads: Sequence[str] = ()) -> str:
    """Load the weights of a file into `network`, and say what was taken.

    Args:
        heads: modules that were cut off the network: what the file holds of them is left out.

    Returns:
        What was said, empty where all tensors stood at the top and found their places.

    Raises:
        KdbiasError: tensors of the network are missing or differ in shape or kind, tensors of the file find
            no place (counts and names are given), or several places fit and nothing says which is meant.
    """
    found = tensors(file)
    ranked = _ranked(network, found, file)
    (best, place), own = ranked[0], network.state_dict()
    copies = [other for (_, present, *_), other in ranked[1:] if present == len(_needed(own))]
    left, lost = _left_over(network, found, place, copies, heads)
    _require_all(own, found, place, lost, file.name)
    equal = [other for rank, other in ranked[1:] if rank == best]
    same = [o for o in equal if not all(torch.equal(place.state[k], o.state[k]) for k in _needed(own))]
    if same:
        raise KdbiasError(
            f"{file.name} holds this network {len(same) + 1} times, in "
            f"{'; '.join(map(str, [place, *same]))}; name one by a part of its own: FILE#PART"
        )
    # Into the network's own dictionary, which also says in which version its modules are.
    for key, value in own.items():
        if key in place.state and value.shape == place.state[key].shape:
            own[key] = place.state[key]
    network.load_state_dict(own)
    note = _note(place, copies, left)
    if note:
        progress.say(f"{file.name}: {note}")
    return note


def _tensor(value: Any) -> torch.Tensor | None:
    """A stored value as tensor; None for what is none."""
    if isinstance(value, NumpyArray):
        return torch.from_numpy(value.value) if value.value.dtype.kind in "biuf" else None
    return value if isinstance(value, torch.Tensor) else None


def _needed(own: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of the tensors without which the network would not be the same."""
    return [key for key in own if not key.endswith("num_batches_tracked")]


def _ranked(
    network: torch.nn.Module, found: dict[Names, State], file: StateFile
) -> list[tuple[tuple[int, ...], Place]]:
    """All places that hold any tensor of the network, the best first, with what they were ranked by."""
    own, ranked = network.state_dict(), list[tuple[tuple[int, ...], Place]]()
    needed = _needed(own)
    for path, state in found.items():
        # A dictionary, since it keeps the order of the file.
        for prefix in dict.fromkeys(p for key in state for p in _prefixes(key, own)) or ("",):
            named = file.chosen is None or file.chosen in ".".join([*path, prefix]).split(".")
            place = Place(
                path, prefix, {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
            )
            present = [key for key in needed if key in place.state]
            fitting = sum(own[key].shape == place.state[key].shape for key in present)
            more = sum(key not in own and not _on_top(key, place.state) for key in place.state)
            average = bool(_words(*path, prefix) & _AVERAGES)
            ranked.append(((named, len(present), fitting, -more, average), place))
    ranked.sort(key=lambda each: each[0], reverse=True)
    if not ranked[0][0][0]:
        raise KdbiasError(f"{file.name}: no weights of this network stand under the name {file.chosen!r}")
    return ranked


def _prefixes(key: str, own: Mapping[str, Any]) -> Iterator[str]:
    """Beginnings of a key after which one of the network's own keys follows."""
    starts = [0, *(dot.end() for dot in re.finditer(r"\.", key))]
    return (key[:start] for start in starts if key[start:] in own)


def _words(*names: str) -> set[str]:
    """The words of names, in lower case."""
    return set(re.split(r"[._]", ".".join(names).lower()))


def _left_over(
    network: torch.nn.Module,
    found: dict[Names, State],
    place: Place,
    copies: list[Place],
    heads: Sequence[str],
) -> tuple[State, State]:
    """What of the file has no place in the network: what may be left out, and what may not."""
    own, buffers = network.state_dict(), dict(network.named_buffers())
    left, lost = State(), State()
    for path, state in found.items():
        for key, value in state.items():
            if not value.is_floating_point():
                continue
            inside = place.holds(path, key)
            name = key[len(place.prefix) :] if inside else _beside(path, key, place)
            if inside:
                passed = name in own or (name in buffers and torch.equal(buffers[name].to(value), value))
                dropped = any(f"{name}.".startswith(f"{head}.") for head in heads)
            else:
                # An accuracy or a scale; a copy. What lies beside the whole dictionary of weights is none.
                passed = (path != place.path and value.numel() == 1) or _is_copied(name, path, key, copies)
                dropped = path != place.path and path == place.path[: len(path)]
            if passed:
                continue
            dropped = dropped or _on_top(name, {name: value, **_weight_beside(name, key, state)})
            (left if dropped else lost)[".".join([*path, key])] = value
    return left, lost


def _is_copied(name: str, path: Names, key: str, copies: list[Place]) -> bool:
    """Whether a tensor is of a copy of the network, such as an average."""
    return any(copy.holds(path, key) for copy in copies) or bool(_words(_first(name)) & _COPIES)


def _beside(path: Names, key: str, place: Place) -> str:
    """A name as seen from beside the network: without the part that both have in common."""
    here, there = [*path, *key.split(".")], [*place.path, *place.prefix.split(".")]
    same = next((i for i, (a, b) in enumerate(zip(here, there, strict=False)) if a != b), 0)
    return ".".join(here[same:])


def _weight_beside(name: str, key: str, state: State) -> State:
    """The weight of the layer whose bias `key` may be, by its name as seen from the network."""
    weight = ".".join([*key.split(".")[:-1], "weight"])
    return {".".join([*name.split(".")[:-1], "weight"]): state[weight]} if weight in state else {}


def _first(name: str) -> str:
    """The name up to its first dot."""
    return name.partition(".")[0]


def _on_top(name: str, state: State) -> bool:
    """Whether `name` is of a linear layer or of a part for training alone, by its start and its shape."""
    words = _words(_first(name))
    if words & _TRAINING:
        return True
    if not words & _CLASSIFIERS:
        return False
    layer, dot, leaf = name.rpartition(".")
    value = state.get(f"{layer}{dot}weight", state[name]) if leaf == "bias" else state[name]
    return value.ndim == 2 or (value.ndim == 4 and value.shape[2:] == (1, 1))


def _require_all(
    own: Mapping[str, torch.Tensor], found: dict[Names, State], place: Place, lost: State, file: str
) -> None:
    """Refuse a file that lacks some of the network's tensors, or leaves some without place."""
    needed = _needed(own)
    missing = [key for key in needed if key not in place.state]
    if missing or lost:
        names = [".".join([*path, key]) for path, state in found.items() for key in _needed(state)]
        sides = [f"{len(lost):,} of its {len(names):,} tensors find no place in the network ({_some(lost)})"]
        if missing:
            gap = f"lacks {len(missing):,} of the network's {len(needed):,} tensors ({_some(missing)})"
            sides = [gap, *(sides if lost else [f"it holds {len(names):,} ({_some(names)})"])]
        raise KdbiasError(f"{file}: {'; '.join(sides)}; are these weights of this network?")
    wrong = [key for key in needed if not _fits(own[key], place.state[key])]
    if wrong:
        key = wrong[0]
        raise KdbiasError(
            f"{file}: {key} has shape {_kind(place.state[key])}, the network needs {_kind(own[key])} "
            f"({len(wrong):,} of {len(needed):,} tensors differ: {_some(wrong)})"
        )


def _fits(own: torch.Tensor, given: torch.Tensor) -> bool:
    """Whether a stored tensor has the own one's shape and kind of numbers."""
    # Whole numbers are quantised weights without their scale; a meta tensor has no values.
    return (
        own.shape == given.shape
        and own.is_floating_point() == given.is_floating_point()
        and not given.is_meta
    )


def _kind(value: torch.Tensor) -> str:
    """Shape and dtype, for a message."""
    return f"{tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"


def _some(names: Sequence[str] | State) -> str:
    """The first three names, for a message."""
    return ", ".join(list(names)[:3]) + (", ..." if len(names) > 3 else "")


def _note(place: Place, copies: list[Place], left: State) -> str:
    """What was taken, and what was left, in words."""
    parts = []
    if place.path or place.prefix:
        parts.append(f"weights taken from {place}")
    if copies:
        parts.append(f"not from {'; '.join(map(str, copies))}")
    if left:
        parts.append(f"left out: {', '.join(f'{k} {tuple(v.shape)}' for k, v in list(left.items())[:4])}")
        parts[-1] += f" and {len(left) - 4:,} more" if len(left) > 4 else ""
    return "; ".join(parts)
