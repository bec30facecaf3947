"""torchsde's call: beside NeuralSDE, beside torchsde where it is installed, and what it refuses."""

from typing import Any

import pytest
import torch

import pylocalreg as plr
from pylocalreg.integrations.torchsde import sdeint
from tests.conftest import normal

F64 = torch.float64
TS = [0.0, 0.25, 1.0]


class Sde(torch.nn.Module):
    """With noise of each type, the same diffusion in each row."""

    def __init__(self, sde_type: str = "ito", noise_type: str = "diagonal") -> None:
        super().__init__()
        self.sde_type, self.noise_type = sde_type, noise_type
        self.a = torch.nn.Parameter(torch.tensor(0.7, dtype=F64))
        self.b = torch.nn.Parameter(torch.tensor(0.4, dtype=F64))

    def f(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.sin(3 * t) - self.a * y

    def g(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        spread = torch.full_like(y, 0.5) * self.b if self.noise_type == "additive" else self.b * y.sin() + 0.8
        return spread if self.noise_type == "diagonal" else spread.unsqueeze(-1)

    def h(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return -y


Y0 = normal(8, 3)


def path(shape: tuple[int, int] = (8, 3)) -> plr.BrownianPath:
    return plr.BrownianPath(0.0, shape, seed=3, dtype=F64)


@pytest.mark.parametrize(
    ("sde_type", "method", "adaptive", "solver"),
    [
        ("ito", "euler", False, "EM"),
        ("ito", "milstein", False, "RKMilCommute"),
        ("ito", "srk", False, "SOSRI2"),
        ("ito", None, True, "SOSRI2"),
        ("ito", "SRIW1", True, "SRIW1"),
        ("stratonovich", None, False, "EulerHeun"),
        ("stratonovich", "euler_heun", True, "LambaEulerHeun"),
    ],
)
@pytest.mark.parametrize("noise", ["diagonal", "scalar", "additive"])
def test_it_is_the_neural_sde_of_the_methods_name(
    sde_type: str, method: str | None, adaptive: bool, solver: str, noise: str
) -> None:
    sde, shape = Sde(sde_type, noise), (8, 3 if noise == "diagonal" else 1)
    ys = sdeint(sde, Y0, TS, bm=path(shape), method=method, dt=0.05, adaptive=adaptive, rtol=1e-2, atol=1e-2)
    assert torch.equal(ys[0], Y0)

    def diffusion(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return sde.g(t, y).reshape(y.shape)

    node = plr.NeuralSDE(
        sde.f,
        diffusion,
        solver=solver,
        noise="diagonal" if noise == "diagonal" else "scalar",
        dt=0.05,
        adaptive=adaptive,
        dtmin=1e-5 if adaptive else None,
        saveat=TS[1:],
        engine="torch",
    )
    right = node(Y0, noise=path(shape)).u
    assert torch.equal(ys[1:], right)
    by = [torch.autograd.grad(x.sum(), [sde.a, sde.b]) for x in (ys, right)]
    torch.testing.assert_close(*by, rtol=1e-10, atol=0)


@pytest.mark.parametrize("logqp", [False, True])
@pytest.mark.parametrize("noise", ["diagonal", "scalar"])
@pytest.mark.parametrize(
    ("sde_type", "method", "options", "apart"),
    [
        ("ito", "milstein", {"grad_free": True}, 1e-12),  # torchsde's by the same differences
        ("stratonovich", "heun", {}, 1e-12),
        ("ito", "euler", {}, 5e-2),  # of another method of that order
        ("ito", "srk", {}, 1e-2),
    ],
)
def test_along_torchsdes_own_path(
    sde_type: str, method: str, options: dict[str, bool], apart: float, noise: str, logqp: bool
) -> None:
    torchsde = pytest.importorskip("torchsde", reason="torchsde is not installed")
    size = (8, 1 if noise == "scalar" else 3 + logqp)
    bm = torchsde.BrownianInterval(
        0.0, 1.0, size=size, dtype=F64, levy_area_approximation="space-time", entropy=3
    )
    sde, answers = Sde(sde_type, noise), []
    if noise == "scalar" and method == "milstein":
        pytest.skip("torchsde's differences are of another kind there")
    for call in (sdeint, torchsde.sdeint):
        ys = call(
            sde, Y0, torch.tensor(TS, dtype=F64), bm=bm, method=method, dt=0.01, options=options, logqp=logqp
        )
        answers.append(ys if logqp else (ys,))
    for a, b in zip(*answers, strict=True):
        torch.testing.assert_close(a, b, rtol=apart, atol=apart)


def test_the_log_ratio_is_the_integral_of_the_drifts_difference() -> None:
    """Of constant ones: 1/2 |(f - h) / g|^2 times the time between."""

    class Constant(Sde):
        def f(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return torch.full_like(y, 0.3)

        def h(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return torch.full_like(y, -0.1)

        def g(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            spread = torch.full_like(y, 0.5)
            return spread if self.noise_type == "diagonal" else spread.unsqueeze(-1)

    rate = 0.5 * (0.4 / 0.5) ** 2
    for noise, dimensions in (("diagonal", 3), ("scalar", 1)):
        ys, ratio = sdeint(Constant(noise_type=noise), Y0, TS, dt=0.05, logqp=True)
        assert ys.shape == (3, 8, 3)
        right = torch.tensor([0.25, 0.75], dtype=F64).unsqueeze(1).expand(2, 8) * rate * dimensions
        torch.testing.assert_close(ratio, right)


def test_a_regularizer_gives_its_value_beside_the_states() -> None:
    sde = Sde()
    regularizer = plr.LocalRegularizer("biased")
    ys, R = sdeint(sde, Y0, TS, adaptive=True, dt=0.05, rtol=1e-2, atol=1e-2, regularizer=regularizer)
    assert ys.shape == (3, 8, 3)
    assert all(p.any() for p in torch.autograd.grad(R, [sde.a, sde.b]))
    ys, ratio, R = sdeint(sde, Y0, TS, dt=0.05, logqp=True, regularizer=regularizer)
    assert (ratio.shape, R.shape) == ((2, 8), ())


def test_names_and_functions_of_both_sides() -> None:
    class Named:
        sde_type, noise_type = "ito", "diagonal"

        def drift(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return -y

        def spread(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return torch.ones_like(y)

    class Both:
        sde_type, noise_type = "ito", "diagonal"

        def f_and_g(self, t: torch.Tensor, y: torch.Tensor) -> Any:
            return -y, torch.ones_like(y)

    named = sdeint(Named(), Y0, TS, bm=path(), dt=0.05, names={"drift": "drift", "diffusion": "spread"})
    assert torch.equal(named, sdeint(Both(), Y0, TS, bm=path(), dt=0.05))


class Products:
    sde_type, noise_type = "ito", "diagonal"

    def f(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return -y


class Mixing(Sde):
    def g(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return y.unsqueeze(-1).expand(-1, -1, 2)


@pytest.mark.parametrize(
    ("sde", "options", "said"),
    [
        (Sde(), {"method": "heun"}, "'heun' is not served here: method='srk'"),
        (Sde("stratonovich"), {"method": "midpoint"}, "'midpoint' is not served here: method='heun'"),
        (Sde("stratonovich"), {"method": "milstein"}, "'milstein' is not served here"),
        (Sde(), {"method": "euler", "adaptive": True}, "EM"),
        (Sde(), {"method": "milstein", "options": {"grad_free": False}}, "option grad_free = False"),
        (Sde(), {"extra": True}, "extra"),
        (Sde(), {"names": {"drift_and_diffusion": "both"}}, "drift_and_diffusion"),
        (Sde(noise_type="general"), {"bm": 3}, "bm is a int"),
        (Mixing(noise_type="general"), {}, "only one Wiener process"),
        (Sde(noise_type="all"), {}, "noise_type is 'all'"),
        (Products(), {}, "no diffusion g"),
        (Sde(), {"method": "euler", "regularizer": plr.LocalRegularizer()}, "EM"),
    ],
)
def test_what_is_not_served_is_refused_by_name(sde: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(plr.errors.OptionError, match=said):
        sdeint(sde, Y0, TS, **options)


def test_times_in_no_order_and_flat_states_are_refused() -> None:
    with pytest.raises(plr.errors.SaveAtError, match="rising order"):
        sdeint(Sde(), Y0, [0.0, 1.0, 0.5])
    with pytest.raises(plr.errors.ShapeError, match="batch, channels"):
        sdeint(Sde(), Y0[0], TS)
