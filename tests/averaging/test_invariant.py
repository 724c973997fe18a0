"""What an average shows is what a recurrence written out shows, or the call is refused by name.

Random modules under random sequences of what training loops do to them. The reference is a copy of
the weights at construction in float64, and  m ← m + w·(x − m)  for every tensor of floating point,
whether it trains or not; everything else is copied. `Reference.suspects` says at what a call may be
refused, and that is the only excuse: a call that is not refused must show the reference, and one
that is refused must name a suspect and change nothing.
"""

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from support.small_networks import lerp_weight
from torch import Tensor, nn

from polyak import EMA, Averager, Uniform
from polyak.averaging.kinds import Average
from polyak.errors import PolyakError

KINDS = (EMA(0.6, warmup=None, name="a"), Uniform(name="b"), EMA(0.3, name="c"))
DTYPES = {"half": torch.float16, "bfloat16": torch.bfloat16, "double": torch.float64}


class Places(nn.Module):
    """Places that are None at first, and may be filled later."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4))
        self.register_parameter("late", None)
        self.register_buffer("late_buffer", None)

    def forward(self, x: Tensor) -> Tensor:
        for place in (self.weight, self.late, self.late_buffer):
            x = x if place is None else x * place
        return x


class Buffers(nn.Module):
    """Buffers of every sort."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.randn(4))
        self.register_buffer("count", torch.tensor(3))
        self.register_buffer("flag", torch.tensor([True, False]))
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
        self.register_buffer("hidden", torch.randn(2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


class Rows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Embedding(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.rows(torch.arange(len(x)) % 5)


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(nn.Linear(4, 4))


PARTS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(4, 4),
    "norm": lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)),
    "places": Places,
    "sorts": Buffers,
    "tied": Tied,
    "rows": Rows,
    "scripted": scripted,
}


class Model(nn.Module):
    """Its parts side by side, so that any of them may come and go."""

    def __init__(self, parts: Iterable[str]) -> None:
        super().__init__()
        for name in parts:
            self.add_module(name, PARTS[name]())

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(next((p.dtype for p in self.parameters()), x.dtype))
        return torch.cat([part(x).float() for part in self.children()], dim=1)


class Halves(torch.optim.Optimizer):
    """As SAM: its own `step` is not called, but two of which the second steps another one."""

    def __init__(self, parameters: list[Tensor]) -> None:
        super().__init__(parameters, {})
        self.base_optimizer = torch.optim.SGD(parameters, lr=0.1)
        self.param_groups = self.base_optimizer.param_groups

    def second_step(self) -> None:
        self.base_optimizer.step()


class Lookahead(torch.optim.Optimizer):
    """Steps another one, then moves on; torch has not set it up, so it calls no hooks."""

    def __init__(self, parameters: list[Tensor]) -> None:
        self.optimizer = torch.optim.SGD(parameters, lr=0.1)
        self.param_groups = self.optimizer.param_groups

    def step(self) -> None:
        self.optimizer.step()
        with torch.no_grad():
            for x in self.param_groups[0]["params"]:
                x.mul_(0.9)


def _sgd(parameters: list[Tensor]) -> list[torch.optim.Optimizer]:
    return [torch.optim.SGD(parameters, lr=0.1)]


def _two(parameters: list[Tensor]) -> list[torch.optim.Optimizer]:
    half = (len(parameters) + 1) // 2
    return [torch.optim.SGD(x, lr=0.1) for x in (parameters[:half], parameters[half:]) if x]


OPTIMIZERS: dict[str, Callable[[list[Tensor]], list[torch.optim.Optimizer]]] = {
    "sgd": _sgd,
    "two": _two,
    "halves": lambda parameters: [Halves(parameters)],
    "lookahead": lambda parameters: [Lookahead(parameters)],
}


