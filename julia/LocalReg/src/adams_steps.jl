"""
    Adams(start, corrects)

Variable-coefficient Adams of order 3: its first two steps are those of the tableau `start`; the others are made of
the slope at their start and of two earlier ones, and, where it `corrects`, of that at the predicted end.
"""
struct Adams{T}
    start::Tableau{T}
    corrects::Bool
end

"""
    Earlier(run)

Where the earlier slopes of a run's Adams steps are from. The stack's first two attempts are starting steps and leave a
slope each, a rejected one too: `begun` of them were accepted, `second` is the step at whose start the second one was
taken.
"""
struct Earlier
    begun::Int
    second::Int
end

function Earlier(run::Run)
    rejected = run.rejected
    first_accepted = rejected[1] == 0
    second_accepted = first_accepted ? length(rejected) > 1 && rejected[2] == 0 : rejected[1] == 1
    return Earlier(first_accepted + second_accepted, first_accepted)
end

"""The indices of the steps at whose starts the two earlier slopes of a step were taken, the later one first."""
function (earlier::Earlier)(index)
    at(i) = i == 1 ? 0 : i == 2 ? earlier.second : earlier.begun + i - 3
    last = index - earlier.begun + 2
    return at(last), at(last - 1)
end

"""
    adams_tableau(T, corrects, dt0, dt1, dt2)

A step of size dt0 after steps of dt1 and dt2, as a tableau over its slope, the two earlier ones and, where it
`corrects`, the predicted end's (Hairer, Norsett, Wanner I, III.5, formulas 5.7 to 5.10).
"""
function adams_tableau(::Type{T}, corrects, dt0, dt1, dt2) where {T}
    two, three = dt0 / (dt0 + dt1), dt0 / (dt0 + dt1 + dt2)
    g3 = 1 / 2 - two / 6
    g4 = g3 - three * (1 / 6 - two / 12)
    ratio, beta2 = dt1 / dt2, dt0 / dt1
    beta3 = beta2 * (dt0 + dt1) / (dt1 + dt2)
    phi2, phi3 = [1, -1, 0], [1, -1 - ratio, ratio]
    prediction = [1, 0, 0] .+ (beta2 / 2) .* phi2
    if !corrects
        e = (g3 * beta3) .* phi3
        return Tableau{T}(zeros(3), zeros(3, 3), prediction .+ e, e, T[], 3)
    end
    a = zeros(4, 4)
    a[4, 1:3] .= prediction
    psi3 = [[-1, 0, 0] .- beta2 .* phi2; 1]
    psi4 = psi3 .- [beta3 .* phi3; 0]
    return Tableau{T}([0, 0, 0, 1], a, [prediction; 0] .+ g3 .* psi3, (g4 - g3) .* psi4, T[], 4)
end

"""Let the slope of column `from` be that of the step itself."""
function merge_into_first!(tableau::Tableau, from)
    for weights in (tableau.b, tableau.btilde, eachrow(tableau.a)...)
        weights[1] += weights[from]
        weights[from] = 0
    end
    return nothing
end

"""
The reverse sweep through accepted Adams steps. A slope serves the two steps after it as well: what they pull back to it
waits in `owed`, by the index of the step at whose start it is, until that step is reversed. `slopes` are evaluated once.
"""
struct AdamsSweep{T, A, P}
    f::Dynamics
    adams::Adams{T}
    run::Run{T, A, P}
    earlier::Earlier
    by_p::P
    owed::Dict{Int, Vector{Tuple{T, A}}}
    slopes::Dict{Int, Tuple{A, Any}}
end

function AdamsSweep(f, adams::Adams{T}, run::Run{T, A, P}) where {T, A, P}
    return AdamsSweep{T, A, P}(f, adams, run, Earlier(run), zero(run.p), Dict(), Dict())
end

is_start(sweep, index) = index < sweep.earlier.begun

function fresh_slope(sweep::AdamsSweep{T}, index) where {T}
    return on_side_of_step((sweep.f,), sweep.run, index) do
        pull(sweep.f, sweep.run.states[index], sweep.run.p, T(sweep.run.t[index + 1]))
    end
end

"""f at the end of a step, on its side, and its pullback."""
function slope_at_end(sweep::AdamsSweep{T}, index, u) where {T}
    run = sweep.run
    return on_side_of_step((sweep.f,), run, index) do
        pull(sweep.f, u, run.p, T(run.t[index + 1]) + T(run.dt[index + 1]))
    end
end

slope(sweep, index) = get!(() -> fresh_slope(sweep, index), sweep.slopes, index)

owe!(sweep::AdamsSweep{T, A}, index, weight, cotangent) where {T, A} =
    push!(get!(() -> Tuple{T, A}[], sweep.owed, index), (weight, cotangent))

"""The accepted starting step taken again, its first `stages` stages."""
function start_step(sweep::AdamsSweep{T}, index, stages) where {T}
    run = sweep.run
    t, dt = T(run.t[index + 1]), T(run.dt[index + 1])
    return on_side_of_step((sweep.f,), run, index) do
        Step(sweep.f, sweep.adams.start, run.states[index], run.p, t, dt, stages)
    end
end

