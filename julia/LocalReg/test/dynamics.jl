@testset "in place and out of place, $(name)" for (name, rows, size) in [
        ("dense", DENSE, (2, 3)),
        ("vector", DENSE, (2,)),
        ("conv", [("conv", 2, 3, 3, "swish"), ("conv", 3, 2, 1, "identity")], (5, 4, 2, 2)),
        ("groupnorm", [("conv", 2, 4, 3, "identity"), ("groupnorm", 4, 2, 0, "tanh"), ("conv", 4, 2, 3, "identity")], (4, 4, 2, 2)),
    ], timed in (false, true)
    layers = model(rows; timed)
    p = weights(Float64, count_parameters(layers))
    u = reshape(cos.(1.0:prod(size)), size)
    f = Dynamics(layers)
    du = similar(u)
    f(du, u, p, 0.3)
    @test du ≈ layers(u, p, 0.3) rtol = 1e-13
    @test f.calls == 1
    value, back = pull(f, u, p, 0.3)
    @test value ≈ du rtol = 1e-13
    by_u, by_p = back(sin.(du))
    @test close_to(by_u, differences(x -> sum(sin.(du) .* layers(reshape(x, size), p, 0.3)), vec(u)))
    @test close_to(by_p, differences(x -> sum(sin.(du) .* layers(u, x, 0.3)), p))
    by_t = (layers(u, p, 0.3 + 1e-6) .- layers(u, p, 0.3 - 1e-6)) ./ 2e-6
    @test norm(time_derivative(layers, u, p, 0.3) .- by_t) <= 1e-6 * (1 + norm(by_t))
end

@testset "injected, $(name)" for (name, rows, size, of_input) in [
        ("dense", [("dense", 5, 4, 0, "tanh"), ("dense", 4, 2, 0, "identity")], (2, 3), (3, 3)),
        ("vector", [("dense", 3, 2, 0, "tanh")], (2,), (1,)),
        ("conv", [("conv", 3, 2, 3, "tanh"), ("conv", 2, 2, 1, "identity")], (4, 3, 2, 2), (4, 3, 1, 2)),
    ], timed in (false, true)
    feature_dim = length(size) == 4 ? 3 : 1
    layers = model(rows; timed, injected = of_input[feature_dim])
    beside = model(rows; timed)
    n = count_parameters(layers)
    p, u = weights(Float64, n + prod(of_input)), reshape(cos.(1.0:prod(size)), size)
    whole = cat(u, reshape(p[(n + 1):end], of_input); dims = feature_dim)
    du = similar(u)
    Dynamics(layers)(du, u, p, 0.3)
    @test du ≈ beside(whole, p[1:n], 0.3) rtol = 1e-13
    @test layers(u, p, 0.3) ≈ du rtol = 1e-13
    value, back = pull(layers, u, p, 0.3)
    @test value ≈ du rtol = 1e-13
    by_u, by_p = back(sin.(du))
    @test close_to(by_u, differences(x -> sum(sin.(du) .* layers(reshape(x, size), p, 0.3)), vec(u)))
    @test close_to(by_p, differences(x -> sum(sin.(du) .* layers(u, x, 0.3)), p))
end

@testset "a timed layer follows the time" begin
    layers = model(DENSE; timed = true)
    p = weights(Float64, count_parameters(layers))
    @test layers([1.0, 2.0], p, 0.0) != layers([1.0, 2.0], p, 1.0)
end

@testset "running statistics follow the calls in place alone" begin
    running = ([0.0, 0.0], [1.0, 1.0])
    layers = model([("batchnorm", 2, 0.1, 0, "identity")]; running = [running])
    u = [1.0 2.0 3.0; 4.0 6.0 8.0]
    pull(layers, u, ones(4), 0.0)
    @test running == ([0.0, 0.0], [1.0, 1.0])
    Dynamics(layers)(similar(u), u, ones(4), 0.0)
    @test running[1] ≈ [0.2, 0.6]
end

@testset "Jacobian" begin
    layers = model(DENSE)
    p = weights(Float64, count_parameters(layers))
    u = [0.3, -0.2]
    J = jacobian(layers, u, p, 0.0)
    for i in 1:2
        @test close_to(J[i, :], differences(x -> layers(x, p, 0.0)[i], u))
    end
end

@testset "parts of one parameter vector" begin
    layers = model(DENSE)
    n = count_parameters(layers)
    p = weights(Float64, 2n)
    _, back = pull(Part(layers, (n + 1):2n), [0.1, 0.2], p, 0.0)
    _, by_p = back([1.0, 1.0])
    @test all(iszero, by_p[1:n])
    @test by_p[(n + 1):2n] == pull(layers, [0.1, 0.2], p[(n + 1):2n], 0.0)[2]([1.0, 1.0])[2]
end
