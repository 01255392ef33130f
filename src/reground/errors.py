"""Errors that a user can mend. The command line prints the message alone and exits with code 2."""


class UserError(Exception):
    """Something the user can mend; the message says what was found, what was expected, what to do.

    Anything else that escapes is a bug of ours and keeps its traceback.
    """


class ConfigError(UserError):
    """A configuration that names an unknown key or gives a value of the wrong type."""


class DataError(UserError):
    """A data file, an image or a row that cannot be used as it is."""


class ModelError(UserError):
    """A checkpoint that cannot be loaded, or belongs to no known family."""


class RunError(UserError):
    """A run directory that cannot be started or resumed as asked."""


class TrainingError(UserError):
    """Training that had to stop: NaN loss, or batches from which nothing can be learned."""


class EndpointError(UserError):
    """A server of models that cannot be used as it is."""
