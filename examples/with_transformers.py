"""transformers: the Trainer trains a small GPT-2, evaluates its average and saves that.

Text is Python's own help, a byte a token. What `save_model` writes is the average that `evaluate`
saw, and loads like any model.

    pip install transformers accelerate
    python examples/with_transformers.py
"""

import tempfile
from pydoc_data.topics import topics

import torch
import transformers

from polyak.integrations.transformers import average

CONTEXT = 32


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
        trainer = transformers.Trainer(
            model,
            arguments,
            train_dataset=samples(text[:200_000]),
            eval_dataset=samples(text[-20_000:]),
        )
        average(trainer, 0.98, save="average")
        trainer.train()
        found = {"average": trainer.evaluate()["eval_loss"]}
        trainer.save_model(f"{folder}/averaged")
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
