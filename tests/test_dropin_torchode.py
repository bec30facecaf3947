"""torchode's calls: beside exact solutions, beside torchode where it is installed, and what they refuse."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

import pylocalreg as plr
from pylocalreg.integrations.torchode import AutoDiffAdjoint, solve_ivp
from tests.conftest import normal

F64 = torch.float64
Y0 = normal(4, 3)
TIMES = {
    "common": torch.linspace(0, 2, 5, dtype=F64),
    "backwards": torch.linspace(2, 0, 5, dtype=F64),
    "of each sample": torch.tensor([[0, 0.5, 1], [1, 0.5, -1], [2, 3, 4.5], [0, 1, 2]], dtype=F64),
}
each_time = pytest.mark.parametrize("times", TIMES)


class Field(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = torch.nn.Parameter(torch.tensor([0.3, -0.5, 1.0], dtype=F64))

    def forward(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        assert t.shape == (len(y),)
        return self.a * torch.cos(t).unsqueeze(1) * y

    def exact(self, t: torch.Tensor) -> torch.Tensor:
        """The states at times of shape (batch, times)."""
        return Y0.unsqueeze(1) * torch.exp(self.a * (t.sin() - t[:, :1].sin()).unsqueeze(-1))


def controller(kind: str = "PIDController", **options: Any) -> Any:
    """As torchode's, by the attributes that are read."""

    def rms_norm(y: torch.Tensor) -> torch.Tensor:
        return y.square().mean(1).sqrt()

    defaults: dict[str, Any] = {
        **dict.fromkeys(["atol", "rtol"], torch.tensor(1e-9)),
        **{"pcoeff": 0.2, "icoeff": 0.5, "dcoeff": 0.0, "norm": rms_norm, "dt_min": None, "dt_max": None},
        **{"safety": 0.9, "factor_min": 0.2, "factor_max": 10.0},
    }
    return type(kind, (SimpleNamespace,), {})(**defaults | options)


@each_time
@pytest.mark.parametrize("method", ["tsit5", "dopri5", "Vern7"])
def test_each_sample_is_solved_at_its_own_times(method: str, times: str) -> None:
    f = Field()
    solution = solve_ivp(f, Y0, TIMES[times], method=method, controller=controller())
    t = TIMES[times].expand(4, -1)
    assert torch.equal(solution.ts, t)
    torch.testing.assert_close(solution.ys, f.exact(t), rtol=1e-7, atol=1e-8)
    by = [torch.autograd.grad(x.square().sum(), f.a)[0] for x in (solution.ys, f.exact(t))]
    torch.testing.assert_close(*by, rtol=1e-6, atol=1e-7)
    assert solution.status.tolist() == [0] * 4
    assert set(solution.stats) == {"n_f_evals", "n_steps", "n_accepted", "n_initialized"}
    assert solution.stats["n_initialized"].tolist() == [t.shape[1]] * 4


@each_time
def test_beside_torchode(times: str) -> None:
    torchode = pytest.importorskip("torchode", reason="torchode is not installed")
    f, answers = Field(), []
    for call in (solve_ivp, torchode.solve_ivp):
        solution = call(f, Y0, TIMES[times], controller=torchode.PIDController(1e-10, 1e-10, 0.2, 0.5, 0.0))
        answers.append((solution.ys.detach(), torch.autograd.grad(solution.ys.square().sum(), f.a)[0]))
    for a, b in zip(*answers, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7)


def test_a_problem_of_torchodes_by_its_adjoint() -> None:
    f = Field()
    term = SimpleNamespace(f=lambda t, y, args: args * f(t, y), with_args=True)
    method = type("Dopri5", (), {"term": term})()
    start, end = torch.zeros(4, dtype=F64), torch.linspace(1, 2, 4, dtype=F64)
    problem = SimpleNamespace(y0=Y0, t_eval=None, t_start=start, t_end=end)
    adjoint = AutoDiffAdjoint(method, controller("IntegralController"))
    solution, R = adjoint.solve(problem, args=2.0, regularizer=plr.LocalRegularizer("biased"))
    ends = torch.stack([start, end], 1)
    assert torch.equal(solution.ts, ends[:, 1:])
    torch.testing.assert_close(
        solution.ys, (f.exact(ends) ** 2 / Y0.unsqueeze(1))[:, 1:], rtol=1e-7, atol=1e-8
    )
    assert torch.autograd.grad(R, f.a)[0].any()


def test_fixed_steps_are_in_proportion_to_the_spans() -> None:
    f, fixed = Field(), controller("FixedStepController")
    solution = solve_ivp(f, Y0, TIMES["common"], controller=fixed, dt0=torch.full((4,), 0.05))
    assert solution.stats["n_steps"].tolist() == [40] * 4
    torch.testing.assert_close(solution.ys, f.exact(solution.ts), rtol=1e-5, atol=1e-5)
    spans = TIMES["of each sample"]
    solution = solve_ivp(f, Y0, spans, controller=fixed, dt0=(spans[:, -1] - spans[:, 0]) / 20)
    assert solution.stats["n_steps"].tolist() == [20] * 4
    with pytest.raises(plr.errors.OptionError, match="step together"):
        solve_ivp(f, Y0, spans, controller=fixed, dt0=torch.full((4,), 0.05))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "heun"}, "'heun' is not served here: method='BS3'"),
        ({"controller": controller("OwnController")}, "controller = a OwnController"),
        ({"controller": controller(norm=torch.amax)}, "not rms_norm"),
        ({"controller": controller(dcoeff=0.1)}, "dcoeff = 0.1"),
        ({"controller": controller("FixedStepController")}, "without dt0"),
    ],
)
def test_what_is_not_served_is_refused_by_name(options: dict[str, Any], said: str) -> None:
    with pytest.raises(plr.errors.OptionError, match=said):
        solve_ivp(Field(), Y0, TIMES["common"], **options)


def test_gradients_of_times_and_step_sizes_are_refused() -> None:
    with pytest.raises(plr.errors.OptionError, match="want a gradient"):
        solve_ivp(Field(), Y0, TIMES["common"].clone().requires_grad_())
    with pytest.raises(plr.errors.OptionError, match="backprop_through_step_size_control"):
        AutoDiffAdjoint(None, controller(), backprop_through_step_size_control=True)
    with pytest.raises(plr.errors.StepLimitError):
        solve_ivp(Field(), Y0, TIMES["common"], max_steps=2)
