"""The client: batches in order, byte for byte the same, from any number of replicas."""
