"""Every tensor of a checkpoint is in exactly one of the weights that were read, or is listed."""

import argparse
import tempfile
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from polyak.averaging.files.foreign import read_foreign

Make = Callable[[tuple[int, ...]], Tensor]
NAMES = {"0.weight": (2, 3), "0.bias": (2,), "1.weight": (4, 2), "1.running_mean": (4,)}
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64]


class Numbered:
    """Makes tensors of which no two hold one number, however narrow their dtype."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.made = 0

    def __call__(self, shape: tuple[int, ...]) -> Tensor:
        # Exact in bfloat16: a power of two times a number of few bits.
        self.made += 1
        value = (1 + self.made % 64 / 64) * 2.0 ** (self.made // 64)
        return torch.full(shape, value, dtype=self.dtype)


def state(make: Make, prefix: str = "", spell: Callable[[str], str] = str) -> dict[str, Tensor]:
    return {prefix + spell(name): make(shape) for name, shape in NAMES.items()}


def counter(value: float = 3) -> Tensor:
    return torch.tensor(value)


def optimizer(make: Make) -> dict[str, Any]:
    slots = {i: {"step": counter(), "exp_avg": make((2, 3))} for i in range(2)}
    return {"state": slots, "param_groups": [{"lr": 0.1, "params": [0, 1]}]}


LAYOUTS: dict[str, Callable[[Make], Any]] = {
    "plain": state,
    "wrapped": lambda make: state(make, "module._orig_mod."),
    "mixed": lambda make: {**state(make), "epoch": 3},
    "pairs": lambda make: list(state(make).items()),
    "mmengine": lambda make: {
        "state_dict": state(make),
        "ema_state_dict": {"steps": counter(), **state(make, "module.")},
        "meta": {"iter": 3},
    },
    "mmcv": lambda make: {
        "state_dict": {
            **state(make, "net."),
            **state(make, "ema_net_", lambda name: name.replace(".", "_")),
        }
    },
    "timm": lambda make: {"state_dict": state(make), "state_dict_ema": state(make), "epoch": 1},
    "rt_detr": lambda make: {
        "model": state(make),
        "ema": {"module": state(make), "updates": 3, "warmups": 5},
    },
    "fairseq": lambda make: {"model": state(make), "extra_state": {"ema": state(make)}},
    "audiocraft": lambda make: {
        "model": state(make),
        "ema": {"state": defaultdict(dict, {"model": state(make)}), "count": 1.0},
    },
    "composer": lambda make: {
        "state": {
            "model": state(make),
            "algorithms": [("EMA", {"ema_model": state(make), "training_model": state(make)})],
        }
    },
    "lit_ema": lambda make: {
        **state(make, "model."),
        **state(make, "model_ema.", lambda name: name.replace(".", "")),
        "model_ema.decay": counter(0.5),
        "model_ema.num_updates": counter(),
    },
    "averaged_model": lambda make: {
        **state(make, "net."),
        **state(make, "ema.module."),
        "ema.n_averaged": counter(),
        "head.weight": make((2, 2)),
    },
    "ema_pytorch": lambda make: {
        **state(make, "online_model."),
        **state(make, "ema_model."),
        "initted": torch.tensor(True),
        "step": counter(),
    },
    "lightning": lambda make: {
        "pytorch-lightning_version": "2.5.0",
        "state_dict": {**state(make, "net."), **state(make, "teacher."), "queue": make((3,))},
        "optimizer_states": [optimizer(make)],
        "callbacks": {"A": {"best": make((1,))}},
    },
    "nemo": lambda make: {
        "pytorch-lightning_version": "2.5.0",
        "state_dict": state(make),
        "optimizer_states": [{"opt": optimizer(make), "ema": tuple(state(make).values())}],
    },
    "torch_ema": lambda make: {
        "decay": 0.5,
        "num_updates": 3,
        "shadow_params": list(state(make).values()),
        "collected_params": list(state(make).values()),
    },
    "dino": lambda make: {
        "student": state(make, "module."),
        "teacher": state(make),
        "dino_loss": {"center": make((1, 3))},
    },
    "moco": lambda make: {
        "state_dict": {
            **state(make, "module.encoder_q."),
            **state(make, "module.encoder_k."),
            "module.queue": make((3, 4)),
        }
    },
    "ddim": lambda make: [state(make), optimizer(make), 1, 2, state(make)],
    "ema_by_name": lambda make: {"ema": {"online": state(make), "weights": {"ema": state(make)}}},
}

EXTRAS: dict[str, Callable[[Make], Any]] = {
    "tensor": lambda make: make((3,)),
    "tensors": lambda make: [make((2,)), (make((1,)), {make((2,))})],
    "states_in_a_set": lambda make: {"frozen": frozenset([1]), "w": {make((2,))}},
    "optimizer": optimizer,
    "random": lambda _: torch.get_rng_state(),
    "metric": lambda make: {"loss": make(()), "history": [1.0, 2.0]},
    "namespace": lambda make: argparse.Namespace(lr=0.1, w=make((2,)), deep={"x": make((2, 2))}),
    "numbered": lambda make: {0: make((2,)), 1: {"w": make((2,))}},
    "ordered": lambda make: OrderedDict(a=make((2,)), b=[make((3,))]),
    "sparse": lambda make: {"adjacency": make((2, 2)).to_sparse()},
    "text": lambda _: "x",
    "nothing": lambda _: {"a": None, "b": [], "c": {}},
}


@st.composite
def contents(draw: st.DrawFn) -> Any:
    make = Numbered(draw(st.sampled_from(DTYPES)))
    content = LAYOUTS[draw(st.sampled_from(sorted(LAYOUTS)))](make)
    for depth in range(draw(st.integers(0, 4))):
        siblings = draw(st.lists(st.sampled_from(sorted(EXTRAS) + sorted(LAYOUTS)), max_size=3))
        made = [(EXTRAS.get(name) or LAYOUTS[name])(make) for name in siblings]
        made.insert(draw(st.integers(0, len(made))), content)
        keys = [f"{draw(st.sampled_from(['a', 'ema', 'net', 'x_avg', 'loss']))}{depth}{i}"
                for i in range(len(made))]  # fmt: skip
        form = draw(st.sampled_from(["dict", "list", "pairs", "namespace"]))
        content = {
            "dict": dict(zip(keys, made, strict=True)),
            "list": made,
            "pairs": list(zip(keys, made, strict=True)),
            "namespace": argparse.Namespace(**dict(zip(keys, made, strict=True))),
        }[form]
    return content


def tensors(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    """The slow twin of the walk: every tensor, and its path as a user would write it."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, argparse.Namespace):
        yield from tensors(vars(value), path)
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from tensors(part, (*path, str(key)))
    elif isinstance(value, list | tuple | set | frozenset):
        pairs = value and all(
            isinstance(x, list | tuple) and len(x) == 2 and isinstance(x[0], str) for x in value
        )
        for i, part in enumerate(value):
            place = part[0] if pairs else str(i)
            yield from tensors(part[1] if pairs else part, (*path, place))


