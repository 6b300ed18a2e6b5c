"""Layer-wise relevance propagation through any network, by zennit's rules.

zennit imports torchvision's networks, which takes two seconds: import the modules of this package where they are used.
"""

#: Stabiliser of a layer's denominators, relative to their mean size in the sample. An absolute one would distort
#: relevance where activations are small (fresh BatchNorm statistics can shrink them by ten powers of ten).
EPSILON = 1e-6

#: zennit's ``EpsilonPlus``: z+ on convolutions, which avoids noisy relevance in deep stacks, and epsilon on dense
#: layers, which keeps it specific to the class. Pruning by relevance uses z+ as well (Yeom et al., 2021).
RULE = "epsilon_plus"
