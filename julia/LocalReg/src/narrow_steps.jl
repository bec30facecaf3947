# Explicit Runge-Kutta steps of a Dense chain that is narrower than its state, taken again and reversed among its hidden
# values. Of f(u) = W_out h(W_in u + b_in) + b_out the stages meet each other through W_in W_out alone, a small matrix: a
# step needs five products with the state, where each of its stages by itself needs six.

const DenseChain = Layers{<:Tuple{Lux.Dense, Lux.Dense, Vararg{Lux.Dense}}}

const WORTH = 2^20 # multiplications that take as long as what a step among the hidden values does beside them

"""Whether a step among the hidden values is sooner done than one of `stages` calls of f and their pullbacks."""
is_narrow(model, u, stages) = false

function is_narrow(model::DenseChain, u, stages)
    (model.injected == 0 && last(model.layers).activation === identity) || return false
    n = size(u, 1)
    batch, first_hidden, last_hidden = length(u) ÷ n, first(model.layers).out_dims, last(model.layers).in_dims - model.timed
    of_stages = 3 * stages * first_hidden * last_hidden * batch
    here = n * batch * (3first_hidden + 2last_hidden) + of_stages + 3 * first_hidden * last_hidden * n
    return here + WORTH < 3 * stages * n * batch * (first_hidden + last_hidden)
end

"""
    Ends(model, p, memory)

The first and the last layer, W_in u + b_in and W_out h + b_out + t b_out_by_t, with `both` = W_in W_out. Arrays of their own, so
that what is done with them is compiled once for all chains.
"""
struct Ends{A, V}
    W_in::A
    W_out::A
    both::A
    b_out::V
    b_out_by_t::V
end

function Ends(model::DenseChain, p, memory)
    ps = unpack(model.layers, p)
    own(x) = copyto!(like(memory, p, size(x)), x)
    W_in, W_out = own.(matrices(model, ps))
    b_out = own(last(ps).bias)
    b_out_by_t = model.timed ? own(time_column(last(ps))) : fill!(like(memory, b_out), 0)
    return Ends(W_in, W_out, multiply(memory, W_in, W_out), b_out, b_out_by_t)
end

"""The weights of the first and the last layer, without the columns of the time."""
matrices(model, ps) = map(of_layer -> view(of_layer.weight, :, 1:(size(of_layer.weight, 2) - model.timed)), (first(ps), last(ps)))

time_column(of_layer) = view(of_layer.weight, :, size(of_layer.weight, 2))

bias_out(ends::Ends, t) = ends.b_out .+ t .* ends.b_out_by_t

"""x y, an array of the memory."""
multiply(memory, x, y) = product!(like(memory, y, (size(x, 1), size(y, 2))), x, y)

"""
One call of a chain at `t`: what the last layer takes, and what the layers before it need to be reversed, the slope of the
first one's activation, and input and slope of those between.
"""
struct HiddenCall{T, A}
    t::T
    h::A
    passed::Any
end

"""From W_in u, which is written over."""
function hidden_call(model, p, of_input, t, memory)
    layers, ps = model.layers, unpack(model.layers, p)
    y, slope = activate_dense!(of_input, first(layers), first(ps), model.timed, t, memory)
    h, passed = forward_dense(between(layers), between(ps), y, model.timed, t, memory)
    return HiddenCall(t, h, (slope, passed))
end

between(layers::Tuple) = Base.front(Base.tail(layers))

"""The cotangent of W_in u + b_in from that of h, which is written over. The gradients by the layers between are added."""
function reverse_hidden!(by_p, model, p, call, by_h, memory)
    slope, passed = call.passed
    if length(model.layers) > 2
        layers, ps, of_call = between(model.layers), between(unpack(model.layers, p)), like(memory, by_p)
        by_layers = between(unpack(model.layers, of_call))
        by_h = reverse_all!(by_layers, layers, ps, passed, model.timed, call.t, by_h, memory)
        add!(sum, x) = sum .+= x
        foreach((sums, xs) -> map(add!, sums, xs), between(unpack(model.layers, by_p)), by_layers)
    end
    return slope === nothing ? by_h : multiply!(by_h, slope, by_h)
end

