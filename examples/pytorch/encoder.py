"""usage: python encoder.py BUNDLE MODEL.h5 STATE.pt"""
import sys

import h5py
import numpy as np
import torch
from torch.nn import functional as F

import exporter


class Encoder(torch.nn.Module):
    def __init__(self, bundle):
        super().__init__()
        self.stem, self.head = torch.nn.Conv2d(3, 6, 3), torch.nn.Linear(6, 4)
        self.conv_a, self.conv_b = (torch.nn.Conv2d(6, 6, 3, padding=1, bias=False) for _ in range(2))
        self.layer_norm = torch.nn.LayerNorm(6, eps=1e-3)
        for layer in bundle:
            kind = torch.nn.BatchNorm1d if layer.ndim == 2 else torch.nn.BatchNorm2d
            norm = kind(layer.moving_mean.size, eps=layer.epsilon, momentum=1 - layer.momentum)
            for name, values in zip(("weight", "bias", "running_mean", "running_var"), arrays(layer)):
                getattr(norm, name).data.copy_(torch.from_numpy(np.array(values)))
            self.add_module(layer.path.replace("/", "_") + "_norm", norm)

    def forward(self, x):
        x = self.stem_bn_norm(self.stem(x))
        x = x + F.relu(self.block_a_bn_norm(self.conv_a(x)))
        x = x + F.relu(self.block_b_bn_norm(self.conv_b(x)))
        x = self.layer_norm(self.no_beta_norm(x).movedim(1, -1)).movedim(-1, 1)  # Keras normalizes the last axis
        x = self.frozen_norm(self.shared_norm(x) + self.shared_norm(F.relu(x)))
        return self.head_bn_norm(self.head(self.per_row_inner_norm(x).mean((2, 3))))


def arrays(layer):
    gamma = np.ones(layer.shape, "f") if layer.gamma is None else layer.gamma
    beta = np.zeros(layer.shape, "f") if layer.beta is None else layer.beta
    return gamma, beta, layer.moving_mean, layer.moving_variance


net = Encoder(exporter.load(sys.argv[1])).eval()
with h5py.File(sys.argv[2]) as file, torch.no_grad():
    stored, odd = file["model_weights"], "not_a_batch_norm/not_a_batch_norm"
    for name, path in {"stem.weight": "stem/stem/kernel", "stem.bias": "stem/stem/bias", "conv_a.weight": "block_a/conv/kernel",
                       "conv_b.weight": "block_b/conv/kernel", "head.weight": "head/head/kernel", "head.bias": "head/head/bias",
                       "layer_norm.weight": f"{odd}/gamma", "layer_norm.bias": f"{odd}/beta"}.items():
        values = torch.from_numpy(stored[path][()])  # Keras has (h, w, in, out) and (in, out)
        net.get_parameter(name).copy_(values.permute(3, 2, 0, 1) if values.ndim == 4 else values.T if values.ndim == 2 else values)
    torch.save(net.state_dict(), sys.argv[3])
    image = torch.arange(8 * 8 * 3, dtype=torch.float32).reshape(1, 8, 8, 3) / 100
    print(*net(image.permute(0, 3, 1, 2)).numpy().ravel())
