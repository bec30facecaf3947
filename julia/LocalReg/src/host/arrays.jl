# How arrays and values cross. Tensors cross by DLPack, the same memory on both sides, dimensions reversed: (batch,
# features) there is (features, batch) here.

const FROM_DLPACK, EMPTY = PythonCall.pynew(), PythonCall.pynew() # torch's
const CPU = PythonCall.pynew()
const DTYPES = (float32 = PythonCall.pynew(), float64 = PythonCall.pynew())

function remember!(torch::Py)
    for (place, x) in (
            (FROM_DLPACK, torch.utils.dlpack.from_dlpack), (EMPTY, torch.empty), (DTYPES.float32, torch.float32),
            (DTYPES.float64, torch.float64), (CPU, torch.device("cpu")),
        )
        PythonCall.pycopy!(place, x)
    end
    return nothing
end

dtype(::Type{Float32}) = DTYPES.float32
dtype(::Type{Float64}) = DTYPES.float64

isnone(x::Py) = PythonCall.pyis(x, PythonCall.pybuiltins.None)

is_true(x::Py) = PythonCall.pyis(x, PythonCall.pybuiltins.True)

"""
The array of a contiguous tensor that asks for no gradient. On the CPU it is made of the address, in a fifth of DLPack's
time.
"""
function array(tensor::Py)
    is_true(tensor.is_cpu) || return DLPack.from_dlpack(tensor)
    of = tensor.dtype
    PythonCall.pyis(of, DTYPES.float32) && return at_address(Float32, tensor)
    PythonCall.pyis(of, DTYPES.float64) && return at_address(Float64, tensor)
    return DLPack.from_dlpack(tensor)
end

function at_address(T, tensor)
    shape = tensor.shape
    count = length(shape)
    return count == 1 ? at_address(T, tensor, shape, Val(1)) : count == 2 ? at_address(T, tensor, shape, Val(2)) :
        at_address(T, tensor, shape, Val(count))
end

function at_address(::Type{T}, tensor, shape, ::Val{N}) where {T, N}
    x = unsafe_wrap(Array, Ptr{T}(pyconvert(UInt, tensor.data_ptr())), ntuple(i -> pyconvert(Int, shape[N - i]), Val(N)))
    held = PythonCall.getptr(tensor)
    PythonCall.C.Py_IncRef(held)
    return finalizer(Holding(held), x)
end

"""
A reference to a tensor, given back when the array whose finalizer this is goes. A `Py` in its place would give it back too
early: a collection looks for what is to be finalized before it looks at what finalizers hold.
"""
struct Holding
    tensor::PythonCall.C.PyPtr
end

(held::Holding)(x) = PythonCall.GC.enqueue(held.tensor)

const COPIED = 2^15 # bytes that are copied sooner than shared

"""A tensor of what is in an array, its memory where that is large."""
tensor(x) = shared_tensor(x)

function tensor(x::Array{T}) where {T <: Union{Float32, Float64}}
    sizeof(x) > COPIED && return shared_tensor(x)
    made = EMPTY(reverse(size(x)); dtype = dtype(T), device = CPU)
    GC.@preserve x unsafe_copyto!(Ptr{T}(pyconvert(UInt, made.data_ptr())), pointer(x), length(x))
    return made
end

"""The tensor that is an array's memory."""
shared_tensor(x::StridedArray) = DLPack.share(x, FROM_DLPACK)

# of a device's array, which DLPack.jl shares with no Python object
function shared_tensor(x::AbstractArray)
    capsule = DLPack.unsafe_share(x)
    shared = pointer_from_objref(capsule.tensor)
    DLPack.SHARES_POOL[shared] = (capsule, x) # until torch calls the deleter
    capsule.tensor.deleter = DLPack.DELETER[]
    return FROM_DLPACK(PythonCall.pynew(PythonCall.C.PyCapsule_New(shared, DLPack.PYCAPSULE_NAME, C_NULL)))
end

"""
Tensors of the few arrays that the stack writes to again and again: made once for each. An entry keeps its array
alive, so no other array can have its identity.
"""
struct Views
    known::IdDict{Any, Py}
end

const MAX_VIEWS = 64 # out of place every array is new: do not keep them all

Views() = Views(IdDict{Any, Py}())

function (views::Views)(x)
    length(views.known) < MAX_VIEWS || empty!(views.known)
    return get!(() -> shared_tensor(x), views.known, x)
end

"""What Python holds of Julia's."""
value(x::Py) = PythonCall.pyisjl(x) ? PythonCall.pyjlvalue(x) : pyconvert(Any, x)

element_type(name) = pyconvert(String, name) == "float32" ? Float32 : Float64
