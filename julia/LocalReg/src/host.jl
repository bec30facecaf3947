# Dynamics and noise that live in Python, and what Python calls. Tensors cross by DLPack, the same memory on both
# sides, dimensions reversed: (batch, features) there is (features, batch) here.

const FROM_DLPACK = PythonCall.pynew()

isnone(x::Py) = PythonCall.pyis(x, PythonCall.pybuiltins.None)

"""The array of a contiguous tensor that asks for no gradient."""
array(tensor::Py) = DLPack.from_dlpack(tensor)

"""The tensor of an array."""
tensor(x::StridedArray) = DLPack.share(x, FROM_DLPACK)

# of a device's array, which DLPack.jl shares with no Python object
function tensor(x::AbstractArray)
    capsule = DLPack.unsafe_share(x)
    shared = pointer_from_objref(capsule.tensor)
    DLPack.SHARES_POOL[shared] = (capsule, x) # until torch calls the deleter
    capsule.tensor.deleter = DLPack.DELETER[]
    return FROM_DLPACK(PythonCall.pynew(PythonCall.C.PyCapsule_New(shared, DLPack.PYCAPSULE_NAME, C_NULL)))
end

"""
Tensors of the few arrays that the stack writes to again and again: made once for each. An entry keeps its array
alive, so no other array can have its identity.
"""
struct Views
    known::IdDict{Any, Py}
end

const MAX_VIEWS = 64 # out of place every array is new: do not keep them all

Views() = Views(IdDict{Any, Py}())

function (views::Views)(x)
    length(views.known) < MAX_VIEWS || empty!(views.known)
    return get!(() -> tensor(x), views.known, x)
end

"""
A Python right-hand side. `call(du, u, t)` writes; `pull(u, t)` gives (du, back) with `back(cotangent)` giving
(by_u, by_p), `None` for zero; `jacobian(u, t)` and `time_derivative(u, t)` give tensors, `pull_directional` is as
[`pull_directional`](@ref) without the parameters.
"""
struct HostModel
    call::Py
    pull::Py
    jacobian::Py
    time_derivative::Py
    pull_directional::Py
    views::Views
end

function evaluate!(model::HostModel, du, u, p, t)
    model.call(model.views(du), model.views(u), t)
    return nothing
end

function pull(model::HostModel, u, p, t)
    du, back = model.pull(tensor(u), t)
    function host_pullback(cotangent)
        by_u, by_p = back(tensor(cotangent))
        return optional_array(by_u), optional_array(by_p)
    end
    return array(du), host_pullback
end

optional_array(x::Py) = isnone(x) ? nothing : array(x)

# whose blocks Python knows of
jacobian_by_sample(model::HostModel, u, p, t) = jacobian(model, u, p, t)
jacobian(model::HostModel, u, p, t) = permutedims(array(model.jacobian(tensor(u), t)))
time_derivative(model::HostModel, u, p, t) = array(model.time_derivative(tensor(u), t))

function pull_directional(model::HostModel, u, p, t, du, dt, cotangent)
    by_u, by_p = model.pull_directional(tensor(u), t, tensor(du), dt, tensor(cotangent))
    return optional_array(by_u), optional_array(by_p)
end

"""A Python path's increments: `call(dW, dZ, t, t_new)` writes what the path does between two times."""
struct HostPath
    call::Py
    views::Views
end

function (path::HostPath)(dW, dZ, t, t_new)
    path.call(path.views(dW), path.views(dZ), t, t_new)
    return nothing
end

# ---- what Python calls: every function takes and gives Python objects ----

value(x::Py) = pyconvert(Any, x)

function host_layers(description, timed, injected, running, training)
    rows = pyconvert(Vector{Tuple{String, Int, Int, Int, String}}, description)
    is_timed = pyconvert(Bool, timed)
    layers = Tuple(lux_layer(row..., is_timed) for row in rows)
    stats = Tuple(isnone(pair) ? nothing : (array(pair[0]), array(pair[1])) for pair in running)
    return Py(Layers(layers, is_timed, pyconvert(Int, injected), stats, pyconvert(Bool, training)))
end

host_model(call, pull, jacobian, time_derivative, pull_directional) =
    Py(HostModel(call, pull, jacobian, time_derivative, pull_directional, Views()))

host_part(model, first, last) = Py(Part(value(model), pyconvert(Int, first):pyconvert(Int, last)))

function host_options(
        T, solver, start, stop, abstol, reltol, dt, adaptive, maxiters, dtmin, dtmax, tstops, constants, algorithm, more,
    )
    number(x) = T(pyconvert(Float64, x))
    return Options{T}(
        pyconvert(String, solver), (number(start), number(stop)), number(abstol), number(reltol), number(dt),
        pyconvert(Bool, adaptive), pyconvert(Int, maxiters), number(dtmin), number(dtmax),
        T.(pyconvert(Vector{Float64}, tstops)),
        Dict(Symbol(pyconvert(String, name)) => number(x) for (name, x) in constants),
        isnone(algorithm) ? nothing : value(algorithm), isnone(more) ? (;) : value(more),
    )
end

