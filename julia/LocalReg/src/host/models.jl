# Right-hand sides: Lux models of Python's descriptions, and dynamics that live in Python.

"""
A Python right-hand side. `call(du, u, t)` writes; `pull(u, t)` gives (du, back) with `back(cotangent)` giving
(by_u, by_p), `None` for zero; `jacobian(u, t)` and `time_derivative(u, t)` give tensors, `pull_directional` is as
[`pull_directional`](@ref) without the parameters.
"""
struct HostModel
    call::Py
    pull::Py
    jacobian::Py
    time_derivative::Py
    pull_directional::Py
    views::Views
end

function evaluate!(model::HostModel, du, u, p, t)
    model.call(model.views(du), model.views(u), t)
    return nothing
end

function pull(model::HostModel, u, p, t)
    du, back = model.pull(tensor(u), t)
    function host_pullback(cotangent)
        by_u, by_p = back(tensor(cotangent))
        return optional_array(by_u), optional_array(by_p)
    end
    return array(du), host_pullback
end

optional_array(x::Py) = isnone(x) ? nothing : array(x)

# whose blocks Python knows of
jacobian_by_sample(model::HostModel, u, p, t) = jacobian(model, u, p, t)
jacobian(model::HostModel, u, p, t) = permutedims(array(model.jacobian(tensor(u), t)))
time_derivative(model::HostModel, u, p, t) = array(model.time_derivative(tensor(u), t))

function pull_directional(model::HostModel, u, p, t, du, dt, cotangent)
    by_u, by_p = model.pull_directional(tensor(u), t, tensor(du), dt, tensor(cotangent))
    return optional_array(by_u), optional_array(by_p)
end

function host_layers(description, timed, injected, running, training)
    layers, is_timed, stats = described_layers(description, timed, running)
    return Py(Layers(layers, is_timed, pyconvert(Int, injected), stats, pyconvert(Bool, training)))
end

function described_layers(description, timed, running)
    rows = pyconvert(Vector{Tuple{String, Int, Real, Int, String}}, description)
    is_timed = pyconvert(Bool, timed)
    layers = Tuple(lux_layer(row..., is_timed) for row in rows)
    stats = Tuple(isnone(pair) ? nothing : (array(pair[0]), array(pair[1])) for pair in running)
    return layers, is_timed, stats
end

host_model(call, pull, jacobian, time_derivative, pull_directional) =
    Py(HostModel(call, pull, jacobian, time_derivative, pull_directional, Views()))

host_part(model, first, last) = Py(Part(value(model), pyconvert(Int, first):pyconvert(Int, last)))
