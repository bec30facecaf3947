# JLArrays behave like a GPU's arrays, on the CPU: reading or writing a single element is an error
if get(ENV, "LOCALREG_DEVICE", "") == "cuda"
    using LuxCUDA: CuArray as DeviceArray
else
    using JLArrays: JLArray as DeviceArray
end

on_device(x::AbstractArray) = DeviceArray(x)
on_device(x::Tuple) = map(on_device, x)
on_device(::Nothing) = nothing

same(a, b; rtol = 1e-12) = a isa DeviceArray && size(a) == size(b) && norm(Array(a) .- b) <= rtol * (1 + norm(b))

# Each: name, layers, the state's size, how many channels are injected. No convolution: those of a GPU are cuDNN's.
const DEVICE_MODELS = [
    ("dense", DENSE, (2, 3), 0), ("vector", DENSE, (2,), 0),
    ("injected", [("dense", 3, 5, 0, "tanh"), ("dense", 5, 2, 0, "identity")], (2, 3), 1),
    ("gelu", [("dense", 2, 5, 0, "gelu"), ("dense", 5, 2, 0, "softplus")], (2, 3), 0),
    ("groupnorm", [("groupnorm", 4, 2, 0, "tanh")], (3, 3, 4, 2), 0),
    (
        "batchnorm",
        [("dense", 2, 4, 0, "identity"), ("batchnorm", 4, 0.1, 0, "tanh"), ("dense", 4, 2, 0, "identity")], (2, 5), 0,
    ),
]

@testset "a call and its pullback on a device, $name, timed = $timed" for
    (name, rows, size, injected) in DEVICE_MODELS, timed in (false, true)
    stats() = [row[1] == "batchnorm" ? (zeros(row[2]), ones(row[2])) : nothing for row in rows]
    layers, layers_on = map(running -> model(rows; timed, injected, running), (stats(), on_device.(stats())))
    p = weights(Float64, count_parameters(layers) + injected * prod(size[2:end]))
    u = reshape(cos.(1.0:prod(size)), size)
    du = similar(u)
    Dynamics(layers)(du, u, p, 0.3)
    on = on_device(u)
    out = similar(on)
    Dynamics(layers_on)(out, on, on_device(p), 0.3)
    @test same(out, du)
    value, back = pull(layers, u, p, 0.3)
    value_on, back_on = pull(layers_on, on, on_device(p), 0.3)
    @test same(value_on, value)
    @test all(same.(back_on(on_device(sin.(du))), back(sin.(du))))
end

function device_case()
    layers = model(DENSE; timed = true)
    return Dynamics(layers), weights(Float64, count_parameters(layers)), [0.3 -0.4 0.8; 0.1 0.5 -0.2]
end

"""What `work` gives with arrays of both kinds: `work(place)`, `place` puts an array where it is to be."""
both(work) = work(identity), work(on_device)

const EXPLICIT_SOLVERS = sort!(setdiff(collect(keys(LocalReg.ODE_SOLVERS)), LocalReg.STIFF_SOLVERS))

@testset "$solver on a device" for solver in EXPLICIT_SOLVERS
    f, p, u0 = device_case()
    fixed = solver in ("Euler", "RK4")
    asked = options(; solver, tol = 1e-5, dt = fixed ? 1 / 16 : 0, adaptive = !fixed)
    run, on = both(place -> solve(f, place(u0), place(p), asked, [0.4, 1.0], Keep{Float64}(; states = true)))
    @test on.t ≈ run.t rtol = 1e-5 # Vern7's error estimate is rounding here
    @test on.nreject == run.nreject
    @test all(same.(on.outputs, run.outputs; rtol = 1e-9))
    @test all(on.states[i] isa DeviceArray for i in keys(run.states))
end

@testset "$adjoint on a device, checkpointing = $checkpointing" for (adjoint, checkpointing) in [
        ("interpolating", false), ("interpolating", true), ("backsolve", false), ("backsolve", true),
        ("gauss", false), ("quadrature", false),
    ]
    f, p, u0 = device_case()
    asked = options(; tol = 1e-8)
    keep = Keep{Float64}(; dense = !checkpointing, checkpoints = checkpointing ? collect(0:0.25:1) : Float64[])
    cotangents = [[1.0 2 3; 4 5 6], [0.5 -1 1; 2 -2 0]]
    gradients, on = both() do place
        run = solve(f, place(u0), place(p), asked, [0.4, 1.0], keep)
        pull_back(f, run, adjoint, checkpointing, [0.4, 1.0], place.(cotangents))
    end
    @test all(same.(on, gradients; rtol = 1e-8))
