"""What is written at the end of every call: results.parquet, study.json, results.md and plots; the text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kdbias.display.table import Table, markdown
from kdbias.studies.arms import BASELINE
from kdbias.studies.comparisons import (
    PREDICTORS,
    Budget,
    CaseRows,
    Compared,
    budgets_of,
    cases_of,
    correlate,
    few_seeds,
    regrets_of,
)
from kdbias.studies.plan import Plan, end_of_range
from kdbias.studies.results import SUMMARY, Outline, Row, collect, write_results
from kdbias.studies.statistics import Correlation, Estimate
from kdbias.tables.documents import write_json
from kdbias.tables.files import write_text
from kdbias.wording import counted

READING = """\
How to read the tables: the first line is natural sampling, mean ± standard deviation over seeds. Each other
line is the mean difference to it, paired by seed, with a 95 % t interval over seeds; ▲ better and ▼ worse
where the interval excludes 0 and there are three seeds or more: fewer are too few to tell. Intervals cover
the luck of training, not another choice of data or test set, and are not corrected for how many there are:
of 20 arms without any effect one is marked on average.
U, D (at bandwidth t), ESS/n and rectified are those of the manifest. Metrics are in percent unless less is
better (marked ↓)."""


def conclude(plan: Plan, failed: dict[str, str], description: str) -> tuple[dict[str, Any], list[str]]:
    """Write the conclusions from every finished run of the description; returns study.json and a summary."""
    outline = Outline.of(plan.study)
    named, unnamed = plan.runs(plan.cases.values())
    rows, diverged = collect(named)
    rates = {case.data.name: plan.rates(case) for case in plan.cases.values()}
    without_rate, warnings = _of_rates(rates)
    failed = {**failed, **diverged, **without_rate}
    planned = len(named) + unnamed
    document: dict[str, Any] = {
        "name": plan.study.name,
        "command": f"kdbias study {description} -o {plan.out}",
        "planned": planned,
        "finished": len(rows),
        "missing": planned - len(rows),
        "failed": failed,
        "learning_rates": rates,
        "outline": outline.document,
    }
    lines = [f"{plan.out}: {len(rows):,} of {planned:,} runs are finished"]
    lines += [f"failed: {label}: {error}" for label, error in failed.items()]
    lines += warnings
    if rows:
        from kdbias.studies.figures import write_plots

        tables = plan.out / "results.md"
        lines += [f"every number: {write_results(plan.out, rows, document)}", f"tables: {tables}"]
        write_text(tables, results_text(outline, rows, document))
        lines.append(f"plots: {', '.join(map(str, write_plots(outline, rows, plan.out / 'plots')))}")
    write_json(plan.out / SUMMARY, document)
    return document, lines


def _tuned(rates: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any], str | None]]:
    """Of each data set and tuned arm: what tuning gave, and at which end of the rates tried the best was."""
    for data, arms in rates.items():
        for arm, entry in (arms or {}).items():
            yield data, arm, entry, end_of_range(entry)


def _of_rates(rates: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    """What has no learning rate, with the message, and a warning for each rate chosen at an end."""
    failed, warnings = {}, []
    for data, arm, entry, end in _tuned(rates):
        tried = ", ".join(entry["tried"])
        if entry["lr"] is None:
            failed[f"{data} {arm}"] = f"every learning rate diverged ({tried}); give smaller ones too"
        if end is not None:
            warnings.append(
                f"warning: {data} {arm}: the {end} of the learning rates tried ({tried}) was best; "
                "a better one may lie beyond it"
            )
    return failed, warnings


def results_text(outline: Outline, rows: Sequence[Row], document: dict[str, Any]) -> str:
    """The whole document."""
    cases = cases_of(outline, rows)
    parts = [
        f"# Study: {document['name']}",
        f"Written by `{document['command']}`: {document['finished']:,} of {document['planned']:,} runs are "
        "finished.",
        READING,
        *_rates(document["learning_rates"]),
    ]
    for round_ in dict.fromkeys(case.round for case in cases):
        own = [case for case in cases if case.round == round_]
        parts += [f"## Round: {round_}", _overview(own), *_regrets(outline, own), _correlations(own)]
        parts += [_budget(budget) for budget in budgets_of(own)]
        parts += [part for case in own for part in _case(case)]
    return "\n\n".join(parts) + "\n"


def _rates(rates: dict[str, Any]) -> list[str]:
    """The section on learning rates, in Markdown; none where none was tuned."""
    rows = []
    for data, arm, entry, end in _tuned(rates):
        tried = (f"{r}: {'diverged' if v is None else f'{v:.4f}'}" for r, v in entry["tried"].items())
        chosen = "none" if entry["lr"] is None else f"{entry['lr']:g}"
        rows.append([data, arm, entry["metric"], ", ".join(tried), chosen + (f" (the {end})" if end else "")])
    text = (
        "Tuned for natural sampling alone, with a seed that no round uses; every arm takes the rate of its "
        "baseline (natural, or natural from scratch). Where the smallest or the largest was chosen, a better "
        "one may lie beyond."
    )
    table = markdown(["data", "tuned arm", "metric", "tried", "chosen"], rows)
    return [f"## Learning rates\n\n{text}\n\n{table}"] if rows else []


def _overview(cases: Sequence[CaseRows]) -> str:
    """For each arm: the share of natural's error removed in every case, and how often it was decided."""
    rows = []
    for arm in dict.fromkeys(arm for case in cases for arm in case.arms if arm != BASELINE):
        found = [[case.compare(arm, metric) for metric in case.primary] for case in cases]
        signs = [c.difference.better for of_case in found for c in of_case if c and c.difference]
        if signs:
            decided = f"{signs.count(1)} / {signs.count(-1)} / {signs.count(0)}"
            rows.append([arm, *(_gain(of_case[0]) for of_case in found), decided])
    heading = (
        "Share of natural sampling's error that each arm removes, % (negative: adds), by the first metric:"
    )
    metrics = "; ".join(f"{case.name}: {case.primary[0]}" for case in cases)
    table = markdown(["arm", *(case.name for case in cases), "▲ / ▼ / undecided, all metrics"], rows)
    return f"{heading}\n\n{table}\n\n({metrics})"


