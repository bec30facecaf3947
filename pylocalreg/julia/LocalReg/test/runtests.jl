using LocalReg, Test
using LocalReg: BS3, Cotangents, Dynamics, EstimateCotangent, Integrals, Keep, Layers, Options, Part, PathNoise,
    SolveFailure, Stage, StochasticTableau, Tableau, estimate, initial_step, interpolate, local_error, lux_layer,
    paper_local_error, parameters, pull, pull_back, replay, solve, take_again, time_derivative, jacobian
using LinearAlgebra: norm

@testset "LocalReg" begin
    include("models.jl")
    include("dynamics.jl")
    include("solves.jl")
    include("gradients.jl")
    include("noise.jl")
end
