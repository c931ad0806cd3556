"""Training data: shards of aligned face crops, and the random samples drawn from them."""
