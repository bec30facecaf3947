# What went wrong, told to Python.

"""What went wrong, for Python's own error: (kind, t, dt, EEst, naccept, nreject), or `None`."""
function host_failure(exception)
    failure = value(exception)
    failure isa SolveFailure || return PythonCall.pybuiltins.None
    return PythonCall.pytuple((
        String(failure.kind), failure.t, failure.dt, failure.EEst, failure.naccept, failure.nreject,
    ))
end
