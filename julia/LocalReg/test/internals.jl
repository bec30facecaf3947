# What LocalReg reads of the stack that is no documented API: names that other packages do not export, and fields of
# integrators, caches, algorithms and layers. The one list of them. Where a package changed one, it is missing here by its
# name, before anything goes wrong by it. tests/test_julia_internals.py asks for the same list from Python.

module Internals

using LocalReg
using LocalReg: DLPack, DiffEqNoiseProcess, ForwardDiff, Lux, NNlib, ODEProblem, OrdinaryDiffEqCore,
    OrdinaryDiffEqTsit5, PythonCall, Rodas5P, SDEProblem, SOSRI, SciMLBase, SciMLLogging, Tsit5, VCAB3, Vern7, init, owner, step!

const NAMES = (
    OrdinaryDiffEqCore => (
        :get_EEst, :PIController, :default_controller, :get_current_isfsal, :trivial_limiter!, :alg_order,
        :CompositeAlgorithm, :OrdinaryDiffEqAlgorithm, :StochasticDiffEqAlgorithm,
        # of the paper's code
        :constvalue, :recursive_unitless_bottom_eltype, Symbol("@OnDemandTableauExtract"),
    ),
    OrdinaryDiffEqTsit5 => (:Tsit5ConstantCache, :Tsit5ConstantCacheActual),
    SciMLBase => (
        :AbstractDEAlgorithm, :AbstractNoiseProcess, :AbstractSensitivityAlgorithm, :FullSpecialize, :NullParameters,
        :isadaptive, :terminate!,
    ),
    SciMLLogging => (:None,),
    DiffEqNoiseProcess => (:calculate_step!, :setup_next_step!, :accept_step!, :reject_step!, :save_noise!),
    DLPack => (
        :from_dlpack, :share, :unsafe_share, :SHARES_POOL, :DELETER, :PYCAPSULE_NAME, :DLDevice, :kDLCUDA, :dldevice,
    ),
    PythonCall => (:getptr,),
    PythonCall.GC => (:enqueue,),
    PythonCall.C => (:PyPtr, :Py_IncRef, :PyCapsule_New),
    ForwardDiff => (:Tag, :≺),
    NNlib => (:fast_act, :tanh_fast, :gelu_tanh),
)

const SDIRK = owner("OrdinaryDiffEqSDIRK", "2d112036-d095-4a1e-ab9a-08536f3ecdbf") # nothing where it is not there

function started(algorithm)
    f, g = (du, u, p, t) -> (du .= -u), (du, u, p, t) -> (du .= 0.1)
    u0, tspan = [1.0, 2.0], (0.0, 1.0)
    prob = algorithm isa OrdinaryDiffEqCore.StochasticDiffEqAlgorithm ? SDEProblem(f, g, u0, tspan) : ODEProblem(f, u0, tspan)
    integrator = init(prob, algorithm; calck = true, verbose = SciMLLogging.None())
    step!(integrator)
    return integrator
end

"""The objects whose fields are read, by what they are, with those fields."""
function read_objects()
    ode, sde, adams, rosenbrock = started.((Tsit5(), SOSRI(), VCAB3(), Rodas5P()))
    of_both = (
        :t, :tprev, :dt, :u, :uprev, :p, :f, :sol, :opts, :alg, :cache, :iter, :tdir, :stats, :accept_step,
    )
    objects = Any[
        "an ODE's integrator" => (ode, (of_both..., :dtpropose, :fsallast)),
        "an SDE's integrator" => (sde, (of_both..., :sqdt, :W)),
        "its opts" => (ode.opts, (:adaptive,)),
        "its stats" => (ode.stats, (:nf, :nreject)),
        "its sol" => (ode.sol, (:t, :u, :prob, :retcode)),
        "VCAB3's cache" => (adams.cache, (:dts,)),
        "a Rosenbrock method's cache" => (rosenbrock.cache, (:tab,)),
        "its tab" => (rosenbrock.cache.tab, (:gamma, :A, :C, :c, :d, :b, :btilde, :H)),
        "a Rosenbrock method" => (rosenbrock.alg, (:autodiff, :step_limiter!, :stage_limiter!)),
        "Vern7" => (Vern7(), (:lazy, :step_limiter!, :stage_limiter!)),
        "Lux.Dense" => (Lux.Dense(2 => 3), (:in_dims, :out_dims)),
        "Lux.Conv" => (Lux.Conv((3, 3), 2 => 3), (:kernel_size, :in_chs, :out_chs)),
        "Lux.BatchNorm" => (Lux.BatchNorm(2), (:chs,)),
        "Lux.GroupNorm" => (Lux.GroupNorm(2, 1), (:chs,)),
    ]
    if SDIRK !== nothing
        implicit = started(SDIRK.KenCarp4())
        push!(
            objects, "an ESDIRK method" => (implicit.alg, (:autodiff, :smooth_est)),
            "its cache" => (implicit.cache, (:tab,)), "the tab of that" => (implicit.cache.tab, (:Ai, :c, :bi, :btilde)),
        )
    end
    return objects
end

"""What a kind of tableau is called where LocalReg tells it by its name."""
const KINDS = Dict("its tab" => :RodasTableau, "the tab of that" => :ESDIRKIMEXTableau)

"""
Everything that is missing, in words; empty where LocalReg finds what it reads. `objects()`, which reads the names itself,
is asked for no objects where one is missing.
"""
function missing_internals(names = NAMES, objects = read_objects)
    found = String[]
    for (package, of_package) in names, name in of_package
        isdefined(package, name) || push!(found, "$(nameof(package)) $(pkgversion(package)) has no $name")
    end
    isempty(found) || return found
    for (what, (object, fields)) in objects()
        type = nameof(typeof(object))
        where = "$(parentmodule(typeof(object))) $(pkgversion(parentmodule(typeof(object))))"
        append!(found, ["$what, a $type of $where, has no $field" for field in fields if !hasproperty(object, field)])
        get(KINDS, what, type) === type || push!(found, "$what is a $type of $where, not a $(KINDS[what])")
    end
    return found
end

"""
What `missing_internals` says of stacks that each lack one thing: (that thing, what is said). A package without it is a
module of the package's other names, an object without it a named tuple of the object's other fields.
"""
function said_of_changed_stacks()
    said = Tuple{Symbol, Vector{String}}[]
    for (package, names) in NAMES, lacking in names
        changed = Module(nameof(package))
        for name in names
            name === lacking || Core.eval(changed, :(const $name = nothing))
        end
        push!(said, (lacking, missing_internals((changed => names,), () -> [])))
    end
    for (what, (object, fields)) in read_objects(), lacking in fields
        changed = NamedTuple(field => nothing for field in fields if field !== lacking)
        push!(said, (lacking, missing_internals((), () -> [what => (changed, fields)])))
    end
    return said
end

end
