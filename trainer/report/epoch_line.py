"""One line for each epoch of a run."""

from trainer.monitor.metrics import EpochPoint


def epoch_line(point: EpochPoint, end_epoch: int, *, is_best: bool, next_rate: float | None) -> str:
    """``epoch 3/91: loss 5.123, validation errors 81.2 / 60.1 %, best, lr 0.01 -> 0.001``, within 80 columns.

    The errors are top-1 and top-5, those of training where there is no validation; ``best``: the lowest top-1 error so
    far. ``next_rate`` is that of the next epoch, None after the last.
    """
    if point.validation_loss is None or point.validation_top1_error is None or point.validation_top5_error is None:
        top1, top5, of = point.train_top1_error, point.train_top5_error, "training"
    else:
        top1, top5, of = point.validation_top1_error, point.validation_top5_error, "validation"
    text = f"epoch {point.epoch + 1}/{end_epoch}: loss {point.train_loss:.3f}, "
    text += f"{of} errors {100 * top1:.1f} / {100 * top5:.1f} %"
    if is_best:
        text += ", best"
    drop = f" -> {next_rate:g}" if next_rate not in (None, point.rate) else ""
    return f"{text}, lr {point.rate:g}{drop}"
