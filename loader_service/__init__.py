"""The loader: a stateless gRPC service that streams augmented crops, and its client."""

__version__ = "0.2.0"