end

@testset "replayed steps on a device, $(kind)" for (kind, solver, tableau) in [
        ("explicit", "BS3", BOGACKI_SHAMPINE), ("VCAB3", "VCAB3", Adams{Float64}(BOGACKI_SHAMPINE, false)),
        ("VCABM3", "VCABM3", Adams{Float64}(BOGACKI_SHAMPINE, true)),
    ]
    f, p, u0 = device_case()
    asked = options(; solver, dt = 0.125, adaptive = false)
    w = [1.0 2 3; 4 5 6]
    estimates(frozen) = Dict(3 => EstimateCotangent(1.0, "error", frozen, true))
    for frozen in (false, true)
        gradients, on = both() do place
            run = solve(f, place(u0), place(p), asked, [1.0], Keep{Float64}(; states = true))
            retake(index, u, need, memory) = take_again(f, tableau, run, index, u, need, memory)
            if tableau isa Adams
                replay(f, tableau, run, Dict{Int, Any}(), place(w), estimates(frozen))
            else
                replay(retake, run, Dict{Int, Any}(), place(w), estimates(frozen))
            end
        end
        @test all(same.(on, gradients; rtol = 1e-9))
    end
end

@testset "a step among the hidden values on a device" begin
    layers = model([("dense", 12, 4, 0, "tanh"), ("dense", 4, 3, 0, "softplus"), ("dense", 3, 12, 0, "identity")]; timed = true)
    p, u = weights(Float64, count_parameters(layers)), reshape(weights(Float64, 60), 12, 5)
    gradients, on = both() do place
        step = NarrowStep(Dynamics(layers), BOGACKI_SHAMPINE, place(u), place(p), 0.2, 0.1, 4, Fresh())
        cotangents, by_p = StageCotangents(step), zero(place(p))
        add_new_state!(cotangents, step, place(cos.(u)))
        new_state(step), pull_back!(by_p, step, cotangents), by_p
    end
    @test all(same.(on, gradients; rtol = 1e-9))
end

@testset "an estimate on a device" begin
    f, p, u0 = device_case()
    (value, of_host), (value_on, of_device) = both() do place
        value, back = local_error(f, BOGACKI_SHAMPINE, place(u0), place(p), 0.2, 0.1, options(; solver = "BS3"))
        value, back(1.0)
    end
    @test value_on ≈ value rtol = 1e-9
    @test all(same.(of_device, of_host; rtol = 1e-9))
    dt, dt_on = both(place -> initial_step(f, place(u0), place(p), options()))
    @test dt_on ≈ dt rtol = 1e-12
end

struct DevicePath end
function (::DevicePath)(dW, dZ, t, t_new)
    host = zeros(size(dW))
    SinePath()(host, copy(host), t, t_new)
    copyto!(dW, host)
    dZ .= 0
    return nothing
end

@testset "$solver on a device" for solver in sort!(collect(keys(LocalReg.SDE_SOLVERS)))
    layers = model(DENSE)
    n = count_parameters(layers)
    p = weights(Float64, 2n)
    f, g = Dynamics(Part(layers, 1:n)), Dynamics(Part(layers, (n + 1):2n))
    u0 = [0.3 -0.4; 0.1 0.5]
    adaptive = !(solver in ("EM", "EulerHeun"))
    asked = options(; solver, tol = 1e-2, dt = adaptive ? 0 : 0.1, adaptive)
    run, on = both() do place
        start = place(u0)
        noise = PathNoise(0.0, [1.0], zero(start), DevicePath())
        solve(f, g, noise, start, place(p), asked, [1.0], Keep{Float64}(; states = true))
    end
    @test on.nreject == run.nreject
    @test same(on.outputs[1], run.outputs[1]; rtol = 1e-9)
    solver == "EM" || continue
    w = [1.0 2; 3 4]
    gradients, on_gradients = map((run, on), (identity, on_device)) do solved, place
        retake(index, u, need, memory) = take_again(f, g, EULER_MARUYAMA, DevicePath(), solved, index, u, memory)
        replay(retake, solved, Dict{Int, Any}(), place(w), Dict{Int, Any}())
    end
    @test all(same.(on_gradients, gradients; rtol = 1e-9))
end
