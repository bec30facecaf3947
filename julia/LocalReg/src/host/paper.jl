# The paper's own code, for comparisons.

host_paper_code(checkout) = Py(paper_code(pyconvert(String, checkout)))

"""R and its gradient by the paper's code, its automatic first step at (t, u) included."""
function host_paper_step(code, handle, t, u)
    problem, state = value(handle), array(u)
    options = problem.options
    time = oftype(options.abstol, pyconvert(Float64, t))
    dt = oftype(time, initial_step(problem.f, state, problem.p, options))
    R, by_p = paper_step(value(code), problem.f, state, problem.p, time, dt, options)
    return PythonCall.pytuple((R, tensor(by_p), dt))
end
