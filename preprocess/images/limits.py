"""How many pixels an image may have. Apart from the decoder, since options are read where there is no PIL."""

# At four bytes each they take 320 MB, and twice that while CMYK becomes RGB: a worker stays under 700 MB.
DEFAULT_MAX_PIXELS = 80_000_000
# PIL refuses more by itself.
LARGEST_MAX_PIXELS = 178_956_970
