# Everything Python calls, by name: every function takes and gives Python objects.

"""Every function Python calls, by name; `torch` is the module."""
function host_functions(torch::Py)
    remember!(torch)
    functions = (;
        HOST_ALGORITHMS...,
        layers = host_layers, coefficients = host_coefficients, model = host_model, part = host_part,
        options = host_options, problem = host_problem,
        user_code = host_user_code, lux = host_lux, var"function" = host_function, user_model = host_user_model,
        evaluate = host_evaluate, pull = host_pull, time_derivative = host_time_derivative, to_lux = host_to_lux,
        user_to_lux = host_user_to_lux,
        solve = host_solve, state = host_state, interpolate = host_interpolate,
        repeated = host_repeated, solution = host_solution, repeated_solution = host_repeated_solution,
        initial_step = host_initial_step, estimate = host_estimate, stiffness = host_stiffness,
        replay = host_replay, pull_back = host_pull_back, reverse_estimate = host_reverse_estimate,
        paper_code = host_paper_code, paper_step = host_paper_step, failure = host_failure, cuda_stream = host_cuda_stream, about = host_about,
    )
    return PythonCall.pydict(
        String(name) => PythonCall.pyfunc(taking_a_tuple(f); name = String(name)) for (name, f) in pairs(functions)
    )
end

"""`f` with its arguments in one tuple: juliacall takes half a millisecond to hand over more than five."""
function taking_a_tuple(f)
    count = Val(first(methods(f)).nargs - 1)
    return arguments::Py -> call_with(f, arguments, count)
end

call_with(f, arguments, ::Val{N}) where {N} = f(ntuple(i -> arguments[i - 1], Val(N))...)
