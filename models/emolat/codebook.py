"""Eight codebooks, one an emotion: vector quantisation (equations 7 and 8), mean dispersion (9 and 10), sampling."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn import functional as F

from ..emotions import MIKELS
from ..errors import UserError


class Codebooks(nn.Module):
    """entries [8, N, W], and how often each was used lately: `use` [8, N], which sums to 1 in each book that was used.

    Sampling draws codes by their use, tempered; a high temperature is the paper's uniform draw.
    """

    def __init__(self, entries: int = 256, width: int = 1024, decay: float = 0.97, vigour_decay: float = 0.9):
        super().__init__()
        self.entries = nn.Parameter(torch.randn(len(MIKELS), entries, width) * width**-0.5)
        self.register_buffer("use", torch.full((len(MIKELS), entries), 1.0 / entries))
        # What revival goes by: a shorter average, in which an entry that no graph comes near is noticed after fourteen
        # steps, and one that lends a revived entry an even share, so that it is given time.
        self.register_buffer("vigour", self.use.clone())
        self.decay, self.vigour_decay = decay, vigour_decay

    def nearest(self, z: torch.Tensor, emotion: torch.Tensor) -> torch.Tensor:
        """Equation 7: z [B, S, W], emotion [B] -> [B, S] the nearest entry's number in the emotion's own book."""
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
        """Equation 9 over a batch: z [B, S, W], the entries they chose [B, S], emotion [B] -> [C, W] the mean of the
        entries chosen, for each emotion that is there. Gradients reach entries and vectors alike: given to entries
        alone they tore these from the vectors they stand for, and the books lay closer together with the dispersion
        than without (0.9 against 1.5)."""
        chosen = self.entries[emotion[:, None], numbers] + z - z.detach()
        return torch.stack([chosen[emotion == k].flatten(0, 1).mean(dim=0) for k in emotion.unique()])

    @torch.no_grad()
    def count(self, numbers: torch.Tensor, emotion: torch.Tensor) -> None:
        """Lets a batch's numbers [B, S] into the averages, in the books of emotion [B]."""
        seen = self._tally([(numbers, emotion)])
        for average, decay in ((self.use, self.decay), (self.vigour, self.vigour_decay)):
            average.lerp_(_shares(seen, average), 1 - decay)

    @torch.no_grad()
    def recount(self, parts: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Sets `use` to the exact shares over vectors (z [B, S, W], emotion [B]); a book without any keeps its own."""
        self.use.copy_(_shares(self.tally(parts), self.use))

    @torch.no_grad()
    def settle(self, parts: Iterable[tuple[torch.Tensor, torch.Tensor]], least: float = 0.25) -> None:
        """One of Lloyd's (1982) steps over vectors (z [B, S, W], emotion [B]), in random order: an entry becomes the
        mean of those nearest to it, and one that gets less than `least` times an even share moves onto one of them.
        A book without any stays."""
        seen, sums = torch.zeros_like(self.use), torch.zeros_like(self.entries)
        found: list[list[torch.Tensor]] = [[] for _ in MIKELS]
        for i, (z, emotion) in enumerate(parts):
            numbers = self.nearest(z, emotion)
            seen += self._tally([(numbers, emotion)])
            sums.index_put_((emotion[:, None].expand_as(numbers), numbers), z, accumulate=True)
            for vector, k in zip(z[:, i % z.shape[1]], emotion.tolist()):
                found[k] += [vector] * (len(found[k]) < seen.shape[1])
        self.entries.data = torch.where(seen[..., None] > 0, sums / seen[..., None].clamp(min=1), self.entries)
        for k, vectors in enumerate(found):
            rare = (seen[k] < least * seen[k].mean()).nonzero().flatten()[: len(vectors)]
            if len(rare):
                self.entries.data[k, rare] = torch.stack(vectors[: len(rare)])

    def tally(self, parts: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        """[8, N]: to how many of the vectors (z [B, S, W], emotion [B]) each entry is nearest."""
        return self._tally((self.nearest(z, emotion), emotion) for z, emotion in parts)

    def _tally(self, parts: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        """[8, N]: how often each entry stands among the numbers [B, S] of emotions [B]."""
        seen = torch.zeros_like(self.use)
        for numbers, emotion in parts:
            seen.index_put_(
                (emotion[:, None].expand_as(numbers), numbers), torch.ones_like(numbers, dtype=seen.dtype), True
            )
        return seen

    @torch.no_grad()
    def revive(self, z: torch.Tensor, emotion: torch.Tensor, least: float = 0.25) -> int:
        """Moves entries that are used less than `least` times an even share onto vectors of z [B, S, W], each in its
        emotion's book, as far as there are vectors. Returns how many moved. What `use` says of them stays as it is."""
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
        """[8]: how many entries of each book are in use, 1..N; 0 of a book that never was."""
        return perplexity(self.use)

    def sample(
        self, emotion: torch.Tensor, n: int, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """emotion [B] -> [B, n, W] codes of each one's own book. UserError for a temperature that is not above 0."""
        if temperature <= 0:
            raise UserError(f"The temperature is above 0 (1: codes by their use; high: all alike), got {temperature}.")
        logits = self.use[emotion].clamp(min=1e-12).log() / temperature
        numbers = torch.multinomial(logits.softmax(dim=-1).cpu(), n, replacement=True, generator=generator)
        return self.entries[emotion[:, None], numbers.to(self.entries.device)]


def perplexity(use: torch.Tensor) -> torch.Tensor:
    """Use [C, N] -> [C] the exponential of its entropy, 1..N; 0 where nothing was used."""
    total = use.sum(dim=1, keepdim=True)
    p = use / total.clamp(min=1e-12)
    return torch.exp(-(p * p.clamp(min=1e-12).log()).sum(dim=1)) * (total[:, 0] > 0)


def _shares(seen: torch.Tensor, otherwise: torch.Tensor) -> torch.Tensor:
    """Counts [8, N] as shares of each book's; a book without any has those of `otherwise`."""
    total = seen.sum(dim=1, keepdim=True)
    return torch.where(total > 0, seen / total.clamp(min=1), otherwise)


def mean_dispersion(means: torch.Tensor) -> torch.Tensor:
    """Equation 10: the books' means [C, W] (`Codebooks.means`) -> how far they lie apart, squared, averaged over the
    C^2 ordered pairs and, as the quantisation's errors are, over the W dimensions: else it would outweigh them W times.

    As printed it has no bound, and maximising it would carry the books away. What they hold is standardised; a pair
    counts at most 2 W, the squared distance of two such vectors that have nothing to do with one another. (1.5 times
    the distance of the real classes' means is reached at once by the adversary alone, and held nothing apart.)
    """
    squared = (means[:, None] - means[None]).square().sum(dim=-1)
    return squared.clamp(max=2.0 * means.shape[-1]).sum() / len(means) ** 2 / means.shape[-1]  # the diagonal is nought


def uniformity_loss(z: torch.Tensor, emotion: torch.Tensor, t: float = 2.0) -> torch.Tensor:
    """The uniformity loss of Wang and Isola (2020, section 4.1.2) among the graphs of an emotion; ours, not
    EmoLat's: vectors z [B, S, W] of emotions [B] -> the logarithm of the mean of exp(-t d) over pairs of graphs of
    one emotion, d the mean square between their vectors of one place. At most 0, where all fall together."""
    found = []
    for k, n in zip(*emotion.unique(return_counts=True)):
        if n > 1:
            own = z[emotion == k].transpose(0, 1)  # [S, n, W]
            away = (own[:, :, None] - own[:, None]).square().mean(dim=-1)
            found.append(away[:, ~torch.eye(int(n), dtype=torch.bool, device=z.device)].flatten())
    return torch.exp(-t * torch.cat(found)).mean().log() if found else z.new_zeros(())


def separation(vectors: torch.Tensor, labels: torch.Tensor) -> float:
    """Between-class over within-class distance of vectors [n, W] with labels [n]: the mean distance of class means from
    one another over the mean distance of vectors from their own class's mean."""
    means = torch.stack([vectors[labels == k].mean(dim=0) for k in labels.unique()])
    within = torch.stack([(vectors[labels == k] - m).norm(dim=1).mean() for k, m in zip(labels.unique(), means)]).mean()
    between = torch.pdist(means).mean()
    return float(between / within.clamp(min=1e-12))
