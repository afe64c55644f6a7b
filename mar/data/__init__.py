"""Images and token shards."""