def listed(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of `state_dict()` themselves, each once, under its first name."""
    found: dict[str, Tensor] = {}
    state = model.state_dict(keep_vars=True)
    for name, x in state.items():
        if not any(x is y for y in found.values()):
            found[name] = x
    return found


def own_bits(model: nn.Module) -> dict[str, Tensor]:
    return {name: x.detach().clone() for name, x in listed(model).items()}


class Reference:
    """A copy of the weights, and the recurrence written out.

    Args:
        model: Its weights at this moment are m_0.
        kinds: The averages.
        every: Steps per update.
        buffers: "average" or "copy".
    """

    def __init__(
        self, model: nn.Module, kinds: Sequence[Average], *, every: int, buffers: str
    ) -> None:
        self.kinds, self.every, self.buffers = kinds, every, buffers
        self.steps = self.updates = 0
        self.folded = {kind.label: 0 for kind in kinds}
        self.values: dict[str, dict[str, Tensor]] = {kind.label: {} for kind in kinds}
        self.copied: set[str] = set()
        self.base: dict[str, Tensor] = {}
        self.frozen: set[str] = set()
        self.accept(model)

    def accept(self, model: nn.Module) -> None:
        """Take note of the model as it is; what is new, or was frozen, begins here."""
        found = listed(model)
        for name, x in found.items():
            known = name in self.base and name not in self.frozen
            if not known:
                self._begin(name, x)
        for row in self.values.values():
            for name in row.keys() - found.keys():
                del row[name]
        self.base = own_bits(model)
        self.frozen = {
            name
            for name, x in found.items()
            if isinstance(x, nn.Parameter) and not x.requires_grad and self.may_be_frozen(name, x)
        }

    def may_be_frozen(self, name: str, x: Tensor) -> bool:
        """Whether it does not train: what trained once, or an optimizer holds, stays averaged."""
        return name not in self.averaged

    averaged: frozenset[str] = frozenset()

    def _begin(self, name: str, x: Tensor) -> None:
        floats = x.is_floating_point() and not bool(torch.isinf(x).any())
        averages = floats and (isinstance(x, nn.Parameter) or self.buffers == "average")
        self.copied = self.copied - {name} if averages else self.copied | {name}
        for row in self.values.values():
            row[name] = x.detach().to(torch.float64 if averages else x.dtype, copy=True)

    def attach(self, parameters: Sequence[Tensor], model: nn.Module) -> None:
        """What an optimizer trains is averaged from here on, frozen or not."""
        held = set(map(id, parameters))
        names = {name for name, x in listed(model).items() if id(x) in held}
        trains = {
            name
            for name, x in listed(model).items()
            if isinstance(x, nn.Parameter) and x.requires_grad
        }
        self.averaged = self.averaged | names | trains
        self.frozen = self.frozen - names

    def note_frozen(self, model: nn.Module) -> None:
        """What is frozen is as it was loaded: the model may be loaded after its averages."""
        for name, x in listed(model).items():
            if name in self.frozen and x.shape == self.base[name].shape:
                self._begin(name, x)
                self.base[name] = x.detach().clone()

    def fold(self, model: nn.Module) -> None:
        """One update."""
        found = listed(model)
        for kind in self.kinds:
            w = lerp_weight(
                kind,
                every=self.every,
                index=self.updates,
                step=max(self.steps, 1),
                folded=self.folded[kind.label],
            )
            self.folded[kind.label] += w > 0
            row = self.values[kind.label]
            for name, x in found.items():
                if name not in row:
                    self._begin(name, x)
                if name in self.copied:
                    row[name] = x.detach().clone()
                else:
                    row[name] = row[name] + w * (x.detach().double() - row[name])
        self.updates += 1

    def suspects(self, model: nn.Module) -> set[str]:
        """Weights that appeared, vanished, changed shape, or moved or train although frozen."""
        found = listed(model)
        changed = set(found) ^ set(self.base)
        for name in found.keys() & self.base.keys():
            x, base = found[name].detach(), self.base[name]
            if x.shape != base.shape:
                changed.add(name)
            elif name in self.frozen:
                moved = not torch.equal(x.double(), base.double())
                if found[name].requires_grad or moved:
                    changed.add(name)
        return changed

    def assert_shown(self, name: str, shown: dict[str, Tensor], model: nn.Module) -> None:
        """Whether an average is what it should be."""
        state = model.state_dict(keep_vars=True)
        assert shown.keys() == state.keys()
        first = {id(x): key for key, x in reversed(state.items())}
        for key, got in shown.items():
            want = self.values[name].get(first[id(state[key])])
            if want is None:  # It appeared, and was not refused: it can only be the model's.
                want = state[key].detach()
            assert got.shape == want.shape, key
            if not got.is_floating_point():
                assert torch.equal(got, want.to(got.dtype)), key
                continue
            eps = max(torch.finfo(got.dtype).eps, 1e-6)
            close = torch.isclose(got.double(), want.double(), rtol=4 * eps, atol=4 * eps)
            assert bool(close.all()), f"{name}: {key} is {got}; expected {want}"


class Invariant(RuleBasedStateMachine):
    """Training loops of every sort, held against the reference."""

    parts = tuple(PARTS)
    optimizers = tuple(OPTIMIZERS)
    left_out: frozenset[str] = frozenset()
    """Rules that are not tried."""

    @initialize(
        data=st.data(),
        seed=st.integers(0, 2**16),
        every=st.sampled_from([1, 1, 2]),
        buffers=st.sampled_from(["average", "average", "copy"]),
        by_hand=st.booleans(),
        holds_frozen=st.booleans(),
    )
    def begin(self, data, seed, every, buffers, by_hand, holds_frozen):
        self.generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        chosen = data.draw(
            st.lists(st.sampled_from(self.parts), min_size=1, max_size=3, unique=True)
        )
        # Without a parameter there is nothing to average.
        self.model = Model(dict.fromkeys(["linear", *chosen]))
        self.optimizer = data.draw(st.sampled_from(self.optimizers))
        self.by_hand = by_hand and self.optimizer != "two"
        self.holds_frozen = holds_frozen
        self.every, self.buffers = every, buffers
        if self._tries("freeze") and data.draw(st.booleans()):
            for x in self.model.parameters():
                x.requires_grad_(data.draw(st.booleans()))
            if not any(x.requires_grad for x in self.model.parameters()):
                next(self.model.parameters(), torch.zeros(1)).requires_grad_(True)
        self._build()

    def _tries(self, name: str) -> bool:
        return name not in self.left_out

    def _build(self) -> None:
        """A new averager of the model as it is."""
        self.was_cast = self.resumed = False
        self.lives: dict[str, nn.Module] = {}
        self.averager = Averager(self.model, KINDS, every=self.every, buffers=self.buffers)
        self.reference = Reference(self.model, KINDS, every=self.every, buffers=self.buffers)
        self.reference.attach([], self.model)
        self.handle = None
        self._attach()

    def _attach(self) -> None:
        """New optimizers, of all parameters as they are or of those that train."""
        if self.handle is not None:
            self.handle.remove()
            self.handle = None
        parameters = [x for x in self.model.parameters() if self.holds_frozen or x.requires_grad]
        self.made = OPTIMIZERS[self.optimizer](parameters) if parameters else []
        self.added: list[Tensor] = []
        if not self.made or self.by_hand:
            return
        try:
            with self._judged(looks=False):
                self.handle = self.averager.attach(*self.made)
        except Refused:
            return  # Steps are counted by hand then.
        self.reference.attach(parameters, self.model)

    def noise(self, x: Tensor) -> Tensor:
        # Above 0, since some are variances.
        return (0.1 + torch.rand(x.shape, generator=self.generator)).to(x.dtype)

    @contextmanager
    def _judged(self, *, looks: bool = True) -> Iterator[None]:
        """A call that is right, or refused with the name of something that has changed.

        Args:
            looks: Whether the model must be as it is now from here on, if it was to be loaded.

        Raises:
            Refused: then.
        """
        self.resumed &= not looks
        suspects = self.reference.suspects(self.model)
        held = copy.deepcopy(self.averager._store.record())
        updates = self.averager.updates
        try:
            yield
            if self.added:
                self.reference.attach(self.added, self.model)
                self.added = []
        except PolyakError as error:
            suspects |= self.reference.suspects(self.model)  # An optimizer's step moves weights.
            idle = "nothing of the model is averaged" in str(error)
            idle = idle and not any(x.requires_grad for x in self.model.parameters())
            if not idle and not any(name in str(error) for name in suspects):
                raise AssertionError(f"refused for nothing of {sorted(suspects)}") from error
            assert self.averager.updates == updates
            after = self.averager._store.record()
            for part in ("tensors", "copied"):
                assert_equal(after[part], held[part])
            raise Refused from error

    # What training does.

    def _step(self, trained: Sequence[Tensor]) -> None:
        """One step of all optimizers with gradients of some parameters, and an update if due."""
        for x in self.model.parameters():
            x.grad = None
        for x in trained:
            x.grad = self.noise(x)
        before = self.averager.steps

        def step() -> None:
            for optimizer in self.made:
                (optimizer.second_step if self.optimizer == "halves" else optimizer.step)()
            if self.handle is None:
                self.averager.step()

        try:
            with self._judged():
                step()
        except Refused:
            # Whether the step itself counts makes no difference to any average here.
            assert self.averager.steps in (before, before + 1)
            self.reference.steps = self.averager.steps
            return
        self.reference.steps += 1
        assert self.averager.steps == self.reference.steps
        if self.reference.steps % self.every == 0:
            self.reference.fold(self.model)
        assert self.averager.updates == self.reference.updates

    @rule()
    def train(self):
        if self.made:
            self._step([x for x in self.model.parameters() if x.requires_grad])

    @precondition(lambda self: self._tries("phase"))
    @rule()
    def train_in_a_phase(self):
        """All frozen; thawed only while gradients are taken."""
        parameters = list(self.model.parameters())
        frozen = [x for x in parameters if not x.requires_grad]
        for x in parameters:
            x.requires_grad_(True)
        for x in parameters:
            x.grad = self.noise(x)
        for x in frozen:
            x.requires_grad_(False)
        if self.made:
            self._step(parameters)

    @precondition(lambda self: self._tries("update"))
    @rule()
    def update(self):
        try:
            with self._judged():
                self.averager.update()
        except Refused:
            return
        self.reference.fold(self.model)

    # What is done to a model.

    def _chosen(self, data: st.DataObject, found: Sequence[str]) -> str | None:
        return data.draw(st.sampled_from(sorted(found))) if found else None

    def _place(self, name: str) -> tuple[nn.Module, str]:
        path, _, key = name.rpartition(".")
        return self.model.get_submodule(path), key

    def _plain(self, kind: type = Tensor) -> list[str]:
        """Names of the weights of a sort that are in modules of Python."""
        names = [name for name, x in listed(self.model).items() if isinstance(x, kind)]
        return [n for n in names if not isinstance(self._place(n)[0], torch.jit.ScriptModule)]

    @precondition(lambda self: self._tries("freeze"))
    @rule(data=st.data())
    def freeze(self, data):
        names = [name for name, x in self.model.named_parameters() if x.requires_grad]
        if name := self._chosen(data, names):
            self.model.get_parameter(name).requires_grad_(False)

    @precondition(lambda self: self._tries("thaw"))
    @rule(data=st.data(), adds=st.booleans())
    def thaw(self, data, adds):
        """And add it to the optimizer, as gradual unfreezing does."""
        names = [name for name, x in self.model.named_parameters() if not x.requires_grad]
        if not (name := self._chosen(data, names)):
            return
        x = self.model.get_parameter(name).requires_grad_(True)
        held = [y for o in self.made for group in o.param_groups for y in group["params"]]
        if adds and self.made and not any(x is y for y in held):
            groups = self.made[-1].param_groups
            groups.append({**groups[0], "params": [x]})
            if self.handle is not None:
                self.added.append(x)

    @precondition(lambda self: self._tries("write"))
    @rule(data=st.data(), how=st.sampled_from(["in place", ".data", "replace"]))
    def write(self, data, how):
        names = [n for n in self._plain() if listed(self.model)[n].is_floating_point()]
        if not (name := self._chosen(data, names)):
            return
        x = listed(self.model)[name]
        if how == "in place":
            self.write_in_place(name)
        elif how == ".data":
            x.data = self.noise(x)
        elif isinstance(x, nn.Parameter):
            fresh = nn.Parameter(self.noise(x), requires_grad=x.requires_grad)
            for module in self.model.modules():
                for key, y in module._parameters.items():
                    if y is x and not isinstance(module, torch.jit.ScriptModule):
                        setattr(module, key, fresh)
            self._attach()
        else:
            module, key = self._place(name)
            setattr(module, key, self.noise(x))

    def write_in_place(self, name: str) -> None:
        x = listed(self.model)[name]
        with torch.no_grad():
            x.add_(self.noise(x))

    @precondition(lambda self: self._tries("load"))
    @rule(assign=st.booleans())
    def load_into_the_model(self, assign):
        state = {
            name: self.noise(x) if x.is_floating_point() else x + 1
            for name, x in self.model.state_dict().items()
            if x.dtype != torch.bool
        }
        # Tied weights would be untied by it, which is another model.
        tied = len(listed(self.model)) < len(self.model.state_dict())
        script = any(isinstance(m, torch.jit.ScriptModule) for m in self.model.modules())
        self.model.load_state_dict(state, strict=False, assign=assign and not tied and not script)
        if self.resumed:
            self.reference.note_frozen(self.model)
        self._attach()

    @precondition(lambda self: self._tries("fill"))
    @rule(late=st.booleans())
    def fill(self, late):
        if "places" not in self.model._modules:
            return
        places = self.model.places
        if not late:
            places.late_buffer = torch.randn(4, generator=self.generator).to(places.weight.dtype)
        elif places.late is None:
            places.late = nn.Parameter(self.noise(places.weight))
            self._attach()

    @precondition(lambda self: self._tries("add"))
    @rule(what=st.sampled_from(["parameter", "buffer", "child"]))
    def add(self, what):
        if what == "parameter":
            self.model.register_parameter("added", nn.Parameter(torch.randn(3)))
        elif what == "buffer":
            self.model.register_buffer("added_buffer", torch.randn(3))
        else:
            self.model.add_module("added_child", nn.Linear(4, 4))
        self._attach()

    @precondition(lambda self: self._tries("remove"))
    @rule(data=st.data(), whole=st.booleans())
    def remove(self, data, whole):
        children = [name for name in self.model._modules if name != "linear"]
        if whole and children:
            delattr(self.model, data.draw(st.sampled_from(children)))
        else:
            names = [n for n in ("added", "added_buffer") if hasattr(self.model, n)]
            if not (name := self._chosen(data, names)):
                return
            delattr(self.model, name)
        self._attach()

    @precondition(lambda self: self._tries("cast"))
    @rule(dtype=st.sampled_from(sorted(DTYPES)))
    def cast(self, dtype):
        self.model.to(DTYPES[dtype])
        self.was_cast = True

    @precondition(lambda self: self._tries("reshape"))
    @rule(data=st.data())
    def reshape(self, data):
        """More rows beneath the same tensor; as before again in `mend`."""
        names = [n for n in self._plain() if listed(self.model)[n].ndim > 0]
        if name := self._chosen(data, names):
            x = listed(self.model)[name]
            x.data = torch.cat([x.data, x.data[-1:]])

    # What one does about a refusal.

    @precondition(lambda self: self._tries("mend"))
    @rule(how=st.sampled_from(["track", "new averager"]))
    def mend(self, how):
        if how == "new averager":
            self._build()
            return
        self.lives.clear()  # A model that has grown is another one.
        try:
            with self._judged():
                self.averager.track()
        except Refused:
            return
        self.reference.accept(self.model)
        self.reference.attach([], self.model)

    # What shows an average.

    def _usable(self, autocast: bool = False) -> bool:
        """Whether a forward pass can run: not all shapes and dtypes go together."""
        try:
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                copy.deepcopy(self.model).eval()(torch.ones(2, 4))
        except (RuntimeError, ValueError, IndexError):
            return False
        return True

    @rule(
        name=st.sampled_from("abc"),
        way=st.sampled_from(["tensors", "all_tensors", "module", "shared", "applied"]),
    )
    def read(self, name, way):
        before, modes = own_bits(self.model), [m.training for m in self.model.modules()]
        try:
            with self._judged():
                shown = self._shown(name, way)
        except Refused:
            return
        finally:
            assert_equal(own_bits(self.model), before)
            assert [m.training for m in self.model.modules()] == modes
        self.reference.assert_shown(name, shown, self.model)

    def _shown(self, name: str, way: str) -> dict[str, Tensor]:
        if way == "tensors":
            return self.averager.tensors(name)
        if way == "all_tensors":
            return self.averager.all_tensors()[name]
        if way in ("module", "shared"):
            module = self.averager.module(name, share_frozen=way == "shared")
            return dict(module.state_dict())
        with self.averager.applied(name) as model:
            assert not any(m.training for m in model.modules())
            return {key: x.clone() for key, x in model.state_dict().items()}

    @precondition(lambda self: self._tries("nested"))
    @rule(names=st.lists(st.sampled_from("abc"), min_size=2, max_size=3), raises=st.booleans())
    def read_nested(self, names, raises):
        before = own_bits(self.model)
        seen: list[tuple[str, dict[str, Tensor]]] = []

        def look(rest: Sequence[str]) -> None:
            with self.averager.applied(rest[0]) as model:
                if rest[1:]:
                    look(rest[1:])
                elif raises:
                    raise KeyError("on purpose")
                seen.append((rest[0], {k: x.clone() for k, x in model.state_dict().items()}))

        try:
            with self._judged():
                look(names)
        except Refused:
            return
        except KeyError:
            assert raises
        finally:
            assert_equal(own_bits(self.model), before)
        for name, shown in seen:
            self.reference.assert_shown(name, shown, self.model)

    @precondition(lambda self: self._tries("live"))
    @rule(name=st.sampled_from("abc"), training=st.booleans())
    def look_at_a_live_model(self, name, training):
        """One that was built at any moment before is what a reading shows now."""
        before = own_bits(self.model)
        try:
            with self._judged():
                shown = self.averager.tensors(name)
                live = self.lives.get(name) or self.averager.live(name)
        except Refused:
            return
        finally:
            assert_equal(own_bits(self.model), before)
        if self._runs(live):
            live.train(training)
            live(torch.ones(3, 4).to(next(live.parameters()).dtype))
            live.eval()
            assert_equal(self.averager.tensors(name), shown)
        held = live.state_dict()
        if held.keys() != shown.keys():
            self.lives.pop(name)
            return
        self.lives[name] = live
        for key, got in held.items():
            want = shown[key].to(got.dtype)
            eps = torch.finfo(got.dtype).eps if got.is_floating_point() else 0.0
            assert torch.allclose(got.double(), want.double(), rtol=4 * eps, atol=4 * eps), key

    def _runs(self, model: nn.Module) -> bool:
        """Whether a forward pass of it can run, judged by a copy."""
        try:
            with torch.no_grad():
                copied = copy.deepcopy(model).train()
                copied(torch.ones(3, 4).to(next(model.parameters()).dtype))
        except (RuntimeError, ValueError, IndexError):
            return False
        return True

    @precondition(lambda self: self._tries("autocast"))
    @rule(
        passes=st.lists(st.sampled_from(["own", *"abc"]), min_size=2, max_size=4),
        autocast=st.booleans(),
    )
    def pass_forward(self, passes, autocast):
        """Student and averages in one region, each against a copy in a region of its own."""
        if not self._usable(autocast):
            return
        x = torch.randn(6, 4, generator=self.generator)
        modes = [(m, m.training) for m in self.model.modules()]
        self.model.eval()
        try:
            with self._judged():
                want = {name: self._alone(name, x, autocast) for name in passes}
                got = self._together(passes, x, autocast)
        except Refused:
            return
        finally:
            for module, training in modes:
                module.training = training
        for name, y in zip(passes, got, strict=True):
            assert torch.equal(y, want[name]), f"{name} of {passes}"

    def _alone(self, name: str, x: Tensor, autocast: bool) -> Tensor:
        model = copy.deepcopy(self.model)
        if name != "own":
            state = model.state_dict(keep_vars=True)
            for key, weight in self.averager.tensors(name).items():
                # Not by loading: what is copied may have had another shape.
                state[key].data = weight.to(state[key].dtype)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return model(x)

    def _together(self, passes: Sequence[str], x: Tensor, autocast: bool) -> list[Tensor]:
        got = []
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            for name in passes:
                if name == "own":
                    got.append(self.model(x).detach())
                    continue
                with torch.no_grad(), self.averager.applied(name) as model:
                    got.append(model(x))
        return got

    @precondition(lambda self: self._tries("refresh"))
    @rule()
    def refresh_batchnorm(self):
        if "norm" not in self.model._modules or not self._usable():
            return
        x = torch.randn(6, 4, generator=self.generator)
        before = own_bits(self.model)
        try:
            with self._judged():
                self.averager.refresh_batchnorm([x])
                shown = {name: self.averager.tensors(name) for name in "abc"}
        except Refused:
            return
        finally:
            assert_equal(own_bits(self.model), before)
        for name, tensors in shown.items():
            self._assert_refreshed(name, tensors, x)
        self.averager.drop_refreshed()

    def _assert_refreshed(self, name: str, tensors: dict[str, Tensor], x: Tensor) -> None:
        layer = copy.deepcopy(self.model.norm[0])
        layer.load_state_dict({key: tensors[f"norm.0.{key}"] for key in ("weight", "bias")})
        with torch.no_grad():
            seen = layer(x.to(next(self.model.parameters()).dtype)).double()
        eps = max(torch.finfo(layer.weight.dtype).eps, torch.finfo(torch.float32).eps)
        kept = {k: v for k, v in tensors.items() if "running" not in k}
        for key, want in (("running_mean", seen.mean(0)), ("running_var", seen.var(0))):
            got = tensors[f"norm.1.{key}"].double()
            assert torch.allclose(got, want, rtol=20 * eps, atol=20 * eps), key
        shown = {**self.averager.tensors(name), **kept}
        self.averager.drop_refreshed()
        self.reference.assert_shown(name, self.averager.tensors(name), self.model)
        assert shown.keys() == tensors.keys()

    @precondition(lambda self: self._tries("resume"))
    @rule(data=st.data(), moves=st.booleans())
    def resume(self, data, moves):
        """Everything goes on in a new averager; after a cast it would have to be told dtype=.

        Then the model may be loaded, and what is frozen may move before anybody has looked at it.
        """
        if self.was_cast:
            return
        try:
            with self._judged():
                self.averager.tensors("a")
                state = copy.deepcopy(self.averager.state_dict())
                fresh = Averager(self.model, KINDS, every=self.every, buffers=self.buffers)
                fresh.load_state_dict(state)
        except Refused:
            return
        self.resumed = True
        if self.handle is not None:
            self.handle.remove()
        self.handle = None
        self.lives.clear()
        self.averager = fresh
        self._attach()
        frozen = [name for name in self._plain() if name in self.reference.frozen]
        if moves and (name := self._chosen(data, frozen)):
            self.write_in_place(name)


class Refused(Exception):
    """A call was refused by name, as it may be."""


def assert_equal(got, want) -> None:
    """The same tensors, to the bit, in dictionaries of any depth."""
    if isinstance(want, dict):
        assert got.keys() == want.keys()
        for key, value in want.items():
            assert_equal(got[key], value)
    else:
        assert torch.equal(got.detach(), want.detach())


def run(machine: type[Invariant], *, examples: int, steps: int) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            suppress_health_check=list(HealthCheck),
            print_blob=False,
            # Not to explain, which traces every line.
            phases=[Phase.generate, Phase.shrink],
        ),
    )


@pytest.mark.filterwarnings("ignore:no step has been counted:RuntimeWarning")
def test_an_average_is_the_recurrence_or_refused_by_name():
    run(Invariant, examples=25, steps=12)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:no step has been counted:RuntimeWarning")
def test_an_average_is_the_recurrence_or_refused_by_name_in_thousands_of_sequences():
    run(Invariant, examples=2000, steps=20)
