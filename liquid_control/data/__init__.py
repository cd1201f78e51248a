"""Reading data: text as tokens, in memory-mapped shards; irregular sequences as batches; published data sets."""
