"""cluster.yaml and its stack, by Ray's own launcher against a mocked AWS. No machine is reached."""

import contextlib
import copy
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

pytest.importorskip("moto", reason="moto, of the dev extras, plays AWS")
boto3 = pytest.importorskip("boto3")

from moto import mock_aws  # noqa: E402
from ray.autoscaler._private import commands  # noqa: E402
from ray.autoscaler._private.aws import node_provider, utils  # noqa: E402
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider  # noqa: E402
from ray.autoscaler._private.util import prepare_config, validate_config  # noqa: E402

ROOT = Path(__file__).parents[1]
REGION = "us-west-2"
HOME = "203.0.113.7/32"
IMAGE = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id"
WORKERS = ("gpu-spot", "gpu")


def cluster():
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


class CloudFormationLoader(yaml.SafeLoader):
    """Reads !Sub and the like as {"Sub": ...}."""


def _tagged(loader, suffix, node):
    read = {yaml.ScalarNode: loader.construct_scalar, yaml.SequenceNode: loader.construct_sequence}
    return {suffix: read[type(node)](node) if isinstance(node, yaml.ScalarNode) else read[type(node)](node, deep=True)}


CloudFormationLoader.add_multi_constructor("!", _tagged)


def template():
    return yaml.load((ROOT / "cluster/aws.yaml").read_text(), CloudFormationLoader)


def statements():
    """All statements of all policies, by the resource that has them."""
    for name, resource in template()["Resources"].items():
        properties = resource["Properties"]
        policies = [properties.get("PolicyDocument"), properties.get("AssumeRolePolicyDocument")]
        policies += [policy["PolicyDocument"] for policy in properties.get("Policies", ())]
        for policy in filter(None, policies):
            yield from ((name, statement) for statement in policy["Statement"])


def as_list(value):
    return value if isinstance(value, list) else [value]


@pytest.fixture(scope="module")
def aws(tmp_path_factory):
    """An account with the stack in it, cluster.yaml as Ray resolves it there, and an empty home folder for the key."""
    home = tmp_path_factory.mktemp("home")
    for cached in (utils.resource_cache, utils.client_cache):
        cached.cache_clear()
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as ending:
        # A server of moto's, for other tests in this process, has the same data: they are not to be cleared.
        mocked = mock_aws()
        mocked.start(reset=False)
        ending.callback(mocked.stop, remove_data=False)
        patch.setenv("HOME", str(home))
        patch.delenv("AWS_ENDPOINT_URL", raising=False)
        ec2 = boto3.client("ec2", REGION)
        image = ec2.register_image(Name="image")["ImageId"]
        # Ray lists all instance types there are, which takes moto long.
        wanted = [kind["node_config"]["InstanceType"] for kind in cluster()["available_node_types"].values()]
        known = ec2.describe_instance_types(InstanceTypes=sorted(set(wanted)))["InstanceTypes"]
        patch.setattr(node_provider, "list_ec2_instances", lambda *_: known)
        boto3.client("ssm", REGION).put_parameter(Name="image", Value=image, Type="String")
        stack = boto3.client("cloudformation", REGION)
        stack.create_stack(
            StackName="pixcon",
            # moto has no public parameter of this name, and lets nobody make one.
            TemplateBody=(ROOT / "cluster/aws.yaml").read_text().replace(IMAGE, "image"),
            Parameters=[{"ParameterKey": "SshFrom", "ParameterValue": HOME}],
            Capabilities=["CAPABILITY_IAM"],
        )
        (described,) = stack.describe_stacks(StackName="pixcon")["Stacks"]
        assert described["StackStatus"] == "CREATE_COMPLETE"
        outputs = {output["OutputKey"]: output["OutputValue"] for output in described["Outputs"]}
        before = made()
        config = commands._bootstrap_config(cluster(), no_config_cache=True)
        yield Account(ec2, home, image, outputs["SecurityGroup"], outputs["Bucket"], config, before)
    for cached in (utils.resource_cache, utils.client_cache):
        cached.cache_clear()


class Account(NamedTuple):
    ec2: Any
    home: Path
    image: str
    group: str
    bucket: str
    config: dict[str, Any]
    """What `ray up` makes of cluster.yaml before it launches anything."""
    before: set[str]
    """The groups and roles that the stack had made, before Ray came."""


def made():
    """The ids of all security groups, roles and profiles."""
    ec2, iam = boto3.client("ec2", REGION), boto3.client("iam")
    groups = {group["GroupId"] for group in ec2.describe_security_groups()["SecurityGroups"]}
    roles = {role["Arn"] for role in iam.list_roles()["Roles"]}
    return groups | roles | {profile["Arn"] for profile in iam.list_instance_profiles()["InstanceProfiles"]}


