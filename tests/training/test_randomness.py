import hashlib

import torch

from polyak.training.randomness import generator, seed_for


def test_a_seed_is_the_head_of_a_digest():
    digest = hashlib.sha256(b"7/order").hexdigest()
    assert seed_for(7, "order") == int(digest[:16], 16) // 2


def test_purposes_and_seeds_draw_apart():
    draws = {
        tuple(torch.rand(4, generator=generator(seed, purpose)).tolist())
        for seed in range(10)
        for purpose in ("order", "augmentation", "initialisation")
    }
    assert len(draws) == 30


def test_a_generator_is_no_other_generators():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert torch.equal(
        torch.rand(3, generator=generator(0, "order")),
        torch.rand(3, generator=generator(0, "order")),
    )
    assert torch.equal(torch.get_rng_state(), before)
