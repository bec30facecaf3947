# How arrays and values cross. Tensors cross by DLPack, the same memory on both sides, dimensions reversed: (batch,
# features) there is (features, batch) here.

const FROM_DLPACK = PythonCall.pynew()

isnone(x::Py) = PythonCall.pyis(x, PythonCall.pybuiltins.None)

"""The array of a contiguous tensor that asks for no gradient."""
array(tensor::Py) = DLPack.from_dlpack(tensor)

"""The tensor of an array."""
tensor(x::StridedArray) = DLPack.share(x, FROM_DLPACK)

# of a device's array, which DLPack.jl shares with no Python object
function tensor(x::AbstractArray)
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
    return get!(() -> tensor(x), views.known, x)
end

value(x::Py) = pyconvert(Any, x)

element_type(name) = pyconvert(String, name) == "float32" ? Float32 : Float64
