"""Every tensor of a checkpoint finds its place in the network, or is named; usual wrappings are found."""

import argparse
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from kdbias.errors import KdbiasError
from kdbias.networks import build_network
from kdbias.networks.places import StateFile, load_into
from kdbias.networks.saved import load_network, read_checkpoint, save_network

State = dict[str, torch.Tensor]


def network(seed: int = 0, name: str = "cifar_resnet20") -> torch.nn.Module:
    torch.manual_seed(seed)
    return build_network(name, dim=64, head=False)


def under(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


def loads(content: dict, state: State, chosen: str | None = None) -> str:
    """What was said on loading `content`, which must have loaded `state`."""
    empty = network(seed=9)
    note = load_into(empty, StateFile("f.pt", content, chosen))
    found = empty.state_dict()
    assert all(torch.equal(found[key], value) for key, value in state.items())
    return note


HEAD = {"weight": torch.ones(5, 64), "bias": torch.ones(5)}
OPTIMISER = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}
WRAPPINGS: dict[str, tuple[Callable[[State], dict], str]] = {
    "bare": (lambda s: s, ""),
    "lightning": (
        lambda s: {
            "state_dict": {**under("model.", s), "loss.s": torch.ones(1)},
            "callbacks": {"Best": {"best_model_score": torch.tensor(0.9)}},
            "optimizer_states": [OPTIMISER],
            "epoch": 1,
        },
        "weights taken from [state_dict] model.; left out: state_dict.loss.s (1,)",
    ),
    "fastreid": (
        lambda s: {
            "model": {**under("backbone.", s), "heads.weight": HEAD["weight"]},
            "optimizer": OPTIMISER,
        },
        "weights taken from [model] backbone.; left out: model.heads.weight (5, 64)",
    ),
    "insightface": (
        lambda s: {"state_dict_backbone": s, "state_dict_softmax_fc": HEAD},
        "weights taken from [state_dict_backbone]; left out: state_dict_softmax_fc.weight (5, 64), "
        "state_dict_softmax_fc.bias (5,)",
    ),
    "compiled and parallel": (lambda s: under("_orig_mod.module.", s), "weights taken from module."),
    "parallel and compiled": (lambda s: under("module._orig_mod.", s), "weights taken from module."),
    "sharded inside": (
        lambda s: {k.replace("layer1.", "layer1._fsdp_wrapped_module."): v for k, v in s.items()},
        "",
    ),
    "nested twice": (
        lambda s: {"checkpoint": {"net": {"state_dict": under("a.b.", s)}}},
        "[state_dict] a.b.",
    ),
    "old, without counters": (
        lambda s: {k: v for k, v in s.items() if not k.endswith("num_batches_tracked")},
        "",
    ),
    "averaged": (lambda s: {**under("module.", s), "n_averaged": torch.tensor(3)}, "module."),
    "random numbers": (
        lambda s: {"model": s, "rng_state": torch.get_rng_state(), "best_acc1": torch.tensor([76.1])},
        "[model]",
    ),
    "numpy as tensors": (lambda s: {"state_dict": s, "best": np.float64(0.5)}, "[state_dict]"),
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_weights_are_found_in_usual_wrappings_and_what_is_left_out_is_said(
    wrapping, tmp_path, capsys
) -> None:
    wrap, words = WRAPPINGS[wrapping]
    state = network().state_dict()
    torch.save(wrap(state), tmp_path / "f.pt")
    expected = {k: v for k, v in state.items() if wrapping != "old, without counters" or "tracked" not in k}
    note = loads(read_checkpoint(tmp_path / "f.pt"), expected)
    assert (words in note) if words else not note
    assert (f"f.pt: {note}" in capsys.readouterr().err) == bool(note)


@pytest.mark.parametrize(
    ("first", "second"),
    [("student", "teacher"), ("model", "model_ema"), ("state_dict", "state_dict_ema"), ("net", "swa")],
)
@pytest.mark.parametrize("flat", [False, True])
def test_of_two_copies_the_average_is_taken_and_the_other_can_be_named(first, second, flat) -> None:
    a, b = network(1).state_dict(), network(2).state_dict()
    if flat:
        content: dict = {**under(f"{first}.", a), **under(f"{second}.", b)}
    else:
        content = {first: under("module.", a), second: b, "epoch": 3}
    assert f"weights taken from {f'{second}.' if flat else f'[{second}]'}; not from" in loads(content, b)
    loads(content, a, chosen=first)
    with pytest.raises(KdbiasError, match=r"f\.pt: no weights of this network stand under the name 'x'"):
        loads(content, a, chosen="x")


def test_copies_that_nothing_tells_apart_are_refused_with_the_way_to_choose() -> None:
    a, b = network(1).state_dict(), network(2).state_dict()
    content = {"state_dict": {**under("module.encoder_q.", a), **under("module.encoder_k.", b)}}
    with pytest.raises(KdbiasError, match=r"2 times, in .*encoder_q\.; .*encoder_k\.; .*FILE#PART"):
        loads(content, a)
    loads(content, a, chosen="encoder_q")
    loads({"net": a, "copy": dict(a)}, a)  # equal ones need no choice


def test_heads_of_self_supervision_are_said_and_the_whole_teacher_is_used() -> None:
    a, b = network(1).state_dict(), network(2).state_dict()
    head = {"head.mlp.0.weight": torch.ones(8, 64), "head.mlp.0.bias": torch.ones(8)}
    content = {
        "student": {**under("module.backbone.", a), **under("module.", head)},
        "teacher": {**under("backbone.", b), **head},
        "dino_loss": {"center": torch.ones(1, 9)},
        "optimizer": OPTIMISER,
        "args": argparse.Namespace(arch="vit"),
    }
    note = loads(content, b)
    assert "taken from [teacher] backbone.; not from [student] module.backbone." in note
    assert "teacher.head.mlp.0.weight (8, 64), teacher.head.mlp.0.bias (8,), dino_loss.center (1, 9)" in note


@pytest.mark.parametrize("wrap", ["", "model.", "module.backbone."])
def test_a_deeper_network_s_weights_are_refused_with_counts_and_names(wrap) -> None:
    deeper = under(wrap, network(name="cifar_resnet56").state_dict())
    with pytest.raises(
        KdbiasError, match=r"f\.pt: 180 of its 275 tensors find no place in the network \(.*layer1\.3\.conv1"
    ):
        load_into(network(), StateFile("f.pt", {"state_dict": deeper}))
    shallow = {"state_dict": under(wrap, network().state_dict())}
    with pytest.raises(
        KdbiasError,
        match=r"lacks 180 of the network's 275 tensors \(layer1\.3.*it holds 95 \(.*conv1\.weight",
    ):
        load_into(network(name="cifar_resnet56"), StateFile("f.pt", shallow))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("layer1.0.se.fc.0.weight", torch.ones(4, 16)),  # a linear layer, but no classifier
        ("neck.weight", torch.ones(64, 64)),
        ("mean", torch.ones(3)),  # a network that normalises its input
        ("head.bottleneck.weight", torch.ones(64)),  # a batch norm over the embedding
        ("fc.1.weight", torch.ones(64, 64, 3, 3)),
        ("conv1.scale", torch.ones(())),
    ],
)
@pytest.mark.parametrize("prefix", ["", "module.backbone."])
def test_what_changes_the_embedding_is_never_left_out(key, value, prefix) -> None:
    content = {"model": under(prefix, {**network().state_dict(), key: value}), "model_ema": {}}
    with pytest.raises(
        KdbiasError, match=rf"1 of its 96 tensors find no place in the network \(model\..*{key}"
    ):
        load_into(network(), StateFile("f.pt", content))


