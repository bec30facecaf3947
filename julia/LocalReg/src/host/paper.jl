# The paper's own code, for comparisons.

host_paper_code(checkout) = Py(paper_code(pyconvert(String, checkout)))

"""R, the stiffness estimate, and the gradients of both by the paper's code, at (t, u) and the stack's automatic first step."""
function host_paper_step(code, row, t, u)
    problem, state = problem_of(row), array(u)
    options = problem.options
    time = oftype(options.abstol, pyconvert(Float64, t))
    dt = oftype(time, initial_step(problem.f, state, problem.p, options))
    step(quantity) = paper_step(value(code), problem.f, state, problem.p, time, dt, options, quantity)
    (R, R_by_p), (S, S_by_p) = step(:error_estimate), step(:stiffness_estimate)
    return PythonCall.pytuple((R, tensor(R_by_p), S, tensor(S_by_p), dt))
end
