# Models written in Julia: made of code, of a file or of an object, and called alone.

# Julia frees a module that nothing names, and crashes where a function of it lives on
const PLACES = Module[]

"""What Julia code gives, evaluated in a module of its own, where a file's names are if one is given, else Lux's."""
function host_user_code(code, file)
    place = Module(:PyLocalRegUser)
    push!(PLACES, place)
    Core.eval(place, :(eval(x) = Core.eval($place, x)))
    Core.eval(place, :(include(path) = Base.include($place, path)))
    if isnone(file)
        foreach(m -> Core.eval(place, :(const $(nameof(m)) = $m)), (Lux, NNlib))
        Core.eval(place, :(using .Lux, .NNlib))
    else
        Base.include(place, pyconvert(String, file))
    end
    return Py(Base.include_string(place, pyconvert(String, code), "a string of Julia code"))
end

"""A Lux layer and the slots of its parameters and its state in their flat vectors."""
struct UserLux{L, S, P, R}
    layer::L
    st::S
    parameters::P
    running::R
end

"""(handle, parameters, their names, state, its names, whether it draws random numbers)"""
function host_lux(layer_object, seed)
    layer = value(layer_object)
    layer isa Lux.AbstractLuxLayer || throw(
        Refusal(:option, "a $(typeof(layer)) is no Lux layer: plr.julia.lux takes one, plr.julia.function a function"),
    )
    ps, st = Lux.setup(Random.Xoshiro(pyconvert(Int, seed)), layer)
    parameters, _ = slots(not_a_parameter, ps)
    running, _ = slots(Constant, st)
    user = UserLux(layer, st, parameters, running)
    return PythonCall.pytuple((
        Py(user), optional_flat(ps, parameters), named_rows(parameters),
        optional_flat(st, running), named_rows(running), !isempty(found_generators(st)),
    ))
end

not_a_parameter(x) = throw(
    Refusal(:option, "a parameter is a $(typeof(x)): parameters are numbers and arrays of floating point numbers, in (named) tuples"),
)

"""The numbers of a tree as one tensor; `None` where there is none."""
function optional_flat(tree, slots)
    flat = flatten(tree, slots)
    isempty(flat) && return PythonCall.pybuiltins.None
    T = promote_type(Float32, eltype(flat))
    T in (Float32, Float64) ||
        throw(Refusal(:dtype, "parameters or state are of $T: Float32 and Float64 are solved"))
    return tensor(Vector{T}(flat))
end

named_rows(slots) =
    PythonCall.pylist(PythonCall.pytuple((path, first, PythonCall.pylist(dims))) for (path, first, dims) in named_places(slots))

"""(handle, parameters, their names, whether it is in place)"""
function host_function(f_object, p, in_place)
    f = value(f_object)
    f isa Lux.AbstractLuxLayer && throw(Refusal(:option, "a $(nameof(typeof(f))) is a Lux layer: take plr.julia.lux"))
    writes = isnone(in_place) ? is_in_place(f) : pyconvert(Bool, in_place)
    isnone(p) && return PythonCall.pytuple((Py(UserFunction(f, writes, nothing)), p, PythonCall.pylist(), writes))
    initial = initial_parameters(p)
    parameters, _ = slots(not_a_parameter, initial)
    return PythonCall.pytuple((
        Py(UserFunction(f, writes, parameters)), optional_flat(initial, parameters), named_rows(parameters), writes,
    ))
end

struct UserFunction{F, P}
    f::F
    in_place::Bool
    parameters::P
end

"""Of a Python dict a named tuple, of a tuple that holds a tensor its array; numbers and Julia's objects are themselves."""
function initial_parameters(p::Py)
    PythonCall.pyisinstance(p, PythonCall.pybuiltins.dict) && return NamedTuple(
        Symbol(pyconvert(String, name)) => initial_parameters(p[name]) for name in p
    )
    PythonCall.pyisinstance(p, PythonCall.pybuiltins.tuple) && return copy(array(p[0]))
    return value(p)
end

"""Whether a function has methods of (du, u, p, t), or of (u, p, t)."""
function is_in_place(f)
    counts = Set(method.nargs - 1 for method in methods(f))
    in_place, out_of_place = 4 in counts, 3 in counts
    in_place != out_of_place && return in_place
    throw(
        Refusal(
            :option, "a $(typeof(f)) has methods of $(sort!(collect(counts))) arguments: it is not clear whether it is " *
                "f(u, p, t) or f!(du, u, p, t). Say in_place=False or in_place=True",
        ),
    )
end

"""A model for one solve; of a layer with its running arrays, its mode and the seed of its draws."""
function host_user_model(user_object, timed, running, training, seed)
    user = value(user_object)
    user isa UserFunction &&
        return Py(FunctionModel(user.f, user.in_place, user.parameters, Ref(false)))
    trains = pyconvert(Bool, training)
    st = seeded(trains ? Lux.trainmode(user.st) : Lux.testmode(user.st), pyconvert(Int, seed))
    slots_of_st = user.running
    st = isnone(running) ? st : with_running(st, unflatten(slots_of_st, array(running)), slots_of_st)
    return Py(
        LuxModel(user.layer, user.parameters, pyconvert(Bool, timed), st, slots_of_st, trains, Ref(false)),
    )
end

"""f(t, u) alone."""
function host_evaluate(model, t, u, p)
    state = array(u)
    du = similar(state)
    evaluate!(value(model), du, state, array(p), oftype(zero(eltype(state)), pyconvert(Float64, t)))
    return tensor(du)
end

"""f(t, u) alone, and its pullback; the first call of the model is looked at here too."""
function host_pull(model_object, t, u, p)
    model, state, parameters = value(model_object), array(u), array(p)
    time = oftype(zero(eltype(state)), pyconvert(Float64, t))
    du, back = pull(model, state, parameters, time)
    function host_back(cotangent)
        by_u, by_p = back(array(cotangent))
        return PythonCall.pytuple((optional_tensor(by_u), optional_tensor(by_p)))
    end
    return PythonCall.pytuple((tensor(copy(du)), PythonCall.pyfunc(host_back; name = "pull_back")))
end

optional_tensor(x) = x === nothing ? PythonCall.pybuiltins.None : tensor(x)

function host_time_derivative(model, t, u, p)
    state = array(u)
    return tensor(time_derivative(value(model), state, array(p), oftype(zero(eltype(state)), pyconvert(Float64, t))))
end

"""(model, ps, st) of a description's layers."""
function host_to_lux(description, timed, running, p)
    layers, is_timed, stats = described_layers(description, timed, running)
    return PythonCall.pytuple(map(Py, lux_of(layers, is_timed, stats, array(p))))
end

"""(model, ps, st) of a user's layer, in test mode, of their own memory."""
function host_user_to_lux(user_object, p, running)
    user = value(user_object)
    ps = unflatten(user.parameters, copy(array(p)))
    st = Lux.testmode(user.st)
    st = isnone(running) ? st : with_running(st, unflatten(user.running, copy(array(running))), user.running)
    return PythonCall.pytuple(map(Py, (user.layer, ps, st)))
end
