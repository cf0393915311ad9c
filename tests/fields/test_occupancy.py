"""The occupancy grid: what it remembers, what it forgets, and which cells it looks at."""

import math

import pytest
import torch

from microdreamer.fields.occupancy import DECAY, THRESHOLD, WARM_UP, OccupancyGrid


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def cell_centers(grid):
    axis = ((torch.arange(grid.resolution) + 0.5) / grid.resolution * 2 - 1) * grid.radius
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)


@pytest.mark.parametrize("radius", [1.0, 0.3])
def test_cells_of_a_ball_are_found(radius):
    grid = OccupancyGrid(16, radius)
    assert grid.occupied.all()
    center = torch.tensor([0.3, -0.2, 0.1]) * radius

    def density(points):
        return 100.0 * ((points - center).norm(dim=1) < 0.5 * radius)

    for step in range(0, WARM_UP, 16):
        grid.update(density, step, 0.01, draws(step))
    distance = (cell_centers(grid) - center).norm(dim=-1)
    half_diagonal = math.sqrt(3) * radius / 16
    assert grid.occupied[distance < 0.5 * radius - half_diagonal].all()
    assert not grid.occupied[distance > 0.5 * radius + half_diagonal].any()
    assert grid.occupied.sum() > 100


def test_every_cell_is_probed_at_a_place_of_its_own_in_the_first_steps():
    grid, seen = OccupancyGrid(8, 2.0), []
    grid.update(lambda points: (seen.append(points), points[:, 0])[1], 0, 0.1, draws())
    (points,) = seen
    cells = ((points / 2.0 + 1) / 2 * 8).floor().long()
    assert torch.equal(cells[:, 0] * 64 + cells[:, 1] * 8 + cells[:, 2], torch.arange(512))
    inside = (points / 2.0 + 1) / 2 * 8 - cells
    assert inside.std(0).min() > 0.2 and (inside >= 0).all() and (inside <= 1).all()


def test_memory_fades_by_its_rate_and_below_the_threshold_cells_are_empty():
    grid, step_size = OccupancyGrid(4, 1.0), 0.01

    def half(points):
        return 100.0 * (points[:, 1] > 0)

    grid.update(half, 0, step_size, draws())
    upper = torch.zeros(4, 4, 4, dtype=torch.bool)
    upper[:, 2:] = True
    torch.testing.assert_close(grid.values, upper.float())
    assert torch.equal(grid.occupied, upper) and float(grid.threshold) == pytest.approx(THRESHOLD)
    updates = 0
    while grid.occupied.any():
        grid.update(lambda points: torch.zeros(len(points)), 0, step_size, draws())
        updates += 1
        torch.testing.assert_close(grid.values, upper * DECAY**updates)
        # The threshold is the lesser of 0.01 and the mean, which fades too: cells above it are occupied.
        assert torch.equal(grid.occupied, upper) or DECAY**updates <= THRESHOLD
        if updates > 60:
            break
    assert updates > 60  # half of the cells stay above a mean of half their value


def test_what_a_cell_sees_again_it_remembers_at_full():
    grid = OccupancyGrid(4, 1.0)
    for density in (3.0, 1.0, 4.0):
        grid.update(lambda points, density=density: torch.full((len(points),), density), 0, 0.1, draws())
    torch.testing.assert_close(grid.values, torch.full((4, 4, 4), 0.4))
    assert grid.occupied.all()


def test_later_a_quarter_of_the_cells_and_as_many_of_the_occupied_are_probed():
    grid, seen = OccupancyGrid(16, 1.0), []

    def density(points):
        seen.append(points)
        return 100.0 * (points.norm(dim=1) < 0.6)

    grid.update(density, 0, 0.01, draws())
    before, occupied = grid.values.clone(), grid.occupied.clone()
    assert 200 < occupied.sum() < 16**3 / 4
    grid.update(density, WARM_UP, 0.01, draws(1))
    probed = ((seen[1] + 1) / 2 * 16).floor().clamp(0, 15).long()
    assert len(probed) == 16**3 // 4 + int(occupied.sum())
    index = probed[:, 0] * 256 + probed[:, 1] * 16 + probed[:, 2]
    assert set(occupied.view(-1).nonzero()[:, 0].tolist()) <= set(index.tolist())
    untouched = torch.ones(16**3, dtype=torch.bool)
    untouched[index] = False
    assert untouched.sum() > 1000 and torch.equal(grid.values.view(-1)[untouched], before.view(-1)[untouched])
    grid.occupied.fill_(True)
    grid.update(density, WARM_UP, 0.01, draws(2))
    assert len(seen[2]) == 16**3 // 2


def test_a_cell_probed_twice_remembers_the_larger_density(monkeypatch):
    grid = OccupancyGrid(2, 1.0)
    grid.values.fill_(0.1)
    monkeypatch.setattr(grid, "_choose", lambda step, generator: torch.tensor([3, 3, 3, 5]))
    values = iter([torch.tensor([2.0, 7.0, 1.0, 0.5])])
    grid.update(lambda points: next(values), WARM_UP, 0.1, draws())
    expected = torch.full((8,), 0.1)
    expected[3], expected[5] = 0.7, 0.095
    torch.testing.assert_close(grid.values.view(-1), expected)


@pytest.mark.parametrize("value", [float("nan"), 0.0])
def test_a_field_of_nothing_empties_the_grid(value):
    grid = OccupancyGrid(8, 1.0)
    grid.update(lambda points: torch.full((len(points),), value), 0, 0.01, draws())
    assert not grid.occupied.any() and float(grid.threshold) == 0
    grid.update(lambda points: torch.full((len(points),), 5.0), WARM_UP, 0.01, draws())  # nothing occupied to probe
    assert grid.occupied.any()


def test_state_and_draws_repeat():
    one, other = OccupancyGrid(8, 1.0), OccupancyGrid(8, 1.0)

    def density(points):
        return 30 * (points * 7).sin().prod(1).abs()

    for step in (0, 16, WARM_UP, WARM_UP + 16):
        one.update(density, step, 0.01, draws(step))
        other.update(density, step, 0.01, draws(step))
        assert torch.equal(one.values, other.values)
    fresh = OccupancyGrid(8, 1.0)
    fresh.load_state_dict(one.state_dict())
    assert torch.equal(fresh.values, one.values) and torch.equal(fresh.occupied, one.occupied)


def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match=r"resolution=0, radius=1\.0: expected at least 1 and a positive number"):
        OccupancyGrid(0)
    with pytest.raises(ValueError, match="resolution=4, radius=0"):
        OccupancyGrid(4, 0.0)