def number(x: Tensor) -> complex:
    dense = x.to_dense() if x.layout != torch.strided else x
    return complex(dense.flatten()[0].item())


def network() -> nn.Module:
    """What has the names and shapes of every state here."""
    second = nn.Module()
    second.weight = nn.Parameter(torch.zeros(4, 2))
    second.register_buffer("running_mean", torch.zeros(4))
    return nn.Sequential(nn.Linear(3, 2), second)


@given(content=contents(), model=st.sampled_from([None, network()]))
def test_every_tensor_is_in_one_state_or_listed(content: Any, model: nn.Module | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        torch.save(content, Path(folder) / "checkpoint.pt")
        found = read_foreign(Path(folder) / "checkpoint.pt", model)
    taken = Counter(number(x) for state in found.values() for x in state.values() if x.ndim)
    listed = [entry["path"] for entry in found.manifest.get("left_out", [])]
    for path, x in tensors(content):
        if x.ndim == 0 or x.dtype == torch.uint8:
            continue  # counters are facts of the manifest, and random states are all alike
        name = ".".join(path)
        is_listed = any(not at or name == at or name.startswith(f"{at}.") for at in listed)
        assert taken[number(x)] + is_listed == 1, f"{name}: {taken[number(x)]}, {listed}"
    assert found.manifest["weights"].keys() == found.keys()
    assert all(found.values())
