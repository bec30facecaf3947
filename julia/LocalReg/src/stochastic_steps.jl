"""The numbers of one step over a path that weigh the diffusion's stages, in Roessler's normalization; found once."""
struct Integrals{T, A}
    dt::T
    dW::A
    dZ::A
    found::Dict{Symbol, Any}
end

Integrals(dt, dW, dZ) = Integrals(dt, dW, dZ, Dict{Symbol, Any}())

integral(numbers::Integrals, name) = get!(() -> find(numbers, name), numbers.found, name)

function find(numbers, name)
    dt, dW, dZ = numbers.dt, numbers.dW, numbers.dZ
    root = sqrt(dt)
    name === :sqdt && return root
    name === Symbol("1/sqdt") && return 1 / root
    name === :W && return dW
    name === :WW && return @. (dW^2 - dt) / (2 * root)
    name === :WW_strat && return @. dW^2 / (2 * root)
    name === :WZ && return @. (dW + dZ / sqrt(oftype(dt, 3))) / 2
    name === :WWW && return @. (dW^3 - 3 * dt * dW) / (6 * dt)
    throw(ArgumentError("no integral is called $name"))
end

"""Add factor * sum_i weights_i x_i to `out`, `factor` a number or an array like `out`."""
function add_sum!(out, factor, weights, xs)
    for (weight, x) in zip(weights, xs)
        iszero(weight) || add_product!(out, weight, factor, x)
    end
    return out
end

"""
    StochasticStep(f, g, tableau, u, p, t, integrals, memory)

A stochastic Runge-Kutta step taken again: its stages, each ready to be pulled back, with arrays of `memory`.
"""
struct StochasticStep{T, A, M}
    tableau::StochasticTableau{T}
    u::A
    integrals::Integrals{T, A}
    ks::Vector{A}
    gs::Vector{A}
    backs::Vector{Any}
    memory::M
end

function StochasticStep(
        f, g, tableau::StochasticTableau{T}, u::A, p, t, integrals, memory = Fresh(),
    ) where {T, A}
    step = StochasticStep(tableau, u, integrals, A[], A[], Any[], memory)
    for stage in tableau.stages
        input = stage_input(step, stage)
        value, back = pull(stage.drift ? f : g, input, p, t + stage.c * integrals.dt, memory)
        push!(stage.drift ? step.ks : step.gs, value)
        push!(step.backs, back)
    end
    return step
end

"""The state the step starts from, to be added to."""
own_copy(step::StochasticStep{T, A}) where {T, A} = copyto!(step.memory(step.u)::A, step.u)

own_zero(step::StochasticStep{T, A}) where {T, A} = fill!(step.memory(step.u)::A, zero(T))

function stage_input(step::StochasticStep, stage)
    input = add_sum!(own_copy(step), step.integrals.dt, stage.a, step.ks)
    return add_sum!(input, integral(step.integrals, stage.integral), stage.b, step.gs)
end

function new_state(step::StochasticStep)
    u_new = add_sum!(own_copy(step), step.integrals.dt, step.tableau.alpha, step.ks)
    return add_diffusion!(u_new, step, step.tableau.beta)
end

function add_diffusion!(out, step, weights)
    for (name, row) in weights
        add_sum!(out, integral(step.integrals, name), row, step.gs)
    end
    return out
end

function errors(step::StochasticStep)
    by_drift = add_sum!(own_zero(step), step.integrals.dt, step.tableau.error_drift, step.ks)
    return by_drift, add_diffusion!(own_zero(step), step, step.tableau.error_diffusion)
end

"""What is scaled and averaged: one for each element, or with `milstein_error` one for all."""
function combined_error(step::StochasticStep, E1, E2)
    tableau = step.tableau
    if tableau.milstein_error
        noise = rms(step.integrals.dW)^3 * rms(E2)^2 / 6
        return fill!(similar(E1), tableau.delta * rms(E1) + noise)
    end
    return tableau.delta .* E1 .+ E2
end

last_drift_stages(tableau) = filter(stage -> stage.drift, tableau.stages)[(end - 1):end]

