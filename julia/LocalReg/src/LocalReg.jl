"""
Neural differential equations with local regularization on the SciML stack: the Julia side of pylocalreg.

Read in this order: `memory.jl` (where arrays come from), `dynamics.jl` (what a right-hand side is), `elementwise.jl`
(loops over elements), `layers.jl` (Lux models from descriptions), `noise.jl`, `algorithms.jl` (any algorithm of the
stack), `solve.jl` (one solve and its record), `tableaus.jl`, `steps.jl` and `stochastic_steps.jl` (one
step taken again, its error estimate, and its reverse), `sensitivities.jl` (SciMLSensitivity's adjoints), `adjoints.jl`
(the discrete one), `regularizers.jl`, `adams_steps.jl` (all of that
for steps that depend on those before), `linearized.jl`, `rosenbrock_steps.jl` and `implicit_steps.jl` (for steps that
solve systems with the Jacobian), `probed_steps.jl` and `formulas.jl` (for those of any algorithm whose formula can be
found), `paper.jl` (the paper's own code), and `host.jl` and `host_algorithms.jl` (what lives in Python, and what Python
calls).
"""
module LocalReg

using ADTypes: ADTypes, AutoFiniteDiff
using Accessors: @reset
using ChainRulesCore: ChainRulesCore, NoTangent
using DLPack: DLPack
using DiffEqNoiseProcess: DiffEqNoiseProcess
using ForwardDiff: ForwardDiff
using LinearAlgebra: diagind, lu!, mul!
using Logging: NullLogger, with_logger
using Lux: Lux
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
include("layers.jl")
include("noise.jl")
include("algorithms.jl")
include("solve.jl")
include("tableaus.jl")
include("steps.jl")
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
include("host.jl")
include("host_algorithms.jl")
include("precompile.jl")

end
