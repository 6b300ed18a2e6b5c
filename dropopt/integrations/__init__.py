"""dropopt in other packages: training loops that use an engine, and trackers that receive a study.

lightning       DropoutCallback for Lightning's Trainer
transformers    DropoutCallback for the Trainer of Hugging Face transformers
skorch          DropoutCallback for skorch's nets
ignite          DropoutHandler for Ignite's engines
tensorboard     the trials of a study in TensorBoard
mlflow          the trials of a study in MLflow
wandb           the trials of a study in Weights & Biases

Each module needs its package, which ``pip install 'dropopt[NAME]'`` installs. Importing :mod:`dropopt` or this package
imports none of them. ``driver`` is what the first four share; ``trials`` is what the last three share.
"""
