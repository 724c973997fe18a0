import platform
import subprocess
import sys

import pytest

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
