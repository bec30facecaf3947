"""Every solver by name, and how the adjoint equation is solved with it."""
const ODE_SOLVERS = Dict{String, Any}(
    "BS3" => BS3, "DP5" => DP5, "Euler" => Euler, "RK4" => RK4, "Rodas5" => Rodas5, "Rodas5P" => Rodas5P,
    "Rosenbrock23" => Rosenbrock23, "Tsit5" => Tsit5, "VCAB3" => VCAB3, "VCABM3" => VCABM3, "Vern7" => Vern7,
)
const SDE_SOLVERS = Dict{String, Any}(
    "EM" => EM, "EulerHeun" => EulerHeun, "LambaEulerHeun" => LambaEulerHeun,
    "RKMilCommute" => RKMilCommute, "SOSRI" => SOSRI, "SOSRI2" => SOSRI2, "SRIW1" => SRIW1,
)
const ADAMS_SOLVERS = ("VCAB3", "VCABM3")
const STIFF_SOLVERS = ("Rodas5", "Rodas5P", "Rosenbrock23")

"""
How to solve: `dt` 0 is an automatic first step. Times and tolerances have the state's element type. `dtmin` and `dtmax`
bound the steps' sizes where they are not 0; `tstops`, in rising order, are times they end at, those outside the span none of its;
`constants` are those of the controller that are not the method's own, by the stack's names. `algorithm` is the solver
where it is none of those that both engines have, else `nothing`; `more` are options of the solve by the stack's names.
"""
struct Options{T}
    solver::String
    tspan::Tuple{T, T}
    abstol::T
    reltol::T
    dt::T
    adaptive::Bool
    maxiters::Int
    dtmin::T
    dtmax::T
    tstops::Vector{T}
    constants::Dict{Symbol, T}
    algorithm::Any
    more::Any
end

function Options{T}(solver, tspan, abstol, reltol, dt, adaptive, maxiters) where {T}
    return Options{T}(solver, tspan, abstol, reltol, dt, adaptive, maxiters, zero(T), zero(T), T[], Dict(), nothing, (;))
end

"""
The algorithm; the adjoint equation of a stiff one has its Jacobian by finite differences. `read_later` says that the
dense output is asked for after the solve.
"""
function algorithm(options::Options; of_adjoint = false, read_later = of_adjoint)
    options.algorithm === nothing || return variant(options.algorithm; of_adjoint, read_later)
    name = options.solver
    # left to be computed when it is asked for, its interpolant is not there any more when an adjoint asks
    name == "Vern7" && return Vern7(; lazy = !read_later)
    of_adjoint && name in STIFF_SOLVERS && return ODE_SOLVERS[name](; autodiff = AutoFiniteDiff())
    return haskey(ODE_SOLVERS, name) ? ODE_SOLVERS[name]() : SDE_SOLVERS[name]()
end

"""Whether something is asked of the stack alone, by its own names."""
is_of_stack(options::Options) = options.algorithm !== nothing || !isempty(options.more)

"""The options as the stack's keywords, those of the tolerances and the first step left out."""
function step_options(options::Options{T}, algorithm) where {T}
    return (;
        (options.dtmin > 0 ? (; options.dtmin) : (;))..., (options.dtmax > 0 ? (; options.dtmax) : (;))...,
        (isempty(options.constants) ? (;) : (; controller = controller(options, algorithm)))...,
    )
end

"""The controller with the given constants: they are those of a PI controller, which some algorithms have not."""
function controller(options::Options{T}, algorithm) where {T}
    own = options.algorithm === nothing ? nothing : OrdinaryDiffEqCore.default_controller(T, algorithm)
    own isa Union{Nothing, PIController} || throw(
        Refusal(
            "$(join(keys(options.constants), ", ")) are constants of a PI controller, and its own is a " *
                "$(nameof(typeof(own))): give solve_options={'controller': ...}, or leave them out",
        ),
    )
    return PIController(T, algorithm; options.constants...)
end

