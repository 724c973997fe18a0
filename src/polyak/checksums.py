"""SHA-256 of files and tensors.

Checksums find damage, not malice: who can write the file can write them too.
"""

import ctypes
import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor


def of_file(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_tensor(tensor: Tensor) -> str:
    """SHA-256 of a tensor's dtype, shape and bytes; safetensors itself has no checksums.

    Of the standard library's hashes it is the fastest that is not broken: 1.7 GiB/s on one core
    with SHA instructions, where BLAKE2b does 0.5 and CRC-32 1.9.
    """
    flat = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{flat.dtype} {list(flat.shape)} ".encode())
    size = flat.numel() * flat.element_size()
    if size:
        # numpy would lend the bytes too, but the plug-in does without it.
        digest.update((ctypes.c_char * size).from_address(flat.data_ptr()))
    return digest.hexdigest()


def of_tensors(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """`of_tensor` of each, by name; in as many threads as torch computes with.

    A hash of more than a few bytes lets other threads run.
    """
    threads = min(torch.get_num_threads(), len(tensors))
    if threads < 2:
        return {name: of_tensor(x) for name, x in tensors.items()}
    with ThreadPoolExecutor(threads) as pool:
        return dict(zip(tensors, pool.map(of_tensor, tensors.values()), strict=True))
