"""What only a GPU can show; without one these tests are skipped with that reason."""

import pytest
import torch
from fleet import TINY, Fleet, copied

from server.corpus import open_corpus
from server.learning import capture, fit_general
from shared.model import build, model_digest
from shared.training import fit, task_loss

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
GPU = torch.device("cuda")


@pytest.fixture
def batch():
    rng = torch.Generator().manual_seed(3)
    labels = torch.eye(5)[torch.randint(0, 5, (16,), generator=rng)]
    return torch.randn(16, 12, 500, generator=rng).to(GPU), labels.to(GPU)


def test_capturing_changes_no_weight_and_no_statistic():
    model = build(TINY.general).to(GPU).train()
    before = model_digest(model)
    capture(model, 16)
    assert model_digest(model) == before


def test_a_captured_model_learns_what_the_same_model_learns_layer_by_layer(batch):
    """The graph replays the very kernels; bf16 sums may be ordered otherwise."""
    segments, labels = batch
    models = [build(TINY.general).to(GPU).train() for _ in range(2)]
    for model in models:
        model.dropout = 0.0
    capture(models[1], len(segments))
    losses = [[], []]
    for model, seen in zip(models, losses, strict=True):
        fit(
            model.parameters(),
            lambda _, model=model: task_loss(model(segments), labels, "single"),
            steps=30,
            learning_rate=1e-2,
            weight_decay=0.0,
            after_step=lambda _, loss, seen=seen: seen.append(loss),
        )
    assert losses[0][-1] < losses[0][0] / 2
    assert losses[1] == pytest.approx(losses[0], rel=0.02, abs=0.02)


def test_the_same_seed_gives_the_same_model_and_it_comes_back_to_the_cpu(enrolled_home, tmp_path):
    fleet = Fleet(copied(enrolled_home, tmp_path / "home"))
    corpus = open_corpus(fleet.workspace, fleet.registry, fleet.settings)
    made = [fit_general(corpus, fleet.settings.general, tell=lambda _, __: None) for _ in range(2)]
    fleet.close()
    assert model_digest(made[0][0]) == model_digest(made[1][0])
    assert not any(tensor.is_cuda for tensor in made[0][0].state_dict().values())
    losses = [row["train_loss"] for row in made[0][1]]
    assert losses[-1] < 0.8 * losses[0]
