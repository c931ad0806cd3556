"""Publishing a camera or a clip."""
