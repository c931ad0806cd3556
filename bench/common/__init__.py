"""What several benches share: clips, encoders, metrics, kept results, tables."""
