"""Fine-tuning: a torchvision network with weights from a file, frozen early stages and smaller rates for middle ones.

    dropopt run finetune --data folder:PATH        or: python studies/finetune.py --data folder:PATH

The photographs are PATH/CLASS/*.jpg, as in studies/folder.py. The weights are read from a file and never downloaded:
put a state dict of the network there, for example with torchvision's own weights of ImageNet:

    python -c "import torch, torchvision; torch.save(torchvision.models.get_model('resnet18',
        weights='DEFAULT').state_dict(), 'resnet18.pth')"

The output layer is replaced by one with as many outputs as there are classes. Time on two cores: about an hour for 500
photographs; minutes on a GPU.
"""

from dropopt.study import Study

study = Study(
    name="finetune",
    data={"name": "folder:photographs", "image_size": 96},
    model={"name": "torchvision:resnet18", "options": {"weights": "resnet18.pth"}},
    train={
        "epochs": 8,
        "batch_size": 32,
        "optimizer": "adamw",
        "amp": "auto",
        "channels_last": True,
        "augment": ["shift", "flip"],
        # Factors of the learning rate, by the names of parameters: 0 freezes, and the others have 1.
        "lr_scale": {"conv1.*": 0, "bn1.*": 0, "layer1.*": 0, "layer2.*": 0.1, "layer3.*": 0.3},
    },
    space="compact",
    n_trials=30,
)

if __name__ == "__main__":
    study.main()
