# Right-hand sides that the user wrote in Julia: Lux layers, and functions f(u, p, t) or f!(du, u, p, t).

"""
A model written in Julia, made for one solve. `value(model, u, p, t)` is du/dt, which ForwardDiff and Zygote can
differentiate; `compute!(model, du, u, p, t)` writes it. The first call of each is looked at, see [`look!`](@ref).
"""
abstract type JuliaModel end

compute!(model::JuliaModel, du, u, p, t) = (copyto!(du, of_state(value(model, u, p, t), u)); nothing)

function evaluate!(model::JuliaModel, du, u, p, t)
    model.looked_at[] ? compute!(model, du, u, p, t) : look!(model, du, u, p, t)
    return nothing
end

"""What a model gave, as an array like the state."""
function of_state(y, u)
    y isa AbstractArray && size(y) == size(u) || throw(
        Refusal(
            :shape, "the dynamics gave $(described(y)) for a state of size $(size(u)) (as Julia has it, the batch " *
                "last): they must give du/dt of the state's size",
        ),
    )
    eltype(y) == eltype(u) || throw(
        Refusal(
            :dtype, "the dynamics gave elements of $(eltype(y)) for a state of $(eltype(u)): a constant such as " *
                "1.5 is a Float64; write 1.5f0, or make the model and the state torch.float64",
        ),
    )
    return convert(typeof(u), y)
end

described(y) = y isa AbstractArray ? "an array of size $(size(y))" : "a $(typeof(y))"

"""
    look!(model, du, u, p, t)

The first call: the same for the same input, or refused. A function must not draw random numbers, write to its input, or
leave elements of `du` as they were.
"""
function look!(model::JuliaModel, du, u, p, t)
    u_before, p_before, generator = copy(u), copy(p), copy(Random.default_rng())
    fill!(du, NaN)
    compute_first!(model, du, u, p, t)
    copy(Random.default_rng()) == generator || throw(
        Refusal(
            :option, "the dynamics draw random numbers from Julia's global generator: every call of a solve would be " *
                "another function. Draw before the solve, or take a Lux layer whose state holds the generator",
        ),
    )
    isequal(u, u_before) && isequal(p, p_before) || throw(
        Refusal(:option, "the dynamics wrote to the state or the parameters that they were given: write to a copy"),
    )
    if any(isnan, du)
        again = fill!(similar(du), 0)
        compute!(model, again, u, p, t)
        left = count(isnan.(du) .& .!isnan.(again))
        left == 0 || throw(
            Refusal(
                :shape, "f! left $left of $(length(du)) elements of du as they were, or added to them, for a state of " *
                    "size $(size(u)) (as Julia has it, the batch last): it must write every one",
            ),
        )
    end
    model.looked_at[] = true
    return nothing
end

compute_first!(model::JuliaModel, du, u, p, t) = compute!(model, du, u, p, t)

"""A gradient as an array like `x`; `nothing` for zero."""
gradient_like(x, by_x) = by_x === nothing ? nothing : convert(typeof(x), by_x)

function pull(model::JuliaModel, u, p, t)
    y, back = quietly(() -> Zygote.pullback((u, p) -> value(model, u, p, t), u, p), model)
    of_user(cotangent) = map(gradient_like, (u, p), back(cotangent))
    return of_state(y, u), of_user
end

jacobian(model::JuliaModel, u, p, t) = quietly(() -> ForwardDiff.jacobian(u -> value(model, u, p, t), u), model)

function time_derivative(model::JuliaModel, u, p, t)
    return of_state(quietly(() -> ForwardDiff.derivative(t -> value(model, u, p, t), t), model), u)
end

"""
    LuxModel(layer, parameters, timed, st, running, training)

A Lux layer. `parameters` are the slots of its parameters in the flat vector, `st` its state, in which the arrays of
floating point numbers, whose slots `running` has, are views of a buffer of Python's: where `training`, calls in place
write the layer's new ones there. Generators in `st` are as they were at every call: the same draws.
"""
struct LuxModel{L, P, S, R} <: JuliaModel
    layer::L
    parameters::P
    timed::Bool
    st::S
    running::R
    training::Bool
    looked_at::Base.RefValue{Bool}
end

function output(model::LuxModel, u, p, t, st = model.st)
    input = model.timed ? with_time(u, t) : u
    return model.layer(input, unflatten(model.parameters, p), st)
end

"""The time as one more, last, row; channel of images (width, height, channels, batch)."""
function with_time(u::AbstractArray, t)
    dim = ndims(u) > 3 ? ndims(u) - 1 : 1
    row = fill_like(u, Base.setindex(size(u), 1, dim), t)
    return dim == 1 ? vcat(u, row) : cat(u, row; dims = dim)
end

value(model::LuxModel, u, p, t) = first(output(model, u, p, t))

function compute!(model::LuxModel, du, u, p, t)
    y, st = quietly(() -> output(model, u, p, t), model)
    copyto!(du, of_state(y, u))
    model.training && keep_running!(model.st, st, model.running)
    return nothing
end