"""
The accepted Adams step taken again, as a step of its own tableau. `own` is its slope and that slope's pullback; the
earlier slopes' cotangents are owed to them, or dropped.
"""
function adams_step(sweep::AdamsSweep{T, A}, index, own; owes) where {T, A}
    run, corrects = sweep.run, sweep.adams.corrects
    u, t, dt = run.states[index], T(run.t[index + 1]), T(run.dt[index + 1])
    tableau = adams_tableau(T, corrects, run.dt[index + 1], run.earlier_dts[index + 1]...)
    step = Step(tableau, u, dt, A[own[1]], Any[own[2]], Fresh())
    for (column, at) in zip((2, 3), sweep.earlier(index))
        at == index && merge_into_first!(tableau, column)
        push!(step.ks, at == index ? own[1] : slope(sweep, at)[1])
        push!(step.backs, cotangent -> (owes && owe!(sweep, at, one(T), cotangent); (nothing, nothing)))
    end
    if corrects
        predicted = combine(add_terms!([(one(T), u)], dt, view(tableau.a, 4, 1:3), step.ks))
        k, back = slope_at_end(sweep, index, predicted)
        push!(step.ks, k)
        push!(step.backs, back)
    end
    return step
end

"""
    replay(f, adams, run, inside, by_end, estimates) -> by_u0, by_p

As for one-step methods; the weights of `inside` are those of u_new - u and of dt f at both ends.
"""
function replay(f::Dynamics, adams::Adams, run::Run{T, A}, inside, by_end, estimates) where {T, A}
    sweep = AdamsSweep(f, adams, run)
    by_u = copy(by_end)
    for index in (length(run.t) - 1):-1:0
        dt = T(run.dt[index + 1])
        by_start = Tuple{T, A}[] # what reaches the start beside the step itself
        for ((change, by_k, by_k_new), cotangent) in get(inside, index, ())
            push!(by_start, (1 - change, cotangent))
            owe!(sweep, index, dt * by_k, cotangent)
            _, back = slope_at_end(sweep, index, run.states[index + 1])
            by_u = by_u .+ change .* cotangent .+ add_pullback!(sweep.by_p, back, (dt * by_k_new) .* cotangent)
        end
        if haskey(estimates, index)
            by_state = reverse_estimate!(sweep, index, estimates[index])
            estimates[index].through_state && push!(by_start, (one(T), by_state))
        end
        push!(by_start, (one(T), reverse_step!(sweep, index, by_u)))
        by_u = combine(by_start)
    end
    return by_u, sweep.by_p
end

"""The gradient by the state of a pullback; adds that by the parameters."""
function add_pullback!(by_p, back, cotangent)
    by_u, of_p = back(cotangent)
    of_p === nothing || (by_p .+= of_p)
    return by_u === nothing ? zero(cotangent) : by_u
end

"""The cotangent of a step's start, from those of its end and of its slope."""
function reverse_step!(sweep::AdamsSweep{T, A}, index, by_end) where {T, A}
    moves = !all(iszero, by_end)
    if is_start(sweep, index)
        owed = pop!(sweep.owed, index, Tuple{T, A}[])
        (moves || !isempty(owed)) || return zero(by_end)
        step = start_step(sweep, index, length(sweep.adams.start.b))
        cotangents = StageCotangents(step)
        add_new_state!(cotangents, step, by_end)
        append!(cotangents.by_k[1], owed)
        return pull_back!(sweep.by_p, step, cotangents)
    end
    by_start = zero(by_end)
    if moves
        own = slope(sweep, index)[1], cotangent -> (owe!(sweep, index, one(T), cotangent); (nothing, nothing))
        step = adams_step(sweep, index, own; owes = true)
        cotangents = StageCotangents(step)
        add_new_state!(cotangents, step, by_end)
        by_start = pull_back!(sweep.by_p, step, cotangents)
    end
    haskey(sweep.owed, index) || return by_start
    _, back = slope(sweep, index)
    delete!(sweep.slopes, index)
    return by_start .+ add_pullback!(sweep.by_p, back, combine(pop!(sweep.owed, index)))
end

"""Add an accepted step's estimate's gradients; gives that by the state the step starts from."""
function reverse_estimate!(sweep::AdamsSweep, index, estimate::EstimateCotangent)
    step = if is_start(sweep, index)
        start_step(sweep, index, sweep.adams.start.stages)
    else
        owes = estimate.through_state && !estimate.frozen
        adams_step(sweep, index, fresh_slope(sweep, index); owes)
    end
    return reverse_estimate!(sweep.by_p, step, estimate, sweep.run.options)
end

"""
    reverse_estimate(f, tableau, run, index, estimate) -> by_states, by_p

The gradients of one accepted step's estimate: by states that steps start from, as (index, gradient), and by the
parameters.
"""
function reverse_estimate(f::Dynamics, adams::Adams, run::Run, index, estimate)
    sweep = AdamsSweep(f, adams, run)
    by_states = [(index, reverse_estimate!(sweep, index, estimate))]
    for (at, owed) in sweep.owed
        push!(by_states, (at, add_pullback!(sweep.by_p, slope(sweep, at)[2], combine(owed))))
    end
    return by_states, sweep.by_p
end

"""As for one step alone, which has no steps before it: the starting method's."""
function local_error(f::Dynamics, adams::Adams, u, p, t, dt, options; quantity = "error", frozen = false)
    return local_error(f, adams.start, u, p, t, dt, options; quantity, frozen)
end
