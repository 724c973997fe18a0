"""Modules as they come: TorchScript, sparse buffers, weights of every layout and number."""

import copy
from collections.abc import Callable

import pytest
import torch
from support.small_networks import assert_same_bits, generator
from torch import Tensor, nn

import polyak
from polyak import EMA, Averager, Uniform, Window, refresh_batchnorm
from polyak.errors import FileError, StateError

KINDS = (EMA(0.9, warmup=None, name="ema"), Uniform(), Window(2))


# TorchScript


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4, 2)
        self.scale = nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.inner(x))) * self.scale


class Partly(nn.Module):
    """A Python module around a scripted one."""

    def __init__(self) -> None:
        super().__init__()
        self.body = torch.jit.script(Net())
        self.tail = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.body(x))


def scripted() -> nn.Module:
    return torch.jit.script(Net())


def traced() -> nn.Module:
    return torch.jit.trace(Net().eval(), torch.ones(2, 3))


SCRIPTS = pytest.mark.parametrize("make", [scripted, traced, Partly])
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental:UserWarning"),
]


def move(model: nn.Module, seed: int) -> None:
    draws = generator(seed)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                step = torch.randn(p.shape, generator=draws)
                p.copy_((p.detach() + 0.1 * step.to(p.dtype)).to(p.dtype))


@SCRIPTS
def test_a_module_of_torchscript_is_averaged_like_any_other(make):
    """C21: as torch's AveragedModel does."""
    torch.manual_seed(0)
    model = make()
    averager = Averager(model, KINDS)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    averager.attach(optimizer)
    want = {name: x.detach().clone() for name, x in model.state_dict().items()}
    for seed in range(3):
        model(torch.randn(8, 3, generator=generator(seed))).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        for name, x in model.state_dict().items():
            want[name] = want[name].lerp(x, 0.1) if x.is_floating_point() else x.clone()
    got = averager.tensors("ema")
    assert averager.updates == 3
    assert got.keys() == want.keys()
    for name, x in want.items():
        torch.testing.assert_close(got[name], x)


@SCRIPTS
def test_a_module_of_torchscript_holds_an_average_in_eval_mode_and_gets_its_own_back(make):
    torch.manual_seed(0)
    model = make()
    averager = Averager(model, KINDS)
    for seed in range(3):
        move(model, seed)
        averager.step()
    modes = [part.training for part in model.modules()]
    own = {name: x.detach().clone() for name, x in model.state_dict().items()}
    x = torch.randn(8, 3, generator=generator(9))
    with torch.no_grad(), averager.applied("ema") as teacher:
        assert not any(part.training for part in teacher.modules())
        first, again = teacher(x), teacher(x)
        held = {name: y.detach().clone() for name, y in model.state_dict().items()}
    assert torch.equal(first, again)  # no dropout
    assert [part.training for part in model.modules()] == modes
    for name, y in averager.tensors("ema").items():
        assert torch.equal(held[name], y)
        assert torch.equal(model.state_dict()[name], own[name])
    copied = averager.module("ema")
    assert torch.equal(copied(x), first)
    assert not any(p.requires_grad for p in copied.parameters())


@pytest.mark.parametrize("shared", [False, True])
def test_a_copy_of_a_frozen_part_of_torchscript_has_the_models_weights(shared):
    """torch's own copy of such a part is not frozen any more."""
    model = nn.Sequential(torch.jit.script(nn.Linear(2, 2)), nn.Linear(2, 2))
    model[0].weight.requires_grad_(False)
    averager = Averager(model, [0.9])
    with torch.no_grad():
        model[1].weight.add_(1)
    averager.step()
    copied = averager.module("ema_0.9", share_frozen=shared)
    assert_same_bits(dict(copied.state_dict()), averager.tensors("ema_0.9"))
    assert not any(x.requires_grad for x in copied.parameters())


def test_batchnorm_in_a_python_part_beside_torchscript_is_refreshed():
    torch.manual_seed(0)
    model = nn.Sequential(torch.jit.script(nn.Linear(3, 4)), nn.BatchNorm1d(4))
    averager = Averager(model, KINDS)
    move(model, 0)
    averager.step()
    batches = [torch.randn(16, 3, generator=generator(seed)) for seed in range(2)]
    averager.refresh_batchnorm(batches)
    twin = averager.module("ema")
    refresh_batchnorm(twin, batches)
    torch.testing.assert_close(
        averager.tensors("ema")["1.running_var"], twin.state_dict()["1.running_var"]
    )


# Sparse buffers


SPARSE = pytest.mark.parametrize(
    "layout", [Tensor.to_sparse_coo, Tensor.to_sparse_csr, Tensor.to_sparse_csc]
)


@SPARSE
@pytest.mark.parametrize("buffers", ["average", "copy"])
@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
def test_a_sparse_buffer_is_copied(layout, buffers):
    """C21: an adjacency matrix, say."""
    model = nn.Linear(4, 4)
    model.register_buffer("adjacency", layout(torch.eye(4)))
    averager = Averager(model, KINDS, buffers=buffers)
    own = model.adjacency

    def shown() -> Tensor:
        return averager.tensors("ema")["adjacency"].to_dense()

    assert torch.equal(shown(), torch.eye(4))
    model.adjacency = layout(2 * torch.ones(4, 4))
    assert torch.equal(shown(), torch.eye(4))
    with averager.applied("ema"):
        assert model.adjacency.layout is own.layout
        assert torch.equal(model.adjacency.to_dense(), torch.eye(4))
    assert torch.equal(model.adjacency.to_dense(), 2 * torch.ones(4, 4))
    averager.step()
    assert torch.equal(shown(), 2 * torch.ones(4, 4))
    assert torch.equal(averager.module("ema").adjacency.to_dense(), shown())
    twin = nn.Linear(4, 4)
    twin.register_buffer("adjacency", layout(torch.zeros(4, 4)))
    again = Averager(twin, KINDS, buffers=buffers)
    again.load_state_dict(averager.state_dict())
    assert torch.equal(again.tensors("ema")["adjacency"].to_dense(), shown())
    averager.track()
    averager.step()


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
def test_a_file_has_no_place_for_a_sparse_buffer(tmp_path):
    model = nn.Linear(2, 2)
    model.register_buffer("adjacency", torch.eye(2).to_sparse())
    with pytest.raises(FileError, match=r"adjacency is sparse.*torch\.save"):
        polyak.save(Averager(model, KINDS), tmp_path / "file.safetensors")


