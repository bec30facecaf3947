# The coefficients of any explicit Runge-Kutta method of the stack, read off one of its steps.

"""
Dynamics whose i-th call gives the i-th unit vector: what a step makes of them are its coefficients. The inputs are kept.
"""
struct Probe
    inputs::Vector{Vector{Float64}}
    times::Vector{Float64}
end

Probe() = Probe(Vector{Float64}[], Float64[])

function evaluate!(probe::Probe, du, u, p, t)
    push!(probe.inputs, copy(u))
    push!(probe.times, t)
    fill!(du, 0)
    i = length(probe.times)
    i <= length(du) && (du[i] = 1)
    return nothing
end

const DIRECTIONS = 64 # at least the number of calls of a step and of its interpolant
const VAST = 2.0^200 # a tolerance: every step is accepted, and a scaled error loses nothing

"""A norm that keeps the vector it is asked for last: the error estimate of a step."""
mutable struct KeptError
    last::Vector{Float64}
end

(norm::KeptError)(x::Number, t) = abs(x)
(norm::KeptError)(x::AbstractArray, t) = (norm.last = collect(Float64, x); rms(x))

"""
    probed_tableau(T, algorithm)

The algorithm as an explicit Runge-Kutta [`Tableau`](@ref), `nothing` where its step is not one. What it says is to be
held against real steps of the algorithm.
"""
function probed_tableau(::Type{T}, algorithm) where {T}
    probe, norm = Probe(), KeptError(zeros(DIRECTIONS))
    adaptive = SciMLBase.isadaptive(algorithm)
    prob = ODEProblem{true, SciMLBase.FullSpecialize}(
        ODEFunction{true, SciMLBase.FullSpecialize}(Dynamics(probe)), zeros(DIRECTIONS), (0.0, 8.0), [0.0],
    )
    integrator = init(
        prob, algorithm; dt = 1.0, adaptive, save_everystep = false, calck = true, verbose = SciMLLogging.None(),
        (adaptive ? (; abstol = VAST, reltol = 0.0, internalnorm = norm) : (;))...,
    )
    step!(integrator)
    integrator.t == 1 || return nothing
    b = copy(integrator.u)
    integrator(0.5) # evaluates what only the interpolant needs
    count = length(probe.times)
    count <= DIRECTIONS || return nothing
    a = zeros(count, count)
    for (i, input) in enumerate(probe.inputs)
        all(iszero, view(input, i:DIRECTIONS)) || return nothing
        a[i, 1:(i - 1)] .= view(input, 1:(i - 1))
    end
    btilde = adaptive ? norm.last .* VAST : Float64[]
    last_used(weights) = something(findlast(!iszero, weights), 0)
    stages = max(last_used(b), last_used(btilde))
    interpolant(theta) = integrator(theta)[1:count]
    return Tableau{T}(
        probe.times, a, b[1:last_used(b)], btilde[1:last_used(btilde)], T[], stages, interpolant,
    )
end
