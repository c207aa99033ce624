"""Networks in files of other runtimes: a file gives the same vectors in each, or is refused in each."""

import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from kdbias.embedding.batches import require_consistent
from kdbias.errors import KdbiasError
from kdbias.teachers import Preprocessing, Teacher, open_teacher

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

SIZE = (4, 6)
PREPROCESSING = Preprocessing(SIZE, mean=(127.5,) * 3, std=(127.5,) * 3)
RUNTIMES = pytest.mark.parametrize("runtime", ["onnx", "openvino"])
FIRST, LAST = ["b", 3, 4, 6], ["b", 4, 6, 3]


def pixels(count: int = 5) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *SIZE, 3), dtype=np.uint8)


def flat(batch: np.ndarray, last: bool = False) -> np.ndarray:
    x = (batch.astype(np.float64) - 127.5) / 127.5
    return (x if last else x.transpose(0, 3, 1, 2)).reshape(len(batch), -1)


def write(path: Path, shape: list, nodes: list[tuple], outputs: dict[str, list], **kinds: str) -> str:
    """Save an ONNX graph of `nodes`, (operator, inputs, output, attributes), from "x" to `outputs`."""
    helper, types = onnx.helper, onnx.TensorProto
    constants = {"shape1": [1, -1], "shape3": [3, -1], "seven": [1, 7, -1]}
    graph = helper.make_graph(
        [helper.make_node(kind, inputs.split(), [out], **more) for kind, inputs, out, more in nodes],
        "tiny",
        [helper.make_tensor_value_info("x", getattr(types, kinds.get("x", "FLOAT")), shape)],
        [
            helper.make_tensor_value_info(name, getattr(types, kinds.get(name, "FLOAT")), axes)
            for name, axes in outputs.items()
        ],
        [onnx.numpy_helper.from_array(np.array(v, np.int64), name) for name, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return str(path)


FLATTEN = ("Flatten", "x", "y", {})


def opened(runtime: str, file: str, **options) -> Teacher:
    return open_teacher(f"{runtime}:{file}", preprocessing=PREPROCESSING, **options)


@RUNTIMES
@pytest.mark.parametrize("batch", ["b", 1, 3, 5])
@pytest.mark.parametrize("last", [False, True])
def test_any_fixed_batch_and_layout_gives_the_right_vectors(runtime, batch, last, tmp_path) -> None:
    axes = (LAST if last else FIRST)[1:]
    file = write(tmp_path / "n.onnx", [batch, *axes], [FLATTEN], {"y": [batch, 72]})
    teacher = opened(runtime, file)
    for count in (1, 2, 3, 5, 7):
        found = teacher.embed(pixels(count))
        np.testing.assert_allclose(found, flat(pixels(count), last), atol=1e-6)


@RUNTIMES
def test_a_file_that_reshapes_to_its_fixed_batch_is_fed_that_batch(runtime, tmp_path) -> None:
    for batch in (1, 3):
        reshape = ("Reshape", f"x shape{batch}", "y", {})
        file = write(tmp_path / "n.onnx", [batch, *FIRST[1:]], [reshape], {"y": [batch, 72]})
        np.testing.assert_allclose(opened(runtime, file).embed(pixels(5)), flat(pixels(5)), atol=1e-6)
    # The same graph that claims to take any batch spoils all but its own size.
    file = write(tmp_path / "n.onnx", FIRST, [("Reshape", "x shape1", "y", {})], {"y": ["b", "d"]})
    if runtime == "onnx":
        with pytest.raises(KdbiasError, match=r"gave float32 \(1, 360\) for 5 images"):
            opened(runtime, file).embed(pixels(5))
    else:
        np.testing.assert_allclose(opened(runtime, file).embed(pixels(5)), flat(pixels(5)), atol=1e-6)


@RUNTIMES
@pytest.mark.parametrize(
    "shape",
    [
        ["b", 3, 8, 6],
        ["b", 1, 4, 6],
        ["b", 4, 4, 6],
        ["b", "c", "h", 5],
        ["b", "h", "w", 1],
        [1, 6, 4, 3],
        ["b", 3, 24],
        ["b", 72],
        ["b", 1, 3, 4, 6],
    ],
)
def test_axes_that_do_not_fit_are_refused_with_both_sides(runtime, shape, tmp_path) -> None:
    file = write(tmp_path / "n.onnx", shape, [("Flatten", "x", "y", {})], {"y": ["b", "d"]})
    said = re.escape(", ".join("?" if isinstance(axis, str) else str(axis) for axis in shape))
    with pytest.raises(KdbiasError, match=rf"x float32 \({said}\)") as caught:
        opened(runtime, file)
    assert ("gives 4x6 (h x w) with 3 channels" in str(caught.value)) == (len(shape) == 4)


@RUNTIMES
@pytest.mark.parametrize(
    ("shape", "last"),
    [
        (["b", "c", "h", "w"], False),
        (["b", "c", 4, 6], False),
        (["b", 3, "h", "w"], False),
        (["b", "h", "w", 3], True),
        (["b", 4, 6, "c"], True),
        ([2, "h", 6, 3], True),
    ],
)
def test_open_axes_are_filled_and_fixed_ones_kept(runtime, shape, last, tmp_path) -> None:
    file = write(tmp_path / "n.onnx", shape, [FLATTEN], {"y": ["b", "d"]})
    np.testing.assert_allclose(opened(runtime, file).embed(pixels()), flat(pixels(), last), atol=1e-6)


@RUNTIMES
@pytest.mark.parametrize(("kind", "tolerance"), [("FLOAT16", 1e-3), ("DOUBLE", 1e-6)])
def test_other_floats_go_in_as_the_file_takes_them(runtime, kind, tolerance, tmp_path) -> None:
    file = write(tmp_path / "n.onnx", FIRST, [FLATTEN], {"y": ["b", 72]}, x=kind, y=kind)
    np.testing.assert_allclose(opened(runtime, file).embed(pixels()), flat(pixels()), atol=tolerance)


@RUNTIMES
def test_whole_numbers_in_and_out_are_refused(runtime, tmp_path) -> None:
    file = write(tmp_path / "n.onnx", FIRST, [FLATTEN], {"y": ["b", 72]}, x="INT32", y="INT32")
    with pytest.raises(
        KdbiasError, match=r"in float32, float64, float16, uint8; it has x int32 \(\?, 3, 4, 6\)"
    ):
        opened(runtime, file)
    nodes = [FLATTEN, ("Cast", "y", "z", {"to": onnx.TensorProto.INT32})]
    file = write(tmp_path / "n.onnx", FIRST, nodes, {"z": ["b", 72]}, z="INT32")
    with pytest.raises(KdbiasError, match="gave int32 values; embeddings must be floats"):
        opened(runtime, file)


@RUNTIMES
def test_a_map_is_refused_with_its_shape_and_a_pooled_one_taken(runtime, tmp_path) -> None:
    file = write(tmp_path / "n.onnx", FIRST, [("Relu", "x", "y", {})], {"y": ["b", 3, 4, 6]})
    with pytest.raises(KdbiasError, match=r"a map of shape \(1, 3, 4, 6\) for 1 image.*pool it"):
        opened(runtime, file)
    file = write(tmp_path / "n.onnx", FIRST, [("GlobalAveragePool", "x", "y", {})], {"y": ["b", 3, 1, 1]})
    wanted = flat(pixels()).reshape(5, 3, -1).mean(2)
    np.testing.assert_allclose(opened(runtime, file).embed(pixels()), wanted, atol=1e-6)


@RUNTIMES
def test_a_batch_that_is_not_the_first_axis_is_refused(runtime, tmp_path) -> None:
    moved = [FLATTEN, ("Transpose", "y", "z", {"perm": [1, 0]})]
    file = write(tmp_path / "n.onnx", FIRST, moved, {"z": [72, "b"]})
    with pytest.raises(KdbiasError, match=r"gave float32 \(72, 1\) for 1 image; it should give one vector"):
        opened(runtime, file)
    file = write(tmp_path / "n.onnx", [3, "b", 4, 6], [FLATTEN], {"y": [3, "d"]})
    with pytest.raises(KdbiasError, match=r"the first axis of x float32 \(3, \?, 4, 6\) seems"):
        opened(runtime, file)
    pooled = ("ReduceMean", "x", "y", {"axes": [0, 2, 3], "keepdims": 0})
    file = write(tmp_path / "n.onnx", FIRST, [pooled], {"y": [3]})
    with pytest.raises(KdbiasError, match=r"gave float32 \(3,\) for 1 image"):
        opened(runtime, file)
    # A network for one image alone: what it gives is that image's.
    file = write(tmp_path / "n.onnx", [1, 3, 4, 6], [pooled], {"y": [3]})
    wanted = flat(pixels()).reshape(5, 3, -1).mean(2)
    np.testing.assert_allclose(opened(runtime, file).embed(pixels()), wanted, atol=1e-6)
    # Pooled over a fixed batch there is one vector for three images.
    file = write(tmp_path / "n.onnx", [3, 3, 4, 6], [pooled, ("Reshape", "y shape1", "z", {})], {"z": [1, 3]})
    with pytest.raises(KdbiasError, match=r"gave float32 \(1, 3\) for 3 images"):
        opened(runtime, file)


TWO = {"y": ["b", 72], "logits": ["b", 72]}


@RUNTIMES
def test_of_several_outputs_the_named_one_is_taken(runtime, tmp_path) -> None:
    file = write(tmp_path / "n.onnx", FIRST, [FLATTEN, ("Neg", "y", "logits", {})], TWO)
    with pytest.raises(
        KdbiasError,
        match=r"has 2 outputs; choose one with --output NAME\|INDEX .*: 0: y float32 \(\?, 72\); 1: l",
    ):
        opened(runtime, file)
    for wrong in ("2", "-1", "vector"):
        with pytest.raises(KdbiasError, match=rf"has no output '{wrong}'; choose one .*1: logits float32"):
            opened(runtime, file, output=wrong)
    first, second = opened(runtime, file, output="y"), opened(runtime, file, output="1")
    np.testing.assert_allclose(first.embed(pixels()), flat(pixels()), atol=1e-6)
    np.testing.assert_allclose(second.embed(pixels()), -flat(pixels()), atol=1e-6)
    assert second.fingerprint == opened(runtime, file, output="logits").fingerprint != first.fingerprint
    assert "output logits" in second.describe()


def test_the_only_output_needs_no_name_and_may_have_one(tmp_path) -> None:
    file = write(tmp_path / "n.onnx", FIRST, [FLATTEN], {"y": ["b", 72]})
    bare = opened("onnx", file)
    assert bare.fingerprint == opened("onnx", file, output="y").fingerprint
    with pytest.raises(KdbiasError, match="has no output 'z'"):
        opened("onnx", file, output="z")
    with pytest.raises(KdbiasError, match="timm:test_resnet@random has no output 'y'"):
        open_teacher("timm:test_resnet@random", output="y")


SOURCE = """
import torch
import numpy as np
from collections import namedtuple

SIZES = {"size": [4, 6], "mean": [127.5], "std": [127.5]}
Both = namedtuple("Both", "map vector")

def network(form):
    def run(x):
        return form(x, x.flatten(1))
    run.fingerprint = "1"
    return run

def tuple_(device): return network(lambda m, v: (m, v)), SIZES
def named(device): return network(Both), SIZES
def dictionary(device): return network(lambda m, v: {"map": m, "vector": v}), SIZES
def only(device): return network(lambda m, v: [v]), SIZES
def map_(device): return network(lambda m, v: m), SIZES
def pooled(device): return network(lambda m, v: m.mean((2, 3), keepdim=True)), SIZES
def whole(device): return network(lambda m, v: (v * 10).int()), SIZES
def tokens(device): return network(lambda m, v: m.flatten(2).transpose(1, 2)), SIZES

class Object:
    preprocessing = SIZES
    def __init__(self, device): pass
    def embed(self, batch):
        x = ((batch.astype("f4") - 127.5) / 127.5).transpose(0, 3, 1, 2)
        return {"map": x, "vector": x.reshape(len(x), -1)}

class Rows(Object):
    def embed(self, batch): return list(Object.embed(self, batch)["vector"])

class Map(Object):
    def embed(self, batch): return Object.embed(self, batch)["map"]
"""


@pytest.fixture
def python(tmp_path):
    (tmp_path / "kdbias_test_outputs.py").write_text(SOURCE)
    return lambda name, **options: open_teacher(
        f"python:{tmp_path / 'kdbias_test_outputs.py'}:{name}", **options
    )


@pytest.mark.parametrize(
    ("name", "output"),
    [("tuple_", "1"), ("named", "vector"), ("named", "1"), ("dictionary", "vector"), ("Object", "vector")],
)
def test_python_s_several_outputs_follow_the_same_rule(python, name, output) -> None:
    teacher = python(name, output=output)
    np.testing.assert_allclose(teacher.embed(pixels()), flat(pixels()), atol=1e-6)
    with pytest.raises(
        KdbiasError, match=r"has 2 outputs; choose one with --output.*\(1, 3, 4, 6\).*\(1, 72\)"
    ):
        python(name)
    with pytest.raises(KdbiasError, match=r"a map of shape \(1, 3, 4, 6\) for 1 image"):
        python(name, output="0")
    assert f"output {teacher.output}" in teacher.describe()


def test_python_s_maps_and_whole_numbers_are_refused_and_lists_of_one_taken(python) -> None:
    for name, words in [
        ("map_", r"a map of shape \(1, 3, 4, 6\)"),
        ("tokens", r"a map of shape \(1, 24, 3\)"),
        ("Map", r"a map of shape \(1, 3, 4, 6\)"),
        ("whole", "gave int32 values"),
    ]:
        with pytest.raises(KdbiasError, match=words):
            python(name)
    for name in ("only", "Rows"):
        np.testing.assert_allclose(python(name).embed(pixels()), flat(pixels()), atol=1e-6)
    np.testing.assert_allclose(
        python("pooled").embed(pixels()), flat(pixels()).reshape(5, 3, -1).mean(2), atol=1e-6
    )


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_torchscript_follows_the_same_rule(tmp_path) -> None:
    class Both(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x, x.flatten(1)

    file = str(tmp_path / "both.pt")
    torch.jit.trace(Both(), torch.zeros(2, 3, 4, 6)).save(file)
    with pytest.raises(
        KdbiasError, match=r"2 outputs; choose .*0: 0 torch\.float32 \(1, 3, 4, 6\); 1: 1 torch"
    ):
        opened("torchscript", file)
    teacher = opened("torchscript", file, output="1")
    np.testing.assert_allclose(teacher.embed(pixels()), flat(pixels()), atol=1e-6)
    with pytest.raises(KdbiasError, match="a map of shape"):
        opened("torchscript", file, output="0")


def test_the_command_line_chooses_an_output_and_records_it(tmp_path) -> None:
    import json

    from click.testing import CliRunner
    from PIL import Image

    from kdbias.cli import main

    for i, image in enumerate(pixels(4)):
        (tmp_path / "photos" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "photos" / "ab"[i % 2] / f"{i}.png")
    file = write(tmp_path / "n.onnx", FIRST, [FLATTEN, ("Neg", "y", "logits", {})], TWO)
    (tmp_path / "n.toml").write_text("[preprocessing]\nsize = [4, 6]\nmean = [127.5]\nstd = [127.5]\n")
    data, spec = str(tmp_path / "photos"), f"onnx:{file}"
    embed = ["embed", data, "--teacher", spec, "--workers", "0", "--store", "float32"]
    refused = CliRunner().invoke(main, [*embed, "-o", str(tmp_path / "e")])
    assert refused.exit_code == 2
    assert "choose one with --output NAME|INDEX (kdbias embed, evaluate): 0: y" in refused.output
    vectors = {}
    for output in ("y", "logits"):
        out = tmp_path / output
        assert CliRunner().invoke(main, [*embed, "-o", str(out), "--output", output]).exit_code == 0
        assert json.loads((out / "run.json").read_text())["teacher_output"] == output
        table = pq.read_table(next(out.glob("part-*.parquet")))
        vectors[output] = np.stack(table.column("embedding").to_pylist())
    np.testing.assert_allclose(vectors["y"], -vectors["logits"], atol=1e-6)
    changed = CliRunner().invoke(main, [*embed, "-o", str(tmp_path / "y"), "--output", "1"])
    assert (changed.exit_code, "input teacher is another one" in changed.output) == (2, True)
    judge = ["evaluate", spec, "--data", data, "-o", str(tmp_path / "s"), "--k", "1", "--workers", "0"]
    assert CliRunner().invoke(main, judge).exit_code == 2
    assert CliRunner().invoke(main, [*judge, "--output", "1"]).exit_code == 0


@RUNTIMES
def test_a_published_network_for_one_image_is_the_same_in_both_runtimes(runtime, real_data) -> None:
    file = real_data / "teachers" / "mobilefacenet_foamliu_128d.onnx"
    teacher = open_teacher(f"{runtime}:{file}")
    images = np.random.default_rng(0).integers(0, 256, (3, 112, 112, 3), dtype=np.uint8)
    assert teacher.dim == 128
    assert require_consistent(teacher, images) > 0.9999
    other = open_teacher(f"{'openvino' if runtime == 'onnx' else 'onnx'}:{file}").embed(images[:1])
    np.testing.assert_allclose(teacher.embed(images)[:1], other, rtol=1e-3, atol=1e-3)
