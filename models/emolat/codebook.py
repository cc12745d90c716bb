"""Eight codebooks, one an emotion: vector quantisation (equations 7 and 8), mean dispersion (9 and 10), sampling."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn import functional as F

from ..emotions import MIKELS
from ..errors import UserError


class Codebooks(nn.Module):
    """entries [8, N, W], and a moving average of how often each is used: `use` [8, N], which sums to 1 in each book
    that was used.

    Sampling draws codes by their use and a temperature; a high temperature is the paper's uniform draw.
    """

    use: torch.Tensor
    vigour: torch.Tensor

    def __init__(self, entries: int = 256, width: int = 1024, decay: float = 0.97, vigour_decay: float = 0.9):
        super().__init__()
        self.entries = nn.Parameter(torch.randn(len(MIKELS), entries, width) * width**-0.5)
        self.register_buffer("use", torch.full((len(MIKELS), entries), 1.0 / entries))
        # For revival: a shorter average, which falls below the threshold fourteen steps after an entry's last use, and
        # in which a revived entry starts with an even share, so that it has time to be used.
        self.register_buffer("vigour", self.use.clone())
        self.decay, self.vigour_decay = decay, vigour_decay

    def nearest(self, z: torch.Tensor, emotion: torch.Tensor) -> torch.Tensor:
        """EmoLat's equation 7: z [B, S, W], emotion [B] -> [B, S] the nearest entry's number in the emotion's book."""
        return torch.cdist(z, self.entries[emotion]).argmin(dim=-1)

    def forward(self, z: torch.Tensor, emotion: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Equation 8: z [B, S, W] -> (quantised [B, S, W], numbers [B, S], loss). Gradients pass the quantisation
        straight through; the loss is |sg(z) - e|^2 + 0.25 |z - sg(e)|^2 (van den Oord et al. 2017)."""
        numbers = self.nearest(z, emotion)
        e = self.entries[emotion[:, None], numbers]
        loss = F.mse_loss(e, z.detach()) + 0.25 * F.mse_loss(z, e.detach())
        if self.training:
            self.count(numbers, emotion)
        return z + (e - z).detach(), numbers, loss

    def means(self, z: torch.Tensor, numbers: torch.Tensor, emotion: torch.Tensor) -> torch.Tensor:
        """Equation 9 over a batch: z [B, S, W], the numbers of their entries [B, S], emotion [B] -> [C, W] the mean of
        these entries for each emotion of the batch. Gradients reach entries and vectors alike. Where they reached
        entries only, these moved away from their vectors, and the books lay closer together with the dispersion than
        without (0.9 against 1.5)."""
        chosen = self.entries[emotion[:, None], numbers] + z - z.detach()
        return torch.stack([chosen[emotion == k].flatten(0, 1).mean(dim=0) for k in emotion.unique()])

    @torch.no_grad()
    def count(self, numbers: torch.Tensor, emotion: torch.Tensor) -> None:
        """Updates the averages with a batch's numbers [B, S], in the books of emotion [B]."""
        seen = self._tally([(numbers, emotion)])
        for average, decay in ((self.use, self.decay), (self.vigour, self.vigour_decay)):
            average.lerp_(_shares(seen, average), 1 - decay)

    @torch.no_grad()
    def recount(self, parts: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Sets `use` to the exact shares over vectors (z [B, S, W], emotion [B]); a book without vectors keeps its
        own."""
        self.use.copy_(_shares(self.tally(parts), self.use))

    @torch.no_grad()
    def settle(self, parts: Iterable[tuple[torch.Tensor, torch.Tensor]], least: float = 0.25) -> None:
        """One step of Lloyd's algorithm (1982) over vectors (z [B, S, W], emotion [B]) in random order: an entry
        becomes the mean of its nearest vectors; one with less than `least` times an even share is set to a vector of
        its book. A book without vectors stays."""
        seen, sums = torch.zeros_like(self.use), torch.zeros_like(self.entries)
        spare: list[list[torch.Tensor]] = [[] for _ in MIKELS]
        for i, (z, emotion) in enumerate(parts):
            numbers = self.nearest(z, emotion)
            seen += self._tally([(numbers, emotion)])
            sums.index_put_((emotion[:, None].expand_as(numbers), numbers), z, accumulate=True)
            for vector, k in zip(z[:, i % z.shape[1]], emotion.tolist()):
                spare[k] += [vector] * (len(spare[k]) < seen.shape[1])
        self.entries.data = torch.where(seen[..., None] > 0, sums / seen[..., None].clamp(min=1), self.entries)
        for k, vectors in enumerate(spare):
            rare = (seen[k] < least * seen[k].mean()).nonzero().flatten()[: len(vectors)]
            if len(rare):
                self.entries.data[k, rare] = torch.stack(vectors[: len(rare)])

    def tally(self, parts: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        """[8, N]: of how many vectors (z [B, S, W], emotion [B]) each entry is the nearest."""
        return self._tally((self.nearest(z, emotion), emotion) for z, emotion in parts)

    def _tally(self, parts: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        """[8, N]: how often each entry occurs among the numbers [B, S] of emotions [B]."""
        seen = torch.zeros_like(self.use)
        for numbers, emotion in parts:
            seen.index_put_(
                (emotion[:, None].expand_as(numbers), numbers), torch.ones_like(numbers, dtype=seen.dtype), True
            )
        return seen

    @torch.no_grad()
    def revive(self, z: torch.Tensor, emotion: torch.Tensor, least: float = 0.25) -> int:
        """Sets entries that are used less than `least` times an even share to vectors of z [B, S, W], each in its
        emotion's book, as far as there are vectors. Returns how many were set. Their `use` is unchanged."""
        moved = 0
        for k in emotion.unique().tolist():
            dead = (self.vigour[k] < least / self.use.shape[1]).nonzero().flatten()
            vectors = z[emotion == k].flatten(0, 1)
            if len(dead) and len(vectors):
                chosen = torch.randperm(len(vectors), device=z.device)[: len(dead)]
                dead = dead[: len(chosen)]
                self.entries.data[k, dead] = vectors[chosen].to(self.entries)
                self.vigour[k, dead] = 1.0 / self.use.shape[1]
                moved += len(dead)
        return moved

    def perplexity(self) -> torch.Tensor:
        """[8]: the effective number of entries in use in each book, 1..N; 0 for a book that was never used."""
        return perplexity(self.use)

    def sample(
        self, emotion: torch.Tensor, n: int, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """emotion [B] -> [B, n, W] codes of each one's own book. UserError for a temperature that is not above 0."""
        if temperature <= 0:
            raise UserError(
                f"The temperature must be above 0 (1: codes by their use; high: all alike), got {temperature}."
            )
        logits = self.use[emotion].clamp(min=1e-12).log() / temperature
        numbers = torch.multinomial(logits.softmax(dim=-1).cpu(), n, replacement=True, generator=generator)
        return self.entries[emotion[:, None], numbers.to(self.entries.device)]


def perplexity(use: torch.Tensor) -> torch.Tensor:
    """use [C, N] -> [C] the exponential of its entropy, 1..N; 0 where nothing was used."""
    total = use.sum(dim=1, keepdim=True)
    p = use / total.clamp(min=1e-12)
    return torch.exp(-(p * p.clamp(min=1e-12).log()).sum(dim=1)) * (total[:, 0] > 0)


def _shares(seen: torch.Tensor, otherwise: torch.Tensor) -> torch.Tensor:
    """Counts [8, N] as shares of each book's sum; a book without counts has the shares of `otherwise`."""
    total = seen.sum(dim=1, keepdim=True)
    return torch.where(total > 0, seen / total.clamp(min=1), otherwise)


def mean_dispersion(means: torch.Tensor) -> torch.Tensor:
    """Equation 10: the books' means [C, W] (`Codebooks.means`) -> their squared distances, averaged over the C^2
    ordered pairs and, as the quantisation's errors are, over the W dimensions: otherwise it would outweigh them W
    times.

    The printed equation has no bound, and the books would diverge under it. The vectors are standardised; a pair counts
    at most 2 W, the squared distance of two unrelated such vectors. (A bound of 1.5 times the distance of the real
    classes' means had no effect: the adversary alone reaches it.)
    """
    squared = (means[:, None] - means[None]).square().sum(dim=-1)
    return squared.clamp(max=2.0 * means.shape[-1]).sum() / len(means) ** 2 / means.shape[-1]  # the diagonal is 0


def uniformity_loss(z: torch.Tensor, emotion: torch.Tensor, t: float = 2.0) -> torch.Tensor:
    """The uniformity loss of Wang and Isola (2020, section 4.1.2) among the graphs of an emotion; ours, not
    EmoLat's: vectors z [B, S, W] of emotions [B] -> the logarithm of the mean of exp(-t d) over pairs of graphs of
    one emotion, d the mean squared difference of their vectors. It is at most 0; 0 where all are equal."""
    pairs = []
    for k, n in zip(*emotion.unique(return_counts=True)):
        if n > 1:
            own = z[emotion == k].transpose(0, 1)  # [S, n, W]
            away = (own[:, :, None] - own[:, None]).square().mean(dim=-1)
            pairs.append(away[:, ~torch.eye(int(n), dtype=torch.bool, device=z.device)].flatten())
    return torch.exp(-t * torch.cat(pairs)).mean().log() if pairs else z.new_zeros(())


def separation(vectors: torch.Tensor, labels: torch.Tensor) -> float:
    """Between-class over within-class distance of vectors [n, W] with labels [n]: the mean distance of class means from
    one another over the mean distance of vectors from their own class's mean."""
    means = torch.stack([vectors[labels == k].mean(dim=0) for k in labels.unique()])
    within = torch.stack([(vectors[labels == k] - m).norm(dim=1).mean() for k, m in zip(labels.unique(), means)]).mean()
    between = torch.pdist(means).mean()
    return float(between / within.clamp(min=1e-12))
