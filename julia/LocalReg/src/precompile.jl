# the first solve and the first gradient of a session are then those of a warm one
@setup_workload begin
    rows = [("dense", 2, 4, 0, "tanh"), ("dense", 4, 2, 0, "identity")]
    @compile_workload begin
        for T in (Float32, Float64)
            layers = Tuple(lux_layer(row..., false) for row in rows)
            f = Dynamics(Layers(layers, false, 0, (nothing, nothing), true))
            count = sum(sum(prod, values(parameters(layer))) for layer in layers)
            p = T[sin(i) / 2 for i in 1:count]
            u0 = T[0.1 0.2 0.3; 0.4 0.5 0.6]
            options = Options{T}("Tsit5", (zero(T), one(T)), T(1e-3), T(1e-3), zero(T), true, 1000)
            run = solve(f, u0, p, options, T[1], Keep{T}(; states = true, dense = true))
            for adjoint in ("interpolating", "backsolve", "gauss", "quadrature")
                pull_back(f, run, adjoint, false, T[1], [one.(u0)])
            end
            retake(index, u, need, memory) = take_again(f, heun, run, index, u, need, memory)
            heun = Tableau{T}([0, 1], [0 0; 1 0], [1 / 2, 1 / 2], [-1 / 2, 1 / 2], [], 2)
            replay(retake, run, Dict{Int, Vector{Any}}(), one.(u0), Dict(0 => EstimateCotangent(one(T), "error", false, true)))
            narrow = NarrowStep(f, heun, u0, p, zero(T), T(0.1), 2, Arena())
            cotangents = StageCotangents(narrow)
            add_new_state!(cotangents, narrow, u0)
            pull_back!(zero(p), narrow, cotangents)
            local_error(f, heun, u0, p, zero(T), T(0.1), options; quantity = "error", frozen = false)
        end
    end
end
