# Algorithms of the stack beyond those that both engines have: found by name, made of data, and asked what they are.

"""
`work()`; what the stack throws becomes a [`Refusal`](@ref) where it was `asked` for something of its own, but for what
the dynamics or the user threw.
"""
function refusing(work, asked = true)
    asked || return work()
    try
        return work()
    catch exception
        exception isa Union{SolveFailure, Refusal, DimensionMismatch, InterruptException, PythonCall.PyException} &&
            rethrow()
        throw(Refusal(first(sprint(showerror, exception), 2000)))
    end
end

"""
    owner(package, uuid)

The module of a package of this Julia's project, loaded if it is not yet; `nothing` where the project has none.
"""
function owner(package, uuid)
    id = Base.PkgId(Base.UUID(uuid), package)
    haskey(Base.loaded_modules, id) && return Base.loaded_modules[id]
    Base.locate_package(id) === nothing && return nothing
    return Base.require(id)
end

is_algorithm(x) = x isa Type && x <: SciMLBase.AbstractDEAlgorithm

"""An algorithm's type of that name in any loaded module, or in `Main`; `nothing` where there is none."""
function search(name::Symbol)
    for m in (Main, values(Base.loaded_modules)...)
        isdefined(m, name) && is_algorithm(getglobal(m, name)) && return getglobal(m, name)
    end
    return nothing
end

"""
    named(name, package, uuid, positional, keywords)

The object that `name` of a package makes of its arguments. No package: an algorithm's type, wherever it is loaded.
"""
function named(name, package, uuid, positional, keywords)
    if isempty(package)
        constructor = search(Symbol(name))
        constructor === nothing && throw(
            Refusal("no package that Julia has loaded has an algorithm of that name (plr.julia.solvers() lists them)"),
        )
    else
        m = owner(package, uuid)
        m === nothing && throw(Refusal("it is of the Julia package $package, which is not there", package))
        isdefined(m, Symbol(name)) || throw(Refusal("$package $(pkgversion(m)) has nothing of that name"))
        constructor = getglobal(m, Symbol(name))
    end
    # the package may have been loaded just now
    return refusing(() -> Base.invokelatest(constructor, positional...; keywords...))
end

"""What one expression of Julia code makes, with the names of the packages that LocalReg loads in scope."""
function of_code(code)
    room = Module()
    for m in (
            OrdinaryDiffEqAdamsBashforthMoulton, OrdinaryDiffEqCore, OrdinaryDiffEqLowOrderRK, OrdinaryDiffEqRosenbrock,
            OrdinaryDiffEqTsit5, OrdinaryDiffEqVerner, StochasticDiffEq, SciMLSensitivity, ADTypes,
        )
        Core.eval(room, :(const $(nameof(m)) = $m))
        Core.eval(room, :(using .$(nameof(m))))
    end
    return refusing(() -> Core.eval(room, Meta.parse(code)))
end

"""
    traits(algorithm) -> kind, order, implicit, adaptive

`kind` is `"ode"` or `"sde"`; `order` 0 where the stack does not say.
"""
function traits(algorithm)
    kind = if algorithm isa OrdinaryDiffEqCore.OrdinaryDiffEqAlgorithm
        "ode"
    elseif algorithm isa OrdinaryDiffEqCore.StochasticDiffEqAlgorithm
        "sde"
    else
        throw(Refusal("it is a $(nameof(typeof(algorithm))), not an algorithm of OrdinaryDiffEq or StochasticDiffEq"))
    end
    return kind, order(algorithm), is_implicit(algorithm), Bool(SciMLBase.isadaptive(algorithm))
end

function order(algorithm)
    stated = try
        OrdinaryDiffEqCore.alg_order(algorithm)
    catch
        0
    end
    return stated isa Real ? Float64(stated) : 0.0
end

parts(algorithm::OrdinaryDiffEqCore.CompositeAlgorithm) = algorithm.algs
parts(algorithm) = (algorithm,)

is_implicit(algorithm) = any(hasfield(typeof(part), :autodiff) for part in parts(algorithm))

"""
    variant(algorithm; of_adjoint, read_later)

The algorithm as it solves here: with its interpolant computed with its steps where the dense output is `read_later`, and,
where it solves an adjoint equation, with that one's Jacobian by finite differences.
"""
function variant(algorithm; of_adjoint, read_later)
    changes = (;
        (read_later && hasfield(typeof(algorithm), :lazy) ? (; lazy = Val(false)) : (;))...,
        (of_adjoint && hasfield(typeof(algorithm), :autodiff) ? (; autodiff = AutoFiniteDiff()) : (;))...,
    )
    return isempty(changes) ? algorithm : SciMLBase.remake(algorithm; changes...)
end

function variant(algorithm::OrdinaryDiffEqCore.CompositeAlgorithm; more...)
    return OrdinaryDiffEqCore.CompositeAlgorithm(
        map(part -> variant(part; more...), algorithm.algs), deepcopy(algorithm.choice_function),
    )
end
