"""What both sides of a shared-memory session agree on (docs/protocol.md)."""

import struct

HELLO = struct.Struct("<16sII")
"""Session token, number of slots, bytes of a slot; sent with the memfd."""
RELEASE = struct.Struct("<QQ")
"""Slot number and generation, from the client."""
GENERATION = struct.Struct("<Q")
"""At the beginning of a slot."""
SLOT_HEADER_BYTES = 64
"""Before the pixels: the slot's generation, and padding to a cache line."""
