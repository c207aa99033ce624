"""Options, declared once: one field says an option's name, type, default, meaning and limits.

From the fields of a `Settings` class follow the options of its command (`kdbias.cli.options`), the keys of a
TOML file, the checks, what a run records, and the signature, the `Args:` and the type stub of the library
function (`kdbias.functions`). Imports nothing heavy: every `--help` comes through here.
"""

from __future__ import annotations

import dataclasses
import json
import os
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from kdbias.errors import KdbiasError
from kdbias.kinds import json_of, kind_of, number_of, spelled
from kdbias.placing import placed
from kdbias.scratch import recorded
from kdbias.tables.documents import read_toml
from kdbias.tables.files import write_text
from kdbias.wording import nearest


@dataclass(frozen=True)
class Option:
    """What a field means.

    Attributes:
        text: one line for a reader, without its default.
        choices: the values that it may take.
        least, most, above, below: limits, the first two inclusive.
        parse: turns what was given into the value, or raises KdbiasError or ValueError.
        metavar: what stands for a value in a command's help.
        flag: how the command line spells it, where that is not the name (``--output``).
        shown: what happens by default, where the default itself (None) does not say it.
        path: where something lies; a run records the fingerprint of what is there instead.
        operational: how something is computed, not what; a run may be resumed with another value.
        accepts: the type that a caller may give, where `parse` takes more than the field's own.
        table: reads a table of a file, given what messages call it (`kdbias.nested_settings`).
    """

    text: str
    choices: tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    parse: Callable[[Any], Any] | None = None
    metavar: str | None = None
    flag: str | None = None
    shown: str | None = None
    path: bool = False
    operational: bool = False
    accepts: str | None = None
    table: Callable[[Any, str], Any] | None = None


def option(default: Any = dataclasses.MISSING, text: str = "", **about: Any) -> Any:
    """A field of a `Settings` class; without a default it must be given. `about`: as `Option`."""
    made: dict[str, Any] = {"default_factory" if callable(default) else "default": default}
    return field(**made, metadata={"option": Option(text, **about)})


