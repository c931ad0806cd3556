"""Video files: reading, copying and writing, with every property kept."""
