"""
    Slot(first, dims)

The place of an array of size `dims` in a flat vector; with no dimension, that of a number.
"""
struct Slot{N}
    first::Int
    dims::NTuple{N, Int}
end

places(slot::Slot) = slot.first:(slot.first + prod(slot.dims) - 1)

"""What has no place in a flat vector, and stays as it is."""
struct Constant{T}
    value::T
end

"""
    slots(other, tree, next = 1) -> slots, next

The places of the numbers and arrays in nested (named) tuples, in their order: as ComponentArrays lays them out.
`other(x)` gives what stands for anything else; where that is a `Constant`, a number is one too.
"""
slots(other, x::AbstractArray{<:AbstractFloat}, next = 1) = Slot(next, size(x)), next + length(x)
slots(other, x::Real, next = 1) =
    other === Constant || x isa Bool ? (other(x), next) : (Slot(next, ()), next + 1)
slots(other, x, next = 1) = other(x), next

function slots(other, tree::Tuple, next = 1)
    places = Any[]
    for x in tree
        place, next = slots(other, x, next)
        push!(places, place)
    end
    return Tuple(places), next
end

function slots(other, tree::NamedTuple{names}, next = 1) where {names}
    places, next = slots(other, values(tree), next)
    return NamedTuple{names}(places), next
end

"""The numbers of a tree as one vector, in the order of its slots."""
flatten(tree, slots) = reduce(vcat, flatten!(Any[], tree, slots); init = Float32[])
flatten!(pieces, x, slot::Slot) = push!(pieces, x isa Number ? [x] : vec(x))
flatten!(pieces, x, ::Constant) = pieces
function flatten!(pieces, tree, slots::Union{Tuple, NamedTuple})
    foreach((x, slot) -> flatten!(pieces, x, slot), values(tree), values(slots))
    return pieces
end

"""
    unflatten(slots, p)

The tree again: views of the flat vector.
"""
unflatten(slot::Slot, p) = reshape(view(p, places(slot)), slot.dims)
unflatten(slot::Slot{0}, p) = p[slot.first]
unflatten(constant::Constant, p) = constant.value
unflatten(slots::Union{Tuple, NamedTuple}, p) = map(slot -> unflatten(slot, p), slots)

# without this rule every piece's cotangent would be a vector of the whole's length
function ChainRulesCore.rrule(::typeof(unflatten), slots, p)
    function unflatten_pullback(cotangent)
        by_p = zero(p)
        write_pieces!(by_p, slots, ChainRulesCore.unthunk(cotangent))
        return NoTangent(), NoTangent(), by_p
    end
    return unflatten(slots, p), unflatten_pullback
end

function write_pieces!(by_p, slots, cotangent)
    cotangent isa Union{Nothing, ChainRulesCore.AbstractZero} && return nothing
    return write_there!(by_p, slots, ChainRulesCore.unthunk(cotangent))
end

write_there!(by_p, ::Constant, cotangent) = nothing
write_there!(by_p, slot::Slot, cotangent) = (copyto!(view(by_p, places(slot)), cotangent); nothing)
write_there!(by_p, slot::Slot{0}, cotangent) = (by_p[slot.first] = cotangent; nothing)
write_there!(by_p, slots::Tuple, cotangent) =
    foreach(i -> write_pieces!(by_p, slots[i], cotangent[i]), eachindex(slots))
write_there!(by_p, slots::NamedTuple, cotangent) =
    foreach(name -> write_pieces!(by_p, slots[name], getproperty(cotangent, name)), keys(slots))

"""Names and places, each a path of names: (path, first, dims)."""
named_places(slots) = named_places!(Tuple{String, Int, Vector{Int}}[], "", slots)
named_places!(rows, path, slot::Slot) = push!(rows, (path, slot.first, collect(Int, slot.dims)))
named_places!(rows, path, ::Constant) = rows
function named_places!(rows, path, slots::Union{Tuple, NamedTuple})
    for (name, slot) in pairs(slots)
        named_places!(rows, isempty(path) ? string(name) : string(path, ".", name), slot)
    end
    return rows
end
