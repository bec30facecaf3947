# Calls of the forward solve that keep what their pullbacks need, so that the discrete adjoint takes no step again.

"""One call of a chain of Dense layers at `t`: what its layers passed on, see [`forward_dense`](@ref)."""
struct KeptCall
    t::Any
    passed::Any
end

"""
    Recorder(tableau, left)

Keeps the calls of a solve: `calls` since its last step, those of rejected attempts among them. Where the method `goes_on`
with the slope that its last step ended with, `earlier` is that one's call. `left` bytes more are kept.
"""
mutable struct Recorder{T}
    const tableau::Tableau{T}
    left::Float64
    const calls::Vector{KeptCall}
    goes_on::Bool
    earlier::Union{Nothing, KeptCall}
end

Recorder(tableau, left) = Recorder(tableau, left, KeptCall[], true, nothing)

function record_call!(recorder, f::Dynamics, du, u, p, t)
    recorder.left < 0 && return evaluate!(f.model, du, u, p, inside(f, t))
    push!(recorder.calls, kept_call!(f.model, du, u, p, inside(f, t), length(recorder.tableau.b)))
    return nothing
end

"""`evaluate!`, and what it takes to pull the call back; the solver goes on to write to `u`."""
function kept_call!(model::Layers{<:Tuple{Vararg{Lux.Dense}}}, du, u, p, t, stages)
    narrow = is_narrow(model, u, stages)
    input = narrow ? u : model.injected == 0 ? copy(u) : with_injected(model, u, p)
    _, passed = forward_dense(model.layers, unpack(model.layers, p), input, model.timed, t, Fresh(), du)
    return KeptCall(t, narrow ? ((nothing, last(first(passed))), Base.tail(passed)...) : passed)
end

"""Of the calls before the first step, which the automatic step size makes too, that of its first stage."""
function begin_recording!(recorder, integrator)
    recorder.goes_on = OrdinaryDiffEqCore.get_current_isfsal(integrator.alg, integrator.cache)
    i = findfirst(call -> call.t == integrator.t, recorder.calls)
    recorder.earlier = i === nothing ? nothing : recorder.calls[i]
    return nothing
end

"""At a stop the slope was evaluated anew."""
function crossed!(recorder)
    isempty(recorder.calls) || (recorder.earlier = pop!(recorder.calls))
    return nothing
end

"""Keep those of the step's last attempt, which was accepted, if they are at its stages' times."""
function keep_calls!(kept, recorder::Recorder{T}, f, run) where {T}
    (; tableau, calls, earlier, goes_on) = recorder
    stages = length(tableau.b)
    attempt = goes_on ? stages : tableau.stages
    (recorder.left < 0 || length(calls) < attempt) && return nothing
    of_step = calls[(end - attempt + 1):end]
    if goes_on
        recorder.earlier = pop!(of_step)
        earlier === nothing && return nothing
        pushfirst!(of_step, earlier)
    end
    of_step = of_step[1:stages]
    t, dt = T(run.t[end]), T(run.dt[end])
    is_at(call, c) = abs(call.t - inside(f, t + c * dt)) <= 4 * eps(max(abs(t), abs(t + dt)))
    all(map(is_at, of_step, tableau.c)) || return nothing
    kept[length(run.t) - 1] = of_step
    recorder.left -= sum(call -> bytes_of(call.passed), of_step)
    return nothing
end

bytes_of(x::AbstractArray) = sizeof(x)
bytes_of(::Nothing) = 0
bytes_of(passed::Tuple) = sum(bytes_of, passed; init = 0)
