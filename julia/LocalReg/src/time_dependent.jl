"""
    TimeDependent(chain)

A Lux layer of (x, t): its layers one after the other, of which every `Dense` and `Conv` takes the time as one more, last
input (channel). It is what a `pylocalreg.TimeDependent` is in Lux.
"""
struct TimeDependent{C} <: Lux.AbstractLuxWrapperLayer{:chain}
    chain::C
end

function (model::TimeDependent)((x, t), ps, st)
    y, states = apply_timed(values(model.chain.layers), values(ps), values(st), x, t)
    return y, NamedTuple{keys(st)}(states)
end

apply_timed(::Tuple{}, ps, st, x, t) = x, ()
function apply_timed(layers::Tuple, ps, st, x, t)
    layer = first(layers)
    y, new = layer(takes_time(layer) ? with_time(layer, x, t) : x, first(ps), first(st))
    z, rest = apply_timed(Base.tail(layers), Base.tail(ps), Base.tail(st), y, t)
    return z, (new, rest...)
end

"""
    lux_of(layers, timed, running, p) -> model, ps, st

A description's layers as a Lux model of its own, with parameters and state of its own memory, in test mode.
"""
function lux_of(layers::Tuple, timed, running, p)
    names = ntuple(i -> Symbol(:layer_, i), length(layers))
    chain = Lux.Chain(NamedTuple{names}(layers))
    ps = NamedTuple{names}(map(of_layer -> map(copy, of_layer), unpack(layers, p)))
    st = Lux.testmode(Lux.initialstates(Random.default_rng(), chain))
    for (name, statistics) in zip(names, running)
        statistics === nothing && continue
        named = (running_mean = copy(statistics[1]), running_var = copy(statistics[2]))
        st = merge(st, NamedTuple{(name,)}((merge(st[name], named),)))
    end
    return timed ? TimeDependent(chain) : chain, ps, st
end