def test_a_neck_beside_the_average_is_not_hidden_by_the_other_copy() -> None:
    a, b = network(1).state_dict(), network(2).state_dict()
    content = {**a, **under("ema.", {**b, "neck.weight": torch.ones(64, 64)})}
    loads({**a, **under("ema.", b)}, b)
    with pytest.raises(KdbiasError, match=r"find no place in the network \(ema\.neck\.weight\)"):
        loads(content, b, chosen="ema")
    with pytest.raises(KdbiasError, match=r"find no place in the network \(teacher\.neck\.weight\)"):
        loads(
            {"teacher": {**under("backbone.", b), "neck.weight": torch.ones(64, 64)}, "student": a},
            b,
            "teacher",
        )


def test_shapes_kinds_and_empty_values_are_refused_on_both_sides() -> None:
    state = network().state_dict()
    for given, words in [
        (
            torch.ones(16, 1, 3, 3),
            r"\(16, 1, 3, 3\) of float32, the network needs \(16, 3, 3, 3\) of float32",
        ),
        (
            torch.ones(16, 3, 3, 3, dtype=torch.int8),
            r"\(16, 3, 3, 3\) of int8, the network needs .* of float32",
        ),
        (torch.ones(16, 3, 3, 3, device="meta"), r"1 of 95 tensors differ: conv1\.weight"),
    ]:
        with pytest.raises(KdbiasError, match=rf"conv1\.weight has shape .*{words}|{words}"):
            load_into(network(), StateFile("f.pt", {**state, "conv1.weight": given}))
    with pytest.raises(KdbiasError, match=r"f\.pt holds no tensors; its keys are epoch, other"):
        load_into(network(), StateFile("f.pt", {"epoch": 1, "other": {}}))


