"""Cotangents of u(t) at given times, as SciMLSensitivity asks for them. A named type: a closure would compile
the adjoint anew at every call."""
struct Cotangents{A}
    at::Vector{A}
end

function (cotangents::Cotangents)(out, u, p, t, i)
    out .= vec(cotangents.at[i])
    return nothing
end

"""The adjoints of SciMLSensitivity by name, those of the stack's solution; one that is given is itself."""
function sensealg(adjoint::String, checkpointing, options)
    autojacvec = ZygoteVJP(; allow_nothing = true)
    adjoint == "interpolating" && return InterpolatingAdjoint(; autojacvec, checkpointing)
    adjoint == "backsolve" && return BacksolveAdjoint(; autojacvec, checkpointing)
    adjoint == "gauss" && return GaussAdjoint(; autojacvec)
    adjoint == "quadrature" &&
        return QuadratureAdjoint(; autojacvec, abstol = options.abstol, reltol = options.reltol)
    throw(ArgumentError("no adjoint is called $adjoint"))
end

sensealg(adjoint, checkpointing, options) = adjoint

"""
    pull_back(f, run, adjoint, checkpointing, times, cotangents) -> by_u0, by_p

Gradients of sum_i <cotangents_i, u(times_i)>, by solving the adjoint equation backwards. `adjoint` is a name or an
algorithm of SciMLSensitivity's.
"""
function pull_back(f::Dynamics, run::Run{T, A}, adjoint, checkpointing, times, cotangents) where {T, A}
    options = run.options
    backwards = options.tspan[2] < options.tspan[1]
    # InterpolatingAdjoint's own checkpoints are those of a span that runs forwards
    in_parts = adjoint in ("gauss", "quadrature") || (adjoint == "interpolating" && backwards)
    checkpointing && in_parts && return by_parts(f, run, adjoint, times, cotangents)
    alg = algorithm(options; of_adjoint = true)
    sol = run.sol
    # Zygote differentiates the call out of place
    @reset sol.prob = ODEProblem{false, SciMLBase.FullSpecialize}(
        ODEFunction{false, SciMLBase.FullSpecialize}(f), sol.prob.u0, options.tspan, run.p,
    )
    restarts = run.restarts
    by_u0, by_p = refusing(!(adjoint isa String)) do
        adjoint_sensitivities(
            sol, alg;
            t = times, dgdu_discrete = Cotangents(cotangents), abstol = options.abstol,
            reltol = options.reltol, maxiters = options.maxiters, step_options(options, alg)...,
            sensealg = sensealg(adjoint, checkpointing || !isempty(restarts), options),
            (isempty(restarts) ? (;) : (; checkpoints = restarts))...,
            (options.adaptive ? (;) : (; adaptive = false, dt = -options.dt))...,
        )
    end
    u0 = run.states[length(run.t)]
    return convert(A, reshape(by_u0, size(u0))), by_p === nothing ? zero(run.p) : convert(typeof(run.p), vec(by_p))
end

"""
An adjoint that knows no such checkpoints, from one to the next of the run's: each part is solved once more with its dense
output, the last one first, and leaves the cotangent of its start to the one before.
"""
function by_parts(f::Dynamics, run::Run{T, A}, adjoint, times, cotangents) where {T, A}
    by_p, by_u = zero(run.p), zero(run.states[length(run.t)])
    direction = sign(run.options.tspan[2] - run.options.tspan[1])
    for i in (length(run.sol.t) - 1):-1:1
        start, stop = run.sol.t[i], run.sol.t[i + 1]
        start == stop && continue
        inside = findall(t -> direction * (t - start) > 0 && direction * (stop - t) > 0, times)
        at_stop = findall(==(stop), times)
        of_stop = isempty(at_stop) ? by_u : by_u .+ cotangents[only(at_stop)]
        options = run.options
        @reset options.tspan = (start, stop)
        options.adaptive && @reset options.dt = zero(T)
        u = convert(A, reshape(run.sol.u[i], size(by_u)))
        part = solve(f, u, run.p, options, T[], Keep{T}(; dense = true))
        by_u, of_p = pull_back(f, part, adjoint, false, [times[inside]; stop], [cotangents[inside]; [of_stop]])
        by_p .+= of_p
    end
    return by_u, by_p
end

"""
By forward differentiation: a solve with the derivatives by the initial state and the parameters beside the state, a
dozen of them at a time.
"""
function pull_back(
        f::Dynamics, run::Run{T, A}, adjoint::ForwardDiffSensitivity, checkpointing, times, cotangents,
    ) where {T, A}
    options, u0 = run.options, run.sol.prob.u0
    alg, n = algorithm(options), length(u0)
    gradient = refusing() do
        ForwardDiff.gradient([vec(u0); run.p]) do x
            prob = ODEProblem{true, SciMLBase.FullSpecialize}(
                ode_function(f), reshape(x[1:n], size(u0)), options.tspan, x[(n + 1):end],
            )
            sol = SciMLBase.solve(
                prob, alg; abstol = options.abstol, reltol = options.reltol, maxiters = options.maxiters,
                adaptive = options.adaptive, saveat = times, save_start = false, verbose = SciMLLogging.None(),
                tstops = options.tstops, step_options(options, alg)..., (options.dt == 0 ? (;) : (; dt = options.dt))...,
            )
            sum(zip(times, cotangents)) do (t, cotangent)
                sum(cotangent .* sol.u[findfirst(==(t), sol.t)])
            end
        end
    end
    return convert(A, reshape(gradient[1:n], size(u0))), convert(typeof(run.p), gradient[(n + 1):end])
end
