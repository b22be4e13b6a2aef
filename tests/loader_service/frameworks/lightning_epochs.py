"""Lightning over a RemoteLoader: each epoch's images once, fresh and resumed. TARGET and an empty folder are given."""

import sys
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from loader_service.torch_adapter import RemoteLoader

TARGET, FOLDER = sys.argv[1], Path(sys.argv[2])
Seen = list[tuple[int, float]]


def loader(split: str = "train") -> RemoteLoader:
    return RemoteLoader(TARGET, split=split, batch_size=16, seed=3)


class Model(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 10)
        self.seen: Seen = []

    def training_step(self, batch: Any) -> torch.Tensor:
        images, labels = batch
        self.seen.append((self.current_epoch, float(images.double().sum())))
        return torch.nn.functional.cross_entropy(self.layer(images.mean((2, 3))), labels)

    def validation_step(self, batch: Any) -> None:
        assert len(batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)

    def train_dataloader(self) -> RemoteLoader:
        return loader()

    def val_dataloader(self) -> RemoteLoader:
        return loader("val")


def fit(num_epochs: int, checkpoint: Path | None = None) -> Seen:
    model = Model()
    trainer = lightning.Trainer(
        max_epochs=num_epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ModelCheckpoint(FOLDER, "{step}", every_n_train_steps=2, save_top_k=-1)],
    )
    trainer.fit(model, ckpt_path=checkpoint)
    return model.seen


plain = loader()
expected = [(epoch, float(images.double().sum())) for epoch in range(3) for images, _ in plain]
assert fit(2) == expected[:12], "a fresh fit"
for step in (2, 4, 6, 8, 12):
    found = fit(3, FOLDER / f"step={step}.ckpt")
    assert found == expected[step:], f"resumed after step {step}: {found} and not {expected[step:]}"
