# What steps with the Jacobian in them need: linear systems made of it, and its own gradient.

"""I - h df/du at (t, u), factorized."""
function factorize(f::Dynamics, u, p, t, h)
    W = jacobian(f, u, p, t)
    W .*= -h
    view(W, diagind(W)) .+= 1
    return lu!(W)
end

"""x of W x = b, of b's shape; W a factorization, or its transpose."""
solve_for(W, b) = reshape(W \ vec(b), size(b))

struct Directional end # tags the derivative along a direction

# what a pullback differentiates by ForwardDiff itself lies within it
ForwardDiff.:≺(::Type{Directional}, ::Type{<:ForwardDiff.Tag}) = true
ForwardDiff.:≺(::Type{<:ForwardDiff.Tag}, ::Type{Directional}) = false

"""
    pull_directional(model, u, p, t, du, dt, cotangent) -> by_u, by_p

Gradients of <cotangent, df/du du + df/dt dt>, the directions constant: the derivative of a pullback along them.
"""
function pull_directional(model, u, p, t, du, dt, cotangent)
    dual(x, dx) = ForwardDiff.Dual{Directional}(x, dx)
    _, back = pull(model, dual.(u, du), dual.(p, zero(eltype(p))), dual(t, oftype(t, dt)))
    gradients = back(dual.(cotangent, zero(eltype(u))))
    return map(x -> x === nothing ? nothing : ForwardDiff.partials.(x, 1), gradients)
end

"""Add the gradients of <cotangent, df/du du + df/dt dt> at a step's start."""
function add_directional!(by_p, cotangents, step::OneStep{T, A}, du, dt, cotangent) where {T, A}
    f = step.f
    by_u, of_p = pull_directional(f.model, step.u, step.p, inside(f, step.t), du, dt, cotangent)
    of_p === nothing || (by_p .+= of_p)
    by_u === nothing || push!(cotangents.by_u, (one(T), convert(A, by_u)))
    return nothing
end
