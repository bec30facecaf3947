"""
    ImplicitTableau(a, c, b, btilde, smooth, stages)

A diagonally implicit Runge-Kutta pair (SDIRK, ESDIRK) with k_i = f(t + c_i dt, u + dt sum_j<=i a_ij k_j). With `smooth`
the error is W^-1 dt sum_i btilde_i k_i, W = J - I / (gamma dt) with the Jacobian at the step's start, as the stack has it.
Beyond the first `stages` come the slopes at both ends, of which the interpolant is made (Hermite's).
"""
struct ImplicitTableau{T}
    a::Matrix{T}
    c::Vector{T}
    b::Vector{T}
    btilde::Vector{T}
    smooth::Bool
    stages::Int
end

"""From the square `a` of the stages alone."""
function ImplicitTableau{T}(a, c, b, btilde, smooth) where {T}
    stages = length(c)
    with_ends = zeros(T, stages + 2, stages + 2)
    with_ends[1:stages, 1:stages] .= a
    with_ends[stages + 2, 1:stages] .= b
    return ImplicitTableau{T}(with_ends, [c; 0; 1], b, btilde, smooth, stages)
end

gamma(tableau::ImplicitTableau) = tableau.a[tableau.stages, tableau.stages]

"""Weights of the stages and of the slopes at both ends in u(theta) - u."""
function weights_inside(tableau::ImplicitTableau, given)
    x = only(given)
    of_change = x^2 * (3 - 2x)
    return [of_change .* tableau.b; x * (1 - x)^2; x^2 * (x - 1)]
end

"""
An implicit step taken again, its stages to the last digits: `solves` holds of each implicit stage what gives the
cotangent of its equation, by the implicit function theorem.
"""
struct ImplicitStep{T, A, P, M} <: OneStep{T, A}
    f::Dynamics
    tableau::ImplicitTableau{T}
    u::A
    p::P
    t::T
    dt::T
    ks::Vector{A}
    backs::Vector{Any}
    memory::M
end

function ImplicitStep(f::Dynamics, tableau::ImplicitTableau{T}, u::A, p, t, dt, stages, memory = Fresh()) where {T, A}
    step = ImplicitStep(f, tableau, u, p, t, dt, A[], Any[], memory)
    for i in 1:stages
        base = combine(add_terms!([(one(T), u)], dt, view(tableau.a, i, 1:(i - 1)), step.ks))
        h, time = dt * tableau.a[i, i], t + tableau.c[i] * dt
        input = iszero(h) ? base : implicit_state(f, base, p, time, h)
        k, back = pull(f, input, p, time, memory)
        push!(step.ks, k)
        push!(step.backs, iszero(h) ? back : by_implicit_function(f, input, p, time, h, back))
    end
    return step
end

const NEWTON_STEPS = 50

"""x of x = base + h f(x, t), by Newton's method."""
function implicit_state(f::Dynamics, base, p, t, h)
    x, before = copy(base), Inf
    for _ in 1:NEWTON_STEPS
        change = convert(typeof(x), solve_for(factorize(f, x, p, t, h), base .- x .+ h .* f(x, p, t)))
        x .+= change
        size = rms(change ./ (eps(eltype(x)) .+ abs.(x)))
        # in the last digits, or no better than before in what are nearly the last digits
        (size < 10 * eps(eltype(x)) || (size >= before / 2 && size < sqrt(eps(eltype(x))))) && return x
        isfinite(size) || break
        before = size
    end
    throw(SolveFailure(:no_convergence, t, h, NaN, 0, 0))
end

"""The pullback of k = f(base + h k) from that of f: by base and the parameters."""
function by_implicit_function(f, x::A, p, t, h, back) where {A}
    W = Ref{Any}(nothing)
    function implicit_back(cotangent)
        W[] === nothing && (W[] = factorize(f, x, p, t, h))
        return back(convert(A, solve_for(W[]', cotangent)))
    end
    return implicit_back
end

unit(step::ImplicitStep) = step.dt

function take_again(f::Dynamics, tableau::ImplicitTableau{T}, run::Run, index, u, need, memory) where {T}
    stages = need === :inside ? length(tableau.c) : tableau.stages
    return ImplicitStep(f, tableau, u, run.p, T(run.t[index + 1]), T(run.dt[index + 1]), stages, memory)
end

"""(I - gamma dt J) at the step's start; W is its -1 / (gamma dt)-fold."""
start_system(step::ImplicitStep) = factorize(step.f, step.u, step.p, step.t, gamma(step.tableau) * step.dt)

function error(step::ImplicitStep{T, A}) where {T, A}
    raw = weighted(step, step.tableau.btilde)
    step.tableau.smooth || return raw
    return convert(A, solve_for(start_system(step), raw)) .* (-gamma(step.tableau) * step.dt)
end

function add_error!(cotangents, step::ImplicitStep{T, A}, cotangent) where {T, A}
    step.tableau.smooth || return add!(cotangents, step, step.tableau.btilde, cotangent)
    # e = W^-1 raw: de = W^-1 (d raw - dJ e)
    by_raw = convert(A, solve_for(start_system(step)', cotangent)) .* (-gamma(step.tableau) * step.dt)
    add!(cotangents, step, step.tableau.btilde, by_raw)
    push!(cotangents.by_J, (-by_raw, error(step)))
    return nothing
end

function pull_back!(by_p, step::ImplicitStep{T, A}, cotangents; frozen = false) where {T, A}
    for i in length(step.ks):-1:(frozen ? 2 : 1)
        isempty(cotangents.by_k[i]) && continue
        by_input, of_p = step.backs[i](combine(cotangents.by_k[i]))
        of_p === nothing || (by_p .+= of_p)
        by_input === nothing && continue
        push!(cotangents.by_u, (one(T), by_input))
        i > 1 && add!(cotangents, step, view(step.tableau.a, i, 1:(i - 1)), by_input)
    end
    for (cotangent, direction) in cotangents.by_J
        add_directional!(by_p, cotangents, step, direction, zero(T), cotangent)
    end
    return isempty(cotangents.by_u) ? zero(step.u) : combine(cotangents.by_u)
end

function local_error(
        f::Dynamics, tableau::ImplicitTableau, u, p, t, dt, options; quantity = "error", frozen = false,
    )
    return with_pullback(ImplicitStep(f, tableau, u, p, t, dt, tableau.stages), p, options, quantity, frozen)
end
