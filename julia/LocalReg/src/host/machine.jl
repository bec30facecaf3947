# What runs here: versions, threads, a GPU's stream.

"""The address of the stream that this task's work on a CUDA device runs on; its method is the extension's."""
function cuda_stream end

host_cuda_stream(device) = Py(cuda_stream(pyconvert(Int, device)))

"""Versions of Julia and of the packages that solve, and the number of threads."""
function host_about()
    packages = (
        DLPack, DiffEqNoiseProcess, Lux, OrdinaryDiffEqAdamsBashforthMoulton, OrdinaryDiffEqCore,
        OrdinaryDiffEqLowOrderRK, OrdinaryDiffEqRosenbrock, OrdinaryDiffEqTsit5, OrdinaryDiffEqVerner,
        PythonCall, SciMLBase, SciMLSensitivity, StochasticDiffEq, Zygote,
    )
    versions = PythonCall.pydict(string(nameof(m)) => string(pkgversion(m)) for m in packages)
    return PythonCall.pytuple((string(VERSION), versions, Threads.nthreads()))
end
