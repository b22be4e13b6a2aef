"""ResNet-18 (He et al. 2015) on random resized crops, in mixed precision where there is a GPU.

python examples/train_resnet.py loader-1:7000,loader-2:7000 --epochs 90

Stores with a shorter side of 320 pixels and more leave the most of such crops: ``preprocess run --shorter-side 320``.
"""

import argparse
from itertools import pairwise

import torch
from torch import Tensor, nn

from loader_service.torch_adapter import RemoteLoader


class Block(nn.Module):
    """Two convolutions, and the input added to what they make of it."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.relu(self.residual(x) + self.shortcut(x))


def resnet18(num_classes: int) -> nn.Sequential:
    widths = (64, 64, 64, 128, 128, 256, 256, 512, 512)
    blocks = [Block(before, after, after // before) for before, after in pairwise(widths)]
    return nn.Sequential(
        nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(512, num_classes),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Train ResNet-18 from the loader service.")
    parser.add_argument("target", help="HOST:PORT[,HOST:PORT...] of the loaders")
    parser.add_argument("--epochs", type=int, default=90)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--lr", type=float, default=0.1, help="for a batch of 256 images")
    options = parser.parse_args()

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    train = RemoteLoader(
        options.target, view="resized_crop", colour_std=0.0, batch_size=options.batch_size, device=device
    )
    val = RemoteLoader(options.target, split="val", batch_size=options.batch_size, device=device)
    model = resnet18(train.num_classes).to(device)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
    optimizer = torch.optim.SGD(
        model.parameters(), options.lr * options.batch_size / 256, momentum=0.9, weight_decay=1e-4, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.epochs * len(train))
    for epoch in range(options.epochs):
        train.set_epoch(epoch)
        model.train()
        for images, labels in train:
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                loss = nn.functional.cross_entropy(model(images / 58), labels, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        model.eval()
        wrong, total = torch.zeros((), device=device), 0
        with torch.no_grad():
            for images, labels in val:
                wrong += (model(images / 58).argmax(1) != labels).sum()
                total += len(labels)
        print(f"epoch {epoch}: loss {loss:.4f}, validation error {wrong / total:.1%} of {total}")


if __name__ == "__main__":
    main()
