"""transformers: the Trainer trains a small GPT-2 and evaluates its average.

Text is Python's own help, a byte a token. `evaluate` sees the average; the average is saved by
`save_pretrained`, and loads like any model.

    pip install transformers accelerate
    python examples/with_transformers.py
"""

import tempfile
from pydoc_data.topics import topics

import torch
import transformers

from polyak.integrations.transformers import AveragedEvaluation, Averaging

CONTEXT = 32


class AveragedTrainer(AveragedEvaluation, transformers.Trainer):
    """A Trainer whose `evaluate` and `predict` see the average."""


def samples(text: bytes) -> list[dict[str, torch.Tensor]]:
    ids = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
    rows = ids[: len(ids) // CONTEXT * CONTEXT].view(-1, CONTEXT)
    return [{"input_ids": row, "labels": row} for row in rows]


def main() -> dict[str, float]:
    transformers.set_seed(0)
    text = "\n".join(topics.values()).encode()
    config = transformers.GPT2Config(
        vocab_size=256, n_positions=CONTEXT, n_embd=64, n_layer=2, n_head=4,
        bos_token_id=0, eos_token_id=0, loss_type="ForCausalLMLoss",
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config)
    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            folder, max_steps=200, per_device_train_batch_size=16, learning_rate=5e-3,
            lr_scheduler_type="constant", save_strategy="no", report_to=[], disable_tqdm=True,
            use_cpu=True, logging_strategy="no",
        )  # fmt: skip
        averaging = Averaging([0.98], apply="ema_0.98")
        trainer = AveragedTrainer(
            model,
            arguments,
            train_dataset=samples(text[:200_000]),
            eval_dataset=samples(text[-20_000:]),
            callbacks=[averaging],
        )
        trainer.train()
        found = {"average": trainer.evaluate()["eval_loss"]}
        averaging.averager.module("ema_0.98").save_pretrained(f"{folder}/averaged")
        loaded = transformers.GPT2LMHeadModel.from_pretrained(f"{folder}/averaged")
    plain = transformers.Trainer(model, arguments, eval_dataset=trainer.eval_dataset)
    found["weights"] = plain.evaluate()["eval_loss"]
    plain = transformers.Trainer(loaded, arguments, eval_dataset=trainer.eval_dataset)
    found["loaded again"] = plain.evaluate()["eval_loss"]
    for name in ("weights", "average", "loaded again"):
        print(f"{name:13} {found[name]:.4f} nats a byte on other text")
    return found


if __name__ == "__main__":
    main()
