"""Training of CNNs with a dropout engine attached; knows nothing of studies."""
