# One step's estimate, and gradients of solves and of estimates.

function host_estimate(row, quantity, t, u, dt, frozen)
    return estimate_and_share(problem_of(row), array(u), quantity, t, dt, frozen)
end

function estimate_and_share(problem::HostProblem{T}, u, quantity, t, dt, frozen) where {T}
    time, size = T(pyconvert(Float64, t)), T(pyconvert(Float64, dt))
    more = (quantity = pyconvert(String, quantity), frozen = pyconvert(Bool, frozen))
    (value, back), (nf, ng) = counted(problem) do
        on_side(dynamics(problem), problem.options.tstops, time, size) do
            if problem.g === nothing
                return local_error(problem.f, problem.tableau, u, problem.p, time, size, problem.options; more...)
            end
            integrals = Integrals(size, zero(u), zero(u))
            problem.path(
                integrals.dW, integrals.dZ, time, step_end(time, size, stops(problem.options)),
            )
            return local_error(
                problem.f, problem.g, problem.tableau, u, problem.p, time, integrals, problem.options;
                more...,
            )
        end
    end
    function host_back(cotangent)
        by_u, by_p = back(T(pyconvert(Float64, cotangent)))
        return PythonCall.pytuple((tensor(by_u), tensor(by_p)))
    end
    return PythonCall.pytuple((value, PythonCall.pyfunc(host_back; name = "pull_back"), nf, ng))
end

function take(problem::HostProblem, run, index, u, need, memory = Fresh())
    return on_side_of_step(dynamics(problem), run, index) do
        problem.g === nothing && return take_again(problem.f, problem.tableau, run, index, u, need, memory)
        return take_again(problem.f, problem.g, problem.tableau, problem.path, run, index, u, memory)
    end
end

function host_estimates(T, rows)
    return Dict(
        pyconvert(Int, index) => EstimateCotangent(
            T(pyconvert(Float64, cotangent)), pyconvert(String, quantity), pyconvert(Bool, frozen),
            pyconvert(Bool, through_state),
        ) for (index, cotangent, quantity, frozen, through_state) in rows
    )
end

"""The discrete adjoint. `inside` are (index, weights, cotangent) of states inside steps, `at_end` that of the end."""
function host_replay(handle, run, inside, at_end, estimates)
    problem, solved = value(handle), value(run)
    T = eltype(solved.p)
    by_index = Dict{Int, Vector{Any}}()
    for (index, weights, cotangent) in inside
        inside = T.(weights_inside(problem.tableau, pyconvert(Vector{Float64}, weights)))
        pair = (inside, array(cotangent))
        push!(get!(() -> Any[], by_index, pyconvert(Int, index)), pair)
    end
    end_state = solved.states[length(solved.t)]
    by_end = isnone(at_end) ? zero(end_state) : copy(array(at_end))
    asked = host_estimates(T, estimates)
    by_u0, by_p = if problem.tableau isa Adams
        replay(problem.f, problem.tableau, solved, by_index, by_end, asked)
    else
        retake(index, u, need, memory) = take(problem, solved, index, u, need, memory)
        replay(retake, solved, by_index, by_end, asked)
    end
    return PythonCall.pytuple((tensor(by_u0), tensor(by_p)))
end

"""A continuous adjoint, and the estimates' gradients by the parameters beside it."""
function host_pull_back(handle, run, adjoint, checkpointing, times, cotangents)
    problem, solved = value(handle), value(run)
    T = eltype(solved.p)
    by_u0, by_p = pull_back(
        problem.f, solved, value(adjoint), pyconvert(Bool, checkpointing),
        T.(pyconvert(Vector{Float64}, times)), [array(cotangent) for cotangent in cotangents],
    )
    return PythonCall.pytuple((tensor(by_u0), tensor(by_p)))
end

"""The gradients of a recorded step's estimate: (index, by_u) of the states it depends on, and by_p."""
function host_reverse_estimate(handle, run, row)
    problem, solved = value(handle), value(run)
    index, asked = only(host_estimates(eltype(solved.p), (row,)))
    by_states, by_p = if problem.tableau isa Adams
        reverse_estimate(problem.f, problem.tableau, solved, index, asked)
    else
        reverse_estimate(take(problem, solved, index, solved.states[index], :estimate), solved, index, asked)
    end
    pairs = PythonCall.pylist(PythonCall.pytuple((at, tensor(by_u))) for (at, by_u) in by_states)
    return PythonCall.pytuple((pairs, tensor(by_p)))
end
