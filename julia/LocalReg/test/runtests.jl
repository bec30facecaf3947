using LocalReg, Test
using LocalReg: Adams, AdamsSweep, BS3, Constant, Cotangents, Dynamics, EstimateCotangent, Fresh, FunctionModel,
    Integrals, Keep, Layers, Lux, LuxModel, NarrowStep, Options, Part, PathNoise, Random, Refusal, Slot, SolveFailure,
    Stage, StageCotangents, Step, StochasticTableau, Tableau, Zygote, adams_step, add_new_state!, estimate, evaluate!,
    flatten, initial_step, interpolate, is_narrow, is_start, jacobian, local_error, lux_layer, lux_of, named_places,
    new_state, paper_local_error, parameters, probed_tableau, pull, pull_back, pull_back!, replay, seeded, slope, slots,
    solve, start_step, take_again, time_derivative, unflatten, with_running
using LinearAlgebra: norm

include("internals.jl")

# julia --project test/runtests.jl noise devices: these files alone
const FILES = isempty(ARGS) ?
    ("dynamics", "julia_models", "solves", "gradients", "noise", "formulas", "devices") : ARGS

@testset "LocalReg" begin
    @testset "internals of the stack" begin
        @test Internals.missing_internals() == []
        for (lacking, said) in Internals.said_of_changed_stacks()
            @test any(endswith("has no $lacking"), said)
        end
    end
    include("models.jl")
    foreach(file -> include("$file.jl"), FILES)
end
