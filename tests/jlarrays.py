"""A pytest plugin: what crosses to Julia becomes a JLArray, which stands for a GPU's array on the CPU.

``pytest -p tests.jlarrays tests/test_julia_engine.py -k "not conv and not Ros and not Rodas and not
without_dimension"``, with a Julia project that has JLArrays: the bridge and the stack as on a GPU, where
reading an element is an error.
"""

from pylocalreg.engines.julia_engine.start import start

START = """
import DLPack, JLArrays, LocalReg
using JLArrays: JLArray

# memory of Python's, held by whoever wraps it
function wrapped(x::Array{T}) where {T}
    bytes = unsafe_wrap(Array, Ptr{UInt8}(pointer(x)), sizeof(x))
    return JLArray{T, ndims(x)}(JLArrays.GPUArrays.DataRef(_ -> nothing, bytes), size(x))
end

LocalReg.array(tensor::LocalReg.Py) = DLPack.from_dlpack(tensor) # as a GPU's
DLPack.jlarray_type(::Val{DLPack.kDLCPU}) = JLArray
Base.unsafe_wrap(::Type{<:JLArray}, manager::DLPack.DLManager) = wrapped(unsafe_wrap(Array, manager))
DLPack.dldevice(::JLArray) = DLPack.DLDevice(DLPack.kDLCPU, 0)
"""

start().main.seval(f"begin {START} end")
