"""The report's pictures of images: what the network guessed, and what it takes to be near."""

import html
from collections.abc import Mapping, Sequence

import torch

from trainer.report.gallery import Exhibit
from trainer.report.pictures import data_uri

Classes = Sequence[tuple[str, str]]


def cards(exhibits: Sequence[Exhibit], classes: Classes, *, split: str, names: Mapping[int, str]) -> str:
    """A card an image: its class, the name that it had in the source if ``names`` has it by its index, the best guesses
    as bars, and the nearest training images with their classes."""
    return "<div class=cards>" + "".join(_card(each, classes, split, names) for each in exhibits) + "</div>"


def _card(exhibit: Exhibit, classes: Classes, split: str, names: Mapping[int, str]) -> str:
    def name(label: int) -> str:
        return html.escape(classes[label][1])

    bars = "".join(
        f"<div class='bar{' right' if label == exhibit.label else ''}'>"
        f"<i style='width:{max(100 * probability, 0.5):.1f}%'></i><span>{name(label)}</span>"
        f"<em>{100 * probability:.0f} %</em></div>"
        for label, probability in exhibit.guesses
    )
    near = "".join(
        f"<figure>{_picture(each.pixels, f'{name(each.label)}, distance {each.distance:.1f}')}"
        f"<figcaption>{name(each.label)}</figcaption></figure>"
        for each in exhibit.neighbours
    )
    place = f"image {exhibit.index:,} of {html.escape(split)}"
    if exhibit.index in names:
        place += f"<br>{html.escape(names[exhibit.index])}"
    neighbours = f"<div class=near><small>nearest training images</small><div>{near}</div></div>" if near else ""
    return (
        f"<article><div class=seen>{_picture(exhibit.pixels, name(exhibit.label))}"
        f"<div class=guess><h3>{name(exhibit.label)}</h3><small>{place}</small>{bars}</div></div>{neighbours}</article>"
    )


def _picture(pixels: torch.Tensor, text: str) -> str:
    return f'<img alt="{text}" title="{text}" src="{data_uri(pixels.numpy())}">'
