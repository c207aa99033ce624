"""A study's results as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from kdbias.studies.budgets import Budget, budgets_of
from kdbias.studies.comparisons import PREDICTORS, CaseRows, Compared, cases_of, correlate
from kdbias.studies.results import Row
from kdbias.studies.settings import BASELINE, Study
from kdbias.studies.statistics import Correlation, Difference
from kdbias.studies.tuning import end_of_range

_BETTER, _WORSE = " ▲", " ▼"
_READING = """\
How to read the tables: the first line is natural sampling, mean ± standard deviation over seeds. Each other
line is the mean difference to it, paired by seed, with a 95 % t interval over seeds; ▲ better and ▼ worse
where the interval excludes 0. Intervals cover the luck of training, not another choice of data or test set,
and are not corrected for how many there are: of 20 arms without any effect one is marked on average.
U, D (at bandwidth t), ESS and rectified are those of the manifest. Metrics are in percent unless less is
better (marked ↓)."""


def results_text(study: Study, rows: Sequence[Row], document: dict[str, Any]) -> str:
    """The whole document."""
    cases = cases_of(study, rows)
    parts = [
        f"# Study: {study.name}",
        f"Written by `{document['command']}`: {document['finished']:,} of {document['planned']:,} runs are "
        "finished.",
        _READING,
        _rates(document["learning_rates"]),
    ]
    for round_ in dict.fromkeys(case.round for case in cases):
        own = [case for case in cases if case.round == round_]
        parts += [f"## Round: {round_}", _overview(own), _correlations(own)]
        parts += [_budget(budget) for budget in budgets_of(own)]
        parts += [part for case in own for part in _case(case)]
    return "\n\n".join(parts) + "\n"


def _rates(rates: dict[str, Any]) -> str:
    lines = [
        "## Learning rates",
        "Tuned for natural sampling alone, with a seed that no round uses; every arm takes the rate of its "
        "baseline (natural, or natural from scratch). Where the smallest or the largest was chosen, a better "
        "one may lie beyond.",
        _table(["data", "tuned arm", "metric", "tried", "chosen"], _rate_rows(rates)),
    ]
    return "\n\n".join(lines)


def _rate_rows(rates: dict[str, Any]) -> Iterable[list[str]]:
    for data, arms in rates.items():
        for arm, entry in (arms or {}).items():
            tried = (f"{r}: {'diverged' if v is None else f'{v:.4f}'}" for r, v in entry["tried"].items())
            chosen, end = "none" if entry["lr"] is None else f"{entry['lr']:g}", end_of_range(entry)
            chosen += "" if end is None else f" (the {end})"
            yield [data, arm, entry["metric"], ", ".join(tried), chosen]


def _overview(cases: Sequence[CaseRows]) -> str:
    """For each arm: the share of natural's error removed in every case, and how often it was decided."""
    arms = [a for a in dict.fromkeys(a for case in cases for a in case.arms) if a != BASELINE]
    rows = []
    for arm in arms:
        found = {case.name: case.compare(arm, case.primary[0]) for case in cases}
        all_metrics = [case.compare(arm, metric) for case in cases for metric in case.primary]
        signs = [c.difference.better for c in all_metrics if c is not None and c.difference is not None]
        if not signs:
            continue
        counts = f"{signs.count(1)} / {signs.count(-1)} / {signs.count(0)}"
        rows.append([arm, *(_gain(found[case.name]) for case in cases), counts])
    heading = (
        "Share of natural sampling's error that each arm removes, % (negative: adds), by the first metric:"
    )
    metrics = "; ".join(f"{case.name}: {case.primary[0]}" for case in cases)
    table = _table(["arm", *(case.name for case in cases), "▲ / ▼ / undecided, all metrics"], rows)
    return f"{heading}\n\n{table}\n\n({metrics})"


def _gain(found: Compared | None) -> str:
    if found is None or found.difference is None:
        return ""
    return f"{100 * found.gain[0]:+.1f}{_mark(found.difference)}"


