"""The family of direct objectives: where two of its methods must be one, they are, to the bit."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_learning_algos import (
    assert_same,
    build,
    draw_for,
    numpy_log_probs,
    phase_of,
    train,
)

from cpl_bench.core.errors import UserError
from cpl_bench.learning.algos.rso import compared
from cpl_bench.learning.contrast import Reference, accuracy, contrast_loss, likelihoods
from cpl_bench.learning.losses import averaged, of_comparisons, preference_nll
from cpl_bench.learning.methods import configured, find_method

SEEDS = [0, 1]
DRY = {"policy": {"dropout": 0.0}}


def trained(name, seeds=SEEDS, **settings):
    """The weights that twelve steps come to, five of them cloning, and the last metrics."""
    learner = build(name, seeds, **settings)
    metrics = train(learner, seeds)
    return learner.weights().arrays, metrics[-1][1]


def assert_equal_training(one, other):
    assert_same(one[0], other[0])
    shared = one[1].keys() & other[1].keys()
    assert {"contrast_loss", "accuracy", "log_prob"} <= shared
    assert_same({name: one[1][name] for name in shared}, {name: other[1][name] for name in shared})


def assert_other_training(one, other):
    assert not torch.equal(one[1]["contrast_loss"], other[1]["contrast_loss"])
    assert not np.array_equal(one[0]["w0"], other[0]["w0"])


# --- Identities ---


def test_dpo_is_cpl_relative_to_the_clone_with_lambda_one():
    dpo = trained("dpo", alpha=0.3)
    assert_equal_training(dpo, trained("cpl", reference=True, lam=1.0, alpha=0.3))
    assert_other_training(dpo, trained("cpl", reference=False, lam=1.0, alpha=0.3))
    assert_other_training(dpo, trained("cpl", reference=True, lam=0.5, alpha=0.3))


def test_ipo_is_dpo_with_a_square_and_conservative_dpo_without_smoothing_is_dpo():
    assert_equal_training(trained("ipo"), trained("dpo", objective="ipo"))
    dpo = trained("dpo", smoothing=0.0)
    assert_equal_training(dpo, trained("dpo"))
    assert_other_training(dpo, trained("dpo", smoothing=0.1))


@pytest.mark.parametrize(("lam", "constant"), [(1.0, 0.0), (0.5, 0.0), (1.0, -1.7)])
def test_a_uniform_reference_is_none(lam, constant, monkeypatch):
    """log π_ref the same everywhere; with λ < 1 it must be 0, as both sides weigh it apart."""
    plain = trained("cpl", lam=lam)

    def uniform(self, batch):
        return torch.full(batch.actions.shape[:3], constant)

    monkeypatch.setattr(Reference, "log_probs", uniform)
    weights, metrics = trained("cpl", lam=lam, reference=True)
    for name, value in plain[0].items():
        np.testing.assert_allclose(weights[name], value, atol=1e-5)
    torch.testing.assert_close(metrics["contrast_loss"], plain[1]["contrast_loss"])


def pairs_only(batch):
    """The first two segments, ranked: one question, one comparison."""
    kept = (batch.first == 0) & (batch.second == 1)
    names = ("first", "second", "prefers_second", "weight")
    values = {name: getattr(batch, name)[kept][:, None] for name in names}
    pair = {name: getattr(batch, name)[:, :2] for name in ("observations", "actions")}
    answers = torch.tensor([[1.0], [0.0]])  # a tie would stand in both sums
    return replace(batch, **pair, **values | {"prefers_second": answers}, ranked=2)


@pytest.mark.parametrize("lam", [0.4, 1.0])
def test_a_ranking_of_two_segments_is_the_logistic_loss(lam):
    scores = torch.tensor([[0.3, -1.1], [2.0, 0.1]])
    batch = pairs_only(draw_for(SEEDS)(0))
    ranking, logistic = (
        contrast_loss(scores, batch, name, lam=lam) for name in ("ranking", "logistic")
    )
    torch.testing.assert_close(ranking, logistic)
    skipped = replace(batch, weight=torch.zeros_like(batch.weight))
    assert not contrast_loss(scores, skipped, "ranking", lam=lam).any()


def test_a_mean_over_a_temperature_is_a_sum_with_another_alpha():
    steps = draw_for(SEEDS)(0).actions.shape[2]
    sums = trained("cpl", alpha=1 / (0.7 * steps))
    means = trained("cpl", score="mean_over_temperature", temperature=0.7)
    for name, value in sums[0].items():
        np.testing.assert_allclose(means[0][name], value, atol=2e-5)
    torch.testing.assert_close(means[1]["contrast_loss"], sums[1]["contrast_loss"])


# --- A batch's loss ---


def test_a_ranking_of_a_batch_by_hand():
    """Two questions of three; the mean of a choice, of which each has two."""
    scores = torch.tensor([[0.5, -0.2, 1.0, 0.1, 0.9, -0.4]])
    batch = draw_for([0])(0)
    pairs = [(0, 1), (0, 2), (1, 2), (3, 4), (3, 5), (4, 5)]
    answers = [0.0, 1.0, 1.0, 0.0, 0.0, 1.0]  # 2 over 0 over 1, and 3 over 5 over 4
    first, second = torch.tensor(pairs).T[:, None]
    batch = replace(
        batch,
        observations=batch.observations[:, :6],
        actions=batch.actions[:, :6],
        first=first,
        second=second,
        prefers_second=torch.tensor([answers]),
        weight=torch.ones(1, 6),
        ranked=3,
    )
    s, expected = scores[0].double().numpy(), 0.0
    for order in ([2, 0, 1], [3, 5, 4]):
        for i in range(2):
            expected += np.log(np.exp(s[order[i:]]).sum()) - s[order[i]]
    found = contrast_loss(scores, batch, "ranking")
    assert found.item() == pytest.approx(expected / 4, rel=1e-6)
    skipped = replace(batch, weight=torch.tensor([[1.0, 1, 1, 0, 0, 0]]))
    alone = np.log(np.exp(s[:3]).sum()) - s[2] + np.log(np.exp(s[:2]).sum()) - s[0]
    found = contrast_loss(scores, skipped, "ranking")
    assert found.item() == pytest.approx(alone / 2, rel=1e-6)
    with pytest.raises(ValueError, match="needs ranked answers"):
        contrast_loss(scores, replace(batch, ranked=0), "ranking")


@pytest.mark.parametrize("objective", ["logistic", "hinge", "ipo"])
def test_skipped_comparisons_are_as_good_as_absent(objective):
    batch, scores = (
        draw_for(SEEDS)(0),
        torch.randn(2, 8, generator=torch.Generator().manual_seed(0)),
    )
    kept = torch.ones_like(batch.first, dtype=torch.bool)
    kept[0, ::3] = kept[1, 1::3] = kept[1, 0] = False
    names = ("first", "second", "prefers_second", "weight")
    absent = {name: getattr(batch, name)[kept].view(2, -1) for name in names}
    one, other = (
        contrast_loss(scores, each, objective, lam=0.7, margin=0.5, smoothing=0.05)
        for each in (replace(batch, weight=kept.float()), replace(batch, **absent))
    )
    torch.testing.assert_close(one, other)
    assert not torch.allclose(one, contrast_loss(scores, batch, objective, lam=0.7, margin=0.5))


@pytest.mark.parametrize("labels", ["soft", "hard"])
def test_soft_labels_are_the_mean_over_hard_ones(labels):
    batch, scores = (
        draw_for(SEEDS)(0),
        torch.randn(2, 8, generator=torch.Generator().manual_seed(0)),
    )
    chances = torch.rand(batch.first.shape, generator=torch.Generator().manual_seed(1))
    if labels == "hard":
        chances = chances.round()
    ends = of_comparisons(scores, batch.first, batch.second)
    hard = [preference_nll(*ends, torch.full_like(chances, y), 0.6) for y in (0.0, 1.0)]
    expected = averaged((1 - chances) * hard[0] + chances * hard[1], batch.weight)
    found = contrast_loss(scores, replace(batch, prefers_second=chances), lam=0.6)
    torch.testing.assert_close(found, expected)


def test_likelihoods_and_accuracy_by_hand():
    """Of two members, some of whose comparisons were skipped."""
    batch = draw_for(SEEDS)(0)
    draw = torch.Generator().manual_seed(2)
    log_probs = torch.randn(2, 8, 6, generator=draw)
    weight = (torch.rand(batch.first.shape, generator=draw) < 0.6).float()
    batch = replace(batch, weight=weight)
    found, explained = likelihoods(log_probs, batch), accuracy(log_probs.sum(2), batch)
    for member in (0, 1):
        means = log_probs[member].mean(1).tolist()
        better, worse, right = [], [], []
        columns = (batch.first, batch.second, batch.prefers_second, weight)
        for i, j, y, counts in zip(*(each[member].tolist() for each in columns), strict=True):
            if counts:
                better.append(y * means[j] + (1 - y) * means[i])
                worse.append(y * means[i] + (1 - y) * means[j])
            if counts and y != 0.5:
                right.append((means[j] > means[i]) == (y > 0.5))
        assert found["log_prob_preferred"][member].item() == pytest.approx(
            np.mean(better), rel=1e-4
        )
        assert found["log_prob_rejected"][member].item() == pytest.approx(np.mean(worse), rel=1e-4)
        assert found["log_prob"][member].item() == pytest.approx(np.mean(means), rel=1e-4)
        assert explained[member].item() == pytest.approx(np.mean(right), rel=1e-6)


# --- The reference ---


def test_the_reference_is_the_clone_and_stays_it():
    learner = build("dpo", SEEDS, policy={"dropout": 0.0, "average": 0.9})
    train(learner, SEEDS, stop=5)  # all of the cloning
    clone = {name: value.detach().clone() for name, value in learner.policy.parameters.items()}
    train(learner, SEEDS, start=5)
    assert_same(learner.reference.policy.parameters, clone)
    assert not torch.equal(learner.policy.parameters["w0"], clone["w0"])


def test_the_reference_drops_no_units():
    learner, draw = build("dpo", SEEDS, policy={"dropout": 0.5, "average": 0.0}), draw_for(SEEDS)
    batch = draw(0)
    seen = [learner.reference.log_probs(replace(batch, step=torch.tensor(i))) for i in (1, 2)]
    assert torch.equal(*seen)
    own = [learner.policy.log_probs(replace(batch, step=torch.tensor(i))) for i in (1, 2)]
    assert not torch.equal(*own)


def test_the_first_contrast_of_dpo_by_hand():
    """Policy and reference are one: log 2 whatever the answers, and the lead is 0."""
    learner, batch = build("dpo", [0], **DRY), draw_for([0])(0)
    contrast = learner.phases()[1].update
    metrics = contrast(batch)
    assert metrics["contrast_loss"].item() == pytest.approx(np.log(2), rel=1e-6)
    assert metrics["log_ratio"].item() == pytest.approx(0, abs=1e-7)
    before = numpy_log_probs(build("dpo", [0], **DRY), batch)
    gained = 0.1 * (numpy_log_probs(learner, batch) - before).sum(1)
    first, second, y = (
        each[0].numpy() for each in (batch.first, batch.second, batch.prefers_second)
    )
    lead = gained[second] - gained[first]
    expected = np.mean(y * np.logaddexp(0, -lead) + (1 - y) * np.logaddexp(0, lead))
    assert contrast(batch)["contrast_loss"].item() == pytest.approx(expected, rel=1e-5)


# --- Settings ---


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("cpl", {"lam": 0.3}),
        ("cpl", {"objective": "hinge"}),
        ("cpl", {"objective": "hinge", "margin": 0.4}),
        ("cpl", {"objective": "ipo"}),
        ("cpl", {"smoothing": 0.2}),
        ("dpo", {"smoothing": 0.2}),
        ("dpo", {"objective": "hinge", "margin": 0.4}),
        ("ipo", {}),
        ("rso", {"lam": 0.3}),
        ("rso", {"objective": "hinge", "margin": 0.4}),
        ("rso", {"objective": "ipo"}),
    ],
)
def test_settings_reach_the_loss(name, settings):
    """Of a policy that has left its reference, whose margins are not all 0."""
    plain = {"rso": {"rejection": False, "segments": 8}}.get(name, {})
    learner = build(name, [0], **DRY, **plain, **settings)
    draw, config = draw_for([0]), learner.config
    contrast = phase_of(learner, "contrast").update
    contrast(draw(0))
    batch = draw(1)
    if name == "rso":
        places = learner._accepted(learner.reward.segment_sums(batch), batch)
        batch = compared(batch, learner.reward.segment_sums(batch), places, "hard")
    log_probs = learner.policy.log_probs(batch)
    if learner.reference:
        log_probs = log_probs - learner.reference.log_probs(batch)
    margins = of_comparisons(config.alpha * log_probs.sum(2), batch.first, batch.second)
    first, second = (each[0].detach().double().numpy() for each in margins)
    y, ε = batch.prefers_second[0].numpy(), settings.get("smoothing", 0)
    y = (1 - ε) * y + ε * (1 - y)
    of = {
        "logistic": lambda lead: np.logaddexp(0, -lead),
        "hinge": lambda lead: np.maximum(0, config.margin - lead),
        "ipo": lambda lead: (lead - 0.5) ** 2,
    }[config.objective]
    lam = settings.get("lam", config.lam)
    expected = np.mean(y * of(second - lam * first) + (1 - y) * of(first - lam * second))
    found = contrast(draw(1))["contrast_loss"].item()
    assert found == pytest.approx(expected, rel=1e-5)
    assert abs(found - np.log(2)) > 1e-4


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("cpl", {"objective": "hing"}, "'objective' must be 'logistic' or 'hinge' or 'ipo' or"),
        ("cpl", {"margin": 2}, "margin must be 1 where there is no hinge"),
        ("cpl", {"temperature": 2}, "temperature must be 1 where the score is a sum"),
        ("cpl", {"objective": "ranking", "smoothing": 0.1}, "smoothing must be 0 for a ranking"),
        ("dpo", {"smoothing": 0.5}, r"smoothing must be in \[0, 0.5\)"),
        ("cpl", {"margin": 0}, "margin must be positive"),
        ("cpl", {"temperature": 0}, "temperature must be positive"),
        (
            "cpl",
            {"score": "mean_over_temperature", "alpha": 0.2},
            "alpha must be 0.1 where the score is a mean, not 0.2",
        ),
        ("cpl", {"score": "mean"}, "'score' must be 'alpha_times_sum' or 'mean_over_temperature'"),
        ("dpo", {"alpha": -1}, "alpha must be positive"),
        ("dpo", {"clone": {"steps": 0}}, "A reference is the clone, and clone.steps = 0 make none"),
        ("cpl", {"reference": True, "clone": {"steps": 0}}, "A reference is the clone"),
    ],
)
def test_what_cannot_be_is_refused(name, settings, said):
    with pytest.raises(UserError, match=said):
        configured(name, "laptop", settings)


@pytest.mark.parametrize(
    ("name", "settings", "title"),
    [
        ("cpl", {}, "CPL(λ=0.65)"),
        ("cpl", {"lam": 1}, "CPL"),
        ("cpl", {"lam": 1, "bc_weight": 1}, "CPL(BC)"),
        ("cpl", {"lam": 0.75, "reference": True}, "CPL(KL, λ=0.75)"),
        ("cpl", {"lam": 1, "objective": "hinge", "bc_weight": 1}, "CPL(BC, hinge)"),
        ("cpl", {"lam": 1, "clone": {"steps": 0}}, "CPL(not cloned)"),
        ("cpl", {"lam": 1, "score": "mean_over_temperature"}, "CPL(mean score)"),
        ("cpl", {"lam": 1, "reference": True}, "DPO"),
        ("dpo", {}, "DPO"),
        ("dpo", {"lam": 0.5}, "CPL(KL, λ=0.5)"),
        ("ipo", {"lam": 0.5}, "CPL(KL, IPO, λ=0.5)"),
        ("dpo", {"objective": "ranking"}, "DPO(ranking)"),
        ("dpo", {"smoothing": 0.1}, "DPO(ε=0.1)"),
        ("dpo", {"objective": "hinge"}, "DPO(hinge)"),
        ("ipo", {}, "IPO"),
    ],
)
def test_titles_tell_variants_apart(name, settings, title):
    assert find_method(name).title(configured(name, "laptop", settings)) == title
