"""One generator per purpose, so that no part of a run disturbs another's draws."""

import hashlib

import torch


def seed_for(seed: int, purpose: str) -> int:
    """A 63-bit seed for one purpose of a run, such as "order"; unrelated between purposes."""
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, purpose: str) -> torch.Generator:
    """A CPU generator for one purpose of a run: CPU and GPU runs see the same draws."""
    return torch.Generator().manual_seed(seed_for(seed, purpose))
