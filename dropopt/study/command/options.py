"""The options of the commands: names, help texts and limits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

# -- of several commands

Storage = Annotated[
    str | None,
    typer.Option(
        help="An Optuna storage: a URL, a SQLite or a journal file. Default: OPTUNA_STORAGE, else runs/dropopt.db.",
        show_default=False,
    ),
]
StudyName = Annotated[
    str | None,
    typer.Option(
        "--study", "--study-name", help="Name of the study. Default: the only study in the storage.", show_default=False
    ),
]

# -- of ``dropopt run``

StudyScript = Annotated[
    str | None, typer.Argument(help="The script of a study, or the name of a shipped study such as digits.")
]
NewStudyName = Annotated[
    str | None,
    typer.Option(help="Name of the study in the storage. Default: the name in the script.", show_default=False),
]
NTrials = Annotated[
    int | None,
    typer.Option(
        help="Total number of trials of the study (1 or more): completed, pruned and failed ones, including those of "
        "earlier runs. Default: as in the script.",
        show_default=False,
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option(
        help="Seconds (above 0) after which no further trial starts; running trials are finished, unless they hang. "
        "Default: as in the script.",
        show_default=False,
    ),
]
TrialTimeout = Annotated[
    float | None,
    typer.Option(
        help="Seconds (above 0) after which a trial is ended and recorded as failed. Default: as in the script.",
        show_default=False,
    ),
]
TrialMemory = Annotated[
    int | None,
    typer.Option(
        help="Megabytes of memory (1 or more) at which a trial is ended and recorded as failed. Linux only. "
        "Default: as in the script.",
        show_default=False,
        metavar="MB",
    ),
]
Checkpoints = Annotated[
    str | None,
    typer.Option(
        help="Folder of the trials' checkpoints. Default: as in the script, else a folder beside the file of the "
        "storage; none if the storage is a server.",
        show_default=False,
        metavar="DIR",
    ),
]
Sampler = Annotated[
    str | None,
    typer.Option(
        help="Sampler: auto, efficacy, tpe, gp, cmaes or random; auto is efficacy if the space has a blend of methods, "
        "else tpe. Default: as in the script.",
        show_default=False,
    ),
]
Pruner = Annotated[
    str | None,
    typer.Option(
        help="Pruner: median, forecast (prunes the most), percentile, hyperband or none. Default: as in the script.",
        show_default=False,
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        help="Seed of the study (0 or more); with --n-jobs 1, the same seed gives the same study. "
        "Default: as in the script.",
        show_default=False,
    ),
]
NJobs = Annotated[
    int,
    typer.Option(
        help="Number of child processes that train, with one thread each (1 or more); -1: one for each core, at most 4 "
        "for each GPU."
    ),
]
Space = Annotated[
    str | None,
    typer.Option(
        help="A search-space file, or the name of a shipped space such as compact or paper. Default: as in the script.",
        show_default=False,
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        help="A data set's name, folder:PATH, numpy:FILE.npz or module:function. Default: as in the script.",
        show_default=False,
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        help="Network: small, resnet9, vgg, torchvision:NAME, timm:NAME or module:function. Default: as in the script.",
        show_default=False,
    ),
]
Epochs = Annotated[
    int | None,
    typer.Option(help="Number of epochs of a trial (1 or more). Default: as in the script.", show_default=False),
]
Subset = Annotated[
    int | None,
    typer.Option(
        help="Number of training images to use (1 or more), drawn as a stratified sample. Default: as in the script.",
        show_default=False,
    ),
]
Optimise = Annotated[
    str | None,
    typer.Option(
        help="What counts: loss or accuracy, on the validation split, smoothed over epochs. Default: as in the script.",
        show_default=False,
    ),
]
Prior = Annotated[
    str | None,
    typer.Option(
        help="Start from what another study learned about the blend: STUDY, STUDY@STORAGE or a file that dropopt "
        "efficacy wrote. Default: as in the script.",
        show_default=False,
    ),
]
Anchors = Annotated[
    bool | None,
    typer.Option(
        "--anchors/--no-anchors",
        help="Whether a new study of 10 or more trials begins with anchors, which the best trial is compared with: "
        "no dropout, plain dropout at customary rates and the engine's default. Default: as in the script.",
        show_default=False,
    ),
]

# -- of ``dropopt run`` and ``dropopt worker``

StoragePatience = Annotated[
    float,
    typer.Option(
        min=0,
        help="Seconds that the storage may be unreachable before the study stops (0 or more). Until then calls are "
        "repeated, and running trials continue.",
    ),
]
Grace = Annotated[
    float,
    typer.Option(
        min=1,
        help="Seconds without a heartbeat after which other workers take over the trials of this one (1 or more).",
    ),
]

# -- of ``dropopt worker``

WorkerScript = Annotated[
    str | None,
    typer.Argument(help="The study's script, if it defines the data or the network.", show_default=False),
]

# -- of ``dropopt export``

Trial = Annotated[
    int | None, typer.Option(help="Number of the trial (0 or more). Default: the best trial.", show_default=False)
]
Format = Annotated[
    str | None,
    typer.Option(help="File format: yaml, json or toml. Default: by the suffix of the file.", show_default=False),
]
ExportOutput = Annotated[
    Path | None, typer.Option("--output", "-o", help="File to write. Default: best.FORMAT.", show_default=False)
]

Force = Annotated[bool, typer.Option("--force", help="Replace a file that does not come from the same study.")]

# -- of ``dropopt efficacy``

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for other programs.")]
EvidenceOutput = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="JSON file to write, for the option --prior of a new study. Default: no file.",
        show_default=False,
    ),
]

# -- of ``dropopt train``

ConfigurationFile = Annotated[Path, typer.Argument(help="A configuration file, as dropopt export writes it.")]
TrainEpochs = Annotated[
    int | None, typer.Option(help="Number of epochs (1 or more). Default: as in the file.", show_default=False)
]
TrainSeed = Annotated[
    int | None, typer.Option(help="Seed of training (0 or more). Default: as in the file.", show_default=False)
]
Device = Annotated[
    str | None, typer.Option(help="Device: auto, cpu, cuda or cuda:N. Default: as in the file.", show_default=False)
]
Threads = Annotated[
    int, typer.Option(min=1, help="Number of threads; with 1, a study's trial is repeated exactly on the same machine.")
]
WeightsOutput = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="File to write the network's weights (state_dict) to. Default: no file.",
        show_default=False,
    ),
]

Code = Annotated[
    list[Path] | None,
    typer.Option(
        help="A script, or a folder of modules, that the functions named in the file are imported from; may be "
        "repeated. Default: the script of the study, if you have run it and it has not changed.",
        show_default=False,
    ),
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust", help="Import the functions that the file names without asking, even from the current folder."
    ),
]

# -- of ``dropopt confirm`` and ``dropopt compare``

Top = Annotated[int, typer.Option(help="Number of configurations to train again (1 or more), the best first.")]
Seeds = Annotated[int, typer.Option(help="Number of fresh seeds for each configuration (2 or more).")]
ConfirmOptimise = Annotated[
    str | None,
    typer.Option(
        help="What the winner is chosen by: loss or accuracy. Default: what the study optimised.", show_default=False
    ),
]
ConfirmAnchors = Annotated[
    bool, typer.Option("--anchors/--no-anchors", help="Whether the anchors of the study are trained again too.")
]
Again = Annotated[bool, typer.Option("--again", help="Read the test set although it was read before.")]
ConfirmCheckpoints = Annotated[
    str | None,
    typer.Option(
        help="Folder of the checkpoints, with the weights until the test set is read. Default: a folder beside the "
        "file of the storage; none if the storage is a server.",
        show_default=False,
        metavar="DIR",
    ),
]

# -- of ``dropopt compare``

Arms = Annotated[
    list[str] | None,
    typer.Argument(
        help="Two or more arms: search spaces (a name such as compact, or a file) and studies in the storage. "
        "study:NAME and space:NAME tell them apart.",
        show_default=False,
    ),
]
CompareScript = Annotated[
    str,
    typer.Option(
        "--study", help="The script of a study, or a shipped study: the data, network and training of all arms."
    ),
]
CompareName = Annotated[
    str | None,
    typer.Option(help="Studies of spaces are called NAME-ARM. Default: the name in the script.", show_default=False),
]
CompareSeeds = Annotated[
    int | None,
    typer.Option(min=2, help="Number of fresh seeds (2 or more). Default: 10; 3 with --quick.", show_default=False),
]
CompareTop = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Number of configurations of each arm to train again (1 or more). Default: 3; 2 with --quick.",
        show_default=False,
    ),
]
Quick = Annotated[bool, typer.Option("--quick", help="A small budget, to try it: 10 trials, 3 seeds.")]
BaselineArm = Annotated[
    str | None,
    typer.Option(
        help="The arm that the others are compared with. Default: the best of the arms without the engine.",
        show_default=False,
    ),
]
FigureOutput = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="The figure to write: .html, or .png and .svg if kaleido is installed. Default: comparison-NAME.html.",
        show_default=False,
    ),
]

# -- of ``dropopt dashboard``

Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any free port.")]
Host = Annotated[
    str,
    typer.Option(
        help="Address to listen on. The default accepts connections from this machine only. With another address, such "
        "as 0.0.0.0, other machines can open the dashboard, and there is no password."
    ),
]
Writable = Annotated[
    bool,
    typer.Option(
        "--writable",
        help="Allow the page to change studies: notes, trials, names, deletion. Default: the page is read-only.",
    ),
]
