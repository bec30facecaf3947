"""
    PathNoise(t, prototype, increments!)

The noise of one given path, as the stack's methods read it: `increments!(dW, dZ, t, t_new)` writes what the
path does over a step. A rejected step asks the same path over a shorter one, so the path must remember.
"""
mutable struct PathNoise{T, N, Tt, A, F} <: SciMLBase.AbstractNoiseProcess{T, N, Nothing, true}
    increments!::F
    curt::Tt
    dt::Tt
    dW::A
    dZ::A
    tend::Tt
    reset::Bool
end

function PathNoise(t, tend, prototype::AbstractArray{T}, increments!::F) where {T, F}
    return PathNoise{T, ndims(prototype) + 1, typeof(t), typeof(prototype), F}(
        increments!, t, zero(t), zero(prototype), zero(prototype), tend, false,
    )
end

function Base.copy(W::PathNoise)
    return PathNoise(W.curt, W.tend, W.dW, W.increments!)
end

function DiffEqNoiseProcess.calculate_step!(W::PathNoise, dt, u, p)
    W.dt = dt
    W.increments!(W.dW, W.dZ, W.curt, step_end(W.curt, dt, W.tend))
    return nothing
end

function DiffEqNoiseProcess.setup_next_step!(W::PathNoise, u, p)
    return DiffEqNoiseProcess.calculate_step!(W, W.dt, u, p)
end

function DiffEqNoiseProcess.accept_step!(W::PathNoise, dt, u, p, setup_next = true)
    W.curt = step_end(W.curt, W.dt, W.tend)
    W.dt = dt
    setup_next && DiffEqNoiseProcess.calculate_step!(W, dt, u, p)
    return nothing
end

DiffEqNoiseProcess.reject_step!(W::PathNoise, dt, u, p) = DiffEqNoiseProcess.calculate_step!(W, dt, u, p)

DiffEqNoiseProcess.save_noise!(W::PathNoise) = nothing

"""Where a step ends: within rounding of the span's end, there, as the stack's loop has it."""
function step_end(t, dt, tend)
    t_new = t + dt
    return abs(tend - t_new) <= 100 * eps(max(abs(t), abs(tend))) ? tend : t_new
end
