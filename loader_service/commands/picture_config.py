"""The options of the commands that draw pictures of a stream."""

from dataclasses import dataclass, field
from pathlib import Path

from commandline import option
from loader_service.commands.config import MAX_UINT32, MAX_UINT64, StreamConfig


@dataclass(frozen=True, kw_only=True)
class PreviewConfig(StreamConfig):
    """Options of ``preview``."""

    out: Path = field(default=Path("crops.png"), metadata=option("PNG file to write", suffix=".png"))
    count: int = field(default=8, metadata=option("number of images", least=1, most=200))
    draws: int = field(default=6, metadata=option("crops of each image, from as many epochs", least=1, most=32))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epoch + self.draws > MAX_UINT32 + 1:
            raise ValueError(f"--epoch: expected at most {MAX_UINT32 + 1 - self.draws:,}, found {self.epoch}")


@dataclass(frozen=True, kw_only=True)
class ShowConfig(StreamConfig):
    """Options of ``show``."""

    step: int = field(default=0, metadata=option("step of the epoch, from 0", least=0, most=MAX_UINT64))
    out: Path = field(default=Path("batch.png"), metadata=option("PNG file to write", suffix=".png"))