"""
    NarrowStep(f, tableau, u, p, t, dt, stages, memory)

A [`Step`](@ref) with its calls as far as they concern the hidden values.
"""
struct NarrowStep{T, A, H, V, P, M}
    tableau::Tableau{T}
    u::A
    p::P
    dt::T
    model::Any
    ends::Ends{H, V}
    calls::Vector{HiddenCall{T, H}}
    memory::M
end

function NarrowStep(f::Dynamics, tableau, u, p, t, dt, stages, memory)
    return without_blas_threads() do
        take_hidden(f, Ends(f.model, p, memory), tableau, u, p, t, dt, stages, memory)
    end
end

function take_hidden(f, ends::Ends{H}, tableau::Tableau{T}, u, p, t, dt, stages, memory) where {H, T}
    calls = HiddenCall{T, H}[]
    of_u = multiply(memory, ends.W_in, as_matrix(u))
    of_ks = H[] # W_in k of each stage
    for i in 1:stages
        of_input = combine(add_terms!([(one(T), of_u)], dt, view(tableau.a, i, :), of_ks), memory)
        call = hidden_call(f.model, p, of_input, inside(f, t + tableau.c[i] * dt), memory)::HiddenCall{T, H}
        push!(calls, call)
        i < stages || break
        push!(of_ks, activate!(multiply(memory, ends.both, call.h), identity, ends.W_in * bias_out(ends, call.t)))
    end
    return NarrowStep(tableau, u, p, dt, f.model, ends, calls, memory)
end

"""From calls that were kept."""
function NarrowStep(model, tableau, u, p, dt, kept::Vector{KeptCall}, memory)
    ends = Ends(model, p, memory)
    return NarrowStep(tableau, u, p, dt, model, ends, of_kept.(Ref(ends), kept), memory)
end

function of_kept(::Ends{H}, call) where {H}
    slope, h = last(first(call.passed)), first(last(call.passed))
    return HiddenCall(call.t, as_matrix(h)::H, (slope, between(call.passed)))
end

as_matrix(u) = reshape(u, size(u, 1), :)

function new_state(step::NarrowStep{T}) where {T}
    (; tableau, u, dt, ends, calls, memory) = step
    weights = dt .* tableau.b
    u_new = copyto!(like(memory, u), u)
    product!(as_matrix(u_new), ends.W_out, sum_of(step, weights, [call.h for call in calls]), true)
    return activate!(u_new, identity, sum(w .* bias_out(ends, call.t) for (w, call) in zip(weights, calls)))
end

"""sum_i weights_i xs_i, of one x at least."""
function sum_of(step::NarrowStep{T}, weights, xs::Vector{A}) where {T, A}
    terms = add_terms!(Tuple{T, A}[], one(T), weights, xs)
    return isempty(terms) ? fill!(like(step.memory, xs[1]), 0) : combine(terms, step.memory)
end

"""Cotangents of sums u + dt sum_i weights_i k_i, each behind its weights."""
struct SumCotangents{T, A}
    sums::Vector{Tuple{Vector{T}, A}}
end

StageCotangents(::NarrowStep{T, A}) where {T, A} = SumCotangents(Tuple{Vector{T}, A}[])

add_new_state!(cotangents::SumCotangents, step, cotangent) = add_inside!(cotangents, step, step.tableau.b, cotangent)

function add_inside!(cotangents::SumCotangents{T}, step, weights, cotangent) where {T}
    push!(cotangents.sums, (T[weights; zeros(T, length(step.calls) - length(weights))], cotangent))
    return nothing
end

"""
With x_i the stages' inputs, z_i = W_in x_i + b_in and bars for cotangents: k̄_i = dt sum_s w_si c_s + W_in' g_i of the
sums s, for g_i = dt sum_{j>i} a_ji z̄_j. So h̄_i = W_out' k̄_i is among the hidden values, and of z̄_i x_i' and k̄_i h_i' all
that is of the state's size can be taken out of the sum over the stages.
"""
pull_back!(by_p, step::NarrowStep, cotangents; frozen = false) =
    without_blas_threads(() -> reverse_hidden_step!(by_p, step, cotangents))

