"""Machines to try a cluster on: namespaces of this one, with a network between them and an SSH server each.

A host has its own addresses, processes, name, home, /tmp, /run, /mnt and /dev/shm; else it sees this machine's files.
What is its own lies in memory and is gone with its first process, which ends with the one that started it.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

PACKAGES = {"sshd": "openssh-server", "ssh": "openssh-client", "rsync": "rsync", "ip": "iproute2", "curl": "curl"}
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NAMESPACES = ("--net", "--mount", "--pid", "--uts", "--ipc")
BASE = "10.77.0"
"""Of the addresses; nothing outside the hosts sees them."""

# Run by a host's first process; $shared is mounted as /mnt/pixcon, and what lies at the given paths stays there.
START = r"""
set -euo pipefail
read -r pid _ < /proc/self/stat  # as the machine outside counts
mount -t tmpfs -o mode=755 none /mnt
mkdir /mnt/pixcon /mnt/kept /mnt/host
mount --bind "$shared" /mnt/pixcon
number=0
for path; do
    mkdir /mnt/kept/$((++number))
    mount --rbind "$path" /mnt/kept/$number
done
for place in /tmp /run /dev/shm; do mount -t tmpfs -o mode=1777 none $place; done
mount -t tmpfs -o mode=700 none "$HOME"
number=0
for path; do
    mkdir -p "$path"
    mount --bind /mnt/kept/$((++number)) "$path"
    mount -o remount,bind,ro "$path"
done
mount -t proc none /proc
hostname "$name"
printf '127.0.0.1 localhost\n127.0.1.1 %s\n' "$name" > /mnt/host/hosts  # as Debian and Ubuntu have it
mount --bind /mnt/host/hosts /etc/hosts
ip link set lo up
if [ -n "$public_key" ]; then
    sed 's/^root:[^:]*/root:*/' /etc/shadow > /mnt/host/shadow  # an account that is locked cannot log in
    chmod 600 /mnt/host/shadow
    mount --bind /mnt/host/shadow /etc/shadow
    mkdir -m 755 /run/sshd
    ssh-keygen -q -t ed25519 -N '' -f /mnt/host/key
    printf '%s\n' "$public_key" > /mnt/host/authorized_keys
    /usr/sbin/sshd -f /dev/null -E /mnt/host/sshd.log -h /mnt/host/key -o UsePAM=no -o PasswordAuthentication=no \
        -o AuthorizedKeysFile=/mnt/host/authorized_keys -o PermitRootLogin=prohibit-password -o PrintMotd=no
fi
echo "$pid"
exec > /dev/null
sleep infinity &
wait  # and take leave of orphans, as the first process has to
"""


class Host(NamedTuple):
    """A machine."""

    name: str
    address: str
    pid: int
    """Of its first process."""

    def command(self, script: str) -> list[str]:
        """Return what runs a script there, without anything of this process's environment."""
        given = [f"HOME={Path.home()}", f"PATH={PATH}", "LANG=C.UTF-8"]
        return ["nsenter", f"--target={self.pid}", *NAMESPACES, "env", "-i", *given, "bash", "-c", f"cd; {script}"]

    def run(self, script: str, timeout: float) -> subprocess.CompletedProcess[str]:
        """Run a script there to its end; `subprocess.TimeoutExpired` if it takes longer (seconds)."""
        kept = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.run(self.command(script), text=True, timeout=timeout, **kept)

    def processes(self, part: str) -> list[int]:
        """Return those of its processes that have this in their command line, as the machine outside counts them."""
        here, found = Path(f"/proc/{self.pid}/ns/pid").readlink(), []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if part in line and (folder / "ns/pid").readlink() == here:
                    found.append(int(folder.name))
        return found


def why_not() -> str | None:
    """Return why there can be no hosts on this machine, or None; installs what they need."""
    if os.geteuid() != 0:
        return "only root can make network namespaces"
    try:
        _install()
        _try("unshare", *NAMESPACES, "--fork", "ip", "link", "add", "br0", "type", "bridge")
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        return f"no network namespaces with SSH servers here: {said[-1] if said else error}"
    return None


def _install() -> None:
    missing = [package for program, package in PACKAGES.items() if shutil.which(program, path=PATH) is None]
    if not missing:
        return
    # Installed, the SSH server is not to be started on this machine itself.
    policy = Path("/usr/sbin/policy-rc.d")
    ours = not policy.exists()
    if ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        _try("apt-get", "update", "-qq")
        _try("apt-get", "install", "-qq", "-y", "--no-install-recommends", *missing)
    finally:
        if ours:
            policy.unlink()


def _try(*command: str) -> None:
    env = os.environ | {"PATH": PATH, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=300, env=env)


@contextmanager
def hosts(names: list[str], shared: Path, keep: list[Path], public_key: str) -> Iterator[list[Host]]:
    """Have hosts, the first one without an SSH server; all of their processes end with the block.

    Args:
        names: Of the hosts.
        shared: A folder that all of them see as /mnt/pixcon.
        keep: Folders that they see although they lie in what is a host's own, to read only.
        public_key: Who has its other half may log in as root.
    """
    started: list[subprocess.Popen[str]] = []
    try:
        found = []
        for number, name in enumerate(names, start=1):
            env = {"PATH": PATH, "HOME": str(Path.home()), "name": name, "shared": str(shared)}
            env["public_key"] = public_key if found else ""
            # Two locks: the host ends with unshare, and that with the thread that has started it.
            ending = ["setpriv", "--pdeathsig", "KILL", "unshare", *NAMESPACES, "--fork", "--kill-child"]
            command = [*ending, "bash", "-c", START, name, *(str(path) for path in keep)]
            started.append(subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE))
            said = started[-1].stdout.readline()
            if not said:
                raise RuntimeError(f"host {name} did not start")
            found.append(Host(name, f"{BASE}.{number}", int(said)))
            _connect(found[0], found[-1])
        yield found
    finally:
        for process in started:
            process.kill()
            process.wait()


def _connect(switch: Host, host: Host) -> None:
    """Put a host on the network, whose switch is in the first one."""
    inside, outside = f"nsenter --target={switch.pid} --net", f"nsenter --target={host.pid} --net"
    if host is switch:
        steps = [f"{inside} ip link add eth0 type bridge"]
    else:
        steps = [
            f"{inside} ip link add {host.name} type veth peer name eth0 netns {host.pid}",
            f"{inside} ip link set {host.name} master eth0 up",
        ]
    steps += [f"{outside} ip addr add {host.address}/24 dev eth0", f"{outside} ip link set eth0 up"]
    for step in steps:
        _try(*step.split())
