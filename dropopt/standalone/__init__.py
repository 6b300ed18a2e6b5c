"""A trained network as one safetensors file that needs nothing else: its classes, preprocessing, rates and a card.

card         what the file says about the network, as checked JSON
file         writing and reading the file
images       images of any source, prepared as the training prepared its own
sampling     Monte Carlo dropout: dropout at prediction, with the rates of training
model        StandaloneModel, which predicts
load         load_model: from a file to a StandaloneModel, under the rules of dropopt.trust
describe     the card of a network that has just been trained
"""

from __future__ import annotations

#: Suffix of model files.
SUFFIX = ".safetensors"
