# A solve that is made again and again: arrays cross by their addresses, and the record as bytes.

"""
A solve of an ODE, no gradient to follow, that is made again and again from states of one shape: what is the same each time
is made once. `prob`, `alg` and `keywords` are what the stack is given; the initial state of `prob` is written over each time.
"""
struct Repeated{T, P <: ODEProblem, A, K <: NamedTuple, H <: HostProblem{T}}
    prob::P
    alg::A
    keywords::K
    problem::H
    times::Vector{T}
    after_step::Py
end

"""A function of the addresses of a state and of where the states at `times` go to."""
function host_repeated(handle, u0, times, after_step)
    of_python = value(handle)
    T = eltype(of_python.p)
    prob = problem(of_python.f, copy(array(u0)), of_python.p, of_python.options)
    given = asked(of_python.options, Keep{T}(); calck = true)
    repeated = Repeated(prob, given..., of_python, T.(pyconvert(Vector{Float64}, times)), after_step)
    from_and_to(addresses) = solve_again(repeated, ntuple(i -> pyconvert(UInt, addresses[i - 1]), Val(2))...)
    return PythonCall.pyfunc(from_and_to; name = "solve")
end

function solve_again(repeated::Repeated{T}, from, to) where {T}
    (; prob, alg, keywords, times), (; f, p, options) = repeated, repeated.problem
    u0 = prob.u0
    GC.@preserve u0 unsafe_copyto!(pointer(u0), Ptr{T}(from), length(u0))
    before, after_step = f.calls, Breath(repeated.after_step, time_ns())
    integrator = refusing(() -> init(prob, alg; keywords...), is_of_stack(options))
    run = solve_on!(integrator, before, f, u0, p, options, times, Keep{T}(), after_step)
    for (i, u) in enumerate(run.outputs)
        GC.@preserve u unsafe_copyto!(Ptr{T}(to) + (i - 1) * sizeof(u), pointer(u), length(u))
    end
    record = PythonCall.pybytes(collect(reinterpret(UInt8, [run.t; run.dt; run.EEst])))
    return PythonCall.pytuple((record, run.nreject, run.nf, f.calls - before, Py(run)))
end

"""The stack's own solution, with a problem of its own."""
function host_repeated_solution(run)
    sol = value(run).sol
    return Py(@set sol.prob = SciMLBase.remake(sol.prob; u0 = copy(first(sol.u))))
end
