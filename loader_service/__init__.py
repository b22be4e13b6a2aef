"""The loader: a stateless gRPC service that streams augmented crops, and its client."""