function host_tableau(T, c, a, b, btilde, stiffness, stages)
    rows = [pyconvert(Vector{Float64}, row) for row in a]
    square = zeros(T, length(rows), length(rows))
    for (i, row) in enumerate(rows)
        square[i, 1:length(row)] .= row
    end
    vectors = (pyconvert(Vector{Float64}, x) for x in (b, btilde, stiffness))
    return Tableau{T}(pyconvert(Vector{Float64}, c), square, vectors..., pyconvert(Int, stages))
end

function host_stochastic_tableau(T, stages, alpha, beta, error_drift, error_diffusion, delta, milstein_error)
    rows(x) = [
        Symbol(pyconvert(String, name)) => T.(pyconvert(Vector{Float64}, row)) for (name, row) in x
    ]
    vector(x) = T.(pyconvert(Vector{Float64}, x))
    return StochasticTableau{T}(
        [
            Stage{T}(
                pyconvert(Bool, drift), T(pyconvert(Float64, c)), vector(a), vector(b),
                Symbol(pyconvert(String, integral)),
            ) for (drift, c, a, b, integral) in stages
        ],
        vector(alpha), rows(beta), vector(error_drift), rows(error_diffusion), T(pyconvert(Float64, delta)),
        pyconvert(Bool, milstein_error),
    )
end

host_adams(T, start, corrects) = Adams{T}(host_tableau(T, start...), pyconvert(Bool, corrects))

function host_rosenbrock(T, gamma, a, C, c, d, b, btilde, H)
    vectors = (T.(pyconvert(Vector{Float64}, x)) for x in (c, d, b, btilde))
    matrices = map((a, C, H)) do rows
        filled = zeros(T, length(rows), maximum(length, rows))
        for (i, row) in enumerate(rows), (j, x) in enumerate(row)
            filled[i, j] = pyconvert(Float64, x)
        end
        filled
    end
    return RosenbrockTableau{T}(T(pyconvert(Float64, gamma)), matrices[1:2]..., vectors..., matrices[3])
end

const COEFFICIENTS = Dict(
    "explicit" => host_tableau, "adams" => host_adams, "stochastic" => host_stochastic_tableau,
    "rosenbrock" => host_rosenbrock,
)

"""A method's coefficients; `kind` says how its steps are made."""
host_coefficients(dtype, kind, data) =
    Py(COEFFICIENTS[pyconvert(String, kind)](element_type(dtype), data...))

element_type(name) = pyconvert(String, name) == "float32" ? Float32 : Float64

"""A problem as Python holds it: right-hand sides, parameters, options, tableau and noise."""
struct HostProblem{T, P <: AbstractVector{T}}
    f::Dynamics
    g::Union{Nothing, Dynamics}
    p::P
    options::Options{T}
    tableau::Union{Nothing, Formula{T}}
    path::Union{Nothing, HostPath}
end

function host_problem(dtype, f, g, p, per_sample, options, tableau, path)
    T = element_type(dtype)
    drift = Dynamics(value(f); per_sample = pyconvert(Bool, per_sample))
    diffusion = isnone(g) ? nothing : Dynamics(value(g))
    formula = isnone(tableau) ? nothing : value(tableau)
    noise = isnone(path) ? nothing : HostPath(path, Views())
    return Py(HostProblem(drift, diffusion, array(p), host_options(T, options...), formula, noise))
end

noise(problem::HostProblem, u) =
    PathNoise(problem.options.tspan[1], stops(problem.options), zero(u), problem.path)

dynamics(problem::HostProblem) = problem.g === nothing ? (problem.f,) : (problem.f, problem.g)

calls(problem::HostProblem) = (problem.f.calls, problem.g === nothing ? 0 : problem.g.calls)

"""What a function of a problem gave, and how often it called the right-hand sides."""
function counted(work, problem)
    before = calls(problem)
    result = work()
    return result, calls(problem) .- before
end

"""A Python callable as `Keep` asks for it."""
struct HostOffer
    call::Py
end

function (offer::HostOffer)(index, t, dt, EEst)
    wanted = offer.call(index, t, dt, EEst)
    return isnone(wanted) ? nothing : pyconvert(Vector{Int}, wanted)
end

"""`after_step()` is called once a step, and where it is `watching` with the step's end and the calls so far."""
function host_solve(handle, u0, times, states, spread, dense, checkpoints, restarts, offer, after_step, watching)
    after = pyconvert(Bool, watching) ? after_step : (t, calls) -> after_step()
    return solve_and_share(value(handle), array(u0), times, states, spread, dense, checkpoints, restarts, offer, after)
end

