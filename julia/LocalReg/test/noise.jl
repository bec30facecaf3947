# a path of sines: smooth, and known at every time
path_at(t) = [sin(3t) 0.2cos(t); sin(2t) 0.1t]

struct SinePath end
function (::SinePath)(dW, dZ, t, t_new)
    dW .= path_at(t_new) .- path_at(t)
    dZ .= 0
    return nothing
end

struct Level end # g = p[1]
LocalReg.evaluate!(::Level, du, u, p, t) = (du .= p[1]; nothing)
LocalReg.pull(::Level, u, p, t) = fill!(similar(u), p[1]), y -> (zero(u), [sum(y)])

struct Zero end
LocalReg.evaluate!(::Zero, du, u, p, t) = (du .= 0; nothing)
LocalReg.pull(::Zero, u, p, t) = zero(u), y -> (zero(u), zero(p))

@testset "$solver follows a given path" for solver in sort!(collect(keys(LocalReg.SDE_SOLVERS)))
    u0 = [1.0 2.0; 3.0 4.0]
    adaptive = !(solver in ("EM", "EulerHeun"))
    asked = options(; solver, tol = 1e-2, dt = adaptive ? 0 : 0.1, adaptive)
    noise = PathNoise(0.0, [1.0], zero(u0), SinePath())
    run = solve(Dynamics(Zero()), Dynamics(Level()), noise, u0, [0.5], asked, [1.0], Keep{Float64}())
    @test run.outputs[1] ≈ u0 .+ 0.5 .* (path_at(1) .- path_at(0)) rtol = 1e-10
end

# the stack evaluates the diffusion after the drift's step
const EULER_MARUYAMA = StochasticTableau{Float64}(
    [Stage{Float64}(true, 0, [], [], :sqdt), Stage{Float64}(false, 0, [1.0], [], :sqdt)],
    [1.0], [:W => [1.0]], Float64[], Pair{Symbol, Vector{Float64}}[], 1.0, false,
)

@testset "replayed steps of an SDE" begin
    layers = model(DENSE)
    n = count_parameters(layers)
    p = weights(Float64, 2n)
    f, g = Dynamics(Part(layers, 1:n)), Dynamics(Part(layers, (n + 1):2n))
    u0 = [0.3 -0.4; 0.1 0.5]
    asked = options(; solver = "EM", dt = 0.125, adaptive = false)
    at(u0, p) = solve(
        f, g, PathNoise(0.0, [1.0], zero(u0), SinePath()), u0, p, asked, [1.0], Keep{Float64}(; states = true),
    )
    run = at(u0, p)
    w = [1.0 2; 3 4]
    take(index, u, need, memory) = take_again(f, g, EULER_MARUYAMA, SinePath(), run, index, u, memory)
    by_u0, by_p = replay(take, run, Dict{Int, Any}(), w, Dict{Int, Any}())
    @test close_to(by_u0, differences(x -> sum(w .* at(reshape(x, 2, 2), p).outputs[1]), vec(u0)); rtol = 1e-9)
    @test close_to(by_p, differences(x -> sum(w .* at(u0, x).outputs[1]), p); rtol = 1e-9)
end
