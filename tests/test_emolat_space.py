"""EmoLat's latent space: each equation against values worked by hand."""

import math

import pytest
import torch
from comfyui_affect.models.emolat.codebook import Codebooks, mean_dispersion, separation, uniformity_loss
from comfyui_affect.models.emolat.discriminator import Discriminator, discriminator_loss, fake_label, generator_loss
from comfyui_affect.models.emolat.graph import GraphBatch, GraphConvolution, GraphEncoder, SemanticInjection, adjacency
from comfyui_affect.models.emolat.space import EmoLatConfig
from comfyui_affect.models.errors import UserError
from comfyui_affect.training.emolat import Space, SpaceConfig


def batch(pairs, width=8, p=4, seed=0):
    r = lambda *shape: torch.randn(shape, generator=torch.Generator().manual_seed(seed + len(shape) * 10 + shape[-2]))
    b = len(pairs)
    present = torch.arange(p)[None] < torch.tensor(pairs)[:, None]
    return GraphBatch(r(b, p, width), r(b, p, width) + 1, present, r(b, width), r(b, width) - 1)


def rows(g, keep, p=None):
    cut = slice(None, p)
    return GraphBatch(
        g.objects[keep, cut], g.attributes[keep, cut], g.present[keep, cut], g.adjective[keep], g.emotion[keep]
    )


def test_edges_join_both_ends():
    g = batch([2])
    f, present = g.edges()
    assert torch.equal(f[0, 1], torch.cat([g.objects[0, 1], g.attributes[0, 1]]))
    assert torch.equal(f[0, 4 + 1], torch.cat([g.objects[0, 1], g.adjective[0]]))
    assert present.tolist() == [[True, True, False, False] * 2]


def test_injection_by_hand():
    """Two edges, every weight the identity or its first half: n a_i V_i with a = softmax(f_E K / sqrt(d))."""
    layer = SemanticInjection(2)
    with torch.no_grad():
        for line in (layer.query, layer.key, layer.value):
            line.weight.zero_()[:, :2] = torch.eye(2)
            line.bias.zero_()
    edges = torch.tensor([[[1.0, 0, 9, 9], [0, 2.0, 9, 9], [5.0, 5, 5, 5]]])
    emotion, present = torch.tensor([[1.0, 1.0]]), torch.tensor([[True, True, False]])
    a = torch.softmax(torch.tensor([1.0, 2.0]) / math.sqrt(2), 0)
    want = torch.stack([2 * a[0] * torch.tensor([1.0, 0]), 2 * a[1] * torch.tensor([0, 2.0]), torch.zeros(2)])
    assert torch.allclose(layer(emotion, edges, present)[0], want, atol=1e-6)
    # Their mean over the edges is what equation 3 gives.
    assert torch.allclose(
        layer(emotion, edges, present)[0, :2].mean(0), a @ torch.tensor([[1.0, 0], [0, 2.0]]), atol=1e-6
    )


def test_links_of_the_second_graph():
    links = adjacency(torch.tensor([[True, False]]))[0]  # nodes: o0 o1 a0 a1 g s0 s1 t0 t1 e
    assert sorted(map(tuple, links.nonzero().tolist())) == [(0, 2), (0, 4), (0, 5), (0, 7), (2, 5), (4, 7)]
    assert adjacency(torch.tensor([[False, False]]))[0].nonzero().tolist() == [[4, 9]]  # without objects: g to e


def test_graph_convolution_is_the_mean_of_what_points_here():
    layer = GraphConvolution(1, 1)
    with torch.no_grad():
        layer.line.weight.fill_(1.0), layer.line.bias.zero_()
    links = torch.tensor([[[False, True], [False, False]]])
    assert layer(torch.tensor([[[2.0], [4.0]]]), links).flatten().tolist() == [2.0, 3.0]


def test_graphs_encoded_at_once_are_graphs_encoded_one_by_one():
    torch.manual_seed(0)
    encoder = GraphEncoder(8, 16, slots=4, out=6).eval()
    g = batch([3, 1, 0, 4])
    together = encoder(g)
    assert together.shape == (4, 2, 12) and torch.isfinite(together).all()
    for i, n in enumerate((3, 1, 0, 4)):
        alone = encoder(rows(g, [i], max(1, n)))  # without the padding
        assert torch.allclose(together[i], alone[0], atol=1e-5)


def test_every_word_reaches_the_graphs_feature():
    torch.manual_seed(0)
    encoder = GraphEncoder(8, 16, slots=4, out=6)
    g = batch([2])
    parts = [t.clone().requires_grad_(True) for t in (g.objects, g.attributes, g.adjective, g.emotion)]
    encoder.eval()(GraphBatch(parts[0], parts[1], g.present, parts[2], parts[3])).square().sum().backward()
    for t in parts:
        assert t.grad.abs().max() > 0
    assert parts[0].grad[0, 2:].abs().max() == 0  # padding