function reverse_hidden_step!(by_p, step::NarrowStep{T, A, H}, cotangents) where {T, A, H}
    (; tableau, dt, ends, calls, memory) = step
    sums = [(dt .* weights, as_matrix(c)) for (weights, c) in cotangents.sums]
    of_sums = H[multiply(memory, ends.W_out', c) for (_, c) in sums]
    gradients = EndGradients(ends, memory)
    of_g = [Tuple{T, H}[] for _ in calls]
    every_z = Tuple{T, H}[]
    for (i, call) in Iterators.reverse(enumerate(calls))
        by_h = sum_of(step, [weights[i] for (weights, _) in sums], of_sums)
        isempty(of_g[i]) || add_later!(gradients, ends, combine(of_g[i], memory), by_h, call)
        z = reverse_hidden!(by_p, step.model, step.p, call, by_h, memory)::H
        add_biases!(gradients.b_in, gradients.b_in_by_t, z, call.t)
        push!(every_z, (one(T), z))
        for j in 1:(i - 1)
            iszero(tableau.a[i, j]) || push!(of_g[j], (dt * tableau.a[i, j], z))
        end
    end
    z = combine(every_z, memory)
    add_whole!(gradients, step, sums, z)
    add_gradients!(by_p, step.model, gradients)
    by_u = combine(Tuple{T, A}[(one(T), c) for (_, c) in cotangents.sums], memory)
    product!(as_matrix(by_u), ends.W_in', z, true)
    return by_u
end

"""By the parameters of the first and the last layer; beside them the sums over the stages of g_i, t_i g_i and g_i h_i'."""
struct EndGradients{A, V}
    W_in::A
    b_in::V
    b_in_by_t::V
    W_out::A
    b_out::V
    b_out_by_t::V
    g::V
    g_by_t::V
    g_by_h::A
end

function EndGradients(ends::Ends, memory)
    empty_like(x, n...) = fill!(like(memory, x, n), 0)
    hidden, n = size(ends.W_in)
    row(n) = empty_like(ends.b_out, n)
    return EndGradients(
        empty_like(ends.W_in, hidden, n), row(hidden), row(hidden), empty_like(ends.W_in, size(ends.W_out)...), row(n), row(n),
        row(hidden), row(hidden), empty_like(ends.both, size(ends.both)...),
    )
end

"""Add what comes of the later stages by g: to h̄, which is written to, and to the gradients."""
function add_later!(gradients, ends, g, by_h, call)
    product!(by_h, ends.both', g, true)
    product!(gradients.g_by_h, g, call.h', true)
    add_biases!(gradients.g, gradients.g_by_t, g, call.t)
    return nothing
end

function add_biases!(sum_of_rows, times_t, x, t)
    of_x = vec(sum(x; dims = 2))
    sum_of_rows .+= of_x
    times_t .+= t .* of_x
    return nothing
end

"""Add what has the state's size; `z` is the sum of z̄_i."""
function add_whole!(gradients, step::NarrowStep, sums, z)
    (; g, g_by_t, g_by_h) = gradients
    (; W_in, W_out, b_out, b_out_by_t) = step.ends
    product!(gradients.W_in, z, as_matrix(step.u)', true)
    product!(gradients.W_in, g_by_h, W_out', true)
    gradients.W_in .+= g .* b_out' .+ g_by_t .* b_out_by_t'
    product!(gradients.W_out, W_in', g_by_h, true)
    gradients.b_out .+= W_in' * g
    gradients.b_out_by_t .+= W_in' * g_by_t
    hs = [call.h for call in step.calls]
    for (weights, c) in sums
        product!(gradients.W_out, c, sum_of(step, weights, hs)', true)
        of_c = vec(sum(c; dims = 2))
        gradients.b_out .+= sum(weights) .* of_c
        gradients.b_out_by_t .+= sum(w * call.t for (w, call) in zip(weights, step.calls)) .* of_c
    end
    return nothing
end

"""Those of the two layers into the flat vector."""
function add_gradients!(by_p, model, gradients)
    by_ps = unpack(model.layers, by_p)
    by_W_in, by_W_out = matrices(model, by_ps)
    by_W_in .+= gradients.W_in
    by_W_out .+= gradients.W_out
    first(by_ps).bias .+= gradients.b_in
    last(by_ps).bias .+= gradients.b_out
    model.timed || return nothing
    time_column(first(by_ps)) .+= gradients.b_in_by_t
    time_column(last(by_ps)) .+= gradients.b_out_by_t
    return nothing
end
