"""Errors that a user can do something about.

ReceiverError
├── InputError       a file, a camera or a value that cannot be used
├── ModelError       a model file that is unknown, unreadable, changed or has a wrong signature
├── DeviceError      CUDA or TensorRT was asked for and is not available
└── MissingError     something that must be installed first

Each message is one sentence that names the invalid value and the way out. The command line prints
it and exits with code 2.
"""


class ReceiverError(Exception):
    """Base of all errors that a user can do something about."""


class InputError(ReceiverError):
    """A file, a camera or a value that cannot be used."""


class ModelError(ReceiverError):
    """A model file that is unknown, unreadable, changed or has a wrong signature."""


class DeviceError(ReceiverError):
    """CUDA or TensorRT was asked for and is not available."""


class MissingError(ReceiverError):
    """Something that must be installed first."""
