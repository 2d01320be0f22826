"""The learned quantiser: a small VQ-VAE (van den Oord et al. 2017) of 1D convolutions over time.

The decoded frames of a code depend on its neighbours, so there are no breaks between codes. The loss is the distance of
the joints in metres, and of their velocities over the ground, which keeps feet from sliding.
"""

import logging
import math
import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from motion_llm.motion.clip_files import with_bar
from motion_llm.motion.features import ROOT, Layout, feet_of
from motion_llm.motion.kmeans import kmeans

log = logging.getLogger(__name__)

WIDTH, LATENT = 128, 32  # channels of the convolutions, and of a codebook vector
STEPS, BATCH, CROP = 4000, 32, 64  # updates, clips in each, frames of each clip
LR, WARM_UP = 1e-3, 100  # of AdamW; linear warm-up over the first steps, then cosine decay
UNQUANTISED = 0.25  # share of the steps before quantisation; the codebook then starts as k-means of the latents
SAMPLES = 12_000  # number of latents for that k-means
VELOCITY, FEET, RATE, PATH = 0.1, 0.1, 0.05, 1.0  # weights of terms of the loss, see `loss_of`
SQUARE = 20.0  # per metre; weight of the squared distance of the joints
STANDING_SPEED = 0.25  # metres a second; a slower foot counts as standing
COMMITMENT = 0.25  # weight of the commitment loss (van den Oord et al. 2017)
DECAY = 0.99  # of the codebook's moving averages
DEAD = 0.05  # a code used less than this share of the average is reset to a latent of the batch
LAST_RESET = 0.8  # share of the steps; codes that are reset later would not be trained enough
SPEED_JITTER = 0.1  # augmentation: clips are played faster or slower by up to about this share


class _Block(nn.Module):
    """A residual block: a dilated convolution over 3 frames, then one over a single frame."""

    def __init__(self, width: int, dilation: int):
        super().__init__()
        self.wide = nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation, padding_mode="replicate")
        self.narrow = nn.Conv1d(width, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.narrow(functional.silu(self.wide(functional.silu(x))))


def _conv(inputs: int, outputs: int) -> nn.Conv1d:
    return nn.Conv1d(inputs, outputs, 3, padding=1, padding_mode="replicate")


class _Network(nn.Module):
    """Features (B, F, T) to latents (B, LATENT, T / window) and back; window is a power of 2, width the channels."""

    def __init__(self, features: int, codes: int, window: int, width: int):
        super().__init__()
        halvings = int(math.log2(window))
        encoder, decoder = [_conv(features, width), nn.SiLU()], [_conv(LATENT, width)]
        for _ in range(halvings):
            encoder += [nn.Conv1d(width, width, 4, 2, 1), _Block(width, 3), _Block(width, 1)]
            decoder += [_Block(width, 1), _Block(width, 3), nn.SiLU(), nn.Upsample(scale_factor=2),
                        _conv(width, width)]
        self.encoder = nn.Sequential(*encoder, _conv(width, LATENT))
        self.decoder = nn.Sequential(*decoder, _Block(width, 1), _Block(width, 3), nn.SiLU(), _conv(width, features))
        self.register_buffer("codebook", torch.zeros(codes, LATENT))
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))

    def nearest(self, latents: torch.Tensor) -> torch.Tensor:
        """Nearest codes (B, T) to latents (B, LATENT, T)."""
        points = latents.transpose(1, 2).reshape(-1, LATENT)
        return torch.cdist(points, self.codebook).argmin(1).view(len(latents), -1)

    def vectors(self, codes: torch.Tensor) -> torch.Tensor:
        """Codebook vectors (B, LATENT, T) of codes (B, T)."""
        return self.codebook[codes].transpose(1, 2)