"""
What a run keeps beside (t, dt, EEst): the state each step starts from where `states`, or those of `spread` to twice
as many steps, spread evenly over all; the stack's own
solution with its dense output where `dense`, or with the states at `checkpoints`; and with those at `restarts`, from
which an adjoint that solves the state backwards starts anew. `offer(index, t, dt, EEst)`,
where it is not `nothing`, is told of each accepted step and gives the indices of the steps whose states are
to be kept from now on, or `nothing` for no change. Of the calls of the stages of `tableau`, where it is not `nothing`, what
their pullbacks need is kept, of the first steps, up to so many `bytes`.
"""
Base.@kwdef struct Keep{T}
    states::Bool = false
    spread::Int = 0
    dense::Bool = false
    checkpoints::Vector{T} = T[]
    restarts::Vector{T} = T[]
    offer::Any = nothing
    tableau::Union{Nothing, Tableau{T}} = nothing
    bytes::Float64 = Inf
end

"""
The record of one solve: an entry per accepted step, the states at the asked times, the states steps start
from by the step's index from 0 (that of index `length(t)` is the end's), and the stack's solution. `nf` is the stack's
count of calls, of an SDE, which it does not count, the drift's. `rejected` is how
many steps had been rejected by then; of Adams steps `earlier_dts` are the sizes that go with their earlier slopes.
`kept` are the calls of steps by their index. `ended` is where a `watch` ended the solve, within its last step, if it did, and `proposed_dt` the size of the step that would
have come next.
"""
mutable struct Run{T, A <: AbstractArray{T}, P <: AbstractVector{T}}
    options::Options{T}
    p::P
    t::Vector{Float64}
    dt::Vector{Float64}
    EEst::Vector{Float64}
    rejected::Vector{Int}
    earlier_dts::Vector{Tuple{T, T}}
    states::Dict{Int, A}
    kept::Dict{Int, Vector{KeptCall}}
    outputs::Vector{A}
    nreject::Int
    nf::Int
    restarts::Vector{T}
    sol::Any
    ended::Union{Nothing, Float64}
    proposed_dt::Float64
end

is_read_later(keep::Keep) = keep.dense || !isempty(keep.checkpoints)

function problem(f::Dynamics, u0, p, options::Options)
    return ODEProblem{true, SciMLBase.FullSpecialize}(ode_function(f), u0, options.tspan, p)
end

function problem(f::Dynamics, g::Dynamics, u0, p, options::Options, noise)
    # in place these methods' error estimates take norms element by element; out of place they are the formulas'
    in_place = !(options.solver in ("LambaEulerHeun", "RKMilCommute"))
    sde = SDEFunction{in_place, SciMLBase.FullSpecialize}(f, g)
    return SDEProblem{in_place}(sde, u0, options.tspan, p; noise)
end

"""The times whose states the stack's own solution keeps, along the span."""
kept_times(keep::Keep, options) =
    sort!(union(keep.checkpoints, keep.restarts); rev = options.tspan[2] < options.tspan[1])

"""The algorithm of a solve and its options, as the stack takes them."""
function asked(options::Options, keep::Keep; more...)
    alg = algorithm(options; read_later = is_read_later(keep))
    return alg, (;
        abstol = options.abstol, reltol = options.reltol, adaptive = options.adaptive,
        maxiters = options.maxiters, save_everystep = keep.dense, dense = keep.dense, saveat = kept_times(keep, options),
        save_start = true, save_end = true, verbose = SciMLLogging.None(), tstops = options.tstops,
        step_options(options, alg)..., (options.dt == 0 ? (;) : (; dt = options.dt))..., options.more..., more...,
    )
end

function start(prob, options::Options, keep::Keep; more...)
    alg, keywords = asked(options, keep; more...)
    return refusing(() -> init(prob, alg; keywords...), is_of_stack(options))
end

"""
    solve(f, u0, p, options, times, keep; after_step, watch)

Solve an ODE; `times` lie in the span, in its order. `after_step(t, calls)` is called once a step with its end and the
calls of `f` so far, so that the caller can interrupt. `watch(t, integrator)`, told of each accepted step, which started at `t`,
may give a time within it at which the solve ends.
"""
function solve(
        f::Dynamics, u0, p, options::Options, times, keep::Keep;
        after_step = Returns(nothing), watch = Returns(nothing),
    )
    before = f.calls
    keep.tableau === nothing || (f.recorder = Recorder(keep.tableau, keep.bytes))
    try
        integrator = start(problem(f, u0, p, options), options, keep; calck = true)
        return solve_on!(integrator, before, f, u0, p, options, times, keep, after_step, watch)
    finally
        f.recorder = nothing
    end
end

