"""The same solve on a GPU: same steps, same gradients."""

import pytest
import torch

import pylocalreg as plr
from tests.conftest import Net, normal

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")


@pytest.mark.parametrize("adjoint", ["discrete", "interpolating"])
@pytest.mark.parametrize("sampling", ["unbiased", "biased"])
def test_as_on_the_cpu(sampling: plr.Sampling, adjoint: plr.Adjoint) -> None:
    def run(device: str) -> tuple[plr.Stats, list[torch.Tensor]]:
        regularizer = plr.LocalRegularizer(sampling, generator=torch.Generator().manual_seed(0))
        node = plr.NeuralODE(Net(3), regularizer=regularizer, adjoint=adjoint, engine="torch").to(device)
        u0 = normal(4, 3).to(device).requires_grad_()
        solution = node(u0)
        assert solution.u.device == u0.device
        assert solution.regularization is not None
        loss = solution.u.square().sum() + 100 * solution.regularization
        gradients = torch.autograd.grad(loss, [u0, *node.parameters()])
        return solution.stats, [solution.u.detach().cpu(), *(g.cpu() for g in gradients)]

    stats, ours = run("cuda")
    right_stats, right = run("cpu")
    assert stats == right_stats
    for a, b in zip(ours, right, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def test_state_and_parameters_apart() -> None:
    node = plr.NeuralODE(Net(3), engine="torch")
    with pytest.raises(plr.errors.DeviceError, match="cuda"):
        node(normal(4, 3).cuda())