def test_a_graph_without_objects_keeps_its_emotion():
    torch.manual_seed(0)
    encoder = GraphEncoder(8, 16, slots=4, out=6).eval()
    nothing, adjective = torch.zeros(2, 1, 8), torch.randn(1, 8).expand(2, -1)
    bare = GraphBatch(nothing, nothing, torch.zeros(2, 1, dtype=torch.bool), adjective, torch.randn(2, 8))
    first, second = encoder(bare)
    assert (first - second).abs().max() > 1e-3


def test_quantisation_takes_the_nearest_entry_of_the_emotions_own_book():
    books = Codebooks(4, 3)
    z = torch.randn(2, 5, 3, requires_grad=True)
    emotion = torch.tensor([6, 1])
    quantised, numbers, loss = books(z, emotion)
    for b in range(2):
        for s in range(5):
            distances = (books.entries[emotion[b]] - z[b, s]).norm(dim=1)
            assert numbers[b, s] == distances.argmin()
            assert torch.allclose(quantised[b, s], books.entries[emotion[b], numbers[b, s]], atol=1e-6)
    e = books.entries[emotion[:, None], numbers]
    assert float(loss.detach()) == pytest.approx(1.25 * float(((e - z).detach() ** 2).mean()), rel=1e-5)
    quantised.sum().backward()
    assert torch.equal(z.grad, torch.ones_like(z)) and books.entries.grad is None


def test_use_perplexity_and_revival():
    books = Codebooks(4, 3, decay=0.0, vigour_decay=0.0)
    assert books.perplexity().tolist() == pytest.approx([4.0] * 8)
    z = books.entries.detach()[2, [0, 0, 0, 1]][None]
    books(z, torch.tensor([2]))
    assert books.use[2].tolist() == [0.75, 0.25, 0, 0] and books.use[3].tolist() == [0.25] * 4
    assert float(books.perplexity()[2]) == pytest.approx(math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25))))
    vectors = torch.full((1, 2, 3), 7.0)
    assert books.revive(vectors, torch.tensor([2])) == 2
    assert torch.equal(books.entries[2, 2], torch.full((3,), 7.0))
    # What was moved has not been used: it is spared the next revival, and neither drawn nor counted.
    assert books.use[2].tolist() == [0.75, 0.25, 0, 0] and books.revive(vectors, torch.tensor([2])) == 0
    for _ in range(50):
        books(z, torch.tensor([2]))
        books.revive(torch.randn(1, 2, 3) + 50, torch.tensor([2]))
    assert float(books.perplexity()[2]) < 2
    books.recount([(z, torch.tensor([2])), (books.entries.detach()[2, [1, 1]][None], torch.tensor([2]))])
    assert books.use[2].tolist() == pytest.approx([0.5, 0.5, 0, 0])


def test_books_settle_onto_the_means_of_what_is_nearest():
    books = Codebooks(4, 2)
    before = books.entries.detach().clone()
    books.entries.data[2] = torch.tensor([[0.0, 0], [10, 10], [50, 50], [60, 60]])  # nothing comes near the last two
    z = torch.tensor([[1.0, 0], [0, 1], [9, 10], [10, 9]])[None]
    books.settle([(z, torch.tensor([2])), (z + 0.2, torch.tensor([2]))])
    assert torch.allclose(books.entries[2, :2], torch.tensor([[0.6, 0.6], [9.6, 9.6]]))
    seen = torch.cat([z, z + 0.2], dim=1)[0]
    assert all(bool((row == seen).all(dim=1).any()) for row in books.entries[2, 2:])
    assert torch.equal(books.entries[3], before[3])


def test_sampling_follows_use_and_temperature():
    books = Codebooks(4, 3)
    books.use[5] = torch.tensor([0.7, 0.3, 0.0, 0.0])
    draw = lambda t: books.sample(torch.tensor([5]), 4000, t, torch.Generator().manual_seed(0))[0]
    share = lambda codes, i: float((codes == books.entries[5, i]).all(dim=1).float().mean())
    assert share(draw(1.0), 0) == pytest.approx(0.7, abs=0.03) and share(draw(1.0), 2) == 0
    assert share(draw(1000.0), 2) == pytest.approx(0.25, abs=0.03)
    assert torch.equal(draw(1.0), draw(1.0))
    with pytest.raises(UserError, match="above 0"):
        draw(0.0)


def test_dispersion_by_hand_and_bounded():
    assert float(mean_dispersion(torch.tensor([[1.0, 0], [1, 1], [2, 0]]))) == pytest.approx(2 * (1 + 1 + 2) / 9 / 2)
    assert float(mean_dispersion(torch.tensor([[1.0, 0], [1, 1], [1, 100]]))) == pytest.approx(2 * (1 + 4 + 4) / 9 / 2)


