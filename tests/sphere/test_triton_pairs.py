"""The fused kernels, run by Triton's interpreter; the invariants of all back-ends are in `test_backends`."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kdbias.errors import KdbiasError
from kdbias.sphere import triton_pairs, triton_tiles
from kdbias.sphere.all_pairs import AllPairs, all_pairs
from kdbias.sphere.half_terms import HalfTerms
from tests import reference

Pairs = Callable[..., AllPairs]
torch = pytest.importorskip("torch")


def stored_as_half(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows as a table keeps them, float16, and as it gives them, float32 of length one."""
    half = x.astype(np.float16)
    return half, reference.unit_rows(half).astype(np.float32)


@pytest.mark.parametrize("d", [1, 2, 3, 16, 100, 512, 2048])
def test_rows_of_a_float16_table_are_found_again(d: int) -> None:
    half, x = stored_as_half(reference.random_sphere(200, d))
    terms = HalfTerms.of(x, "cpu")
    assert terms.low is None
    np.testing.assert_array_equal(terms.high[:, :d].numpy(), half)
    assert not terms.high[:, d:].any()
    np.testing.assert_allclose(terms.rows(slice(0, 200)).numpy()[:, :d], x, rtol=2.0**-22)


@pytest.mark.parametrize("d", [2, 100, 2048])
def test_other_rows_take_two_terms(d: int) -> None:
    x = reference.random_sphere(300, d)
    x[7] = 0
    x[7, :2] = np.float32([1, 1e-6])  # less than float16 holds beside 1
    terms = HalfTerms.of(x, "cpu")
    assert terms.low is not None
    high, low = (part.numpy().astype(np.float64) for part in (terms.high, terms.low))
    found = high @ high.T + (high @ low.T + low @ high.T) / 2048
    wide = x.astype(np.float64)
    assert np.abs(found - wide @ wide.T).max() < 3 * 2.0**-22
    np.testing.assert_allclose(terms.rows(slice(0, 300)).numpy()[:, :d], x, atol=2.0**-36, rtol=2.0**-22)


@pytest.mark.parametrize("d", [5, 100, 2048])
@pytest.mark.parametrize("store", ["float16", "float32"])
def test_potentials_are_those_of_float32(interpreted: Pairs, store: str, d: int) -> None:
    x = reference.clustered_sphere(150, d, 9)
    if store == "float16":
        x = stored_as_half(x)[1]
    bandwidths = (2.0, 4.0, 8.0)
    found = interpreted(x, bandwidths, tile=128)
    for index, t in enumerate(bandwidths):
        ratio = found.potentials[0, index] / reference.potentials(x, t)
        assert np.abs(ratio - 1).max() < 4e-7 * t


@pytest.mark.parametrize("store", ["float16", "float32"])
@pytest.mark.parametrize(("n", "k", "tile"), [(211, 9, 64), (70, 69, 32), (97, 1, 97)])
def test_neighbours_are_those_of_the_cpu(
    interpreted: Pairs, monkeypatch: pytest.MonkeyPatch, store: str, n: int, k: int, tile: int
) -> None:
    """Copies and ties among them, and a first bar from a part of a tile."""
    monkeypatch.setattr(triton_pairs, "_SAMPLED", 24)
    x = reference.clustered_sphere(n, 20, 9)
    if store == "float16":
        x = stored_as_half(x)[1]
    x[30:60] = x[5]
    x[n - 1] = x[0]
    found, expected = interpreted(x, k=k, tile=tile), all_pairs(x, k=k)
    np.testing.assert_allclose(found.cosines, expected.cosines, atol=5e-7)
    np.testing.assert_array_equal(found.ids, expected.ids)


