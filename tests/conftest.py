"""What all tests share: one thread, so that figures and run time do not depend on the machine, and one option."""

import torch

torch.set_num_threads(1)


def pytest_addoption(parser):
    parser.addoption(
        "--all-architectures",
        action="store_true",
        help="attach to every network of torchvision and of timm's convolutional families (some 15 minutes)",
    )
