"""Pixels and codecs: frames, planes, encoders and decoders."""
