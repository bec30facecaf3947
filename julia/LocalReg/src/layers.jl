const ACTIVATIONS = Dict{String, Any}(
    "identity" => identity, "tanh" => tanh, "sigmoid" => NNlib.sigmoid, "relu" => NNlib.relu,
    "softplus" => NNlib.softplus, "swish" => NNlib.swish, "gelu" => NNlib.gelu_tanh, "elu" => NNlib.elu,
    "sin" => sin,
)

"""
    lux_layer(kind, a, b, c, activation, timed)

The Lux layer of a description: `"dense"` (inputs, outputs), `"conv"` (inputs, outputs, kernel), `"groupnorm"`
(channels, groups), `"batchnorm"` (channels, momentum). A timed Dense or Conv takes the time as one more, last input.
"""
function lux_layer(kind, a, b, c, activation, timed)
    σ = ACTIVATIONS[activation]
    kind == "dense" && return Lux.Dense(a + timed => b, σ)
    kind == "conv" && return Lux.Conv((c, c), a + timed => b, σ; pad = Lux.SamePad(), cross_correlation = true)
    kind == "groupnorm" && return Lux.GroupNorm(a, b, σ; epsilon = 1e-5)
    kind == "batchnorm" && return Lux.BatchNorm(a, σ; epsilon = 1e-5, momentum = b)
    throw(ArgumentError("no layer is called $kind"))
end

"""Names and sizes of a layer's parameters, in their order in the flat vector."""
parameters(layer::Lux.Dense) = (weight = (layer.out_dims, layer.in_dims), bias = (layer.out_dims,))
function parameters(layer::Lux.Conv)
    return (weight = (layer.kernel_size..., layer.in_chs, layer.out_chs), bias = (layer.out_chs,))
end
parameters(layer::Union{Lux.GroupNorm, Lux.BatchNorm}) = (scale = (layer.chs,), bias = (layer.chs,))

"""
    Layers(layers, timed, injected, running, training)

A chain of Lux layers as a model of [`Dynamics`](@ref), its parameters one flat vector: layer by layer as
ComponentArrays lays out a Lux chain. Behind them lies, where `injected` is not 0, an input of that many
features (channels), which the first layer sees behind the state's own.

`running` holds each batch norm's running mean and variance (`nothing` for the other layers): where `training`,
calls in place update them, and pullbacks do not.
"""
struct Layers{L <: Tuple, R <: Tuple}
    layers::L
    timed::Bool
    injected::Int
    running::R
    training::Bool
    buffers::Vector{Any}
end

function Layers(layers, timed, injected, running, training)
    return Layers(layers, timed, injected, running, training, Vector{Any}(nothing, length(layers)))
end

function state(layer::Lux.BatchNorm, running, training)
    return (running_mean = running[1], running_var = running[2], training = Val(training))
end
state(layer, running, training) = (;)

takes_time(::Union{Lux.Dense, Lux.Conv}) = true
takes_time(layer) = false

"""The time as one more, last input or channel."""
with_time(layer::Lux.Dense, x, t) = vcat(x, fill_like(x, (1, Base.tail(size(x))...), t))
function with_time(layer::Lux.Conv, x, t)
    return cat(x, fill_like(x, (size(x, 1), size(x, 2), 1, size(x, 4)), t); dims = 3)
end

function fill_like(x, size, t)
    return ChainRulesCore.@ignore_derivatives fill!(similar(x, typeof(t * one(eltype(x))), size), t)
end
fill_like(x, size, t::ForwardDiff.Dual) =
    ChainRulesCore.@ignore_derivatives fill!(similar(x, typeof(t), size), t)

feature_dim(::Lux.Dense) = 1
feature_dim(::Lux.Conv) = 3

function injected_size(model, u)
    return ChainRulesCore.@ignore_derivatives Base.setindex(size(u), model.injected, feature_dim(model.layers[1]))
end

"""The injected input: the end of the flat vector."""
function injected_input(model, u, p)
    dims = injected_size(model, u)
    return reshape(view(p, (length(p) - prod(dims) + 1):length(p)), dims)
end

"""The state, and behind it what is injected."""
function with_injected(model, u, p)
    model.injected == 0 && return u
    return cat(u, injected_input(model, u, p); dims = feature_dim(model.layers[1]))
end

