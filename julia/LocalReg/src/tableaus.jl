"""
    Tableau(c, a, b, btilde, stiffness, stages, interpolant)

An explicit Runge-Kutta pair. `c` are the nodes and the rows of the square `a` the weights of every stage, those
of the interpolant (beyond the first `stages`) included; `b` the weights of the new state, `btilde` those of
the error estimate and `stiffness` those of the difference of the last two stages' states (empty where the
method has none). `interpolant(theta)` are the weights of a state inside the step, `nothing` where Python has them.
"""
struct Tableau{T}
    c::Vector{T}
    a::Matrix{T}
    b::Vector{T}
    btilde::Vector{T}
    stiffness::Vector{T}
    stages::Int
    interpolant::Any
end

Tableau{T}(c, a, b, btilde, stiffness, stages) where {T} = Tableau{T}(c, a, b, btilde, stiffness, stages, nothing)

"""Weights of a state inside a step, from what Python says of it: these weights, or theta for the method's own."""
weights_inside(tableau, given) = hasproperty(tableau, :interpolant) && tableau.interpolant !== nothing ?
    tableau.interpolant(only(given)) : given

"""
A stage of a stochastic method: an evaluation at t + c h and u + h sum_j a_j k_j + I sum_j b_j g_j, `I` the
integral of that name.
"""
struct Stage{T}
    drift::Bool
    c::T
    a::Vector{T}
    b::Vector{T}
    integral::Symbol
end

"""
    StochasticTableau

A stochastic Runge-Kutta method, its stages in the order of their evaluation. The new state is
u + h sum_i alpha_i k_i + sum over the integrals I of I sum_i beta_I_i g_i; the error estimate that of
delta E1 + E2, with E1 = h sum_i k_i by `error_drift` and E2 by `error_diffusion`; with `milstein_error` it is
delta rms(E1) + rms(dW)^3 rms(E2)^2 / 6 in the place of each element's error.
"""
struct StochasticTableau{T}
    stages::Vector{Stage{T}}
    alpha::Vector{T}
    beta::Vector{Pair{Symbol, Vector{T}}}
    error_drift::Vector{T}
    error_diffusion::Vector{Pair{Symbol, Vector{T}}}
    delta::T
    milstein_error::Bool
end
