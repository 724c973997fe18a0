import platform
import subprocess
import sys

import pytest
import torch

from polyak.models import resnet8
from polyak.training.machine import differences, environment, memory_format_for

FAULTS = """
import resource, torch
from polyak.training.machine import keep_freed_memory
if {keep}:
    assert keep_freed_memory()
for _ in range(20):  # the first few find their place in the heap
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(16_000_000).add_(1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(keep: bool) -> int:
    """Pages that the system fills when 64 MB are taken that were given back just before."""
    command = [sys.executable, "-c", FAULTS.format(keep=keep)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_freed_memory_is_there_for_the_next_batch():
    assert _faults(keep=True) < 100 < _faults(keep=False)


@pytest.mark.parametrize(
    ("width", "size", "expected"),
    [
        (4, 64, torch.contiguous_format),
        (8, 64, torch.contiguous_format),
        (16, 64, torch.channels_last),
        (4, 32, torch.channels_last),
    ],
)
def test_narrow_networks_on_large_images_keep_the_plain_layout(width, size, expected):
    """In channels last they crashed; see `memory_format_for`."""
    model = resnet8(classes=2, channels=3, width=width)
    found = memory_format_for(model, image_size=size, device=torch.device("cpu"))
    assert found == expected


def test_the_layout_that_is_used_decides_whether_a_checkpoint_goes_on():
    device = torch.device("cpu")
    plain = environment(device, memory_format=torch.contiguous_format)
    assert differences(plain, plain) == []
    assert differences(environment(device), plain) == ["layout 'channels last' (here 'contiguous')"]


def test_checkpoints_of_the_first_round_go_on_whatever_the_layout_was():
    """They called it "memory format", a constant."""
    for layout in (torch.contiguous_format, torch.channels_last):
        now = environment(torch.device("cpu"), memory_format=layout)
        then = {name: value for name, value in now.items() if name != "layout"}
        assert differences({**then, "memory format": "channels last"}, now) == []
        others = {**then, "memory format": "channels last", "threads": -1}
        assert differences(others, now) == [f"threads -1 (here {now['threads']})"]
