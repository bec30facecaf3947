using LocalReg, Test
using LocalReg: Adams, AdamsSweep, BS3, Cotangents, Dynamics, EstimateCotangent, Integrals, Keep, Layers, Options,
    Part, PathNoise, SolveFailure, Stage, StochasticTableau, Tableau, adams_step, estimate, initial_step, interpolate,
    is_start, jacobian, local_error, lux_layer, new_state, paper_local_error, parameters, pull, pull_back, replay,
    slope, solve, start_step, take_again, time_derivative
using LinearAlgebra: norm

@testset "LocalReg" begin
    include("models.jl")
    include("dynamics.jl")
    include("solves.jl")
    include("gradients.jl")
    include("noise.jl")
    include("formulas.jl")
    include("devices.jl")
end
