"""Every error pylocalreg raises: one base class; each says what was wrong, the numbers, and what to do."""


class LocalRegError(Exception):
    """Base class of all errors raised by pylocalreg."""


class ShapeError(LocalRegError, ValueError):
    """A state, a parameter or an output of the dynamics has the wrong shape, or holds no element."""


class DtypeError(LocalRegError, TypeError):
    """A state or an output of the dynamics has an element type that is not solved."""


class DeviceError(LocalRegError, ValueError):
    """State, parameters and outputs of the dynamics lie on different devices."""


class ToleranceError(LocalRegError, ValueError):
    """``abstol`` or ``reltol`` is not a positive finite number, or the dtype does not hold it."""


class TimeSpanError(LocalRegError, ValueError):
    """``tspan`` is empty, not finite or not a pair, or step sizes or tstops do not fit it."""


class SaveAtError(LocalRegError, ValueError):
    """``saveat`` lies outside the time span or is not ordered along it."""


class OptionError(LocalRegError, ValueError):
    """An option has a value that does not exist, or one that this engine cannot do."""


class NonFiniteError(LocalRegError, ArithmeticError):
    """The initial state, the dynamics or the solution is NaN or infinite."""


class StepUnderflowError(LocalRegError, ArithmeticError):
    """The controller asks for a step shorter than dtmin, or one that no longer moves the time."""


class StepLimitError(LocalRegError, RuntimeError):
    """``maxiters`` attempted steps did not reach the end of the time span."""


class ChangedError(LocalRegError, RuntimeError):
    """What the dynamics hold was changed between a solve and its backward pass."""


class DoubleBackwardError(LocalRegError, RuntimeError):
    """A second derivative was asked of an adjoint that gives first derivatives only."""


class JacobianError(LocalRegError, RuntimeError):
    """The dynamics have no derivative that ``torch.func`` can take, which a stiff solver needs."""


class CheckpointError(LocalRegError, RuntimeError):
    """A run's checkpoint, log or record can not be read, or is of another run than the one that asks."""


class OutputError(LocalRegError, OSError):
    """A run's file, a table or a figure can not be written: the disk is full, say, or the folder a file."""


class OwnedError(LocalRegError, RuntimeError):
    """Another process is training in the folder."""


class TeamError(LocalRegError, RuntimeError):
    """The processes of a run are not alike, or one did not come to a meeting within the time limit."""


class StoppedError(LocalRegError, RuntimeError):
    """A training run was asked to stop by a signal, and did after it had saved its state."""

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal


class EngineUnavailableError(LocalRegError, RuntimeError):
    """The engine that was asked for cannot run on this machine."""


class ConfigError(LocalRegError, ValueError):
    """An experiment's config does not exist, or has an unknown key or a value that does not fit."""


class DataError(LocalRegError, OSError):
    """A data set's files are missing, broken or not to be downloaded."""