# Lux warns of training outside of its own gradients, and of gradients outside of training: all of it is meant
quietly(work, ::LuxModel) = with_logger(work, NullLogger())
quietly(work, ::JuliaModel) = work()

keep_running!(old, new, ::Slot) = copyto!(old, new)
keep_running!(old, new, ::Constant) = nothing
keep_running!(old, new, slots::Union{Tuple, NamedTuple}) =
    foreach(keep_running!, values(old), values(new), values(slots))

"""The state with another's running arrays."""
with_running(old, new, ::Slot) = new
with_running(old, new, ::Constant) = old
with_running(old, new, slots::Union{Tuple, NamedTuple}) = map(with_running, old, new, slots)

"""
Whether a layer's new state is of the old one's kind: other running arrays, other generators, and nothing else. A hidden
state, say, would make every call of a solve another function.
"""
same_kind(old, new, ::Slot) = new isa AbstractArray && size(new) == size(old)
same_kind(old, new, constant::Constant) = constant.value isa Random.AbstractRNG || isequal(old, new)
same_kind(old, new, slots) =
    new isa Union{Tuple, NamedTuple} && keys(old) == keys(new) && all(map(same_kind, values(old), values(new), values(slots)))

function compute_first!(model::LuxModel, du, u, p, t)
    generators = deepcopy(found_generators(model.st))
    y, st = quietly(() -> output(model, u, p, t), model)
    generators == found_generators(model.st) || throw(
        Refusal(:option, "a layer draws from the generator in its state without Lux.replicate: calls would differ"),
    )
    same_kind(model.st, st, model.running) || throw(
        Refusal(
            :option, "a layer's state changes from call to call (a hidden state, a mask that is kept): every call of " *
                "a solve would be another function. Only running statistics and generators may change",
        ),
    )
    following = with_running(model.st, st, model.running)
    if model.training && !isequal(following, model.st)
        again, _ = quietly(() -> output(model, u, p, t, following), model)
        isequal(again, y) || throw(
            Refusal(
                :option, "in training mode a layer's output depends on arrays in its state that every call changes: " *
                    "every call of a solve would be another function. Take evaluation mode, module.eval()",
            ),
        )
    end
    copyto!(du, of_state(y, u))
    model.training && keep_running!(model.st, st, model.running)
    return nothing
end

found_generators(st) = filter(x -> x isa Random.AbstractRNG, leaves(st))
leaves(st::Union{Tuple, NamedTuple}) = reduce(vcat, map(leaves, collect(Any, values(st))); init = Any[])
leaves(x) = Any[x]

"""The state with generators of its own in the place of all: seeded, each with its own number."""
function seeded(st, seed)
    count = Ref(0)
    fresh(x) = x isa Random.AbstractRNG ? Random.Xoshiro(hash((seed, count[] += 1))) : x
    fresh(tree::Union{Tuple, NamedTuple}) = map(fresh, tree)
    return fresh(st)
end

# a mask drawn for dual numbers would be another one: those of layers that draw are pulled back row by row
function jacobian(model::LuxModel, u, p, t)
    rows = isempty(found_generators(model.st)) ? JuliaModel : Any
    return invoke(jacobian, Tuple{rows, Any, Any, Any}, model, u, p, t)
end

"""
    FunctionModel(f, in_place, parameters)

A function `f(u, p, t)`, or `f(du, u, p, t)` where it is `in_place`. `parameters` are the slots of what it takes as `p`
in the flat vector; `nothing` where it has none.
"""
struct FunctionModel{F, P} <: JuliaModel
    f::F
    in_place::Bool
    parameters::P
    looked_at::Base.RefValue{Bool}
end

argument(model::FunctionModel{F, Nothing}, p) where {F} = SciMLBase.NullParameters()
argument(model::FunctionModel, p) = unflatten(model.parameters, p)
argument(model::FunctionModel{F, Slot{1}}, p) where {F} = p

function value(model::FunctionModel, u, p, t)
    model.in_place || return model.f(u, argument(model, p), t)
    du = fill!(similar(u, promote_type(eltype(u), eltype(p), typeof(t))), NaN)
    model.f(du, u, argument(model, p), t)
    return du
end

function compute!(model::FunctionModel, du, u, p, t)
    if model.in_place
        model.f(du, u, argument(model, p), t)
    else
        copyto!(du, of_state(value(model, u, p, t), u))
    end
    return nothing
end

"""Zygote takes no writing to arrays: a function in place is pulled back by the derivatives of every input forwards."""
function pull(model::FunctionModel, u, p, t)
    model.in_place || return invoke(pull, Tuple{JuliaModel, Any, Any, Any}, model, u, p, t)
    du = fill!(similar(u), NaN)
    model.f(du, u, argument(model, p), t)
    function by_forward_mode(cotangent)
        of_input(x) = sum(cotangent .* value(model, reshape(x[eachindex(u)], size(u)), x[(length(u) + 1):end], t))
        by_x = ForwardDiff.gradient(of_input, vcat(vec(u), p))
        return reshape(by_x[eachindex(u)], size(u)), by_x[(length(u) + 1):end]
    end
    return du, by_forward_mode
end