"""The parameters of every layer: reshaped pieces of the flat vector."""
unpack(layers::Tuple, p) = unpack(layers, p, 0)
unpack(::Tuple{}, p, offset) = ()
function unpack(layers::Tuple, p, offset)
    sizes = parameters(first(layers))
    of_layer, offset = pieces(values(sizes), p, offset)
    return (NamedTuple{keys(sizes)}(of_layer), unpack(Base.tail(layers), p, offset)...)
end

pieces(::Tuple{}, p, offset) = (), offset
function pieces(sizes::Tuple, p, offset)
    dims = first(sizes)
    last = offset + prod(dims)
    rest, offset = pieces(Base.tail(sizes), p, last)
    return (reshape(view(p, (last - prod(dims) + 1):last), dims), rest...), offset
end

# without this rule every piece's cotangent would be a vector of the whole's length
function ChainRulesCore.rrule(::typeof(unpack), layers::Tuple, p)
    function unpack_pullback(cotangents)
        by_p = zero(p)
        offset = 0
        for (layer, of_layer) in zip(layers, cotangents), (name, dims) in pairs(parameters(layer))
            piece = of_layer isa ChainRulesCore.AbstractZero ? nothing : getproperty(of_layer, name)
            if !(piece isa Union{Nothing, ChainRulesCore.AbstractZero})
                copyto!(view(by_p, (offset + 1):(offset + prod(dims))), vec(piece))
            end
            offset += prod(dims)
        end
        return NoTangent(), NoTangent(), by_p
    end
    return unpack(layers, p), unpack_pullback
end

# Zygote loses the gradient of `x` in a fold with `init = x`: recurse over the layers
apply(::Tuple{}, timed, running, training, ps, x, t) = x
function apply(layers::Tuple, timed, running, training, ps, x, t)
    layer = first(layers)
    input = timed && takes_time(layer) ? with_time(layer, x, t) : x
    y, _ = layer(input, first(ps), state(layer, first(running), training))
    return apply(
        Base.tail(layers), timed, Base.tail(running), training, Base.tail(ps), y, t,
    )
end

function (model::Layers)(u, p, t)
    ps = unpack(model.layers, p)
    x = with_injected(model, u, p)
    return apply(model.layers, model.timed, model.running, model.training, ps, x, t)
end

function evaluate!(model::Layers, du, u, p, t)
    evaluate_from!(model, 1, model.layers, unpack(model.layers, p), du, with_injected(model, u, p), t)
    return nothing
end

# recursion over a tuple is compiled for each of its layers, where a loop would look their types up at every call
function evaluate_from!(model, i, layers::Tuple, ps, du, x, t)
    out = length(layers) == 1 ? du : nothing
    y = evaluate_layer!(model, i, first(layers), out, x, first(ps), t)
    return evaluate_from!(model, i + 1, Base.tail(layers), Base.tail(ps), du, y, t)
end
evaluate_from!(model, i, ::Tuple{}, ps, du, x, t) = nothing

"""One layer of a call in place; `out` is where the last layer's output goes."""
function evaluate_layer!(model, i, layer::Lux.Dense, out, x, ps, t)
    y = out === nothing ? buffer!(model, i, x, (layer.out_dims, Base.tail(size(x))...)) : out
    inputs = size(x, 1)
    W = view(ps.weight, :, 1:inputs)
    product!(reshape(y, layer.out_dims, :), W, reshape(x, inputs, :))
    σ = NNlib.fast_act(layer.activation, y)
    return activate!(y, σ, bias_at(layer, ps, model.timed, t))
end

"""With the time: its column of the weight is one more bias, and nothing is concatenated."""
bias_at(layer, ps, timed, t) = timed ? ps.bias .+ t .* view(ps.weight, :, layer.in_dims) : ps.bias

function evaluate_layer!(model, i, layer, out, x, ps, t)
    input = model.timed && takes_time(layer) ? with_time(layer, x, t) : x
    running = model.running[i]
    # Lux warns of training outside of its own gradients, which is just what a forward solve is
    y, st = with_logger(NullLogger()) do
        layer(input, ps, state(layer, running, model.training))
    end
    if running !== nothing && model.training
        copyto!(running[1], st.running_mean)
        copyto!(running[2], st.running_var)
    end
    return out === nothing ? y : copyto!(out, y)
