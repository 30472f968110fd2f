"""cluster/rayjob.yaml: every field is one that KubeRay or Kubernetes has, of the type that it has there."""

import re
from pathlib import Path

import pytest
import yaml

models = pytest.importorskip("kubernetes.client.models", reason="kubernetes, of the dev extras, has the pods' fields")

ROOT = Path(__file__).parents[1]
POD = "V1PodTemplateSpec"

# What KubeRay's types have (ray-operator/apis/ray/v1/rayjob_types.go and raycluster_types.go, of November 2026): the
# fields that can be set, with their types; a string is a type of Kubernetes' own.
AUTH = {"mode": {"token", "disabled"}, "secretName": str, "enableK8sTokenAuth": bool}
AUTOSCALER = {
    "version": {"v1", "v2"},
    "upscalingMode": {"Default", "Aggressive", "Conservative"},
    "idleTimeoutSeconds": int,
    "image": str,
    "imagePullPolicy": str,
    "resources": "V1ResourceRequirements",
    "env": ["V1EnvVar"],
    "envFrom": ["V1EnvFromSource"],
    "volumeMounts": ["V1VolumeMount"],
    "securityContext": "V1SecurityContext",
}
HEAD = {
    "serviceType": {"ClusterIP", "NodePort", "LoadBalancer"},
    "headService": "V1Service",
    "enableIngress": bool,
    "rayStartParams": {str: str},
    "template": POD,
}
WORKERS = {
    "groupName": str,
    "replicas": int,
    "minReplicas": int,
    "maxReplicas": int,
    "numOfHosts": int,
    "suspend": bool,
    "idleTimeoutSeconds": int,
    "rayStartParams": {str: str},
    "template": POD,
}
CLUSTER = {
    "rayVersion": str,
    "authOptions": AUTH,
    "enableInTreeAutoscaling": bool,
    "autoscalerOptions": AUTOSCALER,
    "headServiceAnnotations": {str: str},
    "headGroupSpec": HEAD,
    "workerGroupSpecs": [WORKERS],
    "suspend": bool,
    "managedBy": str,
}
JOB = {
    "entrypoint": str,
    "runtimeEnvYAML": str,
    "jobId": str,
    "metadata": {str: str},
    "submissionMode": {"K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"},
    "submitterPodTemplate": POD,
    "submitterConfig": {"backoffLimit": int},
    "entrypointNumCpus": float,
    "entrypointNumGpus": float,
    "entrypointResources": str,
    "shutdownAfterJobFinishes": bool,
    "ttlSecondsAfterFinished": int,
    "activeDeadlineSeconds": int,
    "backoffLimit": int,
    "suspend": bool,
    "managedBy": str,
    "clusterSelector": {str: str},
    "rayClusterSpec": CLUSTER,
}
RAY_JOB = {"apiVersion": {"ray.io/v1"}, "kind": {"RayJob"}, "metadata": "V1ObjectMeta", "spec": JOB}


def mistakes(value, wanted, at=""):
    """Name what is not as wanted."""
    if isinstance(wanted, str):
        yield from kubernetes_mistakes(value, wanted, at)
    elif isinstance(wanted, set):
        if value not in wanted:
            yield f"{at}: {value!r} is none of {sorted(wanted)}"
    elif isinstance(wanted, list):
        for index, item in enumerate(value):
            yield from mistakes(item, wanted[0], f"{at}[{index}]")
    elif wanted == {str: str}:
        if not all(isinstance(part, str) for pair in value.items() for part in pair):
            yield f"{at}: {value!r} must be texts by texts"
    elif isinstance(wanted, dict):
        for key, item in value.items():
            if key in wanted:
                yield from mistakes(item, wanted[key], f"{at}.{key}")
            else:
                yield f"{at}.{key} does not exist"
    elif type(value) is not wanted:
        yield f"{at}: {value!r} is not {wanted.__name__}"


def kubernetes_mistakes(value, kind, at):
    """The same of a type by its name in Kubernetes' own client, such as list[V1Container]."""
    plain = {"str": str, "int": int, "bool": bool, "float": float}
    if match := re.fullmatch(r"[Ll]ist\[(.+)\]", kind):
        for index, item in enumerate(value):
            yield from kubernetes_mistakes(item, match[1], f"{at}[{index}]")
    elif match := re.fullmatch(r"[Dd]ict[(\[]str, (.+)[)\]]", kind):
        for key, item in value.items():
            yield from kubernetes_mistakes(item, match[1], f"{at}.{key}")
    elif kind in plain:
        if type(value) is not plain[kind]:
            yield f"{at}: {value!r} is not {kind}"
    elif kind not in ("object", "datetime"):
        model = getattr(models, kind)
        names = {given: own for own, given in model.attribute_map.items()}
        for key, item in value.items():
            if key in names:
                yield from kubernetes_mistakes(item, model.openapi_types[names[key]], f"{at}.{key}")
            else:
                yield f"{at}.{key} does not exist"


@pytest.fixture
def documents():
    volume, job = yaml.safe_load_all((ROOT / "cluster/rayjob.yaml").read_text())
    return volume, job


def test_every_field_exists_and_has_its_type(documents):
    volume, job = documents
    assert not list(mistakes(job, RAY_JOB))
    assert not list(mistakes(volume, "V1PersistentVolumeClaim"))


def test_the_check_finds_mistakes(documents):
    _, job = documents
    cluster = job["spec"]["rayClusterSpec"]
    job["spec"]["ttlSecondsAfterFinish"] = 1
    cluster["workerGroupSpecs"][0]["maxReplicas"] = "4"
    cluster["headGroupSpec"]["template"]["spec"]["containers"][0]["resource"] = {}
    cluster["authOptions"]["mode"] = "on"
    assert len(list(mistakes(job, RAY_JOB))) == 4


def test_pods_share_the_volume_and_have_what_the_job_says(documents):
    volume, job = documents
    cluster = job["spec"]["rayClusterSpec"]
    (workers,) = cluster["workerGroupSpecs"]
    pods = [cluster["headGroupSpec"]["template"]["spec"], workers["template"]["spec"]]
    folder = re.search(r"--out (\S+)", job["spec"]["entrypoint"])[1]
    for pod in pods:
        (container,), (mounted,) = pod["containers"], pod["volumes"]
        assert mounted["persistentVolumeClaim"]["claimName"] == volume["metadata"]["name"]
        assert folder in [mount["mountPath"] for mount in container["volumeMounts"]]
        assert not container["securityContext"]["allowPrivilegeEscalation"]
        assert pod["securityContext"]["runAsNonRoot"]
    head, worker = (pod["containers"][0]["resources"]["limits"] for pod in pods)
    cpus = int(head["cpu"]) + workers["maxReplicas"] * int(worker["cpu"])
    gpus = workers["maxReplicas"] * int(worker["nvidia.com/gpu"])
    assert {"name": "PIXCON_GROWS_TO", "value": f"CPU={cpus},GPU={gpus}"} in pods[0]["containers"][0]["env"]


def test_the_image_has_the_ray_of_the_manifest(documents):
    _, job = documents
    ray = job["spec"]["rayClusterSpec"]["rayVersion"]
    dockerfile = (ROOT / "cluster/Dockerfile").read_text()
    assert f"FROM rayproject/ray:{ray}-py" in dockerfile
    assert f'"ray[default,train,tune,data]=={ray}"' in dockerfile
    for copied in re.findall(r"^COPY --chown=ray:users (.+) \S+$", dockerfile, re.MULTILINE):
        assert all((ROOT / name).exists() for name in copied.split())
