"""The options of the commands: names, help texts and limits.

A help text gives the default itself if it is not a value: typer shows no default that is None.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


class Place(Enum):
    """Where trials run."""

    HERE = "here"
    RAY = "ray"


class Scheduler(Enum):
    """The schedulers that ``dropopt worker --print`` writes for."""

    SLURM = "slurm"
    KUBERNETES = "kubernetes"


# -- of several commands

Storage = Annotated[
    str | None,
    typer.Option(
        help="An Optuna storage: the URL of a database or a storage proxy (grpc://HOST:PORT), a SQLite or a journal "
        "file. Default: OPTUNA_STORAGE, else runs/dropopt.db."
    ),
]
StudyName = Annotated[
    str | None,
    typer.Option("--study", "--study-name", help="Name of the study. Default: the only study in the storage."),
]
OneStudy = Annotated[
    str | None, typer.Option("--study", "--study-name", help="Name of the only study to list. Default: all studies.")
]

Everything = Annotated[bool, typer.Option("--all", help="Print tables in which nothing was found, too.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for other programs.")]

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]

#: Settings of every command: ``-h`` is ``--help``.
HELP = {"help_option_names": ["-h", "--help"]}

# -- of ``dropopt run`` and ``dropopt train``

ImageSize = Annotated[
    int | None,
    typer.Option(help="Side in pixels to which images are resized (4 to 4096). Default: as in the script or the file."),
]
BatchSize = Annotated[
    int | None, typer.Option(help="Images per step (1 or more). Default: as in the script or the file.")
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SECTION.NAME=VALUE",
        help="Any other setting, such as train.weight_decay=1e-3, engine.pattern=channel or model.options.head=64; "
        "sections are data, model, task, train and engine. May be repeated.",
    ),
]

# -- of ``dropopt run``

StudyScript = Annotated[
    str | None, typer.Argument(help="The script of a study, or the name of a shipped study such as digits.")
]
NewStudyName = Annotated[
    str | None, typer.Option("--study-name", help="Name of the study in the storage. Default: the name in the script.")
]
NTrials = Annotated[
    int | None,
    typer.Option(
        help="Total number of trials of the study (1 or more): completed, pruned and failed ones, including those of "
        "earlier runs. Default: as in the script."
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option(
        help="Seconds (above 0) after which no further trial starts; running trials are finished, unless they hang. "
        "Default: as in the script."
    ),
]
TrialTimeout = Annotated[
    float | None,
    typer.Option(
        help="Seconds (above 0) after which a trial is ended and recorded as failed. Default: as in the script."
    ),
]
TrialMemory = Annotated[
    int | None,
    typer.Option(
        help="Megabytes of memory (1 or more) at which a trial is ended and recorded as failed. Linux only. "
        "Default: as in the script.",
        metavar="MB",
    ),
]
Checkpoints = Annotated[
    str | None,
    typer.Option(
        help="Folder of the trials' checkpoints. Default: as in the script, else a folder beside the file of the "
        "storage; none if the storage is a server.",
        metavar="DIR",
    ),
]
Artifacts = Annotated[
    Path | None,
    typer.Option(
        envvar="DROPOPT_ARTIFACTS",
        help="Folder of the files of the best trials (configuration, curves, weights), which optuna-dashboard offers. "
        "Default: a folder beside the file of the storage; none if the storage is a server.",
        show_envvar=True,
        metavar="DIR",
    ),
]
KeepCheckpoints = Annotated[
    int | None,
    typer.Option(
        help="Number of pruned trials whose last checkpoints are kept for dropopt resume-trial (0 or more), the latest "
        "ones. Default: as in the script, else 0."
    ),
]
Sampler = Annotated[
    str | None,
    typer.Option(
        help="Sampler: auto, efficacy, tpe, gp, cmaes or random; auto is efficacy if the space has a blend of methods, "
        "else tpe. Default: as in the script."
    ),
]
Pruner = Annotated[
    str | None,
    typer.Option(
        help="Pruner: median, forecast (prunes the most), percentile, hyperband or none. Default: as in the script."
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        help="Seed of the study (0 or more); with --n-jobs 1, the same seed gives the same study. "
        "Default: as in the script."
    ),
]
NJobs = Annotated[
    int,
    typer.Option(
        "--n-jobs",
        "-j",
        help="Number of child processes that train, with one thread each (1 or more); -1: one for each core, at most 4 "
        "for each GPU.",
    ),
]
Space = Annotated[
    str | None,
    typer.Option(
        help="A search-space file, or the name of a shipped space such as compact or paper. Default: as in the script."
    ),
]
Data = Annotated[
    str | None,
    typer.Option(help="A data set's name, folder:PATH, numpy:FILE.npz or module:function. Default: as in the script."),
]
Model = Annotated[
    str | None,
    typer.Option(
        help="Network: small, resnet9, vgg, torchvision:NAME, timm:NAME or module:function. Default: as in the script."
    ),
]
Epochs = Annotated[int | None, typer.Option(help="Number of epochs of a trial (1 or more). Default: as in the script.")]
Subset = Annotated[
    int | None,
    typer.Option(
        help="Number of training images to use (1 or more), drawn as a stratified sample. Default: as in the script."
    ),
]
RunDevice = Annotated[str | None, typer.Option(help="Device: auto, cpu, cuda or cuda:N. Default: as in the script.")]
Optimise = Annotated[
    str | None,
    typer.Option(
        help="What counts: loss or accuracy, on the validation split, smoothed over epochs. Default: as in the script."
    ),
]
Prior = Annotated[
    str | None,
    typer.Option(
        help="Start from what another study learned about the blend: STUDY, STUDY@STORAGE or a file that dropopt "
        "efficacy wrote. Default: as in the script."
    ),
]
Anchors = Annotated[
    bool | None,
    typer.Option(
        "--anchors/--no-anchors",
        help="Whether a new study of 10 or more trials begins with anchors, which the best trial is compared with: "
        "no dropout, plain dropout at customary rates, own patterns and the engine's default. Default: as in the "
        "script.",
    ),
]

Portfolio = Annotated[
    str | None,
    typer.Option(
        help="Configurations that did well on other data, with which a new study of 10 or more trials begins after its "
        "anchors: the name of a shipped portfolio, a YAML file, or none. Default: as in the script, else small_images.",
        metavar="NAME",
    ),
]

On = Annotated[
    Place,
    typer.Option(
        help="Where the trials run: here, in child processes of this machine, or ray, on the nodes of a Ray cluster."
    ),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        help="Address of the Ray cluster, such as 10.0.0.5:6379. Default: RAY_ADDRESS, else a cluster that runs on "
        "this machine, else one that is started for this command."
    ),
]
CpusPerTrial = Annotated[
    int | None,
    typer.Option(
        min=1, help="Cores of a Ray node for each trial, which trains with as many threads (1 or more). Default: 1."
    ),
]
GpusPerTrial = Annotated[
    float | None,
    typer.Option(min=0, help="GPUs of a Ray node for each trial: a share such as 0.25, or a whole number. Default: 0."),
]
Reclaim = Annotated[
    bool,
    typer.Option(
        "--reclaim",
        help="Take up at once all trials that are running, without waiting for --grace. Only if no other worker runs: "
        "the trials of a living one would end there and run again here.",
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

WorkerScript = Annotated[str | None, typer.Argument(help="The study's script, if it defines the data or the network.")]

Print = Annotated[
    Scheduler | None,
    typer.Option(
        "--print",
        help="Print a SLURM job array (for sbatch) or a Kubernetes Job (for kubectl apply -f) that runs this command, "
        "instead of running it. The following options are for it.",
    ),
]
Workers = Annotated[int | None, typer.Option(min=1, help="With --print: number of workers. Default: 1.")]
Cpus = Annotated[int | None, typer.Option(min=1, help="With --print: cores of each worker. Default: 1.")]
Gpus = Annotated[int | None, typer.Option(min=0, help="With --print: GPUs of each worker. Default: 0.")]
Memory = Annotated[
    str | None, typer.Option(help="With --print: memory of each worker, such as 8G. Default: the scheduler's.")
]
Time = Annotated[
    str | None,
    typer.Option(
        help="With --print: longest run of a worker, such as 24:00:00 or 2-00:00:00. Default: the scheduler's."
    ),
]
Image = Annotated[
    str | None, typer.Option(help="With --print kubernetes: container image with dropopt and your code. Required.")
]

# -- of ``dropopt resume-trial``

ResumedTrial = Annotated[int, typer.Argument(help="Number of the pruned trial (0 or more).", metavar="NUMBER")]
ResumedTimeout = Annotated[
    float | None, typer.Option(help="Seconds (above 0) after which the trial is ended. Default: no limit.")
]
ResumedMemory = Annotated[
    int | None,
    typer.Option(
        min=1, help="Megabytes of memory at which the trial is ended. Linux only. Default: no limit.", metavar="MB"
    ),
]

# -- of ``dropopt export``

Trial = Annotated[int | None, typer.Option(help="Number of the trial (0 or more). Default: the best trial.")]
Format = Annotated[
    str | None,
    typer.Option(
        help="File format: yaml, json, toml or python (a training loop to run). Default: by the suffix of the file."
    ),
]
ExportOutput = Annotated[
    Path | None, typer.Option("--output", "-o", help="File to write; - for standard output. Default: best.FORMAT.")
]
ListTrials = Annotated[bool, typer.Option("--list", help="List the trials that can be exported, the best first.")]

Force = Annotated[bool, typer.Option("--force", help="Replace a file that does not come from the same study.")]

# -- of ``dropopt efficacy``

EvidenceOutput = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="JSON file to write, for the option --prior of a new study. Default: no file."),
]

# -- of ``dropopt report``

ReportOutput = Annotated[
    Path | None, typer.Option("--output", "-o", help="HTML file to write. Default: report-STUDY.html.")
]
PngFolder = Annotated[
    Path | None,
    typer.Option("--png", help="Folder to write each chart to as a PNG file as well. Default: none.", metavar="DIR"),
]

# -- of ``dropopt train``

ConfigurationFile = Annotated[
    Path | None,
    typer.Argument(
        help="A configuration file, as dropopt export writes it. Default: the trial that --study and --trial name."
    ),
]
TrainCheckpoints = Annotated[
    Path | None,
    typer.Option(
        "--checkpoints",
        help="Folder for last.pt and best.pt (weights), summary.csv (epochs), and resume.ckpt, from which the same "
        "command continues. Default: none.",
        metavar="DIR",
    ),
]
TrainEpochs = Annotated[int | None, typer.Option(help="Number of epochs (1 or more). Default: as in the file.")]
TrainSeed = Annotated[int | None, typer.Option(help="Seed of training (0 or more). Default: as in the file.")]
Device = Annotated[str | None, typer.Option(help="Device: auto, cpu, cuda or cuda:N. Default: as in the file.")]
Threads = Annotated[
    int, typer.Option(min=1, help="Number of threads; with 1, a study's trial is repeated exactly on the same machine.")
]
WeightsOutput = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="File to write: model.safetensors stands alone, for dropopt predict; model.pt has the weights only "
        "(state_dict). Default: no file.",
    ),
]

Code = Annotated[
    list[Path] | None,
    typer.Option(
        help="A script, or a folder of modules, that the functions named in the file are imported from; may be "
        "repeated. Default: the script of the study, if you have run it and it has not changed."
    ),
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust", help="Import the functions that the file names without asking, even from the current folder."
    ),
]

# -- of ``dropopt predict``

ModelPath = Annotated[Path, typer.Argument(help="A model that dropopt train -o model.safetensors has written.")]
Images = Annotated[list[Path] | None, typer.Argument(help="Image files, and folders of image files.")]
Samples = Annotated[
    int,
    typer.Option(
        min=0,
        help="Number of dropout masks to average over (Monte Carlo dropout), which adds uncertainties; "
        "0: predict without dropout.",
    ),
]
MaskSeed = Annotated[int, typer.Option("--seed", min=0, help="Seed of the dropout masks.")]
AsCsv = Annotated[bool, typer.Option("--csv", help="Print CSV, with the probability of each class.")]
ShowCard = Annotated[
    bool, typer.Option("--card", help="Print what the file says about the model: data, scores, licences, versions.")
]
PredictDevice = Annotated[str, typer.Option("--device", help="Device: auto, cpu, cuda or cuda:N.")]
PredictQuiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the predictions and errors alone, no notes.")]

# -- of ``dropopt confirm`` and ``dropopt compare``

Top = Annotated[int, typer.Option(help="Number of configurations to train again (1 or more), the best first.")]
Seeds = Annotated[int, typer.Option(help="Number of fresh seeds for each configuration (2 or more).")]
ConfirmOptimise = Annotated[
    str | None, typer.Option(help="What the winner is chosen by: loss or accuracy. Default: what the study optimised.")
]
ConfirmAnchors = Annotated[
    bool, typer.Option("--anchors/--no-anchors", help="Whether the anchors of the study are trained again too.")
]
Again = Annotated[bool, typer.Option("--again", help="Read the test set although it was read before.")]
MovedData = Annotated[
    str | None,
    typer.Option(
        help="Where the data of the study are now, if they were moved: folder:PATH or numpy:FILE.npz. Default: where "
        "the study found them."
    ),
]
ConfirmCheckpoints = Annotated[
    str | None,
    typer.Option(
        help="Folder of the checkpoints, with the weights until the test set is read. Default: a folder beside the "
        "file of the storage; none if the storage is a server.",
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
    typer.Option("--study-name", help="Studies of spaces are called NAME-ARM. Default: the name in the script."),
]
CompareSeeds = Annotated[
    int | None, typer.Option(min=2, help="Number of fresh seeds (2 or more). Default: 10; 3 with --quick.")
]
CompareTop = Annotated[
    int | None,
    typer.Option(
        min=1, help="Number of configurations of each arm to train again (1 or more). Default: 3; 2 with --quick."
    ),
]
Quick = Annotated[bool, typer.Option("--quick", help="A small budget, to try it: 10 trials, 3 seeds.")]
BaselineArm = Annotated[
    str | None,
    typer.Option(help="The arm that the others are compared with. Default: the best of the arms without the engine."),
]
FigureOutput = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="The figure to write: .html, or .png and .svg if kaleido is installed. Default: comparison-NAME.html.",
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

# -- of ``dropopt storage-proxy``

ProxyPort = Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")]
ProxyHost = Annotated[
    str,
    typer.Option(
        help="Address to listen on. The default accepts connections from this machine only. With another address, such "
        "as 0.0.0.0, other machines can use the storage, and there is no password."
    ),
]


def typed(**given: tuple[object, object]) -> list[str]:
    """The options among ``given`` (a value and its default, by name) that are not at their defaults, as words."""
    named = {f"--{name.replace('_', '-')}": value for name, (value, default) in given.items() if value != default}
    return [word for option, value in named.items() for word in (option, str(value))]
