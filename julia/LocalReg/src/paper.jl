# The regularizer as the paper's own package computes it, from a checkout of LocalRegNeuralDE.jl (2023). Its one file
# `src/perform_step.jl` is evaluated as it stands, without its imports: the stack it names is gone, and the names
# it uses are given here.

macro unpack(assignment)
    names, object = assignment.args
    fields = names isa Symbol ? [names] : names.args
    source = gensym()
    reads = [:($(esc(name)) = getproperty($source, $(QuoteNode(name)))) for name in fields]
    return Expr(:block, :($source = $(esc(object))), reads...)
end

"""What `_perform_step` reads of an integrator, and writes."""
mutable struct PaperIntegrator{T, A, F, O, S}
    const t::T
    const dt::T
    const uprev::A
    const u::A
    const f::F
    const fsalfirst::A
    fsallast::A
    const opts::O
    const sol::S
end

const PAPER_NAMES = (
    var"@unpack" = var"@unpack", mean = x -> sum(x) / length(x),
    constvalue = OrdinaryDiffEqCore.constvalue,
    recursive_unitless_bottom_eltype = OrdinaryDiffEqCore.recursive_unitless_bottom_eltype,
    var"@OnDemandTableauExtract" = getfield(OrdinaryDiffEqCore, Symbol("@OnDemandTableauExtract")),
    Tsit5ConstantCache = OrdinaryDiffEqTsit5.Tsit5ConstantCache,
    Tsit5ConstantCacheActual = OrdinaryDiffEqTsit5.Tsit5ConstantCacheActual,
    FourStageSRIConstantCache = Nothing, RKMilCommuteConstantCache = Missing, # its SDE steps are not run here
    LambaEulerHeunConstantCache = Some,
)

"""
    paper_code(checkout)

The paper's steps, from the folder of its package.
"""
function paper_code(checkout)
    path = joinpath(checkout, "src", "perform_step.jl")
    isfile(path) || throw(ArgumentError("$checkout is no checkout of LocalRegNeuralDE.jl: it has no $path"))
    code = Module(:PaperCode)
    for (name, value) in pairs(PAPER_NAMES)
        Core.eval(code, :(const $name = $value))
    end
    without_imports(expression) = Meta.isexpr(expression, (:import, :using)) ? nothing : expression
    Base.include(without_imports, code, path)
    return code
end

"""
    paper_step(code, f, u, p, t, dt, options, quantity) -> value, by_p

EEst dt (`:error_estimate`) or the stiffness estimate (`:stiffness_estimate`) of one Tsit5 step from (t, u) by the paper's
code, and its gradient by the parameters as Zygote takes it through that code.
"""
function paper_step(code::Module, f::Dynamics, u, p, t, dt, options, quantity::Symbol)
    opts = (; options.abstol, options.reltol)
    k1 = f(u, p, t)
    perform_step = code._perform_step
    function of_step(p)
        integrator = PaperIntegrator(t, dt, u, u, f, k1, k1, opts, (; destats = (; nf = 0)))
        return perform_step(integrator, OrdinaryDiffEqTsit5.Tsit5ConstantCache(), p, Val(quantity))[2]
    end
    # the code is younger than this function's world
    value, back = Base.invokelatest(Zygote.pullback, of_step, p)
    return value, only(Base.invokelatest(back, one(value)))
end
