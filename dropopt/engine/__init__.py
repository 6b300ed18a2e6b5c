"""The dropout engine: where, what and how often features are dropped; knows nothing of training or studies."""
