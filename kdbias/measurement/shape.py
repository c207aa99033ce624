"""What ``uniformity.json`` holds, as :mod:`kdbias.tables.documents` checks it."""

_NUMBER = (float, None)
_GROUP = {
    "value": (str, None),
    **dict.fromkeys(("count", "share", "mass"), float),
    **dict.fromkeys(("log_density", "witness?"), _NUMBER),
}
_INTERVAL = ([float], None)
_DISCREPANCY = {
    "value": float,
    **dict.fromkeys(("unbiased", "standard_error", "noise_ratio", "removed"), _NUMBER),
    **dict.fromkeys(("rectification", "p_value"), _NUMBER),
    **dict.fromkeys(("interval", "removed_interval"), _INTERVAL),
    **dict.fromkeys(("rectification_reason", "reason"), (str, None)),
}
_TARGET = {
    **dict.fromkeys(("towards", "kind"), str),
    "size": (int, None),
    "effective_size": _NUMBER,
    "fingerprints": {str: str},
    "kernel": [float],
    **dict.fromkeys(("with", "cluster_by?"), (str, None)),
    **dict.fromkeys(("constant", "noise"), float),
    "test": (
        {
            **dict.fromkeys(("p_value", "statistic", "effect", "null_mean", "null_95"), float),
            **dict.fromkeys(("data", "reference"), int),
        },
        None,
    ),
    "differs": bool,
    "notes": [str],
    "columns": {
        str: [{**dict.fromkeys(("value", "balance"), (str, None)), "share": float, "share_reference": float}]
    },
    "blind": [str],
    "needed": (int, None),
    "best": {
        **dict.fromkeys(("energy", "natural_energy", "gap", "ess_share"), _NUMBER),
        "reason": (str, None),
    },
}
_BANDWIDTH = {
    "t": float,
    **dict.fromkeys(("uniformity", "null", "excess", "energy", "effective_distinct"), _NUMBER),
    **dict.fromkeys(("distinct_ceiling", "rectification", "standard_error"), _NUMBER),
    "rectification_reason": (str, None),
}
_SCHEME = {
    "name": str,
    "weights": (str, None),
    "fingerprint": (str, None),
    "ess": float,
    **dict.fromkeys(("ess_share", "top_mass", "max_weight"), float),
    **dict.fromkeys(("effective_identities", "vendi_score", "koleo_entropy"), _NUMBER),
    "groups": {str: [_GROUP]},
    "hardness": ({"easy": float, "hard": float}, None),
    "discrepancy?": (_DISCREPANCY, None),
    "bandwidths": [_BANDWIDTH],
}
_SEARCH = {
    "kind": str,
    "k": (int, None),
    "recall": _NUMBER,
    **dict.fromkeys(("probes?", "cells?", "landmarks?", "queries?"), int),
    "rms_relative_error?": [[float]],
    "spearman?": [[float]],
}
_SUSPECTS = {
    "seen": int,
    "words": {str: int},
    "near": dict.fromkeys(("groups", "samples", "largest"), int),
    "labels": dict.fromkeys(("judged", "misfit"), int),
}
SHAPE = {
    "n": int,
    "d": int,
    "t_chosen": float,
    "bandwidth_rule": object,
    "search": _SEARCH,
    "estimator": {"kind": str, "exponent": _NUMBER},
    "intrinsic_dimension": _NUMBER,
    "duplicates": {"exact_duplicates": int, "near_duplicates": int},
    "best": [{"t": float, "energy": _NUMBER, "gap": _NUMBER, "reason": (str, None)}],
    "target?": (_TARGET, None),
    "suspects?": (_SUSPECTS, None),
    "schemes": [_SCHEME],
}
