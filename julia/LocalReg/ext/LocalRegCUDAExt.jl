"""What only a GPU needs: where CUDA.jl's arrays lie, as DLPack has it, and the stream of its work."""
module LocalRegCUDAExt

using DLPack: DLPack
using LocalReg: LocalReg
using LuxCUDA: CUDA

# the method of DLPack.jl 0.3.1 asks for a type that CUDA.jl no longer has
DLPack.dldevice(x::CUDA.CuArray) = DLPack.DLDevice(DLPack.kDLCUDA, CUDA.deviceid(CUDA.device(x)))

function LocalReg.cuda_stream(device)
    CUDA.device!(device)
    return UInt(CUDA.stream().handle)
end

end
