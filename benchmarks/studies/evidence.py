"""What `kdbias advise` cites: the gains of a study, case by case, as a small table that ships with kdbias.

    python benchmarks/studies/evidence.py docs/results/towards benchmarks/studies/towards.toml

Reads results.parquet of the folder and writes kdbias/advice/evidence.toml: of the deciding and the long round
each case with enough seeds for an interval, how far its data were from the target, what else decides whether
other data are like it, and the share of natural sampling's error that each arm removed, paired by seed. The
same numbers as in results.md; run it again when the study has grown.
"""

import sys
import tomllib
from pathlib import Path
from typing import Any

import pandas as pd

from kdbias.studies.statistics import paired_difference
from kdbias.tables.files import atomic_path

ROOT = Path(__file__).parents[2]
ROUNDS = ("headline", "long")
LEAST_SEEDS = 3
ARMS = {
    "matched": "matched-50",
    "matched with": "matched-50-cam",
    "labels": "class-balanced",
    "equilibrium": "equilibrium-ladder",
    "inverse-density": "inverse-density-chosen",
}
"""What the advice is about -> the arm of the study that tried it."""
CASES = {
    "fashion/tail-50-short": "clothes with a long tail of classes, used on even ones",
    "fashion/tail-50": "clothes with a long tail of classes, three times the steps",
    "fashion/tail-50-long": "clothes with a long tail of classes, nine times the steps",
    "fashion/bursts": "clothes, half of them near duplicates of 25",
    "fashion/natural": "clothes drawn like the deployment",
    "mnist/tail-100-short": "digits with a long tail of classes, used on even ones",
    "mnist/tail-100": "digits with a long tail of classes, three times the steps",
    "cifar/tail-100": "objects with a long tail of classes, used on even ones",
    "faces/pool": "faces of which 9 % are like the deployment",
    "faces/pool-long": "faces of which 9 % are like the deployment, four times the steps",
    "fairface/black": "faces, 80 % of one race",
    "market/natural": "persons drawn like the deployment",
    "market/cameras": "persons, two of six cameras 82 % of the images",
    "market/people": "persons, few of them most of the images",
}
"""Case -> what it is, in words; a case that is not here goes by its name."""
CLUSTERED = "matched-50-alone"
"""The arm of cases in whose target samples count together: what it would be if each counted alone."""


def cases(folder: Path, study: Path) -> list[dict[str, Any]]:
    """One entry a case of these rounds."""
    frame = pd.read_parquet(folder / "results.parquet")
    frame = frame[frame["round"].isin(ROUNDS)]
    data = tomllib.loads(study.read_text())["data"]
    found = []
    for (dataset, bias), rows in frame.groupby(["dataset", "bias"], sort=False):
        entry = _case(rows, data[dataset]["primary"][0], _repeated(data[dataset]["bias"][bias]))
        if entry is not None:
            name = f"{dataset}/{bias}"
            found.append({"name": name, "what": CASES.get(name, name), **entry})
    return found


def _repeated(bias: dict[str, Any]) -> float:
    """Share of near duplicates that a bias put among its samples; data sets have hardly any of their own."""
    return float(bias["share"]) if (bias.get("column"), bias.get("value")) == ("study_part", "copy") else 0.0


def _case(rows: pd.DataFrame, metric: str, repeated: float) -> dict[str, Any] | None:
    """A case's numbers; None with too few seeds."""
    of_metric = rows[rows["metric"] == metric]
    values = {arm: dict(zip(own["seed"], own["value"], strict=True)) for arm, own in of_metric.groupby("arm")}
    natural, lower = values.get("natural", {}), bool(of_metric["lower_is_better"].iloc[0])
    gains: dict[str, dict[str, Any]] = {}
    for word, arm in ARMS.items():
        difference = paired_difference(values.get(arm, {}), natural, lower)
        if difference is None or difference.seeds < LEAST_SEEDS:
            continue
        shared = [natural[seed] for seed in natural if seed in values[arm]]
        error = sum(value if lower else 1 - value for value in shared) / len(shared)
        gain = difference.times((-1 if lower else 1) / error)
        gains[word] = {
            **{name: round(getattr(gain, name), 4) for name in ("value", "low", "high")},
            "seeds": difference.seeds,
        }
    if "matched" not in gains:
        return None
    first = {arm: own.iloc[0] for arm, own in rows.groupby("arm")}
    matched = first[ARMS["matched"]]
    return {
        "differs": str(matched["bound"]) != "natural",
        "discrepancy": float(f"{first['natural']['discrepancy']:.4g}"),
        "removed": 0.0 if pd.isna(matched["removed"]) else round(float(matched["removed"]), 4),
        "ess_share": round(float(matched["ess_share"]), 4),
        "repeated": repeated,
        "clustered": CLUSTERED in first,
        "samples": int(matched["samples"]),
        "steps": int(matched["steps"]),
        "metric": metric,
        "gains": gains,
    }


def written(entries: list[dict[str, Any]], folder: Path) -> str:
    """The table as TOML."""
    lines = [
        "# Written by benchmarks/studies/evidence.py from a study's results.parquet: do not edit.",
        "# gains: share of natural sampling's mean error that is removed, with 95 % t intervals over seeds.",
        f'file = "{folder.as_posix()}/results.md"',
    ]
    for entry in entries:
        lines += ["", "[[cases]]"]
        for key, value in entry.items():
            if key != "gains":
                lines.append(f"{key} = {_toml(value)}")
        for word, gain in entry["gains"].items():
            inside = ", ".join(f"{key} = {_toml(value)}" for key, value in gain.items())
            lines.append(f'gains."{word}" = {{ {inside} }}')
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else repr(value)


if __name__ == "__main__":
    results, description = map(Path, sys.argv[1:])
    with atomic_path(ROOT / "kdbias" / "advice" / "evidence.toml") as temporary:
        temporary.write_text(written(cases(results, description), results), encoding="utf-8")