@SPARSE
@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
def test_a_sparse_buffer_that_changes_beneath_the_same_tensor_is_followed(layout):
    model = nn.Linear(4, 4)
    model.register_buffer("adjacency", layout(torch.eye(4)))
    averager = Averager(model, KINDS)
    model.adjacency.values().mul_(3)
    averager.step()
    assert torch.equal(averager.tensors("ema")["adjacency"].to_dense(), 3 * torch.eye(4))
    if model.adjacency.layout is torch.sparse_coo:
        model.adjacency.copy_(torch.ones(4, 4).to_sparse())
        with torch.inference_mode():
            averager.step()
        averager.step()
        assert torch.equal(averager.tensors("ema")["adjacency"].to_dense(), torch.ones(4, 4))


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
def test_a_sparse_parameter_is_refused_by_name():
    model = nn.Linear(2, 2)
    model.pairs = nn.Parameter(torch.eye(2).to_sparse())
    with pytest.raises(StateError, match=r"pairs is a parameter of layout torch.sparse_coo"):
        Averager(model, [0.9])


# Layouts and numbers


def filled(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, generator=generator(len(shape)), dtype=torch.float64).to(dtype)


WEIGHTS: dict[str, Callable[[], Tensor]] = {
    "strided": lambda: filled((6, 8), torch.float32)[::2, ::3],
    "transposed": lambda: filled((3, 4), torch.float32).t(),
    "permuted": lambda: filled((2, 3, 4), torch.float32).permute(2, 0, 1),
    "channels last": lambda: filled((2, 3, 4, 4), torch.float32).to(
        memory_format=torch.channels_last
    ),
    "with an offset": lambda: filled((10,), torch.float32)[3:],
    "expanded": lambda: filled((1, 4), torch.float32).expand(3, 4),
    "0-dim": lambda: filled((), torch.float32),
    "empty": lambda: filled((0, 3), torch.float32),
    "one value": lambda: filled((1, 1, 1), torch.float32),
    "large": lambda: filled((200, 200), torch.float32).t(),
    "float64": lambda: filled((3, 4), torch.float64),
    "float16": lambda: filled((3, 4), torch.float16),
    "bfloat16": lambda: filled((3, 4), torch.bfloat16),
    "complex32": lambda: torch.view_as_complex(filled((3, 4, 2), torch.float16)),
    "complex64": lambda: torch.view_as_complex(filled((3, 4, 2), torch.float32)),
    "complex128": lambda: torch.view_as_complex(filled((3, 4, 2), torch.float64)),
}


@pytest.mark.parametrize("nonfinite", ["skip", "allow"])
@pytest.mark.parametrize("form", list(WEIGHTS))
def test_weights_of_every_form_are_averaged_and_lent(form, nonfinite):
    """C21: complex numbers of half precision are averaged in complex64, for lack of a lerp."""
    model = nn.Module()
    model.w = nn.Parameter(WEIGHTS[form]())
    model.other = nn.Parameter(torch.zeros(2))
    averager = Averager(model, KINDS, nonfinite=nonfinite)
    wide = torch.complex128 if model.w.is_complex() else torch.float64
    want = model.w.detach().to(wide, copy=True)
    shift = filled((1,), torch.float64).to(wide)[0]
    for seed in range(3):
        new = model.w.detach().to(wide) + shift * (seed + 1)
        if form == "expanded":
            model.w.data = new.to(model.w.dtype)[:1].expand(3, 4)
        else:
            with torch.no_grad():
                model.w.copy_(new.to(model.w.dtype))
        averager.step()
        want = want + 0.1 * (model.w.detach().to(wide) - want)
    got = averager.tensors("ema")["w"]
    assert averager.updates == 3
    torch.testing.assert_close(got.to(wide), want, rtol=1e-5, atol=1e-5)
    own, address = model.w.detach().clone(), model.w.data_ptr()
    with averager.applied("ema"):
        assert model.w.dtype == own.dtype
        torch.testing.assert_close(model.w.detach().to(wide), want, rtol=1e-2, atol=1e-2)
    assert model.w.data_ptr() == address
    assert torch.equal(torch.view_as_real(model.w) if model.w.is_complex() else model.w,
                       torch.view_as_real(own) if own.is_complex() else own)  # fmt: skip
    again = Averager(copy.deepcopy(model), KINDS, nonfinite=nonfinite)
    again.load_state_dict(averager.state_dict())
    assert torch.equal(again.tensors("ema")["w"], got)
    assert averager.module("ema").w.dtype == own.dtype


@pytest.mark.parametrize("form", list(WEIGHTS))
def test_frozen_weights_of_every_form_are_read_and_watched(form):
    model = nn.Module()
    model.w = nn.Parameter(WEIGHTS[form](), requires_grad=False)
    model.other = nn.Parameter(torch.zeros(2))
    averager = Averager(model, KINDS)
    averager.step()
    assert averager.tensors("ema")["w"].shape == model.w.shape
    with averager.applied("ema"):
        pass
