"""Each teacher back-end against its library used directly, and what it refuses."""

import pickle
import re
import socket
from pathlib import Path

import numpy as np
import pytest
import torch

from kdbias.errors import KdbiasError
from kdbias.teachers import Preprocessing, TeacherOptions, open_teacher
from kdbias.teachers.torch_module import TorchTeacher


def batch(teacher, count: int = 3, seed: int = 0) -> np.ndarray:
    h, w = teacher.preprocessing.size
    shape = (count, h, w, teacher.preprocessing.channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def normalised(images: np.ndarray, teacher) -> torch.Tensor:
    return teacher.preprocessing.normalise(torch.from_numpy(images))


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """Preprocessing that shrinks networks' input, for speed."""
    path = tmp_path_factory.mktemp("toml") / "small.toml"
    path.write_text("[preprocessing]\nsize = [32, 32]\n")
    return path


@pytest.fixture(scope="module")
def resnet_state(tmp_path_factory) -> tuple[Path, torch.nn.Module]:
    from torchvision.models import resnet18

    torch.manual_seed(5)
    network = resnet18(weights=None, num_classes=7)
    path = tmp_path_factory.mktemp("weights") / "resnet18.pt"
    torch.save({"state_dict": {f"module.{k}": v for k, v in network.state_dict().items()}}, path)
    return path, network


def test_a_server_that_says_nothing_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes the connection, as a proxy behind a firewall does, and never answers."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("kdbias.networks.libraries._SILENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{mute.getsockname()[1]}")
        with pytest.raises(KdbiasError, match=r"cannot get .*timed out.*copy it into"):
            open_teacher("torchvision:squeezenet1_1")
    assert socket.getdefaulttimeout() is None


def test_torchvision_file_gives_the_networks_pooled_features(resnet_state, small) -> None:
    path, network = resnet_state
    teacher = open_teacher(f"torchvision:resnet18@{path}", preprocessing=str(small))
    assert teacher.dim == 512
    images = batch(teacher)
    network.fc = torch.nn.Identity()
    with torch.inference_mode():
        wanted = network.eval()(normalised(images, teacher)).numpy()
    np.testing.assert_allclose(teacher.embed(images), wanted, rtol=1e-4, atol=1e-5)


def test_torchvision_npz_state_is_the_same_teacher(resnet_state, small, tmp_path) -> None:
    path, network = resnet_state
    np.savez(tmp_path / "r.npz", **{k: v.numpy() for k, v in network.state_dict().items() if "fc" not in k})
    a = open_teacher(f"torchvision:resnet18@{path}", preprocessing=str(small))
    b = open_teacher(f"torchvision:resnet18@{tmp_path / 'r.npz'}", preprocessing=str(small))
    assert a.fingerprint == b.fingerprint


@pytest.mark.parametrize(
    ("name", "dim"),
    [
        ("mobilenet_v3_small", 1024),
        ("squeezenet1_1", 512),
        ("shufflenet_v2_x0_5", 1024),
        ("densenet121", 1024),
    ],
)
def test_classifier_is_cut_in_every_family(name, dim, small) -> None:
    assert open_teacher(f"torchvision:{name}@random", preprocessing=str(small)).dim == dim


def test_random_teacher_repeats_by_seed_and_leaves_the_callers_numbers_alone(small) -> None:
    torch.manual_seed(1)
    wanted = torch.rand(3)
    torch.manual_seed(1)
    one = open_teacher("torchvision:shufflenet_v2_x0_5@random:4", preprocessing=str(small))
    assert torch.equal(torch.rand(3), wanted)
    same = open_teacher("torchvision:shufflenet_v2_x0_5@random:4", preprocessing=str(small))
    other = open_teacher("torchvision:shufflenet_v2_x0_5@random:5", preprocessing=str(small))
    assert one.fingerprint == same.fingerprint != other.fingerprint


def test_preprocessing_is_the_published_one_and_part_of_the_fingerprint(small) -> None:
    published = open_teacher("torchvision:shufflenet_v2_x0_5@random")
    assert published.preprocessing == Preprocessing((224, 224), shorter_side=256)
    shrunk = open_teacher("torchvision:shufflenet_v2_x0_5@random", preprocessing=str(small))
    assert shrunk.fingerprint != published.fingerprint


@pytest.mark.parametrize(("name", "last"), [("googlenet", "fc"), ("densenet121", "classifier")])
def test_published_weights_give_torchvisions_own_network(name, last, small, monkeypatch, tmp_path) -> None:
    """GoogLeNet then rescales its input, and DenseNet's file has the names of an older torchvision."""
    from torchvision import models
    from torchvision.models._api import WeightsEnum

    torch.manual_seed(6)
    fast = {"init_weights": False} if name == "googlenet" else {}
    state = models.get_model(name, weights=None, **fast).state_dict()
    as_published = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", key): value
        for key, value in state.items()
        if not key.endswith("num_batches_tracked")
    }
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda self, **options: dict(as_published))
    official = models.get_model(name, weights="DEFAULT").eval()
    setattr(official, last, torch.nn.Identity())
    torch.manual_seed(1)
    wanted_next = torch.rand(3)
    torch.manual_seed(1)
    teacher = open_teacher(f"torchvision:{name}", preprocessing=str(small))
    assert torch.equal(torch.rand(3), wanted_next)
    images = batch(teacher)
    with torch.inference_mode():
        wanted = official(normalised(images, teacher)).numpy()
    close = {"rtol": 0, "atol": 1e-4 * np.abs(wanted).max()}
    np.testing.assert_allclose(teacher.embed(images), wanted, **close)
    torch.save(state, tmp_path / "local.pt")
    local = open_teacher(f"torchvision:{name}@{tmp_path / 'local.pt'}", preprocessing=str(small))
    np.testing.assert_allclose(local.embed(images), wanted, **close)


