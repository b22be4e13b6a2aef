"""The options of the commands that draw pictures of a stream."""

from dataclasses import dataclass
from pathlib import Path

from commandline import option
from loader_service.commands.config import MAX_UINT32, MAX_UINT64, StreamConfig


@dataclass(frozen=True, kw_only=True)
class PreviewConfig(StreamConfig):
    """Options of ``preview``."""

    out: Path = option(Path("crops.png"), "PNG file to write", suffix=".png")
    count: int = option(8, "number of images", least=1, most=200)
    draws: int = option(6, "crops of each image, from as many epochs", least=1, most=32)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epoch + self.draws > MAX_UINT32 + 1:
            raise ValueError(f"--epoch: expected at most {MAX_UINT32 + 1 - self.draws:,}, found {self.epoch}")


@dataclass(frozen=True, kw_only=True)
class ShowConfig(StreamConfig):
    """Options of ``show``."""

    step: int = option(0, "step of the epoch, from 0", least=0, most=MAX_UINT64)
    out: Path = option(Path("batch.png"), "PNG file to write", suffix=".png")
