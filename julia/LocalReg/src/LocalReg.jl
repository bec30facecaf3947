"""
Neural differential equations with local regularization on the SciML stack: the Julia side of pylocalreg.

Read in this order: `memory.jl` (where arrays come from), `dynamics.jl` (what a right-hand side is), `elementwise.jl`
(loops over elements), `products.jl` (of matrices), `layers.jl` (Lux models from descriptions), `slots.jl` and
`julia_models.jl` (what the user wrote in Julia), `time_dependent.jl` (descriptions as Lux's own models), `noise.jl`,
`algorithms.jl` (any algorithm of the stack), `tableaus.jl`, `kept_calls.jl` (calls that keep what their pullbacks
need), `solve.jl` (one solve and its record), `steps.jl`,
`narrow_steps.jl` and `stochastic_steps.jl` (one step taken again, its error estimate, and its reverse),
`sensitivities.jl` (SciMLSensitivity's adjoints), `adjoints.jl` (the discrete one), `regularizers.jl`, `adams_steps.jl`
(all of that for steps that depend on those before), `linearized.jl`, `rosenbrock_steps.jl` and `implicit_steps.jl` (for
steps that solve systems with the Jacobian), `probed_steps.jl` and `formulas.jl` (for those of any algorithm whose formula
can be found), `paper.jl` (the paper's own code), and `host/` (what crosses to Python and back, by what it is about;
`host/functions.jl` names every function that Python calls).
"""
module LocalReg

using ADTypes: ADTypes, AutoFiniteDiff
using Accessors: @reset, @set
using ChainRulesCore: ChainRulesCore, NoTangent
using DLPack: DLPack
using DiffEqNoiseProcess: DiffEqNoiseProcess
using ForwardDiff: ForwardDiff
using LinearAlgebra: Adjoint, BLAS, diagind, lu!, mul!
using Logging: NullLogger, with_logger
using Lux: Lux, Random
using NNlib: NNlib
using OrdinaryDiffEqAdamsBashforthMoulton: OrdinaryDiffEqAdamsBashforthMoulton, VCAB3, VCABM3
using OrdinaryDiffEqCore: OrdinaryDiffEqCore, PIController, get_EEst
using OrdinaryDiffEqLowOrderRK: OrdinaryDiffEqLowOrderRK, BS3, DP5, Euler, RK4
using OrdinaryDiffEqRosenbrock: OrdinaryDiffEqRosenbrock, Rodas5, Rodas5P, Rosenbrock23
using OrdinaryDiffEqTsit5: OrdinaryDiffEqTsit5, Tsit5
using OrdinaryDiffEqVerner: OrdinaryDiffEqVerner, Vern7
using PrecompileTools: @compile_workload, @setup_workload
using PythonCall: PythonCall, Py, pyconvert
using SciMLBase: SciMLBase, ODEFunction, ODEProblem, SDEFunction, SDEProblem, ReturnCode, init, step!
using SciMLLogging: SciMLLogging
using SciMLSensitivity: SciMLSensitivity, BacksolveAdjoint, ForwardDiffSensitivity, GaussAdjoint, InterpolatingAdjoint,
    QuadratureAdjoint, ZygoteVJP, adjoint_sensitivities
using StochasticDiffEq: StochasticDiffEq, EM, EulerHeun, LambaEulerHeun, RKMilCommute, SOSRI, SOSRI2, SRIW1
using Zygote: Zygote

include("failures.jl")
include("memory.jl")
include("dynamics.jl")
include("elementwise.jl")
include("products.jl")
include("layers.jl")
include("slots.jl")
include("julia_models.jl")
include("time_dependent.jl")
include("noise.jl")
include("algorithms.jl")
include("tableaus.jl")
include("kept_calls.jl")
include("solve.jl")
include("steps.jl")
include("narrow_steps.jl")
include("stochastic_steps.jl")
include("sensitivities.jl")
include("adjoints.jl")
include("regularizers.jl")
include("adams_steps.jl")
include("linearized.jl")
include("rosenbrock_steps.jl")
include("implicit_steps.jl")
include("probed_steps.jl")
include("formulas.jl")
include("paper.jl")
include("host/arrays.jl")
include("host/models.jl")
include("host/julia_models.jl")
include("host/problems.jl")
include("host/solves.jl")
include("host/repeated.jl")
include("host/gradients.jl")
include("host/failures.jl")
include("host/machine.jl")
include("host/algorithms.jl")
include("host/paper.jl")
include("host/functions.jl")
include("precompile.jl")

end
