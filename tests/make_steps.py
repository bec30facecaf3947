"""Writes tests/data/steps.json: what the SciML stack does with tstops, dtmin, dtmax and the controller's
constants. Needs the Julia of the Julia engine: ``python -m tests.make_steps``.

The stack is called without LocalReg, out of place as the other golden numbers.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

PATH = Path(__file__).parent / "data" / "steps.json"
SOLVERS = ("BS3", "DP5", "Tsit5", "VCAB3", "VCABM3", "Vern7", "Rodas5", "Rodas5P", "Rosenbrock23")
FIXED = ("Euler", "RK4")
KINDS = ("stops", "near", "bounds", "constants", "all", "backwards", "dtmin")

# Duffing's oscillator, which is stable in both directions of time, under a force that changes with it
JULIA = """
using OrdinaryDiffEqAdamsBashforthMoulton, OrdinaryDiffEqCore, OrdinaryDiffEqLowOrderRK
using OrdinaryDiffEqRosenbrock, OrdinaryDiffEqTsit5, OrdinaryDiffEqVerner, SciMLBase, SciMLLogging
oscillator(u, p, t) = [u[2], t * (1 - t) - u[1] - u[1] * u[1] * u[1]]
function steps_of_the_stack(solver, start, stop, u0, tol, bounds, tstops, constants)
    alg = eval(Symbol(solver))()
    options = Dict{Symbol, Any}(Symbol(name) => value for (name, value) in bounds)
    named = (Symbol(name) => value for (name, value) in constants)
    isempty(constants) || (options[:controller] = OrdinaryDiffEqCore.PIController(Float64, alg; named...))
    haskey(options, :dt) && (options[:adaptive] = false)
    problem = ODEProblem{false}(oscillator, Vector(u0), (start, stop))
    options[:verbose], options[:tstops] = SciMLLogging.None(), Vector(tstops)
    sol = solve(problem, alg; abstol = tol, reltol = tol, options...)
    stats = sol.stats
    return string(sol.retcode), collect(sol.t), stats.naccept, stats.nreject, stats.nf, collect(sol.u[end])
end
"""


def cases() -> list[dict[str, Any]]:
    """Options drawn at random: each solver with each kind alone, and with several at once."""
    rng = np.random.default_rng(17)

    def number(low: float, high: float) -> float:
        return round(float(rng.uniform(low, high)), 3)

    drawn = []
    for solver in (*SOLVERS, *FIXED):
        for kind in KINDS if solver in SOLVERS else ("stops", "near", "backwards"):
            span = number(2.0, 6.0)
            options: dict[str, Any] = {}
            if kind in ("stops", "all", "backwards"):
                options["tstops"] = sorted(number(0.01, 0.99 * span) for _ in range(4))
            if kind == "near":  # two that no step fits between, and one at the start and the end
                options["tstops"] = [1e-7, 0.7, 0.7 + 1e-9, span - 1e-6]
            if solver in FIXED:
                options["dt"] = number(0.01, 0.05)
            else:
                if kind in ("bounds", "all", "backwards"):
                    options["dtmax"] = number(0.05, 0.3)
                if kind in ("constants", "all"):
                    options |= {
                        "gamma": number(0.7, 0.95),
                        "qmin": number(0.1, 0.6),
                        "qmax": number(1.5, 6.0),
                        "beta2": number(0.0, 0.06),
                        "qsteady_max": number(1.0, 1.3),
                    }
                if kind == "all":
                    options |= {"beta1": number(0.1, 0.2), "qsteady_min": number(0.8, 1.0), "dtmin": 1e-5}
                if kind == "dtmin":
                    options["dtmin"] = 0.3 if solver in ("BS3", "Rosenbrock23") else 0.05
            tspan = [span, 0.0] if kind == "backwards" else [0.0, span]
            tol = {"VCAB3": 1e-4, "Rosenbrock23": 1e-4, "Rodas5": 1e-5, "Rodas5P": 1e-5}.get(solver, 1e-6)
            u0 = [number(-2, 2), number(-2, 2)]
            drawn.append(
                {"solver": solver, "kind": kind, "tspan": tspan, "u0": u0, "tol": tol, "options": options}
            )
    return drawn


def main() -> None:
    from juliacall import Main as julia

    julia.seval(JULIA)
    done = []
    for case in cases():
        options = dict(case["options"])
        stops = np.array(options.pop("tstops", []), dtype=float)
        bounds = {name: options.pop(name) for name in ("dt", "dtmin", "dtmax") if name in options}
        code, t, naccept, nreject, nf, u = julia.steps_of_the_stack(
            case["solver"], *case["tspan"], np.array(case["u0"]), case["tol"], bounds, stops, options
        )
        numbers = {"naccept": int(naccept), "nreject": int(nreject), "nf": int(nf)}
        done.append(case | {"retcode": str(code), "t": list(t), "u_end": list(u)} | numbers)
    PATH.write_text("[\n" + ",\n".join(json.dumps(case) for case in done) + "\n]\n")


if __name__ == "__main__":
    main()
