"""A layer with a low-rank update, as peft makes it of a convolution or a linear layer."""

from torch import nn


class Adapted(nn.Module):
    """The output of a frozen layer plus that of two small ones; peft calls it Conv2d or Linear as well."""

    def __init__(self, layer, dropout=0.0):
        super().__init__()
        self.base_layer = layer.requires_grad_(False)
        if isinstance(layer, nn.Linear):
            down, up = nn.Linear(layer.in_features, 2), nn.Linear(2, layer.out_features)
        else:
            down = nn.Conv2d(layer.in_channels, 2, layer.kernel_size, layer.stride, layer.padding)
            up = nn.Conv2d(2, layer.out_channels, 1)
        self.lora_dropout = nn.ModuleDict({"default": nn.Dropout(dropout)})
        self.lora_A, self.lora_B = nn.ModuleDict({"default": down}), nn.ModuleDict({"default": up})

    def get_base_layer(self):
        """The frozen layer."""
        return self.base_layer

    def forward(self, x):
        """Both together."""
        update = self.lora_B["default"](self.lora_A["default"](self.lora_dropout["default"](x)))
        return self.base_layer(x) + update