def test_a_buffer_that_the_network_computes_itself_must_be_equal() -> None:
    class Windows(torch.nn.Linear):
        def __init__(self) -> None:
            super().__init__(2, 2)
            self.register_buffer("mask", torch.tensor([0.0, 1.0]), persistent=False)

    state = Windows().state_dict()
    assert load_into(Windows(), StateFile("f.pt", {**state, "mask": torch.tensor([0.0, 1.0])})) == ""
    with pytest.raises(KdbiasError, match=r"1 of its 3 tensors find no place in the network \(mask\)"):
        load_into(Windows(), StateFile("f.pt", {**state, "mask": torch.tensor([1.0, 1.0])}))


def test_a_student_s_file_holds_exactly_its_network(tmp_path) -> None:
    kwargs = {"dim": 64, "head": False}
    save_network(tmp_path / "s.pt", network(name="cifar_resnet56"), "cifar_resnet20", kwargs, {}, {})
    with pytest.raises(KdbiasError, match="180 of its 275 tensors find no place"):
        load_network(tmp_path / "s.pt")


# What stands beside the weights in pickles


def test_numpy_values_and_options_are_read_and_code_is_not_run(tmp_path) -> None:
    beside = {
        "rank1": np.float64(0.9),
        "n": np.int32(-7),
        "ok": np.bool_(True),
        "big": np.array([1.5, 2.5], dtype=">f4")[0],
        "names": np.array(["a", "bc"]),
        "text": np.str_("é"),
        "state": np.arange(6, dtype=np.uint32).reshape(2, 3),
        "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "empty": np.zeros((0, 3)),
        "args": argparse.Namespace(lr=0.1, out=Path("x")),
    }
    torch.save({"state_dict": network().state_dict(), **beside}, tmp_path / "f.pt")
    found = read_checkpoint(tmp_path / "f.pt")
    assert [found[name] for name in ("rank1", "n", "ok", "big", "text")] == [0.9, -7, True, 1.5, "é"]
    for name in ("names", "state", "columns", "empty"):
        np.testing.assert_array_equal(found[name].value, beside[name])
    assert loads(found, network().state_dict()).endswith("left out: columns (2, 3), empty (0, 3)")


def test_arrays_for_weights_count_as_weights(tmp_path) -> None:
    state = network().state_dict()
    torch.save({key: value.numpy() for key, value in state.items()}, tmp_path / "f.pt")
    loads(read_checkpoint(tmp_path / "f.pt"), state)


class Bomb:
    def __reduce__(self):
        return Path.touch, (Path("exploded"),)


class Forged:
    """A dtype of objects that claims to hold none, so that bytes would be taken for pointers."""

    def __reduce__(self):
        return np.dtype, ([("a", "O")],), (3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 8, 0)


class Pointer:
    def __reduce__(self):
        return np.float64(0).__reduce__()[0], (Forged(), b"\x41" * 8)


@pytest.mark.parametrize("thing", [np.array([1, None]), np.datetime64("2020-01-01"), Pointer(), Bomb()])
def test_numpy_values_that_are_more_than_numbers_are_refused(thing, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "f.pt").write_bytes(b"")
    torch.save({"a": thing}, "f.pt")
    with pytest.raises(KdbiasError, match=r"f\.pt") as caught:
        read_checkpoint("f.pt")
    assert "\n" not in str(caught.value)
    assert not Path("exploded").exists()


def test_a_refusal_names_what_is_code_and_does_not_cut_torch_s_advice(tmp_path) -> None:
    (tmp_path / "model.pt").write_bytes(b"")
    torch.save({"model": torch.nn.Linear(2, 2)}, tmp_path / "model.pt")
    with pytest.raises(KdbiasError) as caught:
        read_checkpoint(tmp_path / "model.pt")
    message = str(caught.value)
    assert (
        "it was not executed (it holds torch.nn.modules.linear.Linear, which is code, not numbers;" in message
    )
    assert "two options" not in message
    assert message.endswith("'weights.pt'))")
    (tmp_path / "model.pkl").write_bytes(pickle.dumps({"a": 1}, protocol=4))
    with pytest.raises(KdbiasError) as caught:
        read_checkpoint(tmp_path / "model.pkl")
    assert "two options" not in str(caught.value)


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda network: network,
        lambda network: {"model": network, "epoch": 3},
        lambda network: {"model": network.state_dict(), "args": Bomb},
        lambda network: {"state_dict": network.state_dict(), "args": Bomb},
    ],
)
def test_the_advice_for_a_file_with_code_makes_one_that_is_read(wrapped, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    network = torch.nn.Linear(2, 2)
    torch.save(wrapped(network), "whole.pth")
    with pytest.raises(KdbiasError, match="which is code") as caught:
        read_checkpoint("whole.pth")
    advice = str(caught.value).partition("save its weights alone: ")[2].removesuffix(")")
    exec(advice.replace("FILE", "'whole.pth'"), {"torch": torch})
    assert read_checkpoint("weights.pt").keys() == network.state_dict().keys()