def test_the_books_means_are_of_what_a_batch_chose():
    books, z = Codebooks(3, 2), torch.zeros(3, 2, 2, requires_grad=True)
    emotion, numbers = torch.tensor([6, 2, 6]), torch.tensor([[0, 0], [1, 2], [0, 2]])
    means = books.means(z, numbers, emotion)
    assert torch.allclose(means[0], books.entries[2, 1:].mean(dim=0))
    assert torch.allclose(means[1], (3 * books.entries[6, 0] + books.entries[6, 2]) / 4)
    means[1].sum().backward()
    assert books.entries.grad[6].tolist() == [[0.75, 0.75], [0, 0], [0.25, 0.25]] and not books.entries.grad[2].any()
    assert z.grad[:, 0, 0].tolist() == [0.25, 0, 0.25]


def test_separation():
    near = torch.tensor([[0.0], [1], [0], [1]])
    assert separation(near + 10 * torch.tensor([[0.0], [0], [1], [1]]), torch.tensor([0, 0, 1, 1])) == pytest.approx(20)


def test_discriminator_and_generator_losses_by_hand():
    p = torch.tensor([0.5, 0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.05])
    logits, emotion = p.log().view(1, 1, 8), torch.tensor([0])
    assert fake_label(emotion).tolist()[0] == pytest.approx([0] + [1 / 7] * 7)
    real, fake = -math.log(0.5), -sum(math.log(v) for v in p[1:].tolist()) / 7
    assert float(discriminator_loss(logits, logits, emotion)) == pytest.approx(real + fake, rel=1e-5)
    assert float(generator_loss(logits, emotion, torch.tensor(0.3), torch.tensor(0.1))) == pytest.approx(
        real + 0.2, rel=1e-5
    )


def test_the_discriminators_loss_reaches_its_own_weights_alone():
    torch.manual_seed(0)
    encoder, books, judge = GraphEncoder(8, 16, slots=4, out=6), Codebooks(16, 12), Discriminator(12, 16)
    g, emotion = batch([2, 3]), torch.tensor([1, 5])
    codes, _, _ = books(encoder(g), emotion)
    discriminator_loss(judge(torch.randn(2, 3, 12)), judge(codes.detach()), emotion).backward()
    assert all(p.grad is not None for p in judge.parameters())
    assert all(p.grad is None for p in (*encoder.parameters(), *books.parameters()))


@pytest.mark.parametrize("only", ["adversary", "quantisation", "dispersion", "uniformity"])
def test_each_loss_of_stage_one_reaches_the_weights_it_should(only):
    """Through the training module, one loss at a time: what it adds to a space's gradients beyond those of
    quantisation, which no weight leaves out."""
    weights = {"adversary": 0.0, "dispersion": 0.0, "uniformity": 0.0}
    graphs, emotion, real = batch([2, 3, 2]), torch.tensor([1, 5, 1]), torch.randn(3, 3, EmoLatConfig().code_width)

    def gradients(**given):
        torch.manual_seed(0)
        space = Space(EmoLatConfig(entries=16), SpaceConfig(hidden=16, slots=4, **weights | given), 8)
        space.count(iter([(graphs, emotion)]))
        space(graphs, real, emotion, revive=False)["generator"].backward()
        return {
            part: sum(
                float(p.grad.abs().sum()) if p.grad is not None else 0.0 for p in getattr(space, part).parameters()
            )
            for part in ("encoder", "codebooks", "judge")
        }

    without = gradients()
    with_it = without if only == "quantisation" else gradients(**{only: 1.0})
    assert with_it["judge"] == 0  # the generator moves through an adversary that is held
    if only == "quantisation":
        assert without["encoder"] > 0 and without["codebooks"] > 0
    else:
        assert with_it["encoder"] != pytest.approx(without["encoder"], rel=1e-4)
        moves_entries = with_it["codebooks"] != pytest.approx(without["codebooks"], rel=1e-4)
        assert moves_entries == (only == "dispersion")


def test_uniformity_by_hand():
    z = torch.zeros(3, 2, 4)
    emotion = torch.tensor([5, 5, 1])
    assert (
        float(uniformity_loss(z, emotion)) == 0 and float(uniformity_loss(z[1:], emotion[1:])) == 0
    )  # no two of one emotion
    z[1, 0] = 1.0  # a mean square of 1 in one place of two, and of 0 in the other
    z[2] = 9.0
    assert float(uniformity_loss(z, emotion)) == pytest.approx(math.log((math.exp(-2) + 1) / 2), rel=1e-5)
    z.requires_grad_(True)
    uniformity_loss(z, emotion).backward()
    assert z.grad[0, 0].abs().sum() > 0 and not z.grad[2].any()
