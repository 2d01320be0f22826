"""The network of T2M-GPT's codec (Zhang et al. 2023, arXiv 2301.06052), its parts named as in their checkpoints."""

import torch
from torch import nn

DILATION = 3  # a residual block's convolution reaches so many times as far as that of the one before


class _Block(nn.Module):
    """x + conv1(relu(conv3(relu(x)))), the convolution of 3 frames dilated."""

    def __init__(self, width: int, dilation: int):
        super().__init__()
        self.conv1 = nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation)
        self.conv2 = nn.Conv1d(width, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv2(torch.relu(self.conv1(torch.relu(x))))


class _Model(nn.Module):
    """Modules one after another, under the name `model`."""

    def __init__(self, *modules: nn.Module):
        super().__init__()
        self.model = nn.Sequential(*modules)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)


class Network(nn.Module):
    """Features (B, F, T), less their mean and over their deviation, to latents (B, D, T / window) and back."""

    def __init__(self, features: int, width: int, codes: int, latent: int, halvings: int, depth: int):
        super().__init__()
        self.window = 2**halvings
        wider = [DILATION**i for i in range(depth)]

        def ends(inside: int, outside: int) -> nn.Conv1d:
            return nn.Conv1d(inside, outside, 3, padding=1)

        def blocks(dilations: list[int]) -> _Model:
            return _Model(*(_Block(width, dilation) for dilation in dilations))

        down = [nn.Sequential(nn.Conv1d(width, width, 4, 2, 1), blocks(wider)) for _ in range(halvings)]
        up = [nn.Sequential(blocks(wider[::-1]), nn.Upsample(scale_factor=2), ends(width, width))
              for _ in range(halvings)]
        self.encoder = _Model(ends(features, width), nn.ReLU(), *down, ends(width, latent))
        self.decoder = _Model(ends(latent, width), nn.ReLU(), *up, ends(width, width), nn.ReLU(),
                              ends(width, features))
        self.quantizer = nn.Module()
        self.quantizer.register_buffer("codebook", torch.zeros(codes, latent))