@dataclass(frozen=True)
class Declared:
    """A field as its readers see it: `kind` is bool, int, float or str; `many` = a tuple of that kind."""

    name: str
    kind: type
    many: bool
    optional: bool
    default: Any
    about: Option

    @property
    def required(self) -> bool:
        """Whether the option has no default."""
        return self.default is dataclasses.MISSING

    @property
    def text(self) -> str:
        """The meaning with what happens by default."""
        shown = self.about.shown
        says_nothing = any(self.default is value for value in (None, False, dataclasses.MISSING))
        if shown is None and not says_nothing and self.default != ():
            shown = spelled(self.default)
        return f"{self.about.text} [{shown}]" if shown else self.about.text


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The options of a stage, scheme, protocol or file, checked. `of` makes them from what was given.

    A subclass is a dataclass of `option` fields; `name` is what messages call it (`place`, where it is part
    of a file), and `check` holds the rules between options. In `twosided`, on the command line every
    true-or-false option can also be refused (`--no-flip`), because a file may have set it. `left` are the
    options that were left at their defaults, which `check` may then have decided.
    """

    name: ClassVar[str] = ""
    place: ClassVar[str] = ""
    twosided: ClassVar[bool] = False
    left: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        left = set()
        for declared in declared_in(type(self)):
            value = _checked(self.place or self.name, declared, getattr(self, declared.name))
            object.__setattr__(self, declared.name, value)
            if value == declared.default:
                left.add(declared.name)
        object.__setattr__(self, "left", frozenset(left))
        self.check()

    def check(self) -> None:
        """Rules between options; raises KdbiasError."""

    @classmethod
    def declared(cls) -> tuple[Declared, ...]:
        """The options that a user may give, in the order of their help."""
        return declared_in(cls)

    @classmethod
    def of(cls, given: Mapping[str, Any], where: str | None = None) -> Self:
        """Settings from what was given by name; None stands for the default.

        Raises:
            KdbiasError: an unknown name (the nearest ones are named), a missing one, or a value that is none.
        """
        given = {name: value for name, value in given.items() if value is not None}
        cls.refuse_unknown(given, where or cls.name)
        missing = [d for d in cls.declared() if d.required and d.name not in given]
        if missing:
            named = ", ".join(f"{d.name} is missing ({d.about.text})" for d in missing)
            raise KdbiasError(f"{where or cls.name}: {named}")
        return cls._made(given, where)

    @classmethod
    def refuse_unknown(cls, given: Mapping[str, Any], where: str) -> None:
        """Refuse names that are no option, with the nearest one and all known ones."""
        known = [declared.name for declared in cls.declared()]
        unknown = sorted(set(given) - set(known))
        if unknown:
            near = nearest(unknown[0], known)
            raise KdbiasError(f"{where}: unknown key {', '.join(unknown)}{near}; known: {', '.join(known)}")

    @classmethod
    def _made(cls, given: Mapping[str, Any], where: str | None) -> Self:
        made = object.__new__(cls)
        if where is not None:
            object.__setattr__(made, "place", where)
        made.__init__(**given)  # type: ignore[misc]
        return made

    @classmethod
    def read(cls, file: str | os.PathLike[str] | None, given: Mapping[str, Any]) -> Self:
        """The keys of a TOML file (or none), overridden by those given that are neither None nor empty."""
        keys = {} if file is None else read_toml(Path(file))
        cls.refuse_unknown(keys, str(file))
        asked = {name: value for name, value in given.items() if value is not None and value != ()}
        return cls.of({name: placed(name, value) for name, value in keys.items()} | asked)

    def record(self) -> dict[str, Any]:
        """JSON values of the options that make a run what it is: neither paths nor operational ones."""
        return {d.name: json_of(getattr(self, d.name)) for d in _recorded(type(self))}

    @classmethod
    def usual(cls) -> dict[str, Any]:
        """The declared defaults by name, as JSON values: what a record stands for that lacks an option."""
        return {d.name: json_of(d.default) for d in _recorded(cls) if not d.required}

    def defaults(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """What stands for each key of `config`, and of tables within it, where an earlier record lacks it.

        Args:
            config: what a run of these settings records.

        Returns:
            The same keys: for an option that was left at its default what `config` says (it may have been
            decided), else the default.
        """
        return {
            name: self.defaults(value) if isinstance(value, dict) else self._default(name, value)
            for name, value in config.items()
        }

    def _default(self, name: str, value: Any) -> Any:
        return value if name in self.left else self.usual().get(name)

    def write(self, path: Path, remark: str) -> None:
        """Write the options that are set as TOML, with their meaning; `read` gives the same settings."""
        lines = [f"# {remark}"]
        for declared in declared_in(type(self)):
            value = getattr(self, declared.name)
            if value is not None and value != ():
                text = json.dumps(recorded(json_of(value)), ensure_ascii=False)
                lines.append(f"{declared.name} = {text}  # {declared.about.text}")
        write_text(path, "\n".join(lines) + "\n")

    def refuse_idle(self, idle: Mapping[str, str]) -> None:
        """Refuse what was chosen and would change nothing; `idle`: name -> why it is without effect."""
        for declared in declared_in(type(self)):
            value = getattr(self, declared.name)
            if declared.name in idle and value != declared.default:
                why = idle[declared.name]
                raise KdbiasError(
                    f"{self.name}: {declared.name} is {json_of(value)!r}, but {why}: leave it out"
                )


@dataclass(frozen=True, kw_only=True)
class Branching(Settings):
    """Settings in which one option (`chooser`) decides which further ones there are, kept in `chosen`.

    `instead`: what to do in place of an option that another choice would have had; by default, leave it out.
    """

    chooser: ClassVar[str] = ""
    instead: ClassVar[Mapping[str, str]] = {}
    chosen: Any = None

    @classmethod
    def branches(cls) -> Mapping[str, type[Settings]]:
        """Value of the chooser -> the settings that it brings."""
        raise NotImplementedError

    @classmethod
    def declared(cls) -> tuple[Declared, ...]:
        """The options of all, then those that some branch has."""
        return (*declared_in(cls), *_merged(cls.branches()))

    @classmethod
    def _made(cls, given: Mapping[str, Any], where: str | None) -> Self:
        own = {d.name: d for d in declared_in(cls)}
        mine = {name: value for name, value in given.items() if name in own}
        branch = mine.get(cls.chooser, own[cls.chooser].default)
        here = f"{where}: " if where else ""
        if branch not in cls.branches():
            raise KdbiasError(
                f"{here}unknown {cls.chooser} {branch!r}; choose one of {', '.join(cls.branches())}"
                + nearest(str(branch), cls.branches())
            )
        kind = cls.branches()[branch]
        takes = [declared.name for declared in declared_in(kind)]
        foreign = [name for name in given if name not in own and name not in takes]
        if foreign:
            raise KdbiasError(
                f"{here}{cls.chooser} {branch} has no option {', '.join(foreign)} (it has: "
                f"{', '.join(takes) or 'none'}); {cls.instead.get(foreign[0], 'leave it out')}"
            )
        chosen = kind.of({name: given[name] for name in takes if name in given}, where)
        return super()._made({**mine, "chosen": chosen}, where)

    def record(self) -> dict[str, Any]:
        """What a run records: the options of all, and those of the chosen branch."""
        return super().record() | self.chosen.record()

    def _default(self, name: str, value: Any) -> Any:
        own = name in self.usual()
        return super()._default(name, value) if own else self.chosen._default(name, value)


def declared_in(cls: type[Settings]) -> tuple[Declared, ...]:
    """The option fields of a class itself, without those of branches."""
    hints = typing.get_type_hints(cls)
    found = []
    for f in dataclasses.fields(cls):
        if "option" in f.metadata:
            kind, many, optional = kind_of(hints[f.name])
            default = f.default if f.default_factory is dataclasses.MISSING else f.default_factory()
            found.append(Declared(f.name, kind, many, optional, default, f.metadata["option"]))
    return tuple(found)


def _recorded(cls: type[Settings]) -> Iterator[Declared]:
    """Those of a class's own options that make a run what it is."""
    return (d for d in declared_in(cls) if not (d.about.path or d.about.operational))


