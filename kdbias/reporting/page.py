"""report(): one self-contained HTML page about any mix of stage outputs."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import ClassVar

from markupsafe import Markup

from kdbias.display.figure import DARK, LIGHT, looks
from kdbias.display.result import Result
from kdbias.display.table import Table
from kdbias.errors import KdbiasError
from kdbias.functions import takes_settings
from kdbias.inspection.recognition import MARK, is_page
from kdbias.progress import say
from kdbias.reporting.gathering import collect
from kdbias.reporting.headline import headline
from kdbias.reporting.layout import Page
from kdbias.reporting.sections import all_sections, scheme_names
from kdbias.reporting.settings import ReportSettings
from kdbias.reporting.tables import provenances
from kdbias.reporting.verdict import verdict
from kdbias.tables.files import write_text
from kdbias.tables.run_files import claim
from kdbias.tables.run_record import stage_of
from kdbias.version import __version__
from kdbias.wording import counted, visible, visible_lines


@dataclass(frozen=True, repr=False)
class ReportResult(Result):
    """What :func:`report` wrote."""

    path: Path
    inputs: int
    notices: Sequence[str]
    _elsewhere: ClassVar[str] = ": the page has them; open its `path` in a browser"

    def blocks(self) -> list[str | Table]:
        """The page's size and notices."""
        size = self.path.stat().st_size / 2**20
        about = f"one page about {counted(self.inputs, 'output')}, {size:.1f} MiB, opens in any browser"
        lines = [f"{self.path}: {about}"]
        return list(map(visible, [*lines, *(f"note: {notice}" for notice in self.notices)]))


@takes_settings(ReportSettings)
def report(
    outputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str] = "report.html",
    *,
    settings: ReportSettings,
) -> ReportResult:
    """Write one self-contained HTML page about stage outputs, which its policy lets load nothing.

    Args:
        outputs: folders of ``embed``, ``uniformity``, ``weights --frontier``, ``train``, ``evaluate``,
            ``study`` or ``demo``, weight manifests, or a folder that holds several of them.
        output: the HTML file (``.html`` or ``.htm``); what is there already is replaced only if this
            function wrote it.

    Raises:
        KdbiasError: a path is no output of kdbias, nothing finished is among them, or the output is no HTML
            file or somebody else's.
    """
    target = claim(output)
    _refuse_target(target, settings.overwrite)
    named = [outputs] if isinstance(outputs, str | os.PathLike) else list(outputs)
    root = settings.root
    if root is not None and not Path(root).is_dir():
        raise KdbiasError(f"root {root} is no folder; name the one that holds the data")
    roots = [Path(place) for place in (*named, *([] if root is None else [root])) if Path(place).is_dir()]
    found = collect(named)
    notices = [f"unfinished, not shown: {place}" for place in found.unfinished]
    alike = found.judged_alike
    other = [str(e.path) for e in found.evaluations if e.run is not None and e not in alike]
    if other:
        notices.append(
            "judged by other options, --where or test data than most students, so shown one by one and in no "
            f"mean: {', '.join(other)}"
        )
    stood = target.exists()
    page = Page(found, looks(scheme_names(found)), settings, roots, notices)
    _write(target, settings.title, page)
    inputs = len(provenances(found))
    say(f"wrote {target} about {counted(inputs, 'output')}{', in place of the page there' if stood else ''}")
    return ReportResult(target, inputs, tuple(notices))


def _refuse_target(target: Path, overwrite: bool) -> None:
    """Refuse to write where no page belongs, or over a file that is no page of kdbias."""
    if target.is_dir():
        raise KdbiasError(
            f"{target} is a folder; name the HTML file to write, for example {target / 'report.html'}"
        )
    if target.suffix.lower() not in (".html", ".htm"):
        raise KdbiasError(f"{target}: the report is an HTML page; name it {target.with_suffix('.html')}")
    if not target.exists():
        return
    if not overwrite:
        raise KdbiasError(f"{target} exists already; choose another output or allow overwriting")
    if not is_page(target):
        raise KdbiasError(
            f"{target} exists already and is no page that kdbias report wrote; choose another -o or move it"
        )
    if stage_of(target.parent) == "run":
        say(f"{target}, the page of the kdbias run in {target.parent}, is replaced")


def _shown(value: object) -> object:
    """A text of somebody else's as a reader may trust it; markup of kdbias itself as it is."""
    return visible_lines(value) if type(value) is str else value


def _write(target: Path, title: str, page: Page) -> None:
    """Write the page from its template."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("kdbias.reporting", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
    )
    environment.filters["data"] = _data
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    style, script = _style(), "".join(_asset(name) for name in _SCRIPTS)
    html = environment.get_template("page.html").render(
        title=title,
        mark=MARK,
        policy=_policy(style, script),
        style=Markup(style),
        script=Markup(script),
        subtitle=f"kdbias {__version__}, {now}",
        verdict=verdict(page.found),
        facts=headline(page.found),
        sections=all_sections(page),  # which may add notices
        notices=page.notices,
        footer=f"Written by kdbias {__version__}. This page holds everything it shows and loads nothing.",
    )
    write_text(target, html)


_SCRIPTS = ("tables.js", "map.js", "explorer.js")  # one module, in this order


def _asset(name: str) -> str:
    """A file of the page."""
    return (files("kdbias.reporting") / "assets" / name).read_text(encoding="utf-8")


def _style() -> str:
    """The style sheet, after the colours that the figures share with it."""
    light, dark = ("".join(f"--s{i}:{c};" for i, c in enumerate(colors)) for colors in (LIGHT, DARK))
    scheme = f"@media screen and (prefers-color-scheme: dark){{:root{{{dark}}}}}"
    return f":root{{{light}}}{scheme}\n{_asset('page.css')}"


def _policy(style: str, script: str) -> str:
    """A content-security policy under which this style and this script alone count, and nothing is loaded."""
    style_hash, script_hash = (
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)
    )
    return (
        f"default-src 'none'; script-src 'sha256-{script_hash}'; style-src 'sha256-{style_hash}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _data(document: object) -> Markup:
    """JSON that a script reads, in which nothing can end its element or begin another."""
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)
