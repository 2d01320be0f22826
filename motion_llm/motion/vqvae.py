"""The learned quantiser: a small VQ-VAE (van den Oord et al. 2017) of 1D convolutions over time, as this field uses.

A code's frames depend on its neighbours, so there are no seams where codes meet. The loss is told in what counts: the
distance of joints in metres, and of their velocities over the ground, which keeps feet from sliding.
"""

import logging
import math
import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from motion_llm.motion.features import ROOT, Layout, feet_of
from motion_llm.motion.kmeans import kmeans

log = logging.getLogger(__name__)

WIDTH, LATENT = 128, 32  # channels inside, and of a code
STEPS, BATCH, CROP = 4000, 32, 64  # updates, clips each, frames of a clip
LR, WARM_UP = 1e-3, 100  # AdamW's; it rises over the first steps, then falls along a cosine
UNQUANTISED = 0.25  # share of the steps, at first, without a codebook; its codes then begin as k-means of the latents
SAMPLES = 12_000  # latents of that k-means
VELOCITY, FEET, RATE, PATH = 0.1, 0.1, 0.05, 1.0  # weights of the loss beside the joints' places, see `loss_of`
SQUARE = 20.0  # a metre; weight of the squared distance of the places
STANDING = 0.25  # metres a second; a foot that is slower counts as standing
COMMITMENT = 0.25  # keeps the encoder near its codes (van den Oord et al. 2017)
DECAY = 0.99  # of the codes' moving averages
DEAD = 0.05  # a code used less than this share of the average begins anew, as a latent of the batch
LAST_RESET = 0.8  # of the steps; codes begun later would not learn
PACE = 0.1  # clips are played faster or slower by up to about this share


class _Block(nn.Module):
    """A residual block: a dilated convolution over time, then one of a single frame."""

    def __init__(self, width: int, dilation: int):
        super().__init__()
        self.wide = nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation, padding_mode="replicate")
        self.narrow = nn.Conv1d(width, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.narrow(functional.silu(self.wide(functional.silu(x))))


def _smooth(inside: int, outside: int) -> nn.Conv1d:
    return nn.Conv1d(inside, outside, 3, padding=1, padding_mode="replicate")


class _Network(nn.Module):
    """Features (B, F, T) to latents (B, LATENT, T / window) and back; window is a power of 2, width the channels."""

    def __init__(self, features: int, codes: int, window: int, width: int):
        super().__init__()
        halvings = int(math.log2(window))
        encoder, decoder = [_smooth(features, width), nn.SiLU()], [_smooth(LATENT, width)]
        for _ in range(halvings):
            encoder += [nn.Conv1d(width, width, 4, 2, 1), _Block(width, 3), _Block(width, 1)]
            decoder += [_Block(width, 1), _Block(width, 3), nn.SiLU(), nn.Upsample(scale_factor=2),
                        _smooth(width, width)]
        self.encoder = nn.Sequential(*encoder, _smooth(width, LATENT))
        self.decoder = nn.Sequential(*decoder, _Block(width, 1), _Block(width, 3), nn.SiLU(), _smooth(width, features))
        self.register_buffer("codebook", torch.zeros(codes, LATENT))
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))

    def nearest(self, latents: torch.Tensor) -> torch.Tensor:
        """Codes (B, T) of latents (B, LATENT, T)."""
        points = latents.transpose(1, 2).reshape(-1, LATENT)
        return torch.cdist(points, self.codebook).argmin(1).view(len(latents), -1)

    def vectors(self, codes: torch.Tensor) -> torch.Tensor:
        """(B, LATENT, T) of codes (B, T)."""
        return self.codebook[codes].transpose(1, 2)


