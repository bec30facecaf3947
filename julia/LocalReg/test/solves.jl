struct Decay end # du/dt = -p u
LocalReg.evaluate!(::Decay, du, u, p, t) = (du .= .-p .* u; nothing)
LocalReg.pull(::Decay, u, p, t) = -p .* u, y -> (-p .* y, [-sum(u .* y)])
LocalReg.time_derivative(::Decay, u, p, t) = zero(u)

struct Blowup end # du/dt = u^2
LocalReg.evaluate!(::Blowup, du, u, p, t) = (du .= u .^ 2; nothing)

@testset "$solver" for solver in sort!(collect(keys(LocalReg.ODE_SOLVERS)))
    fixed = solver in ("Euler", "RK4")
    run = solve(
        Dynamics(Decay()), [1.0, 2.0], [1.5],
        options(; solver, tol = 1e-7, dt = fixed ? 1e-3 : 0, adaptive = !fixed), [0.0, 0.4, 1.0], Keep{Float64}(),
    )
    @test run.outputs[1] == [1.0, 2.0]
    bound = solver == "Euler" ? 2e-3 : 1e-4
    @test run.outputs[2] ≈ exp(-0.6) .* [1, 2] rtol = bound
    @test run.outputs[3] ≈ exp(-1.5) .* [1, 2] rtol = bound
    @test run.states[length(run.t)] == run.outputs[3]
    @test run.t[1] == 0 && run.t[end] + run.dt[end] ≈ 1
end

@testset "NFE of Tsit5" begin
    run = solve(Dynamics(Decay()), [1.0], [1.0], options(), [1.0], Keep{Float64}())
    @test run.nf == 3 + 6 * (length(run.t) + run.nreject)
end

@testset "backwards, Float32" begin
    run = solve(
        Dynamics(Decay()), Float32[1], Float32[1], options(Float32; tspan = (1, 0), tol = 1e-5), Float32[0.5, 0],
        Keep{Float32}(),
    )
    @test run.outputs[2] isa Vector{Float32}
    @test run.outputs[2] ≈ [exp(1)] rtol = 1e-4
end

@testset "why a solve stops" begin
    at(; more...) = solve(Dynamics(Blowup()), [1.0], [0.0], options(; more...), [2.0], Keep{Float64}())
    kind(work) = try
        work()
    catch failure
        failure isa SolveFailure ? failure.kind : rethrow()
    end
    @test kind(() -> at(; tspan = (0, 2))) in (:non_finite, :step_underflow)
    @test kind(() -> at(; tspan = (0, 0.9), maxiters = 2)) == :step_limit
end

@testset "what is kept" begin
    f = Dynamics(Decay())
    run = solve(f, [1.0], [1.0], options(), [1.0], Keep{Float64}(; states = true, dense = true))
    @test sort!(collect(keys(run.states))) == 0:length(run.t)
    @test interpolate(run, 0.3) ≈ [exp(-0.3)] rtol = 1e-6
    told = Int[]
    offer(index, t, dt, EEst) = (push!(told, index); index == 1 ? [1] : nothing)
    run = solve(f, [1.0], [1.0], options(), [1.0], Keep{Float64}(; offer))
    @test told == 0:(length(run.t) - 1)
    @test sort!(collect(keys(run.states))) == [1, length(run.t)]
end

@testset "the automatic first step" begin
    f = Dynamics(Decay())
    @test 0 < initial_step(f, [1.0], [1.0], options()) < 1
    @test initial_step(f, [1.0], [1.0], options(; tspan = (1, 0))) < 0
end

struct Jump # du/dt = 1 before the jump and -1 after it; at the jump either
    above::Function
end
LocalReg.evaluate!(jump::Jump, du, u, p, t) = (du .= jump.above(t, 0.3) ? -1 : 1; nothing)
LocalReg.jacobian(::Jump, u, p, t) = zeros(1, 1)
LocalReg.time_derivative(::Jump, u, p, t) = zero(u)

@testset "$solver steps to a jump, $above" for solver in ("BS3", "Tsit5", "Vern7", "RK4", "Rodas5P"), above in (>, >=)
    plain = options(; solver, tol = 1e-9, dt = solver == "RK4" ? 0.07 : 0, adaptive = solver != "RK4")
    stopping = Options{Float64}(
        plain.solver, plain.tspan, plain.abstol, plain.reltol, plain.dt, plain.adaptive, plain.maxiters, 0.0, 0.0,
        [0.3, 2.0], Dict(), nothing, (;),
    )
    f = Dynamics(Jump(above))
    run = solve(f, [0.0], [0.0], stopping, [0.3, 1.0], Keep{Float64}())
    @test 0.3 in run.t
    @test run.nreject == 0
    @test run.outputs[1] ≈ [0.3] && run.outputs[2] ≈ [-0.4]
    @test f.low == -Inf && f.high == Inf # as before the solve
end

@testset "bounds and the controller's constants" begin
    bound = Options{Float64}(
        "Tsit5", (0.0, 1.0), 1e-3, 1e-3, 0.0, true, 1000, 1e-3, 0.1, Float64[], Dict(:qmax => 1.5, :gamma => 0.8),
        nothing, (;),
    )
    run = solve(Dynamics(Decay()), [1.0], [1.0], bound, [1.0], Keep{Float64}())
    @test maximum(run.dt) <= 0.1
    growth = run.dt[3:(end - 1)] ./ run.dt[2:(end - 2)] # the first step may grow at will
    @test maximum(growth) <= 1.5 + 1e-6
end