end

"""An array like `x`, the same at every call with an `x` of this type and size."""
function buffer!(model, i, x, dims)
    buffer = model.buffers[i]
    buffer isa typeof(x) && size(buffer) == dims && return buffer
    return model.buffers[i] = similar(x, dims)
end

pull(model::Layers, u, p, t) = Zygote.pullback((u, p) -> model(u, p, t), u, p)

function pull(model::Layers{<:Tuple{Vararg{Lux.Dense}}}, u, p, t, memory = Fresh())
    du, passed = forward_dense(model.layers, unpack(model.layers, p), with_injected(model, u, p), model.timed, t, memory)
    return du, cotangent -> pull_back_dense(model, passed, u, p, t, cotangent, memory)
end

"""A call's pullback, from what its layers passed on."""
function pull_back_dense(model, passed, u, p, t, cotangent, memory)
    layers, by_p = model.layers, like(memory, p)
    by_ps, ps = unpack(layers, by_p), unpack(layers, p)
    by_input = reverse_all!(by_ps, layers, ps, passed, model.timed, t, cotangent, memory)
    model.injected == 0 && return by_input, by_p
    injected_input(model, u, by_p) .= selectdim(by_input, 1, (size(u, 1) + 1):size(by_input, 1))
    return copy(selectdim(by_input, 1, axes(u, 1))), by_p
end

"""Output of all layers, into `out` where it is given, and of each its input and its activation's slope."""
forward_dense(::Tuple{}, ps, x, timed, t, memory, out = nothing) = x, ()
function forward_dense(layers::Tuple, ps, x, timed, t, memory, out = nothing)
    layer = first(layers)
    y = out === nothing || length(layers) > 1 ? like(memory, x, (layer.out_dims, Base.tail(size(x))...)) : out
    y, slope = forward_with_slope!(y, layer, x, first(ps), timed, t, memory)
    z, rest = forward_dense(Base.tail(layers), Base.tail(ps), y, timed, t, memory, out)
    return z, ((x, slope), rest...)
end

"""Write the gradients by all layers' parameters; gives that by their input."""
reverse_all!(by_ps, ::Tuple{}, ps, passed, timed, t, by_y, memory) = by_y
function reverse_all!(by_ps, layers::Tuple, ps, passed, timed, t, by_z, memory)
    by_y = reverse_all!(
        Base.tail(by_ps), Base.tail(layers), Base.tail(ps), Base.tail(passed), timed, t, by_z, memory,
    )
    x, slope = first(passed)
    slope === nothing || (by_y = multiply!(like(memory, by_y), slope, by_y))
    return reverse_dense!(first(by_ps), first(layers), x, first(ps), timed, t, by_y, memory)
end

"""Output of a Dense, into `y`, and its activation's slope there; `nothing` where that is 1."""
function forward_with_slope!(y, layer, x, ps, timed, t, memory)
    inputs = size(x, 1)
    product!(reshape(y, layer.out_dims, :), view(ps.weight, :, 1:inputs), reshape(x, inputs, :))
    return activate_dense!(y, layer, ps, timed, t, memory)
end

"""The same from the product with the weight, which is written over."""
function activate_dense!(y, layer, ps, timed, t, memory)
    bias = bias_at(layer, ps, timed, t)
    layer.activation === identity && return activate!(y, identity, bias), nothing
    slope = like(memory, y)
    return activate!(y, slope, NNlib.fast_act(layer.activation, y), bias), slope
end

"""Write the gradients by a Dense's parameters, from that by what its activation takes; gives that by its input."""
function reverse_dense!(by_ps, layer, x, ps, timed, t, by_y, memory)
    inputs = size(x, 1)
    by_z = reshape(by_y, layer.out_dims, :)
    product!(view(by_ps.weight, :, 1:inputs), by_z, reshape(x, inputs, :)')
    sum!(by_ps.bias, by_z)
    timed && (view(by_ps.weight, :, inputs + 1) .= t .* by_ps.bias)
    by_x = like(memory, x)
    product!(reshape(by_x, inputs, :), view(ps.weight, :, 1:inputs)', by_z)
    return by_x
end

function time_derivative(model::Layers, u, p, t)
    model.timed || return zero(u)
    return ForwardDiff.derivative(t -> model(u, p, t), t)
end