def _gain(found: Compared | None) -> str:
    """An arm's gain in percent, marked where it is decided."""
    if found is None or found.difference is None:
        return ""
    return f"{100 * found.gain.value:+.1f}{found.difference.mark}"


def _regrets(outline: Outline, cases: Sequence[CaseRows]) -> list[str]:
    """Each arm's regret by case and its worst, and which arms the rule for a default chooses."""
    found = regrets_of(cases)
    if len(found) < 2:
        return []
    names = list(dict.fromkeys(name for regret in found for name in regret.by_case))
    rows = []
    for regret in found:
        by_case = (regret.by_case.get(name) for name in names)
        cells = ["" if one is None else f"{100 * one.value:.1f}" for one in by_case]
        worst = _plain(regret.worst.times(100)) + ("" if regret.everywhere else " (not all cases)")
        rows.append([regret.arm, outline.needs[regret.arm], worst, *cells])
    text = (
        "Regret: by how much an arm's mean error exceeds that of the case's best arm, in % of the error of "
        "natural sampling, by the first metric. Worst: of all cases, with a 95 % bootstrap interval over "
        "seeds. The rule for a default: least worst regret among arms that need no labels and were run in "
        "all cases."
    )
    parts = [f"{text}\n\n{markdown(['arm', 'needs', 'worst', *names], rows)}"]
    if few := few_seeds(cases):
        return [*parts, few]
    for needs, title in (("nothing", "Without a target"), ("a reference", "With a reference")):
        best = next((r for r in found if r.everywhere and outline.needs[r.arm] == needs), None)
        if best is not None:
            parts.append(f"{title} the rule chooses **{best.arm}**: {_plain(best.worst.times(100))} %.")
    return parts


def _plain(estimate: Estimate) -> str:
    """An estimate without signs: ``1.2 [0.3, 2.7]``."""
    return estimate.write(1).replace("+", "")


