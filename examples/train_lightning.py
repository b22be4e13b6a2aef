"""Lightning from the loader service: checkpoints hold the stream's position, so a run resumes in the midst of an epoch.

python examples/train_lightning.py loader-1:7000,loader-2:7000 --epochs 90 [--resume FILE.ckpt]
"""

import argparse
from typing import Any

import lightning
import torch
from torch import Tensor, nn

from loader_service.torch_adapter import RemoteLoader


class SmallNetwork(lightning.LightningModule):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Conv2d(3, 32, 7, stride=4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3), nn.ReLU(),
            nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(576, num_classes),
        )  # fmt: skip

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        return nn.functional.cross_entropy(self.network(images / 64), labels)

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        images, labels = batch
        wrong = (self.network(images / 64).argmax(1) != labels).float().mean()
        self.log("validation_error", wrong, batch_size=len(labels), sync_dist=True)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


class FromService(lightning.LightningDataModule):
    """Loaders that are made in each process, when Lightning has started it: they ask torch.distributed for its rank."""

    def __init__(self, target: str, batch_size: int) -> None:
        super().__init__()
        self.target, self.batch_size = target, batch_size

    def train_dataloader(self) -> RemoteLoader:
        return RemoteLoader(self.target, split="train", batch_size=self.batch_size)

    def val_dataloader(self) -> RemoteLoader:
        return RemoteLoader(self.target, split="val", batch_size=self.batch_size)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a small network with Lightning from the loader service.")
    parser.add_argument("target", help="HOST:PORT[,HOST:PORT...] of the loaders")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--folder", default="lightning-run")
    parser.add_argument("--resume", help="checkpoint to go on from")
    options = parser.parse_args()

    num_classes = RemoteLoader(options.target, rank=0, world_size=1).num_classes
    trainer = lightning.Trainer(max_epochs=options.epochs, default_root_dir=options.folder, logger=False)
    data = FromService(options.target, options.batch_size)
    trainer.fit(SmallNetwork(num_classes), data, ckpt_path=options.resume)
    (result,) = trainer.validate(ckpt_path=None, model=trainer.lightning_module, datamodule=data)
    print(f"validation error {result['validation_error']:.1%}")


if __name__ == "__main__":
    main()
