"""The face stage: tracking, references, guided restoration, temporal filter."""
