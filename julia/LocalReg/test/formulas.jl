# formulas read off the stack's own algorithms

using LocalReg: ImplicitStep, ImplicitTableau, Directional, RosenbrockTableau, Refusal, factorize, formula, named,
    probed_tableau, pull_directional, search, traits, variant
using LinearAlgebra: I
using OrdinaryDiffEqLowOrderRK: DP5, Heun, OwrenZen5
using OrdinaryDiffEqRosenbrock: Rodas3, Rodas4, Rodas5P
using OrdinaryDiffEqTsit5: AutoTsit5, Tsit5
using OrdinaryDiffEqVerner: Vern6, Vern9

@testset "the probed tableau of BS3 is Bogacki's and Shampine's" begin
    probed = probed_tableau(Float64, BS3())
    for name in (:c, :b, :btilde)
        @test getfield(probed, name) ≈ getfield(BOGACKI_SHAMPINE, name)
    end
    @test probed.a ≈ BOGACKI_SHAMPINE.a
    @test probed.interpolant(1.0)[1:3] ≈ probed.b
end

@testset "$(nameof(typeof(algorithm))) has a formula" for algorithm in (
        Tsit5(), DP5(), Heun(), OwrenZen5(), Vern6(), Vern9(), Rodas4(), Rodas5P(),
    )
    found, is_dense = formula(Float32, algorithm)
    @test found isa Union{Tableau{Float32}, RosenbrockTableau{Float32}}
    @test is_dense
end

@testset "no formula gives the states inside steps of Rodas3, nor the steps of a composite" begin
    found, is_dense = formula(Float64, Rodas3())
    @test found isa RosenbrockTableau && !is_dense
    @test formula(Float64, AutoTsit5(Rodas5P())) == (nothing, false)
end

@testset "an implicit step by the implicit function theorem, smooth $smooth" for smooth in (false, true)
    # the trapezoid rule, with a made-up error
    tableau = ImplicitTableau{Float64}([0 0; 1/2 1/2], [0.0, 1.0], [1 / 2, 1 / 2], [0.3, -0.2], smooth)
    layers = model(DENSE; timed = true)
    f, p, u = Dynamics(layers), weights(Float64, count_parameters(layers)), [0.3 -0.4; 0.1 0.5]
    R(u, p) = local_error(f, tableau, u, p, 0.2, 0.3, options())[1]
    value, back = local_error(f, tableau, u, p, 0.2, 0.3, options())
    by_u, by_p = back(1.0)
    @test close_to(by_u, differences(u -> R(reshape(u, 2, 2), p), vec(u)); rtol = 1e-7)
    @test close_to(by_p, differences(p -> R(u, p), p); rtol = 1e-7)
    step = ImplicitStep(f, tableau, u, p, 0.2, 0.3, 2)
    u_new = new_state(step)
    @test u_new ≈ u .+ 0.15 .* (f(u, p, 0.2) .+ f(u_new, p, 0.5))
end

@testset "the gradient of a directional derivative" begin
    layers = model(DENSE; timed = true)
    f, p, u = Dynamics(layers), weights(Float64, count_parameters(layers)), [0.3 -0.4; 0.1 0.5]
    du, dt, w = [0.2 0.7; -0.3 0.4], 0.6, [1.0 -2.0; 0.5 0.3]
    along(u, p) = sum(w .* (reshape(jacobian(layers, u, p, 0.2) * vec(du), 2, 2) .+ dt .* time_derivative(layers, u, p, 0.2)))
    by_u, by_p = pull_directional(layers, u, p, 0.2, du, dt, w)
    @test close_to(by_u, differences(u -> along(reshape(u, 2, 2), p), vec(u)))
    @test close_to(by_p, differences(p -> along(u, p), p))
end

@testset "the Jacobian by sample is that of the whole" begin
    layers = model(DENSE)
    p, u = weights(Float64, count_parameters(layers)), [0.3 -0.4 0.2; 0.1 0.5 0.9]
    f, whole = Dynamics(layers; per_sample = true), Dynamics(layers)
    @test jacobian(f, u, p, 0.0) ≈ jacobian(whole, u, p, 0.0)
    @test Matrix(factorize(f, u, p, 0.0, 0.1)) ≈ I - 0.1 * jacobian(whole, u, p, 0.0)
end

@testset "names are data" begin
    @test named("Tsit5", "", "", (), ()) == Tsit5()
    @test search(:println) === nothing
    @test_throws Refusal named("run", "", "", ("ls",), ())
    @test_throws Refusal named("Nobody", "OrdinaryDiffEqTsit5", "b1df2697-797e-41e3-8120-5422d3b24e4a", (), ())
    error = try
        named("X", "NoPackage", "00000000-0000-0000-0000-000000000001", (), ())
    catch exception
        exception
    end
    @test error.package == "NoPackage"
    @test traits(Rodas5P()) == ("ode", 5.0, true, true)
    @test variant(Vern9(); of_adjoint = false, read_later = true).lazy == Val(false)
    @test_throws Refusal traits(1)
end
