"""
One accepted step's estimate to be pulled back: `cotangent` is that of R or S, step size and noise constant.
"""
struct EstimateCotangent{T}
    cotangent::T
    quantity::String
    frozen::Bool
    through_state::Bool
end

"""
    replay(take, run, inside, by_end, estimates) -> by_u0, by_p

The discrete adjoint: the accepted steps taken again, the last one first, and reversed. `take(index, u, need, memory)`
takes a step again as far as `need` goes, `:state`, `:estimate` or `:inside`; `inside[index]` holds (weights,
cotangent) pairs of states inside that step, see [`add_inside!`](@ref); `by_end` is the cotangent of the state at
the end, `estimates` are by their step's index. `memory` is that of one step: what outlives it is copied.
"""
replay(take, run::Run, inside, by_end, estimates) =
    with_arena(memory -> replay(take, run, inside, by_end, estimates, memory))

function replay(take, run::Run, inside, by_end, estimates, memory)
    by_p = zero(run.p)
    by_u = copy(by_end)
    taken_again = empty(run.states)
    for index in (length(run.t) - 1):-1:0
        u = state!(taken_again, take, run, index, memory)
        if haskey(inside, index) || !all(iszero, by_u)
            step = take(index, u, haskey(inside, index) ? :inside : :state, reset!(memory))
            cotangents = StageCotangents(step)
            add_new_state!(cotangents, step, by_u)
            for (weights, cotangent) in get(inside, index, ())
                add_inside!(cotangents, step, weights, cotangent)
            end
            copyto!(by_u, pull_back!(by_p, step, cotangents))
        end
        if haskey(estimates, index)
            estimate = estimates[index]
            step = take(index, u, :estimate, reset!(memory))
            of_state = reverse_estimate!(by_p, step, estimate, run.options)
            estimate.through_state && (by_u .+= of_state)
        end
    end
    return by_u, by_p
end

"""
The state a step starts from. Where it was not kept, all steps from the last one whose state was are taken again, once:
their states stay in `taken_again` until they are asked for.
"""
function state!(taken_again, take, run::Run, index, memory)
    haskey(run.states, index) && return run.states[index]
    haskey(taken_again, index) && return pop!(taken_again, index)
    from = maximum(i for i in keys(run.states) if i < index)
    u = run.states[from]
    for i in from:(index - 1)
        u = copy(new_state(take(i, u, :state, reset!(memory))))
        taken_again[i + 1] = u
    end
    return pop!(taken_again, index)
end

"""`work()` with the dynamics on the side of a recorded step."""
on_side_of_step(work, dynamics, run::Run, index) =
    on_side(work, dynamics, run.options.tstops, run.t[index + 1], run.dt[index + 1])

"""A step of a recorded ODE solve taken again."""
function take_again(f::Dynamics, tableau::Tableau{T}, run::Run, index, u, need, memory) where {T}
    stages = need === :state ? length(tableau.b) : need === :estimate ? tableau.stages : length(tableau.c)
    kind = need !== :estimate && is_narrow(f.model, u, length(tableau.b)) ? NarrowStep : Step
    t, dt = T(run.t[index + 1]), T(run.dt[index + 1])
    kept = need === :state ? get(run.kept, index, nothing) : nothing
    kept === nothing || return kind(f.model, tableau, u, run.p, dt, kept, memory)
    return kind(f, tableau, u, run.p, t, dt, stages, memory)
end

"""A step of a recorded SDE solve taken again, over the same path."""
function take_again(
        f, g, tableau::StochasticTableau{T}, increments!, run::Run, index, u, memory,
    ) where {T}
    t, dt = T(run.t[index + 1]), T(run.dt[index + 1])
    integrals = Integrals(dt, zero(u), zero(u))
    increments!(integrals.dW, integrals.dZ, t, step_end(t, dt, stops(run.options)))
    return StochasticStep(f, g, tableau, u, run.p, t, integrals, memory)
end

function add_new_state!(cotangents::StageCotangents{T}, step, cotangent) where {T}
    push!(cotangents.by_u, (one(T), cotangent))
    add!(cotangents, step, step.tableau.b, cotangent)
    return nothing
end

"""Add the cotangent of u + unit sum_i weights_i k_i; of an SDE's step, of u + weights (u_new - u)."""
function add_inside!(cotangents::StageCotangents{T}, step, weights, cotangent) where {T}
    push!(cotangents.by_u, (one(T), cotangent))
    add!(cotangents, step, weights, cotangent)
    return nothing
end

function add_inside!(cotangents::StochasticCotangents, step, weights, cotangent)
    theta = only(weights)
    cotangents.by_u .+= (1 - theta) .* cotangent
    add_new_state!(cotangents, step, theta .* cotangent)
    return nothing
end

"""Add an estimate's gradients by the parameters; gives that by the state the step starts from."""
function reverse_estimate!(by_p, step, estimate, options)
    cotangents = StageCotangents(step)
    add_estimate!(cotangents, step, estimate.quantity, options, estimate.cotangent)
    return pull_back!(by_p, step, cotangents; frozen = estimate.frozen)
end

"""As [`reverse_estimate`](@ref) of Adams steps: of a one-step method it is the state the step starts from alone."""
function reverse_estimate(step, run::Run, index, estimate)
    by_p = zero(run.p)
    by_u = reverse_estimate!(by_p, step, estimate, run.options)
    return [(index, by_u)], by_p
end
