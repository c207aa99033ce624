"""What all kinds of data share."""

import tracemalloc

import pyarrow as pa

from kdbias.data.source import numbered


def test_numbers_as_ids():
    assert numbered(11, 2).to_pylist() == [f"{i:02d}" for i in range(11)]
    assert numbered(101, 2, "train/").to_pylist() == [f"train/{i:02d}" for i in range(101)]
    assert numbered(0, 2, "x").to_pylist() == []
    assert numbered(1, 2).type == pa.large_string()


def test_ids_never_become_a_list_of_texts():
    tracemalloc.start()
    try:
        numbered(100_000, 8, "train/")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20 * 100_000