"""From a start on, `before` which `f` had been called so often."""
function solve_on!(integrator, before, f, u0, p, options, times, keep, after_step, watch = Returns(nothing))
    after(t) = after_step(t, f.calls - before)
    run = record!(integrator, (f,), u0, p, options, times, keep, after, watch)
    # as the stack counts out of place, where VCAB3's first call is left out, and with Vern7's interpolant left to be
    # computed when it is asked for
    of_interpolant = options.solver == "Vern7" && is_read_later(keep) ? 6 * length(run.t) : 0
    run.nf = integrator.stats.nf - (options.solver == "VCAB3") - of_interpolant
    return run
end

"""
    solve(f, g, noise, u0, p, options, times, keep; after_step)

Solve an SDE over a path.
"""
function solve(
        f::Dynamics, g::Dynamics, noise::PathNoise, u0, p, options::Options, times, keep::Keep;
        after_step = Returns(nothing),
    )
    before = f.calls
    integrator = start(problem(f, g, u0, p, options, noise), options, keep)
    options.dt == 0 && bound_first_step!(integrator, options)
    after(t) = after_step(t, f.calls - before)
    run = record!(integrator, (f, g), u0, p, options, times, keep, after)
    run.nf = f.calls - before
    return run
end

"""The automatic step of constant dynamics is not bounded by `dtmax`, and the stack has drawn its noise already."""
function bound_first_step!(integrator, options)
    (options.dtmax == 0 || integrator.dt <= options.dtmax) && return nothing
    integrator.dt = options.dtmax
    integrator.sqdt = sqrt(integrator.dt)
    DiffEqNoiseProcess.calculate_step!(integrator.W, integrator.dt, integrator.u, integrator.p)
    return nothing
end

function record!(
        integrator, dynamics, u0::A, p::P, options::Options{T}, times, keep, after_step,
        watch = Returns(nothing),
    ) where {T, A, P}
    run = Run{T, A, P}(
        options, p, Float64[], Float64[], Float64[], Int[], Tuple{T, T}[], Dict{Int, A}(), Dict{Int, Vector{KeptCall}}(),
        A[], 0, 0,
        isempty(keep.restarts) ? T[] : kept_times(keep, options), nothing, nothing, 0.0,
    )
    t_end = options.tspan[2]
    direction = sign(t_end - options.tspan[1])
    kept = Kept(1, Int[])
    save_outputs!(run, integrator, times, direction)
    recorder = first(dynamics).recorder
    recorder === nothing || begin_recording!(recorder, integrator)
    while direction * (t_end - integrator.t) > 0 && run.ended === nothing
        t = integrator.t
        stop = stop_after(options, t)
        on_side(dynamics, options.tstops, t, stop - t) do
            recorder === nothing || empty!(recorder.calls)
            integrator.t in options.tstops && cross!(integrator)
            recorder === nothing || crossed!(recorder)
            refusing(() -> step!(integrator), is_of_stack(options))
            after_step(integrator.t)
            check(integrator, run)
            # of a first step that a stop cut short the stack holds the size it would have had
            integrator.t == stop && (integrator.dt = direction * min(abs(integrator.dt), abs(stop - t)))
            EEst = options.adaptive ? Float64(get_EEst(integrator)) : NaN
            keep_step!(run, integrator, keep, kept, EEst)
            recorder === nothing || keep_calls!(run.kept, recorder, first(dynamics), run)
            run.ended = watch(t, integrator)
            save_outputs!(run, integrator, times, direction)
        end
    end
    run.ended === nothing || end_within!(run, integrator)
    # an error relative to an infinite state is 0: EEst need not show it, and it stays infinite
    all(isfinite, integrator.u) || throw(failure(:non_finite, integrator, run))
    SciMLBase.solve!(integrator) # nothing is left to solve: the solution is finished
    run.states[length(run.t)] = copy(integrator.u)
    run.nreject = integrator.stats.nreject
    run.sol = integrator.sol
    return run
end

"""The solve ends with its last step, whole, and its span there; nothing is left for the stack to solve."""
function end_within!(run, integrator)
    run.proposed_dt = integrator.opts.adaptive ? integrator.dtpropose : integrator.dt
    options = run.options
    run.options = @set options.tspan[2] = integrator.t
    filter!(t -> integrator.tdir * (t - integrator.t) <= 0, run.restarts)
    SciMLBase.terminate!(integrator, ReturnCode.Success)
    return nothing
end

"""The tstops inside the span and its end, of a span that runs forwards."""
stops(options::Options) = [filter(t -> options.tspan[1] < t < options.tspan[2], options.tstops); options.tspan[2]]

