"""What a device is still computing, on its way to the host."""

import torch
from torch import Tensor


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
