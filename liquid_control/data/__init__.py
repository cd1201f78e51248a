"""Reading data: text as tokens, in memory-mapped shards."""
