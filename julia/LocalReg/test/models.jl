# models, the tableau of Bogacki and Shampine, and finite differences for the tests

function model(rows; timed = false, injected = 0, training = true, running = map(_ -> nothing, rows))
    layers = Tuple(lux_layer(row..., timed) for row in rows)
    return Layers(layers, timed, injected, Tuple(running), training)
end

count_parameters(layers::Layers) = sum(sum(prod, values(parameters(layer))) for layer in layers.layers)

weights(T, n) = T[sin(3i) / 2 for i in 1:n]

const DENSE = [("dense", 2, 5, 0, "tanh"), ("dense", 5, 2, 0, "identity")]

const BOGACKI_SHAMPINE = Tableau{Float64}(
    [0, 1 / 2, 3 / 4, 1], [0 0 0 0; 1/2 0 0 0; 0 3/4 0 0; 2/9 1/3 4/9 0], [2 / 9, 1 / 3, 4 / 9],
    [5 / 72, -1 / 12, -1 / 9, 1 / 8], Float64[], 4,
)

options(T = Float64; solver = "Tsit5", tspan = (0, 1), tol = 1e-8, dt = 0, adaptive = true, maxiters = 10^5) =
    Options{T}(solver, T.(tspan), T(tol), T(tol), T(dt), adaptive, maxiters)

"""Gradient of a scalar function by fourth-order differences."""
function differences(f, x; h = 1e-3)
    return map(eachindex(x)) do i
        at(δ) = (y = copy(x); y[i] += δ; f(y))
        (8 * (at(h) - at(-h)) - (at(2h) - at(-2h))) / 12h
    end
end

close_to(a, b; rtol = 1e-8) = norm(vec(a) .- vec(b)) <= rtol * norm(b)