def _merged(branches: Mapping[str, type[Settings]]) -> Iterator[Declared]:
    """Every option that some branch has, once; its text says of which."""
    takers: dict[str, dict[str, Declared]] = {}
    for branch, kind in branches.items():
        for declared in declared_in(kind):
            takers.setdefault(declared.name, {})[branch] = declared
    for found in takers.values():
        texts: dict[str, list[str]] = {}
        for branch, declared in found.items():
            texts.setdefault(declared.text, []).append(branch)
        text = "; ".join(f"{text} ({', '.join(of)})" for text, of in texts.items())
        first = next(iter(found.values()))
        about = dataclasses.replace(first.about, text=text, shown=None)
        yield dataclasses.replace(first, default=None, optional=True, about=about)


def _checked(owner: str, declared: Declared, value: Any) -> Any:
    """The value as the field's type, within its limits."""
    about = declared.about
    if value is None and (declared.optional or declared.default is None):
        return None
    try:
        if about.table is not None:
            return about.table(value, f"{owner}{'.' if ': ' in owner else ': '}{declared.name}")
        if about.parse is not None:
            return about.parse(value)
        if not declared.many:
            return _single(declared, value)
        value = value.tolist() if hasattr(value, "tolist") else value  # of NumPy, torch
        given = [value] if isinstance(value, str) or not isinstance(value, Sequence) else value
        return tuple(_single(declared, item) for item in given)
    except KdbiasError:
        raise
    except ValueError as error:
        raise KdbiasError(f"{owner}: {declared.name} {error}") from None


def _single(declared: Declared, value: Any) -> Any:
    """One value as the field's kind; raises ValueError that goes on after the option's name."""
    kind, about = declared.kind, declared.about
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if about.choices and value not in about.choices:
        near = nearest(str(value), about.choices)
        raise ValueError(f"is {value!r}, should be one of {', '.join(about.choices)}{near}")
    if kind is bool:
        if not isinstance(value, bool):
            raise ValueError(f"is {value!r}, should be true or false")
    elif kind in (int, float):
        value = number_of(kind, value)
        _require_within(about, value)
    elif not isinstance(value, kind):
        raise ValueError(f"is {value!r}, should be a text")
    return value


def _require_within(about: Option, value: float) -> None:
    """Refuse a number outside the option's limits (ValueError)."""
    limits = (
        (about.least, "at least", lambda limit: value >= limit),
        (about.above, "above", lambda limit: value > limit),
        (about.most, "at most", lambda limit: value <= limit),
        (about.below, "below", lambda limit: value < limit),
    )
    for limit, word, holds in limits:
        if limit is not None and not holds(limit):
            raise ValueError(f"is {value}, should be {word} {spelled(limit)}")