class VqVae:
    """The network with its codebook. encode and decode take a whole clip at once."""

    has_weights = True  # besides the codebook

    def __init__(self, network: _Network, window: int):
        self.network, self.window = network.eval(), window

    @staticmethod
    def check_window(window: int) -> None:
        """Raises ValueError for a window that is no power of 2."""
        if window < 1 or window & (window - 1):
            raise ValueError(f"a window of {window} frames: the network halves time, expected 1, 2, 4, 8 ...")

    @staticmethod
    def fit(clips: Sequence[np.ndarray], codes: int, window: int, seed: int, layout: Layout, fps: float,
            steps: int = STEPS, width: int = WIDTH, batch: int = BATCH) -> "VqVae":
        """Trains a network of width channels on clips (T, F) of features, in `steps` updates of `batch` clips each.
        Raises ValueError for a window that is no power of 2."""
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
        """Parameters to save beside the codebook."""
        state = self.network.state_dict()
        return {name: tensor.contiguous().numpy() for name, tensor in state.items() if name != "codebook"}

    @staticmethod
    def restore(codebook: np.ndarray, tensors: Mapping[str, np.ndarray], window: int, width: int) -> "VqVae":
        """Raises ValueError for tensors that do not fit such a network."""
        channels = len(tensors["decoder.0.bias"]) if "decoder.0.bias" in tensors else WIDTH
        with torch.device("meta"):  # shapes alone, as a network of sizes that lie would take all memory
            expected = _untrained(width, len(codebook), window, channels, 0).state_dict()
        arrays = {**tensors, "codebook": codebook}
        for name in sorted(set(expected) | set(arrays)):
            state = f"is {arrays[name].dtype} {arrays[name].shape}" if name in arrays else "is missing"
            if name not in expected:
                raise ValueError(f"tensor {name} is none of this network")
            if name not in arrays or arrays[name].shape != expected[name].shape or arrays[name].dtype != np.float32:
                raise ValueError(f"tensor {name} {state}, expected float32 {tuple(expected[name].shape)}")
            if not np.isfinite(arrays[name]).all():
                raise ValueError(f"tensor {name} holds values that are not finite")
        network = _untrained(width, len(codebook), window, channels, 0)
        network.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in arrays.items()})
        return VqVae(network, window)


def _untrained(features: int, codes: int, window: int, width: int, seed: int) -> _Network:
    VqVae.check_window(window)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return _Network(features, codes, window, width)


