"""A small GPT on text: averaging, evaluation, and a checkpoint from which training goes on.

Text is Python's own help (`pydoc_data.topics`), a byte a token. The run is stopped half way, in the
middle of the averager's period, and goes on from its checkpoint in new objects.

    python examples/text_gpt.py
"""

import tempfile
from pathlib import Path
from pydoc_data.topics import topics

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import polyak

STEPS, BATCH, CONTEXT, WIDTH = 240, 16, 32, 64


class GPT(nn.Module):
    """Two blocks; the embedding is the output layer too, and is averaged once."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(256, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        block = nn.TransformerEncoderLayer(
            WIDTH, 4, 4 * WIDTH, dropout=0.0, batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 256, bias=False)
        self.head.weight = self.tokens.weight
        nn.init.normal_(self.tokens.weight, std=0.02)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        n = ids.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(n)
        x = self.tokens(ids) + self.places(torch.arange(n))
        return self.head(self.norm(self.blocks(x, mask, is_causal=True)))


def batches(data: torch.Tensor, n: int, seed: int) -> torch.Tensor:
    """(n, CONTEXT + 1) bytes from anywhere in the text."""
    draw = torch.Generator().manual_seed(seed)
    starts = torch.randint(len(data) - CONTEXT - 1, (n,), generator=draw)
    return torch.stack([data[i : i + CONTEXT + 1] for i in starts.tolist()]).long()


def loss_of(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    return cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())


def built() -> tuple[GPT, torch.optim.Optimizer, polyak.Averager]:
    model = GPT()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    averager = polyak.Averager(model, polyak.EMA.halflife(steps=30), every=4)
    averager.attach(optimizer)
    return model, optimizer, averager


def train(model: nn.Module, optimizer: torch.optim.Optimizer, data: torch.Tensor, steps) -> None:
    for step in steps:
        optimizer.zero_grad()
        loss_of(model, batches(data, BATCH, seed=step)).backward()
        optimizer.step()


def main() -> dict[str, float]:
    torch.manual_seed(0)
    text = torch.frombuffer(bytearray("\n".join(topics.values()).encode()), dtype=torch.uint8)
    train_data, test_data = text[:-50_000], text[-50_000:]
    half = STEPS // 2 + 1

    model, optimizer, averager = built()
    train(model, optimizer, train_data, range(half))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "checkpoint.pt")
        parts = {"model": model, "optimizer": optimizer, "averager": averager}
        torch.save({name: part.state_dict() for name, part in parts.items()}, path)

        model, optimizer, averager = built()
        state = torch.load(path, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        averager.load_state_dict(state["averager"])
    train(model, optimizer, train_data, range(half, STEPS))

    ids = batches(test_data, 256, seed=-1)
    with torch.no_grad():
        found = {"weights": loss_of(model, ids).item()}
        with averager.applied():
            found["average"] = loss_of(model, ids).item()
    for name, value in found.items():
        print(f"{name:8} {value:.3f} nats a byte on other text")
    return found


if __name__ == "__main__":
    main()
