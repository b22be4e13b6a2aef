"""The job: from a source to a store, shard by shard, on Ray."""
