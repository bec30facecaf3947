# What Pkg would install for LocalReg: its resolver, on a registry's folder, stopped before the download.
#
#     git clone https://github.com/JuliaRegistries/General
#     julia julia/resolve.jl General            # the newest versions that fit LocalReg's bounds
#     julia julia/resolve.jl General --oldest   # with each direct dependency at the oldest that its bound takes

using Pkg
using Pkg: Operations, Registry, Types

"""An environment with LocalReg's dependencies and bounds, in a folder of its own: nothing is written beside LocalReg."""
function environment()
    project = Pkg.TOML.parsefile(joinpath(@__DIR__, "LocalReg", "Project.toml"))
    file = joinpath(mktempdir(), "Project.toml")
    open(io -> Pkg.TOML.print(io, Dict(key => project[key] for key in ("deps", "weakdeps", "extras", "compat"))), file, "w")
    return Types.EnvCache(file)
end

"""The oldest version in the registry that the project's bound takes."""
function oldest(env, registry, package)
    bound = Operations.get_compat(env.project, package.name)
    info = Registry.registry_info(registry[package.uuid])
    return minimum(v for v in keys(info.version_info) if v in bound && !Registry.isyanked(info, v))
end

function resolve(folder; at_the_oldest)
    env, registry = environment(), Registry.RegistryInstance(folder)
    packages = [Types.PackageSpec(; name, uuid) for (name, uuid) in env.project.deps]
    direct = Set(package.name for package in packages)
    for package in packages
        if at_the_oldest && !Types.is_stdlib(package.uuid)
            package.version = oldest(env, registry, package)
        end
    end
    Pkg.offline(false) # else only what is installed here counts; nothing is downloaded either way
    Operations.resolve_versions!(env, [registry], packages, VERSION, false)
    filter!(package -> !Types.is_stdlib(package.uuid), packages)
    return sort!(packages; by = package -> (!(package.name in direct), package.name)), direct
end

function main(folder, options...)
    options ⊆ ("--oldest",) || error("options are --oldest, not $(join(options, ", "))")
    packages, direct = resolve(folder; at_the_oldest = "--oldest" in options)
    println(length(packages), " packages fit LocalReg's bounds on Julia ", VERSION, ":")
    for package in packages
        println(package.name in direct ? "* " : "  ", package.name, " ", package.version)
    end
    return nothing
end

main(ARGS...)