def test_download_failure_is_one_line_with_a_way_out(monkeypatch) -> None:
    import urllib.request

    def offline(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    monkeypatch.setenv("TORCH_HOME", "/nonexistent-kdbias-test")
    monkeypatch.setattr("os.makedirs", lambda *args, **kwargs: None)
    with pytest.raises(KdbiasError, match=r"cannot get .*copy it into /nonexistent-kdbias-test/") as caught:
        open_teacher("torchvision:shufflenet_v2_x0_5@IMAGENET1K_V1")
    assert "\n" not in str(caught.value)


class Bomb:
    def __reduce__(self):
        return Path.touch, (Path("exploded"),)


def test_pickles_with_code_are_not_executed(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"conv1.weight": Bomb()}, "bomb.pt", pickle_protocol=2)
    Path("bomb.pkl").write_bytes(pickle.dumps(Bomb(), protocol=2))
    np.savez("bomb.npz", x=np.array([Bomb()], dtype=object))
    for file in ["bomb.pt", "bomb.pkl", "bomb.npz"]:
        with pytest.raises(KdbiasError):
            open_teacher(f"torchvision:resnet18@{file}")
    assert not Path("exploded").exists()
    torch.load("bomb.pt", weights_only=False)  # the fixture is a real bomb
    assert Path("exploded").exists()


def test_wrong_weights_are_refused_by_tensor(resnet_state, tmp_path) -> None:
    path, network = resnet_state
    with pytest.raises(KdbiasError, match=r"lacks \d+ of the network's"):
        open_teacher(f"torchvision:shufflenet_v2_x0_5@{path}")
    state = network.state_dict()
    state["conv1.weight"] = torch.zeros(64, 1, 7, 7)
    torch.save(state, tmp_path / "grey.pt")
    with pytest.raises(KdbiasError, match=r"conv1.weight has shape \(64, 1, 7, 7\)"):
        open_teacher(f"torchvision:resnet18@{tmp_path / 'grey.pt'}")


def test_tensors_without_a_place_are_refused_whatever_the_library(resnet_state, small, tmp_path) -> None:
    timm = pytest.importorskip("timm")
    deeper = {"layer4.2.conv1.weight": torch.ones(4, 4, 3, 3)}
    published = timm.create_model("test_resnet", num_classes=3).state_dict()
    torch.save({"model": resnet_state[1].state_dict() | deeper}, tmp_path / "tv.pt")
    torch.save({"model": published | deeper}, tmp_path / "timm.pt")
    for spec in (f"torchvision:resnet18@{tmp_path / 'tv.pt'}", f"timm:test_resnet@{tmp_path / 'timm.pt'}"):
        with pytest.raises(
            KdbiasError, match=r"1 of its \d+ tensors find no place .*layer4\.2\.conv1\.weight"
        ):
            open_teacher(spec)
    torch.save({"model_ema": published}, tmp_path / "timm.pt")
    teacher = open_teacher(f"timm:test_resnet@{tmp_path / 'timm.pt'}")
    assert teacher.note.startswith("weights taken from [model_ema]; left out: model_ema.fc.weight (3, ")


def test_a_copy_is_named_after_the_file_beside_its_side_car(tmp_path) -> None:
    from kdbias.networks import build_network

    torch.manual_seed(0)
    student, teacher = (build_network("convnet", dim=8, image_size=(16, 16)) for _ in range(2))
    torch.save({"student": student.state_dict(), "teacher": teacher.state_dict()}, tmp_path / "kd.pt")
    (tmp_path / "kd.pt.toml").write_text("[preprocessing]\nsize = [16, 16]\n")
    for part, network in (("", teacher), ("#student", student)):
        opened = open_teacher(f"kdbias:convnet@{tmp_path / 'kd.pt'}{part}")
        images = batch(opened)
        with torch.inference_mode():
            wanted = network.eval()(normalised(images, opened)).numpy()
        np.testing.assert_allclose(opened.embed(images), wanted, rtol=1e-4, atol=1e-5)


