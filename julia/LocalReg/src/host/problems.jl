# A problem as Python holds it: right-hand sides, parameters, options, a method's coefficients, a path of noise.

"""A Python path's increments: `call(dW, dZ, t, t_new)` writes what the path does between two times."""
struct HostPath
    call::Py
    views::Views
end

function (path::HostPath)(dW, dZ, t, t_new)
    path.call(path.views(dW), path.views(dZ), t, t_new)
    return nothing
end

function options_of(
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

"""Options of solves, made once for all that have the same."""
host_options(dtype, row) = Py(options_of(element_type(dtype), row...))

"""A problem as Python holds it: right-hand sides, parameters, options, tableau and noise."""
struct HostProblem{T, P <: AbstractVector{T}}
    f::Dynamics
    g::Union{Nothing, Dynamics}
    p::P
    options::Options{T}
    tableau::Union{Nothing, Formula{T}}
    path::Union{Nothing, HostPath}
end

"""The problem of a row of Python's; one that was made of a row is itself."""
problem_of(x::Py) =
    pyconvert(Bool, PythonCall.pyisinstance(x, PythonCall.pybuiltins.tuple)) ? problem_of(x...) : value(x)

function problem_of(f, g, p, per_sample, options, tableau, path)
    drift = Dynamics(value(f); per_sample = pyconvert(Bool, per_sample))
    diffusion = isnone(g) ? nothing : Dynamics(value(g))
    formula = isnone(tableau) ? nothing : value(tableau)
    noise = isnone(path) ? nothing : HostPath(path, Views())
    return HostProblem(drift, diffusion, array(p), value(options), formula, noise)
end

host_problem(row) = Py(problem_of(row))

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