function solve_and_share(
        problem::HostProblem{T}, u0, times, states, spread, dense, checkpoints, restarts, offer, after_step,
    ) where {T}
    keep = Keep{T}(;
        # an Adams step is taken again with the states of the steps before it
        states = pyconvert(Bool, states) || (problem.tableau isa Adams && !isnone(offer)),
        spread = pyconvert(Int, spread), dense = pyconvert(Bool, dense),
        checkpoints = T.(pyconvert(Vector{Float64}, checkpoints)), restarts = T.(pyconvert(Vector{Float64}, restarts)),
        offer = isnone(offer) ? nothing : HostOffer(offer),
    )
    at = T.(pyconvert(Vector{Float64}, times))
    run, (nf, ng) = counted(problem) do
        if problem.g === nothing
            solve(problem.f, u0, problem.p, problem.options, at, keep; after_step)
        else
            path = noise(problem, u0)
            solve(problem.f, problem.g, path, u0, problem.p, problem.options, at, keep; after_step)
        end
    end
    return PythonCall.pytuple((
        Py(run), PythonCall.pylist(run.t), PythonCall.pylist(run.dt), PythonCall.pylist(run.EEst),
        run.nreject, run.nf, nf, ng, PythonCall.pylist(tensor.(run.outputs)),
    ))
end

host_state(run, index) = tensor(value(run).states[pyconvert(Int, index)])

function host_interpolate(run, t)
    solved = value(run)
    return tensor(interpolate(solved, oftype(solved.options.abstol, pyconvert(Float64, t))))
end

function host_initial_step(handle, u)
    problem, state = value(handle), array(u)
    dt, (nf, ng) = counted(problem) do
        if problem.g === nothing
            initial_step(problem.f, state, problem.p, problem.options)
        else
            initial_step(problem.f, problem.g, noise(problem, state), state, problem.p, problem.options)
        end
    end
    return PythonCall.pytuple((dt, nf, ng))
end

function host_estimate(handle, quantity, t, u, dt, frozen)
    return estimate_and_share(value(handle), array(u), quantity, t, dt, frozen)
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

"""A stiffness estimate of a recorded step, taken again."""
function host_stiffness(handle, run, index)
    problem, solved, i = value(handle), value(run), pyconvert(Int, index)
    step = take(problem, solved, i, solved.states[i], :estimate)
    return estimate(step, "stiffness", problem.options)
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

"""The address of the stream that this task's work on a CUDA device runs on; its method is the extension's."""
function cuda_stream end

host_cuda_stream(device) = Py(cuda_stream(pyconvert(Int, device)))

host_paper_code(checkout) = Py(paper_code(pyconvert(String, checkout)))

"""R and its gradient by the paper's code, its automatic first step at (t, u) included."""
function host_paper_step(code, handle, t, u)
    problem, state = value(handle), array(u)
    options = problem.options
    time = oftype(options.abstol, pyconvert(Float64, t))
    dt = oftype(time, initial_step(problem.f, state, problem.p, options))
    R, by_p = paper_step(value(code), problem.f, state, problem.p, time, dt, options)
    return PythonCall.pytuple((R, tensor(by_p), dt))
end

"""What went wrong, for Python's own error: (kind, t, dt, EEst, naccept, nreject), ("refusal", text, package), or `None`."""
function host_failure(exception)
    failure = value(exception)
    failure isa Refusal && return PythonCall.pytuple(("refusal", failure.text, failure.package))
    failure isa SolveFailure || return PythonCall.pybuiltins.None
    return PythonCall.pytuple((
        String(failure.kind), failure.t, failure.dt, failure.EEst, failure.naccept, failure.nreject,
    ))
end

"""Versions of Julia and of the packages that solve, and the number of threads."""
function host_about()
    packages = (
        DLPack, DiffEqNoiseProcess, Lux, OrdinaryDiffEqAdamsBashforthMoulton, OrdinaryDiffEqCore,
        OrdinaryDiffEqLowOrderRK, OrdinaryDiffEqRosenbrock, OrdinaryDiffEqTsit5, OrdinaryDiffEqVerner,
        PythonCall, SciMLBase, SciMLSensitivity, StochasticDiffEq, Zygote,
    )
    versions = PythonCall.pydict(string(nameof(m)) => string(pkgversion(m)) for m in packages)
    return PythonCall.pytuple((string(VERSION), versions, Threads.nthreads()))
end

"""Every function Python calls, by name; `from_dlpack` is torch's."""
function host_functions(from_dlpack::Py)
    PythonCall.pycopy!(FROM_DLPACK, from_dlpack)
    functions = (;
        HOST_ALGORITHMS...,
        layers = host_layers, coefficients = host_coefficients, model = host_model, part = host_part, problem = host_problem,
        solve = host_solve, state = host_state, interpolate = host_interpolate,
        initial_step = host_initial_step, estimate = host_estimate, stiffness = host_stiffness,
        replay = host_replay, pull_back = host_pull_back, reverse_estimate = host_reverse_estimate,
        paper_code = host_paper_code, paper_step = host_paper_step, failure = host_failure, cuda_stream = host_cuda_stream, about = host_about,
    )
    return PythonCall.pydict(
        String(name) => PythonCall.pyfunc(taking_a_tuple(f); name = String(name)) for (name, f) in pairs(functions)
    )
end

"""`f` with its arguments in one tuple: juliacall takes half a millisecond to hand over more than five."""
function taking_a_tuple(f)
    count = Val(first(methods(f)).nargs - 1)
    return arguments::Py -> call_with(f, arguments, count)
end

call_with(f, arguments, ::Val{N}) where {N} = f(ntuple(i -> arguments[i - 1], Val(N))...)
