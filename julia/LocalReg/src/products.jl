# Products of matrices. Where Julia has several threads they share the columns of a large one, and BLAS has one: OpenBLAS's own
# threads take 0.6 of one's time at these sizes, blocks of columns half, and threads of both that wait for each other longer.

const BLOCK = 2^23 # multiplications that are worth a thread's start

"""out = x y + rest out."""
function product!(out, x, y, rest = false)
    (Threads.nthreads() > 1 && is_on_cpu(out)) || return mul!(out, x, y, true, rest)
    n = size(y, 2)
    parts = min(Threads.nthreads(), length(out) * size(x, 2) ÷ BLOCK, n)
    without_blas_threads() do
        parts > 1 || return mul!(out, x, y, true, rest)
        Threads.@threads :static for part in 1:parts
            columns = (n * (part - 1) ÷ parts + 1):(n * part ÷ parts)
            mul!(view(out, :, columns), x, columns_of(y, columns), true, rest)
        end
    end
    return out
end

is_on_cpu(x::Array) = true
is_on_cpu(x::Union{SubArray, Base.ReshapedArray}) = is_on_cpu(parent(x))
is_on_cpu(x) = false

columns_of(y, columns) = view(y, :, columns)
columns_of(y::Adjoint, columns) = view(parent(y), columns, :)' # which BLAS takes as it is

"""`work()` with a BLAS of one thread where Julia has several; it is as it was afterwards."""
function without_blas_threads(work)
    before = Threads.nthreads() > 1 ? BLAS.get_num_threads() : 1
    before == 1 && return work()
    BLAS.set_num_threads(1)
    try
        return work()
    finally
        BLAS.set_num_threads(before)
    end
end
