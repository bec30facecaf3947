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

share(x, y) = x > y ? one(x) : x == y ? oftype(x, 0.5) : zero(x)

"""Add dt * sum_i weights_i k_i to `out`."""
function add_sum!(out, dt, weights, ks)
    for (weight, k) in zip(weights, ks)
        iszero(weight) || (out .+= (dt * weight) .* k)
    end
    return out
end

"""
    Step(f, tableau, u, p, t, dt, stages)

An explicit Runge-Kutta step taken again: its stages, each ready to be pulled back.
"""
struct Step{T, A}
    tableau::Tableau{T}
    u::A
    dt::T
    ks::Vector{A}
    backs::Vector{Any}
end

function Step(f::Dynamics, tableau::Tableau{T}, u::A, p, t, dt, stages = tableau.stages) where {T, A}
    step = Step{T, A}(tableau, u, dt, A[], Any[])
    for i in 1:stages
        input = i == 1 ? u : add_sum!(copy(u), dt, view(tableau.a, i, :), step.ks)
        k, back = pull(f, input, p, t + tableau.c[i] * dt)
        push!(step.ks, k)
        push!(step.backs, back)
    end
    return step
end

new_state(step::Step) = add_sum!(copy(step.u), step.dt, step.tableau.b, step.ks)
error(step::Step) = add_sum!(zero(step.u), step.dt, step.tableau.btilde, step.ks)
last_apart(step::Step) = add_sum!(zero(step.u), step.dt, step.tableau.stiffness, step.ks)

"""R = EEst |dt| of the step, or S = rms(f(a) - f(b)) / rms(a - b) of its last two stages' states a and b."""
function estimate(step::Step, quantity, options)
    if quantity == "stiffness"
        ks = step.ks
        return rms(ks[end] .- ks[end - 1]) / rms(last_apart(step))
    end
    return scaled_rms(error(step), step.u, new_state(step), options.abstol, options.reltol) * abs(step.dt)
end

"""Cotangents of the stages, and of the state the step starts from."""
struct StageCotangents{A}
    by_k::Vector{A}
    by_u::A
end

StageCotangents(step::Step) = StageCotangents([zero(step.u) for _ in step.ks], zero(step.u))

"""Add those of dt * sum_i weights_i k_i."""
function add!(cotangents, step::Step, weights, cotangent)
    for (i, weight) in enumerate(weights)
        iszero(weight) || (cotangents.by_k[i] .+= (step.dt * weight) .* cotangent)
    end
    return nothing
end

function add_estimate!(cotangents, step::Step, quantity, options, cotangent)
    tableau, ks, dt = step.tableau, step.ks, step.dt
    if quantity == "stiffness"
        of_f, of_u = ks[end] .- ks[end - 1], last_apart(step)
        above, below = rms(of_f), rms(of_u)
        by_f = of_f .* (cotangent / (below * above * length(of_f)))
        cotangents.by_k[end] .+= by_f
        cotangents.by_k[end - 1] .-= by_f
        add!(cotangents, step, tableau.stiffness, of_u .* (-cotangent * above / (below^3 * length(of_u))))
        return nothing
    end
    e, u_new = error(step), new_state(step)
    by_e, by_u, by_u_new =
        reverse_scaled_rms(e, step.u, u_new, options.abstol, options.reltol, cotangent * abs(dt))
    add!(cotangents, step, tableau.btilde, by_e)
    add!(cotangents, step, tableau.b, by_u_new)
    cotangents.by_u .+= by_u .+ by_u_new
    return nothing
end

"""
    pull_back!(by_p, step, cotangents; frozen, through_state)

Add the gradients by the parameters; gives that by the state the step starts from. `frozen` holds the first
stage constant; without `through_state` nothing but the parameters is differentiated by.
"""
function pull_back!(by_p, step::Step, cotangents; frozen = false)
    for i in length(step.ks):-1:(frozen ? 2 : 1)
        by_k = cotangents.by_k[i]
        all(iszero, by_k) && continue
        by_input, of_p = step.backs[i](by_k)
        of_p === nothing || (by_p .+= of_p)
        by_input === nothing && continue
        cotangents.by_u .+= by_input
        i > 1 && add!(cotangents, step, view(step.tableau.a, i, 1:(i - 1)), by_input)
    end
    return cotangents.by_u
end
