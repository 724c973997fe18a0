"""Lightning: a callback validates the average and saves it, while the weights are trained.

Training is stopped after three epochs and goes on from its checkpoint, which holds the average and,
beside it, the weights that are trained.

    pip install lightning
    python examples/with_lightning.py
"""

import tempfile
import warnings

import lightning
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from polyak.integrations.lightning import Averaging


class Digits(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))

    def training_step(self, batch):
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def validation_step(self, batch):
        self.log("accuracy", (self.network(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.5)


def trained(loaders, folder: str, *, epochs: int, checkpoint: str | None = None):
    averaging = Averaging(0.98, save="average")
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=[averaging],
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = Digits()
    trainer.fit(module, *loaders, ckpt_path=checkpoint)
    return trainer, module, averaging


def main() -> dict[str, float]:
    warnings.filterwarnings("ignore", category=UserWarning)  # Lightning's on loaders and folders
    lightning.seed_everything(0, verbose=False)
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels))
    x, y = torch.tensor(images / 16, dtype=torch.float32)[order], torch.tensor(labels)[order]
    wrong = torch.nonzero(torch.rand(1200) < 0.4)  # labels in what is trained on
    y[wrong] = torch.randint(10, wrong.shape)
    train = DataLoader(TensorDataset(x[:1200], y[:1200]), batch_size=32, shuffle=True)
    test = DataLoader(TensorDataset(x[1200:], y[1200:]), batch_size=597)

    with tempfile.TemporaryDirectory() as folder:
        first, _, _ = trained((train, test), folder, epochs=3)
        path = f"{folder}/three.ckpt"
        first.save_checkpoint(path)
        trainer, module, averaging = trained((train, test), folder, epochs=6, checkpoint=path)
    found = {"average": trainer.callback_metrics["accuracy"].item()}  # what was validated
    with torch.no_grad():  # the module holds the weights that were trained
        right = module.network(x[1200:]).argmax(1) == y[1200:]
    found["weights"] = right.float().mean().item()
    found["steps"] = averaging.averager.steps
    print(f"weights  {100 * found['weights']:.1f} % of the test images right")
    print(f"average  {100 * found['average']:.1f} %, after {found['steps']} steps in two sittings")
    return found


if __name__ == "__main__":
    main()