class VqVae:
    """The network with its codebook. encode and decode see a whole clip at once."""

    def __init__(self, network: _Network, window: int):
        self.network, self.window = network.eval(), window

    @staticmethod
    def fit(clips: Sequence[np.ndarray], codes: int, window: int, seed: int, layout: Layout, fps: float,
            steps: int = STEPS, width: int = WIDTH, batch: int = BATCH) -> "VqVae":
        """From clips (T, F) of features: steps updates from batch clips each, of a network of width channels. Raises
        ValueError for a window that is no power of 2."""
        network = _untrained(layout.width, codes, window, width, seed)
        with torch.enable_grad():
            _Training(network, clips, feet_of(np.concatenate(clips), layout), fps, steps, batch, seed).run()
        return VqVae(network, window)

    @torch.no_grad()
    def encode(self, features: np.ndarray) -> np.ndarray:
        """Codes (T / window,) of features (T, F), T a multiple of the window."""
        frames = (torch.from_numpy(features).float() - self.network.mean) / self.network.scale
        return self.network.nearest(self.network.encoder(frames.T[None]))[0].numpy()

    @torch.no_grad()
    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Features (n * window, F) of codes (n,)."""
        frames = self.network.decoder(self.network.vectors(torch.from_numpy(codes)[None]))[0].T
        return (frames * self.network.scale + self.network.mean).double().numpy()

    @property
    def codebook(self) -> np.ndarray:
        """(K, LATENT)"""
        return self.network.codebook.numpy()

    def tensors(self) -> dict[str, np.ndarray]:
        """What is kept beside the codebook."""
        state = self.network.state_dict()
        return {name: tensor.contiguous().numpy() for name, tensor in state.items() if name != "codebook"}

    @staticmethod
    def restore(codebook: np.ndarray, tensors: Mapping[str, np.ndarray], window: int, width: int) -> "VqVae":
        """Raises ValueError for tensors that are not those of such a network."""
        channels = len(tensors["decoder.0.bias"]) if "decoder.0.bias" in tensors else WIDTH
        network = _untrained(width, len(codebook), window, channels, 0)
        wanted, given = network.state_dict(), {**tensors, "codebook": codebook}
        for name in sorted(set(wanted) | set(given)):
            found = f"is {given[name].dtype} {given[name].shape}" if name in given else "is missing"
            if name not in wanted:
                raise ValueError(f"tensor {name} is none of this network")
            if name not in given or given[name].shape != wanted[name].shape or given[name].dtype != np.float32:
                raise ValueError(f"tensor {name} {found}, expected float32 {tuple(wanted[name].shape)}")
            if not np.isfinite(given[name]).all():
                raise ValueError(f"tensor {name} holds what is no number")
        network.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in given.items()})
        return VqVae(network, window)


def _untrained(features: int, codes: int, window: int, width: int, seed: int) -> _Network:
    if window < 1 or window & (window - 1):
        raise ValueError(f"a window of {window} frames: the network halves time, expected 1, 2, 4, 8 ...")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return _Network(features, codes, window, width)


def loss_of(found: torch.Tensor, true: torch.Tensor, fps: float, feet: Sequence[int]) -> tuple[torch.Tensor,
                                                                                               torch.Tensor]:
    """The loss, and in it the mean distance of joints in metres, of features (B, F, T) in their own units. Beside that
    distance count its square, the distance of velocities over the ground (metres a second), once more that of feet that
    stand, the distance of the rates, and how far from the way and the heading these lead.

    By distance alone the best guess is a median: of rare motions to the left and to the right one in the middle, at
    which the network stays. The square makes what is far off count more."""
    (rates, places), (true_rates, true_places) = _parts(found), _parts(true)
    off = places - true_places  # (B, joints, 3, T)
    distance, square = _length(off).mean(), off.square().sum(2).mean()
    velocities = _velocities(true_rates, true_places, fps)
    slips = _length(_velocities(rates, places, fps) - velocities)  # (B, joints, T - 1)
    standing = _length(velocities[:, feet]) < STANDING
    sliding = (slips[:, feet] * standing).sum() / (standing.sum() + 1)
    wrong = rates - true_rates
    path = (wrong.cumsum(-1) / fps).abs().mean()
    loss = (distance + SQUARE * square + VELOCITY * slips.mean() + FEET * sliding + RATE * wrong.abs().mean()
            + PATH * path)
    return loss, distance


def _parts(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rates (B, 3, T) and places (B, joints, 3, T)."""
    return features[:, :ROOT], features[:, ROOT:].unflatten(1, (-1, 3))


def _velocities(rates: torch.Tensor, places: torch.Tensor, fps: float) -> torch.Tensor:
    """Of the joints over the ground, in the figure's heading (B, joints, 3, T - 1), metres a second: their own, the
    centre's, and what turning adds, which for an angle w about the upright axis is w (z, 0, -x)."""
    own, middle = places.diff(dim=-1) * fps, (places[..., 1:] + places[..., :-1]) / 2
    left, ahead, turning = rates[:, None, :, :-1].unbind(2)
    return torch.stack([own[:, :, 0] + left + turning * middle[:, :, 2], own[:, :, 1],
                        own[:, :, 2] + ahead - turning * middle[:, :, 0]], 2)


def _length(vectors: torch.Tensor) -> torch.Tensor:
    """Lengths over the third dimension, with a gradient at 0 as well."""
    return (vectors.square().sum(2) + 1e-6).sqrt()


def _held(clip: np.ndarray, frames: int) -> np.ndarray:
    """A clip (T, F) whose last frame, where it is shorter than that, is held still to its end."""
    missing = max(frames - len(clip), 0)
    longer = np.pad(clip, ((0, missing), (0, 0)), mode="edge")
    longer[len(clip):, :ROOT] = 0
    return longer


