"""Teachers in other runtimes: on tiny networks made here, and on published ones where they are at hand."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from kdbias.data.decode import decode_image
from kdbias.embedding.batches import require_consistent
from kdbias.errors import KdbiasError
from kdbias.teachers import Preprocessing, open_teacher
from kdbias.teachers.side_car import shipped_names, shipped_preprocessing

SIDE_CAR = "[preprocessing]\nsize = [4, 6]\nmean = [127.5]\nstd = [127.5]\n"
PREPROCESSING = Preprocessing((4, 6), mean=(127.5,) * 3, std=(127.5,) * 3)


def pixels(count: int = 5, size: tuple[int, int] = (4, 6), channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *size, channels), dtype=np.uint8)


def weights() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(72, 7)).astype(np.float32)


def wanted(batch: np.ndarray) -> np.ndarray:
    x = (batch.astype(np.float64) - 127.5) / 127.5
    return x.transpose(0, 3, 1, 2).reshape(len(batch), -1) @ weights()


def write_onnx(path: Path, batch: int | str = "batch", axes=(3, 4, 6), kind: str = "FLOAT") -> None:
    """A linear map of the flattened image; `axes` and `kind` are what it says of its input."""
    onnx = pytest.importorskip("onnx")
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("Cast", ["pixels"], ["image"], to=float32),
        helper.make_node("Flatten", ["image"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "weights"], ["vector"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("pixels", getattr(onnx.TensorProto, kind), [batch, *axes])],
        [helper.make_tensor_value_info("vector", float32, [batch, 7])],
        [onnx.numpy_helper.from_array(weights(), "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize("batch", ["batch", 1, 3])
def test_onnx_computes_what_it_should_at_any_fixed_batch(tmp_path, batch) -> None:
    pytest.importorskip("onnxruntime")
    write_onnx(tmp_path / "tiny.onnx", batch)
    (tmp_path / "tiny.toml").write_text(SIDE_CAR)
    teacher = open_teacher(f"onnx:{tmp_path / 'tiny.onnx'}")
    assert (teacher.dim, teacher.preprocessing) == (7, PREPROCESSING)
    np.testing.assert_allclose(teacher.embed(pixels()), wanted(pixels()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_a_file_that_leaves_all_axes_open_takes_channels_first(tmp_path, runtime) -> None:
    pytest.importorskip({"onnx": "onnxruntime"}.get(runtime, runtime))
    write_onnx(tmp_path / "tiny.onnx", axes=("c", "h", "w"))
    teacher = open_teacher(f"{runtime}:{tmp_path / 'tiny.onnx'}", preprocessing=PREPROCESSING)
    np.testing.assert_allclose(teacher.embed(pixels()), wanted(pixels()), rtol=1e-4, atol=1e-4)


def test_onnx_channels_last_are_seen_by_their_place(tmp_path) -> None:
    pytest.importorskip("onnxruntime")
    write_onnx(tmp_path / "tiny.onnx", axes=("h", "w", 3))
    teacher = open_teacher(f"onnx:{tmp_path / 'tiny.onnx'}", preprocessing=PREPROCESSING)
    flat = ((pixels() - 127.5) / 127.5).reshape(5, -1)
    np.testing.assert_allclose(teacher.embed(pixels()), flat @ weights(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_a_network_of_uint8_pixels_takes_no_normalised_ones(tmp_path, runtime) -> None:
    pytest.importorskip({"onnx": "onnxruntime"}.get(runtime, runtime))
    write_onnx(tmp_path / "tiny.onnx", kind="UINT8")
    spec = f"{runtime}:{tmp_path / 'tiny.onnx'}"
    with pytest.raises(KdbiasError, match=r"takes uint8 pixels.*mean \(127\.5,.*should have mean = \[0\]"):
        open_teacher(spec, preprocessing=PREPROCESSING)
    teacher = open_teacher(spec, preprocessing=Preprocessing((4, 6), mean=(0,), std=(1,)))
    raw = pixels().transpose(0, 3, 1, 2).reshape(5, -1).astype(np.float64)
    np.testing.assert_allclose(teacher.embed(pixels()), raw @ weights(), rtol=1e-4, atol=1e-2)


def test_onnx_refusals(tmp_path) -> None:
    pytest.importorskip("onnxruntime")
    write_onnx(tmp_path / "tiny.onnx")
    spec = f"onnx:{tmp_path / 'tiny.onnx'}"
    with pytest.raises(KdbiasError, match=r"(?s)write tiny\.toml beside it.*size = "):
        open_teacher(spec)
    (tmp_path / "tiny.onnx.toml").write_text(SIDE_CAR.replace("4, 6", "8, 6"))
    with pytest.raises(KdbiasError, match=r"takes input of shape .*the preprocessing gives 8x6"):
        open_teacher(spec)
    with pytest.raises(KdbiasError, match="does not take --precision bf16"):
        open_teacher(spec, preprocessing=PREPROCESSING, precision="bf16")
    with pytest.raises(KdbiasError, match="does not take --channels-last"):
        open_teacher(spec, preprocessing=PREPROCESSING, channels_last=True)
    (tmp_path / "tiny.onnx").write_bytes(b"no network")
    with pytest.raises(KdbiasError, match="cannot be read"):
        open_teacher(spec, preprocessing=PREPROCESSING)


def test_openvino_computes_what_it_should_and_states_its_precision(tmp_path) -> None:
    pytest.importorskip("openvino")
    write_onnx(tmp_path / "tiny.onnx")
    teacher = open_teacher(f"openvino:{tmp_path / 'tiny.onnx'}", preprocessing=PREPROCESSING)
    np.testing.assert_allclose(teacher.embed(pixels(40)), wanted(pixels(40)), rtol=1e-4, atol=1e-4)
    compiled = teacher._requests[0].get_compiled_model()
    assert compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"
    with pytest.raises(KdbiasError, match="no such file"):
        open_teacher("openvino:/nonexistent.xml")


USE_AND_DROP = """
import numpy as np
from kdbias.teachers import Preprocessing, open_teacher

