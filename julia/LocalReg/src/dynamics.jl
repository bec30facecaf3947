"""
    Dynamics(model)

A right-hand side as the stack calls it: `f(du, u, p, t)` in place, `f(u, p, t)` out of place. It counts its
calls, and hides the model's type, so that solvers and adjoints are compiled once for all models. It is evaluated
at times strictly between `low` and `high`, see [`on_side`](@ref). `per_sample` says that the entries of the state's last
dimension do not depend on each other, and that the Jacobian is made of a block for each. A `recorder`, where there is one,
keeps what the calls in place need for their pullbacks.

A model is anything with methods of [`evaluate!`](@ref), [`pull`](@ref), [`jacobian`](@ref) and
[`time_derivative`](@ref).
"""
mutable struct Dynamics
    model::Any
    calls::Int
    low::Float64
    high::Float64
    per_sample::Bool
    recorder::Any
end

Dynamics(model; per_sample = false) = Dynamics(model, 0, -Inf, Inf, per_sample, nothing)

"""The time, or where it is one of the ends of the side, one a rounding inside of it."""
inside(f::Dynamics, t) = clamp(t, nextfloat(oftype(t, f.low)), prevfloat(oftype(t, f.high)))

"""
    on_side(work, dynamics, stops, t, dt)

`work()` with all of `dynamics` evaluated on the side of the step from `t` of size `dt` alone: they may jump at the
`stops`, in rising order. The last stage of a step that ends at a jump, and the first of the one that starts there, have
the same time. Each is moved by one rounding into its step's side.
"""
function on_side(work, dynamics, stops, t, dt)
    isempty(stops) && return work()
    i = searchsortedlast(stops, t + dt / 2)
    low, high = i > 0 ? stops[i] : -Inf, i < length(stops) ? stops[i + 1] : Inf
    before = [(f.low, f.high) for f in dynamics]
    foreach(f -> ((f.low, f.high) = (low, high)), dynamics)
    try
        return work()
    finally
        foreach((f, ends) -> ((f.low, f.high) = ends), dynamics, before)
    end
end

function (f::Dynamics)(du, u, p, t)
    f.calls += 1
    f.recorder === nothing ? evaluate!(f.model, du, u, p, inside(f, t)) : record_call!(f.recorder, f, du, u, p, t)
    return nothing
end

function (f::Dynamics)(u, p, t)
    du = similar(u, promote_type(eltype(u), eltype(p), typeof(t)))
    f(du, u, p, t)
    return du
end

"""
    evaluate!(model, du, u, p, t)

Write du/dt into `du`.
"""
function evaluate! end

"""
    pull(model, u, p, t) -> du, back

du/dt, and `back(cotangent) -> (by_u, by_p)`, arrays like `u` and `p`; to be called once. Given a `memory`, a model may
take the arrays of both from there.
"""
pull(model, u, p, t, memory) = pull(model, u, p, t)

"""
    jacobian(model, u, p, t)

The matrix d vec(du) / d vec(u), for the stiff solvers. By default row by row from [`pull`](@ref).
"""
function jacobian(model, u, p, t)
    J = similar(u, length(u), length(u))
    for i in 1:length(u)
        _, back = pull(model, u, p, t)
        row = zero(u)
        fill!(view(vec(row), i:i), 1)
        view(J, i, :) .= vec(back(row)[1])
    end
    return J
end

"""
    jacobian_by_sample(model, u, p, t)

As [`jacobian`](@ref), where samples do not depend on each other: a row of all blocks at a time.
"""
function jacobian_by_sample(model, u, p, t)
    J = fill!(similar(u, length(u), length(u)), 0)
    samples = size(u, ndims(u))
    n = length(u) ÷ samples
    for i in 1:n
        _, back = pull(model, u, p, t)
        row = zero(u)
        view(reshape(row, n, samples), i, :) .= 1
        by_u = reshape(back(row)[1], n, samples)
        for s in 1:samples
            view(J, (s - 1) * n + i, ((s - 1) * n + 1):(s * n)) .= view(by_u, :, s)
        end
    end
    return J
end

jacobian(f::Dynamics, u, p, t) =
    (f.per_sample ? jacobian_by_sample : jacobian)(f.model, u, p, inside(f, t))

"""
    time_derivative(model, u, p, t)

d du / dt, for the stiff solvers.
"""
function time_derivative end

# SciMLSensitivity's ZygoteVJP differentiates the out-of-place call: through `pull`, one call of the model
function ChainRulesCore.rrule(f::Dynamics, u, p, t)
    du, back = pull(f, u, p, t)
    function dynamics_pullback(cotangent)
        by_u, by_p = back(convert(typeof(u), reshape(ChainRulesCore.unthunk(cotangent), size(u))))
        return NoTangent(), by_u, by_p, NoTangent()
    end
    return du, dynamics_pullback
end

"""
    pull(f::Dynamics, u, p, t)

One counted call of `f`, ready to be pulled back.
"""
function pull(f::Dynamics, u, p, t, memory = Fresh())
    f.calls += 1
    return pull(f.model, u, p, inside(f, t), memory)
end

"""
    ode_function(f::Dynamics)

`f` with what the stiff solvers ask for beside it.
"""
function ode_function(f::Dynamics)
    jac!(J, u, p, t) = (J .= jacobian(f, u, p, t); nothing)
    tgrad!(dT, u, p, t) = (dT .= time_derivative(f.model, u, p, inside(f, t)); nothing)
    return ODEFunction{true, SciMLBase.FullSpecialize}(f; jac = jac!, tgrad = tgrad!)
end

"""
    Part(model, range)

A model whose parameters are a range of a longer flat vector: drift and diffusion share one.
"""
struct Part
    model::Any
    range::UnitRange{Int}
end

evaluate!(part::Part, du, u, p, t) = evaluate!(part.model, du, u, p[part.range], t)
time_derivative(part::Part, u, p, t) = time_derivative(part.model, u, p[part.range], t)

function pull(part::Part, u, p, t, memory = Fresh())
    du, back = pull(part.model, u, p[part.range], t, memory)
    function back_to_all(cotangent)
        by_u, by_part = back(cotangent)
        by_part === nothing && return by_u, nothing
        by_p = zero(p)
        by_p[part.range] = by_part
        return by_u, by_p
    end
    return du, back_to_all
end
