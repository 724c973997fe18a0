"""The transformers against themselves written out token by token, and their sizes."""

import math

import pytest
import torch
from torch import Tensor, nn

from polyak.errors import ConfigError
from polyak.models import ModelConfig, build
from polyak.models.transformer import GPT, HEAD, Block, ViT, positions
from polyak.training.optim import OptimConfig, build_optimizer


def slow_norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    scale = ((x - x.mean()).square().mean() + norm.eps).sqrt()
    return (x - x.mean()) / scale * norm.weight + norm.bias


def slow_block(x_td: Tensor, block: Block) -> Tensor:
    """Attention one head and one token at a time, then the perceptron one token at a time."""
    tokens, width = x_td.shape
    q, k, v = (
        torch.stack([slow_norm(x, block.norm1) for x in x_td]) @ w.T + b
        for w, b in zip(block.qkv.weight.chunk(3), block.qkv.bias.chunk(3), strict=True)
    )
    out = []
    for t in range(tokens):
        seen = range(t + 1) if block.causal else range(tokens)
        heads = []
        for head in range(width // HEAD):
            cut = slice(head * HEAD, (head + 1) * HEAD)
            scores = torch.stack([q[t, cut] @ k[s, cut] / math.sqrt(HEAD) for s in seen])
            shares = scores.exp() / scores.exp().sum()
            heads.append(sum(share * v[s, cut] for share, s in zip(shares, seen, strict=True)))
        out.append(x_td[t] + block.project.weight @ torch.cat(heads) + block.project.bias)
    rows = []
    for x in out:
        hidden = block.widen.weight @ slow_norm(x, block.norm2) + block.widen.bias
        gelu = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        rows.append(x + block.narrow.weight @ gelu + block.narrow.bias)
    return torch.stack(rows)


def slow_position(row: int, column: int, width: int) -> list[float]:
    rates = [10000 ** (-i / (width // 4 - 1)) for i in range(width // 4)]
    return [
        f(place * rate) for place in (column, row) for f in (math.sin, math.cos) for rate in rates
    ]


def slow_vit(x_chw: Tensor, model: ViT) -> Tensor:
    patch = model.embed.kernel_size[0]
    tokens = []
    for row in range(x_chw.shape[1] // patch):
        for column in range(x_chw.shape[2] // patch):
            rows = slice(row * patch, (row + 1) * patch)
            columns = slice(column * patch, (column + 1) * patch)
            pixels = x_chw[:, rows, columns]
            token = (model.embed.weight * pixels).sum(dim=(1, 2, 3)) + model.embed.bias
            tokens.append(token + torch.tensor(slow_position(row, column, len(token))))
    x_td = torch.stack(tokens)
    for block in model.blocks:
        x_td = slow_block(x_td, block)
    mean = torch.stack([slow_norm(x, model.norm) for x in x_td]).mean(dim=0)
    return model.head.weight @ mean + model.head.bias


def slow_gpt(x_t: list[int], model: GPT) -> Tensor:
    table, places = model.embed.weight, model.places.weight
    x_td = torch.stack([table[byte] + places[place] for place, byte in enumerate(x_t)])
    for block in model.blocks:
        x_td = slow_block(x_td, block)
    rows = [slow_norm(x, model.norm) for x in x_td]
    return torch.stack([torch.stack([row @ of_byte for of_byte in table]) for row in rows])


def randomise(model: nn.Module) -> None:
    """So that no factor is one and no term zero."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)


def test_vit_is_itself_written_out_token_by_token():
    model = ViT(patch=2, depth=2, width=2 * HEAD, classes=3, channels=2).double()
    randomise(model)
    x_bchw = torch.randn(2, 2, 4, 6, dtype=torch.float64)
    expected = torch.stack([slow_vit(x, model) for x in x_bchw])
    # The positions are float32 in both.
    assert torch.allclose(model(x_bchw), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("causal", [False, True])
def test_a_block_sees_what_it_may_see(causal):
    block = Block(HEAD, causal=causal).double()
    randomise(block)
    x_btd = torch.randn(1, 5, HEAD, dtype=torch.float64)
    assert torch.allclose(block(x_btd)[0], slow_block(x_btd[0], block))
    changed = x_btd.clone()
    changed[0, 3, 0] += 1
    same = torch.isclose(block(x_btd), block(changed)).all(dim=2)[0]
    assert same.tolist() == ([True, True, True, False, False] if causal else [False] * 5)


def test_positions_are_those_of_their_formula():
    found = positions(16, 2, 3)
    expected = [slow_position(row, column, 16) for row in range(2) for column in range(3)]
    assert torch.allclose(found, torch.tensor(expected), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "parameters"),
    [({}, 2_680_906), ({"width": 64, "depth": 2}, 103_882), ({"patch": 8, "depth": 1}, 484_234)],
)
def test_sizes_are_pinned(options, parameters):
    config = ModelConfig(name="vit", **options)
    model = build(config, classes=10, channels=3, image_size=32, generator_seed=0)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_wrong_options_are_all_named_at_once():
    config = ModelConfig(name="vit", width=50, depth=0, norm="group")
    with pytest.raises(ConfigError) as caught:
        build(config, classes=10, channels=3, image_size=30, generator_seed=0)
    for phrase in (
        "width is 50; expected a multiple of 32",
        "depth is 0; expected >= 1",
        "norm is 'group'; expected batch for vit",
        "image_size is 30; expected a multiple of patch (4)",
    ):
        assert phrase in str(caught.value)


def small_gpt() -> GPT:
    model = GPT(depth=2, width=2 * HEAD, context=6, classes=9).double()
    randomise(model)
    return model


def windows(*shape: int) -> Tensor:
    """Bytes as a run gives them to a network: (b, 1, t, 1), floats."""
    return torch.randint(0, 9, shape).double()[:, None, :, None]


def test_gpt_is_itself_written_out_token_by_token():
    model = small_gpt()
    x_bchw = windows(2, 6)
    expected = torch.stack([slow_gpt(x.flatten().int().tolist(), model) for x in x_bchw])
    assert torch.allclose(model(x_bchw), expected, rtol=1e-8, atol=1e-10)


def test_what_gpt_says_at_a_position_depends_on_no_later_byte():
    model = small_gpt()
    x_bchw = windows(1, 6)
    for place in range(6):
        changed = x_bchw.clone()
        changed[0, 0, place] = (changed[0, 0, place] + 1) % 9
        same = torch.isclose(model(x_bchw), model(changed)).all(dim=2)[0]
        assert same.tolist() == [before < place for before in range(6)]


@pytest.mark.parametrize(
    ("options", "context", "parameters"),
    [({}, 128, 842_496), ({"width": 64, "depth": 2}, 128, 124_672), ({"depth": 1}, 32, 235_392)],
)
def test_sizes_of_gpt_are_pinned(options, context, parameters):
    config = ModelConfig(name="gpt", **options)
    model = build(config, classes=256, channels=1, image_size=context, generator_seed=0)
    assert sum(p.numel() for p in model.parameters()) == parameters
    logits_btk = model(torch.zeros(2, 1, context, 1))
    assert logits_btk.shape == (2, context, 256)
    # Nearly even chances before any training, and a gradient on every weight.
    loss = nn.functional.cross_entropy(logits_btk.flatten(end_dim=-2), torch.arange(2 * context))
    assert loss.item() == pytest.approx(math.log(256), abs=0.1)
    loss.backward()
    assert [n for n, p in model.named_parameters() if not p.grad.any()] == []


def test_gpt_has_one_matrix_for_the_embedding_and_the_logits():
    model = small_gpt()
    table = [name for name, p in model.named_parameters() if p.shape == (9, 2 * HEAD)]
    assert table == ["embed.weight"]
    before = model(x_bchw := windows(1, 6))
    with torch.no_grad():
        # A byte that is not in the window moves its own logits alone.
        absent = next(byte for byte in range(9) if byte not in x_bchw)
        model.embed.weight[absent] += 1
    moved = ~torch.isclose(before, model(x_bchw)).all(dim=1)[0]
    assert moved.nonzero().flatten().tolist() == [absent]


@pytest.mark.parametrize("precision", [torch.float32, torch.float64, torch.bfloat16])
def test_attention_on_a_cpu_is_never_in_bfloat16(precision, monkeypatch):
    seen = []
    attend = nn.functional.scaled_dot_product_attention

    def spied(query: Tensor, *others: Tensor, **options: bool) -> Tensor:
        out = attend(query, *others, **options)
        seen.append((query.dtype, out.dtype))
        return out

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", spied)
    block = Block(2 * HEAD, causal=True)
    lowered = precision == torch.bfloat16
    x_btd = torch.randn(2, 6, 2 * HEAD)
    if not lowered:
        block, x_btd = block.to(precision), x_btd.to(precision)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=lowered):
        block(x_btd).sum().backward()
    exact = torch.float32 if lowered else precision
    assert seen == [(exact, exact)]


def test_a_network_whose_weights_are_bfloat16_stays_in_it():
    block = Block(2 * HEAD, causal=True).to(torch.bfloat16)
    out_btd = block(torch.randn(2, 6, 2 * HEAD, dtype=torch.bfloat16))
    out_btd.sum().backward()
    assert {out_btd.dtype, *(p.grad.dtype for p in block.parameters())} == {torch.bfloat16}


@pytest.mark.parametrize("causal", [False, True])
def test_an_exported_block_is_a_plain_graph(causal):
    x_btd = torch.randn(2, 6, 2 * HEAD)
    graph = torch.export.export(Block(2 * HEAD, causal=causal).eval(), (x_btd,)).graph
    assert not any("autocast" in str(node.target) for node in graph.nodes)


def test_muon_leaves_the_ends_of_gpt_to_adamw():
    config = OptimConfig(name="muon", lr=1e-3)
    model = build(
        ModelConfig(name="gpt", width=HEAD, depth=1),
        classes=256,
        channels=1,
        image_size=8,
        generator_seed=0,
    )
    muon, adamw = build_optimizer(model, config).parts
    names = {id(p): name for name, p in model.named_parameters()}
    of_muon = {names[id(p)] for group in muon.param_groups for p in group["params"]}
    of_adamw = {names[id(p)] for group in adamw.param_groups for p in group["params"]}
    assert of_muon == {f"blocks.0.{x}.weight" for x in ("qkv", "project", "widen", "narrow")}
    assert {"embed.weight", "places.weight"} < of_adamw
    assert of_muon | of_adamw == set(names.values())


def test_wrong_options_of_gpt_are_all_named_at_once():
    config = ModelConfig(name="gpt", width=50, depth=0, patch=4)
    with pytest.raises(ConfigError) as caught:
        build(config, classes=10, channels=3, image_size=32, generator_seed=0)
    for phrase in (
        "width is 50; expected a multiple of 32 for gpt",
        "depth is 0; expected >= 1, or None for 4",
        "patch is 4; expected None for gpt",
        "channels is 3; expected 1 for gpt",
    ):
        assert phrase in str(caught.value)