def loss_of(predicted: torch.Tensor, target: torch.Tensor, fps: float,
            feet: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of features (B, F, T) in their own units, and one of its terms: the mean distance of joints in metres.
    The others: the mean squared distance, the error of velocities over the ground (metres a second), that of standing
    feet alone, the error of the rates, and the error of the path and the heading that these lead to.

    With the distance alone the best prediction is a median: for rare motions to the left and to the right one in the
    middle, where training gets stuck. The square gives large errors more weight."""
    (rates, joints), (target_rates, target_joints) = _parts(predicted), _parts(target)
    error = joints - target_joints  # (B, joints, 3, T)
    distance, square = _length(error).mean(), error.square().sum(2).mean()
    velocities = _velocities(target_rates, target_joints, fps)
    velocity_errors = _length(_velocities(rates, joints, fps) - velocities)  # (B, joints, T - 1)
    standing = _length(velocities[:, feet]) < STANDING_SPEED
    sliding = (velocity_errors[:, feet] * standing).sum() / (standing.sum() + 1)
    rate_errors = rates - target_rates
    path = (rate_errors.cumsum(-1) / fps).abs().mean()
    loss = (distance + SQUARE * square + VELOCITY * velocity_errors.mean() + FEET * sliding
            + RATE * rate_errors.abs().mean() + PATH * path)
    return loss, distance


def _parts(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rates (B, 3, T) and joints (B, joints, 3, T)."""
    return features[:, :ROOT], features[:, ROOT:].unflatten(1, (-1, 3))


def _velocities(rates: torch.Tensor, joints: torch.Tensor, fps: float) -> torch.Tensor:
    """Velocities of the joints over the ground, relative to the heading (B, joints, 3, T - 1), metres a second: that
    relative to the centre, plus the centre's, plus that of turning, which at a rate w is w (z, 0, -x)."""
    local, middle = joints.diff(dim=-1) * fps, (joints[..., 1:] + joints[..., :-1]) / 2
    left, ahead, turning = rates[:, None, :, :-1].unbind(2)
    return torch.stack([local[:, :, 0] + left + turning * middle[:, :, 2], local[:, :, 1],
                        local[:, :, 2] + ahead - turning * middle[:, :, 0]], 2)


def _length(vectors: torch.Tensor) -> torch.Tensor:
    """Lengths over the third dimension; 1e-6 gives them a gradient at 0."""
    return (vectors.square().sum(2) + 1e-6).sqrt()


def _padded(clip: np.ndarray, frames: int) -> np.ndarray:
    """A clip (T, F), padded to at least `frames` frames by repeating the last one, standing still."""
    missing = max(frames - len(clip), 0)
    padded = np.pad(clip, ((0, missing), (0, 0)), mode="edge")
    padded[len(clip):, :ROOT] = 0
    return padded


class _Training:
    """One fit: batches, updates, and the codebook as moving averages of latents (Razavi et al. 2019)."""

    def __init__(self, network: _Network, clips: Sequence[np.ndarray], feet: Sequence[int], fps: float,
                 steps: int, batch_size: int, seed: int):
        self.network, self.feet, self.fps = network.train(), list(feet), fps
        self.steps, self.batch_size = steps, batch_size
        self.rng = np.random.default_rng(seed)
        frames = np.concatenate(clips)
        mean, scale = frames.mean(0), np.full(frames.shape[1], frames[:, ROOT:].std(0).mean())
        scale[:ROOT] = frames[:, :ROOT].std(0)  # one scale for all joints: a centimetre counts the same everywhere
        network.mean.copy_(torch.from_numpy(mean))
        network.scale.copy_(torch.from_numpy(np.maximum(scale, 1e-3)))
        longest = int(CROP * (1 + SPEED_JITTER)) + 2
        self.clips = [_padded(clip, longest) for clip in clips]
        lengths = np.array([len(clip) for clip in clips], dtype=float)
        self.probabilities = lengths / lengths.sum()
        self.unquantised_steps = int(UNQUANTISED * steps)
        self.optimiser = torch.optim.AdamW(network.parameters(), LR, betas=(0.9, 0.99), weight_decay=0.0)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimiser, lambda step: min(
            1, (step + 1) / min(WARM_UP, 1 + steps // 10)) * (0.01 + 0.495 * (1 + math.cos(math.pi * step / steps))))
        self.latents: list[torch.Tensor] = []  # of the last steps before quantisation

    def run(self) -> None:
        started, bar = time.monotonic(), with_bar(range(self.steps), self.steps, "fitting", "step")
        for step in bar:
            batch = self.batch()
            quantised, commitment = self.quantise(self.network.encoder(
                (batch - self.network.mean[:, None]) / self.network.scale[:, None]), step)
            predicted = self.network.decoder(quantised) * self.network.scale[:, None] + self.network.mean[:, None]
            loss, distance = loss_of(predicted, batch, self.fps, self.feet)
            self.optimiser.zero_grad()
            (loss + commitment).backward()
            nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            self.optimiser.step()
            self.schedule.step()
            if (step + 1) % max(self.steps // 10, 1) == 0:
                bar.set_postfix_str(f"joints off by {1000 * distance.item():.1f} mm")
            if bar.disable and (step + 1) % max(self.steps // 10, 1) == 0:  # no terminal
                log.info("step %d of %d: joints off by %.1f mm, %.0f s", step + 1, self.steps, 1000 * distance.item(),
                         time.monotonic() - started)

    def batch(self) -> torch.Tensor:
        """(B, F, CROP) from random frames of random clips on, a little faster or slower."""
        rows = []
        for clip in self.rng.choice(len(self.clips), self.batch_size, p=self.probabilities):
            frames, pace = self.clips[clip], 1 + SPEED_JITTER * self.rng.uniform(-1, 1)
            times = self.rng.uniform(0, len(frames) - 1 - CROP * pace) + np.arange(CROP) * pace
            first, share = times.astype(int), (times % 1)[:, None]
            row = frames[first] * (1 - share) + frames[first + 1] * share
            row[:, :ROOT] *= pace
            rows.append(row.T)
        return torch.from_numpy(np.stack(rows)).float()

    def quantise(self, latents: torch.Tensor, step: int) -> tuple[torch.Tensor, torch.Tensor | float]:
        """The decoder's input for latents (B, LATENT, T), with a straight-through gradient, and the commitment loss."""
        points = latents.detach().transpose(1, 2).reshape(-1, LATENT)
        if step < self.unquantised_steps:
            needed = -(-max(SAMPLES, len(self.network.codebook)) // len(points))
            self.latents = [*self.latents, points][-needed:]
            return latents, 0.0
        if step == self.unquantised_steps:
            self.start_codebook(torch.cat([*self.latents, points]).double().numpy())
        codes = self.network.nearest(latents.detach())
        vectors = self.network.vectors(codes)
        self.update_codebook(points, codes.flatten(), step)
        return latents + (vectors - latents).detach(), COMMITMENT * functional.mse_loss(latents, vectors)

    def start_codebook(self, points: np.ndarray) -> None:
        codes = len(self.network.codebook)
        if len(points) < codes:  # a fit of few steps, as in tests
            points = np.concatenate([points] * -(-codes // len(points)))
        self.network.codebook.copy_(torch.from_numpy(kmeans(points, codes, int(self.rng.integers(2**31)))))
        self.counts, self.sums = torch.ones(codes), self.network.codebook.clone()

    @torch.no_grad()
    def update_codebook(self, points: torch.Tensor, codes: torch.Tensor, step: int) -> None:
        """Moves each code towards the mean of its points; resets a code that is hardly used."""
        counts = torch.zeros_like(self.counts).index_add_(0, codes, torch.ones(len(codes)))
        self.counts.lerp_(counts, 1 - DECAY)
        self.sums.lerp_(torch.zeros_like(self.sums).index_add_(0, codes, points), 1 - DECAY)
        average = len(points) / len(self.counts)
        dead = torch.nonzero(self.counts < DEAD * average).flatten() if step < LAST_RESET * self.steps else []
        if len(dead):
            chosen = points[torch.from_numpy(self.rng.integers(len(points), size=len(dead)))]
            self.counts[dead], self.sums[dead] = average / 2, chosen * average / 2
        self.network.codebook.copy_(self.sums / self.counts.clamp(min=1e-6)[:, None])
