"""What ``dropopt worker --print`` writes for schedulers."""

import re
import shlex
import subprocess

import pytest
import yaml

from dropopt.config import ConfigError
from dropopt.study.command.manifests import Job, kubernetes, slurm

FULL = Job(
    "Größe 1: a/b",
    None,
    "my study.py",
    ("--timeout", "3600.0"),
    "/shared/checkpoints",
    workers=8,
    cpus=4,
    gpus=1,
    memory="16G",
    time="1-12:00:00",
    image="registry.example.org/dropopt:1",
)

#: Options of sbatch with their values, from its manual.
SBATCH = {
    "job-name": r"[\w-]+",
    "array": r"\d+-\d+(%\d+)?",
    "ntasks": r"\d+",
    "cpus-per-task": r"\d+",
    "gres": r"gpu:\d+",
    "mem": r"\d+[KMGT]",
    "time": r"(\d+-)?\d+:\d\d:\d\d",
    "output": r"[\w%-]+\.log",
    "signal": r"B:TERM@\d+",
    "requeue": "",
    "open-mode": "append|truncate",
}


def test_a_slurm_array_is_a_valid_script(tmp_path):
    """Bash accepts it, sbatch knows its options, and the command has all arguments."""
    script = tmp_path / "job.sh"
    script.write_text(slurm(FULL))
    subprocess.run(["bash", "-n", script], check=True)
    lines = script.read_text().splitlines()
    assert lines[0] == "#!/bin/bash"
    found = [line.removeprefix("#SBATCH --").partition("=") for line in lines if line.startswith("#SBATCH")]
    assert lines[1 : 1 + len(found)] == [line for line in lines if line.startswith("#SBATCH")]
    for name, _, value in found:
        assert re.fullmatch(SBATCH[name], value), name
    options = {name: value for name, _, value in found}
    assert (options["array"], options["cpus-per-task"], options["gres"], options["mem"]) == ("1-8", "4", "gpu:1", "16G")
    assert shlex.split(lines[-1])[:4] == ["exec", "dropopt", "worker", "my study.py"]
    assert shlex.split(lines[-1])[4:] == [
        *("--study", "Größe 1: a/b", "--checkpoints", "/shared/checkpoints", "--timeout", "3600.0")
    ]


def test_a_slurm_array_needs_the_variable(tmp_path):
    """Without it the job ends at once with a message; with it the worker starts."""
    (tmp_path / "dropopt").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "dropopt").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    line = ["bash", "-c", slurm(Job("digits", None, cpus=2))]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode
    assert "OPTUNA_STORAGE: set it to the URL of the storage" in done.stderr
    environment["OPTUNA_STORAGE"] = "postgresql://canary@host/name"
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "worker --study digits --n-jobs 2\n"


@pytest.mark.parametrize("job", [FULL, Job(None, "grpc://proxy:13000", image="i:1")], ids=["full", "short"])
def test_a_kubernetes_job_is_valid(job):
    """It has the schema of Kubernetes, strictly: a field with another name would be refused."""
    validate = pytest.importorskip("kubernetes_validate")
    manifest = yaml.safe_load(kubernetes(job))
    validate.validate(manifest, validate.latest_version(), strict=True)
    with pytest.raises(validate.ValidationError):
        validate.validate(manifest | {"specs": {}}, validate.latest_version(), strict=True)


def test_a_kubernetes_job_says_what_was_asked():
    """The workers, the resources, the secret, the volume, and names that Kubernetes accepts."""
    manifest = yaml.safe_load(kubernetes(FULL))
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", manifest["metadata"]["name"])
    spec = manifest["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 8, 8)
    assert spec["activeDeadlineSeconds"] == 36 * 3600
    (container,) = spec["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == {"cpu": 4, "memory": "16Gi", "nvidia.com/gpu": 1}
    reference = {"secretKeyRef": {"name": "dropopt-storage", "key": "url"}}
    assert container["env"] == [{"name": "OPTUNA_STORAGE", "valueFrom": reference}]
    assert container["volumeMounts"] == [{"name": "checkpoints", "mountPath": "/shared/checkpoints"}]
    short = yaml.safe_load(kubernetes(Job(None, "grpc://proxy:13000", image="i:1")))
    (container,) = short["spec"]["template"]["spec"]["containers"]
    assert "env" not in container
    assert container["command"] == ["dropopt", "worker", "--storage", "grpc://proxy:13000", "--n-jobs", "1"]


def test_each_shared_folder_is_a_volume():
    """Of the checkpoints, of the artifacts, of both, and one for both if they are the same folder."""
    for folders in ({"checkpoints": "/a"}, {"artifacts": "/b"}, {"checkpoints": "/a", "artifacts": "/b"}):
        pod = yaml.safe_load(kubernetes(Job("digits", None, image="i:1", **folders)))["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        assert {one["name"]: one["mountPath"] for one in container["volumeMounts"]} == folders
        claims = {one["name"]: one["persistentVolumeClaim"]["claimName"] for one in pod["volumes"]}
        assert claims == {name: f"dropopt-{name}" for name in folders}
        words = container["command"]
        assert {name: words[words.index(f"--{name}") + 1] for name in folders} == folders
    same = yaml.safe_load(kubernetes(Job("digits", None, checkpoints="/a", artifacts="/a", image="i:1")))
    (mount,) = same["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]
    assert mount == {"name": "checkpoints", "mountPath": "/a"}


@pytest.mark.parametrize("url", ["postgresql://me:canary@host/name", "postgresql://host/name?password=canary"])
def test_a_password_is_printed_nowhere(url, capsys):
    """The variable or the secret stands for the URL."""
    job = Job("digits", url, image="i:1")
    assert "canary" not in slurm(job) + kubernetes(job) + capsys.readouterr().err
    assert "OPTUNA_STORAGE" in slurm(job)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"memory": "8"}, "memory must be a number with a unit"),
        ({"time": "60"}, "time must be HH:MM:SS or D-HH:MM:SS"),
        ({"storage": "runs/s.db"}, "is a SQLite file, which has one writer"),
        ({"storage": "shared/s.log", "image": "i"}, "which the pods cannot reach"),
        ({"checkpoints": "here", "image": "i"}, "--checkpoints must be an absolute path"),
        ({"artifacts": "here", "image": "i"}, "--artifacts must be an absolute path"),
        ({}, "--image NAME:TAG"),
    ],
)
def test_mistakes_are_refused(fields, message):
    """Each in one line that says what is allowed."""
    with pytest.raises(ConfigError, match=message):
        kubernetes(Job(**({"name": "digits", "storage": None} | fields)))
