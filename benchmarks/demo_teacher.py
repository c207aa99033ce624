"""Make the weights that the demo's teacher ships with (kdbias/demonstration/teacher.npz).

    kdbias demo -o demo
    kdbias train demo/data/demo.toml -o trained --where split=train --loss softmax --dim 64 --epochs 10 \\
      --batch-size 64 --threads 1
    python benchmarks/demo_teacher.py trained

Each output of a layer (first axis of its array) is rounded to int8 with a scale of its own, which costs no
accuracy and three quarters of the size. Every figure of the demo changes with this file.
"""

import argparse
from pathlib import Path

import numpy as np

import kdbias.demonstration.teacher as shipped
from kdbias.networks.saved import load_network


def rounded(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays as `stored_state` reads them back."""
    arrays = {}
    for name, values in state.items():
        arrays[name] = values
        if values.ndim > 1:
            scale = (np.abs(values).reshape(len(values), -1).max(axis=1) / 127).astype(np.float32)
            arrays[f"{name}/scale"] = scale
            arrays[name] = np.round(values / scale.reshape(-1, *[1] * (values.ndim - 1))).astype(np.int8)
    return arrays


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("run", help="what kdbias train wrote")
    network, _ = load_network(parser.parse_args().run)
    target = Path(shipped.__file__).with_name(shipped.FILE)
    arrays = rounded({name: values.numpy() for name, values in network.state_dict().items()})
    np.savez_compressed(target, **arrays)
    print(f"{target}: {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
