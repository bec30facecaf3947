# What went wrong, told to Python.

"""
What went wrong, for Python's own error: (kind, t, dt, EEst, naccept, nreject), (kind, text, package) of a [`Refusal`](@ref), or
`None`.
"""
host_failure(exception) = told(value(exception))

told(failure) = PythonCall.pybuiltins.None
told(refusal::Refusal) = PythonCall.pytuple((String(refusal.kind), refusal.text, refusal.package))
told(failure::SolveFailure) = PythonCall.pytuple((
    String(failure.kind), failure.t, failure.dt, failure.EEst, failure.naccept, failure.nreject,
))
