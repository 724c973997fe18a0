"""Devices that answer late, played on a CPU: the paths of a GPU without one."""

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn

from polyak import Averager
from polyak.averaging.model import transfer
from polyak.averaging.model.current import CurrentWeights
from polyak.averaging.model.transfer import Lagged


class LateTransfer(transfer.Transfer):
    """Copies parameters only when somebody must wait for them, so a missing fence tears them."""

    def __init__(self) -> None:
        super().__init__()
        self._late: list[tuple[Tensor, Tensor]] = []
        self.calls: list[str] = []

    def start(self, live: Mapping[str, Tensor], host: Mapping[str, Tensor]) -> None:
        self.calls.append("start")
        for key, x in live.items():
            if isinstance(x, nn.Parameter):
                self._late.append((host[key], x))
            else:
                host[key].copy_(x)

    def fence(self) -> None:
        self.calls.append("fence")
        self._copy()

    def arrived(self) -> bool:
        return not self._late

    def wait(self) -> None:
        self.calls.append("wait")
        self._copy()

    def _copy(self) -> None:
        for host, x in self._late:
            host.copy_(x.detach())
        self._late.clear()


def offloaded(monkeypatch: pytest.MonkeyPatch, kind: type = transfer.Transfer) -> None:
    """Let weights on the CPU be treated as if they were on a device."""
    monkeypatch.setattr(transfer, "needed", lambda weights, device: device == "cpu")
    monkeypatch.setattr(transfer, "Transfer", kind)


def late_answers(monkeypatch: pytest.MonkeyPatch, *, guard: bool = True) -> list[Lagged]:
    """Let no answer have arrived before it is asked for; gives those that were, as they come."""
    read: list[Lagged] = []
    value = Lagged.value

    def asked(self: Lagged) -> bool:
        if self not in read:
            read.append(self)
        return value(self)

    monkeypatch.setattr(Lagged, "arrived", lambda self: self in read)
    monkeypatch.setattr(Lagged, "value", asked)
    if guard:
        monkeypatch.setattr(CurrentWeights, "lags", property(lambda self: self.staging is None))
    return read


def skippable_step(averager: Averager) -> Callable[[Tensor], None]:
    """Attach a fused optimizer; gives its step, of which the tensor says if it was skipped."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.0, fused=True)
    averager.attach(optimizer)

    def step(found_inf: Tensor) -> None:
        optimizer.found_inf = found_inf
        optimizer.step()
        del optimizer.found_inf

    return step


def inf(found: bool) -> Tensor:
    """What GradScaler leaves on a fused optimizer."""
    return torch.tensor(float(found))