def test_neighbours_do_not_depend_on_bars_or_room(
    interpreted: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first bar that is too high leaves samples short; one that is too low overflows their buffers."""
    x = stored_as_half(reference.clustered_sphere(180, 12, 4))[1]
    again: list[int] = []
    original = triton_pairs._Nearest._again

    def noted(self, samples, others) -> None:
        again.append(len(samples))
        original(self, samples, others)

    monkeypatch.setattr(triton_pairs._Nearest, "_again", noted)
    plain = interpreted(x, [2.0], k=5)
    monkeypatch.setattr(triton_pairs, "_SAMPLED", 6)
    assert not again
    for slack in (-0.2, 2.0):
        monkeypatch.setattr(triton_pairs, "_SLACK", slack)
        monkeypatch.setattr(triton_pairs, "_ROOM", 1)
        again.clear()
        found = interpreted(x, [2.0], k=5)
        assert again
        np.testing.assert_array_equal(found.ids, plain.ids)
        np.testing.assert_array_equal(found.cosines, plain.cosines)
        np.testing.assert_array_equal(found.potentials, plain.potentials)


def test_a_full_device_gets_smaller_tiles(
    interpreted: Pairs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original, sizes = triton_tiles.FusedTiles.tile, []

    def tile(self, rows, *args, **options):
        sizes.append(len(rows))
        if sizes[-1] > 300:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return original(self, rows, *args, **options)

    monkeypatch.setattr(triton_tiles.FusedTiles, "tile", tile)
    x = reference.clustered_sphere(600, 8, 5)
    found = interpreted(x, [3.0], tile=1024)
    np.testing.assert_allclose(found.potentials[0, 0], reference.potentials(x, 3.0), rtol=2e-6)
    assert sizes[:3] == [600, 512, 256]
    assert "cpu:0 is out of memory: starting over with tile 256" in capsys.readouterr().err
    monkeypatch.setattr(triton_tiles.FusedTiles, "tile", lambda self, *a: tile(self, range(301)))
    with pytest.raises(KdbiasError, match="too little free memory"):
        interpreted(x, [3.0], tile=1024)


def test_progress_counts_every_pair_once(interpreted: Pairs) -> None:
    x = reference.random_sphere(90, 4)
    for asked in ({"k": 3}, {"bandwidths": [2.0]}, {"k": 3, "bandwidths": [2.0], "near": 0.9}):
        done: list[int] = []
        interpreted(x, tile=32, progress=done.append, **asked)
        assert sum(done) == 90 * 90


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from kdbias.sphere.triton_kernel import block_kernel

types = dict.fromkeys(block_kernel.arg_names, "i32")
types |= dict.fromkeys(("high", "low"), "*fp16") | dict.fromkeys(("scales", "along"), "*fp32")
types |= dict.fromkeys(("row_ids", "codes", "bars", "row_found", "column_found"), "*i64")
types |= dict.fromkeys(("row_counts", "column_counts", "row_filled", "column_filled"), "*i32")
types |= {"factors": "*fp64", "near": "fp32"}
for side, wide, split, mean, emit in ((64, 0, 0, 0, 1), (32, 0, 1, 1, 0), (32, 2, 0, 0, 0)):
    known = dict(B=side, STEP=32, SPLIT=split, DIAGONAL=1, MIRRORED=1, S=2, SQUARED=2 - wide, WIDE=wide)
    known |= dict(MEAN=mean, CODES=mean, COUNT=emit, EMIT=emit)
    sums = dict.fromkeys(("row_sums", "column_sums", "along"), "*fp64" if wide else "*fp32")
    signature = {name: (types | sums | dict.fromkeys(known, "constexpr"))[name] for name in types}
    source = ASTSource(fn=block_kernel, signature=signature, constexprs=known)
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4})
    assert made.asm["cubin"]
"""


def test_the_kernel_compiles_for_a_gpu(tmp_path: Path) -> None:
    """What the interpreter runs is Python; whether a GPU could run it only its compiler says."""
    pytest.importorskip("triton")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    ran = subprocess.run(
        [sys.executable, "-c", COMPILE],
        env=environment | {"TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    if "ImportError" in ran.stderr:
        pytest.skip("this Triton compiles by other names")
    assert ran.returncode == 0, ran.stderr[-2000:]


def test_kernels_are_trusted_where_they_give_what_float64_gives(
    interpreter: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    triton_pairs.gives_float64.cache_clear()
    assert triton_pairs.gives_float64("cpu:0")
    real = triton_pairs.fused_pairs

    def wrong(*args: object) -> object:
        sums, best, counts = real(*args)
        return sums * (1 + 1e-3), best, counts

    def broken(*args: object) -> object:
        raise RuntimeError("no such instruction\nand a page of assembly")

    for instead, said in ((wrong, "not those of float64"), (broken, "RuntimeError: no such instruction)")):
        triton_pairs.gives_float64.cache_clear()
        monkeypatch.setattr(triton_pairs, "fused_pairs", instead)
        assert not triton_pairs.gives_float64("cpu:0")
        assert said in capsys.readouterr().err
    triton_pairs.gives_float64.cache_clear()
