# A solve, what is read of it afterwards, and the automatic first step.

"""A Python callable as `Keep` asks for it."""
struct HostOffer
    call::Py
end

function (offer::HostOffer)(index, t, dt, EEst)
    wanted = offer.call(index, t, dt, EEst)
    return isnone(wanted) ? nothing : pyconvert(Vector{Int}, wanted)
end

"""Calls a Python function after a step, if a millisecond has passed since it did."""
mutable struct Breath
    const call::Py
    last::UInt64
end

function (breath::Breath)(t, calls)
    now = time_ns()
    now - breath.last < 1_000_000 && return nothing
    breath.last = now
    breath.call()
    return nothing
end

"""A Python callable that may end a solve within a step, as `solve` asks for it."""
struct HostWatch
    call::Py
end

function (watch::HostWatch)(t, integrator)
    at(time) = tensor(state_at(integrator, oftype(integrator.t, pyconvert(Float64, time))))
    ended = watch.call(t, integrator.t, PythonCall.pyfunc(at; name = "at"))
    return isnone(ended) ? nothing : pyconvert(Float64, ended)
end

"""
`after_step` is called once a step, with the step's end and the calls so far, where it is `watching`; else `after_step()`,
once a millisecond.
"""
function host_solve(
        problem, u0, times, states, spread, dense, checkpoints, restarts, offer, kept_bytes, after_step, watching, watch,
    )
    after = pyconvert(Bool, watching) ? after_step : Breath(after_step, time_ns())
    return solve_and_share(
        problem_of(problem), array(u0), times, states, spread, dense, checkpoints, restarts, offer, kept_bytes, after, watch,
    )
end

function solve_and_share(
        problem::HostProblem{T}, u0, times, states, spread, dense, checkpoints, restarts, offer, kept_bytes, after_step, watch,
    ) where {T}
    keep = Keep{T}(;
        # an Adams step is taken again with the states of the steps before it
        states = pyconvert(Bool, states) || (problem.tableau isa Adams && !isnone(offer)),
        spread = pyconvert(Int, spread), dense = pyconvert(Bool, dense),
        checkpoints = T.(pyconvert(Vector{Float64}, checkpoints)), restarts = T.(pyconvert(Vector{Float64}, restarts)),
        offer = isnone(offer) ? nothing : HostOffer(offer),
        (isnone(kept_bytes) ? (;) : (; problem.tableau, bytes = pyconvert(Float64, kept_bytes)))...,
    )
    at = T.(pyconvert(Vector{Float64}, times))
    run, (nf, ng) = counted(problem) do
        if problem.g === nothing
            looks = isnone(watch) ? Returns(nothing) : HostWatch(watch)
            solve(problem.f, u0, problem.p, problem.options, at, keep; after_step, watch = looks)
        else
            path = noise(problem, u0)
            solve(problem.f, problem.g, path, u0, problem.p, problem.options, at, keep; after_step)
        end
    end
    return PythonCall.pytuple((
        Py(problem), Py(run), PythonCall.pylist(run.t), PythonCall.pylist(run.dt), PythonCall.pylist(run.EEst),
        run.nreject, run.nf, nf, ng, PythonCall.pylist(tensor.(run.outputs)),
        run.ended, run.options.tspan[2], run.proposed_dt,
    ))
end

"""The stack's own solution."""
host_solution(run) = Py(value(run).sol)

host_state(run, index) = tensor(value(run).states[pyconvert(Int, index)])

function host_interpolate(run, t)
    solved = value(run)
    return tensor(interpolate(solved, oftype(solved.options.abstol, pyconvert(Float64, t))))
end

function host_initial_step(row, u)
    problem, state = problem_of(row), array(u)
    dt, (nf, ng) = counted(problem) do
        if problem.g === nothing
            initial_step(problem.f, state, problem.p, problem.options)
        else
            initial_step(problem.f, problem.g, noise(problem, state), state, problem.p, problem.options)
        end
    end
    return PythonCall.pytuple((dt, nf, ng))
end

"""A stiffness estimate of a recorded step, taken again."""
function host_stiffness(handle, run, index)
    problem, solved, i = value(handle), value(run), pyconvert(Int, index)
    step = take(problem, solved, i, solved.states[i], :estimate)
    return estimate(step, "stiffness", problem.options)
end
