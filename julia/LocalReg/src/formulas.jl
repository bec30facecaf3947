# The formula of an algorithm's steps: what takes them again one by one, with an error estimate and a gradient. Python has
# it of methods that both engines have; of any other algorithm of the stack it is read off the algorithm itself, and
# believed where it gives the algorithm's own steps.

const Formula{T} = Union{
    Tableau{T}, Adams{T}, StochasticTableau{T}, RosenbrockTableau{T}, ImplicitTableau{T},
}

"""
    formula(T, algorithm) -> formula, is_dense

What takes a step of the algorithm again, `nothing` where no formula gives its steps; and whether its interpolant does so
for states between them.
"""
function formula(::Type{T}, algorithm) where {T}
    (length(parts(algorithm)) == 1 && !is_limited(algorithm)) || return nothing, false
    candidate = try
        read_formula(algorithm)
    catch
        nothing
    end
    candidate === nothing && return nothing, false
    of_steps, of_states = try
        agreement(candidate, algorithm)
    catch
        false, false
    end
    return of_steps ? in_type(T, candidate) : nothing, of_steps && of_states
end

"""Whether the user's own function changes its stages or steps."""
is_limited(algorithm) = any((:stage_limiter!, :step_limiter!)) do name
    hasproperty(algorithm, name) && getproperty(algorithm, name) !== OrdinaryDiffEqCore.trivial_limiter!
end

"""The formula that the algorithm's cache holds, or the coefficients that an explicit step shows."""
function read_formula(algorithm)
    is_implicit(algorithm) || return probed_tableau(Float64, algorithm)
    cache = start_on_trial(algorithm, 1.0).cache
    hasproperty(cache, :tab) || return nothing
    tab = cache.tab
    if nameof(typeof(tab)) === :RodasTableau
        btilde = tab.btilde === nothing ? Float64[] : tab.btilde
        return RosenbrockTableau{Float64}(tab.gamma, tab.A, tab.C, tab.c, tab.d, tab.b, btilde, tab.H)
    elseif nameof(typeof(tab)) === :ESDIRKIMEXTableau
        smooth = hasproperty(algorithm, :smooth_est) && Bool(algorithm.smooth_est)
        return ImplicitTableau{Float64}(tab.Ai, tab.c, tab.bi, tab.btilde, smooth)
    end
    return nothing
end

in_type(::Type{T}, x::Tableau) where {T} = Tableau{T}(x.c, x.a, x.b, x.btilde, x.stiffness, x.stages, x.interpolant)
in_type(::Type{T}, x::RosenbrockTableau) where {T} =
    RosenbrockTableau{T}(x.gamma, x.a, x.C, x.c, x.d, x.b, x.btilde, x.H)
in_type(::Type{T}, x::ImplicitTableau) where {T} = ImplicitTableau{T}(x.a, x.c, x.b, x.btilde, x.smooth, x.stages)

"""Dynamics to try a formula on, a small network of the state and the time, `steep` as it is."""
function trial(steep)
    layers = (lux_layer("dense", 3, 4, 0, "tanh", true), lux_layer("dense", 4, 3, 0, "identity", true))
    f = Dynamics(Layers(layers, true, 0, (nothing, nothing), true))
    count = sum(sum(prod, values(parameters(layer))) for layer in layers)
    return f, [steep * sin(1.7 * i) for i in 1:count]
end

const TRIAL_TOLERANCE = 1e-6

function start_on_trial(algorithm, steep)
    f, p = trial(steep)
    prob = ODEProblem{true, SciMLBase.FullSpecialize}(ode_function(f), [0.3, -0.5, 0.8], (0.0, 1.0), p)
    adaptive = SciMLBase.isadaptive(algorithm)
    return init(
        prob, algorithm; abstol = TRIAL_TOLERANCE, reltol = TRIAL_TOLERANCE, save_everystep = false, calck = true,
        adaptive, verbose = SciMLLogging.None(), (adaptive ? (;) : (; dt = 0.01))...,
    )
end

const TRIAL_STEPS = 8 # more than any multistep method's start

"""Whether the formula gives the steps of the algorithm, their estimates included, and the states inside them."""
function agreement(formula, algorithm)
    of_states = true
    for steep in (0.7, 3.0)
        integrator = start_on_trial(algorithm, steep)
        f, p = trial(steep)
        for _ in 1:TRIAL_STEPS
            step!(integrator)
            dt = integrator.t - integrator.tprev
            gives_step(formula, f, p, integrator, dt) || return false, false
            of_states = of_states && gives_states(formula, f, p, integrator, dt)
            integrator.t >= 1 && break
        end
    end
    return true, of_states
end

whole_step(f, x::Tableau, u, p, t, dt) = Step(f, x, u, p, t, dt, length(x.c))
whole_step(f, x::RosenbrockTableau, u, p, t, dt) = RosenbrockStep(f, x, u, p, t, dt, length(x.c))
whole_step(f, x::ImplicitTableau, u, p, t, dt) = ImplicitStep(f, x, u, p, t, dt, length(x.c))

# the stack's Newton iterations end where they are fine enough beside the tolerance
closeness(::ImplicitTableau) = 0.05
closeness(formula) = 1e-6

function gives_step(formula, f, p, integrator, dt)
    step = whole_step(f, formula, copy(integrator.uprev), p, integrator.tprev, dt)
    tolerance = TRIAL_TOLERANCE * closeness(formula)
    isapprox(new_state(step), integrator.u; atol = tolerance, rtol = 0) || return false
    SciMLBase.isadaptive(integrator.alg) || return true
    scale = Options{Float64}("", (0.0, 1.0), TRIAL_TOLERANCE, TRIAL_TOLERANCE, 0.0, true, 1)
    EEst = estimate(step, "error", scale) / abs(dt)
    return isapprox(EEst, get_EEst(integrator); atol = closeness(formula))
end

knows_states(x::RosenbrockTableau) = size(x.H, 1) > 0
knows_states(formula) = true

function gives_states(formula, f, p, integrator, dt)
    knows_states(formula) || return false
    step = whole_step(f, formula, copy(integrator.uprev), p, integrator.tprev, dt)
    return all((0.3, 0.8)) do theta
        u = combine(add_terms!([(1.0, step.u)], unit(step), weights_inside(formula, [theta]), step.ks))
        inside = integrator(integrator.tprev + theta * dt)
        isapprox(u, inside; atol = 100 * TRIAL_TOLERANCE * closeness(formula), rtol = 0)
    end
end
