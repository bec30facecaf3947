"""
Where work takes its arrays from: `memory(x, dims)` is an array like `x`. `Fresh()` makes new ones, for whoever keeps
them.
"""
struct Fresh end

(::Fresh)(x, dims = size(x)) = similar(x, dims)

"""Arrays of one type and size; the first `used` are in use."""
mutable struct Shelf
    const type::DataType
    const dims::Any
    const arrays::Vector{Any}
    used::Int
end

"""
    Arena()

Arrays that serve again after [`reset!`](@ref). A step taken again and reversed needs those of the step before it, and to
touch a new large array for the first time takes longer than what is computed in it.
"""
struct Arena
    shelves::Vector{Shelf} # a handful: looked through sooner than a dictionary
end

Arena() = Arena(Shelf[])

function (arena::Arena)(x, dims = size(x))
    shelf = shelf!(arena, typeof(x), dims)
    shelf.used += 1
    shelf.used > length(shelf.arrays) && push!(shelf.arrays, similar(x, dims))
    return shelf.arrays[shelf.used]
end

function shelf!(arena, type, dims)
    for shelf in arena.shelves
        shelf.type === type && shelf.dims === dims && return shelf
    end
    return push!(arena.shelves, Shelf(type, dims, [], 0))[end]
end

"""As `memory(x, dims)`, of a type that the compiler knows."""
like(memory, x::Array{T, N}, dims::NTuple{N, Int} = size(x)) where {T, N} = memory(x, dims)::Array{T, N}
like(memory, x, dims = size(x)) = memory(x, dims)

"""Whatever came of the arena is free to serve again."""
function reset!(arena::Arena)
    for shelf in arena.shelves
        shelf.used = 0
    end
    return arena
end

const SPARE = Arena[]
const SPARE_LOCK = ReentrantLock()
const KEPT = 2^22 # bytes of an arena that is kept for the next one who asks

"""`work(arena)`, with one that served before if it is small: to make and to collect the arrays of small steps takes as
long as what is computed in them. Nothing of the arena may outlive `work`."""
function with_arena(work)
    arena = @lock SPARE_LOCK isempty(SPARE) ? Arena() : pop!(SPARE)
    result = work(reset!(arena))
    bytes = sum(shelf -> sum(sizeof, shelf.arrays; init = 0), arena.shelves; init = 0)
    bytes <= KEPT && @lock SPARE_LOCK push!(SPARE, arena)
    return result
end
