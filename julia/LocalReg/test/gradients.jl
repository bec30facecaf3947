const TOLERANCE = 1e-11

function gradient_case()
    layers = model(DENSE; timed = true)
    p = weights(Float64, count_parameters(layers))
    return Dynamics(layers), p, [0.3 -0.4 0.8; 0.1 0.5 -0.2]
end

@testset "$adjoint, checkpointing = $checkpointing" for (adjoint, checkpointing) in [
        ("interpolating", false), ("interpolating", true), ("backsolve", false), ("backsolve", true),
        ("gauss", false), ("quadrature", false),
    ]
    f, p, u0 = gradient_case()
    times = [0.4, 1.0]
    cotangents = [[1.0 2 3; 4 5 6], [0.5 -1 1; 2 -2 0]]
    asked = options(; tol = TOLERANCE)
    loss(u0, p) = sum(sum.(map(.*, cotangents, solve(f, u0, p, asked, times, Keep{Float64}()).outputs)))
    keep = Keep{Float64}(; dense = !checkpointing, checkpoints = checkpointing ? collect(0:0.25:1) : Float64[])
    run = solve(f, u0, p, asked, times, keep)
    by_u0, by_p = pull_back(f, run, adjoint, checkpointing, times, cotangents)
    @test close_to(by_u0, differences(x -> loss(reshape(x, 2, 3), p), vec(u0)); rtol = 1e-7)
    @test close_to(by_p, differences(x -> loss(u0, x), p); rtol = 1e-7)
end

@testset "replayed steps are differentiated exactly" begin
    f, p, u0 = gradient_case()
    asked = options(; solver = "BS3", dt = 0.125, adaptive = false)
    w = [1.0 2 3; 4 5 6]
    run = solve(f, u0, p, asked, [1.0], Keep{Float64}(; states = true))
    take(index, u, need, memory) = take_again(f, BOGACKI_SHAMPINE, run, index, u, need, memory)
    by_u0, by_p = replay(take, run, Dict{Int, Any}(), w, Dict{Int, Any}())
    loss(u0, p) = sum(w .* solve(f, u0, p, asked, [1.0], Keep{Float64}()).outputs[1])
    @test close_to(by_u0, differences(x -> loss(reshape(x, 2, 3), p), vec(u0)); rtol = 1e-9)
    @test close_to(by_p, differences(x -> loss(u0, x), p); rtol = 1e-9)
end

@testset "replayed from $spread states" for spread in (1, 2, 5)
    f, p, u0 = gradient_case()
    asked = options(; solver = "BS3", dt = 1 / 32, adaptive = false)
    w = [1.0 2 3; 4 5 6]
    runs = [solve(f, u0, p, asked, [1.0], keep) for keep in (Keep{Float64}(; states = true), Keep{Float64}(; spread))]
    @test spread < length(runs[2].states) - 1 <= 2spread
    gradients = map(runs) do run
        take(index, u, need, memory) = take_again(f, BOGACKI_SHAMPINE, run, index, u, need, memory)
        replay(take, run, Dict{Int, Any}(), w, Dict{Int, Any}())
    end
    @test gradients[2][1] ≈ gradients[1][1] rtol = 1e-12
    @test gradients[2][2] ≈ gradients[1][2] rtol = 1e-12
end

@testset "local error" begin
    f, p, u = gradient_case()
    asked = options(; solver = "BS3", tol = 1e-3)
    value, back = local_error(f, BOGACKI_SHAMPINE, u, p, 0.2, 0.1, asked)
    by_u, by_p = back(1.0)
    at(u, p) = local_error(f, BOGACKI_SHAMPINE, u, p, 0.2, 0.1, asked)[1]
    @test value > 0
    @test close_to(by_u, differences(x -> at(reshape(x, 2, 3), p), vec(u)); rtol = 1e-6)
    @test close_to(by_p, differences(x -> at(u, x), p); rtol = 1e-6)
    _, frozen = local_error(f, BOGACKI_SHAMPINE, u, p, 0.2, 0.1, asked; frozen = true)
    @test !close_to(frozen(1.0)[2], by_p; rtol = 1e-2)
end

@testset "the stack's own EEst is that of the formula" begin
    f, p, u0 = gradient_case()
    asked = options(; solver = "BS3", tol = 1e-4)
    run = solve(f, u0, p, asked, [1.0], Keep{Float64}(; states = true))
    for i in 0:(length(run.t) - 1)
        value, _ = local_error(f, BOGACKI_SHAMPINE, run.states[i], p, run.t[i + 1], run.dt[i + 1], asked)
        @test value ≈ run.EEst[i + 1] * run.dt[i + 1] rtol = 1e-9
    end
end

@testset "the paper's variant" begin
    f, p, u = gradient_case()
    asked = options(; solver = "BS3", tol = 1e-4)
    value, back = paper_local_error(f, BOGACKI_SHAMPINE, u, p, 0.2, asked)
    dt = initial_step(f, u, p, options(; solver = "BS3", tol = 1e-4, tspan = (0.2, 1)))
    by_hand, frozen = local_error(f, BOGACKI_SHAMPINE, u, p, 0.2, dt, asked; frozen = true)
    @test value == by_hand
    @test back(1.0)[2] == frozen(1.0)[2]
end

