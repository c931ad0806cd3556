"""The face stage: tracking, references, guided restoration."""