for _ in range(40):
    teacher = open_teacher("openvino:tiny.onnx", preprocessing=Preprocessing((4, 6)))
    teacher.embed(np.zeros((40, 4, 6, 3), np.uint8))
    model = teacher._requests[0].get_compiled_model()
    del teacher
    del model  # now its threads end
"""


def test_openvino_teachers_are_dropped_without_waiting_for_themselves(tmp_path) -> None:
    pytest.importorskip("openvino")
    write_onnx(tmp_path / "tiny.onnx")
    # In a process of its own, since one that hangs here cannot be stopped from within.
    subprocess.run([sys.executable, "-c", USE_AND_DROP], cwd=tmp_path, timeout=120, check=True)


OPEN_AND_INTERRUPT = """
import os, signal, threading
from kdbias.teachers import Preprocessing, open_teacher

def opened():
    return open_teacher("openvino:tiny.onnx", preprocessing=Preprocessing((4, 6)))

signal.signal(signal.SIGINT, lambda *_: print("heard", flush=True))
teacher = opened()
teacher = opened()  # before the first one is dropped
del teacher
os.kill(os.getpid(), signal.SIGINT)
dropped = [opened()]
thread = threading.Thread(target=dropped.clear)
thread.start()
thread.join()
os.kill(os.getpid(), signal.SIGINT)
"""


@pytest.mark.parametrize("stack", [(), ("-X", "faulthandler")], ids=["no stack", "a stack"])
def test_signals_are_heard_after_openvino_teachers_are_dropped(stack, tmp_path) -> None:
    pytest.importorskip("openvino")
    write_onnx(tmp_path / "tiny.onnx")
    # In a process of its own, since one whose stack for signals is gone dies.
    command = [sys.executable, *stack, "-c", OPEN_AND_INTERRUPT]
    done = subprocess.run(command, cwd=tmp_path, timeout=120, check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["heard", "heard"]


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_torchscript_says_that_it_runs_code(tmp_path) -> None:
    class Tiny(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = torch.nn.Parameter(torch.from_numpy(weights()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1) @ self.weights

    file = tmp_path / "tiny.pt"
    torch.jit.trace(Tiny(), torch.zeros(2, 3, 4, 6)).save(str(file))
    teacher = open_teacher(f"torchscript:{file}", preprocessing=PREPROCESSING)
    np.testing.assert_allclose(teacher.embed(pixels()), wanted(pixels()), rtol=1e-4, atol=1e-4)
    assert "runs its author's code" in teacher.describe()
    file.write_bytes(b"no script")
    with pytest.raises(KdbiasError, match="is no TorchScript file"):
        open_teacher(f"torchscript:{file}", preprocessing=PREPROCESSING)


def test_timm_network_and_its_stated_preprocessing(tmp_path) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(3)
    network = timm.create_model("test_resnet", num_classes=0)
    torch.save(network.state_dict(), tmp_path / "t.pt")
    teacher = open_teacher(f"timm:test_resnet@{tmp_path / 't.pt'}")
    config = timm.data.resolve_model_data_config(network)
    assert teacher.preprocessing.size == config["input_size"][1:]
    images = pixels(3, teacher.preprocessing.size)
    with torch.inference_mode():
        expected = network.eval()(teacher.preprocessing.normalise(torch.from_numpy(images))).numpy()
    np.testing.assert_allclose(teacher.embed(images), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(KdbiasError, match="timm has no network 'test_resnat'"):
        open_teacher("timm:test_resnat@random")


def test_timm_preprocessing_gives_timms_own_pixels() -> None:
    timm = pytest.importorskip("timm")
    from PIL import Image

    teacher = open_teacher("timm:test_resnet@random")
    image = np.random.default_rng(4).integers(0, 256, (200, 260, 3), dtype=np.uint8)
    config = timm.data.resolve_model_data_config(teacher._network)
    expected = timm.data.create_transform(**config, is_training=False)(Image.fromarray(image))
    got = teacher.preprocessing.normalise(torch.from_numpy(teacher.preprocessing.apply(image)[None]))[0]
    torch.testing.assert_close(got, expected, atol=2e-5, rtol=0)


def test_kdbias_network_takes_its_dimension_from_the_weights(tmp_path) -> None:
    from kdbias.networks import build_network

    network = build_network("convnet", dim=24, image_size=(16, 16))
    torch.save({"state_dict": network.state_dict()}, tmp_path / "c.pt")
    (tmp_path / "c.toml").write_text("[preprocessing]\nsize = [16, 16]\n")
    teacher = open_teacher(f"kdbias:convnet@{tmp_path / 'c.pt'}")
    assert teacher.dim == 24
    images = pixels(3, (16, 16))
    with torch.inference_mode():
        expected = network.eval()(teacher.preprocessing.normalise(torch.from_numpy(images))).numpy()
    np.testing.assert_allclose(teacher.embed(images), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(KdbiasError, match="name its weights"):
        open_teacher("kdbias:convnet")


def test_cifar_weights_with_an_embedding_layer_keep_it_and_code_is_refused(tmp_path) -> None:
    from kdbias.networks import build_network

    network = build_network("cifar_resnet20", dim=24)
    np.savez(tmp_path / "c.npz", **{key: value.numpy() for key, value in network.state_dict().items()})
    assert open_teacher(f"kdbias:cifar_resnet20@{tmp_path / 'c.npz'}").dim == 24
    np.savez(tmp_path / "code.npz", weight=np.array([print], dtype=object))
    with pytest.raises(KdbiasError, match="not a file of plain arrays"):
        open_teacher(f"kdbias:cifar_resnet20@{tmp_path / 'code.npz'}")


def test_side_car_order_is_option_file_shipped_name(tmp_path) -> None:
    pytest.importorskip("onnxruntime")
    write_onnx(tmp_path / "tiny.onnx")
    spec = f"onnx:{tmp_path / 'tiny.onnx'}"
    (tmp_path / "tiny.toml").write_text(SIDE_CAR.replace("127.5", "1.0"))
    assert open_teacher(spec).preprocessing.mean == (1.0, 1.0, 1.0)
    (tmp_path / "tiny.onnx.toml").write_text(SIDE_CAR.replace("127.5", "2.0"))
    assert open_teacher(spec).preprocessing.mean == (2.0, 2.0, 2.0)
    (tmp_path / "other.toml").write_text(SIDE_CAR)
    assert open_teacher(spec, preprocessing=str(tmp_path / "other.toml")).preprocessing == PREPROCESSING
    with pytest.raises(KdbiasError, match=r"'arcface_113' is neither a file nor one of arcface_112"):
        open_teacher(spec, preprocessing="arcface_113")


def test_every_shipped_description_reads_and_round_trips() -> None:
    assert {"arcface_112", "face-reidentification-retail-0095"} <= set(shipped_names())
    for name in shipped_names():
        preprocessing = shipped_preprocessing(name)
        assert Preprocessing.from_dict(json.loads(json.dumps(preprocessing.to_dict()))) == preprocessing


# Published networks on real images


@pytest.mark.parametrize(
    ("model", "images", "stored"),
    [
        ("face-reidentification-retail-0095", "lfw112/lfw_arc112", "lfw112/lfw_ov0095_f16"),
        (
            "person-reidentification-retail-0277",
            "market1501_train/market1501_train",
            "market1501_train/market_ov0277_f16",
        ),
    ],
)
def test_published_teacher_reproduces_stored_embeddings(real_data, model, images, stored) -> None:
    pytest.importorskip("openvino")
    teacher = open_teacher(f"openvino:{real_data / 'teachers' / model}.xml")
    column = pq.ParquetFile(real_data / f"{images}.parquet").read(columns=["image"]).column(0)
    rows = np.random.default_rng(7).choice(len(column), 48, replace=False)
    batch = np.stack([teacher.preprocessing.apply(decode_image(column[int(i)].as_py())) for i in rows])
    got = teacher.embed(batch)
    known = np.load(real_data / f"{stored}.npy", mmap_mode="r")[rows].astype(np.float32)
    cosines = (got * known).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(known, axis=1)
    assert cosines.min() > 0.9999


def test_published_cifar_networks_reproduce_stored_features(real_data) -> None:
    folder = real_data / "teachers"
    teacher = open_teacher(f"kdbias:cifar_resnet56@{folder / 'cifar10_resnet56.npz'}")
    column = pq.ParquetFile(real_data / "cifar10_30k/cifar10_jpeg.parquet").read(columns=["image"]).column(0)
    rows = np.random.default_rng(7).choice(len(column), 500, replace=False)
    batch = np.stack([teacher.preprocessing.apply(decode_image(column[int(i)].as_py())) for i in rows])
    got = teacher.embed(batch)
    known = np.load(real_data / "cifar10_30k/cifar10_resnet56_f16.npy", mmap_mode="r")[rows].astype("f4")
    cosines = (got * known).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(known, axis=1)
    assert cosines.min() > 0.999  # the stored ones were computed in bfloat16
    small = open_teacher(f"kdbias:cifar_resnet20@{folder / 'cifar10_resnet20.npz'}")
    assert small.dim == 64
    assert small.embed(batch[:2]).min() >= 0


def test_onnx_export_that_is_broken_beyond_batch_1_is_kept_at_1_or_refused(real_data, tmp_path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    file = real_data / "teachers" / "mobilefacenet_foamliu_128d.onnx"
    teacher = open_teacher(f"onnx:{file}")
    assert teacher.dim == 128
    assert require_consistent(teacher, pixels(4, (112, 112))) > 0.9999
    model = onnx.load(str(file))
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.save(model, str(tmp_path / "mobilefacenet_foamliu_128d.onnx"))
    loose = open_teacher(f"onnx:{tmp_path / 'mobilefacenet_foamliu_128d.onnx'}")
    with pytest.raises(KdbiasError, match=r"gave float32 \(1, 512\) for 4 images"):
        require_consistent(loose, pixels(4, (112, 112)))


def test_onnx_reid_network_is_consistent(real_data) -> None:
    pytest.importorskip("onnxruntime")
    teacher = open_teacher(f"onnx:{real_data / 'teachers' / 'osnet_x0_25_msmt17_512d.onnx'}")
    assert teacher.dim == 512
    assert require_consistent(teacher, pixels(6, (256, 128))) > 0.9999
