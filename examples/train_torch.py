"""Trains any PyTorch model from the loader service, alone or in several processes: the whole script.

python examples/train_torch.py 127.0.0.1:7000 --epochs 2
torchrun --nproc-per-node 2 examples/train_torch.py loader-1:7000,loader-2:7000 --epochs 90
"""

import argparse
import os

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from loader_service.torch_adapter import RemoteLoader


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a small convolutional network from the loader service.")
    parser.add_argument("target", help="HOST:PORT[,HOST:PORT...] of the loaders")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=32, help="images a step of each process")
    options = parser.parse_args()

    has_gpu, is_distributed = torch.cuda.is_available(), "WORLD_SIZE" in os.environ
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if has_gpu else torch.device("cpu")
    if is_distributed:
        torch.distributed.init_process_group("nccl" if has_gpu else "gloo")
    torch.manual_seed(0)

    # Each process gets its share of every step: the ranks are torch.distributed's.
    train = RemoteLoader(options.target, split="train", batch_size=options.batch_size, device=device)
    val = RemoteLoader(options.target, split="val", batch_size=options.batch_size, device=device)
    network = nn.Sequential(
        nn.Conv2d(3, 32, 7, stride=4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(576, train.num_classes),
    ).to(device)  # fmt: skip
    model = DistributedDataParallel(network) if is_distributed else network  # which averages the gradients
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for epoch in range(options.epochs):
        train.set_epoch(epoch)
        sums = torch.zeros(4, dtype=torch.float64, device=device)  # loss, images; validation's errors, images
        for images, labels in train:
            loss = nn.functional.cross_entropy(model(images / 64), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            sums[0] += loss.detach() * len(labels)
            sums[1] += len(labels)
        with torch.no_grad():
            for images, labels in val:
                sums[2] += (network(images / 64).argmax(1) != labels).sum()
                sums[3] += len(labels)
        if is_distributed:
            torch.distributed.all_reduce(sums)
        if not is_distributed or torch.distributed.get_rank() == 0:
            loss_sum, num_seen, wrong, total = sums.tolist()
            print(f"epoch {epoch}: loss {loss_sum / num_seen:.4f}, validation error {wrong / total:.1%} of {total:.0f}")
    if is_distributed:
        torch.distributed.barrier()  # no process leaves while another still exchanges
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