@testset "Adams, corrects = $corrects" for (solver, corrects) in (("VCAB3", false), ("VCABM3", true))
    f, p, u0 = gradient_case()
    adams = Adams{Float64}(BOGACKI_SHAMPINE, corrects)
    w = [1.0 2 3; 4 5 6]

    @testset "replayed steps are differentiated exactly" begin
        asked = options(; solver, dt = 0.125, adaptive = false)
        run = solve(f, u0, p, asked, [1.0], Keep{Float64}(; states = true))
        by_u0, by_p = replay(f, adams, run, Dict{Int, Any}(), w, Dict{Int, Any}())
        loss(u0, p) = sum(w .* solve(f, u0, p, asked, [1.0], Keep{Float64}()).outputs[1])
        @test close_to(by_u0, differences(x -> loss(reshape(x, 2, 3), p), vec(u0)); rtol = 1e-9)
        @test close_to(by_p, differences(x -> loss(u0, x), p); rtol = 1e-9)
    end

    @testset "the stack's steps and EEst, first step $dt" for dt in (0, 0.9, 1e-3)
        asked = options(; solver, tol = 1e-5, dt)
        run = solve(f, u0, p, asked, [1.0], Keep{Float64}(; states = true))
        sweep = AdamsSweep(f, adams, run)
        @test dt != 0.9 || run.rejected[1] > 0
        for i in 0:(length(run.t) - 1)
            step = is_start(sweep, i) ? start_step(sweep, i, 4) : adams_step(sweep, i, slope(sweep, i); owes = false)
            @test new_state(step) ≈ run.states[i + 1] rtol = 1e-12
            @test estimate(step, "error", asked) ≈ run.EEst[i + 1] * run.dt[i + 1] rtol = 1e-7 atol = 1e-13
        end
    end
end

@testset "steps among the hidden values, layers $(length(rows)), timed = $timed" for rows in (
            [("dense", 160, 16, 0, "tanh"), ("dense", 16, 160, 0, "identity")],
            [("dense", 160, 16, 0, "identity"), ("dense", 16, 9, 0, "softplus"), ("dense", 9, 160, 0, "identity")],
        ), timed in (false, true)
    layers = model(rows; timed)
    f, p = Dynamics(layers), weights(Float64, count_parameters(layers)) ./ 8
    u0 = reshape(weights(Float64, 160 * 128), 160, 128)
    asked = options(; solver = "BS3", tol = 1e-4)
    run = solve(f, u0, p, asked, [1.0], Keep{Float64}(; states = true))
    inside = Dict(1 => [([0.2, 0.3, 0.1, -0.1], cos.(u0)), ([0.1, 0.0, 0.0, 0.0], sin.(u0))])
    narrow(index, u, need, memory) = take_again(f, BOGACKI_SHAMPINE, run, index, u, need, memory)
    whole(index, u, need, memory) = Step(f, BOGACKI_SHAMPINE, u, p, run.t[index + 1], run.dt[index + 1], 4, memory)
    calls = f.calls
    gradients = replay(narrow, run, inside, u0, Dict{Int, Any}())
    @test f.calls == calls # it is another way to the same gradients, which calls no f
    @test all(close_to.(gradients, replay(whole, run, inside, u0, Dict{Int, Any}()); rtol = 1e-13))
    @test new_state(narrow(1, run.states[1], :state, Fresh())) ≈ run.states[2] rtol = 1e-14
    @test narrow(1, run.states[1], :estimate, Fresh()) isa Step
end

@testset "what takes its steps whole: $why" for (why, rows, batch) in [
        ("a hidden layer wider than the state", [("dense", 16, 160, 0, "tanh"), ("dense", 160, 16, 0, "identity")], 512),
        ("an activation at the end", [("dense", 160, 16, 0, "tanh"), ("dense", 16, 160, 0, "tanh")], 512),
        ("a small state", DENSE, 3),
    ]
    @test !is_narrow(model(rows), zeros(rows[1][2], batch), 6)
end

@testset "calls that were kept, $solver" for (solver, tol) in (("BS3", 1e-8), ("Vern7", 1e-14))
    for (layers, u0) in [
            (model(DENSE; timed = true), [0.3 -0.4 0.8; 0.1 0.5 -0.2]),
            (model([("dense", 160, 16, 0, "tanh"), ("dense", 16, 160, 0, "identity")]; timed = true), ones(160, 128)),
        ]
        f, p = Dynamics(layers), weights(Float64, count_parameters(layers)) ./ 8
        tableau = probed_tableau(Float64, LocalReg.ODE_SOLVERS[solver]())
        asked = options(; solver, dt = 1, tol)
        runs = map((nothing, tableau)) do kept
            solve(f, u0, p, asked, [1.0], Keep{Float64}(; states = true, tableau = kept))
        end
        @test runs[2].t == runs[1].t && runs[2].outputs == runs[1].outputs && runs[2].nreject == runs[1].nreject > 0
        gradients = map(runs) do run
            take(index, u, need, memory) = take_again(f, tableau, run, index, u, need, memory)
            f.calls = 0
            (replay(take, run, Dict{Int, Any}(), cos.(u0), Dict{Int, Any}())..., f.calls)
        end
        @test gradients[2][3] == 0
        @test all(close_to.(gradients[2][1:2], gradients[1][1:2]; rtol = 1e-12))
        few = solve(f, u0, p, asked, [1.0], Keep{Float64}(; states = true, tableau, bytes = 1))
        @test length(few.kept) == 1 && f.recorder === nothing
    end
end
