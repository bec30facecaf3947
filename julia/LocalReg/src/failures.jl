"""
What can not be done with what the user gave, in words for the user. `kind` says which of Python's errors it becomes: one of
`:shape`, `:dtype`, `:option`, or `:stack` of what the stack does not solve or does not have; `package` is one that is missing.
"""
struct Refusal <: Exception
    kind::Symbol
    text::String
    package::String
end

Refusal(kind::Symbol, text) = Refusal(kind, text, "")
Refusal(text::AbstractString, package = "") = Refusal(:stack, text, package)

Base.showerror(io::IO, refusal::Refusal) = print(io, refusal.text)

"""
Why a solve could not go on. `kind` is one of `:step_limit`, `:step_underflow`, `:non_finite`, `:no_convergence` (of
implicit stages); `t` is where,
after `naccept` accepted and `nreject` rejected steps, `dt` and `EEst` those of the last attempt.
"""
struct SolveFailure <: Exception
    kind::Symbol
    t::Float64
    dt::Float64
    EEst::Float64
    naccept::Int
    nreject::Int
end

function Base.showerror(io::IO, failure::SolveFailure)
    return print(
        io, "the solve stopped at t = ", failure.t, ": ", failure.kind, " (dt = ", failure.dt, ", EEst = ",
        failure.EEst, ", ", failure.naccept, " accepted and ", failure.nreject, " rejected steps)",
    )
end
