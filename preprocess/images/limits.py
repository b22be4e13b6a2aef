"""How many pixels an image may have, and bytes. Apart from the decoder: options are read where there is no PIL."""

# What decoding takes at most: see docs/preprocess.md, "How long".
DEFAULT_MAX_PIXELS = 80_000_000
# PIL refuses more by itself.
LARGEST_MAX_PIXELS = 178_956_970
# Of colours of 16 bits that are not compressed; and of what a file may hold beside its picture.
_MOST_BYTES_A_PIXEL, _OTHER_BYTES = 6, 64 << 20


def largest_file_bytes(max_pixels: int) -> int:
    """More than any image of ``max_pixels`` takes as a file: a larger one is not read."""
    return _MOST_BYTES_A_PIXEL * max_pixels + _OTHER_BYTES