def _correlations(cases: Sequence[CaseRows]) -> str:
    """Spearman's correlation of each measure with the gain: for every case, and their mean."""
    columns: list[tuple[str, str | None]] = [("first metric", None)]
    if all(case.compare(BASELINE, "fidelity.distance") for case in cases):
        columns.append(("distance to the teacher", "fidelity.distance"))
    asked = [
        (f"{predictor}: {title}", predictor, metric) for title, metric in columns for predictor in PREDICTORS
    ]
    groups = [(case.name, [case]) for case in cases]
    if len(cases) > 1:
        groups.append(("mean over cases", list(cases)))
    rows = [[name, *(_correlation(correlate(own, p, m)) for _, p, m in asked)] for name, own in groups]
    text = (
        "Rank correlation (Spearman) across arms between a measure of the sampled data and the gain; "
        "uniformity counts as evener = larger. 95 % bootstrap interval over cases, arms and seeds, which is "
        "conservative: without any effect it excludes 0 in about 1 % of cases, and it may miss a weak one."
    )
    return f"{text}\n\n{markdown(['case', *(heading for heading, _, _ in asked)], rows)}"


def _correlation(found: Correlation | None) -> str:
    """A rank correlation and its interval, as text."""
    return "n/a" if found is None else found.write(2)


def _budget(budget: Budget) -> str:
    """What each arm reaches by steps, and the steps that natural sampling needs for the same."""
    rows = []
    for arm in budget.arms:
        cells = []
        for place, value in enumerate(budget.curve(arm)[0]):
            equal = None if arm == BASELINE else budget.equivalent_steps(arm, place)
            cells.append(f"{value:.4f}" + ("" if equal is None else f" (natural: {equal:,.0f} steps)"))
        rows.append([arm, *cells])
    heading = (
        f"Compute, {budget.name}: mean {budget.metric} after these many steps, and in brackets the steps "
        "after which natural sampling has it (interpolated in log steps; none where it never has, or "
        "had it before the first)."
    )
    return f"{heading}\n\n{markdown(['arm', *(f'{step:,} steps' for step in budget.steps())], rows)}"


def _case(case: CaseRows) -> list[str]:
    """The paragraphs and tables of one case, in Markdown."""
    parts = [f"### {case.name} ({case.round})", trained(case), against(case, BASELINE, case.arms).markdown()]
    scratch = [arm for arm in case.arms if arm not in case.distilled]
    natural = [arm for arm in scratch if case.facts(arm)["method"] == "natural"]
    if len(scratch) > 1 and natural:
        parts += [
            "From scratch, against natural sampling from scratch:",
            against(case, natural[0], scratch).markdown(),
        ]
    return parts


def trained(case: CaseRows) -> str:
    """How the students of a case were trained, in one line."""
    first = case.facts(BASELINE if case.of(BASELINE) else case.arms[0])
    return (
        f"{counted(first['samples'], 'training sample')}, {counted(first['steps'], 'step')} of "
        f"{first['batch_size']} ({first['student']}, lr {first['lr']:g}), t = {first['t']:g}, "
        f"{few_seeds([case]) or counted(case.seeds, 'seed')}"
    )


def against(case: CaseRows, baseline: str, arms: Sequence[str]) -> Table:
    """A case's arms against a baseline: what their draws measure, and the metrics that it is judged by."""
    headings = {metric: f"{metric} ↓" for metric in case.primary if case.lower_is_better(metric)}
    rows = [
        {
            **case.facts(arm),
            "arm": arm,
            **{metric: _cell(case, case.compare(arm, metric, baseline), metric) for metric in case.primary},
        }
        for arm in dict.fromkeys((baseline, *arms))
        if case.of(arm)
    ]
    keys = ["arm", "uniformity", "effective_distinct", "ess_share"]
    maybe = ("rectification", "discrepancy", "removed", "bound")
    keys += [key for key in maybe if any(row.get(key) is not None for row in rows)]
    return Table.of(rows, keys + list(case.primary), headings=headings)


def _cell(case: CaseRows, found: Compared | None, metric: str) -> str:
    """A mean, or a difference to the baseline with its interval, as text."""
    if found is None:
        return ""
    scale, digits = (1, 4) if case.lower_is_better(metric) else (100, 2)
    if found.difference is not None:
        return found.difference.times(scale).write(digits) + found.difference.mark
    spread = "" if math.isnan(found.std) else f" ± {scale * found.std:.{digits}f}"
    return f"{scale * found.mean:.{digits}f}{spread}"
