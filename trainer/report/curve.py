"""curve.svg: a run's losses and errors, drawn anew as the run goes."""

from pathlib import Path

from commandline import write_line
from commandline.files import write_whole
from trainer.checkpoint.background import Background
from trainer.monitor.metrics import read_points
from trainer.report.charts import error_chart, loss_chart, stacked

CURVE_NAME = "curve.svg"


class CurveWriter:
    """Draws a run's metrics, beside training. A picture that cannot be written is warned about once, no more."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._path = run_dir / CURVE_NAME
        self._drawing = Background()
        self._has_warned = False

    def begin(self) -> None:
        """Begins to draw what there is by now, unless a picture is being drawn."""
        if not self._drawing.is_busy:
            self._drawing.start(self._draw)

    def draw(self) -> Path:
        """Draws what there is by now; returns the picture's path once it is there."""
        self._drawing.start(self._draw)
        self._drawing.finish()
        return self._path

    def _draw(self) -> None:
        train, epochs = read_points(self._run_dir)
        try:
            write_whole(self._path, stacked([loss_chart(train, epochs), error_chart(epochs)]))
        except OSError as error:
            if not self._has_warned:
                write_line(f"WARNING: {self._path}: {error.strerror}; the run goes on without its picture")
            self._has_warned = True
