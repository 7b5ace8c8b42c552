"""The one training loop: it learns, it is repeatable, it stops when it diverges."""

import pytest
import torch
from torch import nn
from toy_world import tail_of

from shared.errors import LetheError
from shared.model import build
from shared.settings import General
from shared.training import Examples, apply, fit, hits, join, one_thread, task_loss

LABELS = torch.eye(5)


def quadratic(steps, **values):
    """Minimise |w - 3|^2 from 0; return w and the losses."""
    weight = nn.Parameter(torch.zeros(4))
    seen = []
    settings = {"learning_rate": 0.3, "weight_decay": 0.0} | values
    fit(
        [weight],
        lambda _: ((weight - 3) ** 2).sum(),
        steps=steps,
        after_step=lambda s, v: seen.append((s, v)),
        **settings,
    )
    return weight.detach(), seen


def test_fitting_minimises_the_loss():
    weight, seen = quadratic(150)
    torch.testing.assert_close(weight, torch.full((4,), 3.0), atol=0.05, rtol=0)
    assert [step for step, _ in seen] == list(range(150))
    assert seen[0][1] == 36.0
    assert seen[-1][1] < 0.01


def test_fitting_twice_gives_the_same_weights():
    assert torch.equal(quadratic(20)[0], quadratic(20)[0])


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_any_number_of_steps_is_possible(steps):
    weight, seen = quadratic(steps)
    assert len(seen) == steps
    assert torch.equal(weight, torch.zeros(4)) == (steps == 0)


def test_weight_decay_pulls_towards_zero():
    assert quadratic(60, weight_decay=5.0)[0].mean() < quadratic(60)[0].mean()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_the_training_and_says_where(bad):
    weight = nn.Parameter(torch.ones(1))

    def loss(step):
        return weight.sum() * (bad if step == 2 else 1.0)

    with pytest.raises(LetheError, match=r"diverged: the loss is (nan|inf) at step 2; lower the learning rate"):
        fit([weight], loss, steps=5, learning_rate=0.1, weight_decay=0.0)
    assert torch.isfinite(weight).all()


def test_only_what_is_handed_over_is_trained():
    model = build(General(width=4)).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x = torch.randn(4, 12, 500, generator=torch.Generator().manual_seed(1))
    tail = model.tail_parameters()
    fit(tail, lambda _: task_loss(model(x), LABELS[:4], "single"), steps=2, learning_rate=0.1, weight_decay=0.0)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed
    assert all(name.startswith(tail_of(model)) for name in changed)


def test_one_thread_is_one_thread_and_gives_the_others_back():
    torch.set_num_threads(2)
    with one_thread():
        assert torch.get_num_threads() == 1
        with one_thread():
            pass
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    with pytest.raises(ZeroDivisionError), one_thread():
        _ = 1 / 0
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)


def test_the_loss_is_cross_entropy_a_task():
    even = torch.zeros(2, 5)
    assert task_loss(even, LABELS[:2], "single").item() == pytest.approx(torch.tensor(5.0).log().item())
    assert task_loss(even, LABELS[:2], "multi").item() == pytest.approx(torch.tensor(2.0).log().item())


def test_hits_are_the_strongest_class_or_all_five_labels():
    logits = torch.tensor([[2.0, 1.0, -1.0, -1.0, -1.0], [-1.0, 3.0, 2.0, -1.0, -1.0], [-1.0, -2.0, -1.0, -1.0, -1.0]])
    labels = torch.tensor([[1.0, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]])
    assert hits(logits, labels, "multi").tolist() == [True, False, True]
    assert hits(logits[:2], LABELS[:2], "single").tolist() == [True, True]
    assert hits(logits[:2], LABELS[1:3], "single").tolist() == [False, False]


@pytest.mark.parametrize("batch_size", [1, 2, 128])
def test_applying_in_batches_is_applying_at_once(batch_size):
    model = build(General(width=4)).eval()
    x = torch.randn(5, 12, 500, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        torch.testing.assert_close(apply(model, x, batch_size=batch_size), model(x))
    assert apply(model, x[:0]).shape == (0, 5)


def test_examples_join_in_order_and_nothing_joins_to_nothing():
    one = Examples(torch.ones(2, 12, 500), LABELS[:2])
    two = Examples(torch.zeros(1, 12, 500), LABELS[2:3])
    both = join([one, two])
    assert len(both) == 3
    assert torch.equal(both.labels, LABELS[:3])
    assert torch.equal(both[torch.tensor([False, False, True])].segments, two.segments)
    assert len(join([])) == 0
    assert len(both[:2]) == 2
