"""Trains any PyTorch model from the loader service: the whole script.

python examples/train_torch.py 127.0.0.1:7000 --epochs 2
torchrun --nproc-per-node 2 examples/train_torch.py loader-1:7000,loader-2:7000 --epochs 90
"""

import argparse

import torch
from torch import nn

from loader_service.torch_adapter import RemoteLoader


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a small convolutional network from the loader service.")
    parser.add_argument("target", help="HOST:PORT[,HOST:PORT...] of the loaders")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=32)
    options = parser.parse_args()

    train = RemoteLoader(options.target, split="train", batch_size=options.batch_size)
    val = RemoteLoader(options.target, split="val", batch_size=options.batch_size)
    model = nn.Sequential(
        nn.Conv2d(3, 32, 7, stride=4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(576, train.num_classes),
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for epoch in range(options.epochs):
        train.set_epoch(epoch)
        for images, labels in train:
            loss = nn.functional.cross_entropy(model(images / 64), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            wrong = sum(int((model(images / 64).argmax(1) != labels).sum()) for images, labels in val)
            total = sum(len(labels) for _, labels in val)
        print(f"epoch {epoch}: validation error {wrong / total:.1%}")


if __name__ == "__main__":
    main()