def test_names_of_timm_s_hub_are_timm_s_and_fail_at_once_where_it_is_out_of_reach(
    monkeypatch, tmp_path
) -> None:
    pytest.importorskip("timm")
    constants = pytest.importorskip("huggingface_hub").constants
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("it waits to try again"))
    for name in ("hf-hub:timm/resnet18.a1_in1k", "timm/resnet18.a1_in1k", "hf-hub:somebody/network"):
        with pytest.raises(
            KdbiasError, match=r"cannot get the pretrained weights of timm:.*@FILE$"
        ) as caught:
            open_teacher(f"timm:{name}")
        assert "\n" not in str(caught.value)
    assert constants.HF_HUB_OFFLINE is False
    assert open_teacher("timm:hf-hub:timm/test_resnet.r160_in1k@random").dim == 96
    with pytest.raises(KdbiasError, match="timm has no network 'resnat18'"):
        open_teacher("timm:hf-hub:timm/resnat18@random")


def tiny(precision: str = "fp32") -> TorchTeacher:
    torch.manual_seed(2)
    layers = [torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 6)]
    options = TeacherOptions(precision=precision)
    return TorchTeacher("tiny", torch.nn.Sequential(*layers), Preprocessing((8, 8)), options, kind="test")


@pytest.mark.parametrize("asked", [True, False])
def test_a_memory_layout_is_refused_where_it_would_be_ignored(asked) -> None:
    options = TeacherOptions(channels_last=asked)
    with pytest.raises(KdbiasError, match=f"does not take --{'' if asked else 'no-'}channels-last; leave it"):
        options.refuse("onnx", "device")
    options.refuse("run", "channels_last")


def test_a_device_that_auto_chose_is_refused_with_one_that_serves() -> None:
    with pytest.raises(KdbiasError, match="does not take --device cuda:0; use --device cpu"):
        TeacherOptions("cuda:0").refuse("openvino")
    with pytest.raises(KdbiasError, match="--compile; leave it out and use --device cpu"):
        TeacherOptions("cuda:0", compile=True).refuse("openvino")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_reduced_precision_stays_close_and_returns_float32(precision) -> None:
    full, reduced = tiny(), tiny(precision)
    a, b = (t.embed(batch(t)) for t in (full, reduced))
    assert b.dtype == np.float32
    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert 0.99 < cosines.min() < 1 - 1e-9


def test_mirrored_views_follow_their_batch() -> None:
    teacher = tiny()
    images = batch(teacher, 4)
    mirror = np.ascontiguousarray(images[:, :, ::-1])
    wanted = [teacher.embed(images), teacher.embed(mirror)] * 2
    for found, right in zip(teacher.stream([images] * 2, flip=True), wanted, strict=True):
        assert np.array_equal(found, right)
    on_device = teacher._forward(torch.from_numpy(images), mirrored=True)
    assert np.array_equal(on_device.numpy(), wanted[1])


