"""What client and server both speak: streams and batches as types, their bytes, addresses, errors."""
