"""
    PathNoise(t, stops, prototype, increments!)

The noise of one given path, as the stack's methods read it: `increments!(dW, dZ, t, t_new)` writes what the
path does over a step. A rejected step asks the same path over a shorter one, so the path must remember. `stops` are
times that steps end at, in rising order, the span's end the last.
"""
mutable struct PathNoise{T, N, Tt, A, F} <: SciMLBase.AbstractNoiseProcess{T, N, Nothing, true}
    increments!::F
    curt::Tt
    dt::Tt
    dW::A
    dZ::A
    stops::Vector{Tt}
    reset::Bool
end

function PathNoise(t, stops, prototype::AbstractArray{T}, increments!::F) where {T, F}
    return PathNoise{T, ndims(prototype) + 1, typeof(t), typeof(prototype), F}(
        increments!, t, zero(t), zero(prototype), zero(prototype), stops, false,
    )
end

function Base.copy(W::PathNoise)
    return PathNoise(W.curt, W.stops, W.dW, W.increments!)
end

function DiffEqNoiseProcess.calculate_step!(W::PathNoise, dt, u, p)
    W.dt = dt
    W.increments!(W.dW, W.dZ, W.curt, step_end(W.curt, dt, W.stops))
    return nothing
end

function DiffEqNoiseProcess.setup_next_step!(W::PathNoise, u, p)
    return DiffEqNoiseProcess.calculate_step!(W, W.dt, u, p)
end

function DiffEqNoiseProcess.accept_step!(W::PathNoise, dt, u, p, setup_next = true)
    W.curt = step_end(W.curt, W.dt, W.stops)
    W.dt = dt
    setup_next && DiffEqNoiseProcess.calculate_step!(W, dt, u, p)
    return nothing
end

DiffEqNoiseProcess.reject_step!(W::PathNoise, dt, u, p) = DiffEqNoiseProcess.calculate_step!(W, dt, u, p)

DiffEqNoiseProcess.save_noise!(W::PathNoise) = nothing

"""Where a step ends: within rounding of the next of the stops, there, as the stack's loop has it."""
function step_end(t, dt, stops)
    stop, t_new = stops[min(searchsortedlast(stops, t) + 1, end)], t + dt
    return abs(stop - t_new) <= 100 * eps(max(abs(t), abs(stop))) ? stop : t_new
end