"""Where a step from `t` ends at the latest: at the next of the tstops, or the end of the span."""
function stop_after(options::Options, t)
    start, stop = options.tspan
    stops = options.tstops
    if stop > start
        i = searchsortedlast(stops, t) + 1
        return i <= length(stops) ? min(stops[i], stop) : stop
    end
    i = searchsortedfirst(stops, t) - 1
    return i > 0 ? max(stops[i], stop) : stop
end

"""
The last step ended at a tstop, where the dynamics may jump: evaluate them anew for the next one. The stack, which goes
on with the last stage, does not count it.
"""
function cross!(integrator)
    integrator.iter > 0 && OrdinaryDiffEqCore.get_current_isfsal(integrator.alg, integrator.cache) &&
        integrator.f(integrator.fsallast, integrator.u, integrator.p, integrator.t)
    return nothing
end

"""Which of the steps so far have their state kept: every `stride`-th where they are spread, and those `offered`."""
mutable struct Kept
    stride::Int
    offered::Vector{Int}
end

is_kept(kept, keep, index) =
    keep.states || (keep.spread > 0 && index % kept.stride == 0) || index in kept.offered

function keep_step!(run, integrator, keep, kept, EEst)
    index = length(run.t)
    t, dt = Float64(integrator.tprev), Float64(integrator.dt)
    push!(run.t, t)
    push!(run.dt, dt)
    push!(run.EEst, EEst)
    push!(run.rejected, integrator.stats.nreject)
    if run.options.solver in ADAMS_SOLVERS
        push!(run.earlier_dts, (integrator.cache.dts[2], integrator.cache.dts[3]))
    end
    wanted = keep.offer === nothing ? nothing : keep.offer(index, t, dt, EEst)
    wanted === nothing || (kept.offered = wanted)
    is_kept(kept, keep, index) && (run.states[index] = copy(integrator.uprev))
    thinned = keep.spread > 0 && index ÷ kept.stride >= 2 * keep.spread
    thinned && (kept.stride *= 2)
    (thinned || wanted !== nothing) && filter!(pair -> is_kept(kept, keep, first(pair)), run.states)
    return nothing
end

"""The state at a time within the last step."""
state_at(integrator, time) = time == integrator.t ? copy(integrator.u) : integrator(time)

function save_outputs!(run, integrator, times, direction)
    reached = run.ended === nothing ? integrator.t : oftype(integrator.t, run.ended)
    while length(run.outputs) < length(times)
        time = times[length(run.outputs) + 1]
        direction * (time - reached) > 0 && break
        push!(run.outputs, state_at(integrator, time))
    end
    run.ended === nothing || reached in view(times, 1:length(run.outputs)) ||
        push!(run.outputs, state_at(integrator, reached))
    return nothing
end

function check(integrator, run)
    code = integrator.sol.retcode
    (code == ReturnCode.Default || code == ReturnCode.Success) && return nothing
    too_short = code in (ReturnCode.DtLessThanMin, ReturnCode.DtNaN) ||
        code == ReturnCode.Unstable && run.options.adaptive && !integrator.accept_step
    kind = if code == ReturnCode.MaxIters
        :step_limit
    elseif code == ReturnCode.ConvergenceFailure
        :no_convergence
    elseif too_short && isfinite(get_EEst(integrator))
        :step_underflow
    else
        :non_finite
    end
    throw(failure(kind, integrator, run))
end

failure(kind, integrator, run) = SolveFailure(
    kind, integrator.t, integrator.dt, get_EEst(integrator), length(run.t), integrator.stats.nreject,
)

"""
    initial_step(f, u, p, options)

The stack's automatic first step at the start of `options.tspan`.
"""
function initial_step(f::Dynamics, u, p, options::Options)
    return bounded_step(start(problem(f, u, p, options), options, Keep{eltype(u)}()), options)
end

function initial_step(f::Dynamics, g::Dynamics, noise::PathNoise, u, p, options::Options)
    return bounded_step(start(problem(f, g, u, p, options, noise), options, Keep{eltype(u)}()), options)
end

function bounded_step(integrator, options)
    dt = Float64(integrator.dt)
    return options.dtmax == 0 ? dt : clamp(dt, -Float64(options.dtmax), Float64(options.dtmax))
end

"""u(t) of a run that kept its dense output."""
interpolate(run::Run, t) = convert(typeof(first(values(run.states))), run.sol(t))
