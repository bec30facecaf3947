"""
    local_error(f, tableau, u, p, t, dt, options; quantity, frozen) -> value, back

R = EEst |dt| (or S, the stiffness estimate) of one step from (t, u), and `back(cotangent) -> (by_u, by_p)`.
With `frozen` the first stage is held constant in `back`, as in the paper's code.
"""
function local_error(f::Dynamics, tableau::Tableau, u, p, t, dt, options; quantity = "error", frozen = false)
    return with_pullback(Step(f, tableau, u, p, t, dt), p, options, quantity, frozen)
end

"""As for ODEs, over `integrals` of a path."""
function local_error(
        f::Dynamics, g::Dynamics, tableau::StochasticTableau, u, p, t, integrals::Integrals, options;
        quantity = "error", frozen = false,
    )
    step = StochasticStep(f, g, tableau, u, p, t, integrals)
    return with_pullback(step, p, options, quantity, frozen)
end

function with_pullback(step, p, options, quantity, frozen)
    value = estimate(step, quantity, options)
    function back(cotangent)
        by_p = zero(p)
        asked = EstimateCotangent(cotangent, quantity, frozen, true)
        by_u = reverse_estimate!(by_p, step, asked, options)
        return by_u, by_p
    end
    return value, back
end

"""
    paper_local_error(f, tableau, u, p, t, options) -> value, back

What LocalRegNeuralDE.jl (2023) takes at (t, u): the step is the automatic first one, the first stage constant.
"""
function paper_local_error(f::Dynamics, tableau::Tableau, u, p, t, options::Options{T}) where {T}
    from_here = Options{T}(
        options.solver, (t, options.tspan[2]), options.abstol, options.reltol, zero(T), true, options.maxiters,
    )
    remaining = options.tspan[2] - t
    dt = T(initial_step(f, u, p, from_here))
    dt = abs(remaining) < abs(dt) ? remaining : dt
    return local_error(f, tableau, u, p, t, dt, options; frozen = true)
end