"""What the states that the last two drift stages are evaluated at differ by."""
function last_apart(step::StochasticStep)
    before, last = last_drift_stages(step.tableau)
    return stage_input(step, last) .- stage_input(step, before)
end

function estimate(step::StochasticStep, quantity, options)
    quantity == "stiffness" && return stiffness(step.ks[end] .- step.ks[end - 1], last_apart(step))
    e = combined_error(step, errors(step)...)
    return scaled_rms(e, step.u, new_state(step), options.abstol, options.reltol) * step.integrals.dt
end

"""Cotangents of the drift's and the diffusion's stages, and of the state the step starts from."""
struct StochasticCotangents{A}
    by_k::Vector{A}
    by_g::Vector{A}
    by_u::A
end

StageCotangents(step::StochasticStep) = StochasticCotangents(
    [own_zero(step) for _ in step.ks], [own_zero(step) for _ in step.gs], own_zero(step),
)

function add_weighted!(by_stage, factor, weights, cotangent)
    for (i, weight) in enumerate(weights)
        iszero(weight) || add_product!(by_stage[i], weight, factor, cotangent)
    end
    return nothing
end

function add_diffusion!(cotangents::StochasticCotangents, step, weights, cotangent)
    for (name, row) in weights
        add_weighted!(cotangents.by_g, integral(step.integrals, name), row, cotangent)
    end
    return nothing
end

function add_input!(cotangents, step, stage, cotangent)
    cotangents.by_u .+= cotangent
    add_weighted!(cotangents.by_k, step.integrals.dt, stage.a, cotangent)
    add_weighted!(cotangents.by_g, integral(step.integrals, stage.integral), stage.b, cotangent)
    return nothing
end

function add_new_state!(cotangents::StochasticCotangents, step, cotangent)
    cotangents.by_u .+= cotangent
    add_weighted!(cotangents.by_k, step.integrals.dt, step.tableau.alpha, cotangent)
    return add_diffusion!(cotangents, step, step.tableau.beta, cotangent)
end

function add_estimate!(cotangents, step::StochasticStep, quantity, options, cotangent)
    tableau, dt = step.tableau, step.integrals.dt
    if quantity == "stiffness"
        by_f, by_apart = reverse_stiffness(step.ks[end] .- step.ks[end - 1], last_apart(step), cotangent)
        cotangents.by_k[end] .+= by_f
        cotangents.by_k[end - 1] .-= by_f
        before, last = last_drift_stages(tableau)
        add_input!(cotangents, step, last, by_apart)
        add_input!(cotangents, step, before, -by_apart)
        return nothing
    end
    E1, E2 = errors(step)
    u_new = new_state(step)
    by_e, by_u, by_u_new = reverse_scaled_rms(
        combined_error(step, E1, E2), step.u, u_new, options.abstol, options.reltol, cotangent * dt,
    )
    if tableau.milstein_error
        total = sum(by_e)
        by_E1 = iszero(rms(E1)) ? zero(E1) : E1 .* (total * tableau.delta / (rms(E1) * length(E1)))
        by_E2 = E2 .* (total * rms(step.integrals.dW)^3 / 3 / length(E2))
    else
        by_E1, by_E2 = tableau.delta .* by_e, by_e
    end
    add_weighted!(cotangents.by_k, dt, tableau.error_drift, by_E1)
    add_diffusion!(cotangents, step, tableau.error_diffusion, by_E2)
    add_new_state!(cotangents, step, by_u_new)
    cotangents.by_u .+= by_u
    return nothing
end

function pull_back!(by_p, step::StochasticStep, cotangents; frozen = false)
    i, j = length(step.ks), length(step.gs)
    for n in length(step.backs):-1:1
        stage = step.tableau.stages[n]
        first = stage.drift ? i == 1 : j == 1
        by_stage = stage.drift ? cotangents.by_k[i] : cotangents.by_g[j]
        stage.drift ? (i -= 1) : (j -= 1)
        (frozen && first || all(iszero, by_stage)) && continue
        by_input, of_p = step.backs[n](by_stage)
        of_p === nothing || (by_p .+= of_p)
        by_input === nothing || add_input!(cotangents, step, stage, by_input)
    end
    return cotangents.by_u
end
