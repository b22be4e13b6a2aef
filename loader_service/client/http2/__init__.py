"""HTTP/2 as far as receiving batches needs it: sockets, frames, calls."""
