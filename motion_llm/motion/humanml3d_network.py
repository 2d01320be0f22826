"""The network of T2M-GPT's codec (Zhang et al. 2023, arXiv 2301.06052), its parts named as in their checkpoints."""

import torch
from torch import nn

DILATION = 3  # factor by which the dilation grows from one residual block to the next


class _Block(nn.Module):
    """x + conv2(relu(conv1(relu(x)))); conv1 spans 3 frames and is dilated, conv2 spans one."""

    def __init__(self, width: int, dilation: int):
        super().__init__()
        self.conv1 = nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation)
        self.conv2 = nn.Conv1d(width, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv2(torch.relu(self.conv1(torch.relu(x))))


class _Model(nn.Module):
    """A sequence of modules, under the name `model`, as in the checkpoints."""

    def __init__(self, *modules: nn.Module):
        super().__init__()
        self.model = nn.Sequential(*modules)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)


class Network(nn.Module):
    """Normalised features (B, F, T) to latents (B, D, T / window) and back."""

    def __init__(self, features: int, width: int, codes: int, latent: int, halvings: int, depth: int):
        super().__init__()
        self.window = 2**halvings
        dilations = [DILATION**i for i in range(depth)]

        def conv(inputs: int, outputs: int) -> nn.Conv1d:
            return nn.Conv1d(inputs, outputs, 3, padding=1)

        def blocks(dilations: list[int]) -> _Model:
            return _Model(*(_Block(width, dilation) for dilation in dilations))

        down = [nn.Sequential(nn.Conv1d(width, width, 4, 2, 1), blocks(dilations)) for _ in range(halvings)]
        up = [nn.Sequential(blocks(dilations[::-1]), nn.Upsample(scale_factor=2), conv(width, width))
              for _ in range(halvings)]
        self.encoder = _Model(conv(features, width), nn.ReLU(), *down, conv(width, latent))
        self.decoder = _Model(conv(latent, width), nn.ReLU(), *up, conv(width, width), nn.ReLU(),
                              conv(width, features))
        self.quantizer = nn.Module()
        self.quantizer.register_buffer("codebook", torch.zeros(codes, latent))
