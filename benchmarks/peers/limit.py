"""The limit: the C loop of limit.c, compiled here; no consumer, no mirroring. --variant whole or region."""

import subprocess
from pathlib import Path

import numpy as np

from benchmarks.peers.measure import BATCH_SIZE, CROP, arguments, report


def main() -> None:
    command, run = arguments()
    folder = run.data / "formats" / "limit"
    program = folder / "limit"
    if command == "prepare":
        folder.mkdir(parents=True, exist_ok=True)
        source = Path(__file__).with_name("limit.c")
        subprocess.run(["cc", "-O3", "-march=native", "-o", program, source, "-ljpeg", "-lpthread"], check=True)
        np.load(run.data / "offsets.npy").tofile(folder / "offsets.bin")
        return
    sample = folder / "sample.bin"
    inputs = [run.data / "images.bin", folder / "offsets.bin"]
    numbers = [run.workers, run.seconds, max(run.warmup_s, 0.3)]
    line = subprocess.run(
        [program, *inputs, *map(str, numbers), sample, run.variant],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
    ).stdout
    images, seconds, cpu_s = map(float, line.split())
    content = np.fromfile(sample, np.uint8)
    np.savez(
        run.sample,
        images=content[BATCH_SIZE * 8 :].reshape(BATCH_SIZE, CROP, CROP, 3),
        indices=content[: BATCH_SIZE * 8].view(np.int64),
    )
    report(
        {
            "images": images,
            "seconds": seconds,
            "images_per_s": images / seconds,
            "cpu_s_per_1000": cpu_s / images * 1000,
        }
    )


if __name__ == "__main__":
    main()
