rms(x) = sqrt(sum(abs2, x) / length(x))

"""EEst: rms(e / (abstol + max(|u|, |u_new|) reltol))."""
function scaled_rms(e, u, u_new, abstol, reltol)
    return rms(@. e / (abstol + max(abs(u), abs(u_new)) * reltol))
end

"""Gradients of `cotangent * scaled_rms` by e, u and u_new."""
function reverse_scaled_rms(e, u, u_new, abstol, reltol, cotangent)
    value = scaled_rms(e, u, u_new, abstol, reltol)
    iszero(value) && return zero(e), zero(u), zero(u_new)
    factor = cotangent / (value * length(e))
    scale = @. abstol + max(abs(u), abs(u_new)) * reltol
    by_e = @. factor * e / scale^2
    by_scale = @. -by_e * e / scale * reltol
    # where both are equal in size, half to each, as PyTorch has it
    by_u = @. by_scale * sign(u) * share(abs(u), abs(u_new))
    by_u_new = @. by_scale * sign(u_new) * share(abs(u_new), abs(u))
    return by_e, by_u, by_u_new
end

"""S = rms(of_f) / rms(of_u); 0, and its gradients too, where either is 0."""
function stiffness(of_f, of_u)
    below = rms(of_u)
    return iszero(below) ? below : rms(of_f) / below
end

"""Gradients of `cotangent * stiffness` by both."""
function reverse_stiffness(of_f, of_u, cotangent)
    above, below = rms(of_f), rms(of_u)
    (iszero(above) || iszero(below)) && return zero(of_f), zero(of_u)
    by_f = of_f .* (cotangent / (below * above * length(of_f)))
    return by_f, of_u .* (-cotangent * above / (below^3 * length(of_u)))
end

share(x, y) = x > y ? one(x) : x == y ? oftype(x, 0.5) : zero(x)

const FUSED = 8 # terms that one pass over memory adds up

"""sum_i weight_i x_i of (weight, x) pairs, at least one; an array of its own."""
function combine(terms::Vector{Tuple{T, A}}, memory = Fresh()) where {T, A}
    out = memory(last(first(terms)))::A
    add_fused!(out, terms, 0, min(length(terms), FUSED), Val(FUSED))
    for before in FUSED:FUSED:(length(terms) - 1)
        add_fused!(out, terms, before, min(length(terms) - before, FUSED), Val(FUSED))
    end
    return out
end

"""Add the `count` terms behind those `before`; the first ones are written. `N` is tried down to `count`: what is called
is then known to the compiler."""
function add_fused!(out, terms::Vector{Tuple{T, A}}, before, count, ::Val{N}) where {T, A, N}
    count < N && return add_fused!(out, terms, before, count, Val(N - 1))
    weights, xs = ntuple(i -> terms[before + i][1], Val(N)), ntuple(i -> terms[before + i][2], Val(N))
    before == 0 ? write_sum!(out, weights, xs) : write_sum!(out, (one(T), weights...), (out, xs...))
    return nothing
end
add_fused!(out, terms::Vector{<:Tuple}, before, count, ::Val{0}) = nothing

"""Append the terms of dt * sum_i weights_i k_i."""
function add_terms!(terms, dt, weights, ks)
    for (weight, k) in zip(weights, ks)
        iszero(weight) || push!(terms, (dt * weight, k))
    end
    return terms
end

"""
A step of a one-step method taken again: `u` it starts from, `ks` its stages, each ready to be pulled back, `tableau` with
the weights `b` of its new state and `btilde` of its error. Its weighted sums are in units of `unit(step)`.
"""
abstract type OneStep{T, A} end

"""
    Step(f, tableau, u, p, t, dt, stages, memory)

An explicit Runge-Kutta step taken again, with arrays of `memory`.
"""
struct Step{T, A, M} <: OneStep{T, A}
    tableau::Tableau{T}
    u::A
    dt::T
    ks::Vector{A}
    backs::Vector{Any}
    memory::M
end

function Step(
        f::Dynamics, tableau::Tableau{T}, u::A, p, t, dt, stages = tableau.stages, memory = Fresh(),
    ) where {T, A}
    step = Step(tableau, u, dt, A[], Any[], memory)
    for i in 1:stages
        input = i == 1 ? u : combine(add_terms!([(one(T), u)], dt, view(tableau.a, i, :), step.ks), memory)
        k, back = pull(f, input, p, t + tableau.c[i] * dt, memory)
        push!(step.ks, k)
        push!(step.backs, back)
    end
    return step
