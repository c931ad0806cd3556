"""Metrics of pictures and of sequences. Pictures are HxWx3 uint8 RGB, all of one size.

`pictures` compares two pictures, `ffmpeg` sequences of pictures or of raw files, `motion` sequences
in time and `faces` the faces in them. `brisque` and `niqe` judge one picture without an original.
`lpips`, `stlpips` and `mobileface` are networks. `people` has the statistics.

Metrics of a sequence take `cuts`: indices of pictures that do not follow their predecessor in time.
"""
