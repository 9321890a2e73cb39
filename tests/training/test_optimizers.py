from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.multiprocessing as multiprocessing
from torch import nn
from torch.testing import assert_close

from mvqkd.models import GruEncoder
from mvqkd.recipe.build import build_optimizer
from mvqkd.recipe.config.schema import OptimizerConfig
from mvqkd.training.optimizers import MuonWithAdamW, ScaledAdam, build_muon, set_learning_rate
from mvqkd.training.optimizers.muon import (
    Muon,
    newton_schulz,
    orthogonalize,
    shared_newton_schulz,
)
from tests.training.helpers import TapLoss, free_port, make_objective, one_of_two


def parameters() -> list[nn.Parameter]:
    """Of several shapes, two of them alike; one is zero, one has a single element."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 3), (3,), (4, 3), (1,), (2, 3, 2)]
    found = [nn.Parameter(torch.randn(s, generator=generator).double()) for s in shapes]
    found[1].data.zero_()
    return found


def gradient(step: int, number: int, shape: torch.Size) -> torch.Tensor:
    generator = torch.Generator().manual_seed(100 * step + number)
    return torch.randn(shape, generator=generator, dtype=torch.float64) * 10.0 ** (number - 2)


def steps(optimizer: torch.optim.Optimizer, params: list[nn.Parameter], *numbers: int) -> None:
    for step in numbers:
        for number, parameter in enumerate(params):
            parameter.grad = gradient(step, number, parameter.shape)
        optimizer.step()


def test_scaled_adam_follows_its_equations() -> None:
    """One parameter after the other, element by element."""
    found = parameters()
    steps(ScaledAdam(found, lr=0.05, max_rms=1.0), found, *range(1, 8))
    for number, start in enumerate(parameters()):
        x = start.detach().clone()
        size = x.numel()
        m, v, n, w = torch.zeros_like(x), torch.zeros_like(x), 0.0, 0.0
        for step in range(1, 8):
            g = gradient(step, number, x.shape)
            m, v = 0.9 * m + 0.1 * g, 0.98 * v + 0.02 * g**2
            c = math.sqrt(1 - 0.98**step) / (1 - 0.9**step)
            if size == 1:
                x = x - 0.05 * c * 0.1 * m / (v.sqrt() + 1e-8)
                continue
            rms = math.sqrt(float((x**2).sum()) / size)
            slope = float((g * x).sum())
            n, w = 0.9 * n + 0.1 * slope, 0.98 * w + 0.02 * slope**2
            growth = -0.05 * c * 0.1 * n / (math.sqrt(w) + 1e-8)
            if rms >= 1.0:
                growth = min(0.0, growth)
            x = x - 0.05 * c * max(rms, 1e-5) * m / (v.sqrt() + 1e-8) + x * growth
        assert_close(found[number].detach(), x)


def test_updates_of_scaled_adam_are_relative() -> None:
    """A parameter a thousand times as large, whose gradient is then a thousandth, moves a thousand
    times as much."""
    small, large = nn.Parameter(torch.full((3, 2), 0.01)), nn.Parameter(torch.full((3, 2), 10.0))
    optimizer = ScaledAdam([small, large], max_rms=100.0, eps=0.0)
    for step in range(5):
        grad = gradient(step, 2, small.shape).float()
        small.grad, large.grad = grad, grad / 1000
        optimizer.step()
    assert_close(1000 * small.detach(), large.detach(), rtol=1e-4, atol=0)


def test_a_missing_gradient_is_zero() -> None:
    one, other = parameters(), parameters()
    first, second = ScaledAdam(one), ScaledAdam(other)
    for step in (1, 2, 3):
        for params, nothing in ((one, torch.zeros_like(one[2])), (other, None)):
            for number, parameter in enumerate(params):
                parameter.grad = gradient(step, number, parameter.shape)
            if step == 2:
                params[2].grad = nothing
        first.step()
        second.step()
    for left, right in zip(one, other, strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize("name", ["adamw", "scaled_adam", "muon"])
def test_resumed_equals_uninterrupted(name: str, tmp_path) -> None:
    objective = make_objective()
    config = OptimizerConfig(name=name, learning_rate=0.01, muon_interval=2)

    def run(model: nn.Module, optimizer: torch.optim.Optimizer, *numbers: int) -> None:
        for step in numbers:
            set_learning_rate(optimizer, 0.01 / step)
            for number, parameter in enumerate(model.parameters()):
                parameter.grad = gradient(step, number % 4, parameter.shape).float()
            optimizer.step()

    whole, part = copy.deepcopy(objective), copy.deepcopy(objective)
    run(whole, build_optimizer(config, whole), 1, 2, 3)
    first = build_optimizer(config, part)
    run(part, first, 1, 2)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = build_optimizer(config, part)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    run(part, second, 3)
    for one, other in zip(whole.parameters(), part.parameters(), strict=True):
        assert torch.equal(one, other)


def test_muon_is_for_matrices_of_layers() -> None:
    objective = make_objective(distillation={"layers": TapLoss()})
    optimizer = build_muon(objective, learning_rate=0.01)
    names = {id(parameter): name for name, parameter in objective.named_parameters()}
    groups = [[names[id(p)] for p in group["params"]] for group in optimizer.param_groups]
    matrices, decayed, undecayed = groups
    assert matrices and all("encoder.layers" in name for name in matrices)
    assert sorted(matrices + decayed + undecayed) == sorted(names.values())
    assert any("joiner" in name for name in decayed)
    assert any("embedding" in name for name in undecayed)
    assert "distillation.layers.head.weight" in decayed
    # An orthogonal update: all singular values alike, of the size of AdamW's.
    weight = next(p for p in optimizer.param_groups[0]["params"])
    before = weight.detach().clone()
    for parameter in objective.parameters():
        parameter.grad = torch.randn_like(parameter)
    set_learning_rate(optimizer, 0.01)
    optimizer.step()
    change = before * (1 - 0.01 * 0.01) - weight.detach()
    values = torch.linalg.svdvals(change) / (0.01 * 0.2 * math.sqrt(max(weight.shape)))
    assert float(values.min()) > 0.5 and float(values.max()) < 1.5


def test_muon_is_for_matrices_of_recurrent_layers_too() -> None:
    encoder = GruEncoder(input_dim=32, dim=4, num_layers=2, channels=2)
    matrices = build_muon(encoder, learning_rate=0.01).param_groups[0]["params"]
    wanted = [p for name, p in encoder.layers.named_parameters() if "weight" in name]
    assert {id(p) for p in matrices} == {id(p) for p in wanted} and len(matrices) == 8


@pytest.mark.parametrize("shape", [(6, 6), (3, 7)])
def test_orthogonal_matrices_are_those_of_the_iteration(shape: tuple[int, int]) -> None:
    """In float64, matrix by matrix, and near to U V^T."""
    generator = torch.Generator().manual_seed(1)
    matrices = torch.randn(4, *shape, generator=generator)
    matrices[3] = 0.0
    found = orthogonalize(matrices)
    for matrix, one in zip(matrices.double(), found, strict=True):
        x = matrix / max(float(matrix.norm()), 1e-7)
        for _ in range(5):
            square = x @ x.T
            x = 3.4445 * x - 4.7750 * square @ x + 2.0315 * square @ square @ x
        assert_close(one.double(), x, rtol=1e-4, atol=1e-5)
    left, _, right = torch.linalg.svd(matrices[:3].double(), full_matrices=False)
    assert float((found[:3] - left @ right).abs().max()) < 0.35


def test_muon_is_that_of_torch() -> None:
    """To the rounding of bfloat16, in which torch's computes."""
    peer = getattr(torch.optim, "Muon", None)
    if peer is None:
        pytest.skip(f"torch {torch.__version__} has no Muon; 2.9 and later have")

    def matrices() -> list[nn.Parameter]:
        generator = torch.Generator().manual_seed(2)
        shapes = [(8, 8), (4, 12), (12, 4), (8, 8)]
        return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]

    ours, theirs = matrices(), matrices()
    options = {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.1}
    first = Muon(ours, **options)
    second = peer(theirs, **options, adjust_lr_fn="match_rms_adamw")
    for step in range(1, 5):
        for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            one.grad = gradient(step, number, one.shape).float()
            other.grad = one.grad.clone()
        first.step()
        second.step()
    for one, other, start in zip(ours, theirs, matrices(), strict=True):
        moved = (other - start).detach()
        assert float((one - other).detach().norm() / moved.norm()) < 0.05


