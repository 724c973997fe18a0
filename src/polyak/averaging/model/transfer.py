"""Averages in host memory of weights on a device: how the weights come down.

At an update the weights are copied to pinned memory, one copy of the model, by a stream of their
own. The host folds them in once they are there: at a later step, or when somebody reads. What is
queued on the device after the fence waits for the copies. The fence comes with the next step of an
attached optimizer, if the attached ones hold all averaged parameters, and else right after the
update. So who writes to parameters otherwise than by such a step (clipping or loading weights)
should do it before that step's update, or read an average first, which waits for the copies.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def needed(weights: Mapping[str, Tensor], device: torch.device | str | None) -> bool:
    """Whether averages on `device` are in host memory while some of the weights are not."""
    on_host = device is not None and torch.device(device).type == "cpu"
    return on_host and any(x.is_cuda for x in weights.values())


class Transfer:
    """Copies to the host that run while a device goes on; on a CPU they are done at once.

    Order of calls: `start`, `fence` before anybody writes to the parameters again, `wait` before
    the copies are read. What a forward pass writes to, buffers that is, is copied in the
    device's own order and needs no fence.
    """

    def __init__(self) -> None:
        self._streams: dict[torch.device, torch.cuda.Stream] = {}
        self._events: dict[torch.device, torch.cuda.Event] = {}

    def start(self, current: Mapping[str, Tensor], host: Mapping[str, Tensor]) -> None:
        """Begin to copy each current tensor to the one of its name on the host."""
        later = {key: x for key, x in current.items() if x.is_cuda and isinstance(x, nn.Parameter)}
        for key, x in current.items():
            if key not in later:
                host[key].copy_(x.detach(), non_blocking=True)
        for device in {x.device for x in current.values() if x.is_cuda}:
            if device not in self._streams:
                # torch leaves its streams and events without types.
                self._streams[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            stream = self._streams[device]
            # The copies begin once the optimizer has written, and with the buffers' done.
            stream.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(stream):
                for key, x in later.items():
                    if x.device == device:
                        host[key].copy_(x.detach(), non_blocking=True)
                        x.detach().record_stream(stream)
            self._events[device] = stream.record_event()

    def fence(self) -> None:
        """Make what is queued on the devices from now on start after the copies."""
        for device, event in self._events.items():
            torch.cuda.current_stream(device).wait_event(event)

    def arrived(self) -> bool:
        """Whether the copies can be read without waiting."""
        events = self._events.values()
        return all(event.query() for event in events)  # type: ignore[no-untyped-call]

    def wait(self) -> None:
        """Let the host wait for the copies."""
        for event in self._events.values():
            event.synchronize()


class Staging:
    """Host memory for the values of a model's weights at one update.

    Args:
        current: The weights, by name. The memory is pinned where they are on a CUDA device.
    """

    def __init__(self, current: Mapping[str, Tensor]) -> None:
        self.tensors = {key: _on_host(x) for key, x in current.items()}
        self._layouts = _layouts(current)
        self._transfer = Transfer()

    def fits(self, current: Mapping[str, Tensor]) -> bool:
        """Whether it was made for exactly such tensors."""
        return _layouts(current) == self._layouts

    def send(self, current: Mapping[str, Tensor]) -> None:
        """Begin to copy the weights down; see `Transfer` for what must follow."""
        self._transfer.start(current, self.tensors)

    def fence(self) -> None:
        """Make whoever writes to the weights next wait, on the device, for the copies."""
        self._transfer.fence()

    def arrived(self) -> bool:
        """Whether `wait` would return at once."""
        return self._transfer.arrived()

    def wait(self) -> None:
        """Let the host wait until everything is down."""
        self._transfer.wait()


def _layouts(current: Mapping[str, Tensor]) -> dict[str, tuple[object, ...]]:
    # Not the host's strides: memory for a weight with gaps has none.
    return {key: (x.dtype, x.shape, x.stride()) for key, x in current.items()}


def _on_host(x: Tensor) -> Tensor:
    # Written to at every update: an inference tensor could not be, outside inference mode.
    with torch.inference_mode(False):
        return torch.empty_like(x.detach(), device="cpu", pin_memory=x.is_cuda)


class Lagged:
    """A truth value that the host can read later without having waited for the device.

    From a CUDA device it is copied to pinned memory as soon as it is there; from anywhere else
    it is read at once.

    Args:
        flag: One value; true unless zero. It may be overwritten afterwards.
    """

    def __init__(self, flag: Tensor) -> None:
        self.flag = flag.detach().reshape(()) != 0
        """The value where it was computed, a 0-dim bool."""
        self._host = self.flag
        self._event: torch.cuda.Event | None = None
        if flag.is_cuda:
            self._host = torch.empty((), dtype=torch.bool, device="cpu", pin_memory=True)
            self._host.copy_(self.flag, non_blocking=True)
            self._event = torch.cuda.current_stream(flag.device).record_event()

    def arrived(self) -> bool:
        """Whether the value can be read without waiting."""
        # torch leaves its events without types.
        return self._event is None or bool(self._event.query())  # type: ignore[no-untyped-call]

    def value(self) -> bool:
        """The value; waits for it, but not for what the device does after it."""
        if self._event is not None:
            self._event.synchronize()
        return bool(self._host)
