"""A network as text: layers, shapes, parameters by device, multiply-adds."""

from trainer.network.architecture import Architecture, Layer


def describe_architecture(architecture: Architecture) -> str:
    """A table of the layers and a last line with the totals."""
    header = ("layer", "a column's part", "reads", "output", "then", "parameters", "multiply-adds")
    rows = [header, *map(_row, architecture.layers)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    by_device = [0] * architecture.num_columns
    for layer in architecture.layers:
        for part in range(layer.num_parts):
            by_device[part] += layer.num_parameters // layer.num_parts
    neurons = sum(layer.num_neurons for layer in architecture.layers)
    devices = " + ".join(f"{count:,}" for count in by_device)
    lines.append(
        f"{architecture.num_parameters:,} parameters ({devices} by device), {neurons:,} neurons, "
        f"{architecture.multiply_adds / 1e6:,.1f} M multiply-adds an image, crop {architecture.crop}, "
        f"{architecture.num_classes:,} classes"
    )
    return "\n".join(lines)


def _row(layer: Layer) -> tuple[str, ...]:
    return (
        layer.name,
        _shape(layer),
        _reads(layer),
        _output(layer),
        ", ".join(layer.operations) or "-",
        f"{layer.num_parameters:,}",
        f"{layer.multiply_adds:,}",
    )


def _shape(layer: Layer) -> str:
    if layer.kind == "full":
        return f"{layer.num_inputs:,} -> {layer.num_outputs:,}"
    stride = f" stride {layer.stride}" if layer.stride > 1 else ""
    pad = f" pad {layer.pad}" if layer.pad else f" pad end {layer.pad_end}" if layer.pad_end else ""
    return f"{layer.num_outputs} of {layer.kernel}x{layer.kernel}x{layer.num_inputs}{stride}{pad}"


def _reads(layer: Layer) -> str:
    return "image" if layer.name == "conv1" else "both columns" if layer.reads_both else "own column"


def _output(layer: Layer) -> str:
    if layer.kind == "full":
        return f"{layer.num_parts} x {layer.num_outputs:,}"
    pooled = f" -> {layer.side_out}" if layer.side_out != layer.side else ""
    return f"{layer.num_parts} x {layer.num_outputs} x {layer.side}{pooled}"
