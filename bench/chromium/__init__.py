"""A headless Chromium that calls the receiver, for benches and tests."""
