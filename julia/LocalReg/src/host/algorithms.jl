# What Python calls to make algorithms of the stack, and to ask what they are. Names and keywords are data here: nothing
# but `of_code` evaluates code, and only the Python API calls it.

"""
What a row of Python's stands for: a number or a truth value itself; ("symbol", text); ("numbers", numbers);
("name", name, package, uuid, positional, keywords); ("code", text); ("object", object).
"""
function argument(row::Py)
    pyconvert(Bool, PythonCall.pyisinstance(row, PythonCall.pybuiltins.tuple)) || return value(row)
    kind = pyconvert(String, row[0])
    kind == "symbol" && return Symbol(pyconvert(String, row[1]))
    kind == "numbers" && return pyconvert(Vector{Float64}, row[1])
    kind == "code" && return of_code(pyconvert(String, row[1]))
    kind == "object" && return value(row[1])
    name, package, uuid = (pyconvert(String, row[i]) for i in 1:3)
    keywords = [Symbol(pyconvert(String, key)) => argument(x) for (key, x) in row[5]]
    return named(name, package, uuid, argument.(collect(row[4])), keywords)
end

"""The algorithm, and its traits."""
function host_algorithm(row)
    algorithm = argument(row)
    return PythonCall.pytuple((Py(algorithm), Base.invokelatest(traits, algorithm)...))
end

"""An algorithm of SciMLSensitivity's."""
function host_sensitivity(row)
    made = argument(row)
    made isa SciMLBase.AbstractSensitivityAlgorithm ||
        throw(Refusal("it is a $(nameof(typeof(made))), not an algorithm of sensitivities"))
    return Py(made)
end

"""Options of a solve by the stack's names."""
host_solve_options(rows) =
    Py((; (Symbol(pyconvert(String, key)) => argument(x) for (key, x) in rows)...))

"""Its formula, `None` where it has none, and whether that gives states inside its steps."""
function host_formula(algorithm, dtype)
    found, is_dense = formula(element_type(dtype), value(algorithm))
    return PythonCall.pytuple((found === nothing ? PythonCall.pybuiltins.None : Py(found), is_dense))
end

"""Of names with their packages, those that are here and are made without arguments: (name, package, traits)."""
function host_solvers(names)
    rows = PythonCall.pylist()
    for (name, package, uuid) in names
        found = try
            algorithm = named(pyconvert.(String, (name, package, uuid))..., (), ())
            Base.invokelatest(traits, algorithm)
        catch exception
            exception isa InterruptException && rethrow()
            continue
        end
        rows.append(PythonCall.pytuple((name, package, found...)))
    end
    return rows
end

const HOST_ALGORITHMS = (
    algorithm = host_algorithm, formula = host_formula, solvers = host_solvers, sensitivity = host_sensitivity,
    solve_options = host_solve_options,
)