def test_the_file_passes_ray_s_own_checks(aws):
    prepared = AWSNodeProvider.fillout_available_node_types_resources(prepare_config(cluster()))
    validate_config(prepared)
    types = prepared["available_node_types"]
    assert types["gpu-spot"]["resources"]["GPU"] == types["gpu"]["resources"]["GPU"] == 1
    assert types["gpu-spot"]["min_workers"] == 0 < types["gpu-spot"]["max_workers"] <= prepared["max_workers"]
    assert "GPU" not in types["head"]["resources"]
    assert not prepared["provider"]["cache_stopped_nodes"]


def test_what_the_cluster_grows_to_is_the_head_and_all_workers(aws):
    types = aws.config["available_node_types"]
    head, worker, most = types["head"]["resources"], types["gpu-spot"]["resources"], types["gpu-spot"]["max_workers"]
    grows_to = f"PIXCON_GROWS_TO=CPU={head['CPU'] + most * worker['CPU']},GPU={most * worker['GPU']}"
    assert any(grows_to in line for line in aws.config["setup_commands"])
    assert most == aws.config["max_workers"]


def test_nothing_of_ray_s_defaults_is_left_in_the_commands():
    prepared = prepare_config(cluster())
    run = [line for key, value in prepared.items() if key.endswith("commands") for line in value]
    assert not [line for line in run if "ray-wheels" in line or "0.0.0.0" in line or "anaconda" in line]
    installing = "python3 -m venv .venv && . .venv/bin/activate && pip install"
    for commands_of_node in (prepared["head_setup_commands"], prepared["worker_setup_commands"]):
        assert any(installing in line for line in commands_of_node)
        assert any("cluster/mount.sh /mnt/pixcon" in line for line in commands_of_node)
    starts = [line for line in run if "ray start" in line]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token ray start" in line for line in starts)
    assert "--dashboard-host=127.0.0.1" in prepared["head_start_ray_commands"][-1]
    assert any("umask 077" in line and "get-auth-token" in line for line in prepared["head_setup_commands"])


def test_ray_makes_no_group_and_no_role_of_its_own(aws):
    assert made() == aws.before
    for node_type in aws.config["available_node_types"].values():
        assert node_type["node_config"]["SecurityGroupIds"] == [aws.group]
        assert node_type["node_config"]["ImageId"] == aws.image


def test_only_ssh_is_open_and_only_to_the_address_given(aws):
    (group,) = aws.ec2.describe_security_groups(GroupIds=[aws.group])["SecurityGroups"]
    outside = [rule for rule in group["IpPermissions"] if rule["IpRanges"] or rule.get("Ipv6Ranges")]
    (ssh,) = outside
    assert (ssh["IpProtocol"], ssh["FromPort"], ssh["ToPort"]) == ("tcp", 22, 22)
    assert [given["CidrIp"] for given in ssh["IpRanges"]] == [HOME]
    (inside,) = [rule for rule in group["IpPermissions"] if rule not in outside]
    assert [pair["GroupId"] for pair in inside["UserIdGroupPairs"]] == [aws.group]


def ray_up(monkeypatch):
    """`ray up -y` as far as to the head's instance, without the machine that would then be set up."""

    class LaunchedError(Exception):
        pass

    class Updater:
        def __init__(self, **given):
            raise LaunchedError

    monkeypatch.setattr(commands, "NodeUpdaterThread", Updater)
    with pytest.raises(LaunchedError):
        commands.create_or_update_cluster(
            str(ROOT / "cluster.yaml"),
            override_min_workers=None,
            override_max_workers=None,
            no_restart=False,
            restart_only=False,
            yes=True,
            no_config_cache=True,
            redirect_command_output=False,
            use_login_shells=True,
        )


def instances(aws):
    """Those that run."""
    found = aws.ec2.describe_instances()["Reservations"]
    found = [instance for reservation in found for instance in reservation["Instances"]]
    return [instance for instance in found if instance["State"]["Name"] != "terminated"]


def tags(instance):
    return {tag["Key"]: tag["Value"] for tag in instance["Tags"]}


def test_ray_up_launches_the_head(aws, monkeypatch):
    ray_up(monkeypatch)
    (head,) = instances(aws)
    assert head["InstanceType"] == "m7i.xlarge"
    assert head["ImageId"] == aws.image
    assert [group["GroupId"] for group in head["SecurityGroups"]] == [aws.group]
    assert "HeadProfile" in head["IamInstanceProfile"]["Arn"]
    assert head.get("InstanceLifecycle") != "spot"
    assert head["MetadataOptions"]["HttpTokens"] == "required"
    assert tags(head)["ray-cluster-name"] == "pixcon"
    assert tags(head)["ray-node-type"] == "head"
    assert f"s3://{tags(head)['pixcon-bucket']}" == aws.bucket
    key = aws.home / ".ssh" / f"{head['KeyName']}.pem"
    assert key.stat().st_mode & 0o777 == 0o600
    assert made() == aws.before
    aws.ec2.terminate_instances(InstanceIds=[head["InstanceId"]])


