"""The gRPC server: who is let in, what was asked for, and how the answers leave."""