def test_out_of_memory_halves_the_batch_and_says_so(capsys) -> None:
    teacher = tiny()
    images = batch(teacher, 7)
    wanted = teacher.embed(images)
    run_whole, seen = teacher._run, []

    def limited(piece: torch.Tensor, mirrored: bool) -> torch.Tensor:
        seen.append(len(piece))
        if len(piece) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return run_whole(piece, mirrored)

    teacher._run = limited
    np.testing.assert_allclose(teacher.embed(images), wanted, rtol=1e-4, atol=1e-6)
    assert "going on with at most 1 image" in capsys.readouterr().err
    assert max(seen[3:]) <= 3
    teacher._run = lambda *given: (_ for _ in ()).throw(torch.cuda.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(KdbiasError, match="with a single image"):
        teacher.embed(images)


def test_run_teacher_is_the_saved_student(tmp_path) -> None:
    from kdbias.networks import build_network
    from kdbias.networks.saved import save_network

    kwargs = {"dim": 12, "channels": 1, "image_size": (16, 16)}
    network = build_network("convnet", **kwargs)
    preprocessing = Preprocessing((16, 16), color="L")
    save_network(tmp_path / "student.pt", network, "convnet", kwargs, preprocessing.to_dict(), {})
    teacher = open_teacher(f"run:{tmp_path}")
    images = batch(teacher)
    with torch.inference_mode():
        wanted = network.eval()(normalised(images, teacher)).numpy()
    np.testing.assert_allclose(teacher.embed(images), wanted, rtol=1e-5, atol=1e-6)
    assert (teacher.dim, teacher.preprocessing) == (12, preprocessing)
    assert open_teacher(str(tmp_path)).fingerprint == teacher.fingerprint
    with pytest.raises(KdbiasError, match="does not take --preprocessing"):
        open_teacher(f"run:{tmp_path}", preprocessing=preprocessing)


FACTORIES = """
import torch
from kdbias.teachers import Preprocessing

def network(device):
    torch.manual_seed(0)
    layers = [torch.nn.Flatten(), torch.nn.Dropout(0.9), torch.nn.Linear(48, 5)]
    return torch.nn.Sequential(*layers), {"size": [4, 4]}

class Object:
    preprocessing = Preprocessing((4, 4))
    def embed(self, batch):
        assert batch.dtype == "uint8"
        return torch.from_numpy(batch.reshape(len(batch), -1).astype("float64"))

def thing(device):
    return Object()

def nonsense(device):
    return 3

class Flat(Object):
    def embed(self, batch):
        return batch.reshape(-1).astype("float32")

def flat(device):
    return Flat()

def bare():
    return network("cpu")

def narrow(device):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(47, 5)), {"size": [4, 4]}

def greedy(device, weights):
    return Object()

def broken(device):
    return Object() + 1

class Moody(Object):
    def __init__(self, *given):
        pass
    def embed(self, batch):
        return self.absent
"""


def test_python_factories(tmp_path, monkeypatch) -> None:
    (tmp_path / "kdbias_test_factories.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    teacher = open_teacher("python:kdbias_test_factories:network")
    images = batch(teacher)
    assert teacher.runs_code
    assert "runs its author's code" in teacher.describe()
    # Dropout would make two calls differ: the module was put into eval mode.
    assert np.array_equal(teacher.embed(images), teacher.embed(images))
    thing = open_teacher(f"python:{tmp_path / 'kdbias_test_factories.py'}:thing")
    assert np.array_equal(thing.embed(images), images.reshape(3, -1).astype(np.float32))
    with pytest.raises(KdbiasError, match=r"nonsense\(\) gave int"):
        open_teacher("python:kdbias_test_factories:nonsense")
    with pytest.raises(KdbiasError, match=r"gave float32 \(48,\) for 1 image"):
        open_teacher("python:kdbias_test_factories:flat")
    bare = open_teacher("python:kdbias_test_factories:bare")
    assert np.array_equal(bare.embed(images), teacher.embed(images))
    with pytest.raises(KdbiasError, match="has no function 'absent'"):
        open_teacher("python:kdbias_test_factories:absent")
    wanted = r"greedy\(device, weights\) cannot be called as greedy\(device\), with a device such as 'cpu'"
    with pytest.raises(KdbiasError, match=wanted):
        open_teacher("python:kdbias_test_factories:greedy")
    line = 1 + FACTORIES.splitlines().index("    return Object() + 1")
    wanted = rf"broken\(\) raised TypeError: .* \(kdbias_test_factories.py, line {line}\); --debug"
    with pytest.raises(KdbiasError, match=wanted):
        open_teacher("python:kdbias_test_factories:broken")
    with pytest.raises(KdbiasError, match=r"embed\(\) raised AttributeError: .*'absent'"):
        open_teacher("python:kdbias_test_factories:Moody")
    with pytest.raises(KdbiasError, match="cannot embed an image of 4x4x3: mat1 and mat2"):
        open_teacher("python:kdbias_test_factories:narrow")
    (tmp_path / "kdbias_test_mistyped.py").write_text("import numpy\nnumpy.arrange(3)\n")
    for name in ("kdbias_test_mistyped", "kdbias_test_mistyped.py"):
        wanted = rf"importing {name} raised AttributeError: .* \(kdbias_test_mistyped.py, line 2\)"
        with pytest.raises(KdbiasError, match=wanted):
            open_teacher(f"python:{name}:factory")
    with pytest.raises(KdbiasError, match="no module 'kdbias_absent'"):
        open_teacher("python:kdbias_absent.sub:factory")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnet50", "unknown teacher 'resnet50'; known: torchvision:NAME"),
        ("torchvision:", "unknown teacher"),
        ("torchvision:resnet51", "no classification network 'resnet51'; similar: resnet"),
        ("torchvision:resnet18@", "should be NAME or NAME@WEIGHTS"),
        (
            "torchvision:resnet18@absent.pt",
            "no file of weights 'absent.pt'; published weights: DEFAULT, random",
        ),
        ("torchvision:resnet18@random:x", "seed"),
        ("run:/nonexistent", "no such file"),
        ("python:module", "should be python:package.module:factory"),
        ("precomputed:x.npy", "serves kdbias embed only"),
    ],
)
def test_bad_specs_are_refused(spec: str, message: str) -> None:
    with pytest.raises(KdbiasError, match=message):
        open_teacher(spec)