@pytest.mark.parametrize("kind", WORKERS)
def test_the_autoscaler_launches_workers(aws, kind):
    provider = AWSNodeProvider(aws.config["provider"], aws.config["cluster_name"])
    done = set()
    for resource in (provider.ec2, provider.ec2_fail_fast):
        resource.meta.client.meta.events.register("before-call.ec2", lambda model, **_: done.add(f"ec2:{model.name}"))
    launched = copy.deepcopy(aws.config["available_node_types"][kind]["node_config"])
    provider.create_node(launched, {"ray-node-type": "worker", "ray-user-node-type": kind}, 1)
    (worker,) = instances(aws)
    assert provider.non_terminated_nodes({}) == [worker["InstanceId"]]
    provider.set_node_tags(worker["InstanceId"], {"ray-node-status": "up-to-date"})
    assert provider.non_terminated_nodes({"ray-node-status": "up-to-date"}) == [worker["InstanceId"]]
    provider.terminate_nodes([worker["InstanceId"]])
    assert done == {"ec2:DescribeInstances", "ec2:RunInstances", "ec2:CreateTags", "ec2:TerminateInstances"}
    allowed = [statement["Action"] for name, statement in statements() if name == "HeadRole"]
    assert done < {action for actions in allowed for action in as_list(actions)}
    assert worker["InstanceType"] == "g5.2xlarge"
    assert [group["GroupId"] for group in worker["SecurityGroups"]] == [aws.group]
    assert "WorkerProfile" in worker["IamInstanceProfile"]["Arn"]
    assert (worker.get("InstanceLifecycle") == "spot") == (kind == "gpu-spot")
    assert worker["MetadataOptions"]["HttpTokens"] == "required"
    assert tags(worker)["ray-cluster-name"] == "pixcon"
    assert f"s3://{tags(worker)['pixcon-bucket']}" == aws.bucket
    assert not instances(aws)


def test_the_bucket_is_encrypted_closed_and_kept(aws):
    bucket = aws.bucket.removeprefix("s3://")
    (rule,) = boto3.client("s3", REGION).get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"][
        "Rules"
    ]
    assert rule["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"
    described, policy = (template()["Resources"][name] for name in ("Bucket", "BucketPolicy"))
    # Of what follows moto makes nothing.
    blocked = described["Properties"]["PublicAccessBlockConfiguration"]
    assert len(blocked) == 4
    assert all(blocked.values())
    for kept in (described, policy):
        assert kept["DeletionPolicy"] == kept["UpdateReplacePolicy"] == "Retain"


def test_the_stack_passes_cloudformation_s_own_schema():
    lint = pytest.importorskip("cfnlint.api", reason="cfn-lint comes with moto's server").lint_file
    found = lint(ROOT / "cluster/aws.yaml", config={"regions": [REGION]})
    assert not [str(match) for match in found]


def test_no_policy_has_a_wildcard_among_its_actions():
    found = [(name, action) for name, statement in statements() for action in as_list(statement["Action"])]
    assert len(found) >= 15
    assert not [(name, action) for name, action in found if "*" in action or "?" in action]
    assert not [name for name, statement in statements() if "NotAction" in statement or "NotResource" in statement]


def test_all_resources_are_meant_only_where_ec2_takes_no_other():
    broad = [statement for _, statement in statements() if "*" in as_list(statement.get("Resource", ()))]
    assert [statement["Action"] for statement in broad] == ["ec2:DescribeInstances"]


def test_the_head_may_start_only_its_own_workers_with_the_workers_rights():
    head = {statement["Sid"]: statement for name, statement in statements() if name == "HeadRole" if "Sid" in statement}
    start = head["StartWorkers"]["Condition"]
    assert start["StringEquals"]["aws:RequestTag/ray-cluster-name"] == {"Ref": "ClusterName"}
    assert start["ArnEquals"]["ec2:InstanceProfile"] == {"GetAtt": "WorkerProfile.Arn"}
    assert head["TagAndEndItsOwn"]["Condition"]["StringEquals"] == {
        "aws:ResourceTag/ray-cluster-name": {"Ref": "ClusterName"}
    }
    assert head["GiveWorkersTheirRole"]["Resource"] == {"GetAtt": "WorkerRole.Arn"}


@pytest.mark.parametrize("address", ["0.0.0.0/0", "10.0.0.0/1", "10.0.0.0/7", "everyone", ""])
def test_ssh_cannot_be_opened_to_the_world(address):
    assert not re.fullmatch(template()["Parameters"]["SshFrom"]["AllowedPattern"], address)


def test_names_agree_between_the_stack_and_the_file():
    name = cluster()["cluster_name"]
    assert template()["Parameters"]["ClusterName"]["Default"] == name
    used = {
        kind["node_config"]["LaunchTemplate"]["LaunchTemplateName"]
        for kind in cluster()["available_node_types"].values()
    }
    assert used == {f"{name}-head", f"{name}-worker"}
    assert cluster()["provider"]["key_pair"]["key_name"] == name  # the head's role names the key by it
