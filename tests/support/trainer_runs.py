"""The model of the plain loop as a Trainer of transformers trains it."""

import torch
from support.integration_loops import BATCH, net, samples, sgd
from torch import nn
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainingArguments

from polyak.integrations.transformers import AveragedEvaluation

WHOLE = 4
"""Epochs of a whole run: 24 steps."""


class Regression(nn.Module):
    """The model of the plain loop, as the Trainer calls it; notes what it was evaluated with."""

    def __init__(self):
        super().__init__()
        self.net = net()
        self.seen = []

    def forward(self, x, labels):
        if not self.training:
            self.seen.append({key: t.clone() for key, t in self.net.state_dict().items()})
        predicted = self.net(x)
        return {"loss": nn.functional.mse_loss(predicted, labels), "logits": predicted}


class AveragedTrainer(AveragedEvaluation, Trainer):
    pass


def rows():
    return [{"x": x, "labels": y} for x, y in zip(*samples(), strict=True)]


def trainer(
    folder, callbacks, *, kind=Trainer, epochs=WHOLE, model=None, train_batch=BATCH, **options
):
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=epochs,
        per_device_train_batch_size=train_batch,
        per_device_eval_batch_size=len(rows()),
        max_grad_norm=0.0,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        **{"save_strategy": "no", "logging_strategy": "no", **options},
    )
    model = model or Regression()
    optimizer = sgd(model)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    it = kind(
        model=model,
        args=arguments,
        train_dataset=rows(),
        eval_dataset=rows(),
        callbacks=callbacks,
        optimizers=(optimizer, schedule),
    )
    # Old versions have no word for it.
    it._get_train_sampler = lambda *_: SequentialSampler(it.train_dataset)
    return it
