"""
    RosenbrockTableau(gamma, a, C, c, d, b, btilde, H)

An embedded Rosenbrock-Wanner pair in the form without products by the Jacobian (Hairer, Wanner II, IV.7). The stages z
solve (I - h J) z_i = h (f(t + c_i dt, u + sum_j a_ij z_j) + d_i dt df/dt) + gamma sum_j C_ij z_j with h = gamma dt. The
new state is u + sum_i b_i z_i, the error sum_i btilde_i z_i. Inside a step it is (1 - theta) u + theta (u_new +
(1 - theta) (h_1 + theta (h_2 + ...))) with h_k = sum_i H_ki z_i; with no H it is not known here.
"""
struct RosenbrockTableau{T}
    gamma::T
    a::Matrix{T}
    C::Matrix{T}
    c::Vector{T}
    d::Vector{T}
    b::Vector{T}
    btilde::Vector{T}
    H::Matrix{T}
end

"""Weights of the stages in u(theta) - u."""
function weights_inside(tableau::RosenbrockTableau, given)
    theta = only(given)
    nested = sum(theta^(k - 1) .* view(tableau.H, k, :) for k in axes(tableau.H, 1))
    return theta .* tableau.b .+ theta * (1 - theta) .* nested
end

"""A Rosenbrock step taken again: `ks` are its stages z."""
struct RosenbrockStep{T, A, P, W, M} <: OneStep{T, A}
    f::Dynamics
    tableau::RosenbrockTableau{T}
    u::A
    p::P
    t::T
    dt::T
    W::W
    ks::Vector{A}
    backs::Vector{Any}
    memory::M
end

function RosenbrockStep(f::Dynamics, tableau::RosenbrockTableau{T}, u::A, p, t, dt, stages, memory = Fresh()) where {T, A}
    h = tableau.gamma * dt
    W = factorize(f, u, p, t, h)
    dT = time_derivative(f.model, u, p, inside(f, t))
    step = RosenbrockStep(f, tableau, u, p, t, dt, W, A[], Any[], memory)
    for i in 1:stages
        input = combine(add_terms!([(one(T), u)], one(T), view(tableau.a, i, 1:(i - 1)), step.ks), memory)
        k, back = pull(f, input, p, t + tableau.c[i] * dt, memory)
        terms = Tuple{T, A}[(h, k), (h * tableau.d[i] * dt, dT)]
        rhs = combine(add_terms!(terms, tableau.gamma, view(tableau.C, i, 1:(i - 1)), step.ks), memory)
        push!(step.ks, convert(A, solve_for(W, rhs)))
        push!(step.backs, back)
    end
    return step
end

unit(::RosenbrockStep{T}) where {T} = one(T)

function take_again(f::Dynamics, tableau::RosenbrockTableau{T}, run::Run, index, u, need, memory) where {T}
    stages = need === :estimate ? length(tableau.c) : length(tableau.b)
    return RosenbrockStep(f, tableau, u, run.p, T(run.t[index + 1]), T(run.dt[index + 1]), stages, memory)
end

"""
As of explicit steps. With y_i the cotangent of (I - h J) z_i, the step depends on the Jacobian and on df/dt by
sum_i <h y_i, J z_i + d_i dt df/dt>.
"""
function pull_back!(by_p, step::RosenbrockStep{T, A}, cotangents; frozen = false) where {T, A}
    tableau = step.tableau
    h = tableau.gamma * step.dt
    for i in length(step.ks):-1:(frozen ? 2 : 1)
        isempty(cotangents.by_k[i]) && continue
        y = convert(A, solve_for(step.W', combine(cotangents.by_k[i])))
        for j in 1:(i - 1)
            iszero(tableau.C[i, j]) || push!(cotangents.by_k[j], (tableau.gamma * tableau.C[i, j], y))
        end
        by_f = h .* y
        add_directional!(by_p, cotangents, step, step.ks[i], tableau.d[i] * step.dt, by_f)
        by_input, of_p = step.backs[i](by_f)
        of_p === nothing || (by_p .+= of_p)
        by_input === nothing && continue
        push!(cotangents.by_u, (one(T), by_input))
        i > 1 && add!(cotangents, step, view(tableau.a, i, 1:(i - 1)), by_input)
    end
    return isempty(cotangents.by_u) ? zero(step.u) : combine(cotangents.by_u)
end

function local_error(
        f::Dynamics, tableau::RosenbrockTableau, u, p, t, dt, options; quantity = "error", frozen = false,
    )
    return with_pullback(RosenbrockStep(f, tableau, u, p, t, dt, length(tableau.c)), p, options, quantity, frozen)
end