def _correlations(cases: Sequence[CaseRows]) -> str:
    """Spearman's correlation of each measure with the gain: for every case, and their mean."""
    columns: list[tuple[str, str | None]] = [("first metric", None)]
    if all(case.compare(BASELINE, "fidelity.distance") for case in cases):
        columns.append(("distance to the teacher", "fidelity.distance"))
    headings = [f"{p}: {title}" for title, _ in columns for p in PREDICTORS]
    pairs = [(predictor, metric) for _, metric in columns for predictor in PREDICTORS]
    rows = [[case.name, *(_correlation(correlate([case], p, m)) for p, m in pairs)] for case in cases]
    if len(cases) > 1:
        rows.append(["mean over cases", *(_correlation(correlate(cases, p, m)) for p, m in pairs)])
    text = (
        "Rank correlation (Spearman) across arms between a measure of the sampled data and the gain; "
        "uniformity counts as evener = larger. 95 % bootstrap interval over cases, arms and seeds, which is "
        "conservative: without any effect it excludes 0 in about 1 % of cases, and it may miss a weak one."
    )
    return f"{text}\n\n{_table(['case', *headings], rows)}"


def _budget(budget: Budget) -> str:
    """What each arm reaches by steps, and the steps that natural sampling needs for the same."""
    metric = budget.cases[0].primary[0]
    steps = budget.curve(BASELINE, metric)[0]
    rows = []
    for arm in budget.arms:
        cells = []
        for place, value in enumerate(budget.curve(arm, metric)[1]):
            equal = None if arm == BASELINE else budget.equivalent_steps(arm, metric, place)
            cells.append(f"{value:.4f}" + ("" if equal is None else f" (natural: {equal:,.0f} steps)"))
        rows.append([arm, *cells])
    heading = (
        f"Compute, {budget.name}: mean {metric} after these many steps, and in brackets the steps after "
        "which natural sampling has it (interpolated in log steps; none where it never has, or "
        "had it before the first)."
    )
    return f"{heading}\n\n{_table(['arm', *(f'{step:,} steps' for step in steps)], rows)}"


def _correlation(found: Correlation | None) -> str:
    if found is None:
        return "n/a"
    if found.low is None or found.high is None:
        return f"{found.rho:+.2f}"
    return f"{found.rho:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"


def _case(case: CaseRows) -> list[str]:
    first = case.of(BASELINE)[0].facts if case.of(BASELINE) else case.rows[0].facts
    seeds = len({row.seed for row in case.rows})
    about = (
        f"{first['samples']:,} training samples, {first['steps']:,} steps of {first['batch_size']} "
        f"({first['student']}, lr {first['lr']:g}), t = {first['t']:g}, {seeds} seeds"
    )
    parts = [f"### {case.name} ({case.round})", about, _against(case, BASELINE, case.arms)]
    scratch = [arm for arm in case.arms if case.of(arm)[0].scratch]
    natural = [arm for arm in scratch if case.of(arm)[0].facts["method"] == "natural"]
    if len(scratch) > 1 and natural:
        parts += ["From scratch, against natural sampling from scratch:", _against(case, natural[0], scratch)]
    return parts


def _against(case: CaseRows, baseline: str, arms: Sequence[str]) -> str:
    ordered = [baseline, *(arm for arm in arms if arm != baseline)]
    headings = [f"{m} ↓" if case.lower_is_better(m) else m for m in case.primary]
    rows = []
    for arm in ordered:
        if not case.of(arm):
            continue
        facts = case.of(arm)[0].facts
        cells = [_cell(case, case.compare(arm, metric, baseline), metric) for metric in case.primary]
        rectified = facts["rectification"]
        rows.append(
            [
                arm,
                f"{facts['uniformity']:.3f}" if facts["uniformity"] is not None else "n/a",
                f"{facts['effective_distinct']:,.0f}",
                f"{100 * facts['ess_share']:.0f} %",
                "n/a" if rectified is None else f"{100 * rectified:.0f} %",
                *cells,
            ]
        )
    return _table(["arm", "U", "D", "ESS", "rectified", *headings], rows)


def _cell(case: CaseRows, found: Compared | None, metric: str) -> str:
    if found is None:
        return ""
    scale, digits = (1, 4) if case.lower_is_better(metric) else (100, 2)
    d = found.difference
    if d is None:
        spread = "" if found.std is None else f" ± {scale * found.std:.{digits}f}"
        return f"{scale * found.mean:.{digits}f}{spread}"
    text = f"{scale * d.mean:+.{digits}f}"
    if d.low is None or d.high is None:
        return text
    return f"{text} [{scale * d.low:+.{digits}f}, {scale * d.high:+.{digits}f}]{_mark(d)}"


def _mark(difference: Difference) -> str:
    return {1: _BETTER, -1: _WORSE}.get(difference.better, "")


def _table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
