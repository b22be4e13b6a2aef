"""The programs that scripts/bench compares: one module a peer, each run in an environment of its own."""
