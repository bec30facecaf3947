# What is done to every element of a large array. On the CPU in loops: a broadcast of a matrix and a vector asks at each
# element which of the two is long, and runs at a seventh of the speed.

const SHARE = 2^16 # elements that are worth a thread's start

"""`work(range)` for all of 1:n, which threads share where each has `SHARE` elements; `each` is the elements of one."""
function shared(work::F, n, each = 1) where {F}
    parts = min(Threads.nthreads(), n * each ÷ SHARE)
    parts <= 1 && return work(1:n)
    Threads.@threads :static for part in 1:parts
        work((n * (part - 1) ÷ parts + 1):(n * part ÷ parts))
    end
    return nothing
end

"""y = σ(y + bias), a bias for each row."""
function activate!(y, σ, bias)
    y .= σ.(y .+ bias)
    return y
end

function activate!(y::Array, σ::F, bias) where {F}
    of_columns = reshape(y, length(bias), :)
    shared(size(of_columns, 2), length(bias)) do columns
        @inbounds for j in columns
            @simd for i in eachindex(bias)
                of_columns[i, j] = σ(of_columns[i, j] + bias[i])
            end
        end
    end
    return y
end

"""σ(x) and its slope there."""
function with_slope(σ, x)
    z = σ(ForwardDiff.Dual(x, one(x)))
    return ForwardDiff.value(z), ForwardDiff.partials(z, 1)
end

function with_slope(σ::typeof(NNlib.tanh_fast), x)
    y = σ(x)
    return y, 1 - y^2
end

"""As [`activate!`](@ref), and σ's slope beside it."""
function activate!(y, slope, σ::F, bias) where {F}
    both = (x -> with_slope(σ, x)).(y .+ bias)
    y .= first.(both)
    slope .= last.(both)
    return y
end

function activate!(y::Array, slope::Array, σ::F, bias) where {F}
    values, slopes = reshape(y, length(bias), :), reshape(slope, length(bias), :)
    shared(size(values, 2), length(bias)) do columns
        @inbounds for j in columns
            @simd for i in eachindex(bias)
                values[i, j], slopes[i, j] = with_slope(σ, values[i, j] + bias[i])
            end
        end
    end
    return y
end

"""out = x y."""
function multiply!(out, x, y)
    out .= x .* y
    return out
end

function multiply!(out::Array, x::Array, y::Array)
    eachindex(out, x, y)
    shared(length(out)) do part
        @inbounds @simd for i in part
            out[i] = x[i] * y[i]
        end
    end
    return out
end

"""out += weight factor x, the factor a number or an array like `out`."""
function add_product!(out, weight, factor, x)
    out .+= weight .* factor .* x
    return out
end

function add_product!(out::A, weight, factor::A, x::A) where {A <: Array}
    eachindex(out, factor, x)
    shared(length(out)) do part
        @inbounds @simd ivdep for i in part
            out[i] += weight * factor[i] * x[i]
        end
    end
    return out
end

function add_product!(out::A, weight, factor::Number, x::A) where {A <: Array}
    eachindex(out, x)
    shared(length(out)) do part
        @inbounds @simd ivdep for i in part
            out[i] += weight * factor * x[i]
        end
    end
    return out
end

"""out = sum_i weights_i xs_i, which `out` may be one of."""
function write_sum!(out, weights::NTuple{N}, xs::NTuple{N}) where {N}
    products = map((w, x) -> Broadcast.broadcasted(*, w, x), weights, xs)
    return Broadcast.materialize!(out, N == 1 ? products[1] : Broadcast.broadcasted(+, products...))
end

function write_sum!(out::A, weights::NTuple{N}, xs::NTuple{N, A}) where {N, A <: Array}
    eachindex(out, xs...)
    shared(length(out)) do part
        @inbounds @simd ivdep for i in part
            out[i] = +(map((w, x) -> w * x[i], weights, xs)...)
        end
    end
    return out
end
