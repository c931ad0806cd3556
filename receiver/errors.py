"""What can go wrong for a user.

ReceiverError
├── InputError       a file, a camera or a value that cannot be used
├── ModelError       a model file that is unknown, unreadable, changed or has another signature
├── DeviceError      CUDA or TensorRT was asked for and is not there
└── MissingError     something that has to be installed first

Each message is one sentence that names the value and the way out; the command line prints it and
exits with code 2.
"""


class ReceiverError(Exception):
    """Base of all errors that a user can do something about."""


class InputError(ReceiverError):
    """A file, a camera or a value that cannot be used."""


class ModelError(ReceiverError):
    """A model file that is unknown, unreadable, changed or has another signature."""


class DeviceError(ReceiverError):
    """CUDA or TensorRT was asked for and is not there."""


class MissingError(ReceiverError):
    """Something that has to be installed first."""