class _Training:
    """One fit: batches, steps, and the codebook's moving averages (Razavi et al. 2019)."""

    def __init__(self, network: _Network, clips: Sequence[np.ndarray], feet: Sequence[int], fps: float,
                 steps: int, size: int, seed: int):
        self.network, self.feet, self.fps, self.steps, self.size = network.train(), list(feet), fps, steps, size
        self.rng = np.random.default_rng(seed)
        frames = np.concatenate(clips)
        mean, scale = frames.mean(0), np.full(frames.shape[1], frames[:, ROOT:].std(0).mean())
        scale[:ROOT] = frames[:, :ROOT].std(0)  # one scale for all places: a centimetre counts the same everywhere
        network.mean.copy_(torch.from_numpy(mean))
        network.scale.copy_(torch.from_numpy(np.maximum(scale, 1e-3)))
        longest = int(CROP * (1 + PACE)) + 2
        self.clips = [_held(clip, longest) for clip in clips]
        lengths = np.array([len(clip) for clip in clips], dtype=float)
        self.chances = lengths / lengths.sum()
        self.unquantised = int(UNQUANTISED * steps)
        self.optimiser = torch.optim.AdamW(network.parameters(), LR, betas=(0.9, 0.99), weight_decay=0.0)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimiser, lambda step: min(
            1, (step + 1) / min(WARM_UP, 1 + steps // 10)) * (0.01 + 0.495 * (1 + math.cos(math.pi * step / steps))))
        self.latents: list[torch.Tensor] = []  # of the steps before the codebook begins

    def run(self) -> None:
        started = time.monotonic()
        for step in range(self.steps):
            batch = self.batch()
            quantised, extra = self.quantise(self.network.encoder(
                (batch - self.network.mean[:, None]) / self.network.scale[:, None]), step)
            found = self.network.decoder(quantised) * self.network.scale[:, None] + self.network.mean[:, None]
            loss, distance = loss_of(found, batch, self.fps, self.feet)
            self.optimiser.zero_grad()
            (loss + extra).backward()
            nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            self.optimiser.step()
            self.schedule.step()
            if (step + 1) % max(self.steps // 10, 1) == 0:
                log.info("step %d of %d: joints off by %.1f mm, %.0f s", step + 1, self.steps, 1000 * distance.item(),
                         time.monotonic() - started)

    def batch(self) -> torch.Tensor:
        """(B, F, CROP) of random places in random clips, a little faster or slower."""
        rows = []
        for clip in self.rng.choice(len(self.clips), self.size, p=self.chances):
            frames, pace = self.clips[clip], 1 + PACE * self.rng.uniform(-1, 1)
            times = self.rng.uniform(0, len(frames) - 1 - CROP * pace) + np.arange(CROP) * pace
            first, share = times.astype(int), (times % 1)[:, None]
            row = frames[first] * (1 - share) + frames[first + 1] * share
            row[:, :ROOT] *= pace
            rows.append(row.T)
        return torch.from_numpy(np.stack(rows)).float()

    def quantise(self, latents: torch.Tensor, step: int) -> tuple[torch.Tensor, torch.Tensor | float]:
        """What the decoder gets for latents (B, LATENT, T), with the gradient passed straight through, and what the
        loss has besides."""
        points = latents.detach().transpose(1, 2).reshape(-1, LATENT)
        if step < self.unquantised:
            needed = -(-max(SAMPLES, len(self.network.codebook)) // len(points))
            self.latents = [*self.latents, points][-needed:]
            return latents, 0.0
        if step == self.unquantised:
            self.begin(torch.cat([*self.latents, points]).double().numpy())
        codes = self.network.nearest(latents.detach())
        vectors = self.network.vectors(codes)
        self.follow(points, codes.flatten(), step)
        return latents + (vectors - latents).detach(), COMMITMENT * functional.mse_loss(latents, vectors)

    def begin(self, points: np.ndarray) -> None:
        codes = len(self.network.codebook)
        if len(points) < codes:  # a few short steps, as in a trial
            points = np.concatenate([points] * -(-codes // len(points)))
        self.network.codebook.copy_(torch.from_numpy(kmeans(points, codes, int(self.rng.integers(2**31)))))
        self.counts, self.sums = torch.ones(codes), self.network.codebook.clone()

    @torch.no_grad()
    def follow(self, points: torch.Tensor, codes: torch.Tensor, step: int) -> None:
        """Each code moves towards the mean of its points; one that is hardly used begins anew."""
        counts = torch.zeros_like(self.counts).index_add_(0, codes, torch.ones(len(codes)))
        self.counts.lerp_(counts, 1 - DECAY)
        self.sums.lerp_(torch.zeros_like(self.sums).index_add_(0, codes, points), 1 - DECAY)
        average = len(points) / len(self.counts)
        dead = torch.nonzero(self.counts < DEAD * average).flatten() if step < LAST_RESET * self.steps else []
        if len(dead):
            chosen = points[torch.from_numpy(self.rng.integers(len(points), size=len(dead)))]
            self.counts[dead], self.sums[dead] = average / 2, chosen * average / 2
        self.network.codebook.copy_(self.sums / self.counts.clamp(min=1e-6)[:, None])