end

"""From calls that were kept; its stages' values are not there."""
function Step(model, tableau::Tableau{T}, u::A, p, dt, kept::Vector{KeptCall}, memory) where {T, A}
    backs = Any[cotangent -> pull_back_dense(model, call.passed, u, p, call.t, cotangent, memory) for call in kept]
    return Step(tableau, u, dt, A[], backs, memory)
end

unit(step::Step) = step.dt
stages(step::OneStep) = length(step.ks)
stages(step::Step) = length(step.backs)

weighted(step::OneStep{T, A}, weights) where {T, A} =
    combine(add_terms!(Tuple{T, A}[], unit(step), weights, step.ks), step.memory)
error(step::OneStep) = weighted(step, step.tableau.btilde)
last_apart(step::Step) = weighted(step, step.tableau.stiffness)

function new_state(step::OneStep{T, A}) where {T, A}
    return combine(add_terms!([(one(T), step.u)], unit(step), step.tableau.b, step.ks), step.memory)
end

"""R = EEst |dt| of the step, or S = rms(f(a) - f(b)) / rms(a - b) of its last two stages' states a and b."""
function estimate(step::OneStep, quantity, options)
    quantity == "stiffness" && return stiffness(step.ks[end] .- step.ks[end - 1], last_apart(step))
    return scaled_rms(error(step), step.u, new_state(step), options.abstol, options.reltol) * abs(step.dt)
end

"""
Cotangents of the stages, and of the state the step starts from, as terms of sums: their arrays are not to be
written to. Of implicit methods also (cotangent, direction) of the Jacobian at the start.
"""
struct StageCotangents{T, A}
    by_k::Vector{Vector{Tuple{T, A}}}
    by_u::Vector{Tuple{T, A}}
    by_J::Vector{Tuple{A, A}}
end

function StageCotangents(step::OneStep{T, A}) where {T, A}
    return StageCotangents([Tuple{T, A}[] for _ in 1:stages(step)], Tuple{T, A}[], Tuple{A, A}[])
end

"""Add those of unit sum_i weights_i k_i."""
function add!(cotangents, step::OneStep, weights, cotangent)
    for (i, weight) in enumerate(weights)
        iszero(weight) || push!(cotangents.by_k[i], (unit(step) * weight, cotangent))
    end
    return nothing
end

"""Add that of [`error`](@ref)."""
add_error!(cotangents, step::OneStep, cotangent) = add!(cotangents, step, step.tableau.btilde, cotangent)

function add_estimate!(cotangents, step::OneStep{T}, quantity, options, cotangent) where {T}
    tableau, ks = step.tableau, step.ks
    if quantity == "stiffness"
        by_f, by_apart = reverse_stiffness(ks[end] .- ks[end - 1], last_apart(step), cotangent)
        push!(cotangents.by_k[end], (one(T), by_f))
        push!(cotangents.by_k[end - 1], (-one(T), by_f))
        add!(cotangents, step, tableau.stiffness, by_apart)
        return nothing
    end
    e, u_new = error(step), new_state(step)
    by_e, by_u, by_u_new =
        reverse_scaled_rms(e, step.u, u_new, options.abstol, options.reltol, cotangent * abs(step.dt))
    add_error!(cotangents, step, by_e)
    add!(cotangents, step, tableau.b, by_u_new)
    push!(cotangents.by_u, (one(T), by_u), (one(T), by_u_new))
    return nothing
end

"""
    pull_back!(by_p, step, cotangents; frozen) -> by_u

Add the gradients by the parameters; gives that by the state the step starts from. `frozen` holds the first
stage constant.
"""
function pull_back!(by_p, step::Step{T}, cotangents; frozen = false) where {T}
    for i in stages(step):-1:(frozen ? 2 : 1)
        isempty(cotangents.by_k[i]) && continue
        by_input, of_p = step.backs[i](combine(cotangents.by_k[i], step.memory))
        of_p === nothing || (by_p .+= of_p)
        by_input === nothing && continue
        push!(cotangents.by_u, (one(T), by_input))
        i > 1 && add!(cotangents, step, view(step.tableau.a, i, 1:(i - 1)), by_input)
    end
    return isempty(cotangents.by_u) ? zero(step.u) : combine(cotangents.by_u, step.memory)
end