def test_muon_moves_a_part_of_the_matrices_further() -> None:
    """With a constant gradient, as far in `interval` steps as with a step for each."""
    generator = torch.Generator().manual_seed(3)
    start = [torch.randn(shape, generator=generator) for shape in [(8, 8), (4, 12), (12, 4)] * 2]
    gradients = [torch.randn(matrix.shape, generator=generator) for matrix in start]
    moved: dict[int, list[torch.Tensor]] = {}
    for interval in (1, 4):
        matrices = [nn.Parameter(matrix.clone()) for matrix in start]
        optimizer = Muon(matrices, lr=0.01, weight_decay=0.0, interval=interval)
        for _ in range(4):
            before = [matrix.detach().clone() for matrix in matrices]
            for matrix, gradient_of_it in zip(matrices, gradients, strict=True):
                matrix.grad = gradient_of_it
            optimizer.step()
            changed = sum(
                not torch.equal(matrix, old) for matrix, old in zip(matrices, before, strict=True)
            )
            assert changed in ((6,) if interval == 1 else (1, 2))
        moved[interval] = [
            matrix.detach() - old for matrix, old in zip(matrices, start, strict=True)
        ]
    for one, other in zip(moved[1], moved[4], strict=True):
        assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_a_group_keeps_its_relation_to_the_rate() -> None:
    first, second = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([{"params": [first]}, {"params": [second], "rate_scale": 0.1}])
    set_learning_rate(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.05]
    assert MuonWithAdamW.__doc__


@pytest.mark.parametrize(
    ("name", "interval"), [("adamw", 1), ("scaled_adam", 1), ("muon", 1), ("muon", 4)]
)
def test_a_student_overfits_a_batch(name: str, interval: int) -> None:
    torch.manual_seed(0)
    model = nn.Module()
    model.layers = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 4))
    rate = 0.05 if name == "scaled_adam" else 0.01
    optimizer = build_optimizer(
        OptimizerConfig(name=name, learning_rate=rate, muon_interval=interval), model
    )
    x, y = torch.randn(16, 8), torch.randint(0, 4, (16,))
    for _ in range(400):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model.layers(x), y)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05


def _with_half_the_work(rank, port):
    grams = torch.randn(5, 4, 9, generator=torch.Generator().manual_seed(0))
    grams = grams @ grams.mT / 40
    with one_of_two(rank, port):
        for count in (5, 1):
            assert_close(shared_newton_schulz(grams[:count]), newton_schulz(grams[:count]))


@pytest.mark.slow
def test_processes_share_the_work_of_muon():
    multiprocessing.spawn(_with_half_the_work, (free_port(),), nprocs=2)
