"""
Where work takes its arrays from: `memory(x, dims)` is an array like `x`. `Fresh()` makes new ones, for whoever keeps
them.
"""
struct Fresh end

(::Fresh)(x, dims = size(x)) = similar(x, dims)

"""Arrays of one kind and size; the first `used` are in use."""
mutable struct Shelf
    const arrays::Vector{Any}
    used::Int
end

Shelf() = Shelf([], 0)

"""
    Arena()

Arrays that serve again after [`reset!`](@ref). A step taken again and reversed needs those of the step before it, and to
touch a new large array for the first time takes longer than what is computed in it.
"""
struct Arena
    shelves::Dict{Any, Shelf}
end

Arena() = Arena(Dict())

function (arena::Arena)(x, dims = size(x))
    shelf = get!(Shelf, arena.shelves, (typeof(x), dims))
    shelf.used += 1
    shelf.used > length(shelf.arrays) && push!(shelf.arrays, similar(x, dims))
    return shelf.arrays[shelf.used]
end

"""As `memory(x, dims)`, of a type that the compiler knows."""
like(memory, x::Array{T, N}, dims::NTuple{N, Int} = size(x)) where {T, N} = memory(x, dims)::Array{T, N}
like(memory, x, dims = size(x)) = memory(x, dims)

"""Whatever came of the arena is free to serve again."""
function reset!(arena::Arena)
    for shelf in values(arena.shelves)
        shelf.used = 0
    end
    return arena
end
