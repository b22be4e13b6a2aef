"""Batches on their way from the loader to the devices."""
