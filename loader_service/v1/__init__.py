"""Generated from loader.proto by scripts/proto; the stubs are committed and checked for drift."""
